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
/* 0, or 1/(1-p): what element `index` is multiplied by. */
double ref_keep(ref_draw d, uint64_t index);
void ref_dropout(int64_t n, ref_draw draw, const double *x, double *y);
/* qkv, y [batch,time,(heads + 2 kv) dim] */
void ref_rope(int64_t batch, int64_t time, int heads, int kv, int dim, float theta, bool inverse,
              const double *qkv, double *y);
/* q, y [batch,time,heads dim], kv [batch,keys,2 kv_heads dim]; kv NULL: q is qkv, keys is time */
void ref_attention(int64_t batch, int64_t time, int64_t keys, int heads, int kv_heads, int dim,
                   bool causal, bool alibi, ref_draw draw, const double *q, const double *kv,
                   double *y);
double ref_xent(int64_t n, int64_t v, int64_t classes, const double *logits,
                const double *targets);

/* ---- images: reference_vision.c ------------------------------------------------------------ */

typedef struct ref_window { /* of a convolution or a pool over x [batch,height,width,in] */
    int64_t batch, height, width, in;
    int kh, kw, stride, pad;
} ref_window;

int64_t ref_rows(const ref_window *s);    /* of the result */
int64_t ref_columns(const ref_window *s);
/* w [out,kh,kw,in], y [batch,rows,columns,out] */
void ref_conv(const ref_window *s, int64_t out, const double *x, const double *w, double *y);
/* w [kh,kw,in], y [batch,rows,columns,in] */
void ref_dwconv(const ref_window *s, const double *x, const double *w, double *y);
/* y as for ref_dwconv; y or index may be NULL */
void ref_max_pool(const ref_window *s, const double *x, double *y, double *index);
/* x, y [n,c], w [k] */
void ref_channel_conv(int64_t n, int64_t c, int64_t k, const double *x, const double *w,
                      double *y);
double ref_activate(lk_activation kind, double x);
/* x [n,c]; mean and biased variance [c] */
void ref_moments(int64_t n, int64_t c, const double *x, double *mean, double *var);
/* x, y [n,c], the others [c] */
void ref_batch_norm(int64_t n, int64_t c, float eps, lk_activation act, const double *x,
                    const double *w, const double *b, const double *mean, const double *var,
                    double *y);
/* x [n,pixels,c], y [n,c] */
void ref_pool(int64_t n, int64_t pixels, int64_t c, const double *x, double *y);
/* x, y [n,pixels,c], s [n,c] */
void ref_gate(int64_t n, int64_t pixels, int64_t c, const double *x, const double *s, double *y);
/* x, y [n,c], w1 [s,c], b1 [s], w2 [c,s], b2 [c]; y, h [n,s] or z [n,c] may be NULL */
void ref_excite(int64_t n, int64_t c, int64_t s, const double *x, const double *w1,
                const double *b1, const double *w2, const double *b2, double *y, double *h,
                double *z);
/* logits, targets [n,k]; labels [n] (whole numbers) */
double ref_soft_xent(int64_t n, int64_t k, const double *logits, const double *targets);
double ref_hits(int64_t n, int64_t k, const double *logits, const double *labels);

/* One optimizer step on `n` elements in double: decision, AdamW on the first `learned` (of which
 * the first `decayed` decay), running statistics on the others, moving average, end of step. `grad`
 * holds the sum over leaves, of the learned times the loss scale; loss_sum the sum of the leaf
 * losses; `ema` may be NULL. */
typedef struct ref_optimizer_state {
    uint64_t step, updates, skipped;
    uint32_t good_steps;
    double loss_scale, loss, grad_norm, lr;
    bool finite;
} ref_optimizer_state;

void ref_step(ref_optimizer_state *s, const lk_optimizer *o, const lk_params *p,
              const double *grad, double loss_sum, double *param, double *moment1, double *moment2,
              double *ema);

#endif
