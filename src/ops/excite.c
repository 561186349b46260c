/* excite: the two small products of squeeze-and-excitation with what stands between and behind
 * them, and its gradients; squeeze_excite, which the fuse pass makes. */
#include "ops/ops.h"

/* Of the two products that each of the ops makes; p [B,C], h [B,S] or tensors of their shapes. */
static double products(const lk_tensor *p, const lk_tensor *h)
{
    return 4.0 * (double)p->dim[0] * (double)p->dim[1] * (double)h->dim[1];
}

static void cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->in[0], n->out[1]);
}

static void cost_grad(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->in[0], n->op == LK_OP_EXCITE_DX ? n->in[2] : n->in[1]);
}

/* Of the products, and two of every value of the image. */
static void cost_squeeze(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->out[0], n->out[1]) + 2.0 * (double)lk_count(n->in[0]);
}

static void cost_squeeze_dx(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->out[0], n->out[2]) + 2.0 * (double)lk_count(n->in[0]);
}

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *p = n->in[0], *w1 = n->in[1], *w2 = n->in[3], *h = n->out[1], *z = n->out[2];
    lk_node *dx = lk_node_new(g, LK_OP_EXCITE_DX, 5,
                              (lk_tensor *[]){lk_cotangent(g, n->out[0]), z, h, w1, w2});
    lk_tensor *dp = lk_node_output(g, dx, lk_tensor_like(g, p));
    lk_tensor *dz = lk_node_output(g, dx, lk_tensor_like(g, z));
    lk_tensor *dh = lk_node_output(g, dx, lk_tensor_like(g, h));
    lk_node *dw = lk_node_new(g, LK_OP_EXCITE_DW, 4, (lk_tensor *[]){p, h, dz, dh});
    for (int i = 1; i < 5; i++) lk_param_output(g, dw, n->in[i]);
    lk_contribute(g, p, dp);
}

lk_tensor *lk_excite(lk_graph *g, lk_tensor *p, lk_tensor *w1, lk_tensor *b1, lk_tensor *w2,
                     lk_tensor *b2)
{
    if (g->status != LK_OK || !p || !w1 || !b1 || !w2 || !b2) return NULL;
    if (p->dims != 2 || w1->dims != 2 || w2->dims != 2 || w1->dim[1] != p->dim[1] ||
        w2->dim[0] != p->dim[1] || w2->dim[1] != w1->dim[0] || lk_count(b1) != w1->dim[0] ||
        lk_count(b2) != w2->dim[0]) {
        char ps[96], w1s[96], b1s[96], w2s[96], b2s[96];
        lk_error_at(g, "excite: input %s, weights %s and %s, biases %s and %s do not fit; expected "
                    "[B, C], [S, C], [C, S], [S], [C]", lk_shape_text(p, ps, sizeof ps),
                    lk_shape_text(w1, w1s, sizeof w1s), lk_shape_text(w2, w2s, sizeof w2s),
                    lk_shape_text(b1, b1s, sizeof b1s), lk_shape_text(b2, b2s, sizeof b2s));
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_EXCITE, 5, (lk_tensor *[]){p, w1, b1, w2, b2});
    lk_tensor *s = lk_node_output(g, n, lk_tensor_like(g, p));
    lk_tensor *h = lk_tensor_like(g, p);
    if (h) h->dim[1] = w1->dim[0];
    lk_node_output(g, n, h);
    lk_node_output(g, n, lk_tensor_like(g, p));
    return s;
}

const lk_rule lk_rule_excite = {
    .gradient = gradient, .cost = cost, .in_place = -1, .float_inputs = 1u << 2 | 1u << 4};
const lk_rule lk_rule_excite_dx = {.cost = cost_grad, .in_place = -1};
const lk_rule lk_rule_excite_dw = {.cost = cost_grad, .in_place = -1};
const lk_rule lk_rule_squeeze_excite = {.cost = cost_squeeze, .in_place = -1};
const lk_rule lk_rule_squeeze_excite_dx = {.cost = cost_squeeze_dx, .in_place = -1};
