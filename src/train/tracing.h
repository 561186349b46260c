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
} lk_tracing_options;

/* Whether the run's steps can be traced on the device, as is asked for: LK_E_INPUT if not.
 * `direct`: they will not be captured. */
lk_status lk_tracing_check(const lk_run *run, const lk_device *d, bool direct);
/* *tracing NULL: no step of this start is to be traced. Not collective. */
lk_status lk_tracing_open(const lk_tracing_options *o, lk_tracing **tracing);
void lk_tracing_close(lk_tracing *t); /* takes NULL; before the program */
/* Before and after a step is enqueued that is number `step` in the log. Where the trace begins and
 * ends they wait for the device and are collective. Take NULL. `after` the last traced step writes
 * the file. */
lk_status lk_tracing_before(lk_tracing *t, uint64_t step);
lk_status lk_tracing_after(lk_tracing *t, uint64_t step);
/* The run ends after this step, perhaps sooner than it was to: write what was traced so far. */
lk_status lk_tracing_end(lk_tracing *t, uint64_t step);

#endif
