/* excite and its gradients: the two small products of squeeze-and-excitation and what stands
 * between and behind them. f16 and bf16 on tensor cores when C and S are multiples of 8, else FMA.
 * squeeze_excite and its gradient: the same of an image, whose pixels are summed before.
 *
 * excite and excite_dx are two products of few rows by weights that one block alone would read for
 * 8 us. So a cluster of BLOCKS blocks takes IMAGES images through both: each makes its share of the
 * columns of the first result, writes it, and reads all of it after the cluster's barrier. In a
 * block a warp makes a tile of columns; where the tiles are fewer than the warps, several share one
 * by parts of the summed dimension, which are added in order: sums depend on the shape and on
 * whether there are clusters. A lane asks for the weights of up to BATCH steps at once, before the
 * rows that they meet have come. Two blocks a cluster, because an H200 runs 66 such clusters at
 * once but 30 of four blocks and 15 of eight: of 128 blocks some would begin when others end.
 *
 * squeeze_excite: each block of a cluster first makes the sums of two of its images (squeeze.cuh);
 * then the chain goes on as if it had written rows of a product. On tensor cores and for the norms
 * that networks put there; else, and without clusters, the sums are a kernel of their own, of the
 * same order.
 *
 * excite_dw: a block for SIDE x SIDE of dw1 or dw2, the images' rows of STAGES steps in flight. The
 * bias gradient is one column more, that of a factor 1.
 *
 * p, ds, s, z, dz, dp X [B,C]; h, dh X [B,S]; w1 X [S,C], w2 X [C,S]; b1, db1 f32 [S], b2, db2 f32
 * [C]; dw1 f32 [S,C], dw2 f32 [C,S]. */
#include "cuda/activation.cuh"
#include "cuda/columns.cuh"
#include "cuda/excite_tile.cuh"
#include "cuda/mma.cuh"
#include "cuda/squeeze.cuh"

enum {
    BLOCKS = 2, /* of a cluster; 1 where there are none */
    WARPS = 16,
    THREADS = 32 * WARPS,
    RUN = 4,                /* loads of a thread that fetches rows */
    SPLIT = WARPS / IMAGES, /* warps that fetch a row */
    MEMORY = 40 << 10       /* of a block: rows or sums, the largest of what needs some */
};

/* What a block does: its images and its place in the cluster. */
typedef struct share {
    int64_t batch, first;
    int rank, blocks;
} share;

static __device__ __forceinline__ share share_of(int64_t batch, int blocks)
{
    return {batch, (int64_t)(blockIdx.x / blocks) * IMAGES, (int)(blockIdx.x % blocks), blocks};
}

/* ---- the cluster ---------------------------------------------------------------------------- */

/* This thread has written what others of the cluster read after await_written(). */
static __device__ __forceinline__ void written(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

/* The block's __syncthreads() is to follow, which is all that a cluster of one needs. */
static __device__ __forceinline__ void await_written(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* Have the cluster bring what it reads later to the level 2 cache. */
static __device__ __forceinline__ void ahead(const share &s, const void *p, int64_t bytes)
{
    const int LINE = 128;
    int64_t i = ((int64_t)threadIdx.x * s.blocks + s.rank) * LINE;
    for (; i < bytes; i += (int64_t)THREADS * s.blocks * LINE)
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)p + i));
}

/* ---- where rows come from ------------------------------------------------------------------- */

/* x [B, inner] as it is. Other blocks of the cluster may just have written it. */
template <typename E> struct rows_of {
    const E *x;

    template <int V> struct held {
        lk_held<E, V> x;
    };
    template <int V> __device__ __forceinline__ void load(held<V> &v, int64_t at) const
    {
        v.x.load(x + at);
    }
    template <int V>
    __device__ __forceinline__ void get(float *out, const held<V> &v, int64_t, bool) const
    {
        v.x.get(out);
    }
};

/* dz = ds hard_sigmoid'(z), written too. */
template <typename E> struct slopes_of {
    const E *ds, *z;
    E *dz;

    template <int V> struct held {
        lk_held<E, V> ds, z;
    };
    template <int V> __device__ __forceinline__ void load(held<V> &v, int64_t at) const
    {
        v.ds.load(ds + at);
        v.z.load(z + at);
    }
    template <int V>
    __device__ __forceinline__ void get(float *out, const held<V> &v, int64_t at, bool write) const
    {
        float z[V];
        v.ds.get(out);
        v.z.get(z);
#pragma unroll
        for (int i = 0; i < V; i++)
            out[i] = lk_float(lk_store<E>(out[i] * lk_act_slope<LK_HARD_SIGMOID>(z[i])));
        if (write) lk_put<V>(dz + at, out);
    }
};

/* The block's rows of `source` [B, inner], elements [chunk, chunk + steps * STEP), into memory, a
 * row by SPLIT warps. Of what the source writes, each block of the cluster writes a part if
 * `write`. */
template <class T, class S>
static __device__ __forceinline__ void stage(char *memory, const share &s, const S &source,
                                             int inner, int chunk, int steps, bool write)
{
    constexpr int V = T::V, SIDE_BY_SIDE = 32 * SPLIT, NEXT = SIDE_BY_SIDE * V;
    int row = threadIdx.x / SIDE_BY_SIDE, end = steps * STEP;
    int stop = s.first + row < s.batch ? min(inner - chunk, end) : 0; /* of what exists */
    int64_t at = (s.first + row) * inner + chunk;
    int part = ((inner + s.blocks - 1) / s.blocks + V - 1) / V * V;
    int own = s.rank * part - chunk, own_end = write ? own + part : own; /* what it writes */
    for (int k0 = threadIdx.x % SIDE_BY_SIDE * V; k0 < end; k0 += RUN * NEXT) {
        typename S::template held<V> held[RUN];
#pragma unroll
        for (int u = 0; u < RUN; u++)
            if (k0 + u * NEXT < stop) source.template load<V>(held[u], at + k0 + u * NEXT);
#pragma unroll
        for (int u = 0; u < RUN; u++) {
            int k = k0 + u * NEXT;
            if (k >= end) break;
            float v[V] = {};
            if (k < stop) source.template get<V>(v, held[u], at + k, k >= own && k < own_end);
            T::place(memory, steps, row, k, v);
        }
    }
}

/* ---- where results go: W of them at element `at`, of columns n .. ---------------------------- */

template <typename E> struct to_hidden { /* relu(v + b) */
    const float *b;
    E *h;
    template <int W> __device__ __forceinline__ void take(float *v, int64_t at, int n) const
    {
        float bias[W];
        lk_get<W>(bias, b + n);
#pragma unroll
        for (int i = 0; i < W; i++) v[i] = lk_act<LK_RELU>(v[i] + bias[i]);
        lk_put<W>(h + at, v);
    }
};

template <typename E> struct to_gate { /* z = v + b, s = hard_sigmoid(z) */
    const float *b;
    E *z, *s;
    template <int W> __device__ __forceinline__ void take(float *v, int64_t at, int n) const
    {
        float bias[W];
        lk_get<W>(bias, b + n);
#pragma unroll
        for (int i = 0; i < W; i++) v[i] = lk_float(lk_store<E>(v[i] + bias[i]));
        lk_put<W>(z + at, v);
#pragma unroll
        for (int i = 0; i < W; i++) v[i] = lk_act<LK_HARD_SIGMOID>(v[i]);
        lk_put<W>(s + at, v);
    }
};

template <typename E> struct to_hidden_grad { /* v relu'(h) */
    const E *h;
    E *dh;
    template <int W> __device__ __forceinline__ void take(float *v, int64_t at, int) const
    {
        float hidden[W];
        lk_get<W>(hidden, h + at);
#pragma unroll
        for (int i = 0; i < W; i++) /* rounded before, so that what overflows is told */
            v[i] = lk_float(lk_store<E>(v[i])) * lk_act_slope<LK_RELU>(hidden[i]);
        lk_put<W>(dh + at, v);
    }
};

template <typename E> struct to_rows {
    E *y;
    template <int W> __device__ __forceinline__ void take(float *v, int64_t at, int) const
    {
        lk_put<W>(y + at, v);
    }
};

/* ---- a product of the chain ----------------------------------------------------------------- */

/* source [B, inner] times w, to sink [B, outer], by tiles T: the block's images, its share of the
 * columns. after: the source is what the cluster wrote last. */
template <class T, typename E, class S, class K>
static __device__ __forceinline__ void product(char *memory, const share &s, const S &source,
                                               const E *w, int inner, int outer, const K &sink,
                                               bool after)
{
    int warp = threadIdx.x >> 5;
    int each = ((outer + T::COLUMNS - 1) / T::COLUMNS + s.blocks - 1) / s.blocks; /* tiles */
    int parts = each < WARPS ? WARPS / each : 1, lanes = WARPS / parts; /* of the sum; of tiles */
    int lane = warp / parts, part = warp - lane * parts, width = lanes * T::COLUMNS;
    int begin = s.rank * each * T::COLUMNS, stop = min(begin + each * T::COLUMNS, outer);
    float *sums = (float *)memory; /* [parts, IMAGES, width] */
    T tile;
    for (int round = 0; round * lanes < each; round++) {
        int column0 = begin + round * width, column = column0 + lane * T::COLUMNS;
        bool real = lane < lanes && column < stop;
        tile.clear();
        for (int chunk = 0; chunk < inner; chunk += T::CHUNK) {
            int steps = (min(inner - chunk, T::CHUNK) + STEP - 1) / STEP, from = chunk / STEP;
            int step = from + part * steps / parts, end = from + (part + 1) * steps / parts;
            if (!real) end = step;
            for (int at = step; at == step || at < end; at += T::BATCH) {
                tile.fetch(w, inner, outer, column, at, end);
                if (at == step) {
                    if (after && round == 0 && chunk == 0) await_written();
                    __syncthreads(); /* memory is free */
                    stage<T>(memory, s, source, inner, chunk, steps, round == 0);
                    __syncthreads();
                }
                tile.use(memory, steps, w, inner, outer, column, at, end, from);
            }
        }
        __syncthreads();
        if (lane < lanes) tile.put(sums + part * IMAGES * width + lane * T::COLUMNS, width);
        __syncthreads();
#pragma unroll 1 /* of short code more is in the instruction cache */
        for (int i = threadIdx.x * T::W; i < IMAGES * width; i += THREADS * T::W) {
            int row = i / width, n = column0 + i - row * width;
            if (n >= stop || s.first + row >= s.batch) continue;
            float v[T::W];
            lk_get<T::W>(v, sums + i);
#pragma unroll 4
            for (int p = 1; p < parts; p++) {
                float more[T::W];
                lk_get<T::W>(more, sums + p * IMAGES * width + i);
#pragma unroll
                for (int j = 0; j < T::W; j++) v[j] += more[j];
            }
            sink.template take<T::W>(v, (s.first + row) * outer + n, n);
        }
    }
}

static_assert((int)WARPS == SPLIT * (int)IMAGES, "whole warps");
static_assert((int)THREADS == (int)LK_SQUEEZE_THREADS &&
              (int)IMAGES == BLOCKS * (int)LK_SQUEEZE_IMAGES, "clusters begin with sums");
static_assert(IMAGES * (1024 + STEP) * 2 <= MEMORY && WARPS * IMAGES * 32 * 4 <= MEMORY &&
              512 * IMAGES * 4 <= MEMORY, "room");

/* What a cluster does before its chain: nothing, or the rows that the chain begins with. */
struct nothing {
    static constexpr int BYTES = 0;
};

template <class Q>
static __device__ __forceinline__ void begin(const Q &first, char *memory, const share &s)
{
    static_assert(Q::BYTES <= MEMORY, "room");
    if constexpr (Q::BYTES > 0) {
        first.make(memory, s.first + s.rank * LK_SQUEEZE_IMAGES);
        written();
    }
}

template <typename E, bool MMA, class Q>
static __global__ void __launch_bounds__(THREADS)
    k_excite(Q first, const E *p, const E *w1, const float *b1, const E *w2, const float *b2, E *s,
             E *h, E *z, int64_t batch, int C, int S, int blocks)
{
    __shared__ __align__(16) char memory[MEMORY];
    share own = share_of(batch, blocks);
    ahead(own, b1, S * sizeof(float));
    ahead(own, w2, (int64_t)C * S * sizeof(E));
    ahead(own, b2, C * sizeof(float));
    begin(first, memory, own);
    product<tile_of<E, MMA, false>>(memory, own, rows_of<E>{p}, w1, C, S, to_hidden<E>{b1, h},
                                    Q::BYTES > 0);
    written();
    product<tile_of<E, MMA, false>>(memory, own, rows_of<E>{h}, w2, S, C, to_gate<E>{b2, z, s},
                                    true);
}

/* ds may be dp: it has been read when the second product begins. */
template <typename E, bool MMA, class Q>
static __global__ void __launch_bounds__(THREADS)
    k_excite_dx(Q first, const E *ds, const E *z, const E *h, const E *w1, const E *w2, E *dp,
                E *dz, E *dh, int64_t batch, int C, int S, int blocks)
{
    __shared__ __align__(16) char memory[MEMORY];
    share own = share_of(batch, blocks);
    int64_t images = batch - own.first < IMAGES ? batch - own.first : IMAGES;
    ahead(own, h + own.first * S, images * S * sizeof(E));
    ahead(own, w1, (int64_t)C * S * sizeof(E));
    begin(first, memory, own);
    product<tile_of<E, MMA, true>>(memory, own, slopes_of<E>{ds, z, dz}, w2, C, S,
                                   to_hidden_grad<E>{h, dh}, Q::BYTES > 0);
    written();
    product<tile_of<E, MMA, true>>(memory, own, rows_of<E>{dh}, w1, S, C, to_rows<E>{dp}, true);
}

/* ---- the sums of an image alone -------------------------------------------------------------- */

template <class Q> static __global__ void __launch_bounds__(LK_SQUEEZE_THREADS) k_squeeze(Q sums)
{
    __shared__ __align__(16) char memory[Q::BYTES];
    sums.make(memory, (int64_t)blockIdx.x * LK_SQUEEZE_IMAGES);
}

/* ---- by the weights ------------------------------------------------------------------------- */

enum {
    SIDE = 64, /* of a block's tile */
    DW_THREADS = 256,
    STAGES = 8, /* steps of 32 images whose rows are in flight */
    STAGE_BYTES = 2 * STEP * SIDE * 2,
    PLAIN_STEP = 16
};

/* One of the two products, dw [rows, cols] = dy^T x, and the tile of it that a block makes. */
template <typename E> struct weights {
    const E *dy, *x;
    float *dw, *db;
    int rows, cols, m0, n0;
    bool add, add_bias;
};

/* Grid (ceil(C / SIDE), ceil(S / SIDE), 2); accumulate: a bit for each output. */
template <typename E>
static __device__ __forceinline__ weights<E> weights_of(const E *p, const E *h, const E *dz,
                                                        const E *dh, float *dw1, float *db1,
                                                        float *dw2, float *db2, int C, int S,
                                                        uint32_t accumulate)
{
    int c0 = blockIdx.x * SIDE, s0 = blockIdx.y * SIDE;
    if (blockIdx.z == 0)
        return {dh, p, dw1, db1, S, C, s0, c0, (accumulate & 1) != 0, (accumulate & 2) != 0};
    return {dz, h, dw2, db2, C, S, c0, s0, (accumulate & 4) != 0, (accumulate & 8) != 0};
}

/* Eight warps, each with 16 x 32 of the tile. */
template <typename E>
static __global__ void __launch_bounds__(DW_THREADS)
    k_excite_dw(const E *p, const E *h, const E *dz, const E *dh, float *dw1, float *db1,
                float *dw2, float *db2, int64_t batch, int C, int S, uint32_t accumulate)
{
    extern __shared__ __align__(128) unsigned char ring[]; /* [STAGES][dy, x][STEP, SIDE] */
    weights<E> o = weights_of(p, h, dz, dh, dw1, db1, dw2, db2, C, S, accumulate);
    uint32_t shared = lk_shared_address(ring);
    int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;

    int image = tid / 8, chunk = tid % 8; /* a chunk of dy and one of x a step */
    const E *dy = o.dy + o.m0 + 8 * chunk, *x = o.x + o.n0 + 8 * chunk;
    bool dy_there = o.m0 + 8 * chunk < o.rows, x_there = o.n0 + 8 * chunk < o.cols;
    int steps = (int)((batch + STEP - 1) / STEP);
    auto load = [&](int step) {
        int64_t i = (int64_t)step * STEP + image;
        uint32_t to = shared + step % STAGES * STAGE_BYTES + lk_chunk_at<8>(image, chunk);
        bool a = i < batch && dy_there, b = i < batch && x_there;
        lk_copy16(to, a ? dy + i * o.rows : o.dy, a);
        lk_copy16(to + STAGE_BYTES / 2, b ? x + i * o.cols : o.x, b);
    };
#pragma unroll
    for (int k = 0; k < STAGES - 1; k++) {
        if (k < steps) load(k);
        lk_copies_commit();
    }

    float acc[4][4] = {}, sums[4] = {};
    const uint32_t one = lk_pack<E>(1, 1);
    int wm = warp & 3, wn = warp >> 2, high = lane >> 4, middle = lane >> 3 & 1;
    bool bias = o.n0 == 0 && wn == 0;
    for (int it = 0; it < steps; it++) {
        lk_copies_wait<STAGES - 2>();
        __syncthreads(); /* step `it` is there; nobody reads step it - 1 any more */
        if (it + STAGES - 1 < steps) load(it + STAGES - 1);
        lk_copies_commit();
        uint32_t at = shared + it % STAGES * STAGE_BYTES;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t a[4], b[2][4];
            lk_matrices_turned(
                a, at + lk_chunk_at<8>(16 * half + 8 * high + (lane & 7), 2 * wm + middle));
#pragma unroll
            for (int j = 0; j < 2; j++)
                lk_matrices_turned(
                    b[j], at + STAGE_BYTES / 2 +
                              lk_chunk_at<8>(16 * half + (lane & 15), 4 * wn + 2 * j + high));
#pragma unroll
            for (int j = 0; j < 4; j++)
                lk_mma<E>(acc[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            if (bias) lk_mma<E>(sums, a, one, one);
        }
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        int m = o.m0 + 16 * wm + 8 * r + (lane >> 2);
        if (m >= o.rows) break;
        if (bias && (lane & 3) == 0) o.db[m] = (o.add_bias ? o.db[m] : 0) + sums[2 * r];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int n = o.n0 + 32 * wn + 8 * j + 2 * (lane & 3);
            if (n >= o.cols) break;
            float2 *to = (float2 *)(o.dw + (int64_t)m * o.cols + n);
            float2 v = make_float2(acc[j][2 * r], acc[j][2 * r + 1]);
            if (o.add) v.x += to->x, v.y += to->y;
            *to = v;
        }
    }
}

/* The same by FMA: 4 x 4 of the tile a thread, 16 apart. */
template <typename E>
static __global__ void __launch_bounds__(DW_THREADS)
    k_excite_dw_plain(const E *p, const E *h, const E *dz, const E *dh, float *dw1, float *db1,
                      float *dw2, float *db2, int64_t batch, int C, int S, uint32_t accumulate)
{
    __shared__ float a[PLAIN_STEP][SIDE], b[PLAIN_STEP][SIDE];
    weights<E> o = weights_of(p, h, dz, dh, dw1, db1, dw2, db2, C, S, accumulate);
    int tid = threadIdx.x, tm = tid / 16, tn = tid % 16;
    float acc[4][4] = {}, sums[4] = {};
    for (int64_t i0 = 0; i0 < batch; i0 += PLAIN_STEP) {
        __syncthreads();
#pragma unroll
        for (int u = 0; u < PLAIN_STEP * SIDE / DW_THREADS; u++) {
            int row = (tid + u * DW_THREADS) / SIDE, column = tid % SIDE;
            int64_t i = i0 + row;
            bool dy = i < batch && o.m0 + column < o.rows, x = i < batch && o.n0 + column < o.cols;
            a[row][column] = dy ? lk_float(o.dy[i * o.rows + o.m0 + column]) : 0;
            b[row][column] = x ? lk_float(o.x[i * o.cols + o.n0 + column]) : 0;
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < PLAIN_STEP; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float factor = a[k][tm + 16 * i];
                sums[i] += factor;
#pragma unroll
                for (int j = 0; j < 4; j++) acc[i][j] = fmaf(factor, b[k][tn + 16 * j], acc[i][j]);
            }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int m = o.m0 + tm + 16 * i;
        if (m >= o.rows) break;
        if (o.n0 == 0 && tn == 0) o.db[m] = (o.add_bias ? o.db[m] : 0) + sums[i];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int n = o.n0 + tn + 16 * j;
            if (n >= o.cols) break;
            float *to = o.dw + (int64_t)m * o.cols + n;
            *to = (o.add ? *to : 0) + acc[i][j];
        }
    }
}

/* ---- launchers ------------------------------------------------------------------------------ */

static bool on_tensor_cores(const lk_tensor *p, const lk_tensor *h)
{
    return p->dtype != LK_F32 && lk_cols(p) % 8 == 0 && lk_cols(h) % 8 == 0;
}

/* Whether the code of `kernel` that runs here was compiled with clusters. */
static lk_status has_clusters(const lk_exec *x, const lk_node *n, const void *kernel, bool *yes)
{
    cudaFuncAttributes code;
    LK_CUDA_AT(n, cudaFuncGetAttributes(&code, kernel));
    *yes = code.ptxVersion >= 90 && !((lk_cuda *)x->device)->portable;
    return LK_OK;
}

/* k_excite or k_excite_dx, in clusters if there are; p, h: of the shapes [B,C] and [B,S]. */
template <typename... P, typename... A>
static lk_status chain(lk_exec *x, const lk_node *n, const lk_tensor *p, const lk_tensor *h,
                       void (*kernel)(P...), A... arguments)
{
    bool clusters;
    if (lk_rows(p) == 0) return LK_OK;
    LK_TRY(has_clusters(x, n, (const void *)kernel, &clusters));
    unsigned blocks = clusters ? BLOCKS : 1;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = blocks;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)lk_ceil(lk_rows(p), IMAGES) * blocks);
    config.blockDim = dim3(THREADS);
    config.stream = lk_cuda_stream_of(x);
    config.attrs = &cluster;
    config.numAttrs = clusters;
    LK_CUDA_AT(n, cudaLaunchKernelEx(&config, kernel, arguments..., lk_rows(p), (int)lk_cols(p),
                                     (int)lk_cols(h), (int)blocks));
    return LK_OK;
}

/* Of [squeeze_]excite, from p on. */
template <typename E, bool MMA, class Q>
static lk_status forward_after(lk_exec *x, const lk_node *n, const lk_tensor *p, Q first)
{
    return chain(x, n, p, n->out[1], k_excite<E, MMA, Q>, first, (const E *)lk_data(x, p),
                 (const E *)lk_data(x, n->in[1]), (const float *)lk_data(x, n->in[2]),
                 (const E *)lk_data(x, n->in[3]), (const float *)lk_data(x, n->in[4]),
                 (E *)lk_data(x, n->out[0]), (E *)lk_data(x, n->out[1]),
                 (E *)lk_data(x, n->out[2]));
}

/* Of [squeeze_]excite_dx, from ds on; z: its inputs from z on. */
template <typename E, bool MMA, class Q>
static lk_status backward_after(lk_exec *x, const lk_node *n, const lk_tensor *ds,
                                lk_tensor *const *z, Q first)
{
    return chain(x, n, ds, z[1], k_excite_dx<E, MMA, Q>, first, (const E *)lk_data(x, ds),
                 (const E *)lk_data(x, z[0]), (const E *)lk_data(x, z[1]),
                 (const E *)lk_data(x, z[2]), (const E *)lk_data(x, z[3]),
                 (E *)lk_data(x, n->out[0]), (E *)lk_data(x, n->out[1]),
                 (E *)lk_data(x, n->out[2]));
}

template <typename E, bool MMA> static lk_status forward(lk_exec *x, const lk_node *n)
{
    return forward_after<E, MMA>(x, n, n->in[0], nothing{});
}

template <typename E, bool MMA> static lk_status by_inputs(lk_exec *x, const lk_node *n)
{
    return backward_after<E, MMA>(x, n, n->in[0], n->in + 1, nothing{});
}

/* The rows that squeeze_excite or, if GRAD, its gradient begins with. */
template <bool GRAD> static const lk_tensor *rows_before(const lk_node *n)
{
    return n->out[GRAD ? 0 : 3]; /* ds lies where dp will */
}

template <typename E, bool MMA, bool GRAD, class Q>
static lk_status after(lk_exec *x, const lk_node *n, Q first)
{
    if constexpr (GRAD) return backward_after<E, MMA>(x, n, n->out[0], n->in + 2, first);
    else return forward_after<E, MMA>(x, n, n->out[3], first);
}

template <typename E, bool MMA, bool GRAD, class Q> static const void *chain_after(void)
{
    if constexpr (GRAD) return (const void *)k_excite_dx<E, MMA, Q>;
    else return (const void *)k_excite<E, MMA, Q>;
}

/* One kernel if there are clusters and it is compiled for that, else two. */
template <typename E, bool MMA, int V, int A, bool GRAD>
static lk_status squeeze_by(lk_exec *x, const lk_node *n)
{
    constexpr int GIVEN = GRAD ? 6 : 5; /* inputs before those of the norm */
    typedef lk_squeeze<E, V, A, GRAD> sums;
    const lk_tensor *dy = GRAD ? n->in[1] : NULL;
    sums q = lk_squeeze_of<E, V, A, GRAD>(x, n, dy, A == LK_AS_IS ? NULL : n->in + GIVEN,
                                          rows_before<GRAD>(n), GRAD ? n->out[3] : NULL);
    if constexpr (MMA && (A == LK_AS_IS || A == LK_RELU || A == LK_HARD_SWISH)) {
        bool clusters;
        LK_TRY(has_clusters(x, n, chain_after<E, MMA, GRAD, sums>(), &clusters));
        if (clusters) return after<E, MMA, GRAD>(x, n, q);
    }
    k_squeeze<<<lk_blocks(q.images, LK_SQUEEZE_IMAGES), LK_SQUEEZE_THREADS, 0,
                lk_cuda_stream_of(x)>>>(q);
    LK_TRY(lk_cuda_launched(n));
    return after<E, MMA, GRAD>(x, n, nothing{});
}

template <typename E, bool MMA, int V, bool GRAD>
static lk_status squeeze_of(lk_exec *x, const lk_node *n)
{
    lk_status status = LK_OK;
    if (n->inputs <= (GRAD ? 6 : 5)) return squeeze_by<E, MMA, V, LK_AS_IS, GRAD>(x, n);
    LK_NORMAL_SWITCH(n->attr.batch_norm.activation, A,
                     status = squeeze_by<E, MMA, V, A, GRAD>(x, n));
    return status;
}

template <typename E, bool MMA, bool GRAD>
static lk_status squeeze(lk_exec *x, const lk_node *n)
{
    lk_status status = LK_OK;
    if (lk_count(n->in[0]) == 0) return LK_OK;
    if constexpr (MMA) {
        status = squeeze_of<E, MMA, 8, GRAD>(x, n);
    } else {
        LK_VECTOR_SWITCH(lk_cols(n->in[0]), V, status = (squeeze_of<E, MMA, V, GRAD>(x, n)));
    }
    return status;
}

template <typename E, bool MMA> static lk_status squeeze_forward(lk_exec *x, const lk_node *n)
{
    return squeeze<E, MMA, false>(x, n);
}

template <typename E, bool MMA> static lk_status squeeze_by_inputs(lk_exec *x, const lk_node *n)
{
    return squeeze<E, MMA, true>(x, n);
}

template <typename E, bool MMA> static lk_status by_weights(lk_exec *x, const lk_node *n)
{
    int C = (int)lk_cols(n->in[0]), S = (int)lk_cols(n->in[1]);
    auto kernel = k_excite_dw_plain<E>;
    size_t bytes = 0;
    if constexpr (MMA) {
        kernel = k_excite_dw<E>;
        bytes = STAGES * STAGE_BYTES;
        LK_CUDA_AT(n, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           (int)bytes));
    }
    kernel<<<dim3(lk_blocks(C, SIDE), lk_blocks(S, SIDE), 2), DW_THREADS, bytes,
             lk_cuda_stream_of(x)>>>(
        (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
        (const E *)lk_data(x, n->in[2]), (const E *)lk_data(x, n->in[3]),
        (float *)lk_data(x, n->out[0]), (float *)lk_data(x, n->out[1]),
        (float *)lk_data(x, n->out[2]), (float *)lk_data(x, n->out[3]), lk_rows(n->in[0]), C, S,
        n->accumulate);
    return lk_cuda_launched(n);
}

/* way<E, MMA>(x, n) for the type of n and the shapes of p and h. */
#define BY_TYPE(way, x, n, p, h)                                                                   \
    ((p)->dtype == LK_F32 ? way<float, false>(x, n)                                                \
     : (p)->dtype == LK_F16                                                                        \
         ? (on_tensor_cores(p, h) ? way<__half, true>(x, n) : way<__half, false>(x, n))            \
     : on_tensor_cores(p, h) ? way<__nv_bfloat16, true>(x, n)                                      \
                             : way<__nv_bfloat16, false>(x, n))

extern "C" lk_status lk_cuda_excite(lk_exec *x, const lk_node *n)
{
    return BY_TYPE(forward, x, n, n->in[0], n->out[1]);
}

extern "C" lk_status lk_cuda_excite_dx(lk_exec *x, const lk_node *n)
{
    return BY_TYPE(by_inputs, x, n, n->in[0], n->in[2]);
}

extern "C" lk_status lk_cuda_squeeze_excite(lk_exec *x, const lk_node *n)
{
    return BY_TYPE(squeeze_forward, x, n, n->out[3], n->out[1]);
}

extern "C" lk_status lk_cuda_squeeze_excite_dx(lk_exec *x, const lk_node *n)
{
    return BY_TYPE(squeeze_by_inputs, x, n, n->out[0], n->out[2]);
}

extern "C" lk_status lk_cuda_excite_dw(lk_exec *x, const lk_node *n)
{
    return BY_TYPE(by_weights, x, n, n->in[0], n->in[1]);
}
