/* A check's report as JSON. */
#include "check/check.h"
#include "check/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *lk_check_json(const char *text)
{
    json_t *good = json_string(text);
    char *plain = good ? NULL : strdup(text);
    for (char *c = plain; c && *c; c++)
        if ((unsigned char)*c >= 0x80) *c = '?';
    if (plain) good = json_string(plain);
    free(plain);
    return good;
}

static json_t *numbers(const double *x, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, number(x[i]));
    return list;
}

static json_t *rows_json(const int64_t *row)
{
    json_t *list = json_array();
    for (int i = 0; i < LK_FAULT_ROWS && row[i] != INT64_MAX; i++)
        json_array_append_new(list, json_integer(row[i]));
    return list;
}

static json_t *split_name(int split)
{
    return split < 0 ? json_null() : json_string(lk_split_name(split));
}

static json_t *findings_json(const lk_check_report *r)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < r->findings; i++) {
        const lk_finding *f = &r->finding[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o, s:I, s:o, s:o}", "severity",
                                              lk_severity_name(f->severity), "code", f->code,
                                              "split", split_name(f->split), "feature",
                                              f->feature ? lk_check_json(f->feature)
                                                         : json_null(),
                                              "count", (json_int_t)f->count, "rows",
                                              rows_json(f->row), "text",
                                              lk_check_json(f->text)));
    }
    return list;
}

static json_t *twins_json(const lk_twins *t)
{
    json_t *list = json_array();
    for (int i = 0; i < LK_TWINS && t->example[i].row != INT64_MAX && i < t->count; i++)
        json_array_append_new(list, json_pack("[I, I]", (json_int_t)t->example[i].row,
                                              (json_int_t)t->example[i].first));
    return json_pack("{s:I, s:I, s:o}", "count", (json_int_t)t->count, "other_label",
                     (json_int_t)t->conflicts, "examples", list);
}

static json_t *splits_json(const lk_check_report *r)
{
    json_t *o = json_object();
    bool text = r->kind == LK_TEXT_DATA;
    for (int s = 0; s < 2; s++)
        json_object_set_new(o, lk_split_name(s),
                            json_pack("{s:I, s:I, s:o}", text ? "tokens" : "rows",
                                      (json_int_t)r->rows[s], text ? "passages" : "samples",
                                      (json_int_t)r->samples[s], "duplicates",
                                      twins_json(&r->twins.within[s])));
    json_object_set_new(json_object_get(o, "validation"), "in_train",
                        twins_json(&r->twins.overlap));
    return o;
}

static json_t *labels_json(const lk_check_report *r)
{
    if (!r->class_name) return json_null();
    json_t *list = json_array();
    for (int64_t k = 0; k < r->classes; k++)
        json_array_append_new(list, json_pack("{s:o, s:I, s:I}", "name",
                                              lk_check_json(r->class_name[k]),
                                              "train", (json_int_t)r->labels[LK_TRAIN][k],
                                              "validation",
                                              (json_int_t)r->labels[LK_VALIDATION][k]));
    return json_pack("{s:o, s:o, s:o}", "entropy_bits", number(r->entropy),
                     "entropy_given_previous_bits", number(r->pair_entropy), "classes", list);
}

static json_t *features_json(const lk_check_report *r)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < r->features; i++) {
        const lk_check_feature *f = &r->feature[i];
        json_array_append_new(
            list, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
                            lk_check_json(f->name), "mean", number(f->mean),
                            "sd", number(f->deviation), "min", number(f->low), "max",
                            number(f->high), "quantiles",
                            numbers(f->quantile, LK_CHECK_QUANTILES), "histogram",
                            numbers(f->bar, LK_CHECK_BARS), "label_information", number(f->leak)));
    }
    return list;
}

static json_t *correlation_json(const lk_check_report *r)
{
    if (!r->correlation) return json_null();
    json_t *matrix = json_array(), *pairs = json_array();
    for (int64_t i = 0; i < r->features; i++)
        json_array_append_new(matrix, numbers(r->correlation + i * r->features, r->features));
    for (int64_t i = 0; i < r->pairs; i++)
        json_array_append_new(pairs, json_pack("{s:o, s:o, s:o}", "a",
                                               lk_check_json(r->feature[r->pair[i].a].name), "b",
                                               lk_check_json(r->feature[r->pair[i].b].name), "r",
                                               number(r->pair[i].r)));
    return json_pack("{s:o, s:o}", "matrix", matrix, "pairs", pairs);
}

static json_t *drift_split_json(const lk_drift_report *d)
{
    json_t *list = json_array();
    if (d->features == 0) {
        json_decref(list);
        return json_null();
    }
    for (int64_t i = 0; i < d->features; i++) {
        const lk_drift_feature *f = &d->feature[i];
        json_array_append_new(
            list, json_pack("{s:o, s:o, s:o, s:o, s:b}", "name",
                            lk_check_json(f->name), "psi",
                            number(f->drift.psi), "kl", number(f->drift.kl), "noise",
                            number(f->drift.noise), "drifted",
                            lk_drift_found(&f->drift, d->threshold)));
    }
    return json_pack("{s:o, s:o, s:o}", "psi", number(d->psi), "kl", number(d->kl), "features",
                     list);
}

/* against null: the validation split, from train. */
static json_t *drift_json(const lk_check_report *r)
{
    const lk_drift_report *d = r->drift;
    if (d[0].features + d[1].features == 0) return json_null();
    return json_pack("{s:o, s:o, s:o, s:o}", "against", r->against ? lk_check_json(r->against)
                                                                   : json_null(),
                     "threshold", number(d[0].threshold), "train", drift_split_json(&d[LK_TRAIN]),
                     "validation", drift_split_json(&d[LK_VALIDATION]));
}

lk_status lk_check_format(const lk_check_report *r, char **text)
{
    json_t *levels = numbers(lk_check_quantile, LK_CHECK_QUANTILES);
    json_t *o = json_pack("{s:o, s:s, s:s, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "file",
                          lk_check_json(r->path), "kind", lk_dataset_kind_name(r->kind), "digest",
                          r->digest, "level", r->level, "verdict",
                          r->verdict == LK_NOTE ? "fit" : r->verdict == LK_WARNING ? "warnings"
                                                                                   : "unfit",
                          "findings", findings_json(r), "splits", splits_json(r), "labels",
                          labels_json(r), "quantile_levels", levels, "features", features_json(r),
                          "correlation", correlation_json(r), "drift", drift_json(r));
    char *made = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(o);
    if (!made) return lk_fail(LK_E_SYSTEM, "out of memory for the report");
    *text = made;
    return LK_OK;
}
