/* swiglu: silu of the first half of a row times the second half. */
#include "cpu/device.h"

lk_status lk_cpu_swiglu(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *out = n->out[0];
    const void *from = lk_data(x, in);
    void *to = lk_data(x, out);
    int64_t rows = lk_rows(out), f = lk_cols(out);
#pragma omp parallel for schedule(static) if (rows * f > LK_CPU_SMALL)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < f; j += LK_CPU_BLOCK) {
            float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
            int64_t m = f - j < LK_CPU_BLOCK ? f - j : LK_CPU_BLOCK;
            lk_cpu_load(in->dtype, from, i * 2 * f + j, m, a);
            lk_cpu_load(in->dtype, from, i * 2 * f + f + j, m, b);
            for (int64_t k = 0; k < m; k++) a[k] = a[k] * lk_cpu_sigmoid(a[k]) * b[k];
            lk_cpu_store(out->dtype, to, i * f + j, m, a);
        }
    return LK_OK;
}

lk_status lk_cpu_swiglu_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *cotangent = n->in[1];
    const void *from = lk_data(x, in), *dy = lk_data(x, cotangent);
    void *to = lk_data(x, n->out[0]);
    int64_t rows = lk_rows(cotangent), f = lk_cols(cotangent);
#pragma omp parallel for schedule(static) if (rows * f > LK_CPU_SMALL)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < f; j += LK_CPU_BLOCK) {
            float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK], d[LK_CPU_BLOCK];
            int64_t m = f - j < LK_CPU_BLOCK ? f - j : LK_CPU_BLOCK;
            lk_cpu_load(in->dtype, from, i * 2 * f + j, m, a);
            lk_cpu_load(in->dtype, from, i * 2 * f + f + j, m, b);
            lk_cpu_load(in->dtype, dy, i * f + j, m, d);
            for (int64_t k = 0; k < m; k++) { /* silu' = s (1 + x (1 - s)) */
                float s = lk_cpu_sigmoid(a[k]);
                float da = d[k] * b[k] * s * (1.0f + a[k] * (1.0f - s));
                b[k] = d[k] * a[k] * s;
                a[k] = da;
            }
            lk_cpu_store(in->dtype, to, i * 2 * f + j, m, a);
            lk_cpu_store(in->dtype, to, i * 2 * f + f + j, m, b);
        }
    return LK_OK;
}
