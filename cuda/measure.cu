/* The range of a tensor and its first element that is not finite: a partial result for each block,
 * joined on the host. */
#include "cuda/device.cuh"

#include <limits.h>

enum { BLOCKS = 256, THREADS = 256 };

typedef struct partial {
    long long bad, bads; /* bad LLONG_MAX: none */
    float low, high;
} partial;

static __device__ __forceinline__ void join(partial *a, const partial *b)
{
    if (b->bad < a->bad) a->bad = b->bad;
    a->bads += b->bads;
    if (b->low < a->low) a->low = b->low;
    if (b->high > a->high) a->high = b->high;
}

template <typename E>
static __global__ void k_measure(const E *x, int64_t count, partial *out)
{
    __shared__ partial shared[THREADS];
    partial mine = {LLONG_MAX, 0, INFINITY, -INFINITY};
    int64_t stride = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        float v = lk_float(x[i]);
        if (!isfinite(v)) {
            if (i < mine.bad) mine.bad = i;
            mine.bads++;
            continue;
        }
        mine.low = fminf(mine.low, v);
        mine.high = fmaxf(mine.high, v);
    }
    shared[threadIdx.x] = mine;
    for (int k = THREADS / 2; k > 0; k /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < k) join(&shared[threadIdx.x], &shared[threadIdx.x + k]);
    }
    if (threadIdx.x == 0) out[blockIdx.x] = shared[0];
}

/* The partial results lie in pinned memory, which the device writes itself. */
lk_status lk_cuda_measure_range(lk_device *d, lk_dtype type, const void *data, int64_t count,
                                lk_range *range)
{
    lk_cuda *c = (lk_cuda *)d;
    LK_CUDA(cudaSetDevice(c->index));
    if (!c->measured) LK_CUDA(cudaMallocHost(&c->measured, BLOCKS * sizeof(partial)));
    partial *host = (partial *)c->measured;
    int64_t wanted = lk_ceil(count, THREADS);
    int blocks = wanted < 1 ? 1 : wanted < BLOCKS ? (int)wanted : BLOCKS;
    LK_FLOAT_SWITCH(type, E,
                    k_measure<E><<<blocks, THREADS, 0, c->stream>>>((const E *)data, count, host));
    LK_CUDA(cudaGetLastError());
    LK_CUDA(cudaStreamSynchronize(c->stream));
    lk_range all = {-1, 0, INFINITY, -INFINITY};
    for (int i = 0; i < blocks; i++) {
        const partial *p = &host[i];
        if (p->bads > 0 && (all.bad < 0 || p->bad < all.bad)) all.bad = p->bad;
        all.bads += p->bads;
        if (p->low < all.low) all.low = p->low;
        if (p->high > all.high) all.high = p->high;
    }
    *range = all;
    return LK_OK;
}
