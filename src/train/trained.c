/* A checkpoint as a model that computes: parameters, and forward programs. */
#include "train/trained.h"

#include "base/half.h"

#include <stdlib.h>
#include <string.h>

/* Samples to logits; the inputs' tensors in `in`. */
static lk_tensor *logits_of(lk_graph *g, const lk_model *m, int64_t batch, int64_t time,
                            lk_loss_graph *in)
{
    if (!m->images) {
        in->field[0] = lk_input(g, "tokens", LK_I32, 2, (int64_t[]){batch, time});
        return lk_transformer_logits(g, &m->text, in->field[0]);
    }
    lk_source rows = {.batch = batch, .purpose = LK_PURPOSE_EVAL, .local_leaves = 1,
                      .augment = LK_AUGMENT_NONE};
    lk_tensor *targets = NULL, *labels = NULL;
    return lk_session_logits(g, m, &rows, in, &targets, &labels);
}

/* ---- the model ------------------------------------------------------------------------------- */

/* A throw-away graph declares the parameters. */
static lk_status declare(lk_trained *t)
{
    t->params = lk_params_create();
    lk_graph *g = t->params ? lk_graph_create(t->params, false) : NULL;
    if (!g) return lk_fail(LK_E_SYSTEM, "out of memory");
    int64_t time = 8 < t->model.text.context ? 8 : t->model.text.context;
    lk_loss_graph in = {.graph = g};
    logits_of(g, &t->model, 1, time, &in);
    lk_status status = lk_graph_status(g);
    lk_graph_destroy(g);
    lk_params_layout(t->params);
    return status;
}

static lk_status read_parameters(lk_comm *comm, lk_io *io, lk_trained *t)
{
    lk_store_options o = {.compute = lk_session_compute(&t->run), .local_leaves = 1};
    LK_TRY(lk_store_create(t->device, t->params, &o, &t->store));
    size_t bytes = (size_t)t->params->total * sizeof(float);
    float *raw = malloc(bytes), *ema = t->ema ? malloc(bytes) : NULL;
    lk_status status = raw && (ema || !t->ema) ? LK_OK
                                               : lk_fail(LK_E_SYSTEM, "out of memory for the "
                                                                      "parameters");
    lk_flat data = {.param = raw, .ema = ema};
    if (status == LK_OK)
        status = lk_checkpoint_load(io, comm->world, t->info.path, t->params, &data);
    if (status == LK_E_INPUT) lk_checkpoint_name_before(t->info.path);
    if (status == LK_OK) status = lk_store_set(t->store, &(lk_flat){.param = ema ? ema : raw});
    free(raw);
    free(ema);
    return status;
}

static lk_status read_model(lk_comm *comm, lk_io *io, lk_trained *t)
{
    LK_TRY(declare(t));
    return read_parameters(comm, io, t);
}

/* Everything of a run file that an opening depends on. */
static lk_status take_run(const lk_comm *comm, const char *checkpoint, const char *device,
                          lk_weights weights, lk_trained *t)
{
    LK_TRY(lk_run_parse(checkpoint, t->info.run_file, 0, NULL, &t->run));
    if (lk_session_data_kind(&t->run) != t->info.kind)
        return lk_fail(LK_E_INPUT, "%s: the run file's model does not learn from %s, which the "
                       "checkpoint was trained on; the file is damaged", checkpoint,
                       lk_dataset_kind_name(t->info.kind));
    if (weights == LK_WEIGHTS_EMA && !t->info.has_ema)
        return lk_fail(LK_E_INPUT, "%s: holds no moving average of the parameters (train.ema was "
                       "0); use the raw ones", checkpoint);
    t->ema = weights != LK_WEIGHTS_RAW && t->info.has_ema;
    t->model = lk_session_model(&t->run, t->info.vocabulary_size, &t->info.image);
    return lk_session_device(comm, device, lk_run_precision(&t->run), &t->device);
}

lk_status lk_trained_open(lk_comm *comm, lk_io *io, const char *checkpoint, const char *device,
                          lk_weights weights, lk_trained *t)
{
    memset(t, 0, sizeof *t);
    lk_status status = lk_checkpoint_open(io, comm->world, checkpoint, &t->info);
    if (status == LK_E_INPUT) lk_checkpoint_name_before(checkpoint);
    LK_TRY(lk_comm_agree(comm, status));
    status = lk_comm_agree(comm, take_run(comm, checkpoint, device, weights, t));
    if (status == LK_OK) status = lk_comm_agree(comm, read_model(comm, io, t));
    if (status != LK_OK) lk_trained_close(t);
    return status;
}

void lk_trained_close(lk_trained *t)
{
    lk_store_destroy(t->store);
    lk_params_destroy(t->params);
    lk_session_device_close(t->device);
    lk_run_clear(&t->run);
    lk_checkpoint_info_clear(&t->info);
    memset(t, 0, sizeof *t);
}

lk_status lk_trained_expect(const lk_trained *t, lk_dataset_kind kind)
{
    if (t->info.kind == kind) return LK_OK;
    return lk_fail(LK_E_INPUT,
                   "%s: expected a model of %s, found %s, a model of %s; use "
                   "'lockstep eval', which takes both",
                   t->info.path, lk_dataset_kind_name(kind), t->run.model.kind,
                   lk_dataset_kind_name(t->info.kind));
}

/* ---- forward --------------------------------------------------------------------------------- */

static lk_status bind(lk_trained *t, const lk_loss_graph *in, lk_forward *f)
{
    const lk_backend *b = t->device->backend;
    f->bytes = lk_bytes(in->field[0]);
    LK_TRY(b->alloc(t->device, f->bytes, &f->input));
    lk_program_bind(f->program, in->field[0], 0, f->input);
    if (!t->model.images) return LK_OK;
    LK_TRY(b->alloc(t->device, lk_bytes(in->field[1]), &f->labels));
    LK_TRY(lk_session_scale(t->device, t->model.format, &f->scale));
    lk_program_bind(f->program, in->field[1], 0, f->labels);
    if (in->field[2]) {
        f->text_bytes = lk_bytes(in->field[2]);
        LK_TRY(b->alloc(t->device, f->text_bytes, &f->texts));
        lk_program_bind(f->program, in->field[2], 0, f->texts);
    }
    lk_program_bind(f->program, in->scale, 0, f->scale);
    return LK_OK;
}

static lk_status forward_open(lk_trained *t, int64_t batch, int64_t time, lk_forward *f)
{
    lk_loss_graph in = {0};
    f->graph = lk_graph_create(t->params, false);
    if (!f->graph) return lk_fail(LK_E_SYSTEM, "out of memory");
    f->logits = logits_of(f->graph, &t->model, batch, time, &in);
    LK_TRY(lk_autocast(f->graph, lk_session_compute(&t->run)));
    LK_TRY(lk_fuse(f->graph));
    f->columns = lk_cols(f->logits);
    lk_program_options o = {.seed = 0, .local_leaves = 1, .capture = true};
    LK_TRY(lk_program_create(f->graph, t->store, &o, &f->program));
    LK_TRY(bind(t, &in, f));
    f->host = malloc((size_t)lk_count(f->logits) * sizeof(float));
    f->raw = malloc(lk_bytes(f->logits));
    return f->host && f->raw ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for the logits");
}

lk_status lk_forward_open(lk_trained *t, int64_t batch, int64_t time, lk_forward *f)
{
    *f = (lk_forward){.graph = NULL};
    lk_status status = forward_open(t, batch, time, f);
    if (status != LK_OK) lk_forward_close(t, f);
    return status;
}

lk_status lk_forward_run(lk_trained *t, lk_forward *f, const void *samples, const void *texts)
{
    const lk_backend *b = t->device->backend;
    LK_TRY(b->upload(t->device, f->input, samples, f->bytes));
    if (f->texts) LK_TRY(b->upload(t->device, f->texts, texts, f->text_bytes));
    LK_TRY(lk_program_run(f->program));
    LK_TRY(b->download(t->device, f->raw, lk_program_data(f->program, f->logits),
                       lk_bytes(f->logits)));
    LK_TRY(b->sync(t->device));
    lk_f32_from_any(f->logits->dtype, f->raw, lk_count(f->logits), f->host);
    return LK_OK;
}

void lk_forward_close(lk_trained *t, lk_forward *f)
{
    void *device[] = {f->input, f->labels, f->scale, f->texts};
    lk_program_destroy(f->program);
    lk_graph_destroy(f->graph);
    for (int i = 0; i < 4; i++)
        if (device[i]) t->device->backend->release(t->device, device[i]);
    free(f->host);
    free(f->raw);
    memset(f, 0, sizeof *f);
}
