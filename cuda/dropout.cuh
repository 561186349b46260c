/* Dropout of elements in runs of eight: residual.cu and norm.cu. */
#ifndef LK_CUDA_DROPOUT_CUH
#define LK_CUDA_DROPOUT_CUH

#include "cuda/device.cuh"

/* How an element is dropped. */
typedef struct mask {
    uint64_t seed;
    uint32_t site, leaf, threshold;
    float scale;
} mask;

static inline mask mask_of(const lk_exec *x, float p, uint32_t site)
{
    mask m = {x->seed, site, (uint32_t)x->leaf, lk_dropout_threshold(p), 1.0f / (1.0f - p)};
    return m;
}

/* Drop and scale the elements i .. i+7 of the tensor; i % 8 == 0. */
static __device__ __forceinline__ void drop(float *v, const mask *m, uint64_t step, int64_t i)
{
#pragma unroll
    for (int four = 0; four < 2; four++) {
        lk_u32x4 word = lk_dropout_words(m->seed, m->site, m->leaf, step,
                                         (uint64_t)(i + 4 * four));
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float *e = &v[4 * four + k];
            *e = word.v[k] >= m->threshold ? *e * m->scale : 0.0f;
        }
    }
}

#endif
