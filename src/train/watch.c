#include "train/watch.h"

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
    int shown = 0; /* characters: bytes that do not continue one */
    char *end = text;
    for (; *end; end++) {
        bool begins = ((unsigned char)*end & 0xc0) != 0x80;
        if (begins && shown == p->columns) break;
        if ((unsigned char)*end < ' ' || *end == 0x7f) *end = '?';
        shown += begins;
    }
    *end = '\0';
    fprintf(p->out, "%s\n", text);
    p->lines++;
}

static double last_of(const lk_table *t, int column)
{
    return t->rows ? t->column[column][t->rows - 1] : NAN;
}

/* Time left by the median time of a step; NAN when it is not known. */
static double seconds_left(const lk_history *h)
{
    int64_t total = lk_history_total(h), done = lk_history_done(h);
    return total > 0 ? 1e-3 * last_of(&h->record, LK_RECORD_P50) * (double)(total - done) : NAN;
}

/* ---- the curve ------------------------------------------------------------------------------- */

typedef struct curve {
    bool log;          /* a loss that has fallen far is drawn by its logarithm */
    int width, height; /* dots */
    double first, last, low, high;
    unsigned char dot[ROWS * 4][MOST * 2];
} curve;

static void scan(const lk_table *t, curve *c)
{
    c->low = INFINITY;
    c->high = -INFINITY;
    c->first = t->column[LK_LOSS_STEP][0];
    c->last = last_of(t, LK_LOSS_STEP);
    for (int64_t i = 0; i < t->rows; i++) {
        double y = t->column[LK_LOSS][i];
        if (!isfinite(y)) continue;
        c->low = fmin(c->low, y);
        c->high = fmax(c->high, y);
    }
    c->log = c->low > 0 && c->high > 4 * c->low;
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

static void draw_curve(page *p, const lk_history *h, bool unicode)
{
    enum { LABEL = 9 };
    curve *c = h->loss.rows > 1 ? calloc(1, sizeof *c) : NULL;
    if (!c) return;
    int width = p->columns - LABEL < MOST ? p->columns - LABEL : MOST;
    c->width = unicode ? 2 * width : width;
    c->height = unicode ? 4 * ROWS : ROWS;
    scan(&h->loss, c);
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
    if (c->low <= c->high)
        line(p, "%7s %-*.0f%*.0f", "", width / 2 + 1, c->first, width - width / 2, c->last);
    free(c);
}

/* ---- figures --------------------------------------------------------------------------------- */

static void draw_progress(page *p, const lk_history *h, double now)
{
    char state[LK_HISTORY_TEXT], left[32], bar[64] = "";
    int64_t total = lk_history_total(h), done = lk_history_done(h);
    int size = p->columns >= 80 ? 40 : 20, filled = total > 0 ? (int)(done * size / total) : 0;
    if (filled > size) filled = size;
    memset(bar, ' ', (size_t)size);
    memset(bar, '=', (size_t)filled);
    if (filled < size) bar[filled] = '>';
    bar[size] = '\0';
    line(p, "%s: %s", h->directory, lk_history_state(h, now, state));
    double rest = seconds_left(h);
    lk_history_duration(rest, left);
    line(p, "[%s] %3lld%%  step %lld/%lld%s%s", bar,
         total > 0 ? (long long)(100 * done / total) : 0, (long long)done, (long long)total,
         isnan(rest) || done >= total ? "" : "  ETA ", isnan(rest) || done >= total ? "" : left);
}

static void draw_figures(page *p, const lk_history *h)
{
    const lk_table *l = &h->loss, *v = &h->validation, *r = &h->record;
    char text[400];
    int64_t at = 0;
    double best = lk_history_best(h, &at);
    int n = snprintf(text, sizeof text, "loss %.4f", last_of(l, LK_LOSS));
    if (v->rows) {
        n += snprintf(text + n, sizeof text - (size_t)n, "  validation %.4f at %.0f",
                      last_of(v, LK_VALID_LOSS), last_of(v, LK_VALID_STEP));
        if (!isnan(last_of(v, LK_VALID_ACCURACY)))
            n += snprintf(text + n, sizeof text - (size_t)n, ", accuracy %.4f",
                          last_of(v, LK_VALID_ACCURACY));
        snprintf(text + n, sizeof text - (size_t)n, "  best %.4f at %lld", best, (long long)at);
    }
    line(p, "%s", text);
    n = snprintf(text, sizeof text, "learning rate %.3g  gradient norm %.3g",
                 last_of(l, LK_LOSS_LR), last_of(l, LK_LOSS_NORM));
    if (last_of(l, LK_LOSS_SCALE) != 1)
        n += snprintf(text + n, sizeof text - (size_t)n, "  loss scale %.0f",
                      last_of(l, LK_LOSS_SCALE));
    if (last_of(l, LK_LOSS_SKIPPED) > 0)
        snprintf(text + n, sizeof text - (size_t)n, "  skipped %.0f", last_of(l, LK_LOSS_SKIPPED));
    line(p, "%s", text);
    if (r->rows == 0) {
        line(p, "%s",
             h->log_exists ? "no record of a step yet"
                           : "no run.jsonl: rate, times and memory are not known "
                             "(log.run_log)");
        return;
    }
    line(p, "%.4g samples/s  step p50 %.4g  p95 %.4g  p99 %.4g ms  data wait %.2g ms",
         last_of(r, LK_RECORD_RATE), last_of(r, LK_RECORD_P50), last_of(r, LK_RECORD_P95),
         last_of(r, LK_RECORD_P99), last_of(r, LK_RECORD_WAIT));
    line(p, "memory: host peak %.1f MiB  device %.1f MiB", last_of(r, LK_RECORD_HOST) / 0x1p20,
         last_of(r, LK_RECORD_DEVICE) / 0x1p20);
    const json_t *save = json_array_get(h->saves, json_array_size(h->saves) - 1);
    if (save)
        line(p, "checkpoint of step %lld, %.1f MiB",
             (long long)json_integer_value(json_object_get(save, "of_step")),
             json_number_value(json_object_get(save, "bytes")) / 0x1p20);
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
    char state[LK_HISTORY_TEXT], left[32];
    double rest = seconds_left(h);
    lk_history_duration(rest, left);
    fprintf(out, "step %lld/%lld  %s", (long long)lk_history_done(h),
            (long long)lk_history_total(h), lk_history_state(h, now, state));
    if (h->loss.rows) fprintf(out, "  loss %.4f", last_of(&h->loss, LK_LOSS));
    if (h->validation.rows)
        fprintf(out, "  validation %.4f", last_of(&h->validation, LK_VALID_LOSS));
    if (h->record.rows) fprintf(out, "  %.4g samples/s", last_of(&h->record, LK_RECORD_RATE));
    if (!isnan(rest) && rest > 0) fprintf(out, "  ETA %s", left);
    if (json_array_size(h->warnings)) fprintf(out, "  warnings %zu", json_array_size(h->warnings));
    fputc('\n', out);
}
