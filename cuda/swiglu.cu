/* swiglu and its gradient: y = silu(a) b with a = x[:, 0:F], b = x[:, F:2F].
 *
 * A block takes one part of one row, a thread V elements of it.
 * x, dx X [N,2F]; y, dy X [N,F]. */
#include "cuda/activation.cuh"

template <typename E, int V>
static __global__ void k_swiglu(const E *x /* [N,2F] */, E *y /* [N,F] */, int f, int parts)
{
    int64_t row = blockIdx.x / parts;
    int c = ((int)(blockIdx.x % parts) * blockDim.x + threadIdx.x) * V;
    if (c >= f) return;
    float a[V], b[V];
    lk_get<V>(a, x + row * 2 * f + c);
    lk_get<V>(b, x + row * 2 * f + f + c);
#pragma unroll
    for (int j = 0; j < V; j++) a[j] *= lk_sigmoid(a[j]) * b[j];
    lk_put<V>(y + row * f + c, a);
}

template <typename E, int V>
static __global__ void k_swiglu_grad(const E *x /* [N,2F] */, const E *dy /* [N,F] */,
                                     E *dx /* [N,2F] */, int f, int parts)
{
    int64_t row = blockIdx.x / parts;
    int c = ((int)(blockIdx.x % parts) * blockDim.x + threadIdx.x) * V;
    if (c >= f) return;
    float a[V], b[V], d[V];
    lk_get<V>(a, x + row * 2 * f + c);
    lk_get<V>(b, x + row * 2 * f + f + c);
    lk_get<V>(d, dy + row * f + c);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float s = lk_sigmoid(a[j]), silu = a[j] * s;
        float da = d[j] * b[j] * s * (1.0f + a[j] * (1.0f - s));
        b[j] = d[j] * silu;
        a[j] = da;
    }
    lk_put<V>(dx + row * 2 * f + c, a);
    lk_put<V>(dx + row * 2 * f + f + c, b);
}

extern "C" lk_status lk_cuda_swiglu(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    int64_t rows = lk_rows(in);
    int f = (int)(lk_cols(in) / 2);
    if (rows == 0 || f == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(f, V, {
        int threads = lk_row_threads(f / V), parts = (int)lk_ceil(f / V, threads);
        k_swiglu<E, V><<<(unsigned)(rows * parts), threads, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, in), (E *)lk_data(x, n->out[0]), f, parts);
    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_swiglu_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    int64_t rows = lk_rows(in);
    int f = (int)(lk_cols(in) / 2);
    if (rows == 0 || f == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(f, V, {
        int threads = lk_row_threads(f / V), parts = (int)lk_ceil(f / V, threads);
        k_swiglu_grad<E, V><<<(unsigned)(rows * parts), threads, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, in), (const E *)lk_data(x, n->in[1]),
            (E *)lk_data(x, n->out[0]), f, parts);
    }));
    return lk_cuda_launched(n);
}
