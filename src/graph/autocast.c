/* Autocast: one forward sweep that gives every float tensor its working type.
 *
 * HALF ops read half (parameters from the shadow buffer, others through a cast if needed) and
 * write half; statistics and losses are fixed_type and stay f32. */
#include "graph/graph.h"
#include "ops/ops.h"

#include <string.h>

static lk_tensor *shadow_of(lk_graph *g, lk_tensor *param)
{
    if (param->shadow) return param->shadow;
    lk_tensor *t = lk_tensor_new(g, g->compute, LK_REGION_SHADOW, param->dims, param->dim);
    if (!t) return NULL;
    t->param = param->param;
    t->name = param->name;
    t->fixed_type = true;
    return param->shadow = t;
}

static lk_tensor *as_type(lk_graph *g, lk_tensor *t, lk_dtype want)
{
    if (!t || !lk_is_float(t->dtype)) return t;
    if (t->base) t->dtype = lk_root(t)->dtype;
    if (t->dtype == want) return t;
    bool shadow = t->region == LK_REGION_PARAM && want == g->compute && !g->cast_parameters;
    if (shadow) return shadow_of(g, t);
    return lk_cast(g, t, want);
}

lk_status lk_autocast(lk_graph *g, lk_dtype compute)
{
    if (g->status != LK_OK) return g->status;
    g->compute = compute;
    if (compute == LK_F32) return LK_OK;
    lk_node *n = g->first;
    g->first = g->last = NULL;
    while (n) { /* relink the list, casts going in before the node that wants them */
        lk_node *next = n->next;
        uint32_t stay = lk_op_rule(n->op)->float_inputs;
        lk_dtype type = compute;
        if (lk_op_policy(n->op) == LK_POLICY_KEEP && n->in[0]) {
            if (n->in[0]->base) n->in[0]->dtype = lk_root(n->in[0])->dtype;
            type = n->in[0]->dtype;
        }
        lk_scope_push(g, "%s", n->scope); /* a cast belongs to the node that wants it */
        memcpy(g->unit, n->unit, sizeof g->unit);
        for (int i = 0; i < n->inputs; i++)
            n->in[i] = as_type(g, n->in[i], stay >> i & 1 ? LK_F32 : type);
        g->scope[0] = '\0';
        memset(g->unit, 0, sizeof g->unit);
        if (g->status != LK_OK) return g->status;
        for (int i = 0; i < n->outputs; i++)
            if (n->out[i] && !n->out[i]->fixed_type) n->out[i]->dtype = type;
        n->next = NULL;
        *(g->last ? &g->last->next : &g->first) = n;
        g->last = n;
        n = next;
    }
    return g->status;
}
