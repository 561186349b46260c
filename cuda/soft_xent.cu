/* soft_xent and soft_xent_grad: mean cross-entropy of the rows of logits X [N,K] against targets
 * f32 [N,K], and the share of rows whose largest logit stands at the label.
 *
 * ROWS rows per block of 256 threads: one row for a wide K, eight (a warp each) for a narrow one.
 * A row is read once: each thread keeps the maximum of its columns with its place, the sum of
 * exponentials and the product with the targets, which are then combined in a fixed order. Loss and
 * hit of every row go to scratch as doubles, and one block sums them. The gradient reads and writes
 * each column by one thread: it may run in place. */
#include "cuda/softmax.cuh"

enum { THREADS = 256, NARROW = 1024 /* columns up to which a warp takes a row */ };

/* Of the columns seen: their softmax, the first column of the largest logit, sum of target times
 * logit. */
typedef struct partial {
    softmax_part row;
    float dot;
    int at;
} partial;

template <typename E> static __device__ __forceinline__ partial combine(partial a, partial b)
{
    partial c;
    c.row = softmax_join<E>(a.row, b.row);
    c.dot = a.dot + b.dot;
    c.at = a.row.top > b.row.top   ? a.at
           : b.row.top > a.row.top ? b.at
                                   : min(a.at, b.at);
    return c;
}

template <typename E> static __device__ __forceinline__ partial combine_lanes(partial a)
{
#pragma unroll
    for (int k = 16; k > 0; k >>= 1) {
        partial b;
        b.row.top = __shfl_xor_sync(0xFFFFFFFFu, a.row.top, k);
        b.row.sum = __shfl_xor_sync(0xFFFFFFFFu, a.row.sum, k);
        b.dot = __shfl_xor_sync(0xFFFFFFFFu, a.dot, k);
        b.at = __shfl_xor_sync(0xFFFFFFFFu, a.at, k);
        a = combine<E>(a, b);
    }
    return a;
}

/* Take V more columns from c on: logits v, targets t. */
template <typename E, int V>
static __device__ __forceinline__ void take(const float *v, const float *t, int c, partial *a)
{
    float top = a->row.top;
#pragma unroll
    for (int k = 0; k < V; k++) {
        a->at = v[k] > top ? c + k : a->at;
        top = fmaxf(top, v[k]);
        a->dot += v[k] * t[k];
    }
    softmax_take<E, V>(v, &a->row);
}

/* logits and targets [rows, cols], labels [rows] -> lse [rows]; loss and hit [rows]. */
template <typename E, int V, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    k_soft_xent(const E *logits, const float *targets, const int32_t *labels, int64_t rows,
                int cols, float *lse, double *loss, double *hit)
{
    constexpr int each = THREADS / ROWS;
    __shared__ partial part[THREADS / 32];
    int lane = threadIdx.x % each;
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / each;
    bool real = row < rows; /* uniform over a warp */
    int64_t start = (real ? row : 0) * cols;
    partial a = {softmax_none<E>(), 0, cols};
#pragma unroll 4
    for (int c = lane * V; c < cols; c += each * V) {
        float v[V], t[V];
        lk_get<V>(v, logits + start + c);
        lk_get<V>(t, targets + start + c);
        take<E, V>(v, t, c, &a);
    }
    a = combine_lanes<E>(a);
    if (ROWS == 1) {
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = a;
        __syncthreads();
        a = part[0];
        for (int k = 1; k < THREADS / 32; k++) a = combine<E>(a, part[k]);
    }
    if (lane == 0 && real) {
        float l = a.row.top + logf(a.row.sum);
        lse[row] = l;
        loss[row] = (double)l - (double)a.dot;
        hit[row] = a.at == labels[row];
    }
}

/* loss [1] and hits [1] (or NULL): means of row_loss and row_hit [rows], by one block. */
static __global__ void __launch_bounds__(1024)
    k_soft_xent_mean(const double *row_loss, const double *row_hit, int64_t rows, float *loss,
                     float *hits)
{
    __shared__ double shared[32];
    double sum = 0, hit = 0;
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) {
        sum += row_loss[i];
        hit += row_hit[i];
    }
    sum = lk_block_sum(sum, shared);
    hit = lk_block_sum(hit, shared);
    if (threadIdx.x == 0) {
        *loss = (float)(sum / (double)rows);
        if (hits) *hits = (float)(hit / (double)rows);
    }
}

/* dlogits [rows, cols] from logits (may be the same), targets [rows, cols] and lse [rows]. */
template <typename E, int V, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    k_soft_xent_grad(const E *logits, const float *targets, const float *lse, const float *dloss,
                     int64_t rows, int cols, E *dlogits)
{
    constexpr int each = THREADS / ROWS;
    int lane = threadIdx.x % each;
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / each;
    if (row >= rows) return;
    int64_t start = row * cols;
    float l = lse[row], scale = *dloss / (float)rows;
    for (int c = lane * V; c < cols; c += each * V) {
        float v[V], t[V];
        lk_get<V>(v, logits + start + c);
        lk_get<V>(t, targets + start + c);
#pragma unroll
        for (int k = 0; k < V; k++) v[k] = (exponential<E>(v[k] - l) - t[k]) * scale;
        lk_put<V>(dlogits + start + c, v);
    }
}

/* Loss and hit of every row. */
size_t lk_cuda_soft_xent_scratch(const lk_cuda *, const lk_node *n)
{
    return 2 * (size_t)lk_rows(n->in[0]) * sizeof(double);
}

extern "C" lk_status lk_cuda_soft_xent(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]);
    int cols = (int)lk_cols(n->in[0]);
    const float *targets = (const float *)lk_data(x, n->in[1]);
    const int32_t *labels = (const int32_t *)lk_data(x, n->in[2]);
    float *lse = (float *)lk_data(x, n->out[1]);
    double *loss = (double *)x->base[LK_REGION_SCRATCH], *hit = loss + rows;
    cudaStream_t s = lk_cuda_stream_of(x);
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, LK_VECTOR_SWITCH(cols, V, {
                        const E *in = (const E *)lk_data(x, n->in[0]);
                        if (cols <= NARROW)
                            k_soft_xent<E, V, 8><<<lk_blocks(rows, 8), THREADS, 0, s>>>(
                                in, targets, labels, rows, cols, lse, loss, hit);
                        else
                            k_soft_xent<E, V, 1><<<lk_blocks(rows, 1), THREADS, 0, s>>>(
                                in, targets, labels, rows, cols, lse, loss, hit);
                    }));
    k_soft_xent_mean<<<1, 1024, 0, s>>>(loss, hit, rows, (float *)lk_data(x, n->out[0]),
                                        (float *)lk_data(x, n->out[2]));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_soft_xent_grad(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]);
    int cols = (int)lk_cols(n->in[0]);
    const float *targets = (const float *)lk_data(x, n->in[1]);
    const float *lse = (const float *)lk_data(x, n->in[2]);
    const float *dloss = (const float *)lk_data(x, n->in[3]);
    cudaStream_t s = lk_cuda_stream_of(x);
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, LK_VECTOR_SWITCH(cols, V, {
                        const E *in = (const E *)lk_data(x, n->in[0]);
                        E *out = (E *)lk_data(x, n->out[0]);
                        if (cols <= NARROW)
                            k_soft_xent_grad<E, V, 8><<<lk_blocks(rows, 8), THREADS, 0, s>>>(
                                in, targets, lse, dloss, rows, cols, out);
                        else
                            k_soft_xent_grad<E, V, 1><<<lk_blocks(rows, 1), THREADS, 0, s>>>(
                                in, targets, lse, dloss, rows, cols, out);
                    }));
    return lk_cuda_launched(n);
}
