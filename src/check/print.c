/* A check's report for people at a terminal. */
#include "base/digits.h"
#include "base/utf8.h"
#include "check/check.h"

#include <math.h>
#include <stdlib.h>

enum { NAME = 20, COLUMNS = 16, MOST_LINES = 40, MOST_CLASSES = 20 };

typedef struct view {
    const lk_check_report *r;
    FILE *out;
    bool utf8; /* `out` shows blocks */
} view;

static void put_head(const view *v)
{
    const lk_check_report *r = v->r;
    const char *what = r->kind == LK_TEXT_DATA    ? "tokens"
                       : r->kind == LK_IMAGE_DATA ? "images"
                                                  : "rows";
    char a[32], b[32];
    fprintf(v->out, "%s: %s, level %d\n  %s training and %s validation %s, digest %s\n", r->path,
            lk_dataset_kind_name(r->kind), r->level, lk_digits(r->rows[LK_TRAIN], a),
            lk_digits(r->rows[LK_VALIDATION], b), what, r->digest);
    if (r->kind == LK_TEXT_DATA)
        fprintf(v->out, "  passages of %d tokens compared: %s and %s\n", LK_CHECK_PASSAGE,
                lk_digits(r->samples[LK_TRAIN], a), lk_digits(r->samples[LK_VALIDATION], b));
}

/* ---- labels ---------------------------------------------------------------------------------- */

static int by_count(const void *a, const void *b, void *report)
{
    const lk_check_report *r = report;
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    int64_t x = r->labels[LK_TRAIN][i], y = r->labels[LK_TRAIN][j];
    return x != y ? (x > y ? -1 : 1) : i < j ? -1 : 1;
}

static void put_class(const view *v, int64_t k, int64_t most)
{
    const lk_check_report *r = v->r;
    int64_t n = r->labels[LK_TRAIN][k];
    int width = most > 0 ? (int)((double)n / (double)most * COLUMNS + 0.5) : 0;
    char a[32], b[32];
    fprintf(v->out, "  ");
    lk_plain_column(v->out, r->class_name[k], NAME);
    fprintf(v->out, "%14s%14s %6.2f %%  ", lk_digits(n, a),
            lk_digits(r->labels[LK_VALIDATION][k], b),
            r->rows[LK_TRAIN] ? 100.0 * (double)n / (double)r->rows[LK_TRAIN] : 0.0);
    for (int i = 0; i < width; i++) fputs(v->utf8 ? "\u2588" : "#", v->out);
    fprintf(v->out, "\n");
}

static void put_entropy(const view *v)
{
    const lk_check_report *r = v->r;
    fprintf(v->out, "  entropy %.4f bits of at most %.4f\n", r->entropy, log2((double)r->classes));
    if (r->kind != LK_TEXT_DATA) return;
    fprintf(v->out, "  a model that knows only how frequent tokens are: loss %.4f nats\n",
            r->entropy * M_LN2);
    if (isfinite(r->pair_entropy))
        fprintf(v->out, "  one that knows the token before:               loss %.4f nats\n",
                r->pair_entropy * M_LN2);
}

/* All classes, or of many the rarest; of tokens the most frequent. */
static void put_labels(const view *v)
{
    const lk_check_report *r = v->r;
    bool text = r->kind == LK_TEXT_DATA;
    int64_t n = r->classes, shown = n < MOST_CLASSES ? n : MOST_CLASSES, first = 0, most = 1;
    int64_t *order = r->class_name && n > 0 ? malloc((size_t)n * sizeof *order) : NULL;
    if (!order) return;
    for (int64_t i = 0; i < n; i++) {
        order[i] = i;
        if (r->labels[LK_TRAIN][i] > most) most = r->labels[LK_TRAIN][i];
    }
    if (shown < n || text) {
        qsort_r(order, (size_t)n, sizeof *order, by_count, (void *)r);
        first = text ? 0 : n - shown;
    }
    fprintf(v->out, "\n%-22s%14s%14s %8s\n", text ? "token" : "class", "train", "validation",
            "share");
    for (int64_t i = 0; i < shown; i++) put_class(v, order[first + i], most);
    if (shown < n)
        fprintf(v->out, "  (%s %lld of %lld)\n", text ? "the most frequent" : "the rarest",
                (long long)shown, (long long)n);
    put_entropy(v);
    free(order);
}

/* ---- features -------------------------------------------------------------------------------- */

/* A histogram of `n` bars in `n / 2` characters, the highest full. */
static void put_bars(const view *v, const double *bar, int n)
{
    static const char *const block[8] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                         "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char *const plain[8] = {".", ":", "-", "=", "+", "*", "%", "#"};
    double most = 0;
    for (int i = 0; i + 1 < n; i += 2)
        if (bar[i] + bar[i + 1] > most) most = bar[i] + bar[i + 1];
    for (int i = 0; i + 1 < n; i += 2) {
        double x = bar[i] + bar[i + 1];
        int height = most > 0 ? (int)ceil(8 * x / most) : 0;
        fputs(height < 1 ? " " : (v->utf8 ? block : plain)[height > 8 ? 7 : height - 1], v->out);
    }
}

static void put_pairs(const view *v)
{
    const lk_check_report *r = v->r;
    if (r->pairs == 0) return;
    fprintf(v->out, "\ncorrelations\n");
    for (int64_t i = 0; i < r->pairs && i < MOST_CLASSES; i++) {
        fprintf(v->out, "  %8.4f  ", r->pair[i].r);
        lk_plain_column(v->out, r->feature[r->pair[i].a].name, NAME);
        lk_plain_column(v->out, r->feature[r->pair[i].b].name, NAME);
        fprintf(v->out, "\n");
    }
    if (r->pairs > MOST_CLASSES)
        fprintf(v->out, "  (the strongest %d of %lld)\n", MOST_CLASSES, (long long)r->pairs);
}

static void put_features(const view *v)
{
    const lk_check_report *r = v->r;
    if (r->features == 0) return;
    fprintf(v->out, "\n%-22s%11s%11s%11s%11s%11s  %-16s %6s\n", "feature", "mean", "sd", "min",
            "median", "max", "histogram", "label");
    for (int64_t i = 0; i < r->features && i < MOST_LINES; i++) {
        const lk_check_feature *f = &r->feature[i];
        fprintf(v->out, "  ");
        lk_plain_column(v->out, f->name, NAME);
        const double figure[] = {f->mean, f->deviation, f->low, f->quantile[3], f->high};
        for (int k = 0; k < 5; k++) {
            if (isfinite(figure[k])) fprintf(v->out, "%11.4g", figure[k]);
            else fprintf(v->out, "%11s", "-");
        }
        fprintf(v->out, "  ");
        put_bars(v, f->bar, LK_CHECK_BARS);
        if (isfinite(f->leak)) fprintf(v->out, " %5.1f %%", 100 * f->leak);
        fprintf(v->out, "\n");
    }
    if (r->features > MOST_LINES)
        fprintf(v->out, "  (the first %d of %lld)\n", MOST_LINES, (long long)r->features);
    put_pairs(v);
}

/* ---- drift ----------------------------------------------------------------------------------- */

static void put_drifts(const view *v, int64_t i)
{
    static const char *const where[] = {"", "  drift: train", "  drift: validation",
                                        "  drift: both"};
    int drifted = 0;
    for (int s = 0; s < 2; s++) {
        const lk_drift_report *d = &v->r->drift[s];
        if (i >= d->features) {
            fprintf(v->out, "%9s%9s%9s", "-", "-", "-");
            continue;
        }
        const lk_drift *x = &d->feature[i].drift;
        fprintf(v->out, "%9.4f%9.4f%9.4f", x->psi, x->noise, x->kl);
        if (lk_drift_found(x, d->threshold)) drifted |= 1 << s;
    }
    fprintf(v->out, "%s\n", where[drifted]);
}

static void put_table_of_drift(const view *v)
{
    const lk_check_report *r = v->r;
    const lk_drift_report *some = &r->drift[r->drift[LK_TRAIN].features == 0];
    fprintf(v->out, "\ndrift from the training data of %s\n%-22s%27s%27s\n%-22s", r->against, "",
            "train", "validation", "feature");
    for (int s = 0; s < 2; s++) fprintf(v->out, "%9s%9s%9s", "PSI", "noise", "KL");
    fprintf(v->out, "\n");
    for (int64_t i = 0; i < some->features && i < MOST_LINES; i++) {
        fprintf(v->out, "  ");
        lk_plain_column(v->out, some->feature[i].name, NAME);
        put_drifts(v, i);
    }
    if (some->features > MOST_LINES)
        fprintf(v->out, "  (the first %d of %lld)\n", MOST_LINES, (long long)some->features);
    fprintf(v->out, "  %-20s", "mean");
    for (int s = 0; s < 2; s++)
        fprintf(v->out, "%9.4f%9s%9.4f", r->drift[s].psi, "", r->drift[s].kl);
    fprintf(v->out, "\n  drift is a PSI above %g and above its noise, which as few samples exceed "
            "by\n  chance once in 10,000 times\n", some->threshold);
}

/* Of what was asked for, a table; else a line: is validation as train? */
static void put_drift(const view *v)
{
    const lk_check_report *r = v->r;
    const lk_drift_report *d = &r->drift[LK_VALIDATION];
    if (r->against) {
        put_table_of_drift(v);
    } else if (d->features > 0) {
        const lk_drift_feature *worst = &d->feature[d->worst];
        fprintf(v->out, "\nvalidation against train: mean PSI %.4f, most of '", d->psi);
        lk_plain_column(v->out, worst->name, lk_plain_width(worst->name));
        fprintf(v->out, "': %.4f (noise %.4f)\n", worst->drift.psi, worst->drift.noise);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

static void put_findings(const view *v)
{
    static const char *const verdict[] = {"fit", "fit, with warnings", "unfit"};
    const lk_check_report *r = v->r;
    const char *at = r->kind == LK_TEXT_DATA ? "; at token " : "; at row ";
    if (r->findings > 0) fprintf(v->out, "\n");
    for (int64_t i = 0; i < r->findings && i < MOST_LINES; i++) {
        const lk_finding *f = &r->finding[i];
        fprintf(v->out, "%-8s ", lk_severity_name(f->severity));
        lk_plain_column(v->out, f->text, lk_plain_width(f->text));
        for (int k = 0; k < LK_FAULT_ROWS && f->row[k] != INT64_MAX; k++)
            fprintf(v->out, "%s%lld", k ? ", " : at, (long long)f->row[k]);
        fprintf(v->out, "\n");
    }
    if (r->findings > MOST_LINES)
        fprintf(v->out, "(%lld more; --json has all)\n", (long long)r->findings - MOST_LINES);
    fprintf(v->out, "\n%s\n", verdict[r->verdict]);
}

void lk_check_print(const lk_check_report *r, bool utf8, FILE *out)
{
    view v = {r, out, utf8};
    put_head(&v);
    if (r->level >= 2) put_labels(&v);
    put_features(&v);
    put_drift(&v);
    put_findings(&v);
}
