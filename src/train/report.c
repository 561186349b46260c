/* The page and its charts. */
#include "train/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SMOOTHINGS = 100 }; /* a curve is smoothed over the last hundredth of its steps */

static double *column(const lk_table *t, int which) { return t->rows ? t->column[which] : NULL; }

static lk_html_series series(const char *name, const lk_table *t, int x, int y)
{
    return (lk_html_series){.name = name, .x = column(t, x), .y = column(t, y), .count = t->rows};
}

/* Mean over the last `span` rows, of those that are finite. Caller frees. */
static double *smoothed(const lk_table *t, int which, int64_t span)
{
    double *out = malloc((size_t)(t->rows + 1) * sizeof *out), sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < t->rows && out; i++) {
        double in = t->column[which][i];
        if (isfinite(in)) sum += in, count++;
        if (i >= span && isfinite(t->column[which][i - span]))
            sum -= t->column[which][i - span], count--;
        out[i] = count ? sum / (double)count : NAN;
    }
    return out;
}

static int64_t span_of(const lk_table *t)
{
    return t->rows / SMOOTHINGS > 1 ? t->rows / SMOOTHINGS : 1;
}

static bool any_finite(int runs, lk_history *const *h, const lk_table *(*table)(const lk_history *),
                       int which)
{
    for (int r = 0; r < runs; r++) {
        const lk_table *t = table(h[r]);
        for (int64_t i = 0; i < t->rows; i++)
            if (isfinite(t->column[which][i])) return true;
    }
    return false;
}

static const lk_table *loss_table(const lk_history *h) { return &h->loss; }
static const lk_table *validation_table(const lk_history *h) { return &h->validation; }
static const lk_table *record_table(const lk_history *h) { return &h->record; }

/* One figure over the steps, a line for each run; nothing where no run has it. */
static lk_status overlay(lk_html *p, int runs, lk_history *const *h, const lk_html_chart *c,
                         const lk_table *(*table)(const lk_history *), int which, double unit,
                         bool smooth)
{
    if (!any_finite(runs, h, table, which)) return LK_OK;
    lk_html_series *s = calloc((size_t)runs, sizeof *s);
    double **scaled = calloc((size_t)runs, sizeof *scaled);
    bool good = s && scaled;
    for (int r = 0; r < runs && good; r++) {
        const lk_table *t = table(h[r]);
        s[r] = series(h[r]->directory, t, 0, which);
        scaled[r] = smoothed(t, which, smooth ? span_of(t) : 1);
        good = scaled[r] != NULL;
        for (int64_t i = 0; i < t->rows && good; i++) scaled[r][i] *= unit;
        s[r].y = scaled[r];
    }
    if (good) lk_html_lines(p, c, s, runs);
    for (int r = 0; r < runs && scaled; r++) free(scaled[r]);
    free(scaled);
    free(s);
    return good ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

static bool far_apart(int runs, lk_history *const *h)
{
    double low = INFINITY, high = -INFINITY;
    for (int r = 0; r < runs; r++) lk_history_loss_range(h[r], &low, &high);
    return lk_history_logarithmic(low, high);
}

/* ---- loss ------------------------------------------------------------------------------------ */

/* One run: each step, smoothed, and the validations together. */
static lk_status loss_of_one(lk_html *p, lk_history *h)
{
    int64_t span = span_of(&h->loss);
    double *mean = smoothed(&h->loss, LK_LOSS, span);
    char name[64];
    int count = 0;
    if (!mean) return lk_fail(LK_E_SYSTEM, "out of memory");
    snprintf(name, sizeof name, "mean of the last %lld steps", (long long)span);
    lk_html_series s[4];
    s[count++] = series("training, each step", &h->loss, LK_LOSS_STEP, LK_LOSS);
    s[0].faint = span > 1;
    if (span > 1) {
        s[count] = series(name, &h->loss, LK_LOSS_STEP, LK_LOSS);
        s[count++].y = mean;
    }
    if (h->validation.rows)
        s[count++] = series("validation", &h->validation, LK_VALID_STEP, LK_VALID_LOSS);
    if (h->validation.rows && isfinite(h->validation.column[LK_VALID_EMA_LOSS][0]))
        s[count++] = series("validation, moving average of the parameters", &h->validation,
                            LK_VALID_STEP, LK_VALID_EMA_LOSS);
    lk_html_lines(p,
                  &(lk_html_chart){.title = "Loss",
                                   .x_label = "step",
                                   .y_label = "nats",
                                   .y_log = far_apart(1, (lk_history *const[]){h})},
                  s, count);
    free(mean);
    return LK_OK;
}

static lk_status loss_section(lk_html *p, int runs, lk_history *const *h)
{
    lk_html_section(p, "Learning");
    if (runs == 1) LK_TRY(loss_of_one(p, h[0]));
    else
        LK_TRY(overlay(p, runs, h,
                       &(lk_html_chart){.title = "Training loss, smoothed",
                                        .x_label = "step",
                                        .y_label = "nats, mean of a hundredth of the run",
                                        .y_log = far_apart(runs, h)},
                       loss_table, LK_LOSS, 1, true));
    lk_html_grid_begin(p);
    if (runs > 1)
        LK_TRY(overlay(
            p, runs, h,
            &(lk_html_chart){.title = "Validation loss", .x_label = "step", .y_label = "nats"},
            validation_table, LK_VALID_LOSS, 1, false));
    LK_TRY(overlay(p, runs, h,
                   &(lk_html_chart){.title = "Validation accuracy",
                                    .x_label = "step",
                                    .y_label = "share of right classes"},
                   validation_table, LK_VALID_ACCURACY, 1, false));
    LK_TRY(overlay(p, runs, h,
                   &(lk_html_chart){.title = "Gradient norm",
                                    .x_label = "step",
                                    .y_label = "before clipping",
                                    .y_log = true},
                   loss_table, LK_LOSS_NORM, 1, false));
    LK_TRY(overlay(
        p, runs, h,
        &(lk_html_chart){
            .title = "Learning rate", .x_label = "step", .y_label = "a step", .y_from_zero = true},
        loss_table, LK_LOSS_LR, 1, false));
    bool scaled = false;
    for (int r = 0; r < runs; r++)
        for (int64_t i = 0; i < h[r]->loss.rows; i++)
            scaled |= h[r]->loss.column[LK_LOSS_SCALE][i] != 1;
    if (scaled)
        LK_TRY(overlay(
            p, runs, h,
            &(lk_html_chart){
                .title = "Loss scale", .x_label = "step", .y_log = true, .y_label = "factor"},
            loss_table, LK_LOSS_SCALE, 1, false));
    lk_html_grid_end(p);
    return LK_OK;
}

/* ---- speed ----------------------------------------------------------------------------------- */

static lk_status step_times(lk_html *p, const lk_history *h)
{
    const lk_table *t = &h->record;
    lk_html_series s[] = {series("p50", t, LK_RECORD_STEP, LK_RECORD_P50),
                          series("p95", t, LK_RECORD_STEP, LK_RECORD_P95),
                          series("p99", t, LK_RECORD_STEP, LK_RECORD_P99)};
    lk_html_lines(p,
                  &(lk_html_chart){.title = "Step time",
                                   .x_label = "step",
                                   .y_label = "ms, quantiles of the last 1,000 steps",
                                   .y_from_zero = true},
                  s, 3);
    return LK_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Step times from their lowest to their 99th percentile: a pause of the machine must not press
 * all others into one bin. */
static lk_status distribution(lk_html *p, const lk_history *h)
{
    enum { BINS = 40 };
    const lk_table *t = &h->record;
    double bin[BINS] = {0}, *x = malloc((size_t)(t->rows + 1) * sizeof *x);
    int64_t count = 0, beyond = 0;
    char title[100];
    if (!x) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t i = 0; i < t->rows; i++) /* the first of a start has no quantiles yet */
        if (isfinite(t->column[LK_RECORD_P50][i]) && isfinite(t->column[LK_RECORD_MEAN][i]))
            x[count++] = t->column[LK_RECORD_MEAN][i];
    qsort(x, (size_t)count, sizeof *x, ascending);
    double low = count ? x[0] : 0, high = count ? x[(int64_t)(0.99 * (double)(count - 1))] : 0;
    bool wide = high > low && isfinite(high - low);
    for (int64_t i = 0; i < count && wide; i++) {
        if (x[i] > high) {
            beyond++;
            continue;
        }
        int at = (int)(BINS * ((x[i] - low) / (high - low)));
        bin[at < BINS ? at : BINS - 1]++;
    }
    snprintf(title, sizeof title, "Distribution of step times%s", beyond ? ", 99 % of them" : "");
    if (wide)
        lk_html_histogram(p,
                          &(lk_html_chart){.title = title, .x_label = "ms", .y_label = "records"},
                          low, high, bin, BINS);
    free(x);
    return LK_OK;
}

static lk_status speed_section(lk_html *p, int runs, lk_history *const *h)
{
    lk_html_section(p, "Speed and memory");
    if (!any_finite(runs, h, record_table, LK_RECORD_RATE)) {
        bool any = false;
        for (int r = 0; r < runs; r++) any |= h[r]->log_exists;
        lk_html_paragraph(p, any ? "No record of a step in run.jsonl: rate, step times and memory "
                                   "are not known."
                                 : "No run.jsonl: rate, step times and memory were not recorded "
                                   "(log.run_log in the run file).");
        return LK_OK;
    }
    lk_html_grid_begin(p);
    LK_TRY(overlay(p, runs, h,
                   &(lk_html_chart){.title = "Rate",
                                    .x_label = "step",
                                    .y_label = "samples/s, mean of a hundredth of "
                                               "the run",
                                    .y_from_zero = true},
                   record_table, LK_RECORD_RATE, 1, true));
    if (runs == 1) {
        LK_TRY(step_times(p, h[0]));
        LK_TRY(distribution(p, h[0]));
    } else {
        LK_TRY(overlay(
            p, runs, h,
            &(lk_html_chart){
                .title = "Step time, p95", .x_label = "step", .y_label = "ms", .y_from_zero = true},
            record_table, LK_RECORD_P95, 1, false));
    }
    LK_TRY(overlay(p, runs, h,
                   &(lk_html_chart){.title = "Waiting for data",
                                    .x_label = "step",
                                    .y_label = "ms a step",
                                    .y_from_zero = true},
                   record_table, LK_RECORD_WAIT, 1, false));
    LK_TRY(overlay(p, runs, h,
                   &(lk_html_chart){.title = "Host memory, peak",
                                    .x_label = "step",
                                    .y_label = "MiB, rank 0",
                                    .y_from_zero = true},
                   record_table, LK_RECORD_HOST, 1 / 0x1p20, false));
    lk_html_grid_end(p);
    lk_report_ranks(p, runs, h);
    return LK_OK;
}

/* ---- the page -------------------------------------------------------------------------------- */

static lk_status write_page(lk_html *p, lk_io *io, int runs, lk_history *const *h, double now)
{
    lk_report_summary(p, runs, h, now);
    lk_report_warnings(p, runs, h);
    LK_TRY(loss_section(p, runs, h));
    LK_TRY(speed_section(p, runs, h));
    LK_TRY(lk_report_traces(p, io, runs, h));
    lk_report_starts(p, runs, h);
    lk_report_settings(p, runs, h);
    return LK_OK;
}

/* One run under two names would be compared with itself. */
static lk_status check_distinct(int runs, const char *const *directory)
{
    struct stat a, b;
    for (int r = 0; r < runs; r++)
        for (int k = 0; k < r; k++)
            if (stat(directory[r], &a) == 0 && stat(directory[k], &b) == 0 &&
                a.st_dev == b.st_dev && a.st_ino == b.st_ino)
                return lk_fail(LK_E_INPUT, "%s and %s are the same run; name each run once",
                               directory[k], directory[r]);
    return LK_OK;
}

lk_status lk_report_write(lk_io *io, int runs, const char *const *directory, const char *output,
                          double now)
{
    lk_history **h = calloc((size_t)runs, sizeof(lk_history *));
    lk_html *page = NULL;
    char title[300];
    lk_status status = h ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    for (int r = 0; r < runs && status == LK_OK; r++) status = lk_history_open(directory[r], &h[r]);
    if (status == LK_OK) status = check_distinct(runs, directory);
    if (runs == 1) snprintf(title, sizeof title, "%s", directory[0]);
    else snprintf(title, sizeof title, "%d runs", runs);
    if (status == LK_OK) status = lk_html_open(output, title, &page);
    if (status == LK_OK) status = write_page(page, io, runs, h, now);
    if (status == LK_OK) status = lk_html_close(page);
    else lk_html_discard(page);
    for (int r = 0; r < runs && h; r++) lk_history_close(h[r]);
    free(h);
    return status;
}
