/* Statistics of a check against independent computations in double: quantiles by sorting, moments
 * and correlations by definition, duplicates by counting what was planted, drift by its formula.
 * On any number of ranks. */
#include "base/philox.h"
#include "io/duplicates.h"
#include "metric/drift.h"
#include "metric/information.h"
#include "tests/io_help.h"
#include "tests/table_file.h"
#include "check/check.h"

#include <math.h>

enum { ROWS = 30000, COLUMNS = 7, CLASSES = 3 };

static double uniform(uint64_t i, uint32_t purpose)
{
    uint64_t x = lk_permute(i % 1000003, 1000003, 5, purpose, 0, i / 1000003);
    return ((double)x + 0.5) / 1000003;
}

static double bell(uint64_t i, uint32_t purpose)
{
    return sqrt(-2 * log(uniform(i, purpose))) * cos(2 * M_PI * uniform(i, purpose + 100));
}

/* A column of one of several shapes. */
static float sample(int shape, uint64_t i)
{
    double x = bell(i, (uint32_t)shape);
    switch (shape) {
    case 0: return (float)x;
    case 1: return (float)exp(3 * x);
    case 2: return (float)floor(10 * x);
    case 3: return (float)(1e6 + x);
    case 4: return (float)(uniform(i, 4) < 0.9 ? 0 : x);
    case 5: return (float)(1e-20 * x);
    case 6: return (float)(-1e15 * exp(x));
    case 7: return (float)exp(10 * x);
    case 8: return (float)(5e37 * fmin(fmax(x, -6), 6));
    case 9: return (float)(1e-40 * x);
    case 10: return i == 5 || i == 20000 ? 1e9f : (float)(uniform(i, 4) < 0.8 ? 0 : ceil(4 * x));
    default: return (float)(uniform(i, 4) < 0.8 ? 7 : 7 + 1e-3 * x);
    }
}
enum { SHAPES = 12 };

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* ---- sketches -------------------------------------------------------------------------------- */

/* The largest error of a quantile in units of what the header promises. */
static double quantile_error(int shape)
{
    static int64_t count[LK_SKETCH_BINS];
    static float x[ROWS], first[ROWS];
    double worst = 0;
    memset(count, 0, sizeof count);
    for (int i = 0; i < ROWS; i++) x[i] = first[i] = sample(shape, (uint64_t)i);
    lk_sketch_scale s = lk_sketch_scale_of(first, 1000); /* a part, as in a check */
    for (int i = 0; i < ROWS; i++) count[lk_sketch_bin(s, x[i])]++;
    qsort(x, ROWS, sizeof *x, by_value);
    for (int k = 0; k <= 100; k++) {
        double q = k / 100.0, rank = q * (ROWS - 1);
        double found = lk_sketch_quantile(s, count, q, (double)x[0], (double)x[ROWS - 1]);
        int at = (int)floor(rank);
        double low = (double)x[at > 0 ? at - 1 : 0], high = (double)x[at + 2 < ROWS ? at + 2 : at];
        double miss = found < low ? low - found : found > high ? found - high : 0;
        double far = fmax(fabs(low - (double)s.center), fabs(high - (double)s.center));
        double allowed = far / 128 + 1 / (double)s.inverse / 16384;
        if (miss / allowed > worst) worst = miss / allowed;
    }
    return worst;
}

static void test_sketches(void)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        double error = quantile_error(shape);
        tap_ok(error <= 1, "quantiles of shape %d: error %.3f of what is promised", shape, error);
    }
    lk_sketch_scale s = {3, 0.5f};
    int last = -1, wrong = 0;
    for (int i = -40000; i <= 40000; i++) {
        float x = (float)sinh(i / 1500.0);
        int bin = lk_sketch_bin(s, x);
        double slack = 1e-6 * fabs((double)x) + 1e-6;
        wrong += bin < last || bin < 0 || bin >= LK_SKETCH_BINS ||
                 (bin > 0 && (double)x < lk_sketch_edge(s, bin) - slack) ||
                 (bin < LK_SKETCH_BINS - 1 && (double)x > lk_sketch_edge(s, bin + 1) + slack);
        last = bin;
    }
    tap_ok(wrong == 0, "bins are in the order of values and begin where they say");
    tap_ok(lk_sketch_bin(s, 3e38f) == LK_SKETCH_BINS - 1 && lk_sketch_bin(s, -3e38f) == 0,
           "the ends take everything");
    tap_ok(lk_sketch_bin(s, 3) == LK_SKETCH_SIDE && lk_sketch_bin(s, 3.000001f) > LK_SKETCH_SIDE &&
               lk_sketch_bin((lk_sketch_scale){0, 1}, -0.0f) == LK_SKETCH_SIDE,
           "the centre has a bin of its own");
}

/* A frequent value, and others of which a few are far out: none hides another. */
static void test_outliers(void)
{
    static int64_t count[LK_SKETCH_BINS];
    float x[1000];
    uint16_t last[20];
    for (int i = 0; i < 1000; i++) x[i] = i % 10 < 8 ? 0 : (float)(i % 10 - 7); /* 0, 1, 2 */
    x[8] = 1e9f;
    x[118] = -3e20f;
    lk_sketch_scale s = lk_sketch_scale_of(memcpy((float[1000]){0}, x, sizeof x), 1000);
    for (int i = 0; i < 1000; i++) count[lk_sketch_bin(s, x[i])]++;
    int groups = lk_sketch_groups(count, 20, last), used = 0;
    for (int i = 0; i < LK_SKETCH_BINS; i++) used += count[i] > 0;
    tap_ok(used == 5 && groups >= 3 && count[LK_SKETCH_SIDE] == 800,
           "beside two outliers 0, 1 and 2 are told apart: %d bins, %d groups", used, groups);
    tap_ok(lk_sketch_quantile(s, count, 0.5, -3e20, 1e9) == 0, "the median is exactly 0");
    for (int i = 0; i < 20; i++) count[LK_SKETCH_BINS - 1] += 100;
    tap_ok(isnan(lk_sketch_quantile(s, count, 0.9, -3e20, 3e38)) &&
               lk_sketch_quantile(s, count, 1, -3e20, 3e38) == 3e38,
           "a quantile further out than bins go is not known, the largest value is");
}

static void test_groups(void)
{
    static int64_t count[LK_SKETCH_BINS];
    uint16_t last[20];
    for (int i = 0; i < 1000; i++) count[3000 + i] = 10;
    count[3500] = 4000; /* a value that is very frequent */
    int groups = lk_sketch_groups(count, 20, last), alone = 0;
    for (int g = 1; g < groups; g++) alone += last[g] == 3500 && last[g - 1] == 3499;
    tap_ok(groups > 10 && groups <= 20 && alone == 1 && last[groups - 1] == LK_SKETCH_BINS - 1,
           "a frequent value is a group of its own among %d", groups);
    double bar[8], sum = 0;
    lk_sketch_histogram((lk_sketch_scale){0, 1}, count, -5, 5, 8, bar);
    for (int i = 0; i < 8; i++) sum += bar[i];
    tap_ok(fabs(sum - 13990) < 1e-6, "a histogram has every value: %.6f", sum);
}

/* ---- information ----------------------------------------------------------------------------- */

/* `rows` samples of `labels` kinds: the label itself tells all of it, groups of something else
 * nothing, however few samples there are; but of one for each kind nothing can be said. */
static void test_chance(int rows, int labels, int values)
{
    int64_t *same = calloc((size_t)(values * labels), sizeof *same), *other;
    double copy = 1, most = 0;
    for (int trial = 0; trial < 20; trial++) {
        memset(same, 0, (size_t)(values * labels) * sizeof *same);
        other = calloc((size_t)(values * labels), sizeof *other);
        for (int i = 0; i < rows; i++) {
            int key = trial * rows + i, label = (int)(uniform((uint64_t)key, 50) * labels);
            if (rows == labels) label = i;
            same[label * 2 % values * labels + label]++;
            other[(int)(uniform((uint64_t)key, 51) * values) * labels + label]++;
        }
        copy = fmin(copy, lk_uncertainty(same, values, labels));
        most = fmax(most, lk_uncertainty(other, values, labels));
        free(other);
    }
    tap_ok(most < 0.5 && (rows == labels ? copy == 0 : copy > 0.999),
           "%d samples of %d labels: a copy tells %.4f, something else at most %.4f", rows, labels,
           copy, most);
    free(same);
}

static void test_information(void)
{
    int64_t even[4] = {50, 50, 50, 50}, sure[9] = {1000, 0, 0, 0, 1000, 0, 0, 0, 1000};
    int64_t none[4] = {250, 750, 250, 750};
    tap_ok(fabs(lk_entropy(even, 4) - 2) < 1e-12, "entropy of four equal shares is 2 bits");
    tap_ok(lk_uncertainty(sure, 3, 3) == 1 && lk_uncertainty(none, 2, 2) == 0,
           "one kind that tells all of the other, one that tells nothing");
    test_chance(100, 10, 32);
    test_chance(1100, 30, 64);
    test_chance(300, 60, 120);
    test_chance(20000, 64, 128);
    test_chance(64, 64, 128);
    /* 18.307 and 43.773: tables of the chi-square, upper 5 % of 10 and 1 % of 25.. degrees */
    tap_ok(fabs(lk_chi_square(10, 1.6449) - 18.307) < 0.05 &&
               fabs(lk_chi_square(25, 2.3263) - 44.314) < 0.05, "chi-square quantiles");
}

/* ---- drift ----------------------------------------------------------------------------------- */

static void test_drift(void)
{
    int64_t a[3] = {100, 300, 600}, b[3] = {250, 250, 500};
    lk_reference r = {.samples = 1000};
    lk_drift d;
    double psi = 0, kl = 0;
    for (int i = 0; i < 3; i++) {
        double p = ((double)a[i] + 0.5) / 1001.5, q = ((double)b[i] + 0.5) / 1001.5;
        psi += (q - p) * log(q / p);
        kl += q * log(q / p);
    }
    bool made = lk_reference_add(&r, "name", 3, a, false) == LK_OK &&
                lk_drift_of(&r.feature[0], 1000, b, 1000, &d) == LK_OK;
    tap_ok(made && fabs(d.psi - psi) < 1e-12 && fabs(d.kl - kl) < 1e-12 && psi > 0.1,
           "PSI %.6f and KL %.6f by their formulas", psi, kl);
    made = lk_drift_of(&r.feature[0], 1000, a, 1000, &d) == LK_OK;
    tap_ok(made && d.psi == 0 && d.kl == 0, "none between equal counts");
    int64_t empty[3] = {0, 0, 0}, other[3] = {0, 0, 5};
    made = lk_drift_of(&r.feature[0], 1000, empty, 0, &d) == LK_OK && isfinite(d.psi) &&
           lk_drift_of(&r.feature[0], 1000, other, 5, &d) == LK_OK;
    tap_ok(made && !lk_drift_found(&d, 0.2),
           "nothing is found in nothing, nor in five samples (PSI %.2f, noise %.2f)", d.psi,
           d.noise);
    lk_reference_clear(&r);
}

static int reference_bin(const lk_reference_feature *f, float x)
{
    int g = 0;
    while (f->last[g] < lk_sketch_bin(f->scale, x)) g++;
    return g;
}

/* A column's figures are those of the groups that are stored. */
static void test_stored_groups(void)
{
    static int64_t bin[LK_SKETCH_BINS];
    lk_reference r = {.samples = 4000};
    lk_drift d;
    int64_t now[LK_DRIFT_GROUPS] = {0};
    double psi = 0;
    lk_sketch_scale s = {0, 1};
    for (int i = 0; i < 4000; i++) bin[lk_sketch_bin(s, sample(0, (uint64_t)i))]++;
    lk_reference_add_column(&r, "x", s, bin);
    const lk_reference_feature *f = &r.feature[0];
    for (int i = 0; i < 1000; i++)
        now[reference_bin(f, sample(0, (uint64_t)(5000 + i)) * 1.2f + 0.3f)]++;
    for (int64_t g = 0; g < f->bins; g++) {
        double p = ((double)f->count[g] + 0.5) / (4000 + 0.5 * (double)f->bins);
        double q = ((double)now[g] + 0.5) / (1000 + 0.5 * (double)f->bins);
        psi += (q - p) * log(q / p);
    }
    bool made = lk_drift_of(f, 4000, now, 1000, &d) == LK_OK;
    tap_ok(made && f->bins == 20 && fabs(d.psi - psi) < 1e-12,
           "PSI %.6f of the %lld groups that are stored, %.6f", d.psi, (long long)f->bins, psi);
    lk_reference_clear(&r);
    memset(bin, 0, sizeof bin);
    bin[LK_SKETCH_SIDE] = 4000;
    lk_reference_add_column(&r, "constant", s, bin);
    int64_t moved[3] = {0, 0, 1000};
    made = r.feature[0].bins == 3 && lk_drift_of(&r.feature[0], 4000, moved, 1000, &d) == LK_OK;
    tap_ok(made && lk_drift_found(&d, 0.2), "a column of one value that is another now: PSI %.2f",
           d.psi);
    lk_reference_clear(&r);
}

/* Samples of one distribution: how often is there drift? */
static void test_false_alarms(void)
{
    static int64_t count[LK_SKETCH_BINS], now[LK_SKETCH_BINS];
    int alarms = 0, raw = 0;
    for (int trial = 0; trial < 300; trial++) {
        lk_reference r = {.samples = 100};
        float first[100];
        lk_drift d;
        memset(count, 0, sizeof count);
        memset(now, 0, sizeof now);
        for (int i = 0; i < 100; i++) first[i] = sample(0, (uint64_t)(trial * 1000 + i));
        lk_sketch_scale s = lk_sketch_scale_of(first, 100);
        for (int i = 0; i < 100; i++) count[lk_sketch_bin(s, first[i])]++;
        lk_reference_add_column(&r, "x", s, count);
        for (int i = 0; i < 100; i++) {
            float x = sample(0, (uint64_t)(trial * 1000 + 500 + i));
            now[reference_bin(&r.feature[0], x)]++;
        }
        lk_drift_of(&r.feature[0], 100, now, 100, &d);
        alarms += lk_drift_found(&d, 0.2);
        raw += d.psi > 0.2;
        lk_reference_clear(&r);
    }
    tap_ok(alarms <= 1 && raw > 30, "100 samples of the same: %d alarms of 300; the plain rule "
           "PSI > 0.2 gives %d", alarms, raw);
}

static void test_reference(void)
{
    static int64_t bin[LK_SKETCH_BINS];
    int64_t label[2] = {7, 9};
    char *text = NULL, *again = NULL;
    lk_reference r = {.samples = 16}, back = {.samples = 0};
    for (int i = 0; i < LK_SKETCH_BINS; i++) bin[i] = i % 7;
    lk_reference_add_column(&r, "a \"b\"", (lk_sketch_scale){0.1f, 3.3f}, bin);
    lk_reference_add(&r, "label", 2, label, false);
    bool good = lk_reference_format(&r, &text) == LK_OK &&
                lk_reference_parse("f", text, &back) == LK_OK &&
                lk_reference_format(&back, &again) == LK_OK && strcmp(text, again) == 0;
    tap_ok(good && back.feature[0].scale.center == 0.1f && back.feature[1].count[1] == 9,
           "a reference is the same after it was text %s", lk_error_text());
    lk_error_clear();
    lk_reference_clear(&r);
    lk_reference_clear(&back);
    static const char old[] =
        "{\"version\": 1, \"samples\": 9, \"features\": [{\"name\": \"a\", \"ordered\": true, "
        "\"center\": 0, \"inverse_scale\": 1, \"last_bin\": [0, 100, 4095, 4096, 5888, 8191], "
        "\"count\": [1, 2, 3, 4, 5, 6]}]}";
    good = lk_reference_parse("f", old, &back) == LK_OK && back.feature[0].bins == 6;
    const float x[] = {-3e5f, -260100, -1e5f, -1e-7f, 0, 6e-5f, 6.2e-5f, 1, 1.01f, 3e5f};
    const int g[] = {0, 1, 2, 2, 3, 3, 4, 4, 5, 5};
    for (int i = 0; i < 10 && good; i++) good = reference_bin(&back.feature[0], x[i]) == g[i];
    tap_ok(good, "one of version 1 has the groups that it had %s", lk_error_text());
    lk_error_clear();
    lk_reference_clear(&back);
    static const char *const bad[] = {
        "", "[]", "{\"version\": 3, \"samples\": 1, \"features\": []}",
        "{\"version\": 1, \"samples\": -1, \"features\": []}",
        "{\"version\": 1, \"samples\": 1, \"features\": [3]}",
        "{\"version\": 1, \"samples\": 1, \"features\": [{\"name\": \"a\", \"count\": []}]}",
        "{\"version\": 1, \"samples\": 1, \"features\": [{\"name\": \"a\", \"count\": [-1]}]}",
        "{\"version\": 1, \"samples\": 1, \"features\": [{\"name\": \"a\", \"count\": [1, 2], "
        "\"center\": 0, \"inverse_scale\": 1, \"last_bin\": [9, 8191.5]}]}",
        "{\"version\": 1, \"samples\": 1, \"features\": [{\"name\": \"a\", \"count\": [1, 2], "
        "\"center\": 0, \"inverse_scale\": 1, \"last_bin\": [9, 16384]}]}",
        "{\"version\": 1, \"samples\": 1, \"features\": [{\"name\": \"a\", \"count\": [1, 2], "
        "\"center\": 0, \"inverse_scale\": 1, \"last_bin\": [9, 9]}]}",
        "{\"version\": 1, \"samples\": 1, \"features\": [{\"name\": \"a\", \"count\": [1, 2], "
        "\"center\": 0, \"inverse_scale\": 0, \"last_bin\": [9, 8191]}]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        failed(lk_reference_parse("file.h5", bad[i], &back), LK_E_INPUT, "file.h5: attribute",
               "no reference");
    free(text);
    free(again);
}

/* ---- duplicates ------------------------------------------------------------------------------ */

/* Samples i < n of the whole are dealt out to the ranks; every 1000th of train repeats the one
 * before, with another label every 2000th; the first 50 of validation are in train. */
static lk_status give(lk_duplicates *d, int64_t n)
{
    enum { MANY = 5000 };
    static lk_sample_record r[MANY];
    for (int64_t at = 0; at < n; at += MANY) {
        int64_t held = 0;
        for (int64_t i = at; i < at + MANY && i < n; i++) {
            bool train = i % 10 != 0;
            int64_t row = train ? i - i / 10 - 1 : i / 10, what = i;
            if (train && row % 1000 == 999) what = (row - 1) + (row - 1) / 9 + 1;
            if (!train && row < 50) what = 10 * row + 5;
            if (i % ranks != rank) continue;
            r[held++] = lk_sample_record_of(lk_digest_hash(&what, sizeof what),
                                            train ? LK_TRAIN : LK_VALIDATION, row,
                                            (uint16_t)(row % 2000 == 1999));
        }
        LK_TRY(lk_duplicates_add(d, r, held));
    }
    return LK_OK;
}

static void test_duplicates(int64_t announced)
{
    lk_duplicates *d = NULL;
    lk_duplicates_result t;
    const int64_t n = 200000;
    lk_status status = lk_duplicates_open(MPI_COMM_WORLD, announced, home, &d);
    if (status == LK_OK) status = give(d, n);
    if (status == LK_OK) status = lk_duplicates_find(d, &t);
    lk_duplicates_close(d);
    if (!worked(status, "hashes are compared")) return;
    const lk_twins *w = &t.within[LK_TRAIN];
    tap_ok(w->count == 180 && w->conflicts == 90 && w->example[0].row == 999 &&
               w->example[0].first == 998 && w->example[4].row == 4999,
           "%lld copies in train, %lld of another label, the first row %lld of %lld",
           (long long)w->count, (long long)w->conflicts, (long long)w->example[0].row,
           (long long)w->example[0].first);
    tap_ok(t.overlap.count == 50 && t.overlap.example[1].row == 1 &&
               t.overlap.example[1].first == 13 && t.within[1].count == 0,
           "%lld of validation are in train, row 1 is row %lld", (long long)t.overlap.count,
           (long long)t.overlap.example[1].first);
}

/* ---- a whole table --------------------------------------------------------------------------- */

static float table[ROWS][COLUMNS];
static uint16_t labels[ROWS];

static void fill_table(void)
{
    for (int i = 0; i < ROWS; i++) {
        labels[i] = (uint16_t)(lk_permute((uint64_t)i, ROWS, 1, 2, 3, 4) % CLASSES);
        for (int c = 0; c < COLUMNS; c++) table[i][c] = sample(c, (uint64_t)i);
        table[i][2] += (float)labels[i];             /* tells something */
        table[i][5] = table[i][0] * 2 + table[i][3]; /* depends */
    }
}

static void moments(int c, double *mean, double *deviation)
{
    long double sum = 0, square = 0;
    for (int i = 0; i < ROWS; i++) sum += (long double)table[i][c];
    *mean = (double)(sum / ROWS);
    for (int i = 0; i < ROWS; i++) {
        long double d = (long double)table[i][c] - sum / ROWS;
        square += d * d;
    }
    *deviation = (double)sqrtl(square / (ROWS - 1));
}

static double correlation(int a, int b)
{
    double ma, mb, sa, sb;
    long double sum = 0;
    moments(a, &ma, &sa);
    moments(b, &mb, &sb);
    for (int i = 0; i < ROWS; i++)
        sum += ((long double)table[i][a] - (long double)ma) *
               ((long double)table[i][b] - (long double)mb);
    return (double)(sum / (ROWS - 1)) / (sa * sb);
}

static void compare_table(const lk_check_report *r)
{
    double worst = 0, off = 0;
    for (int c = 0; c < COLUMNS; c++) {
        double mean, deviation, low = INFINITY, high = -INFINITY;
        const lk_check_feature *f = &r->feature[c];
        moments(c, &mean, &deviation);
        for (int i = 0; i < ROWS; i++) {
            low = fmin(low, (double)table[i][c]);
            high = fmax(high, (double)table[i][c]);
        }
        worst = fmax(worst, fabs(f->mean - mean) / deviation);
        worst = fmax(worst, fabs(f->deviation - deviation) / deviation);
        worst = fmax(worst, fabs(f->low - low) + fabs(f->high - high));
        for (int k = 0; k < c; k++)
            off = fmax(off, fabs(r->correlation[c * COLUMNS + k] - correlation(c, k)));
    }
    tap_ok(worst < 1e-10, "means and deviations are wrong by %.1e deviations", worst);
    tap_ok(off < 1e-10, "correlations are wrong by %.1e", off);
    int64_t count[CLASSES] = {0};
    for (int i = 0; i < ROWS; i++) count[labels[i]]++;
    tap_ok(memcmp(count, r->labels[LK_TRAIN], sizeof count) == 0 &&
               fabs(r->entropy - lk_entropy(count, CLASSES)) < 1e-12, "labels are counted");
    tap_ok(r->feature[2].leak > 0.001 && r->feature[2].leak < 0.1 && r->feature[0].leak < 0.01,
           "what a column tells about the label: %.4f, and nothing: %.4f", r->feature[2].leak,
           r->feature[0].leak);
}

/* lk_comm_open() starts MPI, which runs already. */
static lk_comm comm_here(void)
{
    lk_comm c = {.rank = rank, .size = ranks, .world = MPI_COMM_WORLD};
    return c;
}

static void test_table(void)
{
    char file[600];
    snprintf(file, sizeof file, "%s", in_home("table.h5"));
    fill_table();
    lk_status status = LK_OK;
    if (rank == 0) status = write_table_file(file, ROWS, COLUMNS, table[0], labels);
    MPI_Bcast(&status, 1, MPI_INT, 0, MPI_COMM_WORLD);
    lk_comm comm = comm_here();
    lk_check_report r = {.path = NULL};
    lk_check_job job = lk_check_defaults();
    job.data = job.against = file;
    job.temporary = home;
    if (status == LK_OK) status = lk_check(&comm, io, &job, &r);
    if (!worked(status, "a table is checked")) return;
    compare_table(&r);
    tap_ok(r.drift[0].features == COLUMNS + 1 && r.drift[0].psi == 0,
           "it has not drifted from itself: PSI %g of %lld", r.drift[0].psi,
           (long long)r.drift[0].features);
    lk_check_report_clear(&r);
}

int main(int argc, char **argv)
{
    io_set_up(&argc, &argv);
    test_sketches();
    test_outliers();
    test_groups();
    test_information();
    test_drift();
    test_stored_groups();
    test_false_alarms();
    test_reference();
    test_duplicates(200000);
    test_duplicates(20000000); /* so many would not fit: files */
    test_table();
    return io_tear_down();
}
