/* The distribution of a column of numbers in one pass and fixed memory.
 *
 * A value x falls into a bin by d = (x - center) / scale. The centre has a bin of its own; beside
 * it bins grow with the distance, on each side 128 of them for each power of two from 2^-14 to
 * 2^50, so that a quantile is wrong by at most 1/128 of its distance from the centre, or scale /
 * 2^14 beside it, and not at all in the order of values: bins are monotone. The first and last bin
 * take all that is further out, of which nothing more is known. Counts are whole numbers, so
 * sketches with one centre and scale add up exactly in any order. The idea is that of DDSketch (C.
 * Masson, J. Rim, H. Lee, VLDB 2019) and of HDR histograms: bits of the floating-point number as
 * the logarithm. */
#ifndef LK_METRIC_SKETCH_H
#define LK_METRIC_SKETCH_H

#include <stdint.h>
#include <string.h>

enum { LK_SKETCH_SIDE = 64 * 128, LK_SKETCH_BINS = 2 * LK_SKETCH_SIDE + 1 };
enum { LK_SKETCH_LOWEST = (127 - 14) << 7 }; /* the float 2^-14, by its upper bits */

typedef struct lk_sketch_scale {
    float center, inverse; /* inverse: 1 / scale, finite and > 0 */
} lk_sketch_scale;

/* Centre: median of the sample. Scale: half its interquartile range; where that is 0, the median
 * distance from the centre of the values that differ from it; 2^-128 to 2^126, as its inverse is
 * f32. Sorts the sample, which must be finite; may be empty. */
lk_sketch_scale lk_sketch_scale_of(float *sample, int64_t count);

/* Bin of a finite value: LK_SKETCH_SIDE is the centre's. */
static inline int lk_sketch_bin(lk_sketch_scale s, float x)
{
    float d = (x - s.center) * s.inverse;
    uint32_t bits;
    memcpy(&bits, &d, sizeof bits);
    int m = (int)((bits & 0x7FFFFFFFu) >> 16) - LK_SKETCH_LOWEST + 1;
    m = m < 1 ? 1 : m > LK_SKETCH_SIDE ? LK_SKETCH_SIDE : m;
    m = d == 0 ? 0 : m;
    return bits >> 31 ? LK_SKETCH_SIDE - m : LK_SKETCH_SIDE + m;
}

/* Where a bin begins; of LK_SKETCH_BINS: where the last one would end. */
double lk_sketch_edge(lk_sketch_scale s, int bin);
/* Quantile q in [0,1] at rank q (n-1) as numpy's default, by linear interpolation in its bin; in
 * [low, high], the least and largest value. NAN for no values, and for a quantile in the first or
 * last bin: how far out it is is not known. */
double lk_sketch_quantile(lk_sketch_scale s, const int64_t count[LK_SKETCH_BINS], double q,
                          double low, double high);
/* Groups of bins of about equal counts: last[g] is the last bin of group g, the last one that of
 * the last group. Returns how many there are, 1 to most: a value that is very frequent is a group
 * of its own. */
int lk_sketch_groups(const int64_t count[LK_SKETCH_BINS], int most, uint16_t *last);
/* A histogram of `bars` bars of equal width over [low, high] from a sketch; the counts of a bin
 * that lies across a border are shared out by width. */
void lk_sketch_histogram(lk_sketch_scale s, const int64_t count[LK_SKETCH_BINS], double low,
                         double high, int bars, double *bar);

#endif
