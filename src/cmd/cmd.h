/* The commands. Each file holds the options of one command (argp), one call, and the printing. */
#ifndef LK_CMD_CMD_H
#define LK_CMD_CMD_H

#include "comm/comm.h"
#include "io/io.h"
#include "train/run.h"

#include <argp.h>
#include <stdbool.h>

/* argv[0] is the name for messages, "lockstep train". Returns the exit code of the program. */
int lk_cmd_import(int argc, char **argv);
int lk_cmd_check(int argc, char **argv);
int lk_cmd_train(int argc, char **argv);
int lk_cmd_eval(int argc, char **argv);
int lk_cmd_generate(int argc, char **argv);
int lk_cmd_doctor(int argc, char **argv);
int lk_cmd_watch(int argc, char **argv);
int lk_cmd_report(int argc, char **argv);
int lk_cmd_show(int argc, char **argv);
int lk_cmd_profile(int argc, char **argv);
int lk_cmd_trace(int argc, char **argv);
int lk_cmd_help(int argc, char **argv);

typedef struct lk_command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} lk_command;
extern const lk_command lk_commands[]; /* ends with a NULL name; cmd.c */
/* Set by a command that goes on when nobody reads its output any more (SIGPIPE is ignored); that
 * part of it was lost is then an error at the end. */
extern bool lk_cmd_outlives_reader;
void lk_cmd_usage(FILE *out);

/* What a job gets: the ranks and the I/O thread. */
typedef struct lk_world {
    lk_comm *comm;
    lk_io *io;
} lk_world;

/* For another thread, where a process hangs: print an error; end this process, with `all` all
 * ranks, without returning. `comm`: a lk_comm *, NULL where MPI does not work. */
void lk_cmd_say(void *comm, const char *text);
void lk_cmd_end(void *comm, bool all);
/* The rank that a launcher (mpirun, srun, a batch job) gave this process; -1: none started it. */
int lk_cmd_launched(void);

/* What no watchdog sees of a process that a launcher started, and lasts a moment on a good machine:
 * 300 s at most, or ten times train.timeout. After that this process says what it was, and all
 * ranks end. brief.c */
lk_status lk_cmd_brief_open(void);
/* The calling thread begins it, or, NULL, what may take any time: work, or what a watchdog sees.
 * `comm`: NULL where MPI does not work. The limit is each one's anew. */
void lk_cmd_brief(const char *doing, lk_comm *comm);
void lk_cmd_brief_limit(double timeout); /* train.timeout: 0: no limit, < 0: not given */

/* Rank 0 reads the run file for all: a file edited or a mount late on one host must not give its
 * ranks another run. Collective. Free with lk_run_clear. */
lk_status lk_cmd_load_run(lk_comm *comm, const char *file, int sets, const char *const *set,
                          lk_run *run);
/* The trace of a file in tables: lines of each, 0 for all; depth: parts of scopes. cmd/trace.c */
lk_status lk_cmd_print_trace(lk_io *io, const char *file, int depth, int lines);
/* The same as JSON for ui.perfetto.dev, to the file `out`. cmd/trace.c */
lk_status lk_cmd_export_trace(lk_io *io, const char *file, const char *out);
/* The number, whole or real, that an option ("--steps") was given; argp's error if it is none from
 * `least` to `most`. */
int64_t lk_cmd_number(const struct argp_state *state, const char *option, const char *arg,
                      int64_t least, int64_t most);
double lk_cmd_real(const struct argp_state *state, const char *option, const char *arg,
                   double least, double most);
#define LK_CMD_MANY INT64_C(1000000000000000) /* more than any data have samples */

/* Whether a person sees what goes to standard output at once. */
bool lk_cmd_terminal(void);

/* work() in a child process; returns its exit code, 128 + signal if one ended it. *alive: whether
 * it called lk_cmd_alive(), to say that it is over what might end it without a word. child.c */
int lk_cmd_child(int (*work)(void *context), void *context, bool *alive);
void lk_cmd_alive(void);

/* A duration such as 90s, 30m, 12h, 2d, 1:30:00 or 2-00:00:00 in seconds; false: it is none.
 * walltime.c */
bool lk_cmd_duration(const char *text, double *seconds);
/* *deadline: lk_clock_seconds() at which this job will be ended, by a `walltime` in seconds from
 * now (0: none) or Slurm, whichever is first; 0: never. LK_E_REQUEUE: Slurm's has passed. */
lk_status lk_cmd_deadline(double walltime, double *deadline);

/* Start MPI and the I/O thread, run the job, end both. An error is printed once; a failure of one
 * rank ends all. `alone`: the command refuses to run on several ranks. Returns the exit code. */
int lk_cmd_run(const char *name, bool alone, lk_status (*job)(const lk_world *w, void *options),
               void *options);
/* The same for a command whose exit code tells what it found (0 good, 1 warnings, 2 bad): of its
 * errors, bad input is LK_CMD_MISUSED, an internal one LK_CMD_BROKEN, so that they can be told from
 * a verdict. (EX_USAGE and EX_SOFTWARE of sysexits.h.) */
enum { LK_CMD_MISUSED = 64, LK_CMD_BROKEN = 70 };
int lk_cmd_verdict_code(lk_status status);
int lk_cmd_run_verdict(const char *name, lk_status (*job)(const lk_world *w, void *options),
                       void *options);
/* Such a verdict too, of a job that says itself what an MPI lacks: any thread level will do. */
int lk_cmd_run_any_mpi(const char *name, lk_status (*job)(const lk_world *w, void *options),
                       void *options);

#endif
