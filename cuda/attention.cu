/* attention and attention_grad: streaming softmax, never a T x T matrix in memory.
 *
 * Columns of qkv [B,T,(H+2K)D]: q heads, k heads, v heads. Where a sequence attends to another one,
 * q [B,T,H D] and kv [B,S,2K D] lie apart; the kernels are the same, for they take q and kv each
 * with its own pointer, rows and width. Three sets of them:
 *   attention_wgmma.cuh, attention_wgmma_grad.cuh  f16, bf16; Hopper; head sizes 32, 64, 96, 128
 *   attention_mma.cuh                              f16, bf16; any device and head size
 *   attention_float.cuh                            f32
 * The set is chosen by device and shape alone. The first rotates dq and dk back where that is asked
 * for, and leaves column sums of the gradients; after the others rope.cu and linear.cu do. In every
 * set each sum has one owner, one order: no atomics, bits depend on the shape only. */
#include "cuda/attention_float.cuh"
#include "cuda/attention_mma.cuh"
#include "cuda/attention_wgmma_grad.cuh"

/* Run the statements with DP = the head size rounded up to one that is compiled. */
#define HEAD_SWITCH(d, DP, ...)                                                                    \
    do {                                                                                           \
        if ((d) <= 32) {                                                                           \
            enum { DP = 32 };                                                                      \
            __VA_ARGS__;                                                                           \
        } else if ((d) <= 64) {                                                                    \
            enum { DP = 64 };                                                                      \
            __VA_ARGS__;                                                                           \
        } else if ((d) <= 96) {                                                                    \
            enum { DP = 96 };                                                                      \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum { DP = 128 };                                                                     \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

static shape shape_of(const lk_exec *x, const lk_node *n)
{
    const lk_tensor *q = n->in[0], *kv = n->in[1] ? n->in[1] : q;
    shape a;
    a.t = (int)q->dim[1];
    a.s = (int)kv->dim[1];
    a.offset = a.s - a.t;
    a.d = n->attr.attention.head_dim;
    a.heads = n->attr.attention.heads;
    a.kv_heads = n->attr.attention.kv_heads;
    a.first = n->in[1] ? 0 : a.heads;
    a.width = lk_cols(q);
    a.kv_width = lk_cols(kv);
    a.causal = n->attr.attention.causal;
    a.alibi = n->attr.attention.alibi;
    a.scale = n->attr.attention.scale;
    a.keep = 1.0f / (1.0f - n->attr.attention.p);
    a.threshold = lk_dropout_threshold(n->attr.attention.p);
    a.site = n->attr.attention.site;
    a.leaf = (uint32_t)x->leaf;
    a.seed = x->seed;
    return a;
}

lk_status lk_cuda_attention_check(const lk_node *n)
{
    int d = n->attr.attention.head_dim;
    if (d < 16 || d > 128 || d % 16)
        return lk_fail(LK_E_INPUT,
                       "%s: attention on CUDA needs heads of a size of 16, 32, 48 .. 128, found "
                       "%d; change model.width or model.heads, the size is their quotient, or use "
                       "the device 'cpu'", n->scope, d);
    const lk_tensor *q = n->in[0], *kv = n->in[1] ? n->in[1] : q;
    int64_t t = q->dim[1] > kv->dim[1] ? q->dim[1] : kv->dim[1];
    int64_t pairs = q->dim[0] * n->attr.attention.heads;
    if (t > 1 << 24 || pairs * lk_ceil(t, 32) > INT32_MAX)
        return lk_fail(LK_E_INPUT,
                       "%s: attention of %d heads over %lld x %lld tokens: CUDA can do %d tokens, "
                       "and %d blocks of 32 of them in all heads and samples; make train.batch, "
                       "model.context or model.heads smaller, or use the device 'cpu'",
                       n->scope, n->attr.attention.heads, (long long)q->dim[0], (long long)t,
                       1 << 24, INT32_MAX);
    return LK_OK;
}

/* Whether node n runs by the kernels for Hopper: the device is one, the build has code for it. */
static bool by_hopper(const lk_cuda *d, const lk_node *n)
{
    return lk_cuda_hopper(d) && n->in[0]->dtype != LK_F32 && n->attr.attention.head_dim % 32 == 0 &&
           wgmma_compiled(k_attention_wgmma<__half, 64, false, false>);
}

/* Chunks of the column sums of gradient i, 0 or 1. */
static int64_t sums_chunks(const lk_node *n, int i)
{
    return attention_chunks(n->out[i]->dim[0], n->out[i]->dim[1]);
}

/* Floats of partial sums. lk_cuda_column_sums() needs no more: it cuts at most as finely. */
static int64_t sums_floats(const lk_node *n, int i)
{
    return n->out[2 + i] ? sums_chunks(n, i) * lk_cols(n->out[i]) : 0;
}

static size_t own_scratch(const lk_cuda *d, const lk_node *n)
{
    const lk_tensor *q = n->in[0], *kv = n->in[1] ? n->in[1] : q;
    bool dropped = by_hopper(d, n) && lk_dropout_threshold(n->attr.attention.p) > 0;
    return attention_scratch(q->dim[0] * n->attr.attention.heads, q->dim[1],
                             attention_masks(q->dim[1], kv->dim[1], dropped));
}

/* The kernels' own, then the partial sums of each gradient. */
size_t lk_cuda_attention_grad_scratch(const lk_cuda *d, const lk_node *n)
{
    return own_scratch(d, n) + (size_t)(sums_floats(n, 0) + sums_floats(n, 1)) * sizeof(float);
}

template <typename E, int DP> static cudaError_t forward(const attention_call &c)
{
    if constexpr (sizeof(E) == 4) return float_forward<DP>(c);
    else return c.hopper ? wgmma_forward<E, DP>(c) : mma_forward<E, DP>(c);
}

template <typename E, int DP> static cudaError_t backward(const attention_call &c)
{
    if constexpr (sizeof(E) == 4) return float_backward<DP>(c);
    else return c.hopper ? wgmma_backward<E, DP>(c) : mma_backward<E, DP>(c);
}

static attention_call call_of(lk_exec *x, const lk_node *n)
{
    attention_call c;
    c.stream = lk_cuda_stream_of(x);
    c.processors = ((lk_cuda *)x->device)->processors;
    c.hopper = by_hopper((const lk_cuda *)x->device, n);
    c.batch = n->in[0]->dim[0];
    c.a = shape_of(x, n);
    c.q = lk_data(x, n->in[0]);
    c.kv = n->in[1] ? lk_data(x, n->in[1]) : c.q;
    c.dy = NULL;
    c.dq = NULL;
    c.dkv = NULL;
    c.scratch = NULL;
    c.angles = NULL;
    c.q_sums = NULL;
    c.kv_sums = NULL;
    return c;
}

extern "C" lk_status lk_cuda_attention(lk_exec *x, const lk_node *n)
{
    LK_TRY(lk_cuda_attention_check(n));
    attention_call c = call_of(x, n);
    c.state = (const lk_step_state *)lk_data(x, n->in[2]);
    c.y = lk_data(x, n->out[0]);
    c.lse = (float *)lk_data(x, n->out[1]);
    LK_FLOAT_SWITCH(n->in[0]->dtype, E,
                    HEAD_SWITCH(c.a.d, DP, LK_CUDA_AT(n, (forward<E, DP>(c)))));
    return LK_OK;
}

/* Of the gradients, where asked for: from the partial sums that the kernels left, or by a pass. */
static void sum_columns(lk_exec *x, const lk_node *n, bool left, float *partial)
{
    for (int i = 0; i < 2; i++) {
        if (!n->out[2 + i]) continue;
        bool accumulate = n->accumulate >> (2 + i) & 1;
        lk_chunk_sum sum = {partial, (float *)lk_data(x, n->out[2 + i]), accumulate};
        if (left)
            lk_cuda_sum_chunks(lk_cuda_stream_of(x), &sum, 1, (int)sums_chunks(n, i),
                               lk_cols(n->out[i]));
        else lk_cuda_column_sums(x, n->out[i], partial, accumulate, sum.out);
        partial += sums_floats(n, i);
    }
}

extern "C" lk_status lk_cuda_attention_grad(lk_exec *x, const lk_node *n)
{
    LK_TRY(lk_cuda_attention_check(n));
    attention_call c = call_of(x, n);
    c.y = lk_data(x, n->in[2]);
    c.lse = (float *)lk_data(x, n->in[3]);
    c.dy = lk_data(x, n->in[4]);
    c.state = (const lk_step_state *)lk_data(x, n->in[5]);
    c.dq = lk_data(x, n->out[0]);
    c.dkv = n->in[1] ? lk_data(x, n->out[1]) : c.dq;
    c.scratch = (float *)x->base[LK_REGION_SCRATCH];
    float *partial = c.scratch + own_scratch((const lk_cuda *)x->device, n) / sizeof(float);
    if (n->out[2]) c.q_sums = partial;
    if (n->out[3]) c.kv_sums = partial + sums_floats(n, 0);
    if (!n->in[1]) c.kv_sums = c.q_sums;
    bool rotated = lk_rotation_of(n) != NULL;
    if (rotated && c.hopper) LK_TRY(lk_cuda_angles((lk_cuda *)x->device, n, &c.angles));
    LK_FLOAT_SWITCH(n->in[0]->dtype, E,
                    HEAD_SWITCH(c.a.d, DP, LK_CUDA_AT(n, (backward<E, DP>(c)))));
    if (rotated && !c.hopper) LK_TRY(lk_cuda_rotate(x, n, n->out[0]));
    sum_columns(x, n, c.hopper, partial);
    return lk_cuda_launched(n);
}
