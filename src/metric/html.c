/* The page, its text and its tables. */
#include "base/utf8.h"
#include "metric/html_page.h"
#include "metric/html_style.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const level_name[] = {"ok", "warning", "error"};

/* ---- characters ------------------------------------------------------------------------------ */

void lk_html_raw(lk_html *p, const char *markup) { fputs(markup, p->file); }

void lk_html_escaped(lk_html *p, const char *text)
{
    while (*text) {
        const char *entity = *text == '&' ? "&amp;" : *text == '<' ? "&lt;" : *text == '>' ? "&gt;"
                             : *text == '"' ? "&quot;" : *text == '\n' ? "\n"
                             : *text == '\t' ? "\t" : NULL;
        if (entity) fputs(entity, p->file);
        text += entity ? 1 : lk_plain_put(p->file, text);
    }
}

static void formatted(lk_html *p, const char *format, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0) {
        p->failed = true;
        return;
    }
    lk_html_escaped(p, text);
    free(text);
}

#define FORMATTED(p, format)                                                                       \
    do {                                                                                           \
        va_list args_;                                                                             \
        va_start(args_, format);                                                                   \
        formatted(p, format, args_);                                                               \
        va_end(args_);                                                                             \
    } while (0)

const char *lk_html_number(double x, char text[32])
{
    static const struct {
        double unit;
        const char *name;
    } large[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        if (fabs(x) >= large[i].unit && fabs(x) < 1e15) {
            double unit = large[i].unit > 1e4 ? large[i].unit : 1e3;
            snprintf(text, 32, "%.4g%s", x / unit, large[i].name);
            return text;
        }
    snprintf(text, 32, "%.4g", x);
    return text;
}

/* ---- the page -------------------------------------------------------------------------------- */

lk_status lk_html_open(const char *path, const char *title, lk_html **page)
{
    lk_html *p = calloc(1, sizeof *p);
    if (!p) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = lk_replace_open(&p->out, path, "the page", LK_BEGINS_PAGE);
    if (status != LK_OK) {
        free(p);
        return status;
    }
    p->file = p->out.file;
    lk_html_raw(p, LK_BEGINS_PAGE "\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                "style-src 'unsafe-inline'; img-src data:\">\n"
                "<meta name=\"color-scheme\" content=\"light dark\">\n"
                "<link rel=\"icon\" href=\"data:,\">\n<title>");
    lk_html_escaped(p, title);
    lk_html_raw(p, "</title>\n<style>" LK_HTML_STYLE "</style>\n</head>\n<body>\n<header><h1>");
    lk_html_escaped(p, title);
    lk_html_raw(p, "</h1></header>\n<main>\n");
    *page = p;
    return LK_OK;
}

void lk_html_discard(lk_html *p)
{
    if (!p) return;
    lk_replace_discard(&p->out);
    free(p);
}

lk_status lk_html_close(lk_html *p)
{
    lk_status status = LK_OK;
    if (p->section) lk_html_raw(p, "</section>\n");
    lk_html_raw(p, "</main>\n</body>\n</html>\n");
    if (p->failed) {
        status = lk_fail(LK_E_SYSTEM, "%s: out of memory for the page", p->out.path);
        lk_replace_discard(&p->out);
    } else {
        status = lk_replace_close(&p->out, false);
    }
    free(p);
    return status;
}

void lk_html_section(lk_html *p, const char *heading)
{
    if (p->section) lk_html_raw(p, "</section>\n");
    p->section = true;
    lk_html_raw(p, "<section>\n<h2>");
    lk_html_escaped(p, heading);
    lk_html_raw(p, "</h2>\n");
}

void lk_html_paragraph(lk_html *p, const char *format, ...)
{
    lk_html_raw(p, "<p>");
    FORMATTED(p, format);
    lk_html_raw(p, "</p>\n");
}

void lk_html_note(lk_html *p, lk_html_level level, const char *format, ...)
{
    fprintf(p->file, "<p class=\"note %s\"><b>%s</b> ", level_name[level], level_name[level]);
    FORMATTED(p, format);
    lk_html_raw(p, "</p>\n");
}

void lk_html_listing(lk_html *p, const char *summary, const char *text)
{
    lk_html_raw(p, "<details><summary>");
    lk_html_escaped(p, summary);
    lk_html_raw(p, "</summary>\n<pre tabindex=\"0\">");
    lk_html_escaped(p, text);
    lk_html_raw(p, "</pre></details>\n");
}

void lk_html_tiles_begin(lk_html *p) { lk_html_raw(p, "<dl class=\"tiles\">\n"); }

void lk_html_tile(lk_html *p, const char *label, const char *format, ...)
{
    lk_html_raw(p, "<div><dt>");
    lk_html_escaped(p, label);
    lk_html_raw(p, "</dt><dd>");
    FORMATTED(p, format);
    lk_html_raw(p, "</dd></div>\n");
}

void lk_html_tiles_end(lk_html *p) { lk_html_raw(p, "</dl>\n"); }

/* ---- tables ---------------------------------------------------------------------------------- */

static bool to_the_right(const lk_html *p, int column)
{
    size_t n = strlen(p->align);
    return n > 0 && p->align[(size_t)column < n ? (size_t)column : n - 1] == 'r';
}

void lk_html_table_begin(lk_html *p, const char *caption, int columns, const char *const *heading,
                         const char *align)
{
    p->columns = columns;
    p->cell = 0;
    p->align = align;
    lk_html_raw(p, "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"");
    lk_html_escaped(p, caption);
    lk_html_raw(p, "\"><table><caption>");
    lk_html_escaped(p, caption);
    lk_html_raw(p, "</caption>\n<thead><tr>");
    for (int i = 0; i < columns; i++) {
        fprintf(p->file, "<th scope=\"col\"%s>", to_the_right(p, i) ? " class=\"r\"" : "");
        lk_html_escaped(p, heading[i]);
        lk_html_raw(p, "</th>");
    }
    lk_html_raw(p, "</tr></thead>\n<tbody>\n");
}

static bool cell_begin(lk_html *p, const char *level)
{
    int column = p->cell % p->columns;
    bool right = to_the_right(p, column);
    fprintf(p->file, "%s<%s", column == 0 ? "<tr>" : "", column == 0 ? "th scope=\"row\"" : "td");
    if (right || level[0])
        fprintf(p->file, " class=\"%s%s%s\"", right ? "r" : "", right && level[0] ? " " : "",
                level);
    lk_html_raw(p, ">");
    return column == 0;
}

static void cell_end(lk_html *p, bool first)
{
    lk_html_raw(p, first ? "</th>" : "</td>");
    if (++p->cell % p->columns == 0) lk_html_raw(p, "</tr>\n");
}

void lk_html_cell(lk_html *p, const char *format, ...)
{
    bool first = cell_begin(p, "");
    FORMATTED(p, format);
    cell_end(p, first);
}

void lk_html_cell_level(lk_html *p, lk_html_level level, const char *format, ...)
{
    bool first = cell_begin(p, level_name[level]);
    FORMATTED(p, format);
    cell_end(p, first);
}

void lk_html_table_end(lk_html *p)
{
    while (p->cell % p->columns) lk_html_cell(p, "%s", "");
    lk_html_raw(p, "</tbody></table></div>\n");
}

void lk_html_pairs_begin(lk_html *p, const char *caption)
{
    lk_html_raw(p, "<h3>");
    lk_html_escaped(p, caption);
    lk_html_raw(p, "</h3>\n<dl class=\"pairs\">\n");
}

void lk_html_pair(lk_html *p, const char *name, const char *format, ...)
{
    lk_html_raw(p, "<div><dt>");
    lk_html_escaped(p, name);
    lk_html_raw(p, "</dt><dd>");
    FORMATTED(p, format);
    lk_html_raw(p, "</dd></div>\n");
}

void lk_html_pairs_end(lk_html *p) { lk_html_raw(p, "</dl>\n"); }
