/* bench/step RUN.yaml [--vocabulary N] [--steps N] [--baseline] [--set a.b=c]...
 *
 * Time whole training steps (forward, backward, clip, AdamW) of a run file's model on random
 * tokens or images. Under mpirun on any number of ranks that train.leaves allows: each computes its
 * leaves, and gradients are reduced as in training (train.reduce, train.bucket_mib). Prints the
 * median, the fastest and the 95th percentile of a step, tokens per second, and memory of rank 0:
 * by kind, and the most that lockstep had on the device, samples and what tuning took included,
 * without what CUDA and its libraries take for themselves.
 *
 * Time is the host's clock over a round: TOGETHER steps enqueued in a row, as training runs them,
 * with the device idle before the first and after the last. A step is the round's time divided by
 * TOGETHER, so a TOGETHER-th of a launch and a wait is in it; of several ranks the slowest in each
 * round counts, and all begin a round together. Median and percentile are of rounds: 30 of the 150
 * steps that are the default; --steps is rounded up to whole rounds.
 *
 * --baseline: then the same model in fp32 without the pass that fuses nodes (bias and gelu stay in
 * the epilogue of their product, as the model is built) and without capture, a third as many steps,
 * and how many times faster the run file's step is. That is for GPUs: a CPU computes halves
 * in fp32 and captures nothing. */
#include "base/clock.h"
#include "bench/model.h"

#include <stdlib.h>

enum { WARMUP = 10, TOGETHER = 5, STEPS = 150 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Of sorted values, between two of them in proportion. */
static double quantile(const double *sorted, int n, double q)
{
    double at = q * (n - 1);
    int i = (int)at, next = i + 1 < n ? i + 1 : i;
    return sorted[i] + (at - i) * (sorted[next] - sorted[i]);
}

/* ms [rounds] of a step in each round, sorted. */
static lk_status time_steps(const bench_model *m, int rounds, double *ms)
{
    const lk_backend *b = m->device->backend;
    for (int i = 0; i < WARMUP; i++) LK_TRY(lk_program_run(m->program));
    for (int i = 0; i < rounds; i++) {
        LK_TRY(b->sync(m->device));
        LK_TRY(lk_comm_agree(m->comm, LK_OK)); /* a barrier */
        double begin = lk_clock_seconds();
        for (int k = 0; k < TOGETHER; k++) LK_TRY(lk_program_run(m->program));
        LK_TRY(b->sync(m->device));
        ms[i] = 1e3 * (lk_clock_seconds() - begin) / TOGETHER;
    }
    LK_TRY(lk_comm_max_doubles(m->comm, ms, rounds));
    qsort(ms, (size_t)rounds, sizeof *ms, by_value);
    return LK_OK;
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
    bool images = m->model.vision;
    double samples = (double)(m->run.train.batch * (images ? 1 : m->run.model.context));
    double median = quantile(ms, rounds, 0.5);
    printf("%s on %s", what, device);
    print_ranks(m);
    printf(": median %.3f ms, fastest %.3f, p95 %.3f of %d round%s of %d steps, %.0f %s/s; "
           "loss %.4f, skipped %llu\n",
           median, ms[0], quantile(ms, rounds, 0.95), rounds, rounds == 1 ? "" : "s", TOGETHER,
           1e3 * samples / median,
           images ? "images" : "tokens", (double)state->loss, (unsigned long long)state->skipped);
    print_memory(m);
}

/* What is told beside the baseline. */
typedef struct figures {
    double median; /* ms */
    bool half, cpu;
} figures;

static lk_status measure(const bench_model *m, const char *what, int64_t steps, figures *f)
{
    int rounds = (int)((steps + TOGETHER - 1) / TOGETHER);
    double *ms = malloc((size_t)rounds * sizeof *ms);
    lk_status status = ms ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(m->comm, status);
    lk_step_state state = {.step = 0};
    if (status == LK_OK) status = time_steps(m, rounds, ms);
    if (status == LK_OK) status = lk_store_get_state(m->store, &state);
    if (status == LK_OK) {
        if (m->comm->rank == 0) print(m, what, ms, rounds, &state);
        *f = (figures){quantile(ms, rounds, 0.5), m->store->compute != LK_F32,
                       m->device->backend == &lk_backend_cpu};
    }
    free(ms);
    return status;
}

/* One model, opened, measured and closed: the baseline may need all the memory there is. */
static lk_status bench(const bench_arguments *a, lk_comm *comm, bool plain, figures *f)
{
    bench_model m;
    LK_TRY(bench_open(a, comm, !plain, plain, &m));
    lk_status status = plain ? measure(&m, "baseline: fp32, nodes not fused, not captured",
                                       (a->number + 2) / 3, f)
                             : measure(&m, a->file, a->number, f);
    if (status == LK_OK || lk_comm_all_failed(comm, 2.0)) bench_close(&m);
    return status;
}

static lk_status job(bench_arguments *a, lk_comm *comm)
{
    figures run = {.median = 0}, plain = {.median = 0};
    LK_TRY(bench(a, comm, false, &run));
    if (!a->baseline) return LK_OK;
    LK_TRY(bench(a, comm, true, &plain));
    if (comm->rank == 0)
        printf("graph optimisation%s: %.2fx (%.3f ms to %.3f ms)%s\n",
               run.half ? " and mixed precision" : "", plain.median / run.median, plain.median,
               run.median, run.cpu ? "; little is to be had on a CPU" : "");
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
