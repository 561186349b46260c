#include "io/reference.h"
#include "io/checkpoint.h"
#include "io/format.h"

#include <stdlib.h>
#include <string.h>

typedef struct job {
    const char *given;
    lk_reference_source s;
    hid_t file;
} job;

static lk_status read_open(hid_t file, lk_reference_source *s)
{
    lk_schema schema;
    LK_TRY(lk_h5_get_schema(file, s->path, &schema));
    s->dataset = schema == LK_SCHEMA_DATASET;
    if (!s->dataset && schema != LK_SCHEMA_CHECKPOINT)
        return lk_fail(LK_E_INPUT,
                       "%s: expected a dataset or a checkpoint to compare with, found "
                       "another file of lockstep; name one with --against",
                       s->path);
    LK_TRY(lk_format_read_kind(file, s->path, !s->dataset, &s->kind));
    bool there = false;
    LK_TRY(lk_h5_has(file, s->path, "reference", &there));
    if (there)
        LK_TRY(lk_h5_get_text(file, s->path, "reference", &s->text));
    if (s->kind == LK_TEXT_DATA)
        return lk_format_read_vocabulary(file, s->path, &s->characters, &s->vocabulary,
                                         &s->vocabulary_size);
    return lk_h5_get_texts(file, s->path, "classes", &s->name, &s->classes);
}

static lk_status read_job(void *argument)
{
    job *j = argument;
    LK_TRY(lk_checkpoint_resolve(j->given, &j->s.path));
    LK_TRY(lk_h5_open(j->s.path, LK_SCHEMA_ANY, &j->file));
    lk_status status = read_open(j->file, &j->s);
    H5Fclose(j->file); /* read only: nothing to lose */
    return status;
}

lk_status lk_reference_source_read(lk_io *io, const char *path, lk_reference_source *s)
{
    job j = {.given = path, .file = -1};
    lk_status status = lk_io_call(io, read_job, &j);
    if (status == LK_OK) *s = j.s;
    else lk_reference_source_clear(&j.s);
    return status;
}

void lk_reference_source_clear(lk_reference_source *s)
{
    free(s->path);
    free(s->text);
    free(s->vocabulary);
    lk_h5_free_texts(s->name, s->classes);
    *s = (lk_reference_source){.path = NULL};
}

/* ---- making one ------------------------------------------------------------------------------ */

lk_status lk_reference_build(const lk_reference_counts *n, lk_reference *out)
{
    lk_reference r = {.samples = n->rows};
    lk_status status = LK_OK;
    if (n->kind == LK_TEXT_DATA) r.samples = lk_drift_samples(n->rows);
    for (int64_t i = 0; i < n->channels && i < LK_DRIFT_COLUMNS && status == LK_OK; i++)
        status = lk_reference_add_channel(&r, (int)i, n->pixel + i * 256);
    for (int64_t i = 0; i < n->columns && status == LK_OK; i++)
        status = lk_reference_add_column(&r, n->column[i], n->scale[i],
                                         n->bin + i * LK_SKETCH_BINS);
    if (status == LK_OK)
        status = lk_reference_add(&r, n->kind == LK_TEXT_DATA ? "tokens" : "label", n->classes,
                                  n->label, false);
    if (status == LK_OK) *out = r;
    else lk_reference_clear(&r);
    return status;
}

enum { STRIP = 128 };

lk_status lk_reference_maker_create(lk_reference_maker *m, lk_dataset_kind kind, int64_t classes,
                                    int64_t width)
{
    *m = (lk_reference_maker){.n = {.kind = kind, .classes = classes}, .width = width};
    if (kind == LK_IMAGE_DATA) m->n.channels = width;
    if (kind == LK_TABLE_DATA) m->n.columns = width < LK_DRIFT_COLUMNS ? width : LK_DRIFT_COLUMNS;
    size_t columns = (size_t)m->n.columns;
    m->label = calloc((size_t)classes + 1, sizeof *m->label);
    m->pixel = calloc((size_t)m->n.channels * 256 + 1, sizeof *m->pixel);
    m->bin = calloc(columns * LK_SKETCH_BINS + 1, sizeof *m->bin);
    m->strip = malloc(columns * STRIP * sizeof *m->strip + 1);
    if (!m->label || !m->pixel || !m->bin || !m->strip)
        return lk_fail(LK_E_SYSTEM, "out of memory for the distribution of the data");
    m->n.label = m->label;
    m->n.pixel = m->pixel;
    m->n.bin = m->bin;
    return LK_OK;
}

void lk_reference_maker_clear(lk_reference_maker *m)
{
    free(m->label);
    free(m->pixel);
    free(m->bin);
    free(m->strip);
    lk_columns_plan_destroy(&m->plan);
    lk_columns_counts_destroy(&m->columns);
    memset(m, 0, sizeof *m);
}

static void take_columns(const lk_reference_maker *m, const float *x, int64_t rows, float *out)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(out + i * m->n.columns, x + i * m->width, (size_t)m->n.columns * sizeof *out);
}

static lk_status plan(lk_reference_maker *m, int64_t rows, const float *x)
{
    float *sample = malloc((size_t)(rows * m->n.columns) * sizeof *sample);
    if (!sample) return lk_fail(LK_E_SYSTEM, "out of memory for the distribution of the data");
    take_columns(m, x, rows, sample);
    lk_status status = lk_columns_plan_create(sample, NULL, rows, m->n.columns, 0, &m->plan);
    free(sample);
    LK_TRY(status);
    LK_TRY(lk_columns_counts_create(&m->plan, &m->columns));
    m->planned = true;
    m->n.scale = m->plan.scale;
    return LK_OK;
}

static lk_status add_table(lk_reference_maker *m, int64_t rows, const float *x)
{
    if (!m->planned) LK_TRY(plan(m, rows, x));
    for (int64_t at = 0; at < rows; at += STRIP) {
        int64_t n = rows - at < STRIP ? rows - at : STRIP;
        take_columns(m, x + at * m->width, n, m->strip);
        lk_columns_block(&m->plan, m->strip, NULL, n, &m->columns, NULL, NULL);
    }
    if (m->columns.rows > INT64_C(1) << 31) /* before its counts overflow */
        lk_columns_counts_move(&m->plan, &m->columns, m->bin, NULL);
    return LK_OK;
}

static void count_tokens(lk_reference_maker *m, int64_t rows, bool wide, const void *data)
{
    const uint8_t *narrow = data;
    const uint16_t *token = data;
    for (int64_t i = 0; i < rows; i++) m->label[wide ? token[i] : narrow[i]]++;
}

lk_status lk_reference_maker_add(lk_reference_maker *m, int64_t rows, size_t bytes,
                                 const void *data, const uint16_t *labels)
{
    const uint8_t *pixel = data;
    if (rows == 0) return LK_OK;
    m->n.rows += rows;
    if (m->n.kind == LK_TEXT_DATA) {
        count_tokens(m, rows, bytes > (size_t)rows, data);
        return LK_OK;
    }
    for (int64_t i = 0; i < rows; i++)
        if (labels[i] < m->n.classes) m->label[labels[i]]++;
    if (m->n.kind == LK_TABLE_DATA) return add_table(m, rows, data);
    for (size_t i = 0; i < bytes; i += (size_t)m->width)
        for (int64_t k = 0; k < m->width; k++) m->pixel[k * 256 + pixel[i + (size_t)k]]++;
    return LK_OK;
}

lk_status lk_reference_maker_format(lk_reference_maker *m, char *const *column, char **text)
{
    lk_reference r = {.samples = 0};
    if (m->planned) lk_columns_counts_move(&m->plan, &m->columns, m->bin, NULL);
    if (!m->planned) m->n.columns = 0;
    m->n.column = column;
    LK_TRY(lk_reference_build(&m->n, &r));
    lk_status status = lk_reference_format(&r, text);
    lk_reference_clear(&r);
    return status;
}
