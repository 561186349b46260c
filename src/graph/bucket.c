/* Reduction of gradients over ranks in buckets: contiguous ranges of the flat gradient buffer, each
 * reduced as soon as the backward pass has written the last of it, so that the reduction of one
 * runs beside the backward pass of what comes before it in the model.
 *
 * Every element is summed by the same tree however the buffer is cut, so buckets change no bits.
 * Parameters lie in the order of the model and backward runs against it: buckets are filled from
 * the end of the buffer. Biases and norms lie behind all the weights and get buckets of their own,
 * or one of them would wait for the other. */
#include "graph/graph.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct range {
    int64_t begin, end; /* floats */
    int ready;          /* number of the node that writes the last of it; 0: none does */
} range;

static int by_begin(const void *a, const void *b)
{
    int64_t x = ((const range *)a)->begin, y = ((const range *)b)->begin;
    return x < y ? -1 : x > y;
}

/* One range for each parameter, up to the next one; the last reaches over the metrics. */
static void find_ranges(const lk_graph *g, range *list)
{
    const lk_params *p = g->params;
    int at = 0, metrics = 0;
    for (int i = 0; i < p->count; i++) list[i] = (range){p->item[i]->offset, 0, 0};
    for (const lk_node *n = g->first; n; n = n->next) {
        at++;
        for (int i = 0; i < n->outputs; i++) {
            const lk_tensor *t = n->out[i];
            if (!t || t->region != LK_REGION_GRAD) continue;
            if (t->metric) metrics = at;
            else list[t->param->index].ready = at;
        }
    }
    qsort(list, (size_t)p->count, sizeof *list, by_begin);
    for (int i = 0; i + 1 < p->count; i++) list[i].end = list[i + 1].begin;
    range *last = &list[p->count - 1];
    last->end = p->total + LK_METRIC_FLOATS;
    if (metrics > last->ready) last->ready = metrics;
}

/* Join ranges from the end into buckets of at least `floats`; returns their number. In place: the
 * buckets come to lie at the end of the list, in the order of the buffer. */
static int join(range *list, int count, int64_t floats, int64_t border)
{
    int to = count;
    for (int i = count - 1; i >= 0; i--) {
        range *b = &list[to];
        bool open = to < count && b->end - b->begin < floats && b->begin != border;
        if (!open) {
            list[--to] = list[i];
            continue;
        }
        b->begin = list[i].begin;
        if (list[i].ready > b->ready) b->ready = list[i].ready;
    }
    return count - to;
}

/* A node that reduces `b`, not yet in the list. */
static lk_node *reduction(lk_graph *g, const range *b, int number, bool exact)
{
    int64_t floats = b->end - b->begin;
    lk_tensor *t = lk_tensor_new(g, LK_F32, LK_REGION_GRAD, 1, &floats);
    lk_node *last = g->last;
    lk_scope_push(g, "reduce");
    lk_scope_push(g, "%d", number);
    lk_node *n = lk_node_new(g, LK_OP_REDUCE, 1, &t);
    lk_scope_pop(g);
    lk_scope_pop(g);
    if (!n) return NULL;
    t->fixed_type = true;
    t->offset = (size_t)b->begin * sizeof(float);
    n->section = LK_LAST;
    n->attr.reduce.exact = exact;
    g->last = last;
    *(last ? &last->next : &g->first) = NULL;
    return n;
}

lk_status lk_bucket(lk_graph *g, int64_t floats, bool exact)
{
    if (g->status != LK_OK) return g->status;
    const lk_params *p = g->params;
    if (!p->frozen)
        return g->status = lk_fail(LK_E_INTERNAL, "lk_bucket before lk_params_layout");
    if (p->count == 0) return LK_OK;
    range *list = calloc((size_t)p->count, sizeof *list);
    if (!list) return g->status = lk_fail(LK_E_SYSTEM, "out of memory cutting gradients");
    find_ranges(g, list);
    int buckets = join(list, p->count, floats, p->decayed);
    const range *bucket = list + p->count - buckets;
    for (int i = buckets - 1; i >= 0 && g->status == LK_OK; i--) {
        lk_node *n = reduction(g, &bucket[i], buckets - 1 - i, exact), *before = NULL;
        int at = 0;
        for (lk_node *m = g->first; m && n && at < bucket[i].ready; m = m->next) {
            before = m; /* earlier buckets do not count: they are not of this section */
            if (m->section == LK_LEAF) at++;
        }
        while (before && before->next && before->next->section == LK_LAST) before = before->next;
        if (!n) break;
        n->next = before ? before->next : g->first;
        *(before ? &before->next : &g->first) = n;
        if (!n->next) g->last = n;
    }
    free(list);
    return g->status;
}
