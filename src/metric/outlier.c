#include "metric/outlier.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

lk_status lk_outlier_open(lk_outlier *o, int window)
{
    *o = (lk_outlier){.window = window};
    o->recent = calloc((size_t)window, sizeof *o->recent);
    o->sorted = calloc((size_t)window, sizeof *o->sorted);
    if (o->recent && o->sorted) return LK_OK;
    lk_outlier_close(o);
    return lk_fail(LK_E_SYSTEM, "out of memory");
}

void lk_outlier_close(lk_outlier *o)
{
    free(o->recent);
    free(o->sorted);
    *o = (lk_outlier){.window = 0};
}

/* Where x stands, or would, among the sorted values. */
static int position(const lk_outlier *o, double x)
{
    int low = 0, high = o->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (o->sorted[middle] < x) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void take_in(lk_outlier *o, double x)
{
    double *s = o->sorted;
    if (o->count == o->window) { /* the oldest goes */
        int old = position(o, o->recent[o->next]);
        memmove(s + old, s + old + 1, (size_t)(o->count - old - 1) * sizeof *s);
        o->count--;
    }
    int at = position(o, x);
    memmove(s + at + 1, s + at, (size_t)(o->count - at) * sizeof *s);
    s[at] = x;
    o->count++;
    o->recent[o->next] = x;
    o->next = (o->next + 1) % o->window;
}

/* The distances from the median grow both ways from it: merged until half of them are passed. */
static double deviation(const lk_outlier *o, double median)
{
    int right = position(o, median), left = right - 1;
    double d = 0;
    for (int i = 0; i <= o->count / 2; i++) {
        double below = left >= 0 ? median - o->sorted[left] : INFINITY;
        double above = right < o->count ? o->sorted[right] - median : INFINITY;
        if (below < above) left--;
        else right++;
        d = fmin(below, above);
    }
    return d;
}

lk_outlier_verdict lk_outlier_next(lk_outlier *o, double x, double threshold, double least)
{
    lk_outlier_verdict v = {NAN, NAN, false};
    if (!isfinite(x)) return v;
    if (o->count == o->window || o->count >= LK_OUTLIER_FEW) {
        int half = o->count / 2;
        v.median = o->count % 2 ? o->sorted[half] : 0.5 * (o->sorted[half - 1] + o->sorted[half]);
        v.score = (x - v.median) / fmax(1.4826 * deviation(o, v.median), least);
        v.begins = v.score > threshold && !o->high;
        o->high = v.score > threshold;
    }
    take_in(o, x);
    return v;
}
