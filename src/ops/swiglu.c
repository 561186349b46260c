/* swiglu: gate and value halves of the last dimension. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *dy = lk_cotangent(g, n->out[0]);
    lk_node *d = lk_node_new(g, LK_OP_SWIGLU_GRAD, 2, (lk_tensor *[]){n->in[0], dy});
    lk_contribute(g, n->in[0], lk_node_output(g, d, lk_tensor_like(g, n->in[0])));
}

lk_tensor *lk_swiglu(lk_graph *g, lk_tensor *x)
{
    if (g->status != LK_OK || !x) return NULL;
    if (lk_cols(x) % 2) {
        lk_error_at(g, "swiglu: last dimension %lld is odd", (long long)lk_cols(x));
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_SWIGLU, 1, (lk_tensor *[]){x});
    lk_tensor *y = lk_tensor_like(g, x);
    if (!y) return NULL;
    y->dim[y->dims - 1] /= 2;
    return lk_node_output(g, n, y);
}

const lk_rule lk_rule_swiglu = {.gradient = gradient, .in_place = -1};
const lk_rule lk_rule_swiglu_grad = {.in_place = -1};
