/* rope: rotate the q and k heads of packed qkv, as a node of its own or at the end of another. */
#include "cpu/device.h"

/* The cosines and sines of each position. */
static size_t turn_bytes(const lk_node *n)
{
    int64_t floats = n->out[0]->dim[1] * lk_rotation_of(n)->head_dim;
    return lk_cpu_piece((size_t)floats * sizeof(float));
}

size_t lk_cpu_rope_scratch(const lk_node *n)
{
    return lk_rotation_of(n) ? turn_bytes(n) + lk_cpu_own_bytes(lk_cols(n->out[0])) : 0;
}

void lk_cpu_rotate(lk_exec *x, const lk_node *n, const lk_tensor *t)
{
    const lk_rotation *r = lk_rotation_of(n);
    const void *from = lk_data(x, t);
    void *to = lk_data(x, n->out[0]);
    int64_t time = t->dim[1], width = lk_cols(t), rows = lk_rows(t);
    int dim = r->head_dim, half = dim / 2, rotated = r->heads + r->kv_heads;
    float *turn = lk_cpu_scratch(x); /* [time, half] cos, then sin */
    char *rest = (char *)turn + turn_bytes(n);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < time; p++)
        for (int i = 0; i < half; i++) {
            double angle = (double)p * pow((double)r->theta, -2.0 * i / dim);
            turn[p * dim + i] = (float)cos(angle);
            turn[p * dim + half + i] = (float)(r->inverse ? -sin(angle) : sin(angle));
        }
#pragma omp parallel
    {
        float *row = lk_cpu_own(rest, width);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            const float *c = turn + i % time * dim, *s = c + half;
            lk_cpu_load(t->dtype, from, i * width, width, row);
            for (int h = 0; h < rotated; h++) {
                float *head = row + (int64_t)h * dim;
                for (int k = 0; k < half; k++) {
                    float a = head[k], b = head[k + half];
                    head[k] = a * c[k] - b * s[k];
                    head[k + half] = b * c[k] + a * s[k];
                }
            }
            lk_cpu_store(t->dtype, to, i * width, width, row);
        }
    }
}

lk_status lk_cpu_rope(lk_exec *x, const lk_node *n)
{
    lk_cpu_rotate(x, n, n->in[0]);
    return LK_OK;
}
