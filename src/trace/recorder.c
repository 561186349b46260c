/* The observer that traces: it tells the device's tracer which node and leaf what is enqueued
 * belongs to, and makes a trace of what the tracer has measured. A mark is
 * local_leaf * (nodes + 1) + node; the node after the last stands for sums over leaves. */
#include "ops/ops.h"
#include "trace/trace.h"

#include <stdlib.h>
#include <string.h>

struct lk_recorder {
    lk_observer observer; /* first */
    lk_program *program;
    lk_graph *graph;
    lk_device *device;
    int nodes, local_leaves, skip, steps;
    const lk_node **list; /* in order; the search in end() begins at the last one found */
    int at;
};

static int number_of(lk_recorder *r, const lk_node *n)
{
    if (!n) return r->nodes;
    for (int i = 0; i < r->nodes; i++, r->at = (r->at + 1) % r->nodes)
        if (r->list[r->at] == n) return r->at;
    return -1;
}

static lk_status node_begins(lk_observer *o, const lk_exec *x, const lk_node *n)
{
    lk_recorder *r = (lk_recorder *)o;
    int leaf = n && n->section == LK_STEP ? 0 : x->local_leaf;
    return r->device->backend->tracer->mark(r->device, leaf * (r->nodes + 1) + number_of(r, n));
}

static lk_status node_ended(lk_observer *o, const lk_exec *x, const lk_node *n)
{
    (void)x;
    (void)n;
    lk_recorder *r = (lk_recorder *)o;
    return r->device->backend->tracer->mark(r->device, -1);
}

static lk_status run_begins(lk_observer *o)
{
    lk_recorder *r = (lk_recorder *)o;
    return r->device->backend->tracer->run_begin(r->device);
}

static lk_status run_ended(lk_observer *o)
{
    lk_recorder *r = (lk_recorder *)o;
    return r->device->backend->tracer->run_end(r->device);
}

static const lk_observer_calls calls = {node_begins, node_ended, run_begins, run_ended};

lk_status lk_recorder_start(lk_program *p, lk_graph *g, lk_device *d, int local_leaves, int skip,
                            int steps, lk_recorder **recorder)
{
    lk_recorder *r = calloc(1, sizeof *r);
    if (!r) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    *r = (lk_recorder){.observer.calls = &calls,
                       .graph = g,
                       .device = d,
                       .local_leaves = local_leaves,
                       .skip = skip,
                       .steps = steps};
    for (const lk_node *n = g->first; n; n = n->next) r->nodes++;
    r->list = calloc((size_t)r->nodes + 1, sizeof *r->list);
    lk_status status = r->list ? d->backend->tracer->open(d, skip + steps)
                               : lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    if (status != LK_OK) {
        lk_recorder_destroy(r);
        return status;
    }
    int i = 0;
    for (const lk_node *n = g->first; n; n = n->next) r->list[i++] = n;
    r->program = p;
    lk_program_observe(p, &r->observer);
    *recorder = r;
    return LK_OK;
}

void lk_recorder_destroy(lk_recorder *r)
{
    if (!r) return;
    if (r->program) lk_program_unobserve(r->program, &r->observer);
    r->device->backend->tracer->close(r->device);
    free(r->list);
    free(r);
}

/* ---- the trace ------------------------------------------------------------------------------- */

static lk_status describe_sums(const lk_recorder *r, lk_trace_node *out)
{
    out->scope = strdup("leaf_sums");
    out->op = strdup("leaf_sums");
    out->section = LK_LAST;
    lk_program_sums_cost(r->graph->params, r->local_leaves, &out->flops, &out->bytes);
    return out->scope && out->op ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for a trace");
}

static lk_status describe_nodes(const lk_recorder *r, lk_trace *t)
{
    double *live = calloc((size_t)r->nodes + 1, sizeof *live);
    t->node = calloc((size_t)r->nodes + 1, sizeof *t->node);
    t->nodes = r->nodes + 1;
    lk_status status = live && t->node ? lk_plan_live(r->graph, live)
                                       : lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    for (int i = 0; i < r->nodes && status == LK_OK; i++) {
        const lk_node *n = r->list[i];
        lk_trace_node *out = &t->node[i];
        double flops, bytes, times = n->section == LK_LEAF ? r->local_leaves : 1;
        size_t scratch = 0;
        const char *scope = n->scope[0] ? n->scope : lk_op_name(n->op);
        lk_op_cost(n, &flops, &bytes);
        status = r->device->backend->prepare(r->device, n, &scratch);
        *out = (lk_trace_node){.scope = strdup(scope),
                               .op = strdup(lk_op_name(n->op)),
                               .section = n->section,
                               .flops = times * flops,
                               .bytes = times * bytes,
                               .live = live[i],
                               .scratch = (double)scratch};
        if (!out->scope || !out->op) status = lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    }
    free(live);
    return status == LK_OK ? describe_sums(r, &t->node[r->nodes]) : status;
}

/* Take over the tracer's spans but those of the first runs. */
static lk_status take_spans(const lk_recorder *r, const lk_device_record *d, int rank,
                            int first_leaf, lk_trace *t)
{
    t->steps = d->runs - r->skip;
    if (t->steps < 1)
        return lk_fail(LK_E_INTERNAL, "a trace ends after %d of %d steps", d->runs,
                       r->skip + r->steps);
    t->step = calloc((size_t)t->steps, sizeof *t->step);
    t->span = calloc((size_t)d->spans + 1, sizeof *t->span);
    if (!t->step || !t->span) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    for (int i = 0; i < t->steps; i++)
        t->step[i] = (lk_trace_step){d->begin[r->skip + i], d->seconds[r->skip + i]};
    for (int64_t i = 0; i < d->spans; i++) {
        const lk_device_span *s = &d->span[i];
        int node = s->mark % (r->nodes + 1), leaf = s->mark / (r->nodes + 1);
        if (s->run < r->skip) continue;
        bool step = node < r->nodes && r->list[node]->section == LK_STEP;
        t->span[t->spans++] = (lk_trace_span){.rank = rank,
                                              .step = s->run - r->skip,
                                              .node = node,
                                              .lane = s->lane,
                                              .leaf = step ? -1 : first_leaf + leaf,
                                              .begin = s->begin,
                                              .seconds = s->seconds};
    }
    t->lost = d->lost;
    return LK_OK;
}

lk_status lk_recorder_finish(lk_recorder *r, int rank, int first_leaf, lk_trace *trace)
{
    lk_device_record d = {.spans = 0};
    lk_trace t = {.ranks = 1};
    LK_TRY(r->device->backend->tracer->read(r->device, &d));
    lk_status status = describe_nodes(r, &t);
    if (status == LK_OK) status = take_spans(r, &d, rank, first_leaf, &t);
    free(d.span);
    free(d.begin);
    free(d.seconds);
    if (status != LK_OK) lk_trace_clear(&t);
    else *trace = t;
    return status;
}
