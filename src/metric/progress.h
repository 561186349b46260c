/* Progress of a run for people: a bar with rate, loss and time left on a terminal, plain lines at
 * regular steps elsewhere. */
#ifndef LK_METRIC_PROGRESS_H
#define LK_METRIC_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct lk_progress {
    FILE *out;
    bool terminal;
    int64_t every;  /* steps between plain lines */
    double drawn;   /* when the bar was drawn last, seconds; 0: no bar is on the screen */
    bool visible;
} lk_progress;

/* `terminal`: draw a bar. `every`: plain lines after each such number of steps, after the first and
 * after the last. */
void lk_progress_init(lk_progress *p, FILE *out, bool terminal, int64_t every);
/* `rate`: samples per second; `step_seconds`: seconds a step takes, for the time left. */
void lk_progress_step(lk_progress *p, int64_t done, int64_t total, double loss, double rate,
                      double step_seconds);
/* A whole line above the bar. */
void lk_progress_line(lk_progress *p, const char *text);
void lk_progress_end(lk_progress *p); /* take the bar away */

#endif
