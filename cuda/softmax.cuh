/* The maximum of a row of logits and the sum of exponentials below it, for xent.cu and
 * soft_xent.cu: taken up some columns at a time, and joined over threads in a fixed order. */
#ifndef LK_CUDA_SOFTMAX_CUH
#define LK_CUDA_SOFTMAX_CUH

#include "cuda/device.cuh"

#include <float.h>

/* Full accuracy for f32 logits; halves carry larger errors than __expf has. */
template <typename E> static __device__ __forceinline__ float exponential(float x)
{
    return sizeof(E) == 4 ? expf(x) : __expf(x);
}

/* exp(v - top) with one multiplication less where the halves allow it; top LK_LOG2E is finite. */
template <typename E> static __device__ __forceinline__ float exponential(float v, float top)
{
    if constexpr (sizeof(E) == 4) return expf(v - top);
    return lk_power2(fmaf(v, LK_LOG2E, -top * LK_LOG2E));
}

/* Of the columns seen: the largest, and sum exp(x - top). */
typedef struct softmax_part {
    float top, sum;
} softmax_part;

/* Of no columns. top is finite so that no -inf is subtracted from one, and of halves so far from
 * the end that top LK_LOG2E is finite too: logits may be -inf. */
template <typename E> static __device__ __forceinline__ softmax_part softmax_none(void)
{
    return {sizeof(E) == 4 ? -FLT_MAX : -FLT_MAX / 2, 0};
}

template <typename E>
static __device__ __forceinline__ softmax_part softmax_join(softmax_part a, softmax_part b)
{
    softmax_part c;
    c.top = fmaxf(a.top, b.top);
    c.sum = a.sum * exponential<E>(a.top - c.top) + b.sum * exponential<E>(b.top - c.top);
    return c;
}

/* Take V more columns. */
template <typename E, int V>
static __device__ __forceinline__ void softmax_take(const float *v, softmax_part *a)
{
    float top = a->top, sum = 0;
#pragma unroll
    for (int k = 0; k < V; k++) top = fmaxf(top, v[k]);
#pragma unroll
    for (int k = 0; k < V; k++) sum += exponential<E>(v[k], top);
    a->sum = a->sum * exponential<E>(a->top - top) + sum;
    a->top = top;
}

#endif
