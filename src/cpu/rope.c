/* rope: rotate the q and k heads of packed qkv. */
#include "cpu/device.h"

/* The cosines and sines of each position. */
static size_t turn_bytes(const lk_node *n)
{
    return lk_cpu_piece((size_t)(n->in[0]->dim[1] * n->attr.rope.head_dim) * sizeof(float));
}

size_t lk_cpu_rope_scratch(const lk_node *n)
{
    return turn_bytes(n) + lk_cpu_own_bytes(lk_cols(n->in[0]));
}

lk_status lk_cpu_rope(lk_exec *x, const lk_node *n)
{
    const lk_tensor *t = n->in[0];
    const void *from = lk_data(x, t);
    void *to = lk_data(x, n->out[0]);
    int64_t time = t->dim[1], width = lk_cols(t), rows = lk_rows(t);
    int dim = n->attr.rope.head_dim, half = dim / 2;
    int rotated = n->attr.rope.heads + n->attr.rope.kv_heads;
    float *turn = lk_cpu_scratch(x); /* [time, half] cos, then sin */
    char *rest = (char *)turn + turn_bytes(n);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < time; p++)
        for (int i = 0; i < half; i++) {
            double angle = (double)p * pow((double)n->attr.rope.theta, -2.0 * i / dim);
            turn[p * dim + i] = (float)cos(angle);
            turn[p * dim + half + i] = (float)(n->attr.rope.inverse ? -sin(angle) : sin(angle));
        }
#pragma omp parallel
    {
        float *row = lk_cpu_own(rest, width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const float *c = turn + r % time * dim, *s = c + half;
            lk_cpu_load(t->dtype, from, r * width, width, row);
            for (int h = 0; h < rotated; h++) {
                float *head = row + (int64_t)h * dim;
                for (int i = 0; i < half; i++) {
                    float a = head[i], b = head[i + half];
                    head[i] = a * c[i] - b * s[i];
                    head[i + half] = b * c[i] + a * s[i];
                }
            }
            lk_cpu_store(t->dtype, to, r * width, width, row);
        }
    }
    return LK_OK;
}
