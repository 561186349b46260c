/* Statistics of the columns of a matrix of f32, block by block.
 *
 * Two parts. `lk_scan` looks at every value: least and largest, and what is not finite or huge,
 * with the rows. `lk_columns` looks at the distribution: moments and correlations, a sketch of each
 * column (metric/sketch.h) and how much a column alone tells about the label.
 *
 * Everything that is counted is a whole number, and so independent of the order. Sums of products
 * are taken in f64 of values shifted by the centre of each column (nearly its mean, so that little
 * is lost: T. Chan, G. Golub, R. LeVeque 1983), per lane of blocks (io/blocks.h) in the order of
 * the blocks, and then over lanes in their order: the same bits for any number of threads and
 * ranks. */
#ifndef LK_METRIC_COLUMNS_H
#define LK_METRIC_COLUMNS_H

#include "base/status.h"
#include "metric/sketch.h"

#include <stdbool.h>

/* ---- every value ----------------------------------------------------------------------------- */

typedef enum lk_fault { LK_FAULT_NAN, LK_FAULT_INFINITE, LK_FAULT_HUGE, LK_FAULTS } lk_fault;
#define LK_HUGE 1e18f /* its square is about the largest f32 */
enum { LK_FAULT_ROWS = 5 }; /* kept for each column and kind */

typedef struct lk_scan {
    int64_t columns;
    float *low, *high; /* [columns], of finite values; low > high: none */
    int64_t *count;    /* [LK_FAULTS, columns] */
    int64_t *row;      /* [LK_FAULTS, columns, LK_FAULT_ROWS]: the first ones; INT64_MAX: none */
} lk_scan;
lk_status lk_scan_create(int64_t columns, lk_scan *s);
void lk_scan_destroy(lk_scan *s); /* takes a zeroed one */
/* Look at rows [rows, columns], which are rows `first` and on of their split. */
void lk_scan_rows(lk_scan *s, const float *x, int64_t rows, int64_t first);
void lk_scan_merge(lk_scan *to, const lk_scan *from);
/* Add a row to LK_FAULT_ROWS kept in rising order. */
void lk_scan_note(int64_t *kept, int64_t row);

/* ---- distributions --------------------------------------------------------------------------- */

enum { LK_LABEL_GROUPS = 64, LK_VALUE_GROUPS = 128 }; /* at most */

/* What all threads share and only read. */
typedef struct lk_columns_plan {
    int64_t columns, padded; /* padded: columns and a column of ones, to a multiple of 8 */
    int64_t classes;
    int64_t labels;          /* classes that are looked at, at most LK_LABEL_GROUPS */
    int64_t values;          /* groups of values of a column: a label copied has room in them */
    uint8_t *label;          /* [classes]: which of `labels` it is; LK_LABEL_GROUPS: none */
    lk_sketch_scale *scale;  /* [columns] */
    uint8_t *group;          /* [columns, LK_SKETCH_BINS]: group of a bin, < values */
} lk_columns_plan;
/* From a sample of rows [count, columns] and their labels; classes 0: there are none. Of many
 * classes the most frequent are looked at. Values that are not finite are left out. */
lk_status lk_columns_plan_create(const float *sample, const uint16_t *label, int64_t count,
                                 int64_t columns, int64_t classes, lk_columns_plan *p);
void lk_columns_plan_destroy(lk_columns_plan *p); /* takes a zeroed one */
static inline int64_t lk_columns_joint(const lk_columns_plan *p) { return p->values * p->labels; }

/* Counts of one thread, or of all. */
typedef struct lk_columns_counts {
    uint32_t *bin;   /* [columns, LK_SKETCH_BINS] */
    uint32_t *joint; /* [columns, values, labels] */
    double *tile;    /* rows of a step, as f64 */
    int64_t rows;    /* since they were zero: less than 2^32 */
} lk_columns_counts;
lk_status lk_columns_counts_create(const lk_columns_plan *p, lk_columns_counts *c);
void lk_columns_counts_destroy(lk_columns_counts *c); /* takes a zeroed one */
/* Add to totals (i64, of the same shapes) and set to zero. */
void lk_columns_counts_move(const lk_columns_plan *p, lk_columns_counts *c, int64_t *bin,
                            int64_t *joint);

/* A block of rows: counts to `c`; sums of products of the rows without a value that is not finite
 * to `product` [padded, padded], of which the lower triangle counts; column `columns` is the one of
 * ones. Either may be NULL. Labels that are no class are left out. */
void lk_columns_block(const lk_columns_plan *p, const float *x, const uint16_t *label,
                      int64_t rows, lk_columns_counts *c, double *tile, double *product);
/* Doubles of `tile` above. */
int64_t lk_columns_tile(const lk_columns_plan *p);

/* Means and deviations (n-1) [columns] and correlations [columns, columns] from the sum of all
 * products; NAN where there are fewer than two rows or a column does not vary. Returns the rows. */
int64_t lk_columns_moments(const lk_columns_plan *p, const double *product, double *mean,
                           double *deviation, double *correlation);

#endif
