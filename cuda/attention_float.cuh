/* Attention in f32, forward and backward, by plain products: the blocks and the streams of
 * attention_mma.cuh, in tiles of their own.
 *
 * Thread (ty, tx) of 16 x 16 holds scores of rows ty + 16 m and columns tx + 16 n, and sums of
 * rows ty + 16 m and columns 64 n + 4 tx + 0..3. Included by attention.cu only. */
#ifndef LK_CUDA_ATTENTION_FLOAT_CUH
#define LK_CUDA_ATTENTION_FLOAT_CUH

#include "cuda/attention.cuh"

/* s [M, M] = a b^T; a and b tiles [TILE, LD]. */
template <int DP, int M>
static __device__ __forceinline__ void dots(float (*s)[M], const float *a, const float *b)
{
    constexpr int LD = padded<float>(DP);
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < M; n++) s[m][n] = 0;
#pragma unroll 4
    for (int k = 0; k < DP; k += 4) {
        float4 u[M], v[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            u[m] = *(const float4 *)(a + (ty + 16 * m) * LD + k);
            v[m] = *(const float4 *)(b + (tx + 16 * m) * LD + k);
        }
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < M; n++)
                s[m][n] += u[m].x * v[n].x + u[m].y * v[n].y + u[m].z * v[n].z + u[m].w * v[n].w;
    }
}

/* acc [M, DP / 16] += p [TILE, TILE + 1] s [TILE, LD]. */
template <int DP, int M>
static __device__ __forceinline__ void sums(float (*acc)[DP / 16], const float *p, const float *s)
{
    constexpr int LD = padded<float>(DP), TILE = 16 * M;
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
#pragma unroll 4
    for (int k = 0; k < TILE; k++) {
        float w[M];
#pragma unroll
        for (int m = 0; m < M; m++) w[m] = p[(ty + 16 * m) * (TILE + 1) + k];
#pragma unroll
        for (int n = 0; n < DP / 64; n++) {
            float4 v = *(const float4 *)(s + k * LD + 64 * n + 4 * tx);
#pragma unroll
            for (int m = 0; m < M; m++) {
                acc[m][4 * n] += w[m] * v.x, acc[m][4 * n + 1] += w[m] * v.y;
                acc[m][4 * n + 2] += w[m] * v.z, acc[m][4 * n + 3] += w[m] * v.w;
            }
        }
    }
}

/* Row `row` of out [rows, stride] = acc [DP / 16] of this thread times f. */
template <int DP>
static __device__ __forceinline__ void store_float(float *out, int64_t stride, int row, int rows,
                                                   int cols, const float *acc, float f)
{
    int tx = threadIdx.x & 15;
    if (row >= rows) return;
#pragma unroll
    for (int n = 0; n < DP / 64; n++) {
        int c = 64 * n + 4 * tx;
        if (c < cols)
            *(float4 *)(out + row * stride + c) = make_float4(
                acc[4 * n] * f, acc[4 * n + 1] * f, acc[4 * n + 2] * f, acc[4 * n + 3] * f);
    }
}

/* Bit M m + n: the element 16 m rows and 16 n columns from (row, col) is kept. KEYS: rows are keys.
 * One call of Philox after the other: unrolled they take the registers of a block more. */
template <int M, bool KEYS>
static __device__ __forceinline__ uint32_t keep_few(const shape &a, uint32_t step, int64_t bh,
                                                    int row, int col)
{
    uint32_t bits = 0;
#pragma unroll 1
    for (int k = 0; k < M * M; k++) {
        int r = row + 16 * (k / M), c = col + 16 * (k % M);
        bool kept = KEYS ? keep_one(a, step, bh, c, r) : keep_one(a, step, bh, r, c);
        bits |= (uint32_t)kept << k;
    }
    return bits;
}

/* As k_attention, for TILE = 16 M queries. */
template <int DP, int M>
static __global__ void __launch_bounds__(256)
    k_attention_float(shape a, const float *gq, const float *gkv, const lk_step_state *state,
                      float *y, float *lse)
{
    constexpr int LD = padded<float>(DP), TILE = 16 * M;
    extern __shared__ __align__(16) unsigned char shared[];
    float *q = (float *)shared, *sk = q + TILE * LD, *sv = sk + TILE * LD, *p = sv + TILE * LD;
    int tiles = (a.t + TILE - 1) / TILE, tile = tiles - 1 - (int)(blockIdx.x % tiles);
    int bh = blockIdx.x / tiles, b = bh / a.heads, h = bh % a.heads;
    int kv_head = h / (a.heads / a.kv_heads), q0 = tile * TILE;
    gq += (int64_t)b * a.t * a.width;
    gkv += (int64_t)b * a.s * a.kv_width;
    const float *gk = gkv + (a.first + kv_head) * a.d;
    const float *gv = gkv + (a.first + a.kv_heads + kv_head) * a.d;
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    bool drop = a.threshold > 0;
    uint32_t step = drop ? (uint32_t)state->step : 0;
    float slope = a.alibi ? lk_alibi_slope(h, a.heads) : 0;
    float o[M][DP / 16] = {}, top[M], sum[M];
#pragma unroll
    for (int m = 0; m < M; m++) top[m] = -INFINITY, sum[m] = 0;

    load_tile<float, DP, TILE, 256>(q, gq + h * a.d, a.width, q0, a.t, a.d);
    int end = a.causal ? min(a.s, q0 + TILE + a.offset) : a.s;
    for (int j0 = 0; j0 < end; j0 += TILE) {
        __syncthreads();
        load_tile<float, DP, TILE, 256>(sk, gk, a.kv_width, j0, a.s, a.d);
        load_tile<float, DP, TILE, 256>(sv, gv, a.kv_width, j0, a.s, a.d);
        lk_copies_commit();
        lk_copies_wait<0>();
        __syncthreads();
        float s[M][M];
        dots<DP, M>(s, q, sk);
        uint32_t kept = drop ? keep_few<M, false>(a, step, bh, q0 + ty, j0 + tx) : ~0u;
#pragma unroll
        for (int m = 0; m < M; m++) {
            int i = q0 + ty + 16 * m;
            float best = top[m];
#pragma unroll
            for (int n = 0; n < M; n++) {
                int j = j0 + tx + 16 * n, p = j - a.offset; /* p: place among the queries */
                float v = s[m][n] * a.scale - slope * fabsf((float)(i - p));
                if (j >= a.s || (a.causal && p > i)) v = -INFINITY;
                s[m][n] = v;
                best = fmaxf(best, v);
            }
#pragma unroll
            for (int k = 8; k > 0; k >>= 1) best = fmaxf(best, __shfl_xor_sync(~0u, best, k));
            float shrink = expf(top[m] - best);
            top[m] = best;
            sum[m] *= shrink;
#pragma unroll
            for (int c = 0; c < DP / 16; c++) o[m][c] *= shrink;
#pragma unroll
            for (int n = 0; n < M; n++) {
                float w = expf(s[m][n] - best);
                sum[m] += w;
                if (!(kept >> (M * m + n) & 1)) w = 0;
                p[(ty + 16 * m) * (TILE + 1) + tx + 16 * n] = w;
            }
        }
        __syncthreads();
        sums<DP, M>(o, p, sv);
    }
    float *out = y + ((int64_t)b * a.t * a.heads + h) * a.d;
#pragma unroll
    for (int m = 0; m < M; m++) {
        int i = q0 + ty + 16 * m;
#pragma unroll
        for (int k = 8; k > 0; k >>= 1) sum[m] += __shfl_xor_sync(~0u, sum[m], k);
        if (tx == 0 && i < a.t) lse[(int64_t)bh * a.t + i] = top[m] + logf(sum[m]);
        store_float<DP>(out, (int64_t)a.heads * a.d, i, a.t, a.d, o[m], a.keep / sum[m]);
    }
}

/* As k_grad, for TILE = 16 M own rows. */
template <int DP, int M, bool KEYS>
static __global__ void __launch_bounds__(256)
    k_grad_float(shape a, const float *q, const float *kv, const float *dy, const float *lse,
                 const float *dot, const lk_step_state *state, float *out)
{
    constexpr int LD = padded<float>(DP), TILE = 16 * M;
    extern __shared__ __align__(16) unsigned char shared[];
    float *own0 = (float *)shared, *own1 = own0 + TILE * LD, *s0 = own1 + TILE * LD;
    float *s1 = s0 + TILE * LD, *sp = s1 + TILE * LD, *sd = sp + TILE * (TILE + 1);
    span p = spans<KEYS>(a, TILE, TILE);
    int kv_head = KEYS ? p.head : p.head / (a.heads / a.kv_heads), own_row = p.tile * TILE;
    int64_t dy_width = (int64_t)a.heads * a.d;
    int own_rows = KEYS ? a.s : a.t, rows = KEYS ? a.t : a.s; /* rows: of what is streamed */
    int64_t own_width = KEYS ? a.kv_width : a.width;
    const float *gq = q + (int64_t)p.b * a.t * a.width;
    const float *gdy = dy + (int64_t)p.b * a.t * dy_width;
    const float *gk = kv + (int64_t)p.b * a.s * a.kv_width + (a.first + kv_head) * a.d;
    const float *gv = gk + a.kv_heads * a.d;
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    bool drop = a.threshold > 0;
    uint32_t step = drop ? (uint32_t)state->step : 0;
    load_tile<float, DP, TILE, 256>(own0, KEYS ? gk : gq + p.head * a.d, own_width, own_row,
                                    own_rows, a.d);
    load_tile<float, DP, TILE, 256>(own1, KEYS ? gv : gdy + p.head * a.d,
                                    KEYS ? a.kv_width : dy_width, own_row, own_rows, a.d);
    float acc0[M][DP / 16] = {}, acc1[M][DP / 16] = {};

    for (int it = 0; it < p.steps; it++) {
        int head = p.first_head + it / p.per_head, row0 = (p.first + it % p.per_head) * TILE;
        int64_t bh = (int64_t)p.b * a.heads + head;
        float slope = a.alibi ? lk_alibi_slope(head, a.heads) : 0;
        __syncthreads();
        load_tile<float, DP, TILE, 256>(s0, KEYS ? gq + head * a.d : gk,
                                        KEYS ? a.width : a.kv_width, row0, rows, a.d);
        load_tile<float, DP, TILE, 256>(s1, KEYS ? gdy + head * a.d : gv,
                                        KEYS ? dy_width : a.kv_width, row0, rows, a.d);
        lk_copies_commit();
        lk_copies_wait<0>();
        __syncthreads();
        float s[M][M], ds[M][M];
        dots<DP, M>(s, own0, s0);
        dots<DP, M>(ds, own1, s1);
        uint32_t keeps = drop ? keep_few<M, KEYS>(a, step, bh, own_row + ty, row0 + tx) : ~0u;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < M; n++) {
                int r = own_row + ty + 16 * m, c = row0 + tx + 16 * n;
                int i = KEYS ? c : r, j = KEYS ? r : c, away = i + a.offset - j;
                float w = 0, g = 0;
                if (i < a.t && j < a.s && !(a.causal && away < 0)) {
                    bool kept = keeps >> (M * m + n) & 1;
                    float v = s[m][n] * a.scale - slope * fabsf((float)away);
                    w = expf(v - lse[bh * a.t + i]);
                    g = w * ((kept ? ds[m][n] * a.keep : 0) - dot[bh * a.t + i]);
                    if (!kept) w = 0;
                }
                int at = (ty + 16 * m) * (TILE + 1) + tx + 16 * n;
                sp[at] = w;
                sd[at] = g;
            }
        __syncthreads();
        if (KEYS) sums<DP, M>(acc1, sp, s1);
        sums<DP, M>(acc0, sd, s0);
    }

    out += (int64_t)p.b * own_rows * own_width + (KEYS ? a.first + p.head : p.head) * a.d;
#pragma unroll
    for (int m = 0; m < M; m++) {
        int row = own_row + ty + 16 * m;
        store_float<DP>(out, own_width, row, own_rows, a.d, acc0[m], a.scale);
        if (KEYS)
            store_float<DP>(out + a.kv_heads * a.d, own_width, row, own_rows, a.d, acc1[m],
                            a.keep);
    }
}

template <int DP> static cudaError_t float_forward(const attention_call &c)
{
    constexpr int P = DP <= 64 ? 64 : 128, M = DP <= 64 ? 4 : 2, TILE = 16 * M;
    size_t bytes = sizeof(float) * TILE * (3 * padded<float>(P) + TILE + 1);
    LAUNCH(c, (k_attention_float<P, M>), c.batch * c.a.heads * lk_ceil(c.a.t, TILE), 256, bytes,
           c.a, (const float *)c.q, (const float *)c.kv, c.state, (float *)c.y, c.lse);
    return cudaSuccess;
}

template <int DP> static cudaError_t float_backward(const attention_call &c)
{
    constexpr int P = DP <= 64 ? 64 : 128, M = 2, TILE = 16 * M;
    size_t bytes = sizeof(float) * TILE * (4 * padded<float>(P) + 2 * (TILE + 1));
    int64_t keys = c.batch * c.a.kv_heads * lk_ceil(c.a.s, TILE);
    int64_t queries = c.batch * c.a.heads * lk_ceil(c.a.t, TILE);
    const float *q = (const float *)c.q, *kv = (const float *)c.kv, *dy = (const float *)c.dy;
    LK_CUDA_TRY(dots_of_rows<float>(c));
    LAUNCH(c, (k_grad_float<P, M, true>), keys, 256, bytes, c.a, q, kv, dy, c.lse, c.scratch,
           c.state, (float *)c.dkv);
    LAUNCH(c, (k_grad_float<P, M, false>), queries, 256, bytes, c.a, q, kv, dy, c.lse, c.scratch,
           c.state, (float *)c.dq);
    return cudaSuccess;
}

#endif
