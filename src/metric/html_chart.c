/* Charts: SVG stretched to the width there is, with labels in HTML, whose letters do not stretch
 * with it: so a chart is as readable on a phone as on a desk. */
#include "metric/html_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TICKS = 24, SIDE = 1000 }; /* SIDE: of the square the SVG draws in */

typedef struct axis {
    bool log;
    double low, high; /* of the data; logarithms if log */
    double tick[TICKS];
    int ticks;
} axis;

/* ---- axes ------------------------------------------------------------------------------------ */

static double scaled(const axis *a, double v) { return a->log ? log10(v) : v; }

static bool drawable(const axis *a, double v) { return isfinite(v) && (!a->log || v > 0); }

/* Where v lies between the ends: 0 to 1. */
static double place(const axis *a, double v)
{
    return (scaled(a, v) - a->low) / (a->high - a->low);
}

static void add_tick(axis *a, double v)
{
    double at = place(a, v);
    if (a->ticks < TICKS && at > -1e-6 && at < 1 + 1e-6) a->tick[a->ticks++] = v;
}

/* 1, 2 or 5 times a power of ten, so that about `count` fit. */
static double nice_step(double span, int count)
{
    double raw = span / count, unit = pow(10, floor(log10(raw))), x = raw / unit;
    return unit * (x < 1.5 ? 1 : x < 3.5 ? 2 : x < 7.5 ? 5 : 10);
}

static void log_ticks(axis *a)
{
    static const double part[] = {1, 2, 5};
    double decades = a->high - a->low;
    int step = decades > 7 ? (int)ceil(decades / 6) : 1, parts = decades < 2.5 ? 3 : 1;
    for (int d = (int)floor(a->low); d <= (int)ceil(a->high); d += step)
        for (int i = 0; i < parts; i++) add_tick(a, part[i] * pow(10, d));
}

/* Give room to a range that has none; on a linear axis end it at ticks if `round`. */
static void finish_axis(axis *a, int count, bool round)
{
    double least = 1e-9 * fmax(fabs(a->low), fabs(a->high));
    if (a->high - a->low <= least) {
        double room = a->log ? 0.5 : a->low != 0 ? 0.05 * fabs(a->low) : 0.5;
        a->low -= room;
        a->high += room;
    }
    if (a->log) {
        log_ticks(a);
        return;
    }
    double step = nice_step(a->high - a->low, count);
    if (round) {
        a->low = floor(a->low / step + 1e-9) * step;
        a->high = ceil(a->high / step - 1e-9) * step;
    }
    for (double i = ceil(a->low / step - 1e-9); i * step <= a->high + 1e-6 * step; i++)
        add_tick(a, i == 0 ? 0 : i * step); /* not -0 */
}

static void extend(axis *a, double v)
{
    if (!drawable(a, v)) return;
    a->low = fmin(a->low, scaled(a, v));
    a->high = fmax(a->high, scaled(a, v));
}

/* ---- the frame ------------------------------------------------------------------------------- */

static void caption(lk_html *p, const lk_html_chart *c, int id)
{
    fprintf(p->file, "<figure>\n<figcaption id=\"c%d\">", id);
    lk_html_escaped(p, c->title);
    lk_html_raw(p, "</figcaption>\n");
}

static void unit_line(lk_html *p, const char *class, const char *label)
{
    if (!label) return;
    fprintf(p->file, "<div class=\"%s\">", class);
    lk_html_escaped(p, label);
    lk_html_raw(p, "</div>\n");
}

/* Up to the description in words, which the caller writes. */
static void plot_begin(lk_html *p, const lk_html_chart *c, int id)
{
    caption(p, c, id);
    unit_line(p, "unit", c->y_label);
}

static void picture_begin(lk_html *p, int id)
{
    fprintf(p->file, "<div class=\"plot\"><svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" "
            "role=\"img\" aria-labelledby=\"c%d d%d\"><desc id=\"d%d\">", SIDE, SIDE, id, id, id);
}

static void grid(lk_html *p, const axis *x, const axis *y)
{
    lk_html_raw(p, "</desc>\n<path class=\"g\" d=\"");
    for (int i = 0; i < y->ticks; i++)
        fprintf(p->file, "M0 %.0fH%d", SIDE * (1 - place(y, y->tick[i])), SIDE);
    for (int i = 0; i < x->ticks; i++)
        fprintf(p->file, "M%.0f 0V%d", SIDE * place(x, x->tick[i]), SIDE);
    fprintf(p->file, "\"/>\n<path class=\"a\" d=\"M0 %dH%d\"/>\n", SIDE, SIDE);
}

static void plot_end(lk_html *p, const lk_html_chart *c, const axis *x, const axis *y)
{
    char text[32];
    lk_html_raw(p, "</svg>\n");
    for (int i = 0; i < y->ticks; i++)
        fprintf(p->file, "<span class=\"ty\" aria-hidden=\"true\" style=\"top:%.1f%%\">%s</span>",
                100 * (1 - place(y, y->tick[i])), lk_html_number(y->tick[i], text));
    for (int i = 0; i < x->ticks; i++)
        fprintf(p->file, "<span class=\"tx\" aria-hidden=\"true\" style=\"left:%.1f%%\">%s</span>",
                100 * place(x, x->tick[i]), lk_html_number(x->tick[i], text));
    lk_html_raw(p, "</div>\n");
    unit_line(p, "unit x", c->x_label);
    lk_html_raw(p, "</figure>\n");
}

/* ---- lines and points ------------------------------------------------------------------------ */

/* Colour, then dashes once the colours repeat. */
static void series_class(lk_html *p, int i, bool dots, bool faint)
{
    fprintf(p->file, "class=\"%c s%d", dots ? 'd' : 'l', i % 8);
    if (i >= 8 && !dots) fprintf(p->file, " k%d", 1 + (i / 8 - 1) % 3);
    lk_html_raw(p, faint ? " f\"" : "\"");
}

static void legend(lk_html *p, const lk_html_series *s, int count)
{
    lk_html_raw(p, "<ul class=\"legend\">");
    for (int i = 0; i < count; i++) {
        lk_html_raw(p, "<li><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path ");
        series_class(p, i, s[i].dots, s[i].faint);
        lk_html_raw(p, s[i].dots ? " d=\"M12 4h0\"/></svg>" : " d=\"M0 4H24\"/></svg>");
        lk_html_escaped(p, s[i].name);
        lk_html_raw(p, "</li>");
    }
    lk_html_raw(p, "</ul>\n");
}

static void describe(lk_html *p, const lk_html_series *s)
{
    int64_t first = -1, last = -1, low = -1, high = -1, n = 0;
    char text[6][32];
    for (int64_t i = 0; i < s->count; i++) {
        if (!isfinite(s->y[i])) continue;
        if (first < 0) first = low = high = i;
        if (s->y[i] < s->y[low]) low = i;
        if (s->y[i] > s->y[high]) high = i;
        last = i;
        n++;
    }
    lk_html_escaped(p, s->name);
    if (n == 0) {
        lk_html_raw(p, ": no values. ");
        return;
    }
    fprintf(p->file, ": %lld values, %s at %s to %s at %s, lowest %s, highest %s. ", (long long)n,
            lk_html_number(s->y[first], text[0]), lk_html_number(s->x[first], text[1]),
            lk_html_number(s->y[last], text[2]), lk_html_number(s->x[last], text[3]),
            lk_html_number(s->y[low], text[4]), lk_html_number(s->y[high], text[5]));
}

/* A path as it is written: the next point begins a line, or goes on with it. */
typedef struct pen {
    lk_html *p;
    const axis *x, *y;
    const lk_html_series *s;
    bool down;
    int64_t drawn; /* the last point, -1: none */
    bool marks;    /* draw the points that stand alone, else all others */
    int alone;     /* how many do */
} pen;

static void draw(pen *w, int64_t i)
{
    if (i == w->drawn) return;
    double x = SIDE * place(w->x, w->s->x[i]), y = SIDE * (1 - place(w->y, w->s->y[i]));
    fprintf(w->p->file, "%c%.4g %.0f", w->down ? 'L' : 'M', x, y);
    if (w->s->dots) lk_html_raw(w->p, "h0");
    w->down = !w->s->dots;
    w->drawn = i;
}

/* The extremes of one column of the picture, in their order. */
static void draw_column(pen *w, int64_t first, int64_t last)
{
    int64_t low = first, high = first;
    const double *y = w->s->y;
    for (int64_t i = first; i <= last; i++) {
        if (y[i] < y[low]) low = i;
        if (y[i] > y[high]) high = i;
    }
    draw(w, first);
    draw(w, low < high ? low : high);
    draw(w, low < high ? high : low);
    draw(w, last);
}

static int column(const pen *w, int64_t i)
{
    return (int)(LK_HTML_COLUMNS * place(w->x, w->s->x[i]));
}

static bool shown(const pen *w, int64_t i)
{
    return drawable(w->x, w->s->x[i]) && drawable(w->y, w->s->y[i]);
}

static void draw_series(pen *w)
{
    for (int64_t i = 0; i < w->s->count;) {
        if (!shown(w, i)) {
            w->down = false; /* a gap */
            i++;
            continue;
        }
        int64_t last = i;
        while (!w->s->dots && last + 1 < w->s->count && shown(w, last + 1) &&
               column(w, last + 1) == column(w, i))
            last++;
        bool alone = last == i && !w->s->dots && (i == 0 || !shown(w, i - 1)) &&
                     (last + 1 == w->s->count || !shown(w, last + 1));
        w->alone += alone;
        if (alone == w->marks) draw_column(w, i, last);
        if (alone && w->marks) {
            lk_html_raw(w->p, "h0");
            w->down = false;
        }
        i = last + 1;
    }
}

/* A point between gaps, or the only one, is no line: it would not be seen. */
static void draw_marks(pen *w, int i)
{
    pen again = {.p = w->p, .x = w->x, .y = w->y, .s = w->s, .drawn = -1, .marks = true};
    lk_html_raw(w->p, "<path ");
    series_class(w->p, i, true, false);
    lk_html_raw(w->p, " d=\"");
    draw_series(&again);
    lk_html_raw(w->p, "\"/>\n");
}

void lk_html_lines(lk_html *p, const lk_html_chart *c, const lk_html_series *series, int count)
{
    axis x = {.log = c->x_log, .low = INFINITY, .high = -INFINITY}, y = x;
    int id = ++p->charts;
    y.log = c->y_log;
    if (c->y_from_zero && !c->y_log) y.low = y.high = 0;
    for (int i = 0; i < count; i++)
        for (int64_t k = 0; k < series[i].count; k++) {
            if (!drawable(&x, series[i].x[k]) || !drawable(&y, series[i].y[k])) continue;
            extend(&x, series[i].x[k]);
            extend(&y, series[i].y[k]);
        }
    plot_begin(p, c, id);
    if (!(x.low <= x.high)) {
        lk_html_raw(p, "<p>No values yet.</p></figure>\n");
        return;
    }
    finish_axis(&x, 5, false);
    finish_axis(&y, 5, true);
    if (count > 1) legend(p, series, count);
    picture_begin(p, id);
    for (int i = 0; i < count; i++) describe(p, &series[i]);
    grid(p, &x, &y);
    for (int i = 0; i < count; i++) {
        pen w = {.p = p, .x = &x, .y = &y, .s = &series[i], .drawn = -1};
        lk_html_raw(p, "<path ");
        series_class(p, i, series[i].dots, series[i].faint);
        lk_html_raw(p, " d=\"");
        draw_series(&w);
        lk_html_raw(p, "\"/>\n");
        if (w.alone > 0) draw_marks(&w, i);
    }
    plot_end(p, c, &x, &y);
}

/* ---- histograms and bars --------------------------------------------------------------------- */

void lk_html_histogram(lk_html *p, const lk_html_chart *c, double low, double high,
                       const double *bin, int bins)
{
    axis x = {.low = low, .high = high}, y = {.low = 0, .high = 0};
    char text[4][32];
    int id = ++p->charts, most = 0;
    double total = 0, width = (high - low) / (bins > 0 ? bins : 1);
    for (int i = 0; i < bins; i++) {
        extend(&y, bin[i]);
        total += bin[i];
        if (bin[i] > bin[most]) most = i;
    }
    finish_axis(&x, 5, false);
    finish_axis(&y, 4, true);
    plot_begin(p, c, id);
    picture_begin(p, id);
    fprintf(p->file, "Histogram of %s values from %s to %s in %d bins",
            lk_html_number(total, text[0]), lk_html_number(low, text[1]),
            lk_html_number(high, text[2]), bins);
    if (total > 0)
        fprintf(p->file, ", most at %s", lk_html_number(low + (most + 0.5) * width, text[3]));
    lk_html_raw(p, ".");
    grid(p, &x, &y);
    lk_html_raw(p, "<path class=\"h\" d=\"");
    for (int i = 0; i < bins; i++) {
        if (!(bin[i] > 0)) continue;
        double left = SIDE * (double)i / bins, top = SIDE * (1 - place(&y, bin[i]));
        fprintf(p->file, "M%.1f %dV%.0fH%.1fV%dZ", left, SIDE, top, SIDE * (double)(i + 1) / bins,
                SIDE);
    }
    lk_html_raw(p, "\"/>\n");
    plot_end(p, c, &x, &y);
}

void lk_html_bars(lk_html *p, const lk_html_chart *c, const lk_html_bar *bar, int count)
{
    double most = 0;
    char text[32];
    int id = ++p->charts;
    for (int i = 0; i < count; i++)
        if (isfinite(bar[i].value)) most = fmax(most, bar[i].value);
    caption(p, c, id);
    unit_line(p, "unit", c->y_label);
    fprintf(p->file, "<table class=\"bars\" aria-labelledby=\"c%d\"><tbody>\n", id);
    for (int i = 0; i < count; i++) {
        double share = most > 0 && bar[i].value > 0 ? bar[i].value / most : 0;
        lk_html_raw(p, "<tr><th scope=\"row\">");
        lk_html_escaped(p, bar[i].name);
        fprintf(p->file, "</th><td><i%s style=\"width:%.1f%%\"></i></td><td class=\"v\">",
                bar[i].marked ? " class=\"m\"" : "", 100 * share);
        lk_html_escaped(p, bar[i].text ? bar[i].text : lk_html_number(bar[i].value, text));
        lk_html_raw(p, "</td></tr>\n");
    }
    lk_html_raw(p, "</tbody></table>\n</figure>\n");
}

void lk_html_grid_begin(lk_html *p) { lk_html_raw(p, "<div class=\"grid\">\n"); }

void lk_html_grid_end(lk_html *p) { lk_html_raw(p, "</div>\n"); }
