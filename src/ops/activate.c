/* activate: a function of each element. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0], *dy = lk_cotangent(g, n->out[0]);
    lk_node *d = lk_node_new(g, LK_OP_ACTIVATE_GRAD, 2, (lk_tensor *[]){x, dy});
    if (!d) return;
    d->attr = n->attr;
    lk_contribute(g, x, lk_node_output(g, d, lk_tensor_like(g, x)));
}

lk_tensor *lk_activate(lk_graph *g, lk_tensor *x, lk_activation kind)
{
    if (g->status != LK_OK || !x) return NULL;
    if (kind == LK_LINEAR) return x;
    lk_node *n = lk_node_new(g, LK_OP_ACTIVATE, 1, (lk_tensor *[]){x});
    if (!n) return NULL;
    n->attr.activate.kind = kind;
    return lk_node_output(g, n, lk_tensor_like(g, x));
}

const lk_rule lk_rule_activate = {.gradient = gradient, .in_place = 0};
const lk_rule lk_rule_activate_grad = {.in_place = 1};
