/* What the tests of ops share: host values in every type, and the devices there are. */
#ifndef LK_TESTS_OPS_HELP_H
#define LK_TESTS_OPS_HELP_H

#include "base/half.h"
#include "base/philox.h"
#include "backend/backend.h"
#include "tests/tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef LK_HAVE_CUDA
#include "cuda/device.h"
#endif

static inline void *allocate(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) abort();
    return p;
}

static inline double rounded(double v, lk_dtype type)
{
    if (type == LK_F16) return (double)lk_f32_from_f16(lk_f16_from_f32((float)v));
    if (type == LK_BF16) return (double)lk_f32_from_bf16(lk_bf16_from_f32((float)v));
    return (double)(float)v;
}

static inline void encode(void *to, lk_dtype type, int64_t n, const double *from)
{
    for (int64_t i = 0; i < n; i++) switch (type) {
        case LK_F32: ((float *)to)[i] = (float)from[i]; break;
        case LK_F16: ((uint16_t *)to)[i] = lk_f16_from_f32((float)from[i]); break;
        case LK_BF16: ((uint16_t *)to)[i] = lk_bf16_from_f32((float)from[i]); break;
        case LK_I32: ((int32_t *)to)[i] = (int32_t)from[i]; break;
        case LK_U16: ((uint16_t *)to)[i] = (uint16_t)from[i]; break;
        default: ((uint8_t *)to)[i] = (uint8_t)from[i];
        }
}

static inline void decode(double *to, lk_dtype type, int64_t n, const void *from)
{
    for (int64_t i = 0; i < n; i++) switch (type) {
        case LK_F32: to[i] = (double)((const float *)from)[i]; break;
        case LK_F16: to[i] = (double)lk_f32_from_f16(((const uint16_t *)from)[i]); break;
        case LK_BF16: to[i] = (double)lk_f32_from_bf16(((const uint16_t *)from)[i]); break;
        case LK_I32: to[i] = ((const int32_t *)from)[i]; break;
        case LK_U16: to[i] = ((const uint16_t *)from)[i]; break;
        default: to[i] = ((const uint8_t *)from)[i];
        }
}

/* Standard normal values, a function of (stream, index) only. */
static inline double normal(uint32_t stream, int64_t i)
{
    lk_u32x4 r = lk_philox(99, (uint32_t)i, stream, 0, 0);
    double u = ((double)r.v[0] + 1) / 4294967297.0, v = (double)r.v[1] / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(6.28318530717958647692 * v);
}

/* Relative distance; infinite when anything is not a number. */
static inline double distance(int64_t n, const double *a, const double *reference)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (a[i] - reference[i]) * (a[i] - reference[i]);
        norm += reference[i] * reference[i];
    }
    if (!isfinite(difference) || !isfinite(norm)) return INFINITY;
    return difference == 0 ? 0 : sqrt(difference / norm);
}

static inline lk_device *open_cuda(void)
{
    lk_device *d = NULL;
#ifdef LK_HAVE_CUDA
    if (lk_cuda_device_count() > 0 && lk_backend_cuda.open(0, &d) != LK_OK)
        tap_ok(false, "opening the CUDA device: %s", lk_error_text());
    lk_error_clear();
#endif
    return d;
}

#endif
