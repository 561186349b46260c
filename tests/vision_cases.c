/* The cases of the ops on images, and how each kind is built; see op_cases.h. */
#include "tests/vision_cases.h"

#define EPS 1e-3f
#define LARGE_EPS 8.0f /* of a second norm, which else would take out the scale of the first */

static ref_window window(const op_case *c)
{
    return (ref_window){c->batch, c->height, c->width, c->in, c->kernel,
                        c->kernel_width ? c->kernel_width : c->kernel, c->stride, c->pad};
}

int image_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", c->fixed ? CASE_DATA : CASE_INPUT, 4, {c->batch, c->height, c->width, c->in});
    return n;
}

/* ---- convolutions ---------------------------------------------------------------------------- */

static int conv_tensors(const op_case *c, case_tensor *t)
{
    int n = image_tensors(c, t);
    ref_window s = window(c);
    TENSOR("w", CASE_PARAM, 4, {c->out, s.kh, s.kw, c->in});
    return n;
}

static lk_tensor *conv_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_conv(g, in[0], in[1], c->stride, c->pad);
}

static int64_t conv_reference(const op_case *c, double *const *in, double *y)
{
    ref_window s = window(c);
    ref_conv(&s, c->out, in[0], in[1], y);
    return c->batch * ref_rows(&s) * ref_columns(&s) * c->out;
}

static const case_kind conv = CASE_KIND("conv", conv_tensors, conv_build, conv_reference);

static int dwconv_tensors(const op_case *c, case_tensor *t)
{
    int n = image_tensors(c, t);
    TENSOR("w", CASE_PARAM, 3, {c->kernel, c->kernel, c->in});
    return n;
}

static lk_tensor *dwconv_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_dwconv(g, in[0], in[1], c->stride, c->pad);
}

static int64_t dwconv_reference(const op_case *c, double *const *in, double *y)
{
    ref_window s = window(c);
    ref_dwconv(&s, in[0], in[1], y);
    return c->batch * ref_rows(&s) * ref_columns(&s) * c->in;
}

static const case_kind dwconv = CASE_KIND("dwconv", dwconv_tensors, dwconv_build, dwconv_reference);

/* The same weights twice: their gradients must accumulate. The shape stays. */
static lk_tensor *conv_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                   lk_tensor *const *in)
{
    return lk_conv(g, conv_build(g, c, type, in), in[1], c->stride, c->pad);
}

static int64_t conv_twice_reference(const op_case *c, double *const *in, double *y)
{
    double *h = reserve(c->batch * pixels(c) * c->out);
    conv_reference(c, in, h);
    int64_t n = conv_reference(c, (double *[]){h, in[1]}, y);
    free(h);
    return n;
}

static const case_kind conv_twice =
    CASE_KIND("conv twice", conv_tensors, conv_twice_build, conv_twice_reference);

static lk_tensor *dwconv_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                     lk_tensor *const *in)
{
    return lk_dwconv(g, dwconv_build(g, c, type, in), in[1], c->stride, c->pad);
}

static int64_t dwconv_twice_reference(const op_case *c, double *const *in, double *y)
{
    double *h = reserve(c->batch * pixels(c) * c->in);
    dwconv_reference(c, in, h);
    int64_t n = dwconv_reference(c, (double *[]){h, in[1]}, y);
    free(h);
    return n;
}

static const case_kind dwconv_twice =
    CASE_KIND("dwconv twice", dwconv_tensors, dwconv_twice_build, dwconv_twice_reference);

static int channel_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 2, {c->batch, c->in});
    TENSOR("w", CASE_PARAM, 1, {c->kernel});
    return n;
}

static lk_tensor *channel_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_channel_conv(g, in[0], in[1]);
}

static int64_t channel_reference(const op_case *c, double *const *in, double *y)
{
    ref_channel_conv(c->batch, c->in, c->kernel, in[0], in[1], y);
    return c->batch * c->in;
}

static const case_kind channel_conv =
    CASE_KIND("channel conv", channel_tensors, channel_build, channel_reference);

static lk_tensor *channel_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                      lk_tensor *const *in)
{
    return lk_channel_conv(g, channel_build(g, c, type, in), in[1]);
}

static int64_t channel_twice_reference(const op_case *c, double *const *in, double *y)
{
    double *h = reserve(c->batch * c->in);
    channel_reference(c, in, h);
    int64_t n = channel_reference(c, (double *[]){h, in[1]}, y);
    free(h);
    return n;
}

static const case_kind channel_twice =
    CASE_KIND("channel conv twice", channel_tensors, channel_twice_build, channel_twice_reference);

/* ---- activate ------------------------------------------------------------------------------ */

/* Away from the corners of the piecewise functions, where differences mean nothing; a few values
 * far out. */
static void activate_prepare(const op_case *c, double *const *value)
{
    static const double corner[] = {-3, 0, 3};
    double *x = value[0];
    for (int64_t i = 0; i < c->batch * pixels(c) * c->in; i++) {
        x[i] *= i % 7 == 0 ? 4 : 2;
        for (int k = 0; k < 3; k++)
            if (fabs(x[i] - corner[k]) < 0.02) x[i] = corner[k] + (i % 2 ? 0.1 : -0.1);
    }
}

static lk_tensor *activate_build(lk_graph *g, const op_case *c, lk_dtype type,
                                 lk_tensor *const *in)
{
    lk_tensor *x = type == LK_F32 ? in[0] : lk_cast(g, in[0], type); /* KEEP, as for xent */
    return lk_activate(g, x, c->activation);
}

static int64_t activate_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = c->batch * pixels(c) * c->in;
    for (int64_t i = 0; i < n; i++) y[i] = ref_activate(c->activation, in[0][i]);
    return n;
}

static const case_kind activate =
    CASE_KIND("activate", image_tensors, activate_build, activate_reference,
              .prepare = activate_prepare);

/* ---- batch_norm ---------------------------------------------------------------------------- */

int batch_norm_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("x", CASE_INPUT, 4, {c->batch, c->height, c->width, c->in}, .centre = 0.5);
    TENSOR("w", CASE_PARAM, 1, {c->in}, .full = true, .centre = 1);
    TENSOR("b", CASE_PARAM, 1, {c->in}, .full = true);
    TENSOR("mean", CASE_STATISTIC, 1, {c->in}, .full = true, .centre = 0.5);
    TENSOR("var", CASE_STATISTIC, 1, {c->in}, .full = true, .centre = 1);
    return n;
}

static void batch_norm_prepare(const op_case *c, double *const *value)
{
    for (int64_t i = 0; i < c->in; i++) value[4][i] = 0.1 + fabs(value[4][i]);
}

lk_tensor *batch_norm_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_batch_norm(g, in[0], in[1], in[2], in[3], in[4], EPS, c->activation);
}

int64_t batch_norm_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = c->batch * pixels(c);
    double *mean = reserve(c->in), *var = reserve(c->in);
    ref_moments(n, c->in, in[0], mean, var);
    ref_batch_norm(n, c->in, EPS, c->activation, in[0], in[1], in[2], c->running ? in[3] : mean,
                   c->running ? in[4] : var, y);
    free(mean);
    free(var);
    return n * c->in;
}

/* The two statistics: mean, unbiased variance. */
static int64_t batch_norm_more(const op_case *c, double *const *in, int which, double *out)
{
    double n = (double)(c->batch * pixels(c)), *other = reserve(c->in);
    ref_moments(c->batch * pixels(c), c->in, in[0], which ? other : out, which ? out : other);
    for (int64_t i = 0; which && i < c->in; i++) out[i] *= n / (n - 1);
    free(other);
    return c->in;
}

static const case_kind batch_norm =
    CASE_KIND("batch norm", batch_norm_tensors, batch_norm_build, batch_norm_reference,
              .prepare = batch_norm_prepare, .more = {3, 4}, .more_reference = batch_norm_more);
static const case_kind batch_norm_running =
    CASE_KIND("batch norm", batch_norm_tensors, batch_norm_build, batch_norm_reference,
              .prepare = batch_norm_prepare);

/* ---- a depthwise convolution between norms: what the fuse pass joins ------------------------ */

static int norm_dwconv_tensors(const op_case *c, case_tensor *t)
{
    int n = batch_norm_tensors(c, t);
    TENSOR("dw", CASE_PARAM, 3, {c->kernel, c->kernel, c->in});
    return n;
}

/* So many values would meet corners of the piecewise functions: those of x around the corner of
 * ReLU are moved away; for hard swish x comes in three clusters, which w takes to the pieces. */
void norm_dwconv_prepare(const op_case *c, double *const *value)
{
    bool clusters = c->activation == LK_HARD_SWISH;
    batch_norm_prepare(c, value);
    for (int64_t i = 0; i < c->batch * pixels(c) * c->in; i++) {
        double *x = value[0] + i, d = *x - 0.5;
        if (clusters) *x = 0.5 + 0.12 * d + (d < -0.6 ? -1 : d > 0.6 ? 1 : 0);
        else *x += d < -0.5 ? -0.5 : 0.5;
    }
    for (int64_t i = 0; i < c->in; i++) {
        value[1][i] = (clusters ? 4.5 : 1) + 0.3 * (value[1][i] - 1);
        value[2][i] = (clusters ? 1 : 0.5) + 0.3 * value[2][i];
    }
}

static lk_tensor *norm_dwconv_build(lk_graph *g, const op_case *c, lk_dtype type,
                                    lk_tensor *const *in)
{
    return lk_dwconv(g, batch_norm_build(g, c, type, in), in[5], c->stride, c->pad);
}

static int64_t norm_dwconv_reference(const op_case *c, double *const *in, double *y)
{
    double *h = reserve(c->batch * pixels(c) * c->in);
    batch_norm_reference(c, in, h);
    int64_t n = dwconv_reference(c, (double *[]){h, in[5]}, y);
    free(h);
    return n;
}

static const case_kind norm_dwconv =
    CASE_KIND("norm dwconv", norm_dwconv_tensors, norm_dwconv_build, norm_dwconv_reference,
              .prepare = norm_dwconv_prepare);

/* Two convolutions read the norm: its cotangent is a sum, which neither gradient knows. */
static lk_tensor *norm_shared_build(lk_graph *g, const op_case *c, lk_dtype type,
                                    lk_tensor *const *in)
{
    lk_tensor *n = batch_norm_build(g, c, type, in);
    return lk_add(g, lk_dwconv(g, n, in[5], c->stride, c->pad),
                  lk_dwconv(g, n, in[5], c->stride, c->pad));
}

static int64_t norm_shared_reference(const op_case *c, double *const *in, double *y)
{
    int64_t n = norm_dwconv_reference(c, in, y);
    for (int64_t i = 0; i < n; i++) y[i] *= 2;
    return n;
}

static const case_kind norm_shared =
    CASE_KIND("norm dwconv shared", norm_dwconv_tensors, norm_shared_build, norm_shared_reference,
              .prepare = norm_dwconv_prepare);

static int between_tensors(const op_case *c, case_tensor *t)
{
    int n = norm_dwconv_tensors(c, t);
    TENSOR("w2", CASE_PARAM, 1, {c->in}, .full = true, .centre = 1);
    TENSOR("b2", CASE_PARAM, 1, {c->in}, .full = true);
    TENSOR("mean2", CASE_STATISTIC, 1, {c->in}, .full = true);
    TENSOR("var2", CASE_STATISTIC, 1, {c->in}, .full = true, .centre = 1);
    return n;
}

static lk_tensor *between_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    lk_tensor *y = norm_dwconv_build(g, c, type, in);
    return lk_batch_norm(g, y, in[6], in[7], in[8], in[9], LARGE_EPS, LK_GELU);
}

static int64_t between_reference(const op_case *c, double *const *in, double *y)
{
    ref_window s = window(c);
    int64_t n = c->batch * ref_rows(&s) * ref_columns(&s);
    double *h = reserve(n * c->in), *mean = reserve(c->in), *var = reserve(c->in);
    norm_dwconv_reference(c, in, h);
    ref_moments(n, c->in, h, mean, var);
    ref_batch_norm(n, c->in, LARGE_EPS, LK_GELU, h, in[6], in[7], mean, var, y);
    free(h);
    free(mean);
    free(var);
    return n * c->in;
}

static const case_kind between =
    CASE_KIND("norm dwconv norm", between_tensors, between_build, between_reference,
              .prepare = norm_dwconv_prepare);

/* ---- pools, gate --------------------------------------------------------------------------- */

static lk_tensor *pool_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_pool(g, in[0]);
}

static int64_t pool_reference(const op_case *c, double *const *in, double *y)
{
    ref_pool(c->batch, pixels(c), c->in, in[0], y);
    return c->batch * c->in;
}

static const case_kind pool = CASE_KIND("pool", image_tensors, pool_build, pool_reference);

/* No two values are closer than a difference moves them; in a half type there are equals. */
static void max_prepare(const op_case *c, double *const *value)
{
    int64_t n = c->batch * pixels(c) * c->in;
    for (int64_t i = 0; i < n; i++)
        value[0][i] = 4 * ((double)lk_permute((uint64_t)i, (uint64_t)n, 1, 2, 3, 4) + 0.5) /
                          (double)n - 2;
}

static lk_tensor *max_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)type;
    return lk_max_pool(g, in[0], c->kernel, c->stride, c->pad);
}

static int64_t max_reference(const op_case *c, double *const *in, double *y)
{
    ref_window s = window(c);
    ref_max_pool(&s, in[0], y, NULL);
    return c->batch * ref_rows(&s) * ref_columns(&s) * c->in;
}

static int64_t max_more(const op_case *c, double *const *in, int which, double *out)
{
    (void)which;
    ref_window s = window(c);
    ref_max_pool(&s, in[0], NULL, out);
    return c->batch * ref_rows(&s) * ref_columns(&s) * c->in;
}

static const case_kind max_pool =
    CASE_KIND("max pool", image_tensors, max_build, max_reference, .prepare = max_prepare,
              .more = {1}, .more_reference = max_more);

static int gate_tensors(const op_case *c, case_tensor *t)
{
    int n = image_tensors(c, t);
    TENSOR("s", CASE_INPUT, 2, {c->batch, c->in});
    return n;
}

static lk_tensor *gate_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    (void)type;
    return lk_gate(g, in[0], in[1]);
}

static int64_t gate_reference(const op_case *c, double *const *in, double *y)
{
    ref_gate(c->batch, pixels(c), c->in, in[0], in[1], y);
    return c->batch * pixels(c) * c->in;
}

static const case_kind gate = CASE_KIND("gate", gate_tensors, gate_build, gate_reference);

/* An image scaled by what a convolution makes of its mean: two cotangents, which the fuse pass adds
 * in one node. */
static int attention_tensors(const op_case *c, case_tensor *t)
{
    int n = image_tensors(c, t);
    TENSOR("w", CASE_PARAM, 1, {c->kernel});
    return n;
}

static lk_tensor *attention_build(lk_graph *g, const op_case *c, lk_dtype type,
                                  lk_tensor *const *in)
{
    (void)type;
    lk_tensor *s = lk_channel_conv(g, lk_pool(g, in[0]), in[1]);
    return lk_gate(g, in[0], lk_activate(g, s, c->activation));
}

static int64_t attention_reference(const op_case *c, double *const *in, double *y)
{
    double *p = reserve(c->batch * c->in), *s = reserve(c->batch * c->in);
    ref_pool(c->batch, pixels(c), c->in, in[0], p);
    ref_channel_conv(c->batch, c->in, c->kernel, p, in[1], s);
    for (int64_t i = 0; i < c->batch * c->in; i++) s[i] = ref_activate(c->activation, s[i]);
    ref_gate(c->batch, pixels(c), c->in, in[0], s, y);
    free(p);
    free(s);
    return c->batch * pixels(c) * c->in;
}

static const case_kind attention =
    CASE_KIND("channel attention", attention_tensors, attention_build, attention_reference);

/* ---- soft_xent ----------------------------------------------------------------------------- */

static int soft_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("logits", CASE_INPUT, 2, {c->batch, c->out});
    TENSOR("targets", CASE_DATA, 2, {c->batch, c->out}, .full = true);
    TENSOR("labels", CASE_INDEX, 1, {c->batch}, .below = c->out);
    return n;
}

/* Targets become distributions; every third label that of the largest logit, and there is a row
 * whose largest stands twice. */
static void soft_prepare(const op_case *c, double *const *value)
{
    int64_t k = c->out;
    for (int64_t i = 0; i < c->batch; i++) {
        double sum = 0, *target = value[1] + i * k, *logit = value[0] + i * k;
        int64_t best = 0;
        for (int64_t j = 0; j < k; j++) {
            sum += target[j] = exp(2 * target[j]);
            if (logit[j] > logit[best]) best = j;
        }
        for (int64_t j = 0; j < k; j++) target[j] /= sum;
        if (i % 3 == 0) value[2][i] = (double)best;
        if (i == 1 && best + 1 < k) logit[k - 1] = logit[best];
    }
}

static lk_tensor *soft_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    (void)c;
    lk_tensor *logits = type == LK_F32 ? in[0] : lk_cast(g, in[0], type);
    return lk_soft_cross_entropy(g, logits, in[1], in[2], NULL);
}

static int64_t soft_reference(const op_case *c, double *const *in, double *y)
{
    y[0] = ref_soft_xent(c->batch, c->out, in[0], in[1]);
    return 1;
}

static int64_t soft_more(const op_case *c, double *const *in, int which, double *out)
{
    (void)which;
    out[0] = ref_hits(c->batch, c->out, in[0], in[2]);
    return 1;
}

static const case_kind soft_xent =
    CASE_KIND("soft xent", soft_tensors, soft_build, soft_reference, .prepare = soft_prepare,
              .more = {2}, .more_reference = soft_more);

/* ---- the rows ------------------------------------------------------------------------------ */

#define CONV(what, b, h, w, c, o, k, s, p, ...)                                                    \
    IMAGE(what, b, h, w, c, .out = o, .kernel = k, .stride = s, .pad = p, ##__VA_ARGS__)
#define DW(b, h, w, c, k, s, p, ...) CONV(dwconv, b, h, w, c, 0, k, s, p, ##__VA_ARGS__)
#define ND(what, b, h, w, c, k, s, p, act, ...)                                                    \
    CONV(what, b, h, w, c, 0, k, s, p, .activation = act, ##__VA_ARGS__)
#define NORM(b, h, w, c, ...) IMAGE(batch_norm, b, h, w, c, __VA_ARGS__)
#define RUNNING(b, h, w, c, ...)                                                                   \
    IMAGE(batch_norm_running, b, h, w, c, .running = true, __VA_ARGS__)
#define SOFT(n, k) {.kind = &soft_xent, .batch = n, .time = 1, .out = k}

const op_case vision_cases[] = {
    CONV(conv, 3, 9, 7, 3, 16, 3, 2, 1),
    CONV(conv, 3, 9, 7, 3, 16, 3, 2, 1, .fixed = true),
    CONV(conv, 2, 6, 8, 8, 24, 3, 1, 1),
    CONV(conv, 1, 5, 11, 13, 9, 5, 1, 2),
    CONV(conv, 2, 8, 6, 16, 8, 1, 2, 0),
    CONV(conv, 2, 7, 5, 12, 10, 1, 1, 0),
    CONV(conv, 2, 2, 3, 5, 6, 5, 1, 2), /* the kernel is larger than the image */
    CONV(conv, 1, 1, 1, 4, 3, 3, 2, 1),
    CONV(conv, 2, 7, 8, 6, 5, 3, 3, 0),
    CONV(conv, 2, 6, 9, 4, 7, 3, 1, 2, .kernel_width = 5),
    CONV(conv, 5, 32, 32, 3, 16, 3, 2, 1),
    CONV(conv, 20, 14, 14, 32, 48, 3, 1, 1), /* several tiles to an image */
    /* strips of patches, as fusion.c has them: 16 x 16 x 3, and 4 x 4 x 1 */
    CONV(conv, 6, 16, 3, 48, 24, 16, 1, 0, .kernel_width = 1, .fixed = true),
    CONV(conv, 28, 16, 14, 48, 72, 16, 1, 0, .kernel_width = 1, .fixed = true),
    CONV(conv, 5, 4, 3, 4, 12, 4, 1, 0, .kernel_width = 1),
    CONV(conv_twice, 2, 5, 6, 8, 8, 3, 1, 1),
    DW(2, 9, 7, 16, 3, 1, 1),
    DW(2, 9, 7, 16, 3, 2, 1),
    DW(3, 8, 10, 24, 5, 1, 2),
    DW(3, 8, 10, 40, 5, 2, 2),
    DW(1, 6, 5, 13, 3, 1, 1),
    DW(1, 6, 5, 45, 5, 2, 2),
    DW(2, 2, 3, 72, 5, 1, 2), /* the kernel is larger than the image */
    DW(2, 1, 1, 96, 5, 1, 2),
    DW(2, 4, 4, 3, 3, 1, 0),
    DW(2, 9, 8, 8, 9, 1, 4), /* more taps than are listed at once */
    DW(2, 7, 7, 32, 2, 2, 0),
    DW(2, 9, 7, 16, 3, 2, 1, .fixed = true),
    DW(2, 10, 9, 16, 7, 2, 3),
    DW(3, 29, 16, 40, 5, 2, 2),
    DW(2, 57, 31, 24, 3, 2, 1), /* several tiles to an image */
    DW(19, 8, 8, 88, 3, 1, 1),
    DW(17, 4, 4, 576, 5, 1, 2),
    CONV(dwconv_twice, 3, 5, 6, 24, 0, 3, 1, 1),
    {.kind = &channel_conv, .batch = 5, .time = 1, .in = 24, .kernel = 3},
    {.kind = &channel_conv, .batch = 3, .time = 1, .in = 3, .kernel = 5},
    {.kind = &channel_conv, .batch = 2, .time = 1, .in = 1, .kernel = 7},
    {.kind = &channel_conv, .batch = 70, .time = 1, .in = 187, .kernel = 5},
    {.kind = &channel_twice, .batch = 4, .time = 1, .in = 40, .kernel = 3},
    IMAGE(activate, 2, 5, 7, 9, .activation = LK_GELU),
    IMAGE(activate, 2, 5, 7, 9, .activation = LK_RELU),
    IMAGE(activate, 2, 5, 7, 9, .activation = LK_HARD_SWISH),
    IMAGE(activate, 2, 5, 7, 9, .activation = LK_HARD_SIGMOID),
    IMAGE(activate, 2, 5, 7, 9, .activation = LK_SIGMOID),
    IMAGE(activate, 4, 16, 16, 40, .activation = LK_HARD_SWISH),
    IMAGE(activate, 2, 5, 7, 8, .activation = LK_GELU, .nan = true),
    IMAGE(activate, 2, 5, 7, 8, .activation = LK_RELU, .nan = true),
    IMAGE(activate, 2, 5, 7, 8, .activation = LK_HARD_SWISH, .nan = true),
    IMAGE(activate, 2, 5, 7, 9, .activation = LK_HARD_SIGMOID, .nan = true),
    IMAGE(activate, 2, 5, 7, 8, .activation = LK_SIGMOID, .nan = true),
    NORM(3, 5, 7, 16),
    NORM(3, 5, 7, 16, .activation = LK_GELU),
    NORM(3, 5, 7, 16, .activation = LK_RELU),
    NORM(3, 5, 7, 16, .activation = LK_HARD_SWISH),
    NORM(3, 5, 7, 16, .activation = LK_HARD_SIGMOID),
    NORM(3, 5, 7, 16, .activation = LK_SIGMOID),
    NORM(1, 3, 5, 13, .activation = LK_RELU),
    NORM(2, 1, 1, 7),
    NORM(7, 3, 3, 1031, .activation = LK_HARD_SWISH), /* more channels than a block has */
    NORM(8, 16, 16, 24, .activation = LK_RELU),
    NORM(16, 4, 4, 576),
    RUNNING(3, 5, 7, 16),
    RUNNING(3, 5, 7, 13, .activation = LK_HARD_SWISH),
    RUNNING(1, 1, 1, 40, .activation = LK_RELU),
    RUNNING(2, 3, 3, 1031, .activation = LK_SIGMOID),
    RUNNING(3, 5, 7, 16, .activation = LK_HARD_SIGMOID, .nan = true),
    ND(norm_dwconv, 2, 9, 7, 16, 3, 1, 1, LK_RELU),
    ND(norm_dwconv, 2, 9, 7, 16, 3, 2, 1, LK_HARD_SWISH),
    ND(norm_dwconv, 3, 8, 10, 24, 5, 1, 2, LK_HARD_SWISH),
    ND(norm_dwconv, 3, 8, 10, 40, 5, 2, 2, LK_RELU),
    ND(norm_dwconv, 2, 6, 5, 16, 3, 1, 1, LK_LINEAR),
    ND(norm_dwconv, 2, 6, 5, 13, 3, 1, 1, LK_RELU),
    ND(norm_dwconv, 2, 9, 9, 16, 7, 1, 3, LK_RELU),
    ND(norm_dwconv, 2, 7, 7, 32, 2, 2, 0, LK_HARD_SWISH),
    ND(norm_dwconv, 2, 6, 7, 16, 3, 1, 0, LK_RELU), /* a special kernel forward alone */
    ND(norm_dwconv, 19, 1, 1, 96, 5, 1, 2, LK_HARD_SWISH),
    ND(norm_dwconv, 2, 15, 29, 40, 5, 2, 2, LK_HARD_SWISH),
    ND(norm_dwconv, 1, 57, 45, 24, 3, 2, 1, LK_RELU), /* several tiles to an image */
    ND(norm_dwconv, 1, 31, 57, 48, 5, 1, 2, LK_RELU),
    ND(norm_shared, 2, 9, 7, 16, 3, 2, 1, LK_RELU),
    ND(norm_shared, 2, 6, 5, 13, 3, 1, 1, LK_HARD_SWISH),
    ND(between, 2, 9, 7, 16, 3, 1, 1, LK_RELU),
    ND(between, 3, 9, 7, 16, 3, 1, 1, LK_HARD_SWISH),
    ND(between, 3, 9, 7, 16, 3, 2, 1, LK_RELU),
    ND(between, 3, 9, 7, 24, 3, 2, 1, LK_HARD_SWISH),
    ND(between, 3, 8, 10, 24, 5, 1, 2, LK_RELU),
    ND(between, 3, 8, 10, 40, 5, 2, 2, LK_RELU),
    ND(between, 3, 8, 10, 40, 5, 2, 2, LK_HARD_SWISH),
    ND(between, 3, 6, 5, 16, 5, 1, 2, LK_LINEAR),
    ND(between, 3, 6, 5, 45, 5, 2, 2, LK_HARD_SWISH),
    ND(between, 1, 12, 11, 16, 3, 2, 1, LK_GELU),
    ND(between, 4, 7, 7, 960, 5, 1, 2, LK_HARD_SWISH),
    ND(between, 17, 4, 4, 200, 3, 1, 1, LK_HARD_SWISH),
    ND(between, 9, 14, 14, 88, 3, 1, 1, LK_RELU),
    ND(between, 3, 56, 56, 24, 3, 2, 1, LK_RELU), /* several tiles to an image */
    ND(between, 2, 56, 56, 72, 5, 2, 2, LK_RELU),
    ND(between, 1, 56, 56, 72, 3, 1, 1, LK_HARD_SWISH),
    IMAGE(pool, 3, 5, 7, 24),
    IMAGE(pool, 1, 1, 1, 13),
    IMAGE(pool, 5, 4, 4, 1100),
    IMAGE(pool, 9, 16, 16, 16),
    CONV(max_pool, 2, 8, 10, 16, 0, 2, 2, 0),
    CONV(max_pool, 2, 9, 7, 13, 0, 3, 2, 1),
    CONV(max_pool, 1, 5, 6, 3, 0, 3, 1, 1), /* windows overlap */
    CONV(max_pool, 1, 2, 2, 8, 0, 5, 1, 3), /* the window is larger than the image */
    CONV(max_pool, 8, 16, 16, 24, 0, 3, 2, 1),
    CONV(max_pool, 2, 9, 7, 16, 0, 3, 2, 1, .nan = true),
    CONV(max_pool, 2, 9, 7, 13, 0, 2, 2, 0, .nan = true),
    IMAGE(gate, 3, 5, 7, 24),
    IMAGE(gate, 1, 1, 1, 13),
    IMAGE(gate, 5, 4, 4, 1100),
    IMAGE(gate, 9, 16, 16, 16),
    IMAGE(attention, 3, 5, 7, 24, .kernel = 3, .activation = LK_SIGMOID),
    IMAGE(attention, 2, 4, 4, 13, .kernel = 5, .activation = LK_HARD_SIGMOID),
    IMAGE(attention, 9, 16, 16, 16, .kernel = 3, .activation = LK_SIGMOID),
    SOFT(37, 10),
    SOFT(1, 1),
    SOFT(100, 1000),
    SOFT(5, 1031),
};
const int vision_case_count = (int)(sizeof vision_cases / sizeof *vision_cases);
