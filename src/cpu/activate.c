/* activate: functions of each element, and their slopes. A NaN stays one, so that an overflow
 * reaches the gradient norm. */
#include "cpu/device.h"

#define EACH(expression)                                                                           \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++)                                            \
    {                                                                                              \
        float x = v[i];                                                                            \
        v[i] = expression;                                                                         \
    }

static inline float hard_sigmoid(float x)
{
    float h = x + 3.0f;
    h = h < 0.0f ? 0.0f : h;
    h = h > 6.0f ? 6.0f : h;
    return h * (1.0f / 6.0f);
}

void lk_cpu_apply(lk_activation kind, int64_t n, float *v)
{
    switch (kind) {
    case LK_LINEAR: break;
    case LK_GELU: EACH(lk_cpu_gelu(x)) break;
    case LK_RELU: EACH(x < 0.0f ? 0.0f : x) break;
    case LK_HARD_SWISH: EACH(x * hard_sigmoid(x)) break;
    case LK_HARD_SIGMOID: EACH(hard_sigmoid(x)) break;
    case LK_SIGMOID: EACH(lk_cpu_sigmoid(x)) break;
    }
}

#undef EACH
#define EACH(expression)                                                                           \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++)                                            \
    {                                                                                              \
        float x = z[i];                                                                            \
        d[i] *= expression;                                                                        \
    }

static inline float sigmoid_slope(float x)
{
    float s = lk_cpu_sigmoid(x);
    return s * (1.0f - s);
}

static inline float hard_swish_slope(float x)
{
    float middle = (2.0f * x + 3.0f) * (1.0f / 6.0f);
    middle = x <= -3.0f ? 0.0f : middle;
    return x > 3.0f ? 1.0f : middle;
}

void lk_cpu_apply_slope(lk_activation kind, int64_t n, const float *z, float *d)
{
    switch (kind) {
    case LK_LINEAR: break;
    case LK_GELU: EACH(lk_cpu_gelu_slope(x)) break;
    case LK_RELU: EACH(x > 0.0f ? 1.0f : 0.0f) break;
    case LK_HARD_SWISH: EACH(hard_swish_slope(x)) break;
    case LK_HARD_SIGMOID: EACH((x > -3.0f) & (x <= 3.0f) ? 1.0f / 6.0f : 0.0f) break;
    case LK_SIGMOID: EACH(sigmoid_slope(x)) break;
    }
}

lk_status lk_cpu_activate(lk_exec *x, const lk_node *n)
{
    const lk_tensor *t = n->in[0];
    const void *from = lk_data(x, t);
    void *to = lk_data(x, n->out[0]);
    int64_t count = lk_count(t);
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK) {
        float block[LK_CPU_BLOCK];
        int64_t m = count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK;
        lk_cpu_load(t->dtype, from, i, m, block);
        lk_cpu_apply(n->attr.activate.kind, m, block);
        lk_cpu_store(t->dtype, to, i, m, block);
    }
    return LK_OK;
}

lk_status lk_cpu_activate_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *t = n->in[0];
    const void *from = lk_data(x, t), *dy = lk_data(x, n->in[1]);
    void *to = lk_data(x, n->out[0]);
    int64_t count = lk_count(t);
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK) {
        float a[LK_CPU_BLOCK], d[LK_CPU_BLOCK];
        int64_t m = count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK;
        const float *z = lk_cpu_view(t->dtype, from, i, m, a);
        lk_cpu_load(t->dtype, dy, i, m, d);
        lk_cpu_apply_slope(n->attr.activate.kind, m, z, d);
        lk_cpu_store(t->dtype, to, i, m, d);
    }
    return LK_OK;
}
