/* Observers for runs that go wrong: the first value that is not finite, and the kernel that fails.
 * Both run the program node by node. */
#ifndef LK_TRACE_ANOMALY_H
#define LK_TRACE_ANOMALY_H

#include "program/program.h"

/* The first tensor of a step that holds a value which is not finite. */
typedef struct lk_anomaly {
    const lk_node *node; /* after it ran; NULL never */
    /* Where its tensors lie now. Inputs are as the node read them, but for those that it writes
     * where they lie (`writes` of lk_rule): they are outputs. */
    const lk_exec *exec;
    uint64_t step;       /* number of the step in the run's log */
    int leaf;            /* among all; -1: the node belongs to none */
    const lk_tensor *tensor; /* an output of the node; the gradient that the norm is taken of */
    lk_range range;          /* of it */
    lk_range in[LK_MAX_INPUTS]; /* of its float inputs; low > high and bad -1: not measured */
    float loss_scale;
} lk_anomaly;

typedef struct lk_anomaly_options {
    lk_program *program;
    lk_graph *graph; /* planned with `apart`, so that inputs are still there */
    lk_store *store;
    /* Gradients are scaled and may overflow: the step is skipped then, and the scale halved. As
     * long as the loss scale is above 1, what was computed from it is not judged; activations,
     * losses, statistics and parameters always are. */
    bool scaling;
    /* Called at the first value that is not finite; its status, an error, ends the step. */
    lk_status (*found)(void *context, const lk_anomaly *a);
    void *context;
} lk_anomaly_options;

typedef struct lk_anomaly_search lk_anomaly_search;
/* LK_E_INPUT: the backend has no measure(). */
lk_status lk_anomaly_open(const lk_anomaly_options *o, lk_anomaly_search **search);
void lk_anomaly_close(lk_anomaly_search *s); /* takes NULL; before the program */

/* Wait for each node before the next is enqueued, so that an error of the device names it:
 * "step 3, leaf 0: blocks.1.attn (attention): ...". */
typedef struct lk_blocking lk_blocking;
lk_status lk_blocking_open(lk_program *p, lk_store *store, lk_blocking **blocking);
void lk_blocking_close(lk_blocking *b); /* takes NULL; before the program */

#endif
