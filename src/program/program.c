/* Replaying a planned graph: leaves in order, gradients of leaves summed in a binary tree as a
 * binary counter would, then the step nodes. */
#include "program/program.h"

#include "base/heart.h"
#include "ops/ops.h"

#include <stdlib.h>

struct lk_program {
    lk_graph *graph;
    lk_store *store;
    lk_program_options options;
    size_t arena_bytes, scratch_bytes;
    void *memory;  /* for both, the arena first; NULL: shared or not needed */
    char ***input; /* [local leaf][tensor id] */
    lk_exec exec;
    void *captured;
    lk_observer *observers;
};

static lk_status prepare(lk_program *p)
{
    lk_device *d = p->store->device;
    for (lk_node *n = p->graph->first; n; n = n->next) {
        if (!d->backend->kernel[n->op])
            return lk_fail(LK_E_INTERNAL, "%s: the %s backend cannot run op '%s'", n->scope,
                           d->backend->name, lk_op_name(n->op));
        size_t bytes = 0;
        LK_TRY(d->backend->prepare(d, n, &bytes));
        if (bytes > p->scratch_bytes) p->scratch_bytes = bytes;
    }
    return LK_OK;
}

lk_status lk_program_share(lk_program *const *program, int count, void **memory)
{
    lk_device *d = NULL;
    size_t most = 0;
    char *m = NULL;
    for (int i = 0; i < count; i++) {
        if (!program[i]) continue;
        d = program[i]->store->device;
        size_t bytes = program[i]->arena_bytes + program[i]->scratch_bytes;
        if (bytes > most) most = bytes;
    }
    lk_status status = most ? d->backend->alloc(d, most, (void **)&m) : LK_OK;
    if (status != LK_OK)
        return lk_fail_prefix(status, "activations (a smaller batch or more leaves need less; "
                                      "'lockstep train --plan' tells how much)");
    for (int i = 0; i < count && m; i++) {
        if (!program[i]) continue;
        program[i]->exec.base[LK_REGION_ARENA] = m;
        program[i]->exec.base[LK_REGION_SCRATCH] = m + program[i]->arena_bytes;
    }
    *memory = m;
    return LK_OK;
}

lk_status lk_program_create(lk_graph *g, lk_store *store, const lk_program_options *o,
                            lk_program **program)
{
    LK_TRY(lk_graph_status(g));
    lk_program *p = calloc(1, sizeof *p);
    if (!p) return lk_fail(LK_E_SYSTEM, "out of memory");
    p->graph = g;
    p->store = store;
    p->options = *o;
    p->exec.device = store->device;
    p->exec.comm = o->comm;
    p->exec.seed = o->seed;
    for (int i = 0; i < LK_REGIONS; i++) p->exec.base[i] = store->buffer[i];
    lk_status status = LK_OK;
    p->input = calloc((size_t)o->local_leaves, sizeof *p->input);
    for (int i = 0; p->input && i < o->local_leaves; i++)
        if (!(p->input[i] = calloc((size_t)g->tensors, sizeof **p->input)))
            status = lk_fail(LK_E_SYSTEM, "out of memory");
    if (!p->input) status = lk_fail(LK_E_SYSTEM, "out of memory");
    store->device->compute = g->compute;
    if (status == LK_OK) status = lk_plan(g, &p->arena_bytes);
    if (status == LK_OK) status = prepare(p);
    if (status == LK_OK && !o->shares) status = lk_program_share(&p, 1, &p->memory);
    if (status != LK_OK) {
        lk_program_destroy(p);
        return status;
    }
    *program = p;
    return LK_OK;
}

void lk_program_destroy(lk_program *p)
{
    if (!p) return;
    lk_device *d = p->store->device;
    lk_heart_forget(); /* scopes of a graph that may go next */
    d->backend->sync(d);
    if (p->captured) d->backend->replayable_destroy(d, p->captured);
    if (p->memory) d->backend->release(d, p->memory);
    for (int i = 0; p->input && i < p->options.local_leaves; i++) free(p->input[i]);
    free(p->input);
    free(p);
}

void lk_program_bind(lk_program *p, const lk_tensor *input, int local_leaf, void *device)
{
    p->input[local_leaf][input->id] = device;
}

void lk_program_use_state(lk_program *p, void *state) { p->exec.base[LK_REGION_STATE] = state; }

void lk_program_use_ema(lk_program *p)
{
    p->exec.base[LK_REGION_PARAM] = p->store->buffer[LK_REGION_EMA];
}

void *lk_program_data(lk_program *p, const lk_tensor *t)
{
    p->exec.input = p->input[0];
    p->exec.base[LK_REGION_GRAD] = p->store->gradient[0];
    return lk_data(&p->exec, t);
}

size_t lk_program_arena_bytes(const lk_program *p) { return p->arena_bytes; }

/* ---- observers ------------------------------------------------------------------------------- */

static void drop_capture(lk_program *p)
{
    lk_device *d = p->store->device;
    if (!p->captured) return;
    d->backend->sync(d);
    d->backend->replayable_destroy(d, p->captured);
    p->captured = NULL;
}

void lk_program_observe(lk_program *p, lk_observer *o)
{
    drop_capture(p);
    o->next = p->observers;
    p->observers = o;
}

void lk_program_unobserve(lk_program *p, lk_observer *o)
{
    lk_observer **at = &p->observers;
    while (*at && *at != o) at = &(*at)->next;
    if (!*at) return;
    drop_capture(p);
    *at = o->next;
    o->next = NULL;
}

static lk_status node_begins(lk_program *p, const lk_node *n)
{
    for (lk_observer *o = p->observers; o; o = o->next)
        if (o->calls->begin) LK_TRY(o->calls->begin(o, &p->exec, n));
    return LK_OK;
}

static lk_status node_ended(lk_program *p, const lk_node *n)
{
    for (lk_observer *o = p->observers; o; o = o->next)
        if (o->calls->end) LK_TRY(o->calls->end(o, &p->exec, n));
    return LK_OK;
}

static lk_status run_node(lk_program *p, const lk_node *n)
{
    lk_device *d = p->store->device;
    const lk_backend *b = d->backend;
    lk_heart_at(lk_op_name(n->op), n->scope);
    LK_TRY(node_begins(p, n));
    if (b->annotate) b->annotate(d, n->scope);
    lk_status status = b->kernel[n->op](&p->exec, n);
    if (b->annotate) b->annotate(d, NULL);
    return status == LK_OK ? node_ended(p, n) : status;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* Partial sums of gradients are a stack, as a binary counter: leaf i is pushed, then for every
 * trailing one bit of i the two newest sums, which cover equally many leaves, are added. The buffer
 * below receives the sum, so leaves are always summed (earlier + later) in the same tree. *depth:
 * sums on the stack, which are buffers 0 .. depth-1. Adds floats [first, first + count) alone. */
static lk_status merge(lk_program *p, int leaf, int64_t first, int64_t count, int *depth)
{
    lk_device *d = p->store->device;
    void **sum = p->store->gradient;
    for (int merged = leaf; merged & 1; merged >>= 1, --*depth) {
        LK_TRY(node_begins(p, NULL));
        LK_TRY(d->backend->add(d, (float *)sum[*depth - 2] + first,
                               (float *)sum[*depth - 1] + first, count));
        LK_TRY(node_ended(p, NULL));
    }
    return LK_OK;
}

void lk_program_sums_cost(const lk_params *p, int local_leaves, double *flops, double *bytes)
{
    *flops = (double)(local_leaves - 1) * (double)(p->total + LK_METRIC_FLOATS);
    *bytes = 3 * sizeof(float) * *flops; /* two are read, one is written */
}

/* A LAST node, within the last leaf: the range it reads is first summed over the leaves. Nothing
 * else touches that range until the step nodes, so it runs beside the rest of the leaf. */
static lk_status run_last(lk_program *p, const lk_node *n, int leaf, int depth)
{
    const lk_backend *b = p->store->device->backend;
    if (b->branch_begin) LK_TRY(b->branch_begin(p->store->device));
    const lk_tensor *t = n->in[0];
    void *mine = p->exec.base[LK_REGION_GRAD];
    lk_status status =
        merge(p, leaf, (int64_t)(t->offset / sizeof(float)), lk_count(t), &depth);
    p->exec.base[LK_REGION_GRAD] = p->store->gradient[0];
    if (status == LK_OK) status = run_node(p, n);
    p->exec.base[LK_REGION_GRAD] = mine;
    lk_status ended = b->branch_end ? b->branch_end(p->store->device) : LK_OK;
    return status == LK_OK ? ended : status;
}

/* The leaf whose sums lie below `depth`; with `last`, its LAST nodes too (*bucketed: there are). */
static lk_status run_leaf(lk_program *p, int leaf, int depth, bool last, bool *bucketed)
{
    p->exec.leaf = p->options.first_leaf + leaf;
    p->exec.local_leaf = leaf;
    p->exec.input = p->input[leaf];
    p->exec.base[LK_REGION_GRAD] = p->store->gradient[depth];
    for (lk_node *n = p->graph->first; n; n = n->next) {
        if (n->section == LK_LEAF) LK_TRY(run_node(p, n));
        if (n->section != LK_LAST || !last) continue;
        LK_TRY(run_last(p, n, leaf, depth + 1));
        *bucketed = true;
    }
    return LK_OK;
}

static lk_status run_leaves(lk_program *p)
{
    lk_store *s = p->store;
    /* a graph without backward leaves only its loss in the gradient region */
    int64_t skip = p->graph->training ? 0 : s->params->total;
    int64_t floats = s->params->total + LK_METRIC_FLOATS - skip;
    int depth = 0, leaves = p->options.local_leaves;
    bool bucketed = false;
    for (int i = 0; i < leaves; i++) {
        LK_TRY(run_leaf(p, i, depth, i == leaves - 1, &bucketed));
        depth++;
        if (!bucketed) LK_TRY(merge(p, i, skip, floats, &depth));
    }
    p->exec.base[LK_REGION_GRAD] = s->gradient[0];
    const lk_backend *b = s->device->backend;
    return bucketed && b->branch_join ? b->branch_join(s->device) : LK_OK;
}

static lk_status run_direct(lk_program *p)
{
    LK_TRY(run_leaves(p));
    for (lk_node *n = p->graph->first; n; n = n->next)
        if (n->section == LK_STEP) LK_TRY(run_node(p, n));
    return LK_OK;
}

static lk_status capture(lk_program *p)
{
    lk_device *d = p->store->device;
    LK_TRY(d->backend->capture_begin(d));
    lk_status status = run_direct(p), ended = d->backend->capture_end(d, &p->captured);
    if (status != LK_OK) drop_capture(p); /* a part of a step is not to be replayed */
    return status == LK_OK ? ended : status;
}

lk_status lk_program_run(lk_program *p)
{
    lk_device *d = p->store->device;
    const lk_backend *b = d->backend;
    bool direct = !p->options.capture || !b->capture_begin;
    for (const lk_observer *o = p->observers; o; o = o->next) direct |= o->direct;
    if (!direct && !p->captured) LK_TRY(capture(p));
    for (lk_observer *o = p->observers; o; o = o->next)
        if (o->calls->run_begin) LK_TRY(o->calls->run_begin(o));
    if (b->annotate) b->annotate(d, p->graph->training ? "step" : "batch");
    lk_status status = direct ? run_direct(p) : b->replay(d, p->captured);
    if (b->annotate) b->annotate(d, NULL);
    for (lk_observer *o = p->observers; o && status == LK_OK; o = o->next)
        if (o->calls->run_end) status = o->calls->run_end(o);
    return status;
}
