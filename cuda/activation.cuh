/* Values and derivatives of the activations (graph.h, lk_activation), in f32.
 *
 * Derivatives at the corners of the piecewise functions are those of the left piece. NaN passes
 * through every value. gelu is computed as x s with s = (1 + tanh u)/2 =
 * 1/(1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3), which loses nothing for negative x; with the
 * full accuracy of f32, which is a working type here. product.cuh has one of fewer instructions. */
#ifndef LK_CUDA_ACTIVATION_CUH
#define LK_CUDA_ACTIVATION_CUH

#include "cuda/device.cuh"

#define LK_GELU_C 0.7978845608028654f
#define LK_GELU_A 0.044715f

static __device__ __forceinline__ float lk_gelu_sigmoid(float x)
{
    float u = LK_GELU_C * (x + LK_GELU_A * x * x * x);
    return __fdividef(1.0f, 1.0f + expf(-2.0f * u));
}

static __device__ __forceinline__ float lk_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* hard_sigmoid but for NaN, of which it makes 0. One instruction: the clamp to [0, 1] is a modifier
 * of the multiply-add. */
static __device__ __forceinline__ float lk_hard_clamp(float x)
{
    return __saturatef(fmaf(x, 1.0f / 6, 0.5f));
}

/* act(x) */
template <lk_activation A> static __device__ __forceinline__ float lk_act(float x)
{
    if constexpr (A == LK_GELU) return x * lk_gelu_sigmoid(x);
    else if constexpr (A == LK_RELU) return x < 0 ? 0 : x;
    else if constexpr (A == LK_HARD_SWISH) return x * lk_hard_clamp(x);
    else if constexpr (A == LK_HARD_SIGMOID) return x != x ? x : lk_hard_clamp(x);
    else if constexpr (A == LK_SIGMOID) return lk_sigmoid(x);
    else return x;
}

/* act'(x) */
template <lk_activation A> static __device__ __forceinline__ float lk_act_slope(float x)
{
    if constexpr (A == LK_GELU) {
        /* d/dx x s = s + x 2 s (1-s) u' */
        float s = lk_gelu_sigmoid(x);
        return s + 2.0f * x * s * (1.0f - s) * LK_GELU_C * (1.0f + 3.0f * LK_GELU_A * x * x);
    } else if constexpr (A == LK_RELU) {
        return x > 0 ? 1 : 0;
    } else if constexpr (A == LK_HARD_SWISH) {
        float slope = fmaf(x, 1.0f / 3, 0.5f);
        return x > 3 ? 1 : x <= -3 ? 0 : slope; /* NaN: NaN */
    } else if constexpr (A == LK_HARD_SIGMOID) {
        return x > -3 && x <= 3 ? 1.0f / 6 : 0;
    } else if constexpr (A == LK_SIGMOID) {
        float s = lk_sigmoid(x);
        return s * (1.0f - s);
    } else {
        return 1;
    }
}

/* The same for a kind known only when the kernel runs; all threads of a warp agree on it. */
static __device__ __forceinline__ float lk_act_of(lk_activation kind, float x)
{
    switch (kind) {
    case LK_GELU: return lk_act<LK_GELU>(x);
    case LK_RELU: return lk_act<LK_RELU>(x);
    case LK_HARD_SWISH: return lk_act<LK_HARD_SWISH>(x);
    case LK_HARD_SIGMOID: return lk_act<LK_HARD_SIGMOID>(x);
    case LK_SIGMOID: return lk_act<LK_SIGMOID>(x);
    default: return x;
    }
}

static __device__ __forceinline__ float lk_act_slope_of(lk_activation kind, float x)
{
    switch (kind) {
    case LK_GELU: return lk_act_slope<LK_GELU>(x);
    case LK_RELU: return lk_act_slope<LK_RELU>(x);
    case LK_HARD_SWISH: return lk_act_slope<LK_HARD_SWISH>(x);
    case LK_HARD_SIGMOID: return lk_act_slope<LK_HARD_SIGMOID>(x);
    case LK_SIGMOID: return lk_act_slope<LK_SIGMOID>(x);
    default: return 1;
    }
}

/* For kernels compiled for the few kinds that matter to them: A is one of these, or LK_ACT_ANY and
 * then `kind` says which. */
enum { LK_ACT_ANY = -1 };

template <int A> static __device__ __forceinline__ float lk_act_value(lk_activation kind, float x)
{
    if constexpr (A == LK_ACT_ANY) return lk_act_of(kind, x);
    else return lk_act<(lk_activation)A>(x);
}

template <int A>
static __device__ __forceinline__ float lk_act_derivative(lk_activation kind, float x)
{
    if constexpr (A == LK_ACT_ANY) return lk_act_slope_of(kind, x);
    else return lk_act_slope<(lk_activation)A>(x);
}

/* Run the statements with the constant A of the activation. */
#define LK_ACT_SWITCH(kind, A, ...)                                                                \
    do {                                                                                           \
        switch (kind) {                                                                            \
        case LK_GELU: {                                                                            \
            constexpr lk_activation A = LK_GELU;                                                   \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        case LK_RELU: {                                                                            \
            constexpr lk_activation A = LK_RELU;                                                   \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        case LK_HARD_SWISH: {                                                                      \
            constexpr lk_activation A = LK_HARD_SWISH;                                             \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        case LK_HARD_SIGMOID: {                                                                    \
            constexpr lk_activation A = LK_HARD_SIGMOID;                                           \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        case LK_SIGMOID: {                                                                         \
            constexpr lk_activation A = LK_SIGMOID;                                                \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        default: {                                                                                 \
            constexpr lk_activation A = LK_LINEAR;                                                 \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
        }                                                                                          \
    } while (0)

#endif
