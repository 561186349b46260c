/* dropout, residual (y = x + dropout(branch)) and add: element-wise over all `count` elements.
 *
 * A thread does 8 consecutive elements; with dropout those are the words of two Philox counters,
 * i/4 and i/4 + 1. Any output may be one of its inputs: a thread reads before it writes. */
#include "cuda/dropout.cuh"

enum { THREADS = 256, RUN = 8 };

/* The run's elements that exist; the last run of a tensor may be short (then the rest are 0). */
template <typename E>
static __device__ __forceinline__ void get_run(float *v, const E *p, int64_t left)
{
    if (left >= RUN) {
        lk_get<RUN>(v, p);
    } else {
#pragma unroll
        for (int k = 0; k < RUN; k++) v[k] = k < left ? lk_float(p[k]) : 0.0f;
    }
}

template <typename E>
static __device__ __forceinline__ void put_run(E *p, const float *v, int64_t left)
{
    if (left >= RUN) {
        lk_put<RUN>(p, v);
    } else {
#pragma unroll
        for (int k = 0; k < RUN; k++)
            if (k < left) p[k] = lk_store<E>(v[k]);
    }
}

enum { KEEP, DROP, DROP_GROUP };

/* y = (x, if X) + (HOW is KEEP ? branch : dropout(branch)). */
template <typename E, bool X, int HOW>
static __global__ void __launch_bounds__(THREADS)
    k_residual(const E *x /* [count] or NULL */, const E *branch /* [count] */,
               const lk_step_state *state, E *y /* [count] */, int64_t count, mask m)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * RUN;
    if (i >= count) return;
    float a[RUN], v[RUN];
    get_run(v, branch + i, count - i);
    if constexpr (X) get_run(a, x + i, count - i);
    if constexpr (HOW == DROP) drop(v, &m, state->step, i);
    if constexpr (HOW == DROP_GROUP) {
        bool one = i / m.group == (i + RUN - 1) / m.group;
        float factor = group_factor(&m, state->step, i);
#pragma unroll
        for (int k = 0; k < RUN; k++) v[k] *= one ? factor : group_factor(&m, state->step, i + k);
    }
    if constexpr (X) {
#pragma unroll
        for (int k = 0; k < RUN; k++) v[k] = a[k] + v[k];
    }
    put_run(y + i, v, count - i);
}

extern "C" lk_status lk_cuda_dropout(lk_exec *x, const lk_node *n)
{
    int64_t count = lk_count(n->out[0]);
    const lk_step_state *state = (const lk_step_state *)lk_data(x, n->in[1]);
    mask m = mask_of(x, n->attr.dropout.p, n->attr.dropout.site, n->attr.dropout.group);
    LK_FLOAT_SWITCH(n->out[0]->dtype, E, {
        auto kernel = m.group > 1 ? k_residual<E, false, DROP_GROUP> : k_residual<E, false, DROP>;
        kernel<<<lk_blocks(count, THREADS * RUN), THREADS, 0, lk_cuda_stream_of(x)>>>(
            NULL, (const E *)lk_data(x, n->in[0]), state, (E *)lk_data(x, n->out[0]), count, m);
    });
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_residual(lk_exec *x, const lk_node *n)
{
    int64_t count = lk_count(n->out[0]);
    const lk_step_state *state = (const lk_step_state *)lk_data(x, n->in[2]);
    mask m = mask_of(x, n->attr.dropout.p, n->attr.dropout.site, n->attr.dropout.group);
    LK_FLOAT_SWITCH(n->out[0]->dtype, E, {
        auto kernel = n->attr.dropout.p <= 0 ? k_residual<E, true, KEEP>
                      : m.group > 1          ? k_residual<E, true, DROP_GROUP>
                                             : k_residual<E, true, DROP>;
        kernel<<<lk_blocks(count, THREADS * RUN), THREADS, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]), state,
            (E *)lk_data(x, n->out[0]), count, m);
    });
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_add(lk_exec *x, const lk_node *n)
{
    int64_t count = lk_count(n->out[0]);
    mask none = {};
    LK_FLOAT_SWITCH(n->out[0]->dtype, E, {
        k_residual<E, true, KEEP>
            <<<lk_blocks(count, THREADS * RUN), THREADS, 0, lk_cuda_stream_of(x)>>>(
                (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]), NULL,
                (E *)lk_data(x, n->out[0]), count, none);
    });
    return lk_cuda_launched(n);
}
