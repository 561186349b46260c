/* Matrix products for Hopper with gelu or gelu' on the way out, f16 and bf16, sums in f32.
 *
 *   PRODUCT_GELU   pre = x w^T + b, y = gelu(pre)   x [N,K], w [M,K], b [M], pre and y [N,M]
 *   PRODUCT_SLOPE  dx = (dy w) gelu'(pre)           dy [N,M], w [M,K], pre and dx [N,K]
 *   PRODUCT_PLAIN  pre = x w^T + b, or dy w (bench/ alone)
 *
 * In the kernel the left operand is a [rows, depth] and the result is [rows, columns]; the right
 * operand is K-major for x w^T and MN-major for dy w.
 *
 * A library's kernel computes gelu between the products of one tile and those of the next, and the
 * tensor cores wait. Here a block, which stays on its processor, has two warpgroups of 64 x 256
 * results each and a warp that copies; at the end of a tile a warpgroup rounds its sums to 64
 * registers, goes on with the products of its next tile, and finishes the last one, slice by slice,
 * while these run. Group 1 lags by one step, so that also this rounding is done under products of
 * the other group. Slices of 32 columns lie in registers as stmatrix wants them; two make a panel,
 * which the copy engine stores.
 *
 * So the sums of PRODUCT_SLOPE are rounded before they are multiplied by gelu'.
 *
 * Blocks of a cluster have the same columns, and each brings its share of the right operand to all.
 * What lies beyond the edges is read as zero and not written. A sum has one owner and one order:
 * bits depend on the shape alone. */
#ifndef LK_CUDA_PRODUCT_CUH
#define LK_CUDA_PRODUCT_CUH

#include "cuda/activation.cuh"
#include "cuda/wgmma.cuh"

enum product_kind { PRODUCT_PLAIN, PRODUCT_GELU, PRODUCT_SLOPE };

/* How a kernel works; a kernel's template argument. The bits are the same. */
enum product_way {
    TAKE_TURNS = 1, /* groups on tiles of 128 x 128 of their own; products of one, then the other */
    DEFER = 2,      /* finish a tile under the products of the next */
    LAG = 4,        /* group 1 lags */
    ROUGH = 8,      /* tanh.approx */
    STREAM = 16,    /* what is stored leaves the L2 cache first */
    EARLY = 32,     /* finish a slice before the products of the last step are done */
    WOVEN = 256,    /* a quarter of a slice after each product of a step */
    NO_MATH = 64,   /* wrong: store what gelu is taken of, to see what gelu takes */
    NO_STORE = 128  /* wrong: nothing is stored */
};

enum {
    PRODUCT_BLOCK = 384,
    PRODUCT_ROWS = 128,
    PRODUCT_DEPTH = 64,
    PRODUCT_BAND = 16, /* columns of tiles whose right operands are to stay in the L2 cache */
    PANEL = 64 * 128,  /* bytes of 64 rows of 64 columns */
    SLICES = 8,
    BIAS_WORDS = 128 /* for each group: 256 columns */
};

/* Filled in by the launcher. */
typedef struct product_grid {
    int row_tiles, column_tiles, steps; /* row_tiles: of a cluster's tiles */
    int columns;
    bool keep; /* PRODUCT_GELU: pre is wanted */
} product_grid;

__host__ __device__ constexpr int product_columns(int way) { return way & TAKE_TURNS ? 128 : 256; }

__host__ __device__ constexpr int product_stage_bytes(int way)
{
    return 2 * PRODUCT_DEPTH * (PRODUCT_ROWS + product_columns(way));
}

__host__ __device__ constexpr int product_stages(int way) { return way & TAKE_TURNS ? 6 : 4; }

__host__ __device__ constexpr int product_bytes(int way)
{
    return 1024 + product_stages(way) * product_stage_bytes(way) + 4 * PANEL;
}

typedef struct tile_place {
    int row, column;
} tile_place;

/* Tile t of this block: columns first, within a band, so that few rows are in use at a time. */
static __device__ __forceinline__ tile_place place_of(const product_grid &g, int t, int cluster,
                                                      int columns)
{
    int band = t / (PRODUCT_BAND * g.row_tiles), first = band * PRODUCT_BAND;
    int width = min(PRODUCT_BAND, g.column_tiles - first), in = t - first * g.row_tiles;
    int rank = cluster > 1 ? cluster_rank() : 0;
    tile_place p;
    p.row = (in / width * cluster + rank) * PRODUCT_ROWS;
    p.column = (first + in % width) * columns;
    return p;
}

/* ---- the ring of stages --------------------------------------------------------------------- */

template <int STAGES_> struct stage_ring {
    int slot;
    uint32_t phase;
    __device__ __forceinline__ void skip(int n)
    {
        int to = slot + n;
        phase ^= to / STAGES_ & 1;
        slot = to % STAGES_;
    }
    __device__ __forceinline__ void next(void)
    {
        if (++slot == STAGES_) slot = 0, phase ^= 1;
    }
};

/* ---- gelu ----------------------------------------------------------------------------------- */

static __device__ __forceinline__ float reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ float tanh_rough(float x)
{
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* s of activation.cuh: exp(-2u) = 2^(x (P + Q x^2)) */
static __device__ __forceinline__ float gelu_share(float x)
{
    constexpr float P = -2 * LOG2E * LK_GELU_C, Q = P * LK_GELU_A;
    return reciprocal(1.0f + power2(x * fmaf(x * x, Q, P)));
}

template <bool ROUGHLY> static __device__ __forceinline__ float gelu_of(float x)
{
    if constexpr (ROUGHLY) {
        float h = 0.5f * x;
        return fmaf(h, tanh_rough(x * fmaf(x * x, LK_GELU_C * LK_GELU_A, LK_GELU_C)), h);
    } else {
        return x * gelu_share(x);
    }
}

template <bool ROUGHLY> static __device__ __forceinline__ float gelu_slope_of(float x)
{
    constexpr float P = 2 * LK_GELU_C, Q = 6 * LK_GELU_C * LK_GELU_A;
    float s;
    if constexpr (ROUGHLY)
        s = fmaf(0.5f, tanh_rough(x * fmaf(x * x, LK_GELU_C * LK_GELU_A, LK_GELU_C)), 0.5f);
    else s = gelu_share(x);
    float y = x * s;
    return fmaf(fmaf(-y, s, y), fmaf(x * x, Q, P), s);
}

static __device__ __forceinline__ float2 unpack(uint32_t word, __half)
{
    return __half22float2(*(__half2 *)&word);
}

static __device__ __forceinline__ float2 unpack(uint32_t word, __nv_bfloat16)
{
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u));
}

/* ---- finishing a tile ----------------------------------------------------------------------- */

static __device__ __forceinline__ void matrix_put(uint32_t at, const uint32_t *r)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

static __device__ __forceinline__ void matrix_get(uint32_t *r, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void group_sync(int group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(3 + group) : "memory");
}

/* What a warpgroup works with when it finishes tiles. `panel`: two buffers of PANEL bytes. */
typedef struct finisher {
    const CUtensorMap *out, *pre;
    uint32_t panel;
    uint64_t *arrived; /* [2]: pre is in the buffer */
    int group;
    bool leader, keep;
} finisher;

/* Where panel P of a group's share of the tile at `p` begins. */
template <int WAY>
static __device__ __forceinline__ tile_place panel_place(tile_place p, int P, int group)
{
    tile_place q;
    q.row = p.row + 64 * (WAY & TAKE_TURNS ? P / 2 : group);
    q.column = p.column + 64 * (WAY & TAKE_TURNS ? P % 2 : P);
    return q;
}

/* Panel P of pre for the tile at `p` into its buffer. */
template <int WAY>
static __device__ __forceinline__ void pre_load(const finisher &f, tile_place p, int P)
{
    tile_place q = panel_place<WAY>(p, P, f.group);
    barrier_expect(&f.arrived[P % 2], PANEL);
    copy_tile<64, 64>(f.panel + P % 2 * PANEL, f.pre, &f.arrived[P % 2], q.column, q.row, 0);
}

/* Slice S of the tile at `now`, its sums rounded to `held`, in three parts; `next` is the tile after
 * it, if any. First: the buffer is there. */
template <int KIND, int WAY, int S>
static __device__ __forceinline__ void finish_begin(const finisher &f, tile_place now,
                                                    tile_place next, bool more)
{
    constexpr int P = S / 2;
    if (S % 2) return;
    if (f.leader) {
        stores_read();
        if (KIND == PRODUCT_SLOPE && P < 3) pre_load<WAY>(f, now, P + 1);
        if (KIND == PRODUCT_SLOPE && P == 3 && more) pre_load<WAY>(f, next, 0);
    }
    __syncwarp();
    if (KIND == PRODUCT_SLOPE) barrier_wait(&f.arrived[P % 2], P / 2);
    else group_sync(f.group);
    __syncwarp();
}

/* Then: quarter q of it, two words; `r` carries what goes to shared memory with the next. */
template <typename E, int KIND, int WAY, int S>
static __device__ __forceinline__ void finish_quarter(const finisher &f, const uint32_t *held,
                                                      uint32_t *r, int q, bool have)
{
    constexpr bool ROUGHLY = (WAY & ROUGH) != 0;
    uint32_t out = f.panel + (KIND == PRODUCT_SLOPE ? S / 2 % 2 * PANEL : 0);
    int lane = threadIdx.x & 31, row = (threadIdx.x >> 5 & 3) * 16 + (lane & 15);
    int piece = 4 * (S % 2) + 2 * (q / 2) + (lane >> 4);
    uint32_t at = 128 * row + (piece ^ (row & 7)) * 16;
    if (q % 2 == 0) {
        if (KIND == PRODUCT_SLOPE) matrix_get(r, out + at);
        if (KIND == PRODUCT_GELU && f.keep && have) matrix_put(f.panel + PANEL + at, held + 2 * q);
    }
#pragma unroll
    for (int i = q % 2 * 2; i < q % 2 * 2 + 2; i++) {
        uint32_t h = held[q / 2 * 4 + i];
        asm volatile("" : "+r"(h)); /* not to be unpacked earlier: registers are few */
        float2 v = unpack(h, E());
        if (WAY & NO_MATH) {
            r[i] = h ^ (KIND == PRODUCT_SLOPE ? r[i] : 0);
        } else if (KIND == PRODUCT_SLOPE) {
            float2 x = unpack(r[i], E());
            v.x *= gelu_slope_of<ROUGHLY>(x.x), v.y *= gelu_slope_of<ROUGHLY>(x.y);
            r[i] = pack(v.x, v.y, E());
        } else if (KIND == PRODUCT_GELU) {
            r[i] = pack(gelu_of<ROUGHLY>(v.x), gelu_of<ROUGHLY>(v.y), E());
        } else {
            r[i] = h;
        }
    }
    if (q % 2 && have) matrix_put(out + at, r);
}

/* Last: a full panel is stored. */
template <int KIND, int WAY, int S>
static __device__ __forceinline__ void finish_end(const finisher &f, tile_place now)
{
    constexpr int P = S / 2;
    if (S % 2 == 0) return;
    uint32_t out = f.panel + (KIND == PRODUCT_SLOPE ? P % 2 * PANEL : 0), pre = f.panel + PANEL;
    tile_place q = panel_place<WAY>(now, P, f.group);
    shared_publish();
    group_sync(f.group);
    if (f.leader) {
        if constexpr (WAY & NO_STORE) {
        } else if constexpr (WAY & STREAM) {
            uint64_t policy = evict_first();
            store_panel(f.out, out, q.column, q.row, policy);
            if (KIND == PRODUCT_GELU && f.keep)
                store_panel(f.pre, pre, q.column, q.row, policy);
        } else {
            store_panel(f.out, out, q.column, q.row);
            if (KIND == PRODUCT_GELU && f.keep) store_panel(f.pre, pre, q.column, q.row);
        }
        stores_commit();
    }
    __syncwarp();
}

template <typename E, int KIND, int WAY, int S>
static __device__ __forceinline__ void finish(const finisher &f, const uint32_t *held,
                                              tile_place now, tile_place next, bool more)
{
    uint32_t r[4];
    finish_begin<KIND, WAY, S>(f, now, next, more);
#pragma unroll
    for (int q = 0; q < 4; q++) finish_quarter<E, KIND, WAY, S>(f, held, r, q, true);
    finish_end<KIND, WAY, S>(f, now);
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

/* acc (+)= 64 columns of a times 64 rows of b; `a` and `b` are descriptors of this group's part of
 * a stage. between(k) is done after the k-th products. Commits a group. */
template <typename E, int MN, int WAY, typename B>
static __device__ __forceinline__ void step_products(float (&acc)[32][4], uint64_t a, uint64_t b,
                                                     bool add, B between)
{
    constexpr int COLUMNS = product_columns(WAY);
    products_open();
#pragma unroll
    for (int k = 0; k < PRODUCT_DEPTH / 16; k++) {
        uint64_t from = b + (MN ? step_mn<COLUMNS>(k) : step_k<64, COLUMNS>(k));
        uint64_t left = a + step_k<64, PRODUCT_ROWS>(k);
        if constexpr (WAY & TAKE_TURNS) {
            float(&upper)[16][4] = *(float(*)[16][4])acc, (&lower)[16][4] =
                *(float(*)[16][4])(acc + 16);
            wgmma_shared<E, MN, 128>(upper, left, from, add || k > 0);
            wgmma_shared<E, MN, 128>(lower, left + PANEL / 16, from, add || k > 0);
        } else {
            wgmma_shared<E, MN, 256>(acc, left, from, add || k > 0);
        }
        between(k);
    }
    products_commit();
}

/* Maps: a for tiles of 128 x 64, b for a block's share of 64 x columns or (MN) 64 x 64, out and pre
 * for panels of 64 x 64. bias may be NULL. */
template <typename E, int KIND, int MN, int WAY, int CLUSTER>
static __global__ void __launch_bounds__(PRODUCT_BLOCK, 1) __cluster_dims__(CLUSTER)
    k_product(const __grid_constant__ CUtensorMap ma, const __grid_constant__ CUtensorMap mb,
              const __grid_constant__ CUtensorMap mout, const __grid_constant__ CUtensorMap mpre,
              const E *bias, product_grid g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int STAGES_ = product_stages(WAY), STAGE = product_stage_bytes(WAY);
    constexpr int COLUMNS = product_columns(WAY), LEFT = 2 * PRODUCT_ROWS * PRODUCT_DEPTH;
    constexpr bool TURNS = (WAY & TAKE_TURNS) != 0;
    constexpr int USERS = 4 * CLUSTER * (TURNS ? 1 : 2); /* warps that use a stage */
    extern __shared__ unsigned char dynamic[];
    __shared__ uint64_t full[STAGES_], empty[STAGES_], arrived[2][2];
    __shared__ uint32_t bias_words[2][BIAS_WORDS];
    uint32_t ring = (address(dynamic) + 1023) & ~1023u; /* [STAGES_][a, b], then panels [2][2] */
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES_; s++) {
            barrier_init(&full[s], 1);
            barrier_init(&empty[s], USERS);
        }
        for (int s = 0; s < 4; s++) barrier_init(&arrived[s / 2][s % 2], 1);
        barriers_publish();
    }
    __syncthreads();
    if (CLUSTER > 1) cluster_sync();
    int group = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
    int first = blockIdx.x / CLUSTER, stride = gridDim.x / CLUSTER;
    int tiles = g.row_tiles * g.column_tiles;
    stage_ring<STAGES_> at = {0, 0};

    if (group == 2) { /* the copying warp */
        registers_give<40>();
        if (threadIdx.x == 256) {
            int rank = CLUSTER > 1 ? cluster_rank() : 0;
            for (int t = first; t < tiles; t += stride) {
                tile_place p = place_of(g, t, CLUSTER, COLUMNS);
                if (KIND == PRODUCT_SLOPE)
                    for (int c = 0; c < COLUMNS; c += 64)
                        for (int r = 0; r < PRODUCT_ROWS; r += 64)
                            fetch_tile(&mpre, p.column + c, p.row + r);
                for (int k = 0; k < g.steps; k++, at.next()) {
                    uint32_t to = ring + at.slot * STAGE;
                    uint64_t *bar = &full[at.slot];
                    barrier_wait(&empty[at.slot], at.phase ^ 1);
                    barrier_expect(bar, STAGE);
                    copy_tile<64, PRODUCT_ROWS>(to, &ma, bar, PRODUCT_DEPTH * k, p.row, 0);
                    to += LEFT;
                    if constexpr (MN) {
                        for (int i = 0; i < COLUMNS / (64 * CLUSTER); i++) {
                            int c = 64 * (CLUSTER * i + rank);
                            if constexpr (CLUSTER > 1)
                                copy_tile_to<64, 64>((1 << CLUSTER) - 1, to + 128 * c, &mb, bar,
                                                     p.column + c, PRODUCT_DEPTH * k);
                            else
                                copy_tile<64, 64>(to + 128 * c, &mb, bar, p.column + c,
                                                  PRODUCT_DEPTH * k, 0);
                        }
                    } else if constexpr (CLUSTER > 1) {
                        constexpr int SHARE = COLUMNS / CLUSTER;
                        copy_tile_to<64, SHARE>((1 << CLUSTER) - 1, to + rank * SHARE * 128, &mb,
                                                bar, PRODUCT_DEPTH * k, p.column + rank * SHARE);
                    } else {
                        copy_tile<64, COLUMNS>(to, &mb, bar, PRODUCT_DEPTH * k, p.column, 0);
                    }
                }
            }
        }
        __syncwarp();
    } else {
        registers_take<232>();
        int lane = threadIdx.x & 31, thread = threadIdx.x & 127;
        finisher f = {&mout, &mpre, ring + STAGES_ * STAGE + group * 2 * PANEL, arrived[group],
                      group, thread == 0, g.keep};
        float acc[32][4];
        uint32_t held[SLICES][8];
        tile_place before = {0, 0};
        bool have = false;
        if (WAY & WOVEN)
            for (int i = 0; i < SLICES * 8; i++) held[i / 8][i % 8] = 0;
        auto release = [&](int slot) {
            if (CLUSTER == 1) {
                if (lane == 0) barrier_arrive(&empty[slot]);
            } else {
                if (lane < CLUSTER) barrier_arrive_at(&empty[slot], lane);
            }
        };
        int begin = TURNS ? first + group * stride : first, each = TURNS ? 2 * stride : stride;
        if (TURNS && group == 1) at.skip(g.steps);
        if (KIND == PRODUCT_SLOPE && f.leader && begin < tiles)
            pre_load<WAY>(f, place_of(g, begin, CLUSTER, COLUMNS), 0);
        __syncwarp();
        if (TURNS) turns_begin(group);
        if (!TURNS && (WAY & LAG) && group == 1) asm volatile("bar.sync 5, 256;" ::: "memory");
        /* With turns, group 1 may have no tile where group 0 has its last one. */
        for (int t = begin; TURNS ? t - group * stride < tiles : t < tiles; t += each) {
            if (TURNS) turn_take(group);
            if (TURNS && t >= tiles) {
                turn_pass(group);
                break;
            }
            tile_place here = place_of(g, t, CLUSTER, COLUMNS);
            int last = at.slot;
            auto nothing = [](int) {};
            auto step = [&](int k, auto between) {
                uint32_t stage = ring + at.slot * STAGE;
                barrier_wait(&full[at.slot], at.phase);
                step_products<E, MN, WAY>(
                    acc, descriptor_k<64>(stage + (TURNS ? 0 : group * PANEL)),
                    MN ? descriptor_mn<COLUMNS, 64>(stage + LEFT) : descriptor_k<64>(stage + LEFT),
                    k > 0, between);
                if (!TURNS && (WAY & LAG) && group == 0 && t == begin && k == 0) {
                    products_wait<0>();
                    asm volatile("bar.arrive 5, 256;" ::: "memory");
                }
            };
            auto step_end = [&](int k) {
                products_wait<1>();
                if (k > 0) release(last);
                last = at.slot;
                at.next();
            };
            auto bias_load = [&] { /* while products run; read when the tile is rounded */
                int c = here.column + 2 * thread;
                if (KIND == PRODUCT_SLOPE) return;
                if (thread < COLUMNS / 2)
                    bias_words[group][thread] =
                        bias && c < g.columns ? *(const uint32_t *)(bias + c) : 0;
                group_sync(group);
            };
            if (WAY & WOVEN) {
                EACH_SLICE(
                    uint32_t r[4];
                    auto quarter = [&](int q) {
                        finish_quarter<E, KIND, WAY, S>(f, held[S], r, q, have);
                    };
                    if (have) finish_begin<KIND, WAY, S>(f, before, here, true);
                    if (S < g.steps) {
                        step(S, quarter);
                        step_end(S);
                    } else {
                        for (int q = 0; q < 4; q++) quarter(q);
                    }
                    if (have) finish_end<KIND, WAY, S>(f, before);
                    if (S == 0) bias_load());
                for (int k = SLICES; k < g.steps; k++) step(k, nothing), step_end(k);
            } else if (WAY & DEFER) {
                EACH_SLICE(
                    if (S < g.steps) {
                        step(S, nothing);
                        if (!(WAY & EARLY)) step_end(S);
                    }
                    if (have)
                        finish<E, KIND, WAY, S>(f, held[S], before, here, true);
                    if (S == 0) bias_load();
                    if ((WAY & EARLY) && S < g.steps) step_end(S));
                for (int k = SLICES; k < g.steps; k++) step(k, nothing), step_end(k);
            } else {
                step(0, nothing);
                bias_load();
                step_end(0);
                for (int k = 1; k < g.steps; k++) step(k, nothing), step_end(k);
            }
            if (TURNS) {
                at.skip(g.steps);
                turn_pass(group);
            }
            products_wait<0>();
            pin(acc);
            release(last);
#pragma unroll
            for (int n = 0; n < 32; n++) {
                uint32_t *h = &held[n / 4][2 * (n % 4)];
                if (KIND != PRODUCT_SLOPE) {
                    float2 b = unpack(bias_words[group][4 * (n % (COLUMNS / 8)) + (lane & 3)], E());
                    acc[n][0] += b.x, acc[n][1] += b.y, acc[n][2] += b.x, acc[n][3] += b.y;
                }
                h[0] = pack(acc[n][0], acc[n][1], E());
                h[1] = pack(acc[n][2], acc[n][3], E());
            }
            before = here;
            have = true;
            if (!(WAY & DEFER)) {
                bool more = t + each < tiles;
                tile_place next = before;
                if (KIND == PRODUCT_SLOPE && more) next = place_of(g, t + each, CLUSTER, COLUMNS);
                EACH_SLICE(finish<E, KIND, WAY, S>(f, held[S], before, next, more));
            }
        }
        if (TURNS) turns_end(group);
        if ((WAY & DEFER) && have)
            EACH_SLICE(finish<E, KIND, WAY, S>(f, held[S], before, before, false));
        if (f.leader) stores_wait();
        __syncwarp();
    }
    if (CLUSTER > 1) cluster_sync(); /* no block ends while another writes into it */
#endif
}

/* ---- launching ------------------------------------------------------------------------------ */

typedef struct product_call {
    cudaStream_t stream;
    int processors;
    int64_t rows, columns, depth; /* of the result; summed over */
    const void *a, *b, *bias;     /* bias: NULL, or [columns] */
    void *out, *pre;              /* pre: written, or NULL (PRODUCT_GELU); read (PRODUCT_SLOPE) */
} product_call;

template <typename E, int KIND, int MN, int WAY, int CLUSTER>
static cudaError_t product_launch(const product_call &c)
{
    constexpr int COLUMNS = product_columns(WAY);
    bool bf16 = std::is_same<E, __nv_bfloat16>::value;
    CUtensorMap a, b, out, pre;
    TRY_CUDA(tile_map(&a, bf16, c.a, 1, c.rows, c.depth, PRODUCT_ROWS, 64));
    if (MN) TRY_CUDA(tile_map(&b, bf16, c.b, 1, c.depth, c.columns, 64, 64));
    else TRY_CUDA(tile_map(&b, bf16, c.b, 1, c.columns, c.depth, COLUMNS / CLUSTER, 64));
    TRY_CUDA(tile_map(&out, bf16, c.out, 1, c.rows, c.columns, 64, 64));
    TRY_CUDA(tile_map(&pre, bf16, c.pre ? c.pre : c.out, 1, c.rows, c.columns, 64, 64));
    product_grid g;
    g.row_tiles = (int)lk_ceil(c.rows, CLUSTER * PRODUCT_ROWS);
    g.column_tiles = (int)lk_ceil(c.columns, COLUMNS);
    g.steps = (int)lk_ceil(c.depth, PRODUCT_DEPTH);
    g.columns = (int)c.columns;
    g.keep = c.pre != NULL;

    auto kernel = k_product<E, KIND, MN, WAY, CLUSTER>;
    int bytes = product_bytes(WAY), clusters = c.processors / CLUSTER, resident = clusters;
    TRY_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(c.processors / CLUSTER * CLUSTER));
    config.blockDim = dim3(PRODUCT_BLOCK);
    config.dynamicSmemBytes = (size_t)bytes;
    config.stream = c.stream;
    if (CLUSTER > 1) TRY_CUDA(cudaOccupancyMaxActiveClusters(&resident, kernel, &config));
    if (clusters > resident) clusters = resident;
    if (clusters > g.row_tiles * g.column_tiles) clusters = g.row_tiles * g.column_tiles;
    config.gridDim = dim3((unsigned)(clusters * CLUSTER));
    return cudaLaunchKernelEx(&config, kernel, a, b, out, pre, (const E *)c.bias, g);
}

#endif
