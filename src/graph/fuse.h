/* What the files of the fuse pass share: fuse.c and, for networks of images, fuse_vision.c. */
#ifndef LK_GRAPH_FUSE_H
#define LK_GRAPH_FUSE_H

#include "graph/graph.h"
#include "ops/ops.h"

/* uses and ready are as long as the graph had tensors when the pass began. */
typedef struct lk_fuser {
    lk_graph *g;
    int *uses;  /* by tensor id: node inputs that read its bytes */
    int *ready; /* by tensor id: number of the node that makes it; 0: there from the start */
} lk_fuser;

static inline int lk_uses_of(const lk_fuser *f, lk_tensor *t) { return f->uses[lk_root(t)->id]; }

/* The node `t` comes from, if it is of kind `op` and only `uses` inputs read `t`. */
static inline lk_node *lk_maker(const lk_fuser *f, lk_tensor *t, lk_op op, int uses)
{
    lk_node *p = t && !t->base ? t->producer : NULL;
    return p && p->op == op && lk_uses_of(f, t) == uses ? p : NULL;
}

static inline void lk_give(lk_node *n, int i, lk_tensor *t)
{
    n->out[i] = t;
    if (t) t->producer = n;
    if (i >= n->outputs) n->outputs = i + 1;
}

/* Before the patterns of two nodes: squeeze-and-excitation. Leaves nodes without inputs and
 * outputs, to be taken out. */
void lk_fuse_squeezes(const lk_fuser *f);
/* A BATCH_NORM n with what is before and behind it; true: nothing is left of n. May leave other
 * nodes without inputs and outputs. */
bool lk_fuse_batch_norm(const lk_fuser *f, lk_node *n);

#endif
