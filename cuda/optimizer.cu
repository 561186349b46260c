/* The step ops: gradient norm and decision, AdamW, end of the step.
 *
 * Flat f32 buffers of attr.optimizer.params floats: grad [params + LK_METRIC_FLOATS], param,
 * moment1, moment2 [params], shadow X [params]. Everything scalar is decided on the device by the
 * functions of ops/step_state.h. The square sum has a fixed number of partial sums in double, so
 * its order depends on `params` alone. */
#include "cuda/device.cuh"

enum {
    THREADS = 256,
    PARTIALS = 1024,      /* blocks of the square sum, one double each */
    MOST_BLOCKS = 1 << 14 /* of adamw; each thread strides over the rest */
};

/* ---- gradient norm -------------------------------------------------------------------------- */

static __device__ __forceinline__ double square(float x) { return (double)x * (double)x; }

/* partial double [PARTIALS] = sums of squares of grad [learned] */
static __global__ void k_square_sums(const float *grad, int64_t learned, double *partial)
{
    __shared__ double shared[32];
    int64_t first = (int64_t)blockIdx.x * THREADS + threadIdx.x, vectors = learned / 4;
    double sum = 0;
#pragma unroll 4
    for (int64_t i = first; i < vectors; i += (int64_t)PARTIALS * THREADS) {
        float4 g = ((const float4 *)grad)[i];
        sum += (square(g.x) + square(g.y)) + (square(g.z) + square(g.w));
    }
    if (4 * vectors + first < learned) sum += square(grad[4 * vectors + first]); /* at most 3 */
    sum = lk_block_sum(sum, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/* One block of PARTIALS threads: total, then the decision. loss [1]: the metric behind grad. */
static __global__ void k_decide(const double *partial, const float *loss, lk_step_state *state,
                                lk_optimizer hyper)
{
    __shared__ double shared[32];
    double sum = lk_block_sum(partial[threadIdx.x], shared);
    if (threadIdx.x == 0) lk_step_decide(state, &hyper, sum, *loss);
}

size_t lk_cuda_grad_norm_scratch(const lk_cuda *, const lk_node *)
{
    return PARTIALS * sizeof(double);
}

extern "C" lk_status lk_cuda_grad_norm(lk_exec *x, const lk_node *n)
{
    const float *grad = (const float *)lk_data(x, n->in[0]);
    int64_t params = n->attr.optimizer.params;
    double *partial = (double *)x->base[LK_REGION_SCRATCH];
    cudaStream_t stream = lk_cuda_stream_of(x);
    k_square_sums<<<PARTIALS, THREADS, 0, stream>>>(grad, n->attr.optimizer.learned, partial);
    k_decide<<<1, PARTIALS, 0, stream>>>(partial, grad + params,
                                         (lk_step_state *)lk_data(x, n->in[1]),
                                         n->attr.optimizer.hyper);
    return lk_cuda_launched(n);
}

/* ---- adamw ---------------------------------------------------------------------------------- */

/* The buffers of adamw; shadow X and ema may be NULL. */
template <typename E> struct buffers {
    const float *grad;
    float *param, *m1, *m2;
    E *shadow;
    float *ema;
};

/* Elements [i, i + V) of every buffer [params]. */
template <int V, typename E>
static __device__ __forceinline__ void update(const lk_step_state *s, const lk_optimizer *o,
                                              int64_t i, int64_t decayed, int64_t learned,
                                              const buffers<E> &f)
{
    float g[V], p[V], a[V], b[V];
    lk_get<V>(g, f.grad + i);
    lk_get<V>(p, f.param + i);
    lk_get<V>(a, f.m1 + i);
    lk_get<V>(b, f.m2 + i);
#pragma unroll
    for (int k = 0; k < V; k++) {
        float decay = i + k < decayed ? o->weight_decay : 0.0f;
        if (i + k < learned) p[k] = lk_adamw(s, o, decay, p[k], g[k], &a[k], &b[k]);
        else p[k] = lk_running(o, p[k], g[k]);
    }
    lk_put<V>(f.param + i, p);
    lk_put<V>(f.m1 + i, a);
    lk_put<V>(f.m2 + i, b);
    if (f.shadow) lk_put<V>(f.shadow + i, p);
    if (!f.ema) return;
    float e[V];
    lk_get<V>(e, f.ema + i);
#pragma unroll
    for (int k = 0; k < V; k++) e[k] = lk_ema(s, o, e[k], p[k]);
    lk_put<V>(f.ema + i, e);
}

template <typename E>
static __global__ void k_adamw(const lk_step_state *state, lk_optimizer hyper, int64_t params,
                               int64_t decayed, int64_t learned, buffers<E> f)
{
    const lk_step_state s = *state;
    if (!s.finite) return;
    int64_t first = (int64_t)blockIdx.x * THREADS + threadIdx.x, vectors = params / 4;
    for (int64_t i = first; i < vectors; i += (int64_t)gridDim.x * THREADS)
        update<4>(&s, &hyper, 4 * i, decayed, learned, f);
    if (4 * vectors + first < params) /* at most 3 elements */
        update<1>(&s, &hyper, 4 * vectors + first, decayed, learned, f);
}

extern "C" lk_status lk_cuda_adamw(lk_exec *x, const lk_node *n)
{
    int64_t params = n->attr.optimizer.params;
    const lk_tensor *shadow = n->in[5];
    unsigned blocks = lk_blocks(lk_ceil(params, 4), THREADS);
    if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS;
    LK_FLOAT_SWITCH(
        shadow ? shadow->dtype : LK_F32, E,
        k_adamw<E><<<blocks, THREADS, 0, lk_cuda_stream_of(x)>>>(
            (const lk_step_state *)lk_data(x, n->in[4]), n->attr.optimizer.hyper, params,
            n->attr.optimizer.decayed, n->attr.optimizer.learned,
            buffers<E>{(const float *)lk_data(x, n->in[0]), (float *)lk_data(x, n->in[1]),
                       (float *)lk_data(x, n->in[2]), (float *)lk_data(x, n->in[3]),
                       (E *)lk_data(x, shadow), (float *)lk_data(x, n->in[6])}));
    return lk_cuda_launched(n);
}

/* ---- end of the step ------------------------------------------------------------------------ */

static __global__ void k_step_end(lk_step_state *state, lk_optimizer hyper)
{
    lk_step_advance(state, &hyper);
}

extern "C" lk_status lk_cuda_step_end(lk_exec *x, const lk_node *n)
{
    k_step_end<<<1, 1, 0, lk_cuda_stream_of(x)>>>((lk_step_state *)lk_data(x, n->in[0]),
                                                  n->attr.optimizer.hyper);
    return lk_cuda_launched(n);
}
