/* The HTML page: well-formed, self-contained, escaped, labelled; the contrast of its colours by
 * WCAG's formula; lines thinned without losing a spike; failures to write. With an argument, a page
 * of everything is left there, to be looked at. */
#include "metric/html.h"
#include "tests/tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *text = calloc(1, 4 << 20);
    size_t n = text ? fread(text, 1, (4 << 20) - 1, f) : 0;
    fclose(f);
    if (text) text[n] = '\0';
    return text;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = strstr(text, what); p; p = strstr(p + 1, what)) n++;
    return n;
}

/* ---- a page of everything -------------------------------------------------------------------- */

enum { POINTS = 5000, SPIKE = 3210 };
static double step[POINTS], loss[2][POINTS];

static void charts(lk_html *p)
{
    for (int i = 0; i < POINTS; i++) {
        step[i] = i + 1;
        loss[0][i] = 2 + 8 * exp(-i / 600.0) + 0.15 * sin(i * 1.7) * cos(i * 0.31);
        loss[1][i] = i > 1000 && i < 1500 ? NAN : loss[0][i] * 0.9 + 0.1;
    }
    loss[0][SPIKE] = 14;
    lk_html_series lines[] = {{"run <a>", step, loss[0], POINTS, false, false},
                              {"run b", step, loss[1], POINTS, false, false}};
    lk_html_lines(p, &(lk_html_chart){"Loss & more", "step", "nats", false, false, false}, lines,
                  2);
    lk_html_grid_begin(p);
    const double x[] = {0.1, 1, 10, 100, 1000}, roof[] = {0.2, 2, 20, 60, 60};
    const double px[] = {0.5, 12, 300}, py[] = {0.4, 9, 41};
    lk_html_series rooflines[] = {{"ceiling", x, roof, 5, false, false},
                                  {"ops", px, py, 3, true, false}};
    lk_html_lines(p, &(lk_html_chart){"Roofline", "FLOP/byte", "TFLOP/s", true, true, false},
                  rooflines, 2);
    const double bins[] = {0, 3, 12, 40, 55, 31, 9, 2, 0, 1};
    lk_html_histogram(p, &(lk_html_chart){.title = "Step time", .x_label = "ms"}, 1.5, 2.5, bins,
                      10);
    lk_html_grid_end(p);
    lk_html_bar bars[] = {{"matmul", 812, "812 µs", false},
                          {"attention", 310, NULL, true},
                          {"a very long name of a kernel that must wrap", 0.2, NULL, false}};
    lk_html_bars(p, &(lk_html_chart){.title = "Time by kernel", .y_label = "µs a step"}, bars, 3);
    lk_html_series none[] = {{"none", step, loss[0], 0, false, false}};
    lk_html_lines(p, &(lk_html_chart){.title = "Nothing yet"}, none, 1);
    lk_html_series one[] = {{"one", step, loss[0], 1, false, false}};
    lk_html_lines(p, &(lk_html_chart){.title = "One point"}, one, 1);
    const double gaps[] = {1, NAN, 2, NAN, 3, 4, NAN, 5};
    lk_html_series alone[] = {{"alone", step, gaps, 8, false, false}};
    lk_html_lines(p, &(lk_html_chart){.title = "Points between gaps"}, alone, 1);
}

static lk_status write_page(const char *path)
{
    lk_html *p = NULL;
    LK_TRY(lk_html_open(path, "A <page> of \"everything\" & more", &p));
    lk_html_paragraph(p, "Text with %s, \xc3\xbc and bytes \xff\xc0\x80 that are not UTF-8.",
                      "<script>alert(1)</script>");
    lk_html_section(p, "Figures");
    lk_html_tiles_begin(p);
    lk_html_tile(p, "loss", "%.4f", 2.0416);
    lk_html_tile(p, "rate", "%d samples/s", 4711);
    lk_html_tiles_end(p);
    lk_html_note(p, LK_HTML_OK, "all is well");
    lk_html_note(p, LK_HTML_WARNING, "step %d: loss spike", 3211);
    lk_html_note(p, LK_HTML_ERROR, "disk full");
    lk_html_section(p, "Charts");
    charts(p);
    lk_html_section(p, "Tables");
    const char *heading[] = {"column", "mean", "verdict"};
    lk_html_table_begin(p, "Columns", 3, heading, "lrl");
    lk_html_cell(p, "age");
    lk_html_cell(p, "%.2f", 41.5);
    lk_html_cell_level(p, LK_HTML_WARNING, "warning: skewed");
    lk_html_cell(p, "height");
    lk_html_table_end(p);
    lk_html_pairs_begin(p, "Versions");
    lk_html_pair(p, "code", "%s", "v0.1-3-gabc");
    lk_html_pair(p, "data", "%s", "0123456789abcdef0123456789abcdef");
    lk_html_pairs_end(p);
    lk_html_listing(p, "run.yaml", "a: 1\nb: <2>\n");
    return lk_html_close(p);
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* Tags close in the order in which they were opened. Returns where they do not, or NULL. */
static const char *unbalanced(const char *text)
{
    static const char *const empty[] = {"meta", "link", "path", "!DOCTYPE"};
    char open[64][16];
    int depth = 0;
    for (const char *p = strchr(text, '<'); p; p = strchr(p + 1, '<')) {
        char name[16] = "";
        bool closing = p[1] == '/', alone = false;
        sscanf(p + 1 + closing, "%15[A-Za-z0-9!]", name);
        for (size_t i = 0; i < sizeof empty / sizeof *empty; i++)
            alone |= strcmp(name, empty[i]) == 0;
        if (alone) continue;
        if (!name[0] || depth >= 63) return p;
        if (!closing) memcpy(open[depth++], name, sizeof name);
        else if (depth == 0 || strcmp(open[--depth], name) != 0) return p;
        if (strcmp(name, "style") == 0 && !closing) p = strstr(p, "</style>") - 1;
    }
    return depth == 0 ? NULL : text + strlen(text);
}

/* Relative luminance and contrast: WCAG 2.2, "relative luminance", "contrast ratio". */
static double luminance(unsigned rgb)
{
    const double weight[] = {0.2126, 0.7152, 0.0722};
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        double c = (rgb >> (16 - 8 * i) & 255) / 255.0;
        sum += weight[i] * (c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4));
    }
    return sum;
}

static double contrast(unsigned a, unsigned b)
{
    double x = luminance(a), y = luminance(b);
    return x > y ? (x + 0.05) / (y + 0.05) : (y + 0.05) / (x + 0.05);
}

static bool colour(const char *scheme, const char *name, unsigned *rgb)
{
    char key[32];
    snprintf(key, sizeof key, "--%s:#", name);
    const char *at = strstr(scheme, key);
    return at && at < strchr(scheme, '}') && sscanf(at + strlen(key), "%6x", rgb) == 1;
}

static void check_colours(const char *page)
{
    static const char *const text[] = {"text", "soft", "ok", "warning", "error"};
    static const char *const behind[] = {"page", "card"};
    const char *scheme[] = {strstr(page, ":root{"), strstr(page, "dark){:root{")};
    for (int s = 0; s < 2; s++) {
        double least_text = 100, least_line = 100;
        bool found = scheme[s] != NULL;
        unsigned fore, back;
        for (int b = 0; b < 2 && found; b++) {
            found = colour(scheme[s], behind[b], &back);
            for (int i = 0; i < 5 && found; i++) {
                found = colour(scheme[s], text[i], &fore);
                least_text = fmin(least_text, contrast(fore, back));
            }
            for (int i = 0; i < 9 && found; i++) {
                char name[8];
                snprintf(name, sizeof name, i < 8 ? "s%d" : "axis", i);
                found = colour(scheme[s], name, &fore);
                least_line = fmin(least_line, contrast(fore, back));
            }
        }
        tap_ok(found && least_text >= 4.5, "%s: contrast of text is at least %.2f (>= 4.5)",
               s ? "dark" : "light", least_text);
        tap_ok(found && least_line >= 3.0, "%s: contrast of lines is at least %.2f (>= 3)",
               s ? "dark" : "light", least_line);
    }
    tap_ok(fabs(contrast(0x777777, 0xffffff) - 4.48) < 0.01, "the formula gives 4.48 for #777");
}

static void check_page(const char *page)
{
    const char *at = unbalanced(page);
    tap_ok(!at, "tags are balanced%s%.40s", at ? ": " : "", at ? at : "");
    tap_ok(strncmp(page, "<!DOCTYPE html>\n<html lang=\"en\">", 32) == 0, "HTML with a language");
    tap_ok(strstr(page, "name=\"viewport\"") != NULL, "made for phones too");
    tap_ok(!strstr(page, "http:") && !strstr(page, "https:") && !strstr(page, "src=") &&
               !strstr(page, "url(") && !strstr(page, "@import") && !strstr(page, "<script"),
           "nothing is loaded and no script runs");
    tap_ok(strstr(page, "default-src 'none'") != NULL, "and its policy forbids it");
    tap_ok(strstr(page, "&lt;script&gt;alert(1)") && strstr(page, "&quot;everything&quot; &amp;"),
           "text is escaped");
    tap_ok(strstr(page, "\xc3\xbc and bytes ??? that") != NULL, "and is UTF-8");
    tap_ok(count(page, "role=\"img\" aria-labelledby=\"c") == 5 &&
               count(page, "<desc id=") == 5,
           "every picture has a name and a description");
    tap_ok(count(page, "<th scope=") == 3 + 2 + 3, "every table has its header cells");
    tap_ok(strstr(page, "run &lt;a&gt;: 5000 values, 10 at 1 to ") &&
               strstr(page, "highest 14. run b: 4501 values"), "lines are described in words");
    tap_ok(strstr(page, "Nothing yet</figcaption>\n<p>No values yet.") != NULL, "an empty one too");
    tap_ok(strlen(page) < 60000, "10,000 points take %zu bytes", strlen(page));
}

/* The spike's column holds a point at the top: 14 is where the axis ends. */
static void check_spike(const char *page)
{
    const char *picture = strstr(page, "</desc>"); /* the legend has lines too */
    const char *line = picture ? strstr(picture, "<path class=\"l s0\"") : NULL;
    const char *end = line ? strstr(line, "/>") : NULL;
    double want = 1000.0 * SPIKE / (POINTS - 1), nearest = 1e9;
    for (const char *p = line ? strpbrk(line, "ML") : NULL; p && p < end;
         p = strpbrk(p + 1, "ML")) {
        double x, y;
        if (sscanf(p + 1, "%lf %lf", &x, &y) == 2 && y <= 1 && fabs(x - want) < nearest)
            nearest = fabs(x - want);
    }
    tap_ok(nearest < 0.5, "a spike of one step in 5,000 is drawn, %.2f of 1,000 off", nearest);
    line = picture ? strstr(picture, "<path class=\"l s1\"") : NULL;
    end = line ? strstr(line, "/>") : NULL;
    int strokes = 0;
    for (const char *p = line; p && p < end; p++) strokes += *p == 'M';
    tap_ok(strokes == 2, "a gap parts a line in two: %d", strokes);
}

/* What follows `title`: the marks of points that are no line, and the pieces of the line. */
static void check_marks(const char *page, const char *title, int marks, int pieces)
{
    const char *figure = strstr(page, title), *end = figure ? strstr(figure, "</figure>") : NULL;
    const char *line = figure ? strstr(figure, "<path class=\"l s0\"") : NULL;
    const char *dots = figure ? strstr(figure, "<path class=\"d s0\"") : NULL;
    int begun = 0, drawn = 0;
    for (const char *p = line; p && *p != '/'; p++) begun += *p == 'M';
    for (const char *p = dots; p && *p != '/'; p++) drawn += strncmp(p, "h0", 2) == 0;
    tap_ok(line && dots && dots < end && begun == pieces && drawn == marks,
           "%s: %d marked, %d line", title, drawn, begun);
}

static void check_failures(void)
{
    lk_html *p = NULL;
    tap_ok(lk_html_open("no/such/page.html", "x", &p) == LK_E_INPUT && !p &&
               strstr(lk_error_text(), "no/such/page.html"), "no directory: %s", lk_error_text());
    lk_error_clear();
    if (lk_html_open("full.html", "x", &p) == LK_OK) {
        lk_html_section(p, "x");
        tap_room(8);
        lk_status status = lk_html_close(p);
        tap_room(RLIM_INFINITY);
        tap_ok(status == LK_E_SYSTEM && access("full.html", F_OK) != 0 &&
                   access("full.html.part", F_OK) != 0, "a full disk: %s", lk_error_text());
        lk_error_clear();
    }
    if (lk_html_open("gone.html", "x", &p) == LK_OK) {
        lk_html_discard(p);
        tap_ok(access("gone.html.part", F_OK) != 0, "a discarded page leaves nothing");
    }
}

int main(int argc, char **argv)
{
    char directory[] = "/tmp/lockstep-html-XXXXXX";
    if (argc > 1) return write_page(argv[1]);
    if (!mkdtemp(directory) || chdir(directory) != 0) return 99;
    tap_ok(write_page("page.html") == LK_OK, "a page is written %s", lk_error_text());
    char *page = read_file("page.html");
    if (!page) return 99;
    check_page(page);
    check_colours(page);
    check_spike(page);
    check_marks(page, "One point", 1, 0);
    check_marks(page, "Points between gaps", 3, 1);
    check_failures();
    free(page);
    unlink("page.html");
    if (chdir("/") != 0 || rmdir(directory) != 0) tap_ok(false, "files were left in %s", directory);
    return tap_done();
}
