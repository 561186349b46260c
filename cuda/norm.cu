/* norm and its gradient, alone and beside a residual.
 *
 * Forward: a warp per row holding the row in registers for C <= 1024, else a block per row that
 * reads it again (from L1), which beside a residual is the sum that it has stored. Backward for
 * C <= 1024, C % 8 == 0: one block per chunk of rows, a warp per row, which it copies to shared
 * memory while it works on the one before; dx leaves at once while each lane sums dw and db of its
 * columns over the rows of its warp; the block adds its warps in order and stores partials
 * [chunks, C], which lk_cuda_sum_chunks adds. Other C: the column partials, and dx with dropout of
 * the branch, by two kernels; the sums of the branch read once more what was stored. Where C is no
 * multiple of 8 the parts of residual_norm and of its gradient run one by one.
 *
 * x, y, dy, dx X [N,C]; w, b, dw, db f32 [C]; mean, rstd f32 [N]. */
#include "cuda/dropout.cuh"
#include "cuda/mma.cuh"

enum { WARPS = 8, THREADS = 32 * WARPS, HELD_COLS = 1024 };

/* Sum over the W threads of a row: a warp, or the block. */
template <int W> static __device__ __forceinline__ float row_sum(float x, float *shared)
{
    if constexpr (W == 32) return lk_warp_sum(x);
    else return lk_block_sum(x, shared);
}

/* What residual_norm does before the norm, with x = sum: sum [N,C] = stream + dropout(branch). */
template <typename E> struct joined {
    const E *stream, *branch; /* [N,C] */
    E *sum;                   /* [N,C]; may be branch */
    const lk_step_state *state;
    mask m;
};

/* sum[i .. i+7] of a joined residual, as stored, to v. */
template <typename E, bool DROP>
static __device__ __forceinline__ void join(const joined<E> &r, int64_t i, float *v)
{
    float a[8];
    lk_get<8>(v, r.branch + i);
    lk_get<8>(a, r.stream + i);
    if constexpr (DROP) drop(v, &r.m, r.state->step, i);
    lk_vec<E, 8> out;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        out.v[k] = lk_store<E>(a[k] + v[k]);
        v[k] = lk_float(out.v[k]);
    }
    *(lk_vec<E, 8> *)(r.sum + i) = out;
}

/* Piece k of a row: V elements at column (k W + lane) V; from registers when the row is held.
 * JOIN: 0 reads x, else residual_norm with (2) or without (1) dropout; then V = 8 and x is sum. */
template <typename E, int V, int W, int JOIN>
static __global__ void __launch_bounds__(THREADS)
k_norm(const E *x /* [N,C] */, const float *w /* [C] */, const float *b /* [C] or NULL */,
       E *y /* [N,C] */, float *mean /* [N] or NULL: RMS norm */, float *rstd /* [N] */,
       int64_t rows, int cols, float eps, joined<E> residual)
{
    constexpr bool HELD = W == 32;
    constexpr int K = HELD ? HELD_COLS / (32 * V) : 1;
    __shared__ float shared[32];
    float held[K][V];
    int lane = threadIdx.x % W;
    int64_t row = (int64_t)blockIdx.x * (THREADS / W) + threadIdx.x / W;
    if (row >= rows) return; /* whole warps; never happens with W = THREADS */
    int pieces = HELD ? K : (cols + W * V - 1) / (W * V);
    x += row * cols;
    y += row * cols;

    float sum = 0;
#pragma unroll
    for (int k = 0; k < pieces; k++) {
        int c = (k * W + lane) * V;
        if (c < cols) {
            float *v = held[HELD ? k : 0];
            if constexpr (JOIN) join<E, JOIN == 2>(residual, row * cols + c, v);
            else lk_get<V>(v, x + c);
#pragma unroll
            for (int j = 0; j < V; j++) sum += mean ? v[j] : v[j] * v[j];
        }
    }
    sum = row_sum<W>(sum, shared) / (float)cols;
    float m = 0, variance = sum;
    if (mean) {
        m = sum;
        float square = 0;
#pragma unroll
        for (int k = 0; k < pieces; k++) {
            int c = (k * W + lane) * V;
            if (c < cols) {
                float *v = held[HELD ? k : 0];
                if constexpr (!HELD) lk_get<V>(v, x + c);
#pragma unroll
                for (int j = 0; j < V; j++) square += (v[j] - m) * (v[j] - m);
            }
        }
        variance = row_sum<W>(square, shared) / (float)cols;
    }
    float r = 1.0f / sqrtf(variance + eps);
#pragma unroll
    for (int k = 0; k < pieces; k++) {
        int c = (k * W + lane) * V;
        if (c < cols) {
            float *v = held[HELD ? k : 0], scale[V], shift[V], out[V];
            if constexpr (!HELD) lk_get<V>(v, x + c);
            lk_get<V>(scale, w + c);
            if (b) lk_get<V>(shift, b + c);
#pragma unroll
            for (int j = 0; j < V; j++) {
                out[j] = (v[j] - m) * r * scale[j];
                if (b) out[j] += shift[j];
            }
            lk_put<V>(y + c, out);
        }
    }
    if (lane == 0) {
        if (mean) mean[row] = m;
        rstd[row] = r;
    }
}

extern "C" lk_status lk_cuda_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    int64_t rows = lk_rows(in);
    int cols = (int)lk_cols(in);
    const float *w = (const float *)lk_data(x, n->in[1]), *b = (const float *)lk_data(x, n->in[2]);
    float *mean = (float *)lk_data(x, n->out[1]), *rstd = (float *)lk_data(x, n->out[2]);
    if (n->attr.norm.kind == LK_RMSNORM) mean = NULL;
    float eps = n->attr.norm.eps;
    cudaStream_t stream = lk_cuda_stream_of(x);
    if (rows == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(cols, V, {
        const E *from = (const E *)lk_data(x, in);
        E *y = (E *)lk_data(x, n->out[0]);
        if (cols <= HELD_COLS)
            k_norm<E, V, 32, 0><<<lk_blocks(rows, WARPS), THREADS, 0, stream>>>(
                from, w, b, y, mean, rstd, rows, cols, eps, joined<E>());
        else
            k_norm<E, V, THREADS, 0><<<(unsigned)rows, THREADS, 0, stream>>>(
                from, w, b, y, mean, rstd, rows, cols, eps, joined<E>());
    }));
    return lk_cuda_launched(n);
}

/* Rows without vectors: the two ops one after the other. */
static lk_status residual_then_norm(lk_exec *x, const lk_node *n)
{
    lk_node residual = *n, norm = *n;
    residual.op = LK_OP_RESIDUAL;
    residual.attr.dropout.p = n->attr.residual_norm.p;
    residual.attr.dropout.site = n->attr.residual_norm.site;
    residual.attr.dropout.group = 1;
    LK_TRY(lk_cuda_residual(x, &residual));
    norm.op = LK_OP_NORM;
    norm.attr.norm.kind = n->attr.residual_norm.kind;
    norm.attr.norm.eps = n->attr.residual_norm.eps;
    norm.in[0] = n->out[0];
    for (int i = 1; i < 3; i++) norm.in[i] = n->in[i + 2];
    for (int i = 0; i < 3; i++) norm.out[i] = n->out[i + 1];
    return lk_cuda_norm(x, &norm);
}

extern "C" lk_status lk_cuda_residual_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *sum = n->out[0];
    int64_t rows = lk_rows(sum);
    int cols = (int)lk_cols(sum);
    if (cols % 8) return residual_then_norm(x, n);
    const float *w = (const float *)lk_data(x, n->in[3]), *b = (const float *)lk_data(x, n->in[4]);
    float *mean = (float *)lk_data(x, n->out[2]), *rstd = (float *)lk_data(x, n->out[3]);
    float p = n->attr.residual_norm.p;
    if (n->attr.residual_norm.kind == LK_RMSNORM) mean = NULL;
    LK_FLOAT_SWITCH(sum->dtype, E, {
        joined<E> r = {(const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
                       (E *)lk_data(x, sum), (const lk_step_state *)lk_data(x, n->in[2]),
                       mask_of(x, p, n->attr.residual_norm.site, 1)};
        bool held = cols <= HELD_COLS;
        auto kernel = held    ? (p > 0 ? k_norm<E, 8, 32, 2> : k_norm<E, 8, 32, 1>)
                      : p > 0 ? k_norm<E, 8, THREADS, 2>
                              : k_norm<E, 8, THREADS, 1>;
        kernel<<<lk_blocks(rows, held ? WARPS : 1), THREADS, 0, lk_cuda_stream_of(x)>>>(
            r.sum, w, b, (E *)lk_data(x, n->out[1]), mean, rstd, rows, cols,
            n->attr.residual_norm.eps, r);
    });
    return lk_cuda_launched(n);
}

/* ---- gradient ----------------------------------------------------------------------------------
 * With h = (x - mean) rstd and g = dy w:
 *   dx = rstd (g - avg(g) - h avg(g h)) + more, without avg(g) for RMS norm;
 *   dw = sum of dy h and db = sum of dy over the rows.
 * Beside a residual also the cotangent of its branch, and the column sums of that. */

/* What residual_norm_grad makes besides: of the branch without dropout only the sums. */
enum { NO_BRANCH, SUMMED, DROPPED };
template <typename E> struct branch {
    E *dx;       /* [N,C], with dropout */
    float *sums; /* [chunks,C] or NULL */
    const lk_step_state *state;
    mask m;
};

/* out[c] = sum over the warps, in order, of sums[warp][c]; then the block may use `sums` again. */
template <int COLS>
static __device__ __forceinline__ void add_warps(const float (*sums)[COLS], float *out, int cols)
{
    __syncthreads();
    for (int c = threadIdx.x; c < cols; c += THREADS) {
        float total = 0;
        for (int i = 0; i < WARPS; i++) total += sums[i][c];
        out[c] = total;
    }
    __syncthreads();
}

/* Whether rows of K pieces are staged in shared memory, which at most 99 KiB a block must hold. */
template <typename E, int K> static constexpr bool staged = sizeof(E) == 2 && K <= 3;
/* [warp][2 rows][x, dy, more][K][lane] of 16 bytes. */
template <typename E, int K> static constexpr int staged_bytes(void)
{
    return staged<E, K> ? WARPS * 2 * 3 * K * 32 * 16 : 0;
}

/* Block i: rows [i per, (i+1) per), warp a taking every eighth. C <= 256 K, C % 8 == 0. */
template <typename E, int K, int BRANCH>
static __global__ void __launch_bounds__(THREADS)
k_norm_grad(const E *x /* [N,C] */, const float *w /* [C] */, const float *mean /* [N] or NULL */,
            const float *rstd /* [N] */, const E *dy /* [N,C] */,
            const E *more /* [N,C] or NULL; may be dx */, E *dx /* [N,C] */,
            float *dw /* [chunks,C] */, float *db /* [chunks,C] or NULL */, int64_t rows,
            int64_t per, int cols, branch<E> also)
{
    enum { V = 8 };
    constexpr bool STAGED = staged<E, K>;
    extern __shared__ __align__(16) unsigned char stages[];
    __shared__ __align__(16) float sums[WARPS][32 * K * V];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int64_t begin = blockIdx.x * per, end = begin + per < rows ? begin + per : rows;
    float sum_w[K][V] = {}, sum_b[K][V] = {};
    float *mine = sums[warp] + lane * V; /* + 32 V k: the sums of the branch while rows pass */
    if constexpr (BRANCH) {
#pragma unroll
        for (int k = 0; k < K; k++) lk_put<V>(mine + 32 * V * k, sum_b[k]);
    }

    const E *source[3] = {x, dy, more};
    lk_vec<E, V> held[3][STAGED ? 1 : K]; /* as stored: half the registers of floats */
    unsigned char *stage = stages + ((warp * 2 * 3 * K) * 32 + lane) * 16;
    float m = 0, r = 0; /* of the row that comes next */
    auto fetch = [&](int64_t row, int slot) {
        m = mean ? mean[row] : 0;
        r = rstd[row];
#pragma unroll
        for (int k = 0; k < K; k++) {
            int c = (k * 32 + lane) * V;
            if (c < cols)
#pragma unroll
                for (int i = 0; i < 3; i++) {
                    if (i == 2 && !more) continue;
                    const E *from = source[i] + row * cols + c;
                    if constexpr (STAGED)
                        lk_copy16(lk_shared_address(stage + ((slot * 3 + i) * K + k) * 512), from,
                                  true);
                    else held[i][k] = *(const lk_vec<E, V> *)from;
                }
        }
        lk_copies_commit();
    };
    auto piece = [&](int i, int k, int slot) {
        if constexpr (STAGED)
            return *(const lk_vec<E, V> *)(stage + ((slot * 3 + i) * K + k) * 512);
        else return held[i][k];
    };

    if (STAGED && begin + warp < end) fetch(begin + warp, 0);
    int slot = 0;
    for (int64_t row = begin + warp; row < end; row += WARPS) {
        if (!STAGED) fetch(row, 0);
        float centre = m, scaled = r, sum_g = 0, sum_gh = 0;
        if constexpr (STAGED) { /* each lane reads what it copied itself */
            if (row + WARPS < end) {
                fetch(row + WARPS, slot ^ 1);
                lk_copies_wait<1>();
            } else {
                lk_copies_wait<0>();
            }
        }
#pragma unroll
        for (int k = 0; k < K; k++) {
            int c = (k * 32 + lane) * V;
            if (c < cols) {
                lk_vec<E, V> xs = piece(0, k, slot), ds = piece(1, k, slot);
                float scale[V];
                lk_get<V>(scale, w + c);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    float d = lk_float(ds.v[j]), h = (lk_float(xs.v[j]) - centre) * scaled;
                    sum_w[k][j] += d * h;
                    sum_b[k][j] += d;
                    sum_g += d * scale[j];
                    sum_gh += d * scale[j] * h;
                }
            }
        }
        sum_g = mean ? lk_warp_sum(sum_g) / (float)cols : 0;
        sum_gh = lk_warp_sum(sum_gh) / (float)cols;
#pragma unroll
        for (int k = 0; k < K; k++) {
            int c = (k * 32 + lane) * V;
            if (c < cols) {
                lk_vec<E, V> xs = piece(0, k, slot), ds = piece(1, k, slot), ms;
                if (more) ms = piece(2, k, slot);
                float scale[V], out[V];
                lk_get<V>(scale, w + c);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    float d = lk_float(ds.v[j]), h = (lk_float(xs.v[j]) - centre) * scaled;
                    out[j] = scaled * (d * scale[j] - sum_g - h * sum_gh);
                    if (more) out[j] += lk_float(ms.v[j]);
                }
                lk_put<V>(dx + row * cols + c, out);
                if constexpr (BRANCH) { /* of dx as stored */
#pragma unroll
                    for (int j = 0; j < V; j++) out[j] = lk_float(lk_store<E>(out[j]));
                    if constexpr (BRANCH == DROPPED) {
                        drop(out, &also.m, also.state->step, row * cols + c);
                        lk_put<V>(also.dx + row * cols + c, out);
                    }
                    float total[V];
                    lk_get<V>(total, mine + 32 * V * k);
#pragma unroll
                    for (int j = 0; j < V; j++) total[j] += lk_float(lk_store<E>(out[j]));
                    lk_put<V>(mine + 32 * V * k, total);
                }
            }
        }
        slot ^= 1;
    }

    int64_t at = (int64_t)blockIdx.x * cols;
    if constexpr (BRANCH)
        if (also.sums) add_warps(sums, also.sums + at, cols);
#pragma unroll
    for (int k = 0; k < K; k++) lk_put<V>(mine + 32 * V * k, sum_w[k]);
    add_warps(sums, dw + at, cols);
    if (!db) return;
#pragma unroll
    for (int k = 0; k < K; k++) lk_put<V>(mine + 32 * V * k, sum_b[k]);
    add_warps(sums, db + at, cols);
}

/* dx, and where DROP (V = 8) that of the branch, a block per row. */
template <typename E, int V, bool DROP>
static __global__ void __launch_bounds__(THREADS)
k_norm_dx(const E *x /* [N,C] */, const float *w /* [C] */, const float *mean /* [N] or NULL */,
          const float *rstd /* [N] */, const E *dy /* [N,C] */,
          const E *more /* [N,C] or NULL; may be dx */, E *dx /* [N,C] */, int cols, branch<E> also)
{
    __shared__ float shared[32];
    int64_t row = blockIdx.x, at = row * cols;
    float m = mean ? mean[row] : 0, r = rstd[row], sum_g = 0, sum_gh = 0;
    for (int c = threadIdx.x * V; c < cols; c += THREADS * V) {
        float xs[V], ds[V], scale[V];
        lk_get<V>(xs, x + at + c);
        lk_get<V>(ds, dy + at + c);
        lk_get<V>(scale, w + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float g = ds[j] * scale[j];
            sum_g += g;
            sum_gh += g * ((xs[j] - m) * r);
        }
    }
    sum_g = lk_block_sum(sum_g, shared) / (float)cols;
    if (!mean) sum_g = 0;
    sum_gh = lk_block_sum(sum_gh, shared) / (float)cols;
    for (int c = threadIdx.x * V; c < cols; c += THREADS * V) {
        float xs[V], ds[V], scale[V], out[V];
        lk_get<V>(xs, x + at + c);
        lk_get<V>(ds, dy + at + c);
        lk_get<V>(scale, w + c);
#pragma unroll
        for (int j = 0; j < V; j++)
            out[j] = r * (ds[j] * scale[j] - sum_g - (xs[j] - m) * r * sum_gh);
        if (more) {
            lk_get<V>(xs, more + at + c);
#pragma unroll
            for (int j = 0; j < V; j++) out[j] += xs[j];
        }
        lk_put<V>(dx + at + c, out);
        if constexpr (DROP) { /* of dx as stored */
#pragma unroll
            for (int j = 0; j < V; j++) out[j] = lk_float(lk_store<E>(out[j]));
            drop(out, &also.m, also.state->step, at + c);
            lk_put<V>(also.dx + at + c, out);
        }
    }
}

/* Column partials of rows [y per, (y+1) per): a thread per V columns. */
template <typename E, int V>
static __global__ void
k_norm_columns(const E *x /* [N,C] */, const float *mean /* [N] or NULL */,
               const float *rstd /* [N] */, const E *dy /* [N,C] */, float *dw /* [chunks,C] */,
               float *db /* [chunks,C] or NULL */, int64_t rows, int64_t per, int cols)
{
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= cols) return;
    int64_t begin = blockIdx.y * per, end = begin + per < rows ? begin + per : rows;
    float sum_w[V] = {}, sum_b[V] = {};
#pragma unroll 4
    for (int64_t row = begin; row < end; row++) {
        float xs[V], ds[V], m = mean ? mean[row] : 0, r = rstd[row];
        lk_get<V>(xs, x + row * cols + c);
        lk_get<V>(ds, dy + row * cols + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum_w[j] += ds[j] * ((xs[j] - m) * r);
            sum_b[j] += ds[j];
        }
    }
    lk_put<V>(dw + (int64_t)blockIdx.y * cols + c, sum_w);
    if (db) lk_put<V>(db + (int64_t)blockIdx.y * cols + c, sum_b);
}

/* dw, db and the sums of the branch: f32 [chunks,C] each. */
size_t lk_cuda_norm_grad_scratch(const lk_node *n)
{
    size_t chunks = (size_t)lk_column_chunks(lk_rows(n->in[0]));
    return 3 * chunks * (size_t)lk_cols(n->in[0]) * sizeof(float);
}

template <typename E, int BRANCH> static auto warps_kernel(int cols)
{
    return cols <= 256   ? k_norm_grad<E, 1, BRANCH>
           : cols <= 512 ? k_norm_grad<E, 2, BRANCH>
           : cols <= 768 ? k_norm_grad<E, 3, BRANCH>
                         : k_norm_grad<E, 4, BRANCH>;
}

template <typename E> static int bytes_to_stage(int cols)
{
    return cols <= 256   ? staged_bytes<E, 1>()
           : cols <= 512 ? staged_bytes<E, 2>()
           : cols <= 768 ? staged_bytes<E, 3>()
                         : staged_bytes<E, 4>();
}

static bool fits_warps(const lk_node *n)
{
    int64_t cols = lk_cols(n->in[0]);
    return cols % 8 == 0 && cols <= HELD_COLS;
}

/* NORM_GRAD, and of RESIDUAL_NORM_GRAD all where warps hold the rows, else all but the sums of the
 * branch, and where C % 8 its dropout. */
static lk_status gradient(lk_exec *x, const lk_node *n, bool centred)
{
    const lk_tensor *in = n->in[0];
    int64_t rows = lk_rows(in);
    int cols = (int)lk_cols(in), chunks = lk_column_chunks(rows);
    int64_t per = lk_ceil(rows, chunks), size = (int64_t)chunks * cols;
    const float *w = (const float *)lk_data(x, n->in[1]);
    const float *mean = centred ? (const float *)lk_data(x, n->in[2]) : NULL;
    const float *rstd = (const float *)lk_data(x, n->in[3]);
    float *dw = (float *)x->base[LK_REGION_SCRATCH], *db = n->out[2] ? dw + size : NULL;
    float *sums = n->outputs > 4 ? dw + 2 * size : NULL;
    lk_chunk_sum sum[LK_CHUNK_SUMS] = {
        {dw, (float *)lk_data(x, n->out[1]), (n->accumulate & 2u) != 0},
        {db, (float *)lk_data(x, n->out[2]), (n->accumulate & 4u) != 0},
        {sums, sums ? (float *)lk_data(x, n->out[4]) : NULL, (n->accumulate & 16u) != 0}};
    cudaStream_t s = lk_cuda_stream_of(x);
    if (rows == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, {
        const E *from = (const E *)lk_data(x, in), *dy = (const E *)lk_data(x, n->in[4]);
        const E *more = n->inputs > 5 ? (const E *)lk_data(x, n->in[5]) : NULL;
        E *dx = (E *)lk_data(x, n->out[0]);
        branch<E> b = {};
        b.sums = sums;
        if (n->outputs > 3 && n->out[3]) {
            b.dx = (E *)lk_data(x, n->out[3]);
            b.state = (const lk_step_state *)lk_data(x, n->in[6]);
            b.m = mask_of(x, n->attr.residual_norm.p, n->attr.residual_norm.site, 1);
        }
        if (fits_warps(n)) {
            auto kernel = b.dx   ? warps_kernel<E, DROPPED>(cols)
                          : sums ? warps_kernel<E, SUMMED>(cols)
                                 : warps_kernel<E, NO_BRANCH>(cols);
            int bytes = bytes_to_stage<E>(cols);
            LK_CUDA_AT(n, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               bytes));
            kernel<<<chunks, THREADS, bytes, s>>>(from, w, mean, rstd, dy, more, dx, dw, db, rows,
                                                  per, cols, b);
        } else {
            LK_VECTOR_SWITCH(cols, V, {
                dim3 grid(lk_blocks(cols, 64 * V), chunks); /* first: dx may lie where dy does */
                k_norm_columns<E, V><<<grid, 64, 0, s>>>(from, mean, rstd, dy, dw, db, rows, per,
                                                         cols);
                auto kernel = V == 8 && b.dx ? k_norm_dx<E, V, V == 8> : k_norm_dx<E, V, false>;
                kernel<<<(unsigned)rows, THREADS, 0, s>>>(from, w, mean, rstd, dy, more, dx, cols,
                                                          b);
            });
        }
    });
    LK_CUDA_AT(n, cudaPeekAtLastError());
    lk_cuda_sum_chunks(s, sum, sums ? 3 : db ? 2 : 1, chunks, cols);
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_norm_grad(lk_exec *x, const lk_node *n)
{
    return gradient(x, n, n->attr.norm.kind != LK_RMSNORM);
}

extern "C" lk_status lk_cuda_residual_norm_grad(lk_exec *x, const lk_node *n)
{
    bool centred = n->attr.residual_norm.kind != LK_RMSNORM;
    if (fits_warps(n)) return gradient(x, n, centred);
    const lk_tensor *last = n->out[3] ? n->out[3] : n->out[0];
    lk_node most = *n, dropout = *n;
    bool vectors = lk_cols(n->in[0]) % 8 == 0;
    most.outputs = vectors ? 4 : 3;
    LK_TRY(gradient(x, &most, centred));
    if (n->out[3] && !vectors) {
        dropout.op = LK_OP_DROPOUT;
        dropout.attr.dropout.p = n->attr.residual_norm.p;
        dropout.attr.dropout.site = n->attr.residual_norm.site;
        dropout.attr.dropout.group = 1;
        dropout.in[0] = n->out[0];
        dropout.in[1] = n->in[6];
        dropout.out[0] = n->out[3];
        LK_TRY(lk_cuda_dropout(x, &dropout));
    }
    if (n->outputs > 4)
        lk_cuda_column_sums(x, last, (float *)x->base[LK_REGION_SCRATCH],
                            (n->accumulate & 16u) != 0, (float *)lk_data(x, n->out[4]));
    return lk_cuda_launched(n);
}
