/* gate and its gradient by the image; that by the factors is a sum as in pool.c. */
#include "cpu/device.h"

/* to [B,H,W,C] = x s [B,C] (+ dp [B,C] / (H W)) */
static void scale(lk_exec *e, const lk_tensor *x, const lk_tensor *s, const lk_tensor *dp,
                  const lk_tensor *out)
{
    int64_t batch = x->dim[0], hw = x->dim[1] * x->dim[2], channels = x->dim[3];
    const void *from = lk_data(e, x), *factors = lk_data(e, s), *more = lk_data(e, dp);
    void *to = lk_data(e, out);
    float share = 1.0f / (float)hw;
#pragma omp parallel for schedule(static) if (lk_count(x) > LK_CPU_SMALL)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t c = 0; c < channels; c += LK_CPU_BLOCK) {
            float factor[LK_CPU_BLOCK], shift[LK_CPU_BLOCK], a[LK_CPU_BLOCK], z[LK_CPU_BLOCK];
            int64_t m = channels - c < LK_CPU_BLOCK ? channels - c : LK_CPU_BLOCK;
            lk_cpu_load(s->dtype, factors, b * channels + c, m, factor);
            if (more) lk_cpu_load(dp->dtype, more, b * channels + c, m, shift);
            for (int64_t j = 0; more && j < m; j++) shift[j] *= share;
            for (int64_t i = 0; i < hw; i++) {
                int64_t at = (b * hw + i) * channels + c;
                const float *u = lk_cpu_view(x->dtype, from, at, m, a);
                float *v = lk_cpu_place(out->dtype, to, at, z);
#pragma omp simd
                for (int64_t j = 0; j < m; j++) v[j] = u[j] * factor[j];
                /* a loop of its own: one rounding after the product, as in a node of its own */
#pragma omp simd
                for (int64_t j = 0; j < (more ? m : 0); j++) v[j] += shift[j];
                lk_cpu_settle(out->dtype, to, at, m, v);
            }
        }
}

lk_status lk_cpu_gate(lk_exec *x, const lk_node *n)
{
    scale(x, n->in[0], n->in[1], NULL, n->out[0]);
    return LK_OK;
}

lk_status lk_cpu_gate_dx(lk_exec *x, const lk_node *n)
{
    scale(x, n->in[1], n->in[0], n->inputs > 2 ? n->in[2] : NULL, n->out[0]);
    return LK_OK;
}
