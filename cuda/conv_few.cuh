/* Convolutions of images with few channels (the first layer of a network) on tensor cores, f16 and
 * bf16, output channels a multiple of 8.
 *
 * A block makes tiles of 8 x 16 pixels of y. The patch of x under a tile lies in shared memory as
 * it does in x, in rows of pixels times channels. Along a row of the kernel the taps and channels
 * of a pixel follow each other, so that element k of the summed dimension (kernel row, column,
 * channel) is found at the pixel's place plus an offset that depends on k alone: a table. A warp
 * collects its operands from there, two bytes at a time. Offsets of the k beyond the kernel, which
 * fill up the last 16, lead to zeros behind the patch.
 *
 *   forward    a warp: 2 rows of 16 pixels x 8 NT output channels; w lies in shared memory in the
 *              order in which a warp wants it
 *   dw         a block sums over the tiles of a chunk; a warp: 16 MT elements of k x 8 NT output
 *              channels, of every (4 / WK)th row of a tile. Warps with the same k are added in
 *              order */
#ifndef LK_CUDA_CONV_FEW_CUH
#define LK_CUDA_CONV_FEW_CUH

#include "cuda/conv.cuh"
#include "cuda/mma.cuh"

enum {
    FEW_THREADS = 128,
    FEW_H = 8, /* rows of a tile: two for each warp */
    FEW_W = 16,
    FEW_TILES = 8,   /* of a block in the forward kernel */
    FEW_MOST_K = 192 /* kh kw Ci */
};

typedef struct few {
    conv s;
    int k, rows, pitch; /* kh kw Ci; rows of a patch and elements of a row, a multiple of 8 */
    int tiles;
    lk_divisor by_x, by_y; /* tiles across, down an image */
} few;

static inline few few_of(const conv &s)
{
    few f = {};
    f.s = s;
    f.k = s.kh * s.kw * s.ci;
    f.rows = (FEW_H - 1) * s.stride + s.kh;
    int span = ((FEW_W - 1) * s.stride + s.kw) * s.ci + 7; /* a patch may start within a vector */
    f.pitch = (span + 7) / 8 * 8;
    int across = (s.wo + FEW_W - 1) / FEW_W, down = (s.ho + FEW_H - 1) / FEW_H;
    f.tiles = s.batch * across * down;
    f.by_x = lk_divisor_of(across);
    f.by_y = lk_divisor_of(down);
    return f;
}

/* 16s of k, rounded up. */
static __host__ __device__ __forceinline__ int few_steps(const few &f) { return (f.k + 15) / 16; }

/* Elements of the patch, which is followed by as many zeros. */
static __host__ __device__ __forceinline__ int few_patch(const few &f) { return f.rows * f.pitch; }

static inline size_t few_bytes(const few &f, int nt)
{
    return (size_t)few_steps(f) * (size_t)(nt * 32 * 8 + 16 * 4) + (size_t)few_patch(f) * 2 * 2;
}

/* Place in the patch of element k; of k beyond the kernel: in the zeros. */
static __device__ __forceinline__ int few_offset(const few &f, int k)
{
    int row = f.s.kw * f.s.ci;
    return k < f.k ? k / row * f.pitch + k % row : few_patch(f);
}

/* Tile number -> image, first row and column of its pixels. */
static __device__ __forceinline__ int few_tile(const few &f, int tile, int *y, int *x)
{
    int b = lk_divide(lk_divide(tile, f.by_x, x), f.by_y, y);
    *y *= FEW_H;
    *x *= FEW_W;
    return b;
}

/* Copy the patch of the tile at (y, x) of image b; returns the place of its first element, which is
 * not the first of a vector. V = 8 when rows of x start at vectors: asynchronous then. */
template <typename E, int V>
static __device__ __forceinline__ int few_load(const few &f, const E *x, int b, int y0, int x0,
                                               E *patch)
{
    const conv &s = f.s;
    int row0 = y0 * s.stride - s.pad, start = (x0 * s.stride - s.pad) * s.ci;
    int width = s.w * s.ci, shift = start & (V - 1), first = start - shift;
    constexpr int LANES = V == 8 ? 16 : 32;
    for (int r = threadIdx.x / LANES; r < f.rows; r += FEW_THREADS / LANES) {
        int row = row0 + r;
        bool there = row >= 0 && row < s.h;
        const E *from = x + (int64_t)(there ? b * s.h + row : 0) * width;
        for (int c = (int)(threadIdx.x % LANES) * V; c < f.pitch; c += LANES * V) {
            int at = first + c;
            bool in = there && at >= 0 && at < width;
            E *to = patch + r * f.pitch + c;
            if constexpr (V == 8) lk_copy16(lk_shared_address(to), from + (in ? at : 0), in);
            else *to = in ? from[at] : lk_store<E>(0);
        }
    }
    return shift;
}

static __device__ __forceinline__ uint32_t few_two(const uint16_t *p, int first, int second)
{
    return (uint32_t)p[first] | (uint32_t)p[second] << 16;
}

/* Zeros behind the patch; the table of offsets, of `offsets` elements of k. */
template <typename E>
static __device__ __forceinline__ void few_prepare(const few &f, int offsets, E *patch, int *offset)
{
    int count = few_patch(f);
    for (int k = threadIdx.x; k < count; k += FEW_THREADS) patch[count + k] = lk_store<E>(0);
    for (int k = threadIdx.x; k < offsets; k += FEW_THREADS) offset[k] = few_offset(f, k);
}

/* w [Co, k] -> right operands of the columns n0 .. n0 + 8 NT - 1, [steps, NT, lane]. */
template <typename E, int NT>
static __device__ __forceinline__ void few_weights(const few &f, const E *w, int n0, uint2 *to)
{
    const uint16_t *bits = (const uint16_t *)w;
    for (int item = threadIdx.x; item < few_steps(f) * NT * 32; item += FEW_THREADS) {
        int lane = item % 32, n = n0 + item / 32 % NT * 8 + lane / 4;
        int k0 = item / (32 * NT) * 16 + lane % 4 * 2;
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int k = k0 + (i & 1) + 8 * (i >> 1);
            v[i] = k < f.k && n < f.s.co ? bits[(int64_t)n * f.k + k] : 0;
        }
        to[item] = make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
    }
}

/* y [B,Ho,Wo,Co] from x [B,H,W,Ci] and w [Co,kh,kw,Ci]. Grid (tiles / FEW_TILES, Co / (8 NT)). */
template <typename E, int NT, int V>
static __global__ void __launch_bounds__(FEW_THREADS)
    k_conv_few(const __grid_constant__ few f, const E *x, const E *w, E *y)
{
    extern __shared__ __align__(128) unsigned char bytes[];
    int steps = few_steps(f), n0 = blockIdx.y * NT * 8;
    uint2 *weights = (uint2 *)bytes;
    int *offset = (int *)(weights + steps * NT * 32);
    E *patch = (E *)(offset + 16 * steps);
    const uint16_t *bits = (const uint16_t *)patch;
    few_weights<E, NT>(f, w, n0, weights);
    few_prepare(f, 16 * steps, patch, offset);

    const conv &s = f.s;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t2 = (lane & 3) * 2;
    int pixel = s.stride * s.ci, line = s.stride * f.pitch; /* from pixel to pixel, row to row */
    int end = min((int)(blockIdx.x + 1) * FEW_TILES, f.tiles);
    for (int tile = blockIdx.x * FEW_TILES; tile < end; tile++) {
        int y0, x0, b = few_tile(f, tile, &y0, &x0);
        int at = few_load<E, V>(f, x, b, y0, x0, patch) + 2 * warp * line + g * pixel;
        lk_copies_commit();
        lk_copies_wait<0>();
        __syncthreads();
        float acc[2][NT][4] = {};
        for (int k = 0; k < steps; k++) {
            int2 low = *(const int2 *)(offset + 16 * k + t2);
            int2 high = *(const int2 *)(offset + 16 * k + t2 + 8);
            uint32_t a[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    int p = at + i * line + 8 * r * pixel;
                    a[i][r] = few_two(bits, p + low.x, p + low.y);
                    a[i][2 + r] = few_two(bits, p + high.x, p + high.y);
                }
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint2 v = weights[(k * NT + n) * 32 + lane];
#pragma unroll
                for (int i = 0; i < 2; i++) lk_mma<E>(acc[i][n], a[i], v.x, v.y);
            }
        }
        __syncthreads(); /* the patch has been read */
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int row = y0 + 2 * warp + i, column = x0 + g + 8 * r;
                E *to = y + (((int64_t)b * s.ho + row) * s.wo + column) * s.co + n0;
#pragma unroll
                for (int n = 0; n < NT; n += 2)
                    lk_put_row<E>(to + 8 * n, row < s.ho && column < s.wo, s.co - n0 - 8 * n,
                                  acc[i][n] + 2 * r, acc[i][n + 1] + 2 * r);
            }
    }
}

/* Elements of a row of dy in shared memory: ldmatrix then touches all banks. */
static __host__ __device__ constexpr int few_dy_pitch(int nt) { return 8 * nt + 8; }

static inline size_t few_dw_bytes(const few &f, int nt, int mt, int wk)
{
    size_t sums = wk < 4 ? (size_t)mt * nt * 4 * 32 * sizeof(float) : 0;
    return sums + (size_t)(16 * mt * wk) * sizeof(int) + (size_t)few_patch(f) * 2 * 2 +
           (size_t)(FEW_H * FEW_W * few_dy_pitch(nt)) * 2;
}

/* Copy dy of the tile at (y0, x0) of image b, channels from n0 on; zeros outside. */
template <typename E, int NT>
static __device__ __forceinline__ void few_load_dy(const conv &s, const E *dy, int b, int y0,
                                                   int x0, int n0, E *to)
{
#pragma unroll
    for (int k = 0; k < NT; k++) {
        int item = k * FEW_THREADS + threadIdx.x, p = item / NT, c = item % NT * 8;
        int row = y0 + p / FEW_W, column = x0 + p % FEW_W;
        bool in = row < s.ho && column < s.wo && n0 + c < s.co;
        int64_t at = in ? ((int64_t)b * s.ho + row) * s.wo + column : 0;
        lk_copy16(lk_shared_address(to + p * few_dy_pitch(NT) + c),
                  dy + at * s.co + (in ? n0 + c : 0), in);
    }
}

/* acc [N] of warp 0 += those of the warps 1 .. WARPS - 1, in this order; sums [N, 32]. */
template <int N, int WARPS>
static __device__ __forceinline__ void add_warps(float *acc, float *sums)
{
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    for (int other = 1; other < WARPS; other++) {
#pragma unroll
        for (int k = 0; k < N; k++)
            if (warp == other) sums[k * 32 + lane] = acc[k];
        __syncthreads();
#pragma unroll
        for (int k = 0; k < N; k++)
            if (warp == 0) acc[k] += sums[k * 32 + lane];
        __syncthreads();
    }
}

/* Elements of k from k0 on and channels from n0 on, from acc to out [Co, k]. */
template <int NT, int MT>
static __device__ __forceinline__ void few_put_sums(const few &f, int k0, int n0,
                                                    const float (*acc)[NT][4], int accumulate,
                                                    float *out)
{
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int k = k0 + 16 * i + (lane >> 2) + 8 * (e >> 1);
                int co = n0 + 8 * n + (lane & 3) * 2 + (e & 1);
                if (k >= f.k || co >= f.s.co) continue;
                float *p = out + (int64_t)co * f.k + k;
                *p = accumulate ? *p + acc[i][n][e] : acc[i][n][e];
            }
}

/* out f32 [chunks, Co, k] from x and dy; with one chunk out is dw itself, added to if `accumulate`.
 * Grid (chunks, Co / (8 NT)). 16 MT WK elements of k at least. */
template <typename E, int NT, int MT, int WK, int V>
static __global__ void __launch_bounds__(FEW_THREADS, MT * NT > 16 ? 3 : 4)
    k_conv_few_dw(const __grid_constant__ few f, const E *x, const E *dy, float *out,
                  int chunk_tiles, int accumulate)
{
    constexpr int WP = 4 / WK, LD = few_dy_pitch(NT);
    extern __shared__ __align__(128) unsigned char bytes[];
    float *sums = (float *)bytes;
    int *offset = (int *)(sums + (WP > 1 ? MT * NT * 4 * 32 : 0));
    E *dys = (E *)(offset + 16 * MT * WK), *patch = dys + FEW_H * FEW_W * LD;
    const uint16_t *bits = (const uint16_t *)patch;
    const conv &s = f.s;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t2 = (lane & 3) * 2;
    int wk = warp % WK, wp = warp / WK, n0 = blockIdx.y * NT * 8;
    int pixel = s.stride * s.ci, line = s.stride * f.pitch;
    few_prepare(f, 16 * MT * WK, patch, offset);

    float acc[MT][NT][4] = {};
    int end = min((int)(blockIdx.x + 1) * chunk_tiles, f.tiles);
    for (int tile = blockIdx.x * chunk_tiles; tile < end; tile++) {
        int y0, x0, b = few_tile(f, tile, &y0, &x0);
        few_load_dy<E, NT>(s, dy, b, y0, x0, n0, dys);
        int shift = few_load<E, V>(f, x, b, y0, x0, patch);
        lk_copies_commit();
        lk_copies_wait<0>();
        __syncthreads();
#pragma unroll 1
        for (int row = wp; row < FEW_H; row += WP) {
            uint32_t v[NT / 2][4];
#pragma unroll
            for (int n = 0; n < NT / 2; n++)
                lk_matrices_turned(v[n], lk_shared_address(dys + (row * FEW_W + (lane & 15)) * LD +
                                                           16 * n + 8 * (lane >> 4)));
            const uint16_t *at = bits + shift + row * line + t2 * pixel;
#pragma unroll
            for (int i = 0; i < MT; i++) {
                uint32_t a[4];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const uint16_t *p = at + offset[(wk * MT + i) * 16 + 8 * r + g];
                    a[r] = few_two(p, 0, pixel);
                    a[2 + r] = few_two(p, 8 * pixel, 9 * pixel);
                }
#pragma unroll
                for (int n = 0; n < NT; n++)
                    lk_mma<E>(acc[i][n], a, v[n / 2][n % 2 * 2], v[n / 2][n % 2 * 2 + 1]);
            }
        }
        __syncthreads();
    }

    if (WP > 1) add_warps<MT * NT * 4, WP>(acc[0][0], sums);
    if (wp == 0)
        few_put_sums<NT, MT>(f, wk * MT * 16, n0, acc, accumulate,
                             out + (int64_t)blockIdx.x * s.co * f.k);
}

#endif
