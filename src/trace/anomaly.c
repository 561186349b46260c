/* The search for the first value that is not finite, and the naming of a failing kernel.
 *
 * Which tensors depend on the loss scale is found once, by following it through the graph: what a
 * node computes from a scaled tensor is scaled, gradients are, metrics and what is measured of
 * running statistics are not. */
#include "trace/anomaly.h"
#include "ops/ops.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

struct lk_anomaly_search {
    lk_observer observer; /* first */
    lk_anomaly_options o;
    bool *scaled;        /* by tensor id */
    lk_step_state state; /* at the start of the step */
};

/* ---- what depends on the loss scale ---------------------------------------------------------- */

static bool is_scaled(const lk_anomaly_search *s, const lk_tensor *t)
{
    if (t->metric) return false;
    if (t->region == LK_REGION_GRAD) return !t->param || !t->param->statistic;
    if (t->region == LK_REGION_STATE) return t->offset == offsetof(lk_step_state, loss_scale);
    return s->scaled[lk_root((lk_tensor *)t)->id];
}

static void follow_scale(lk_anomaly_search *s)
{
    for (const lk_node *n = s->o.graph->first; n; n = n->next) {
        bool any = false;
        for (int i = 0; i < n->inputs; i++) any |= n->in[i] && is_scaled(s, n->in[i]);
        for (int i = 0; i < n->outputs; i++)
            if (n->out[i]) s->scaled[lk_root(n->out[i])->id] = any;
    }
}

/* ---- looking --------------------------------------------------------------------------------- */

static lk_status measure(const lk_anomaly_search *s, const lk_exec *x, const lk_tensor *t,
                         lk_range *range)
{
    lk_device *d = s->o.store->device;
    *range = (lk_range){.bad = -1, .low = INFINITY, .high = -INFINITY};
    if (!t || !lk_is_float(t->dtype)) return LK_OK;
    return d->backend->measure(d, t->dtype, lk_data(x, t), lk_count(t), range);
}

static lk_status look(lk_anomaly_search *s, const lk_exec *x, const lk_node *n, const lk_tensor *t)
{
    lk_range range;
    if (!t || !lk_is_float(t->dtype)) return LK_OK;
    if (s->o.scaling && s->state.loss_scale > 1 && is_scaled(s, t)) return LK_OK;
    LK_TRY(measure(s, x, t, &range));
    if (range.bad < 0) return LK_OK;
    lk_anomaly a = {.node = n,
                    .exec = x,
                    .step = s->state.step + 1,
                    .leaf = n->section == LK_LEAF ? x->leaf : -1,
                    .tensor = t,
                    .range = range,
                    .loss_scale = s->state.loss_scale};
    for (int i = 0; i < n->inputs; i++) LK_TRY(measure(s, x, n->in[i], &a.in[i]));
    LK_TRY(s->o.found(s->o.context, &a));
    return lk_fail(LK_E_INTERNAL, "%s: a value is not finite", n->scope);
}

static lk_status node_ended(lk_observer *o, const lk_exec *x, const lk_node *n)
{
    lk_anomaly_search *s = (lk_anomaly_search *)o;
    if (!n) return LK_OK; /* the sum is read by a LAST or STEP node, which is looked at */
    for (int i = 0; i < n->outputs; i++) LK_TRY(look(s, x, n, n->out[i]));
    for (int i = 0; i < n->inputs; i++)
        if (lk_op_rule(n->op)->writes >> i & 1) LK_TRY(look(s, x, n, n->in[i]));
    return n->op == LK_OP_GRAD_NORM ? look(s, x, n, n->in[0]) : LK_OK; /* the sum over leaves */
}

static lk_status run_begins(lk_observer *o)
{
    lk_anomaly_search *s = (lk_anomaly_search *)o;
    return lk_store_get_state(s->o.store, &s->state);
}

lk_status lk_anomaly_open(const lk_anomaly_options *o, lk_anomaly_search **search)
{
    static const lk_observer_calls calls = {.end = node_ended, .run_begin = run_begins};
    if (!o->store->device->backend->measure)
        return lk_fail(LK_E_INPUT,
                       "the %s backend cannot search for values that are not finite; "
                       "leave --detect-anomaly out",
                       o->store->device->backend->name);
    lk_anomaly_search *s = calloc(1, sizeof *s);
    bool *scaled = calloc((size_t)o->graph->tensors, sizeof *scaled);
    if (!s || !scaled) {
        free(s);
        free(scaled);
        return lk_fail(LK_E_SYSTEM, "out of memory for the search for anomalies");
    }
    *s = (lk_anomaly_search){.observer = {&calls, true, NULL}, .o = *o, .scaled = scaled};
    follow_scale(s);
    lk_program_observe(o->program, &s->observer);
    *search = s;
    return LK_OK;
}

void lk_anomaly_close(lk_anomaly_search *s)
{
    if (!s) return;
    lk_program_unobserve(s->o.program, &s->observer);
    free(s->scaled);
    free(s);
}

/* ---- launch by launch ------------------------------------------------------------------------ */

struct lk_blocking {
    lk_observer observer; /* first */
    lk_program *program;
    lk_store *store;
    uint64_t step;
};

static lk_status wait_for_node(lk_observer *o, const lk_exec *x, const lk_node *n)
{
    const lk_blocking *b = (lk_blocking *)o;
    lk_device *d = b->store->device;
    lk_status status = d->backend->sync(d);
    if (status == LK_OK) return status;
    const char *scope = n ? n->scope : "leaf_sums", *op = n ? lk_op_name(n->op) : "add";
    if (n && n->section == LK_STEP)
        return lk_fail_prefix(status, "step %llu: %s (%s)", (unsigned long long)b->step, scope, op);
    return lk_fail_prefix(status, "step %llu, leaf %d: %s (%s)", (unsigned long long)b->step,
                          x->leaf, scope, op);
}

static lk_status count_step(lk_observer *o)
{
    lk_blocking *b = (lk_blocking *)o;
    lk_step_state state;
    LK_TRY(lk_store_get_state(b->store, &state));
    b->step = state.step + 1;
    return LK_OK;
}

lk_status lk_blocking_open(lk_program *p, lk_store *store, lk_blocking **blocking)
{
    static const lk_observer_calls calls = {.end = wait_for_node, .run_begin = count_step};
    lk_blocking *b = calloc(1, sizeof *b);
    if (!b) return lk_fail(LK_E_SYSTEM, "out of memory");
    *b = (lk_blocking){.observer = {&calls, true, NULL}, .program = p, .store = store};
    lk_program_observe(p, &b->observer);
    *blocking = b;
    return LK_OK;
}

void lk_blocking_close(lk_blocking *b)
{
    if (!b) return;
    lk_program_unobserve(b->program, &b->observer);
    free(b);
}
