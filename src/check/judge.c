/* Findings that all kinds of data have in common: samples, labels, duplicates; their order. */
#include "metric/information.h"
#include "check/job.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WARN_TWINS 0.001     /* share of a split's samples from which copies are a warning */
#define WARN_PASSAGES 0.01   /* of the passages of validation */
enum { EXPECTED = 10 }; /* a class of which validation should have so many is missed there */
enum { NAMED = 5 };     /* classes with the same fault that are named one by one */

lk_status lk_check_find(lk_checker *c, lk_severity severity, const char *code, int split,
                        const char *feature, int64_t count, const int64_t *row,
                        const char *format, ...)
{
    lk_check_report *r = c->report;
    lk_finding f = {.severity = severity, .code = code, .split = split, .count = count};
    lk_finding *grown = realloc(r->finding, ((size_t)r->findings + 1) * sizeof *grown);
    if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory for findings");
    r->finding = grown;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&f.text, format, args);
    va_end(args);
    if (feature) f.feature = strdup(feature);
    if (n < 0 || (feature && !f.feature)) {
        if (n >= 0) free(f.text);
        free(f.feature);
        return lk_fail(LK_E_SYSTEM, "out of memory for findings");
    }
    for (int i = 0; i < LK_FAULT_ROWS; i++) f.row[i] = row ? row[i] : INT64_MAX;
    if (severity > r->verdict) r->verdict = severity;
    r->finding[r->findings++] = f;
    return LK_OK;
}

/* ---- samples --------------------------------------------------------------------------------- */

static lk_status judge_samples(lk_checker *c)
{
    int64_t n = c->data->rows[LK_TRAIN];
    const char *what = c->data->kind == LK_TEXT_DATA ? "token" : "sample";
    if (n == 0)
        return lk_check_find(c, LK_UNFIT, "samples", LK_TRAIN, NULL, 0, NULL,
                             "there are no %ss to learn from", what);
    if (n < c->job->min_samples)
        return lk_check_find(c, c->job->demanded ? LK_UNFIT : LK_WARNING, "samples", LK_TRAIN, NULL,
                             n, NULL, "%lld %s%s, fewer than %lld", (long long)n, what,
                             n == 1 ? "" : "s", (long long)c->job->min_samples);
    return LK_OK;
}

static void rows_of(const lk_twins *t, int64_t row[LK_FAULT_ROWS])
{
    for (int i = 0; i < LK_FAULT_ROWS; i++) row[i] = t->example[i].row;
}

static lk_status judge_within(lk_checker *c, int s)
{
    const lk_twins *t = &c->report->twins.within[s];
    int64_t row[LK_FAULT_ROWS];
    double share = (double)t->count / (double)c->report->samples[s];
    rows_of(t, row);
    if (t->count > 0)
        LK_TRY(lk_check_find(c, share >= WARN_TWINS ? LK_WARNING : LK_NOTE, "duplicates", s, NULL,
                             t->count, row, "%lld of %lld samples repeat an earlier one (row %lld "
                             "is row %lld)", (long long)t->count, (long long)c->report->samples[s],
                             (long long)t->example[0].row, (long long)t->example[0].first));
    if (t->conflicts > 0)
        LK_TRY(lk_check_find(c, (double)t->conflicts >= WARN_TWINS * (double)c->report->samples[s]
                                    ? LK_WARNING : LK_NOTE,
                             "conflicts", s, NULL, t->conflicts, NULL,
                             "%lld of these have another label than the first",
                             (long long)t->conflicts));
    return LK_OK;
}

static lk_status judge_twins(lk_checker *c)
{
    const lk_check_report *r = c->report;
    const lk_twins *t = &r->twins.overlap;
    bool text = r->kind == LK_TEXT_DATA;
    int64_t row[LK_FAULT_ROWS], all = r->samples[LK_VALIDATION];
    for (int s = 0; s < 2 && !text; s++) LK_TRY(judge_within(c, s));
    if (t->count == 0) return LK_OK;
    rows_of(t, row);
    double share = (double)t->count / (double)all;
    lk_severity severity = share >= (text ? WARN_PASSAGES : WARN_TWINS) ? LK_WARNING : LK_NOTE;
    if (text)
        return lk_check_find(c, severity, "overlap", LK_VALIDATION, NULL, t->count, row,
                             "%.3g %% of its passages of %d tokens are in train too (token %lld is "
                             "token %lld)", 100 * share, LK_CHECK_PASSAGE,
                             (long long)t->example[0].row, (long long)t->example[0].first);
    return lk_check_find(c, severity, "overlap", LK_VALIDATION, NULL, t->count, row,
                         "%lld of %lld samples are in train too (row %lld is row %lld of train)",
                         (long long)t->count, (long long)all, (long long)t->example[0].row,
                         (long long)t->example[0].first);
}

/* ---- labels ---------------------------------------------------------------------------------- */

static lk_status judge_label_rows(lk_checker *c)
{
    bool text = c->data->kind == LK_TEXT_DATA;
    for (int s = 0; s < 2; s++) {
        const lk_bad_rows *bad = &c->total[s].label_rows;
        if (bad->count == 0) continue;
        LK_TRY(lk_check_find(c, LK_UNFIT, text ? "token" : "label", s, NULL, bad->count, bad->row,
                             "%lld %s%s not below the %s %lld", (long long)bad->count,
                             text ? "token" : "label", bad->count == 1 ? " is" : "s are",
                             text ? "vocabulary size" : "number of classes",
                             (long long)lk_check_classes(c)));
    }
    return LK_OK;
}

static char *class_name(const lk_checker *c, int64_t k)
{
    const lk_dataset *d = c->data;
    char text[16], *name = NULL;
    if (d->kind != LK_TEXT_DATA)
        return strdup(d->kind == LK_IMAGE_DATA ? d->image.name[k] : d->table.name[k]);
    uint32_t code = d->vocabulary[k];
    int32_t token = (int32_t)k;
    bool plain = code > ' ' && code < 0x7F;
    if (plain) snprintf(text, sizeof text, "%c", (char)code);
    else snprintf(text, sizeof text, d->characters ? "U+%04X" : "0x%02X", code);
    if (plain || !d->characters || code < 0xA0) return strdup(text);
    if (lk_text_decode(d->vocabulary, d->vocabulary_size, true, &token, 1, &name) != LK_OK)
        return NULL;
    return name;
}

/* The only class or kind of token that train has; -1: there are others, or none. */
static int64_t only_class(const lk_checker *c)
{
    int64_t only = -1;
    for (int64_t k = 0; k < lk_check_classes(c); k++) {
        if (c->total[LK_TRAIN].label[k] == 0) continue;
        if (only >= 0) return -1;
        only = k;
    }
    return only;
}

static lk_status judge_only_class(lk_checker *c)
{
    int64_t only = only_class(c);
    if (only < 0) return LK_OK;
    bool text = c->data->kind == LK_TEXT_DATA;
    char *name = class_name(c, only);
    if (!name) return lk_fail(LK_E_SYSTEM, "out of memory for classes");
    lk_status status = lk_check_find(
        c, LK_UNFIT, "one class", LK_TRAIN, name, c->total[LK_TRAIN].label[only], NULL,
        text ? "every token is '%.60s': there is nothing to learn; import another text"
             : "every label is '%.60s': there is nothing to learn; import samples of at least two "
               "classes, and look whether the right column was taken for the label", name);
    free(name);
    return status;
}

typedef enum fault { NO_FAULT, MISSING, RARE, MISSED, FAULTS } fault;

/* What is wrong with a class: none or few in train, none in validation. */
static fault fault_of(const lk_checker *c, int64_t k)
{
    const lk_check_report *r = c->report;
    double n = (double)r->labels[LK_TRAIN][k], all = (double)r->rows[LK_TRAIN];
    if (n == 0) return MISSING;
    if (n < c->job->min_share * all / (double)r->classes) return RARE;
    double expected = n / all * (double)r->rows[LK_VALIDATION];
    return r->labels[LK_VALIDATION][k] == 0 && expected >= EXPECTED ? MISSED : NO_FAULT;
}

static lk_status name_class(lk_checker *c, fault f, int64_t k)
{
    const lk_check_report *r = c->report;
    const char *name = r->class_name[k];
    int64_t n = r->labels[LK_TRAIN][k];
    if (f == RARE)
        return lk_check_find(c, LK_WARNING, "rare", LK_TRAIN, name, n, NULL,
                             "class '%.60s' has %lld samples, %.2g of an equal share", name,
                             (long long)n, (double)n * (double)r->classes /
                                               (double)r->rows[LK_TRAIN]);
    return lk_check_find(c, LK_WARNING, "class", f == MISSED ? LK_VALIDATION : LK_TRAIN, name, 0,
                         NULL, "class '%.60s' has no samples", name);
}

/* Each class by its name, or if there are many the first. Nearly as many classes as samples are a
 * column of numbers that was taken for the label. */
static lk_status judge_classes(lk_checker *c)
{
    const lk_check_report *r = c->report;
    int64_t all = r->rows[LK_TRAIN] + r->rows[LK_VALIDATION];
    if (r->classes > NAMED && r->classes > all / 2)
        return lk_check_find(c, LK_WARNING, "class", -1, NULL, r->classes, NULL,
                             "%lld samples are of %lld classes; look whether the right column was "
                             "taken for the label", (long long)all, (long long)r->classes);
    int64_t count[FAULTS] = {0}, first[FAULTS] = {0};
    for (int64_t k = r->classes; k-- > 0;) {
        fault f = fault_of(c, k);
        count[f]++;
        first[f] = k;
    }
    for (int f = MISSING; f < FAULTS; f++) {
        for (int64_t k = 0; k < r->classes && count[f] <= NAMED; k++)
            if (fault_of(c, k) == (fault)f) LK_TRY(name_class(c, (fault)f, k));
        if (count[f] > NAMED)
            LK_TRY(lk_check_find(c, LK_WARNING, f == RARE ? "rare" : "class",
                                 f == MISSED ? LK_VALIDATION : LK_TRAIN, NULL, count[f], NULL,
                                 "%lld of %lld classes have %s, the first is '%.60s'",
                                 (long long)count[f], (long long)r->classes,
                                 f == RARE ? "few samples" : "no samples",
                                 r->class_name[first[f]]));
    }
    return LK_OK;
}

/* Tokens are not classes: rare ones are to be expected. One that validation alone has is not. */
static lk_status judge_tokens(lk_checker *c)
{
    const lk_check_report *r = c->report;
    int64_t unseen = 0, count = 0;
    for (int64_t k = 0; k < r->classes; k++) {
        if (r->labels[LK_TRAIN][k] > 0 || r->labels[LK_VALIDATION][k] == 0) continue;
        unseen++;
        count += r->labels[LK_VALIDATION][k];
    }
    if (unseen == 0) return LK_OK;
    return lk_check_find(c, LK_NOTE, "unseen", LK_VALIDATION, NULL, count, NULL,
                         "%lld token%s of %lld kind%s that train does not have",
                         (long long)count, count == 1 ? " is" : "s are", (long long)unseen,
                         unseen == 1 ? "" : "s");
}

/* H(next | token) = H(token, next) - H(token), over the pairs. */
static lk_status condition(lk_checker *c, int64_t n)
{
    const int64_t *pair = c->total[LK_TRAIN].pair;
    int64_t *first = calloc((size_t)n, sizeof *first);
    if (!first) return lk_fail(LK_E_SYSTEM, "out of memory for tokens");
    for (int64_t i = 0; i < n * n; i++) first[i / n] += pair[i];
    double bits = lk_entropy(pair, n * n) - lk_entropy(first, n);
    c->report->pair_entropy = bits > 0 ? bits : 0;
    free(first);
    return LK_OK;
}

static lk_status fill_labels(lk_checker *c)
{
    lk_check_report *r = c->report;
    int64_t n = lk_check_classes(c);
    size_t bytes = (size_t)n * sizeof **r->labels;
    r->class_name = calloc((size_t)n + 1, sizeof *r->class_name);
    for (int s = 0; s < 2; s++) r->labels[s] = malloc(bytes + 1);
    if (!r->class_name || !r->labels[0] || !r->labels[1])
        return lk_fail(LK_E_SYSTEM, "out of memory for classes");
    r->classes = n;
    for (int64_t k = 0; k < n; k++)
        if (!(r->class_name[k] = class_name(c, k)))
            return lk_fail(LK_E_SYSTEM, "out of memory for classes");
    for (int s = 0; s < 2; s++) memcpy(r->labels[s], c->total[s].label, bytes);
    r->entropy = lk_entropy(r->labels[LK_TRAIN], n);
    return c->total[LK_TRAIN].pair && r->rows[LK_TRAIN] > 1 ? condition(c, n) : LK_OK;
}

static lk_status judge_labels(lk_checker *c)
{
    LK_TRY(fill_labels(c));
    if (c->data->kind == LK_TEXT_DATA) return judge_tokens(c);
    return c->data->rows[LK_TRAIN] > 0 && only_class(c) < 0 ? judge_classes(c) : LK_OK;
}

/* ---- all ------------------------------------------------------------------------------------- */

/* The worst first; among equals, as they were found, which does not depend on the ranks. */
static void sort_findings(lk_check_report *r)
{
    for (int64_t i = 1; i < r->findings; i++) {
        lk_finding f = r->finding[i];
        int64_t at = i;
        for (; at > 0 && r->finding[at - 1].severity < f.severity; at--)
            r->finding[at] = r->finding[at - 1];
        r->finding[at] = f;
    }
}

/* Every text begins with its split. */
static lk_status name_splits(lk_check_report *r)
{
    for (int64_t i = 0; i < r->findings; i++) {
        lk_finding *f = &r->finding[i];
        char *text = NULL;
        if (f->split < 0) continue;
        if (asprintf(&text, "%s: %s", lk_split_name(f->split), f->text) < 0)
            return lk_fail(LK_E_SYSTEM, "out of memory for findings");
        free(f->text);
        f->text = text;
    }
    return LK_OK;
}

lk_status lk_check_judge(lk_checker *c)
{
    lk_check_report *r = c->report;
    for (int s = 0; s < 2; s++) r->samples[s] = c->total[s].samples;
    if (!c->damaged) {
        LK_TRY(judge_samples(c));
        LK_TRY(judge_label_rows(c));
        LK_TRY(judge_only_class(c));
        LK_TRY(judge_twins(c));
        if (c->level >= 2) LK_TRY(judge_labels(c));
    }
    LK_TRY(name_splits(r));
    sort_findings(r);
    return LK_OK;
}
