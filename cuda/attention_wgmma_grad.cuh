/* Attention for Hopper, backward, f16 and bf16: two persistent kernels, seven products.
 *
 *   k_queries_wgmma  own tiles are queries: dQ, and of every row (lse, dy . y) for the other;
 *                    streams tiles of 64 keys and values
 *   k_keys_wgmma     own tiles are keys: dK and dV; streams (Q, dy) of every query head of the
 *                    group, in tiles of STREAM rows
 * A block is two warpgroups with 64 own rows each, and a warp that copies: the next tiles into a
 * ring of STAGES slots, and the own tiles of the next unit of work while this one runs. Weights
 * and their gradients go from accumulator to A operand within registers: in k_keys_wgmma the
 * scores are computed transposed. Each sum has one owner and one order.
 *
 * The sums of a tile and both score products of the next one are issued together, in turns with
 * the other warpgroup; the exponentials run while the second score product does.
 *
 * Causal ALiBi: what depends on the column comes from the tensor cores, as a product more that the
 * scores are summed onto: plane(). What depends on the row joins lse in k_queries_wgmma, the plane
 * in k_keys_wgmma, whose scores are transposed.
 *
 * Dropout: k_queries_wgmma draws; up to MASK_KEYS keys it leaves in scratch which weights it kept,
 * and k_keys_wgmma copies that with the tiles. Beyond, that draws again.
 *
 * dQ and dK of rotary positions are rotated back before they are rounded.
 *
 * Column sums of what is stored, where they are asked for: each warpgroup leaves those of its 64
 * rows, added as a tree; lk_cuda_sum_chunks() adds them up.
 *
 * When causal, a unit's time depends on its tile; an item pairs a long unit with a short one, so
 * that all items take the same time. */
#ifndef LK_CUDA_ATTENTION_WGMMA_GRAD_CUH
#define LK_CUDA_ATTENTION_WGMMA_GRAD_CUH

#include "cuda/attention_wgmma.cuh"
#include "cuda/rotary.cuh"

enum { GRAD_BLOCK = 384 };

/* 128 own rows of one (batch entry, head). */
typedef struct unit {
    int row0, entry, head;
} unit;

/* Of `rows` rows: queries or keys. */
static __host__ __device__ inline int items_per_head(const shape &a, int rows)
{
    int tiles = (rows + 127) / 128;
    return a.causal ? (tiles + 1) / 2 : tiles;
}

/* Unit `half` (0, 1) of an item; false: there is none. */
static __device__ __forceinline__ bool unit_of(const shape &a, int rows, int heads, int item,
                                               int half, unit *u)
{
    int tiles = (rows + 127) / 128, each = items_per_head(a, rows);
    int pair = item / each, tile = item % each;
    if (half) {
        if (!a.causal || tiles - 1 - tile == tile) return false;
        tile = tiles - 1 - tile;
    }
    u->row0 = 128 * tile;
    u->entry = pair / heads;
    u->head = pair % heads;
    return true;
}

typedef struct grad_barriers {
    uint64_t own_full, own_empty, full[STAGES], empty[STAGES];
} grad_barriers;

static __device__ __forceinline__ void grad_barriers_init(grad_barriers *bar)
{
    if (threadIdx.x == 0) {
        barrier_init(&bar->own_full, 1);
        barrier_init(&bar->own_empty, 8);
        for (int s = 0; s < STAGES; s++) {
            barrier_init(&bar->full[s], 1);
            barrier_init(&bar->empty[s], 8);
        }
        barriers_publish();
    }
    __syncthreads();
}

/* Slot of the ring's step n, after the consumers have released it; expects `bytes`. */
static __device__ __forceinline__ int slot_claim(grad_barriers *bar, uint32_t n, int bytes)
{
    int slot = n % STAGES;
    barrier_wait(&bar->empty[slot], (n / STAGES & 1) ^ 1);
    barrier_expect(&bar->full[slot], bytes);
    return slot;
}

static __device__ __forceinline__ void slot_wait(grad_barriers *bar, uint32_t n)
{
    barrier_wait(&bar->full[n % STAGES], n / STAGES & 1);
}

static __device__ __forceinline__ void slot_release(grad_barriers *bar, uint32_t n)
{
    if ((threadIdx.x & 31) == 0) barrier_arrive(&bar->empty[n % STAGES]);
}

/* The same of the own tiles, for a block's unit n. */
static __device__ __forceinline__ void own_claim(grad_barriers *bar, uint32_t n, int bytes)
{
    barrier_wait(&bar->own_empty, (n & 1) ^ 1);
    barrier_expect(&bar->own_full, bytes);
}

static __device__ __forceinline__ void own_wait(grad_barriers *bar, uint32_t n)
{
    barrier_wait(&bar->own_full, n & 1);
}

static __device__ __forceinline__ void own_release(grad_barriers *bar)
{
    if ((threadIdx.x & 31) == 0) barrier_arrive(&bar->own_empty);
}

static __device__ __forceinline__ float shared_float(uint32_t at)
{
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}

static __device__ __forceinline__ void shared_put(uint32_t at, float u, float v)
{
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(u), "f"(v) : "memory");
}

static __device__ __forceinline__ float2 shared_pair(uint32_t at)
{
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at));
    return v;
}

static __device__ __forceinline__ uint32_t shared_byte(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

/* Sum of the products of two words of two elements. */
template <typename E> static __device__ __forceinline__ float dot_word(uint32_t u, uint32_t v)
{
    lk_vec<E, 2> x = *(lk_vec<E, 2> *)&u, y = *(lk_vec<E, 2> *)&v;
    return lk_float(x.v[0]) * lk_float(y.v[0]) + lk_float(x.v[1]) * lk_float(y.v[1]);
}

/* Sums of the positions `first` and `first` + 8, rotated back; angles [rows, D / 2]. */
template <int D>
static __device__ __forceinline__ void rotate_back(float (&d)[D / 8][4], const float2 *angles,
                                                   int first, int rows)
{
    const float4 *u = angles_at<D>(angles, min(first, rows - 1));
    const float4 *v = angles_at<D>(angles, min(first + 8, rows - 1));
#pragma unroll
    for (int j = 0; j < D / 16; j++)
        rotate(d[j], d[j + D / 16], __ldg(u + 4 * j), __ldg(v + 4 * j), -1);
}

/* ---- column sums of what is stored ---------------------------------------------------------- */

/* Bytes of shared memory for the sums of a warpgroup's tile. */
template <int D> __host__ __device__ constexpr int sums_bytes(void)
{
    return 4 * D * (int)sizeof(float);
}

/* The sums [columns] of 64 rows from w0 on, of partial [attention_chunks(), columns]. */
static __device__ __forceinline__ float *sums_of(float *partial, int entry, int rows, int w0,
                                                 int64_t columns)
{
    return partial + ((int64_t)entry * ((rows + 63) / 64) + w0 / 64) * columns;
}

/* out [D] = sums over the warpgroup's 64 rows of what store_tile() stores; rows beyond are none. A
 * warp sums its 16 rows as a product of ones by them. `at`: sums_bytes() of shared memory. */
template <typename E, int D>
static __device__ __forceinline__ void sum_tile(float *out, uint32_t at, int group, int first,
                                                int rows, const float (&acc)[D / 8][4],
                                                float factor)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3, c = threadIdx.x & 127;
    uint32_t one = lk_pack<E>(1, 1), ones[4] = {one, one, one, one};
    float sum[D / 8][4] = {}, s[4];
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        uint32_t w[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            w[r] = lk_pack<E>(acc[n][2 * r] * factor, acc[n][2 * r + 1] * factor);
            if (first + 8 * r >= rows) w[r] = 0;
        }
        lk_mma<E>(sum[n], ones, lk_matrix_turned(w[0]), lk_matrix_turned(w[1]));
    }
    if (lane < 4) { /* all rows of a sum are the same */
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            shared_put(at + 4 * (warp * D + 8 * n + 2 * lane), sum[n][0], sum[n][1]);
    }
    group_sync(group);
    if (c >= D) return;
#pragma unroll
    for (int k = 0; k < 4; k++) s[k] = shared_float(at + 4 * (k * D + c));
    out[c] = s[0] + s[1] + (s[2] + s[3]);
}

/* ---- which weights are kept, from one kernel to the other ------------------------------------ */

/* The mask of 64 queries and 64 keys: 128 words, one of each thread of a warpgroup. */
static __device__ __forceinline__ uint32_t *mask_at(uint32_t *masks, const shape &a, int64_t bh,
                                                    int query, int key)
{
    int64_t row = bh * ((a.t + 63) / 64) + query / 64;
    return masks + (row * ((a.s + 127) / 128 * 2) + key / 64) * 128;
}

/* A word of keep_tile<false, 8>, bit 8 k + 4 u + 2 r + v of key 16 k + 8 u + v and row 8 r, with u
 * and r exchanged: byte k has the keys of warp k of the other kernel, four of each row. */
static __device__ __forceinline__ uint32_t mask_pack(uint32_t kept)
{
    uint32_t change = (kept ^ kept >> 2) & 0x0C0C0C0Cu;
    return kept ^ change ^ change << 2;
}

/* What keep_tile<true, N> draws, from the words of its queries and 64 keys in shared memory. */
template <int N> static __device__ __forceinline__ uint32_t mask_take(uint32_t at)
{
    int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31;
    uint32_t of[2] = {0, 0}; /* queries 2 (lane & 3) and the next of each 8 */
    at += 4 * (8 * (lane & 3) + (lane >> 3)) + warp;
#pragma unroll
    for (int w = 0; w < N / 2; w++)
#pragma unroll
        for (int e = 0; e < 2; e++) of[e] |= shared_byte(at + 128 * w + 16 * e) << 8 * w;
    int odd = lane >> 2 & 1; /* the key */
    return (of[0] >> odd & 0x55555555u) | (of[1] >> odd & 0x55555555u) << 1;
}

/* ---- own queries: dQ ------------------------------------------------------------------------ */

/* How many tiles of 64 keys any of 128 queries from row0 on sees. */
static __device__ __forceinline__ int steps_of(const shape &a, int row0)
{
    return ((a.causal ? min(a.s, row0 + 128 + a.offset) : a.s) + 63) / 64;
}

template <int D> constexpr int queries_bytes(void)
{
    return 1024 + (6 + 2 * STAGES) * tile_bytes(64, D) + (D <= 64 ? 2 * sums_bytes<D>() : 0);
}

/* The own tiles of u, a block's unit n: [Q, dy, y][group]. */
template <int D>
static __device__ __forceinline__ void
copy_own_queries(uint32_t own, const CUtensorMap *mq, const CUtensorMap *mdy, const CUtensorMap *my,
                 const unit &u, grad_barriers *bar, uint32_t n)
{
    constexpr int TILE = tile_bytes(64, D);
    own_claim(bar, n, 6 * TILE);
#pragma unroll
    for (int g = 0; g < 2; g++) {
        int row0 = u.row0 + 64 * g, column = u.head * D;
        uint32_t to = own + g * TILE;
        copy_tile<D, 64>(to, mq, &bar->own_full, column, row0, u.entry);
        copy_tile<D, 64>(to + 2 * TILE, mdy, &bar->own_full, column, row0, u.entry);
        copy_tile<D, 64>(to + 4 * TILE, my, &bar->own_full, column, row0, u.entry);
    }
}

/* Keys and values from 64 `it` on, for unit u, to the slot of step n: [K, V]. */
template <int D>
static __device__ __forceinline__ void copy_keys(uint32_t ring, const CUtensorMap *mkv,
                                                 const shape &a, const unit &u, int it,
                                                 grad_barriers *bar, uint32_t n)
{
    constexpr int TILE = tile_bytes(64, D);
    int k = a.first + u.head / (a.heads / a.kv_heads), v = k + a.kv_heads;
    int slot = slot_claim(bar, n, 2 * TILE);
    uint32_t to = ring + slot * 2 * TILE;
    copy_tile<D, 64>(to, mkv, &bar->full[slot], k * D, 64 * it, u.entry);
    copy_tile<D, 64>(to + TILE, mkv, &bar->full[slot], v * D, 64 * it, u.entry);
}

/* Maps: q, kv, dy and y for tiles of 64 rows. lse [B,H,T], pairs [B,H,rows] = (lse in bits, D).
 * masks: attention_masks() of each (b, h), or NULL. sums: sums_of() dq, or NULL. */
template <typename E, int D, bool DROP, bool LINEAR>
static __global__ void __launch_bounds__(GRAD_BLOCK, 1)
    k_queries_wgmma(const __grid_constant__ CUtensorMap mq,
                    const __grid_constant__ CUtensorMap mkv,
                    const __grid_constant__ CUtensorMap mdy, const __grid_constant__ CUtensorMap my,
                    shape a, int items, const float *lse, const lk_step_state *state, float2 *pairs,
                    int64_t rows, uint32_t *masks, const float2 *angles, E *dq, float *sums)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int TILE = tile_bytes(64, D);
    constexpr bool REGISTERS = D <= 64;
    extern __shared__ unsigned char dynamic[];
    __shared__ grad_barriers bar;
    __shared__ uint4 bias[PLANE_ROWS];
    uint32_t ring = (lk_shared_address(dynamic) + 1023) & ~1023u; /* [STAGES][K, V] */
    uint32_t own = ring + 2 * STAGES * TILE; /* [Q, dy, y][group]; D <= 64: [sums][group] */
    if (LINEAR) plane_rows<E>(bias);
    grad_barriers_init(&bar);
    int group = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
    uint32_t n = 0, units = 0; /* steps and units before */
    unit u;

    if (group == 2) { /* the copying warp */
        registers_give<40>();
        if (threadIdx.x != 256) return;
        for (int item = blockIdx.x; item < items; item += gridDim.x)
            for (int half = 0; half < 2; half++) {
                if (!unit_of(a, a.t, a.heads, item, half, &u)) continue;
                int steps = steps_of(a, u.row0);
                copy_own_queries<D>(own, &mq, &mdy, &my, u, &bar, units++);
                for (int it = 0; it < steps; it++, n++)
                    copy_keys<D>(ring, &mkv, a, u, it, &bar, n);
            }
        return;
    }

    registers_take<232>();
    int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, t2 = (lane & 3) * 2;
    uint32_t step = DROP ? (uint32_t)state->step : 0;
    float scale = a.scale * LK_LOG2E;
    turns_begin(group);
    for (int item = blockIdx.x; item < items; item += gridDim.x)
        for (int half = 0; half < 2; half++) {
            if (!unit_of(a, a.t, a.heads, item, half, &u)) continue;
            int steps = steps_of(a, u.row0);
            int w0 = u.row0 + 64 * group, i = w0 + 16 * warp + (lane >> 2), at = i + a.offset;
            int mine = tiles_seen(a, w0, steps);
            int64_t bh = (int64_t)u.entry * a.heads + u.head;
            float slope = a.alibi ? alibi_slope(u.head, a.heads) * LK_LOG2E : 0;
            float l[2], d[2] = {0, 0};
#pragma unroll
            for (int r = 0; r < 2; r++)
                l[r] = i + 8 * r < a.t ? lse[bh * a.t + i + 8 * r] * LK_LOG2E : INFINITY;

            left_operand<D, REGISTERS> q, dy;
            uint32_t from = own + group * TILE;
            own_wait(&bar, units++);
            q.load(from, 16 * warp);
            dy.load(from + 2 * TILE, 16 * warp);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                uint32_t x[4], y[4];
                tile_fragment<D>(y, from + 4 * TILE, 16 * warp, k);
                if constexpr (!REGISTERS) tile_fragment<D>(x, from + 2 * TILE, 16 * warp, k);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if constexpr (REGISTERS) x[e] = dy.r[k][e];
                    d[e & 1] += dot_word<E>(x[e], y[e]);
                }
            }
            if (REGISTERS) own_release(&bar);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                d[r] += __shfl_xor_sync(0xFFFFFFFFu, d[r], 1);
                d[r] += __shfl_xor_sync(0xFFFFFFFFu, d[r], 2);
                if (t2 == 0) pairs[bh * rows + i + 8 * r] = make_float2(l[r], d[r]);
            }

            float acc[D / 8][4] = {}, s[8][4] = {}, ds[8][4] = {};
            uint32_t p[4][4];
            pin(s);
            pin(ds);
            pin(acc);
            turn_take(group);
            for (int it = 0; it < mine; it++) {
                uint32_t tile = ring + (n + it) % STAGES * 2 * TILE;
                int j = 64 * it + t2;
                float factor = scale, shift[2] = {0, 0};
                slot_wait(&bar, n + it);
                if (LINEAR) plane<E, D, 64>(s, bias, slope / scale, 0, 0);
                scores<E, D, 64, LINEAR>(s, q, tile);
                scores<E, D, 64>(ds, dy, tile + TILE);
                turn_pass(group);
                uint32_t kept = DROP ? keep_tile<false, 8>(a, step, bh, i, j) : ~0u;
                if (DROP && masks)
                    mask_at(masks, a, bh, w0, 64 * it)[threadIdx.x & 127] = mask_pack(kept);
                products_wait<1>(); /* s, and acc of the tile before */
                pin(s);
                if (it > 0) slot_release(&bar, n + it - 1);
                float distance = slope * (float)(at - 64 * it);
                if (LINEAR) {
                    shift[0] = distance, shift[1] = distance + 8 * slope;
                } else if (a.alibi) {
                    apply_alibi(s, scale, distance, slope, -slope);
                    factor = 1;
                }
#pragma unroll
                for (int m = 0; m < 8; m++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        s[m][e] = lk_power2(fmaf(s[m][e], factor, -l[e >> 1] - shift[e >> 1]));
                if (tile_cut(a, w0, it)) cut(s, a, at, j, 0);
                products_wait<0>();
                pin(ds);
#pragma unroll
                for (int m = 0; m < 8; m++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float g = ds[m][e];
                        if (DROP) g = kept >> (4 * m + e) & 1 ? g * a.keep : 0;
                        ds[m][e] = s[m][e] * (g - d[e >> 1]);
                    }
                    p[m / 2][m % 2 * 2] = lk_pack<E>(ds[m][0], ds[m][1]);
                    p[m / 2][m % 2 * 2 + 1] = lk_pack<E>(ds[m][2], ds[m][3]);
                }
                pin(s);
                pin(ds);
                pin(p);
                turn_take(group);
                accumulate<E, D, 64>(acc, p, tile);
            }
            turn_pass(group);
            products_wait<0>();
            pin(acc);
            if (mine > 0) slot_release(&bar, n + mine - 1);
            for (int it = mine; it < steps; it++) {
                turn_take(group);
                turn_pass(group);
                slot_wait(&bar, n + it);
                slot_release(&bar, n + it);
            }
            n += steps;
            if (!REGISTERS && !sums) own_release(&bar);
            if (angles) rotate_back<D>(acc, angles, i, a.t);
            E *out = dq + (int64_t)u.entry * a.t * a.width + u.head * D;
            store_tile<E, D>(out, a.width, i, a.t, acc, a.scale, a.scale);
            if (sums && w0 < a.t) {
                uint32_t room = REGISTERS ? own + 6 * TILE + group * sums_bytes<D>()
                                          : own + (4 + group) * TILE; /* of y */
                float *to = sums_of(sums, u.entry, a.t, w0, a.width) + u.head * D;
                sum_tile<E, D>(to, room, group, i, a.t, acc, a.scale);
            }
            if (!REGISTERS && sums) {
                shared_publish();
                __syncwarp();
                own_release(&bar);
            }
        }
    turns_end(group);
#endif
}

/* ---- own keys: dK and dV -------------------------------------------------------------------- */

template <int D, int STREAM> constexpr int keys_bytes(void)
{
    return 1024 + 4 * tile_bytes(64, D) + STAGES * (2 * tile_bytes(STREAM, D) + STREAM * 24) +
           4 * sums_bytes<D>();
}

/* The first query, from tiles of STREAM, that sees the key; 0 if all do. */
template <int STREAM> static __device__ __forceinline__ int first_query(const shape &a, int key)
{
    return a.causal ? max(0, key - a.offset) / STREAM * STREAM : 0;
}

/* The own tiles of u, a block's unit n, heads k and v of a row: [K, V][group]. */
template <int D>
static __device__ __forceinline__ void copy_own_keys(uint32_t own, const CUtensorMap *mkv, int k,
                                                     int v, const unit &u, grad_barriers *bar,
                                                     uint32_t n)
{
    constexpr int TILE = tile_bytes(64, D);
    own_claim(bar, n, 4 * TILE);
#pragma unroll
    for (int g = 0; g < 2; g++) {
        int row0 = u.row0 + 64 * g;
        uint32_t to = own + g * TILE;
        copy_tile<D, 64>(to, mkv, &bar->own_full, k * D, row0, u.entry);
        copy_tile<D, 64>(to + 2 * TILE, mkv, &bar->own_full, v * D, row0, u.entry);
    }
}

/* The masks of STREAM queries from `query` on and 128 keys from `key` on: [group]. */
template <int STREAM>
static __device__ __forceinline__ void copy_masks(uint32_t to, uint32_t *masks, const shape &a,
                                                  int64_t bh, int query, int key, uint64_t *full)
{
    for (int g = 0; g < 2; g++)
        copy_bytes(to + g * STREAM * 8, mask_at(masks, a, bh, query, key + 64 * g) + query % 64 * 2,
                   STREAM * 8, full);
}

/* Maps: mkv for tiles of 64 rows, sq and sdy for tiles of STREAM rows. masks: what k_queries_wgmma
 * left, or NULL. sums: sums_of() dkv, or NULL. */
template <typename E, int D, int STREAM, bool DROP, bool LINEAR>
static __global__ void __launch_bounds__(GRAD_BLOCK, 1)
    k_keys_wgmma(const __grid_constant__ CUtensorMap mkv, const __grid_constant__ CUtensorMap sq,
                 const __grid_constant__ CUtensorMap sdy, shape a, int items, const float2 *pairs,
                 int64_t rows, uint32_t *masks, const lk_step_state *state, const float2 *angles,
                 E *dkv, float *sums)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int TILE = tile_bytes(64, D), PART = tile_bytes(STREAM, D), NT = STREAM / 8;
    constexpr bool REGISTERS = D <= 64;
    extern __shared__ unsigned char dynamic[];
    __shared__ grad_barriers bar;
    __shared__ uint4 bias[PLANE_ROWS];
    uint32_t own = (lk_shared_address(dynamic) + 1023) & ~1023u;               /* [K, V][group] */
    uint32_t ring = own + 4 * TILE, stat = ring + 2 * STAGES * PART; /* [STAGES][Q, dy]; pairs */
    uint32_t mask = stat + STAGES * STREAM * 8;                      /* [STAGES][group] */
    uint32_t room = mask + STAGES * STREAM * 16;                     /* [sums of dK, dV][group] */
    if (LINEAR) plane_rows<E>(bias);
    grad_barriers_init(&bar);
    int group = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0), share = a.heads / a.kv_heads;
    int last_row = (a.t + STREAM - 1) / STREAM * STREAM;
    uint32_t n = 0, units = 0; /* steps and units before */
    unit u;

    if (group == 2) { /* the copying warp */
        registers_give<40>();
        if (threadIdx.x != 256) return;
        for (int item = blockIdx.x; item < items; item += gridDim.x)
            for (int half = 0; half < 2; half++) {
                if (!unit_of(a, a.s, a.kv_heads, item, half, &u)) continue;
                int k = a.first + u.head;
                copy_own_keys<D>(own, &mkv, k, k + a.kv_heads, u, &bar, units++);
                for (int h = u.head * share; h < (u.head + 1) * share; h++)
                    for (int r = first_query<STREAM>(a, u.row0); r < last_row; r += STREAM, n++) {
                        int words = DROP && masks ? 2 * STREAM : 0; /* of a group's mask */
                        int slot = slot_claim(&bar, n, 2 * PART + STREAM * 8 + 8 * words);
                        uint32_t to = ring + slot * 2 * PART;
                        uint64_t *full = &bar.full[slot];
                        const float2 *from = pairs + ((int64_t)u.entry * a.heads + h) * rows + r;
                        copy_tile<D, STREAM>(to, &sq, full, h * D, r, u.entry);
                        copy_tile<D, STREAM>(to + PART, &sdy, full, h * D, r, u.entry);
                        copy_bytes(stat + slot * STREAM * 8, from, STREAM * 8, full);
                        if (words)
                            copy_masks<STREAM>(mask + 2 * slot * STREAM * 8, masks, a,
                                               (int64_t)u.entry * a.heads + h, r, u.row0, full);
                    }
            }
        return;
    }

    registers_take<232>();
    int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, t2 = (lane & 3) * 2;
    uint32_t step = DROP ? (uint32_t)state->step : 0;
    float scale = a.scale * LK_LOG2E;
    turns_begin(group);
    for (int item = blockIdx.x; item < items; item += gridDim.x)
        for (int half = 0; half < 2; half++) {
            if (!unit_of(a, a.s, a.kv_heads, item, half, &u)) continue;
            int w0 = u.row0 + 64 * group, j = w0 + 16 * warp + (lane >> 2), at = j - a.offset;
            int skip = w0 >= a.s ? last_row : first_query<STREAM>(a, w0); /* no work below */
            left_operand<D, REGISTERS> k, v;
            uint32_t from = own + group * TILE;
            own_wait(&bar, units++);
            k.load(from, 16 * warp);
            v.load(from + 2 * TILE, 16 * warp);
            if (REGISTERS) own_release(&bar);

            float dk[D / 8][4] = {}, dv[D / 8][4] = {}, s[NT][4] = {}, ds[NT][4] = {};
            uint32_t p[NT / 2][4], g[NT / 2][4];
            pin(s);
            pin(ds);
            pin(dk);
            pin(dv);
            turn_take(group);
            bool pending = false; /* the slot of `before` is still to be released */
            uint32_t before = 0;
            for (int h = u.head * share; h < (u.head + 1) * share; h++) {
                int64_t bh = (int64_t)u.entry * a.heads + h;
                float slope = a.alibi ? alibi_slope(h, a.heads) * LK_LOG2E : 0;
                float steep = slope / scale;
                int r = first_query<STREAM>(a, u.row0);
                for (; r < skip; r += STREAM, n++) {
                    turn_pass(group);
                    turn_take(group);
                    slot_wait(&bar, n);
                    slot_release(&bar, n);
                }
                for (; r < last_row; r += STREAM, n++) {
                    uint32_t slot = n % STAGES, tile = ring + slot * 2 * PART;
                    int i = r + t2;
                    float factor = scale;
                    slot_wait(&bar, n);
                    if (LINEAR) /* slope (j - t) / scale */
                        plane<E, D, STREAM>(s, bias, -steep, steep * (float)(at - r) / 64,
                                            steep * (float)(at + 8 - r) / 64);
                    scores<E, D, STREAM, LINEAR>(s, k, tile);
                    scores<E, D, STREAM>(ds, v, tile + PART);
                    turn_pass(group);
                    products_wait<1>(); /* s, and the sums of the tile before */
                    pin(s);
                    if (pending) slot_release(&bar, before);
                    pending = true;
                    before = n;
                    uint32_t kept = ~0u;
                    if (DROP)
                        kept = masks ? mask_take<NT>(mask + (2 * slot + group) * STREAM * 8)
                                     : keep_tile<true, NT>(a, step, bh, i, j);
                    if (!LINEAR && a.alibi) {
                        apply_alibi(s, scale, slope * (float)(r - at), -slope, slope);
                        factor = 1;
                    }
                    uint32_t stats = stat + slot * STREAM * 8 + t2 * 8;
#pragma unroll
                    for (int c = 0; c < NT; c++) { /* rows beyond T: lse infinite, a weight of 0 */
                        float2 l = shared_pair(stats + 64 * c), m = shared_pair(stats + 64 * c + 8);
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            s[c][e] = lk_power2(fmaf(s[c][e], factor, -(e & 1 ? m.x : l.x)));
                    }
                    if (a.causal && r < w0 - a.offset + 63) {
#pragma unroll
                        for (int c = 0; c < NT; c++)
#pragma unroll
                            for (int e = 0; e < 4; e++)
                                if (at + 8 * (e >> 1) > i + 8 * c + (e & 1)) s[c][e] = 0;
                    }
#pragma unroll
                    for (int c = 0; c < NT; c++) {
                        float w[4] = {s[c][0], s[c][1], s[c][2], s[c][3]};
                        if (DROP) {
#pragma unroll
                            for (int e = 0; e < 4; e++)
                                if (!(kept >> (4 * c + e) & 1)) w[e] = 0;
                        }
                        p[c / 2][c % 2 * 2] = lk_pack<E>(w[0], w[1]);
                        p[c / 2][c % 2 * 2 + 1] = lk_pack<E>(w[2], w[3]);
                    }
                    products_wait<0>(); /* ds */
                    pin(ds);
#pragma unroll
                    for (int c = 0; c < NT; c++) {
                        float2 l = shared_pair(stats + 64 * c), m = shared_pair(stats + 64 * c + 8);
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            float x = ds[c][e];
                            if (DROP) x = kept >> (4 * c + e) & 1 ? x * a.keep : 0;
                            ds[c][e] = s[c][e] * (x - (e & 1 ? m.y : l.y));
                        }
                        g[c / 2][c % 2 * 2] = lk_pack<E>(ds[c][0], ds[c][1]);
                        g[c / 2][c % 2 * 2 + 1] = lk_pack<E>(ds[c][2], ds[c][3]);
                    }
                    pin(s);
                    pin(ds);
                    pin(p);
                    pin(g);
                    turn_take(group);
                    accumulate<E, D, STREAM>(dv, p, tile + PART);
                    accumulate<E, D, STREAM>(dk, g, tile);
                }
            }
            turn_pass(group);
            products_wait<0>();
            pin(dk);
            pin(dv);
            if (pending) slot_release(&bar, before);
            if (!REGISTERS) own_release(&bar);
            if (angles) rotate_back<D>(dk, angles, j, a.s);
            E *out = dkv + (int64_t)u.entry * a.s * a.kv_width + (a.first + u.head) * D;
            store_tile<E, D>(out, a.kv_width, j, a.s, dk, a.scale, a.scale);
            store_tile<E, D>(out + a.kv_heads * D, a.kv_width, j, a.s, dv, a.keep, a.keep);
            if (sums && w0 < a.s) {
                uint32_t here = room + group * sums_bytes<D>();
                float *to = sums_of(sums, u.entry, a.s, w0, a.kv_width) + (a.first + u.head) * D;
                sum_tile<E, D>(to, here, group, j, a.s, dk, a.scale);
                sum_tile<E, D>(to + a.kv_heads * D, here + 2 * sums_bytes<D>(), group, j, a.s, dv,
                               a.keep);
            }
        }
    turns_end(group);
#endif
}

/* Behind the pairs in scratch. */
static inline uint32_t *masks_of(const attention_call &c)
{
    int64_t pairs = c.batch * c.a.heads * attention_rows(c.a.t);
    bool any = attention_masks(c.a.t, c.a.s, c.a.threshold) > 0;
    return any ? (uint32_t *)c.scratch + 2 * pairs : NULL;
}

template <typename E, int D> static cudaError_t wgmma_backward_queries(const attention_call &c)
{
    const shape &a = c.a;
    bool bf16 = std::is_same<E, __nv_bfloat16>::value;
    int64_t items = c.batch * a.heads * items_per_head(a, a.t), width = (int64_t)a.heads * D;
    int64_t blocks = items < c.processors ? items : c.processors, rows = attention_rows(a.t);
    float2 *pairs = (float2 *)c.scratch;
    CUtensorMap mq, mkv, mdy, my;
    LK_CUDA_TRY(tile_map(&mq, bf16, c.q, c.batch, a.t, a.width, 64, D));
    LK_CUDA_TRY(tile_map(&mkv, bf16, c.kv, c.batch, a.s, a.kv_width, 64, D));
    LK_CUDA_TRY(tile_map(&mdy, bf16, c.dy, c.batch, a.t, width, 64, D));
    LK_CUDA_TRY(tile_map(&my, bf16, c.y, c.batch, a.t, width, 64, D));
    KIND_SWITCH(a, LAUNCH(c, (k_queries_wgmma<E, D, DROP, LINEAR>), blocks, GRAD_BLOCK,
                          queries_bytes<D>(), mq, mkv, mdy, my, a, (int)items, c.lse, c.state,
                          pairs, rows, masks_of(c), c.angles, (E *)c.dq, c.q_sums));
    return cudaSuccess;
}

template <typename E, int D> static cudaError_t wgmma_backward_keys(const attention_call &c)
{
    constexpr int STREAM = D <= 64 ? 64 : 32, bytes = keys_bytes<D, STREAM>();
    const shape &a = c.a;
    bool bf16 = std::is_same<E, __nv_bfloat16>::value;
    int64_t items = c.batch * a.kv_heads * items_per_head(a, a.s), width = (int64_t)a.heads * D;
    int64_t blocks = items < c.processors ? items : c.processors, rows = attention_rows(a.t);
    const float2 *pairs = (const float2 *)c.scratch;
    CUtensorMap mkv, sq, sdy;
    LK_CUDA_TRY(tile_map(&mkv, bf16, c.kv, c.batch, a.s, a.kv_width, 64, D));
    LK_CUDA_TRY(tile_map(&sq, bf16, c.q, c.batch, a.t, a.width, STREAM, D));
    LK_CUDA_TRY(tile_map(&sdy, bf16, c.dy, c.batch, a.t, width, STREAM, D));
    KIND_SWITCH(a, LAUNCH(c, (k_keys_wgmma<E, D, STREAM, DROP, LINEAR>), blocks, GRAD_BLOCK, bytes,
                          mkv, sq, sdy, a, (int)items, pairs, rows, masks_of(c), c.state, c.angles,
                          (E *)c.dkv, c.kv_sums));
    return cudaSuccess;
}

template <typename E, int D> static cudaError_t wgmma_backward(const attention_call &c)
{
    LK_CUDA_TRY((wgmma_backward_queries<E, D>(c)));
    return wgmma_backward_keys<E, D>(c);
}

#endif
