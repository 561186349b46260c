/* Shared by the CPU kernels: blocks of floats from tensors of any float type, sums, exp.
 *
 * Every loop that threads share is cut into pieces by the shape alone, and a piece is computed by
 * one thread from start to end: results do not depend on the number of threads. */
#ifndef LK_CPU_DEVICE_H
#define LK_CPU_DEVICE_H

#include "backend/backend.h"
#include "ops/ops.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

typedef struct lk_cpu {
    lk_device device; /* first */
    int threads;      /* for information */
    double room;      /* bytes of memory that were available to a rank at the start; 0: unknown */
    struct lk_cpu_trace *trace; /* trace.c; NULL: none is being taken */
} lk_cpu;

enum {
    LK_CPU_BLOCK = 1024,  /* elements of a piece of an elementwise op; a multiple of 16 */
    LK_CPU_SMALL = 32768, /* elements up to which waking other threads takes longer than the work */
    LK_CPU_CHUNK = 16384  /* elements whose partial sums of each channel are one piece */
};

/* ---- convert.c ------------------------------------------------------------------------------ */

/* out [count] = elements [first, first + count) of a tensor of type `type` at p, and back. */
void lk_cpu_load(lk_dtype type, const void *p, int64_t first, int64_t count, float *out);
void lk_cpu_store(lk_dtype type, void *p, int64_t first, int64_t count, const float *in);
/* A tensor as f32: its own bytes, or converted by all threads into `buffer` [count]. */
const float *lk_cpu_as_f32(const lk_exec *x, const lk_tensor *t, float *buffer);
/* All threads: tensor [count] = in. */
void lk_cpu_from_f32(const lk_exec *x, const lk_tensor *t, const float *in);
/* Scratch bytes of an f32 copy of t, 0 if it is f32 (or NULL) and needs none; the next such piece
 * of scratch, 64-byte aligned. */
size_t lk_cpu_copy_bytes(const lk_tensor *t);
float *lk_cpu_take(char **at, const lk_tensor *t);
/* Scratch bytes of `count` values for each thread; in a parallel region, those of the calling
 * thread in scratch from `at` on, 64-byte aligned as `at` is. */
size_t lk_cpu_own_bytes(int64_t count);
float *lk_cpu_own(void *at, int64_t count);
/* Bytes up to the next multiple of 64, where another piece of scratch may begin. */
static inline size_t lk_cpu_piece(size_t bytes) { return (bytes + 63) / 64 * 64; }
static inline size_t lk_cpu_larger(size_t a, size_t b) { return a > b ? a : b; }

/* Elements [first, first + count) to read: in place where they are f32, else in buffer [count]. */
static inline const float *lk_cpu_view(lk_dtype type, const void *p, int64_t first, int64_t count,
                                       float *buffer)
{
    if (type == LK_F32) return (const float *)p + first;
    lk_cpu_load(type, p, first, count, buffer);
    return buffer;
}

/* Where to compute elements from `first`: in place or in `buffer`, which lk_cpu_settle() stores. */
static inline float *lk_cpu_place(lk_dtype type, void *p, int64_t first, float *buffer)
{
    return type == LK_F32 ? (float *)p + first : buffer;
}

static inline void lk_cpu_settle(lk_dtype type, void *p, int64_t first, int64_t count,
                                 const float *buffer)
{
    if (type != LK_F32) lk_cpu_store(type, p, first, count, buffer);
}

/* ---- matmul.c ------------------------------------------------------------------------------- */

/* c [m,n] = alpha op(a) op(b) + beta c, row-major with leading dimensions, by the calling
 * thread. */
lk_status lk_cpu_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                      const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                      float *c, int64_t ldc);
/* The same by all threads, dense. */
lk_status lk_cpu_matmul(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                        const float *b, float beta, float *c);
/* "oneDNN 2.6.3 avx2": with another version or instruction set sums may have other bits. */
const char *lk_cpu_matmul_library(void);
/* {"version", "header", "path"} of the library loaded, of the headers compiled with, and its file.
 * LK_E_SYSTEM: out of memory. The caller owns *facts. */
lk_status lk_cpu_matmul_facts(json_t **facts);

/* ---- trace.c, measure.c: of the backend ------------------------------------------------------ */

extern const lk_device_tracer lk_cpu_tracer;
lk_status lk_cpu_measure_range(lk_device *d, lk_dtype type, const void *data, int64_t count,
                               lk_range *range);

/* ---- linear.c: column sums in a fixed order -------------------------------------------------- */

/* Rows are summed in chunks, the chunks in order. `scratch`: lk_cpu_column_chunks(rows) * cols. */
int64_t lk_cpu_column_chunks(int64_t rows);
void lk_cpu_sum_chunks(const float *partial, int64_t chunks, int64_t cols, bool accumulate,
                       float *out);
/* out f32 [C] (+)= column sums of t [N,C], with so much of the beginning of scratch. */
size_t lk_cpu_column_sums_scratch(const lk_tensor *t);
void lk_cpu_column_sums(lk_exec *x, const lk_tensor *t, bool accumulate, float *out);

/* ---- batch_norm.c: channels innermost -------------------------------------------------------- */

/* The moments of t to out: mean, rstd and the two statistics [C]. Uses so much of the beginning of
 * scratch, as do the next three. */
size_t lk_cpu_moments_scratch(const lk_tensor *t);
void lk_cpu_moments(lk_exec *x, const lk_tensor *t, float eps, lk_tensor *const out[4]);
/* out [N,C] = act((in - mean) rstd w + b); given: w, b, mean, rstd [C]. May run in place. */
size_t lk_cpu_normalise_scratch(const lk_tensor *t);
void lk_cpu_normalise(lk_exec *x, const lk_tensor *in, lk_activation act,
                      lk_tensor *const given[4], const lk_tensor *out);
/* sums [2,C] of dz = dy act'(z) and of dz (in - mean). */
size_t lk_cpu_batch_sums_scratch(const lk_tensor *t);
void lk_cpu_batch_sums(lk_exec *x, const lk_tensor *in, lk_activation act,
                       lk_tensor *const given[4], const lk_tensor *dy, float *sums);
/* The sums [B,4,C] of each image that SQUEEZE_EXCITE_DX makes; in [B,H,W,C]. */
size_t lk_cpu_image_sums_scratch(const lk_tensor *t);
void lk_cpu_image_sums(lk_exec *x, const lk_tensor *in, lk_activation act,
                       lk_tensor *const given[4], const lk_tensor *dy, float *sums);

/* ---- rope.c ---------------------------------------------------------------------------------- */

/* Output 0 of n = t [B,T,width], which it may be, rotated as n says. Uses lk_cpu_rope_scratch(n) of
 * the beginning of scratch. */
void lk_cpu_rotate(lk_exec *x, const lk_node *n, const lk_tensor *t);

/* ---- scratch bytes of the ops that need some ------------------------------------------------ */

size_t lk_cpu_attention_scratch(const lk_node *n);
size_t lk_cpu_attention_grad_scratch(const lk_node *n);
size_t lk_cpu_embed_scratch(const lk_node *n);
size_t lk_cpu_images_scratch(const lk_node *n);
size_t lk_cpu_linear_scratch(const lk_node *n);
size_t lk_cpu_linear_dx_scratch(const lk_node *n);
size_t lk_cpu_linear_dw_scratch(const lk_node *n);
size_t lk_cpu_linear_moments_scratch(const lk_node *n);
size_t lk_cpu_conv_scratch(const lk_node *n);
size_t lk_cpu_conv_dx_scratch(const lk_node *n);
size_t lk_cpu_conv_dw_scratch(const lk_node *n);
size_t lk_cpu_dwconv_scratch(const lk_node *n);
size_t lk_cpu_dwconv_grad_scratch(const lk_node *n);
size_t lk_cpu_channel_conv_scratch(const lk_node *n);
size_t lk_cpu_channel_conv_grad_scratch(const lk_node *n);
size_t lk_cpu_excite_scratch(const lk_node *n);
size_t lk_cpu_excite_dx_scratch(const lk_node *n);
size_t lk_cpu_excite_dw_scratch(const lk_node *n);
size_t lk_cpu_norm_scratch(const lk_node *n); /* and RESIDUAL_NORM */
size_t lk_cpu_norm_grad_scratch(const lk_node *n);
size_t lk_cpu_residual_norm_grad_scratch(const lk_node *n);
size_t lk_cpu_rope_scratch(const lk_node *n); /* of any node; 0 where nothing is rotated */
size_t lk_cpu_batch_norm_scratch(const lk_node *n);
size_t lk_cpu_batch_norm_grad_scratch(const lk_node *n);
size_t lk_cpu_batch_moments_scratch(const lk_node *n);
size_t lk_cpu_batch_apply_scratch(const lk_node *n);
size_t lk_cpu_norm_dwconv_scratch(const lk_node *n);
size_t lk_cpu_norm_dwconv_grad_scratch(const lk_node *n);
size_t lk_cpu_squeeze_excite_scratch(const lk_node *n);
size_t lk_cpu_squeeze_excite_dx_scratch(const lk_node *n);
size_t lk_cpu_norm_gate_scratch(const lk_node *n);
size_t lk_cpu_gate_norm_grad_scratch(const lk_node *n);
size_t lk_cpu_soft_xent_scratch(const lk_node *n);
size_t lk_cpu_xent_scratch(const lk_node *n); /* and its gradient, alone or fused */
size_t lk_cpu_grad_norm_scratch(const lk_node *n);

static inline void *lk_cpu_scratch(const lk_exec *x) { return x->base[LK_REGION_SCRATCH]; }

/* ---- arithmetic that the compiler vectorises ------------------------------------------------ */

/* e^x to about 1 ulp: 2^n times a polynomial in the rest (J. Muller, "Elementary functions", 2016,
 * chapter 6). Below -87 it is about 1e-38, above 88 about 1e38; a NaN stays one. */
static inline float lk_cpu_exp(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        uint32_t i;
        float f;
    } scale = {.i = (uint32_t)((int32_t)n + 127) << 23};
    return p * scale.f;
}

static inline float lk_cpu_sigmoid(float x) { return 1.0f / (1.0f + lk_cpu_exp(-x)); }

static inline float lk_cpu_gelu(float x)
{
    float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x * lk_cpu_sigmoid(2.0f * u);
}

/* d/dx [x s(2u)] = s + 2 x s (1-s) u' */
static inline float lk_cpu_gelu_slope(float x)
{
    float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    float slope = 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
    float s = lk_cpu_sigmoid(2.0f * u);
    return s + 2.0f * x * s * (1.0f - s) * slope;
}

/* An activation and its slope; with a constant kind no branch is left. At the corners of the
 * piecewise ones the slope is that of the left piece. A NaN stays one, so that an overflow reaches
 * the gradient norm. */
static inline float lk_cpu_act(lk_activation kind, float x)
{
    float hard = x + 3.0f;
    hard = hard < 0.0f ? 0.0f : hard;
    hard = (hard > 6.0f ? 6.0f : hard) * (1.0f / 6.0f);
    switch (kind) {
    case LK_GELU: return lk_cpu_gelu(x);
    case LK_RELU: return x < 0.0f ? 0.0f : x;
    case LK_HARD_SWISH: return x * hard;
    case LK_HARD_SIGMOID: return hard;
    case LK_SIGMOID: return lk_cpu_sigmoid(x);
    default: return x;
    }
}

static inline float lk_cpu_slope(lk_activation kind, float x)
{
    float s, middle = (2.0f * x + 3.0f) * (1.0f / 6.0f);
    switch (kind) {
    case LK_GELU: return lk_cpu_gelu_slope(x);
    case LK_RELU: return x > 0.0f ? 1.0f : 0.0f;
    case LK_HARD_SWISH:
        middle = x <= -3.0f ? 0.0f : middle;
        return x > 3.0f ? 1.0f : middle;
    case LK_HARD_SIGMOID: return ((x > -3.0f) & (x <= 3.0f)) ? 1.0f / 6.0f : 0.0f;
    case LK_SIGMOID: s = lk_cpu_sigmoid(x); return s * (1.0f - s);
    default: return 1.0f;
    }
}

/* One case for each activation: a loop of its own for what `call` does with a constant kind. */
#define LK_CPU_EACH_ACTIVATION(kind, call)                                                         \
    switch (kind) {                                                                                \
    case LK_LINEAR: call(LK_LINEAR); break;                                                        \
    case LK_GELU: call(LK_GELU); break;                                                            \
    case LK_RELU: call(LK_RELU); break;                                                            \
    case LK_HARD_SWISH: call(LK_HARD_SWISH); break;                                                \
    case LK_HARD_SIGMOID: call(LK_HARD_SIGMOID); break;                                            \
    case LK_SIGMOID: call(LK_SIGMOID); break;                                                      \
    }

/* Sum in 16 lanes, then the lanes pairwise. */
static inline float lk_cpu_lanes(const float lane[16])
{
    float s[8], q[4];
    for (int i = 0; i < 8; i++) s[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++) q[i] = s[i] + s[i + 4];
    return (q[0] + q[2]) + (q[1] + q[3]);
}

static inline float lk_cpu_sum(const float *x, int64_t n)
{
    float lane[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++) lane[k] += x[i + k];
    for (int k = 0; i + k < n; k++) lane[k] += x[i + k];
    return lk_cpu_lanes(lane);
}

static inline float lk_cpu_dot(const float *x, const float *y, int64_t n)
{
    float lane[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++) lane[k] += x[i + k] * y[i + k];
    for (int k = 0; i + k < n; k++) lane[k] += x[i + k] * y[i + k];
    return lk_cpu_lanes(lane);
}

/* The largest element; NaN is not looked for. */
static inline float lk_cpu_max(const float *x, int64_t n)
{
    float lane[16];
    for (int k = 0; k < 16; k++) lane[k] = x[0];
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++) lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
    for (int k = 0; i + k < n; k++) lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
    for (int k = 1; k < 16; k++) lane[0] = lane[k] > lane[0] ? lane[k] : lane[0];
    return lane[0];
}

#endif
