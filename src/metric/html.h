/* One self-contained HTML page: text, tables, and charts as inline SVG.
 *
 * The page asks for nothing from a network and runs no script (its Content-Security-Policy forbids
 * both). It is light or dark as the reader's system is, fits a phone, and can be used without
 * seeing it: every chart has a name and a description in words, every table its header cells. Text
 * is at least 4.5:1, lines of charts at least 3:1 against what is behind them (WCAG 2.2, 1.4.3 and
 * 1.4.11).
 *
 * Calls write in order. All text is UTF-8 and is escaped here; bytes that are not UTF-8 become '?'.
 * A failure to write is kept and returned by lk_html_close(): nothing else returns one. */
#ifndef LK_METRIC_HTML_H
#define LK_METRIC_HTML_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct lk_html lk_html;

/* Begin PATH with its title, written beside it as PATH.part. LK_E_INPUT: it cannot be made. */
lk_status lk_html_open(const char *path, const char *title, lk_html **page);
/* End the page and give it its name. LK_E_SYSTEM: disk full or memory ended on the way; then no
 * PATH is made, and one that was there stays. Frees `page` either way. */
lk_status lk_html_close(lk_html *page);
void lk_html_discard(lk_html *page); /* leave no file; takes NULL */

/* ---- text ------------------------------------------------------------------------------------ */

void lk_html_section(lk_html *p, const char *heading);
void lk_html_paragraph(lk_html *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef enum lk_html_level { LK_HTML_OK, LK_HTML_WARNING, LK_HTML_ERROR } lk_html_level;
/* A framed line that begins with "ok", "warning" or "error": not by colour alone. */
void lk_html_note(lk_html *p, lk_html_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Text in its own lines and a fixed width, folded away under `summary`. */
void lk_html_listing(lk_html *p, const char *summary, const char *text);

/* Figures in large type, each over its label. */
void lk_html_tiles_begin(lk_html *p);
void lk_html_tile(lk_html *p, const char *label, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void lk_html_tiles_end(lk_html *p);

/* ---- tables ---------------------------------------------------------------------------------- */

/* `align`: a letter for each column, l or r, the last one also for the columns beyond; stays the
 * caller's until the end. Then the cells, row by row; the first of a row names it. A wide table
 * scrolls within itself. */
void lk_html_table_begin(lk_html *p, const char *caption, int columns, const char *const *heading,
                         const char *align);
void lk_html_cell(lk_html *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A cell in the colour of its level, which its text must say too. */
void lk_html_cell_level(lk_html *p, lk_html_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void lk_html_table_end(lk_html *p);

/* Names and values. */
void lk_html_pairs_begin(lk_html *p, const char *caption);
void lk_html_pair(lk_html *p, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void lk_html_pairs_end(lk_html *p);

/* ---- charts: html_chart.c -------------------------------------------------------------------- */

/* Charts between begin and end stand side by side where there is room. */
void lk_html_grid_begin(lk_html *p);
void lk_html_grid_end(lk_html *p);

typedef struct lk_html_chart {
    const char *title;
    const char *x_label, *y_label; /* with the unit; NULL: none */
    bool x_log, y_log;             /* then values <= 0 are left out */
    bool y_from_zero;
} lk_html_chart;

typedef struct lk_html_series {
    const char *name;
    const double *x, *y; /* x ascending; y not finite: a gap */
    int64_t count;
    bool dots;  /* points instead of a line */
    bool faint; /* behind the others: values of which another series is the mean */
} lk_html_series;

/* Lines and points over common axes, with a legend if there is more than one. A line of many points
 * is drawn by the first, lowest, highest and last of each column of LK_HTML_COLUMNS: no spike is
 * lost, and the page stays small (M. Jugel et al., "M4", VLDB 2014). */
enum { LK_HTML_COLUMNS = 500 };
void lk_html_lines(lk_html *p, const lk_html_chart *c, const lk_html_series *series, int count);

typedef struct lk_html_bar {
    const char *name;
    double value;     /* length; drawn from 0 */
    const char *text; /* what it says at its end; NULL: the value */
    bool marked;      /* in the colour of a warning: say why in name or text */
} lk_html_bar;
/* Horizontal bars, one below the other: a table with a picture in it. y_label names the value. */
void lk_html_bars(lk_html *p, const lk_html_chart *c, const lk_html_bar *bar, int count);

/* Counts of `bins` equal bins from low to high. */
void lk_html_histogram(lk_html *p, const lk_html_chart *c, double low, double high,
                       const double *bin, int bins);

#endif
