/* soft_xent: mean softmax cross-entropy with distributions as targets; share of right rows. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *logits = n->in[0], *dloss = lk_cotangent(g, n->out[0]);
    if (!dloss) return; /* nothing flows through hits */
    lk_node *d = lk_node_new(g, LK_OP_SOFT_XENT_GRAD, 4,
                             (lk_tensor *[]){logits, n->in[1], n->out[1], dloss});
    lk_contribute(g, logits, lk_node_output(g, d, lk_tensor_like(g, logits)));
}

lk_tensor *lk_soft_cross_entropy(lk_graph *g, lk_tensor *logits, lk_tensor *targets,
                                 lk_tensor *labels, lk_tensor **hits)
{
    if (g->status != LK_OK || !logits || !targets || !labels) return NULL;
    if (lk_rows(logits) != lk_count(labels) || lk_cols(logits) != lk_cols(targets) ||
        lk_count(logits) != lk_count(targets) || labels->dtype != LK_I32) {
        char a[96], b[96], c[96];
        lk_error_at(g, "soft_cross_entropy: logits %s, targets %s, labels %s",
                    lk_shape_text(logits, a, sizeof a), lk_shape_text(targets, b, sizeof b),
                    lk_shape_text(labels, c, sizeof c));
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_SOFT_XENT, 3, (lk_tensor *[]){logits, targets, labels});
    if (!n) return NULL;
    int64_t one = 1, rows = lk_rows(logits);
    lk_tensor *loss = lk_node_output(g, n, lk_tensor_f32(g, 1, &one));
    lk_node_output(g, n, lk_tensor_f32(g, 1, &rows));
    lk_tensor *share = lk_node_output(g, n, lk_tensor_f32(g, 1, &one));
    if (hits) *hits = share;
    return loss;
}

const lk_rule lk_rule_soft_xent = {.gradient = gradient, .in_place = -1, .float_inputs = 1u << 1};
const lk_rule lk_rule_soft_xent_grad = {.in_place = 0};
