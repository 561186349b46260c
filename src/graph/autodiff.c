/* Reverse-mode differentiation: the forward nodes in reverse order, each op's gradient rule
 * appending its backward nodes and contributing to the cotangents of its inputs. */
#include "graph/graph.h"
#include "ops/ops.h"

#include <stdlib.h>

bool lk_needs_gradient(const lk_tensor *t)
{
    return t && lk_root((lk_tensor *)t)->needs_gradient;
}

lk_tensor *lk_cotangent(lk_graph *g, const lk_tensor *t)
{
    if (!t) return NULL;
    lk_tensor *root = lk_root((lk_tensor *)t);
    lk_tensor *c = root->cotangent;
    if (!c || root == t) return c;
    return lk_reshape(g, c, t->dims, t->dim);
}

void lk_contribute(lk_graph *g, const lk_tensor *t, lk_tensor *contribution)
{
    if (!t || !contribution || g->status != LK_OK) return;
    lk_tensor *root = lk_root((lk_tensor *)t);
    if (!root->needs_gradient) return;
    if (root != t) contribution = lk_reshape(g, contribution, root->dims, root->dim);
    root->cotangent = root->cotangent ? lk_add(g, root->cotangent, contribution) : contribution;
}

void lk_param_output(lk_graph *g, lk_node *n, const lk_tensor *param)
{
    if (g->status != LK_OK || !n) return;
    if (!param) {
        lk_node_output(g, n, NULL);
        return;
    }
    if (!param->param) {
        lk_error_at(g, "'%s' is used as a parameter but is not one", param->name);
        return;
    }
    bool *written = &g->gradient_written[param->param->index];
    if (*written) n->accumulate |= 1u << n->outputs;
    *written = true;
    lk_node_output(g, n, lk_param_gradient(g, param));
}

void lk_statistic_output(lk_graph *g, lk_node *n, const lk_tensor *s)
{
    if (g->status == LK_OK && n) lk_node_output(g, n, lk_param_gradient(g, s));
}

static bool upstream(const lk_tensor *t)
{
    if (!t) return false;
    t = lk_root((lk_tensor *)t);
    return t->needs_gradient || ((t->region == LK_REGION_PARAM || t->region == LK_REGION_SHADOW) &&
                                 t->param != NULL);
}

lk_status lk_autodiff(lk_graph *g, lk_tensor *y, lk_tensor *dy, int wants,
                      lk_tensor *const *wanted, lk_tensor **gradient)
{
    if (g->status != LK_OK) return g->status;
    g->gradient_written = lk_graph_alloc(g, (size_t)g->params->count + 1);
    if (!g->gradient_written) return g->status;
    for (int i = 0; i < wants; i++)
        if (wanted[i]) lk_root(wanted[i])->needs_gradient = true;

    int count = 0;
    for (lk_node *n = g->first; n; n = n->next) {
        bool needs = false;
        for (int i = 0; i < n->inputs; i++) needs |= upstream(n->in[i]);
        for (int i = 0; i < n->outputs; i++)
            if (n->out[i] && needs) n->out[i]->needs_gradient = true;
        count++;
    }
    lk_node **order = malloc((size_t)(count + 1) * sizeof *order);
    if (!order) return g->status = lk_fail(LK_E_SYSTEM, "out of memory in autodiff");
    count = 0;
    for (lk_node *n = g->first; n; n = n->next) order[count++] = n;
    g->forward_end = g->last;

    if (lk_root(y)->dtype != dy->dtype) dy = lk_cast(g, dy, lk_root(y)->dtype);
    lk_contribute(g, y, dy);
    for (int i = count - 1; i >= 0 && g->status == LK_OK; i--) {
        lk_node *n = order[i];
        bool reached = false;
        for (int k = 0; k < n->outputs; k++)
            reached |= n->out[k] && n->out[k]->needs_gradient && n->out[k]->cotangent;
        if (!reached) continue;
        const lk_rule *rule = lk_op_rule(n->op);
        if (!rule->gradient) continue; /* an op on indices: nothing flows through */
        lk_scope_push(g, "%s", n->scope);
        rule->gradient(g, n);
        g->scope[0] = '\0';
    }
    free(order);
    for (int i = 0; i < wants && g->status == LK_OK; i++)
        gradient[i] = wanted[i] ? lk_cotangent(g, wanted[i]) : NULL;
    return g->status;
}
