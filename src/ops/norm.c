/* norm: layer norm or RMS norm over the last dimension. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0];
    lk_node *d = lk_node_new(
        g, LK_OP_NORM_GRAD, 5,
        (lk_tensor *[]){x, n->in[1], n->out[1], n->out[2], lk_cotangent(g, n->out[0])});
    if (!d) return;
    d->attr = n->attr;
    lk_tensor *dx = lk_node_output(g, d, lk_tensor_like(g, x));
    lk_param_output(g, d, n->in[1]);
    lk_param_output(g, d, n->in[2]);
    lk_contribute(g, x, dx);
}

lk_tensor *lk_norm(lk_graph *g, lk_tensor *x, lk_tensor *w, lk_tensor *b, lk_norm_kind kind,
                   float eps)
{
    if (g->status != LK_OK || !x || !w) return NULL;
    if (lk_count(w) != lk_cols(x) || (b && lk_count(b) != lk_cols(x))) {
        char xs[96], ws[96];
        lk_error_at(g, "norm: input %s and weight %s", lk_shape_text(x, xs, sizeof xs),
                    lk_shape_text(w, ws, sizeof ws));
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_NORM, 3, (lk_tensor *[]){x, w, b});
    if (!n) return NULL;
    n->attr.norm.kind = kind;
    n->attr.norm.eps = eps;
    lk_tensor *y = lk_node_output(g, n, lk_tensor_like(g, x));
    int64_t rows = lk_rows(x);
    lk_node_output(g, n, kind == LK_LAYERNORM ? lk_tensor_f32(g, 1, &rows) : NULL);
    lk_node_output(g, n, lk_tensor_f32(g, 1, &rows));
    return y;
}

const lk_rule lk_rule_norm = {.gradient = gradient, .in_place = -1, .float_inputs = 6};
const lk_rule lk_rule_norm_grad = {.in_place = 5};
const lk_rule lk_rule_residual_norm = {.in_place = 1};
const lk_rule lk_rule_residual_norm_grad = {.in_place = 5};
