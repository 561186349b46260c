/* Shared by the convolution kernels: the shape, and how its products gather their rows.
 *
 *   forward    y  [pixels of y, Co] = sum over (tap, ci) of x  at the tap's pixel times w
 *   dx         dx [pixels of x, Ci] = sum over (tap, co) of dy at the tap's pixel times w
 *   dw         dw [Co, (tap, ci)]   = sum over the pixels of y of dy times x at the tap's pixel
 *
 * all without a copy of x in the layout of a matrix. For dx the pixels of x fall into stride x
 * stride classes by their remainders; a class uses only the taps that lead to a pixel of dy, and is
 * a product of its own, of stride 1. */
#ifndef LK_CUDA_CONV_CUH
#define LK_CUDA_CONV_CUH

#include "cuda/device.cuh"
#include "cuda/divide.cuh"

/* x [batch, h, w, ci], kernel [co, kh, kw, ci], y [batch, ho, wo, co] */
typedef struct conv {
    int batch, h, w, ci, ho, wo, co, kh, kw, stride, pad;
    lk_divisor by_wo, by_ho;
} conv;

/* Rows (b, i, j) of a product and where they read: tap (p, q) of row (i, j) is the pixel
 * (i step + top + sign p, j step + left + sign q) of the source [batch, source_h, source_w,
 * channels], times the kernel's element (first_y + every p, first_x + every q). */
typedef struct gather {
    int rows, height, width, columns; /* rows = batch height width */
    int step, top, left, sign;
    int source_h, source_w, channels;
    int taps_y, taps_x, first_y, first_x, every;
} gather;

/* Class `number` of the pixels of x for dx; forward has one. */
template <bool DX> static __device__ __forceinline__ gather gather_of(const conv &s, int number)
{
    gather g;
    if constexpr (DX) {
        int y = number / s.stride, x = number - y * s.stride;
        g.height = (s.h - y + s.stride - 1) / s.stride;
        g.width = (s.w - x + s.stride - 1) / s.stride;
        g.first_y = (y + s.pad) % s.stride;
        g.first_x = (x + s.pad) % s.stride;
        g.taps_y = g.first_y < s.kh ? (s.kh - g.first_y + s.stride - 1) / s.stride : 0;
        g.taps_x = g.first_x < s.kw ? (s.kw - g.first_x + s.stride - 1) / s.stride : 0;
        g.top = (y + s.pad - g.first_y) / s.stride;
        g.left = (x + s.pad - g.first_x) / s.stride;
        g.step = 1;
        g.sign = -1;
        g.every = s.stride;
        g.source_h = s.ho;
        g.source_w = s.wo;
        g.channels = s.co;
        g.columns = s.ci;
    } else {
        g.height = s.ho;
        g.width = s.wo;
        g.first_y = g.first_x = 0;
        g.taps_y = s.kh;
        g.taps_x = s.kw;
        g.top = g.left = -s.pad;
        g.step = s.stride;
        g.sign = g.every = 1;
        g.source_h = s.h;
        g.source_w = s.w;
        g.channels = s.ci;
        g.columns = s.co;
    }
    g.rows = s.batch * g.height * g.width;
    return g;
}

/* Where row m reads and writes: source pixel (y, x) of tap (0, 0), `at` its number in the source
 * (of all images), `out` the number of the pixel written, or -1 for rows that do not exist, which
 * read nothing. */
typedef struct row_place {
    int y, x, at, out;
} row_place;

template <bool DX>
static __device__ __forceinline__ row_place place_of(const conv &s, const gather &g, int number,
                                                     int m)
{
    row_place r = {INT32_MIN / 2, 0, 0, -1};
    if (m >= g.rows) return r;
    int j, i, b;
    if constexpr (DX) {
        b = m / (g.height * g.width);
        int rest = m - b * g.height * g.width;
        i = rest / g.width;
        j = rest - i * g.width;
        int y = number / s.stride, x = number - y * s.stride;
        r.out = (b * s.h + y + s.stride * i) * s.w + x + s.stride * j;
    } else {
        b = lk_divide(lk_divide(m, s.by_wo, &j), s.by_ho, &i);
        r.out = m;
    }
    r.y = i * g.step + g.top;
    r.x = j * g.step + g.left;
    r.at = (b * g.source_h + r.y) * g.source_w + r.x;
    return r;
}

#endif
