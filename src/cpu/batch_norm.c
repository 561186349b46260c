/* batch_norm, whole or as batch_moments and batch_apply, and its gradient. Rows are cut into chunks
 * by the shape; each chunk's mean and squares about it are taken while it is in cache, and chunks
 * are joined in order (T. Chan et al., "Algorithms for computing the sample variance", 1983). */
#include "cpu/device.h"

/* ---- patterns --------------------------------------------------------------------------------
 *
 * Values v [C] of the channels are repeated to a pattern as long as a block, so that short rows
 * run as one loop over whole rows. */

/* A multiple of channels. */
static int64_t pattern_length(int64_t channels)
{
    return channels * (LK_CPU_BLOCK > 2 * channels ? LK_CPU_BLOCK / channels : 1);
}

/* v may be pattern. */
static void repeat(const float *v, int64_t channels, float *pattern)
{
    int64_t length = pattern_length(channels);
    for (int64_t i = 0; i < length; i += channels)
        memmove(pattern + i, v, (size_t)channels * sizeof *v);
}

/* The reverse: sums to the first [C]. */
static void fold(float *pattern, int64_t channels)
{
    int64_t length = pattern_length(channels);
    for (int64_t i = channels; i < length; i += channels)
        for (int64_t c = 0; c < channels; c++) pattern[c] += pattern[i + c];
}

/* How x [rows, channels] is cut: chunks of whole patterns, the last one perhaps shorter. */
typedef struct cut {
    int64_t channels, elements, pattern, chunk, chunks;
} cut;

static cut cut_of(const lk_tensor *x)
{
    cut k = {lk_cols(x), lk_count(x), pattern_length(lk_cols(x)), 0, 0};
    k.chunk = k.pattern * (LK_CPU_CHUNK > k.pattern ? LK_CPU_CHUNK / k.pattern : 1);
    k.chunks = (k.elements + k.chunk - 1) / k.chunk;
    return k;
}

static int64_t chunk_end(const cut *k, int64_t chunk)
{
    int64_t end = (chunk + 1) * k->chunk;
    return end < k->elements ? end : k->elements;
}

/* The next block from element `at`, which is element *in of its pattern; within the pattern. */
static int64_t block_length(const cut *k, int64_t at, int64_t end, int64_t *in)
{
    *in = at % k->pattern;
    int64_t m = k->pattern - *in < LK_CPU_BLOCK ? k->pattern - *in : LK_CPU_BLOCK;
    return m < end - at ? m : end - at;
}

/* ---- statistics ----------------------------------------------------------------------------- */

/* mean [C] and squares about it [C] of one chunk, in patterns. */
static void chunk_moments(const cut *k, int64_t chunk, lk_dtype type, const void *from, float *mean,
                          float *square)
{
    int64_t first = chunk * k->chunk, end = chunk_end(k, chunk), in, m;
    float buffer[LK_CPU_BLOCK];
    memset(mean, 0, (size_t)k->pattern * sizeof *mean);
    memset(square, 0, (size_t)k->pattern * sizeof *square);
    for (int64_t at = first; at < end; at += m) {
        m = block_length(k, at, end, &in);
        const float *x = lk_cpu_view(type, from, at, m, buffer);
        float *sum = mean + in;
#pragma omp simd
        for (int64_t i = 0; i < m; i++) sum[i] += x[i];
    }
    fold(mean, k->channels);
    float share = (float)k->channels / (float)(end - first);
    for (int64_t c = 0; c < k->channels; c++) mean[c] *= share;
    repeat(mean, k->channels, mean);
    for (int64_t at = first; at < end; at += m) {
        m = block_length(k, at, end, &in);
        const float *x = lk_cpu_view(type, from, at, m, buffer), *centre = mean + in;
        float *sum = square + in;
#pragma omp simd
        for (int64_t i = 0; i < m; i++) sum[i] += (x[i] - centre[i]) * (x[i] - centre[i]);
    }
    fold(square, k->channels);
}

/* Join the chunks: mean, 1/sqrt(var + eps) [C] and the two statistics [C]. */
static void join_moments(const cut *k, float eps, const float *means, const float *squares,
                         float *mean, float *rstd, float *statistic_mean, float *statistic_var)
{
    double rows = (double)(k->elements / k->channels);
#pragma omp parallel for schedule(static) if (k->chunks * k->channels > LK_CPU_SMALL)
    for (int64_t c = 0; c < k->channels; c++) {
        double m = 0, square = 0, count = 0;
        for (int64_t i = 0; i < k->chunks; i++) {
            double more = (double)((chunk_end(k, i) - i * k->chunk) / k->channels);
            double d = (double)means[i * k->pattern + c] - m;
            square += (double)squares[i * k->pattern + c] + d * d * count * more / (count + more);
            m += d * more / (count + more);
            count += more;
        }
        mean[c] = statistic_mean[c] = (float)m;
        rstd[c] = (float)(1.0 / sqrt(square / rows + (double)eps));
        statistic_var[c] = (float)(square / (rows - 1));
    }
}

size_t lk_cpu_moments_scratch(const lk_tensor *t)
{
    cut k = cut_of(t);
    return (size_t)(2 * k.chunks * k.pattern) * sizeof(float);
}

void lk_cpu_moments(lk_exec *x, const lk_tensor *t, float eps, lk_tensor *const out[4])
{
    const void *from = lk_data(x, t);
    cut k = cut_of(t);
    float *means = lk_cpu_scratch(x), *squares = means + k.chunks * k.pattern;
#pragma omp parallel for schedule(static) if (k.elements > LK_CPU_SMALL)
    for (int64_t i = 0; i < k.chunks; i++)
        chunk_moments(&k, i, t->dtype, from, means + i * k.pattern, squares + i * k.pattern);
    join_moments(&k, eps, means, squares, lk_data(x, out[0]), lk_data(x, out[1]),
                 lk_data(x, out[2]), lk_data(x, out[3]));
}

size_t lk_cpu_batch_moments_scratch(const lk_node *n) { return lk_cpu_moments_scratch(n->in[0]); }

lk_status lk_cpu_batch_moments(lk_exec *x, const lk_node *n)
{
    lk_cpu_moments(x, n->in[0], n->attr.batch_norm.eps, n->out);
    return LK_OK;
}

/* ---- forward -------------------------------------------------------------------------------- */

/* y [m] = act((x - u) v + w) */
static void normalise_block(lk_activation act, int64_t m, const float *x, const float *u,
                            const float *v, const float *w, float *y)
{
#define NORMALISE(k)                                                                               \
    _Pragma("omp simd") for (int64_t i = 0; i < m; i++) y[i] =                                     \
        lk_cpu_act(k, (x[i] - u[i]) * v[i] + w[i])
    LK_CPU_EACH_ACTIVATION(act, NORMALISE)
}

/* y = act((x - mean) factor + bias), the three in patterns. */
static void normalise(const cut *k, lk_dtype type, lk_activation act, const void *from,
                      const float *mean, const float *factor, const float *bias, void *to)
{
#pragma omp parallel for schedule(static) if (k->elements > LK_CPU_SMALL)
    for (int64_t chunk = 0; chunk < k->chunks; chunk++) {
        int64_t end = chunk_end(k, chunk), in, m;
        float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
        for (int64_t at = chunk * k->chunk; at < end; at += m) {
            m = block_length(k, at, end, &in);
            const float *x = lk_cpu_view(type, from, at, m, a);
            float *y = lk_cpu_place(type, to, at, b);
            normalise_block(act, m, x, mean + in, factor + in, bias + in, y);
            lk_cpu_settle(type, to, at, m, y);
        }
    }
}

size_t lk_cpu_normalise_scratch(const lk_tensor *t)
{
    return (size_t)(3 * pattern_length(lk_cols(t))) * sizeof(float);
}

/* factor [C]: what x - mean is multiplied by, at its place in scratch. */
static void apply(lk_exec *x, const lk_tensor *in, lk_activation act, const float *mean,
                  const float *b, float *factor, const lk_tensor *out)
{
    cut k = cut_of(in);
    float *centre = factor + k.pattern, *bias = centre + k.pattern;
    repeat(factor, k.channels, factor);
    repeat(mean, k.channels, centre);
    repeat(b, k.channels, bias);
    normalise(&k, in->dtype, act, lk_data(x, in), centre, factor, bias, lk_data(x, out));
}

void lk_cpu_normalise(lk_exec *x, const lk_tensor *in, lk_activation act,
                      lk_tensor *const given[4], const lk_tensor *out)
{
    const float *w = lk_data(x, given[0]), *rstd = lk_data(x, given[3]);
    float *factor = lk_cpu_scratch(x);
    for (int64_t c = 0; c < lk_cols(in); c++) factor[c] = w[c] * rstd[c];
    apply(x, in, act, lk_data(x, given[2]), lk_data(x, given[1]), factor, out);
}

size_t lk_cpu_batch_apply_scratch(const lk_node *n) { return lk_cpu_normalise_scratch(n->in[0]); }

lk_status lk_cpu_batch_apply(lk_exec *x, const lk_node *n)
{
    lk_cpu_normalise(x, n->in[0], n->attr.batch_norm.activation, n->in + 1, n->out[0]);
    return LK_OK;
}

size_t lk_cpu_batch_norm_scratch(const lk_node *n)
{
    size_t measure = lk_cpu_moments_scratch(n->in[0]), own = lk_cpu_normalise_scratch(n->in[0]);
    return n->inputs == 3 && measure > own ? measure : own;
}

lk_status lk_cpu_batch_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    lk_activation act = n->attr.batch_norm.activation;
    float eps = n->attr.batch_norm.eps;
    if (n->inputs == 3) {
        lk_cpu_moments(x, in, eps, n->out + 1);
        lk_cpu_normalise(x, in, act, (lk_tensor *[]){n->in[1], n->in[2], n->out[1], n->out[2]},
                         n->out[0]);
        return LK_OK;
    }
    const float *w = lk_data(x, n->in[1]), *var = lk_data(x, n->in[4]);
    float *factor = lk_cpu_scratch(x);
    for (int64_t c = 0; c < lk_cols(in); c++) factor[c] = w[c] / sqrtf(var[c] + eps);
    apply(x, in, act, lk_data(x, n->in[3]), lk_data(x, n->in[2]), factor, n->out[0]);
    return LK_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

typedef struct gradient { /* patterns */
    lk_dtype type;
    lk_activation act;
    const void *x, *dy;
    float *mean, *factor, *bias; /* z = (x - mean) factor + bias */
    float *shift, *slope;        /* dx = factor dz - shift - (x - mean) slope */
} gradient;

/* db, dw [m] += dz, dz (x - mean) of elements from `at`, which is element `in` of its pattern. */
static void sum_block(const gradient *g, int64_t at, int64_t in, int64_t m, float *db, float *dw)
{
    const float *u = g->mean + in, *v = g->factor + in, *w = g->bias + in;
    float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
    const float *x = lk_cpu_view(g->type, g->x, at, m, a);
    const float *dy = lk_cpu_view(g->type, g->dy, at, m, b);
#define SUM(k)                                                                                     \
    _Pragma("omp simd") for (int64_t i = 0; i < m; i++)                                            \
    {                                                                                              \
        float centred = x[i] - u[i], dz = dy[i] * lk_cpu_slope(k, centred * v[i] + w[i]);          \
        db[i] += dz;                                                                               \
        dw[i] += dz * centred;                                                                     \
    }
    LK_CPU_EACH_ACTIVATION(g->act, SUM)
}

/* dx [m] of the same elements. */
static void dx_block(const gradient *g, int64_t at, int64_t in, int64_t m, void *to)
{
    const float *u = g->mean + in, *v = g->factor + in, *w = g->bias + in;
    const float *s = g->shift + in, *t = g->slope + in;
    float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
    const float *x = lk_cpu_view(g->type, g->x, at, m, a);
    const float *dy = lk_cpu_view(g->type, g->dy, at, m, b);
    float *dx = lk_cpu_place(g->type, to, at, b);
#define DX(k)                                                                                      \
    _Pragma("omp simd") for (int64_t i = 0; i < m; i++)                                            \
    {                                                                                              \
        float centred = x[i] - u[i], dz = dy[i] * lk_cpu_slope(k, centred * v[i] + w[i]);          \
        dx[i] = dz * v[i] - s[i] - centred * t[i];                                                 \
    }
    LK_CPU_EACH_ACTIVATION(g->act, DX)
    lk_cpu_settle(g->type, to, at, m, dx);
}

/* db, dw / rstd [C] of one chunk. */
static void chunk_sums(const cut *k, int64_t chunk, const gradient *g, float *db, float *dw)
{
    int64_t end = chunk_end(k, chunk), in, m;
    memset(db, 0, (size_t)k->pattern * sizeof *db);
    memset(dw, 0, (size_t)k->pattern * sizeof *dw);
    for (int64_t at = chunk * k->chunk; at < end; at += m) {
        m = block_length(k, at, end, &in);
        sum_block(g, at, in, m, db + in, dw + in);
    }
    fold(db, k->channels);
    fold(dw, k->channels);
}

static void write_dx(const cut *k, const gradient *g, void *to)
{
#pragma omp parallel for schedule(static) if (k->elements > LK_CPU_SMALL)
    for (int64_t chunk = 0; chunk < k->chunks; chunk++) {
        int64_t end = chunk_end(k, chunk), in, m;
        for (int64_t at = chunk * k->chunk; at < end; at += m) {
            m = block_length(k, at, end, &in);
            dx_block(g, at, in, m, to);
        }
    }
}

/* The gradient but for shift and slope; p: 5 patterns. given: w, b, mean, rstd. */
static gradient gradient_of(lk_exec *x, const cut *k, const lk_tensor *in, lk_activation act,
                            lk_tensor *const given[4], const lk_tensor *dy, float *p)
{
    gradient g = {.type = in->dtype, .act = act, .x = lk_data(x, in), .dy = lk_data(x, dy),
                  .mean = p, .factor = p + k->pattern, .bias = p + 2 * k->pattern,
                  .shift = p + 3 * k->pattern, .slope = p + 4 * k->pattern};
    const float *w = lk_data(x, given[0]), *rstd = lk_data(x, given[3]);
    for (int64_t c = 0; c < k->channels; c++) g.factor[c] = w[c] * rstd[c];
    repeat(lk_data(x, given[2]), k->channels, g.mean);
    repeat(g.factor, k->channels, g.factor);
    repeat(lk_data(x, given[1]), k->channels, g.bias);
    return g;
}

/* sums [2,C] of dz and dz (x - mean); partial: 2 patterns a chunk. */
static void all_sums(const cut *k, const gradient *g, float *partial, float *sums)
{
    float *biases = partial, *weights = biases + k->chunks * k->pattern;
#pragma omp parallel for schedule(static) if (k->elements > LK_CPU_SMALL)
    for (int64_t i = 0; i < k->chunks; i++)
        chunk_sums(k, i, g, biases + i * k->pattern, weights + i * k->pattern);
    for (int64_t c = 0; c < k->channels; c++) {
        float b = 0, s = 0;
        for (int64_t i = 0; i < k->chunks; i++) {
            b += biases[i * k->pattern + c];
            s += weights[i * k->pattern + c];
        }
        sums[c] = b;
        sums[k->channels + c] = s;
    }
}

size_t lk_cpu_batch_sums_scratch(const lk_tensor *t)
{
    cut k = cut_of(t);
    return (size_t)((5 + 2 * k.chunks) * k.pattern) * sizeof(float);
}

void lk_cpu_batch_sums(lk_exec *x, const lk_tensor *in, lk_activation act,
                       lk_tensor *const given[4], const lk_tensor *dy, float *sums)
{
    cut k = cut_of(in);
    float *p = lk_cpu_scratch(x);
    gradient g = gradient_of(x, &k, in, act, given, dy, p);
    all_sums(&k, &g, p + 5 * k.pattern, sums);
}

/* Of elements from `at`, which is element `in` of its pattern, with d = act'(z): added to sum [4]
 * patterns dy d, d, dy d (x - mean), d (x - mean). */
static void image_block(const gradient *g, int64_t at, int64_t in, int64_t m, float *const sum[4])
{
    const float *u = g->mean + in, *v = g->factor + in, *w = g->bias + in;
    float *p = sum[0] + in, *q = sum[1] + in, *r = sum[2] + in, *t = sum[3] + in;
    float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
    const float *x = lk_cpu_view(g->type, g->x, at, m, a);
    const float *dy = lk_cpu_view(g->type, g->dy, at, m, b);
#define IMAGE(k)                                                                                   \
    _Pragma("omp simd") for (int64_t i = 0; i < m; i++)                                            \
    {                                                                                              \
        float centred = x[i] - u[i], d = lk_cpu_slope(k, centred * v[i] + w[i]);                   \
        p[i] += dy[i] * d;                                                                         \
        q[i] += d;                                                                                 \
        r[i] += dy[i] * d * centred;                                                               \
        t[i] += d * centred;                                                                       \
    }
    LK_CPU_EACH_ACTIVATION(g->act, IMAGE)
}

size_t lk_cpu_image_sums_scratch(const lk_tensor *t)
{
    int64_t pattern = pattern_length(lk_cols(t));
    return lk_cpu_piece((size_t)(5 * pattern) * sizeof(float)) + lk_cpu_own_bytes(4 * pattern);
}

void lk_cpu_image_sums(lk_exec *x, const lk_tensor *in, lk_activation act,
                       lk_tensor *const given[4], const lk_tensor *dy, float *sums)
{
    cut k = cut_of(in);
    float *p = lk_cpu_scratch(x);
    char *own = (char *)p + lk_cpu_piece((size_t)(5 * k.pattern) * sizeof *p);
    gradient g = gradient_of(x, &k, in, act, given, dy, p);
    int64_t batch = in->dim[0], image = k.elements / batch;
#pragma omp parallel for schedule(static) if (k.elements > LK_CPU_SMALL)
    for (int64_t b = 0; b < batch; b++) {
        float *sum[4], *to = sums + 4 * b * k.channels;
        int64_t end = (b + 1) * image, at_pattern, m;
        sum[0] = lk_cpu_own(own, 4 * k.pattern);
        memset(sum[0], 0, (size_t)(4 * k.pattern) * sizeof **sum);
        for (int i = 1; i < 4; i++) sum[i] = sum[i - 1] + k.pattern;
        for (int64_t at = b * image; at < end; at += m) {
            m = block_length(&k, at, end, &at_pattern);
            image_block(&g, at, at_pattern, m, sum);
        }
        for (int i = 0; i < 4; i++) {
            fold(sum[i], k.channels);
            memcpy(to + i * k.channels, sum[i], (size_t)k.channels * sizeof *to);
        }
    }
}

size_t lk_cpu_batch_norm_grad_scratch(const lk_node *n)
{
    return lk_cpu_batch_sums_scratch(n->in[0]) + (size_t)(2 * lk_cols(n->in[0])) * sizeof(float);
}

lk_status lk_cpu_batch_norm_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    const float *rstd = lk_data(x, n->in[4]);
    float *dw = lk_data(x, n->out[1]), *db = lk_data(x, n->out[2]);
    cut k = cut_of(in);
    float *p = lk_cpu_scratch(x);
    gradient g = gradient_of(x, &k, in, n->attr.batch_norm.activation, n->in + 1, n->in[5], p);
    float *sums = n->in[6] ? lk_data(x, n->in[6]) : p + (5 + 2 * k.chunks) * k.pattern;
    if (!n->in[6]) all_sums(&k, &g, p + 5 * k.pattern, sums);
    float share = (float)k.channels / (float)k.elements;
    for (int64_t c = 0; c < k.channels; c++) {
        float b = sums[c], s = sums[k.channels + c] * rstd[c];
        g.shift[c] = g.factor[c] * b * share;
        g.slope[c] = g.factor[c] * s * share * rstd[c];
        dw[c] = n->accumulate & 2 ? dw[c] + s : s;
        db[c] = n->accumulate & 4 ? db[c] + b : b;
    }
    repeat(g.shift, k.channels, g.shift);
    repeat(g.slope, k.channels, g.slope);
    write_dx(&k, &g, lk_data(x, n->out[0]));
    return LK_OK;
}
