/* activate and activate_grad: y = act(x), dx = dy act'(x), element-wise over all `count` elements.
 *
 * A thread does 8 consecutive elements. An output may be one of its inputs: a thread reads before
 * it writes. */
#include "cuda/activation.cuh"

enum { THREADS = 256, RUN = 8 };

/* y [count] = act(x [count]) */
template <typename E, lk_activation A>
static __global__ void __launch_bounds__(THREADS) k_activate(const E *x, E *y, int64_t count)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * RUN;
    if (i + RUN <= count) {
        float v[RUN];
        lk_get<RUN>(v, x + i);
#pragma unroll
        for (int k = 0; k < RUN; k++) v[k] = lk_act<A>(v[k]);
        lk_put<RUN>(y + i, v);
    } else {
        for (; i < count; i++) y[i] = lk_store<E>(lk_act<A>(lk_float(x[i])));
    }
}

/* dx [count] = dy [count] act'(x [count]) */
template <typename E, lk_activation A>
static __global__ void __launch_bounds__(THREADS)
    k_activate_grad(const E *x, const E *dy, E *dx, int64_t count)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * RUN;
    if (i + RUN <= count) {
        float v[RUN], g[RUN];
        lk_get<RUN>(v, x + i);
        lk_get<RUN>(g, dy + i);
#pragma unroll
        for (int k = 0; k < RUN; k++) g[k] *= lk_act_slope<A>(v[k]);
        lk_put<RUN>(dx + i, g);
    } else {
        for (; i < count; i++)
            dx[i] = lk_store<E>(lk_float(dy[i]) * lk_act_slope<A>(lk_float(x[i])));
    }
}

extern "C" lk_status lk_cuda_activate(lk_exec *x, const lk_node *n)
{
    int64_t count = lk_count(n->out[0]);
    if (count == 0) return LK_OK;
    unsigned blocks = lk_blocks(count, THREADS * RUN);
    LK_FLOAT_SWITCH(n->out[0]->dtype, E, LK_ACT_SWITCH(n->attr.activate.kind, A, {
                        k_activate<E, A><<<blocks, THREADS, 0, lk_cuda_stream_of(x)>>>(
                            (const E *)lk_data(x, n->in[0]), (E *)lk_data(x, n->out[0]), count);
                    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_activate_grad(lk_exec *x, const lk_node *n)
{
    int64_t count = lk_count(n->out[0]);
    if (count == 0) return LK_OK;
    unsigned blocks = lk_blocks(count, THREADS * RUN);
    LK_FLOAT_SWITCH(n->out[0]->dtype, E, LK_ACT_SWITCH(n->attr.activate.kind, A, {
                        k_activate_grad<E, A><<<blocks, THREADS, 0, lk_cuda_stream_of(x)>>>(
                            (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
                            (E *)lk_data(x, n->out[0]), count);
                    }));
    return lk_cuda_launched(n);
}
