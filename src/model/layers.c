/* Layers and their parameters. */
#include "model/layers.h"

lk_tensor *lk_layers_norm(lk_graph *g, lk_tensor *x, lk_norm_kind kind, bool bias, float eps)
{
    if (!x) return NULL;
    int64_t width = lk_cols(x);
    lk_tensor *w = lk_parameter(g, "weight", 1, &width, LK_INIT_ONE, 0, false);
    lk_tensor *b = bias ? lk_parameter(g, "bias", 1, &width, LK_INIT_ZERO, 0, false) : NULL;
    return lk_norm(g, x, w, b, kind, eps);
}

void lk_layers_weights(lk_graph *g, int64_t in, int64_t out, float std, lk_tensor **w,
                      lk_tensor **b)
{
    *w = lk_parameter(g, "weight", 2, (int64_t[]){out, in}, LK_INIT_NORMAL, std, true);
    if (b) *b = lk_parameter(g, "bias", 1, &out, LK_INIT_ZERO, 0, false);
}

lk_tensor *lk_layers_dense(lk_graph *g, const char *scope, lk_tensor *x, int64_t out, float std,
                          bool bias, lk_activation activation)
{
    lk_tensor *w, *b = NULL;
    if (!x) return NULL;
    lk_scope_push(g, "%s", scope);
    lk_layers_weights(g, lk_cols(x), out, std, &w, bias ? &b : NULL);
    lk_tensor *y = lk_linear(g, x, w, b, activation);
    lk_scope_pop(g);
    return y;
}
