/* windows, texts: copy the tokens of this leaf's samples and widen them to i32.
 *
 * Block (sample, part of the window). Where the window starts is found on the device from
 * state.step, so that a captured step reads new data at every replay.
 * data D [leaves here, shard_tokens] or [B,T+1]; tokens, targets i32 [B,T]. */
#include "cuda/device.cuh"

enum { THREADS = 256, PART = 4 * THREADS };

template <typename D>
static __global__ void k_windows(const D *data, const lk_step_state *state,
                                 int *tokens /* [B,T] */, int *targets /* [B,T] */, int64_t context,
                                 int resident, int64_t shard_tokens, uint32_t purpose,
                                 uint64_t seed, int leaf, int64_t shard)
{
    __shared__ int64_t start;
    int64_t sample = blockIdx.x, batch = gridDim.x;
    if (threadIdx.x == 0) {
        start = sample * (context + 1);
        if (resident)
            start = shard * shard_tokens +
                    lk_sample_row(state->step, batch, sample, shard_tokens - context, seed,
                                  purpose, leaf);
    }
    __syncthreads();
    const D *window = data + start;
    int64_t begin = (int64_t)blockIdx.y * PART, end = begin + PART;
    if (end > context) end = context;
    for (int64_t t = begin + threadIdx.x; t < end; t += THREADS) {
        tokens[sample * context + t] = (int)window[t];
        targets[sample * context + t] = (int)window[t + 1];
    }
}

template <typename D> static void launch(lk_exec *x, const lk_node *n)
{
    int64_t batch = n->out[0]->dim[0], context = n->out[0]->dim[1];
    dim3 grid((unsigned)batch, lk_blocks(context, PART));
    k_windows<D><<<grid, THREADS, 0, lk_cuda_stream_of(x)>>>(
        (const D *)lk_data(x, n->in[0]), (const lk_step_state *)lk_data(x, n->in[1]),
        (int *)lk_data(x, n->out[0]), (int *)lk_data(x, n->out[1]), context,
        n->attr.windows.resident, n->attr.windows.shard_tokens, n->attr.windows.purpose, x->seed,
        x->leaf, (int64_t)x->leaf - n->attr.windows.first_leaf);
}

extern "C" lk_status lk_cuda_windows(lk_exec *x, const lk_node *n)
{
    switch (n->in[0]->dtype) {
    case LK_U8: launch<uint8_t>(x, n); break;
    case LK_U16: launch<uint16_t>(x, n); break;
    default: launch<int32_t>(x, n); break;
    }
    return lk_cuda_launched(n);
}

/* data D [leaves here, shard_rows, T] or [B,T]. */
template <typename D>
static __global__ void k_texts(const D *data, const lk_step_state *state,
                               int *tokens /* [B,T] */, int64_t length, int resident,
                               int64_t shard_rows, uint32_t purpose, uint64_t seed, int leaf,
                               int64_t shard)
{
    __shared__ int64_t row;
    int64_t sample = blockIdx.x, batch = gridDim.x;
    if (threadIdx.x == 0) {
        row = sample;
        if (resident)
            row = shard * shard_rows +
                  lk_sample_row(state->step, batch, sample, shard_rows, seed, purpose, leaf);
    }
    __syncthreads();
    const D *text = data + row * length;
    int64_t begin = (int64_t)blockIdx.y * PART, end = begin + PART;
    if (end > length) end = length;
    for (int64_t t = begin + threadIdx.x; t < end; t += THREADS)
        tokens[sample * length + t] = (int)text[t];
}

template <typename D> static void launch_texts(lk_exec *x, const lk_node *n)
{
    int64_t batch = n->out[0]->dim[0], length = n->out[0]->dim[1];
    dim3 grid((unsigned)batch, lk_blocks(length, PART));
    k_texts<D><<<grid, THREADS, 0, lk_cuda_stream_of(x)>>>(
        (const D *)lk_data(x, n->in[0]), (const lk_step_state *)lk_data(x, n->in[1]),
        (int *)lk_data(x, n->out[0]), length, n->attr.images.resident, n->attr.images.shard_rows,
        n->attr.images.purpose, x->seed, x->leaf,
        (int64_t)x->leaf - n->attr.images.first_leaf);
}

extern "C" lk_status lk_cuda_texts(lk_exec *x, const lk_node *n)
{
    if (n->in[0]->dtype == LK_U8) launch_texts<uint8_t>(x, n);
    else launch_texts<uint16_t>(x, n);
    return lk_cuda_launched(n);
}
