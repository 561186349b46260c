/* batch_norm (training and with running figures), in one or as batch_moments and batch_apply, and
 * its gradient; gate_norm_grad, the gradient behind a gate.
 *
 * Training: moments of the columns, their combination (tiny), then y in a second pass: x is read
 * twice, y written once. Gradient: sums of dz and dz xhat, their combination (tiny), then dx: x and
 * dy are read twice, dx written once; z is computed again from x. The node that makes dy may have
 * made the sums: then x and dy are read once. So it is in gate_norm_grad, whose sums come by image
 * and whose cotangent is made on load.
 *
 * A pass runs over tiles of rows (columns.cuh). Block i of P takes tiles i, i + P, ...: the cut is
 * given by the shape. A block sums about its own first row, so that a large mean cancels nothing;
 * the blocks' means and squares are joined in double (T. Chan et al., "Algorithms for computing the
 * sample variance", 1983). The passes that sum go from the last tile to the first and those that
 * write after them go forward, batch_apply and dx of given sums backward: what was written or read
 * last is what the level 2 cache still holds.
 *
 * x, y, dy, dx X [N,C]; w, b, mean, rstd, dw, db f32 [C]. */
#include "cuda/batch_norm.cuh"
#include "cuda/columns.cuh"

enum {
    THREADS = LK_COLUMN_THREADS,
    RUN = LK_COLUMN_RUN,
    /* Blocks of a pass: all resident at once on 132 multiprocessors with 4 or 2 blocks each. */
    MOMENT_BLOCKS = 528,
    SUM_BLOCKS = 264,
    END_COLUMNS = 16,
    END_LANES = 64
};

/* The cut of x into tiles and blocks: a function of the shape. */
typedef struct cut {
    lk_columns g;
    int64_t rows, tiles;
    int cols, blocks;       /* blocks of a group of columns */
    int64_t per;            /* tiles of a block; the first `longer` blocks have one more */
    int longer, last;       /* last: the block of the last tile, */
    int missing;            /* which is this many rows short */
} cut;

static cut cut_of(const lk_tensor *x, int target)
{
    int v = lk_cols(x) % 8 ? 1 : 8;
    cut k;
    k.rows = lk_rows(x);
    k.cols = (int)lk_cols(x);
    k.g = lk_columns_of(k.cols, v, lk_columns_widest(v));
    k.tiles = lk_ceil(k.rows, k.g.rows);
    int64_t blocks = target / k.g.groups;
    if (blocks > k.tiles) blocks = k.tiles;
    k.blocks = (int)(blocks < 1 ? 1 : blocks);
    k.per = k.tiles / k.blocks;
    k.longer = (int)(k.tiles % k.blocks);
    k.last = (k.longer + k.blocks - 1) % k.blocks;
    k.missing = (int)(k.tiles * k.g.rows - k.rows);
    return k;
}

/* Tiles and rows of block i. */
static __device__ __forceinline__ int64_t tiles_of(const cut &k, int i)
{
    return k.per + (i < k.longer ? 1 : 0);
}
static __device__ __forceinline__ int64_t rows_of(const cut &k, int i)
{
    return tiles_of(k, i) * k.g.rows - (i == k.last ? k.missing : 0);
}

/* The last tile of block i. */
static __device__ __forceinline__ int64_t last_tile(const cut &k, int i)
{
    return i + (tiles_of(k, i) - 1) * k.blocks;
}

/* How many of the RUN rows of a slot in tile t exist. */
static __device__ __forceinline__ int valid_rows(const cut &k, int64_t t, int slot)
{
    int64_t left = k.rows - t * k.g.rows - slot;
    return left >= k.g.rows ? RUN : left <= 0 ? 0 : ((int)left + k.g.slots - 1) / k.g.slots;
}

/* ---- moments -------------------------------------------------------------------------------- */

template <typename E, int V>
static __global__ void __launch_bounds__(THREADS, sizeof(E) == 4 ? 2 : 4)
    k_moments(const E *x /* [N,C] */, float *mean /* [blocks,C] */,
              float *square /* [blocks,C], about the mean */, cut k)
{
    __shared__ __align__(16) float shared[lk_slot_floats<V>()];
    lk_place p = lk_place_of<V>(k.g, blockIdx.x);
    int block = (int)blockIdx.y;
    float first[V], sum[V] = {}, squares[V] = {};
    if (p.active) {
        x += p.column;
        lk_get<V>(first, x + block * (int64_t)k.g.rows * k.cols);
        int64_t step = (int64_t)k.g.slots * k.cols;
        for (int64_t t = last_tile(k, block); t >= 0; t -= k.blocks) {
            lk_held<E, V> held[RUN];
            const E *at = x + (t * k.g.rows + p.slot) * k.cols;
            int valid = valid_rows(k, t, p.slot);
#pragma unroll
            for (int u = 0; u < RUN; u++)
                if (u < valid) held[u].load(at + u * step);
#pragma unroll
            for (int u = 0; u < RUN; u++) {
                if (u >= valid) break;
                float v[V];
                held[u].get(v);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    float d = v[j] - first[j];
                    sum[j] += d;
                    squares[j] = fmaf(d, d, squares[j]);
                }
            }
        }
    }
    lk_slot_sum<V>(sum, shared, k.g, p.slot);
    lk_slot_sum<V>(squares, shared, k.g, p.slot);
    if (p.slot != 0 || !p.active) return;
    float n = (float)rows_of(k, block);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float d = sum[j] / n;
        squares[j] -= sum[j] * d;
        if (squares[j] < 0) squares[j] = 0;
        sum[j] = first[j] + d;
    }
    lk_put<V>(mean + (int64_t)block * k.cols + p.column, sum);
    lk_put<V>(square + (int64_t)block * k.cols + p.column, squares);
}

/* Sum over the lanes threadIdx.y of a column, to lane 0, as a tree. */
static __device__ __forceinline__ double lane_sum(double v, double (*shared)[END_COLUMNS])
{
    __syncthreads();
    shared[threadIdx.y][threadIdx.x] = v;
#pragma unroll
    for (int half = END_LANES / 2; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.y < half)
            shared[threadIdx.y][threadIdx.x] += shared[threadIdx.y + half][threadIdx.x];
    }
    return shared[0][threadIdx.x];
}

/* count [blocks]: rows of each block, or NULL: those of the cut. */
static __global__ void __launch_bounds__(END_COLUMNS *END_LANES)
    k_moments_end(const float *mean /* [blocks,C] */, const float *square /* [blocks,C] */,
                  const float *count, cut k, lk_moments out)
{
    __shared__ double shared[END_LANES][END_COLUMNS];
    int column = (int)(blockIdx.x * END_COLUMNS + threadIdx.x);
    double sum = 0, squares = 0, near = 0;
    if (column < k.cols) {
        near = mean[column]; /* any value near the means; sums are taken about it */
#pragma unroll 4
        for (int i = (int)threadIdx.y; i < k.blocks; i += END_LANES) {
            double n = count ? (double)count[i] : (double)rows_of(k, i);
            double d = mean[(int64_t)i * k.cols + column] - near;
            sum += n * d;
            squares += n * d * d + square[(int64_t)i * k.cols + column];
        }
    }
    sum = lane_sum(sum, shared);
    squares = lane_sum(squares, shared);
    if (threadIdx.y != 0 || column >= k.cols) return;
    double n = (double)k.rows;
    squares -= sum * sum / n;
    if (squares < 0) squares = 0;
    double m = near + sum / n, unbiased = squares / (n > 1 ? n - 1 : 1);
    if (out.mean) out.mean[column] = (float)m;
    if (out.rstd) out.rstd[column] = (float)(1 / sqrt(squares / n + (double)out.eps));
    float *to = out.statistic_mean;
    if (to) to[column] = out.add_mean ? to[column] + (float)m : (float)m;
    to = out.statistic_var;
    if (to) to[column] = out.add_var ? to[column] + (float)unbiased : (float)unbiased;
}

/* ---- y -------------------------------------------------------------------------------------- */

template <typename E, int V, int A>
static __global__ void __launch_bounds__(THREADS, sizeof(E) == 4 || A == LK_ACT_ANY ? 2 : 4)
    k_normalise(const E *x /* [N,C] */, E *y /* [N,C], may be x */, lk_normal from,
                lk_activation kind, bool backward, cut k)
{
    lk_place p = lk_place_of<V>(k.g, blockIdx.x);
    if (!p.active) return;
    lk_channels<V> c;
    lk_channels_get<V>(c, from, p.column);
    int64_t step = (int64_t)k.g.slots * k.cols;
    for (int64_t i = blockIdx.y; i < k.tiles; i += k.blocks) {
        int64_t t = backward ? k.tiles - 1 - i : i;
        lk_held<E, V> held[RUN];
        int64_t at = (t * k.g.rows + p.slot) * k.cols + p.column;
        int valid = valid_rows(k, t, p.slot);
#pragma unroll
        for (int u = 0; u < RUN; u++)
            if (u < valid) held[u].load(x + at + u * step);
#pragma unroll
        for (int u = 0; u < RUN; u++) {
            if (u >= valid) break;
            float v[V];
            held[u].get(v);
            lk_channels_put<V, A>(c, kind, v, y + at + u * step);
        }
    }
}

lk_status lk_cuda_normalise(lk_exec *x, const lk_node *n, const lk_tensor *in,
                            const lk_tensor *out, lk_normal from, lk_activation kind,
                            bool backward)
{
    cut k = cut_of(in, MOMENT_BLOCKS);
    dim3 grid(k.g.groups, k.blocks);
    LK_FLOAT_SWITCH(
        in->dtype, E, LK_VECTOR_SWITCH(k.cols, V, LK_NORMAL_SWITCH(kind, A, {
            k_normalise<E, V, A><<<grid, k.g.threads, 0, lk_cuda_stream_of(x)>>>(
                (const E *)lk_data(x, in), (E *)lk_data(x, out), from, kind, backward, k);
        })));
    return lk_cuda_launched(n);
}

/* ---- measuring ------------------------------------------------------------------------------ */

lk_status lk_cuda_join_moments(lk_exec *x, const lk_node *n, const float *mean,
                               const float *square, const float *count, int chunks,
                               const lk_tensor *t, lk_moments out)
{
    cut k = cut_of(t, MOMENT_BLOCKS);
    k.blocks = chunks;
    k_moments_end<<<lk_blocks(k.cols, END_COLUMNS), dim3(END_COLUMNS, END_LANES), 0,
                    lk_cuda_stream_of(x)>>>(mean, square, count, k, out);
    return lk_cuda_launched(n);
}

size_t lk_cuda_moments_scratch(const lk_tensor *t)
{
    cut k = cut_of(t, MOMENT_BLOCKS);
    return 2 * (size_t)k.blocks * (size_t)k.cols * sizeof(float);
}

lk_status lk_cuda_measure(lk_exec *x, const lk_node *n, const lk_tensor *t, lk_moments out)
{
    cut k = cut_of(t, MOMENT_BLOCKS);
    float *mean = (float *)x->base[LK_REGION_SCRATCH];  /* [blocks,C] */
    float *square = mean + (int64_t)k.blocks * k.cols;  /* [blocks,C] */
    dim3 grid(k.g.groups, k.blocks);
    LK_FLOAT_SWITCH(t->dtype, E, LK_VECTOR_SWITCH(k.cols, V, {
        k_moments<E, V><<<grid, k.g.threads, 0, lk_cuda_stream_of(x)>>>((const E *)lk_data(x, t),
                                                                       mean, square, k);
    }));
    LK_TRY(lk_cuda_launched(n));
    return lk_cuda_join_moments(x, n, mean, square, NULL, k.blocks, t, out);
}

static lk_moments moments_of(lk_exec *x, const lk_node *n, int first)
{
    return lk_cuda_moments_of(x, n, first, n->attr.batch_norm.eps);
}

size_t lk_cuda_batch_moments_scratch(const lk_cuda *, const lk_node *n)
{
    return lk_cuda_moments_scratch(n->in[0]);
}

extern "C" lk_status lk_cuda_batch_moments(lk_exec *x, const lk_node *n)
{
    if (lk_count(n->in[0]) == 0) return LK_OK;
    return lk_cuda_measure(x, n, n->in[0], moments_of(x, n, 0));
}

extern "C" lk_status lk_cuda_batch_apply(lk_exec *x, const lk_node *n)
{
    if (lk_count(n->in[0]) == 0) return LK_OK;
    lk_normal from = lk_cuda_normal_of(x, n->in + 1);
    /* the depthwise convolution has just written x, its end last */
    return lk_cuda_normalise(x, n, n->in[0], n->out[0], from, n->attr.batch_norm.activation, true);
}

size_t lk_cuda_batch_norm_scratch(const lk_cuda *, const lk_node *n)
{
    return n->inputs > 3 ? 0 : lk_cuda_moments_scratch(n->in[0]);
}

extern "C" lk_status lk_cuda_batch_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    bool running = n->inputs > 3;
    if (lk_count(in) == 0) return LK_OK;
    if (!running) LK_TRY(lk_cuda_measure(x, n, in, moments_of(x, n, 1)));
    lk_normal from = {(const float *)lk_data(x, running ? n->in[3] : n->out[1]),
                      (const float *)lk_data(x, running ? n->in[4] : n->out[2]),
                      (const float *)lk_data(x, n->in[1]),
                      (const float *)lk_data(x, n->in[2]),
                      n->attr.batch_norm.eps,
                      running};
    return lk_cuda_normalise(x, n, in, n->out[0], from, n->attr.batch_norm.activation, false);
}

/* ---- gradient: sums ------------------------------------------------------------------------- */

/* Rows of a tile taken at once by the gradient's kernels, which hold two tensors. */
template <typename E, int V> static __host__ __device__ constexpr int run_of()
{
    return V == 8 && sizeof(E) == 4 ? RUN / 2 : RUN;
}

/* db: sums of dz; dw: sums of dz (x - mean), here without rstd. */
template <typename E, int V, int A>
static __global__ void __launch_bounds__(THREADS, 2)
    k_sums(const E *x /* [N,C] */, const E *dy /* [N,C] */, lk_normal from, lk_activation kind,
           float *db /* [blocks,C] */, float *dw /* [blocks,C] */, cut k)
{
    constexpr int STEP = run_of<E, V>();
    __shared__ __align__(16) float shared[lk_slot_floats<V>()];
    lk_place p = lk_place_of<V>(k.g, blockIdx.x);
    int block = (int)blockIdx.y;
    float sum[V] = {}, product[V] = {};
    if (p.active) {
        lk_channels<V> c;
        lk_channels_get<V>(c, from, p.column);
        int64_t step = (int64_t)k.g.slots * k.cols;
        for (int64_t t = last_tile(k, block); t >= 0; t -= k.blocks) {
            int64_t at = (t * k.g.rows + p.slot) * k.cols + p.column;
            int valid = valid_rows(k, t, p.slot);
#pragma unroll
            for (int begin = 0; begin < RUN; begin += STEP) {
                lk_held<E, V> xs[STEP], ds[STEP];
#pragma unroll
                for (int u = 0; u < STEP; u++) {
                    if (begin + u < valid) {
                        xs[u].load(x + at + (begin + u) * step);
                        ds[u].load(dy + at + (begin + u) * step);
                    }
                }
#pragma unroll
                for (int u = 0; u < STEP; u++) {
                    if (begin + u >= valid) break;
                    float v[V], dz[V];
                    xs[u].get(v);
                    ds[u].get(dz);
#pragma unroll
                    for (int j = 0; j < V; j++) {
                        dz[j] *= lk_act_derivative<A>(kind, lk_channel_z(c, j, v[j]));
                        sum[j] += dz[j];
                        product[j] = fmaf(dz[j], v[j] - c.mean[j], product[j]);
                    }
                }
            }
        }
    }
    lk_slot_sum<V>(sum, shared, k.g, p.slot);
    lk_slot_sum<V>(product, shared, k.g, p.slot);
    if (p.slot != 0 || !p.active) return;
    lk_put<V>(db + (int64_t)block * k.cols + p.column, sum);
    lk_put<V>(dw + (int64_t)block * k.cols + p.column, product);
}

/* Where the sums go: the gradients of the parameters, and what k_dx needs of them; or `sums` alone,
 * as they are. */
typedef struct sums_end {
    float *db, *dw;   /* [C] or NULL */
    bool add_b, add_w;
    float *average;   /* [2,C]: the averages of dz and of dz xhat, the second times rstd */
    float *sums;      /* [2,C] or NULL */
} sums_end;

/* b, w: the sums of a column, the second without rstd. */
static __device__ __forceinline__ void end_sums(const sums_end &out, const float *rstd, double rows,
                                                int cols, int column, double b, double w)
{
    double r = rstd[column];
    w *= r;
    out.average[column] = (float)(b / rows);
    out.average[cols + column] = (float)(w * r / rows);
    if (out.db) out.db[column] = out.add_b ? out.db[column] + (float)b : (float)b;
    if (out.dw) out.dw[column] = out.add_w ? out.dw[column] + (float)w : (float)w;
}

static __global__ void __launch_bounds__(END_COLUMNS *END_LANES)
    k_sums_end(const float *partial_b /* [blocks,C] */, const float *partial_w /* [blocks,C] */,
               const float *rstd /* [C] */, cut k, sums_end out)
{
    __shared__ double shared[END_LANES][END_COLUMNS];
    int column = (int)(blockIdx.x * END_COLUMNS + threadIdx.x);
    double b = 0, w = 0;
    if (column < k.cols) {
#pragma unroll 4
        for (int i = (int)threadIdx.y; i < k.blocks; i += END_LANES) {
            b += partial_b[(int64_t)i * k.cols + column];
            w += partial_w[(int64_t)i * k.cols + column];
        }
    }
    b = lane_sum(b, shared);
    w = lane_sum(w, shared);
    if (threadIdx.y != 0 || column >= k.cols) return;
    if (out.sums) {
        out.sums[column] = (float)b;
        out.sums[k.cols + column] = (float)w;
        return;
    }
    end_sums(out, rstd, (double)k.rows, k.cols, column, b, w);
}

/* ---- gradient: dx --------------------------------------------------------------------------- */

template <typename E, int V, int A>
static __global__ void __launch_bounds__(THREADS, 2)
    k_dx(const E *x /* [N,C] */, const E *dy /* [N,C] */, lk_normal from, lk_activation kind,
         const float *average /* [2,C] */, E *dx /* [N,C], may be x or dy */, bool backward, cut k)
{
    constexpr int STEP = run_of<E, V>();
    lk_place p = lk_place_of<V>(k.g, blockIdx.x);
    if (!p.active) return;
    lk_channels<V> c;
    float shift[V], slope[V];
    lk_channels_get<V>(c, from, p.column);
    lk_get<V>(shift, average + p.column);
    lk_get<V>(slope, average + k.cols + p.column);
    int64_t step = (int64_t)k.g.slots * k.cols;
    for (int64_t i = blockIdx.y; i < k.tiles; i += k.blocks) {
        int64_t t = backward ? k.tiles - 1 - i : i;
        int64_t at = (t * k.g.rows + p.slot) * k.cols + p.column;
        int valid = valid_rows(k, t, p.slot);
#pragma unroll
        for (int begin = 0; begin < RUN; begin += STEP) {
            lk_held<E, V> xs[STEP], ds[STEP];
#pragma unroll
            for (int u = 0; u < STEP; u++) {
                if (begin + u < valid) {
                    xs[u].load(x + at + (begin + u) * step);
                    ds[u].load(dy + at + (begin + u) * step);
                }
            }
#pragma unroll
            for (int u = 0; u < STEP; u++) {
                if (begin + u >= valid) break;
                float v[V], dz[V];
                xs[u].get(v);
                ds[u].get(dz);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    dz[j] *= lk_act_derivative<A>(kind, lk_channel_z(c, j, v[j]));
                    dz[j] = c.scale[j] * (dz[j] - shift[j] - (v[j] - c.mean[j]) * slope[j]);
                }
                lk_put<V>(dx + at + (begin + u) * step, dz);
            }
        }
    }
}

/* ---- gradient: launch ----------------------------------------------------------------------- */

/* db, dw [blocks,C] */
static lk_status launch_sums(lk_exec *x, const lk_node *n, const lk_tensor *in,
                             const lk_tensor *dy, lk_normal from, lk_activation kind, cut k,
                             float *db, float *dw)
{
    dim3 grid(k.g.groups, k.blocks);
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(k.cols, V, LK_NORMAL_SWITCH(kind, A, {
        k_sums<E, V, A><<<grid, k.g.threads, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, in), (const E *)lk_data(x, dy), from, kind, db, dw, k);
    })));
    return lk_cuda_launched(n);
}

/* Of k.blocks partial sums [blocks,C]. */
static lk_status launch_sums_end(lk_exec *x, const lk_node *n, const float *db, const float *dw,
                                 lk_normal from, cut k, sums_end out)
{
    k_sums_end<<<lk_blocks(k.cols, END_COLUMNS), dim3(END_COLUMNS, END_LANES), 0,
                 lk_cuda_stream_of(x)>>>(db, dw, from.spread, k, out);
    return lk_cuda_launched(n);
}

size_t lk_cuda_batch_sums_scratch(const lk_tensor *t)
{
    cut k = cut_of(t, SUM_BLOCKS);
    return 2 * (size_t)k.blocks * (size_t)k.cols * sizeof(float);
}

lk_status lk_cuda_batch_sums(lk_exec *x, const lk_node *n, const lk_tensor *in,
                             const lk_tensor *dy, lk_normal from, lk_activation kind, float *sums)
{
    cut k = cut_of(in, SUM_BLOCKS);
    float *db = (float *)x->base[LK_REGION_SCRATCH];
    float *dw = db + (int64_t)k.blocks * k.cols;
    sums_end out = {NULL, NULL, false, false, NULL, sums};
    LK_TRY(launch_sums(x, n, in, dy, from, kind, k, db, dw));
    return launch_sums_end(x, n, db, dw, from, k, out);
}

size_t lk_cuda_batch_norm_grad_scratch(const lk_cuda *, const lk_node *n)
{
    size_t average = 2 * (size_t)lk_cols(n->in[0]) * sizeof(float);
    return average + (n->in[6] ? 0 : lk_cuda_batch_sums_scratch(n->in[0]));
}

extern "C" lk_status lk_cuda_batch_norm_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *dy = n->in[5], *sums = n->in[6];
    lk_activation kind = n->attr.batch_norm.activation;
    cut k = cut_of(in, SUM_BLOCKS), given = k;
    float *average = (float *)x->base[LK_REGION_SCRATCH];    /* [2,C] */
    float *db = average + 2 * (int64_t)k.cols;               /* [blocks,C] */
    float *dw = db + (int64_t)k.blocks * k.cols;             /* [blocks,C] */
    lk_normal from = lk_cuda_normal_of(x, n->in + 1);
    sums_end out = {(float *)lk_data(x, n->out[2]), (float *)lk_data(x, n->out[1]),
                    (n->accumulate >> 2 & 1) != 0, (n->accumulate >> 1 & 1) != 0, average, NULL};
    if (k.rows == 0 || k.cols == 0) return LK_OK;
    if (sums) {
        const float *of = (const float *)lk_data(x, sums); /* [2,C] */
        given.blocks = 1;
        LK_TRY(launch_sums_end(x, n, of, of + k.cols, from, given, out));
    } else {
        LK_TRY(launch_sums(x, n, in, dy, from, kind, k, db, dw));
        LK_TRY(launch_sums_end(x, n, db, dw, from, k, out));
    }
    if (!n->out[0]) return LK_OK;
    dim3 grid(k.g.groups, k.blocks);
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(k.cols, V, LK_NORMAL_SWITCH(kind, A, {
        k_dx<E, V, A><<<grid, k.g.threads, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, in), (const E *)lk_data(x, dy), from, kind, average,
            (E *)lk_data(x, n->out[0]), sums != NULL, k);
    })));
    return lk_cuda_launched(n);
}

/* ---- gradient behind a gate ------------------------------------------------------------------ */

/* The sums of the images joined, the cotangent of an image being dy s + dp / pixels. */
template <typename E>
static __global__ void __launch_bounds__(END_COLUMNS *END_LANES)
    k_image_sums_end(const float *sums /* [B,4,C] */, const E *s /* [B,C] */,
                     const E *dp /* [B,C] */, const float *rstd /* [C] */, int images,
                     lk_image_cut k, sums_end out)
{
    __shared__ double shared[END_LANES][END_COLUMNS];
    int column = (int)(blockIdx.x * END_COLUMNS + threadIdx.x);
    double b = 0, w = 0;
    if (column < k.cols) {
#pragma unroll 4
        for (int i = (int)threadIdx.y; i < images; i += END_LANES) {
            const float *of = sums + (int64_t)i * 4 * k.cols + column;
            double u = lk_float(s[(int64_t)i * k.cols + column]);
            double v = lk_float(dp[(int64_t)i * k.cols + column]) / (float)k.pixels;
            b += u * of[0] + v * of[k.cols];
            w += u * of[2 * k.cols] + v * of[3 * k.cols];
        }
    }
    b = lane_sum(b, shared);
    w = lane_sum(w, shared);
    if (threadIdx.y != 0 || column >= k.cols) return;
    end_sums(out, rstd, (double)images * k.pixels, k.cols, column, b, w);
}

/* What stands for a thread's channels in every image, and what changes with the image. */
template <int V> struct gated {
    lk_channels<V> c;
    float shift[V], slope[V]; /* times scale */
    float s[V], even[V];
};

template <int V, int A>
static __device__ __forceinline__ void gated_dx(const gated<V> &g, lk_activation kind,
                                                const float *x, float *d)
{
#pragma unroll
    for (int j = 0; j < V; j++) {
        float dz = fmaf(d[j], g.s[j], g.even[j]) *
                   lk_act_derivative<A>(kind, lk_channel_z(g.c, j, x[j]));
        d[j] = fmaf(g.c.mean[j] - x[j], g.slope[j], fmaf(dz, g.c.scale[j], -g.shift[j]));
    }
}

template <typename E, int V, int A>
static __global__ void __launch_bounds__(THREADS, 2)
    k_gated_dx(const E *x /* [B,H,W,C] */, const E *dy /* [B,H,W,C] */, const E *s /* [B,C] */,
               const E *dp /* [B,C] */, lk_normal from, lk_activation kind,
               const float *average /* [2,C] */, E *dx /* [B,H,W,C], may be x or dy */,
               lk_image_cut k)
{
    constexpr int STEP = run_of<E, V>();
    lk_place p = lk_place_of<V>(k.g, blockIdx.x);
    if (!p.active) return;
    gated<V> g;
    lk_channels_get<V>(g.c, from, p.column);
    lk_get<V>(g.shift, average + p.column);
    lk_get<V>(g.slope, average + k.cols + p.column);
#pragma unroll
    for (int j = 0; j < V; j++) {
        g.shift[j] *= g.c.scale[j];
        g.slope[j] *= g.c.scale[j];
    }
    float share = 1.0f / (float)k.pixels;
    int64_t step = (int64_t)k.g.slots * k.cols;
    for (int t = blockIdx.y; t < k.tiles; t += k.blocks) {
        lk_image_rows r = lk_image_rows_of(k, t, p);
#pragma unroll
        for (int begin = 0; begin < RUN; begin += STEP) {
            lk_held<E, V> xs[STEP], ds[STEP];
#pragma unroll
            for (int u = 0; u < STEP; u++) {
                if (begin + u < r.valid) {
                    xs[u].load(x + r.at + (begin + u) * step);
                    ds[u].load(dy + r.at + (begin + u) * step);
                }
            }
            if (begin == 0) { /* while the others are under way */
                int64_t row = (int64_t)r.image * k.cols + p.column;
                lk_get<V>(g.s, s + row);
                lk_get<V>(g.even, dp + row);
#pragma unroll
                for (int j = 0; j < V; j++) g.even[j] *= share;
            }
#pragma unroll
            for (int u = 0; u < STEP; u++) {
                if (begin + u >= r.valid) break;
                float v[V], d[V];
                xs[u].get(v);
                ds[u].get(d);
                gated_dx<V, A>(g, kind, v, d);
                lk_put<V>(dx + r.at + (begin + u) * step, d);
            }
        }
    }
}

size_t lk_cuda_gate_norm_grad_scratch(const lk_cuda *, const lk_node *n)
{
    return 2 * (size_t)lk_cols(n->in[0]) * sizeof(float);
}

extern "C" lk_status lk_cuda_gate_norm_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    lk_activation kind = n->attr.batch_norm.activation;
    float *average = (float *)x->base[LK_REGION_SCRATCH]; /* [2,C] */
    lk_normal from = lk_cuda_normal_of(x, n->in + 1);
    sums_end out = {(float *)lk_data(x, n->out[2]), (float *)lk_data(x, n->out[1]),
                    (n->accumulate >> 2 & 1) != 0, (n->accumulate >> 1 & 1) != 0, average, NULL};
    if (lk_count(in) == 0) return LK_OK;
    lk_image_cut k = lk_image_cut_of(in, SUM_BLOCKS);
    LK_FLOAT_SWITCH(in->dtype, E, {
        k_image_sums_end<E><<<lk_blocks(k.cols, END_COLUMNS), dim3(END_COLUMNS, END_LANES), 0,
                              lk_cuda_stream_of(x)>>>(
            (const float *)lk_data(x, n->in[6]), (const E *)lk_data(x, n->in[7]),
            (const E *)lk_data(x, n->in[8]), from.spread, (int)in->dim[0], k, out);
    });
    LK_TRY(lk_cuda_launched(n));
    dim3 grid(k.g.groups, k.blocks);
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(k.cols, V, LK_NORMAL_SWITCH(kind, A, {
        k_gated_dx<E, V, A><<<grid, k.g.threads, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, in), (const E *)lk_data(x, n->in[5]),
            (const E *)lk_data(x, n->in[7]), (const E *)lk_data(x, n->in[8]), from, kind, average,
            (E *)lk_data(x, n->out[0]), k);
    })));
    return lk_cuda_launched(n);
}
