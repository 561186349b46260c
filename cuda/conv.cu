/* conv, conv_dx and conv_dw: convolutions with all channels, x [B,H,W,Ci], w [Co,kh,kw,Ci],
 * y [B,Ho,Wo,Co].
 *
 * Three ways, chosen by type and shape:
 *   tensor cores   conv_mma.cuh   f16 and bf16, Ci and Co multiples of 8
 *   few channels   conv_few.cuh   f16 and bf16, Ci not a multiple of 8, Co one, kh kw Ci <= 192:
 *                                 forward and dw
 *   plain          below          everything else, f32 above all: tiles of 64 x 64 in shared
 *                                 memory, f32 multiply-adds
 * All sum in f32 in an order given by type and shape alone: forward and dx as each way does; dw
 * over chunks of pixels of y, whose number the shape decides, then over the chunks.
 *
 * Measured on an H200, f16, batch 256, us (forward, dx, dw): 3x3 64 -> 64 at 56x56 195, 230, 270;
 * 3x3 512 -> 512 at 7x7 190, 210, 217: 304 to 359 TFLOP/s. */
#include "cuda/conv_few.cuh"
#include "cuda/conv_mma.cuh"

enum {
    THREADS = 256,
    TILE = 64,  /* of the plain kernels */
    DEPTH = 16, /* of the summed dimension at a time */
    LD = TILE + 4,
    MANY = 16,                /* chunks from which a column of them is summed by many threads */
    SLOTS = 264,              /* blocks that a big GPU runs at a time: how finely dw is cut */
    MOST_CHUNKS = 128,
    MOST_PARTIAL = 16 << 20 /* floats of scratch */
};

/* ---- plain ---------------------------------------------------------------------------------- */

/* acc [4, 4] += 4 rows of a [DEPTH, LD] times 4 columns of b [DEPTH, LD] */
static __device__ __forceinline__ void plain_multiply(const float (*a)[LD], const float (*b)[LD],
                                                      float (*acc)[4])
{
    int y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        float u[4], v[4];
        lk_get<4>(u, &a[k][y]);
        lk_get<4>(v, &b[k][x]);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) acc[i][j] += u[i] * v[j];
    }
}

/* Forward or dx, as k_conv_mma. */
template <typename E, bool DX>
static __global__ void __launch_bounds__(THREADS)
    k_conv_plain(const __grid_constant__ conv s, const E *source, const E *w, E *out)
{
    __shared__ __align__(16) float a[DEPTH][LD], b[DEPTH][LD];
    gather g = gather_of<DX>(s, blockIdx.y);
    int across = (g.columns + TILE - 1) / TILE, tid = threadIdx.x;
    int m0 = (int)(blockIdx.x / across) * TILE, n0 = (int)(blockIdx.x % across) * TILE;
    if (m0 >= g.rows) return;
    row_place row[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        row[i] = place_of<DX>(s, g, blockIdx.y, m0 + tid / DEPTH + THREADS / DEPTH * i);
    int count = g.taps_y * g.taps_x * g.channels;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < count; k0 += DEPTH) {
        int k = k0 + tid % DEPTH, tap = k / g.channels, c = k - tap * g.channels;
        int p = tap / g.taps_x, q = tap - p * g.taps_x;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            bool in = k < count && (unsigned)(row[i].y + g.sign * p) < (unsigned)g.source_h &&
                      (unsigned)(row[i].x + g.sign * q) < (unsigned)g.source_w;
            int64_t at = row[i].at + g.sign * (p * g.source_w + q);
            a[tid % DEPTH][tid / DEPTH + THREADS / DEPTH * i] =
                in ? lk_float(source[at * g.channels + c]) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (DX) { /* neighbours read neighbouring input channels */
                int kk = tid / TILE + THREADS / TILE * i, n = n0 + tid % TILE;
                k = k0 + kk, tap = k / g.channels, c = k - tap * g.channels;
                p = g.first_y + g.every * (tap / g.taps_x);
                q = g.first_x + g.every * (tap % g.taps_x);
                bool in = k < count && n < g.columns;
                b[kk][tid % TILE] =
                    in ? lk_float(w[(((int64_t)c * s.kh + p) * s.kw + q) * s.ci + n]) : 0.0f;
            } else {
                int nn = tid / DEPTH + THREADS / DEPTH * i;
                bool in = k < count && n0 + nn < g.columns;
                b[tid % DEPTH][nn] = in ? lk_float(w[(int64_t)(n0 + nn) * count + k]) : 0.0f;
            }
        }
        __syncthreads();
        plain_multiply(a, b, acc);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int pixel = place_of<DX>(s, g, blockIdx.y, m0 + tid / 16 * 4 + i).out;
        if (pixel < 0) continue;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int n = n0 + tid % 16 * 4 + j;
            if (n < g.columns) out[(int64_t)pixel * g.columns + n] = lk_store<E>(acc[i][j]);
        }
    }
}

/* dw, as k_conv_dw_mma. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    k_conv_dw_plain(const __grid_constant__ conv s, const E *x, const E *dy, float *out,
                    int chunk_pixels, int accumulate)
{
    __shared__ __align__(16) float a[DEPTH][LD], b[DEPTH][LD];
    int columns = s.kh * s.kw * s.ci, across = (columns + TILE - 1) / TILE, tid = threadIdx.x;
    int m0 = (int)(blockIdx.x / across) * TILE, n0 = (int)(blockIdx.x % across) * TILE;
    int first = (int)blockIdx.y * chunk_pixels;
    int end = min(first + chunk_pixels, s.batch * s.ho * s.wo);
    int m = m0 + tid % TILE, n = n0 + tid % TILE, tap = n / s.ci, c = n - tap * s.ci;
    int tap_y = tap / s.kw - s.pad, tap_x = tap % s.kw - s.pad;
    float acc[4][4] = {};
    for (int pixel0 = first; pixel0 < end; pixel0 += DEPTH) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int place = tid / TILE + THREADS / TILE * k, pixel = pixel0 + place, i, j;
            int image = lk_divide(lk_divide(pixel, s.by_wo, &j), s.by_ho, &i);
            i = i * s.stride + tap_y, j = j * s.stride + tap_x;
            bool in = pixel < end && m < s.co;
            a[place][tid % TILE] = in ? lk_float(dy[(int64_t)pixel * s.co + m]) : 0.0f;
            in = pixel < end && n < columns && (unsigned)i < (unsigned)s.h &&
                 (unsigned)j < (unsigned)s.w;
            int64_t at = in ? (image * s.h + i) * s.w + j : 0;
            b[place][tid % TILE] = in ? lk_float(x[at * s.ci + c]) : 0.0f;
        }
        __syncthreads();
        plain_multiply(a, b, acc);
        __syncthreads();
    }
    out += (int64_t)blockIdx.y * s.co * columns;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = m0 + tid / 16 * 4 + i, column = n0 + tid % 16 * 4 + j;
            if (row >= s.co || column >= columns) continue;
            float *p = out + (int64_t)row * columns + column;
            *p = accumulate ? *p + acc[i][j] : acc[i][j];
        }
}

/* ---- sums over chunks ----------------------------------------------------------------------- */

/* out [cols] (+)= sum of partial [chunks, cols] over a few chunks: a thread a column. */
static __global__ void __launch_bounds__(THREADS)
    k_sum_few(const float *partial, int chunks, int64_t cols, int accumulate, float *out)
{
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= cols) return;
    float sum = 0;
#pragma unroll 8
    for (int k = 0; k < chunks; k++) sum += partial[k * cols + c];
    out[c] = accumulate ? out[c] + sum : sum;
}

static void sum_chunks(cudaStream_t stream, const float *partial, int chunks, int64_t cols,
                       bool accumulate, float *out)
{
    lk_chunk_sum sum = {partial, out, accumulate};
    if (chunks > MANY)
        lk_cuda_sum_chunks(stream, &sum, 1, chunks, cols);
    else
        k_sum_few<<<lk_blocks(cols, THREADS), THREADS, 0, stream>>>(partial, chunks, cols,
                                                                    accumulate, out);
}

/* ---- what a node asks for ------------------------------------------------------------------- */

typedef enum way { WAY_PLAIN, WAY_FEW, WAY_MMA } way;

/* x [B,H,W,Ci], w [Co,kh,kw,Ci], y [B,Ho,Wo,Co] of a node, inputs or outputs of it. */
static conv conv_of(const lk_node *n, const lk_tensor *x, const lk_tensor *w, const lk_tensor *y)
{
    conv s = {};
    s.batch = (int)x->dim[0];
    s.h = (int)x->dim[1];
    s.w = (int)x->dim[2];
    s.ci = (int)x->dim[3];
    s.ho = (int)y->dim[1];
    s.wo = (int)y->dim[2];
    s.co = (int)y->dim[3];
    s.kh = (int)w->dim[1];
    s.kw = (int)w->dim[2];
    s.stride = n->attr.conv.stride;
    s.pad = n->attr.conv.pad;
    s.by_wo = lk_divisor_of(s.wo);
    s.by_ho = lk_divisor_of(s.ho);
    return s;
}

/* Pixels, and tiles of them, are counted in 31 bits. */
static lk_status check(const lk_node *n, const conv &s)
{
    int64_t most = INT32_MAX - 4096;
    if ((int64_t)s.batch * s.h * s.w <= most && (int64_t)s.batch * s.ho * s.wo <= most)
        return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: %s: more than 2^31 pixels", n->scope, lk_op_name(n->op));
}

static way way_of(const conv &s, lk_dtype type, lk_op op)
{
    if (type == LK_F32 || s.co % 8 != 0) return WAY_PLAIN;
    if (s.ci % 8 == 0) return WAY_MMA;
    if (op == LK_OP_CONV_DX || s.kh * s.kw * s.ci > FEW_MOST_K) return WAY_PLAIN;
    few f = few_of(s);
    return few_bytes(f, 8) + few_dw_bytes(f, 8, 3, 1) <= 128 << 10 ? WAY_FEW : WAY_PLAIN;
}

/* Run a kernel with `bytes` of dynamic shared memory. */
#define RUN(n, kernel, grid, threads, bytes, stream, ...)                                          \
    do {                                                                                           \
        auto launch_ = kernel;                                                                     \
        LK_CUDA_AT(n, cudaFuncSetAttribute(launch_, cudaFuncAttributeMaxDynamicSharedMemorySize,   \
                                           (int)(bytes)));                                         \
        launch_<<<grid, threads, bytes, stream>>>(__VA_ARGS__);                                    \
    } while (0)

/* ---- forward and dx ------------------------------------------------------------------------- */

/* `rows` of the largest class of pixels, `classes` of them. */
template <typename E, int BM, int BN, int WM, int WN, bool DX>
static lk_status run_mma(const lk_node *n, cudaStream_t stream, const conv &s, int64_t rows,
                         const E *source, const E *w, E *out)
{
    int columns = DX ? s.ci : s.co;
    dim3 grid((unsigned)(lk_ceil(rows, BM) * lk_ceil(columns, BN)),
              DX ? (unsigned)(s.stride * s.stride) : 1);
    constexpr int bytes = STAGES * stage_bytes<BM, BN>();
    RUN(n, (k_conv_mma<E, BM, BN, WM, WN, DX>), grid, MMA_THREADS, bytes, stream, s, source, w,
        out);
    return lk_cuda_launched(n);
}

template <typename E, bool DX>
static lk_status run_products(const lk_node *n, cudaStream_t stream, const conv &s, way how,
                              const E *source, const E *w, E *out)
{
    int64_t columns = DX ? s.ci : s.co;
    int64_t rows = DX ? s.batch * lk_ceil(s.h, s.stride) * lk_ceil(s.w, s.stride)
                      : (int64_t)s.batch * s.ho * s.wo;
    if (how == WAY_PLAIN) {
        dim3 grid((unsigned)(lk_ceil(rows, TILE) * lk_ceil(columns, TILE)),
                  DX ? (unsigned)(s.stride * s.stride) : 1);
        k_conv_plain<E, DX><<<grid, THREADS, 0, stream>>>(s, source, w, out);
        return lk_cuda_launched(n);
    }
    if constexpr (sizeof(E) == 2) { /* the tile changes no bits */
        if (columns <= 64 && rows > 256 * SLOTS)
            return run_mma<E, 256, 64, 64, 64, DX>(n, stream, s, rows, source, w, out);
        if (columns > 64 && lk_ceil(rows, 128) * lk_ceil(columns, 128) > 3 * SLOTS / 4)
            return run_mma<E, 128, 128, 64, 64, DX>(n, stream, s, rows, source, w, out);
        return run_mma<E, 128, 64, 64, 32, DX>(n, stream, s, rows, source, w, out);
    }
    return LK_OK;
}

template <typename E, int NT, int V>
static lk_status run_few(const lk_node *n, cudaStream_t stream, const few &f, const E *x,
                         const E *w, E *y)
{
    dim3 grid(lk_blocks(f.tiles, FEW_TILES), lk_blocks(f.s.co, 8 * NT));
    RUN(n, (k_conv_few<E, NT, V>), grid, FEW_THREADS, few_bytes(f, NT), stream, f, x, w, y);
    return lk_cuda_launched(n);
}

template <typename E>
static lk_status forward(lk_exec *x, const lk_node *n, const conv &s, way how)
{
    const E *in = (const E *)lk_data(x, n->in[0]), *w = (const E *)lk_data(x, n->in[1]);
    E *y = (E *)lk_data(x, n->out[0]);
    cudaStream_t stream = lk_cuda_stream_of(x);
    if constexpr (sizeof(E) == 2)
        if (how == WAY_FEW) {
            few f = few_of(s);
            LK_VECTOR_SWITCH((int64_t)s.w * s.ci, V, {
                if (s.co <= 16) return run_few<E, 2, V>(n, stream, f, in, w, y);
                return run_few<E, 8, V>(n, stream, f, in, w, y);
            });
        }
    return run_products<E, false>(n, stream, s, how, in, w, y);
}

extern "C" lk_status lk_cuda_conv(lk_exec *x, const lk_node *n)
{
    conv s = conv_of(n, n->in[0], n->in[1], n->out[0]);
    LK_TRY(check(n, s));
    if (lk_count(n->out[0]) == 0) return LK_OK;
    lk_dtype type = n->in[0]->dtype;
    LK_FLOAT_SWITCH(type, E, return forward<E>(x, n, s, way_of(s, type, n->op)));
}

extern "C" lk_status lk_cuda_conv_dx(lk_exec *x, const lk_node *n)
{
    conv s = conv_of(n, n->out[0], n->in[1], n->in[0]);
    LK_TRY(check(n, s));
    if (lk_count(n->out[0]) == 0) return LK_OK;
    lk_dtype type = n->in[0]->dtype;
    LK_FLOAT_SWITCH(type, E,
                    return run_products<E, true>(n, lk_cuda_stream_of(x), s,
                                                 way_of(s, type, n->op),
                                                 (const E *)lk_data(x, n->in[0]),
                                                 (const E *)lk_data(x, n->in[1]),
                                                 (E *)lk_data(x, n->out[0])));
}

/* ---- dw ------------------------------------------------------------------------------------- */

/* How the sum over pixels (or, few channels, tiles of them) is cut: by shape and type alone. */
typedef struct cut {
    int chunks, each; /* pixels or tiles of a chunk */
} cut;

/* `items` in chunks of multiples of `unit`, about `wanted` of them. */
static cut cut_into(int64_t items, int64_t wanted, int unit)
{
    cut c;
    c.each = (int)(lk_ceil(lk_ceil(items, wanted), unit) * unit);
    c.chunks = (int)lk_ceil(items, c.each);
    return c;
}

/* The number of chunks for which `tiles` tiles of dw take the fewest us: steps of 32 pixels take
 * 0.7 us where every multiprocessor has two blocks, a chunk the time of 12 to begin and end, and
 * partial sums pass the memory twice. */
static int64_t chunks_of(int64_t pixels, int64_t tiles, int64_t floats)
{
    int64_t best = 1, most = MOST_PARTIAL / floats;
    double least = 1e30;
    if (most > MOST_CHUNKS) most = MOST_CHUNKS;
    for (int64_t c = 1; c == 1 || (c <= most && c * 256 <= pixels); c++) {
        double us = 0.7 * (double)lk_ceil(tiles * c, SLOTS) *
                    (double)(lk_ceil(lk_ceil(pixels, c), STEP) + 12);
        if (c > 1) us += (double)(c * floats) * 8 / 3e6;
        if (us < least) least = us, best = c;
    }
    return best;
}

static cut cut_of(const conv &s, way how)
{
    int64_t pixels = (int64_t)s.batch * s.ho * s.wo, columns = (int64_t)s.kh * s.kw * s.ci;
    int64_t floats = s.co * columns;
    if (how == WAY_FEW) {
        int64_t wanted = ((int64_t)4 << 20) / floats;
        return cut_into(few_of(s).tiles, wanted < 128 ? 128 : wanted > 1024 ? 1024 : wanted, 1);
    }
    if (how == WAY_MMA) {
        int64_t tiles = s.co <= 64 ? lk_ceil(columns, 256)
                                   : lk_ceil(s.co, 128) * lk_ceil(columns, 128);
        return cut_into(pixels, chunks_of(pixels, tiles, floats), STEP);
    }
    int64_t tiles = lk_ceil(s.co, TILE) * lk_ceil(columns, TILE);
    int64_t wanted = lk_ceil(4 * SLOTS, tiles), most = MOST_PARTIAL / floats;
    if (wanted > most) wanted = most;
    if (wanted > pixels / 256) wanted = pixels / 256;
    return cut_into(pixels, wanted < 1 ? 1 : wanted, DEPTH);
}

size_t lk_cuda_conv_dw_scratch(const lk_cuda *, const lk_node *n)
{
    conv s = conv_of(n, n->in[0], n->out[0], n->in[1]);
    cut c = cut_of(s, way_of(s, n->in[0]->dtype, n->op));
    return c.chunks > 1 ? (size_t)c.chunks * (size_t)lk_count(n->out[0]) * sizeof(float) : 0;
}

template <typename E, int NT, int V>
static lk_status run_few_dw(const lk_node *n, cudaStream_t stream, const few &f, cut c, const E *x,
                            const E *dy, float *out, int accumulate)
{
    dim3 grid((unsigned)c.chunks, lk_blocks(f.s.co, 8 * NT));
    if (f.k <= 32)
        RUN(n, (k_conv_few_dw<E, NT, 2, 1, V>), grid, FEW_THREADS, few_dw_bytes(f, NT, 2, 1),
            stream, f, x, dy, out, c.each, accumulate);
    else
        RUN(n, (k_conv_few_dw<E, NT, 3, 4, V>), grid, FEW_THREADS, few_dw_bytes(f, NT, 3, 4),
            stream, f, x, dy, out, c.each, accumulate);
    return lk_cuda_launched(n);
}

template <typename E, int BM, int BN>
static lk_status run_mma_dw(const lk_node *n, cudaStream_t stream, const conv &s, cut c,
                            const E *x, const E *dy, float *out, int accumulate)
{
    int64_t columns = (int64_t)s.kh * s.kw * s.ci;
    dim3 grid((unsigned)(lk_ceil(s.co, BM) * lk_ceil(columns, BN)), (unsigned)c.chunks);
    constexpr int bytes = STAGES * stage_bytes<BM, BN>();
    RUN(n, (k_conv_dw_mma<E, BM, BN, 64, 64>), grid, MMA_THREADS, bytes, stream, s, x, dy, out,
        c.each, accumulate);
    return lk_cuda_launched(n);
}

/* out f32 [chunks, Co, kh, kw, Ci], or dw itself where there is one chunk. */
template <typename E>
static lk_status partial_dw(const lk_node *n, cudaStream_t stream, const conv &s, way how, cut c,
                            const E *x, const E *dy, float *out, int accumulate)
{
    if constexpr (sizeof(E) == 2) {
        if (how == WAY_FEW) {
            few f = few_of(s);
            LK_VECTOR_SWITCH((int64_t)s.w * s.ci, V, {
                if (s.co <= 16)
                    return run_few_dw<E, 2, V>(n, stream, f, c, x, dy, out, accumulate);
                return run_few_dw<E, 8, V>(n, stream, f, c, x, dy, out, accumulate);
            });
        }
        if (how == WAY_MMA && s.co <= 64)
            return run_mma_dw<E, 64, 256>(n, stream, s, c, x, dy, out, accumulate);
        if (how == WAY_MMA)
            return run_mma_dw<E, 128, 128>(n, stream, s, c, x, dy, out, accumulate);
    }
    int64_t columns = (int64_t)s.kh * s.kw * s.ci;
    dim3 grid((unsigned)(lk_ceil(s.co, TILE) * lk_ceil(columns, TILE)), (unsigned)c.chunks);
    k_conv_dw_plain<E><<<grid, THREADS, 0, stream>>>(s, x, dy, out, c.each, accumulate);
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_conv_dw(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    conv s = conv_of(n, in, n->out[0], n->in[1]);
    LK_TRY(check(n, s));
    way how = way_of(s, in->dtype, n->op);
    cut c = cut_of(s, how);
    int accumulate = (n->accumulate & 1u) != 0;
    float *dw = (float *)lk_data(x, n->out[0]), *partial = (float *)x->base[LK_REGION_SCRATCH];
    bool whole = c.chunks == 1;
    cudaStream_t stream = lk_cuda_stream_of(x);
    LK_FLOAT_SWITCH(in->dtype, E, {
        LK_TRY(partial_dw<E>(n, stream, s, how, c, (const E *)lk_data(x, in),
                             (const E *)lk_data(x, n->in[1]), whole ? dw : partial,
                             whole && accumulate));
    });
    if (!whole) sum_chunks(stream, partial, c.chunks, lk_count(n->out[0]), accumulate, dw);
    return lk_cuda_launched(n);
}
