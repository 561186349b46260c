/* The fuse pass: a fused step has fewer nodes or moves fewer bytes. On the CPU it has the same bits
 * in f32; in the half types it stays within rounding, and the norms around depthwise convolutions
 * keep the bits there too. Gradients of norms before squeeze-and-excitation are summed otherwise:
 * they stay within rounding in f32 too. */
#include "model/transformer.h"
#include "program/program.h"
#include "tests/ops_help.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, CONTEXT = 24, VOCABULARY = 37, WIDTH = 24, BLOCKS = 3,
       MAX_INPUTS = 4 };

typedef struct outcome {
    int count[LK_OPS]; /* nodes by kind */
    int sums;          /* gradients of batch norms whose sums are given */
    int biases;        /* gradients of biases that LINEAR_DW makes */
    double bytes;      /* that the nodes move */
    float *gradient, loss;
    int64_t total;
} outcome;

static lk_tensor *token_loss(lk_graph *g, const lk_transformer *m)
{
    int64_t dim[2] = {BATCH, CONTEXT};
    lk_tensor *tokens = lk_input(g, "tokens", LK_I32, 2, dim);
    lk_tensor *targets = lk_input(g, "targets", LK_I32, 2, dim);
    lk_tensor *logits = lk_transformer_logits(g, m, tokens);
    return lk_cross_entropy(g, logits, targets, VOCABULARY);
}

static lk_tensor *weight(lk_graph *g, const char *name, int dims, const int64_t *dim)
{
    return lk_parameter(g, name, dims, dim, LK_INIT_NORMAL, 0.3f, true);
}

static lk_tensor *head_loss(lk_graph *g, lk_tensor *x)
{
    int64_t targets[2] = {BATCH, VOCABULARY}, w[2] = {VOCABULARY, lk_cols(x)};
    lk_tensor *logits = lk_linear(g, lk_pool(g, x), weight(g, "head", 2, w), NULL, LK_LINEAR);
    return lk_soft_cross_entropy(g, logits, lk_input(g, "targets", LK_F32, 2, targets),
                                 lk_input(g, "labels", LK_I32, 1, targets), NULL);
}

/* A stem and a block in which the image is scaled by what is made of its mean. */
static lk_tensor *image_loss(lk_graph *g)
{
    int64_t c = WIDTH, square[2] = {c, c};
    lk_tensor *x = lk_input(g, "images", LK_F32, 4, (int64_t[]){BATCH, 9, 7, 3});
    x = lk_conv(g, x, weight(g, "stem", 4, (int64_t[]){c, 3, 3, 3}), 2, 1);
    x = lk_batch_norm(g, x, lk_parameter(g, "w", 1, &c, LK_INIT_ONE, 0, false),
                      lk_parameter(g, "b", 1, &c, LK_INIT_ZERO, 0, false),
                      lk_statistic(g, "mean", c, LK_INIT_ZERO),
                      lk_statistic(g, "var", c, LK_INIT_ONE), 1e-5f, LK_RELU);
    lk_tensor *s = lk_linear(g, lk_pool(g, x), weight(g, "squeeze", 2, square), NULL, LK_LINEAR);
    x = lk_gate(g, x, lk_activate(g, s, LK_HARD_SIGMOID));
    x = lk_dwconv(g, x, weight(g, "dw", 3, (int64_t[]){3, 3, c}), 1, 1);
    return head_loss(g, x);
}

static lk_tensor *normed(lk_graph *g, lk_tensor *x, lk_activation activation)
{
    int64_t c = lk_cols(x);
    return lk_batch_norm(g, x, lk_parameter(g, "w", 1, &c, LK_INIT_NORMAL, 1, false),
                         lk_parameter(g, "b", 1, &c, LK_INIT_NORMAL, 1, false),
                         lk_statistic(g, "mean", c, LK_INIT_ZERO),
                         lk_statistic(g, "var", c, LK_INIT_ONE), 1e-3f, activation);
}

/* Each channel of an image scaled by what is made of its means. */
static lk_tensor *squeezed(lk_graph *g, lk_tensor *x)
{
    int64_t c = lk_cols(x), s = c / 3;
    lk_scope_push(g, "se");
    lk_tensor *w1 = weight(g, "w1", 2, (int64_t[]){s, c}), *w2 = weight(g, "w2", 2,
                                                                        (int64_t[]){c, s});
    lk_tensor *y = lk_gate(g, x, lk_excite(g, lk_pool(g, x), w1,
                                           lk_parameter(g, "b1", 1, &s, LK_INIT_NORMAL, 1, false),
                                           w2,
                                           lk_parameter(g, "b2", 1, &c, LK_INIT_NORMAL, 1, false)));
    lk_scope_pop(g);
    return y;
}

/* An inverted residual block of MobileNet: wider, each channel alone, perhaps squeezed and excited,
 * narrower. */
static lk_tensor *inverted(lk_graph *g, lk_tensor *x, int size, int stride, lk_activation act,
                           bool squeeze)
{
    int64_t c = lk_cols(x), wide = 3 * c;
    lk_tensor *y = lk_linear(g, x, weight(g, "up", 2, (int64_t[]){wide, c}), NULL, LK_LINEAR);
    lk_scope_push(g, "up_norm");
    y = normed(g, y, act);
    lk_scope_pop(g);
    y = lk_dwconv(g, y, weight(g, "dw", 3, (int64_t[]){size, size, wide}), stride, size / 2);
    lk_scope_push(g, "dw_norm");
    y = normed(g, y, act);
    lk_scope_pop(g);
    if (squeeze) y = squeezed(g, y);
    y = lk_linear(g, y, weight(g, "down", 2, (int64_t[]){c, wide}), NULL, LK_LINEAR);
    lk_scope_push(g, "down_norm");
    y = normed(g, y, LK_LINEAR);
    lk_scope_pop(g);
    return stride == 1 ? lk_add(g, x, y) : y;
}

static lk_tensor *inverted_blocks(lk_graph *g, lk_tensor *x, bool squeeze)
{
    lk_scope_push(g, "blocks");
    for (int i = 0; i < BLOCKS; i++) {
        lk_scope_push(g, "%d", i);
        lk_unit_begin(g, LK_UNIT_BLOCK);
        x = inverted(g, x, i ? 5 : 3, i == 1 ? 2 : 1, i ? LK_HARD_SWISH : LK_RELU, squeeze);
        lk_unit_end(g, LK_UNIT_BLOCK);
        lk_scope_pop(g);
    }
    lk_scope_pop(g);
    return x;
}

static lk_tensor *blocks_loss(lk_graph *g)
{
    int64_t c = WIDTH;
    lk_tensor *x = lk_input(g, "images", LK_F32, 4, (int64_t[]){BATCH, 9, 7, 3});
    x = lk_conv(g, x, weight(g, "stem", 4, (int64_t[]){c, 3, 3, 3}), 1, 1);
    lk_scope_push(g, "stem_norm");
    x = normed(g, x, LK_HARD_SWISH);
    lk_scope_pop(g);
    x = lk_dwconv(g, x, weight(g, "dw", 3, (int64_t[]){3, 3, c}), 1, 1);
    lk_tensor *add = lk_linear(g, x, weight(g, "mix", 2, (int64_t[]){c, c}),
                               lk_parameter(g, "bias", 1, &c, LK_INIT_NORMAL, 1, false), LK_LINEAR);
    lk_scope_push(g, "mix_norm");
    x = lk_add(g, x, normed(g, add, LK_RELU));
    lk_scope_pop(g);
    return head_loss(g, inverted_blocks(g, x, false));
}

/* A squeezed stem, whose norm is measured alone, and squeezed blocks. */
static lk_tensor *squeezes_loss(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "images", LK_F32, 4, (int64_t[]){BATCH, 9, 7, 3});
    x = lk_conv(g, x, weight(g, "stem", 4, (int64_t[]){WIDTH, 3, 3, 3}), 1, 1);
    lk_scope_push(g, "stem_norm");
    x = squeezed(g, normed(g, x, LK_HARD_SWISH));
    lk_scope_pop(g);
    return head_loss(g, inverted_blocks(g, x, true));
}

static lk_status bind_inputs(lk_program *p, lk_device *d, const lk_graph *g, void **memory)
{
    int count = 0;
    for (int i = 0; i < g->tensors; i++) {
        const lk_tensor *t = g->tensor[i];
        if (t->region != LK_REGION_INPUT || t->base) continue;
        double *value = allocate((size_t)lk_count(t) * sizeof *value);
        void *bytes = allocate(lk_bytes(t));
        for (int64_t k = 0; k < lk_count(t); k++)
            value[k] = t->dtype == LK_F32
                           ? normal((uint32_t)i, k)
                           : lk_philox(3, (uint32_t)k, (uint32_t)i, 0, 0).v[0] % VOCABULARY;
        encode(bytes, t->dtype, lk_count(t), value);
        lk_status status = d->backend->alloc(d, lk_bytes(t), &memory[count]);
        if (status == LK_OK) status = d->backend->upload(d, memory[count], bytes, lk_bytes(t));
        if (status == LK_OK) lk_program_bind(p, t, 0, memory[count++]);
        free(value);
        free(bytes);
        LK_TRY(status);
    }
    return LK_OK;
}

typedef lk_tensor *model(lk_graph *g); /* the loss */

/* m, or if that is NULL the image model. `again`: with recomputation. */
static lk_status run(const lk_transformer *m, model *images, lk_dtype type, bool fuse, bool again,
                     outcome *o)
{
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, true);
    lk_tensor *loss = m ? token_loss(g, m) : images(g);
    lk_device *d;
    lk_store *store;
    lk_program *p;
    void *memory[MAX_INPUTS] = {NULL};
    lk_graph_metric(g, loss, LK_METRIC_LOSS);
    LK_TRY(lk_autocast(g, type));
    LK_TRY(lk_autodiff(g, loss, lk_loss_scale(g), 0, NULL, NULL));
    if (again) LK_TRY(lk_recompute(g, LK_RECOMPUTE_BLOCK));
    if (fuse) LK_TRY(lk_fuse(g));
    lk_params_layout(params);
    for (lk_node *n = g->first; n; n = n->next) {
        double flops, bytes;
        lk_op_cost(n, &flops, &bytes);
        o->bytes += bytes;
        o->count[n->op]++;
        o->sums += n->op == LK_OP_BATCH_NORM_GRAD && n->in[6] &&
                   n->in[6]->producer->op == LK_OP_NORM_DWCONV_GRAD;
        o->biases += n->op == LK_OP_LINEAR_DW && n->out[1];
    }

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
    LK_TRY(bind_inputs(p, d, g, memory));
    LK_TRY(lk_program_run(p));
    o->total = params->total;
    o->gradient = malloc((size_t)params->total * sizeof *o->gradient);
    LK_TRY(d->backend->download(d, o->gradient, store->gradient[0],
                                (size_t)params->total * sizeof *o->gradient));
    LK_TRY(d->backend->download(d, &o->loss, lk_program_data(p, loss), sizeof o->loss));
    lk_program_destroy(p);
    lk_store_destroy(store);
    for (int i = 0; i < MAX_INPUTS && memory[i]; i++) d->backend->release(d, memory[i]);
    lk_graph_destroy(g);
    lk_params_destroy(params);
    d->backend->close(d);
    return LK_OK;
}

static double error_of(const outcome *a, const outcome *b)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < a->total; i++) {
        double u = (double)a->gradient[i], v = (double)b->gradient[i];
        difference += (u - v) * (u - v);
        norm += v * v;
    }
    return sqrt(difference / norm);
}

/* Frees both. */
static void check_same(outcome *fused, outcome *plain, lk_dtype type, bool exact)
{
    static const double limit[] = {[LK_F32] = 2e-6, [LK_F16] = 3e-3, [LK_BF16] = 2.5e-2};
    if (exact)
        tap_ok(plain->loss == fused->loss && memcmp(plain->gradient, fused->gradient,
                                                    (size_t)plain->total * sizeof(float)) == 0,
               "the bits stay the same");
    else
        tap_ok(error_of(fused, plain) < limit[type], "gradients stay within rounding: %.1e",
               error_of(fused, plain));
    free(plain->gradient);
    free(fused->gradient);
}

static void check(const lk_transformer *m, lk_dtype type)
{
    outcome plain = {.loss = NAN}, fused = {.loss = NAN};
    lk_status status = run(m, NULL, type, false, false, &plain);
    if (status == LK_OK) status = run(m, NULL, type, true, false, &fused);
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
    int branches = 2 * layers, embedding = m->dropout > 0;
    tap_ok(c[LK_OP_RESIDUAL_NORM_GRAD] == branches + embedding &&
               c[LK_OP_NORM_GRAD] == !embedding && c[LK_OP_DROPOUT] == embedding &&
               plain.count[LK_OP_DROPOUT] == (embedding ? branches + 2 : 0),
           "they make the cotangents of the branches");
    tap_ok(plain.biases == 4 * layers && fused.biases == (gelu ? 0 : layers),
           "gradients of biases are made beside what they sum, but of swiglu's cotangent");
    int rope = strcmp(m->position, "rope") == 0;
    tap_ok(c[LK_OP_ROPE] == 0 && plain.count[LK_OP_ROPE] == 2 * rope * layers,
           "q and k are rotated where they are made, and back where their cotangents are");
    tap_ok(fused.bytes < plain.bytes, "%.0f bytes are moved, not %.0f", fused.bytes, plain.bytes);
    check_same(&fused, &plain, type, type == LK_F32);
}

/* Rotations that stay nodes: of what others read too, of what is rotated already, of a product with
 * an activation, of the other direction, of other heads than attention has. */
static void check_ropes(void)
{
    enum { READ, TWICE, ACTIVATED, BACK, HEADS, ROPES };
    int64_t w[2] = {3 * WIDTH, WIDTH};
    for (int i = 0; i < ROPES; i++) {
        lk_params *params = lk_params_create();
        lk_graph *g = lk_graph_create(params, true);
        lk_tensor *x = lk_input(g, "x", LK_F32, 3, (int64_t[]){BATCH, CONTEXT, WIDTH});
        lk_tensor *qkv = lk_linear(g, x, weight(g, "w", 2, w), NULL,
                                   i == ACTIVATED ? LK_GELU : LK_LINEAR);
        lk_tensor *y = lk_rope(g, qkv, i == HEADS ? 2 : 4, i == HEADS ? 2 : 4, 1e4f, i == BACK);
        if (i == READ) lk_add(g, qkv, y);
        if (i == TWICE) lk_rope(g, y, 4, 4, 1e4f, false);
        if (i == HEADS) {
            lk_tensor *a = lk_attention(g, y, 4, 4, true, false, 0);
            lk_autodiff(g, a, lk_input(g, "dy", LK_F32, 3, a->dim), 0, NULL, NULL);
        }
        int count = 0;
        lk_status status = lk_fuse(g);
        for (lk_node *n = g->first; n; n = n->next) count += n->op == LK_OP_ROPE;
        tap_ok(status == LK_OK && count == 1, "rotation %d: %d node stays %s", i, count,
               lk_error_text());
        lk_graph_destroy(g);
        lk_params_destroy(params);
    }
}

/* The gradient of a bias is made beside what it sums: where gelu' or attention's gradient makes
 * that alone, and no other node writes that gradient meanwhile. */
static void check_biases(void)
{
    enum { GELU, QKV, CROSS, PLAIN, READ, SHARED, KINDS };
    static const char *const name[] = {"under gelu", "of qkv", "of q and of kv", "without gelu",
                                       "of what others add to", "of two products"};
    static const int expected[KINDS] = {1, 0, 0, 2, 2, 2}; /* that stay with LINEAR_DW */
    int64_t c = WIDTH, square[2] = {c, c}, wide[2] = {2 * c, c}, packed[2] = {3 * c, c};
    for (int i = 0; i < KINDS; i++) {
        lk_params *params = lk_params_create();
        lk_graph *g = lk_graph_create(params, true);
        lk_tensor *x = lk_input(g, "x", LK_F32, 3, (int64_t[]){BATCH, CONTEXT, WIDTH}), *y;
        lk_tensor *b = lk_parameter(g, "b", 1, &c, LK_INIT_ZERO, 0, false);
        lk_tensor *b2 = lk_parameter(g, "b2", 1, wide, LK_INIT_ZERO, 0, false);
        lk_tensor *b3 = lk_parameter(g, "b3", 1, packed, LK_INIT_ZERO, 0, false);
        lk_tensor *w = weight(g, "w", 2, square), *v = weight(g, "v", 2, square);
        if (i == QKV) {
            y = lk_linear(g, x, weight(g, "qkv", 2, packed), b3, LK_LINEAR);
            y = lk_attention(g, y, 4, 4, true, false, 0);
        } else if (i == CROSS) {
            y = lk_linear(g, x, weight(g, "kv", 2, wide), b2, LK_LINEAR);
            y = lk_cross_attention(g, lk_linear(g, x, w, b, LK_LINEAR), y, 4, 4, true, false, 0);
        } else {
            lk_activation act = i == PLAIN ? LK_LINEAR : LK_GELU;
            lk_tensor *h = lk_linear(g, x, w, b, act), *z = NULL;
            /* The cotangent of h is made first, and summed when that of the other has been. */
            if (i == SHARED) z = lk_linear(g, lk_linear(g, x, v, b, act), w, NULL, LK_LINEAR);
            y = lk_linear(g, h, v, lk_parameter(g, "b4", 1, &c, LK_INIT_ZERO, 0, false), LK_LINEAR);
            if (i == READ) y = lk_add(g, y, h);
            if (i == SHARED) y = lk_add(g, y, z);
        }
        lk_autodiff(g, y, lk_input(g, "dy", LK_F32, 3, y->dim), 0, NULL, NULL);
        int stay = 0;
        lk_status status = lk_fuse(g);
        for (lk_node *n = g->first; n; n = n->next) stay += n->op == LK_OP_LINEAR_DW && n->out[1];
        tap_ok(status == LK_OK && stay == expected[i], "gradients of biases %s: %d stay %s",
               name[i], stay, lk_error_text());
        lk_graph_destroy(g);
        lk_params_destroy(params);
    }
}

/* Pairs that stay apart: logits that others read too, which the gradient would overwrite; a
 * cotangent of a sum, or an argument of gelu', that is made after the first of the two. */
static void check_apart(void)
{
    enum { LOGITS, SUM, GELU, KINDS };
    static const char *const name[] = {"loss and gradient of logits that are read",
                                       "a norm's gradient and a later cotangent",
                                       "a product and gelu' of a later argument"};
    static const lk_op second[KINDS] = {LK_OP_XENT_GRAD, LK_OP_ADD, LK_OP_GELU_GRAD};
    int64_t c = WIDTH, square[2] = {c, c};
    for (int i = 0; i < KINDS; i++) {
        lk_params *params = lk_params_create();
        lk_graph *g = lk_graph_create(params, true);
        lk_tensor *x = lk_input(g, "x", LK_F32, 2, (int64_t[]){BATCH, WIDTH});
        lk_tensor *w = weight(g, "w", 2, square), *v = weight(g, "v", 2, square);
        lk_tensor *h = lk_linear(g, x, w, NULL, LK_LINEAR), *y = NULL;
        if (i == LOGITS) {
            lk_tensor *targets = lk_input(g, "targets", LK_I32, 1, (int64_t[]){BATCH});
            y = lk_cross_entropy(g, h, targets, WIDTH);
            lk_activate(g, h, LK_RELU);
            lk_autodiff(g, y, lk_loss_scale(g), 0, NULL, NULL);
        } else if (i == SUM) { /* the norm's gradient comes first; y is a sum too */
            y = lk_linear(g, h, v, NULL, LK_LINEAR);
            y = lk_add(g, y, lk_norm(g, h, lk_parameter(g, "n", 1, &c, LK_INIT_ONE, 0, false),
                                     NULL, LK_RMSNORM, 1e-5f));
            lk_autodiff(g, y, lk_input(g, "dy", LK_F32, 2, y->dim), 0, NULL, NULL);
        } else {
            lk_node *dx = lk_node_new(g, LK_OP_LINEAR_DX, 2, (lk_tensor *[]){x, v});
            lk_node_output(g, dx, lk_tensor_like(g, x));
            y = lk_linear(g, h, w, NULL, LK_LINEAR);
            lk_node *n = lk_node_new(g, LK_OP_GELU_GRAD, 2, (lk_tensor *[]){dx->out[0], y});
            lk_node_output(g, n, lk_tensor_like(g, x));
        }
        int stay = 0;
        lk_status status = lk_fuse(g);
        for (lk_node *n = g->first; n; n = n->next)
            stay += n->op == second[i];
        tap_ok(status == LK_OK && stay == (i == SUM ? 2 : 1), "%s stay apart: %d %s", name[i], stay,
               lk_error_text());
        lk_graph_destroy(g);
        lk_params_destroy(params);
    }
}

static void check_images(lk_dtype type)
{
    outcome plain = {.loss = NAN}, fused = {.loss = NAN};
    lk_status status = run(NULL, image_loss, type, false, false, &plain);
    if (status == LK_OK) status = run(NULL, image_loss, type, true, false, &fused);
    if (!tap_ok(status == LK_OK, "images %s run %s", lk_dtype_name(type), lk_error_text())) return;
    const int *c = fused.count, *before = plain.count;
    tap_ok(before[LK_OP_ADD] == 1 && before[LK_OP_POOL_GRAD] == 2 && c[LK_OP_ADD] == 0 &&
               c[LK_OP_POOL_GRAD] == 1 && c[LK_OP_GATE_DX] == 1 && c[LK_OP_GATE_DS] == 1,
           "the gate's cotangent takes in the pool's");
    tap_ok(c[LK_OP_CONV_DW] == 1 && c[LK_OP_CONV_DX] == 0,
           "a convolution of the input has no gradient by it");
    tap_ok(c[LK_OP_BATCH_NORM] == 1 && c[LK_OP_DWCONV] == 1,
           "a norm that others read too keeps its result");
    check_same(&fused, &plain, type, type == LK_F32);
}

static void check_blocks(lk_dtype type)
{
    outcome plain = {.loss = NAN}, fused = {.loss = NAN};
    lk_status status = run(NULL, blocks_loss, type, false, false, &plain);
    if (status == LK_OK) status = run(NULL, blocks_loss, type, true, false, &fused);
    if (!tap_ok(status == LK_OK, "blocks %s run %s", lk_dtype_name(type), lk_error_text())) return;
    const int *c = fused.count;
    tap_ok(c[LK_OP_NORM_DWCONV] == BLOCKS + 1 && c[LK_OP_NORM_DWCONV_GRAD] == BLOCKS + 1 &&
               c[LK_OP_DWCONV] == 0 && c[LK_OP_DWCONV_GRAD] == 0 && c[LK_OP_BATCH_MOMENTS] == 1,
           "norms go into the depthwise convolutions after them");
    tap_ok(c[LK_OP_LINEAR_MOMENTS] == 2 * BLOCKS && c[LK_OP_BATCH_APPLY] == 2 * BLOCKS,
           "products and depthwise convolutions measure what they write");
    tap_ok(c[LK_OP_BATCH_NORM] == 1 && c[LK_OP_LINEAR] == 2,
           "the norm of a product with a bias stays");
    tap_ok(fused.sums == BLOCKS + 1 && c[LK_OP_BATCH_NORM_GRAD] == 3 * BLOCKS + 2 &&
               plain.sums == 0,
           "the depthwise gradients make the sums of the norms before them");
    tap_ok(fused.bytes < plain.bytes, "%.0f bytes are moved, not %.0f", fused.bytes, plain.bytes);
    check_same(&fused, &plain, type, true);
    status = run(NULL, blocks_loss, type, false, false, &plain);
    fused = (outcome){.loss = NAN};
    if (status == LK_OK) status = run(NULL, blocks_loss, type, true, true, &fused);
    if (!tap_ok(status == LK_OK && c[LK_OP_NORM_DWCONV] == 2 * BLOCKS + 1 &&
                    c[LK_OP_LINEAR_MOMENTS] == 4 * BLOCKS && fused.sums == BLOCKS + 1,
                "%d depthwise convolutions, computed again in the backward pass %s",
                c[LK_OP_NORM_DWCONV], lk_error_text()))
        return;
    check_same(&fused, &plain, type, true);
}

static void check_squeezes(lk_dtype type)
{
    outcome plain = {.loss = NAN}, fused = {.loss = NAN};
    lk_status status = run(NULL, squeezes_loss, type, false, false, &plain);
    if (status == LK_OK) status = run(NULL, squeezes_loss, type, true, false, &fused);
    if (!tap_ok(status == LK_OK, "squeezes %s run %s", lk_dtype_name(type), lk_error_text()))
        return;
    const int *c = fused.count;
    tap_ok(c[LK_OP_SQUEEZE_EXCITE] == BLOCKS + 1 && c[LK_OP_EXCITE] == 0 && c[LK_OP_POOL] == 1 &&
               c[LK_OP_SQUEEZE_EXCITE_DX] == BLOCKS + 1 && c[LK_OP_EXCITE_DX] == 0 &&
               c[LK_OP_GATE_DS] == 0 && c[LK_OP_POOL_GRAD] == 1,
           "squeezes pool what they read, their gradients too");
    tap_ok(c[LK_OP_NORM_GATE] == BLOCKS + 1 && c[LK_OP_GATE] == 0 &&
               c[LK_OP_GATE_NORM_GRAD] == BLOCKS + 1 && c[LK_OP_GATE_DX] == 0,
           "gates normalise, and the gradients of norms make their cotangents");
    tap_ok(c[LK_OP_BATCH_NORM] == 0 && c[LK_OP_BATCH_MOMENTS] == 1 &&
               c[LK_OP_BATCH_APPLY] == BLOCKS && c[LK_OP_BATCH_NORM_GRAD] == 2 * BLOCKS,
           "nothing is left of the norms before them, but what no other node measures");
    tap_ok(fused.bytes < plain.bytes, "%.0f bytes are moved, not %.0f", fused.bytes, plain.bytes);
    tap_ok(fused.loss == plain.loss, "the loss keeps its bits");
    check_same(&fused, &plain, type, false);
    float *once = NULL;
    for (int again = 0; again < 2; again++) {
        fused = (outcome){.loss = NAN};
        status = run(NULL, squeezes_loss, type, true, again, &fused);
        if (!again) once = fused.gradient;
    }
    tap_ok(status == LK_OK && c[LK_OP_SQUEEZE_EXCITE] == 2 * BLOCKS + 1 &&
               c[LK_OP_NORM_GATE] == 2 * BLOCKS + 1 && c[LK_OP_GATE_NORM_GRAD] == BLOCKS + 1 &&
               c[LK_OP_BATCH_NORM] == 0 &&
               memcmp(once, fused.gradient, (size_t)fused.total * sizeof *once) == 0,
           "computed again in the backward pass they give the same bits %s", lk_error_text());
    free(once);
    free(fused.gradient);
}

/* What stays apart, and what is joined nevertheless. */
static void check_squeezes_apart(void)
{
    enum { THIRD, LAYER, RUNNING, ECA, FACTORS, POOLED, KINDS };
    static const char *const name[] = {"an image that others read too", "of a layer norm",
                                       "running statistics", "factors of another kind",
                                       "factors that others read too",
                                       "a mean that another node reads first"};
    static const int expected[KINDS][5] = {
        /* SQUEEZE_EXCITE, its gradient, NORM_GATE, GATE_NORM_GRAD, BATCH_NORM */
        {1, 1, 0, 0, 1}, {1, 1, 0, 0, 0}, {1, 0, 0, 0, 1},
        {0, 0, 0, 0, 1}, {1, 0, 0, 0, 1}, {0, 1, 0, 0, 1}};
    int64_t c = WIDTH, square[2] = {c, c};
    for (int i = 0; i < KINDS; i++) {
        lk_params *params = lk_params_create();
        lk_graph *g = lk_graph_create(params, i != RUNNING);
        lk_tensor *x = lk_input(g, "images", LK_F32, 4, (int64_t[]){BATCH, 5, 7, WIDTH}), *p, *s;
        x = i == LAYER ? lk_norm(g, x, lk_parameter(g, "w", 1, &c, LK_INIT_ONE, 0, false), NULL,
                                 LK_LAYERNORM, 1e-5f)
                       : normed(g, x, LK_RELU);
        p = lk_pool(g, x);
        lk_tensor *other = i == POOLED ? lk_linear(g, p, weight(g, "other", 2, square), NULL,
                                                   LK_LINEAR)
                                       : NULL;
        s = i == ECA ? lk_activate(g, lk_channel_conv(g, p, weight(g, "eca", 1, (int64_t[]){3})),
                                   LK_SIGMOID)
                     : lk_excite(g, p, weight(g, "w1", 2, square),
                                 lk_parameter(g, "b1", 1, &c, LK_INIT_ZERO, 0, false),
                                 weight(g, "w2", 2, square),
                                 lk_parameter(g, "b2", 1, &c, LK_INIT_ZERO, 0, false));
        lk_tensor *y = lk_gate(g, x, s);
        if (i == THIRD) y = lk_add(g, x, y);
        if (i == FACTORS) y = lk_gate(g, y, s);
        if (i == POOLED) y = lk_gate(g, y, other);
        if (i != RUNNING) lk_autodiff(g, y, lk_input(g, "dy", LK_F32, 4, y->dim), 0, NULL, NULL);
        int count[LK_OPS] = {0};
        lk_status status = lk_fuse(g);
        for (lk_node *n = g->first; n; n = n->next) count[n->op]++;
        const int found[5] = {count[LK_OP_SQUEEZE_EXCITE], count[LK_OP_SQUEEZE_EXCITE_DX],
                              count[LK_OP_NORM_GATE], count[LK_OP_GATE_NORM_GRAD],
                              count[LK_OP_BATCH_NORM]};
        tap_ok(status == LK_OK && memcmp(found, expected[i], sizeof found) == 0,
               "squeezes, %s: %d %d %d %d %d %s", name[i], found[0], found[1], found[2], found[3],
               found[4], lk_error_text());
        lk_graph_destroy(g);
        lk_params_destroy(params);
    }
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
        m.position = variant & 2 ? "rope" : "alibi";
        for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check(&m, type);
    }
    check_ropes();
    check_biases();
    check_apart();
    for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check_images(type);
    for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check_blocks(type);
    for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check_squeezes(type);
    check_squeezes_apart();
    return tap_done();
}
