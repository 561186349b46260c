/* Watching a run from within: the run log, TensorBoard, Prometheus, and warnings of what stands out
 * (doc/run_log.md).
 *
 * All of it comes from lk_step_state, read some steps after the fact, and from clocks of the host:
 * nothing here makes a step wait. Rank 0 writes; what the other ranks took is gathered at pauses
 * only. A file that cannot be made is an error at the start; one that cannot be written later is
 * said once and given up, for no run should die of its log. */
#ifndef LK_TRAIN_MONITOR_H
#define LK_TRAIN_MONITOR_H

#include "comm/comm.h"
#include "io/checkpoint.h"
#include "io/loader.h"
#include "ops/step_state.h"
#include "train/run.h"
#include "train/tracing.h"
#include "train/train.h"

typedef struct lk_monitor lk_monitor;

typedef struct lk_monitor_options { /* what it points to outlives the monitor */
    lk_comm *comm;
    const lk_run *run;
    const lk_dataset *data;
    const lk_loader_options *order; /* of the training samples */
    lk_device *device;
    int64_t parameters;
    uint64_t start;                 /* steps done before */
    const lk_drift_report *drift;   /* of validation from training samples; NULL or without
                                       features: not known here */
    const lk_reporter *reporter;    /* gets a line for each warning, and one of tuning */
} lk_monitor_options;

/* Whether log.prometheus can be written, before the run directory is made or changed. LK_E_INPUT;
 * LK_E_SYSTEM: the disk. */
lk_status lk_monitor_check(const lk_run *run);
/* After the logs of the run directory were opened: its loss.log tells what came before `start`, so
 * that warnings of outliers are those of an uninterrupted run. LK_E_INPUT: log.prometheus cannot be
 * written. Not collective, but called by all ranks. */
lk_status lk_monitor_open(const lk_monitor_options *o, lk_monitor **m);
/* The end of this start: done, or `stopped` for a reason, or failed with `status` and the text of
 * the error. Takes NULL. */
void lk_monitor_close(lk_monitor *m, lk_status status, const char *stopped);

/* Around the enqueuing of a step: before its samples are fed, after that, when all is enqueued. */
void lk_monitor_begin(lk_monitor *m, uint64_t step);
void lk_monitor_fed(lk_monitor *m, uint64_t step);
void lk_monitor_enqueued(lk_monitor *m, uint64_t step);
/* The state of the oldest step in flight was read. */
void lk_monitor_step(lk_monitor *m, const lk_step_state *s);
/* Seconds of a step of this start, their mean, without those that prepare others; of the first one
 * as long as there is no other. Rank 0; NAN before the first. */
double lk_monitor_pace(const lk_monitor *m);

void lk_monitor_validation(lk_monitor *m, uint64_t step, const lk_validation *v, double best,
                           double seconds);
void lk_monitor_save(lk_monitor *m, const lk_checkpoint_figures *f); /* is complete; takes NULL */
/* Around a trace, from before its first step until it is written. The memory that it takes is in no
 * peak before the run takes more; on a GPU the step after each, which is captured anew, is in no
 * distribution of step times, as the first is not. */
void lk_monitor_trace_begins(lk_monitor *m);
void lk_monitor_trace_ended(lk_monitor *m, const lk_traced *t);
/* In a pause: gather what each rank took since the last one and name a slow rank. `evaluation`:
 * seconds of this rank's own work in a batch of the validation just done, NAN without one.
 * Collective. */
lk_status lk_monitor_ranks(lk_monitor *m, uint64_t step, double evaluation);

#endif
