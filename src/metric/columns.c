#include "metric/columns.h"

#include <math.h>
#include <stdlib.h>

enum { STEP = 128 }; /* rows that stay in cache while every column is looked at */

/* ---- every value ----------------------------------------------------------------------------- */

lk_status lk_scan_create(int64_t columns, lk_scan *s)
{
    size_t n = (size_t)columns;
    *s = (lk_scan){.columns = columns};
    s->low = malloc(n * sizeof *s->low);
    s->high = malloc(n * sizeof *s->high);
    s->count = calloc(n * LK_FAULTS, sizeof *s->count);
    s->row = malloc(n * LK_FAULTS * LK_FAULT_ROWS * sizeof *s->row);
    if (!s->low || !s->high || !s->count || !s->row) {
        lk_scan_destroy(s);
        return lk_fail(LK_E_SYSTEM, "out of memory for %lld columns", (long long)columns);
    }
    for (size_t i = 0; i < n; i++) {
        s->low[i] = INFINITY;
        s->high[i] = -INFINITY;
    }
    for (size_t i = 0; i < n * LK_FAULTS * LK_FAULT_ROWS; i++) s->row[i] = INT64_MAX;
    return LK_OK;
}

void lk_scan_destroy(lk_scan *s)
{
    free(s->low);
    free(s->high);
    free(s->count);
    free(s->row);
    *s = (lk_scan){.columns = 0};
}

void lk_scan_note(int64_t *kept, int64_t row)
{
    int i = LK_FAULT_ROWS - 1;
    if (row >= kept[i]) return;
    for (; i > 0 && kept[i - 1] > row; i--) kept[i] = kept[i - 1];
    kept[i] = row;
}

static void extend(float *restrict low, float *restrict high, const float *restrict x,
                   int64_t columns)
{
    for (int64_t c = 0; c < columns; c++) {
        low[c] = x[c] < low[c] ? x[c] : low[c];
        high[c] = x[c] > high[c] ? x[c] : high[c];
    }
}

/* A row in which something is wrong. */
static void scan_bad_row(lk_scan *s, const float *x, int64_t row)
{
    for (int64_t c = 0; c < s->columns; c++) {
        if (isfinite(x[c])) extend(s->low + c, s->high + c, x + c, 1);
        if (fabsf(x[c]) < LK_HUGE) continue;
        int64_t k = isnan(x[c]) ? LK_FAULT_NAN : isinf(x[c]) ? LK_FAULT_INFINITE : LK_FAULT_HUGE;
        k = k * s->columns + c;
        s->count[k]++;
        lk_scan_note(s->row + k * LK_FAULT_ROWS, row);
    }
}

static bool any_bad(const float *x, int64_t n)
{
    int bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= !(fabsf(x[i]) < LK_HUGE);
    return bad;
}

void lk_scan_rows(lk_scan *s, const float *x, int64_t rows, int64_t first)
{
    for (int64_t at = 0; at < rows; at += STEP) {
        int64_t n = rows - at < STEP ? rows - at : STEP;
        const float *step = x + at * s->columns;
        bool bad = any_bad(step, n * s->columns);
        for (int64_t r = 0; r < n; r++) {
            const float *row = step + r * s->columns;
            if (bad && any_bad(row, s->columns)) scan_bad_row(s, row, first + at + r);
            else extend(s->low, s->high, row, s->columns);
        }
    }
}

void lk_scan_merge(lk_scan *to, const lk_scan *from)
{
    for (int64_t c = 0; c < to->columns; c++) {
        if (from->low[c] < to->low[c]) to->low[c] = from->low[c];
        if (from->high[c] > to->high[c]) to->high[c] = from->high[c];
    }
    for (int64_t i = 0; i < LK_FAULTS * to->columns; i++) {
        to->count[i] += from->count[i];
        for (int k = 0; k < LK_FAULT_ROWS; k++)
            lk_scan_note(to->row + i * LK_FAULT_ROWS, from->row[i * LK_FAULT_ROWS + k]);
    }
}

/* ---- the plan -------------------------------------------------------------------------------- */

typedef struct class_count {
    int64_t class, count;
} class_count;

static int by_count(const void *a, const void *b)
{
    const class_count *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return x->class < y->class ? -1 : x->class > y->class;
}

/* The classes that are looked at: all, or the most frequent in the sample. */
static bool plan_labels(lk_columns_plan *p, const uint16_t *label, int64_t count)
{
    class_count *c = calloc((size_t)p->classes + 1, sizeof *c);
    if (!c) return false;
    for (int64_t k = 0; k < p->classes; k++) c[k].class = k;
    for (int64_t i = 0; i < count && p->classes > 0; i++)
        if (label[i] < p->classes) c[label[i]].count++;
    if (p->classes > p->labels) qsort(c, (size_t)p->classes, sizeof *c, by_count);
    memset(p->label, LK_LABEL_GROUPS, (size_t)p->classes);
    for (int64_t k = 0; k < p->labels; k++) p->label[c[k].class] = (uint8_t)k;
    free(c);
    return true;
}

/* Groups of values of a column, from the rows of the classes that are looked at. */
static void plan_groups(lk_columns_plan *p, int64_t column, const float *sample,
                        const uint16_t *label, int64_t count, int64_t *histogram)
{
    uint16_t last[LK_VALUE_GROUPS];
    uint8_t *group = p->group + column * LK_SKETCH_BINS;
    memset(histogram, 0, LK_SKETCH_BINS * sizeof *histogram);
    for (int64_t r = 0; r < count; r++) {
        float x = sample[r * p->columns + column];
        if (isfinite(x) && label[r] < p->classes && p->label[label[r]] < p->labels)
            histogram[lk_sketch_bin(p->scale[column], x)]++;
    }
    int groups = lk_sketch_groups(histogram, (int)p->values, last);
    for (int g = 0, bin = 0; g < groups; g++)
        for (; bin <= last[g]; bin++) group[bin] = (uint8_t)g;
}

static void plan_columns(lk_columns_plan *p, const float *sample, const uint16_t *label,
                         int64_t count, float *x, int64_t *histogram)
{
    for (int64_t c = 0; c < p->columns; c++) {
        int64_t n = 0;
        for (int64_t r = 0; r < count; r++)
            if (isfinite(sample[r * p->columns + c])) x[n++] = sample[r * p->columns + c];
        p->scale[c] = lk_sketch_scale_of(x, n);
        if (p->classes > 0) plan_groups(p, c, sample, label, count, histogram);
    }
}

lk_status lk_columns_plan_create(const float *sample, const uint16_t *label, int64_t count,
                                 int64_t columns, int64_t classes, lk_columns_plan *p)
{
    *p = (lk_columns_plan){.columns = columns, .classes = classes};
    p->padded = (columns + 1 + 7) / 8 * 8;
    p->labels = classes < LK_LABEL_GROUPS ? classes : LK_LABEL_GROUPS;
    p->values = p->labels > LK_VALUE_GROUPS / 8 ? 2 * p->labels : LK_VALUE_GROUPS / 4;
    p->label = malloc((size_t)classes + 1);
    p->scale = calloc((size_t)columns, sizeof *p->scale);
    p->group = calloc((size_t)columns, LK_SKETCH_BINS);
    float *x = malloc(((size_t)count + 1) * sizeof *x);
    int64_t *histogram = malloc(LK_SKETCH_BINS * sizeof *histogram);
    bool good = p->label && p->scale && p->group && x && histogram && plan_labels(p, label, count);
    if (good) plan_columns(p, sample, label, count, x, histogram);
    free(x);
    free(histogram);
    if (good) return LK_OK;
    lk_columns_plan_destroy(p);
    return lk_fail(LK_E_SYSTEM, "out of memory for %lld columns", (long long)columns);
}

void lk_columns_plan_destroy(lk_columns_plan *p)
{
    free(p->label);
    free(p->scale);
    free(p->group);
    *p = (lk_columns_plan){.columns = 0};
}

/* ---- counts ---------------------------------------------------------------------------------- */

static size_t bins_of(const lk_columns_plan *p) { return (size_t)p->columns * LK_SKETCH_BINS; }

static size_t joint_of(const lk_columns_plan *p)
{
    return (size_t)(p->columns * lk_columns_joint(p));
}

lk_status lk_columns_counts_create(const lk_columns_plan *p, lk_columns_counts *c)
{
    *c = (lk_columns_counts){.rows = 0};
    c->bin = calloc(bins_of(p), sizeof *c->bin);
    c->joint = calloc(joint_of(p) + 1, sizeof *c->joint);
    c->tile = malloc((size_t)lk_columns_tile(p) * sizeof *c->tile);
    if (c->bin && c->joint && c->tile) return LK_OK;
    lk_columns_counts_destroy(c);
    return lk_fail(LK_E_SYSTEM, "out of memory for %lld columns", (long long)p->columns);
}

void lk_columns_counts_destroy(lk_columns_counts *c)
{
    free(c->bin);
    free(c->joint);
    free(c->tile);
    *c = (lk_columns_counts){.rows = 0};
}

void lk_columns_counts_move(const lk_columns_plan *p, lk_columns_counts *c, int64_t *bin,
                            int64_t *joint)
{
    for (size_t i = 0; i < bins_of(p); i++) bin[i] += c->bin[i];
    for (size_t i = 0; i < joint_of(p); i++) joint[i] += c->joint[i];
    memset(c->bin, 0, bins_of(p) * sizeof *c->bin);
    memset(c->joint, 0, joint_of(p) * sizeof *c->joint);
    c->rows = 0;
}

/* Finite values: nothing to ask for each. */
static void count_clean(const lk_columns_plan *p, const float *x, const uint8_t *group,
                        int64_t rows, lk_columns_counts *c)
{
    int64_t n = p->columns, labels = p->labels;
    for (int64_t k = 0; k < n; k++) {
        lk_sketch_scale s = p->scale[k];
        uint32_t *bin = c->bin + k * LK_SKETCH_BINS;
        uint32_t *joint = c->joint + k * lk_columns_joint(p);
        const uint8_t *of = p->group + k * LK_SKETCH_BINS;
        int at[STEP];
        for (int64_t r = 0; r < rows; r++) at[r] = lk_sketch_bin(s, x[r * n + k]);
        for (int64_t r = 0; r < rows; r++) bin[at[r]]++;
        for (int64_t r = 0; r < rows && group; r++)
            if (group[r] < labels) joint[of[at[r]] * labels + group[r]]++;
    }
}

static void count_each(const lk_columns_plan *p, const float *x, const uint8_t *group,
                       int64_t rows, lk_columns_counts *c)
{
    int64_t n = p->columns, labels = p->labels;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < n; k++) {
            if (!isfinite(x[r * n + k])) continue;
            int at = lk_sketch_bin(p->scale[k], x[r * n + k]);
            int64_t of = k * p->values + p->group[k * LK_SKETCH_BINS + at];
            c->bin[k * LK_SKETCH_BINS + at]++;
            if (group && group[r] < labels) c->joint[of * labels + group[r]]++;
        }
}

/* ---- products -------------------------------------------------------------------------------- */

typedef double four __attribute__((vector_size(32), aligned(8), may_alias));

/* product += transpose(z) z, for z [rows, padded]; the lower triangle, by tiles of 4 x 8. */
static void add_products(const double *z, int64_t rows, int64_t padded, double *product)
{
    for (int64_t i = 0; i < padded; i += 4)
        for (int64_t j = 0; j <= i; j += 8) {
            four sum[4][2] = {{{0}}};
            for (int64_t r = 0; r < rows; r++) {
                const double *a = z + r * padded + i;
                const four *b = (const four *)(z + r * padded + j);
                for (int k = 0; k < 4; k++) {
                    sum[k][0] += a[k] * b[0];
                    sum[k][1] += a[k] * b[1];
                }
            }
            for (int k = 0; k < 4; k++) {
                four *to = (four *)(product + (i + k) * padded + j);
                to[0] += sum[k][0];
                to[1] += sum[k][1];
            }
        }
}

static void fill_tile(const lk_columns_plan *p, const float *x, int64_t rows, bool clean,
                      double *z)
{
    int64_t n = p->columns;
    for (int64_t r = 0; r < rows; r++, x += n, z += p->padded) {
        bool whole = true;
        for (int64_t k = 0; k < n && !clean; k++) whole &= isfinite(x[k]) != 0;
        for (int64_t k = 0; k < n; k++)
            z[k] = whole ? (double)x[k] - (double)p->scale[k].center : 0;
        z[n] = whole;
        for (int64_t k = n + 1; k < p->padded; k++) z[k] = 0;
    }
}

int64_t lk_columns_tile(const lk_columns_plan *p) { return STEP * p->padded; }

void lk_columns_block(const lk_columns_plan *p, const float *x, const uint16_t *label,
                      int64_t rows, lk_columns_counts *c, double *tile, double *product)
{
    uint8_t group[STEP];
    for (int64_t at = 0; at < rows; at += STEP) {
        int64_t n = rows - at < STEP ? rows - at : STEP;
        const float *step = x + at * p->columns;
        bool clean = !any_bad(step, n * p->columns);
        for (int64_t r = 0; r < n && label; r++)
            group[r] = label[at + r] < p->classes ? p->label[label[at + r]] : LK_LABEL_GROUPS;
        if (c && clean) count_clean(p, step, label ? group : NULL, n, c);
        else if (c) count_each(p, step, label ? group : NULL, n, c);
        if (!product) continue;
        fill_tile(p, step, n, clean, tile);
        add_products(tile, n, p->padded, product);
    }
    if (c) c->rows += rows;
}

int64_t lk_columns_moments(const lk_columns_plan *p, const double *product, double *mean,
                           double *deviation, double *correlation)
{
    int64_t n = p->columns, width = p->padded;
    const double *sum = product + n * width; /* the row of ones */
    double rows = sum[n];
    for (int64_t i = 0; i < n; i++) {
        double variance = (product[i * width + i] - sum[i] * sum[i] / rows) / (rows - 1);
        bool varies = rows > 1 && variance > 0;
        mean[i] = rows > 0 ? (double)p->scale[i].center + sum[i] / rows : NAN;
        deviation[i] = rows > 1 ? sqrt(variance > 0 ? variance : 0) : NAN;
        for (int64_t j = 0; j <= i && correlation; j++) {
            double covariance = (product[i * width + j] - sum[i] * sum[j] / rows) / (rows - 1);
            double r = varies && deviation[j] > 0 ? covariance / (deviation[i] * deviation[j])
                                                  : NAN;
            if (r > 1) r = 1;
            if (r < -1) r = -1;
            correlation[i * n + j] = correlation[j * n + i] = i == j && varies ? 1 : r;
        }
    }
    return (int64_t)rows;
}
