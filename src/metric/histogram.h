/* Distribution of times: counts in bins whose width grows with the value, as HdrHistogram's (G.
 * Tene), so that any quantile of any number of values takes the same small memory.
 *
 * An octave [2^k, 2^(k+1)) is cut into LK_HISTOGRAM_PARTS equal bins and a value is taken for the
 * middle of its bin: a quantile is off by at most 1/128 of itself (0.8 %) for times between 1 us
 * and 12 days; shorter and longer ones are counted in the first and last bin. */
#ifndef LK_METRIC_HISTOGRAM_H
#define LK_METRIC_HISTOGRAM_H

#include <stdint.h>

enum {
    LK_HISTOGRAM_PARTS = 64,
    LK_HISTOGRAM_OCTAVES = 40, /* from 2^-20 s */
    LK_HISTOGRAM_BINS = LK_HISTOGRAM_PARTS * LK_HISTOGRAM_OCTAVES
};

typedef struct lk_histogram {
    uint64_t count;
    double sum, low, high; /* seconds; of all values added, exact */
    uint32_t bin[LK_HISTOGRAM_BINS];
} lk_histogram; /* zeroed: empty */

void lk_histogram_add(lk_histogram *h, double seconds); /* not finite or negative: left out */
/* The value that a share q in [0, 1] of all does not exceed; NAN when there is none. */
double lk_histogram_quantile(const lk_histogram *h, double q);
double lk_histogram_low(int bin); /* lower end of a bin, seconds; of LK_HISTOGRAM_BINS: upper end */

/* The same over the last LK_WINDOW values only. */
enum { LK_WINDOW = 1000 };
typedef struct lk_window {
    lk_histogram histogram; /* sum, low, high: of all values ever added */
    uint16_t recent[LK_WINDOW];
    int next;
} lk_window;
void lk_window_add(lk_window *w, double seconds);

#endif
