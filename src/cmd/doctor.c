/* lockstep doctor */
#include "base/clock.h"
#include "cmd/cmd.h"
#include "doctor/doctor.h"
#include "version.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

extern char **environ;

enum { JSON = 1000, FROM, QUICK, ROOT, TIMEOUT, WIDTH = 100 };

static const struct argp_option table[] = {
    {"profile", 'p', "NAME", 0,
     "dev (default): what is needed; prod: recommended versions too, and a GPU if this build is "
     "for one", 0},
    {"directory", 'd', "DIR", 0,
     "Where runs will be written (default: the current directory): its file system is measured, "
     "with up to 256 MiB for each host, and no file is left", 0},
    {"quick", QUICK, NULL, 0, "No measurements of speed", 0},
    {"json", JSON, NULL, 0, "Print findings and all facts as JSON", 0},
    {"from", FROM, "FILE", 0,
     "Judge the facts in FILE, an earlier output of --json, instead of this machine", 0},
    {"timeout", TIMEOUT, "SECONDS", 0,
     "Give up when a part of the examination hangs for so long (default: 120)", 0},
    {"root", ROOT, "DIR", OPTION_HIDDEN, "Where /proc and /sys lie, for tests", 0},
    {0},
};

typedef struct options {
    lk_doctor_options examination;
    lk_profile profile;
    bool json, terminal;
    const char *from;
    double timeout;
    lk_verdict verdict;
} options;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'p':
        if (strcmp(arg, "dev") != 0 && strcmp(arg, "prod") != 0)
            argp_error(state, "--profile: expected dev or prod, found '%s'", arg);
        o->profile = strcmp(arg, "prod") == 0 ? LK_PROFILE_PROD : LK_PROFILE_DEV;
        break;
    case 'd': o->examination.directory = arg; break;
    case QUICK: o->examination.measure = false; break;
    case JSON: o->json = true; break;
    case FROM: o->from = arg; break;
    case TIMEOUT: o->timeout = lk_cmd_real(state, "--timeout", arg, 0.1, 86400); break;
    case ROOT: o->examination.root = arg; break;
    case ARGP_KEY_ARG: argp_error(state, "no argument is expected, found '%s'", arg); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static lk_status print(const options *o, const lk_diagnosis *r, const json_t *facts)
{
    if (o->json) {
        char *text = NULL;
        LK_TRY(lk_diagnosis_json(r, facts, &text));
        printf("%s\n", text);
        free(text);
        return LK_OK;
    }
    struct winsize size = {0};
    const char *term = getenv("TERM"), *plain = getenv("NO_COLOR");
    bool color = o->terminal && (!plain || !plain[0]) && term && strcmp(term, "dumb") != 0;
    if (!o->terminal || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        size.ws_col = WIDTH;
    lk_diagnosis_print(r, facts, size.ws_col < WIDTH ? size.ws_col : WIDTH, color, stdout);
    return LK_OK;
}

static lk_status judge(options *o, const json_t *facts)
{
    lk_diagnosis r;
    LK_TRY(lk_doctor_judge(facts, o->profile, &r));
    lk_status status = print(o, &r, facts);
    o->verdict = r.verdict;
    lk_diagnosis_clear(&r);
    return status;
}

/* ---- patience -------------------------------------------------------------------------------- */

/* A driver, a network or a file system may hang, and that is for the doctor to say. */
typedef struct patience {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
    double seconds; /* for one stage */
    _Atomic(const char *) stage;
    lk_comm *comm;
} patience;

/* The main thread hangs, maybe on other ranks as well: one message, and an end to all. */
static void lose(const patience *p, const char *stage)
{
    char text[512];
    if (p->comm->rank > 0) sleep(2); /* rank 0 speaks if it waits too */
    snprintf(text, sizeof text, "doctor: rank %d on %s: no end after %g s: %s; 'lockstep doctor "
             "--quick' measures nothing", p->comm->rank, p->comm->host, p->seconds, stage);
    lk_cmd_say(p->comm, text);
    sleep(1); /* mpirun drops what it has not passed on when a rank ends all */
    lk_cmd_end(p->comm, true);
}

static void *wait_with(void *argument)
{
    patience *p = argument;
    const char *stage = NULL;
    double since = lk_clock_seconds();
    pthread_mutex_lock(&p->lock);
    while (!p->over) {
        const char *now = atomic_load(&p->stage);
        struct timespec until;
        if (now != stage) since = lk_clock_seconds();
        stage = now;
        if (lk_clock_seconds() - since > p->seconds) lose(p, stage);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&p->wake, &p->lock, &until);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static lk_status begin(patience *p)
{
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    int error = pthread_create(&p->thread, NULL, wait_with, p);
    return error ? lk_fail(LK_E_SYSTEM, "cannot start a thread: %s", strerror(error)) : LK_OK;
}

static void end(patience *p)
{
    pthread_mutex_lock(&p->lock);
    p->over = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}

/* Only where the user leaves the choice to NCCL. */
static bool choose(const char *algorithm)
{
    return algorithm ? setenv("NCCL_ALGO", algorithm, 1) == 0 : unsetenv("NCCL_ALGO") == 0;
}

static lk_status examine(const lk_world *w, options *o, json_t **facts)
{
    patience p = {.seconds = o->timeout, .stage = "starting", .comm = w->comm};
    LK_TRY(lk_comm_agree(w->comm, begin(&p)));
    o->examination.stage = &p.stage;
    if (!getenv("NCCL_ALGO") && !getenv("NCCL_PROTO")) o->examination.choose = choose;
    lk_status status = lk_doctor_examine(w->comm, w->io, &o->examination, facts);
    end(&p);
    return status;
}

/* ---- the command ----------------------------------------------------------------------------- */

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    json_t *facts = NULL;
    lk_cmd_alive();
    LK_TRY(examine(w, o, &facts));
    lk_status status = facts ? judge(o, facts) : LK_OK;
    json_decref(facts);
    LK_TRY(lk_comm_agree(w->comm, status));
    return lk_comm_broadcast(w->comm, &o->verdict, sizeof o->verdict);
}

static lk_status judge_file(options *o)
{
    json_error_t error;
    FILE *file = fopen(o->from, "r");
    if (!file)
        return lk_fail(LK_E_INPUT, "%s: %s; expected an output of 'lockstep doctor --json'",
                       o->from, strerror(errno));
    json_t *facts = json_loadf(file, 0, &error);
    fclose(file);
    if (!facts)
        return lk_fail(LK_E_INPUT, "%s: line %d: %s; expected an output of 'lockstep doctor "
                       "--json'", o->from, error.line, error.text);
    lk_status status = judge(o, facts);
    json_decref(facts);
    return status == LK_OK ? status : lk_fail_prefix(status, "%s", o->from);
}

/* Without MPI: facts are judged anywhere. */
static int from_file(options *o)
{
    lk_status status = judge_file(o);
    if (status != LK_OK) fprintf(stderr, "lockstep: %s\n", lk_error_text());
    return status == LK_OK ? (int)o->verdict : lk_cmd_verdict_code(status);
}

static int with_mpi(void *context)
{
    options *o = context;
    int code = lk_cmd_run_any_mpi("lockstep doctor", job, o);
    return code == LK_OK ? (int)o->verdict : code;
}

/* MPI does not start: that is a finding, beside all that can be found without it. */
static int without_mpi(options *o, const char *why)
{
    json_t *facts = NULL;
    int rank = lk_cmd_launched();
    if (rank > 0) {
        sleep(2); /* the launcher ends all once rank 0 has said it */
        fprintf(stderr, "lockstep: doctor: rank %d: %s\n", rank, why);
        return LK_UNFIT;
    }
    lk_status status = lk_doctor_examine_alone(why, &o->examination, &facts);
    if (status == LK_OK) status = judge(o, facts);
    json_decref(facts);
    if (status != LK_OK) fprintf(stderr, "lockstep: %s\n", lk_error_text());
    return status == LK_OK ? (int)o->verdict : lk_cmd_verdict_code(status);
}

static int examine_and_judge(options *o)
{
    char why[200];
    bool alive;
    const char *fatal = lk_doctor_fatal_setting(environ);
    if (fatal) return without_mpi(o, fatal); /* mpirun would say that a rank has failed: exit 1 */
    int code = lk_cmd_child(with_mpi, o, &alive);
    if (alive) return code;
    snprintf(why, sizeof why, "MPI_Init has ended the process (%s %d), see what it wrote",
             code > 128 ? "signal" : "exit status", code > 128 ? code - 128 : code);
    return without_mpi(o, why);
}

int lk_cmd_doctor(int argc, char **argv)
{
    static const struct argp argp = {
        table, parse, "",
        "Is this machine fit to train on? Software, cores, memory, GPUs, their links, network, "
        "files and settings, each with what to do. Start it as training would be started, by "
        "mpirun or srun: one table shows all ranks, and where hosts differ.\v"
        "Exit status: 0 fit, 1 warnings, 2 errors: not fit; 64 a wrong command line or file of "
        "facts, 70 an internal failure; 3, 4 and 5 as of every command. doc/doctor.md says what "
        "is looked at.\n\n"
        "Examples:\n"
        "  $ mpirun -np 8 lockstep doctor\n"
        "  $ lockstep doctor --json > facts.json\n"
        "  $ lockstep doctor --from facts.json --profile prod",
        NULL, NULL, NULL};
    options o = {.examination = {.version = LK_VERSION,
                                 .code = LK_CODE_VERSION,
                                 .build = LK_BUILD,
                                 .environment = environ,
                                 .directory = ".",
                                 .measure = true,
                                 .root = ""},
                 .timeout = 120};
    argp_err_exit_status = LK_CMD_MISUSED;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    o.terminal = lk_cmd_terminal(); /* before there is a child, whose parent is not mpirun */
    return o.from ? from_file(&o) : examine_and_judge(&o);
}
