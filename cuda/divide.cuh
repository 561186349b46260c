/* Division of non-negative 32-bit integers by a number known when a kernel is launched: a
 * multiplication and a shift (T. Granlund and P. Montgomery, "Division by invariant integers using
 * multiplication", PLDI 1994). */
#ifndef LK_CUDA_DIVIDE_CUH
#define LK_CUDA_DIVIDE_CUH

#include <stdint.h>

typedef struct lk_divisor {
    uint32_t divisor, multiplier;
    int shift;
} lk_divisor;

/* For d >= 1 and numerators below 2^31: multiplier = ceil(2^(31+l) / d), 2^l >= d. */
static inline lk_divisor lk_divisor_of(int d)
{
    int l = 0;
    while ((int64_t)1 << l < d) l++;
    uint64_t power = (uint64_t)1 << (31 + l);
    lk_divisor r = {(uint32_t)d, (uint32_t)((power + (uint64_t)d - 1) / (uint64_t)d), 31 + l};
    return r;
}

/* *rest = n mod d; returns n / d. */
static __device__ __forceinline__ int lk_divide(int n, lk_divisor d, int *rest)
{
    int q = (int)(((uint64_t)(uint32_t)n * d.multiplier) >> d.shift);
    *rest = n - q * (int)d.divisor;
    return q;
}

#endif
