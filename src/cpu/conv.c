/* conv and its gradients as matrix products over patches: rows of a tile are output pixels, columns
 * the kh kw Ci input values each of them sees. Tiles are cut by the shape; a tile is one product on
 * one thread. Also channel_conv. */
#include "cpu/device.h"

enum {
    PATCH_FLOATS = 1 << 16, /* of a tile: it stays in the second-level cache */
    MAX_CHUNKS = 16,        /* of images that a weight gradient is summed over on its own */
    CHUNK_FLOATS = 1 << 22  /* in all chunks, if they are more than four */
};

typedef struct shape {
    int64_t batch, height, width, in; /* x [batch, height, width, in] */
    int64_t rows, columns, out;       /* y [batch, rows, columns, out] */
    int64_t kh, kw, k;                /* w [out, kh, kw, in], k = kh kw in */
    int64_t tile, tiles;              /* rows of y to a tile, tiles to an image */
    int stride, pad;
} shape;

static shape shape_of(const lk_node *n, const lk_tensor *x, const lk_tensor *w, const lk_tensor *y)
{
    shape s = {x->dim[0], x->dim[1], x->dim[2], x->dim[3], y->dim[1], y->dim[2], y->dim[3],
               w->dim[1], w->dim[2], w->dim[1] * w->dim[2] * w->dim[3], 1, 1,
               n->attr.conv.stride, n->attr.conv.pad};
    int64_t row = s.columns * s.k;
    s.tile = row < PATCH_FLOATS ? PATCH_FLOATS / row : 1;
    if (s.tile > s.rows) s.tile = s.rows;
    s.tiles = (s.rows + s.tile - 1) / s.tile;
    return s;
}

static int64_t tile_pixels(const shape *s, int64_t tile)
{
    int64_t left = s->rows - tile * s->tile;
    return (left < s->tile ? left : s->tile) * s->columns;
}

/* Where the `count` columns of a kernel row lie in a row of x, clipped: from *first on, at x's
 * column *at. */
static int64_t clip(const shape *s, int64_t column, int64_t *first, int64_t *at)
{
    int64_t left = column * s->stride - s->pad;
    *first = left < 0 ? -left : 0;
    *at = left + *first;
    int64_t count = s->kw - *first;
    return *at + count > s->width ? s->width - *at : count;
}

/* patch [pixels of the tile, k] of image x [height, width, in] */
static void gather(const shape *s, const float *x, int64_t tile, float *patch)
{
    int64_t pixels = tile_pixels(s, tile), row = s->kw * s->in;
    for (int64_t p = 0; p < pixels; p++) {
        int64_t top = (tile * s->tile + p / s->columns) * s->stride - s->pad, first, at;
        int64_t count = clip(s, p % s->columns, &first, &at);
        for (int64_t kh = 0; kh < s->kh; kh++, patch += row) {
            if (top + kh < 0 || top + kh >= s->height || count <= 0) {
                memset(patch, 0, (size_t)row * sizeof *patch);
                continue;
            }
            const float *from = x + ((top + kh) * s->width + at) * s->in;
            int64_t before = first * s->in, m = count * s->in;
            for (int64_t i = 0; i < before; i++) patch[i] = 0;
            for (int64_t i = 0; i < m; i++) patch[before + i] = from[i];
            for (int64_t i = before + m; i < row; i++) patch[i] = 0;
        }
    }
}

/* The reverse: add patch to image dx. */
static void scatter(const shape *s, const float *patch, int64_t tile, float *dx)
{
    int64_t pixels = tile_pixels(s, tile), row = s->kw * s->in;
    for (int64_t p = 0; p < pixels; p++) {
        int64_t top = (tile * s->tile + p / s->columns) * s->stride - s->pad, first, at;
        int64_t count = clip(s, p % s->columns, &first, &at);
        for (int64_t kh = 0; kh < s->kh; kh++, patch += row) {
            if (top + kh < 0 || top + kh >= s->height || count <= 0) continue;
            float *to = dx + ((top + kh) * s->width + at) * s->in;
            const float *from = patch + first * s->in;
            for (int64_t i = 0; i < count * s->in; i++) to[i] += from[i];
        }
    }
}

static int64_t patch_count(const shape *s) { return s->tile * s->columns * s->k; }

static lk_status finished(const lk_node *n, bool bad)
{
    return bad ? lk_fail(LK_E_DEVICE, "%s: oneDNN sgemm failed", n->scope) : LK_OK;
}

/* ---- conv ----------------------------------------------------------------------------------- */

/* Copies in f32 and each thread's patch. */
static size_t conv_scratch(const lk_node *n, const shape *s)
{
    return lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) +
           lk_cpu_copy_bytes(n->out[0]) + lk_cpu_own_bytes(patch_count(s));
}

size_t lk_cpu_conv_scratch(const lk_node *n)
{
    shape s = shape_of(n, n->in[0], n->in[1], n->out[0]);
    return conv_scratch(n, &s);
}

lk_status lk_cpu_conv(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *w = n->in[1], *out = n->out[0];
    shape s = shape_of(n, in, w, out);
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    float *y = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
    int bad = 0;
#pragma omp parallel reduction(| : bad)
    {
        float *patch = lk_cpu_own(scratch, patch_count(&s));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s.batch * s.tiles; i++) {
            int64_t image = i / s.tiles, tile = i % s.tiles;
            gather(&s, xs + image * s.height * s.width * s.in, tile, patch);
            float *to = y + (image * s.rows + tile * s.tile) * s.columns * s.out;
            bad |= lk_cpu_gemm(false, true, tile_pixels(&s, tile), s.out, s.k, 1.0f, patch, s.k, ws,
                               s.k, 0.0f, to, s.out) != LK_OK;
        }
    }
    LK_TRY(finished(n, bad));
    lk_cpu_from_f32(x, out, y);
    return LK_OK;
}

size_t lk_cpu_conv_dx_scratch(const lk_node *n)
{
    shape s = shape_of(n, n->out[0], n->in[1], n->in[0]);
    return conv_scratch(n, &s);
}

lk_status lk_cpu_conv_dx(lk_exec *x, const lk_node *n)
{
    const lk_tensor *dy = n->in[0], *w = n->in[1], *out = n->out[0];
    shape s = shape_of(n, out, w, dy);
    int64_t image = s.height * s.width * s.in;
    char *scratch = lk_cpu_scratch(x);
    const float *dys = lk_cpu_as_f32(x, dy, lk_cpu_take(&scratch, dy));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    float *dx = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
    int bad = 0;
#pragma omp parallel reduction(| : bad)
    {
        float *patch = lk_cpu_own(scratch, patch_count(&s));
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < s.batch; b++) {
            memset(dx + b * image, 0, (size_t)image * sizeof *dx);
            for (int64_t tile = 0; tile < s.tiles; tile++) {
                const float *from = dys + (b * s.rows + tile * s.tile) * s.columns * s.out;
                bad |= lk_cpu_gemm(false, false, tile_pixels(&s, tile), s.k, s.out, 1.0f, from,
                                   s.out, ws, s.k, 0.0f, patch, s.k) != LK_OK;
                scatter(&s, patch, tile, dx + b * image);
            }
        }
    }
    LK_TRY(finished(n, bad));
    lk_cpu_from_f32(x, out, dx);
    return LK_OK;
}

/* ---- weight gradient: one for each chunk of images, then their sum --------------------------- */

static int64_t chunks_of(const shape *s)
{
    int64_t fit = CHUNK_FLOATS / (s->out * s->k), most = fit < 4 ? 4 : fit;
    if (most > MAX_CHUNKS) most = MAX_CHUNKS;
    return s->batch < most ? s->batch : most;
}

static size_t partial_bytes(const shape *s)
{
    return lk_cpu_piece((size_t)(chunks_of(s) * s->out * s->k) * sizeof(float));
}

size_t lk_cpu_conv_dw_scratch(const lk_node *n)
{
    shape s = shape_of(n, n->in[0], n->out[0], n->in[1]);
    return lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) +
           partial_bytes(&s) + lk_cpu_own_bytes(patch_count(&s));
}

/* dw [out, k] = sum over the images of chunk c of dy^T patches */
static bool chunk_weights(const shape *s, int64_t chunks, int64_t c, const float *x,
                          const float *dy, float *patch, float *dw)
{
    bool bad = false;
    int64_t first = c * s->batch / chunks, end = (c + 1) * s->batch / chunks;
    for (int64_t b = first; b < end; b++)
        for (int64_t tile = 0; tile < s->tiles; tile++) {
            gather(s, x + b * s->height * s->width * s->in, tile, patch);
            const float *from = dy + (b * s->rows + tile * s->tile) * s->columns * s->out;
            float beta = b == first && tile == 0 ? 0.0f : 1.0f;
            bad |= lk_cpu_gemm(true, false, s->out, s->k, tile_pixels(s, tile), 1.0f, from, s->out,
                               patch, s->k, beta, dw, s->k) != LK_OK;
        }
    return bad;
}

lk_status lk_cpu_conv_dw(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *dy = n->in[1];
    shape s = shape_of(n, in, n->out[0], dy);
    int64_t chunks = chunks_of(&s), weights = s.out * s.k;
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *dys = lk_cpu_as_f32(x, dy, lk_cpu_take(&scratch, dy));
    float *partial = (float *)scratch;
    scratch += partial_bytes(&s);
    int bad = 0;
#pragma omp parallel reduction(| : bad)
    {
        float *patch = lk_cpu_own(scratch, patch_count(&s));
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < chunks; c++)
            bad |= chunk_weights(&s, chunks, c, xs, dys, patch, partial + c * weights);
    }
    LK_TRY(finished(n, bad));
    lk_cpu_sum_chunks(partial, chunks, weights, n->accumulate & 1, lk_data(x, n->out[0]));
    return LK_OK;
}

/* ---- channel_conv: rows of a few hundred values, k of 3 to 9 --------------------------------- */

size_t lk_cpu_channel_conv_scratch(const lk_node *n)
{
    return lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) + lk_cpu_copy_bytes(n->out[0]);
}

/* The columns for which column + shift lies in the row too: [*first, *end). */
static void overlap(int64_t columns, int64_t shift, int64_t *first, int64_t *end)
{
    *first = shift < 0 ? -shift : 0;
    *end = shift > 0 ? columns - shift : columns;
}

/* y [rows, columns] = sum over t of w[t] x at column + (t - k/2), or - (t - k/2) with `turned` */
static void along_channels(int64_t rows, int64_t columns, int64_t k, const float *x, const float *w,
                           bool turned, float *y)
{
#pragma omp parallel for schedule(static) if (rows * columns * k > LK_CPU_SMALL)
    for (int64_t r = 0; r < rows; r++) {
        float *to = y + r * columns;
        memset(to, 0, (size_t)columns * sizeof *to);
        for (int64_t t = 0; t < k; t++) {
            int64_t shift = turned ? k / 2 - t : t - k / 2, first, end;
            overlap(columns, shift, &first, &end);
            const float *from = x + r * columns + shift;
            for (int64_t c = first; c < end; c++) to[c] += w[t] * from[c];
        }
    }
}

lk_status lk_cpu_channel_conv(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *w = n->in[1], *out = n->out[0];
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    float *y = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
    along_channels(lk_rows(in), lk_cols(in), lk_count(w), xs, ws, false, y);
    lk_cpu_from_f32(x, out, y);
    return LK_OK;
}

size_t lk_cpu_channel_conv_grad_scratch(const lk_node *n)
{
    return lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) +
           lk_cpu_copy_bytes(n->in[2]) + lk_cpu_copy_bytes(n->out[0]);
}

lk_status lk_cpu_channel_conv_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *w = n->in[1], *dy = n->in[2], *out = n->out[0];
    int64_t rows = lk_rows(in), columns = lk_cols(in), k = lk_count(w);
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    const float *dys = lk_cpu_as_f32(x, dy, lk_cpu_take(&scratch, dy));
    float *dx = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
    float *dw = lk_data(x, n->out[1]);
    for (int64_t t = 0; t < k; t++) {
        int64_t shift = t - k / 2, first, end;
        double sum = n->accumulate & 2 ? (double)dw[t] : 0;
        overlap(columns, shift, &first, &end);
        for (int64_t r = 0; r < rows && first < end; r++)
            sum += (double)lk_cpu_dot(xs + r * columns + shift + first, dys + r * columns + first,
                                      end - first);
        dw[t] = (float)sum;
    }
    along_channels(rows, columns, k, dys, ws, true, dx);
    lk_cpu_from_f32(x, out, dx);
    return LK_OK;
}
