/* batch_norm: each channel normalised over a leaf's rows, or by running statistics; activation. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0];
    if (n->outputs == 1) {
        lk_error_at(g, "batch_norm with running statistics has no gradient");
        return;
    }
    lk_node *d = lk_node_new(
        g, LK_OP_BATCH_NORM_GRAD, 6,
        (lk_tensor *[]){x, n->in[1], n->in[2], n->out[1], n->out[2], lk_cotangent(g, n->out[0])});
    if (!d) return;
    d->attr = n->attr;
    lk_tensor *dx = lk_node_output(g, d, lk_tensor_like(g, x));
    lk_param_output(g, d, n->in[1]);
    lk_param_output(g, d, n->in[2]);
    lk_contribute(g, x, dx);
}

static bool fits(lk_graph *g, const lk_tensor *x, const lk_tensor *const channel[4])
{
    static const char *const name[4] = {"weight", "bias", "running mean", "running variance"};
    for (int i = 0; i < 4; i++) {
        if (channel[i]->dims == 1 && channel[i]->dim[0] == lk_cols(x)) continue;
        char xs[96], cs[96];
        lk_error_at(g, "batch_norm: input %s and %s %s", lk_shape_text(x, xs, sizeof xs), name[i],
                    lk_shape_text(channel[i], cs, sizeof cs));
        return false;
    }
    for (int i = 2; i < 4; i++) {
        if (!g->training || (channel[i]->param && channel[i]->param->statistic)) continue;
        lk_error_at(g, "batch_norm: the %s is not a statistic", name[i]);
        return false;
    }
    if (g->training && lk_rows(x) < 2) { /* the unbiased variance divides by rows - 1 */
        lk_error_at(g, "batch_norm: a leaf needs two values of each channel to normalise them; use "
                    "a larger batch, fewer leaves or larger images");
        return false;
    }
    return true;
}

lk_tensor *lk_batch_norm(lk_graph *g, lk_tensor *x, lk_tensor *w, lk_tensor *b,
                         lk_tensor *running_mean, lk_tensor *running_var, float eps,
                         lk_activation act)
{
    if (g->status != LK_OK || !x || !w || !b || !running_mean || !running_var) return NULL;
    if (!fits(g, x, (const lk_tensor *[]){w, b, running_mean, running_var})) return NULL;
    lk_node *n = lk_node_new(g, LK_OP_BATCH_NORM, g->training ? 3 : 5,
                             (lk_tensor *[]){x, w, b, running_mean, running_var});
    if (!n) return NULL;
    n->attr.batch_norm.eps = eps;
    n->attr.batch_norm.activation = act;
    lk_tensor *y = lk_node_output(g, n, lk_tensor_like(g, x));
    if (g->training) {
        int64_t channels = lk_cols(x);
        lk_node_output(g, n, lk_tensor_f32(g, 1, &channels));
        lk_node_output(g, n, lk_tensor_f32(g, 1, &channels));
        lk_statistic_output(g, n, running_mean);
        lk_statistic_output(g, n, running_var);
    }
    return y;
}

const lk_rule lk_rule_batch_norm = {.gradient = gradient, .in_place = 0, .float_inputs = 0x1E};
const lk_rule lk_rule_batch_norm_grad = {.in_place = 5};
const lk_rule lk_rule_batch_moments = {.in_place = -1};
const lk_rule lk_rule_batch_apply = {.in_place = 0};
const lk_rule lk_rule_gate_norm_grad = {.in_place = 5};
