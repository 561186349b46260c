#include "train/watch.h"
#include "base/utf8.h"

#include "base/digits.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 8, MOST = 240, WARNINGS = 3 }; /* of the curve; columns; warnings shown */

/* A page that counts its lines and cuts them at the width. */
typedef struct page {
    FILE *out;
    int columns, lines;
} page;

__attribute__((format(printf, 2, 3))) static void line(page *p, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int width = lk_plain_width(text);
    lk_plain_column(p->out, text, width < p->columns ? width : p->columns);
    fputc('\n', p->out);
    p->lines++;
}

/* Time left by the median time of a step; NAN when it is not known or the run does not go on. */
static double seconds_left(const lk_history *h, lk_run_state state)
{
    int64_t left = lk_history_total(h) - lk_history_done(h);
    double pace = 1e-3 * lk_history_last(&h->record, LK_RECORD_P50);
    return state == LK_RUN_RUNNING && left > 0 ? pace * (double)left : NAN;
}

/* ---- the curve ------------------------------------------------------------------------------- */

typedef struct curve {
    bool log;          /* by its logarithm */
    int width, height; /* dots */
    double first, last, low, high;
    unsigned char dot[ROWS * 4][MOST * 2];
} curve;

static void scan(const lk_history *h, curve *c)
{
    c->low = INFINITY;
    c->high = -INFINITY;
    c->first = h->loss.column[LK_LOSS_STEP][0];
    c->last = lk_history_last(&h->loss, LK_LOSS_STEP);
    lk_history_loss_range(h, &c->low, &c->high);
    c->log = lk_history_logarithmic(c->low, c->high);
}

/* From 0 at the lowest to 1 at the highest. */
static double height(const curve *c, double y)
{
    if (!(c->high > c->low)) return 1;
    return c->log ? log(y / c->low) / log(c->high / c->low) : (y - c->low) / (c->high - c->low);
}

/* From the lowest to the highest loss of each column of dots. */
static void plot(const lk_table *t, curve *c)
{
    double span = c->last > c->first ? c->last - c->first : 1;
    for (int64_t i = 0; i < t->rows; i++) {
        double y = t->column[LK_LOSS][i];
        if (!isfinite(y)) continue;
        int x = (int)((c->width - 1) * (t->column[LK_LOSS_STEP][i] - c->first) / span);
        int down = (int)lround((c->height - 1) * (1 - height(c, y)));
        if (x >= 0 && x < c->width) c->dot[down][x] = 1;
    }
    for (int x = 0; x < c->width; x++) {
        int top = -1, bottom = -1;
        for (int y = 0; y < c->height; y++) {
            if (c->dot[y][x] && top < 0) top = y;
            if (c->dot[y][x]) bottom = y;
        }
        for (int y = top; y >= 0 && y <= bottom; y++) c->dot[y][x] = 1;
    }
}

/* A cell of 2 x 4 dots as a Braille pattern (Unicode, U+2800 to U+28FF). */
static void braille(const curve *c, int row, int column, char text[4])
{
    static const unsigned char bit[4][2] = {{1, 8}, {2, 16}, {4, 32}, {64, 128}};
    unsigned code = 0x2800;
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 2; x++)
            if (c->dot[4 * row + y][2 * column + x]) code |= bit[y][x];
    text[0] = (char)(0xe0 | code >> 12);
    text[1] = (char)(0x80 | (code >> 6 & 63));
    text[2] = (char)(0x80 | (code & 63));
    text[3] = '\0';
}

/* The steps at both ends, between them what is drawn. */
static void draw_axis(page *p, const curve *c, int width)
{
    const char *what = c->log ? "loss by step, logarithmic" : "loss by step";
    char first[24], last[24];
    int a = snprintf(first, sizeof first, "%.0f", c->first);
    int b = snprintf(last, sizeof last, "%.0f", c->last), n = (int)strlen(what);
    int left = (width + 1 - n) / 2 - a, right = width + 1 - a - left - n - b;
    if (left > 0 && right > 0)
        line(p, "%7s %s%*s%s%*s%s", "", first, left, "", what, right, "", last);
    else line(p, "%7s %-*s%s", "", width + 1 - b, first, last);
}

static void draw_curve(page *p, const lk_history *h, bool unicode)
{
    enum { LABEL = 9 };
    curve *c = h->loss.rows > 1 ? calloc(1, sizeof *c) : NULL;
    if (!c) return;
    int width = p->columns - LABEL < MOST ? p->columns - LABEL : MOST;
    c->width = unicode ? 2 * width : width;
    c->height = unicode ? 4 * ROWS : ROWS;
    scan(h, c);
    if (c->low <= c->high) plot(&h->loss, c);
    for (int row = 0; row < ROWS && c->low <= c->high; row++) {
        char text[MOST * 3 + 1] = "", label[16] = "";
        double mark = row == 0 ? c->high : row == ROWS - 1 ? c->low : NAN;
        for (int x = 0; x < width; x++) {
            if (unicode) braille(c, row, x, text + 3 * x);
            else text[x] = c->dot[row][x] ? '*' : ' ';
        }
        if (!isnan(mark)) snprintf(label, sizeof label, "%.4g", mark);
        line(p, "%7s %s%s", label, unicode ? "│" : "|", text);
    }
    if (c->low <= c->high) draw_axis(p, c, width);
    free(c);
}

/* ---- figures --------------------------------------------------------------------------------- */

static void draw_progress(page *p, const lk_history *h, double now)
{
    char words[LK_HISTORY_TEXT], left[32], bar[64];
    lk_run_state state = lk_history_state(h, now, words);
    int64_t total = lk_history_total(h), done = lk_history_done(h);
    double rest = seconds_left(h, state);
    line(p, "%s: %s", h->directory, words);
    line(p, "%s  step %lld/%lld%s%s", lk_digits_bar(done, total, p->columns >= 80 ? 40 : 20, bar),
         (long long)done, (long long)total, isnan(rest) ? "" : "  ETA ",
         isnan(rest) ? "" : lk_digits_duration(rest, left));
}

/* "start 3, from step 250: 4 ranks on host-a, AMD EPYC, ..." */
static void draw_start(page *p, const lk_history *h)
{
    const json_t *s = lk_history_start(h);
    const char *host = json_string_value(json_object_get(s, "host"));
    const char *device = json_string_value(json_object_get(s, "device"));
    double ranks = lk_history_number(s, "ranks");
    if (!s || isnan(ranks)) return;
    line(p, "start %zu, from step %.0f: %.0f rank%s on %s, %s", json_array_size(h->starts),
         lk_history_number(s, "step"), ranks, ranks == 1 ? "" : "s", host ? host : "?",
         device ? device : "?");
}

static void draw_losses(page *p, const lk_history *h)
{
    const lk_table *l = &h->loss, *v = &h->validation;
    char text[400];
    int64_t at = 0;
    double best = lk_history_best(h, &at), accuracy = lk_history_last(v, LK_VALID_ACCURACY);
    int n = snprintf(text, sizeof text, "loss %.4f nats", lk_history_last(l, LK_LOSS));
    if (v->rows) {
        n += snprintf(text + n, sizeof text - (size_t)n, "  validation %.4f at step %.0f",
                      lk_history_last(v, LK_VALID_LOSS), lk_history_last(v, LK_VALID_STEP));
        if (!isnan(accuracy))
            n += snprintf(text + n, sizeof text - (size_t)n, ", accuracy %.2f %%", 100 * accuracy);
        snprintf(text + n, sizeof text - (size_t)n, "  best %.4f at step %lld", best,
                 (long long)at);
    }
    line(p, "%s", text);
    double scale = lk_history_last(l, LK_LOSS_SCALE), skipped = lk_history_last(l, LK_LOSS_SKIPPED);
    n = snprintf(text, sizeof text, "learning rate %.3g  gradient norm %.3g",
                 lk_history_last(l, LK_LOSS_LR), lk_history_last(l, LK_LOSS_NORM));
    if (scale != 1) n += snprintf(text + n, sizeof text - (size_t)n, "  loss scale %.0f", scale);
    if (skipped > 0)
        snprintf(text + n, sizeof text - (size_t)n, "  %.0f step%s skipped", skipped,
                 skipped == 1 ? "" : "s");
    line(p, "%s", text);
}

/* A save may be told of after steps that a killed start has lost: then the start that went on from
 * it tells of it. */
static void draw_checkpoint(page *p, const lk_history *h)
{
    const json_t *save = json_array_get(h->saves, json_array_size(h->saves) - 1);
    double saved = lk_history_number(save, "of_step");
    double from = lk_history_number(lk_history_start(h), "step");
    if (from > 0 && !(saved >= from)) line(p, "checkpoint of step %.0f", from);
    else if (!isnan(saved))
        line(p, "checkpoint of step %.0f, %.1f MiB", saved,
             lk_history_number(save, "bytes") / 0x1p20);
}

static void draw_figures(page *p, const lk_history *h)
{
    const lk_table *r = &h->record;
    draw_losses(p, h);
    if (r->rows == 0) {
        line(p, "%s",
             h->log_exists ? "no record of a step yet"
                           : "no run.jsonl: rate, times and memory are not known "
                             "(log.run_log)");
        return;
    }
    char rate[32];
    line(p, "%s samples/s  step p50 %.4g  p95 %.4g  p99 %.4g ms  data wait %.2g ms",
         lk_digits_rate(lk_history_last(r, LK_RECORD_RATE), rate),
         lk_history_last(r, LK_RECORD_P50), lk_history_last(r, LK_RECORD_P95),
         lk_history_last(r, LK_RECORD_P99), lk_history_last(r, LK_RECORD_WAIT));
    line(p, "memory of rank 0: host peak %.1f MiB  on the device %.1f MiB",
         lk_history_last(r, LK_RECORD_HOST) / 0x1p20,
         lk_history_last(r, LK_RECORD_DEVICE) / 0x1p20);
    draw_checkpoint(p, h);
}

static void draw_warnings(page *p, const lk_history *h)
{
    size_t n = json_array_size(h->warnings);
    if (n) line(p, "%zu warning%s%s", n, n == 1 ? "" : "s", n > WARNINGS ? ", the last:" : ":");
    for (size_t i = n > WARNINGS ? n - WARNINGS : 0; i < n; i++) {
        const json_t *w = json_array_get(h->warnings, i);
        const char *text = json_string_value(json_object_get(w, "text"));
        line(p, "  step %lld: %s", (long long)json_integer_value(json_object_get(w, "step")),
             text ? text : "");
    }
}

int lk_watch_draw(FILE *out, const lk_history *h, int columns, bool unicode, double now)
{
    page p = {.out = out, .columns = columns < 40 ? 40 : columns};
    draw_progress(&p, h, now);
    draw_start(&p, h);
    if (h->unreadable)
        line(&p, "lines of its logs that make no sense, left out: %lld", (long long)h->unreadable);
    if (h->run_problem) line(&p, "%s", h->run_problem);
    if (h->loss.rows == 0) {
        line(&p, "no steps yet");
    } else {
        draw_figures(&p, h);
        draw_curve(&p, h, unicode);
    }
    draw_warnings(&p, h);
    return p.lines;
}

void lk_watch_line(FILE *out, const lk_history *h, double now)
{
    char words[LK_HISTORY_TEXT], left[32], rate[32];
    double rest = seconds_left(h, lk_history_state(h, now, words));
    fprintf(out, "step %lld/%lld  %s", (long long)lk_history_done(h),
            (long long)lk_history_total(h), words);
    if (h->loss.rows) fprintf(out, "  loss %.4f", lk_history_last(&h->loss, LK_LOSS));
    if (h->validation.rows)
        fprintf(out, "  validation %.4f", lk_history_last(&h->validation, LK_VALID_LOSS));
    if (h->record.rows)
        fprintf(out, "  %s samples/s",
                lk_digits_rate(lk_history_last(&h->record, LK_RECORD_RATE), rate));
    if (!isnan(rest)) fprintf(out, "  ETA %s", lk_digits_duration(rest, left));
    if (json_array_size(h->warnings)) fprintf(out, "  warnings %zu", json_array_size(h->warnings));
    if (h->unreadable) fprintf(out, "  unreadable lines %lld", (long long)h->unreadable);
    fputc('\n', out);
}
