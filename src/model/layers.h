/* Layers that models of every kind are built of. */
#ifndef LK_MODEL_LAYERS_H
#define LK_MODEL_LAYERS_H

#include "ops/ops.h"

/* Norm of x [.., C] over C in the current scope: weight [C], and bias [C] if `bias`. */
lk_tensor *lk_layers_norm(lk_graph *g, lk_tensor *x, lk_norm_kind kind, bool bias, float eps);
/* A linear layer on x [.., in] in scope `scope`: weight [out, in] ~ N(0, std), and bias [out] if
 * `bias`. */
lk_tensor *lk_layers_dense(lk_graph *g, const char *scope, lk_tensor *x, int64_t out, float std,
                          bool bias, lk_activation activation);
/* The parameters of such a layer alone, in the current scope; b NULL: no bias. */
void lk_layers_weights(lk_graph *g, int64_t in, int64_t out, float std, lk_tensor **w,
                      lk_tensor **b);

#endif
