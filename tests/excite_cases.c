/* The cases of excite, and of squeeze-and-excitation as the fuse pass joins it; see op_cases.h. */
#include "tests/vision_cases.h"

/* ---- excite --------------------------------------------------------------------------------- */

static int excite_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("p", CASE_INPUT, 2, {c->batch, c->in});
    TENSOR("w1", CASE_PARAM, 2, {c->out, c->in});
    TENSOR("b1", CASE_PARAM, 1, {c->out}, .full = true);
    TENSOR("w2", CASE_PARAM, 2, {c->in, c->out});
    TENSOR("b2", CASE_PARAM, 1, {c->in}, .full = true);
    return n;
}

/* Far from the corners of both functions: images of two kinds, +u and -u and a little more; half of
 * the units answer to either kind by 1.5, to the other by -1.5; and z, of every channel around one
 * of -4.5, 0 and 4.5, moves to another piece where the units of the first kind answer. */
static double sign_of(int64_t i) { return i % 2 ? -1 : 1; }

static void excite_images(const op_case *c, double *p)
{
    for (int64_t i = 0; i < c->batch * c->in; i++)
        p[i] = 0.1 * p[i] + sign_of(i / c->in + i % c->in);
}

static void excite_prepare(const op_case *c, double *const *value)
{
    double *w1 = value[1], *w2 = value[3];
    int64_t C = c->in, S = c->out, first = (S + 1) / 2;
    excite_images(c, value[0]);
    for (int64_t s = 0; s < S; s++) {
        double *w = w1 + s * C, along = 0;
        for (int64_t j = 0; j < C; j++) along += w[j] * sign_of(j) / (double)C;
        for (int64_t j = 0; j < C; j++)
            w[j] = (w[j] - along * sign_of(j)) / sqrt((double)C) +
                   1.5 * sign_of(s + j) / (double)C;
        value[2][s] *= 0.2;
    }
    for (int64_t j = 0; j < C; j++) {
        static const double centre[] = {-4.5, 0, 4.5}, move[] = {3, 4.5, -3};
        for (int64_t s = 0; s < S; s++)
            w2[j * S + s] = w2[j * S + s] / sqrt((double)S) +
                            (s % 2 ? 0 : move[j % 3] / (1.5 * (double)first));
        value[4][j] = centre[j % 3] + 0.2 * value[4][j];
    }
}

static lk_tensor *excite_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_excite(g, in[0], in[1], in[2], in[3], in[4]);
}

static int64_t excite_reference(const op_case *c, double *const *in, double *y)
{
    ref_excite(c->batch, c->in, c->out, in[0], in[1], in[2], in[3], in[4], y, NULL, NULL);
    return c->batch * c->in;
}

/* h, z */
static int64_t excite_more(const op_case *c, double *const *in, int which, double *out)
{
    ref_excite(c->batch, c->in, c->out, in[0], in[1], in[2], in[3], in[4], NULL,
               which ? NULL : out, which ? out : NULL);
    return c->batch * (which ? c->in : c->out);
}

static const case_kind excite =
    CASE_KIND("excite", excite_tensors, excite_build, excite_reference, .prepare = excite_prepare,
              .more = {1, 2}, .more_reference = excite_more);

/* The same weights for two images: their gradients must accumulate. */
static int excite_twice_tensors(const op_case *c, case_tensor *t)
{
    int n = excite_tensors(c, t);
    TENSOR("q", CASE_INPUT, 2, {c->batch, c->in});
    return n;
}

static void excite_twice_prepare(const op_case *c, double *const *value)
{
    excite_prepare(c, value);
    excite_images(c, value[5]);
}

static lk_tensor *excite_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                     lk_tensor *const *in)
{
    lk_tensor *again[] = {in[5], in[1], in[2], in[3], in[4]};
    return lk_add(g, excite_build(g, c, type, in), excite_build(g, c, type, again));
}

static int64_t excite_twice_reference(const op_case *c, double *const *in, double *y)
{
    double *more = reserve(c->batch * c->in);
    int64_t n = excite_reference(c, in, y);
    excite_reference(c, (double *[]){in[5], in[1], in[2], in[3], in[4]}, more);
    for (int64_t i = 0; i < n; i++) y[i] += more[i];
    free(more);
    return n;
}

static const case_kind excite_twice =
    CASE_KIND("excite twice", excite_twice_tensors, excite_twice_build, excite_twice_reference,
              .prepare = excite_twice_prepare);

/* ---- squeeze-and-excitation of an image, perhaps after a norm: what the fuse pass joins ----- */

static int add_squeeze_weights(const op_case *c, case_tensor *t, int n)
{
    TENSOR("w1", CASE_PARAM, 2, {c->out, c->in});
    TENSOR("b1", CASE_PARAM, 1, {c->out}, .full = true);
    TENSOR("w2", CASE_PARAM, 2, {c->in, c->out});
    TENSOR("b2", CASE_PARAM, 1, {c->in}, .full = true);
    return n;
}

/* Whatever the image, far from the corners: every other unit answers, and z of a channel lies
 * around one of -6, 0 and 6. w1, b1, w2, b2. */
static void place_squeeze_weights(const op_case *c, double *const *w)
{
    static const double centre[] = {0, 6, 0, -6};
    for (int64_t i = 0; i < c->in * c->out; i++) {
        w[0][i] *= 1.2 / sqrt((double)c->in);
        w[2][i] *= 0.8 / sqrt((double)c->out);
    }
    for (int64_t s = 0; s < c->out; s++) w[1][s] = 0.2 * w[1][s] + 2.5 * sign_of(s);
    for (int64_t j = 0; j < c->in; j++) w[3][j] = 0.2 * w[3][j] + centre[j % 4];
}

static lk_tensor *squeeze_of(lk_graph *g, lk_tensor *x, lk_tensor *const *w)
{
    return lk_gate(g, x, lk_excite(g, lk_pool(g, x), w[0], w[1], w[2], w[3]));
}

static void squeeze_of_reference(const op_case *c, const double *x, double *const *w, double *y)
{
    double *p = reserve(c->batch * c->in), *s = reserve(c->batch * c->in);
    ref_pool(c->batch, pixels(c), c->in, x, p);
    ref_excite(c->batch, c->in, c->out, p, w[0], w[1], w[2], w[3], s, NULL, NULL);
    ref_gate(c->batch, pixels(c), c->in, x, s, y);
    free(p);
    free(s);
}

static int squeeze_tensors(const op_case *c, case_tensor *t)
{
    return add_squeeze_weights(c, t, image_tensors(c, t));
}

static void squeeze_prepare(const op_case *c, double *const *value)
{
    place_squeeze_weights(c, value + 1);
}

static lk_tensor *squeeze_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return squeeze_of(g, in[0], in + 1);
}

static int64_t squeeze_reference(const op_case *c, double *const *in, double *y)
{
    squeeze_of_reference(c, in[0], in + 1, y);
    return c->batch * pixels(c) * c->in;
}

static const case_kind squeeze = CASE_KIND("squeeze excite", squeeze_tensors, squeeze_build,
                                           squeeze_reference, .prepare = squeeze_prepare);

static int norm_squeeze_tensors(const op_case *c, case_tensor *t)
{
    return add_squeeze_weights(c, t, batch_norm_tensors(c, t));
}

static void norm_squeeze_prepare(const op_case *c, double *const *value)
{
    norm_dwconv_prepare(c, value);
    place_squeeze_weights(c, value + 5);
}

static lk_tensor *norm_squeeze_build(lk_graph *g, const op_case *c, lk_dtype type,
                                     lk_tensor *const *in)
{
    return squeeze_of(g, batch_norm_build(g, c, type, in), in + 5);
}

static int64_t norm_squeeze_reference(const op_case *c, double *const *in, double *y)
{
    double *n = reserve(c->batch * pixels(c) * c->in);
    int64_t count = batch_norm_reference(c, in, n);
    squeeze_of_reference(c, n, in + 5, y);
    free(n);
    return count;
}

static const case_kind norm_squeeze =
    CASE_KIND("norm squeeze excite", norm_squeeze_tensors, norm_squeeze_build,
              norm_squeeze_reference, .prepare = norm_squeeze_prepare);

/* The same weights for two images: all gradients must accumulate. */
static int squeeze_twice_tensors(const op_case *c, case_tensor *t)
{
    int n = norm_squeeze_tensors(c, t);
    TENSOR("q", CASE_INPUT, 4, {c->batch, c->height, c->width, c->in});
    return n;
}

static void squeeze_twice_prepare(const op_case *c, double *const *value)
{
    norm_squeeze_prepare(c, value);
    for (int64_t i = 0; i < c->batch * pixels(c) * c->in; i++)
        value[9][i] = 0.03 * value[9][i] + value[0][i];
}

static lk_tensor *squeeze_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                      lk_tensor *const *in)
{
    lk_tensor *again[] = {in[9], in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8]};
    return lk_add(g, norm_squeeze_build(g, c, type, in), norm_squeeze_build(g, c, type, again));
}

static int64_t squeeze_twice_reference(const op_case *c, double *const *in, double *y)
{
    double *more = reserve(c->batch * pixels(c) * c->in);
    int64_t n = norm_squeeze_reference(c, in, y);
    norm_squeeze_reference(
        c, (double *[]){in[9], in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8]}, more);
    for (int64_t i = 0; i < n; i++) y[i] += more[i];
    free(more);
    return n;
}

static const case_kind squeeze_twice =
    CASE_KIND("norm squeeze excite twice", squeeze_twice_tensors, squeeze_twice_build,
              squeeze_twice_reference, .prepare = squeeze_twice_prepare);

/* ---- the rows ------------------------------------------------------------------------------ */

#define EXCITE(what, b, c, s, ...)                                                                 \
    {.kind = &what, .batch = b, .time = 1, .in = c, .out = s, __VA_ARGS__}
#define SQ(what, b, h, w, c, s, ...) IMAGE(what, b, h, w, c, .out = s, ##__VA_ARGS__)

const op_case excite_cases[] = {
    EXCITE(excite, 1, 16, 8),
    EXCITE(excite, 37, 40, 16),
    EXCITE(excite, 256, 72, 24),
    EXCITE(excite, 21, 120, 32),
    EXCITE(excite, 100, 480, 120),
    EXCITE(excite, 37, 672, 168),
    EXCITE(excite, 16, 960, 240),
    EXCITE(excite, 5, 1032, 264), /* more channels than are summed at once, and than warps */
    EXCITE(excite, 3, 64, 2056),  /* the same between, several rounds of a block */
    EXCITE(excite, 3, 4168, 40),
    EXCITE(excite, 1, 13, 3),
    EXCITE(excite, 37, 45, 11),
    EXCITE(excite, 37, 40, 11),
    EXCITE(excite, 11, 1, 1),
    EXCITE(excite, 130, 203, 65),
    EXCITE(excite, 2, 1031, 513),
    EXCITE(excite, 9, 5, 3, .nan = true),
    EXCITE(excite, 9, 16, 8, .nan = true),
    EXCITE(excite_twice, 19, 48, 16),
    EXCITE(excite_twice, 5, 27, 7),
    SQ(squeeze, 3, 5, 7, 24, 8),
    SQ(squeeze, 1, 9, 7, 13, 3),
    SQ(squeeze, 17, 4, 4, 88, 24),
    SQ(squeeze, 16, 1, 1, 1032, 264),
    SQ(squeeze, 35, 3, 5, 45, 11),
    SQ(norm_squeeze, 3, 5, 7, 24, 8, .activation = LK_RELU),
    SQ(norm_squeeze, 3, 5, 7, 24, 8, .activation = LK_HARD_SWISH),
    SQ(norm_squeeze, 3, 5, 7, 24, 8),
    SQ(norm_squeeze, 3, 5, 7, 24, 8, .activation = LK_GELU),
    SQ(norm_squeeze, 3, 5, 7, 24, 8, .activation = LK_SIGMOID),
    SQ(norm_squeeze, 1, 9, 7, 13, 3, .activation = LK_RELU),
    SQ(norm_squeeze, 1, 12, 11, 16, 8, .activation = LK_HARD_SWISH),
    SQ(norm_squeeze, 35, 3, 5, 45, 11, .activation = LK_HARD_SWISH),
    SQ(norm_squeeze, 35, 5, 3, 40, 11, .activation = LK_RELU), /* S no multiple of 8 */
    SQ(norm_squeeze, 19, 1, 1, 96, 24, .activation = LK_HARD_SWISH),
    SQ(norm_squeeze, 16, 7, 7, 120, 32, .activation = LK_RELU),
    SQ(norm_squeeze, 17, 7, 7, 960, 240, .activation = LK_HARD_SWISH),
    SQ(norm_squeeze, 3, 28, 28, 72, 24, .activation = LK_RELU),
    SQ(norm_squeeze, 35, 14, 14, 120, 32, .activation = LK_HARD_SWISH),
    SQ(norm_squeeze, 2, 7, 9, 1032, 264, .activation = LK_RELU), /* more than a block's channels */
    SQ(norm_squeeze, 2, 7, 9, 1031, 257, .activation = LK_HARD_SWISH),
    SQ(norm_squeeze, 16, 5, 4, 13, 3, .activation = LK_GELU),
    SQ(norm_squeeze, 200, 1, 1, 1032, 8, .activation = LK_HARD_SWISH), /* many tiles to a block */
    SQ(squeeze_twice, 3, 5, 7, 24, 8, .activation = LK_RELU),
    SQ(squeeze_twice, 17, 3, 4, 13, 3, .activation = LK_HARD_SWISH),
};
const int excite_case_count = (int)(sizeof excite_cases / sizeof *excite_cases);
