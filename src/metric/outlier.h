/* Sudden rises in a series: a value far above the last ones.
 *
 * The score of a value is its distance above the median of the window before it, in standard
 * deviations estimated by 1.4826 times the median absolute deviation (P. Rousseeuw and C. Croux,
 * "Alternatives to the median absolute deviation", JASA 88, 1993): up to half of the window may be
 * outliers themselves. A deviation is never taken for less than `least`, so that a series at rest
 * does not cry at its own rounding. Only rises count: falling is what a loss is for.
 *
 * A pure function of the series. */
#ifndef LK_METRIC_OUTLIER_H
#define LK_METRIC_OUTLIER_H

#include "base/status.h"

#include <stdbool.h>

enum { LK_OUTLIER_FEW = 32 };

typedef struct lk_outlier {
    int window, count, next;
    double *recent, *sorted; /* the last `count` values: by time (a ring), by size */
    bool high;               /* the last value was an outlier */
} lk_outlier;

lk_status lk_outlier_open(lk_outlier *o, int window); /* values; at least 8 */
void lk_outlier_close(lk_outlier *o);                 /* takes a zeroed struct too */
typedef struct lk_outlier_verdict {
    double score, median; /* NAN before LK_OUTLIER_FEW values, or a whole window, were taken in */
    bool begins; /* score above the threshold, and the value before it was not: report it */
} lk_outlier_verdict;
/* Judge x against the window, then take it in. Values that are not finite are left out. */
lk_outlier_verdict lk_outlier_next(lk_outlier *o, double x, double threshold, double least);

#endif
