/* Progress of a run or of other work for people: a bar with rate, loss and time left on a terminal,
 * plain lines at regular steps or times elsewhere. */
#ifndef LK_METRIC_PROGRESS_H
#define LK_METRIC_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct lk_progress {
    FILE *out;
    bool terminal;
    int64_t every;  /* steps, or seconds, between plain lines */
    double drawn;   /* when something was drawn last, seconds; 0: never */
    bool visible;   /* a bar is on the screen */
    double began;   /* of lk_progress_count: its first call */
    int64_t first;  /* and what was done then */
} lk_progress;

/* `terminal`: draw a bar. `every`: plain lines after each such number of steps, after the first and
 * after the last; of lk_progress_count, after so many seconds. */
void lk_progress_init(lk_progress *p, FILE *out, bool terminal, int64_t every);
/* `rate`: samples per second; `step_seconds`: seconds a step takes, for the time left. */
void lk_progress_step(lk_progress *p, int64_t done, int64_t total, double loss, double rate,
                      double step_seconds);
/* Of `what`, e.g. "samples", so many are done. Rate and time left follow from the time since the
 * first call, which may come when some are done already. */
void lk_progress_count(lk_progress *p, int64_t done, int64_t total, const char *what);
/* A whole line above the bar. */
void lk_progress_line(lk_progress *p, const char *text);
void lk_progress_end(lk_progress *p); /* take the bar away */

#endif
