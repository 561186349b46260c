#include "metric/sketch.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Median distance from the centre of the values that differ from it; 0: there are none. Of a sorted
 * sample, which it overwrites. */
static double spread_of_others(float *sample, int64_t count, float center)
{
    int64_t others = 0;
    for (int64_t i = 0; i < count; i++)
        if (sample[i] < center || sample[i] > center)
            sample[others++] = fabsf(sample[i] - center);
    if (others == 0) return 0;
    qsort(sample, (size_t)others, sizeof *sample, by_value);
    return fmin((double)sample[others / 2], (double)FLT_MAX);
}

lk_sketch_scale lk_sketch_scale_of(float *sample, int64_t count)
{
    if (count == 0) return (lk_sketch_scale){0, 1};
    qsort(sample, (size_t)count, sizeof *sample, by_value);
    float center = sample[count / 2];
    double scale = ((double)sample[count * 3 / 4] - (double)sample[count / 4]) / 2;
    if (!(scale > 0)) scale = spread_of_others(sample, count, center);
    if (!(scale > 0)) scale = fabs((double)center) > 0 ? fabs((double)center) : 1;
    double inverse = 1 / scale; /* of a subnormal scale beyond f32, of one near its end below it */
    if (inverse > (double)FLT_MAX) inverse = (double)FLT_MAX;
    if (inverse < (double)FLT_MIN) inverse = (double)FLT_MIN;
    return (lk_sketch_scale){center, (float)inverse};
}

/* The float whose upper bits are LK_SKETCH_LOWEST + m. */
static double magnitude(int m)
{
    uint32_t bits = (uint32_t)(LK_SKETCH_LOWEST + m) << 16;
    float d;
    memcpy(&d, &bits, sizeof d);
    return (double)d;
}

/* Bin SIDE + m is [magnitude(m - 1), magnitude(m)), from 0 where m = 1; SIDE - m mirrors it. */
double lk_sketch_edge(lk_sketch_scale s, int bin)
{
    int m = bin - LK_SKETCH_SIDE;
    double d = m > 1 ? magnitude(m - 1) : m < 0 ? -magnitude(-m) : 0;
    return (double)s.center + d / (double)s.inverse;
}

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

double lk_sketch_quantile(lk_sketch_scale s, const int64_t count[LK_SKETCH_BINS], double q,
                          double low, double high)
{
    int64_t total = 0, before = 0;
    for (int i = 0; i < LK_SKETCH_BINS; i++) total += count[i];
    if (total == 0) return NAN;
    double rank = q * (double)(total - 1);
    if (rank <= 0) return low;
    if (rank >= (double)(total - 1)) return high;
    int i = 0;
    while (i < LK_SKETCH_BINS - 1 && (double)(before + count[i]) <= rank) before += count[i++];
    if (i == 0 || i == LK_SKETCH_BINS - 1) return NAN;
    double from = clamp(lk_sketch_edge(s, i), low, high);
    double to = clamp(lk_sketch_edge(s, i + 1), low, high);
    return from + (to - from) * (rank - (double)before + 0.5) / (double)count[i];
}

int lk_sketch_groups(const int64_t count[LK_SKETCH_BINS], int most, uint16_t *last)
{
    int64_t left = 0, held = 0;
    int groups = 0;
    for (int i = 0; i < LK_SKETCH_BINS; i++) left += count[i];
    for (int i = 0; i < LK_SKETCH_BINS && groups < most - 1; i++) {
        double share = (double)(left + held) / (most - groups);
        /* a heavy bin must not take a light neighbour along */
        if (held > 0 && count[i] > 0 && (double)(held + count[i]) > 1.5 * share) {
            last[groups++] = (uint16_t)(i - 1);
            held = 0;
            if (groups == most - 1) break;
            share = (double)left / (most - groups);
        }
        held += count[i];
        left -= count[i];
        if (left == 0) break;
        if ((double)held >= share) {
            last[groups++] = (uint16_t)i;
            held = 0;
        }
    }
    last[groups++] = LK_SKETCH_BINS - 1;
    return groups;
}

void lk_sketch_histogram(lk_sketch_scale s, const int64_t count[LK_SKETCH_BINS], double low,
                         double high, int bars, double *bar)
{
    double width = (high - low) / bars;
    for (int i = 0; i < bars; i++) bar[i] = 0;
    for (int i = 0; i < LK_SKETCH_BINS; i++) {
        if (count[i] == 0) continue;
        double from = i == 0 ? low : clamp(lk_sketch_edge(s, i), low, high);
        double to = i == LK_SKETCH_BINS - 1 ? high : clamp(lk_sketch_edge(s, i + 1), low, high);
        if (!(width > 0) || !(to > from)) {
            int k = width > 0 ? (int)clamp((from - low) / width, 0, bars - 1) : 0;
            bar[k] += (double)count[i];
            continue;
        }
        int k = (int)clamp((from - low) / width, 0, bars - 1);
        int end = (int)clamp((to - low) / width, 0, bars - 1);
        for (; k <= end; k++) {
            double a = low + k * width, b = k == bars - 1 ? high : a + width;
            double share = (fmin(b, to) - fmax(a, from)) / (to - from);
            if (share > 0) bar[k] += share * (double)count[i];
        }
    }
}
