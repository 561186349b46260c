#include "metric/drift.h"
#include "metric/information.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { VERSION = 2, MOST_FEATURES = 1 << 16, MOST_BINS = 1 << 17 };
#define MOST_SAMPLES ((int64_t)1 << 56)
#define NOISE_DEVIATIONS 3.72 /* a normal is above with probability 1e-4 */

/* ---- references ------------------------------------------------------------------------------ */

void lk_reference_clear(lk_reference *r)
{
    for (int64_t i = 0; i < r->features; i++) {
        free(r->feature[i].name);
        free(r->feature[i].count);
        free(r->feature[i].last);
    }
    free(r->feature);
    *r = (lk_reference){.samples = 0};
}

lk_status lk_reference_add(lk_reference *r, const char *name, int64_t bins, const int64_t *count,
                           bool ordered)
{
    size_t bytes = (size_t)bins * sizeof *count;
    lk_reference_feature *grown =
        realloc(r->feature, ((size_t)r->features + 1) * sizeof *grown);
    if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory for a reference");
    r->feature = grown;
    lk_reference_feature f = {.bins = bins, .ordered = ordered};
    f.name = strdup(name);
    f.count = malloc(bytes + 1);
    if (!f.name || !f.count) {
        free(f.name);
        free(f.count);
        return lk_fail(LK_E_SYSTEM, "out of memory for a reference");
    }
    memcpy(f.count, count, bytes);
    r->feature[r->features++] = f;
    return LK_OK;
}

static lk_status add_groups(lk_reference *r, const char *name, lk_sketch_scale scale, int64_t bins,
                            const int64_t *count, const uint16_t *last)
{
    uint16_t *copy = malloc((size_t)bins * sizeof *copy);
    if (!copy) return lk_fail(LK_E_SYSTEM, "out of memory for a reference");
    lk_status status = lk_reference_add(r, name, bins, count, true);
    if (status != LK_OK) {
        free(copy);
        return status;
    }
    memcpy(copy, last, (size_t)bins * sizeof *copy);
    r->feature[r->features - 1].last = copy;
    r->feature[r->features - 1].scale = scale;
    return LK_OK;
}

/* The groups of a column of one value: below it, it, above it. None: one group. */
static int single_out(const int64_t bin[LK_SKETCH_BINS], uint16_t last[LK_DRIFT_GROUPS])
{
    int groups = 0, only = 0;
    while (only < LK_SKETCH_BINS && bin[only] == 0) only++;
    if (only > 0 && only < LK_SKETCH_BINS) last[groups++] = (uint16_t)(only - 1);
    if (only < LK_SKETCH_BINS - 1) last[groups++] = (uint16_t)only;
    last[groups++] = LK_SKETCH_BINS - 1;
    return groups;
}

lk_status lk_reference_add_column(lk_reference *r, const char *name, lk_sketch_scale scale,
                                  const int64_t bin[LK_SKETCH_BINS])
{
    uint16_t last[LK_DRIFT_GROUPS];
    int64_t count[LK_DRIFT_GROUPS] = {0};
    int groups = lk_sketch_groups(bin, LK_DRIFT_GROUPS, last);
    if (groups == 1) groups = single_out(bin, last);
    for (int g = 0, i = 0; g < groups; g++)
        for (; i <= last[g]; i++) count[g] += bin[i];
    return add_groups(r, name, scale, groups, count, last);
}

lk_status lk_reference_add_channel(lk_reference *r, int channel, const int64_t count[256])
{
    char name[32];
    snprintf(name, sizeof name, "channel %d", channel);
    return lk_reference_add(r, name, 256, count, true);
}

/* ---- as text --------------------------------------------------------------------------------- */

static json_t *feature_json(const lk_reference_feature *f)
{
    json_t *counts = json_array(), *last = f->last ? json_array() : NULL;
    json_t *o = json_pack("{s:s, s:b}", "name", f->name, "ordered", f->ordered);
    bool good = o && counts && (last || !f->last);
    for (int64_t i = 0; i < f->bins && good; i++) {
        good = json_array_append_new(counts, json_integer(f->count[i])) == 0;
        if (good && last) good = json_array_append_new(last, json_integer(f->last[i])) == 0;
    }
    if (good && last) /* f64 holds an f32 exactly, and 17 digits an f64 */
        good = json_object_set_new(o, "center", json_real((double)f->scale.center)) == 0 &&
               json_object_set_new(o, "inverse_scale", json_real((double)f->scale.inverse)) == 0 &&
               json_object_set(o, "last_bin", last) == 0;
    if (good) good = json_object_set(o, "count", counts) == 0;
    json_decref(counts);
    json_decref(last);
    if (good) return o;
    json_decref(o);
    return NULL;
}

lk_status lk_reference_format(const lk_reference *r, char **text)
{
    json_t *features = json_array();
    bool good = features != NULL;
    for (int64_t i = 0; i < r->features && good; i++)
        good = json_array_append_new(features, feature_json(&r->feature[i])) == 0;
    json_t *root = good ? json_pack("{s:i, s:I, s:O}", "version", VERSION, "samples",
                                    (json_int_t)r->samples, "features", features)
                        : NULL;
    char *made = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(features);
    json_decref(root);
    if (!made) return lk_fail(LK_E_SYSTEM, "out of memory for a reference");
    *text = made;
    return LK_OK;
}

/* Whole numbers from 0 to `limit`; *sum: of all. */
static bool parse_counts(const json_t *list, int64_t bins, int64_t limit, int64_t *count,
                         int64_t *sum)
{
    *sum = 0;
    for (int64_t i = 0; i < bins; i++) {
        const json_t *x = json_array_get(list, (size_t)i);
        if (!json_is_integer(x) || json_integer_value(x) < 0 || json_integer_value(x) > limit)
            return false;
        count[i] = json_integer_value(x);
        if (__builtin_add_overflow(*sum, count[i], sum)) return false;
    }
    return true;
}

/* Sketches of version 1 had 32 octaves on each side, the lowest as here, and the centre in the bin
 * that began with it. */
enum { SIDE_1 = 32 * 128, BINS_1 = 2 * SIDE_1 };

/* The bin that ends where one of version 1 did. */
static int64_t bin_of_version_1(int64_t bin)
{
    if (bin == BINS_1 - 1) return LK_SKETCH_BINS - 1;
    return bin + LK_SKETCH_SIDE - SIDE_1 + (bin >= SIDE_1);
}

/* The bins end where the sketch does, each after the one before. */
static bool parse_last(const json_t *list, int64_t version, int64_t bins, int64_t *value,
                       uint16_t *last)
{
    int64_t sum, most = version == 1 ? BINS_1 : LK_SKETCH_BINS;
    if ((int64_t)json_array_size(list) != bins || bins > LK_DRIFT_GROUPS) return false;
    if (!parse_counts(list, bins, most - 1, value, &sum)) return false;
    for (int64_t i = 0; i < bins; i++) {
        if (version == 1) value[i] = bin_of_version_1(value[i]);
        if (i > 0 && value[i] <= value[i - 1]) return false;
        last[i] = (uint16_t)value[i];
    }
    return value[bins - 1] == LK_SKETCH_BINS - 1;
}

static bool parse_feature(const json_t *o, int64_t version, lk_reference *r, lk_status *status)
{
    const json_t *counts = json_object_get(o, "count"), *last = json_object_get(o, "last_bin");
    const char *name = json_string_value(json_object_get(o, "name"));
    int64_t bins = (int64_t)json_array_size(counts), sum;
    if (!name || bins < 1 || bins > MOST_BINS) return false;
    int64_t *value = malloc((size_t)bins * sizeof *value);
    uint16_t *end = malloc((size_t)bins * sizeof *end);
    bool good = value && end;
    if (!good) *status = lk_fail(LK_E_SYSTEM, "out of memory for a reference");
    double center = json_number_value(json_object_get(o, "center"));
    double inverse = json_number_value(json_object_get(o, "inverse_scale"));
    lk_sketch_scale scale = {(float)center, (float)inverse};
    if (good && last)
        good = parse_last(last, version, bins, value, end) && isfinite(scale.center) &&
               isfinite(scale.inverse) && scale.inverse > 0;
    if (good) good = parse_counts(counts, bins, MOST_SAMPLES, value, &sum) && sum <= MOST_SAMPLES;
    if (good)
        *status = last ? add_groups(r, name, scale, bins, value, end)
                       : lk_reference_add(r, name, bins, value,
                                          json_is_true(json_object_get(o, "ordered")));
    free(value);
    free(end);
    return good;
}

lk_status lk_reference_parse(const char *where, const char *text, lk_reference *out)
{
    lk_reference r = {.samples = 0};
    lk_status status = LK_OK;
    json_error_t error = {.line = 0};
    json_t *root = json_loads(text, 0, &error), *features = json_object_get(root, "features");
    bool memory = root || json_error_code(&error) != json_error_out_of_memory;
    int64_t version = json_integer_value(json_object_get(root, "version"));
    bool good = version >= 1 && version <= VERSION && json_is_array(features) &&
                json_array_size(features) <= MOST_FEATURES;
    r.samples = json_integer_value(json_object_get(root, "samples"));
    good = good && r.samples >= 0;
    for (size_t i = 0; good && status == LK_OK && i < json_array_size(features); i++)
        good = parse_feature(json_array_get(features, i), version, &r, &status);
    json_decref(root);
    if (good && status == LK_OK) {
        *out = r;
        return LK_OK;
    }
    lk_reference_clear(&r);
    if (!memory) status = lk_fail(LK_E_SYSTEM, "out of memory for a reference");
    if (status != LK_OK) return status;
    return lk_fail(LK_E_INPUT, "%s: attribute 'reference': expected the distribution of the "
                   "training data (JSON, version 1 to %d), found something else; the file is "
                   "damaged or of a later lockstep, import it again", where, VERSION);
}

/* ---- drift ----------------------------------------------------------------------------------- */

/* Join neighbouring bins to groups of at least 1/LK_DRIFT_GROUPS of the reference; in place. */
static int64_t join_bins(int64_t *before, int64_t *now, int64_t bins)
{
    int64_t total = 0, groups = 0;
    for (int64_t i = 0; i < bins; i++) total += before[i];
    double share = (double)total / LK_DRIFT_GROUPS;
    for (int64_t i = 0; i < bins; groups++) {
        int64_t p = 0, q = 0;
        do {
            p += before[i];
            q += now[i++];
        } while (i < bins && ((double)p < share || p == 0));
        before[groups] = p;
        now[groups] = q;
    }
    if (groups > 1 && (double)before[groups - 1] < share / 2) { /* a rest at the end */
        before[groups - 2] += before[groups - 1];
        now[groups - 2] += now[groups - 1];
        groups--;
    }
    return groups;
}

static lk_drift figures(const int64_t *before, const int64_t *now, int64_t bins)
{
    lk_drift d = {0, 0, 0};
    double n = 0, m = 0, half = 0.5 * (double)bins;
    for (int64_t i = 0; i < bins; i++) {
        n += (double)before[i];
        m += (double)now[i];
    }
    for (int64_t i = 0; i < bins; i++) {
        double p = ((double)before[i] + 0.5) / (n + half), q = ((double)now[i] + 0.5) / (m + half);
        d.psi += (q - p) * log(q / p);
        d.kl += q * log(q / p);
    }
    if (d.kl < 0) d.kl = 0; /* of rounding alone */
    return d;
}

lk_status lk_drift_of(const lk_reference_feature *f, int64_t before, const int64_t *count,
                      int64_t samples, lk_drift *drift)
{
    int64_t bins = f->bins, *p = malloc(2 * (size_t)bins * sizeof *p), *q = p + bins, used = 0;
    if (!p) return lk_fail(LK_E_SYSTEM, "out of memory");
    memcpy(p, f->count, (size_t)bins * sizeof *p);
    memcpy(q, count, (size_t)bins * sizeof *q);
    if (f->ordered && !f->last) {
        bins = join_bins(p, q, bins);
    } else { /* those that occur on neither side are none */
        for (int64_t i = 0; i < bins; i++) {
            if (p[i] == 0 && q[i] == 0) continue;
            p[used] = p[i];
            q[used++] = q[i];
        }
        bins = used;
    }
    *drift = bins > 0 ? figures(p, q, bins) : (lk_drift){0, 0, 0};
    double n = before > 1 ? (double)before : 1, m = samples > 1 ? (double)samples : 1;
    if (bins > 1)
        drift->noise = lk_chi_square((double)(bins - 1), NOISE_DEVIATIONS) * (1 / n + 1 / m);
    free(p);
    return LK_OK;
}

void lk_drift_report_clear(lk_drift_report *r)
{
    for (int64_t i = 0; i < r->features; i++) free(r->feature[i].name);
    free(r->feature);
    *r = (lk_drift_report){.worst = -1};
}

lk_status lk_drift_report_add(lk_drift_report *r, const char *name, const lk_drift *d)
{
    lk_drift_feature *grown = realloc(r->feature, ((size_t)r->features + 1) * sizeof *grown);
    if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory");
    r->feature = grown;
    char *copy = strdup(name);
    if (!copy) return lk_fail(LK_E_SYSTEM, "out of memory");
    int64_t n = r->features++;
    r->feature[n] = (lk_drift_feature){copy, *d};
    if (n == 0) r->worst = 0;
    else if (d->psi > r->feature[r->worst].drift.psi) r->worst = n;
    r->psi = (r->psi * (double)n + d->psi) / (double)(n + 1);
    r->kl = (r->kl * (double)n + d->kl) / (double)(n + 1);
    r->drifted += lk_drift_found(d, r->threshold);
    return LK_OK;
}
