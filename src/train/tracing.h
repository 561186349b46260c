/* The traced steps of a training run (trace.from to trace.to), written to trace.h5 of its
 * directory. */
#ifndef LK_TRAIN_TRACING_H
#define LK_TRAIN_TRACING_H

#include "program/program.h"
#include "train/session.h"

typedef struct lk_tracing lk_tracing;

typedef struct lk_tracing_options {
    lk_comm *comm;
    lk_io *io;
    const lk_run *run;
    const lk_reporter *reporter;
    lk_program *program; /* of the training step */
    lk_memory_parts parts;
    int leaves;
    uint64_t start, last; /* steps done before this start, and at its end */
    bool profile; /* the trace is printed next and the file perhaps removed: it is not named */
} lk_tracing_options;

/* Whether the run's steps can be traced on the device, as is asked for: LK_E_INPUT if not.
 * `direct`: they will not be captured. */
lk_status lk_tracing_check(const lk_run *run, const lk_device *d, bool direct);
/* *tracing NULL: no step of this start is to be traced, which is said if some were asked for. Not
 * collective. */
lk_status lk_tracing_open(const lk_tracing_options *o, lk_tracing **tracing);
void lk_tracing_close(lk_tracing *t); /* takes NULL; before the program */
/* Whether the trace begins before step number `step` of the log is enqueued. Takes NULL. */
bool lk_tracing_begins(const lk_tracing *t, uint64_t step);
lk_status lk_tracing_begin(lk_tracing *t); /* waits for the device; collective */

/* A trace that was written. */
typedef struct lk_traced {
    uint64_t first, last; /* steps */
    double seconds;       /* from the last step to the file's end */
    char path[4096];
} lk_traced;

/* Whether it ends after step number `step`; `last`: the run ends there, perhaps sooner than it was
 * to. Takes NULL. */
bool lk_tracing_ends(const lk_tracing *t, uint64_t step, bool last);
/* Waits for the device and writes what was traced. Collective. */
lk_status lk_tracing_end(lk_tracing *t, uint64_t step, lk_traced *traced);

#endif
