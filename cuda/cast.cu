/* cast: y = x in another float type, rounded to nearest; x and y of the same shape, any length.
 * 8 elements a thread. */
#include "cuda/device.cuh"

/* x I [count], y O [count] */
template <typename I, typename O> static __global__ void k_cast(const I *x, O *y, int64_t count)
{
    int64_t i = 8 * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 8 <= count) {
        float v[8];
        lk_get<8>(v, x + i);
        lk_put<8>(y + i, v);
    } else {
        for (; i < count; i++) y[i] = lk_store<O>(lk_float(x[i]));
    }
}

extern "C" lk_status lk_cuda_cast(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *out = n->out[0];
    int64_t count = lk_count(out);
    unsigned blocks = lk_blocks(lk_ceil(count, 8), 256);
    LK_FLOAT_SWITCH(in->dtype, I, LK_FLOAT_SWITCH(out->dtype, O, {
        k_cast<I, O><<<blocks, 256, 0, lk_cuda_stream_of(x)>>>((const I *)lk_data(x, in),
                                                               (O *)lk_data(x, out), count);
    }));
    return lk_cuda_launched(n);
}
