/* linear and its gradients around the products of matmul.cu: gelu, its derivative, column sums.
 *
 * x [N,K], w [M,K], y and dy [N,M]. Elementwise kernels take 8 elements a thread. Column sums have
 * two stages: partial sums of chunks of rows into scratch, then the sum over the chunks; the cut
 * depends on N alone. */
#include "cuda/activation.cuh"

enum {
    THREADS = 256,
    SUM_LANES = 8,   /* rows summed side by side in a block of column sums */
    CHUNK_LANES = 32 /* and chunks; a warp adds them */
};

/* ---- elementwise ---------------------------------------------------------------------------- */

/* y [count] = gelu(pre [count]); y may be pre */
template <typename E> static __global__ void k_gelu(const E *pre, E *y, int64_t count)
{
    int64_t i = 8 * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 8 <= count) {
        float v[8];
        lk_get<8>(v, pre + i);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = lk_act<LK_GELU>(v[k]);
        lk_put<8>(y + i, v);
    } else {
        for (; i < count; i++) y[i] = lk_store<E>(lk_act<LK_GELU>(lk_float(pre[i])));
    }
}

static void gelu(cudaStream_t stream, lk_dtype type, const void *pre, void *y, int64_t count)
{
    unsigned blocks = lk_blocks(lk_ceil(count, 8), THREADS);
    LK_FLOAT_SWITCH(type, E,
                    k_gelu<E><<<blocks, THREADS, 0, stream>>>((const E *)pre, (E *)y, count));
}

/* dpre [count] = dy [count] * gelu'(pre [count]); dpre may be dy or pre */
template <typename E>
static __global__ void k_gelu_grad(const E *dy, const E *pre, E *dpre, int64_t count)
{
    int64_t i = 8 * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 8 <= count) {
        float g[8], v[8];
        lk_get<8>(g, dy + i);
        lk_get<8>(v, pre + i);
#pragma unroll
        for (int k = 0; k < 8; k++) g[k] *= lk_act_slope<LK_GELU>(v[k]);
        lk_put<8>(dpre + i, g);
    } else {
        for (; i < count; i++)
            dpre[i] = lk_store<E>(lk_float(dy[i]) * lk_act_slope<LK_GELU>(lk_float(pre[i])));
    }
}

static lk_status gelu_grad(lk_exec *x, const lk_node *n, const lk_tensor *dy, const lk_tensor *pre)
{
    int64_t count = lk_count(n->out[0]);
    unsigned blocks = lk_blocks(lk_ceil(count, 8), THREADS);
    LK_FLOAT_SWITCH(n->out[0]->dtype, E,
                    k_gelu_grad<E><<<blocks, THREADS, 0, lk_cuda_stream_of(x)>>>(
                        (const E *)lk_data(x, dy), (const E *)lk_data(x, pre),
                        (E *)lk_data(x, n->out[0]), count));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_gelu_grad(lk_exec *x, const lk_node *n)
{
    return gelu_grad(x, n, n->in[0], n->in[1]);
}

/* ---- column sums ---------------------------------------------------------------------------- */

/* partial f32 [chunks, M]: sums of dy [N,M] over the rows of each chunk. Block (32, SUM_LANES):
 * V columns a thread, lane j takes rows j, j + SUM_LANES, ... of chunk blockIdx.y. */
template <int V, typename E>
static __global__ void k_column_sums(const E *dy, float *partial, int64_t N, int64_t M,
                                     int64_t chunk_rows)
{
    __shared__ float shared[SUM_LANES][32 * V];
    int64_t column = ((int64_t)blockIdx.x * 32 + threadIdx.x) * V;
    int64_t first = blockIdx.y * chunk_rows;
    int64_t end = first + chunk_rows < N ? first + chunk_rows : N;
    float sum[V];
#pragma unroll
    for (int k = 0; k < V; k++) sum[k] = 0;
    if (column < M) { /* V divides M: all V columns exist */
#pragma unroll 4
        for (int64_t r = first + threadIdx.y; r < end; r += SUM_LANES) {
            float v[V];
            lk_get<V>(v, dy + r * M + column);
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] += v[k];
        }
    }
    /* Columns k*32 + threadIdx.x of `shared`, so that neighbours use different banks. */
#pragma unroll
    for (int k = 0; k < V; k++) shared[threadIdx.y][k * 32 + threadIdx.x] = sum[k];
    __syncthreads();
    for (int c = threadIdx.y * 32 + threadIdx.x; c < 32 * V; c += 32 * SUM_LANES) {
        int64_t out = (int64_t)blockIdx.x * 32 * V + c;
        if (out >= M) break;
        int place = (c % V) * 32 + c / V; /* column c belongs to thread c / V, its element c % V */
        float total = 0;
#pragma unroll
        for (int j = 0; j < SUM_LANES; j++) total += shared[j][place];
        partial[(int64_t)blockIdx.y * M + out] = total;
    }
}

struct chunk_sums {
    lk_chunk_sum of[LK_CHUNK_SUMS];
};

/* out [cols] (+)= sum over chunks of partial [chunks, cols], for sum blockIdx.y. Block (32,
 * CHUNK_LANES): lane j takes chunks j, j + CHUNK_LANES, ... of one column. */
static __global__ void k_sum_chunks(chunk_sums sums, int chunks, int64_t cols)
{
    __shared__ float shared[CHUNK_LANES][33]; /* columns in different banks */
    lk_chunk_sum s = sums.of[blockIdx.y];
    int64_t column = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (!s.out) return;
    if (column < cols) {
#pragma unroll 4
        for (int j = threadIdx.y; j < chunks; j += CHUNK_LANES) sum += s.partial[j * cols + column];
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    float total = lk_warp_sum(shared[threadIdx.x][threadIdx.y]);
    column = (int64_t)blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x != 0 || column >= cols) return;
    s.out[column] = s.accumulate ? s.out[column] + total : total;
}

void lk_cuda_sum_chunks(cudaStream_t stream, const lk_chunk_sum *sum, int sums, int chunks,
                        int64_t cols)
{
    chunk_sums all = {};
    for (int i = 0; i < sums; i++) all.of[i] = sum[i];
    dim3 grid(lk_blocks(cols, 32), (unsigned)sums);
    k_sum_chunks<<<grid, dim3(32, CHUNK_LANES), 0, stream>>>(all, chunks, cols);
}

static size_t sums_bytes(const lk_tensor *t)
{
    return (size_t)lk_column_chunks(lk_rows(t)) * (size_t)lk_cols(t) * sizeof(float);
}

void lk_cuda_column_sums(lk_exec *x, const lk_tensor *t, float *partial, bool accumulate,
                         float *out)
{
    int64_t N = lk_rows(t), M = lk_cols(t);
    int chunks = lk_column_chunks(N);
    int64_t chunk_rows = lk_ceil(N, chunks);
    cudaStream_t stream = lk_cuda_stream_of(x);
    LK_FLOAT_SWITCH(t->dtype, E, LK_VECTOR_SWITCH(M, V, {
        dim3 grid(lk_blocks(M, 32 * V), (unsigned)chunks);
        k_column_sums<V, E><<<grid, dim3(32, SUM_LANES), 0, stream>>>(
            (const E *)lk_data(x, t), partial, N, M, chunk_rows);
    }));
    lk_chunk_sum sum = {partial, out, accumulate};
    lk_cuda_sum_chunks(stream, &sum, 1, chunks, M);
}

/* ---- entry points --------------------------------------------------------------------------- */

extern "C" lk_status lk_cuda_linear(lk_exec *x, const lk_node *n)
{
    lk_matmul_done done;
    LK_TRY(lk_cuda_matmul(x, n, &done));
    if (done != LK_MATMUL_BARE) return LK_OK;
    if (lk_rotation_of(n)) return lk_cuda_rotate(x, n, n->out[0]);
    if (n->attr.linear.activation != LK_GELU) return LK_OK;
    const lk_tensor *y = n->out[0], *pre = n->out[1] ? n->out[1] : y;
    gelu(lk_cuda_stream_of(x), y->dtype, lk_data(x, pre), lk_data(x, y), lk_count(y));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_linear_dx(lk_exec *x, const lk_node *n)
{
    lk_matmul_done done;
    LK_TRY(lk_cuda_matmul(x, n, &done));
    if (done == LK_MATMUL_BARE && n->attr.linear.activation == LK_GELU)
        LK_TRY(gelu_grad(x, n, n->out[0], n->in[2]));
    if (done == LK_MATMUL_WHOLE || !n->out[1]) return LK_OK;
    lk_cuda_column_sums(x, n->out[0], (float *)x->base[LK_REGION_SCRATCH],
                        (n->accumulate & 2u) != 0, (float *)lk_data(x, n->out[1]));
    return lk_cuda_launched(n);
}

size_t lk_cuda_linear_dx_scratch(const lk_cuda *, const lk_node *n)
{
    size_t pass = n->out[1] ? sums_bytes(n->out[0]) : 0;
    size_t product = lk_cuda_product_scratch(n);
    return pass > product ? pass : product;
}

size_t lk_cuda_linear_dw_scratch(const lk_cuda *, const lk_node *n)
{
    return n->out[1] ? sums_bytes(n->in[1]) : 0;
}

extern "C" lk_status lk_cuda_linear_dw(lk_exec *x, const lk_node *n)
{
    lk_matmul_done done;
    LK_TRY(lk_cuda_matmul(x, n, &done));
    if (!n->out[1]) return LK_OK;
    lk_cuda_column_sums(x, n->in[1], (float *)x->base[LK_REGION_SCRATCH],
                        (n->accumulate & 2u) != 0, (float *)lk_data(x, n->out[1]));
    return lk_cuda_launched(n);
}
