/* The list of commands, and what they share. */
#include "cmd/cmd.h"
#include "doctor/doctor.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

bool lk_cmd_outlives_reader;

const lk_command lk_commands[] = {
    {"import", lk_cmd_import, "make a dataset file from text, images or tables"},
    {"check", lk_cmd_check, "whether a dataset is fit for training, and how it has drifted"},
    {"train", lk_cmd_train, "train the model of a run file, on any number of ranks"},
    {"watch", lk_cmd_watch, "look at a run while it goes on"},
    {"report", lk_cmd_report, "one HTML page about a run, or about several"},
    {"eval", lk_cmd_eval, "loss and accuracy of a checkpoint on a dataset"},
    {"generate", lk_cmd_generate, "continue a text with a checkpoint"},
    {"profile", lk_cmd_profile, "where the time of a step of a run file goes"},
    {"trace", lk_cmd_trace, "print a trace, or export it for ui.perfetto.dev"},
    {"show", lk_cmd_show, "what a dataset or checkpoint file holds"},
    {"doctor", lk_cmd_doctor, "is this machine fit to train on?"},
    {"help", lk_cmd_help, "help on a command, or on the run file's keys (help run-file)"},
    {NULL, NULL, NULL},
};

void lk_cmd_usage(FILE *out)
{
    fputs("Usage: lockstep COMMAND [ARGUMENT...]\n"
          "   or: mpirun -np N lockstep train RUN.yaml\n"
          "Train models end to end: HDF5 in, HDF5 out, the same bits on any number of ranks.\n\n",
          out);
    for (const lk_command *c = lk_commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    fputs("\n  -?, --help                 Give this help list\n"
          "  -V, --version              Print program version\n"
          "\n'lockstep COMMAND --help' lists a command's options.\n"
          "\nExit status: 0 done, 1 internal or numerical failure, 2 bad input, 3 operating\n"
          "system (memory, disk), 4 device, 5 communication or another rank, 6 another lockstep\n"
          "works on the run; 75 stopped after a save by a signal or the time limit: start again\n"
          "with --resume.\n", out);
}

/* Open MPI's mpirun gives its ranks a pseudo-terminal whatever its own output is, so under it the
 * output of the parent, mpirun on this host, decides. */
bool lk_cmd_terminal(void)
{
    char link[64], target[256];
    if (!isatty(STDOUT_FILENO)) return false;
    if (!getenv("OMPI_COMM_WORLD_RANK")) return true;
    snprintf(link, sizeof link, "/proc/%ld/fd/1", (long)getppid());
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n < 0) return false;
    target[n] = '\0';
    return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0;
}

lk_status lk_cmd_load_run(lk_comm *comm, const char *file, int sets, const char *const *set,
                          lk_run *run)
{
    char *text = NULL;
    lk_status status = LK_OK;
    if (comm->rank == 0) status = lk_run_load(file, sets, set, run);
    if (comm->rank == 0 && status == LK_OK) status = lk_run_format(run, &text);
    LK_TRY(lk_comm_agree(comm, status));
    status = lk_comm_broadcast_text(comm, &text);
    if (status == LK_OK)
        status = lk_comm_agree(comm, comm->rank == 0 ? LK_OK
                                                     : lk_run_parse(file, text, 0, NULL, run));
    free(text);
    return status;
}

int64_t lk_cmd_number(const struct argp_state *state, const char *option, const char *arg,
                      int64_t least, int64_t most)
{
    char *end;
    errno = 0;
    long long number = strtoll(arg, &end, 10);
    if (*end || end == arg || errno || number < least || number > most)
        argp_error(state, "%s: expected a whole number from %lld to %lld, found '%s'", option,
                   (long long)least, (long long)most, arg);
    return number;
}

double lk_cmd_real(const struct argp_state *state, const char *option, const char *arg,
                   double least, double most)
{
    char *end;
    double number = strtod(arg, &end);
    if (*end || end == arg || !(number >= least && number <= most))
        argp_error(state, "%s: expected a number from %g to %g, found '%s'", option, least, most,
                   arg);
    return number;
}

/* What to try next, for a message that does not say it itself. */
static const char *advice(int code)
{
    if (strpbrk(lk_error_text(), ";?")) return "";
    switch (code) {
    case LK_E_INTERNAL: return "; --detect-anomaly finds where values stop being finite";
    case LK_E_SYSTEM: return "; 'lockstep doctor' looks at memory, limits and the disk";
    case LK_E_DEVICE:
        return "; 'lockstep doctor' looks at the device and its libraries, --launch-blocking finds "
               "the node that fails";
    case LK_E_COMM:
        return "; 'lockstep doctor', started in the same way, looks at MPI, NCCL and what is set";
    default: return "";
    }
}

/* The rest of a failed rank's life: one message if all failed, else an end to all. */
static void report(lk_comm *comm, int code)
{
    bool together = lk_comm_all_failed(comm, 2.0);
    if (together && comm->rank != 0) return;
    if (comm->hung && comm->rank != 0) sleep(30); /* rank 0 prints and ends all */
    else if (together || comm->size == 1 || comm->hung)
        fprintf(stderr, "lockstep: %s%s\n", lk_error_text(), advice(code));
    if (comm->hung) lk_comm_abort(comm, code);
    if (together || comm->size == 1) return;
    fprintf(stderr, "lockstep: rank %d on %s: %s%s\n", comm->rank, comm->host, lk_error_text(),
            advice(code));
    fflush(stderr);
    lk_comm_abort(comm, code);
}

/* Everything here may hang too: then the alarm's signal ends the process. */
void lk_cmd_say(void *comm, const char *text)
{
    (void)comm;
    alarm(20);
    fprintf(stderr, "lockstep: %s\n", text);
    fflush(stderr);
}

void lk_cmd_end(void *comm, bool all)
{
    alarm(20);
    if (comm) lk_comm_interrupt(comm);
    if (all) lk_comm_abort(comm, LK_E_COMM);
    _exit(LK_E_COMM);
}

/* Tasks of srun that MPI does not join would each do the whole work, in the same files. mpirun in a
 * job starts its daemons as tasks; their children are what it says they are. */
static lk_status joined(const lk_comm *comm)
{
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (comm->size > 1 || !tasks || atoi(tasks) < 2 || getenv("OMPI_COMM_WORLD_SIZE")) return LK_OK;
    return lk_fail(LK_E_INPUT, "Slurm has started %s tasks, but MPI sees one rank: start them with "
                   "'srun --mpi=pmix' ('srun --mpi=list' names what there is) or with mpirun",
                   tasks);
}

/* So many are a slip of the hand, and OpenMP overflows the stack where it starts them. */
static lk_status fit_threads(void)
{
    int threads = omp_get_max_threads(), cores = omp_get_num_procs();
    int most = 4 * cores > 1024 ? 4 * cores : 1024;
    if (threads <= most) return LK_OK;
    return lk_fail(LK_E_INPUT, "OMP_NUM_THREADS: expected at most %d threads on the %d core%s "
                   "here, found %d; set it to the number of cores, or unset it", most, cores,
                   cores == 1 ? "" : "s", threads);
}

int lk_cmd_verdict_code(lk_status status)
{
    return status == LK_E_INPUT      ? LK_CMD_MISUSED
           : status == LK_E_INTERNAL ? LK_CMD_BROKEN
                                     : (int)status;
}

/* What Open MPI 4.1 does by itself and is not wanted here; the user's own setting goes before,
 * unless it is about networks and nobody is to be reached. */
static void set_open_mpi(void)
{
    /* Files are ROMIO's (priority 10) where Open MPI was built with it, as they are on Lustre. Its
     * own OMPIO (30) makes a file beside each that is opened, for a shared file pointer that
     * nothing here uses, and where the disk has no room for that the ranks hang. */
    setenv("OMPI_MCA_io_ompio_priority", "1", 0);
    /* OMPIO again, where there is no ROMIO or the user wants it. A semaphore for each open file,
     * named by the last part of its path alone: one left by a process that was killed, or of
     * another run on this host at the same step, stops this one for ever. */
    setenv("OMPI_MCA_sharedfp", "^sm", 0);
    if (lk_cmd_launched() >= 0) return;
    /* For a process that no launcher started: a daemon beside it, and directories in /tmp that stay
     * when it is killed. */
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
    /* And networks, though it talks to itself alone: to look for PSM takes a fifth of a second, to
     * leave libfabric (ofi) a whole one, and a list of the user's may have switched that on. */
    setenv("OMPI_MCA_pml", "ob1", 0);
    setenv("OMPI_MCA_btl", "self", 1);
}

enum { ALONE = 1, ANY_MPI = 2, VERDICT = 4 };

static int start(const char *name, int how, lk_status (*job)(const lk_world *w, void *options),
                 void *options)
{
    lk_world w = {NULL, NULL};
    const char *fatal = lk_doctor_fatal_setting(environ);
    if (fatal) {
        fprintf(stderr, "lockstep: MPI does not start: %s; add it, or unset the variable\n", fatal);
        return LK_E_COMM;
    }
    set_open_mpi();
    lk_status status = lk_cmd_brief_open();
    lk_cmd_brief("MPI_Init", NULL);
    if (status == LK_OK) status = lk_comm_open(&w.comm);
    lk_cmd_brief("the start", w.comm);
    if (!w.comm) {
        fprintf(stderr, "lockstep: %s\n", lk_error_text());
        return how & VERDICT ? lk_cmd_verdict_code(status) : (int)status;
    }
    if (how & ANY_MPI) lk_error_clear();
    if (how & ANY_MPI) status = LK_OK;
    else if (status == LK_OK) status = joined(w.comm);
    if (status == LK_OK && !(how & ANY_MPI)) status = fit_threads();
    if (status == LK_OK && (how & ALONE) && w.comm->size > 1)
        status = lk_fail(LK_E_INPUT, "%s works alone, found %d ranks; start it without mpirun",
                         name, w.comm->size);
    if (status == LK_OK) status = lk_io_open(&w.io);
    lk_cmd_brief(NULL, NULL);
    if (status == LK_OK) status = job(&w, options);
    fflush(stdout); /* waits for who reads it, which is no hang; and once a rank exits with another
                     * code than 0, mpirun ends the others */
    lk_cmd_brief("the end", w.comm);
    int code = how & VERDICT ? lk_cmd_verdict_code(status) : (int)status;
    if (status != LK_OK && status != LK_E_REQUEUE) report(w.comm, code);
    lk_io_close(w.io);
    lk_cmd_brief("MPI_Finalize", NULL);
    lk_comm_close(w.comm);
    lk_cmd_brief("the end of the process", NULL);
    return code;
}

int lk_cmd_run(const char *name, bool alone, lk_status (*job)(const lk_world *w, void *options),
               void *options)
{
    return start(name, alone ? ALONE : 0, job, options);
}

int lk_cmd_run_any_mpi(const char *name, lk_status (*job)(const lk_world *w, void *options),
                       void *options)
{
    return start(name, ANY_MPI | VERDICT, job, options);
}

int lk_cmd_run_verdict(const char *name, lk_status (*job)(const lk_world *w, void *options),
                       void *options)
{
    return start(name, VERDICT, job, options);
}
