/* The batch norm of a channel as kernels apply it: z = (x - mean) scale + shift. */
#ifndef LK_CUDA_BATCH_NORM_CUH
#define LK_CUDA_BATCH_NORM_CUH

#include "cuda/activation.cuh"

/* Where the figures of the channels lie. */
typedef struct lk_normal {
    const float *mean;   /* [C] */
    const float *spread; /* [C]: rstd, or the variance if `running` */
    const float *w, *b;  /* [C] */
    float eps;
    bool running;
} lk_normal;

/* What is measured of a tensor [N,C]; f32 [C] each, any may be NULL. */
typedef struct lk_moments {
    float *mean, *rstd;
    float *statistic_mean, *statistic_var; /* var: unbiased */
    bool add_mean, add_var;                /* add to the statistics */
    float eps;
} lk_moments;

/* batch_norm.cu; n names the node in errors. y [N,C] = act(z(x)); may run in place. */
lk_status lk_cuda_normalise(lk_exec *x, const lk_node *n, const lk_tensor *in,
                            const lk_tensor *out, lk_normal from, lk_activation kind);
/* Moments of t; lk_cuda_moments_scratch(t) bytes at the start of scratch. */
size_t lk_cuda_moments_scratch(const lk_tensor *t);
lk_status lk_cuda_measure(lk_exec *x, const lk_node *n, const lk_tensor *t, lk_moments out);
/* Moments of t from those of chunks: mean and squares about it [chunks,C], rows [chunks]. */
lk_status lk_cuda_join_moments(lk_exec *x, const lk_node *n, const float *mean,
                               const float *square, const float *count, int chunks,
                               const lk_tensor *t, lk_moments out);

/* Those of V neighbouring channels, in registers. */
template <int V> struct lk_channels {
    float mean[V], scale[V], shift[V];
};

template <int V>
static __device__ __forceinline__ void lk_channels_get(lk_channels<V> &c, const lk_normal &from,
                                                       int column)
{
    lk_get<V>(c.mean, from.mean + column);
    lk_get<V>(c.scale, from.spread + column);
    lk_get<V>(c.shift, from.w + column);
#pragma unroll
    for (int j = 0; j < V; j++) {
        if (from.running) c.scale[j] = 1.0f / sqrtf(c.scale[j] + from.eps);
        c.scale[j] *= c.shift[j];
    }
    lk_get<V>(c.shift, from.b + column);
}

/* Forward and backward must agree on z to the last bit: both call this. */
template <int V>
static __device__ __forceinline__ float lk_channel_z(const lk_channels<V> &c, int j, float x)
{
    return fmaf(x - c.mean[j], c.scale[j], c.shift[j]);
}

/* v[j] = act(z(v[j])) */
template <int V, int A>
static __device__ __forceinline__ void lk_channels_apply(const lk_channels<V> &c,
                                                         lk_activation kind, float *v)
{
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = lk_act_value<A>(kind, lk_channel_z(c, j, v[j]));
}

/* Run the statements with A as the activations compiled for a batch norm: the three that networks
 * put there, or LK_ACT_ANY. */
#define LK_NORMAL_SWITCH(kind, A, ...)                                                             \
    do {                                                                                           \
        if ((kind) == LK_LINEAR) {                                                                 \
            enum { A = LK_LINEAR };                                                                \
            __VA_ARGS__;                                                                           \
        } else if ((kind) == LK_RELU) {                                                            \
            enum { A = LK_RELU };                                                                  \
            __VA_ARGS__;                                                                           \
        } else if ((kind) == LK_HARD_SWISH) {                                                      \
            enum { A = LK_HARD_SWISH };                                                            \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum { A = LK_ACT_ANY };                                                               \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

#endif
