/* Fusion: patterns of nodes, each result read by the next alone (or nearly), become one node that
 * spares a pass over memory.
 *
 *   LINEAR_DX, GELU_GRAD     -> LINEAR_DX with gelu' in its epilogue
 *   NORM_GRAD, ADD           -> NORM_GRAD that adds the other cotangent
 *   RESIDUAL, NORM           -> RESIDUAL_NORM
 *   NORM_GRAD, DROPOUT       -> RESIDUAL_NORM_GRAD: the cotangents of the sum and of the branch
 *   NORM_GRAD or RESIDUAL_NORM_GRAD, LINEAR_DW
 *                            -> RESIDUAL_NORM_GRAD that makes the gradient of the bias
 *   XENT, XENT_GRAD          -> XENT_FUSED
 *   LINEAR, ROPE             -> LINEAR that rotates what it writes
 *   ATTENTION_GRAD, inverse ROPE
 *                            -> ATTENTION_GRAD that does so
 *   GATE_DX, POOL_GRAD, ADD  -> GATE_DX that adds the pool's cotangent
 *   BATCH_NORM in training, DWCONV, DWCONV_GRAD
 *                            -> BATCH_MOMENTS, NORM_DWCONV, NORM_DWCONV_GRAD: the normalised image
 *                               is never stored
 *   NORM_DWCONV, BATCH_NORM in training
 *                            -> NORM_DWCONV that measures what it writes, BATCH_APPLY
 *   NORM_DWCONV_GRAD, BATCH_NORM_GRAD
 *                            -> the first makes the sums of the second too
 *   LINEAR, BATCH_NORM in training
 *                            -> LINEAR_MOMENTS, BATCH_APPLY, or that in the depthwise convolution
 *
 * A fused node stands where the first of the two stood; everything the second read besides must
 * exist by then. The pool's cotangent is made of the gate's: that pattern stands where the ADD
 * stood. LINEAR_DW, and in the last three each node, stays where it was. */
#include "graph/graph.h"
#include "ops/ops.h"

#include <stdlib.h>

typedef struct fuser {
    lk_graph *g;
    int *uses;  /* by tensor id: node inputs that read its bytes */
    int *ready; /* by tensor id: number of the node that makes it; 0: there from the start */
} fuser;

static int uses_of(const fuser *f, lk_tensor *t) { return f->uses[lk_root(t)->id]; }

/* The node `t` comes from, if it is of kind `op` and only `uses` inputs read `t`. */
static lk_node *maker(const fuser *f, lk_tensor *t, lk_op op, int uses)
{
    lk_node *p = t && !t->base ? t->producer : NULL;
    return p && p->op == op && uses_of(f, t) == uses ? p : NULL;
}

static bool before(const fuser *f, lk_tensor *t, const lk_node *n)
{
    return f->ready[lk_root(t)->id] < f->ready[n->out[0]->id];
}

static void give(lk_node *n, int i, lk_tensor *t)
{
    n->out[i] = t;
    if (t) t->producer = n;
    if (i >= n->outputs) n->outputs = i + 1;
}

static bool gelu_grad(const fuser *f, lk_node *n)
{
    lk_node *p = maker(f, n->in[0], LK_OP_LINEAR_DX, 1);
    if (!p || p->inputs > 2 || !before(f, n->in[1], p)) return false;
    p->in[2] = n->in[1];
    p->inputs = 3;
    p->attr.linear.activation = LK_GELU;
    f->ready[n->out[0]->id] = f->ready[p->out[0]->id];
    give(p, 0, n->out[0]);
    return true;
}

/* The image that a gate scales by factors made from its mean: n adds its two cotangents. The nodes
 * joined into n are left without inputs and outputs, for sweep(). */
static bool gate_and_pool(const fuser *f, lk_node *n)
{
    for (int i = 0; i < 2; i++) {
        lk_node *gate = maker(f, n->in[i], LK_OP_GATE_DX, 1);
        lk_node *pool = maker(f, n->in[1 - i], LK_OP_POOL_GRAD, 1);
        if (!gate || !pool || gate->inputs > 2) continue;
        n->op = LK_OP_GATE_DX;
        n->in[0] = gate->in[0];
        n->in[1] = gate->in[1];
        n->in[2] = pool->in[0];
        n->inputs = 3;
        gate->inputs = gate->outputs = pool->inputs = pool->outputs = 0;
        return true;
    }
    return false;
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

static bool add(const fuser *f, lk_node *n)
{
    if (gate_and_pool(f, n)) return false; /* n stays */
    for (int i = 0; i < 2; i++) {
        lk_node *p = maker(f, n->in[i], LK_OP_NORM_GRAD, 1);
        if (!p || p->inputs > 5 || !before(f, n->in[1 - i], p)) continue;
        p->in[5] = n->in[1 - i];
        p->inputs = 6;
        f->ready[n->out[0]->id] = f->ready[p->out[0]->id];
        give(p, 0, n->out[0]);
        return true;
    }
    return false;
}

/* The residual's result is read by others too: it stays an output. */
static bool norm(const fuser *f, lk_node *n)
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
        give(p, i + 1, n->out[i]);
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
static bool dropout(const fuser *f, lk_node *n)
{
    lk_tensor *dx = n->in[0];
    lk_node *p = dx && !dx->base ? dx->producer : NULL;
    if (!p || p->op != LK_OP_NORM_GRAD || n->attr.dropout.group > 1) return false;
    with_branch(p, n->attr.dropout.p, n->attr.dropout.site, n->in[1]);
    f->uses[dx->id]--;
    f->ready[n->out[0]->id] = f->ready[dx->id];
    give(p, 3, n->out[0]);
    return true;
}

/* The gradient of a bias is made beside what it sums; n, left without it, stays. */
static void bias_gradient(const fuser *f, lk_node *n)
{
    lk_tensor *dy = n->in[1], *db = n->out[1];
    lk_node *p = db && !dy->base ? dy->producer : NULL;
    if (!p || (p->op != LK_OP_NORM_GRAD && p->op != LK_OP_RESIDUAL_NORM_GRAD)) return;
    if (p->op == LK_OP_NORM_GRAD) with_branch(p, 0, 0, NULL);
    if (dy != p->out[p->attr.residual_norm.p > 0 ? 3 : 0] || p->out[4]) return;
    f->ready[db->id] = f->ready[dy->id];
    p->accumulate |= (n->accumulate >> 1 & 1) << 4;
    give(p, 4, db);
    n->accumulate &= 1;
    n->out[1] = NULL;
    n->outputs = 1;
}

static bool xent_grad(const fuser *f, lk_node *n)
{
    lk_node *p = maker(f, n->in[2], LK_OP_XENT, 1);
    if (!p || p->in[0] != n->in[0] || uses_of(f, n->in[0]) != 2 || !before(f, n->in[3], p))
        return false;
    lk_tensor *loss = p->out[0];
    p->op = LK_OP_XENT_FUSED;
    p->in[2] = n->in[3];
    p->inputs = 3;
    f->ready[n->out[0]->id] = f->ready[loss->id];
    give(p, 0, n->out[0]);
    give(p, 1, loss);
    return true;
}

/* q and k are rotated by the product that makes them, and their cotangents back by the gradient of
 * attention. */
static bool rope(const fuser *f, lk_node *n)
{
    const lk_rotation *r = &n->attr.rope;
    lk_node *p = maker(f, n->in[0], r->inverse ? LK_OP_ATTENTION_GRAD : LK_OP_LINEAR, 1);
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
    give(p, 0, n->out[0]);
    return true;
}

/* ---- batch norms around depthwise convolutions ---------------------------------------------- */

/* Whether m reads all of t, and only as its image. */
static bool convolves(const lk_node *m, const lk_tensor *t)
{
    if ((m->op != LK_OP_DWCONV && m->op != LK_OP_DWCONV_GRAD) || m->in[0] != t) return false;
    for (int i = 1; i < m->inputs; i++)
        if (lk_root(m->in[i]) == t) return false;
    return true;
}

/* Whether t, made by n, is read by depthwise convolutions and their gradients alone. */
static bool only_convolved(const fuser *f, const lk_node *n, const lk_tensor *t)
{
    int readers = 0;
    for (const lk_node *m = n->next; m; m = m->next) readers += convolves(m, t);
    return readers > 0 && readers == f->uses[t->id];
}

/* m, which convolves t, reads x instead and normalises it. given: w, b, mean, rstd. */
static void normalise_on_load(const fuser *f, lk_node *m, lk_tensor *x, lk_tensor *const given[4],
                              lk_activation activation)
{
    lk_attr attr = {.norm_dwconv = {m->attr.conv.stride, m->attr.conv.pad, 0, activation}};
    bool gradient = m->op == LK_OP_DWCONV_GRAD;
    m->op = gradient ? LK_OP_NORM_DWCONV_GRAD : LK_OP_NORM_DWCONV;
    m->attr = attr;
    m->in[0] = x;
    if (gradient) m->in[6] = m->in[2];
    for (int i = 0; i < 4; i++) m->in[2 + i] = given[i];
    m->inputs = gradient ? 7 : 6;
    f->uses[lk_root(x)->id]++;
}

/* m, just made, writes the cotangent of a norm's result: if the norm's gradient is all that reads
 * it, m makes its sums meanwhile. */
static void sum_before(const fuser *f, lk_node *m)
{
    lk_tensor *dn = m->out[0];
    if (m->op != LK_OP_NORM_DWCONV_GRAD || !dn || uses_of(f, dn) != 1) return;
    for (lk_node *d = m->next; d; d = d->next) {
        if (d->op != LK_OP_BATCH_NORM_GRAD || d->in[5] != dn) continue;
        give(m, 2, lk_tensor_f32(f->g, 2, (int64_t[]){2, lk_cols(dn)}));
        d->in[6] = m->out[2];
        d->inputs = 7;
        return;
    }
}

/* Whether p can measure what it writes: a depthwise convolution, or a product and nothing more. */
static bool can_measure(const lk_node *p)
{
    if (p->op == LK_OP_NORM_DWCONV) return p->outputs == 1;
    return p->op == LK_OP_LINEAR && !p->in[2] && p->attr.linear.activation == LK_LINEAR &&
           !lk_rotation_of(p);
}

/* n measures what p writes: p does so meanwhile, and n only applies it. */
static void measure_before(const fuser *f, lk_node *p, lk_node *n)
{
    if (p->op == LK_OP_LINEAR) {
        p->op = LK_OP_LINEAR_MOMENTS;
        p->inputs = 2;
        p->attr = (lk_attr){.batch_norm = {n->attr.batch_norm.eps, LK_LINEAR}};
    } else {
        p->attr.norm_dwconv.eps = n->attr.batch_norm.eps;
    }
    p->accumulate |= n->accumulate & ~1u; /* outputs 1 to 4 of both */
    n->accumulate &= 1;
    for (int i = 1; i < 5; i++) {
        if (n->out[i]) f->ready[n->out[i]->id] = f->ready[p->out[0]->id];
        give(p, i, n->out[i]);
        n->out[i] = NULL;
    }
    n->op = LK_OP_BATCH_APPLY;
    n->in[3] = p->out[1];
    n->in[4] = p->out[2];
    n->inputs = 5;
    n->outputs = 1;
}

/* n makes its moments alone. */
static void measure_only(lk_node *n)
{
    n->op = LK_OP_BATCH_MOMENTS;
    n->accumulate >>= 1;
    n->inputs = 1;
    for (int i = 0; i < 4; i++) n->out[i] = n->out[i + 1];
    n->out[4] = NULL;
    n->outputs = 4;
}

static bool batch_norm(const fuser *f, lk_node *n)
{
    if (n->inputs > 3) return false; /* running statistics */
    lk_tensor *x = n->in[0], *y = n->out[0];
    lk_tensor *given[4] = {n->in[1], n->in[2], n->out[1], n->out[2]};
    lk_node *p = x->base ? NULL : x->producer;
    bool measured = p && can_measure(p);
    bool inside = only_convolved(f, n, y);
    if (measured) measure_before(f, p, n);
    if (!inside) return false;
    for (lk_node *m = n->next; m; m = m->next) {
        if (!convolves(m, y)) continue;
        normalise_on_load(f, m, x, given, n->attr.batch_norm.activation);
        sum_before(f, m);
    }
    y->producer = NULL;
    if (!measured) measure_only(n);
    return measured; /* nothing is left of it */
}

static bool joined(const fuser *f, lk_node *n)
{
    switch (n->op) {
    case LK_OP_BATCH_NORM: return batch_norm(f, n);
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
    fuser f = {g, calloc((size_t)g->tensors, sizeof *f.uses),
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
