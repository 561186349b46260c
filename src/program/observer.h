/* lk_observer: who wants to know which node a program runs. Tracing, the search for anomalies and
 * the naming of a failing kernel are written against it; a program without one pays a pointer test
 * for each node that it runs or captures. (The watchdog goes by base/heart.h.)
 *
 * An observer is a struct of its user's that begins with an lk_observer. It outlives its time with
 * the program. Calls come on the thread that runs the program. */
#ifndef LK_PROGRAM_OBSERVER_H
#define LK_PROGRAM_OBSERVER_H

#include "backend/backend.h"

typedef struct lk_observer lk_observer;

/* Any may be NULL. An error ends the run of the program and is its result. */
typedef struct lk_observer_calls {
    /* Before and after a node is run on the CPU, enqueued, or captured: then once, at the run that
     * captures. n NULL: two sums of leaves' gradients are added. x tells the leaf (of LK_STEP nodes
     * it has no meaning) and, by lk_data(), where tensors lie. `end` is not called for a node that
     * failed. */
    lk_status (*begin)(lk_observer *o, const lk_exec *x, const lk_node *n);
    lk_status (*end)(lk_observer *o, const lk_exec *x, const lk_node *n);
    /* Before and after every run of the program, replays included. */
    lk_status (*run_begin)(lk_observer *o);
    lk_status (*run_end)(lk_observer *o);
} lk_observer_calls;

struct lk_observer {
    const lk_observer_calls *calls;
    bool direct;       /* the program is to run node by node, not captured */
    lk_observer *next; /* of the same program; the program's */
};

#endif
