/* pool, max_pool and their gradients. */
#include "cpu/device.h"

/* sum [C] over the pixels [hw, C] of one image from element `first`, times x's partner if given. */
static void image_sums(lk_dtype type, const void *x, const void *y, int64_t first, int64_t hw,
                       int64_t channels, int64_t c, int64_t m, float *sum)
{
    float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
    memset(sum, 0, (size_t)m * sizeof *sum);
    for (int64_t i = 0; i < hw; i++) {
        int64_t at = first + i * channels + c;
        const float *u = lk_cpu_view(type, x, at, m, a);
        if (y) {
            const float *v = lk_cpu_view(type, y, at, m, b);
            for (int64_t j = 0; j < m; j++) sum[j] += u[j] * v[j];
        } else {
            for (int64_t j = 0; j < m; j++) sum[j] += u[j];
        }
    }
}

/* out [B,C] = factor * sum over H and W of x [B,H,W,C] (times y) */
static void sums(lk_exec *e, const lk_tensor *x, const lk_tensor *y, float factor,
                 const lk_tensor *out)
{
    int64_t batch = x->dim[0], hw = x->dim[1] * x->dim[2], channels = x->dim[3];
    const void *xs = lk_data(e, x), *ys = lk_data(e, y);
    void *to = lk_data(e, out);
#pragma omp parallel for schedule(static) if (lk_count(x) > LK_CPU_SMALL)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t c = 0; c < channels; c += LK_CPU_BLOCK) {
            float sum[LK_CPU_BLOCK];
            int64_t m = channels - c < LK_CPU_BLOCK ? channels - c : LK_CPU_BLOCK;
            image_sums(x->dtype, xs, ys, b * hw * channels, hw, channels, c, m, sum);
            for (int64_t j = 0; j < m; j++) sum[j] *= factor;
            lk_cpu_store(out->dtype, to, b * channels + c, m, sum);
        }
}

lk_status lk_cpu_pool(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    sums(x, in, NULL, 1.0f / (float)(in->dim[1] * in->dim[2]), n->out[0]);
    return LK_OK;
}

lk_status lk_cpu_gate_ds(lk_exec *x, const lk_node *n)
{
    sums(x, n->in[0], n->in[1], 1.0f, n->out[0]);
    return LK_OK;
}

lk_status lk_cpu_pool_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *dy = n->in[0], *out = n->out[0];
    int64_t batch = out->dim[0], hw = out->dim[1] * out->dim[2], channels = out->dim[3];
    const void *from = lk_data(x, dy);
    void *to = lk_data(x, out);
    float share = 1.0f / (float)hw;
#pragma omp parallel for schedule(static) if (lk_count(out) > LK_CPU_SMALL)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t c = 0; c < channels; c += LK_CPU_BLOCK) {
            float block[LK_CPU_BLOCK];
            int64_t m = channels - c < LK_CPU_BLOCK ? channels - c : LK_CPU_BLOCK;
            lk_cpu_load(dy->dtype, from, b * channels + c, m, block);
            for (int64_t j = 0; j < m; j++) block[j] *= share;
            for (int64_t i = 0; i < hw; i++)
                lk_cpu_store(out->dtype, to, (b * hw + i) * channels + c, m, block);
        }
    return LK_OK;
}

/* ---- max_pool ------------------------------------------------------------------------------- */

/* best [m], index [m]: of the window that begins at (top, left) of image b, channels from c. */
static void window_max(const lk_node *n, const void *from, int64_t b, int64_t top, int64_t left,
                       int64_t c, int64_t m, float *best, uint8_t *index)
{
    const lk_tensor *x = n->in[0];
    int64_t height = x->dim[1], width = x->dim[2], channels = x->dim[3];
    int size = n->attr.max_pool.size;
    bool first = true;
    for (int k = 0; k < size * size; k++) {
        int64_t h = top + k / size, w = left + k % size;
        if (h < 0 || h >= height || w < 0 || w >= width) continue;
        float block[LK_CPU_BLOCK];
        const float *v = lk_cpu_view(x->dtype, from, ((b * height + h) * width + w) * channels + c,
                                     m, block);
        for (int64_t j = 0; j < m; j++) { /* a NaN wins, and stays */
            bool more = first || v[j] > best[j] || v[j] != v[j];
            best[j] = more ? v[j] : best[j];
            index[j] = more ? (uint8_t)k : index[j];
        }
        first = false;
    }
}

lk_status lk_cpu_max_pool(lk_exec *x, const lk_node *n)
{
    const lk_tensor *out = n->out[0];
    int64_t rows = out->dim[0] * out->dim[1], width = out->dim[2], channels = out->dim[3];
    int stride = n->attr.max_pool.stride, pad = n->attr.max_pool.pad;
    const void *from = lk_data(x, n->in[0]);
    void *to = lk_data(x, out);
    uint8_t *index = lk_data(x, n->out[1]);
#pragma omp parallel for schedule(static) if (lk_count(out) > LK_CPU_SMALL)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t w = 0; w < width; w++)
            for (int64_t c = 0; c < channels; c += LK_CPU_BLOCK) {
                float best[LK_CPU_BLOCK];
                int64_t m = channels - c < LK_CPU_BLOCK ? channels - c : LK_CPU_BLOCK;
                int64_t at = (r * width + w) * channels + c;
                window_max(n, from, r / out->dim[1], r % out->dim[1] * stride - pad,
                           w * stride - pad, c, m, best, index + at);
                lk_cpu_store(out->dtype, to, at, m, best);
            }
    return LK_OK;
}

/* sum [m] of the dy whose window's largest is pixel (h, w) of image b; windows in order. */
static void pixel_gradient(const lk_node *n, const void *from, const uint8_t *index, int64_t b,
                           int64_t h, int64_t w, int64_t c, int64_t m, float *sum)
{
    const lk_tensor *dy = n->in[0];
    int64_t rows = dy->dim[1], columns = dy->dim[2], channels = dy->dim[3];
    int size = n->attr.max_pool.size, stride = n->attr.max_pool.stride, pad = n->attr.max_pool.pad;
    memset(sum, 0, (size_t)m * sizeof *sum);
    for (int kh = size - 1; kh >= 0; kh--) {
        int64_t i = h + pad - kh;
        if (i < 0 || i % stride || i / stride >= rows) continue;
        for (int kw = size - 1; kw >= 0; kw--) {
            int64_t j = w + pad - kw;
            if (j < 0 || j % stride || j / stride >= columns) continue;
            int64_t at = ((b * rows + i / stride) * columns + j / stride) * channels + c;
            float block[LK_CPU_BLOCK];
            const float *d = lk_cpu_view(dy->dtype, from, at, m, block);
            for (int64_t l = 0; l < m; l++)
                sum[l] += index[at + l] == kh * size + kw ? d[l] : 0.0f;
        }
    }
}

lk_status lk_cpu_max_pool_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *out = n->out[0];
    int64_t rows = out->dim[0] * out->dim[1], width = out->dim[2], channels = out->dim[3];
    const void *from = lk_data(x, n->in[0]);
    const uint8_t *index = lk_data(x, n->in[1]);
    void *to = lk_data(x, out);
#pragma omp parallel for schedule(static) if (lk_count(out) > LK_CPU_SMALL)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t w = 0; w < width; w++)
            for (int64_t c = 0; c < channels; c += LK_CPU_BLOCK) {
                float sum[LK_CPU_BLOCK];
                int64_t m = channels - c < LK_CPU_BLOCK ? channels - c : LK_CPU_BLOCK;
                pixel_gradient(n, from, index, r / out->dim[1], r % out->dim[1], w, c, m, sum);
                lk_cpu_store(out->dtype, to, (r * width + w) * channels + c, m, sum);
            }
    return LK_OK;
}
