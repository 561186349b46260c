/* Convolutions on tensor cores (mma.sync, compute capability 8.0 and newer), f16 and bf16, channel
 * counts that are multiples of 8.
 *
 * Four warps make a tile of BM x BN, of which each has WM x WN in registers. Tiles of both operands
 * come through shared memory, STAGES deep, in steps of 32 of the summed dimension, copied by
 * cp.async in chunks of 16 bytes: eight channels of one pixel and one tap. Chunks outside the image
 * are zeros. A step is 32 channels of one tap, the same for all threads (the last channels are
 * padded with zeros up to 32); steps go through the taps, then to the next channels, so that what
 * neighbouring taps share is still in the first-level cache. Every output is summed in the same
 * order whatever the tile. */
#ifndef LK_CUDA_CONV_MMA_CUH
#define LK_CUDA_CONV_MMA_CUH

#include "cuda/conv.cuh"
#include "cuda/mma.cuh"

enum { MMA_THREADS = 128, STEP = 32, STAGES = 4 };
static constexpr bool CACHED = true; /* of the gathered operand */

/* Bytes of one stage: a tile of BM and one of BN. */
template <int BM, int BN> __host__ __device__ constexpr int stage_bytes()
{
    return (BM + BN) * STEP * 2;
}

/* acc [WM, WN] += a b over the 32 of one step. A and B: how the operands lie in shared memory:
 * OUTER: rows of the result's dimension, 32 wide; SUMMED: 32 rows, BM or BN wide. */
enum layout { OUTER, SUMMED };

template <typename E, int BM, int BN, int WM, int WN, layout A, layout B> struct tile {
    static constexpr int MT = WM / 16, NT = WN / 8;
    uint32_t a[2][MT][4], b[2][NT / 2][4]; /* one half of a step is read while one is used */

    /* Operands of half `half` (16 of the 32): warp (wm, wn) of the tiles at sa and sb. */
    __device__ __forceinline__ void load(int half, uint32_t sa, uint32_t sb, int wm, int wn)
    {
        int lane = threadIdx.x & 31, low = lane & 15, high = lane >> 4;
        int inner = (lane & 7) + high * 8, middle = lane >> 3 & 1;
#pragma unroll
        for (int i = 0; i < MT; i++) {
            int m = wm * WM + 16 * i;
            if (A == OUTER)
                lk_matrices(a[half][i], sa + lk_chunk_at<4>(m + low, 2 * half + high));
            else
                lk_matrices_turned(a[half][i],
                                   sa + lk_chunk_at<BM / 8>(16 * half + inner, m / 8 + middle));
        }
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
            int n = wn * WN + 16 * j;
            if (B == OUTER)
                lk_matrices(b[half][j], sb + lk_chunk_at<4>(n + inner, 2 * half + middle));
            else
                lk_matrices_turned(b[half][j],
                                   sb + lk_chunk_at<BN / 8>(16 * half + low, n / 8 + high));
        }
    }

    __device__ __forceinline__ void multiply(int half, float (*acc)[NT][4])
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
                lk_mma<E>(acc[i][j], a[half][i], b[half][j / 2][j % 2 * 2],
                          b[half][j / 2][j % 2 * 2 + 1]);
    }
};

/* The loop over steps: load(step, stage address) issues the copies of a step. */
template <typename T, int BYTES, int A_BYTES, typename F, int MT, int NT>
static __device__ __forceinline__ void run_steps(int steps, uint32_t shared, int wm, int wn,
                                                 F load, float (*acc)[NT][4])
{
    T t;
#pragma unroll
    for (int k = 0; k < STAGES - 1; k++) {
        if (k < steps) load(k, shared + k * BYTES);
        lk_copies_commit();
    }
    uint32_t now = shared, next = shared + (STAGES - 1) * BYTES;
    for (int it = 0; it < steps; it++) {
        lk_copies_wait<STAGES - 2>();
        __syncthreads(); /* step `it` is there; nobody reads step it - 1 any more */
        t.load(0, now, now + A_BYTES, wm, wn);
        if (it + STAGES - 1 < steps) load(it + STAGES - 1, next);
        lk_copies_commit();
        t.load(1, now, now + A_BYTES, wm, wn);
        t.multiply(0, acc);
        t.multiply(1, acc);
        now = now == shared + (STAGES - 1) * BYTES ? shared : now + BYTES;
        next = next == shared + (STAGES - 1) * BYTES ? shared : next + BYTES;
    }
}

/* Rows m0 .. and columns n0 .. of a product of class blockIdx.y, from acc to out. */
template <typename E, bool DX, int MT, int NT>
static __device__ __forceinline__ void put_pixels(const conv &s, const gather &g, int m0, int n0,
                                                  const float (*acc)[NT][4], E *out)
{
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int m = m0 + 16 * i + 8 * r + (int)((threadIdx.x & 31) >> 2);
            int pixel = place_of<DX>(s, g, blockIdx.y, m).out;
            E *row = out + (int64_t)pixel * g.columns + n0;
#pragma unroll
            for (int j = 0; j < NT; j += 2)
                lk_put_row<E>(row + 8 * j, pixel >= 0, g.columns - n0 - 8 * j, acc[i][j] + 2 * r,
                              acc[i][j + 1] + 2 * r);
        }
}

/* Rows m0 .. and columns n0 .. of dw f32 [rows, columns], an even number of columns. */
template <int MT, int NT>
static __device__ __forceinline__ void put_sums(int m0, int n0, int rows, int columns,
                                                const float (*acc)[NT][4], int accumulate,
                                                float *out)
{
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int m = m0 + 16 * i + 8 * r + (int)((threadIdx.x & 31) >> 2);
            if (m >= rows) continue;
#pragma unroll
            for (int j = 0; j < NT; j++) {
                int n = n0 + 8 * j + 2 * (threadIdx.x & 3);
                if (n >= columns) continue;
                float2 *p = (float2 *)(out + (int64_t)m * columns + n);
                float2 v = make_float2(acc[i][j][2 * r], acc[i][j][2 * r + 1]);
                if (accumulate) v.x += p->x, v.y += p->y;
                *p = v;
            }
        }
}

/* Forward, or dx: out [pixels, columns] from source (x or dy) and w [Co,kh,kw,Ci]. Grid (tiles,
 * classes); the tiles of columns that share rows follow each other. */
template <typename E, int BM, int BN, int WM, int WN, bool DX>
static __global__ void __launch_bounds__(MMA_THREADS, WM * WN < 64 * 64 ? 3 : 2)
    k_conv_mma(const __grid_constant__ conv s, const E *source, const E *w, E *out)
{
    constexpr int MT = WM / 16, NT = WN / 8, BYTES = stage_bytes<BM, BN>(), A_BYTES = BM * STEP * 2;
    constexpr int ACROSS = DX ? BN / 8 : 4, PASS = MMA_THREADS / ACROSS; /* of the tile of w */
    static_assert(BM / WM * (BN / WN) * 32 == MMA_THREADS, "four warps");
    extern __shared__ __align__(128) unsigned char bytes[];
    uint32_t shared = lk_shared_address(bytes);
    gather g = gather_of<DX>(s, blockIdx.y);
    int across = (g.columns + BN - 1) / BN;
    int m0 = (int)(blockIdx.x / across) * BM, n0 = (int)(blockIdx.x % across) * BN;
    if (m0 >= g.rows) return;
    int tid = threadIdx.x, channel = 8 * (tid & 3);

    int y[BM / 32], x[BM / 32], at[BM / 32];
#pragma unroll
    for (int k = 0; k < BM / 32; k++) {
        row_place r = place_of<DX>(s, g, blockIdx.y, m0 + tid / 4 + 32 * k);
        y[k] = r.y, x[k] = r.x, at[k] = r.at;
    }
    int w_row = tid / ACROSS, w_chunk = tid % ACROSS;
    int64_t w_stride = (int64_t)s.kh * s.kw * s.ci; /* of an output channel */
    const E *w_own = DX ? w + w_row * w_stride + n0 + 8 * w_chunk
                        : w + (n0 + w_row) * w_stride + 8 * w_chunk;
    int steps = g.taps_y * g.taps_x * ((g.channels + STEP - 1) / STEP);

    int p = 0, q = 0, c0 = 0; /* of the next step to load */
    auto load = [&](int, uint32_t to) {
        int shift = g.sign * (p * g.source_w + q), dy = g.sign * p, dx = g.sign * q;
        bool there = c0 + channel < g.channels;
        uint32_t a = to + lk_chunk_at<4>(tid / 4, tid & 3);
#pragma unroll
        for (int k = 0; k < BM / 32; k++) {
            bool in = there && (unsigned)(y[k] + dy) < (unsigned)g.source_h &&
                      (unsigned)(x[k] + dx) < (unsigned)g.source_w;
            int64_t pixel = in ? at[k] + shift : 0;
            lk_copy16<CACHED>(a + k * 32 * STEP * 2, source + pixel * g.channels + c0 + channel,
                              in);
        }
        int tap = (g.first_y + g.every * p) * s.kw + g.first_x + g.every * q;
        uint32_t b = to + A_BYTES + lk_chunk_at<ACROSS>(w_row, w_chunk);
        const E *from = w_own + (DX ? c0 * w_stride + tap * s.ci : (int64_t)tap * s.ci + c0);
#pragma unroll
        for (int k = 0; k < (DX ? STEP : BN) / PASS; k++) {
            int row = w_row + k * PASS;
            bool in = DX ? c0 + row < g.channels && n0 + 8 * w_chunk < g.columns
                         : there && n0 + row < g.columns;
            lk_copy16(b + k * PASS * ACROSS * 16, in ? from + k * PASS * w_stride : w, in);
        }
        if (++q == g.taps_x) {
            q = 0;
            if (++p == g.taps_y) p = 0, c0 += STEP;
        }
    };

    float acc[MT][NT][4] = {};
    int warp = tid >> 5, wm = warp % (BM / WM), wn = warp / (BM / WM);
    typedef tile<E, BM, BN, WM, WN, OUTER, DX ? SUMMED : OUTER> T;
    run_steps<T, BYTES, A_BYTES, decltype(load), MT, NT>(steps, shared, wm, wn, load, acc);

    put_pixels<E, DX, MT, NT>(s, g, m0 + wm * WM, n0 + wn * WN, acc, out);
}

/* dw: out f32 [chunks, Co, kh kw Ci] from x and dy, chunk blockIdx.y of the pixels of y; with one
 * chunk out is dw itself, added to if `accumulate`. Grid (tiles, chunks). */
template <typename E, int BM, int BN, int WM, int WN>
static __global__ void __launch_bounds__(MMA_THREADS, 2)
    k_conv_dw_mma(const __grid_constant__ conv s, const E *x, const E *dy, float *out,
                  int chunk_pixels, int accumulate)
{
    constexpr int MT = WM / 16, NT = WN / 8, BYTES = stage_bytes<BM, BN>(), A_BYTES = BM * STEP * 2;
    constexpr int A_ACROSS = BM / 8, A_PASS = MMA_THREADS / A_ACROSS;
    constexpr int B_ACROSS = BN / 8, B_PASS = MMA_THREADS / B_ACROSS;
    static_assert(BM / WM * (BN / WN) * 32 == MMA_THREADS, "four warps");
    extern __shared__ __align__(128) unsigned char bytes[];
    uint32_t shared = lk_shared_address(bytes);
    int columns = s.kh * s.kw * s.ci, across = (columns + BN - 1) / BN;
    int m0 = (int)(blockIdx.x / across) * BM, n0 = (int)(blockIdx.x % across) * BN;
    int first = (int)blockIdx.y * chunk_pixels;
    int end = min(first + chunk_pixels, s.batch * s.ho * s.wo), tid = threadIdx.x;

    int a_row = tid / A_ACROSS, a_chunk = tid % A_ACROSS;
    bool a_there = m0 + 8 * a_chunk < s.co;
    const E *a_own = dy + m0 + 8 * a_chunk;
    int b_row = tid / B_ACROSS, b_chunk = tid % B_ACROSS, column = n0 + 8 * b_chunk;
    bool b_there = column < columns;
    int tap = column / s.ci, channel = column - tap * s.ci;
    int tap_y = tap / s.kw - s.pad, tap_x = tap % s.kw - s.pad;

    auto load = [&](int step, uint32_t to) {
        int pixel0 = first + step * STEP;
        uint32_t a = to + lk_chunk_at<A_ACROSS>(a_row, a_chunk);
#pragma unroll
        for (int k = 0; k < STEP / A_PASS; k++) { /* A_PASS is 8 or 16: the swizzle is the same */
            int pixel = pixel0 + a_row + k * A_PASS;
            bool in = a_there && pixel < end;
            lk_copy16(a + k * A_PASS * A_ACROSS * 16, in ? a_own + (int64_t)pixel * s.co : dy, in);
        }
#pragma unroll
        for (int k = 0; k < STEP / B_PASS; k++) {
            int pixel = pixel0 + b_row + k * B_PASS, i, j;
            int b = lk_divide(lk_divide(pixel, s.by_wo, &j), s.by_ho, &i);
            i = i * s.stride + tap_y, j = j * s.stride + tap_x;
            bool in = b_there && pixel < end && (unsigned)i < (unsigned)s.h &&
                      (unsigned)j < (unsigned)s.w;
            int64_t at = in ? (b * s.h + i) * s.w + j : 0;
            lk_copy16<CACHED>(to + A_BYTES + lk_chunk_at<B_ACROSS>(b_row + k * B_PASS, b_chunk),
                              x + at * s.ci + channel, in);
        }
    };

    float acc[MT][NT][4] = {};
    int warp = tid >> 5, wm = warp % (BM / WM), wn = warp / (BM / WM);
    typedef tile<E, BM, BN, WM, WN, SUMMED, SUMMED> T;
    run_steps<T, BYTES, A_BYTES, decltype(load), MT, NT>((end - first + STEP - 1) / STEP, shared,
                                                         wm, wn, load, acc);

    put_sums<MT, NT>(m0 + wm * WM, n0 + wn * WN, s.co, columns, acc, accumulate,
                     out + (int64_t)blockIdx.y * s.co * columns);
}

#endif
