/* Rotary positions in registers: the rotation of sums that lie over the lanes as those of wgmma do.
 * Included by product.cuh and attention_wgmma_grad.cuh.
 *
 * angles [T, D / 2] (cosine, sine): of rope.cu. */
#ifndef LK_CUDA_ROTARY_CUH
#define LK_CUDA_ROTARY_CUH

#include "cuda/device.cuh"

/* Accumulators of columns c, c + 1 (`a`) and those half a head further (`b`), of two rows: elements
 * 0, 1 of the row with angles u, elements 2, 3 of the row with v; each (cosine, sine) of c and of
 * c + 1. sign -1: the other way. */
static __device__ __forceinline__ void rotate(float (&a)[4], float (&b)[4], float4 u, float4 v,
                                              float sign)
{
    float cosine[4] = {u.x, u.z, v.x, v.z}, sine[4] = {u.y, u.w, v.y, v.w};
#pragma unroll
    for (int e = 0; e < 4; e++) {
        float x = a[e], y = b[e], s = sign * sine[e];
        a[e] = x * cosine[e] - y * s;
        b[e] = y * cosine[e] + x * s;
    }
}

/* The angles of this lane's columns at position t; those of 8 columns further stand 4 further. */
template <int D>
static __device__ __forceinline__ const float4 *angles_at(const float2 *angles, int t)
{
    return (const float4 *)(angles + (int64_t)t * (D / 2)) + (threadIdx.x & 3);
}

#endif
