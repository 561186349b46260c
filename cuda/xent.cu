/* xent and xent_grad: mean softmax cross-entropy of the rows of logits X [N,V].
 *
 * ROWS rows per block of 256 threads: one row for a wide V, eight (a warp each) for a narrow one.
 * A row is read once: each thread keeps the maximum and the sum of exponentials of its columns,
 * which are then combined in a fixed order. The losses of the rows go to scratch as doubles, and
 * one block sums them. The gradient reads and writes each column by one thread: it may run in
 * place. Columns >= classes are never read into a sum, and get gradient 0. */
#include "cuda/device.cuh"

#include <float.h>

enum { THREADS = 256, NARROW = 1024 /* columns up to which a warp takes a row */ };

/* Full accuracy for f32 logits; halves carry larger errors than __expf has. */
template <typename E> static __device__ __forceinline__ float exponential(float x)
{
    return sizeof(E) == 4 ? expf(x) : __expf(x);
}

/* sum exp(x - top) over the columns seen; top starts finite so that no -inf is subtracted. */
typedef struct partial {
    float top, sum;
} partial;

template <typename E> static __device__ __forceinline__ partial combine(partial a, partial b)
{
    partial c;
    c.top = fmaxf(a.top, b.top);
    c.sum = a.sum * exponential<E>(a.top - c.top) + b.sum * exponential<E>(b.top - c.top);
    return c;
}

/* logits [rows, cols], targets [rows] -> lse [rows], loss [rows]. V: elements per access. */
template <typename E, int V, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    k_xent(const E *logits, const int32_t *targets, int64_t rows, int64_t cols, int64_t classes,
           float *lse, double *loss)
{
    constexpr int each = THREADS / ROWS, warps = each / 32;
    __shared__ partial part[THREADS / 32];
    int lane = threadIdx.x % each;
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / each;
    bool real = row < rows; /* uniform over a warp */
    const E *p = logits + (real ? row : 0) * cols;
    partial a = {-FLT_MAX, 0};
#pragma unroll 4
    for (int64_t c = (int64_t)lane * V; c < classes; c += each * V) {
        float v[V], top = a.top, sum = 0;
        lk_get<V>(v, p + c);
#pragma unroll
        for (int k = 0; k < V; k++) {
            if (V > 1 && c + k >= classes) v[k] = -INFINITY;
            top = fmaxf(top, v[k]);
        }
#pragma unroll
        for (int k = 0; k < V; k++) sum += exponential<E>(v[k] - top);
        a.sum = a.sum * exponential<E>(a.top - top) + sum;
        a.top = top;
    }
#pragma unroll
    for (int k = 16; k > 0; k >>= 1) {
        partial b;
        b.top = __shfl_xor_sync(0xFFFFFFFFu, a.top, k);
        b.sum = __shfl_xor_sync(0xFFFFFFFFu, a.sum, k);
        a = combine<E>(a, b);
    }
    if (warps > 1) {
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = a;
        __syncthreads();
        a = part[0];
        for (int k = 1; k < warps; k++) a = combine<E>(a, part[k]);
    }
    if (lane == 0 && real) {
        float l = a.top + logf(a.sum);
        int32_t target = targets[row];
        bool known = target >= 0 && target < classes;
        lse[row] = l;
        loss[row] = known ? (double)l - (double)lk_float(p[target]) : (double)NAN;
    }
}

/* loss [1] = mean of row [rows], by one block. */
static __global__ void __launch_bounds__(1024)
    k_xent_mean(const double *row, int64_t rows, float *loss)
{
    __shared__ double shared[32];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) sum += row[i];
    sum = lk_block_sum(sum, shared);
    if (threadIdx.x == 0) *loss = (float)(sum / (double)rows);
}

/* dlogits [rows, cols] from logits [rows, cols] (may be the same), targets and lse [rows]. */
template <typename E, int V, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    k_xent_grad(const E *logits, const int32_t *targets, const float *lse, const float *dloss,
                int64_t rows, int64_t cols, int64_t classes, E *dlogits)
{
    constexpr int each = THREADS / ROWS;
    int lane = threadIdx.x % each;
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / each;
    if (row >= rows) return;
    const E *p = logits + row * cols;
    E *out = dlogits + row * cols;
    float l = lse[row], scale = *dloss / (float)rows;
    int32_t target = targets[row];
    for (int64_t c = (int64_t)lane * V; c < cols; c += each * V) {
        float v[V];
        lk_get<V>(v, p + c);
#pragma unroll
        for (int k = 0; k < V; k++) {
            float q = exponential<E>(v[k] - l) - (c + k == target ? 1.0f : 0.0f);
            v[k] = c + k < classes ? q * scale : 0;
        }
        lk_put<V>(out + c, v);
    }
}

size_t lk_cuda_xent_scratch(const lk_node *n) { return (size_t)lk_rows(n->in[0]) * sizeof(double); }

extern "C" lk_status lk_cuda_xent(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]), cols = lk_cols(n->in[0]);
    const int32_t *targets = (const int32_t *)lk_data(x, n->in[1]);
    float *loss = (float *)lk_data(x, n->out[0]), *lse = (float *)lk_data(x, n->out[1]);
    double *row = (double *)x->base[LK_REGION_SCRATCH];
    cudaStream_t s = lk_cuda_stream_of(x);
    int64_t classes = n->attr.xent.classes;
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, LK_VECTOR_SWITCH(cols, V, {
                        const E *in = (const E *)lk_data(x, n->in[0]);
                        if (cols <= NARROW)
                            k_xent<E, V, 8><<<lk_blocks(rows, 8), THREADS, 0, s>>>(
                                in, targets, rows, cols, classes, lse, row);
                        else
                            k_xent<E, V, 1><<<lk_blocks(rows, 1), THREADS, 0, s>>>(
                                in, targets, rows, cols, classes, lse, row);
                    }));
    k_xent_mean<<<1, 1024, 0, s>>>(row, rows, loss);
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_xent_grad(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]), cols = lk_cols(n->in[0]);
    const int32_t *targets = (const int32_t *)lk_data(x, n->in[1]);
    const float *lse = (const float *)lk_data(x, n->in[2]);
    const float *dloss = (const float *)lk_data(x, n->in[3]);
    cudaStream_t s = lk_cuda_stream_of(x);
    int64_t classes = n->attr.xent.classes;
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, LK_VECTOR_SWITCH(cols, V, {
                        const E *in = (const E *)lk_data(x, n->in[0]);
                        E *out = (E *)lk_data(x, n->out[0]);
                        if (cols <= NARROW)
                            k_xent_grad<E, V, 8><<<lk_blocks(rows, 8), THREADS, 0, s>>>(
                                in, targets, lse, dloss, rows, cols, classes, out);
                        else
                            k_xent_grad<E, V, 1><<<lk_blocks(rows, 1), THREADS, 0, s>>>(
                                in, targets, lse, dloss, rows, cols, classes, out);
                    }));
    return lk_cuda_launched(n);
}
