/* Matrix products for Hopper with more on the way out, f16 and bf16, sums in f32.
 *
 *   PRODUCT_GELU    pre = x w^T + b, y = gelu(pre)    x [N,K], w [M,K], b [M], pre and y [N,M]
 *   PRODUCT_SLOPE   dx = (dy w) gelu'(pre)            dy [N,M], w [M,K], pre and dx [N,K]
 *                   and, of each tile of dx as rounded, the sums of its columns
 *   PRODUCT_ROTATE  y = x w^T + b, and of its columns the first heads of D rotated by the position
 *                   of the row, N mod T, before y is rounded
 *
 * In the kernel the left operand is a [rows, depth] and the result is [rows, columns]; the right
 * operand is K-major for x w^T and MN-major for dy w.
 *
 * A library's kernel computes gelu between the products of one tile and those of the next, and the
 * tensor cores wait. Here a block, which stays on its processor, has a warp that copies and two
 * warpgroups with tiles of 128 x 128 of their own, which take turns: one multiplies while the other
 * rounds its sums, finishes them slice by slice and stores them. Slices of 32 columns lie in
 * registers as stmatrix wants them; two make a panel of 64 rows, which the copy engine stores.
 *
 * Blocks of a cluster have the same columns, and each brings its share of the right operand to all.
 * What lies beyond the edges is read as zero and not written. A sum has one owner and one order:
 * bits depend on the shape alone. */
#ifndef LK_CUDA_PRODUCT_CUH
#define LK_CUDA_PRODUCT_CUH

#include "cuda/activation.cuh"
#include "cuda/rotary.cuh"
#include "cuda/wgmma.cuh"

enum product_kind { PRODUCT_GELU, PRODUCT_SLOPE, PRODUCT_ROTATE };

enum {
    PRODUCT_BLOCK = 384,
    PRODUCT_TILE = 128, /* rows and columns */
    PRODUCT_DEPTH = 64, /* of a step of the sum */
    PRODUCT_STAGES = 5,
    PRODUCT_CLUSTER = 2,
    PRODUCT_BAND = 16, /* columns of tiles whose right operands are to stay in the L2 cache */
    PANEL = 64 * 128,  /* bytes of 64 rows of 64 columns */
    PANELS = 4,        /* of a tile */
    SLICES = 8,
    OPERAND_BYTES = 2 * PRODUCT_TILE * PRODUCT_DEPTH,
    STAGE_BYTES = 2 * OPERAND_BYTES,
    PRODUCT_BYTES = 1024 + PRODUCT_STAGES * STAGE_BYTES + 2 * PANELS * PANEL
};

/* Filled in by the launcher. */
typedef struct product_grid {
    int row_tiles, column_tiles, steps; /* row_tiles: of a cluster's tiles */
    int columns;
    bool keep; /* PRODUCT_GELU: pre is wanted */
    float *sums; /* PRODUCT_SLOPE: f32 [tiles of rows, columns], or NULL */
    /* PRODUCT_ROTATE: positions, columns that are rotated, angles [time, D / 2] */
    int time, rotated;
    const float2 *angles;
} product_grid;

typedef struct tile_place {
    int row, column;
} tile_place;

/* Tile t of this block: columns first, within a band, so that few rows are in use at a time. */
static __device__ __forceinline__ tile_place place_of(const product_grid &g, int t)
{
    int band = t / (PRODUCT_BAND * g.row_tiles), first = band * PRODUCT_BAND;
    int width = min(PRODUCT_BAND, g.column_tiles - first), in = t - first * g.row_tiles;
    tile_place p;
    p.row = (in / width * PRODUCT_CLUSTER + cluster_rank()) * PRODUCT_TILE;
    p.column = (first + in % width) * PRODUCT_TILE;
    return p;
}

/* ---- the ring of stages --------------------------------------------------------------------- */

typedef struct stage_ring {
    int slot;
    uint32_t phase;
    __device__ __forceinline__ void skip(int n)
    {
        int to = slot + n;
        phase ^= to / PRODUCT_STAGES & 1;
        slot = to % PRODUCT_STAGES;
    }
    __device__ __forceinline__ void next(void)
    {
        if (++slot == PRODUCT_STAGES) slot = 0, phase ^= 1;
    }
} stage_ring;

/* ---- gelu --------------------------------------------------------------------------------------
 * That of activation.cuh by approximate instructions: what comes out is a half, whose rounding is a
 * thousand times their error, and between the products of tiles each instruction counts. */

static __device__ __forceinline__ float reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* s of activation.cuh: exp(-2u) = 2^(x (P + Q x^2)) */
static __device__ __forceinline__ float gelu_share(float x)
{
    constexpr float P = -2 * LK_LOG2E * LK_GELU_C, Q = P * LK_GELU_A;
    return reciprocal(1.0f + lk_power2(x * fmaf(x * x, Q, P)));
}

static __device__ __forceinline__ float gelu_of(float x) { return x * gelu_share(x); }

static __device__ __forceinline__ float gelu_slope_of(float x)
{
    constexpr float P = 2 * LK_GELU_C, Q = 6 * LK_GELU_C * LK_GELU_A;
    float s = gelu_share(x), y = x * s;
    return fmaf(fmaf(-y, s, y), fmaf(x * x, Q, P), s);
}

/* ---- finishing a tile ----------------------------------------------------------------------- */

/* As lk_matrices(), the other way. */
static __device__ __forceinline__ void matrix_put(uint32_t at, const uint32_t *r)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* What a warpgroup works with when it finishes tiles. `panel`: PANELS buffers of PANEL bytes, for
 * those of the result, with PRODUCT_GELU of every second one and its pre. */
typedef struct finisher {
    const CUtensorMap *out, *pre;
    uint32_t panel;
    uint64_t *arrived; /* [PANELS]: pre is in the buffer */
    int group;
    bool leader, keep, sums;
} finisher;

/* Where panel P of the tile at `p` begins. */
static __device__ __forceinline__ tile_place panel_place(tile_place p, int P)
{
    return {p.row + 64 * (P / 2), p.column + 64 * (P % 2)};
}

/* pre of the tile at `p` into the buffers. By the leader. */
static __device__ __forceinline__ void pre_load(const finisher &f, tile_place p)
{
    stores_read<0>();
    for (int P = 0; P < PANELS; P++) {
        tile_place q = panel_place(p, P);
        barrier_expect(&f.arrived[P], PANEL);
        copy_tile<64, 64>(f.panel + P * PANEL, f.pre, &f.arrived[P], q.column, q.row, 0);
    }
}

/* Slice S of the tile at `p`, its sums rounded to `held`. For PRODUCT_SLOPE: `phase`, that of the
 * buffers, and `column`, what this thread's rows add to its columns of each slice. */
template <typename E, int KIND, int S>
static __device__ __forceinline__ void finish(const finisher &f, const uint32_t *held, tile_place p,
                                              uint32_t phase, float (&column)[SLICES / 2][8])
{
    constexpr int P = S / 2, BUFFERS = KIND == PRODUCT_GELU ? PANELS / 2 : PANELS;
    uint32_t out = f.panel + P % BUFFERS * PANEL, pre = out + BUFFERS * PANEL;
    int lane = threadIdx.x & 31, row = (threadIdx.x >> 5 & 3) * 16 + (lane & 15);
    if (S % 2 == 0) {
        if (KIND == PRODUCT_SLOPE) {
            barrier_wait(&f.arrived[P], phase);
        } else {
            if (f.leader) stores_read<BUFFERS - 1>(); /* the others may be under way */
            __syncwarp();
            group_sync(f.group);
        }
        __syncwarp();
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int piece = 4 * (S % 2) + 2 * j + (lane >> 4);
        uint32_t at = 128 * row + (piece ^ (row & 7)) * 16, r[4];
        uint32_t h[4];
#pragma unroll
        for (int i = 0; i < 4; i++) { /* not to be unpacked earlier: registers are few */
            h[i] = held[4 * j + i];
            asm volatile("" : "+r"(h[i]));
        }
        if (KIND == PRODUCT_SLOPE) lk_matrices(r, out + at);
        if (KIND == PRODUCT_GELU && f.keep) matrix_put(pre + at, h);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 v = lk_pair(h[i], E());
            if (KIND == PRODUCT_ROTATE) {
                r[i] = h[i];
            } else if (KIND == PRODUCT_SLOPE) {
                float2 x = lk_pair(r[i], E());
                v.x *= gelu_slope_of(x.x), v.y *= gelu_slope_of(x.y);
                r[i] = lk_pack<E>(v.x, v.y);
            } else {
                r[i] = lk_pack<E>(gelu_of(v.x), gelu_of(v.y));
            }
        }
        matrix_put(out + at, r);
        if (KIND == PRODUCT_SLOPE && f.sums) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                float2 u = lk_pair(r[i], E()), v = lk_pair(r[i + 1], E());
                float *to = &column[S % 4][4 * j + i];
                to[0] = S < 4 ? u.x + v.x : to[0] + (u.x + v.x);
                to[1] = S < 4 ? u.y + v.y : to[1] + (u.y + v.y);
            }
        }
    }
    if (S % 2) {
        tile_place q = panel_place(p, P);
        shared_publish();
        group_sync(f.group);
        if (f.leader) {
            store_panel(f.out, out, q.column, q.row);
            if (KIND == PRODUCT_GELU && f.keep) store_panel(f.pre, pre, q.column, q.row);
            stores_commit();
        }
        __syncwarp();
    }
}

/* Half of v to the thread `lanes` away, which has the other half of its own for it; what is left
 * are sums in the first half. */
template <int N> static __device__ __forceinline__ void halve(float *v, int lanes)
{
    bool upper = threadIdx.x & lanes;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        float gone = upper ? v[i] : v[i + N / 2], kept = upper ? v[i + N / 2] : v[i];
        v[i] = kept + __shfl_xor_sync(0xFFFFFFFFu, gone, lanes);
    }
}

/* Sums of a tile's columns from those of a thread's 4 rows each, to out [128]: over the 8 lanes
 * with the same columns, then over the warps from the last to the first. `between` [128]. */
static __device__ __forceinline__ void sum_columns(float (&column)[SLICES / 2][8], int group,
                                                   float4 *between, float *out)
{
    float *v = column[0];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3;
    halve<32>(v, 16);
    halve<16>(v, 8);
    halve<8>(v, 4);
    for (int w = 3; w >= 0; w--) {
        if (warp == w) {
            if (w < 3) {
                float4 u = between[lane];
                v[0] += u.x, v[1] += u.y, v[2] += u.z, v[3] += u.w;
            }
            if (w > 0) between[lane] = make_float4(v[0], v[1], v[2], v[3]);
        }
        if (w > 0) group_sync(group);
    }
    if (warp > 0) return;
    float2 *to = (float2 *)out + 16 * (lane >> 3) + 8 * (lane >> 2 & 1) + (lane & 3);
    to[0] = make_float2(v[0], v[1]);
    to[4] = make_float2(v[2], v[3]);
}

/* Rotate the sums of the tile at `p`, 128 / D heads of 128 rows. */
template <int D>
static __device__ __forceinline__ void rotate_tile(float (&acc)[32][4], const product_grid &g,
                                                   tile_place p, int group)
{
    int heads = (g.rotated - p.column) / D;
    int row = p.row + (threadIdx.x >> 5 & 3) * 16 + ((threadIdx.x & 31) >> 2);
    if (heads <= 0) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float4 *u = angles_at<D>(g.angles, (row + 64 * half) % g.time);
        const float4 *v = angles_at<D>(g.angles, (row + 64 * half + 8) % g.time);
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            /* No load goes past this: registers are few. */
            if ((half || j) && j % 4 == 0) group_sync(group);
            float4 upper = u[4 * j], lower = v[4 * j];
#pragma unroll
            for (int h = 0; h < PRODUCT_TILE / D; h++) {
                int n = 16 * half + h * (D / 8) + j;
                if (h < heads) rotate(acc[n], acc[n + D / 16], upper, lower, 1);
            }
        }
    }
}

/* Run the statements with the constant S = 0 .. SLICES - 1. */
#define EACH_SLICE(...)                                                                            \
    do {                                                                                           \
        { constexpr int S = 0; __VA_ARGS__; }                                                      \
        { constexpr int S = 1; __VA_ARGS__; }                                                      \
        { constexpr int S = 2; __VA_ARGS__; }                                                      \
        { constexpr int S = 3; __VA_ARGS__; }                                                      \
        { constexpr int S = 4; __VA_ARGS__; }                                                      \
        { constexpr int S = 5; __VA_ARGS__; }                                                      \
        { constexpr int S = 6; __VA_ARGS__; }                                                      \
        { constexpr int S = 7; __VA_ARGS__; }                                                      \
    } while (0)

/* ---- the kernel ----------------------------------------------------------------------------- */

/* acc (+)= 64 columns of a times 64 rows of b; `a` and `b` are descriptors of a stage's operands.
 * Commits a group. */
template <typename E, int MN>
static __device__ __forceinline__ void step_products(float (&acc)[32][4], uint64_t a, uint64_t b,
                                                     bool add)
{
    float(&upper)[16][4] = *(float(*)[16][4])acc, (&lower)[16][4] = *(float(*)[16][4])(acc + 16);
    products_open();
#pragma unroll
    for (int k = 0; k < PRODUCT_DEPTH / 16; k++) {
        uint64_t from = b + (MN ? step_mn<PRODUCT_TILE>(k) : step_k<64, PRODUCT_TILE>(k));
        uint64_t left = a + step_k<64, PRODUCT_TILE>(k);
        wgmma_shared<E, MN, 128>(upper, left, from, add || k > 0);
        wgmma_shared<E, MN, 128>(lower, left + PANEL / 16, from, add || k > 0);
    }
    products_commit();
}

/* What the copying warp's first thread does: all stages of all tiles of the block, its own rows of
 * a and its share of b for the cluster. */
template <int KIND>
static __device__ __forceinline__ void copy_stages(const CUtensorMap *ma, const CUtensorMap *mb,
                                                   const CUtensorMap *mpre, const product_grid &g,
                                                   uint32_t ring, uint64_t *full, uint64_t *empty)
{
    constexpr int SHARE = PRODUCT_TILE / PRODUCT_CLUSTER;
    constexpr uint16_t ALL = (1 << PRODUCT_CLUSTER) - 1;
    int tiles = g.row_tiles * g.column_tiles, stride = gridDim.x / PRODUCT_CLUSTER;
    int share = cluster_rank() * SHARE;
    stage_ring at = {0, 0};
    for (int t = blockIdx.x / PRODUCT_CLUSTER; t < tiles; t += stride) {
        tile_place p = place_of(g, t);
        if (KIND == PRODUCT_SLOPE)
            for (int P = 0; P < 4; P++) {
                tile_place q = panel_place(p, P);
                fetch_tile(mpre, q.column, q.row);
            }
        for (int k = 0; k < g.steps; k++, at.next()) {
            uint32_t to = ring + at.slot * STAGE_BYTES;
            uint64_t *bar = &full[at.slot];
            barrier_wait(&empty[at.slot], at.phase ^ 1);
            barrier_expect(bar, STAGE_BYTES);
            copy_tile<64, PRODUCT_TILE>(to, ma, bar, PRODUCT_DEPTH * k, p.row, 0);
            to += OPERAND_BYTES + share * 128;
            if (KIND == PRODUCT_SLOPE)
                copy_tile_to<64, 64>(ALL, to, mb, bar, p.column + share, PRODUCT_DEPTH * k);
            else
                copy_tile_to<64, SHARE>(ALL, to, mb, bar, PRODUCT_DEPTH * k, p.column + share);
        }
    }
}

/* Other code than Hopper's has no clusters, nor a body. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define PRODUCT_CLUSTERS __cluster_dims__(PRODUCT_CLUSTER)
#else
#define PRODUCT_CLUSTERS
#endif

/* Maps: a for tiles of 128 x 64, b for a block's share of 64 x 64, out and pre for panels of
 * 64 x 64. bias [columns] may be NULL. D: head size, of PRODUCT_ROTATE. */
template <typename E, int KIND, int D>
static __global__ void __launch_bounds__(PRODUCT_BLOCK, 1) PRODUCT_CLUSTERS
    k_product(const __grid_constant__ CUtensorMap ma, const __grid_constant__ CUtensorMap mb,
              const __grid_constant__ CUtensorMap mout, const __grid_constant__ CUtensorMap mpre,
              const E *bias, product_grid g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int MN = KIND == PRODUCT_SLOPE;
    extern __shared__ unsigned char dynamic[];
    __shared__ uint64_t full[PRODUCT_STAGES], empty[PRODUCT_STAGES], arrived[2][PANELS];
    __shared__ uint32_t bias_words[2][PRODUCT_TILE / 2];
    __shared__ float4 between[2][PRODUCT_TILE / 4];
    /* [stages][a, b], then panels [2][PANELS] */
    uint32_t ring = (lk_shared_address(dynamic) + 1023) & ~1023u;
    if (threadIdx.x == 0) {
        for (int s = 0; s < PRODUCT_STAGES; s++) {
            barrier_init(&full[s], 1);
            barrier_init(&empty[s], 4 * PRODUCT_CLUSTER); /* warps that use a stage */
        }
        for (int s = 0; s < 2 * PANELS; s++) barrier_init(&arrived[s / PANELS][s % PANELS], 1);
        barriers_publish();
    }
    __syncthreads();
    cluster_sync();
    int group = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);

    if (group == 2) {
        registers_give<40>();
        if (threadIdx.x == 256) copy_stages<KIND>(&ma, &mb, &mpre, g, ring, full, empty);
        __syncwarp();
    } else {
        registers_take<232>();
        int lane = threadIdx.x & 31, thread = threadIdx.x & 127;
        int tiles = g.row_tiles * g.column_tiles, stride = gridDim.x / PRODUCT_CLUSTER;
        int begin = blockIdx.x / PRODUCT_CLUSTER + group * stride, each = 2 * stride;
        finisher f = {&mout, &mpre, ring + PRODUCT_STAGES * STAGE_BYTES + group * PANELS * PANEL,
                      arrived[group], group, thread == 0, g.keep, g.sums != NULL};
        float acc[32][4];
        uint32_t held[SLICES][8];
        stage_ring at = {0, 0};
        auto release = [&](int slot) {
            if (lane < PRODUCT_CLUSTER) barrier_arrive_at(&empty[slot], lane);
        };
        if (group == 1) at.skip(g.steps);
        uint32_t phase = 1;
        turns_begin(group);
        /* Group 1 may have no tile where group 0 has its last one. */
        for (int t = begin; t - group * stride < tiles; t += each) {
            turn_take(group);
            if (t >= tiles) {
                turn_pass(group);
                break;
            }
            tile_place here = place_of(g, t);
            int last = at.slot;
            for (int k = 0; k < g.steps; k++) {
                uint32_t stage = ring + at.slot * STAGE_BYTES, right = stage + OPERAND_BYTES;
                barrier_wait(&full[at.slot], at.phase);
                step_products<E, MN>(acc, descriptor_k<64>(stage),
                                     MN ? descriptor_mn<PRODUCT_TILE, 64>(right)
                                        : descriptor_k<64>(right),
                                     k > 0);
                if (KIND == PRODUCT_SLOPE && k == 0) {
                    if (f.leader) pre_load(f, here);
                    __syncwarp();
                    phase ^= 1;
                }
                if (!MN && k == 0) { /* read when the tile is rounded */
                    int c = here.column + 2 * thread;
                    if (thread < PRODUCT_TILE / 2)
                        bias_words[group][thread] =
                            bias && c < g.columns ? *(const uint32_t *)(bias + c) : 0;
                    group_sync(group);
                }
                products_wait<1>();
                if (k > 0) release(last);
                last = at.slot;
                at.next();
            }
            at.skip(g.steps);
            turn_pass(group);
            products_wait<0>();
            pin(acc);
            release(last);
            if (!MN) {
#pragma unroll
                for (int n = 0; n < 32; n++) {
                    float2 b = lk_pair(bias_words[group][4 * (n % 16) + (lane & 3)], E());
                    acc[n][0] += b.x, acc[n][1] += b.y, acc[n][2] += b.x, acc[n][3] += b.y;
                }
            }
            if constexpr (KIND == PRODUCT_ROTATE) rotate_tile<D>(acc, g, here, group);
#pragma unroll
            for (int n = 0; n < 32; n++) {
                uint32_t *h = &held[n / 4][2 * (n % 4)];
                h[0] = lk_pack<E>(acc[n][0], acc[n][1]);
                h[1] = lk_pack<E>(acc[n][2], acc[n][3]);
            }
            float column[SLICES / 2][8];
            EACH_SLICE(finish<E, KIND, S>(f, held[S], here, phase, column));
            if (KIND == PRODUCT_SLOPE && f.sums)
                sum_columns(column, group, between[group],
                            g.sums + (int64_t)(here.row / PRODUCT_TILE) * g.columns + here.column);
        }
        turns_end(group);
        if (f.leader) stores_wait();
        __syncwarp();
    }
    cluster_sync(); /* no block ends while another writes into it */
#endif
}

/* ---- launching ------------------------------------------------------------------------------ */

typedef struct product_call {
    cudaStream_t stream;
    int processors;
    int64_t rows, columns, depth; /* of the result; summed over */
    const void *a, *b, *bias;     /* bias: NULL, or [columns] */
    void *out, *pre;              /* pre: written, or NULL (PRODUCT_GELU); read (PRODUCT_SLOPE) */
    int64_t time, rotated;        /* as in product_grid */
    const float2 *angles;
    float *sums; /* PRODUCT_SLOPE: f32 [product_chunks(rows), columns], or NULL */
} product_call;

/* Rows of sums: those of all tiles that a cluster begins. */
static inline int product_chunks(int64_t rows)
{
    return PRODUCT_CLUSTER * (int)lk_ceil(rows, PRODUCT_CLUSTER * PRODUCT_TILE);
}

template <typename E, int KIND, int D = 0>
static cudaError_t product_launch(const product_call &c)
{
    constexpr int SHARE = PRODUCT_TILE / PRODUCT_CLUSTER;
    bool bf16 = std::is_same<E, __nv_bfloat16>::value;
    CUtensorMap a, b, out, pre;
    LK_CUDA_TRY(tile_map(&a, bf16, c.a, 1, c.rows, c.depth, PRODUCT_TILE, 64));
    if (KIND == PRODUCT_SLOPE) LK_CUDA_TRY(tile_map(&b, bf16, c.b, 1, c.depth, c.columns, 64, 64));
    else LK_CUDA_TRY(tile_map(&b, bf16, c.b, 1, c.columns, c.depth, SHARE, 64));
    LK_CUDA_TRY(tile_map(&out, bf16, c.out, 1, c.rows, c.columns, 64, 64));
    LK_CUDA_TRY(tile_map(&pre, bf16, c.pre ? c.pre : c.out, 1, c.rows, c.columns, 64, 64));
    product_grid g;
    g.row_tiles = (int)lk_ceil(c.rows, PRODUCT_CLUSTER * PRODUCT_TILE);
    g.column_tiles = (int)lk_ceil(c.columns, PRODUCT_TILE);
    g.steps = (int)lk_ceil(c.depth, PRODUCT_DEPTH);
    g.columns = (int)c.columns;
    g.keep = c.pre != NULL;
    g.sums = c.sums;
    g.time = (int)c.time;
    g.rotated = (int)c.rotated;
    g.angles = c.angles;

    auto kernel = k_product<E, KIND, D>;
    int clusters = c.processors / PRODUCT_CLUSTER, resident = clusters;
    LK_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  PRODUCT_BYTES));
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(clusters * PRODUCT_CLUSTER));
    config.blockDim = dim3(PRODUCT_BLOCK);
    config.dynamicSmemBytes = PRODUCT_BYTES;
    config.stream = c.stream;
    LK_CUDA_TRY(cudaOccupancyMaxActiveClusters(&resident, kernel, &config));
    if (clusters > resident) clusters = resident;
    if (clusters > g.row_tiles * g.column_tiles) clusters = g.row_tiles * g.column_tiles;
    config.gridDim = dim3((unsigned)(clusters * PRODUCT_CLUSTER));
    return cudaLaunchKernelEx(&config, kernel, a, b, out, pre, (const E *)c.bias, g);
}

#endif
