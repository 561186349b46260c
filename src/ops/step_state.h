/* The state of a run that lives in device memory, and the scalar logic of one optimizer step.
 *
 * Everything that decides a step (learning rate, loss scale, skip, clip) is computed here from
 * this struct on the device, so that no host synchronisation happens inside a step. The same
 * inline functions run on both backends. The struct is saved byte for byte in a checkpoint. */
#ifndef LK_OPS_STEP_STATE_H
#define LK_OPS_STEP_STATE_H

#include "base/philox.h"

#include <math.h>

typedef struct lk_step_state {
    uint64_t step;        /* steps done: position of schedule, data order and dropout keys */
    uint64_t updates;     /* optimizer updates applied (Adam's t) */
    uint64_t skipped;     /* steps whose loss or gradient was not finite */
    float loss_scale;     /* the loss gradient is seeded with this; 1 without scaling */
    uint32_t good_steps;  /* finite steps since the last change of loss_scale */
    float loss;           /* mean loss over the global batch of the last step */
    float grad_norm;      /* global L2 norm of the unscaled gradient before clipping */
    float lr;             /* learning rate used in the last step */
    float grad_factor;    /* gradients are multiplied by this: 1/(scale*leaves) and clipping */
    float correction1;    /* 1/(1-beta1^t) */
    float correction2;    /* 1/(1-beta2^t) */
    uint32_t finite;      /* 0: the last step's loss or gradient was not; update skipped */
    uint32_t skipped_in_row; /* steps up to the last one */
} lk_step_state;

/* Hyperparameters of the optimizer nodes; constants of a run. */
typedef struct lk_optimizer {
    float lr, min_lr;       /* peak and floor of the cosine */
    uint64_t warmup, steps; /* linear warmup, then cosine until `steps` */
    float beta1, beta2, eps, weight_decay;
    float clip;             /* largest global norm; 0: no clipping */
    float momentum;         /* share of a step's value in a running statistic */
    float ema;              /* decay of the moving average of the parameters; 0: none is kept */
    int leaves;             /* gradients of this many leaves were summed; a power of two */
    int scaling;            /* dynamic loss scaling on */
    float growth, backoff;  /* factors; powers of two round nothing */
    uint32_t growth_interval;
    float max_scale;
} lk_optimizer;

/* Learning rate of step `t` (0-based): linear warmup, cosine to the floor
 * (I. Loshchilov and F. Hutter, "SGDR", ICLR 2017, eq. 5). */
LK_HD float lk_learning_rate(const lk_optimizer *o, uint64_t t)
{
    if (t < o->warmup) return (float)((double)o->lr * (double)(t + 1) / (double)(o->warmup + 1));
    if (t >= o->steps) return o->min_lr;
    double x = (double)(t - o->warmup) / (double)(o->steps > o->warmup ? o->steps - o->warmup : 1);
    return (float)(o->min_lr + 0.5 * (1.0 + cos(3.14159265358979323846 * x)) *
                                   ((double)o->lr - o->min_lr));
}

/* Decide the step from the sum of squares of the reduced (still scaled) gradient and the reduced
 * sum of leaf losses: skip or apply, clip factor, learning rate, bias corrections. */
LK_HD void lk_step_decide(lk_step_state *s, const lk_optimizer *o, double square_sum,
                          float loss_sum)
{
    double unscale = 1.0 / ((double)s->loss_scale * o->leaves);
    double norm = sqrt(square_sum) * unscale;
    s->loss = loss_sum / (float)o->leaves;
    s->grad_norm = (float)norm;
    s->finite = isfinite(square_sum) && isfinite(loss_sum) ? 1u : 0u;
    s->lr = lk_learning_rate(o, s->step);
    s->grad_factor = (float)(o->clip > 0 && norm > o->clip ? unscale * o->clip / norm : unscale);
    s->correction1 = (float)(1.0 / (1.0 - pow((double)o->beta1, (double)(s->updates + 1))));
    s->correction2 = (float)(1.0 / (1.0 - pow((double)o->beta2, (double)(s->updates + 1))));
}

/* One AdamW update of one element (I. Loshchilov and F. Hutter, "Decoupled weight decay
 * regularization", ICLR 2019, alg. 2). `decay` is 0 for biases and norms. Returns the parameter. */
LK_HD float lk_adamw(const lk_step_state *s, const lk_optimizer *o, float decay, float param,
                     float grad, float *moment1, float *moment2)
{
    float g = grad * s->grad_factor;
    float m = o->beta1 * *moment1 + (1.0f - o->beta1) * g;
    float v = o->beta2 * *moment2 + (1.0f - o->beta2) * g * g;
    *moment1 = m;
    *moment2 = v;
    float update = m * s->correction1 / (sqrtf(v * s->correction2) + o->eps);
    return param - s->lr * (update + decay * param);
}

/* A running statistic after a step in which the leaves measured values that sum to `sum`
 * (S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015). */
LK_HD float lk_running(const lk_optimizer *o, float statistic, float sum)
{
    return statistic + o->momentum * (sum / (float)o->leaves - statistic);
}

/* The moving average of a parameter after an update to `param`; the decay grows to its value over
 * the first updates so that the start is forgotten, as in TensorFlow's
 * ExponentialMovingAverage. */
LK_HD float lk_ema(const lk_step_state *s, const lk_optimizer *o, float average, float param)
{
    float t = (float)s->updates, start = (1.0f + t) / (10.0f + t);
    float decay = start < o->ema ? start : o->ema;
    return average + (1.0f - decay) * (param - average);
}

/* End of a step: count it and adapt the loss scale (P. Micikevicius et al., "Mixed precision
 * training", ICLR 2018, section 3.2; growth and back-off as in Apex and torch.amp). */
LK_HD void lk_step_advance(lk_step_state *s, const lk_optimizer *o)
{
    s->step++;
    s->skipped_in_row = s->finite ? 0 : s->skipped_in_row + 1;
    if (s->finite) {
        s->updates++;
        if (o->scaling && ++s->good_steps >= o->growth_interval) {
            s->good_steps = 0;
            if (s->loss_scale * o->growth <= o->max_scale) s->loss_scale *= o->growth;
        }
    } else {
        s->skipped++;
        s->good_steps = 0;
        if (o->scaling && s->loss_scale * o->backoff >= 1.0f) s->loss_scale *= o->backoff;
    }
}

#endif
