/* dropout, residual (x + dropout(branch)), add. */
#include "base/philox.h"
#include "ops/ops.h"

static lk_tensor *dropout(lk_graph *g, lk_tensor *x, float p, uint32_t site, int64_t group)
{
    lk_node *n = lk_node_new(g, LK_OP_DROPOUT, 2, (lk_tensor *[]){x, g->state});
    if (!n) return NULL;
    n->attr.dropout.p = p;
    n->attr.dropout.site = site;
    n->attr.dropout.group = group;
    return lk_node_output(g, n, lk_tensor_like(g, x));
}

static void dropout_gradient(lk_graph *g, lk_node *n)
{
    lk_contribute(g, n->in[0],
                  dropout(g, lk_cotangent(g, n->out[0]), n->attr.dropout.p, n->attr.dropout.site,
                          n->attr.dropout.group));
}

bool lk_dropout_fits(lk_graph *g, int64_t rows, int64_t cols)
{
    if (rows <= LK_DROPOUT_WORDS / cols) return true;
    lk_error_at(g, "dropout over %lld x %lld elements in a leaf would use random numbers twice; at "
                "most %lld have their own: set train.leaves higher, train.batch or model.context "
                "lower, or model.dropout to 0", (long long)rows, (long long)cols,
                (long long)LK_DROPOUT_WORDS);
    return false;
}

lk_tensor *lk_dropout(lk_graph *g, lk_tensor *x, float p)
{
    if (g->status != LK_OK || !x) return NULL;
    if (p <= 0 || !g->training) return x;
    if (!lk_dropout_fits(g, lk_rows(x), lk_cols(x))) return NULL;
    return dropout(g, x, p, g->sites++, 1);
}

static void residual_gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *dy = lk_cotangent(g, n->out[0]);
    lk_contribute(g, n->in[0], dy);
    float p = n->attr.dropout.p;
    lk_contribute(g, n->in[1],
                  p > 0 ? dropout(g, dy, p, n->attr.dropout.site, n->attr.dropout.group) : dy);
}

static bool same_shape(lk_graph *g, const char *what, const lk_tensor *a, const lk_tensor *b)
{
    bool same = a->dims == b->dims;
    for (int i = 0; same && i < a->dims; i++) same = a->dim[i] == b->dim[i];
    if (!same) {
        char as[96], bs[96];
        lk_error_at(g, "%s: shapes %s and %s differ", what, lk_shape_text(a, as, sizeof as),
                    lk_shape_text(b, bs, sizeof bs));
    }
    return same;
}

static lk_tensor *residual(lk_graph *g, lk_tensor *x, lk_tensor *branch, float p, int64_t group)
{
    if (g->status != LK_OK || !x || !branch || !same_shape(g, "residual", x, branch)) return NULL;
    if (p > 0 && g->training && !lk_dropout_fits(g, lk_count(x) / group, 1)) return NULL;
    lk_node *n = lk_node_new(g, LK_OP_RESIDUAL, 3, (lk_tensor *[]){x, branch, g->state});
    if (!n) return NULL;
    n->attr.dropout.p = g->training ? p : 0;
    n->attr.dropout.site = g->sites;
    n->attr.dropout.group = group;
    if (n->attr.dropout.p > 0) g->sites++;
    return lk_node_output(g, n, lk_tensor_like(g, x));
}

lk_tensor *lk_residual(lk_graph *g, lk_tensor *x, lk_tensor *branch, float p)
{
    return residual(g, x, branch, p, 1);
}

lk_tensor *lk_stochastic_depth(lk_graph *g, lk_tensor *x, lk_tensor *branch, float p)
{
    return residual(g, x, branch, p, x ? lk_count(x) / x->dim[0] : 1);
}

static void add_gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *dy = lk_cotangent(g, n->out[0]);
    lk_contribute(g, n->in[0], dy);
    lk_contribute(g, n->in[1], dy);
}

lk_tensor *lk_add(lk_graph *g, lk_tensor *a, lk_tensor *b)
{
    if (g->status != LK_OK || !a || !b || !same_shape(g, "add", a, b)) return NULL;
    lk_node *n = lk_node_new(g, LK_OP_ADD, 2, (lk_tensor *[]){a, b});
    return lk_node_output(g, n, lk_tensor_like(g, a));
}

const lk_rule lk_rule_dropout = {.gradient = dropout_gradient, .in_place = 0};
const lk_rule lk_rule_residual = {.gradient = residual_gradient, .in_place = 1};
const lk_rule lk_rule_add = {.gradient = add_gradient, .in_place = 0};
