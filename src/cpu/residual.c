/* dropout, residual (x + dropout(branch)), add. */
#include "cpu/device.h"

/* block [m], elements first .. first+m-1 of a site (first a multiple of 4): drop and scale. */
static void drop(const lk_exec *x, const lk_node *n, const lk_tensor *state_tensor, int64_t first,
                 int64_t m, float *block)
{
    const lk_step_state *state = lk_data(x, state_tensor);
    float p = n->attr.dropout.p, scale = 1.0f / (1.0f - p);
    uint32_t threshold = lk_dropout_threshold(p);
    int64_t group = n->attr.dropout.group;
    for (int64_t i = 0, end; group > 1 && i < m; i = end) { /* one word for each group */
        int64_t g = (first + i) / group;
        lk_u32x4 w = lk_dropout_words(x->seed, n->attr.dropout.site, (uint32_t)x->leaf, state->step,
                                      (uint64_t)g);
        float factor = w.v[g & 3] >= threshold ? scale : 0.0f;
        end = (g + 1) * group - first < m ? (g + 1) * group - first : m;
        for (int64_t k = i; k < end; k++) block[k] *= factor;
    }
    for (int64_t i = 0; group <= 1 && i < m; i += 4) {
        lk_u32x4 w = lk_dropout_words(x->seed, n->attr.dropout.site, (uint32_t)x->leaf,
                                      state->step, (uint64_t)(first + i));
        for (int64_t k = 0; k < 4 && i + k < m; k++)
            block[i + k] = w.v[k] >= threshold ? block[i + k] * scale : 0.0f;
    }
}

lk_status lk_cpu_dropout(lk_exec *x, const lk_node *n)
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
        drop(x, n, n->in[1], i, m, block);
        lk_cpu_store(t->dtype, to, i, m, block);
    }
    return LK_OK;
}

/* out = in[0] + in[1], which is dropped first where `state` is given. */
static lk_status sum(lk_exec *x, const lk_node *n, const lk_tensor *state)
{
    const lk_tensor *t = n->in[0];
    const void *stream = lk_data(x, t), *branch = lk_data(x, n->in[1]);
    void *to = lk_data(x, n->out[0]);
    int64_t count = lk_count(t);
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK) {
        float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
        int64_t m = count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK;
        lk_cpu_load(t->dtype, stream, i, m, a);
        lk_cpu_load(t->dtype, branch, i, m, b);
        if (state) drop(x, n, state, i, m, b);
        for (int64_t k = 0; k < m; k++) a[k] += b[k];
        lk_cpu_store(t->dtype, to, i, m, a);
    }
    return LK_OK;
}

lk_status lk_cpu_residual(lk_exec *x, const lk_node *n)
{
    return sum(x, n, n->attr.dropout.p > 0 ? n->in[2] : NULL);
}

lk_status lk_cpu_add(lk_exec *x, const lk_node *n) { return sum(x, n, NULL); }
