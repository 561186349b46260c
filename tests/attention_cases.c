/* How the cases of rotary positions and of attention are built; see op_cases.h. Their rows are in
 * op_cases.c. */
#include "tests/op_cases.h"

#include <math.h>
#include <stdlib.h>

static int64_t rows(const op_case *c) { return c->batch * c->time; }

static ref_draw draw(const op_case *c)
{
    return (ref_draw){CASE_SEED, CASE_STEP, CASE_LEAF, 0, c->p};
}

static int64_t qkv_width(const op_case *c)
{
    return (int64_t)(c->heads + 2 * c->kv_heads) * c->head_dim;
}

static int qkv_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("qkv", CASE_INPUT, 3, {c->batch, c->time, qkv_width(c)});
    return n;
}

static float theta(const op_case *c) { return c->theta > 0 ? c->theta : 10000.0f; }

static lk_tensor *rope_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_rope(g, in[0], c->heads, c->kv_heads, theta(c), c->inverse);
}

static int64_t rope_reference(const op_case *c, double *const *in, double *y)
{
    ref_rope(c->batch, c->time, c->heads, c->kv_heads, c->head_dim, theta(c), c->inverse, in[0], y);
    return rows(c) * qkv_width(c);
}

const case_kind rope_kind = CASE_KIND("rope", qkv_tensors, rope_build, rope_reference);

/* The product that makes qkv rotates it. */
static lk_tensor *linear_rope_build(lk_graph *g, const op_case *c, lk_dtype type,
                                    lk_tensor *const *in)
{
    lk_tensor *qkv = lk_linear(g, in[0], in[1], c->bias ? in[2] : NULL, LK_LINEAR);
    return rope_build(g, c, type, &qkv);
}

static int64_t linear_rope_reference(const op_case *c, double *const *in, double *y)
{
    double *qkv = malloc((size_t)(rows(c) * c->out) * sizeof *qkv);
    ref_linear(rows(c), c->in, c->out, LK_LINEAR, in[0], in[1], c->bias ? in[2] : NULL, qkv);
    int64_t n = rope_reference(c, &qkv, y);
    free(qkv);
    return n;
}

const case_kind linear_rope_kind =
    CASE_KIND("linear rope", linear_tensors, linear_rope_build, linear_rope_reference);

static lk_tensor *attention_build(lk_graph *g, const op_case *c, lk_dtype type,
                                  lk_tensor *const *in)
{
    (void)type;
    return lk_attention(g, in[0], c->heads, c->kv_heads, c->causal, c->alibi, c->p);
}

static int64_t attention_reference(const op_case *c, double *const *in, double *y)
{
    ref_attention(c->batch, c->time, c->time, c->heads, c->kv_heads, c->head_dim, c->causal,
                  c->alibi, draw(c), in[0], NULL, y);
    return rows(c) * c->heads * c->head_dim;
}

const case_kind attention_kind =
    CASE_KIND("attention", qkv_tensors, attention_build, attention_reference);

/* The gradient of attention rotates dqkv back. */
static lk_tensor *rope_attention_build(lk_graph *g, const op_case *c, lk_dtype type,
                                       lk_tensor *const *in)
{
    lk_tensor *qkv = rope_build(g, c, type, in);
    return attention_build(g, c, type, &qkv);
}

static int64_t rope_attention_reference(const op_case *c, double *const *in, double *y)
{
    double *qkv = malloc((size_t)(rows(c) * qkv_width(c)) * sizeof *qkv);
    rope_reference(c, in, qkv);
    int64_t n = attention_reference(c, &qkv, y);
    free(qkv);
    return n;
}

const case_kind rope_attention_kind =
    CASE_KIND("rope attention", qkv_tensors, rope_attention_build, rope_attention_reference);

static int cross_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    case_role role = c->keys > 1 ? CASE_INPUT : CASE_DATA; /* of one key 0, but for rounding */
    TENSOR("q", role, 3, {c->batch, c->time, (int64_t)c->heads * c->head_dim});
    TENSOR("kv", CASE_INPUT, 3, {c->batch, c->keys, (int64_t)2 * c->kv_heads * c->head_dim});
    return n;
}

static lk_tensor *cross_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_cross_attention(g, in[0], in[1], c->heads, c->kv_heads, c->causal, c->alibi, c->p);
}

static int64_t cross_reference(const op_case *c, double *const *in, double *y)
{
    ref_attention(c->batch, c->time, c->keys, c->heads, c->kv_heads, c->head_dim, c->causal,
                  c->alibi, draw(c), in[0], in[1], y);
    return rows(c) * c->heads * c->head_dim;
}

const case_kind cross_kind =
    CASE_KIND("cross attention", cross_tensors, cross_build, cross_reference);

/* Attention of what products with a bias make: its gradient makes that of the bias. With `keys`, of
 * q to k and v of a sequence of their own; else twice with the same weights, so that gradients
 * accumulate, rotated where theta is given. */
static int biased_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    int64_t width = (int64_t)c->heads * c->head_dim, kv = (int64_t)2 * c->kv_heads * c->head_dim;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, width});
    TENSOR("w", CASE_PARAM, 2, {c->keys ? width : width + kv, width});
    TENSOR("b", CASE_PARAM, 1, {c->keys ? width : width + kv});
    if (!c->keys) return n;
    TENSOR("z", CASE_INPUT, 3, {c->batch, c->keys, width});
    TENSOR("v", CASE_PARAM, 2, {kv, width});
    TENSOR("b2", CASE_PARAM, 1, {kv});
    return n;
}

static lk_tensor *biased_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    lk_tensor *y = in[0];
    if (c->keys) {
        lk_tensor *kv = lk_linear(g, in[3], in[4], in[5], LK_LINEAR);
        lk_tensor *of[] = {lk_linear(g, y, in[1], in[2], LK_LINEAR), kv};
        return cross_build(g, c, type, of);
    }
    for (int i = 0; i < 2; i++) {
        lk_tensor *qkv = lk_linear(g, y, in[1], in[2], LK_LINEAR);
        y = (c->theta > 0 ? rope_attention_build : attention_build)(g, c, type, &qkv);
    }
    return y;
}

static int64_t biased_reference(const op_case *c, double *const *in, double *y)
{
    int64_t width = (int64_t)c->heads * c->head_dim, kv = (int64_t)2 * c->kv_heads * c->head_dim;
    double *q = malloc((size_t)(rows(c) * (width + kv)) * sizeof *q), *k = NULL;
    const double *x = in[0];
    int64_t n = 0;
    if (c->keys) {
        k = malloc((size_t)(c->batch * c->keys * kv) * sizeof *k);
        ref_linear(c->batch * c->keys, width, kv, LK_LINEAR, in[3], in[4], in[5], k);
    }
    for (int i = 0; i < (c->keys ? 1 : 2); i++, x = y) {
        double *of[] = {q, k};
        ref_linear(rows(c), width, c->keys ? width : width + kv, LK_LINEAR, x, in[1], in[2], q);
        n = (c->keys        ? cross_reference
             : c->theta > 0 ? rope_attention_reference
                            : attention_reference)(c, of, y);
    }
    free(q);
    free(k);
    return n;
}

/* Weights that make q, k and v about as large as x is. */
static void biased_prepare(const op_case *c, double *const *value)
{
    int64_t width = (int64_t)c->heads * c->head_dim, kv = (int64_t)2 * c->kv_heads * c->head_dim;
    double factor = 3 / sqrt((double)width);
    for (int64_t i = 0; i < (c->keys ? width : width + kv) * width; i++) value[1][i] *= factor;
    for (int64_t i = 0; c->keys && i < kv * width; i++) value[4][i] *= factor;
}

const case_kind biased_kind = CASE_KIND("biased attention", biased_tensors, biased_build,
                                        biased_reference, .prepare = biased_prepare);
