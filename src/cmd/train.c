/* lockstep train RUN.yaml [--set KEY=VALUE]... [--resume] */
#include "cmd/cmd.h"
#include "metric/progress.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>

typedef struct options {
    const char *file;
    const char **set;
    int sets;
    bool resume;
    lk_progress progress;
} options;

static const struct argp_option table[] = {
    {"set", 's', "KEY=VALUE", 0, "Override a key of the run file (repeatable)", 0},
    {"resume", 'r', NULL, 0, "Continue the run from its newest checkpoint", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 's': o->set[o->sets++] = arg; break;
    case 'r': o->resume = true; break;
    case ARGP_KEY_ARG:
        if (o->file) argp_error(state, "one RUN.yaml is expected, found also '%s'", arg);
        o->file = arg;
        break;
    case ARGP_KEY_END:
        if (!o->file) argp_error(state, "RUN.yaml is missing");
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

static void evaluated(void *context, int64_t at, double loss, double best)
{
    char text[128];
    snprintf(text, sizeof text, "step %lld  validation loss %.4f  best %.4f", (long long)at, loss,
             best);
    line(context, text);
}

/* Rank 0 reads the run file for all: a file edited or a mount late on one host must not give its
 * ranks another run. */
static lk_status load(lk_comm *comm, const options *o, lk_run *run)
{
    char *text = NULL;
    lk_status status = LK_OK;
    if (comm->rank == 0) status = lk_run_load(o->file, o->sets, o->set, run);
    if (comm->rank == 0 && status == LK_OK) status = lk_run_format(run, &text);
    LK_TRY(lk_comm_agree(comm, status));
    status = lk_comm_broadcast_text(comm, &text);
    if (status == LK_OK && comm->rank != 0) status = lk_run_parse(o->file, text, 0, NULL, run);
    free(text);
    return lk_comm_agree(comm, status);
}

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    lk_run run;
    lk_train_result r;
    LK_TRY(load(w->comm, o, &run));
    lk_progress_init(&o->progress, stdout, lk_cmd_terminal(), run.log.every);
    lk_reporter reporter = {o, line, step, evaluated};
    lk_status status = lk_train(w->comm, w->io, &run, o->resume, &reporter, &r);
    lk_progress_end(&o->progress);
    if (status == LK_OK && w->comm->rank == 0) {
        printf("%lld steps in %.1f s, loss %.4f", (long long)r.steps, r.seconds, r.loss);
        if (isfinite(r.best_validation_loss))
            printf(", best validation loss %.4f", r.best_validation_loss);
        if (r.skipped) printf(", %lld steps skipped", (long long)r.skipped);
        printf("\n%s\n", r.checkpoint);
    }
    lk_run_clear(&run);
    return status;
}

int lk_cmd_train(int argc, char **argv)
{
    static const struct argp argp = {
        table, parse, "RUN.yaml",
        "Train the model of a run file. Under mpirun every rank takes a part of each batch; the "
        "result has the same bits on 1, 2, 4 ... ranks up to train.leaves.\v"
        "'lockstep help run-file' lists the keys. The last line printed is the path of the last "
        "checkpoint.",
        NULL, NULL, NULL};
    options o = {.set = calloc((size_t)argc + 1, sizeof *o.set)};
    if (!o.set) return LK_E_SYSTEM;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int code = lk_cmd_run("lockstep train", false, job, &o);
    free(o.set);
    return code;
}
