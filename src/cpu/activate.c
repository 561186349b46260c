/* activate: functions of each element, and their gradients. */
#include "cpu/device.h"

/* v [n] = act(v) */
static void apply(lk_activation kind, int64_t n, float *v)
{
#define APPLY(k)                                                                                   \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) v[i] = lk_cpu_act(k, v[i])
    LK_CPU_EACH_ACTIVATION(kind, APPLY)
}

/* d [n] *= act'(z [n]) */
static void apply_slope(lk_activation kind, int64_t n, const float *z, float *d)
{
#define SLOPE(k)                                                                                   \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) d[i] *= lk_cpu_slope(k, z[i])
    LK_CPU_EACH_ACTIVATION(kind, SLOPE)
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
        apply(n->attr.activate.kind, m, block);
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
        apply_slope(n->attr.activate.kind, m, z, d);
        lk_cpu_store(t->dtype, to, i, m, d);
    }
    return LK_OK;
}
