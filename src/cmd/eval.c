/* lockstep eval CHECKPOINT DATA [--predictions OUT.h5 [--force]] */
#include "cmd/cmd.h"
#include "train/train.h"

#include <stdio.h>

enum { FORCE = 1000 };

static const struct argp_option table[] = {
    {"predictions", 'p', "FILE", 0, "Write loss and most likely token of every position (HDF5)", 0},
    {"force", FORCE, NULL, 0, "Replace an earlier file of predictions", 0},
    {"device", 'd', "NAME", 0, "auto (default), cpu or cuda", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    lk_scoring *o = state->input;
    switch (key) {
    case 'p': o->predictions = arg; break;
    case FORCE: o->overwrite = true; break;
    case 'd': o->device = arg; break;
    case ARGP_KEY_ARG:
        if (state->arg_num > 1) argp_error(state, "too many arguments at '%s'", arg);
        *(state->arg_num == 0 ? &o->checkpoint : &o->data) = arg;
        break;
    case ARGP_KEY_END:
        if (!o->data) argp_error(state, "CHECKPOINT and DATA are expected");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static lk_status job(const lk_world *w, void *context)
{
    lk_evaluation e;
    LK_TRY(lk_evaluate(w->comm, w->io, context, &e));
    if (w->comm->rank == 0)
        printf("loss %.6f  perplexity %.4f  accuracy %.4f  tokens %lld\n", e.loss, e.perplexity,
               e.accuracy, (long long)e.tokens);
    return LK_OK;
}

int lk_cmd_eval(int argc, char **argv)
{
    static const struct argp argp = {
        table, parse, "CHECKPOINT DATA",
        "Loss (nats a token), perplexity and accuracy over every non-overlapping window of the "
        "validation split of DATA. CHECKPOINT: a file, or a run directory for its newest one.",
        NULL, NULL, NULL};
    lk_scoring o = {.device = "auto"};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    return lk_cmd_run("lockstep eval", false, job, &o);
}
