/* The optimizer as nodes over the flat buffers, once per step. */
#include "graph/graph.h"

static lk_tensor *flat(lk_graph *g, lk_region region, lk_dtype dtype, int64_t floats)
{
    lk_tensor *t = lk_tensor_new(g, dtype, region, 1, &floats);
    if (t) t->fixed_type = true;
    return t;
}

lk_status lk_optimize(lk_graph *g, const lk_optimizer *hyper)
{
    if (g->status != LK_OK) return g->status;
    if (!g->params->frozen)
        return g->status = lk_fail(LK_E_INTERNAL, "lk_optimize before lk_params_layout");
    int64_t total = g->params->total;
    lk_attr attr = {.optimizer = {*hyper, total, g->params->decayed, g->params->learned}};
    lk_tensor *grad = flat(g, LK_REGION_GRAD, LK_F32, total + LK_METRIC_FLOATS);
    lk_tensor *param = flat(g, LK_REGION_PARAM, LK_F32, total);
    lk_tensor *moment1 = flat(g, LK_REGION_MOMENT1, LK_F32, total);
    lk_tensor *moment2 = flat(g, LK_REGION_MOMENT2, LK_F32, total);
    lk_tensor *shadow =
        g->compute == LK_F32 ? NULL : flat(g, LK_REGION_SHADOW, g->compute, total);
    lk_tensor *ema = hyper->ema > 0 ? flat(g, LK_REGION_EMA, LK_F32, total) : NULL;
    if (g->status != LK_OK) return g->status;

    g->section = LK_STEP;
    lk_scope_push(g, "step");
    lk_node *norm = lk_node_new(g, LK_OP_GRAD_NORM, 2, (lk_tensor *[]){grad, g->state});
    if (norm) norm->attr = attr;
    lk_node *adamw = lk_node_new(
        g, LK_OP_ADAMW, 7, (lk_tensor *[]){grad, param, moment1, moment2, g->state, shadow, ema});
    if (adamw) adamw->attr = attr;
    lk_node *end = lk_node_new(g, LK_OP_STEP_END, 1, (lk_tensor *[]){g->state});
    if (end) end->attr = attr;
    lk_scope_pop(g);
    g->section = LK_LEAF;
    return g->status;
}
