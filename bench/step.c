/* bench/step RUN.yaml [--vocabulary N] [--steps N] [--baseline] [--set a.b=c]...
 *
 * Time whole training steps (forward, backward, clip, AdamW) of a run file's model on random
 * tokens. One rank. Prints the median, the fastest and the 95th percentile of a step, tokens per
 * second, and memory: by kind, and all that was allocated on the device, samples included. Steps
 * are timed on the host, TOGETHER at a time, as training runs them: without waiting for one before
 * the next is enqueued. --baseline: then the same model in fp32 with nothing fused or captured, and
 * how many times faster the run file's step is. */
#include "base/clock.h"
#include "bench/model.h"

#include <stdlib.h>

enum { WARMUP = 10, TOGETHER = 5 }; /* steps between two synchronisations */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* ms [rounds], sorted: mean time of TOGETHER steps in a row, as training runs them. */
static lk_status time_steps(const bench_model *m, int rounds, double *ms)
{
    const lk_backend *b = m->device->backend;
    for (int i = 0; i < WARMUP; i++) LK_TRY(lk_program_run(m->program));
    LK_TRY(b->sync(m->device));
    for (int i = 0; i < rounds; i++) {
        double begin = lk_clock_seconds();
        for (int k = 0; k < TOGETHER; k++) LK_TRY(lk_program_run(m->program));
        LK_TRY(b->sync(m->device));
        ms[i] = 1e3 * (lk_clock_seconds() - begin) / TOGETHER;
    }
    qsort(ms, (size_t)rounds, sizeof *ms, by_value);
    return LK_OK;
}

static void print(const bench_model *m, const char *what, const double *ms, int rounds,
                  const lk_step_state *state)
{
    char device[200];
    m->device->backend->describe(m->device, device, sizeof device);
    double median = ms[rounds / 2];
    bool images = m->model.vision;
    double samples = (double)(m->run.train.batch * (images ? 1 : m->run.model.context));
    printf("%s on %s: median %.3f ms, fastest %.3f, p95 %.3f, %.0f %s/s; loss %.4f, skipped %llu\n",
           what, device, median, ms[0], ms[rounds * 95 / 100], 1e3 * samples / median,
           images ? "images" : "tokens", (double)state->loss, (unsigned long long)state->skipped);
    printf("memory, MiB: activations %.1f, parameters, gradients, moments and shadow %.1f, "
           "all on the device %.1f\n",
           (double)lk_program_arena_bytes(m->program) / 0x1p20,
           (double)m->params->total * (m->store->compute == LK_F32 ? 16 : 18) / 0x1p20,
           (double)m->device->allocated / 0x1p20);
}

static lk_status measure(const bench_arguments *a, const bench_model *m, const char *what,
                         double *median)
{
    int rounds = (a->number + TOGETHER - 1) / TOGETHER;
    double *ms = malloc((size_t)rounds * sizeof *ms);
    if (!ms) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_step_state state = {.step = 0};
    lk_status status = time_steps(m, rounds, ms);
    if (status == LK_OK) status = lk_store_get_state(m->store, &state);
    if (status == LK_OK) {
        print(m, what, ms, rounds, &state);
        *median = ms[rounds / 2];
    }
    free(ms);
    return status;
}

/* One model, opened, measured and closed: the baseline may need all the memory there is. */
static lk_status bench(const bench_arguments *a, lk_comm *comm, bool plain, double *median)
{
    bench_model m;
    LK_TRY(bench_open(a, comm, !plain, plain, &m));
    lk_status status = measure(a, &m, plain ? "baseline: fp32, unfused, not captured" : a->file,
                               median);
    bench_close(&m);
    return status;
}

int main(int argc, char **argv)
{
    bench_arguments a;
    lk_comm *comm = NULL;
    double median = 0, baseline = 0;
    lk_status status = bench_parse(argc, argv, "--steps", 50, &a);
    if (status == LK_OK) status = lk_comm_open(&comm);
    if (status == LK_OK) status = bench(&a, comm, false, &median);
    if (status == LK_OK && a.baseline) {
        status = bench(&a, comm, true, &baseline);
        if (status == LK_OK)
            printf("graph optimisation and mixed precision: %.2fx (%.3f ms to %.3f ms)\n",
                   baseline / median, baseline, median);
    }
    if (status != LK_OK) fprintf(stderr, "step: %s\n", lk_error_text());
    lk_comm_close(comm);
    return (int)status;
}
