/* Checking tables: columns of numbers, a label for each row. */
#include "check/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t features(const lk_checker *c)
{
    int64_t n = c->data->table.columns;
    return n < LK_CHECK_COLUMNS ? n : LK_CHECK_COLUMNS;
}

/* The first c->features columns. */
static void derive(const lk_checker *c, const void *rows, int64_t count, float *out)
{
    const float *x = rows;
    for (int64_t i = 0; i < count; i++)
        memcpy(out + i * c->features, x + i * c->data->table.columns,
               (size_t)c->features * sizeof *out);
}

/* Distributions of a block; a table of more columns is copied in strips. */
static void distribute(lk_checker *c, lk_check_worker *w, lk_split split, const lk_block *b)
{
    enum { STRIP = 128 };
    bool train = split == LK_TRAIN, all = c->features == c->data->table.columns;
    const uint16_t *label = train ? b->field[1] : NULL;
    double *product = train ? c->product[b->lane] : NULL;
    if (all) {
        lk_columns_block(&c->plan, b->field[0], label, b->rows, &w->columns, w->columns.tile,
                         product);
        return;
    }
    float strip[STRIP * LK_CHECK_COLUMNS];
    for (int64_t at = 0; at < b->rows; at += STRIP) {
        int64_t n = b->rows - at < STRIP ? b->rows - at : STRIP;
        derive(c, (const float *)b->field[0] + at * c->data->table.columns, n, strip);
        lk_columns_block(&c->plan, strip, label ? label + at : NULL, n, &w->columns,
                         w->columns.tile, product);
    }
}

static void block(lk_checker *c, lk_check_worker *w, lk_split split, const lk_block *b,
                  lk_record_list *list)
{
    lk_counts_labels(c, &w->counts, b);
    if (c->comparing && c->compared[split])
        lk_check_reference_block(c, &w->counts, b->field[0], b->rows);
    if (c->judging) {
        lk_scan_rows(&w->counts.scan, b->field[0], b->rows, b->first);
        lk_check_records(c, split, b, list);
        w->counts.samples += b->rows;
    }
    if (c->features > 0) distribute(c, w, split, b);
}

/* ---- the judgement --------------------------------------------------------------------------- */

static lk_status judge_faults(lk_checker *c, int split, int64_t column)
{
    static const char *const code[LK_FAULTS] = {"nan", "infinite", "huge"};
    static const char *const what[LK_FAULTS] = {"NaN", "infinite", "beyond 1e18"};
    const lk_scan *s = &c->total[split].scan;
    const char *name = c->data->table.column[column];
    for (int k = 0; k < LK_FAULTS; k++) {
        int64_t n = s->count[k * s->columns + column];
        if (n == 0) continue;
        LK_TRY(lk_check_find(c, k == LK_FAULT_HUGE ? LK_WARNING : LK_UNFIT, code[k], split, name, n,
                             s->row + (k * s->columns + column) * LK_FAULT_ROWS,
                             "column '%.60s': %lld value%s %s %s", name, (long long)n,
                             n == 1 ? "" : "s", n == 1 ? "is" : "are", what[k]));
    }
    return LK_OK;
}

static lk_status judge_column(lk_checker *c, int64_t column)
{
    const lk_scan *s = &c->total[LK_TRAIN].scan;
    const char *name = c->data->table.column[column];
    for (int split = 0; split < 2; split++) LK_TRY(judge_faults(c, split, column));
    if (s->low[column] == s->high[column] && c->data->rows[LK_TRAIN] > 1)
        return lk_check_find(c, LK_WARNING, "constant", LK_TRAIN, name, c->data->rows[LK_TRAIN],
                             NULL, "column '%.60s' is %.6g everywhere", name,
                             (double)s->low[column]);
    return LK_OK;
}

static lk_status judge(lk_checker *c)
{
    int64_t n = c->data->table.columns;
    for (int64_t i = 0; i < n; i++) LK_TRY(judge_column(c, i));
    if (c->level >= 3 && n > LK_CHECK_COLUMNS)
        return lk_check_find(c, LK_NOTE, "columns", -1, NULL, n - LK_CHECK_COLUMNS, NULL,
                             "level 3 looks at the first %d of %lld columns", LK_CHECK_COLUMNS,
                             (long long)n);
    return LK_OK;
}

static void name(const lk_checker *c, int64_t i, char text[64])
{
    snprintf(text, 64, "%.63s", c->data->table.column[i]);
}

static lk_status describe(lk_checker *c)
{
    LK_TRY(lk_check_describe_columns(c, name));
    return lk_check_judge_features(c);
}

const lk_check_kind lk_check_table = {0, features, derive, block, judge, describe};
