/* lockstep eval CHECKPOINT DATA [--predictions OUT.h5 [--force]] */
#include "base/replace.h"
#include "base/utf8.h"
#include "cmd/cmd.h"
#include "metric/drift_prometheus.h"
#include "train/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FORCE = 1000, PSI, PROMETHEUS };

typedef struct options {
    lk_scoring scoring;
    const char *prometheus;
} options;

static const struct argp_option table[] = {
    {"predictions", 'p', "FILE", 0,
     "Write loss and most likely token or class of every sample (HDF5)", 0},
    {"weights", 'w', "NAME", 0,
     "raw, ema (the moving average) or auto (default: ema where there is one)", 0},
    {"force", FORCE, NULL, 0, "Replace an earlier file of predictions", 0},
    {"psi", PSI, "X", 0,
     "Warn of drift from the training data above this population stability index (default: 0.2)",
     0},
    {"prometheus", PROMETHEUS, "FILE", 0,
     "Write the drift for node_exporter's textfile collector (.prom)", 0},
    {"device", 'd', "NAME", 0, "auto (default), cpu or cuda", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *all = state->input;
    lk_scoring *o = &all->scoring;
    switch (key) {
    case 'p': o->predictions = arg; break;
    case FORCE: o->overwrite = true; break;
    case PROMETHEUS: all->prometheus = arg; break;
    case PSI: o->psi = lk_cmd_real(state, "--psi", arg, 0, 1e6); break;
    case 'd': o->device = arg; break;
    case 'w': o->weights = arg; break;
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

/* Share of each class that was recognised, and for few classes what was taken for what. */
static void print_classes(const lk_evaluation *e)
{
    int64_t n = e->classes;
    bool table = e->confusion != NULL;
    printf("\n%-16s %8s %8s%s\n", "class", "images", "right",
           table ? "  taken for class number" : "");
    if (table) {
        printf("%34s", "");
        for (int64_t p = 0; p < n; p++) printf(" %5lld", (long long)p);
        printf("\n");
    }
    for (int64_t l = 0; l < n; l++) {
        printf("%3lld ", (long long)l);
        lk_plain_column(stdout, e->name[l], 12);
        printf(" %8lld %7.2f%%", (long long)e->images[l],
               e->images[l] ? 100.0 * (double)e->right[l] / (double)e->images[l] : 0.0);
        for (int64_t p = 0; table && p < n; p++)
            printf(" %5lld", (long long)e->confusion[l * n + p]);
        printf("\n");
    }
}

/* How far the data is from what the model learned from. */
static void print_drift(const lk_evaluation *e)
{
    const lk_drift_report *d = &e->drift;
    if (!e->compared || d->features == 0) return;
    const lk_drift_feature *worst = &d->feature[d->worst];
    printf("drift from the training data: PSI %.4f, KL %.4f (mean of %lld), most of '%s': %.4f "
           "(noise %.4f)\n", d->psi, d->kl, (long long)d->features, worst->name,
           worst->drift.psi, worst->drift.noise);
    for (int64_t i = 0; i < d->features; i++)
        if (lk_drift_found(&d->feature[i].drift, d->threshold))
            fprintf(stderr, "warning: '%s' has drifted: PSI %.3g is above %g and above what "
                    "chance gives, %.3g; 'lockstep check' --against the checkpoint shows more\n",
                    d->feature[i].name, d->feature[i].drift.psi, d->threshold,
                    d->feature[i].drift.noise);
}

static void print(const lk_evaluation *e)
{
    if (e->kind == LK_TEXT_DATA) {
        printf("loss %.6f  perplexity %.4f  accuracy %.4f  tokens %lld%s\n", e->loss, exp(e->loss),
               e->accuracy, (long long)e->samples, e->ema ? "  (ema)" : "");
        print_drift(e);
        return;
    }
    printf("loss %.6f  accuracy %.4f  images %lld%s\n", e->loss, e->accuracy, (long long)e->samples,
           e->ema ? "  (ema)" : "");
    print_drift(e);
    print_classes(e);
}

static lk_status write_drift(const options *o, const lk_evaluation *e)
{
    if (!o->prometheus) return LK_OK;
    if (!e->compared)
        return lk_fail(LK_E_INPUT,
                       "%s: expected a checkpoint that knows its training data, found "
                       "one of an earlier lockstep: there is no drift to write to %s; leave out "
                       "--prometheus, or use 'lockstep check --against DATA'",
                       o->scoring.checkpoint, o->prometheus);
    lk_drift_part part = {"validation", &e->drift};
    return lk_drift_prometheus_write(&part, 1, o->scoring.data, o->prometheus);
}

static lk_status job(const lk_world *w, void *context)
{
    const options *o = context;
    lk_evaluation e;
    lk_status status = LK_OK;
    if (o->prometheus && w->comm->rank == 0)
        status = lk_replace_check(o->prometheus, LK_BEGINS_METRICS);
    LK_TRY(lk_comm_agree(w->comm, status));
    LK_TRY(lk_evaluate(w->comm, w->io, &o->scoring, &e));
    if (w->comm->rank == 0 && e.warning[0]) fprintf(stderr, "warning: %s\n", e.warning);
    if (w->comm->rank == 0) print(&e);
    if (w->comm->rank == 0) status = write_drift(o, &e);
    lk_evaluation_clear(&e);
    return lk_comm_agree(w->comm, status);
}

int lk_cmd_eval(int argc, char **argv)
{
    static const struct argp argp = {
        table,
        parse,
        "CHECKPOINT DATA",
        "Loss (nats), accuracy and, for text, perplexity over the whole validation split of DATA: "
        "every non-overlapping window of a text; every image, with a table of the classes. "
        "CHECKPOINT: a file, or a run directory for its newest one; if that is damaged, the error "
        "names the one before it.\v"
        "Examples:\n"
        "  $ lockstep eval runs/photos photos.h5\n"
        "  $ lockstep eval runs/photos photos.h5 --predictions predictions.h5",
        NULL,
        NULL,
        NULL};
    options o = {.scoring = {.device = "auto", .psi = LK_DRIFT_PSI}};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    return lk_cmd_run("lockstep eval", false, job, &o);
}
