/* linear: y = activation(x w^T + b), and its two gradient products; linear_moments, which the fuse
 * pass makes. */
#include "ops/ops.h"

static double products(const lk_tensor *x, const lk_tensor *w)
{
    return 2.0 * (double)lk_rows(x) * (double)w->dim[0] * (double)w->dim[1];
}

static void cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->in[0], n->in[1]);
}

static void cost_dw(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->in[0], n->out[0]);
}

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2];
    lk_tensor *dy = lk_cotangent(g, n->out[0]);
    if (n->attr.linear.activation == LK_GELU) {
        lk_node *a = lk_node_new(g, LK_OP_GELU_GRAD, 2, (lk_tensor *[]){dy, n->out[1]});
        dy = lk_node_output(g, a, lk_tensor_like(g, dy));
    }
    lk_node *dw = lk_node_new(g, LK_OP_LINEAR_DW, 2, (lk_tensor *[]){x, dy});
    lk_param_output(g, dw, w);
    lk_param_output(g, dw, b);
    if (lk_needs_gradient(x)) {
        lk_node *dx = lk_node_new(g, LK_OP_LINEAR_DX, 2, (lk_tensor *[]){dy, w});
        lk_contribute(g, x, lk_node_output(g, dx, lk_tensor_like(g, x)));
    }
}

lk_tensor *lk_linear(lk_graph *g, lk_tensor *x, lk_tensor *w, lk_tensor *b, lk_activation act)
{
    if (g->status != LK_OK || !x || !w) return NULL;
    char xs[96], ws[96];
    if (w->dims == 2 && b && lk_count(b) != w->dim[0]) {
        lk_error_at(g, "linear: bias %s does not fit weight %s", lk_shape_text(b, xs, sizeof xs),
                    lk_shape_text(w, ws, sizeof ws));
        return NULL;
    }
    if (w->dims != 2 || lk_cols(x) != w->dim[1]) {
        lk_error_at(g, "linear: input %s does not fit weight %s", lk_shape_text(x, xs, sizeof xs),
                    lk_shape_text(w, ws, sizeof ws));
        return NULL;
    }
    if (act != LK_LINEAR && act != LK_GELU) {
        lk_error_at(g, "linear: this activation is an op of its own (lk_activate)");
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_LINEAR, 3, (lk_tensor *[]){x, w, b});
    if (!n) return NULL;
    n->attr.linear.activation = act;
    lk_tensor *y = lk_tensor_like(g, x);
    if (!y) return NULL;
    y->dim[y->dims - 1] = w->dim[0];
    y->dtype = LK_F32;
    y->fixed_type = false;
    lk_node_output(g, n, y);
    lk_node_output(g, n, act == LK_GELU && g->training ? lk_tensor_like(g, y) : NULL);
    return y;
}

const lk_rule lk_rule_linear = {.gradient = gradient, .cost = cost, .in_place = -1};
const lk_rule lk_rule_linear_moments = {.cost = cost, .in_place = -1};
const lk_rule lk_rule_linear_dx = {.cost = cost, .in_place = -1};
const lk_rule lk_rule_linear_dw = {.cost = cost_dw, .in_place = -1};
const lk_rule lk_rule_gelu_grad = {.in_place = 0};
