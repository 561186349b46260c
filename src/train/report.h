/* The report of one or several runs: one HTML page. */
#ifndef LK_TRAIN_REPORT_H
#define LK_TRAIN_REPORT_H

#include "io/io.h"
#include "metric/html.h"
#include "train/history.h"

/* Read the run directories and write the page to `output`. LK_E_INPUT: one is no run directory, or
 * the page cannot be made. `now`: seconds since 1970. */
lk_status lk_report_write(lk_io *io, int runs, const char *const *directory, const char *output,
                          double now);

/* report_trace.c, for report.c: a section for each run that has a trace.h5. */
lk_status lk_report_traces(lk_html *p, lk_io *io, int runs, lk_history *const *h);

/* report_tables.c, for report.c: how the runs ended up, their warnings, what ran where. */
void lk_report_summary(lk_html *p, int runs, lk_history *const *h, double now);
void lk_report_warnings(lk_html *p, int runs, lk_history *const *h);
void lk_report_ranks(lk_html *p, int runs, lk_history *const *h);
void lk_report_starts(lk_html *p, int runs, lk_history *const *h);
void lk_report_settings(lk_html *p, int runs, lk_history *const *h);

#endif
