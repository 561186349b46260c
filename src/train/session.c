/* Device, model and graphs of a run file. */
#include "train/session.h"

#ifdef LK_HAVE_CUDA
#include "cuda/device.h"
#endif

#include <stdlib.h>
#include <string.h>

lk_status lk_session_device(const lk_comm *comm, const char *name, lk_precision precision,
                            lk_device **device)
{
    const lk_backend *backend = &lk_backend_cpu;
    if (strcmp(name, "auto") != 0 && strcmp(name, "cpu") != 0 && strcmp(name, "cuda") != 0)
        return lk_fail(LK_E_INPUT, "device: expected auto, cpu or cuda, found '%.60s'; choose one",
                       name);
    int index = comm->local_size;
#ifdef LK_HAVE_CUDA
    int gpus = strcmp(name, "cpu") == 0 ? 0 : lk_cuda_device_count();
    if (gpus > 0) {
        LK_TRY(lk_comm_device_index(comm, gpus, &index));
        backend = &lk_backend_cuda;
    }
#endif
    if (strcmp(name, "cuda") == 0 && backend == &lk_backend_cpu) {
#ifdef LK_HAVE_CUDA
        return lk_fail(LK_E_DEVICE, "device 'cuda' was asked for but no GPU is usable here; "
                                    "use 'cpu' or 'auto', or run where a GPU is");
#else
        return lk_fail(LK_E_DEVICE, "device 'cuda' was asked for but this lockstep was built "
                                    "without CUDA; use 'cpu' or 'auto', or configure it "
                                    "--with-cuda and build it again");
#endif
    }
    LK_TRY(backend->open(index, device));
    (*device)->tf32 = precision == LK_TF32;
    return LK_OK;
}

void lk_session_device_close(lk_device *d)
{
    if (d) d->backend->close(d);
}

static lk_transformer transformer_of(const lk_run *run, int64_t vocabulary)
{
    return (lk_transformer){
        .layers = run->model.layers,
        .width = run->model.width,
        .context = run->model.context,
        .heads = (int)run->model.heads,
        .kv_heads = (int)(run->model.kv_heads ? run->model.kv_heads : run->model.heads),
        .ffn_width = run->model.ffn_width,
        .position = run->model.position,
        .norm = run->model.norm,
        .ffn = run->model.ffn,
        .bias = run->model.bias,
        .tied = run->model.tied,
        .dropout = (float)run->model.dropout,
        .rope_theta = (float)run->model.rope_theta,
        .norm_eps = (float)run->model.norm_eps,
        .vocabulary = vocabulary,
        .headroom = run->model.embedding_headroom,
    };
}

static lk_vision vision_of(const lk_run *run, int64_t classes)
{
    return (lk_vision){
        .kind = run->model.kind,
        .size = run->model.size,
        .multiplier = run->model.width_multiplier,
        .stem_stride = (int)run->model.stem_stride,
        .attention = run->model.attention,
        .norm = run->model.norm,
        .norm_eps = (float)run->model.norm_eps,
        .dropout = (float)run->model.dropout,
        .stochastic_depth = (float)run->model.stochastic_depth,
        .classes = classes,
    };
}

static lk_fusion fusion_of(const lk_run *run, const lk_image_format *format)
{
    lk_fusion m = {
        .block = transformer_of(run, format->vocabulary),
        .image_layers = run->model.image_layers,
        .cross_layers = run->model.cross_layers,
        .patch = run->model.patch,
        .classes = format->classes,
    };
    m.block.context = format->text;
    m.block.headroom = 0;
    return m;
}

lk_model lk_session_model(const lk_run *run, int64_t vocabulary, const lk_image_format *format)
{
    lk_model m = {.images = lk_run_images(run), .fused = lk_run_fusion(run)};
    if (!m.images) {
        m.text = transformer_of(run, vocabulary);
        return m;
    }
    if (m.fused) m.fusion = fusion_of(run, format);
    else m.image = vision_of(run, format->classes);
    m.format = format;
    m.height = run->model.image_size ? run->model.image_size : format->height;
    m.width = run->model.image_size ? run->model.image_size : format->width;
    return m;
}

lk_dataset_kind lk_session_data_kind(const lk_run *run)
{
    return lk_run_images(run) ? LK_IMAGE_DATA : LK_TEXT_DATA;
}

lk_status lk_session_expect(const lk_run *run, const lk_dataset *data)
{
    LK_TRY(lk_dataset_expect(data, lk_session_data_kind(run)));
    if (!lk_run_fusion(run) || data->image.vocabulary > 0) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected images with a text each for model.kind fusion "
                   "(datasets 'train/tokens' and 'validation/tokens', attribute "
                   "'vocabulary_size'), found images alone; add them as doc/fusion.md says, or use "
                   "a model of images", data->path);
}

lk_dtype lk_session_compute(const lk_run *run)
{
    switch (lk_run_precision(run)) {
    case LK_FP16: return LK_F16;
    case LK_BF16_AUTOCAST: return LK_BF16;
    default: return LK_F32;
    }
}

static lk_augment augment_of(const lk_run *run)
{
    return (lk_augment){
        .flip = run->augment.flip,
        .pad = (int)run->augment.pad,
        .crop = (float)run->augment.crop,
        .erase = (float)run->augment.erase,
        .mixup = (float)run->augment.mixup,
        .smoothing = (float)run->augment.smoothing,
    };
}

lk_source lk_session_source(const lk_run *run, const lk_dataset *data,
                            const lk_loader_sizes *sizes, const lk_loader_options *o)
{
    return (lk_source){
        .batch = o->batch,
        .context = o->span - 1,
        .type = data->field[0].dtype,
        .augment = o->split == LK_TRAIN ? augment_of(run) : LK_AUGMENT_NONE,
        .resident = sizes->resident,
        .shard_rows = sizes->shard_rows,
        .purpose = o->purpose,
        .first_leaf = o->first_leaf,
        .local_leaves = o->local_leaves,
    };
}

lk_passes lk_session_passes(const lk_run *run)
{
    const char *recompute = run->train.recompute;
    return (lk_passes){
        .compute = lk_session_compute(run),
        .training = true,
        .recompute = strcmp(recompute, "ffn") == 0     ? LK_RECOMPUTE_FFN
                     : strcmp(recompute, "block") == 0 ? LK_RECOMPUTE_BLOCK
                                                       : LK_RECOMPUTE_NONE,
    };
}

/* Token windows to the mean loss. */
static lk_tensor *text_loss(lk_graph *g, const lk_transformer *m, const lk_source *s,
                            lk_loss_graph *out)
{
    int64_t dim[2] = {s->resident ? s->local_leaves : s->batch,
                      s->resident ? s->shard_rows : s->context + 1};
    lk_tensor *tokens = NULL, *targets = NULL;
    out->field[0] = lk_input(g, "tokens", s->type, 2, dim);
    lk_windows(g, out->field[0], s->batch, s->context, s->resident, s->purpose, s->shard_rows,
               s->first_leaf, &tokens, &targets);
    lk_tensor *logits = lk_transformer_logits(g, m, tokens);
    lk_scope_push(g, "loss");
    lk_tensor *loss = lk_cross_entropy(g, logits, targets, m->vocabulary);
    lk_scope_pop(g);
    return loss;
}

lk_tensor *lk_session_logits(lk_graph *g, const lk_model *m, const lk_source *s,
                             lk_loss_graph *out, lk_tensor **targets, lk_tensor **labels)
{
    const lk_image_format *f = m->format;
    int64_t rows = s->resident ? s->local_leaves * s->shard_rows : s->batch;
    lk_tensor *x = NULL, *tokens = NULL;
    out->field[0] = lk_input(g, "images", LK_U8, 4,
                             (int64_t[]){rows, f->height, f->width, f->channels});
    out->field[1] = lk_input(g, "labels", LK_U16, 1, &rows);
    out->scale = lk_input(g, "scale", LK_F32, 2, (int64_t[]){2, f->channels});
    if (m->fused) out->field[2] = lk_input(g, "tokens", LK_U16, 2, (int64_t[]){rows, f->text});
    lk_image_source source = {.batch = s->batch, .height = m->height, .width = m->width,
                              .classes = f->classes, .shard_rows = s->shard_rows,
                              .resident = s->resident, .purpose = s->purpose,
                              .first_leaf = s->first_leaf, .augment = s->augment};
    lk_scope_push(g, "images");
    lk_images(g, &source, out->field[0], out->field[1], out->scale, &x, targets, labels);
    if (m->fused) tokens = lk_texts(g, &source, out->field[2]);
    lk_scope_pop(g);
    return m->fused ? lk_fusion_logits(g, &m->fusion, x, tokens)
                    : lk_vision_logits(g, &m->image, x);
}

/* Images to the mean loss and the share of hits. */
static lk_tensor *image_loss(lk_graph *g, const lk_model *m, const lk_source *s,
                             lk_loss_graph *out)
{
    lk_tensor *targets = NULL, *labels = NULL, *hits = NULL;
    lk_tensor *logits = lk_session_logits(g, m, s, out, &targets, &labels);
    lk_scope_push(g, "loss");
    lk_tensor *loss = lk_soft_cross_entropy(g, logits, targets, labels, &hits);
    lk_scope_pop(g);
    lk_graph_metric(g, hits, LK_METRIC_HITS);
    return loss;
}

lk_status lk_session_loss_graph(lk_params *params, const lk_model *m, const lk_source *s,
                                const lk_passes *passes, lk_loss_graph *out)
{
    lk_graph *g = lk_graph_create(params, passes->training);
    if (!g) return lk_fail(LK_E_SYSTEM, "out of memory");
    g->cast_parameters = passes->cast_parameters;
    lk_loss_graph built = {.graph = g};
    lk_tensor *loss = m->images ? image_loss(g, m, s, &built) : text_loss(g, &m->text, s, &built);
    lk_graph_metric(g, loss, LK_METRIC_LOSS);
    lk_status status = lk_autocast(g, passes->compute);
    if (status == LK_OK && passes->training)
        status = lk_autodiff(g, loss, lk_loss_scale(g), 0, NULL, NULL);
    if (status == LK_OK) status = lk_recompute(g, passes->recompute);
    if (status == LK_OK && !passes->unfused) status = lk_fuse(g);
    if (status != LK_OK) {
        lk_graph_destroy(g);
        return status;
    }
    *out = built;
    return LK_OK;
}

lk_status lk_session_scale(lk_device *d, const lk_image_format *f, void **memory)
{
    const lk_backend *b = d->backend;
    size_t bytes = 2 * (size_t)f->channels * sizeof(float);
    float *host = malloc(bytes);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t c = 0; c < f->channels; c++) {
        host[c] = f->mean[c];
        host[f->channels + c] = 1.0f / f->std[c];
    }
    void *scale = NULL;
    lk_status status = b->alloc(d, bytes, &scale);
    if (status == LK_OK) status = b->upload(d, scale, host, bytes);
    if (status == LK_OK) status = b->sync(d);
    free(host);
    if (status != LK_OK && scale) b->release(d, scale);
    if (status == LK_OK) *memory = scale;
    return status;
}

lk_status lk_session_leaves(const lk_comm *comm, const lk_run *run, int saved, int *out)
{
    int size = comm->size;
    int leaves = saved ? saved : run->train.leaves ? (int)run->train.leaves : size;
    if (saved && run->train.leaves && run->train.leaves != saved)
        return lk_fail(LK_E_INPUT,
                       "%s: train.leaves is %lld, the run was started with %d leaves; "
                       "set it back",
                       run->path, (long long)run->train.leaves, saved);
    if (leaves & (leaves - 1))
        return lk_fail(LK_E_INPUT, "%s: train.leaves: %d is not a power of two; set it in the run "
                       "file or start a power-of-two number of ranks", run->path, leaves);
    if (leaves % size)
        return lk_fail(LK_E_INPUT, "%s: %d ranks do not divide %d leaves%s: start a power of two "
                       "of at most %d, or %s train.leaves", run->path, size, leaves,
                       saved ? ", which the run was started with" : "", leaves,
                       saved ? "a new run in another 'directory' with more" : "raise");
    if (run->train.batch % leaves)
        return lk_fail(LK_E_INPUT,
                       "%s: train.batch %lld is not a multiple of the %d leaves; "
                       "change train.batch, or the number of ranks if train.leaves is 0",
                       run->path, (long long)run->train.batch, leaves);
    *out = leaves;
    return LK_OK;
}

lk_loader_options lk_session_samples(const lk_comm *comm, const lk_run *run, int leaves,
                                     lk_split split)
{
    int local = leaves / comm->size;
    double gib = strcmp(run->data.resident, "yes") == 0  ? 1e6
                 : strcmp(run->data.resident, "no") == 0 ? -1
                                                         : run->data.resident_gib;
    return (lk_loader_options){
        .split = split,
        .purpose = split == LK_TRAIN ? LK_PURPOSE_ORDER : LK_PURPOSE_EVAL,
        .seed = (uint64_t)run->seed,
        .leaves = leaves,
        .first_leaf = comm->rank * local,
        .local_leaves = local,
        .batch = run->train.batch / leaves,
        .span = lk_run_images(run) ? 1 : run->model.context + 1,
        .resident_limit = (int64_t)(gib * 1073741824.0),
    };
}

lk_status lk_session_train_graph(const lk_comm *comm, const lk_run *run, int leaves,
                                 const lk_model *m, const lk_source *source,
                                 const lk_passes *passes, lk_params *params, lk_loss_graph *out)
{
    lk_optimizer hyper = lk_session_optimizer(run, leaves);
    lk_loss_graph built;
    LK_TRY(lk_session_loss_graph(params, m, source, passes, &built));
    lk_params_layout(params);
    lk_status status = LK_OK;
    if (comm->size > 1)
        status = lk_bucket(built.graph, (int64_t)(run->train.bucket_mib * 262144.0),
                           strcmp(run->train.reduce, "exact") == 0);
    if (status == LK_OK) status = lk_optimize(built.graph, &hyper);
    if (status != LK_OK) {
        lk_graph_destroy(built.graph);
        return status;
    }
    *out = built;
    return LK_OK;
}

lk_status lk_session_held_graph(const lk_run *run, const lk_model *m, const lk_source *source,
                                bool ema, lk_params *params, lk_loss_graph *out)
{
    lk_passes passes = {.compute = lk_session_compute(run), .cast_parameters = ema};
    return lk_session_loss_graph(params, m, source, &passes, out);
}

lk_status lk_session_programs(lk_comm *comm, lk_device *d, const lk_params *params,
                              lk_status (*make)(void *context), void *context)
{
    const lk_backend *b = d->backend;
    char *choices = NULL;
    lk_status status = LK_OK;
    if (comm->rank == 0) {
        status = make(context);
        if (status == LK_OK) status = b->choices_get(d, &choices);
    }
    LK_TRY(lk_comm_agree(comm, status));
    status = lk_comm_broadcast_text(comm, &choices);
    if (status == LK_OK && comm->rank != 0) {
        status = b->choices_set(d, choices);
        if (status == LK_OK) status = make(context);
    }
    free(choices);
    LK_TRY(lk_comm_agree(comm, status));
    return lk_comm_agree(comm, lk_comm_attach(comm, d, params->total + LK_METRIC_FLOATS));
}

lk_optimizer lk_session_optimizer(const lk_run *r, int leaves)
{
    return (lk_optimizer){
        .lr = (float)r->optimizer.lr,
        .min_lr = (float)r->optimizer.min_lr,
        .warmup = (uint64_t)r->optimizer.warmup,
        .steps = (uint64_t)r->train.steps,
        .beta1 = (float)r->optimizer.beta1,
        .beta2 = (float)r->optimizer.beta2,
        .eps = (float)r->optimizer.eps,
        .weight_decay = (float)r->optimizer.weight_decay,
        .clip = (float)r->optimizer.clip,
        .momentum = (float)r->model.norm_momentum,
        .ema = (float)r->train.ema,
        .leaves = leaves,
        .scaling = lk_run_precision(r) == LK_FP16,
        .growth = (float)r->loss_scale.growth,
        .backoff = (float)r->loss_scale.backoff,
        .growth_interval = (uint32_t)r->loss_scale.interval,
        .max_scale = (float)r->loss_scale.max,
    };
}
