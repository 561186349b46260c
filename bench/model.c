#include "bench/model.h"

#include <stdlib.h>
#include <string.h>

enum { SHARD = 1 << 20 }; /* tokens of a leaf */

lk_status bench_parse(int argc, char **argv, const char *name, int number, bench_arguments *a)
{
    *a = (bench_arguments){.number = number, .vocabulary = 65};
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--vocabulary") == 0 && more) a->vocabulary = atoll(argv[++i]);
        else if (strcmp(argv[i], "--baseline") == 0) a->baseline = true;
        else if (strcmp(argv[i], name) == 0 && more) a->number = atoi(argv[++i]);
        else if (strcmp(argv[i], "--set") == 0 && more && a->sets < BENCH_MAX_SETS - 1)
            a->set[a->sets++] = argv[++i];
        else if (argv[i][0] != '-' && !a->file) a->file = argv[i];
        else return lk_fail(LK_E_INPUT, "unexpected argument '%s'", argv[i]);
    }
    if (!a->file || a->number < 1 || a->vocabulary < 2 || a->vocabulary > 65536)
        return lk_fail(LK_E_INPUT, "usage: %s RUN.yaml [--vocabulary 2..65536] [%s N] "
                       "[--baseline] [--set a.b=c]...", argv[0], name);
    return LK_OK;
}

static lk_status random_tokens(bench_model *m, int64_t count, int64_t vocabulary)
{
    const lk_backend *b = m->device->backend;
    uint16_t *host = malloc((size_t)count * sizeof *host);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t i = 0; i < count; i++)
        host[i] = (uint16_t)(lk_philox(1, (uint32_t)i, 0, 0, 0).v[0] % (uint64_t)vocabulary);
    lk_status status = b->alloc(m->device, (size_t)count * sizeof *host, &m->tokens);
    if (status == LK_OK)
        status = b->upload(m->device, m->tokens, host, (size_t)count * sizeof *host);
    if (status == LK_OK) status = b->sync(m->device);
    free(host);
    return status;
}

static lk_status initial_values(bench_model *m, const lk_optimizer *hyper)
{
    float *host = malloc((size_t)m->params->total * sizeof *host);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_params_initialise(m->params, (uint64_t)m->run.seed, host);
    lk_status status = lk_store_set(m->store, &(lk_flat){.param = host});
    free(host);
    LK_TRY(status);
    lk_step_state state = {.loss_scale = hyper->scaling ? (float)m->run.loss_scale.initial : 1.0f};
    return lk_store_set_state(m->store, &state);
}

/* The run file; `plain` has the last word. */
static lk_status load_run(const bench_arguments *a, bool plain, lk_run *run)
{
    const char *set[BENCH_MAX_SETS];
    for (int i = 0; i < a->sets; i++) set[i] = a->set[i];
    set[a->sets] = "train.precision=fp32";
    return lk_run_load(a->file, a->sets + plain, set, run);
}

static lk_status open_model(const bench_arguments *a, bool capture, bool plain, bench_model *m)
{
    LK_TRY(load_run(a, plain, &m->run));
    LK_TRY(lk_session_device(m->comm, m->run.train.device, lk_run_precision(&m->run), &m->device));
    m->leaves = m->run.train.leaves ? (int)m->run.train.leaves : 1;
    lk_passes passes = lk_session_passes(&m->run);
    passes.unfused = plain;
    lk_source source = {.batch = m->run.train.batch / m->leaves,
                        .context = m->run.model.context,
                        .type = LK_U16,
                        .resident = true,
                        .shard_tokens = SHARD,
                        .purpose = LK_PURPOSE_ORDER,
                        .local_leaves = m->leaves};
    lk_transformer model = lk_session_model(&m->run, a->vocabulary);
    lk_optimizer hyper = lk_session_optimizer(&m->run, m->leaves);
    m->params = lk_params_create();
    if (!m->params) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_session_loss_graph(m->params, &model, &source, &passes, &m->graph));
    lk_params_layout(m->params);
    LK_TRY(lk_optimize(m->graph.graph, &hyper));
    LK_TRY(lk_store_create(
        m->device, m->params,
        &(lk_store_options){.compute = passes.compute, .training = true, .local_leaves = m->leaves},
        &m->store));
    LK_TRY(initial_values(m, &hyper));
    LK_TRY(random_tokens(m, m->leaves * (int64_t)SHARD, a->vocabulary));
    lk_program_options o = {.comm = m->comm, .local_leaves = m->leaves, .capture = capture};
    LK_TRY(lk_program_create(m->graph.graph, m->store, &o, &m->program));
    for (int i = 0; i < m->leaves; i++)
        LK_TRY(lk_program_bind(m->program, m->graph.data, i, m->tokens));
    return LK_OK;
}

lk_status bench_open(const bench_arguments *a, lk_comm *comm, bool capture, bool plain,
                     bench_model *m)
{
    memset(m, 0, sizeof *m);
    m->comm = comm;
    lk_status status = open_model(a, capture, plain, m);
    if (status != LK_OK) bench_close(m);
    return status;
}

void bench_close(bench_model *m)
{
    lk_program_destroy(m->program);
    lk_store_destroy(m->store);
    if (m->tokens) m->device->backend->release(m->device, m->tokens);
    lk_graph_destroy(m->graph.graph);
    lk_params_destroy(m->params);
    lk_session_device_close(m->device);
    lk_run_clear(&m->run);
    memset(m, 0, sizeof *m);
}
