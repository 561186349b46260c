/* Fusion in networks of images.
 *
 *   GATE_DX, POOL_GRAD, ADD  -> GATE_DX that adds the pool's cotangent
 *   POOL, EXCITE             -> SQUEEZE_EXCITE
 *   GATE_DS, EXCITE_DX       -> SQUEEZE_EXCITE_DX
 *   BATCH_NORM in training, DWCONV, DWCONV_GRAD
 *                            -> BATCH_MOMENTS, NORM_DWCONV, NORM_DWCONV_GRAD: the normalised image
 *                               is never stored
 *   BATCH_NORM in training, SQUEEZE_EXCITE, GATE, SQUEEZE_EXCITE_DX, GATE_DX, BATCH_NORM_GRAD
 *                            -> BATCH_MOMENTS, SQUEEZE_EXCITE and SQUEEZE_EXCITE_DX that normalise,
 *                               NORM_GATE, GATE_NORM_GRAD: nor are it and its cotangent
 *   NORM_DWCONV, BATCH_NORM in training
 *                            -> NORM_DWCONV that measures what it writes, BATCH_APPLY
 *   NORM_DWCONV_GRAD, BATCH_NORM_GRAD
 *                            -> the first makes the sums of the second too
 *   LINEAR, BATCH_NORM in training
 *                            -> LINEAR_MOMENTS, BATCH_APPLY, or that in the nodes after it
 *
 * The first three stand where the last of their nodes stood, and are made first. Of the others each
 * node stays where it was; GATE_NORM_GRAD is where BATCH_NORM_GRAD was. */
#include "graph/fuse.h"

/* n has been joined into a later node. */
static void empty(lk_node *n) { n->inputs = n->outputs = 0; }

/* ---- squeeze-and-excitation ------------------------------------------------------------------ */

/* The image that a gate scales by factors made from its mean: n adds its two cotangents. */
static void gate_and_pool(const lk_fuser *f, lk_node *n)
{
    for (int i = 0; i < 2; i++) {
        lk_node *gate = lk_maker(f, n->in[i], LK_OP_GATE_DX, 1);
        lk_node *pool = lk_maker(f, n->in[1 - i], LK_OP_POOL_GRAD, 1);
        if (!gate || !pool || gate->inputs > 2) continue;
        n->op = LK_OP_GATE_DX;
        n->in[0] = gate->in[0];
        n->in[1] = gate->in[1];
        n->in[2] = pool->in[0];
        n->inputs = 3;
        empty(gate);
        empty(pool);
        return;
    }
}

/* n pools itself what it reads; the pooled image is still an output. */
static void squeeze(const lk_fuser *f, lk_node *n)
{
    lk_tensor *p = n->in[0];
    lk_node *pool = p->base ? NULL : p->producer;
    if (!pool || pool->op != LK_OP_POOL || pool->next != n) return;
    n->op = LK_OP_SQUEEZE_EXCITE;
    n->in[0] = pool->in[0];
    f->ready[p->id] = f->ready[n->out[0]->id];
    p->unread = --f->uses[p->id] == 0;
    lk_give(n, 3, p);
    empty(pool);
}

/* n sums itself over the image the cotangent that it reads. */
static void squeeze_dx(const lk_fuser *f, lk_node *n)
{
    lk_node *ds = lk_maker(f, n->in[0], LK_OP_GATE_DS, 1);
    if (!ds) return;
    n->op = LK_OP_SQUEEZE_EXCITE_DX;
    for (int i = n->inputs++; i > 1; i--) n->in[i] = n->in[i - 1];
    n->in[0] = ds->in[0];
    n->in[1] = ds->in[1];
    empty(ds);
}

void lk_fuse_squeezes(const lk_fuser *f)
{
    for (lk_node *n = f->g->first; n; n = n->next) {
        if (n->op == LK_OP_ADD) gate_and_pool(f, n);
        else if (n->op == LK_OP_EXCITE) squeeze(f, n);
        else if (n->op == LK_OP_EXCITE_DX) squeeze_dx(f, n);
    }
}

/* ---- batch norms applied on load ------------------------------------------------------------- */

/* Whether m reads all of t, and only as the image that it can normalise itself. */
static bool loads(const lk_node *m, const lk_tensor *t)
{
    bool can = m->op == LK_OP_DWCONV || m->op == LK_OP_DWCONV_GRAD || m->op == LK_OP_GATE ||
               m->op == LK_OP_SQUEEZE_EXCITE || m->op == LK_OP_SQUEEZE_EXCITE_DX;
    if (!can || m->inputs == 0 || m->in[0] != t) return false;
    for (int i = 1; i < m->inputs; i++)
        if (lk_root(m->in[i]) == t) return false;
    return true;
}

/* The gradient of batch norm n whose cotangent is that of a gate and a squeeze, of which m is the
 * gradient; NULL: there is none. */
static lk_node *gradient_behind(const lk_fuser *f, const lk_node *n, const lk_node *m)
{
    for (lk_node *d = m->next; d; d = d->next) {
        if (d->op != LK_OP_BATCH_NORM_GRAD || d->in[0] != n->in[0] || d->in[3] != n->out[1])
            continue;
        lk_node *gate = lk_maker(f, d->in[5], LK_OP_GATE_DX, 1);
        bool both = gate && gate->inputs == 3 && gate->in[1] == m->in[1] &&
                    gate->in[2] == m->out[0];
        return both ? d : NULL;
    }
    return NULL;
}

/* Whether the result of n is read by nodes alone that can normalise it themselves. */
static bool only_loaded(const lk_fuser *f, const lk_node *n)
{
    int readers = 0;
    for (const lk_node *m = n->next; m; m = m->next) {
        if (!loads(m, n->out[0])) continue;
        if (m->op == LK_OP_SQUEEZE_EXCITE_DX && !gradient_behind(f, n, m)) return false;
        readers++;
    }
    return readers > 0 && readers == f->uses[n->out[0]->id];
}

/* d, the gradient of the norm, makes its cotangent itself, of sums that m makes. */
static void gate_norm_grad(const lk_fuser *f, lk_node *m, lk_node *d)
{
    const lk_tensor *x = m->in[0];
    lk_node *gate = d->in[5]->producer;
    lk_give(m, 3, lk_tensor_f32(f->g, 3, (int64_t[]){x->dim[0], 4, lk_cols(x)}));
    d->op = LK_OP_GATE_NORM_GRAD;
    d->in[5] = gate->in[1];
    d->in[6] = m->out[3];
    d->in[7] = gate->in[0];
    d->in[8] = gate->in[2];
    d->inputs = 9;
    empty(gate);
}

/* m, which reads the result of a norm of x, reads x instead and normalises it. given: w, b, mean,
 * rstd. */
static void normalise_on_load(const lk_fuser *f, lk_node *m, lk_tensor *x,
                              lk_tensor *const given[4], lk_activation activation)
{
    lk_attr conv = {.norm_dwconv = {m->attr.conv.stride, m->attr.conv.pad, 0, activation}};
    lk_attr other = {.batch_norm = {0, activation}};
    int at = m->inputs; /* of what is given */
    if (m->op == LK_OP_DWCONV_GRAD) { /* before the cotangent */
        m->in[6] = m->in[2];
        at = 2;
    }
    for (int i = 0; i < 4; i++) m->in[at + i] = given[i];
    m->inputs += 4;
    m->in[0] = x;
    f->uses[lk_root(x)->id]++;
    switch (m->op) {
    case LK_OP_DWCONV: m->op = LK_OP_NORM_DWCONV; break;
    case LK_OP_DWCONV_GRAD: m->op = LK_OP_NORM_DWCONV_GRAD; break;
    case LK_OP_GATE: m->op = LK_OP_NORM_GATE; break;
    default: break;
    }
    m->attr = m->op == LK_OP_NORM_DWCONV || m->op == LK_OP_NORM_DWCONV_GRAD ? conv : other;
}

/* m, just made, writes the cotangent of a norm's result: if the norm's gradient is all that reads
 * it, m makes its sums meanwhile. */
static void sum_before(const lk_fuser *f, lk_node *m)
{
    lk_tensor *dn = m->out[0];
    if (m->op != LK_OP_NORM_DWCONV_GRAD || !dn || lk_uses_of(f, dn) != 1) return;
    for (lk_node *d = m->next; d; d = d->next) {
        if (d->op != LK_OP_BATCH_NORM_GRAD || d->in[5] != dn) continue;
        lk_give(m, 2, lk_tensor_f32(f->g, 2, (int64_t[]){2, lk_cols(dn)}));
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
static void measure_before(const lk_fuser *f, lk_node *p, lk_node *n)
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
        lk_give(p, i, n->out[i]);
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

bool lk_fuse_batch_norm(const lk_fuser *f, lk_node *n)
{
    if (n->inputs > 3) return false; /* running statistics */
    lk_tensor *x = n->in[0], *y = n->out[0];
    lk_tensor *given[4] = {n->in[1], n->in[2], n->out[1], n->out[2]};
    lk_node *p = x->base ? NULL : x->producer;
    bool measured = p && can_measure(p), inside = only_loaded(f, n);
    for (lk_node *m = n->next; inside && m; m = m->next) {
        if (!loads(m, y)) continue;
        if (m->op == LK_OP_SQUEEZE_EXCITE_DX) gate_norm_grad(f, m, gradient_behind(f, n, m));
        normalise_on_load(f, m, x, given, n->attr.batch_norm.activation);
        sum_before(f, m);
    }
    if (measured) measure_before(f, p, n);
    if (!inside) return false;
    y->producer = NULL;
    if (!measured) measure_only(n);
    return measured; /* nothing is left of it */
}
