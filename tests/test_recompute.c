/* The recompute pass: gradients and loss keep their bits, on the CPU and on a GPU if there is one;
 * the nodes expected are cloned and no others; the arena shrinks. And a step whose nodes are timed
 * keeps its bits, too. */
#include "model/transformer.h"
#include "program/program.h"
#include "tests/tap.h"
#ifdef LK_HAVE_CUDA
#include "cuda/device.h"
#endif

#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, CONTEXT = 32, VOCABULARY = 37, REPEATS = 25 };

static const char *const policies[] = {"none", "ffn", "block"};

typedef struct outcome {
    int count[LK_OPS]; /* nodes by kind */
    float *gradient, loss;
    int64_t total;
    size_t arena;
} outcome;

/* What is built: the loss of tokens [batch, context] and its gradients. */
typedef struct built {
    lk_params *params;
    lk_graph *graph;
    lk_tensor *tokens, *targets, *loss;
} built;

static void destroy(built *b)
{
    lk_graph_destroy(b->graph);
    lk_params_destroy(b->params);
}

static lk_status build(const lk_transformer *m, int64_t batch, lk_dtype type,
                       lk_recompute_policy policy, bool fuse, built *b)
{
    b->params = lk_params_create();
    lk_graph *g = b->graph = lk_graph_create(b->params, true);
    int64_t dim[2] = {batch, m->context};
    b->tokens = lk_input(g, "tokens", LK_I32, 2, dim);
    b->targets = lk_input(g, "targets", LK_I32, 2, dim);
    b->loss = lk_cross_entropy(g, lk_transformer_logits(g, m, b->tokens), b->targets,
                               m->vocabulary);
    lk_graph_metric(g, b->loss, LK_METRIC_LOSS);
    LK_TRY(lk_autocast(g, type));
    LK_TRY(lk_autodiff(g, b->loss, lk_loss_scale(g), 0, NULL, NULL));
    LK_TRY(lk_recompute(g, policy));
    if (fuse) LK_TRY(lk_fuse(g));
    lk_params_layout(b->params);
    return lk_graph_status(g);
}

static lk_status bind_tokens(lk_program *p, lk_device *d, const lk_tensor *t, uint32_t stream,
                             void **memory)
{
    int32_t token[BATCH * CONTEXT];
    for (uint32_t i = 0; i < BATCH * CONTEXT; i++)
        token[i] = (int32_t)(lk_philox(3, i, stream, 0, 0).v[0] % VOCABULARY);
    LK_TRY(d->backend->alloc(d, sizeof token, memory));
    LK_TRY(d->backend->upload(d, *memory, token, sizeof token));
    lk_program_bind(p, t, 0, *memory);
    return LK_OK;
}

/* A step in which every node runs REPEATS times more; all get a time. */
static lk_status time_step(lk_program *p, const lk_graph *g)
{
    double seconds[1000];
    int nodes = 0;
    for (const lk_node *n = g->first; n; n = n->next) seconds[nodes++] = -1;
    LK_TRY(lk_timing_step(p, g, 1, REPEATS, seconds));
    for (int i = 0; i < nodes; i++)
        if (seconds[i] < 0) return lk_fail(LK_E_INTERNAL, "node %d has no time", i);
    return LK_OK;
}

static lk_status run(lk_device *d, const lk_transformer *m, lk_dtype type,
                     lk_recompute_policy policy, bool fuse, bool timed, outcome *o)
{
    built b;
    lk_store *store;
    lk_program *p;
    void *memory[2];
    LK_TRY(build(m, BATCH, type, policy, fuse, &b));
    for (lk_node *n = b.graph->first; n; n = n->next) o->count[n->op]++;
    LK_TRY(lk_store_create(
        d, b.params, &(lk_store_options){.compute = type, .training = true, .local_leaves = 1},
        &store));
    size_t bytes = (size_t)b.params->total * sizeof(float);
    float *values = malloc(bytes);
    lk_params_initialise(b.params, 5, values);
    LK_TRY(lk_store_set(store, &(lk_flat){.param = values}));
    lk_program_options options = {.seed = 9, .local_leaves = 1};
    LK_TRY(lk_program_create(b.graph, store, &options, &p));
    LK_TRY(bind_tokens(p, d, b.tokens, 1, &memory[0]));
    LK_TRY(bind_tokens(p, d, b.targets, 2, &memory[1]));
    LK_TRY(timed ? time_step(p, b.graph) : lk_program_run(p));
    o->total = b.params->total;
    o->arena = lk_program_arena_bytes(p);
    o->gradient = values;
    LK_TRY(d->backend->download(d, o->gradient, store->gradient[0], bytes));
    LK_TRY(d->backend->download(d, &o->loss, lk_program_data(p, b.loss), sizeof o->loss));
    LK_TRY(d->backend->sync(d));
    lk_program_destroy(p);
    lk_store_destroy(store);
    for (int i = 0; i < 2; i++) d->backend->release(d, memory[i]);
    destroy(&b);
    return LK_OK;
}

/* What the policy must clone, in a graph that is not fused. */
static bool cloned(const lk_transformer *m, const outcome *none, const outcome *o,
                   lk_recompute_policy policy)
{
    int layers = (int)m->layers, swiglu = strcmp(m->ffn, "swiglu") == 0;
    int block = policy == LK_RECOMPUTE_BLOCK, rope = strcmp(m->position, "rope") == 0;
    int expected[LK_OPS] = {
        [LK_OP_LINEAR] = block ? 3 : 1, /* up; qkv and out: never down */
        [LK_OP_NORM] = block ? 2 : 1,
        [LK_OP_SWIGLU] = swiglu,
        [LK_OP_ATTENTION] = block,
        [LK_OP_ROPE] = block && rope,
        [LK_OP_RESIDUAL] = block, /* between attention and feed-forward */
    };
    for (int i = 0; i < LK_OPS; i++)
        if (o->count[i] != none->count[i] + layers * expected[i]) return false;
    return true;
}

static void check(lk_device *d, const lk_transformer *m, lk_dtype type)
{
    char what[160];
    snprintf(what, sizeof what, "%s %s %s %s dropout %g", d->backend->name, lk_dtype_name(type),
             m->position, m->ffn, (double)m->dropout);
    for (int fuse = 0; fuse < 2; fuse++) {
        outcome o[4] = {{.total = 0}, {.total = 0}, {.total = 0}, {.total = 0}};
        lk_status status = LK_OK;
        for (int i = 0; i < 3 && status == LK_OK; i++)
            status = run(d, m, type, (lk_recompute_policy)i, fuse, false, &o[i]);
        if (status == LK_OK) status = run(d, m, type, LK_RECOMPUTE_NONE, fuse, true, &o[3]);
        if (!tap_ok(status == LK_OK, "%s%s runs %s", what, fuse ? ", fused," : "",
                    lk_error_text()))
            continue;
        size_t bytes = (size_t)o[0].total * sizeof(float);
        tap_ok(o[3].loss == o[0].loss && memcmp(o[3].gradient, o[0].gradient, bytes) == 0,
               "%s: with every node run %d times more they keep their bits", what, REPEATS);
        for (int i = 1; i < 3; i++) {
            bool same = memcmp(o[i].gradient, o[0].gradient, bytes) == 0;
            tap_ok(o[0].loss > 1 && o[i].loss == o[0].loss && same,
                   "%s: loss and gradients keep their bits", policies[i]);
            tap_ok(fuse || cloned(m, &o[0], &o[i], (lk_recompute_policy)i),
                   "%s: the nodes expected are cloned", policies[i]);
            tap_ok(o[i].arena < o[i - 1].arena, "%s: %zu KiB of activations, less than %zu",
                   policies[i], o[i].arena >> 10, o[i - 1].arena >> 10);
        }
        for (int i = 0; i < 4; i++) free(o[i].gradient);
    }
}

/* With no backward pass there is nothing to compute again. */
static void check_forward(const lk_transformer *m)
{
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, false);
    lk_tensor *tokens = lk_input(g, "tokens", LK_I32, 2, (int64_t[]){1, m->context});
    lk_transformer_logits(g, m, tokens);
    const lk_node *last = g->last;
    int tensors = g->tensors;
    tap_ok(lk_recompute(g, LK_RECOMPUTE_BLOCK) == LK_OK && g->last == last && g->tensors == tensors,
           "a forward graph stays as it is");
    lk_graph_destroy(g);
    lk_params_destroy(params);
}

/* Planned activations of the shapes of bench/gpt2.yaml and bench/alibi10m.yaml, fp16; ffn, block:
 * at most so much of all. Outputs that are computed again and kept unread take more. */
static void check_size(const char *name, const lk_transformer *m, int64_t batch, double ffn,
                       double block)
{
    double mib[3] = {0, 0, 0};
    lk_status status = LK_OK;
    for (int i = 0; i < 3 && status == LK_OK; i++) {
        built b;
        size_t arena = 0;
        status = build(m, batch, LK_F16, (lk_recompute_policy)i, true, &b);
        if (status == LK_OK) status = lk_plan(b.graph, &arena);
        mib[i] = (double)arena / 0x1p20;
        destroy(&b);
    }
    tap_ok(status == LK_OK && mib[1] < ffn * mib[0] && mib[2] < block * mib[0],
           "%s activations, MiB: none %.0f, ffn %.0f (%.0f %%), block %.0f (%.0f %%) %s", name,
           mib[0], mib[1], 100 * mib[1] / mib[0], mib[2], 100 * mib[2] / mib[0], lk_error_text());
}

static void check_device(lk_device *d, lk_transformer *m)
{
    static const char *const position[] = {"alibi", "rope", "learned", "sinusoidal"};
    for (int variant = 0; variant < 4; variant++) {
        m->position = position[variant];
        m->ffn = variant % 2 ? "swiglu" : "gelu";
        m->norm = variant % 2 ? "rmsnorm" : "layernorm";
        m->kv_heads = variant % 2 ? 1 : 2;
        m->bias = m->tied = variant != 1;
        m->dropout = variant == 2 ? 0 : 0.2f;
        for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check(d, m, type);
    }
}

int main(void)
{
    lk_transformer m = {.layers = 3, .width = 64, .context = CONTEXT, .heads = 2, .kv_heads = 2,
                        .position = "alibi", .norm = "layernorm", .ffn = "gelu", .bias = true,
                        .tied = true, .rope_theta = 1e4f, .norm_eps = 1e-5f,
                        .vocabulary = VOCABULARY, .headroom = 0.2};
    lk_device *d = NULL;
    if (tap_ok(lk_backend_cpu.open(1, &d) == LK_OK, "the CPU opens")) check_device(d, &m);
    lk_backend_cpu.close(d);
#ifdef LK_HAVE_CUDA
    d = NULL;
    if (lk_cuda_device_count() > 0 && lk_backend_cuda.open(0, &d) == LK_OK) check_device(d, &m);
    lk_backend_cuda.close(d);
#endif
    check_forward(&m);

    lk_transformer alibi10m = {.layers = 6, .width = 384, .context = 256, .heads = 6,
                               .kv_heads = 6, .position = "alibi", .norm = "layernorm",
                               .ffn = "gelu", .bias = true, .tied = true, .norm_eps = 1e-5f,
                               .vocabulary = 65};
    check_size("alibi10m", &alibi10m, 64, 0.55, 0.25);
    alibi10m.dropout = 0.2f;
    check_size("alibi10m with dropout", &alibi10m, 64, 0.55, 0.25);
    lk_transformer gpt2 = {.layers = 12, .width = 768, .context = 1024, .heads = 12,
                           .kv_heads = 12, .position = "learned", .norm = "layernorm",
                           .ffn = "gelu", .bias = true, .tied = true, .norm_eps = 1e-5f,
                           .vocabulary = 50304};
    check_size("gpt2", &gpt2, 32, 0.6, 0.33);
    gpt2.vocabulary = 65;
    check_size("gpt2 without its head", &gpt2, 32, 0.5, 0.16);
    return tap_done();
}
