/* batch_norm and its gradient. Rows are cut into chunks by the shape; each chunk's mean and squares
 * about it are taken while it is in cache, and chunks are joined in order (T. Chan et al.,
 * "Algorithms for computing the sample variance", 1983). */
#include "cpu/device.h"

/* ---- patterns ------------------------------------------------------------------------------- */

int64_t lk_cpu_pattern(int64_t channels)
{
    return channels * (LK_CPU_BLOCK > 2 * channels ? LK_CPU_BLOCK / channels : 1);
}

void lk_cpu_repeat(const float *v, int64_t channels, float *pattern)
{
    int64_t length = lk_cpu_pattern(channels);
    for (int64_t i = 0; i < length; i += channels)
        memmove(pattern + i, v, (size_t)channels * sizeof *v);
}

void lk_cpu_fold(float *pattern, int64_t channels)
{
    int64_t length = lk_cpu_pattern(channels);
    for (int64_t i = channels; i < length; i += channels)
        for (int64_t c = 0; c < channels; c++) pattern[c] += pattern[i + c];
}

/* How x [rows, channels] is cut: chunks of whole patterns, the last one perhaps shorter. */
typedef struct cut {
    int64_t channels, elements, pattern, chunk, chunks;
} cut;

static cut cut_of(const lk_tensor *x)
{
    cut k = {lk_cols(x), lk_count(x), lk_cpu_pattern(lk_cols(x)), 0, 0};
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

size_t lk_cpu_batch_norm_scratch(const lk_node *n)
{
    cut k = cut_of(n->in[0]);
    return (size_t)((3 + 2 * k.chunks) * k.pattern) * sizeof(float);
}

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
    lk_cpu_fold(mean, k->channels);
    float share = (float)k->channels / (float)(end - first);
    for (int64_t c = 0; c < k->channels; c++) mean[c] *= share;
    lk_cpu_repeat(mean, k->channels, mean);
    for (int64_t at = first; at < end; at += m) {
        m = block_length(k, at, end, &in);
        const float *x = lk_cpu_view(type, from, at, m, buffer), *centre = mean + in;
        float *sum = square + in;
#pragma omp simd
        for (int64_t i = 0; i < m; i++) sum[i] += (x[i] - centre[i]) * (x[i] - centre[i]);
    }
    lk_cpu_fold(square, k->channels);
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

lk_status lk_cpu_batch_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    const void *from = lk_data(x, in);
    const float *w = lk_data(x, n->in[1]), *b = lk_data(x, n->in[2]), *mean, *rstd;
    float eps = n->attr.batch_norm.eps;
    cut k = cut_of(in);
    float *centre = lk_cpu_scratch(x), *factor = centre + k.pattern, *bias = factor + k.pattern;
    if (n->inputs > 3) {
        const float *var = lk_data(x, n->in[4]);
        mean = lk_data(x, n->in[3]);
        for (int64_t c = 0; c < k.channels; c++) factor[c] = w[c] / sqrtf(var[c] + eps);
    } else {
        float *means = bias + k.pattern, *squares = means + k.chunks * k.pattern;
#pragma omp parallel for schedule(static) if (k.elements > LK_CPU_SMALL)
        for (int64_t i = 0; i < k.chunks; i++)
            chunk_moments(&k, i, in->dtype, from, means + i * k.pattern, squares + i * k.pattern);
        join_moments(&k, eps, means, squares, lk_data(x, n->out[1]), lk_data(x, n->out[2]),
                     lk_data(x, n->out[3]), lk_data(x, n->out[4]));
        mean = lk_data(x, n->out[1]);
        rstd = lk_data(x, n->out[2]);
        for (int64_t c = 0; c < k.channels; c++) factor[c] = w[c] * rstd[c];
    }
    lk_cpu_repeat(mean, k.channels, centre);
    lk_cpu_repeat(factor, k.channels, factor);
    lk_cpu_repeat(b, k.channels, bias);
    normalise(&k, in->dtype, n->attr.batch_norm.activation, from, centre, factor, bias,
              lk_data(x, n->out[0]));
    return LK_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

size_t lk_cpu_batch_norm_grad_scratch(const lk_node *n)
{
    cut k = cut_of(n->in[0]);
    return (size_t)((5 + 2 * k.chunks) * k.pattern) * sizeof(float);
}

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
    lk_cpu_fold(db, k->channels);
    lk_cpu_fold(dw, k->channels);
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

lk_status lk_cpu_batch_norm_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    const float *w = lk_data(x, n->in[1]), *rstd = lk_data(x, n->in[4]);
    float *dw = lk_data(x, n->out[1]), *db = lk_data(x, n->out[2]);
    cut k = cut_of(in);
    float *p = lk_cpu_scratch(x);
    gradient g = {.type = in->dtype, .act = n->attr.batch_norm.activation, .x = lk_data(x, in),
                  .dy = lk_data(x, n->in[5]), .mean = p, .factor = p + k.pattern,
                  .bias = p + 2 * k.pattern, .shift = p + 3 * k.pattern,
                  .slope = p + 4 * k.pattern};
    float *biases = p + 5 * k.pattern, *weights = biases + k.chunks * k.pattern;
    for (int64_t c = 0; c < k.channels; c++) g.factor[c] = w[c] * rstd[c];
    lk_cpu_repeat(lk_data(x, n->in[3]), k.channels, g.mean);
    lk_cpu_repeat(g.factor, k.channels, g.factor);
    lk_cpu_repeat(lk_data(x, n->in[2]), k.channels, g.bias);
#pragma omp parallel for schedule(static) if (k.elements > LK_CPU_SMALL)
    for (int64_t i = 0; i < k.chunks; i++)
        chunk_sums(&k, i, &g, biases + i * k.pattern, weights + i * k.pattern);
    float share = (float)k.channels / (float)k.elements;
    for (int64_t c = 0; c < k.channels; c++) {
        float b = 0, s = 0;
        for (int64_t i = 0; i < k.chunks; i++) {
            b += biases[i * k.pattern + c];
            s += weights[i * k.pattern + c];
        }
        s *= rstd[c];
        g.shift[c] = g.factor[c] * b * share;
        g.slope[c] = g.factor[c] * s * share * rstd[c];
        dw[c] = n->accumulate & 2 ? dw[c] + s : s;
        db[c] = n->accumulate & 4 ? db[c] + b : b;
    }
    lk_cpu_repeat(g.shift, k.channels, g.shift);
    lk_cpu_repeat(g.slope, k.channels, g.slope);
    write_dx(&k, &g, lk_data(x, n->out[0]));
    return LK_OK;
}
