/* cast: the same values in another float type. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_contribute(g, n->in[0],
                  lk_cast(g, lk_cotangent(g, n->out[0]), lk_root(n->in[0])->dtype));
}

lk_tensor *lk_cast(lk_graph *g, lk_tensor *x, lk_dtype dtype)
{
    if (g->status != LK_OK || !x) return NULL;
    if (x->dtype == dtype) return x;
    lk_node *n = lk_node_new(g, LK_OP_CAST, 1, (lk_tensor *[]){x});
    lk_tensor *y = lk_tensor_like(g, x);
    if (!y) return NULL;
    y->dtype = dtype;
    y->fixed_type = true;
    return lk_node_output(g, n, y);
}

const lk_rule lk_rule_cast = {.gradient = gradient, .in_place = -1};
