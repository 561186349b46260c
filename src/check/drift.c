/* Drift: data against the distribution that a dataset or a checkpoint keeps of training data. */
#include "check/job.h"

#include <stdlib.h>
#include <string.h>

/* ---- the reference --------------------------------------------------------------------------- */

lk_status lk_check_reference_make(const lk_checker *c, lk_reference *r)
{
    const lk_dataset *d = c->data;
    const lk_counts *t = &c->total[LK_TRAIN];
    lk_reference_counts n = {.kind = d->kind, .rows = d->rows[LK_TRAIN], .label = t->label,
                             .classes = lk_check_classes(c)};
    if (d->kind == LK_IMAGE_DATA) {
        n.pixel = t->pixel;
        n.channels = d->image.channels;
    }
    if (d->kind == LK_TABLE_DATA) {
        n.column = d->table.column;
        n.columns = c->features < LK_DRIFT_COLUMNS ? c->features : LK_DRIFT_COLUMNS;
        n.scale = c->plan.scale;
        n.bin = c->bin[LK_TRAIN];
    }
    return lk_reference_build(&n, r);
}

/* A dataset older than references: look at its training split. */
static lk_status survey_source(lk_checker *c)
{
    lk_checker other = {.comm = c->comm, .io = c->io, .job = c->job, .level = 3,
                        .split = {true, false}, .report = c->report};
    LK_TRY(lk_dataset_open(c->io, c->comm->world, c->source.path, &other.data));
    lk_status status = lk_check_survey(&other);
    if (status == LK_OK)
        status = lk_comm_agree(c->comm, lk_check_reference_make(&other, &c->reference));
    lk_checker_close(&other);
    lk_dataset_close(other.data);
    return status;
}

/* Where the columns of the reference are in the data, and the group of every bin. */
static lk_status map_columns(lk_checker *c)
{
    const lk_table_format *t = &c->data->table;
    const lk_reference *r = &c->reference;
    c->column = malloc((size_t)(r->features + 1) * sizeof *c->column);
    c->group = calloc((size_t)r->features + 1, LK_SKETCH_BINS);
    if (!c->column || !c->group) return lk_fail(LK_E_SYSTEM, "out of memory for a reference");
    for (int64_t i = 0; i < r->features; i++) {
        const lk_reference_feature *f = &r->feature[i];
        c->column[i] = -1;
        if (!f->last) continue; /* the label */
        for (int64_t k = 0; k < t->columns && c->column[i] < 0; k++)
            if (strcmp(t->column[k], f->name) == 0) c->column[i] = k;
        if (c->column[i] < 0)
            return lk_fail(LK_E_INPUT, "%s: expected the columns of %s, found no column '%.60s'; "
                           "compare tables of the same columns", c->data->path, c->source.path,
                           f->name);
        for (int g = 0, bin = 0; g < f->bins; g++)
            for (; bin <= f->last[g]; bin++) c->group[i * LK_SKETCH_BINS + bin] = (uint8_t)g;
    }
    return LK_OK;
}

static lk_status check_channels(const lk_checker *c)
{
    int64_t found = 0, channels = c->data->image.channels;
    for (int64_t i = 0; i < c->reference.features; i++) found += c->reference.feature[i].ordered;
    if (found == channels || found == LK_DRIFT_COLUMNS) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected images of %lld channels as in %s, found %lld; import "
                   "them again with as many", c->data->path, (long long)found, c->source.path,
                   (long long)channels);
}

/* Whether a feature is one that this kind of data has, with as many bins. */
static bool sound(const lk_checker *c, int64_t i)
{
    const lk_reference_feature *f = &c->reference.feature[i];
    if (c->data->kind == LK_TEXT_DATA)
        return !f->ordered && !f->last && f->bins == c->source.vocabulary_size;
    if (!f->ordered) return !f->last && f->bins == c->source.classes;
    if (c->data->kind == LK_TABLE_DATA) return f->last != NULL;
    return !f->last && f->bins == 256 && (i == 0 || c->reference.feature[i - 1].ordered);
}

static lk_status fit(lk_checker *c)
{
    for (int64_t i = 0; i < c->reference.features; i++)
        if (!sound(c, i))
            return lk_fail(LK_E_INPUT, "%s: attribute 'reference': '%.60s' is no feature of this "
                           "data; the file is damaged, import it again", c->source.path,
                           c->reference.feature[i].name);
    if (c->data->kind == LK_TABLE_DATA) return map_columns(c);
    return c->data->kind == LK_IMAGE_DATA ? check_channels(c) : LK_OK;
}

lk_status lk_check_reference_open(lk_checker *c, const char *path, bool demanded)
{
    lk_reference_source *s = &c->source;
    LK_TRY(lk_comm_agree(c->comm, lk_reference_source_read(c->io, path, s)));
    lk_status status = LK_OK;
    if (s->kind != c->data->kind)
        status = lk_fail(LK_E_INPUT,
                         "%s: expected data of kind '%s' as in %s, found '%s'; "
                         "compare data of one kind",
                         c->data->path, lk_dataset_kind_name(s->kind), s->path,
                         lk_dataset_kind_name(c->data->kind));
    else if (!s->text && !s->dataset && demanded)
        status = lk_fail(LK_E_INPUT, "%s: expected a reference to compare with, found a checkpoint "
                         "of an earlier lockstep; name the dataset it learned from", s->path);
    LK_TRY(lk_comm_agree(c->comm, status));
    if (!s->text && (!s->dataset || !demanded)) return LK_OK;
    if (s->text)
        status = lk_comm_agree(c->comm, lk_reference_parse(s->path, s->text, &c->reference));
    else
        status = survey_source(c);
    LK_TRY(status);
    LK_TRY(lk_comm_agree(c->comm, fit(c)));
    c->comparing = true;
    memcpy(c->compared, c->split, sizeof c->compared);
    return LK_OK;
}

lk_status lk_check_reference_own(lk_checker *c)
{
    if (c->data->rows[LK_VALIDATION] == 0) return LK_OK;
    lk_status status = lk_check_reference_open(c, c->data->path, false);
    c->compared[LK_TRAIN] = false; /* with itself */
    if (status != LK_E_INPUT) return status;
    char text[1024];
    lk_check_forgive(c, text);
    return lk_check_find(c, LK_WARNING, "reference", -1, NULL, 1, NULL, "no drift can be seen: %s",
                         text);
}

void lk_check_reference_block(const lk_checker *c, lk_counts *n, const float *x, int64_t rows)
{
    int64_t width = c->data->table.columns;
    for (int64_t i = 0; i < c->reference.features; i++) {
        if (c->column[i] < 0) continue;
        lk_sketch_scale s = c->reference.feature[i].scale;
        const uint8_t *group = c->group + i * LK_SKETCH_BINS;
        int64_t *count = n->reference + i * LK_DRIFT_GROUPS;
        for (const float *at = x + c->column[i], *end = at + rows * width; at < end; at += width)
            if (*at - *at == 0) count[group[lk_sketch_bin(s, *at)]]++; /* finite */
    }
}

/* ---- the comparison -------------------------------------------------------------------------- */

/* The bin of the reference for class or token k of the data; bins: it has none. */
static int64_t bin_of(const lk_checker *c, int64_t k, int64_t bins)
{
    const lk_reference_source *s = &c->source;
    const lk_dataset *d = c->data;
    if (d->kind == LK_TEXT_DATA) {
        if (k < bins && s->vocabulary[k] == d->vocabulary[k]) return k;
        for (int64_t i = 0; i < bins; i++)
            if (s->vocabulary[i] == d->vocabulary[k]) return i;
        return bins;
    }
    const char *name = d->kind == LK_IMAGE_DATA ? d->image.name[k] : d->table.name[k];
    if (k < bins && strcmp(s->name[k], name) == 0) return k;
    for (int64_t i = 0; i < bins; i++)
        if (strcmp(s->name[i], name) == 0) return i;
    return bins;
}

/* Counts [bins + 1] of feature i in a split. */
static void count_feature(const lk_checker *c, int split, int64_t i, int64_t *count)
{
    const lk_reference_feature *f = &c->reference.feature[i];
    const lk_counts *t = &c->total[split];
    int64_t classes = lk_check_classes(c);
    memset(count, 0, (size_t)(f->bins + 1) * sizeof *count);
    if (f->last)
        memcpy(count, t->reference + i * LK_DRIFT_GROUPS, (size_t)f->bins * sizeof *count);
    else if (f->ordered) /* channels come first */
        memcpy(count, t->pixel + i * 256, (size_t)f->bins * sizeof *count);
    else
        for (int64_t k = 0; k < classes; k++)
            if (t->label[k] > 0) count[bin_of(c, k, f->bins)] += t->label[k];
}

static lk_status compare_feature(const lk_checker *c, int split, int64_t i, int64_t samples,
                                 lk_drift *drift)
{
    lk_reference_feature f = c->reference.feature[i];
    size_t bins = (size_t)f.bins + 1;
    int64_t *count = malloc(2 * bins * sizeof *count), *before = count + bins;
    if (!count) return lk_fail(LK_E_SYSTEM, "out of memory");
    count_feature(c, split, i, count);
    memcpy(before, f.count, (bins - 1) * sizeof *before);
    before[bins - 1] = 0;
    f.count = before;
    if (count[bins - 1] > 0) f.bins++; /* what the reference does not know */
    lk_status status = lk_drift_of(&f, c->reference.samples, count, samples, drift);
    free(count);
    return status;
}

/* A column of a reference of version 1 whose values were one group: no drift shows in it. */
static bool blind(const lk_reference_feature *f) { return f->last && f->bins == 1; }

/* A split from the training split of the reference. */
static lk_status compare(const lk_checker *c, int split, lk_drift_report *r)
{
    int64_t samples = c->data->rows[split];
    if (samples == 0) return LK_OK;
    if (c->data->kind == LK_TEXT_DATA) samples = lk_drift_samples(samples);
    for (int64_t i = 0; i < c->reference.features; i++) {
        lk_drift d;
        if (blind(&c->reference.feature[i])) continue;
        LK_TRY(compare_feature(c, split, i, samples, &d));
        LK_TRY(lk_drift_report_add(r, c->reference.feature[i].name, &d));
    }
    return LK_OK;
}

static lk_status find_drift(lk_checker *c, int split, const lk_drift_feature *f)
{
    if (!c->job->against)
        return lk_check_find(c, LK_WARNING, "drift", split, f->name, 1, NULL, "'%.60s' is not "
                             "distributed as in train: PSI %.3g (by chance: below %.3g), KL %.3g "
                             "nats; were samples shuffled before they were split?", f->name,
                             f->drift.psi, f->drift.noise, f->drift.kl);
    return lk_check_find(c, LK_WARNING, "drift", split, f->name, 1, NULL, "'%.60s' has drifted "
                         "from %.200s: PSI %.3g (by chance: below %.3g), KL %.3g nats", f->name,
                         c->report->against, f->drift.psi, f->drift.noise, f->drift.kl);
}

/* A finding for a column, or for many the first. */
static lk_status find_uncompared(lk_checker *c, lk_severity severity, int64_t count,
                                 const char *first, const char *one, const char *many)
{
    if (count == 0) return LK_OK;
    if (count == 1)
        return lk_check_find(c, severity, "reference", -1, first, 1, NULL,
                             "column '%.60s' is not compared: %s", first, one);
    return lk_check_find(c, severity, "reference", -1, first, count, NULL, "%lld columns are not "
                         "compared, the first is '%.60s': %s", (long long)count, first, many);
}

/* Columns in which no drift can be seen. */
static lk_status judge_columns(lk_checker *c)
{
    const lk_reference *r = &c->reference;
    const lk_table_format *t = &c->data->table;
    const char *first = NULL, *first_blind = NULL;
    int64_t unknown = 0, blinds = 0;
    for (int64_t k = t->columns - 1; k >= 0; k--) {
        int64_t i = 0;
        while (i < r->features && c->column[i] != k) i++;
        if (i == r->features) first = t->column[k], unknown++;
        else if (blind(&r->feature[i])) first_blind = t->column[k], blinds++;
    }
    if (c->job->against) /* of itself a dataset keeps the first LK_DRIFT_COLUMNS */
        LK_TRY(find_uncompared(c, LK_NOTE, unknown, first, "it is not in the reference",
                               "they are not in the reference"));
    return find_uncompared(c, LK_WARNING, blinds, first_blind,
                           "the reference has its values in one group; import the reference again",
                           "the reference has the values of each in one group; import it again");
}

lk_status lk_check_judge_drift(lk_checker *c)
{
    lk_check_report *r = c->report;
    if (c->job->against && !(r->against = strdup(c->source.path)))
        return lk_fail(LK_E_SYSTEM, "out of memory");
    if (c->data->kind == LK_TABLE_DATA) LK_TRY(judge_columns(c));
    for (int s = 0; s < 2; s++) {
        lk_drift_report *d = &r->drift[s];
        d->threshold = c->job->psi;
        if (c->compared[s]) LK_TRY(compare(c, s, d));
        for (int64_t i = 0; i < d->features; i++)
            if (lk_drift_found(&d->feature[i].drift, d->threshold))
                LK_TRY(find_drift(c, s, &d->feature[i]));
    }
    return LK_OK;
}

lk_status lk_check_drift(lk_comm *comm, lk_io *io, lk_dataset *d, lk_split split,
                         const char *against, double threshold, bool *found,
                         lk_drift_report *report)
{
    lk_check_job job = lk_check_defaults();
    lk_drift_report r = {.worst = -1, .threshold = threshold};
    lk_checker c = {.comm = comm, .io = io, .job = &job, .data = d};
    c.split[split] = true;
    lk_status status = lk_check_reference_open(&c, against, false);
    if (status == LK_OK && c.comparing) {
        status = lk_check_survey(&c);
        if (status == LK_OK) status = lk_comm_agree(comm, compare(&c, split, &r));
    }
    bool compared = c.comparing;
    lk_checker_close(&c);
    if (status == LK_OK) {
        *found = compared;
        *report = r;
    } else {
        lk_drift_report_clear(&r);
    }
    return status;
}
