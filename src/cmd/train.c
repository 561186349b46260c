/* lockstep train RUN.yaml [--set KEY=VALUE]... [--resume | --plan | --print KEY] */
#include "base/signals.h"
#include "cmd/cmd.h"
#include "metric/progress.h"
#include "train/train.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE 60.0 /* seconds; longer than the ranks of a job that is ended take to die */

typedef struct options {
    const char *file;
    const char **set;
    int sets;
    lk_start start;
    double walltime; /* seconds; 0: none */
    bool plan;
    const char *print; /* key */
    lk_progress progress;
} options;

enum { RESUME_OR_START = 256, WAIT, PRINT, ANOMALY, BLOCKING }; /* options without a letter */

static const struct argp_option table[] = {
    {"set", 's', "KEY=VALUE", 0, "Override a key of the run file (repeatable)", 0},
    {"resume", 'r', NULL, 0, "Continue the run from its newest checkpoint that is whole", 0},
    {"resume-or-start", RESUME_OR_START, NULL, 0,
     "As --resume, or start it where there is no run directory or no checkpoint yet: for jobs that "
     "are started again and again", 0},
    {"walltime", 'w', "DURATION", 0,
     "Save and stop in time for an end after DURATION: 90s, 30m, 12h, 2d, 1:30:00, 2-00:00:00. "
     "Under Slurm the job's own end is known", 0},
    {"wait", WAIT, "DURATION", 0,
     "How long to wait while another lockstep works on the run: 60s by default, 0s: not at all", 0},
    {"plan", 'p', NULL, 0,
     "Print memory by kind, work by kind of op and the predicted time of a step; do not train", 0},
    {"print", PRINT, "KEY", 0,
     "Print the value of a key of the run file, for scripts; do not train", 0},
    {"detect-anomaly", ANOMALY, NULL, 0,
     "Look at what every node of a step makes, and stop at the first value that is not finite: "
     "which node, on what input, of which samples; slower", 0},
    {"launch-blocking", BLOCKING, NULL, 0,
     "Wait for every kernel, so that an error of the device names its node; slower", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 's': o->set[o->sets++] = arg; break;
    case 'r': o->start.resume = LK_RESUME; break;
    case RESUME_OR_START: o->start.resume = LK_RESUME_OR_START; break;
    case 'w':
        if (!lk_cmd_duration(arg, &o->walltime))
            argp_error(state, "--walltime: expected a duration such as 90s, 30m, 12h or 1:30:00, "
                       "found '%s'", arg);
        break;
    case WAIT:
        if (strcmp(arg, "0s") != 0 && !lk_cmd_duration(arg, &o->start.patience))
            argp_error(state, "--wait: expected a duration such as 0s, 90s or 30m, found '%s'",
                       arg);
        if (strcmp(arg, "0s") == 0) o->start.patience = 0;
        break;
    case 'p': o->plan = true; break;
    case PRINT: o->print = arg; break;
    case ANOMALY: o->start.detect_anomaly = true; break;
    case BLOCKING: o->start.launch_blocking = true; break;
    case ARGP_KEY_ARG:
        if (o->file) argp_error(state, "one RUN.yaml is expected, found also '%s'", arg);
        o->file = arg;
        break;
    case ARGP_KEY_END:
        if (!o->file) argp_error(state, "RUN.yaml is missing");
        if (o->plan && o->start.resume != LK_START_NEW)
            argp_error(state, "--plan and --resume exclude each other");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void line(void *context, const char *text)
{
    lk_progress_line(&((options *)context)->progress, text);
}

static void step(void *context, int64_t done, int64_t total, double loss, double rate,
                 double step_seconds)
{
    lk_progress_step(&((options *)context)->progress, done, total, loss, rate, step_seconds);
}

static int add_figures(char *text, int size, double loss, double accuracy)
{
    int n = snprintf(text, (size_t)size, " loss %.4f", loss);
    if (!isnan(accuracy)) n += snprintf(text + n, (size_t)(size - n), " accuracy %.4f", accuracy);
    return n;
}

static void evaluated(void *context, int64_t at, const lk_validation *v, double best)
{
    char text[256];
    int size = sizeof text, n = snprintf(text, sizeof text, "step %lld  validation", (long long)at);
    n += add_figures(text + n, size - n, v->loss, v->accuracy);
    if (!isnan(v->ema_loss)) {
        n += snprintf(text + n, (size_t)(size - n), "  ema");
        n += add_figures(text + n, size - n, v->ema_loss, v->ema_accuracy);
    }
    snprintf(text + n, (size_t)(size - n), "  best %.4f", best);
    line(context, text);
}

static void print_memory(const lk_step_plan *p)
{
    printf("%-24s %12s\n", "memory of a rank", "MiB");
    for (int i = 0; i < LK_MEMORY_PINNED; i++)
        printf("  %-22s %12.2f\n", lk_memory_name((lk_memory)i), p->memory[i] / 0x1p20);
    printf("  %-22s %12.2f\n", "total on the device", p->device_bytes / 0x1p20);
    printf("  %-22s %12.2f\n\n", lk_memory_name(LK_MEMORY_PINNED),
           p->memory[LK_MEMORY_PINNED] / 0x1p20);
}

static void print_line(const lk_plan_line *l)
{
    printf("  %-22s %12d %12.3f %12.1f %12.3f\n", l->name, l->nodes, 1e-9 * l->flops,
           l->bytes / 0x1p20, 1e3 * l->seconds);
}

static void print_plan(const lk_step_plan *p)
{
    printf("%lld parameters, %d nodes, %d rank%s, %d lea%s, on %s\n\n", (long long)p->parameters,
           p->nodes, p->ranks, p->ranks == 1 ? "" : "s", p->leaves, p->leaves == 1 ? "f" : "ves",
           p->device);
    print_memory(p);
    printf("%-24s %12s %12s %12s %12s\n", "step of a rank", "nodes", "GFLOP", "MiB moved",
           "predicted ms");
    for (int i = 0; i < p->lines; i++) print_line(&p->line[i]);
    print_line(&p->total);
    const lk_roofline *r = &p->ceiling;
    printf("\nmeasured here: %.1f GFLOP/s, %.1f GB/s\n", 1e-9 * r->rate, 1e-9 * r->bandwidth);
    if (lk_roofline_busy(r))
        printf("the device is busy: between %.1f and %.1f GFLOP/s, %.1f and %.1f GB/s; plan again "
               "when it is idle\n", 1e-9 * r->rate_low, 1e-9 * r->rate,
               1e-9 * r->bandwidth_low, 1e-9 * r->bandwidth);
    if (p->reduction_worst > 1.25 * p->reduction)
        printf("ranks or what joins them are busy: the reduction takes between %.3f and %.3f ms; "
               "plan again when they are idle\n", 1e3 * p->reduction, 1e3 * p->reduction_worst);
    printf("predicted: %.3f ms a step, if every node is as fast as these ceilings let it; real "
           "steps take longer\n", 1e3 * p->total.seconds);
}

static lk_status plan(const lk_world *w, const lk_run *run)
{
    lk_step_plan p;
    LK_TRY(lk_train_plan(w->comm, w->io, run, &p));
    if (w->comm->rank == 0) print_plan(&p);
    return LK_OK;
}

/* The result of a run that ended, or stopped before its end. */
static void print_result(const lk_train_result *r)
{
    printf("%lld steps in %.1f s, loss %.4f", (long long)r->steps, r->seconds, r->loss);
    if (isfinite(r->best_validation_loss))
        printf(", best validation loss %.4f", r->best_validation_loss);
    if (!isnan(r->validation.accuracy)) printf(", accuracy %.4f", r->validation.accuracy);
    if (!isnan(r->validation.ema_accuracy)) printf(" (ema %.4f)", r->validation.ema_accuracy);
    if (r->skipped) printf(", %lld steps skipped", (long long)r->skipped);
    if (r->stopped[0]) printf("\nstopped by %s, saved; go on with --resume", r->stopped);
    printf("\n%s\n", r->checkpoint);
}

/* Of the watchdog: it sees what the run does, or no more. */
static void watched(void *comm, bool now) { lk_cmd_brief(now ? NULL : "the end", comm); }

static lk_status train(const lk_world *w, options *o, const lk_run *run)
{
    lk_train_result r;
    lk_status status = lk_comm_agree(w->comm, lk_cmd_deadline(o->walltime, &o->start.deadline));
    if (status == LK_E_REQUEUE && w->comm->rank == 0)
        fprintf(stderr, "lockstep: %s\n", lk_error_text());
    LK_TRY(status);
    o->start.watched = watched;
    o->start.say = lk_cmd_say;
    o->start.end = lk_cmd_end;
    o->start.context = w->comm;
    lk_progress_init(&o->progress, stdout, lk_cmd_terminal(), run->log.every);
    lk_reporter reporter = {o, line, step, evaluated};
    status = lk_train(w->comm, w->io, run, &o->start, &reporter, &r);
    lk_progress_end(&o->progress);
    if (status == LK_OK && w->comm->rank == 0) print_result(&r);
    return status == LK_OK && r.stopped[0] ? LK_E_REQUEUE : status;
}

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    lk_run run;
    lk_cmd_brief("reading the run file", w->comm);
    LK_TRY(lk_cmd_load_run(w->comm, o->file, o->sets, o->set, &run));
    lk_cmd_brief_limit(run.train.timeout);
    lk_cmd_brief(o->plan ? NULL : "the start of the watchdog", w->comm);
    lk_status status = o->plan ? plan(w, &run) : train(w, o, &run);
    lk_run_clear(&run);
    return status;
}

/* Needs neither MPI nor the data, so it also answers where jobs are submitted. */
static lk_status print_key(const options *o)
{
    lk_run run;
    LK_TRY(lk_run_load(o->file, o->sets, o->set, &run));
    lk_status status = lk_run_print(&run, o->print, stdout);
    lk_run_clear(&run);
    return status;
}

/* What would end another command does not end a run without a save. */
static lk_status outlive(void)
{
    signal(SIGPIPE, SIG_IGN);
    lk_cmd_outlives_reader = true;
    return lk_signals_catch();
}

/* The run file is not read yet, and may be what hangs. What is no number limits nothing here: it is
 * refused when the run file is read. */
static void limit_start(const options *o)
{
    static const char key[] = "train.timeout=";
    char *end;
    for (int i = 0; i < o->sets; i++) {
        if (strncmp(o->set[i], key, sizeof key - 1) != 0) continue;
        const char *text = o->set[i] + sizeof key - 1;
        double timeout = strtod(text, &end);
        if (end != text && *end == '\0' && isfinite(timeout)) lk_cmd_brief_limit(timeout);
    }
}

static int start(options *o)
{
    lk_status status = LK_OK;
    limit_start(o);
    if (o->print) status = print_key(o);
    else if (!o->plan) status = outlive(); /* before MPI starts threads */
    if (status != LK_OK) fprintf(stderr, "lockstep: %s\n", lk_error_text());
    return status != LK_OK || o->print ? (int)status
                                       : lk_cmd_run("lockstep train", false, job, o);
}

int lk_cmd_train(int argc, char **argv)
{
    static const struct argp argp = {
        table, parse, "RUN.yaml",
        "Train the model of a run file. Under mpirun every rank takes a part of each batch; the "
        "result has the same bits on 1, 2, 4 ... ranks up to train.leaves.\v"
        "'lockstep help run-file' lists the keys. The last line printed is the path of the last "
        "checkpoint. Checkpoints are written while training goes on, read back before they count, "
        "and removed when checkpoint.keep newer ones are safe. --resume reads all of the newest; "
        "if it is damaged it says so and takes the one before it. --plan writes nothing: memory as "
        "it would be allocated, without what CUDA and NCCL take themselves; work as each op must "
        "do at least; time as if every node ran at the speed of a large product or sum, measured "
        "here, and nothing ran beside it.\n\n"
        "SIGUSR1, SIGUSR2, SIGTERM, SIGINT (Ctrl-C) or SIGHUP at any rank stops all after the same "
        "step, with a save, and exit status 75. Another one, a second or more after the first, "
        "ends that process at once, without a save, as if nothing caught it (exit status 128 + its "
        "number in a shell). mpirun passes on SIGUSR1 and SIGUSR2, but ends all on SIGTERM and "
        "Ctrl-C; both mpirun and srun return 75.\n\n"
        "--detect-anomaly keeps the node's tensors, and the rows of the samples, in the run "
        "directory: in anomaly.h5, or in anomaly-N.h5 if rank N above 0 has found it; 'lockstep "
        "show' tells what is in them. In fp16 an overflow of scaled gradients is no anomaly while "
        "the loss scale is above 1: the step is skipped. Done again, a run has the same bits: with "
        "--resume it finds what ended it.\n\n"
        "Examples:\n"
        "  $ lockstep train run.yaml --plan\n"
        "  $ mpirun -np 4 lockstep train run.yaml --set train.steps=5000\n"
        "  $ lockstep train run.yaml --resume",
        NULL, NULL, NULL};
    options o = {.set = calloc((size_t)argc + 1, sizeof *o.set), .start.patience = PATIENCE};
    if (!o.set) return LK_E_SYSTEM;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int code = start(&o);
    free(o.set);
    return code;
}
