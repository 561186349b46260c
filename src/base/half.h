/* Conversions between float and the two 16-bit formats, round to nearest even, on the host.
 * A value beyond the range of fp16 becomes infinity, as on a GPU: loss scaling depends on it. */
#ifndef LK_BASE_HALF_H
#define LK_BASE_HALF_H

#include "base/dtype.h"

#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

static inline uint16_t lk_f16_from_f32(float f)
{
#ifdef __F16C__
    return (uint16_t)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t x;
    memcpy(&x, &f, 4);
    uint32_t sign = (x >> 16) & 0x8000u, a = x & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);
    if (a < 0x38800000u) { /* subnormal: align the mantissa by a float addition */
        float t;
        memcpy(&t, &a, 4);
        t += 0.5f;
        memcpy(&a, &t, 4);
        return (uint16_t)(sign | (a - 0x3F000000u));
    }
    a += 0xC8000FFFu + ((a >> 13) & 1u);
    return (uint16_t)(sign | a >> 13);
#endif
}

static inline float lk_f32_from_f16(uint16_t h)
{
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3FFu, x;
    if (e == 31) {
        x = sign | 0x7F800000u | m << 13;
    } else if (e != 0) {
        x = sign | (e + 112u) << 23 | m << 13;
    } else {
        float f = (float)m * 0x1p-24f;
        memcpy(&x, &f, 4);
        x |= sign;
    }
    float f;
    memcpy(&f, &x, 4);
    return f;
#endif
}

static inline uint16_t lk_bf16_from_f32(float f)
{
    uint32_t x;
    memcpy(&x, &f, 4);
    if ((x & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(x >> 16 | 0x40u);
    return (uint16_t)((x + 0x7FFFu + ((x >> 16) & 1u)) >> 16);
}

static inline float lk_f32_from_bf16(uint16_t h)
{
    uint32_t x = (uint32_t)h << 16;
    float f;
    memcpy(&f, &x, 4);
    return f;
}

/* `n` values of f32, f16 or bf16 as floats. */
static inline void lk_f32_from_any(lk_dtype type, const void *from, int64_t n, float *to)
{
    const uint16_t *half = (const uint16_t *)from;
    if (type == LK_F32) memcpy(to, from, (size_t)n * sizeof *to);
    for (int64_t i = 0; i < n && type == LK_F16; i++) to[i] = lk_f32_from_f16(half[i]);
    for (int64_t i = 0; i < n && type == LK_BF16; i++) to[i] = lk_f32_from_bf16(half[i]);
}

#endif
