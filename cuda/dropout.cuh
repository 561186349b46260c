/* Dropout of elements in runs of eight: residual.cu and norm.cu. */
#ifndef LK_CUDA_DROPOUT_CUH
#define LK_CUDA_DROPOUT_CUH

#include "cuda/device.cuh"

/* How an element is dropped. */
typedef struct mask {
    uint64_t seed;
    uint32_t site, leaf, threshold;
    float scale;
    int64_t group; /* neighbouring elements dropped together; at most 1: none */
} mask;

static inline mask mask_of(const lk_exec *x, float p, uint32_t site, int64_t group)
{
    mask m = {x->seed, site, (uint32_t)x->leaf, lk_dropout_threshold(p), 1.0f / (1.0f - p), group};
    return m;
}

/* What element i of a tensor that is dropped in groups is multiplied by. */
static __device__ __forceinline__ float group_factor(const mask *m, uint64_t step, int64_t i)
{
    uint64_t g = (uint64_t)i / (uint64_t)m->group;
    lk_u32x4 word = lk_dropout_words(m->seed, m->site, m->leaf, step, g);
    return word.v[g & 3] >= m->threshold ? m->scale : 0.0f;
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
