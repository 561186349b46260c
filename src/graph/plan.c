/* Memory planning: every arena tensor gets an offset such that tensors alive at the same time do
 * not overlap. Lifetimes are node intervals; the largest tensors are placed first, each at the
 * lowest offset free of those already placed that it overlaps in time (greedy by size:
 * Y. Pisarchyk and J. Lee, "Efficient memory management for deep neural net inference", 2020). */
#include "graph/graph.h"
#include "ops/ops.h"

#include <stdlib.h>

enum { ALIGN = 256 };

typedef struct span {
    lk_tensor *tensor;
    int first, last; /* node numbers: defined at, last read at */
    size_t bytes, offset;
    struct span *slot; /* shares the bytes of this span (in-place op) */
} span;

static int by_size(const void *a, const void *b)
{
    const span *x = *(const span *const *)a, *y = *(const span *const *)b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->tensor->id - y->tensor->id;
}

static int by_offset(const void *a, const void *b)
{
    const span *x = *(const span *const *)a, *y = *(const span *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static span *slot_of(span *s)
{
    while (s->slot) s = s->slot;
    return s;
}

static void lifetimes(lk_graph *g, span *all)
{
    int at = 0;
    for (lk_node *n = g->first; n; n = n->next, at++) {
        for (int i = 0; i < n->inputs; i++)
            if (n->in[i]) all[lk_root(n->in[i])->id].last = at;
        for (int i = 0; i < n->outputs; i++)
            if (n->out[i]) all[n->out[i]->id].first = at;
    }
    for (int i = 0; i < g->tensors; i++) /* never read by a node: an output, alive to the end */
        if (all[i].last < 0 || g->keep)
            all[i].last = g->tensor[i]->unread && !g->keep ? all[i].first : at;
}

/* Let output 0 of an in-place op take over the bytes of the input that dies there. */
static void share(lk_graph *g, span *all)
{
    int at = 0;
    if (g->apart) return;
    for (lk_node *n = g->first; n; n = n->next, at++) {
        int k = lk_op_rule(n->op)->in_place;
        if (k < 0 || !n->in[k] || !n->out[0]) continue;
        lk_tensor *in = lk_root(n->in[k]), *out = n->out[0];
        if (in->region != LK_REGION_ARENA || out->region != LK_REGION_ARENA) continue;
        if (all[in->id].last != at || lk_bytes(in) != lk_bytes(out)) continue;
        span *slot = slot_of(&all[in->id]);
        if (slot->last > at) continue;
        all[out->id].slot = slot;
        slot->last = all[out->id].last;
    }
}

/* The spans of all tensors, by id. */
static void find_spans(lk_graph *g, span *all)
{
    for (int i = 0; i < g->tensors; i++)
        all[i] = (span){
            .tensor = g->tensor[i], .first = -1, .last = -1, .bytes = lk_bytes(g->tensor[i])};
    lifetimes(g, all);
    share(g, all);
}

/* Whether it has a place of its own in the arena. */
static bool placed(const span *s)
{
    return s->tensor->region == LK_REGION_ARENA && !s->tensor->base && !s->slot && s->first >= 0;
}

lk_status lk_plan_live(lk_graph *g, double *live)
{
    span *all = calloc((size_t)g->tensors, sizeof *all);
    if (!all) return lk_fail(LK_E_SYSTEM, "out of memory planning a graph");
    find_spans(g, all);
    int nodes = 0;
    for (const lk_node *n = g->first; n; n = n->next) live[nodes++] = 0;
    for (int i = 0; i < g->tensors; i++)
        for (int at = all[i].first; placed(&all[i]) && at <= all[i].last && at < nodes; at++)
            live[at] += (double)all[i].bytes;
    free(all);
    return LK_OK;
}

lk_status lk_plan(lk_graph *g, size_t *arena_bytes)
{
    if (g->status != LK_OK) return g->status;
    span *all = calloc((size_t)g->tensors, sizeof *all);
    span **order = calloc((size_t)g->tensors, sizeof *order);
    span **near = calloc((size_t)g->tensors, sizeof *near);
    if (!all || !order || !near) {
        free(all);
        free(order);
        free(near);
        return lk_fail(LK_E_SYSTEM, "out of memory planning a graph");
    }
    for (int i = 0; i < g->tensors; i++) {
        lk_tensor *t = g->tensor[i];
        if (t->metric) {
            t->offset = (size_t)(g->params->total + t->metric - 1) * sizeof(float);
        } else if (t->param) {
            t->offset = (size_t)t->param->offset * lk_dtype_size(t->dtype);
        }
    }
    find_spans(g, all);
    int count = 0;
    for (int i = 0; i < g->tensors; i++)
        if (placed(&all[i])) order[count++] = &all[i];
    qsort(order, (size_t)count, sizeof *order, by_size);
    size_t arena = 0;
    for (int i = 0; i < count; i++) {
        span *s = order[i];
        int beside = 0;
        for (int k = 0; k < i; k++)
            if (order[k]->first <= s->last && s->first <= order[k]->last)
                near[beside++] = order[k];
        qsort(near, (size_t)beside, sizeof *near, by_offset);
        size_t at = 0;
        for (int k = 0; k < beside; k++) {
            if (at + s->bytes <= near[k]->offset) break;
            size_t end = (near[k]->offset + near[k]->bytes + ALIGN - 1) / ALIGN * ALIGN;
            if (end > at) at = end;
        }
        s->offset = at;
        if (at + s->bytes > arena) arena = at + s->bytes;
    }
    for (int i = 0; i < g->tensors; i++)
        if (g->tensor[i]->region == LK_REGION_ARENA && !g->tensor[i]->base)
            g->tensor[i]->offset = slot_of(&all[i])->offset;
    free(all);
    free(order);
    free(near);
    *arena_bytes = (arena + ALIGN - 1) / ALIGN * ALIGN;
    return LK_OK;
}
