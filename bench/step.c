/* bench/step RUN.yaml [--vocabulary N] [--steps N] [--set a.b=c]...
 *
 * Time whole training steps (forward, backward, clip, AdamW) of a run file's model on random
 * tokens: no data file is read. One rank. Prints the median, the 95th percentile, tokens per
 * second and memory by kind. */
#include "base/clock.h"
#include "train/session.h"

#include <stdlib.h>
#include <string.h>

enum { WARMUP = 10, MAX_SETS = 64 };

typedef struct arguments {
    const char *file, *set[MAX_SETS];
    int sets, steps;
    int64_t vocabulary;
} arguments;

static lk_status parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.steps = 50, .vocabulary = 65};
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--vocabulary") == 0 && more) a->vocabulary = atoll(argv[++i]);
        else if (strcmp(argv[i], "--steps") == 0 && more) a->steps = atoi(argv[++i]);
        else if (strcmp(argv[i], "--set") == 0 && more && a->sets < MAX_SETS)
            a->set[a->sets++] = argv[++i];
        else a->file = argv[i];
    }
    if (!a->file || a->steps < 1 || a->vocabulary < 2)
        return lk_fail(LK_E_INPUT, "usage: step RUN.yaml [--vocabulary N] [--steps N] "
                       "[--set a.b=c]...");
    return LK_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static lk_status random_tokens(lk_device *d, int64_t count, int64_t vocabulary, void **device)
{
    uint16_t *host = malloc((size_t)count * sizeof *host);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t i = 0; i < count; i++)
        host[i] = (uint16_t)(lk_philox(1, (uint32_t)i, 0, 0, 0).v[0] % (uint64_t)vocabulary);
    lk_status status = d->backend->alloc(d, (size_t)count * sizeof *host, device);
    if (status == LK_OK)
        status = d->backend->upload(d, *device, host, (size_t)count * sizeof *host);
    if (status == LK_OK) status = d->backend->sync(d);
    free(host);
    return status;
}

static lk_status time_steps(lk_program *p, lk_device *d, int steps, double *ms)
{
    for (int i = -WARMUP; i < steps; i++) {
        double begin = lk_clock_seconds();
        LK_TRY(lk_program_run(p));
        LK_TRY(d->backend->sync(d));
        if (i >= 0) ms[i] = 1e3 * (lk_clock_seconds() - begin);
    }
    qsort(ms, (size_t)steps, sizeof *ms, by_value);
    return LK_OK;
}

static lk_status bench(const arguments *a, lk_comm *comm)
{
    lk_run run;
    LK_TRY(lk_run_load(a->file, a->sets, a->set, &run));
    lk_device *d;
    LK_TRY(lk_session_device(comm, run.train.device, lk_run_precision(&run), &d));
    int leaves = run.train.leaves ? (int)run.train.leaves : 1;
    lk_source source = {.batch = run.train.batch / leaves,
                        .context = run.model.context,
                        .type = LK_U16,
                        .resident = true,
                        .shard_tokens = 1 << 20,
                        .purpose = LK_PURPOSE_ORDER,
                        .local_leaves = leaves};
    lk_transformer model = lk_session_model(&run, a->vocabulary);
    lk_params *params = lk_params_create();
    lk_optimizer hyper = lk_session_optimizer(&run, leaves);
    lk_loss_graph g;
    lk_store *store;
    lk_program *program;
    void *data;
    double *ms = malloc((size_t)a->steps * sizeof *ms);
    if (!params || !ms) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_session_loss_graph(params, &model, &source, lk_session_compute(&run), true, &g));
    lk_params_layout(params);
    LK_TRY(lk_optimize(g.graph, &hyper, true));
    LK_TRY(lk_store_create(d, params, lk_session_compute(&run), true, leaves, &store));
    float *host = malloc((size_t)params->total * sizeof *host);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_params_initialise(params, (uint64_t)run.seed, host);
    LK_TRY(lk_store_set(store, host, NULL, NULL));
    lk_step_state state = {.loss_scale = hyper.scaling ? (float)run.loss_scale.initial : 1.0f};
    LK_TRY(lk_store_set_state(store, &state));
    LK_TRY(random_tokens(d, leaves * source.shard_tokens, a->vocabulary, &data));
    lk_program_options o = {.comm = comm, .local_leaves = leaves, .capture = true};
    LK_TRY(lk_program_create(g.graph, store, &o, &program));
    for (int i = 0; i < leaves; i++) LK_TRY(lk_program_bind(program, g.data, i, data));
    LK_TRY(time_steps(program, d, a->steps, ms));
    LK_TRY(lk_store_get_state(store, &state));

    char device[200];
    d->backend->describe(d, device, sizeof device);
    double median = ms[a->steps / 2];
    printf("%s on %s: median %.3f ms, p95 %.3f ms, %.0f tokens/s; loss %.4f, skipped %llu\n",
           a->file, device, median, ms[a->steps * 95 / 100],
           1e3 * (double)(run.train.batch * run.model.context) / median, (double)state.loss,
           (unsigned long long)state.skipped);
    printf("memory, MiB: activations %.1f, parameters+gradients+moments %.1f\n",
           (double)lk_program_arena_bytes(program) / 1048576.0,
           (double)params->total * (store->compute == LK_F32 ? 16 : 18) / 1048576.0);
    lk_program_destroy(program);
    lk_store_destroy(store);
    d->backend->release(d, data);
    lk_graph_destroy(g.graph);
    lk_params_destroy(params);
    lk_session_device_close(d);
    lk_run_clear(&run);
    free(host);
    free(ms);
    return LK_OK;
}

int main(int argc, char **argv)
{
    arguments a;
    lk_comm *comm = NULL;
    lk_status status = lk_comm_open(&argc, &argv, &comm);
    if (status == LK_OK) status = parse(argc, argv, &a);
    if (status == LK_OK) status = bench(&a, comm);
    if (status != LK_OK) fprintf(stderr, "step: %s\n", lk_error_text());
    lk_comm_close(comm);
    return (int)status;
}
