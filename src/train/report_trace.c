/* Where the time of a step went: what a report says of a run's trace.h5. */
#include "train/report.h"

#include "io/trace_file.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BARS = 12, DOTS = 7 }; /* lines of a bar chart before "all others"; ops on the roofline */

/* The longest lines as bars, the rest together. */
static void bars(lk_html *p, const char *title, const lk_trace_line *line, int lines, double step)
{
    lk_html_bar bar[BARS + 1];
    char text[BARS + 1][48];
    lk_trace_line rest = {.name = (char *)"all others"};
    int count = 0;
    for (int i = 0; i <= lines && count <= BARS; i++) {
        const lk_trace_line *l = i < BARS ? &line[i] : &rest;
        if (i == lines) break;
        for (int k = BARS; i == BARS && k < lines; k++) rest.seconds += line[k].seconds;
        snprintf(text[count], sizeof *text, "%.3g\u00a0ms, %.1f\u00a0%%", 1e3 * l->seconds,
                 step > 0 ? 100 * l->seconds / step : 0);
        bar[count] = (lk_html_bar){l->name, l->seconds, text[count], false};
        count++;
    }
    lk_html_bars(p, &(lk_html_chart){.title = title, .y_label = "ms a step, share of the step"},
                 bar, count);
}

/* The ceilings as a line, the longest kinds of node as points. */
static void roofline(lk_html *p, const lk_trace *t, const lk_trace_summary *s)
{
    double x[DOTS], y[DOTS], low = INFINITY, high = 0;
    lk_html_series series[DOTS + 1];
    int count = 1;
    if (!(t->ceiling.rate > 0) || !(t->ceiling.bandwidth > 0)) return;
    for (int i = 0; i < s->ops && count <= DOTS; i++) {
        const lk_trace_line *l = &s->op[i];
        if (!(l->flops > 0) || !(l->bytes > 0) || !(l->seconds > 0)) continue;
        int at = count - 1;
        x[at] = l->flops / l->bytes;
        y[at] = 1e-9 * l->flops / l->seconds;
        low = fmin(low, x[at]);
        high = fmax(high, x[at]);
        series[count++] = (lk_html_series){l->name, &x[at], &y[at], 1, true, false};
    }
    if (count == 1) return;
    double ridge = t->ceiling.rate / t->ceiling.bandwidth;
    low = fmin(low, ridge) / 2;
    high = fmax(high, ridge) * 2;
    const double edge[3] = {low, ridge, high};
    const double top[3] = {1e-9 * t->ceiling.bandwidth * low, 1e-9 * t->ceiling.rate,
                           1e-9 * t->ceiling.rate};
    series[0] = (lk_html_series){"ceiling measured on the device", edge, top, 3, false, false};
    lk_html_lines(p,
                  &(lk_html_chart){.title = "Roofline",
                                   .x_label = "FLOP for each byte moved",
                                   .y_label = "GFLOP/s",
                                   .x_log = true,
                                   .y_log = true},
                  series, count);
}

static void rank_tile(lk_html *p, const char *which, const lk_trace_rank *r)
{
    char name[48];
    snprintf(name, sizeof name, "own work, %s rank: %d", which, r->rank);
    lk_html_tile(p, name, "%.3f ms", 1e3 * r->own);
}

static void figures(lk_html *p, const lk_trace *t, const lk_trace_summary *s)
{
    double of = s->step > 0 ? 100 / s->step : 0;
    lk_html_tiles_begin(p);
    lk_html_tile(p, "a traced step", "%.3f ms", 1e3 * s->step);
    lk_html_tile(p, "in which a node ran", "%.1f %%", of * s->covered);
    lk_html_tile(p, "of the ceilings", s->total.least > 0 ? "%.1f %%" : "-",
                 s->total.seconds > 0 ? 100 * s->total.least / s->total.seconds : 0);
    lk_html_tile(p, "GFLOP/s", "%.4g", s->step > 0 ? 1e-9 * s->total.flops / s->step : 0);
    if (t->ranks > 1) {
        lk_html_tile(p, "reduction", "%.1f %%", of * s->reduction);
        lk_html_tile(p, "beside other nodes", "%.1f %%", of * s->overlap);
        rank_tile(p, "slowest", &s->slowest);
        rank_tile(p, "fastest", &s->fastest);
    }
    lk_html_tiles_end(p);
}

static void kinds(lk_html *p, const lk_trace *t, const lk_trace_summary *s)
{
    const char *heading[] = {"kind of node", "nodes", "ms a step", NULL, "GB/s", "% of ceiling"};
    double unit = lk_trace_unit(t, &heading[3]);
    lk_html_table_begin(p, "Kinds of node", 6, heading, "lr");
    for (int i = 0; i < s->ops; i++) {
        const lk_trace_line *l = &s->op[i];
        double each = l->seconds > 0 ? 1 / l->seconds : 0;
        lk_html_cell(p, "%s", l->name);
        lk_html_cell(p, "%d", l->nodes);
        lk_html_cell(p, "%.3f", 1e3 * l->seconds);
        lk_html_cell(p, "%.4g", l->flops * each / unit);
        lk_html_cell(p, "%.4g", 1e-9 * l->bytes * each);
        if (l->least > 0) lk_html_cell(p, "%.1f", 100 * l->least * each);
        else lk_html_cell(p, "-");
    }
    lk_html_table_end(p);
}

static void memory(lk_html *p, const lk_trace *t)
{
    lk_html_bar *bar = calloc((size_t)t->memories + 1, sizeof *bar);
    char(*text)[32] = calloc((size_t)t->memories + 1, sizeof *text);
    int count = 0;
    for (int i = 0; i < t->memories && bar && text; i++) {
        if (!(t->memory[i].bytes > 0)) continue;
        snprintf(text[count], sizeof *text, "%.2f MiB", t->memory[i].bytes / 0x1p20);
        bar[count] = (lk_html_bar){t->memory[i].name, t->memory[i].bytes, text[count], false};
        count++;
    }
    if (count > 0)
        lk_html_bars(p, &(lk_html_chart){.title = "Memory of a rank, by kind"}, bar, count);
    free(bar);
    free(text);
}

static void write_trace(lk_html *p, const lk_trace *t, const lk_trace_summary *s)
{
    lk_html_paragraph(p,
                      "Steps %lld to %lld, traced on %d rank%s of %s by lockstep %s; means over "
                      "ranks and steps. Nodes that run beside each other are counted each.",
                      (long long)t->first_step, (long long)t->first_step + t->steps - 1, t->ranks,
                      t->ranks == 1 ? "" : "s", t->device, t->version);
    figures(p, t, s);
    lk_html_grid_begin(p);
    bars(p, "Time by kind of node", s->op, s->ops, s->step);
    bars(p, "Time by part of the model", s->scope, s->scopes, s->step);
    roofline(p, t, s);
    memory(p, t);
    lk_html_grid_end(p);
    kinds(p, t, s);
}

/* A trace that cannot be read is said on the page: the rest is worth showing. */
static lk_status one_trace(lk_html *p, lk_io *io, const char *path)
{
    lk_trace t = {.ranks = 0};
    lk_trace_summary s;
    lk_status status = lk_trace_load(io, path, &t);
    if (status == LK_E_INPUT) {
        lk_html_note(p, LK_HTML_WARNING, "%s", lk_error_text());
        lk_error_clear();
        return LK_OK;
    }
    if (status == LK_OK) status = lk_trace_summarise(&t, 2, &s);
    if (status == LK_OK) {
        write_trace(p, &t, &s);
        lk_trace_summary_clear(&s);
    }
    lk_trace_clear(&t);
    return status;
}

lk_status lk_report_traces(lk_html *p, lk_io *io, int runs, lk_history *const *h)
{
    char path[PATH_MAX + 16], title[300];
    for (int r = 0; r < runs; r++) {
        snprintf(path, sizeof path, "%s/trace.h5", h[r]->directory);
        if (access(path, F_OK) != 0) continue;
        snprintf(title, sizeof title, "Where the time goes%s%.200s", runs > 1 ? ": " : "",
                 runs > 1 ? h[r]->directory : "");
        lk_html_section(p, title);
        LK_TRY(one_trace(p, io, path));
    }
    return LK_OK;
}
