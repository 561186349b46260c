/* lockstep check DATA [--level N] [--against REF] [--json] [--html FILE] ... */
#include "cmd/cmd.h"
#include "io/show.h"
#include "check/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    lk_check_job job;
    bool json;
    const char *html, *prometheus;
    bool utf8; /* the terminal shows blocks */
    lk_severity verdict;
} options;

enum { MIN_SAMPLES = 1000, MIN_SHARE, CORRELATION, LEAK, PSI, TMP, JSON, HTML, PROMETHEUS };

static const struct argp_option table[] = {
    {"level", 'l', "N", 0, "1: integrity, 2: and labels, 3: and features (default)", 0},
    {"against", 'a', "FILE", 0,
     "Compare with a dataset, a checkpoint or the newest one of a run directory: drift", 0},
    {"json", JSON, NULL, 0, "Print the whole report as JSON", 0},
    {"html", HTML, "FILE", 0, "Write the report as a page that stands alone, with charts", 0},
    {"prometheus", PROMETHEUS, "FILE", 0,
     "With --against: write the drift for node_exporter's textfile collector (.prom)", 0},
    {"min-samples", MIN_SAMPLES, "N", 0,
     "Fewer training samples (tokens) are unfit (default: fewer than 1000 are a warning)", 0},
    {"min-share", MIN_SHARE, "X", 0,
     "A class below this part of an equal share is rare (default: 0.1)", 0},
    {"correlation", CORRELATION, "R", 0, "Features above this |r| are a warning (default: 0.9)", 0},
    {"leak", LEAK, "X", 0,
     "A feature that alone tells this share of the label's entropy is a warning (default: 0.9)", 0},
    {"psi", PSI, "X", 0, "A population stability index above this is drift (default: 0.2)", 0},
    {"tmp", TMP, "DIR", 0,
     "For temporary files: 24 bytes a sample, of millions (default: TMPDIR or /tmp)", 0},
    {0},
};

static double number(struct argp_state *state, const char *arg, double low, double high)
{
    char *end;
    double x = strtod(arg, &end);
    if (end == arg || *end || !(x >= low && x <= high))
        argp_error(state, "expected a number from %g to %g, found '%s'", low, high, arg);
    return x;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'l':
        o->job.level = (int)number(state, arg, 1, 3);
        if (strlen(arg) != 1) argp_error(state, "expected 1, 2 or 3, found '%s'", arg);
        break;
    case 'a': o->job.against = arg; break;
    case PROMETHEUS: o->prometheus = arg; break;
    case HTML: o->html = arg; break;
    case JSON: o->json = true; break;
    case MIN_SAMPLES:
        o->job.min_samples = (int64_t)number(state, arg, 0, 1e15);
        o->job.demanded = true;
        break;
    case MIN_SHARE: o->job.min_share = number(state, arg, 0, 1); break;
    case CORRELATION: o->job.correlation = number(state, arg, 0, 1); break;
    case LEAK: o->job.leak = number(state, arg, 0, 1); break;
    case PSI: o->job.psi = number(state, arg, 0, 1e6); break;
    case TMP: o->job.temporary = arg; break;
    case ARGP_KEY_ARG:
        if (o->job.data) argp_error(state, "too many arguments at '%s'", arg);
        o->job.data = arg;
        break;
    case ARGP_KEY_END:
        if (!o->job.data) argp_error(state, "DATA is missing");
        if (o->prometheus && !o->job.against) argp_error(state, "--prometheus needs --against");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- printing -------------------------------------------------------------------------------- */

enum { NAME = 20, COLUMNS = 16, MOST_LINES = 40, MOST_CLASSES = 20 };

/* A histogram of `n` bars in `n / 2` characters, the highest full. */
static void print_bars(const options *o, const double *bar, int n)
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
        fputs(height < 1 ? " " : (o->utf8 ? block : plain)[height > 8 ? 7 : height - 1], stdout);
    }
}

static void print_grouped(int64_t value, int width)
{
    char digits[24], text[32];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)value), k = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) text[k++] = ',';
        text[k++] = digits[i];
    }
    text[k] = '\0';
    printf("%*s", width, text);
}

static void print_head(const lk_check_report *r)
{
    const char *what = r->kind == LK_TEXT_DATA    ? "tokens"
                       : r->kind == LK_IMAGE_DATA ? "images"
                                                  : "rows";
    printf("%s: %s, level %d\n  ", r->path, lk_dataset_kind_name(r->kind), r->level);
    print_grouped(r->rows[LK_TRAIN], 0);
    printf(" training and ");
    print_grouped(r->rows[LK_VALIDATION], 0);
    printf(" validation %s, digest %s\n", what, r->digest);
    if (r->kind != LK_TEXT_DATA) return;
    printf("  passages of %d tokens compared: ", LK_CHECK_PASSAGE);
    print_grouped(r->samples[LK_TRAIN], 0);
    printf(" and ");
    print_grouped(r->samples[LK_VALIDATION], 0);
    printf("\n");
}

static const lk_check_report *sorting; /* for qsort, which takes no context */
static int by_count(const void *a, const void *b)
{
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    int64_t x = sorting->labels[LK_TRAIN][i], y = sorting->labels[LK_TRAIN][j];
    return x != y ? (x > y ? -1 : 1) : i < j ? -1 : 1;
}

static void print_class(const options *o, const lk_check_report *r, int64_t k, int64_t most)
{
    int64_t n = r->labels[LK_TRAIN][k];
    int width = most > 0 ? (int)((double)n / (double)most * COLUMNS + 0.5) : 0;
    printf("  ");
    lk_show_name(stdout, r->class_name[k], NAME);
    print_grouped(n, 14);
    print_grouped(r->labels[LK_VALIDATION][k], 14);
    printf(" %6.2f %%  ", r->rows[LK_TRAIN] ? 100.0 * (double)n / (double)r->rows[LK_TRAIN] : 0.0);
    for (int i = 0; i < width; i++) fputs(o->utf8 ? "\u2588" : "#", stdout);
    printf("\n");
}

/* All classes, or of many the rarest; of tokens the most frequent. */
static void print_labels(const options *o, const lk_check_report *r)
{
    bool text = r->kind == LK_TEXT_DATA;
    int64_t n = r->classes, shown = n < MOST_CLASSES ? n : MOST_CLASSES, first = 0;
    int64_t *order = malloc(((size_t)n + 1) * sizeof *order);
    if (!order || !r->class_name || n < 1) {
        free(order);
        return;
    }
    for (int64_t i = 0; i < n; i++) order[i] = i;
    if (shown < n || text) {
        sorting = r;
        qsort(order, (size_t)n, sizeof *order, by_count);
        first = text ? 0 : n - shown;
    }
    int64_t most = 1;
    for (int64_t k = 0; k < n; k++)
        if (r->labels[LK_TRAIN][k] > most) most = r->labels[LK_TRAIN][k];
    printf("\n%-22s%14s%14s %8s\n", text ? "token" : "class", "train", "validation", "share");
    for (int64_t i = 0; i < shown; i++) print_class(o, r, order[first + i], most);
    if (shown < n)
        printf("  (%s %lld of %lld)\n", text ? "the most frequent" : "the rarest",
               (long long)shown, (long long)n);
    printf("  entropy %.4f bits of at most %.4f\n", r->entropy, log2((double)n));
    if (text) {
        printf("  a model that knows only how frequent tokens are: loss %.4f nats\n",
               r->entropy * M_LN2);
        if (isfinite(r->pair_entropy))
            printf("  one that knows the token before:               loss %.4f nats\n",
                   r->pair_entropy * M_LN2);
    }
    free(order);
}

static void print_features(const options *o, const lk_check_report *r)
{
    if (r->features == 0) return;
    printf("\n%-22s%11s%11s%11s%11s%11s  %-16s %6s\n", "feature", "mean", "sd", "min", "median",
           "max", "histogram", "label");
    for (int64_t i = 0; i < r->features && i < MOST_LINES; i++) {
        const lk_check_feature *f = &r->feature[i];
        printf("  ");
        lk_show_name(stdout, f->name, NAME);
        printf("%11.4g%11.4g%11.4g%11.4g%11.4g  ", f->mean, f->deviation, f->low, f->quantile[3],
               f->high);
        print_bars(o, f->bar, LK_CHECK_BARS);
        if (isfinite(f->leak)) printf(" %5.1f %%", 100 * f->leak);
        printf("\n");
    }
    if (r->features > MOST_LINES)
        printf("  (the first %d of %lld)\n", MOST_LINES, (long long)r->features);
    if (r->pairs == 0) return;
    printf("\ncorrelations\n");
    for (int64_t i = 0; i < r->pairs && i < MOST_CLASSES; i++) {
        printf("  %8.4f  ", r->pair[i].r);
        lk_show_name(stdout, r->feature[r->pair[i].a].name, NAME);
        lk_show_name(stdout, r->feature[r->pair[i].b].name, NAME);
        printf("\n");
    }
    if (r->pairs > MOST_CLASSES)
        printf("  (the strongest %d of %lld)\n", MOST_CLASSES, (long long)r->pairs);
}

static void print_drift(const lk_check_report *r)
{
    const lk_drift_report *d = &r->drift;
    if (!r->against) return;
    printf("\ndrift from %s\n%-22s%11s%11s\n", r->against, "feature", "PSI", "KL");
    for (int64_t i = 0; i < d->features && i < MOST_LINES; i++) {
        const lk_drift_feature *f = &d->feature[i];
        printf("  ");
        lk_show_name(stdout, f->name, NAME);
        printf("%11.4f%11.4f%s\n", f->drift.psi, f->drift.kl,
               lk_drift_found(&f->drift, d->threshold) ? "  drift" : "");
    }
    if (d->features > MOST_LINES)
        printf("  (the first %d of %lld)\n", MOST_LINES, (long long)d->features);
    printf("  %-20s%11.4f%11.4f\n", "mean", d->psi, d->kl);
}

static void print_findings(const lk_check_report *r)
{
    static const char *const verdict[] = {"fit", "fit, with warnings", "unfit"};
    if (r->findings > 0) printf("\n");
    for (int64_t i = 0; i < r->findings && i < MOST_LINES; i++) {
        const lk_finding *f = &r->finding[i];
        printf("%-8s %s", lk_severity_name(f->severity), f->text);
        for (int k = 0; k < LK_FAULT_ROWS && f->row[k] != INT64_MAX; k++)
            printf("%s%lld", k ? ", " : r->kind == LK_TEXT_DATA ? "; at token " : "; at row ",
                   (long long)f->row[k]);
        printf("\n");
    }
    if (r->findings > MOST_LINES)
        printf("(%lld more; --json has all)\n", (long long)r->findings - MOST_LINES);
    printf("\n%s\n", verdict[r->verdict]);
}

static void print(const options *o, const lk_check_report *r)
{
    print_head(r);
    if (r->level >= 2) print_labels(o, r);
    print_features(o, r);
    print_drift(r);
    print_findings(r);
}

/* ---- the command ----------------------------------------------------------------------------- */

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    lk_check_report r;
    char *json = NULL;
    LK_TRY(lk_check(w->comm, w->io, &o->job, &r));
    lk_status status = LK_OK;
    /* mpirun ends all when one rank ends with a status: the others must not be before rank 0 */
    if (w->comm->rank == 0) o->verdict = r.verdict;
    if (w->comm->rank == 0 && o->json) status = lk_check_format(&r, &json);
    if (w->comm->rank == 0 && o->html && status == LK_OK) status = lk_check_page(&r, o->html);
    if (w->comm->rank == 0 && o->prometheus && r.against && status == LK_OK)
        status = lk_drift_prometheus(&r.drift, r.path, o->prometheus);
    if (json) puts(json);
    else if (w->comm->rank == 0 && !o->json) print(o, &r);
    free(json);
    fflush(stdout);
    lk_check_report_clear(&r);
    return lk_comm_agree(w->comm, status);
}

static bool utf8_here(void)
{
    const char *name[] = {"LC_ALL", "LC_CTYPE", "LANG"}, *value = NULL;
    for (int i = 0; i < 3 && !(value && value[0]); i++) value = getenv(name[i]);
    return value && (strcasestr(value, "utf-8") || strcasestr(value, "utf8"));
}

int lk_cmd_check(int argc, char **argv)
{
    static const struct argp argp = {
        table,
        parse,
        "DATA",
        "Is a dataset fit for training? Damage, values that are none, constant, duplicate and "
        "leaked samples; labels; distributions, correlations, leakage and drift."
        "\vOn several ranks: mpirun -np N lockstep check DATA; the report is the same. Memory does "
        "not grow with the data.\n\n"
        "Exit status: 0 fit, 1 there are warnings, 2 unfit or no dataset, else as of every "
        "command.\n\n"
        "Examples:\n"
        "  $ lockstep check photos.h5 --html photos.html\n"
        "  $ lockstep check new.h5 --against runs/photos",
        NULL,
        NULL,
        NULL};
    options o = {.job = lk_check_defaults(), .utf8 = utf8_here()};
    const char *tmp = getenv("TMPDIR");
    if (tmp && tmp[0]) o.job.temporary = tmp;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int status = lk_cmd_run("lockstep check", false, job, &o);
    return status ? status : (int)o.verdict;
}
