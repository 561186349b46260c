#include "bench/model.h"

#include <stdlib.h>
#include <string.h>

enum { SHARD = 1 << 20, IMAGES = 1024, IMAGE_BYTES = 1 << 28 }; /* of a leaf: tokens; images */
enum { MOST_SETTLING = 60 };             /* steps */

/* Random numbers below `limit`, of `width` bytes each: this rank's leaves have `count`, the same as
 * if one rank had all leaves. */
static lk_status random_field(bench_model *m, int field, int64_t count, int width, int64_t limit)
{
    int64_t first = m->comm->rank * count;
    const lk_backend *b = m->device->backend;
    size_t bytes = (size_t)count * (size_t)width;
    char *host = malloc(bytes);
    if (!host)
        return lk_fail(LK_E_SYSTEM, "out of memory making %.1f GiB of random samples",
                       (double)bytes / 0x1p30);
    for (int64_t i = 0; i < count; i++) {
        uint64_t at = (uint64_t)(first + i);
        uint32_t word = lk_philox(1, (uint32_t)at, (uint32_t)field, 0, (uint32_t)(at >> 32)).v[0];
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

static int64_t given_or(int64_t given, int64_t otherwise) { return given ? given : otherwise; }

/* A format of images as data of that kind would have it; of a text, its vocabulary. */
static lk_status random_format(const bench_arguments *a, lk_image_format *f)
{
    int64_t size = given_or(a->size, 224), channels = given_or(a->channels, 3);
    *f = (lk_image_format){.height = size, .width = size, .channels = channels,
                           .classes = given_or(a->classes, 1000), .text = given_or(a->text, 64),
                           .vocabulary = given_or(a->vocabulary, 65)};
    f->mean = malloc((size_t)channels * sizeof(float));
    f->std = malloc((size_t)channels * sizeof(float));
    if (!f->mean || !f->std) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t c = 0; c < channels; c++) {
        f->mean[c] = 0.5f;
        f->std[c] = 0.29f;
    }
    return LK_OK;
}

/* As many images as are usual, if they are not large; a batch at least. */
static int64_t image_rows(const lk_image_format *f, int64_t batch)
{
    int64_t most = IMAGE_BYTES / (f->height * f->width * f->channels);
    int64_t rows = most < IMAGES ? most : IMAGES;
    return rows > batch ? rows : batch;
}

static lk_status random_samples(bench_model *m)
{
    const lk_image_format *f = &m->format;
    int64_t rows = m->source.local_leaves * m->source.shard_rows;
    if (!m->model.images) return random_field(m, 0, rows, 2, f->vocabulary);
    LK_TRY(random_field(m, 0, rows * f->height * f->width * f->channels, 1, 256));
    LK_TRY(random_field(m, 1, rows, 2, f->classes));
    if (m->model.fused) LK_TRY(random_field(m, 2, rows * f->text, 2, f->vocabulary));
    return lk_session_scale(m->device, &m->format, &m->scale);
}

static void bind(bench_model *m)
{
    for (int i = 0; i < m->source.local_leaves; i++) {
        for (int k = 0; k < LK_DATASET_FIELDS; k++)
            if (m->graph.field[k]) lk_program_bind(m->program, m->graph.field[k], i, m->field[k]);
        if (m->graph.scale) lk_program_bind(m->program, m->graph.scale, i, m->scale);
    }
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

/* An option about samples that the model does not take would be without effect. */
static lk_status expect_options(const bench_arguments *a, const lk_run *run)
{
    bool images = lk_run_images(run), texts = lk_run_fusion(run);
    const struct {
        const char *name;
        int64_t given;
        bool meant;
    } option[] = {{"--vocabulary", a->vocabulary, !images || texts}, {"--text", a->text, texts},
                  {"--image-size", a->size, images}, {"--channels", a->channels, images},
                  {"--classes", a->classes, images}};
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (option[i].given && !option[i].meant)
            return lk_fail(LK_E_INPUT, "%s: %s says nothing about the samples of model.kind %s; "
                           "leave it out", a->file, option[i].name, run->model.kind);
    return LK_OK;
}

/* The run file; `plain` has the last word. */
static lk_status load_run(const bench_arguments *a, bool plain, bench_model *m)
{
    const char *set[BENCH_MAX_SETS];
    for (int i = 0; i < a->sets; i++) set[i] = a->set[i];
    set[a->sets] = "train.precision=fp32";
    LK_TRY(lk_run_load(a->file, a->sets + plain, set, &m->run));
    LK_TRY(expect_options(a, &m->run));
    return lk_session_leaves(m->comm, &m->run, 0, &m->leaves);
}

/* Everything but the program. */
static lk_status build(const bench_arguments *a, bool plain, bench_model *m)
{
    int local = m->leaves / m->comm->size;
    LK_TRY(lk_session_device(m->comm, m->run.train.device, lk_run_precision(&m->run), &m->device));
    m->source = (lk_source){.batch = m->run.train.batch / m->leaves,
                            .context = m->run.model.context,
                            .type = LK_U16,
                            .resident = true,
                            .shard_rows = SHARD,
                            .purpose = LK_PURPOSE_ORDER,
                            .first_leaf = m->comm->rank * local,
                            .local_leaves = local,
                            .augment = LK_AUGMENT_NONE};
    LK_TRY(random_format(a, &m->format));
    m->model = lk_session_model(&m->run, m->format.vocabulary, &m->format);
    if (m->model.images) m->source.shard_rows = image_rows(&m->format, m->source.batch);
    m->params = lk_params_create();
    if (!m->params) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_passes passes = lk_session_passes(&m->run);
    passes.unfused = plain;
    LK_TRY(lk_session_train_graph(m->comm, &m->run, m->leaves, &m->model, &m->source, &passes,
                                  m->params, &m->graph));
    m->graph.graph->keep = a->keep;
    LK_TRY(lk_store_create(m->device, m->params,
                           &(lk_store_options){.compute = m->graph.graph->compute,
                                               .training = true,
                                               .ema = m->run.train.ema > 0,
                                               .local_leaves = local},
                           &m->store));
    lk_optimizer hyper = lk_session_optimizer(&m->run, m->leaves);
    LK_TRY(initial_values(m, &hyper));
    return random_samples(m);
}

static lk_status create_program(void *model)
{
    bench_model *m = model;
    lk_program_options o = {.comm = m->comm,
                            .first_leaf = m->source.first_leaf,
                            .local_leaves = m->source.local_leaves,
                            .capture = m->capture};
    LK_TRY(lk_program_create(m->graph.graph, m->store, &o, &m->program));
    bind(m);
    return LK_OK;
}

static lk_status open_model(const bench_arguments *a, bool plain, bench_model *m)
{
    LK_TRY(lk_comm_agree(m->comm, load_run(a, plain, m)));
    LK_TRY(lk_comm_agree(m->comm, build(a, plain, m)));
    return lk_session_programs(m->comm, m->device, m->params, create_program, m);
}

lk_status bench_open(const bench_arguments *a, lk_comm *comm, bool capture, bool plain,
                     bench_model *m)
{
    memset(m, 0, sizeof *m);
    m->comm = comm;
    m->capture = capture;
    lk_status status = open_model(a, plain, m);
    if (status != LK_OK && lk_comm_all_failed(comm, 2.0)) bench_close(m);
    return status;
}

lk_status bench_expect_finite(const bench_model *m, const char *when)
{
    lk_step_state state;
    LK_TRY(lk_store_get_state(m->store, &state));
    if (state.finite) return LK_OK;
    return lk_fail(LK_E_INPUT,
                   "the loss or a gradient is not finite in %s, at a loss scale of %g, so AdamW "
                   "would do nothing; lower loss_scale.initial or optimizer.lr",
                   when, (double)state.loss_scale);
}

lk_status bench_settle(const bench_model *m)
{
    lk_step_state state = {.finite = 0};
    for (int i = 0; i < MOST_SETTLING && !state.finite; i++) {
        LK_TRY(lk_program_run(m->program));
        LK_TRY(lk_store_get_state(m->store, &state));
    }
    return bench_expect_finite(m, "any of the first steps");
}

void bench_tell_device(const char *name, const bench_model *m)
{
    if (m->comm->rank == 0 && strcmp(m->run.train.device, "auto") == 0 &&
        m->device->backend == &lk_backend_cpu)
        fprintf(stderr, "%s: no GPU is usable here, so this is measured on the CPU; --set "
                "train.device=cpu takes it without this line\n", name);
}

void bench_close(bench_model *m)
{
    lk_program_destroy(m->program);
    lk_comm_detach(m->comm);
    lk_store_destroy(m->store);
    void *memory[] = {m->field[0], m->field[1], m->field[2], m->scale};
    for (int i = 0; i < 4; i++)
        if (memory[i]) m->device->backend->release(m->device, memory[i]);
    free(m->format.mean);
    free(m->format.std);
    lk_graph_destroy(m->graph.graph);
    lk_params_destroy(m->params);
    lk_session_device_close(m->device);
    lk_run_clear(&m->run);
    memset(m, 0, sizeof *m);
}
