/* The run log: what happened in a run, one JSON object a line (JSON Lines), for programs to read.
 *
 * Every line has "event", "time" (seconds since 1970) and "step" (steps done at that moment; steps
 * never fall from line to line). The events and their members: doc/run_log.md. A line is written
 * whole or, if the process is killed in the middle of it, is the last one and has no end. */
#ifndef LK_METRIC_RUN_LOG_H
#define LK_METRIC_RUN_LOG_H

#include "base/status.h"

#include <jansson.h>
#include <stdint.h>

typedef struct lk_run_log lk_run_log;

/* Open for appending; made where missing. What an earlier start wrote is kept up to the last line
 * of a step <= `step`; the rest, which this start will do again, is cut off, and so is half a
 * line. */
lk_status lk_run_log_open(const char *path, uint64_t step, lk_run_log **log);
/* A line: event, time, step, then the members of `more` (its reference is taken, NULL: memory ended
 * making it). Numbers that are not finite are written by lk_run_log_real() as null. */
lk_status lk_run_log_write(lk_run_log *log, const char *event, double time, uint64_t step,
                           json_t *more);
lk_status lk_run_log_flush(lk_run_log *log); /* for those who look on */
void lk_run_log_close(lk_run_log *log);      /* takes NULL */

json_t *lk_run_log_real(double x); /* in 7 significant digits */

#endif
