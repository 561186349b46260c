/* Attention with mma.sync (compute capability 8.0 and newer), f16 and bf16.
 *
 * Flash attention (T. Dao, "FlashAttention-2", 2023): a block holds a tile of "own" rows and
 * streams tiles of the other side past it, cp.async loading the next tile while this one is used.
 *   k_attention     own rows are queries; streams (K, V); running maximum and sum of every row
 *   k_dot           D_i = dy_i . y_i
 *   k_grad<KEYS=1>  own rows are keys: dK, dV; streams (Q, dy) of every query head of the group
 *   k_grad<KEYS=0>  own rows are queries: dQ; streams (K, V)
 *
 * mma.sync m16n8k16 with f32 sums. A warp owns 16 rows; in KEYS the scores are computed
 * transposed, so that P and dS pass from accumulator to operand within registers. Thread
 * (g = lane / 4, t = lane % 4) holds of every 16 x 8 accumulator the elements e = 0..3 at row
 * g + 8 (e / 2), column 2 t + e % 2. Heads are padded to DP columns with zeros in shared memory. */
#ifndef LK_CUDA_ATTENTION_MMA_CUH
#define LK_CUDA_ATTENTION_MMA_CUH

#include "cuda/attention.cuh"

/* ---- operands of the tensor cores ------------------------------------------------------------ */

/* A 16 x 16 piece at s (row length ld) as left operand. */
template <typename E>
static __device__ __forceinline__ void fragment_a(uint32_t *r, const E *s, int ld)
{
    int lane = threadIdx.x & 31;
    lk_matrices(r, lk_shared_address(s + (lane & 15) * ld + (lane >> 4) * 8));
}

/* A 16 x 16 piece s as the right operand s^T: r[0..1] for rows 0..7 of s, r[2..3] for 8..15. */
template <typename E>
static __device__ __forceinline__ void fragment_bt(uint32_t *r, const E *s, int ld)
{
    int lane = threadIdx.x & 31;
    const E *p = s + ((lane & 7) + (lane >> 4) * 8) * ld + (lane >> 3 & 1) * 8;
    lk_matrices(r, lk_shared_address(p));
}

/* A 16 x 16 piece s as the right operand s: r[0..1] for columns 0..7, r[2..3] for 8..15. */
template <typename E>
static __device__ __forceinline__ void fragment_b(uint32_t *r, const E *s, int ld)
{
    int lane = threadIdx.x & 31;
    lk_matrices_turned(r, lk_shared_address(s + (lane & 15) * ld + (lane >> 4) * 8));
}

/* acc [16, DP] += p [16, 8 NT] s [8 NT, DP]; p is an accumulator, rounded to E. */
template <typename E, int DP, int NT>
static __device__ __forceinline__ void product(float (*acc)[4], const float (*p)[4], const E *s)
{
    constexpr int ld = padded<E>(DP);
#pragma unroll
    for (int k = 0; k < NT / 2; k++) {
        const float *x = p[2 * k], *y = p[2 * k + 1];
        uint32_t a[4] = {lk_pack<E>(x[0], x[1]), lk_pack<E>(x[2], x[3]), lk_pack<E>(y[0], y[1]),
                         lk_pack<E>(y[2], y[3])};
#pragma unroll
        for (int n = 0; n < DP / 16; n++) {
            uint32_t b[4];
            fragment_b(b, s + 16 * k * ld + 16 * n, ld);
            lk_mma<E>(acc[2 * n], a, b[0], b[1]);
            lk_mma<E>(acc[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* out [.., stride] at row: acc [16, DP] times the factor of each row; rows first, first + 8. */
template <typename E, int DP>
static __device__ __forceinline__ void store_rows(E *out, int64_t stride, int first, int rows,
                                                  int cols, const float (*acc)[4], float f0,
                                                  float f1)
{
    int t2 = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int n = 0; n < DP / 8; n++) {
        int c = 8 * n + t2;
        if (c >= cols) break;
        if (first < rows)
            *(uint32_t *)(out + first * stride + c) = lk_pack<E>(acc[n][0] * f0, acc[n][1] * f0);
        if (first + 8 < rows)
            *(uint32_t *)(out + (first + 8) * stride + c) =
                lk_pack<E>(acc[n][2] * f1, acc[n][3] * f1);
    }
}

/* ---- forward, half types -------------------------------------------------------------------- */

enum { KEY_TILE = 64 };

template <typename E> static size_t forward_shared(int dp, int warps)
{
    return sizeof(E) * padded<E>(dp) * (16 * warps + 4 * KEY_TILE);
}

/* One block per 16 WARPS queries of one (b, h). y [B,T,H D], lse [B,H,T]. */
template <typename E, int DP, int WARPS, bool DROP>
static __global__ void __launch_bounds__(32 * WARPS, 2)
    k_attention(shape a, const E *gq, const E *gkv, const lk_step_state *state, E *y, float *lse)
{
    constexpr int LD = padded<E>(DP), R = 16 * WARPS, C = KEY_TILE, NT = C / 8;
    extern __shared__ __align__(16) unsigned char shared[];
    E *q = (E *)shared, *kv = q + R * LD; /* q [R, LD], kv [2 buffers][K, V][C, LD] */
    int tiles = (a.t + R - 1) / R, tile = tiles - 1 - (int)(blockIdx.x % tiles);
    int bh = blockIdx.x / tiles, b = bh / a.heads, h = bh % a.heads;
    int kv_head = h / (a.heads / a.kv_heads), q0 = tile * R;
    gq += (int64_t)b * a.t * a.width;
    gkv += (int64_t)b * a.s * a.kv_width;
    const E *gk = gkv + (a.first + kv_head) * a.d;
    const E *gv = gkv + (a.first + a.kv_heads + kv_head) * a.d;
    int end = a.causal ? min(a.s, q0 + R + a.offset) : a.s, steps = (end + C - 1) / C;

    load_tile<E, DP, R, 32 * WARPS>(q, gq + h * a.d, a.width, q0, a.t, a.d);
    load_tile<E, DP, C, 32 * WARPS>(kv, gk, a.kv_width, 0, a.s, a.d);
    load_tile<E, DP, C, 32 * WARPS>(kv + C * LD, gv, a.kv_width, 0, a.s, a.d);
    lk_copies_commit();

    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t2 = (lane & 3) * 2;
    int w0 = q0 + 16 * warp, i = w0 + (lane >> 2);
    uint32_t step = DROP ? (uint32_t)state->step : 0;
    float scale = a.scale * LK_LOG2E;
    float slope = a.alibi ? lk_alibi_slope(h, a.heads) * LK_LOG2E : 0;
    float o[DP / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    uint32_t fq[DP / 16][4];
    lk_copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DP / 16; k++) fragment_a(fq[k], q + 16 * warp * LD + 16 * k, LD);

    for (int it = 0; it < steps; it++) {
        if (it + 1 < steps) {
            E *next = kv + ((it + 1) & 1) * 2 * C * LD;
            load_tile<E, DP, C, 32 * WARPS>(next, gk, a.kv_width, (it + 1) * C, a.s, a.d);
            load_tile<E, DP, C, 32 * WARPS>(next + C * LD, gv, a.kv_width, (it + 1) * C, a.s, a.d);
            lk_copies_commit();
        }
        const E *sk = kv + (it & 1) * 2 * C * LD, *sv = sk + C * LD;
        int j0 = it * C, j = j0 + t2;
        int p = j0 - a.offset + t2; /* place of the first key among the queries */
        if (w0 < a.t && !(a.causal && j0 > w0 + a.offset + 15)) {
            float s[NT][4] = {};
#pragma unroll
            for (int k = 0; k < DP / 16; k++)
#pragma unroll
                for (int n = 0; n < NT / 2; n++) {
                    uint32_t f[4];
                    fragment_bt(f, sk + 16 * n * LD + 16 * k, LD);
                    lk_mma<E>(s[2 * n], fq[k], f[0], f[1]);
                    lk_mma<E>(s[2 * n + 1], fq[k], f[2], f[3]);
                }
            bool edge = j0 + C > a.s || (a.causal && j0 + C - 1 > w0 + a.offset);
            float best[2] = {top[0], top[1]};
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int row = i + 8 * (e >> 1), col = p + 8 * n + (e & 1);
                    float v = s[n][e] * scale;
                    if (a.alibi) v -= slope * fabsf((float)(row - col));
                    if (edge && (col >= a.t || (a.causal && col > row))) v = -INFINITY;
                    s[n][e] = v;
                    best[e >> 1] = fmaxf(best[e >> 1], v);
                }
#pragma unroll
            for (int r = 0; r < 2; r++) { /* key 0 is never masked: best is finite */
                best[r] = fmaxf(best[r], __shfl_xor_sync(0xFFFFFFFFu, best[r], 1));
                best[r] = fmaxf(best[r], __shfl_xor_sync(0xFFFFFFFFu, best[r], 2));
                float shrink = lk_power2(top[r] - best[r]);
                top[r] = best[r];
                sum[r] *= shrink;
#pragma unroll
                for (int n = 0; n < DP / 8; n++) o[n][2 * r] *= shrink, o[n][2 * r + 1] *= shrink;
            }
            uint32_t kept = DROP ? keep_tile<false, NT>(a, step, bh, i, j) : ~0u;
#pragma unroll
            for (int n = 0; n < NT; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[n][e] = lk_power2(s[n][e] - top[e >> 1]);
                    sum[e >> 1] += s[n][e];
                }
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (DROP && !(kept >> (4 * n + e) & 1)) s[n][e] = 0;
            }
            product<E, DP, NT>(o, s, sv);
        }
        lk_copies_wait<0>();
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xFFFFFFFFu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xFFFFFFFFu, sum[r], 2);
        if (t2 == 0 && i + 8 * r < a.t)
            lse[(int64_t)bh * a.t + i + 8 * r] = (top[r] + log2f(sum[r])) * LN2;
    }
    store_rows<E, DP>(y + ((int64_t)b * a.t * a.heads + h) * a.d, (int64_t)a.heads * a.d, i, a.t,
                      a.d, o, a.keep / sum[0], a.keep / sum[1]);
}

/* ---- backward ------------------------------------------------------------------------------- */

enum { GRAD_WARPS = 4, GRAD_OWN = 16 * GRAD_WARPS, GRAD_THREADS = 32 * GRAD_WARPS };

template <typename E> static size_t grad_shared(int dp, int stream)
{
    return sizeof(E) * padded<E>(dp) * (2 * GRAD_OWN + 4 * stream) + 4 * stream * sizeof(float);
}

/* KEYS: dK and dV of 64 keys of one (b, kv head); else dQ of 64 queries of one (b, head).
 * dy [B,T,H D], lse and dot [B,H,T]; out: dkv or dq. */
template <typename E, int DP, int ST, bool KEYS, bool DROP>
static __global__ void __launch_bounds__(GRAD_THREADS, 2)
    k_grad(shape a, const E *q, const E *kv, const E *dy, const float *lse, const float *dot,
           const lk_step_state *state, E *out)
{
    constexpr int LD = padded<E>(DP), R = GRAD_OWN, SUB = 32, NT = SUB / 8;
    extern __shared__ __align__(16) unsigned char shared[];
    E *own0 = (E *)shared, *own1 = own0 + R * LD; /* [R, LD]: K, V or Q, dy */
    E *stream = own1 + R * LD;                    /* [2 buffers][2][ST, LD]: Q, dy or K, V */
    float *stat = (float *)(stream + 4 * ST * LD); /* KEYS: [2 buffers][lse, dot][ST] */
    span p = spans<KEYS>(a, R, ST);
    int group = a.heads / a.kv_heads, own_row = p.tile * R;
    int kv_head = KEYS ? p.head : p.head / group;
    int64_t dy_width = (int64_t)a.heads * a.d;
    int own_rows = KEYS ? a.s : a.t, rows = KEYS ? a.t : a.s; /* rows: of what is streamed */
    int64_t own_width = KEYS ? a.kv_width : a.width;
    const E *gq = q + (int64_t)p.b * a.t * a.width, *gdy = dy + (int64_t)p.b * a.t * dy_width;
    const E *gk = kv + (int64_t)p.b * a.s * a.kv_width + (a.first + kv_head) * a.d;
    const E *gv = gk + a.kv_heads * a.d;

    auto load_stream = [&](int s) {
        int head = p.first_head + s / p.per_head, row0 = (p.first + s % p.per_head) * ST;
        E *s0 = stream + (s & 1) * 2 * ST * LD, *s1 = s0 + ST * LD;
        if (KEYS) {
            load_tile<E, DP, ST, GRAD_THREADS>(s0, gq + head * a.d, a.width, row0, a.t, a.d);
            load_tile<E, DP, ST, GRAD_THREADS>(s1, gdy + head * a.d, dy_width, row0, a.t, a.d);
            float *f = stat + (s & 1) * 2 * ST;
            for (int k = threadIdx.x; k < ST; k += GRAD_THREADS) {
                int64_t at = ((int64_t)p.b * a.heads + head) * a.t + row0 + k;
                f[k] = row0 + k < a.t ? lse[at] * LK_LOG2E : 0;
                f[ST + k] = row0 + k < a.t ? dot[at] : 0;
            }
        } else {
            load_tile<E, DP, ST, GRAD_THREADS>(s0, gk, a.kv_width, row0, a.s, a.d);
            load_tile<E, DP, ST, GRAD_THREADS>(s1, gv, a.kv_width, row0, a.s, a.d);
        }
        lk_copies_commit();
    };

    if (KEYS) {
        load_tile<E, DP, R, GRAD_THREADS>(own0, gk, a.kv_width, own_row, a.s, a.d);
        load_tile<E, DP, R, GRAD_THREADS>(own1, gv, a.kv_width, own_row, a.s, a.d);
    } else {
        load_tile<E, DP, R, GRAD_THREADS>(own0, gq + p.head * a.d, a.width, own_row, a.t, a.d);
        load_tile<E, DP, R, GRAD_THREADS>(own1, gdy + p.head * a.d, dy_width, own_row, a.t, a.d);
    }
    load_stream(0);

    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t2 = (lane & 3) * 2;
    int w0 = own_row + 16 * warp, row = w0 + (lane >> 2);
    int offset = KEYS ? -a.offset : a.offset, at0 = w0 + offset, at = row + offset; /* places of
                                                         own rows among those streamed */
    uint32_t step = DROP ? (uint32_t)state->step : 0;
    float scale = a.scale * LK_LOG2E, slope = 0;
    float own_lse[2] = {0, 0}, own_dot[2] = {0, 0};
    if (!KEYS)
#pragma unroll
        for (int r = 0; r < 2; r++)
            if (row + 8 * r < a.t) {
                int64_t at = ((int64_t)p.b * a.heads + p.head) * a.t + row + 8 * r;
                own_lse[r] = lse[at] * LK_LOG2E;
                own_dot[r] = dot[at];
            }
    float acc0[DP / 8][4] = {}, acc1[KEYS ? DP / 8 : 1][4] = {}; /* dK, dV or dQ */
    lk_copies_wait<0>();
    __syncthreads();

    int slope_head = -1;
    for (int it = 0; it < p.steps; it++) {
        if (it + 1 < p.steps) load_stream(it + 1);
        int head = p.first_head + it / p.per_head, row0 = (p.first + it % p.per_head) * ST;
        int64_t bh = (int64_t)p.b * a.heads + head;
        const E *s0 = stream + (it & 1) * 2 * ST * LD, *s1 = s0 + ST * LD;
        const float *f = stat + (it & 1) * 2 * ST;
        if (a.alibi && head != slope_head) {
            slope_head = head;
            slope = lk_alibi_slope(head, a.heads) * LK_LOG2E;
        }
#pragma unroll 1
        for (int sub = 0; sub < ST; sub += SUB) {
            int c0 = row0 + sub, col = c0 + t2;
            if (w0 >= own_rows || c0 >= rows) continue;
            if (a.causal && (KEYS ? c0 + SUB - 1 < at0 : c0 > at0 + 15)) continue;
            bool edge = w0 + 16 > own_rows || c0 + SUB > rows ||
                        (a.causal && (KEYS ? at0 + 15 > c0 : c0 + SUB - 1 > at0));
            float s[NT][4] = {}, ds[NT][4] = {}; /* scores, then P; dP, then dS */
#pragma unroll
            for (int k = 0; k < DP / 16; k++) {
                uint32_t a0[4], a1[4];
                fragment_a(a0, own0 + 16 * warp * LD + 16 * k, LD);
                fragment_a(a1, own1 + 16 * warp * LD + 16 * k, LD);
#pragma unroll
                for (int n = 0; n < NT / 2; n++) {
                    uint32_t b0[4], b1[4];
                    fragment_bt(b0, s0 + (sub + 16 * n) * LD + 16 * k, LD);
                    fragment_bt(b1, s1 + (sub + 16 * n) * LD + 16 * k, LD);
                    lk_mma<E>(s[2 * n], a0, b0[0], b0[1]);
                    lk_mma<E>(s[2 * n + 1], a0, b0[2], b0[3]);
                    lk_mma<E>(ds[2 * n], a1, b1[0], b1[1]);
                    lk_mma<E>(ds[2 * n + 1], a1, b1[2], b1[3]);
                }
            }
            uint32_t bits = ~0u;
            if (DROP)
                bits = KEYS ? keep_tile<true, NT>(a, step, bh, col, row)
                            : keep_tile<false, NT>(a, step, bh, row, col);
#pragma unroll
            for (int n = 0; n < NT; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int r = row + 8 * (e >> 1), c = col + 8 * n + (e & 1);
                    int away = c - at - 8 * (e >> 1); /* from the place of the own row */
                    float l = KEYS ? f[c - row0] : own_lse[e >> 1];
                    float d = KEYS ? f[ST + c - row0] : own_dot[e >> 1];
                    float v = s[n][e] * scale;
                    if (a.alibi) v -= slope * fabsf((float)away);
                    float w = lk_power2(v - l);
                    if (edge && (r >= own_rows || c >= rows ||
                                 (a.causal && (KEYS ? away < 0 : away > 0))))
                        w = 0;
                    if (DROP) {
                        bool kept = bits >> (4 * n + e) & 1;
                        ds[n][e] = w * ((kept ? ds[n][e] * a.keep : 0) - d);
                        s[n][e] = kept ? w : 0;
                    } else {
                        ds[n][e] = w * (ds[n][e] - d);
                        s[n][e] = w;
                    }
                }
            }
            if constexpr (KEYS) product<E, DP, NT>(acc1, s, s1 + sub * LD);
            product<E, DP, NT>(acc0, ds, s0 + sub * LD);
        }
        lk_copies_wait<0>();
        __syncthreads();
    }

    out += (int64_t)p.b * own_rows * own_width + (KEYS ? a.first + p.head : p.head) * a.d;
    store_rows<E, DP>(out, own_width, row, own_rows, a.d, acc0, a.scale, a.scale);
    if constexpr (KEYS)
        store_rows<E, DP>(out + a.kv_heads * a.d, own_width, row, own_rows, a.d, acc1, a.keep,
                          a.keep);
}

/* ---- launchers ------------------------------------------------------------------------------ */

template <typename E, int DP> static cudaError_t mma_forward(const attention_call &c)
{
    constexpr int WARPS = DP <= 64 ? 8 : 4;
    size_t bytes = forward_shared<E>(DP, WARPS);
    int64_t blocks = c.batch * c.a.heads * lk_ceil(c.a.t, 16 * WARPS);
    const E *q = (const E *)c.q, *kv = (const E *)c.kv;
    if (c.a.threshold)
        LAUNCH(c, (k_attention<E, DP, WARPS, true>), blocks, 32 * WARPS, bytes, c.a, q, kv,
               c.state, (E *)c.y, c.lse);
    else
        LAUNCH(c, (k_attention<E, DP, WARPS, false>), blocks, 32 * WARPS, bytes, c.a, q, kv,
               c.state, (E *)c.y, c.lse);
    return cudaSuccess;
}

template <typename E, int DP> static cudaError_t mma_backward(const attention_call &c)
{
    constexpr int ST = DP <= 64 ? 64 : 32;
    const E *q = (const E *)c.q, *kv = (const E *)c.kv, *dy = (const E *)c.dy;
    E *dq = (E *)c.dq, *dkv = (E *)c.dkv;
    size_t bytes = grad_shared<E>(DP, ST);
    int64_t keys = c.batch * c.a.kv_heads * lk_ceil(c.a.s, GRAD_OWN);
    int64_t queries = c.batch * c.a.heads * lk_ceil(c.a.t, GRAD_OWN);
    LK_CUDA_TRY(dots_of_rows<E>(c));
    if (c.a.threshold) {
        LAUNCH(c, (k_grad<E, DP, ST, true, true>), keys, GRAD_THREADS, bytes, c.a, q, kv, dy,
               c.lse, c.scratch, c.state, dkv);
        LAUNCH(c, (k_grad<E, DP, ST, false, true>), queries, GRAD_THREADS, bytes, c.a, q, kv, dy,
               c.lse, c.scratch, c.state, dq);
    } else {
        LAUNCH(c, (k_grad<E, DP, ST, true, false>), keys, GRAD_THREADS, bytes, c.a, q, kv, dy,
               c.lse, c.scratch, c.state, dkv);
        LAUNCH(c, (k_grad<E, DP, ST, false, false>), queries, GRAD_THREADS, bytes, c.a, q, kv, dy,
               c.lse, c.scratch, c.state, dq);
    }
    return cudaSuccess;
}

#endif
