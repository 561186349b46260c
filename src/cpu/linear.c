/* linear, alone or measured, its two gradient products, the gradient of gelu. Products are computed
 * in f32; half operands are converted into scratch first, results rounded once, and pre, where it
 * is kept, before gelu. */
#include "cpu/device.h"

enum {
    CHUNK_ROWS = 64, /* of a column sum */
    MAX_CHUNKS = 64,
    SPLIT_ROWS = 1024,      /* of a weight gradient that is summed over on its own, */
    MAX_SPLIT = 8,          /* if there are at most this many, */
    SPLIT_WEIGHTS = 1 << 14 /* and few weights, so that one product would be one thread's */
};

/* ---- column sums ---------------------------------------------------------------------------- */

int64_t lk_cpu_column_chunks(int64_t rows)
{
    int64_t n = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    return n > MAX_CHUNKS ? MAX_CHUNKS : n > 0 ? n : 1;
}

void lk_cpu_sum_chunks(const float *partial, int64_t chunks, int64_t cols, bool accumulate,
                       float *out)
{
    for (int64_t j = 0; j < cols; j++) {
        float sum = partial[j];
        for (int64_t c = 1; c < chunks; c++) sum += partial[c * cols + j];
        out[j] = accumulate ? out[j] + sum : sum;
    }
}

/* out [cols] (+)= sum over rows of x [rows, cols] */
static void column_sums(const float *x, int64_t rows, int64_t cols, float *scratch,
                        bool accumulate, float *out)
{
    int64_t chunks = lk_cpu_column_chunks(rows), each = (rows + chunks - 1) / chunks;
#pragma omp parallel for schedule(static) if (rows * cols > LK_CPU_SMALL)
    for (int64_t c = 0; c < chunks; c++) {
        float *sum = scratch + c * cols;
        memset(sum, 0, (size_t)cols * sizeof *sum);
        for (int64_t i = c * each; i < (c + 1) * each && i < rows; i++)
            for (int64_t j = 0; j < cols; j++) sum[j] += x[i * cols + j];
    }
    lk_cpu_sum_chunks(scratch, chunks, cols, accumulate, out);
}

size_t lk_cpu_column_sums_scratch(const lk_tensor *t)
{
    return lk_cpu_copy_bytes(t) +
           (size_t)(lk_cpu_column_chunks(lk_rows(t)) * lk_cols(t)) * sizeof(float);
}

void lk_cpu_column_sums(lk_exec *x, const lk_tensor *t, bool accumulate, float *out)
{
    char *scratch = lk_cpu_scratch(x);
    const float *values = lk_cpu_as_f32(x, t, lk_cpu_take(&scratch, t));
    column_sums(values, lk_rows(t), lk_cols(t), (float *)scratch, accumulate, out);
}

/* ---- scratch: f32 copies of half operands ---------------------------------------------------- */

size_t lk_cpu_linear_scratch(const lk_node *n)
{
    size_t copies = lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) +
                    lk_cpu_copy_bytes(n->in[2]) + lk_cpu_copy_bytes(n->out[0]);
    size_t rope = lk_cpu_rope_scratch(n);
    return copies > rope ? copies : rope;
}

size_t lk_cpu_linear_dx_scratch(const lk_node *n)
{
    size_t copies = lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) +
                    lk_cpu_copy_bytes(n->out[0]);
    size_t sums = n->out[1] ? lk_cpu_column_sums_scratch(n->out[0]) : 0;
    return copies > sums ? copies : sums;
}

/* Into how many products over rows the weight gradient is split. */
static int64_t split_of(const lk_node *n)
{
    int64_t parts = lk_rows(n->in[1]) / SPLIT_ROWS;
    if (lk_count(n->out[0]) > SPLIT_WEIGHTS || parts < 2) return 1;
    return parts < MAX_SPLIT ? parts : MAX_SPLIT;
}

size_t lk_cpu_linear_dw_scratch(const lk_node *n)
{
    const lk_tensor *dy = n->in[1];
    int64_t sums = lk_cpu_column_chunks(lk_rows(dy)) * lk_cols(dy);
    int64_t products = split_of(n) * lk_count(n->out[0]);
    return lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(dy) +
           (size_t)(sums > products ? sums : products) * sizeof(float);
}

/* ---- linear --------------------------------------------------------------------------------- */

/* Rows of y += bias; the sum to `pre`, its activation to y. */
static void finish(const lk_node *n, const float *y, const float *bias, void *out, void *pre)
{
    const lk_tensor *t = n->out[0];
    int64_t rows = lk_rows(t), cols = lk_cols(t);
    bool act = n->attr.linear.activation == LK_GELU;
#pragma omp parallel for schedule(static) if (rows * cols > LK_CPU_SMALL)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += LK_CPU_BLOCK) {
            float block[LK_CPU_BLOCK];
            int64_t m = cols - j < LK_CPU_BLOCK ? cols - j : LK_CPU_BLOCK, at = i * cols + j;
            for (int64_t k = 0; k < m; k++) block[k] = y[at + k] + (bias ? bias[j + k] : 0.0f);
            if (pre) {
                lk_cpu_store(t->dtype, pre, at, m, block);
                lk_cpu_load(t->dtype, pre, at, m, block); /* backward sees the rounded value */
            }
            if (act)
                for (int64_t k = 0; k < m; k++) block[k] = lk_cpu_gelu(block[k]);
            lk_cpu_store(t->dtype, out, at, m, block);
        }
}

lk_status lk_cpu_linear(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *w = n->in[1], *b = n->in[2], *out = n->out[0];
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    const float *bs = b ? lk_cpu_as_f32(x, b, lk_cpu_take(&scratch, b)) : NULL;
    float *y = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
    LK_TRY(lk_cpu_matmul(false, true, lk_rows(in), w->dim[0], w->dim[1], xs, ws, 0.0f, y));
    if (b || n->attr.linear.activation != LK_LINEAR || out->dtype != LK_F32)
        finish(n, y, bs, lk_data(x, out), lk_data(x, n->out[1]));
    if (lk_rotation_of(n)) lk_cpu_rotate(x, n, out);
    return LK_OK;
}

/* ---- linear_moments: the product, and what batch_moments does with it ------------------------ */

static lk_node plain_of(const lk_node *n)
{
    lk_node plain = *n;
    plain.op = LK_OP_LINEAR;
    plain.attr = (lk_attr){.linear = {.activation = LK_LINEAR}};
    plain.in[2] = plain.out[1] = NULL; /* no bias, no pre */
    return plain;
}

size_t lk_cpu_linear_moments_scratch(const lk_node *n)
{
    lk_node plain = plain_of(n);
    size_t product = lk_cpu_linear_scratch(&plain), measure = lk_cpu_moments_scratch(n->out[0]);
    return product > measure ? product : measure;
}

lk_status lk_cpu_linear_moments(lk_exec *x, const lk_node *n)
{
    lk_node plain = plain_of(n);
    LK_TRY(lk_cpu_linear(x, &plain));
    lk_cpu_moments(x, n->out[0], n->attr.batch_norm.eps, n->out + 1);
    return LK_OK;
}

/* ---- gradients ------------------------------------------------------------------------------ */

/* dx [count] *= gelu'(pre) */
static void times_slope(lk_dtype type, float *dx, const void *pre, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK) {
        float block[LK_CPU_BLOCK];
        int64_t m = count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK;
        lk_cpu_load(type, pre, i, m, block);
        for (int64_t k = 0; k < m; k++) dx[i + k] *= lk_cpu_gelu_slope(block[k]);
    }
}

lk_status lk_cpu_linear_dx(lk_exec *x, const lk_node *n)
{
    const lk_tensor *dy = n->in[0], *w = n->in[1], *out = n->out[0];
    char *scratch = lk_cpu_scratch(x);
    const float *dys = lk_cpu_as_f32(x, dy, lk_cpu_take(&scratch, dy));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    float *dx = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
    LK_TRY(lk_cpu_matmul(false, false, lk_rows(dy), w->dim[1], w->dim[0], dys, ws, 0.0f, dx));
    if (n->attr.linear.activation == LK_GELU)
        times_slope(out->dtype, dx, lk_data(x, n->in[2]), lk_count(out));
    lk_cpu_from_f32(x, out, dx);
    if (n->out[1]) lk_cpu_column_sums(x, out, n->accumulate & 2, lk_data(x, n->out[1]));
    return LK_OK;
}

/* dw [m,k] (+)= dy [rows,m]^T x [rows,k], in `parts` parts; partial [parts, m, k]. */
static lk_status split_product(int64_t parts, int64_t rows, int64_t m, int64_t k, const float *dy,
                               const float *x, float *partial, bool accumulate, float *dw)
{
    int bad = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : bad)
    for (int64_t p = 0; p < parts; p++) {
        int64_t first = p * rows / parts, end = (p + 1) * rows / parts;
        bad |= lk_cpu_gemm(true, false, m, k, end - first, 1.0f, dy + first * m, m, x + first * k,
                           k, 0.0f, partial + p * m * k, k) != LK_OK;
    }
    if (bad) return lk_fail(LK_E_DEVICE, "oneDNN sgemm failed");
    lk_cpu_sum_chunks(partial, parts, m * k, accumulate, dw);
    return LK_OK;
}

lk_status lk_cpu_linear_dw(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *dy = n->in[1], *dw = n->out[0], *db = n->out[1];
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *dys = lk_cpu_as_f32(x, dy, lk_cpu_take(&scratch, dy));
    int64_t parts = split_of(n);
    if (parts > 1)
        LK_TRY(split_product(parts, lk_rows(dy), lk_cols(dy), lk_cols(in), dys, xs,
                             (float *)scratch, n->accumulate & 1, lk_data(x, dw)));
    else
        LK_TRY(lk_cpu_matmul(true, false, lk_cols(dy), lk_cols(in), lk_rows(dy), dys, xs,
                             n->accumulate & 1 ? 1.0f : 0.0f, lk_data(x, dw)));
    if (db)
        column_sums(dys, lk_rows(dy), lk_cols(dy), (float *)scratch, n->accumulate & 2,
                    lk_data(x, db));
    return LK_OK;
}

lk_status lk_cpu_gelu_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *t = n->in[0];
    const void *dy = lk_data(x, t), *pre = lk_data(x, n->in[1]);
    void *out = lk_data(x, n->out[0]);
    int64_t count = lk_count(t);
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK) {
        float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
        int64_t m = count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK;
        lk_cpu_load(t->dtype, dy, i, m, a);
        lk_cpu_load(t->dtype, pre, i, m, b);
        for (int64_t k = 0; k < m; k++) a[k] *= lk_cpu_gelu_slope(b[k]);
        lk_cpu_store(t->dtype, out, i, m, a);
    }
    return LK_OK;
}
