/* A check's report as a page. */
#include "metric/html.h"
#include "check/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_FINDINGS = 200, MOST_CLASSES = 60, MOST_FEATURES = 64, MOST_PAIRS = 100, MAP = 40 };

static void put_number(lk_html *p, double x)
{
    if (isfinite(x)) lk_html_cell(p, "%.5g", x);
    else lk_html_cell(p, "-");
}

static void put_head(lk_html *p, const lk_check_report *r)
{
    static const char *const text[] = {"fit for training", "fit, with warnings", "unfit"};
    bool tokens = r->kind == LK_TEXT_DATA;
    lk_html_note(p, r->verdict == LK_UNFIT ? LK_HTML_ERROR
                    : r->verdict == LK_WARNING ? LK_HTML_WARNING : LK_HTML_OK, "%s",
                 text[r->verdict]);
    lk_html_tiles_begin(p);
    lk_html_tile(p, tokens ? "training tokens" : "training samples", "%lld",
                 (long long)r->rows[LK_TRAIN]);
    lk_html_tile(p, tokens ? "validation tokens" : "validation samples", "%lld",
                 (long long)r->rows[LK_VALIDATION]);
    if (r->classes > 0) lk_html_tile(p, tokens ? "kinds of token" : "classes", "%lld",
                                     (long long)r->classes);
    if (r->features > 0) lk_html_tile(p, "features", "%lld", (long long)r->features);
    for (int s = 0; s < 2; s++)
        if (r->drift[s].features > 0)
            lk_html_tile(p, s == LK_TRAIN ? "mean PSI, training" : "mean PSI, validation", "%.4f",
                         r->drift[s].psi);
    lk_html_tiles_end(p);
    lk_html_pairs_begin(p, "Data");
    lk_html_pair(p, "file", "%s", r->path);
    lk_html_pair(p, "kind", "%s", lk_dataset_kind_name(r->kind));
    lk_html_pair(p, "digest", "%s", r->digest);
    lk_html_pair(p, "level", "%d", r->level);
    lk_html_pairs_end(p);
}

static void put_rows(lk_html *p, const lk_finding *f)
{
    char text[128] = "";
    int n = 0;
    for (int i = 0; i < LK_FAULT_ROWS && f->row[i] != INT64_MAX; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%lld", i ? ", " : "",
                      (long long)f->row[i]);
    lk_html_cell(p, "%s", text);
}

static void put_findings(lk_html *p, const lk_check_report *r)
{
    static const char *const heading[] = {"Severity", "What", "Rows"};
    lk_html_section(p, "Findings");
    if (r->findings == 0) {
        lk_html_paragraph(p, "None.");
        return;
    }
    lk_html_table_begin(p, "The worst first; rows are those of the split", 3, heading, "lll");
    for (int64_t i = 0; i < r->findings && i < MOST_FINDINGS; i++) {
        const lk_finding *f = &r->finding[i];
        lk_html_cell_level(p, f->severity == LK_UNFIT ? LK_HTML_ERROR
                              : f->severity == LK_WARNING ? LK_HTML_WARNING : LK_HTML_OK, "%s",
                           lk_severity_name(f->severity));
        lk_html_cell(p, "%s", f->text);
        put_rows(p, f);
    }
    lk_html_table_end(p);
    if (r->findings > MOST_FINDINGS)
        lk_html_paragraph(p, "The first %d of %lld.", MOST_FINDINGS, (long long)r->findings);
}

static void put_labels(lk_html *p, const lk_check_report *r)
{
    bool tokens = r->kind == LK_TEXT_DATA;
    int n = r->classes < MOST_CLASSES ? (int)r->classes : MOST_CLASSES;
    char text[MOST_CLASSES][64];
    lk_html_bar bar[MOST_CLASSES];
    lk_html_chart chart = {.title = tokens ? "Tokens" : "Samples of each class",
                           .y_label = tokens ? "tokens" : "samples"};
    if (!r->class_name) return;
    lk_html_section(p, tokens ? "Tokens" : "Labels");
    lk_html_paragraph(p, "Entropy %.4f bits of at most %.4f.", r->entropy,
                      r->classes > 0 ? log2((double)r->classes) : 0.0);
    if (isfinite(r->pair_entropy))
        lk_html_paragraph(p, "A model that knows only how frequent tokens are has a loss of %.4f "
                          "nats, one that knows the token before %.4f.", r->entropy * M_LN2,
                          r->pair_entropy * M_LN2);
    for (int k = 0; k < n; k++) {
        int64_t count = r->labels[LK_TRAIN][k];
        snprintf(text[k], sizeof text[k], "%lld (%lld validation)%s", (long long)count,
                 (long long)r->labels[LK_VALIDATION][k], count == 0 && !tokens ? ", missing" : "");
        bar[k] = (lk_html_bar){r->class_name[k], (double)count, text[k], count == 0 && !tokens};
    }
    if (n > 0) lk_html_bars(p, &chart, bar, n);
    if (r->classes > n)
        lk_html_paragraph(p, "The first %d of %lld.", n, (long long)r->classes);
}

static void put_table(lk_html *p, const lk_check_report *r)
{
    static const char *const heading[] = {"Feature", "Mean", "Deviation", "Least", "1 %", "5 %",
                                          "25 %", "50 %", "75 %", "95 %", "99 %", "Largest",
                                          "Tells of label"};
    lk_html_table_begin(p, "Values of the training split", 13, heading, "lr");
    for (int64_t i = 0; i < r->features; i++) {
        const lk_check_feature *f = &r->feature[i];
        lk_html_cell(p, "%s", f->name);
        put_number(p, f->mean);
        put_number(p, f->deviation);
        put_number(p, f->low);
        for (int q = 0; q < LK_CHECK_QUANTILES; q++) put_number(p, f->quantile[q]);
        put_number(p, f->high);
        if (isfinite(f->leak)) lk_html_cell(p, "%.1f %%", 100 * f->leak);
        else lk_html_cell(p, "-");
    }
    lk_html_table_end(p);
}

static void put_features(lk_html *p, const lk_check_report *r)
{
    if (r->features == 0) return;
    lk_html_section(p, "Features");
    lk_html_grid_begin(p);
    for (int64_t i = 0; i < r->features && i < MOST_FEATURES; i++) {
        const lk_check_feature *f = &r->feature[i];
        lk_html_chart chart = {.title = f->name, .y_label = "values", .y_from_zero = true};
        if (isfinite(f->low) && f->high > f->low)
            lk_html_histogram(p, &chart, f->low, f->high, f->bar, LK_CHECK_BARS);
    }
    lk_html_grid_end(p);
    put_table(p, r);
}

/* The strongest pairs, and for few features the whole matrix. */
static void put_correlation(lk_html *p, const lk_check_report *r)
{
    static const char *const heading[] = {"Feature", "Feature", "r"};
    if (!r->correlation || r->features < 2) return;
    lk_html_section(p, "Correlations");
    if (r->pairs > 0) {
        lk_html_table_begin(p, "Pairs above the threshold, the strongest first", 3, heading, "llr");
        for (int64_t i = 0; i < r->pairs && i < MOST_PAIRS; i++) {
            lk_html_cell(p, "%s", r->feature[r->pair[i].a].name);
            lk_html_cell(p, "%s", r->feature[r->pair[i].b].name);
            lk_html_cell(p, "%.4f", r->pair[i].r);
        }
        lk_html_table_end(p);
    } else {
        lk_html_paragraph(p, "No pair of features is above the threshold.");
    }
    if (r->features > MAP) return;
    int n = (int)r->features;
    const char *name[MAP + 1] = {""};
    for (int i = 0; i < n; i++) name[i + 1] = r->feature[i].name;
    lk_html_table_begin(p, "All pairs", n + 1, name, "lr");
    for (int i = 0; i < n; i++) {
        lk_html_cell(p, "%s", r->feature[i].name);
        for (int j = 0; j < n; j++) {
            double x = r->correlation[i * n + j];
            if (isfinite(x)) lk_html_cell(p, "%.2f", fabs(x) < 0.005 ? 0.0 : x); /* not -0.00 */
            else lk_html_cell(p, "-");
        }
    }
    lk_html_table_end(p);
}

static void put_drift_table(lk_html *p, const lk_drift_report *d, const char *split)
{
    static const char *const heading[] = {"Feature", "PSI", "KL (nats)", "Noise", "Verdict"};
    if (d->features == 0) return;
    lk_html_paragraph(p, "The %s split: mean PSI %.4f, mean KL %.4f nats.", split, d->psi, d->kl);
    lk_html_table_begin(p, split, 5, heading, "lrrrl");
    for (int64_t i = 0; i < d->features; i++) {
        const lk_drift_feature *f = &d->feature[i];
        bool found = lk_drift_found(&f->drift, d->threshold);
        lk_html_cell(p, "%s", f->name);
        lk_html_cell(p, "%.4f", f->drift.psi);
        lk_html_cell(p, "%.4f", f->drift.kl);
        lk_html_cell(p, "%.4f", f->drift.noise);
        lk_html_cell_level(p, found ? LK_HTML_WARNING : LK_HTML_OK, found ? "drift" : "ok");
    }
    lk_html_table_end(p);
}

static void put_drift(lk_html *p, const lk_check_report *r)
{
    const lk_drift_report *d = r->drift;
    if (d[0].features + d[1].features == 0) return;
    lk_html_section(p, "Drift");
    lk_html_paragraph(p, "From the training data of %s. Drift is a PSI above %g and above noise, "
                      "which so few samples exceed by chance once in 10,000 times.",
                      r->against ? r->against : "the file itself", d[0].threshold);
    put_drift_table(p, &d[LK_TRAIN], "training");
    put_drift_table(p, &d[LK_VALIDATION], "validation");
}

lk_status lk_check_page(const lk_check_report *r, const char *path)
{
    char title[300];
    lk_html *p = NULL;
    const char *name = strrchr(r->path, '/');
    snprintf(title, sizeof title, "Data check: %.250s", name ? name + 1 : r->path);
    LK_TRY(lk_html_open(path, title, &p));
    put_head(p, r);
    put_findings(p, r);
    put_labels(p, r);
    put_features(p, r);
    put_correlation(p, r);
    put_drift(p, r);
    return lk_html_close(p);
}
