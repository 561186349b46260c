#include "metric/histogram.h"

#include <math.h>

enum { LEAST = -20 }; /* exponent of the first octave */

static int bin_of(double seconds)
{
    if (seconds < ldexp(1, LEAST)) return 0;
    int exponent;
    double mantissa = frexp(seconds, &exponent); /* [0.5, 1) */
    int octave = exponent - 1 - LEAST;
    if (octave >= LK_HISTOGRAM_OCTAVES) return LK_HISTOGRAM_BINS - 1;
    return octave * LK_HISTOGRAM_PARTS + (int)((mantissa - 0.5) * 2 * LK_HISTOGRAM_PARTS);
}

double lk_histogram_low(int bin)
{
    double part = (double)(bin % LK_HISTOGRAM_PARTS) / LK_HISTOGRAM_PARTS;
    return ldexp(1 + part, LEAST + bin / LK_HISTOGRAM_PARTS);
}

static void count(lk_histogram *h, int bin, double seconds)
{
    if (h->count == 0 || seconds < h->low) h->low = seconds;
    if (h->count == 0 || seconds > h->high) h->high = seconds;
    h->sum += seconds;
    h->count++;
    h->bin[bin]++;
}

void lk_histogram_add(lk_histogram *h, double seconds)
{
    if (isfinite(seconds) && seconds >= 0) count(h, bin_of(seconds), seconds);
}

double lk_histogram_quantile(const lk_histogram *h, double q)
{
    uint64_t seen = 0, wanted = (uint64_t)ceil(q * (double)h->count);
    if (h->count == 0) return NAN;
    if (wanted == 0) wanted = 1;
    for (int i = 0; i < LK_HISTOGRAM_BINS; i++) {
        seen += h->bin[i];
        if (seen < wanted) continue;
        double middle = 0.5 * (lk_histogram_low(i) + lk_histogram_low(i + 1));
        return fmin(fmax(middle, h->low), h->high); /* never beyond what was seen */
    }
    return h->high;
}

void lk_window_add(lk_window *w, double seconds)
{
    lk_histogram *h = &w->histogram;
    if (!isfinite(seconds) || seconds < 0) return;
    int bin = bin_of(seconds);
    count(h, bin, seconds);
    if (h->count > LK_WINDOW) {
        h->bin[w->recent[w->next]]--;
        h->count = LK_WINDOW;
    }
    w->recent[w->next] = (uint16_t)bin;
    w->next = (w->next + 1) % LK_WINDOW;
}
