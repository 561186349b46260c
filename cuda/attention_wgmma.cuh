/* Attention for Hopper, forward, f16 and bf16: wgmma products on tiles brought by the copy engine.
 *
 * A block owns 128 queries of one (b, h), 64 to each of its two warpgroups, and streams tiles of
 * 64 keys and values through a ring of STAGES slots; thread 0 refills a slot once all warps have
 * released it. The weights go from accumulator to A operand within registers. o += p v of a tile
 * and the scores of the next one are issued together, in turns with the other warpgroup.
 *
 * Causal ALiBi, slope (j - t), takes no arithmetic per element: what depends on the row joins the
 * maximum, and the scores are summed onto what depends on the column, `steep` times its number in
 * the tile, from a table in shared memory. steep = slope / scale, for scores are scaled later.
 *
 * The running maximum of a row may lag by a factor of 2^LAG, so that sums are rarely rescaled.
 *
 * A kernel's body exists in code for sm_90a only; its static shared memory tells the launcher
 * whether it does. */
#ifndef LK_CUDA_ATTENTION_WGMMA_CUH
#define LK_CUDA_ATTENTION_WGMMA_CUH

#include "cuda/attention.cuh"
#include "cuda/wgmma.cuh"

enum { STAGES = 4, LAG = 8 };

/* Whether ALiBi is linear wherever a key is seen, and within what plane() can add. */
static inline bool linear_alibi(const shape &a)
{
    return a.alibi && a.causal && a.s <= PLANE_REACH;
}

/* Run the statement with DROP and LINEAR as the shape has it. */
#define KIND_SWITCH(a, ...)                                                                        \
    do {                                                                                           \
        if ((a).threshold && linear_alibi(a)) {                                                    \
            enum : bool { DROP = true, LINEAR = true };                                            \
            __VA_ARGS__;                                                                           \
        } else if ((a).threshold) {                                                                \
            enum : bool { DROP = true, LINEAR = false };                                           \
            __VA_ARGS__;                                                                           \
        } else if (linear_alibi(a)) {                                                              \
            enum : bool { DROP = false, LINEAR = true };                                           \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum : bool { DROP = false, LINEAR = false };                                          \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* ALiBi that is not linear: s = s scale - slope |t - j|, t = i + offset. `distance` is (t - j)
 * slope at the row of element 0 and the tile's first column; it grows by 8 `down` to the second row
 * and by `across` per column. */
template <int N>
static __device__ __forceinline__ void apply_alibi(float (&s)[N][4], float scale, float distance,
                                                   float down, float across)
{
    float first = across * (float)((threadIdx.x & 3) * 2) + distance;
    float row[2] = {first, first + 8 * down};
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[n][e] = s[n][e] * scale - fabsf(fmaf(across, (float)(8 * n + (e & 1)), row[e >> 1]));
}

/* The table: [8][4] of the columns 8 n + 2 lane and the next, for both rows. By one warp. */
static __device__ __forceinline__ void columns_fill(float4 *columns, float steep)
{
    int k = threadIdx.x & 31, column = 8 * (k >> 2) + (k & 3) * 2;
    float u = steep * (float)column, v = steep * (float)(column + 1);
    columns[k] = make_float4(u, v, u, v);
}

static __device__ __forceinline__ void columns_take(float (&s)[8][4], const float4 *columns)
{
#pragma unroll
    for (int n = 0; n < 8; n++) *(float4 *)s[n] = columns[4 * n + (threadIdx.x & 3)];
}

/* Out [.., stride] at rows `first` and `first` + 8 = acc [64, D] times the factor of the row. The
 * four lanes of a row exchange words so that each stores 16 bytes. */
template <typename E, int D>
static __device__ __forceinline__ void store_tile(E *out, int64_t stride, int first, int rows,
                                                  const float (&acc)[D / 8][4], float f0, float f1)
{
    int lane = threadIdx.x & 3;
    bool odd = lane & 1, upper = lane & 2;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int m = 0; m < D / 32; m++) {
            uint32_t w[4], x[4];
            float f = r ? f1 : f0;
#pragma unroll
            for (int n = 0; n < 4; n++)
                w[n] = lk_pack<E>(acc[4 * m + n][2 * r] * f, acc[4 * m + n][2 * r + 1] * f);
            uint32_t u = __shfl_xor_sync(0xFFFFFFFFu, odd ? w[0] : w[1], 1);
            uint32_t v = __shfl_xor_sync(0xFFFFFFFFu, odd ? w[2] : w[3], 1);
            x[0] = odd ? u : w[0], x[1] = odd ? w[1] : u;
            x[2] = odd ? v : w[2], x[3] = odd ? w[3] : v;
            u = __shfl_xor_sync(0xFFFFFFFFu, upper ? x[0] : x[2], 2);
            v = __shfl_xor_sync(0xFFFFFFFFu, upper ? x[1] : x[3], 2);
            uint4 q = upper ? make_uint4(u, v, x[2], x[3]) : make_uint4(x[0], x[1], u, v);
            if (first + 8 * r < rows)
                *(uint4 *)(out + (first + 8 * r) * stride + 32 * m + 8 * lane) = q;
        }
}

/* How many tiles of 64 keys, of `steps`, any of the 64 queries from w0 on sees. */
static __device__ __forceinline__ int tiles_seen(const shape &a, int w0, int steps)
{
    return w0 >= a.t ? 0 : a.causal ? min(steps, (w0 + a.offset + 63) / 64 + 1) : steps;
}

/* Whether a query of the 64 from w0 on does not see all keys of tile `it`. When causal, no query
 * below T sees one beyond S. */
static __device__ __forceinline__ bool tile_cut(const shape &a, int w0, int it)
{
    return 64 * it + 63 > (a.causal ? w0 + a.offset : a.s - 1);
}

/* s = value where the query that stands at `at` or at + 8 does not see the key, j at element 0. */
static __device__ __forceinline__ void cut(float (&s)[8][4], const shape &a, int at, int j,
                                           float value)
{
    int last[2] = {a.causal ? at : a.s - 1, a.causal ? at + 8 : a.s - 1};
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (j + 8 * n + (e & 1) > last[e >> 1]) s[n][e] = value;
}

/* ---- forward -------------------------------------------------------------------------------- */

/* The largest score of either of this lane's two rows in the tile. */
static __device__ __forceinline__ void row_maxima(float (&best)[2], const float (&s)[8][4])
{
    float most[2][4]; /* short chains */
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float m = fmaxf(s[n][2 * r], s[n][2 * r + 1]);
            most[r][n % 4] = n < 4 ? m : fmaxf(most[r][n % 4], m);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        best[r] = fmaxf(fmaxf(most[r][0], most[r][1]), fmaxf(most[r][2], most[r][3]));
        best[r] = fmaxf(best[r], __shfl_xor_sync(0xFFFFFFFFu, best[r], 1));
        best[r] = fmaxf(best[r], __shfl_xor_sync(0xFFFFFFFFu, best[r], 2));
    }
}

/* p = the weights 2^(s factor + from) of a tile, 0 where not kept; sum += all of this lane's. */
template <typename E, bool DROP>
static __device__ __forceinline__ void weights(uint32_t (&p)[4][4], float (&sum)[2],
                                               float (&s)[8][4], float factor,
                                               const float (&from)[2], uint32_t kept)
{
    float odd[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = lk_power2(fmaf(s[n][e], factor, from[e >> 1]));
            (n & 1 ? odd : sum)[e >> 1] += s[n][e];
        }
        if (DROP) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (!(kept >> (4 * n + e) & 1)) s[n][e] = 0;
        }
        p[n / 2][n % 2 * 2] = lk_pack<E>(s[n][0], s[n][1]);
        p[n / 2][n % 2 * 2 + 1] = lk_pack<E>(s[n][2], s[n][3]);
    }
    sum[0] += odd[0];
    sum[1] += odd[1];
}

template <int D> constexpr int forward_bytes(void)
{
    return 1024 + (2 + 2 * STAGES) * tile_bytes(64, D);
}

/* As k_attention. mq and mkv map q and kv for tiles of 64 rows. */
template <typename E, int D, bool DROP, bool LINEAR>
static __global__ void __launch_bounds__(256, D <= 64 ? 2 : 1)
    k_attention_wgmma(const __grid_constant__ CUtensorMap mq,
                      const __grid_constant__ CUtensorMap mkv, shape a,
                      const lk_step_state *state, E *y, float *lse)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int TILE = tile_bytes(64, D);
    extern __shared__ unsigned char dynamic[];
    __shared__ uint64_t own_full, full[STAGES], empty[STAGES];
    __shared__ float4 columns[32];
    /* [STAGES][K, V], then Q of each group */
    uint32_t ring = (lk_shared_address(dynamic) + 1023) & ~1023u;
    uint32_t own = ring + 2 * STAGES * TILE;
    int tiles = (a.t + 127) / 128, tile = tiles - 1 - (int)(blockIdx.x % tiles);
    int bh = blockIdx.x / tiles, b = bh / a.heads, h = bh % a.heads, q0 = 128 * tile;
    int kv = a.first + h / (a.heads / a.kv_heads);
    int steps = ((a.causal ? min(a.s, q0 + 128 + a.offset) : a.s) + 63) / 64;

    auto load = [&](int m) { /* by one thread */
        uint32_t to = ring + m % STAGES * 2 * TILE;
        uint64_t *bar = &full[m % STAGES];
        barrier_expect(bar, 2 * TILE);
        copy_tile<D, 64>(to, &mkv, bar, kv * D, 64 * m, b);
        copy_tile<D, 64>(to + TILE, &mkv, bar, (kv + a.kv_heads) * D, 64 * m, b);
    };
    if (threadIdx.x == 0) {
        barrier_init(&own_full, 1);
        for (int s = 0; s < STAGES; s++) {
            barrier_init(&full[s], 1);
            barrier_init(&empty[s], 8);
        }
        barriers_publish();
    }
    if (LINEAR && threadIdx.x < 32) columns_fill(columns, alibi_slope(h, a.heads) / a.scale);
    __syncthreads();
    if (threadIdx.x == 0) {
        barrier_expect(&own_full, 2 * TILE);
        copy_tile<D, 64>(own, &mq, &own_full, h * D, q0, b);
        copy_tile<D, 64>(own + TILE, &mq, &own_full, h * D, q0 + 64, b);
        for (int m = 0; m < STAGES && m < steps; m++) load(m);
    }
    __syncwarp();

    int group = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
    int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, t2 = (lane & 3) * 2;
    int w0 = q0 + 64 * group, i = w0 + 16 * warp + (lane >> 2), at = i + a.offset;
    int mine = tiles_seen(a, w0, steps);
    uint32_t step = DROP ? (uint32_t)state->step : 0;
    float scale = a.scale * LK_LOG2E, slope = a.alibi ? alibi_slope(h, a.heads) * LK_LOG2E : 0;
    float o[D / 8][4] = {}, s[8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    uint32_t p[4][4];
    left_operand<D, D != 64> q; /* 64: as fast from shared memory */
    barrier_wait(&own_full, 0);
    q.load(own + group * TILE, 16 * warp);

    auto refill = [&](int it) { /* the slot that was used before tile `it` */
        if (threadIdx.x == 0 && it > 0 && it - 1 + STAGES < steps) {
            barrier_wait(&empty[(it - 1) % STAGES], (it - 1) / STAGES & 1);
            load(it - 1 + STAGES);
        }
        __syncwarp();
    };
    if (LINEAR) columns_take(s, columns);
    pin(s);
    pin(o);
    turns_begin(group);
    turn_take(group);
    for (int it = 0; it < mine; it++) {
        uint32_t tile = ring + it % STAGES * 2 * TILE;
        int j = 64 * it + t2;
        float factor = scale, shift[2] = {0, 0};
        barrier_wait(&full[it % STAGES], it / STAGES & 1);
        if (LINEAR) products_open();
        scores<E, D, 64, LINEAR>(s, q, tile);
        turn_pass(group);
        refill(it - 1);
        uint32_t kept = DROP ? keep_tile<false, 8>(a, step, bh, i, j) : ~0u;
        products_wait<0>(); /* the scores of this tile, and o of the one before */
        pin(s);
        pin(o);
        if (it > 0 && lane == 0) barrier_arrive(&empty[(it - 1) % STAGES]);
        float distance = slope * (float)(at - 64 * it);
        if (LINEAR) {
            shift[0] = distance, shift[1] = distance + 8 * slope;
        } else if (a.alibi) {
            apply_alibi(s, scale, distance, slope, -slope);
            factor = 1;
        }
        if (tile_cut(a, w0, it)) cut(s, a, at, j, -INFINITY);
        float best[2];
        row_maxima(best, s);
#pragma unroll
        for (int r = 0; r < 2; r++) best[r] = best[r] * factor - shift[r];
        bool grown = best[0] > top[0] + LAG || best[1] > top[1] + LAG;
        if (__any_sync(0xFFFFFFFFu, grown)) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float next = best[r] > top[r] + LAG ? best[r] : top[r];
                float shrink = lk_power2(top[r] - next);
                top[r] = next;
                sum[r] *= shrink;
#pragma unroll
                for (int n = 0; n < D / 8; n++) o[n][2 * r] *= shrink, o[n][2 * r + 1] *= shrink;
            }
        }
        float from[2] = {-top[0] - shift[0], -top[1] - shift[1]};
        weights<E, DROP>(p, sum, s, factor, from, kept);
        pin(p);
        if (LINEAR) columns_take(s, columns);
        pin(o);
        pin(s);
        turn_take(group);
        accumulate<E, D, 64>(o, p, tile + TILE);
    }
    turn_pass(group);
    products_wait<0>();
    pin(o);
    if (mine > 0) {
        if (lane == 0) barrier_arrive(&empty[(mine - 1) % STAGES]);
        refill(mine - 1);
    }
    for (int it = mine; it < steps; it++) { /* the other group needs the slots */
        turn_take(group);
        turn_pass(group);
        barrier_wait(&full[it % STAGES], it / STAGES & 1);
        if (lane == 0) barrier_arrive(&empty[it % STAGES]);
        refill(it);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xFFFFFFFFu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xFFFFFFFFu, sum[r], 2);
        if (t2 == 0 && i + 8 * r < a.t)
            lse[(int64_t)bh * a.t + i + 8 * r] = (top[r] + log2f(sum[r])) * LN2;
    }
    store_tile<E, D>(y + ((int64_t)b * a.t * a.heads + h) * D, (int64_t)a.heads * D, i, a.t, o,
                     a.keep / sum[0], a.keep / sum[1]);
    turns_end(group);
#endif
}

template <typename E, int D> static cudaError_t wgmma_forward(const attention_call &c)
{
    const shape &a = c.a;
    bool bf16 = std::is_same<E, __nv_bfloat16>::value;
    int64_t blocks = c.batch * a.heads * lk_ceil(a.t, 128);
    CUtensorMap mq, mkv;
    LK_CUDA_TRY(tile_map(&mq, bf16, c.q, c.batch, a.t, a.width, 64, D));
    LK_CUDA_TRY(tile_map(&mkv, bf16, c.kv, c.batch, a.s, a.kv_width, 64, D));
    KIND_SWITCH(a, LAUNCH(c, (k_attention_wgmma<E, D, DROP, LINEAR>), blocks, 256,
                          forward_bytes<D>(), mq, mkv, a, c.state, (E *)c.y, c.lse));
    return cudaSuccess;
}

#endif
