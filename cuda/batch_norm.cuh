/* The batch norm of a channel as kernels apply it: z = x scale + shift, shift = b - mean scale. In
 * f32 that loses, of a large mean, no more than x itself has lost by its rounding. */
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

/* In training, of what nodes are given: w, b, mean, rstd. */
static inline lk_normal lk_cuda_normal_of(lk_exec *x, lk_tensor *const given[4])
{
    lk_normal from = {(const float *)lk_data(x, given[2]), (const float *)lk_data(x, given[3]),
                      (const float *)lk_data(x, given[0]), (const float *)lk_data(x, given[1]),
                      0, false};
    return from;
}

/* What is measured of a tensor [N,C]; f32 [C] each, any may be NULL. */
typedef struct lk_moments {
    float *mean, *rstd;
    float *statistic_mean, *statistic_var; /* var: unbiased */
    bool add_mean, add_var;                /* add to the statistics */
    float eps;
} lk_moments;

/* Those of node n as its outputs first .. first + 3: mean, rstd, two statistics. */
static inline lk_moments lk_cuda_moments_of(lk_exec *x, const lk_node *n, int first, float eps)
{
    lk_moments m = {(float *)lk_data(x, n->out[first]),
                    (float *)lk_data(x, n->out[first + 1]),
                    (float *)lk_data(x, n->out[first + 2]),
                    (float *)lk_data(x, n->out[first + 3]),
                    (n->accumulate >> (first + 2) & 1) != 0,
                    (n->accumulate >> (first + 3) & 1) != 0,
                    eps};
    return m;
}

/* batch_norm.cu; n names the node in errors. y [N,C] = act(z(x)); may run in place. backward: from
 * the last rows to the first. */
lk_status lk_cuda_normalise(lk_exec *x, const lk_node *n, const lk_tensor *in,
                            const lk_tensor *out, lk_normal from, lk_activation kind,
                            bool backward);
/* Moments of t; lk_cuda_moments_scratch(t) bytes at the start of scratch. */
size_t lk_cuda_moments_scratch(const lk_tensor *t);
lk_status lk_cuda_measure(lk_exec *x, const lk_node *n, const lk_tensor *t, lk_moments out);
/* Moments of t from those of chunks: mean and squares about it [chunks,C], rows [chunks]. */
lk_status lk_cuda_join_moments(lk_exec *x, const lk_node *n, const float *mean,
                               const float *square, const float *count, int chunks,
                               const lk_tensor *t, lk_moments out);
/* sums f32 [2,C] of dz = dy act'(z(in)) and of dz (in - mean); lk_cuda_batch_sums_scratch(in) bytes
 * at the start of scratch. */
size_t lk_cuda_batch_sums_scratch(const lk_tensor *t);
lk_status lk_cuda_batch_sums(lk_exec *x, const lk_node *n, const lk_tensor *in,
                             const lk_tensor *dy, lk_normal from, lk_activation kind, float *sums);

/* Those of V neighbouring channels, in registers. */
template <int V> struct lk_channels {
    float mean[V], scale[V], shift[V]; /* mean: for the gradient alone */
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
#pragma unroll
    for (int j = 0; j < V; j++) c.shift[j] = fmaf(-c.mean[j], c.scale[j], c.shift[j]);
}

/* Forward and backward must agree on z to the last bit: both call this. */
template <int V>
static __device__ __forceinline__ float lk_channel_z(const lk_channels<V> &c, int j, float x)
{
    return fmaf(x, c.scale[j], c.shift[j]);
}

/* Two values as E side by side, negative ones as 0: one instruction. NaN stays. */
static __device__ __forceinline__ uint32_t lk_relu_pair(float low, float high, __half)
{
    uint32_t r;
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
static __device__ __forceinline__ uint32_t lk_relu_pair(float low, float high, __nv_bfloat16)
{
    uint32_t r;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* act(z(x[j])) in pairs of halves. All that store normalised values as halves, eight at a time, or
 * compute with what others would have stored, call this, for the same bits. */
template <int A, typename E>
static __device__ __forceinline__ void lk_channels_pairs(const lk_channels<8> &c,
                                                         lk_activation kind, const float *x,
                                                         uint32_t *pair)
{
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        float low = lk_channel_z(c, j, x[j]), high = lk_channel_z(c, j + 1, x[j + 1]);
        if constexpr (A == LK_RELU)
            pair[j / 2] = lk_relu_pair(low, high, E());
        else
            pair[j / 2] = lk_pack<E>(lk_act_value<A>(kind, low), lk_act_value<A>(kind, high));
    }
}

/* p[j] = act(z(x[j])) */
template <int V, int A, typename E>
static __device__ __forceinline__ void lk_channels_put(const lk_channels<V> &c, lk_activation kind,
                                                       const float *x, E *p)
{
    if constexpr (sizeof(E) == 2 && V == 8) {
        uint32_t pair[4];
        lk_channels_pairs<A, E>(c, kind, x, pair);
        *(uint4 *)p = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    } else {
        float y[V];
#pragma unroll
        for (int j = 0; j < V; j++) y[j] = lk_act_value<A>(kind, lk_channel_z(c, j, x[j]));
        lk_put<V>(p, y);
    }
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
