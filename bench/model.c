#include "bench/model.h"

#include <stdlib.h>
#include <string.h>

enum { SHARD = 1 << 20, IMAGES = 1024 }; /* tokens, images of a leaf */

/* The option argv[*i] of `table`, with its value; moves *i over the value. */
static bool take(int argc, char **argv, int *i, const char *name, int64_t *value)
{
    if (strcmp(argv[*i], name) != 0 || *i + 1 >= argc) return false;
    *value = atoll(argv[++*i]);
    return true;
}

lk_status bench_parse(int argc, char **argv, const char *name, int number, bench_arguments *a)
{
    int64_t n = number;
    *a = (bench_arguments){.vocabulary = 65, .size = 224, .channels = 3, .classes = 1000};
    for (int i = 1; i < argc; i++) {
        if (take(argc, argv, &i, "--vocabulary", &a->vocabulary) ||
            take(argc, argv, &i, "--image-size", &a->size) ||
            take(argc, argv, &i, "--channels", &a->channels) ||
            take(argc, argv, &i, "--classes", &a->classes) || take(argc, argv, &i, name, &n))
            continue;
        if (strcmp(argv[i], "--baseline") == 0) a->baseline = true;
        else if (strcmp(argv[i], "--set") == 0 && i + 1 < argc &&
                 a->sets < BENCH_MAX_SETS - BENCH_OWN_SETS)
            a->set[a->sets++] = argv[++i];
        else if (argv[i][0] != '-' && !a->file) a->file = argv[i];
        else return lk_fail(LK_E_INPUT, "unexpected argument '%s'", argv[i]);
    }
    a->number = (int)n;
    if (!a->file || n < 1 || a->vocabulary < 2 || a->vocabulary > 65536 || a->size < 1 ||
        a->size > 4096 || a->channels < 1 || a->channels > 64 || a->classes < 2 ||
        a->classes > 65535)
        return lk_fail(LK_E_INPUT,
                       "usage: %s RUN.yaml [--vocabulary 2..65536] [--image-size "
                       "1..4096] [--channels 1..64] [--classes 2..65535] [%s N] [--baseline] "
                       "[--set a.b=c]...",
                       argv[0], name);
    return LK_OK;
}

/* Bytes of which every `width` hold a random number below `limit`. */
static lk_status random_field(bench_model *m, int field, int64_t count, int width, int64_t limit)
{
    const lk_backend *b = m->device->backend;
    size_t bytes = (size_t)count * (size_t)width;
    char *host = malloc(bytes);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t i = 0; i < count; i++) {
        uint32_t word = lk_philox(1, (uint32_t)i, (uint32_t)field, 0, 0).v[0];
        uint16_t value = (uint16_t)(word % (uint64_t)limit);
        if (width == 1) host[i] = (char)value;
        else memcpy(host + 2 * i, &value, sizeof value);
    }
    lk_status status = b->alloc(m->device, bytes, &m->field[field]);
    if (status == LK_OK) status = b->upload(m->device, m->field[field], host, bytes);
    if (status == LK_OK) status = b->sync(m->device);
    free(host);
    return status;
}

/* A format of images as data of that kind would have it. */
static lk_status random_format(const bench_arguments *a, lk_image_format *f)
{
    *f = (lk_image_format){a->size, a->size, a->channels, a->classes, NULL, NULL, NULL};
    f->mean = malloc((size_t)a->channels * sizeof(float));
    f->std = malloc((size_t)a->channels * sizeof(float));
    if (!f->mean || !f->std) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t c = 0; c < a->channels; c++) {
        f->mean[c] = 0.5f;
        f->std[c] = 0.29f;
    }
    return LK_OK;
}

static lk_status random_samples(bench_model *m, const bench_arguments *a)
{
    if (!m->model.vision) return random_field(m, 0, m->leaves * (int64_t)SHARD, 2, a->vocabulary);
    int64_t rows = m->leaves * m->source.shard_rows;
    LK_TRY(random_field(m, 0, rows * a->size * a->size * a->channels, 1, 256));
    LK_TRY(random_field(m, 1, rows, 2, a->classes));
    return lk_session_scale(m->device, &m->format, &m->scale);
}

static lk_status bind(bench_model *m)
{
    for (int i = 0; i < m->leaves; i++) {
        for (int k = 0; k < LK_DATASET_FIELDS; k++)
            if (m->graph.field[k])
                LK_TRY(lk_program_bind(m->program, m->graph.field[k], i, m->field[k]));
        if (m->graph.scale) LK_TRY(lk_program_bind(m->program, m->graph.scale, i, m->scale));
    }
    return LK_OK;
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
                        .shard_rows = SHARD,
                        .purpose = LK_PURPOSE_ORDER,
                        .local_leaves = m->leaves,
                        .augment = LK_AUGMENT_NONE};
    LK_TRY(random_format(a, &m->format));
    m->model = lk_session_model(&m->run, a->vocabulary, &m->format);
    if (m->model.vision) source.shard_rows = source.batch > IMAGES ? source.batch : IMAGES;
    m->source = source;
    lk_optimizer hyper = lk_session_optimizer(&m->run, m->leaves);
    m->params = lk_params_create();
    if (!m->params) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_session_loss_graph(m->params, &m->model, &source, &passes, &m->graph));
    m->graph.graph->keep = a->keep;
    lk_params_layout(m->params);
    LK_TRY(lk_optimize(m->graph.graph, &hyper));
    LK_TRY(lk_store_create(m->device, m->params,
                           &(lk_store_options){.compute = passes.compute,
                                               .training = true,
                                               .ema = m->run.train.ema > 0,
                                               .local_leaves = m->leaves},
                           &m->store));
    LK_TRY(initial_values(m, &hyper));
    LK_TRY(random_samples(m, a));
    lk_program_options o = {.comm = m->comm, .local_leaves = m->leaves, .capture = capture};
    LK_TRY(lk_program_create(m->graph.graph, m->store, &o, &m->program));
    return bind(m);
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
    void *memory[] = {m->field[0], m->field[1], m->scale};
    for (int i = 0; i < 3; i++)
        if (memory[i]) m->device->backend->release(m->device, memory[i]);
    free(m->format.mean);
    free(m->format.std);
    lk_graph_destroy(m->graph.graph);
    lk_params_destroy(m->params);
    lk_session_device_close(m->device);
    lk_run_clear(&m->run);
    memset(m, 0, sizeof *m);
}
