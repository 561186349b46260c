/* The differentiable ops and the step ops in plain double loops, written from src/ops/ops.h
 * alone. Slow on purpose: nothing is fused, blocked or parallel. Arrays are dense, row-major. */
#ifndef LK_TESTS_REFERENCE_H
#define LK_TESTS_REFERENCE_H

#include "ops/ops.h"

/* Where dropout draws its words from. */
typedef struct ref_draw {
    uint64_t seed, step;
    uint32_t leaf, site;
    float p;
} ref_draw;

/* y [n,m] = act(x [n,k] w [m,k]^T + b [m] or NULL) */
void ref_linear(int64_t n, int64_t k, int64_t m, lk_activation act, const double *x,
                const double *w, const double *b, double *y);
/* x [n,2f], y [n,f] */
void ref_swiglu(int64_t n, int64_t f, const double *x, double *y);
/* x, y [n,c]; b may be NULL */
void ref_norm(int64_t n, int64_t c, lk_norm_kind kind, float eps, const double *x, const double *w,
              const double *b, double *y);
/* tokens [batch,time] (whole numbers), table [v,c], positions [p,c] or NULL, y [batch,time,c] */
void ref_embed(int64_t batch, int64_t time, int64_t c, lk_embed_position kind,
               const double *tokens, const double *table, const double *positions, double *y);
void ref_dropout(int64_t n, ref_draw draw, const double *x, double *y);
/* qkv, y [batch,time,(heads + 2 kv) dim] */
void ref_rope(int64_t batch, int64_t time, int heads, int kv, int dim, float theta, bool inverse,
              const double *qkv, double *y);
/* y [batch,time,heads dim] */
void ref_attention(int64_t batch, int64_t time, int heads, int kv, int dim, bool causal,
                   bool alibi, ref_draw draw, const double *qkv, double *y);
double ref_xent(int64_t n, int64_t v, int64_t classes, const double *logits,
                const double *targets);

/* One optimizer step on `n` elements in double: decision, AdamW, end of step. `grad` holds the
 * sum over leaves, times the loss scale; loss_sum the sum of the leaf losses. */
typedef struct ref_optimizer_state {
    uint64_t step, updates, skipped;
    uint32_t good_steps;
    double loss_scale, loss, grad_norm, lr;
    bool finite;
} ref_optimizer_state;

void ref_step(ref_optimizer_state *s, const lk_optimizer *o, int64_t n, int64_t decayed,
              const double *grad, double loss_sum, double *param, double *moment1,
              double *moment2);

#endif
