/* Device, model and graphs from a run file or a checkpoint. */
#include "train/session.h"

#include "base/half.h"
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
        return lk_fail(LK_E_INPUT, "device: expected auto, cpu or cuda, found '%.60s'", name);
    int index = comm->local_size;
#ifdef LK_HAVE_CUDA
    int gpus = strcmp(name, "cpu") == 0 ? 0 : lk_cuda_device_count();
    if (gpus > 0) {
        LK_TRY(lk_comm_device_index(comm, gpus, &index));
        backend = &lk_backend_cuda;
    }
#endif
    if (strcmp(name, "cuda") == 0 && backend == &lk_backend_cpu)
        return lk_fail(LK_E_DEVICE, "device 'cuda' was asked for but no GPU is usable here; "
                                    "use 'cpu' or 'auto', or run where a GPU is");
    LK_TRY(backend->open(index, device));
    (*device)->tf32 = precision == LK_TF32;
    return LK_OK;
}

void lk_session_device_close(lk_device *d)
{
    if (d) d->backend->close(d);
}

lk_transformer lk_session_model(const lk_run *run, int64_t vocabulary)
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

lk_dtype lk_session_compute(const lk_run *run)
{
    switch (lk_run_precision(run)) {
    case LK_FP16: return LK_F16;
    case LK_BF16_AUTOCAST: return LK_BF16;
    default: return LK_F32;
    }
}

lk_source lk_session_source(const lk_loader_sizes *sizes, const lk_loader_options *o,
                            lk_dtype type)
{
    return (lk_source){
        .batch = o->batch,
        .context = o->span - 1,
        .type = type,
        .resident = sizes->resident,
        .shard_tokens = sizes->shard_rows,
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

lk_status lk_session_loss_graph(lk_params *params, const lk_transformer *m, const lk_source *s,
                                const lk_passes *passes, lk_loss_graph *out)
{
    lk_graph *g = lk_graph_create(params, passes->training);
    if (!g) return lk_fail(LK_E_SYSTEM, "out of memory");
    int64_t dim[2] = {s->resident ? s->local_leaves : s->batch,
                      s->resident ? s->shard_tokens : s->context + 1};
    lk_tensor *data = lk_input(g, "data", s->type, 2, dim), *tokens = NULL, *targets = NULL;
    lk_windows(g, data, s->batch, s->context, s->resident, s->purpose, s->shard_tokens,
               s->first_leaf, &tokens, &targets);
    lk_tensor *logits = lk_transformer_logits(g, m, tokens);
    lk_scope_push(g, "loss");
    lk_tensor *loss = lk_cross_entropy(g, logits, targets, m->vocabulary);
    lk_scope_pop(g);
    lk_graph_loss(g, loss);
    lk_status status = lk_autocast(g, passes->compute);
    if (status == LK_OK && passes->training)
        status = lk_autodiff(g, loss, lk_loss_scale(g), 0, NULL, NULL);
    if (status == LK_OK) status = lk_recompute(g, passes->recompute);
    if (status == LK_OK && !passes->unfused) status = lk_fuse(g);
    if (status != LK_OK) {
        lk_graph_destroy(g);
        return status;
    }
    *out = (lk_loss_graph){g, data};
    return LK_OK;
}

lk_status lk_session_leaves(const lk_comm *comm, const lk_run *run, int saved, int *out)
{
    int size = comm->size;
    int leaves = saved ? saved : run->train.leaves ? (int)run->train.leaves : size;
    if (saved && run->train.leaves && run->train.leaves != saved)
        return lk_fail(LK_E_INPUT, "%s: train.leaves is %lld, the run was started with %d leaves",
                       run->path, (long long)run->train.leaves, saved);
    if (leaves & (leaves - 1))
        return lk_fail(LK_E_INPUT, "train.leaves: %d is not a power of two; set it in the run file "
                       "or start a power-of-two number of ranks", leaves);
    if (leaves % size)
        return lk_fail(LK_E_INPUT, "%d ranks do not divide %d leaves: start 1, 2, 4 ... %d ranks, "
                       "or set train.leaves", size, leaves, leaves);
    if (run->train.batch % leaves)
        return lk_fail(LK_E_INPUT, "%s: train.batch %lld is not a multiple of the %d leaves",
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
        .span = run->model.context + 1,
        .resident_limit = (int64_t)(gib * 1073741824.0),
    };
}

lk_status lk_session_train_graph(const lk_comm *comm, const lk_run *run, int leaves,
                                 const lk_transformer *m, const lk_source *source,
                                 lk_params *params, lk_loss_graph *out)
{
    lk_passes passes = lk_session_passes(run);
    lk_optimizer hyper = lk_session_optimizer(run, leaves);
    lk_loss_graph built;
    LK_TRY(lk_session_loss_graph(params, m, source, &passes, &built));
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

lk_status lk_session_held_graph(const lk_run *run, const lk_transformer *m, const lk_source *source,
                                lk_params *params, lk_loss_graph *out)
{
    lk_passes passes = {.compute = lk_session_compute(run)};
    return lk_session_loss_graph(params, m, source, &passes, out);
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
        .leaves = leaves,
        .scaling = lk_run_precision(r) == LK_FP16,
        .growth = (float)r->loss_scale.growth,
        .backoff = (float)r->loss_scale.backoff,
        .growth_interval = (uint32_t)r->loss_scale.interval,
        .max_scale = (float)r->loss_scale.max,
    };
}

/* Everything of lk_session_open that comes after the device is there. */
static lk_status read_model(lk_comm *comm, lk_io *io, lk_trained *t)
{
    t->params = lk_params_create();
    if (!t->params) return lk_fail(LK_E_SYSTEM, "out of memory");
    /* a throw-away graph declares the parameters */
    lk_graph *g = lk_graph_create(t->params, false);
    if (!g) return lk_fail(LK_E_SYSTEM, "out of memory");
    int64_t dim[2] = {1, 8 < t->model.context ? 8 : t->model.context};
    lk_transformer_logits(g, &t->model, lk_input(g, "tokens", LK_I32, 2, dim));
    lk_status status = lk_graph_status(g);
    lk_graph_destroy(g);
    LK_TRY(status);
    lk_params_layout(t->params);
    LK_TRY(lk_store_create(t->device, t->params, lk_session_compute(&t->run), false, 1,
                           &t->store));
    float *host = malloc((size_t)t->params->total * sizeof *host);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory for the parameters");
    lk_checkpoint_data data = {.param = host};
    status = lk_checkpoint_load(io, comm->world, t->info.path, t->params, &data);
    if (status == LK_OK) status = lk_store_set(t->store, host, NULL, NULL);
    free(host);
    return status;
}

lk_status lk_session_open(lk_comm *comm, lk_io *io, const char *checkpoint, const char *device,
                          lk_trained *t)
{
    memset(t, 0, sizeof *t);
    lk_status status = lk_checkpoint_open(io, comm->world, checkpoint, &t->info);
    LK_TRY(lk_comm_agree(comm, status));
    if (t->info.kind != LK_TEXT_DATA)
        status = lk_fail(LK_E_INPUT, "%s: expected a checkpoint of a text model, found one of "
                         "images", checkpoint);
    if (status == LK_OK) status = lk_run_parse(checkpoint, t->info.run_file, 0, NULL, &t->run);
    if (status == LK_OK) {
        t->model = lk_session_model(&t->run, t->info.vocabulary_size);
        status = lk_session_device(comm, device, lk_run_precision(&t->run), &t->device);
    }
    status = lk_comm_agree(comm, status);
    if (status == LK_OK) status = lk_comm_agree(comm, read_model(comm, io, t));
    if (status != LK_OK) lk_session_close(t);
    return status;
}

void lk_session_close(lk_trained *t)
{
    lk_store_destroy(t->store);
    lk_params_destroy(t->params);
    lk_session_device_close(t->device);
    lk_run_clear(&t->run);
    lk_checkpoint_info_clear(&t->info);
    memset(t, 0, sizeof *t);
}

static lk_status forward_open(lk_trained *t, lk_forward *f)
{
    const lk_backend *b = t->device->backend;
    f->graph = lk_graph_create(t->params, false);
    if (!f->graph) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_tensor *input = lk_input(f->graph, "tokens", LK_I32, 2, (int64_t[]){f->batch, f->time});
    f->logits = lk_transformer_logits(f->graph, &t->model, input);
    LK_TRY(lk_autocast(f->graph, lk_session_compute(&t->run)));
    LK_TRY(lk_fuse(f->graph));
    f->rows = lk_cols(f->logits);
    lk_program_options o = {.seed = 0, .local_leaves = 1, .capture = true};
    LK_TRY(lk_program_create(f->graph, t->store, &o, &f->program));
    LK_TRY(b->alloc(t->device, (size_t)(f->batch * f->time) * sizeof(int32_t), &f->tokens));
    LK_TRY(lk_program_bind(f->program, input, 0, f->tokens));
    f->host = malloc((size_t)lk_count(f->logits) * sizeof(float));
    f->raw = malloc(lk_bytes(f->logits));
    return f->host && f->raw ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for the logits");
}

lk_status lk_session_forward_open(lk_trained *t, int64_t batch, int64_t time, lk_forward *f)
{
    *f = (lk_forward){.batch = batch, .time = time};
    lk_status status = forward_open(t, f);
    if (status != LK_OK) lk_session_forward_close(t, f);
    return status;
}

lk_status lk_session_forward(lk_trained *t, lk_forward *f, const int32_t *tokens)
{
    const lk_backend *b = t->device->backend;
    LK_TRY(b->upload(t->device, f->tokens, tokens,
                     (size_t)(f->batch * f->time) * sizeof *tokens));
    LK_TRY(lk_program_run(f->program));
    LK_TRY(b->download(t->device, f->raw, lk_program_data(f->program, f->logits),
                       lk_bytes(f->logits)));
    LK_TRY(b->sync(t->device));
    int64_t n = lk_count(f->logits);
    const uint16_t *half = f->raw;
    switch (f->logits->dtype) {
    case LK_F16:
        for (int64_t i = 0; i < n; i++) f->host[i] = lk_f32_from_f16(half[i]);
        break;
    case LK_BF16:
        for (int64_t i = 0; i < n; i++) f->host[i] = lk_f32_from_bf16(half[i]);
        break;
    default: memcpy(f->host, f->raw, (size_t)n * sizeof *f->host);
    }
    return LK_OK;
}

void lk_session_forward_close(lk_trained *t, lk_forward *f)
{
    lk_program_destroy(f->program);
    lk_graph_destroy(f->graph);
    if (f->tokens) t->device->backend->release(t->device, f->tokens);
    free(f->host);
    free(f->raw);
    memset(f, 0, sizeof *f);
}
