/* The table of cases, and how each kind of case is built; see op_cases.h. */
#include "tests/op_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ref_draw draw(const op_case *c, uint32_t site)
{
    return (ref_draw){CASE_SEED, CASE_STEP, CASE_LEAF, site, c->p};
}

static int64_t rows(const op_case *c) { return c->batch * c->time; }

/* ---- linear -------------------------------------------------------------------------------- */

int linear_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, c->in});
    TENSOR("w", CASE_PARAM, 2, {c->out, c->in});
    if (c->bias) TENSOR("b", CASE_PARAM, 1, {c->out});
    return n;
}

static lk_tensor *linear_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_linear(g, in[0], in[1], c->bias ? in[2] : NULL, c->activation);
}

static int64_t linear_reference(const op_case *c, double *const *in, double *y)
{
    ref_linear(rows(c), c->in, c->out, c->activation, in[0], in[1], c->bias ? in[2] : NULL, y);
    return rows(c) * c->out;
}

static const case_kind linear = CASE_KIND("linear", linear_tensors, linear_build, linear_reference);

/* The same weights twice: their gradients must accumulate. in == out. */
static lk_tensor *linear_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                     lk_tensor *const *in)
{
    lk_tensor *h = linear_build(g, c, type, in);
    return lk_linear(g, h, in[1], c->bias ? in[2] : NULL, c->activation);
}

static int64_t linear_twice_reference(const op_case *c, double *const *in, double *y)
{
    double *h = malloc((size_t)(rows(c) * c->out) * sizeof *h);
    linear_reference(c, in, h);
    double *again[] = {h, in[1], c->bias ? in[2] : NULL};
    int64_t n = linear_reference(c, again, y);
    free(h);
    return n;
}

static const case_kind linear_twice =
    CASE_KIND("linear twice", linear_tensors, linear_twice_build, linear_twice_reference);

/* Two layers, with gelu between: gelu' makes the gradient of the first bias. */
static int linear_pair_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, c->in});
    TENSOR("w", CASE_PARAM, 2, {c->out, c->in});
    TENSOR("b", CASE_PARAM, 1, {c->out});
    TENSOR("down", CASE_PARAM, 2, {c->in, c->out});
    return n;
}

static lk_tensor *linear_pair_build(lk_graph *g, const op_case *c, lk_dtype type,
                                    lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_linear(g, lk_linear(g, in[0], in[1], in[2], LK_GELU), in[3], NULL, LK_LINEAR);
}

static int64_t linear_pair_reference(const op_case *c, double *const *in, double *y)
{
    double *h = malloc((size_t)(rows(c) * c->out) * sizeof *h);
    ref_linear(rows(c), c->in, c->out, LK_GELU, in[0], in[1], in[2], h);
    ref_linear(rows(c), c->out, c->in, LK_LINEAR, h, in[3], NULL, y);
    free(h);
    return rows(c) * c->in;
}

static const case_kind linear_pair = CASE_KIND("linear pair", linear_pair_tensors,
                                               linear_pair_build, linear_pair_reference);

/* ---- linear, measured by the batch norm after it --------------------------------------------- */

#define EPS 1e-3f

static int linear_norm_tensors(const op_case *c, case_tensor *t)
{
    int n = linear_tensors(c, t);
    TENSOR("nw", CASE_PARAM, 1, {c->out}, .full = true, .centre = 1);
    TENSOR("nb", CASE_PARAM, 1, {c->out}, .full = true);
    TENSOR("mean", CASE_STATISTIC, 1, {c->out}, .full = true);
    TENSOR("var", CASE_STATISTIC, 1, {c->out}, .full = true, .centre = 1);
    return n;
}

static lk_tensor *linear_norm_build(lk_graph *g, const op_case *c, lk_dtype type,
                                    lk_tensor *const *in)
{
    (void)type;
    lk_tensor *y = lk_linear(g, in[0], in[1], NULL, LK_LINEAR);
    return lk_batch_norm(g, y, in[2], in[3], in[4], in[5], EPS, c->activation);
}

static int64_t linear_norm_reference(const op_case *c, double *const *in, double *y)
{
    double *h = malloc((size_t)((rows(c) + 2) * c->out) * sizeof *h);
    double *mean = h + rows(c) * c->out, *var = mean + c->out;
    ref_linear(rows(c), c->in, c->out, LK_LINEAR, in[0], in[1], NULL, h);
    ref_moments(rows(c), c->out, h, mean, var);
    ref_batch_norm(rows(c), c->out, EPS, c->activation, h, in[2], in[3], mean, var, y);
    free(h);
    return rows(c) * c->out;
}

static const case_kind linear_norm =
    CASE_KIND("linear norm", linear_norm_tensors, linear_norm_build, linear_norm_reference);

/* Means far larger than deviations, and sums that every type holds: 64 and one or two of -1, 0 and
 * 1. */
static void far_prepare(const op_case *c, double *const *value)
{
    for (int64_t i = 0; i < rows(c) * c->in; i++) {
        double *x = value[0] + i;
        *x = i % c->in == 0 ? 1 : *x < -0.4 ? -1 : *x > 0.4 ? 1 : 0;
    }
    for (int64_t i = 0; i < c->out * c->in; i++) {
        int64_t k = i % c->in, m = i / c->in % (c->in - 1) + 1;
        value[1][i] = k == 0 ? 64 : k == m ? 1 : k == (m + 1) % c->in ? -1 : 0;
    }
}

static const case_kind linear_norm_far =
    CASE_KIND("linear norm far from 0", linear_norm_tensors, linear_norm_build,
              linear_norm_reference, .prepare = far_prepare);

/* ---- swiglu -------------------------------------------------------------------------------- */

static int swiglu_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, 2 * c->out});
    return n;
}

static lk_tensor *swiglu_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_swiglu(g, in[0]);
}

static int64_t swiglu_reference(const op_case *c, double *const *in, double *y)
{
    ref_swiglu(rows(c), c->out, in[0], y);
    return rows(c) * c->out;
}

static const case_kind swiglu = CASE_KIND("swiglu", swiglu_tensors, swiglu_build, swiglu_reference);

/* ---- norm ---------------------------------------------------------------------------------- */

static int norm_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, c->in}, .centre = 0.5);
    TENSOR("w", CASE_PARAM, 1, {c->in}, .full = true, .centre = 1);
    if (c->bias) TENSOR("b", CASE_PARAM, 1, {c->in}, .full = true);
    return n;
}

static lk_tensor *norm_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_norm(g, in[0], in[1], c->bias ? in[2] : NULL, c->norm, 1e-5f);
}

static int64_t norm_reference(const op_case *c, double *const *in, double *y)
{
    ref_norm(rows(c), c->in, c->norm, 1e-5f, in[0], in[1], c->bias ? in[2] : NULL, y);
    return rows(c) * c->in;
}

static const case_kind norm = CASE_KIND("norm", norm_tensors, norm_build, norm_reference);

static lk_tensor *norm_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                   lk_tensor *const *in)
{
    lk_tensor *h = norm_build(g, c, type, in);
    return lk_norm(g, h, in[1], c->bias ? in[2] : NULL, c->norm, 1e-5f);
}

static int64_t norm_twice_reference(const op_case *c, double *const *in, double *y)
{
    double *h = malloc((size_t)(rows(c) * c->in) * sizeof *h);
    norm_reference(c, in, h);
    double *again[] = {h, in[1], c->bias ? in[2] : NULL};
    int64_t n = norm_reference(c, again, y);
    free(h);
    return n;
}

static const case_kind norm_twice =
    CASE_KIND("norm twice", norm_tensors, norm_twice_build, norm_twice_reference);

/* ---- embed --------------------------------------------------------------------------------- */

static int embed_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("tokens", CASE_INDEX, 2, {c->batch, c->time}, .below = c->out - c->out / 8);
    TENSOR("table", CASE_PARAM, 2, {c->out, c->in});
    if (c->position == LK_POSITION_TABLE) TENSOR("positions", CASE_PARAM, 2, {c->time + 3, c->in});
    return n;
}

static lk_tensor *embed_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_embed(g, in[0], in[1], c->position,
                    c->position == LK_POSITION_TABLE ? in[2] : NULL);
}

static int64_t embed_reference(const op_case *c, double *const *in, double *y)
{
    ref_embed(c->batch, c->time, c->in, c->position, in[0], in[1],
              c->position == LK_POSITION_TABLE ? in[2] : NULL, y);
    return rows(c) * c->in;
}

static const case_kind embed = CASE_KIND("embed", embed_tensors, embed_build, embed_reference);

/* A tied head: the table is read by embed and by linear. */
static lk_tensor *tied_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    return lk_linear(g, embed_build(g, c, type, in), in[1], NULL, LK_LINEAR);
}

static int64_t tied_reference(const op_case *c, double *const *in, double *y)
{
    double *h = malloc((size_t)(rows(c) * c->in) * sizeof *h);
    embed_reference(c, in, h);
    ref_linear(rows(c), c->in, c->out, LK_LINEAR, h, in[1], NULL, y);
    free(h);
    return rows(c) * c->out;
}

static const case_kind tied = CASE_KIND("embed tied", embed_tensors, tied_build, tied_reference);

/* `out`: spare rows of positions. */
static int positions_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, c->in});
    TENSOR("positions", CASE_PARAM, 2, {c->time + c->out, c->in});
    return n;
}

/* The same positions twice: of their gradients one is written and one added to it. */
static lk_tensor *positions_build(lk_graph *g, const op_case *c, lk_dtype type,
                                  lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_positions(g, lk_positions(g, in[0], in[1]), in[1]);
}

static int64_t positions_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = rows(c) * c->in;
    for (int64_t i = 0; i < n; i++) y[i] = in[0][i] + 2 * in[1][i % (c->time * c->in)];
    return n;
}

static const case_kind positions =
    CASE_KIND("positions", positions_tensors, positions_build, positions_reference);

/* ---- dropout, residual, add, cast ---------------------------------------------------------- */

static int unary_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, c->in});
    return n;
}

static int binary_tensors(const op_case *c, case_tensor *t)
{
    int n = unary_tensors(c, t);
    TENSOR("branch", CASE_INPUT, 3, {c->batch, c->time, c->in});
    return n;
}

static lk_tensor *dropout_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_dropout(g, lk_dropout(g, in[0], c->p), c->p); /* sites 0 and 1 */
}

static int64_t dropout_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = rows(c) * c->in;
    ref_dropout(n, draw(c, 0), in[0], y);
    ref_dropout(n, draw(c, 1), y, y);
    return n;
}

static const case_kind dropout =
    CASE_KIND("dropout", unary_tensors, dropout_build, dropout_reference);

static lk_tensor *residual_build(lk_graph *g, const op_case *c, lk_dtype type,
                                 lk_tensor *const *in)
{
    (void)type;
    return lk_residual(g, in[0], in[1], c->p);
}

static int64_t residual_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = rows(c) * c->in;
    ref_dropout(n, draw(c, 0), in[1], y);
    for (int64_t i = 0; i < n; i++) y[i] += in[0][i];
    return n;
}

static const case_kind residual =
    CASE_KIND("residual", binary_tensors, residual_build, residual_reference);

/* The end of a transformer's branch and the norm of the next: both cotangents reach the sum. */
static int residual_norm_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 3, {c->batch, c->time, c->out});
    TENSOR("branch", CASE_INPUT, 3, {c->batch, c->time, c->in});
    TENSOR("w", CASE_PARAM, 2, {c->out, c->in});
    TENSOR("norm", CASE_PARAM, 1, {c->out}, .full = true, .centre = 1);
    TENSOR("shift", CASE_PARAM, 1, {c->out}, .full = true);
    if (c->bias) TENSOR("b", CASE_PARAM, 1, {c->out});
    return n;
}

static lk_tensor *residual_norm_build(lk_graph *g, const op_case *c, lk_dtype type,
                                      lk_tensor *const *in)
{
    (void)type;
    lk_tensor *branch = lk_linear(g, in[1], in[2], c->bias ? in[5] : NULL, LK_LINEAR);
    lk_tensor *sum = lk_residual(g, in[0], branch, c->p);
    return lk_add(g, sum, lk_norm(g, sum, in[3], in[4], c->norm, 1e-5f));
}

static int64_t residual_norm_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = rows(c) * c->out;
    double *sum = malloc((size_t)n * sizeof *sum);
    ref_linear(rows(c), c->in, c->out, LK_LINEAR, in[1], in[2], c->bias ? in[5] : NULL, sum);
    ref_dropout(n, draw(c, 0), sum, sum);
    for (int64_t i = 0; i < n; i++) sum[i] += in[0][i];
    ref_norm(rows(c), c->out, c->norm, 1e-5f, sum, in[3], in[4], y);
    for (int64_t i = 0; i < n; i++) y[i] += sum[i];
    free(sum);
    return n;
}

static const case_kind residual_norm =
    CASE_KIND("residual_norm", residual_norm_tensors, residual_norm_build, residual_norm_reference);

/* The branch is dropped for whole samples. */
static lk_tensor *depth_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_stochastic_depth(g, in[0], in[1], c->p);
}

static int64_t depth_reference(const op_case *c, double *const *in, double *y)
{
    int64_t group = c->time * c->in;
    for (int64_t b = 0; b < c->batch; b++) {
        double kept = ref_keep(draw(c, 0), (uint64_t)b);
        for (int64_t i = b * group; i < (b + 1) * group; i++)
            y[i] = in[0][i] + in[1][i] * kept;
    }
    return c->batch * group;
}

static const case_kind depth = CASE_KIND("depth", binary_tensors, depth_build, depth_reference);

static lk_tensor *add_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_add(g, in[0], in[1]);
}

static int64_t add_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = rows(c) * c->in;
    for (int64_t i = 0; i < n; i++) y[i] = in[0][i] + in[1][i];
    return n;
}

static const case_kind add = CASE_KIND("add", binary_tensors, add_build, add_reference);

/* To half and back; the inputs are representable, so the result is exact. */
static lk_tensor *cast_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    return lk_cast(g, lk_cast(g, in[0], type == LK_F32 ? LK_BF16 : type), LK_F32);
}

static int64_t cast_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = rows(c) * c->in;
    memcpy(y, in[0], (size_t)n * sizeof *y);
    return n;
}

static const case_kind cast = CASE_KIND("cast", unary_tensors, cast_build, cast_reference);

/* ---- the rows ------------------------------------------------------------------------------ */

#define LINEAR(n, k, m, ...)                                                                       \
    {.kind = &linear, .batch = 1, .time = n, .in = k, .out = m, __VA_ARGS__}
#define PAIR(n, k, m) {.kind = &linear_pair, .batch = 1, .time = n, .in = k, .out = m}
#define MEASURED(what, n, k, m, ...)                                                               \
    {.kind = &what, .batch = 1, .time = n, .in = k, .out = m, __VA_ARGS__}
#define NORM(n, c, ...) {.kind = &norm, .batch = 1, .time = n, .in = c, __VA_ARGS__}
#define EMBED(b, t, c, v, ...)                                                                     \
    {.kind = &embed, .batch = b, .time = t, .in = c, .out = v, __VA_ARGS__}
#define WIDE(what, b, t, c, ...) {.kind = &what, .batch = b, .time = t, .in = c, __VA_ARGS__}
#define BRANCH(b, t, c, ...)                                                                       \
    {.kind = &residual_norm, .batch = b, .time = t, .in = 24, .out = c, __VA_ARGS__}
#define HEADS(what, b, t, h, k, d, ...)                                                            \
    {.kind = &what##_kind, .batch = b, .time = t, .heads = h, .kv_heads = k, .head_dim = d,        \
     __VA_ARGS__}
#define ROTATED(b, t, c, h, k, d, ...)                                                             \
    HEADS(linear_rope, b, t, h, k, d, .in = c, .out = (h + 2 * k) * d, ##__VA_ARGS__)
#define CROSS(b, t, s, h, k, d, ...) HEADS(cross, b, t, h, k, d, .keys = s, ##__VA_ARGS__)
#define XENT(what, n, v, k, ...)                                                                   \
    {.kind = &what##_kind, .batch = 1, .time = n, .out = v, .classes = k, ##__VA_ARGS__}

const op_case op_cases[] = {
    LINEAR(37, 24, 40),
    LINEAR(37, 24, 40, .bias = true),
    LINEAR(37, 24, 40, .bias = true, .activation = LK_GELU),
    LINEAR(37, 24, 40, .activation = LK_GELU),
    LINEAR(33, 17, 19, .bias = true),
    LINEAR(1, 8, 1, .bias = true),
    LINEAR(256, 128, 384, .bias = true),
    LINEAR(256, 128, 384, .bias = true, .activation = LK_GELU),
    {.kind = &linear_twice, .batch = 2, .time = 9, .in = 24, .out = 24, .bias = true},
    {.kind = &linear_twice, .batch = 2, .time = 9, .in = 24, .out = 24, .activation = LK_GELU},
    /* tiles of 128 x 128, the last rows partly filled; 1, 2 and 9 steps of the sum */
    LINEAR(700, 64, 512, .bias = true, .activation = LK_GELU),
    LINEAR(390, 128, 256, .activation = LK_GELU),
    LINEAR(300, 576, 384, .bias = true, .activation = LK_GELU),
    /* of the second layer also dx: 8 steps */
    {.kind = &linear_twice, .batch = 2, .time = 150, .in = 512, .out = 512, .bias = true,
     .activation = LK_GELU},
    {.kind = &linear_twice, .batch = 3, .time = 11, .in = 19, .out = 19, .bias = true,
     .activation = LK_GELU},
    PAIR(37, 24, 40),
    PAIR(33, 17, 19),
    PAIR(1, 8, 1),
    /* tiles of 128 x 128 of dx, the last rows partly filled: with one, with 12; 6 to 16 steps; or a
     * single row, with which a cluster's second block has none */
    PAIR(385, 512, 384),
    PAIR(140, 768, 768),
    PAIR(1, 384, 768),
    PAIR(300, 1024, 1024),
    MEASURED(linear_norm, 3, 8, 8),
    MEASURED(linear_norm, 19, 16, 16, .activation = LK_GELU),
    MEASURED(linear_norm, 105, 16, 64),
    MEASURED(linear_norm, 126, 24, 72),
    MEASURED(linear_norm, 1764, 64, 24),
    MEASURED(linear_norm, 80, 40, 240),
    MEASURED(linear_norm, 240, 72, 40),
    MEASURED(linear_norm, 98, 112, 672),
    MEASURED(linear_norm, 90, 120, 40),
    MEASURED(linear_norm, 49, 160, 960),
    MEASURED(linear_norm, 30, 184, 80),
    MEASURED(linear_norm, 48, 200, 104),
    MEASURED(linear_norm, 60, 256, 32),
    MEASURED(linear_norm, 101614, 32, 8),  /* several tiles a block */
    MEASURED(linear_norm, 32, 960, 160),   /* no kernel of its own: too deep, */
    MEASURED(linear_norm, 25, 256, 1024),  /* too many products, */
    MEASURED(linear_norm, 70, 16, 45),     /* odd widths */
    MEASURED(linear_norm, 75, 13, 24, .activation = LK_GELU),
    MEASURED(linear_norm_far, 189, 24, 72),
    MEASURED(linear_norm_far, 1764, 40, 16),
    MEASURED(linear_norm_far, 245, 13, 9),
    {.kind = &swiglu, .batch = 3, .time = 11, .out = 40},
    {.kind = &swiglu, .batch = 1, .time = 5, .out = 7},
    NORM(37, 40, .bias = true),
    NORM(37, 40),
    NORM(37, 40, .norm = LK_RMSNORM),
    NORM(37, 40, .norm = LK_RMSNORM, .bias = true),
    NORM(300, 384, .bias = true),
    NORM(131, 2304, .bias = true),
    NORM(70, 3000, .norm = LK_RMSNORM),
    NORM(70, 1031, .norm = LK_RMSNORM),
    {.kind = &norm_twice, .batch = 1, .time = 21, .in = 32, .bias = true},
    WIDE(positions, 3, 19, 24),
    WIDE(positions, 2, 7, 13, .out = 3),
    WIDE(positions, 37, 196, 32, .out = 1),
    EMBED(3, 17, 24, 50),
    EMBED(3, 17, 24, 50, .position = LK_POSITION_TABLE),
    EMBED(3, 17, 24, 50, .position = LK_POSITION_SINUSOIDAL),
    EMBED(8, 64, 128, 300, .position = LK_POSITION_TABLE),
    EMBED(2, 5, 7, 9, .position = LK_POSITION_SINUSOIDAL),
    /* rows of several tiles of the sort on the GPU, from 4097 on several rounds of its sums; tokens
     * that are few and so of many rows, or many; 1, 2 and 3 passes */
    EMBED(5, 300, 7, 9),
    EMBED(3, 1500, 8, 1),
    EMBED(4, 1100, 13, 400, .position = LK_POSITION_TABLE),
    EMBED(9, 1000, 24, 3, .position = LK_POSITION_SINUSOIDAL),
    EMBED(3, 1030, 5, 70000),
    {.kind = &tied, .batch = 3, .time = 17, .in = 24, .out = 56, .position = LK_POSITION_TABLE},
    WIDE(dropout, 3, 7, 13, .p = 0.2f),
    WIDE(dropout, 4, 64, 128, .p = 0.2f),
    WIDE(depth, 7, 3, 13, .p = 0.4f),
    WIDE(depth, 12, 64, 128, .p = 0.2f),
    WIDE(residual, 3, 7, 13),
    WIDE(residual, 3, 7, 13, .p = 0.1f),
    WIDE(residual, 4, 64, 128, .p = 0.1f),
    BRANCH(3, 7, 13, .bias = true),
    BRANCH(3, 7, 13, .bias = true, .p = 0.2f),
    BRANCH(5, 60, 128, .bias = true),
    BRANCH(5, 60, 128, .p = 0.1f),
    BRANCH(5, 60, 384, .bias = true, .p = 0.1f),
    BRANCH(2, 40, 768, .bias = true),
    BRANCH(2, 40, 768, .bias = true, .norm = LK_RMSNORM, .p = 0.1f),
    BRANCH(1, 40, 1024, .bias = true),
    /* the gradient: rows of several warps, of two vectors a thread, too long for both */
    BRANCH(1, 40, 1032, .bias = true, .p = 0.1f),
    BRANCH(2, 20, 1280, .bias = true),
    BRANCH(2, 20, 1600, .norm = LK_RMSNORM, .p = 0.1f),
    BRANCH(3, 50, 2048, .bias = true, .p = 0.1f),
    BRANCH(1, 70, 4096, .bias = true, .p = 0.1f),
    BRANCH(1, 70, 4096, .norm = LK_RMSNORM),
    BRANCH(1, 9, 8192, .bias = true, .p = 0.1f),
    BRANCH(1, 9, 1033, .bias = true, .p = 0.1f),
    WIDE(add, 3, 7, 13),
    WIDE(add, 4, 64, 128),
    WIDE(cast, 3, 7, 13),
    HEADS(rope, 2, 19, 4, 4, 16),
    HEADS(rope, 2, 19, 4, 2, 32),
    HEADS(rope, 2, 19, 4, 1, 6, .inverse = true),
    HEADS(rope, 1, 8192, 2, 1, 8, .theta = 1e6f),
    ROTATED(2, 19, 24, 4, 2, 6, .bias = true),
    ROTATED(2, 19, 24, 4, 2, 6, .inverse = true),
    /* tiles of 128 x 128, the last rows partly filled; heads of v in a tile of their own, or in one
     * with rotated heads; 1, 2 and 9 steps of the sum */
    ROTATED(3, 50, 64, 2, 1, 32, .bias = true),
    ROTATED(2, 200, 128, 4, 2, 64, .bias = true),
    ROTATED(1, 300, 128, 2, 1, 64),
    ROTATED(5, 60, 576, 4, 1, 64, .bias = true),
    ROTATED(2, 130, 64, 3, 1, 128, .bias = true, .theta = 500),
    ROTATED(1, 140, 64, 2, 1, 96, .bias = true),
    ROTATED(1, 8192, 64, 2, 1, 32, .theta = 1e6f),
    HEADS(attention, 2, 64, 4, 4, 16, .causal = true),
    HEADS(attention, 2, 37, 4, 2, 16, .causal = true),
    HEADS(attention, 2, 37, 4, 1, 16, .causal = true, .alibi = true),
    HEADS(attention, 2, 64, 4, 4, 32, .causal = true, .alibi = true),
    HEADS(attention, 1, 64, 4, 2, 64, .causal = true, .alibi = true),
    HEADS(attention, 1, 37, 4, 4, 64),
    HEADS(attention, 1, 64, 4, 2, 32),
    HEADS(attention, 1, 37, 4, 1, 32, .alibi = true),
    HEADS(attention, 2, 64, 4, 4, 32, .causal = true, .p = 0.1f),
    HEADS(attention, 2, 37, 4, 2, 16, .causal = true, .alibi = true, .p = 0.2f),
    HEADS(attention, 1, 37, 4, 1, 64, .p = 0.1f),
    HEADS(attention, 1, 1, 4, 4, 16, .causal = true),
    HEADS(attention, 1, 133, 3, 3, 64, .causal = true, .alibi = true),
    /* several tiles of 128 rows, the last one partly filled */
    HEADS(attention, 1, 200, 2, 1, 32, .causal = true),
    HEADS(attention, 1, 260, 2, 2, 64),
    HEADS(attention, 2, 196, 3, 3, 64),
    HEADS(attention, 1, 196, 2, 2, 64, .p = 0.1f),
    HEADS(attention, 1, 300, 2, 1, 64, .causal = true, .alibi = true, .p = 0.2f),
    HEADS(attention, 1, 450, 1, 1, 64, .causal = true),
    HEADS(attention, 1, 133, 2, 2, 64, .causal = true, .p = 0.2f),
    HEADS(attention, 1, 260, 6, 2, 32, .causal = true, .alibi = true),
    HEADS(attention, 1, 330, 3, 3, 64, .causal = true, .alibi = true),
    HEADS(attention, 1, 200, 3, 1, 96, .causal = true, .alibi = true),
    HEADS(attention, 1, 260, 3, 3, 128, .causal = true, .alibi = true),
    HEADS(attention, 1, 150, 2, 1, 128, .causal = true, .alibi = true, .p = 0.1f),
    HEADS(attention, 1, 150, 2, 2, 96, .causal = true, .alibi = true, .p = 0.1f),
    HEADS(attention, 1, 192, 2, 1, 128, .causal = true),
    HEADS(attention, 1, 140, 2, 2, 128, .alibi = true, .p = 0.1f),
    /* dropout; tiles of 64 and of 32 queries for own keys */
    HEADS(attention, 2, 200, 4, 2, 32, .causal = true, .p = 0.2f),
    HEADS(attention, 1, 330, 2, 1, 64, .causal = true, .p = 0.1f),
    HEADS(attention, 1, 300, 2, 1, 128, .causal = true, .p = 0.1f),
    HEADS(rope_attention, 2, 37, 4, 2, 16, .causal = true),
    HEADS(rope_attention, 1, 70, 2, 1, 48),
    HEADS(rope_attention, 1, 200, 2, 1, 32, .causal = true),
    HEADS(rope_attention, 2, 260, 2, 2, 64, .causal = true),
    HEADS(rope_attention, 1, 300, 4, 2, 64, .causal = true, .p = 0.2f),
    HEADS(rope_attention, 1, 133, 3, 3, 64, .theta = 500),
    HEADS(rope_attention, 1, 150, 2, 2, 96, .causal = true),
    HEADS(rope_attention, 1, 192, 2, 1, 128, .causal = true, .theta = 1e6f),
    CROSS(2, 37, 64, 4, 2, 16),
    CROSS(1, 64, 37, 4, 4, 16, .alibi = true),
    CROSS(2, 37, 64, 4, 1, 16, .causal = true, .alibi = true, .p = 0.2f),
    CROSS(1, 64, 37, 2, 2, 32, .p = 0.2f),
    CROSS(3, 1, 50, 4, 2, 32),
    CROSS(2, 1, 133, 2, 1, 64, .causal = true, .alibi = true),
    CROSS(3, 50, 1, 4, 4, 32),
    CROSS(1, 200, 1, 2, 1, 64, .alibi = true),
    CROSS(2, 1, 1, 2, 2, 64, .causal = true),
    CROSS(1, 70, 197, 2, 1, 64),
    CROSS(1, 70, 197, 2, 1, 64, .causal = true, .alibi = true, .p = 0.1f),
    CROSS(1, 196, 64, 2, 2, 64, .p = 0.1f),
    CROSS(1, 64, 260, 2, 2, 64, .causal = true, .p = 0.1f),
    CROSS(1, 64, 260, 2, 1, 64, .alibi = true),
    CROSS(2, 64, 196, 3, 3, 64),
    CROSS(1, 64, 196, 2, 1, 64, .p = 0.1f),
    /* the first key that a query must not see lies at any place of a tile */
    CROSS(1, 128, 255, 2, 2, 64, .causal = true),
    CROSS(1, 200, 201, 1, 1, 64, .causal = true, .alibi = true),
    CROSS(1, 150, 341, 2, 1, 64, .causal = true),
    CROSS(1, 261, 300, 1, 1, 32, .causal = true, .p = 0.1f),
    CROSS(1, 70, 197, 2, 1, 48, .causal = true),
    CROSS(1, 70, 197, 2, 2, 96, .causal = true, .alibi = true, .p = 0.1f),
    CROSS(1, 197, 70, 2, 1, 96),
    CROSS(1, 64, 260, 2, 1, 128, .causal = true),
    CROSS(1, 260, 64, 2, 2, 128, .alibi = true, .p = 0.1f),
    /* up to 1024 keys a kernel leaves to the other which weights are dropped, not beyond */
    CROSS(1, 70, 1023, 2, 1, 64, .p = 0.1f),
    CROSS(1, 70, 1024, 2, 1, 64, .causal = true, .p = 0.1f),
    CROSS(1, 130, 1028, 2, 1, 64, .causal = true, .p = 0.1f),
    CROSS(1, 70, 1030, 1, 1, 64, .causal = true, .alibi = true, .p = 0.1f),
    CROSS(1, 70, 1028, 1, 1, 128, .p = 0.1f),
    HEADS(biased, 2, 37, 4, 2, 16, .causal = true),
    HEADS(biased, 2, 37, 2, 2, 16, .causal = true, .theta = 1e4f),
    HEADS(biased, 3, 67, 2, 1, 48),
    HEADS(biased, 2, 200, 2, 2, 64, .causal = true, .alibi = true),
    HEADS(biased, 1, 300, 2, 1, 64, .causal = true, .theta = 1e4f),
    HEADS(biased, 2, 70, 4, 2, 32),
    HEADS(biased, 1, 150, 2, 1, 96, .causal = true),
    HEADS(biased, 1, 140, 1, 1, 128, .causal = true, .theta = 500),
    HEADS(biased, 2, 70, 2, 2, 64, .keys = 133),
    HEADS(biased, 3, 33, 4, 1, 16, .keys = 50, .causal = true),
    HEADS(biased, 2, 130, 2, 1, 128, .keys = 70, .p = 0.1f),
    HEADS(biased, 2, 130, 4, 2, 64, .keys = 196, .p = 0.1f),
    XENT(xent, 37, 40, 40),
    XENT(xent, 37, 64, 51),
    XENT(xent, 100, 320, 257),
    XENT(xent, 5, 1, 1),
    /* rows of a warp and of a block, held in registers, in shared memory or not at all, whole and
     * partly filled, with vectors and without */
    XENT(xent, 9, 250, 249),
    XENT(xent, 9, 700, 690),
    XENT(xent, 5, 1500, 1403),
    XENT(xent, 5, 2056, 2050),
    XENT(xent, 3, 50304, 50257),
    XENT(xent, 2, 65536, 65530),
    /* through a ring: several rows a block where there are few, and pieces of a row */
    XENT(xent, 33, 7688, 7681),
    XENT(xent, 33, 16640, 16633),
    XENT(xent, 33, 16640, 16633, .astray = true),
    XENT(xent, 9, 40008, 32000),
    XENT(xent_twice, 37, 64, 51),
    XENT(xent_twice, 9, 700, 690),
    XENT(xent_twice, 5, 1500, 1403),
    XENT(xent_twice, 3, 50304, 50257),
    XENT(xent_twice, 9, 40008, 32000),
    XENT(xent, 37, 64, 51, .astray = true),
    XENT(xent, 9, 700, 690, .astray = true),
    XENT(xent, 5, 1504, 1403, .astray = true),
    XENT(xent_twice, 37, 64, 51, .astray = true),
    XENT(xent, 37, 64, 51, .masked = true),
    XENT(xent, 9, 250, 249, .masked = true),
    XENT(xent, 9, 700, 690, .masked = true),
    XENT(xent, 5, 1504, 1403, .masked = true),
    XENT(xent, 3, 50304, 50257, .masked = true),
    XENT(xent_twice, 37, 64, 51, .masked = true),
    XENT(xent_twice, 5, 1500, 1403, .masked = true),
    XENT(xent_twice, 5, 1504, 1403, .masked = true),
};
const int op_case_count = (int)(sizeof op_cases / sizeof *op_cases);

void op_case_name(const op_case *c, char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size, "%s %lldx%lld", c->kind->name, (long long)c->batch,
                                (long long)c->time);
#define APPEND(...)                                                                                \
    if (n < size) n += (size_t)snprintf(text + n, size - n, __VA_ARGS__)
    if (c->in) APPEND(" in %lld", (long long)c->in);
    if (c->out) APPEND(" out %lld", (long long)c->out);
    if (c->heads) APPEND(" heads %d/%d of %d", c->heads, c->kv_heads, c->head_dim);
    if (c->theta > 0) APPEND(" theta %g", (double)c->theta);
    if (c->keys) APPEND(" keys %lld", (long long)c->keys);
    if (c->classes) APPEND(" classes %lld", (long long)c->classes);
    if (c->bias) APPEND(" bias");
    static const char *const activation[] = {"", "gelu", "relu", "hard_swish", "hard_sigmoid",
                                             "sigmoid"};
    if (c->activation) APPEND(" %s", activation[c->activation]);
    if (c->height) APPEND(" of %lldx%lld", (long long)c->height, (long long)c->width);
    if (c->kernel) APPEND(" kernel %d", c->kernel);
    if (c->kernel_width) APPEND("x%d", c->kernel_width);
    if (c->stride) APPEND(" stride %d pad %d", c->stride, c->pad);
    if (c->running) APPEND(" running");
    if (c->fixed) APPEND(" fixed");
    if (c->nan) APPEND(" NaN");
    if (c->astray) APPEND(" astray");
    if (c->masked) APPEND(" masked");
    if (c->norm) APPEND(" rms");
    if (c->position)
        APPEND(" %s", c->position == LK_POSITION_TABLE ? "table" : "sinusoidal");
    if (c->causal) APPEND(" causal");
    if (c->alibi) APPEND(" alibi");
    if (c->inverse) APPEND(" inverse");
    if (c->p > 0) APPEND(" p %g", (double)c->p);
#undef APPEND
}
