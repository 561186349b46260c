/* gate: every channel of an image times a factor of its own; norm_gate, which the fuse pass
 * makes. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0], *s = n->in[1], *dy = lk_cotangent(g, n->out[0]);
    if (lk_needs_gradient(s)) {
        lk_node *d = lk_node_new(g, LK_OP_GATE_DS, 2, (lk_tensor *[]){x, dy});
        lk_contribute(g, s, lk_node_output(g, d, lk_tensor_like(g, s)));
    }
    if (lk_needs_gradient(x)) { /* the fuse pass adds the third input */
        lk_node *d = lk_node_new(g, LK_OP_GATE_DX, 2, (lk_tensor *[]){s, dy});
        lk_contribute(g, x, lk_node_output(g, d, lk_tensor_like(g, x)));
    }
}

lk_tensor *lk_gate(lk_graph *g, lk_tensor *x, lk_tensor *s)
{
    if (g->status != LK_OK || !x || !s) return NULL;
    if (x->dims != 4 || s->dims != 2 || s->dim[0] != x->dim[0] || s->dim[1] != x->dim[3]) {
        char xs[96], ss[96];
        lk_error_at(g, "gate: input %s does not fit factors %s", lk_shape_text(x, xs, sizeof xs),
                    lk_shape_text(s, ss, sizeof ss));
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_GATE, 2, (lk_tensor *[]){x, s});
    return lk_node_output(g, n, lk_tensor_like(g, x));
}

const lk_rule lk_rule_gate = {.gradient = gradient, .in_place = 0};
const lk_rule lk_rule_gate_ds = {.in_place = -1};
const lk_rule lk_rule_gate_dx = {.in_place = 1};
const lk_rule lk_rule_norm_gate = {.in_place = 0};
