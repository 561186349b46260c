/* Fusion: patterns of nodes, each result read by the next alone (or nearly), become one node that
 * spares a pass over memory.
 *
 *   LINEAR_DX, GELU_GRAD     -> LINEAR_DX with gelu' in its epilogue
 *   NORM_GRAD, ADD           -> NORM_GRAD that adds the other cotangent
 *   RESIDUAL, NORM           -> RESIDUAL_NORM
 *   NORM_GRAD, DROPOUT       -> RESIDUAL_NORM_GRAD: the cotangents of the sum and of the branch
 *   NORM_GRAD, RESIDUAL_NORM_GRAD, LINEAR_DX with gelu' or ATTENTION_GRAD, LINEAR_DW
 *                            -> the first (of NORM_GRAD a RESIDUAL_NORM_GRAD) makes the gradient of
 *                               the bias
 *   XENT, XENT_GRAD          -> XENT_FUSED
 *   LINEAR, ROPE             -> LINEAR that rotates what it writes
 *   ATTENTION_GRAD, inverse ROPE
 *                            -> ATTENTION_GRAD that does so
 *   and those of fuse_vision.c.
 *
 * A fused node stands where the first of the two stood; everything the second read besides must
 * exist by then. LINEAR_DW stays where it was. */
#include "graph/fuse.h"

#include <stdlib.h>

static bool before(const lk_fuser *f, lk_tensor *t, const lk_node *n)
{
    return f->ready[lk_root(t)->id] < f->ready[n->out[0]->id];
}

static bool gelu_grad(const lk_fuser *f, lk_node *n)
{
    lk_node *p = lk_maker(f, n->in[0], LK_OP_LINEAR_DX, 1);
    if (!p || p->inputs > 2 || !before(f, n->in[1], p)) return false;
    p->in[2] = n->in[1];
    p->inputs = 3;
    p->attr.linear.activation = LK_GELU;
    f->ready[n->out[0]->id] = f->ready[p->out[0]->id];
    lk_give(p, 0, n->out[0]);
    return true;
}

/* Take out the nodes that were joined into a later one. */
static void sweep(lk_graph *g)
{
    lk_node *last = NULL;
    for (lk_node *n = g->first; n; n = n->next) {
        if (n->outputs == 0) {
            *(last ? &last->next : &g->first) = n->next;
        } else {
            last = n;
        }
    }
    g->last = last;
}

static bool add(const lk_fuser *f, lk_node *n)
{
    for (int i = 0; i < 2; i++) {
        lk_node *p = lk_maker(f, n->in[i], LK_OP_NORM_GRAD, 1);
        if (!p || p->inputs > 5 || !before(f, n->in[1 - i], p)) continue;
        p->in[5] = n->in[1 - i];
        p->inputs = 6;
        f->ready[n->out[0]->id] = f->ready[p->out[0]->id];
        lk_give(p, 0, n->out[0]);
        return true;
    }
    return false;
}

/* The residual's result is read by others too: it stays an output. */
static bool norm(const lk_fuser *f, lk_node *n)
{
    lk_tensor *y = n->in[0];
    lk_node *p = y && !y->base ? y->producer : NULL;
    if (!p || p->op != LK_OP_RESIDUAL || p->attr.dropout.group > 1) return false;
    lk_attr attr = {.residual_norm = {p->attr.dropout.p, p->attr.dropout.site, n->attr.norm.kind,
                                      n->attr.norm.eps}};
    p->op = LK_OP_RESIDUAL_NORM;
    p->attr = attr;
    p->in[3] = n->in[1];
    p->in[4] = n->in[2];
    p->inputs = 5;
    for (int i = 0; i < 3; i++) {
        if (n->out[i]) f->ready[n->out[i]->id] = f->ready[y->id];
        lk_give(p, i + 1, n->out[i]);
    }
    return true;
}

/* NORM_GRAD n as a RESIDUAL_NORM_GRAD of that dropout. */
static void with_branch(lk_node *n, float p, uint32_t site, lk_tensor *state)
{
    lk_attr attr = {.residual_norm = {p, site, n->attr.norm.kind, n->attr.norm.eps}};
    n->op = LK_OP_RESIDUAL_NORM_GRAD;
    n->attr = attr;
    n->in[6] = state;
    n->inputs = 7;
}

/* The dropped branch of a residual: its cotangent is dropped alike. */
static bool dropout(const lk_fuser *f, lk_node *n)
{
    lk_tensor *dx = n->in[0];
    lk_node *p = dx && !dx->base ? dx->producer : NULL;
    if (!p || p->op != LK_OP_NORM_GRAD || n->attr.dropout.group > 1) return false;
    with_branch(p, n->attr.dropout.p, n->attr.dropout.site, n->in[1]);
    f->uses[dx->id]--;
    f->ready[n->out[0]->id] = f->ready[dx->id];
    lk_give(p, 3, n->out[0]);
    return true;
}

/* Which output of p can be the column sums of its output dy; 0: none. */
static int sums_of(const lk_node *p, const lk_tensor *dy)
{
    switch (p->op) {
    case LK_OP_NORM_GRAD: return 4;
    case LK_OP_RESIDUAL_NORM_GRAD: return dy == p->out[p->attr.residual_norm.p > 0 ? 3 : 0] ? 4 : 0;
    case LK_OP_LINEAR_DX: return p->attr.linear.activation == LK_GELU ? 1 : 0;
    case LK_OP_ATTENTION_GRAD: return dy == p->out[0] ? 2 : 3;
    default: return 0;
    }
}

/* Whether a node after p and before n writes the gradient of that parameter. */
static bool written_between(const lk_node *p, const lk_node *n, const lk_param *param)
{
    for (const lk_node *m = p->next; m != n; m = m->next)
        for (int i = 0; i < m->outputs; i++)
            if (m->out[i] && m->out[i]->param == param) return true;
    return false;
}

/* The gradient of a bias is made beside what it sums; n, left without it, stays. */
static void bias_gradient(const lk_fuser *f, lk_node *n)
{
    lk_tensor *dy = n->in[1], *db = n->out[1];
    lk_node *p = db && !dy->base ? dy->producer : NULL;
    int sums = p ? sums_of(p, dy) : 0;
    if (!sums || p->out[sums] || written_between(p, n, db->param)) return;
    if (p->op == LK_OP_NORM_GRAD) with_branch(p, 0, 0, NULL);
    f->ready[db->id] = f->ready[dy->id];
    p->accumulate |= (n->accumulate >> 1 & 1) << sums;
    lk_give(p, sums, db);
    n->accumulate &= 1;
    n->out[1] = NULL;
    n->outputs = 1;
}

static bool xent_grad(const lk_fuser *f, lk_node *n)
{
    lk_node *p = lk_maker(f, n->in[2], LK_OP_XENT, 1);
    if (!p || p->in[0] != n->in[0] || lk_uses_of(f, n->in[0]) != 2 || !before(f, n->in[3], p))
        return false;
    lk_tensor *loss = p->out[0];
    p->op = LK_OP_XENT_FUSED;
    p->in[2] = n->in[3];
    p->inputs = 3;
    f->ready[n->out[0]->id] = f->ready[loss->id];
    lk_give(p, 0, n->out[0]);
    lk_give(p, 1, loss);
    return true;
}

/* q and k are rotated by the product that makes them, and their cotangents back by the gradient of
 * attention. */
static bool rope(const lk_fuser *f, lk_node *n)
{
    const lk_rotation *r = &n->attr.rope;
    lk_node *p = lk_maker(f, n->in[0], r->inverse ? LK_OP_ATTENTION_GRAD : LK_OP_LINEAR, 1);
    if (!p || lk_rotation_of(p)) return false;
    if (r->inverse) {
        if (p->in[1] || p->attr.attention.heads != r->heads ||
            p->attr.attention.kv_heads != r->kv_heads)
            return false;
        p->attr.attention.rope = *r;
    } else {
        if (p->attr.linear.activation != LK_LINEAR) return false;
        p->attr.linear.rope = *r;
    }
    f->ready[n->out[0]->id] = f->ready[p->out[0]->id];
    lk_give(p, 0, n->out[0]);
    return true;
}

static bool joined(const lk_fuser *f, lk_node *n)
{
    switch (n->op) {
    case LK_OP_BATCH_NORM: return lk_fuse_batch_norm(f, n);
    case LK_OP_GELU_GRAD: return gelu_grad(f, n);
    case LK_OP_ADD: return add(f, n);
    case LK_OP_DROPOUT: return dropout(f, n);
    case LK_OP_LINEAR_DW: bias_gradient(f, n); return false;
    case LK_OP_NORM: return norm(f, n);
    case LK_OP_ROPE: return rope(f, n);
    case LK_OP_XENT_GRAD: return xent_grad(f, n);
    default: return false;
    }
}

lk_status lk_fuse(lk_graph *g)
{
    if (g->status != LK_OK) return g->status;
    lk_fuser f = {g, calloc((size_t)g->tensors, sizeof *f.uses),
               calloc((size_t)g->tensors, sizeof *f.ready)};
    int at = 0;
    if (!f.uses || !f.ready) g->status = lk_fail(LK_E_SYSTEM, "out of memory fusing a graph");
    for (lk_node *n = g->first; n && g->status == LK_OK; n = n->next) {
        at++;
        for (int i = 0; i < n->inputs; i++)
            if (n->in[i]) f.uses[lk_root(n->in[i])->id]++;
        for (int i = 0; i < n->outputs; i++)
            if (n->out[i]) f.ready[n->out[i]->id] = at;
    }
    if (g->status == LK_OK) lk_fuse_squeezes(&f);
    lk_node *last = NULL;
    for (lk_node *n = g->first; n && g->status == LK_OK; n = n->next) {
        if (joined(&f, n)) { /* into one before it */
            last->next = n->next;
            if (g->last == n) g->last = last;
        } else {
            last = n;
        }
    }
    if (g->status == LK_OK) sweep(g);
    free(f.uses);
    free(f.ready);
    return g->status;
}
