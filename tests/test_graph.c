/* Tests of the graph core alone: shape errors, parameter layout and initialisation, autocast
 * types, and the memory planner on random graphs. */
#include "base/half.h"
#include "ops/ops.h"
#include "tests/tap.h"

#include <stdlib.h>
#include <string.h>

/* ---- errors -------------------------------------------------------------------------------- */

static bool error_names(lk_graph *g, const char *const *word)
{
    bool good = lk_graph_status(g) == LK_E_INPUT;
    for (; *word; word++) good &= strstr(lk_error_text(), *word) != NULL;
    if (!good) printf("# status %d, text: %s\n", (int)lk_graph_status(g), lk_error_text());
    lk_error_clear();
    return good;
}

static lk_tensor *bad_linear(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "x", LK_F32, 3, (int64_t[]){2, 3, 8});
    lk_tensor *w = lk_parameter(g, "weight", 2, (int64_t[]){5, 9}, LK_INIT_ZERO, 0, true);
    return lk_linear(g, x, w, NULL, LK_LINEAR);
}

static lk_tensor *bad_bias(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "x", LK_F32, 2, (int64_t[]){2, 8});
    lk_tensor *w = lk_parameter(g, "weight", 2, (int64_t[]){5, 8}, LK_INIT_ZERO, 0, true);
    lk_tensor *b = lk_parameter(g, "bias", 1, (int64_t[]){6}, LK_INIT_ZERO, 0, false);
    return lk_linear(g, x, w, b, LK_LINEAR);
}

static lk_tensor *bad_norm(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "x", LK_F32, 2, (int64_t[]){2, 8});
    lk_tensor *w = lk_parameter(g, "weight", 1, (int64_t[]){7}, LK_INIT_ONE, 0, false);
    return lk_norm(g, x, w, NULL, LK_RMSNORM, 1e-5f);
}

static lk_tensor *bad_add(lk_graph *g)
{
    lk_tensor *a = lk_input(g, "a", LK_F32, 2, (int64_t[]){2, 8});
    lk_tensor *b = lk_input(g, "b", LK_F32, 2, (int64_t[]){2, 9});
    return lk_add(g, a, b);
}

static lk_tensor *bad_residual(lk_graph *g)
{
    lk_tensor *a = lk_input(g, "a", LK_F32, 2, (int64_t[]){2, 8});
    lk_tensor *b = lk_input(g, "b", LK_F32, 3, (int64_t[]){2, 8, 1});
    return lk_residual(g, a, b, 0);
}

static lk_tensor *bad_attention(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "qkv", LK_F32, 3, (int64_t[]){2, 4, 50});
    return lk_attention(g, x, 4, 4, true, false, 0);
}

static lk_tensor *no_heads(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "qkv", LK_F32, 3, (int64_t[]){2, 4, 48});
    return lk_attention(g, x, 0, 4, true, false, 0);
}

/* 16 heads over 8192 tokens: of 16 samples, every weight has its random word */
static lk_tensor *attention(lk_graph *g, int64_t samples, float p)
{
    lk_tensor *x = lk_input(g, "qkv", LK_F16, 3, (int64_t[]){samples, 8192, 768});
    return lk_attention(g, x, 16, 16, true, false, p);
}

static lk_tensor *bad_weights(lk_graph *g) { return attention(g, 17, 0.1f); }

static lk_tensor *bad_dropout(lk_graph *g)
{
    return lk_dropout(g, lk_input(g, "x", LK_F16, 2, (int64_t[]){131073, 131072}), 0.1f);
}

static lk_tensor *bad_branch(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "x", LK_F16, 2, (int64_t[]){131073, 131072});
    return lk_residual(g, x, x, 0.1f);
}

static lk_tensor *bad_kv_heads(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "qkv", LK_F32, 3, (int64_t[]){2, 4, 160});
    return lk_attention(g, x, 4, 3, true, false, 0);
}

static lk_tensor *cross(lk_graph *g, int64_t batch, int64_t keys, int64_t width, bool causal)
{
    lk_tensor *q = lk_input(g, "q", LK_F32, 3, (int64_t[]){2, 9, 64});
    lk_tensor *kv = lk_input(g, "kv", LK_F32, 3, (int64_t[]){batch, keys, width});
    return lk_cross_attention(g, q, kv, 4, 2, causal, false, 0);
}

static lk_tensor *bad_cross_batch(lk_graph *g) { return cross(g, 3, 7, 64, false); }
static lk_tensor *bad_cross_width(lk_graph *g) { return cross(g, 2, 7, 128, false); }
static lk_tensor *bad_cross_causal(lk_graph *g) { return cross(g, 2, 8, 64, true); }

static lk_tensor *bad_rope(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "qkv", LK_F32, 3, (int64_t[]){2, 4, 36});
    return lk_rope(g, x, 4, 4, 10000, false); /* head size 3 */
}

static lk_tensor *rope_no_heads(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "qkv", LK_F32, 3, (int64_t[]){2, 4, 36});
    return lk_rope(g, x, 0, 0, 10000, false);
}

static lk_tensor *bad_classes(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "logits", LK_F32, 2, (int64_t[]){6, 10});
    lk_tensor *t = lk_input(g, "targets", LK_I32, 1, (int64_t[]){6});
    return lk_cross_entropy(g, x, t, 11);
}

static lk_tensor *bad_targets(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "logits", LK_F32, 2, (int64_t[]){6, 10});
    lk_tensor *t = lk_input(g, "targets", LK_I32, 1, (int64_t[]){7});
    return lk_cross_entropy(g, x, t, 10);
}

static lk_tensor *bad_swiglu(lk_graph *g)
{
    return lk_swiglu(g, lk_input(g, "x", LK_F32, 2, (int64_t[]){6, 7}));
}

static lk_tensor *bad_embed(lk_graph *g)
{
    lk_tensor *t = lk_input(g, "tokens", LK_F32, 2, (int64_t[]){6, 7});
    lk_tensor *w = lk_parameter(g, "weight", 2, (int64_t[]){5, 8}, LK_INIT_ZERO, 0, true);
    return lk_embed(g, t, w, LK_POSITION_NONE, NULL);
}

static lk_tensor *bad_positions(lk_graph *g)
{
    lk_tensor *t = lk_input(g, "tokens", LK_I32, 2, (int64_t[]){6, 7});
    lk_tensor *w = lk_parameter(g, "weight", 2, (int64_t[]){5, 8}, LK_INIT_ZERO, 0, true);
    lk_tensor *p = lk_parameter(g, "positions", 2, (int64_t[]){6, 8}, LK_INIT_ZERO, 0, true);
    return lk_embed(g, t, w, LK_POSITION_TABLE, p);
}

static lk_tensor *bad_reshape(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "x", LK_F32, 2, (int64_t[]){6, 7});
    return lk_reshape(g, x, 1, (int64_t[]){41});
}

static lk_tensor *bad_parameter(lk_graph *g)
{
    lk_parameter(g, "weight", 2, (int64_t[]){5, 8}, LK_INIT_ZERO, 0, true);
    return lk_parameter(g, "weight", 2, (int64_t[]){5, 9}, LK_INIT_ZERO, 0, true);
}

static lk_tensor *bad_windows(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "data", LK_U8, 2, (int64_t[]){3, 7}), *a = NULL, *b = NULL;
    lk_windows(g, x, 3, 7, false, LK_PURPOSE_ORDER, 0, 0, &a, &b);
    return a;
}

/* ---- on images */

static lk_tensor *image(lk_graph *g)
{
    return lk_input(g, "x", LK_F32, 4, (int64_t[]){2, 9, 7, 16});
}

static lk_tensor *zeros(lk_graph *g, int dims, const int64_t *dim)
{
    return lk_parameter(g, "weight", dims, dim, LK_INIT_ZERO, 0, true);
}

static lk_tensor *bad_conv(lk_graph *g)
{
    return lk_conv(g, image(g), zeros(g, 4, (int64_t[]){8, 3, 3, 15}), 1, 1);
}

static lk_tensor *bad_window(lk_graph *g)
{
    return lk_conv(g, image(g), zeros(g, 4, (int64_t[]){8, 3, 11, 16}), 1, 1);
}

static lk_tensor *bad_dwconv(lk_graph *g)
{
    return lk_dwconv(g, image(g), zeros(g, 3, (int64_t[]){3, 5, 16}), 1, 1);
}

static lk_tensor *bad_channel_conv(lk_graph *g)
{
    return lk_channel_conv(g, lk_pool(g, image(g)), zeros(g, 1, (int64_t[]){4}));
}

static lk_tensor *bad_linear_activation(lk_graph *g)
{
    return lk_linear(g, image(g), zeros(g, 2, (int64_t[]){8, 16}), NULL, LK_RELU);
}

static lk_tensor *batch_norm(lk_graph *g, lk_tensor *x, int64_t mean, bool statistic)
{
    int64_t c = lk_cols(x);
    lk_tensor *w = lk_parameter(g, "w", 1, &c, LK_INIT_ONE, 0, false);
    lk_tensor *var = statistic ? lk_statistic(g, "var", c, LK_INIT_ONE) : w;
    return lk_batch_norm(g, x, w, w, lk_statistic(g, "mean", mean, LK_INIT_ZERO), var, 1e-5f,
                         LK_RELU);
}

static lk_tensor *bad_batch_norm(lk_graph *g) { return batch_norm(g, image(g), 17, true); }
static lk_tensor *bad_statistic(lk_graph *g) { return batch_norm(g, image(g), 16, false); }
static lk_tensor *bad_rows(lk_graph *g)
{
    return batch_norm(g, lk_input(g, "x", LK_F32, 2, (int64_t[]){1, 4}), 4, true);
}

static lk_tensor *bad_pool(lk_graph *g)
{
    return lk_pool(g, lk_input(g, "x", LK_F32, 3, (int64_t[]){2, 9, 7}));
}

static lk_tensor *bad_max_pool(lk_graph *g) { return lk_max_pool(g, image(g), 3, 2, 3); }

static lk_tensor *bad_gate(lk_graph *g)
{
    return lk_gate(g, image(g), lk_input(g, "s", LK_F32, 2, (int64_t[]){2, 15}));
}

static lk_tensor *bad_soft(lk_graph *g)
{
    lk_tensor *x = lk_input(g, "logits", LK_F32, 2, (int64_t[]){6, 10});
    lk_tensor *t = lk_input(g, "targets", LK_F32, 2, (int64_t[]){6, 11});
    return lk_soft_cross_entropy(g, x, t, lk_input(g, "l", LK_I32, 1, (int64_t[]){6}), NULL);
}

static lk_tensor *images(lk_graph *g, int64_t labels, int64_t shard, float crop)
{
    lk_tensor *x = NULL, *t = NULL, *l = NULL;
    lk_image_source s = {2, 9, 7, 5, shard, true, LK_PURPOSE_ORDER, 0, {.crop = crop}};
    lk_images(g, &s, lk_input(g, "data", LK_U8, 4, (int64_t[]){12, 9, 7, 3}),
              lk_input(g, "labels", LK_U16, 1, &labels),
              lk_input(g, "scale", LK_F32, 2, (int64_t[]){2, 3}), &x, &t, &l);
    return x;
}

static lk_tensor *bad_labels(lk_graph *g) { return images(g, 11, 12, 1); }
static lk_tensor *bad_shards(lk_graph *g) { return images(g, 12, 5, 1); }
static lk_tensor *bad_crop(lk_graph *g) { return images(g, 12, 6, 0); }

static const struct {
    const char *what;
    lk_tensor *(*build)(lk_graph *g);
    const char *word[4]; /* the message must hold all of them, and the scope */
} mistakes[] = {
    {"linear, inner size", bad_linear, {"[2, 3, 8]", "[5, 9]"}},
    {"linear, bias", bad_bias, {"[5, 8]", "[6]"}},
    {"norm", bad_norm, {"[2, 8]", "[7]"}},
    {"add", bad_add, {"[2, 8]", "[2, 9]"}},
    {"residual", bad_residual, {"[2, 8]", "[2, 8, 1]"}},
    {"attention, width", bad_attention, {"[2, 4, 50]", "4 heads"}},
    {"attention, kv heads", bad_kv_heads, {"4 heads", "3 kv heads"}},
    {"cross attention, batch", bad_cross_batch, {"[2, 9, 64]", "[3, 7, 64]"}},
    {"cross attention, width", bad_cross_width, {"[2, 7, 128]", "[B, T, 4 D]", "[B, S, 4 D]"}},
    {"cross attention, causal", bad_cross_causal, {"9 queries", "8 keys", "at least as many"}},
    {"attention, dropout", bad_weights, {"2228224 x 8192", "17179869184", "train.leaves"}},
    {"dropout", bad_dropout, {"131073 x 131072", "17179869184", "train.leaves"}},
    {"residual, dropout", bad_branch, {"17180000256", "17179869184", "train.leaves"}},
    {"rope, odd head", bad_rope, {"[2, 4, 36]", "[B, T, 12 D]"}},
    {"attention, no heads", no_heads, {"[2, 4, 48]", "0 heads", "[B, T, 8 D]"}},
    {"rope, no heads", rope_no_heads, {"[2, 4, 36]", "0 heads"}},
    {"cross-entropy, classes", bad_classes, {"[6, 10]", "11"}},
    {"cross-entropy, targets", bad_targets, {"[6, 10]", "[7]"}},
    {"swiglu", bad_swiglu, {"7"}},
    {"embed, type of tokens", bad_embed, {"[6, 7]", "[5, 8]"}},
    {"embed, positions", bad_positions, {"7"}},
    {"reshape", bad_reshape, {"[6, 7]", "41"}},
    {"parameter, other shape", bad_parameter, {"weight"}},
    {"windows", bad_windows, {"8"}},
    {"linear, activation", bad_linear_activation, {"activation"}},
    {"conv, channels", bad_conv, {"[2, 9, 7, 16]", "[8, 3, 3, 15]"}},
    {"conv, window", bad_window, {"[2, 9, 7, 16]", "3 x 11"}},
    {"dwconv, not square", bad_dwconv, {"[2, 9, 7, 16]", "[3, 5, 16]"}},
    {"channel_conv, even", bad_channel_conv, {"[2, 16]", "[4]"}},
    {"batch_norm, channels", bad_batch_norm, {"[2, 9, 7, 16]", "mean [17]"}},
    {"batch_norm, no statistic", bad_statistic, {"running variance"}},
    {"batch_norm, one row", bad_rows, {"two values"}},
    {"pool, dimensions", bad_pool, {"[2, 9, 7]"}},
    {"max_pool, padding", bad_max_pool, {"[2, 9, 7, 16]", "window 3", "padding 3"}},
    {"gate", bad_gate, {"[2, 9, 7, 16]", "[2, 15]"}},
    {"soft_cross_entropy", bad_soft, {"[6, 10]", "[6, 11]"}},
    {"images, labels", bad_labels, {"[12, 9, 7, 3]", "[11]"}},
    {"images, shards", bad_shards, {"[12, 9, 7, 3]", "5"}},
    {"images, crop", bad_crop, {"crop 0"}},
};

static void check_mistakes(void)
{
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        lk_params *p = lk_params_create();
        lk_graph *g = lk_graph_create(p, true);
        lk_scope_push(g, "blocks");
        lk_scope_push(g, "%d", 3);
        lk_scope_push(g, "attn");
        lk_tensor *t = mistakes[i].build(g);
        const char *word[6] = {"blocks.3.attn"};
        for (int k = 0; k < 4; k++) word[k + 1] = mistakes[i].word[k];
        tap_ok(error_names(g, word) && (!t || lk_graph_status(g) != LK_OK),
               "error names scope and shapes: %s", mistakes[i].what);
        int tensors = g->tensors;
        lk_tensor *after = lk_input(g, "later", LK_F32, 1, (int64_t[]){4});
        tap_ok(after == NULL && lk_swiglu(g, after) == NULL && g->tensors == tensors,
               "the error is sticky: %s", mistakes[i].what);
        lk_graph_destroy(g);
        lk_params_destroy(p);
    }
    lk_error_clear();
}

/* What is as large as there are random words, or needs none, is no mistake. */
static void check_large_dropout(void)
{
    lk_params *p = lk_params_create();
    lk_graph *training = lk_graph_create(p, true), *other = lk_graph_create(p, false);
    lk_tensor *x = lk_input(training, "x", LK_F16, 2, (int64_t[]){131073, 131072});
    tap_ok(attention(training, 16, 0.1f) && attention(training, 17, 0) &&
               lk_residual(training, x, x, 0) && lk_stochastic_depth(training, x, x, 0.1f) &&
               attention(other, 17, 0.1f) && lk_dropout(other, x, 0.1f) == x,
           "as many elements as random words, and more without dropout or training %s",
           lk_error_text());
    lk_graph_destroy(training);
    lk_graph_destroy(other);
    lk_params_destroy(p);
}

/* ---- parameters ---------------------------------------------------------------------------- */

enum { PARAMS = 7 };
static const struct {
    const char *scope;
    int64_t rows, cols; /* cols 0: one dimension */
    lk_init init;
    bool decay;
} declared[PARAMS] = {
    {"a", 5, 0, LK_INIT_ZERO, false},    {"b", 37, 11, LK_INIT_NORMAL, true},
    {"c", 64, 0, LK_INIT_ONE, false},    {"d", 1, 1, LK_INIT_NORMAL, true},
    {"e", 128, 64, LK_INIT_NORMAL, true}, {"f", 65, 0, LK_INIT_NORMAL, false},
    {"g", 3, 7, LK_INIT_ZERO, true},
};

static lk_params *declare_all(bool noise)
{
    lk_params *p = lk_params_create();
    lk_graph *g = lk_graph_create(p, !noise);
    for (int i = 0; i < PARAMS; i++) {
        if (noise) { /* other tensors, nodes and dropout sites between the declarations */
            lk_tensor *x = lk_input(g, "x", LK_F32, 1, (int64_t[]){4 + i});
            lk_add(g, x, x);
            g->sites += 3;
        }
        lk_scope_push(g, "%s", declared[i].scope);
        lk_parameter(g, "weight", declared[i].cols ? 2 : 1,
                     (int64_t[]){declared[i].rows, declared[i].cols}, declared[i].init, 0.25f,
                     declared[i].decay);
        lk_scope_pop(g);
    }
    lk_graph_destroy(g);
    lk_params_layout(p);
    return p;
}

static void check_layout(void)
{
    lk_params *p = declare_all(false);
    tap_ok(p->count == PARAMS && p->frozen, "every parameter is declared once");
    bool aligned = true, order = true, apart = true, names = true, counts = true;
    for (int i = 0; i < p->count; i++) {
        const lk_param *q = p->item[i];
        char name[32];
        snprintf(name, sizeof name, "%s.weight", declared[i].scope);
        names &= strcmp(q->name, name) == 0 && lk_params_find(p, name) == q && q->index == i;
        counts &= q->count == declared[i].rows * (declared[i].cols ? declared[i].cols : 1);
        aligned &= q->offset % 64 == 0;
        order &= q->decay ? q->offset + q->count <= p->decayed : q->offset >= p->decayed;
        order &= q->offset + q->count <= p->total;
        for (int k = 0; k < i; k++) {
            const lk_param *o = p->item[k];
            apart &= o->offset + o->count <= q->offset || q->offset + q->count <= o->offset;
        }
    }
    tap_ok(names, "parameters are named by scope and found by name");
    tap_ok(counts, "parameters have the declared number of floats");
    tap_ok(aligned, "every parameter starts at a multiple of 64 floats");
    tap_ok(order, "decayed parameters come first");
    tap_ok(apart, "parameters do not overlap");
    tap_ok(p->total % 16384 == 0, "the flat buffer is padded");
    tap_ok(lk_params_find(p, "nothing") == NULL, "an unknown parameter is not found");

    lk_graph *g = lk_graph_create(p, false);
    lk_scope_push(g, "b");
    lk_tensor *t = lk_parameter(g, "weight", 2, (int64_t[]){37, 11}, LK_INIT_NORMAL, 0.25f, true);
    tap_ok(t && t->param == p->item[1], "a second graph looks parameters up");
    lk_parameter(g, "other", 1, (int64_t[]){3}, LK_INIT_ZERO, 0, false);
    tap_ok(lk_graph_status(g) == LK_E_INPUT && strstr(lk_error_text(), "b.other"),
           "a second graph may not add parameters");
    lk_error_clear();
    lk_graph_destroy(g);
    lk_params_destroy(p);
}

static void check_initialisation(void)
{
    lk_params *p = declare_all(false), *q = declare_all(true);
    size_t bytes = (size_t)p->total * sizeof(float);
    float *a = malloc(bytes), *b = malloc(bytes), *c = malloc(bytes);
    memset(a, 0xFF, bytes);
    lk_params_initialise(p, 42, a);
    lk_params_initialise(q, 42, b);
    lk_params_initialise(p, 43, c);
    tap_ok(p->total == q->total && memcmp(a, b, bytes) == 0,
           "initial values depend on seed and index only");
    tap_ok(memcmp(a, c, bytes) != 0, "another seed gives other values");
    bool constants = true;
    const lk_param *one = p->item[2], *zero = p->item[6], *wide = p->item[4];
    for (int64_t k = 0; k < one->count; k++) constants &= a[one->offset + k] == 1.0f;
    for (int64_t k = 0; k < zero->count; k++) constants &= a[zero->offset + k] == 0.0f;
    tap_ok(constants, "ones are one and zeros are zero");
    double sum = 0, square = 0, n = (double)wide->count;
    for (int64_t k = 0; k < wide->count; k++) {
        double v = (double)a[wide->offset + k];
        sum += v / n;
        square += v * v / n;
    }
    tap_ok(fabs(sum) < 4 * 0.25 / sqrt(n) && fabs(sqrt(square) - 0.25) < 4 * 0.25 / sqrt(2 * n),
           "normal values have mean %.4f and deviation %.4f", sum, sqrt(square));
    char *owned = calloc(1, (size_t)p->total);
    bool gaps = true;
    for (int i = 0; i < p->count; i++)
        memset(owned + p->item[i]->offset, 1, (size_t)p->item[i]->count);
    for (int64_t k = 0; k < p->total; k++) gaps &= owned[k] || a[k] == 0.0f;
    tap_ok(gaps, "gaps between parameters are zero");
    free(owned);
    free(a);
    free(b);
    free(c);
    lk_params_destroy(p);
    lk_params_destroy(q);
}

/* ---- autocast ------------------------------------------------------------------------------ */

static const lk_node *find(const lk_graph *g, lk_op op)
{
    for (const lk_node *n = g->first; n; n = n->next)
        if (n->op == op) return n;
    return NULL;
}

static void check_autocast(lk_dtype half)
{
    const char *name = lk_dtype_name(half);
    lk_params *p = lk_params_create();
    lk_graph *g = lk_graph_create(p, true);
    lk_tensor *x = lk_input(g, "x", LK_F32, 3, (int64_t[]){2, 4, 16});
    lk_tensor *targets = lk_input(g, "targets", LK_I32, 2, (int64_t[]){2, 4});
    lk_tensor *w = lk_parameter(g, "w", 2, (int64_t[]){16, 16}, LK_INIT_NORMAL, 1, true);
    lk_tensor *b = lk_parameter(g, "b", 1, (int64_t[]){16}, LK_INIT_ZERO, 0, false);
    lk_tensor *n = lk_parameter(g, "n", 1, (int64_t[]){16}, LK_INIT_ONE, 0, false);
    lk_tensor *h = lk_norm(g, x, n, NULL, LK_LAYERNORM, 1e-5f);
    h = lk_linear(g, h, w, b, LK_GELU);
    h = lk_residual(g, x, h, 0.1f);
    h = lk_add(g, h, h);
    h = lk_reshape(g, h, 2, (int64_t[]){8, 16});
    lk_tensor *loss = lk_cross_entropy(g, h, targets, 16), *dx = NULL;
    lk_graph_metric(g, loss, LK_METRIC_LOSS);
    lk_status status = lk_autocast(g, half);
    if (status == LK_OK) status = lk_autodiff(g, loss, lk_loss_scale(g), 1, &x, &dx);
    tap_ok(status == LK_OK, "%s graph builds %s", name, lk_error_text());
    if (status == LK_OK) {
        const lk_node *norm = find(g, LK_OP_NORM), *linear = find(g, LK_OP_LINEAR);
        const lk_node *xent = find(g, LK_OP_XENT), *dw = find(g, LK_OP_LINEAR_DW);
        tap_ok(norm->in[0]->dtype == half && norm->out[0]->dtype == half, "%s norm data", name);
        tap_ok(norm->in[1]->dtype == LK_F32 && norm->in[1]->region == LK_REGION_PARAM &&
                   norm->out[1]->dtype == LK_F32 && norm->out[2]->dtype == LK_F32,
               "%s norm weights and statistics stay f32", name);
        tap_ok(linear->in[1]->dtype == half && linear->in[1]->region == LK_REGION_SHADOW &&
                   linear->in[2]->region == LK_REGION_SHADOW && linear->out[0]->dtype == half &&
                   linear->out[1]->dtype == half,
               "%s linear reads the shadow and writes half", name);
        tap_ok(find(g, LK_OP_ADD)->out[0]->dtype == half, "%s add keeps", name);
        tap_ok(xent->in[0]->dtype == half && xent->out[0]->dtype == LK_F32 &&
                   xent->out[1]->dtype == LK_F32,
               "%s cross-entropy: half in, f32 out", name);
        tap_ok(dw->out[0]->dtype == LK_F32 && dw->out[0]->region == LK_REGION_GRAD &&
                   dw->in[0]->dtype == half && dw->in[1]->dtype == half,
               "%s weight gradients are f32 from half", name);
        tap_ok(dx && dx->dtype == LK_F32, "%s the gradient of an f32 input is f32", name);
        bool agree = true; /* X tensors of a node agree */
        for (const lk_node *k = g->first; k; k = k->next)
            for (int i = 0; i < k->inputs; i++)
                if (k->in[i] && k->in[i]->base)
                    agree &= k->in[i]->dtype == lk_root(k->in[i])->dtype;
        tap_ok(agree, "%s a reshape has its base's type", name);
    }
    lk_error_clear();
    lk_graph_destroy(g);
    lk_params_destroy(p);
}

/* ---- the planner --------------------------------------------------------------------------- */

static uint32_t draw_state;
static uint32_t draw(uint32_t below) /* a number in [0, below) */
{
    return lk_philox(17, draw_state++, 0, 0, 0).v[0] % below;
}

/* A random network over [2, 4, 8 m] tensors that ends in one tensor. */
static lk_tensor *random_network(lk_graph *g, int ops)
{
    lk_tensor *pool[64] = {lk_input(g, "x", LK_F32, 3, (int64_t[]){2, 4, 24})};
    int count = 1;
    for (int i = 0; i < ops; i++) {
        lk_tensor *a = pool[draw((uint32_t)count)], *y = NULL;
        lk_scope_push(g, "%d", i);
        int64_t c = lk_cols(a), m = 24 * (1 + draw(4));
        switch (draw(8)) {
        case 0:
        case 1: {
            lk_tensor *w = lk_parameter(g, "w", 2, (int64_t[]){m, c}, LK_INIT_NORMAL, 1, true);
            lk_tensor *b = lk_parameter(g, "b", 1, &m, LK_INIT_ZERO, 0, false);
            y = lk_linear(g, a, w, b, draw(2) ? LK_GELU : LK_LINEAR);
            break;
        }
        case 2: {
            lk_tensor *w = lk_parameter(g, "n", 1, &c, LK_INIT_ONE, 0, false);
            y = lk_norm(g, a, w, NULL, draw(2) ? LK_LAYERNORM : LK_RMSNORM, 1e-5f);
            break;
        }
        case 3: y = lk_dropout(g, a, 0.5f); break;
        case 4:
            y = c % 3 ? lk_dropout(g, a, 0.1f) : lk_attention(g, a, 1, 1, true, false, 0.1f);
            break;
        case 5:
            y = lk_reshape(g, a, 2, (int64_t[]){8, c});
            y = lk_dropout(g, y, 0.5f);
            y = lk_reshape(g, y, 3, (int64_t[]){2, 4, c});
            break;
        default: { /* join two of one width */
            lk_tensor *b = a;
            for (int tries = 0; tries < 8; tries++) {
                lk_tensor *t = pool[draw((uint32_t)count)];
                if (lk_cols(t) == c) b = t;
            }
            y = draw(2) ? lk_add(g, a, b) : lk_residual(g, a, b, draw(2) ? 0.1f : 0);
        }
        }
        lk_scope_pop(g);
        if (!y) return NULL;
        pool[count < 64 ? count++ : (int)draw(64)] = y;
    }
    return pool[count - 1];
}

/* Replay the graph on a map from 256-byte blocks of the arena to the tensor that owns them: every
 * input must still own its blocks when it is read, and all outputs of a node be apart. */
static bool replay(const lk_graph *g, size_t arena)
{
    size_t blocks = arena / 256;
    int *owner = malloc((blocks + 1) * sizeof *owner);
    for (size_t i = 0; i < blocks; i++) owner[i] = -1;
    bool good = true;
    for (const lk_node *n = g->first; n && good; n = n->next) {
        for (int pass = 0; pass < 3; pass++) /* read, write, and what was written is whole */
            for (int i = 0; i < (pass == 0 ? n->inputs : n->outputs); i++) {
                lk_tensor *t = lk_root(pass == 0 ? n->in[i] : n->out[i]);
                if (!t || t->region != LK_REGION_ARENA) continue;
                good &= t->offset % 256 == 0 && t->offset + lk_bytes(t) <= arena;
                for (size_t k = t->offset / 256; good && k * 256 < t->offset + lk_bytes(t); k++) {
                    if (pass == 1) owner[k] = t->id;
                    else good &= owner[k] == t->id;
                }
                if (!good) printf("# %s %s tensor %d\n", n->scope, lk_op_name(n->op), t->id);
            }
        /* an output may lie on an input only where the rule allows it: output 0, that input */
        for (int o = 0; o < n->outputs; o++)
            for (int i = 0; i < n->inputs && good; i++) {
                lk_tensor *out = n->out[o], *in = lk_root(n->in[i]);
                if (!out || !in || out->region != LK_REGION_ARENA ||
                    in->region != LK_REGION_ARENA)
                    continue;
                bool meet = out->offset < in->offset + lk_bytes(in) &&
                            in->offset < out->offset + lk_bytes(out);
                int k = lk_op_rule(n->op)->in_place;
                bool allowed = o == 0 && k >= 0 && lk_root(n->in[k]) == in &&
                               out->offset == in->offset && lk_bytes(out) == lk_bytes(in);
                if (meet && !allowed) {
                    printf("# %s %s output %d overlaps input %d\n", n->scope, lk_op_name(n->op),
                           o, i);
                    good = false;
                }
            }
    }
    /* tensors nothing reads are alive to the end */
    char *read = calloc((size_t)g->tensors, 1);
    for (const lk_node *n = g->first; n; n = n->next)
        for (int i = 0; i < n->inputs; i++)
            if (n->in[i]) read[lk_root(n->in[i])->id] = 1;
    for (const lk_node *n = g->first; n && good; n = n->next)
        for (int i = 0; i < n->outputs; i++) {
            lk_tensor *t = n->out[i];
            if (!t || t->region != LK_REGION_ARENA || read[t->id]) continue;
            for (size_t k = t->offset / 256; good && k * 256 < t->offset + lk_bytes(t); k++)
                good &= owner[k] == t->id;
        }
    free(read);
    free(owner);
    return good;
}

static void check_planner(void)
{
    int good = 0, planned = 0, smaller = 0;
    const int rounds = 300;
    for (int round = 0; round < rounds; round++) {
        draw_state = (uint32_t)round * 100000;
        lk_params *p = lk_params_create();
        lk_graph *g = lk_graph_create(p, true);
        lk_tensor *y = random_network(g, 5 + (int)draw(40)), *dx = NULL;
        lk_dtype type = (lk_dtype)(round % 3);
        lk_status status = lk_graph_status(g);
        if (status == LK_OK) status = lk_autocast(g, type);
        if (status == LK_OK && round % 4 != 3) {
            lk_tensor *dy = lk_input(g, "dy", LK_F32, y->dims, y->dim);
            lk_tensor *x = g->tensor[1]; /* after the state: the input */
            status = lk_autodiff(g, y, dy, 1, &x, &dx);
        }
        lk_params_layout(p);
        size_t arena = 0, sum = 0;
        if (status == LK_OK) status = lk_plan(g, &arena);
        for (int i = 0; i < g->tensors; i++)
            if (g->tensor[i]->region == LK_REGION_ARENA && !g->tensor[i]->base)
                sum += lk_bytes(g->tensor[i]);
        planned += status == LK_OK;
        if (status != LK_OK) printf("# round %d: %s\n", round, lk_error_text());
        lk_error_clear();
        good += status == LK_OK && replay(g, arena);
        smaller += arena < sum;
        lk_graph_destroy(g);
        lk_params_destroy(p);
    }
    tap_ok(planned == rounds, "%d of %d random graphs are planned", planned, rounds);
    tap_ok(good == rounds, "tensors alive together never overlap: %d of %d", good, rounds);
    tap_ok(smaller > rounds / 2, "memory is reused in %d of %d", smaller, rounds);
}

/* ---- small things -------------------------------------------------------------------------- */

static void check_halves(void)
{
    bool f16 = true, bf16 = true;
    for (uint32_t h = 0; h < 0x10000; h++) { /* every half survives the way to f32 and back */
        float a = lk_f32_from_f16((uint16_t)h), b = lk_f32_from_bf16((uint16_t)h);
        if (!isnan(a)) f16 &= lk_f16_from_f32(a) == h;
        if (!isnan(b)) bf16 &= lk_bf16_from_f32(b) == h;
    }
    tap_ok(f16 && bf16, "every f16 and bf16 value survives the way to f32 and back");
    bool nearest = true;
    for (uint32_t i = 0; i < 200000; i++) { /* the neighbours are no nearer */
        lk_u32x4 r = lk_philox(1, i, 0, 0, 0);
        float v = ldexpf(lk_uniform(r.v[0]) + 0.5f, (int)(r.v[1] % 40) - 26);
        uint16_t h = lk_f16_from_f32(v);
        if (h >= 0x7BFF) continue;
        double d = fabs((double)lk_f32_from_f16(h) - (double)v);
        double up = fabs((double)lk_f32_from_f16((uint16_t)(h + 1)) - (double)v);
        double down = h ? fabs((double)lk_f32_from_f16((uint16_t)(h - 1)) - (double)v) : up;
        nearest &= d <= up && d <= down && !((d == up || d == down) && (h & 1));
    }
    tap_ok(nearest, "f16 rounds to nearest even");
}

static void check_permutation(void)
{
    bool good = true;
    for (uint64_t n = 1; n < 300; n += 7) {
        char seen[300] = {0};
        for (uint64_t i = 0; i < n; i++) {
            uint64_t to = lk_permute(i, n, 5, LK_PURPOSE_ORDER, 2, 1);
            good &= to < n && !seen[to];
            if (to < n) seen[to] = 1;
        }
    }
    tap_ok(good, "lk_permute is a permutation");
}

/* ---- buckets ------------------------------------------------------------------------------- */

/* Number of the last node of the LEAF section that writes floats [begin, end) of the gradients. */
static int written(const lk_graph *g, int64_t begin, int64_t end)
{
    int at = 0, last = 0;
    for (const lk_node *n = g->first; n; n = n->next) {
        if (n->section != LK_LEAF) continue;
        at++;
        for (int i = 0; i < n->outputs; i++) {
            const lk_tensor *t = n->out[i];
            if (!t || t->region != LK_REGION_GRAD) continue;
            int64_t first = t->metric ? g->params->total : t->param->offset;
            if (first < end && first + lk_count(t) > begin) last = at;
        }
    }
    return last;
}

/* reversed: the parameters lie in the buffer in the order in which backward writes them. */
static void check_bucket(int64_t floats, bool reversed)
{
    lk_params *p = lk_params_create();
    lk_graph *g = lk_graph_create(p, true);
    lk_tensor *x = lk_input(g, "x", LK_F32, 2, (int64_t[]){8, 48}), *y = x, *w[6], *b[6];
    for (int i = 0; i < 6; i++) {
        lk_scope_push(g, "layer%d", i);
        w[i] = lk_parameter(g, "w", 2, (int64_t[]){48, 48}, LK_INIT_NORMAL, 1, true);
        b[i] = lk_parameter(g, "b", 1, (int64_t[]){48}, LK_INIT_ZERO, 0, false);
        lk_scope_pop(g);
    }
    for (int i = 0; i < 6; i++) {
        int k = reversed ? 5 - i : i;
        y = lk_linear(g, y, w[k], b[k], LK_GELU);
    }
    lk_tensor *targets = lk_input(g, "targets", LK_I32, 1, (int64_t[]){8});
    lk_tensor *loss = lk_cross_entropy(g, y, targets, 48);
    lk_graph_metric(g, loss, LK_METRIC_LOSS);
    lk_autodiff(g, loss, lk_loss_scale(g), 0, NULL, NULL);
    lk_params_layout(p);
    lk_bucket(g, floats, true);
    int64_t end = p->total + LK_METRIC_FLOATS, border = p->decayed, least = INT64_MAX, weights = 0;
    int at = 0, buckets = 0;
    bool in_time = true, joined = true;
    char *covered = calloc((size_t)end, 1);
    for (const lk_node *n = g->first; n; n = n->next) {
        at += n->section == LK_LEAF;
        if (n->section != LK_LAST) continue;
        int64_t first = (int64_t)(n->in[0]->offset / sizeof(float)), count = lk_count(n->in[0]);
        for (int64_t i = first; i < first + count; i++) covered[i]++;
        in_time &= at == written(g, first, first + count);
        joined &= first >= border || first + count <= border;
        if (count < least && first > 0 && first != border) least = count;
        weights += first < border;
        buckets++;
    }
    int64_t once = 0;
    for (int64_t i = 0; i < end; i++) once += covered[i] == 1;
    tap_ok(lk_graph_status(g) == LK_OK && once == end,
           "buckets of %lld: %d of them cover every gradient and the loss once", (long long)floats,
           buckets);
    tap_ok(in_time, "each is reduced right after its last gradient");
    tap_ok(joined && least >= floats && weights == (floats > 6 * 48 * 48 ? 1 : floats > 0 ? 3 : 6),
           "%lld for the weights, none too small, none across weights and biases",
           (long long)weights);
    free(covered);
    lk_graph_destroy(g);
    lk_params_destroy(p);
}

int main(void)
{
    check_mistakes();
    check_large_dropout();
    check_layout();
    check_initialisation();
    check_autocast(LK_F16);
    check_autocast(LK_BF16);
    check_planner();
    check_halves();
    check_permutation();
    for (int reversed = 0; reversed < 2; reversed++) {
        check_bucket(0, reversed);
        check_bucket(48 * 48 + 1, reversed);
        check_bucket(1 << 20, reversed);
    }
    return tap_done();
}
