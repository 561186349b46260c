/* Recomputation: activations made inside a block are not kept for the backward pass but computed
 * again, from what enters the block, just before the first backward node that reads one (T. Chen
 * et al., "Training deep nets with sublinear memory cost", 2016).
 *
 *   FFN    in every block: the feed-forward and the norm before it. Of a GPT-2 block's 16 C
 *          values a token (C: width) 9 C go: the two hidden tensors and the norm's result. The
 *          price is the norm and the up product, a third of the block's forward products.
 *   BLOCK  in every block: all but the residual stream that enters it, 15 C of 16 C. The price
 *          is the block's forward pass without the down product, whose result nobody needs.
 *
 * The clones are the forward nodes with their attributes; dropout is keyed by site, so they give
 * the same bits, and the backward pass reads the same values as without. What another unit reads
 * (the residual stream) stays. Nodes are cloned where they are asked for, so nothing is computed
 * again that the backward pass does not need.
 *
 * A forward result that only the backward pass read, now from a clone, would lie in the arena as an
 * output of the graph: it is marked unread. It is still written, for a kernel without that output
 * may be another one, with other bits. */
#include "graph/graph.h"

#include <stdlib.h>

typedef struct recomputer {
    lk_graph *g;
    lk_unit unit;     /* the kind of what is computed again */
    int tensors;      /* of the graph before the first clone: the length of the arrays */
    bool *dropped;    /* by tensor id: not kept for the backward pass */
    lk_tensor **copy; /* by tensor id: what the clone of its node makes; NULL: not cloned */
} recomputer;

/* Everything made inside a unit, but for what the forward pass reads outside it. */
static void choose(recomputer *r)
{
    const lk_node *end = r->g->forward_end->next;
    for (const lk_node *n = r->g->first; n != end; n = n->next)
        for (int i = 0; i < n->outputs; i++) {
            const lk_tensor *t = n->out[i];
            if (t) r->dropped[t->id] = n->unit[r->unit] && t->region == LK_REGION_ARENA;
        }
    for (const lk_node *n = r->g->first; n != end; n = n->next)
        for (int i = 0; i < n->inputs; i++) {
            const lk_tensor *t = lk_root(n->in[i]);
            if (t && r->dropped[t->id] && n->unit[r->unit] != t->producer->unit[r->unit])
                r->dropped[t->id] = false;
        }
}

static lk_tensor *again(recomputer *r, lk_tensor *t);

/* Append a clone of forward node n, after clones of what it reads. */
static void clone(recomputer *r, const lk_node *n)
{
    lk_graph *g = r->g;
    lk_tensor *in[LK_MAX_INPUTS];
    for (int i = 0; i < n->inputs; i++) in[i] = again(r, n->in[i]);
    lk_node *c = lk_node_new(g, n->op, n->inputs, in);
    if (!c) return;
    c->section = n->section;
    c->attr = n->attr;
    c->scope = n->scope;
    for (int i = 0; i < n->outputs; i++) {
        const lk_tensor *from = n->out[i];
        lk_tensor *t = from ? lk_tensor_like(g, from) : NULL;
        if (t) {
            t->fixed_type = from->fixed_type;
            t->name = from->name;
            r->copy[from->id] = t;
        }
        lk_node_output(g, c, t);
    }
}

/* The tensor to read for `t` in the backward pass: itself if kept, else a clone's. */
static lk_tensor *again(recomputer *r, lk_tensor *t)
{
    lk_tensor *root = lk_root(t);
    if (r->g->status != LK_OK || !root || root->id >= r->tensors || !r->dropped[root->id]) return t;
    if (!r->copy[root->id]) clone(r, root->producer);
    lk_tensor *c = r->copy[root->id];
    return c && root != t ? lk_reshape(r->g, c, t->dims, t->dim) : c;
}

/* The backward nodes one after the other, each behind the clones it is the first to need. */
static void relink(recomputer *r)
{
    lk_graph *g = r->g;
    lk_node *n = g->forward_end->next;
    g->last = g->forward_end;
    g->last->next = NULL;
    while (n && g->status == LK_OK) {
        lk_node *next = n->next;
        for (int i = 0; i < n->inputs; i++) n->in[i] = again(r, n->in[i]);
        n->next = NULL;
        g->last->next = n;
        g->last = n;
        n = next;
    }
}

/* Of the outputs of a cloned node and of its clone, those that no node reads. */
static void mark_unread(recomputer *r)
{
    lk_graph *g = r->g;
    bool *read = calloc((size_t)g->tensors, sizeof *read);
    if (!read) {
        g->status = lk_fail(LK_E_SYSTEM, "out of memory in recomputation");
        return;
    }
    for (const lk_node *n = g->first; n; n = n->next)
        for (int i = 0; i < n->inputs; i++)
            if (n->in[i]) read[lk_root(n->in[i])->id] = true;
    for (int i = 0; i < r->tensors; i++) {
        lk_tensor *c = r->copy[i];
        if (!c) continue;
        g->tensor[i]->unread = !read[i];
        c->unread = !read[c->id];
    }
    free(read);
}

lk_status lk_recompute(lk_graph *g, lk_recompute_policy policy)
{
    if (g->status != LK_OK) return g->status;
    if (policy == LK_RECOMPUTE_NONE || !g->forward_end) return LK_OK;
    lk_unit unit = policy == LK_RECOMPUTE_FFN ? LK_UNIT_FFN : LK_UNIT_BLOCK;
    recomputer r = {g, unit, g->tensors, calloc((size_t)g->tensors, sizeof *r.dropped),
                    calloc((size_t)g->tensors, sizeof *r.copy)};
    if (r.dropped && r.copy) {
        choose(&r);
        relink(&r);
    } else {
        g->status = lk_fail(LK_E_SYSTEM, "out of memory in recomputation");
    }
    if (g->status == LK_OK) mark_unread(&r);
    free(r.dropped);
    free(r.copy);
    return g->status;
}
