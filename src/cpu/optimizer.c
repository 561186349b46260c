/* grad_norm, adamw, step_end: over the flat buffers, whose length is a multiple of BLOCK. */
#include "base/half.h"
#include "cpu/device.h"

enum { BLOCK = 16384, LANES = 8 };

size_t lk_cpu_grad_norm_scratch(const lk_node *n)
{
    return (size_t)(n->attr.optimizer.learned / BLOCK + 1) * sizeof(double);
}

lk_status lk_cpu_grad_norm(lk_exec *x, const lk_node *n)
{
    const float *grad = lk_data(x, n->in[0]);
    lk_step_state *state = lk_data(x, n->in[1]);
    int64_t learned = n->attr.optimizer.learned, blocks = (learned + BLOCK - 1) / BLOCK;
    double *partial = lk_cpu_scratch(x), sum = 0;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        double lane[LANES] = {0};
        int64_t i = b * BLOCK, end = i + BLOCK < learned ? i + BLOCK : learned;
        for (; i + LANES <= end; i += LANES)
            for (int k = 0; k < LANES; k++) lane[k] += (double)grad[i + k] * (double)grad[i + k];
        for (int k = 0; i + k < end; k++) lane[k] += (double)grad[i + k] * (double)grad[i + k];
        partial[b] = 0;
        for (int k = 0; k < LANES; k++) partial[b] += lane[k];
    }
    for (int64_t b = 0; b < blocks; b++) sum += partial[b];
    lk_step_decide(state, &n->attr.optimizer.hyper, sum, grad[n->attr.optimizer.params]);
    return LK_OK;
}

/* Floats [first, first + count), all with the same decay. */
static void update(const lk_step_state *s, const lk_optimizer *o, float decay, int64_t count,
                   const float *restrict grad, float *restrict param, float *restrict m,
                   float *restrict v)
{
    lk_step_state step = *s;
    lk_optimizer hyper = *o;
    for (int64_t i = 0; i < count; i++)
        param[i] = lk_adamw(&step, &hyper, decay, param[i], grad[i], &m[i], &v[i]);
}

/* How many of the `count` elements from `first` lie before `border`. */
static int64_t before(int64_t border, int64_t first, int64_t count)
{
    return border - first < 0 ? 0 : border - first < count ? border - first : count;
}

lk_status lk_cpu_adamw(lk_exec *x, const lk_node *n)
{
    const float *grad = lk_data(x, n->in[0]);
    float *param = lk_data(x, n->in[1]), *m = lk_data(x, n->in[2]), *v = lk_data(x, n->in[3]);
    const lk_step_state *state = lk_data(x, n->in[4]);
    const lk_tensor *shadow = n->in[5];
    void *half = lk_data(x, shadow);
    float *ema = lk_data(x, n->in[6]);
    const lk_optimizer *o = &n->attr.optimizer.hyper;
    int64_t params = n->attr.optimizer.params;
    if (!state->finite) return LK_OK;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < params; i += BLOCK) {
        int64_t count = params - i < BLOCK ? params - i : BLOCK;
        int64_t decayed = before(n->attr.optimizer.decayed, i, count);
        int64_t learned = before(n->attr.optimizer.learned, i, count);
        update(state, o, o->weight_decay, decayed, grad + i, param + i, m + i, v + i);
        int64_t k = i + decayed;
        update(state, o, 0.0f, learned - decayed, grad + k, param + k, m + k, v + k);
        for (k = i + learned; k < i + count; k++) param[k] = lk_running(o, param[k], grad[k]);
        for (k = i; ema && k < i + count; k++) ema[k] = lk_ema(state, o, ema[k], param[k]);
        if (half) lk_cpu_store(shadow->dtype, half, i, count, param + i);
    }
    return LK_OK;
}

lk_status lk_cpu_step_end(lk_exec *x, const lk_node *n)
{
    lk_step_advance(lk_data(x, n->in[0]), &n->attr.optimizer.hyper);
    return LK_OK;
}
