/* The fuse pass: a fused step has fewer nodes and, in f32 on the CPU, the same bits; in the half
 * types it stays within rounding. */
#include "model/transformer.h"
#include "program/program.h"
#include "tests/tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, CONTEXT = 24, VOCABULARY = 37 };

typedef struct outcome {
    int count[LK_OPS]; /* nodes by kind */
    float *gradient, loss;
    int64_t total;
} outcome;

static lk_tensor *loss_of(lk_graph *g, const lk_transformer *m, lk_tensor **tokens,
                          lk_tensor **targets)
{
    int64_t dim[2] = {BATCH, CONTEXT};
    *tokens = lk_input(g, "tokens", LK_I32, 2, dim);
    *targets = lk_input(g, "targets", LK_I32, 2, dim);
    lk_tensor *logits = lk_transformer_logits(g, m, *tokens);
    return lk_cross_entropy(g, logits, *targets, VOCABULARY);
}

static lk_status bind_tokens(lk_program *p, lk_device *d, const lk_tensor *t, uint32_t stream,
                             void **memory)
{
    int32_t token[BATCH * CONTEXT];
    for (uint32_t i = 0; i < BATCH * CONTEXT; i++)
        token[i] = (int32_t)(lk_philox(3, i, stream, 0, 0).v[0] % VOCABULARY);
    LK_TRY(d->backend->alloc(d, sizeof token, memory));
    LK_TRY(d->backend->upload(d, *memory, token, sizeof token));
    return lk_program_bind(p, t, 0, *memory);
}

static lk_status run(const lk_transformer *m, lk_dtype type, bool fuse, outcome *o)
{
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, true);
    lk_tensor *tokens, *targets, *loss = loss_of(g, m, &tokens, &targets);
    lk_device *d;
    lk_store *store;
    lk_program *p;
    void *memory[2];
    lk_graph_metric(g, loss, LK_METRIC_LOSS);
    LK_TRY(lk_autocast(g, type));
    LK_TRY(lk_autodiff(g, loss, lk_loss_scale(g), 0, NULL, NULL));
    if (fuse) LK_TRY(lk_fuse(g));
    lk_params_layout(params);
    for (lk_node *n = g->first; n; n = n->next) o->count[n->op]++;

    LK_TRY(lk_backend_cpu.open(1, &d));
    LK_TRY(lk_store_create(
        d, params, &(lk_store_options){.compute = type, .training = true, .local_leaves = 1},
        &store));
    float *values = malloc((size_t)params->total * sizeof *values);
    lk_params_initialise(params, 5, values);
    LK_TRY(lk_store_set(store, &(lk_flat){.param = values}));
    free(values);
    lk_program_options options = {.seed = 9, .local_leaves = 1};
    LK_TRY(lk_program_create(g, store, &options, &p));
    LK_TRY(bind_tokens(p, d, tokens, 1, &memory[0]));
    LK_TRY(bind_tokens(p, d, targets, 2, &memory[1]));
    LK_TRY(lk_program_run(p));
    o->total = params->total;
    o->gradient = malloc((size_t)params->total * sizeof *o->gradient);
    LK_TRY(d->backend->download(d, o->gradient, store->gradient[0],
                                (size_t)params->total * sizeof *o->gradient));
    LK_TRY(d->backend->download(d, &o->loss, lk_program_data(p, loss), sizeof o->loss));
    lk_program_destroy(p);
    lk_store_destroy(store);
    for (int i = 0; i < 2; i++) d->backend->release(d, memory[i]);
    lk_graph_destroy(g);
    lk_params_destroy(params);
    d->backend->close(d);
    return LK_OK;
}

static double distance(const outcome *a, const outcome *b)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < a->total; i++) {
        double u = (double)a->gradient[i], v = (double)b->gradient[i];
        difference += (u - v) * (u - v);
        norm += v * v;
    }
    return sqrt(difference / norm);
}

static void check(const lk_transformer *m, lk_dtype type)
{
    outcome plain = {.loss = NAN}, fused = {.loss = NAN};
    lk_status status = run(m, type, false, &plain);
    if (status == LK_OK) status = run(m, type, true, &fused);
    if (!tap_ok(status == LK_OK, "%s %s dropout %g runs %s", m->ffn, lk_dtype_name(type),
                (double)m->dropout, lk_error_text()))
        return;
    const int *c = fused.count;
    int layers = (int)m->layers, gelu = strcmp(m->ffn, "gelu") == 0;
    tap_ok(c[LK_OP_RESIDUAL_NORM] == 2 * layers && c[LK_OP_RESIDUAL] == 0 && c[LK_OP_NORM] == 1,
           "every residual takes in the norm after it");
    tap_ok(c[LK_OP_XENT_FUSED] == 1 && c[LK_OP_XENT] == 0 && c[LK_OP_XENT_GRAD] == 0,
           "loss and its gradient are one node");
    tap_ok(c[LK_OP_GELU_GRAD] == 0 && plain.count[LK_OP_GELU_GRAD] == gelu * layers,
           "gelu' goes into the product before it");
    tap_ok(c[LK_OP_ADD] == 0 && plain.count[LK_OP_ADD] == 2 * layers,
           "norm gradients add the other cotangent");
    if (type == LK_F32)
        tap_ok(plain.loss == fused.loss && memcmp(plain.gradient, fused.gradient,
                                                  (size_t)plain.total * sizeof(float)) == 0,
               "the bits stay the same");
    else
        tap_ok(distance(&fused, &plain) < (type == LK_F16 ? 3e-3 : 2.5e-2),
               "gradients stay within rounding: %.1e", distance(&fused, &plain));
    free(plain.gradient);
    free(fused.gradient);
}

int main(void)
{
    lk_transformer m = {.layers = 2, .width = 32, .context = CONTEXT, .heads = 4, .kv_heads = 4,
                        .position = "alibi", .norm = "layernorm", .ffn = "gelu", .bias = true,
                        .tied = true, .rope_theta = 1e4f, .norm_eps = 1e-5f,
                        .vocabulary = VOCABULARY, .headroom = 0.2};
    for (int variant = 0; variant < 4; variant++) {
        m.dropout = variant & 1 ? 0.2f : 0;
        m.ffn = variant & 2 ? "swiglu" : "gelu";
        m.norm = variant & 2 ? "rmsnorm" : "layernorm";
        for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check(&m, type);
    }
    return tap_done();
}
