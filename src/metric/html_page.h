/* What the files of the HTML page share. Not for others: html.h. */
#ifndef LK_METRIC_HTML_PAGE_H
#define LK_METRIC_HTML_PAGE_H

#include "base/replace.h"
#include "metric/html.h"

#include <stdio.h>

struct lk_html {
    lk_replace out;
    FILE *file; /* of out */
    int charts;        /* so far: their numbers are ids */
    int columns, cell; /* of the table being written; cells so far */
    const char *align; /* of its columns; the last letter is also that of columns beyond */
    bool failed; /* memory ended */
    bool section;
};

void lk_html_raw(lk_html *p, const char *markup);
void lk_html_escaped(lk_html *p, const char *text);
/* A number for people: up to 4 significant digits, 1.2M for large ones. */
const char *lk_html_number(double x, char text[32]);

#endif
