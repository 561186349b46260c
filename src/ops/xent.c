/* xent: mean softmax cross-entropy of rows of logits. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *logits = n->in[0];
    lk_node *d = lk_node_new(
        g, LK_OP_XENT_GRAD, 4,
        (lk_tensor *[]){logits, n->in[1], n->out[1], lk_cotangent(g, n->out[0])});
    if (!d) return;
    d->attr = n->attr;
    lk_contribute(g, logits, lk_node_output(g, d, lk_tensor_like(g, logits)));
}

lk_tensor *lk_cross_entropy(lk_graph *g, lk_tensor *logits, lk_tensor *targets, int64_t classes)
{
    if (g->status != LK_OK || !logits || !targets) return NULL;
    if (lk_rows(logits) != lk_count(targets) || classes > lk_cols(logits) || classes < 1) {
        char a[96], b[96];
        lk_error_at(g, "cross_entropy: logits %s, targets %s, %lld classes",
                    lk_shape_text(logits, a, sizeof a), lk_shape_text(targets, b, sizeof b),
                    (long long)classes);
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_XENT, 2, (lk_tensor *[]){logits, targets});
    if (!n) return NULL;
    n->attr.xent.classes = classes;
    int64_t one = 1, rows = lk_rows(logits);
    lk_tensor *loss = lk_node_output(g, n, lk_tensor_f32(g, 1, &one));
    lk_node_output(g, n, lk_tensor_f32(g, 1, &rows));
    return loss;
}

const lk_rule lk_rule_xent = {.gradient = gradient, .in_place = -1};
const lk_rule lk_rule_xent_grad = {.in_place = 0};
const lk_rule lk_rule_xent_fused = {.in_place = 0};
