/* bench/step RUN.yaml [--vocabulary N] [--text N] [--image-size N] [--channels N] [--classes N]
 * [--steps N] [--baseline] [--set a.b=c]...
 *
 * Time whole training steps (forward, backward, clip, AdamW) of a run file's model on random
 * tokens or images. Under mpirun on any number of ranks that train.leaves allows: each computes its
 * leaves, and gradients are reduced as in training (train.reduce, train.bucket_mib). Prints what
 * was measured: the shape, the precision, the device; the median, the fastest and the 95th
 * percentile of a step, tokens per second, and memory of rank 0: by kind, and the most that
 * lockstep had on the device, samples and what tuning took included, without what CUDA and its
 * libraries take for themselves.
 *
 * Time is the host's clock over a round: TOGETHER steps enqueued in a row, as training runs them,
 * with the device idle before the first and after the last. A step is the round's time divided by
 * TOGETHER, so a TOGETHER-th of a launch and a wait is in it; of several ranks the slowest in each
 * round counts, and all begin a round together. Median and percentile are of rounds: 30 of the 150
 * steps that are the default; --steps is rounded up to whole rounds. Before the first, steps are
 * made until gradients are finite, as the loss scale finds its size in training, and 10 more. A
 * step whose loss or gradient is not finite is skipped: AdamW does nothing, so its round is timed
 * again. Where none of the first 60 steps counts, or more than 12 rounds had one that does not,
 * there is no result, and the exit code is 2.
 *
 * --baseline: then the same model in fp32 without the pass that fuses nodes (bias and gelu stay in
 * the epilogue of their product, as the model is built) and without capture, a third as many steps,
 * and how many times faster the run file's step is. That is for GPUs: a CPU computes halves
 * in fp32 and captures nothing. One is measured after the other, for the baseline may need all the
 * memory there is: other work that comes or goes meanwhile is in the ratio. Where the 95th
 * percentile of either is more than a fifth above its fastest round, that is said beside it. */
#include "base/clock.h"
#include "bench/model.h"

#include <stdlib.h>

enum { WARMUP = 10, TOGETHER = 5, STEPS = 150, MOST_AGAIN = 12 };

/* Of sorted values, between two of them in proportion. */
static double quantile(const double *sorted, int n, double q)
{
    double at = q * (n - 1);
    int i = (int)at, next = i + 1 < n ? i + 1 : i;
    return sorted[i] + (at - i) * (sorted[next] - sorted[i]);
}

/* Seconds of TOGETHER steps from idle to idle, and the state after them. */
static lk_status time_round(const bench_model *m, double *seconds, lk_step_state *state)
{
    const lk_backend *b = m->device->backend;
    LK_TRY(b->sync(m->device));
    LK_TRY(lk_comm_agree(m->comm, LK_OK)); /* a barrier */
    double begin = lk_clock_seconds();
    for (int k = 0; k < TOGETHER; k++) LK_TRY(lk_program_run(m->program));
    LK_TRY(b->sync(m->device));
    *seconds = lk_clock_seconds() - begin;
    return lk_store_get_state(m->store, state);
}

/* ms [rounds] of a step in each round, sorted; the state after the last. */
static lk_status time_steps(const bench_model *m, int rounds, double *ms, lk_step_state *state)
{
    double seconds;
    int again = 0;
    LK_TRY(bench_settle(m));
    for (int i = 0; i < WARMUP; i++) LK_TRY(lk_program_run(m->program));
    LK_TRY(lk_store_get_state(m->store, state));
    for (int i = 0; i < rounds;) {
        uint64_t skipped = state->skipped;
        LK_TRY(time_round(m, &seconds, state));
        if (state->skipped == skipped) ms[i++] = 1e3 * seconds / TOGETHER;
        else if (++again > MOST_AGAIN)
            return lk_fail(LK_E_INPUT,
                           "in %d rounds the loss or a gradient of a step is not finite, now at a "
                           "loss scale of %g, so AdamW did nothing; lower optimizer.lr or "
                           "loss_scale.max", again, (double)state->loss_scale);
    }
    LK_TRY(lk_comm_max_doubles(m->comm, ms, rounds));
    qsort(ms, (size_t)rounds, sizeof *ms, bench_by_value);
    return LK_OK;
}

/* " (vocabulary 50304, batch 32 x 1024 tokens, fp16)" */
static void print_shape(const bench_model *m)
{
    const lk_image_format *f = &m->format;
    const lk_model *model = &m->model;
    long long batch = m->run.train.batch;
    if (!model->images)
        printf(" (vocabulary %lld, batch %lld x %lld tokens", (long long)f->vocabulary, batch,
               (long long)m->run.model.context);
    else {
        printf(" (images of %lld x %lld x %lld", (long long)f->height, (long long)f->width,
               (long long)f->channels);
        if (model->height != f->height)
            printf(" at %lld x %lld", (long long)model->height, (long long)model->width);
        printf(", %lld classes", (long long)f->classes);
        if (model->fused)
            printf(", texts of %lld tokens, vocabulary %lld", (long long)f->text,
                   (long long)f->vocabulary);
        printf(", batch %lld", batch);
    }
    printf(", %s)", m->run.train.precision);
}

/* ", 2 ranks, 4 leaves, exact in buckets of 25 MiB" */
static void print_ranks(const bench_model *m)
{
    int ranks = m->comm->size;
    printf(", %d rank%s, %d lea%s", ranks, ranks == 1 ? "" : "s", m->leaves,
           m->leaves == 1 ? "f" : "ves");
    if (ranks > 1)
        printf(", %s in buckets of %g MiB", m->run.train.reduce, m->run.train.bucket_mib);
}

static void print_memory(const bench_model *m)
{
    bool half = m->store->compute != LK_F32;
    int floats = 3 + lk_store_gradients(m->source.local_leaves) + (m->run.train.ema > 0);
    printf("memory, MiB: activations %.1f, parameters, gradients, moments and shadow %.1f, "
           "all on the device %.1f\n",
           (double)lk_program_arena_bytes(m->program) / 0x1p20,
           (double)m->params->total * (4 * floats + (half ? 2 : 0)) / 0x1p20,
           (double)m->device->peak / 0x1p20);
}

static void print(const bench_model *m, const char *what, const double *ms, int rounds,
                  const lk_step_state *state)
{
    char device[200];
    m->device->backend->describe(m->device, device, sizeof device);
    bool images = m->model.images;
    double samples = (double)(m->run.train.batch * (images ? 1 : m->run.model.context));
    double median = quantile(ms, rounds, 0.5);
    printf("%s", what);
    print_shape(m);
    printf(" on %s", device);
    print_ranks(m);
    printf(": median %.3f ms, fastest %.3f, p95 %.3f of %d round%s of %d steps, %.0f %s/s; "
           "loss %.4f, skipped %llu%s\n",
           median, ms[0], quantile(ms, rounds, 0.95), rounds, rounds == 1 ? "" : "s", TOGETHER,
           1e3 * samples / median,
           images ? "images" : "tokens", (double)state->loss, (unsigned long long)state->skipped,
           state->skipped ? ", not timed" : "");
    print_memory(m);
}

/* What is told beside the baseline. */
typedef struct figures {
    double median; /* ms */
    double spread; /* of its rounds: 95th percentile to fastest */
    bool half, cpu;
} figures;

static lk_status measure(const bench_model *m, const char *what, int64_t steps, figures *f)
{
    int rounds = (int)((steps + TOGETHER - 1) / TOGETHER);
    double *ms = malloc((size_t)rounds * sizeof *ms);
    lk_status status = ms ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(m->comm, status);
    lk_step_state state = {.step = 0};
    if (status == LK_OK) status = time_steps(m, rounds, ms, &state);
    if (status == LK_OK) {
        if (m->comm->rank == 0) print(m, what, ms, rounds, &state);
        *f = (figures){.median = quantile(ms, rounds, 0.5),
                       .spread = quantile(ms, rounds, 0.95) / ms[0],
                       .half = m->store->compute != LK_F32,
                       .cpu = m->device->backend == &lk_backend_cpu};
    }
    free(ms);
    return status;
}

/* One model, opened, measured and closed: the baseline may need all the memory there is. */
static lk_status bench(const bench_arguments *a, lk_comm *comm, bool plain, figures *f)
{
    bench_model m;
    LK_TRY(bench_open(a, comm, !plain, plain, &m));
    if (!plain) bench_tell_device("step", &m);
    lk_status status = plain ? measure(&m, "baseline: fp32, nodes not fused, not captured",
                                       (a->number + 2) / 3, f)
                             : measure(&m, a->file, a->number, f);
    if (status == LK_OK || lk_comm_all_failed(comm, 2.0)) bench_close(&m);
    return status;
}

static void print_ratio(const figures *run, const figures *plain)
{
    double spread = run->spread > plain->spread ? run->spread : plain->spread;
    printf("graph optimisation%s: %.2fx (%.3f ms to %.3f ms)%s",
           run->half ? " and mixed precision" : "", plain->median / run->median, plain->median,
           run->median, run->cpu ? "; little is to be had on a CPU" : "");
    if (spread > 1.2)
        printf("; disturbed by other work: some rounds took %.1f times as long as the fastest",
               spread);
    printf("\n");
}

static lk_status job(bench_arguments *a, lk_comm *comm)
{
    figures run = {.median = 0}, plain = {.median = 0};
    LK_TRY(bench(a, comm, false, &run));
    if (!a->baseline) return LK_OK;
    LK_TRY(bench(a, comm, true, &plain));
    if (comm->rank == 0) print_ratio(&run, &plain);
    return LK_OK;
}

int main(int argc, char **argv)
{
    static const bench_command step = {
        .name = "step",
        .does = "Times --steps (150) whole training steps; --baseline: also in fp32, without the "
                "pass\nthat fuses nodes and without capture. Under mpirun on all ranks.",
        .number = "--steps",
        .otherwise = STEPS,
        .baseline = true,
        .ranks = true,
        .job = job};
    return bench_main(&step, argc, argv);
}
