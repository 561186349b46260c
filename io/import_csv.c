/* Tables of numbers with a column of labels, in two passes: the first checks every row and notes
 * where it is and its label, the second writes the good ones in a shuffled order, for the shards of
 * a dataset should be alike and tables are often sorted. */
#include "base/philox.h"
#include "base/utf8.h"
#include "io/csv.h"
#include "io/import_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 1 << 16, EVERY = 4096 }; /* rows between progress, which counts bytes: all
                                                 of them in each pass */
#define BLOCK ((size_t)1 << 20)                /* bytes written at once */

typedef struct place {
    int64_t at, line;
    int32_t file, label;
} place;

typedef struct importer {
    const lk_import_csv *job;
    lk_import_result result;
    lk_csv *csv; /* [files] */
    char **column; /* [columns] of the features */
    int columns, label; /* label: its cell */
    bool headless; /* the first line is data */
    lk_label_set labels;
    place *row;
    int64_t rows, room;
    int64_t bytes, read; /* of all files; of those that are checked */
    float *feature;   /* a block of rows */
    uint16_t *number; /* their labels */
    lk_rows out;
} importer;

/* ---- the columns ----------------------------------------------------------------------------- */

static bool all_numbers(const lk_csv *c)
{
    float x;
    bool good = true;
    for (int i = 0; i < c->cells && good; i++) good = lk_csv_number(c->cell[i], &x);
    return good;
}

/* The columns there are, as many as there is room to name. */
static void list_columns(const importer *m, char *text, size_t size)
{
    enum { LONGEST = 40 };
    size_t n = 0;
    for (int i = 0; i < m->columns && n + LONGEST < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s'%.30s'", i ? ", " : "", m->column[i]);
    if (n + LONGEST >= size) snprintf(text + n, size - n, ", ... (%d in all)", m->columns);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A report names a feature, and --label its column, by the name alone. */
static lk_status check_names(const lk_csv *c)
{
    size_t n = (size_t)c->cells, i = 1;
    char **name = malloc(n * sizeof *name);
    if (!name) return lk_fail(LK_E_SYSTEM, "out of memory");
    memcpy(name, c->cell, n * sizeof *name);
    qsort(name, n, sizeof *name, by_name);
    while (i < n && strcmp(name[i - 1], name[i]) != 0) i++;
    lk_status status = i >= n ? LK_OK
                       : lk_fail(LK_E_INPUT, "%s:%lld: two columns are named '%.60s'; rename one",
                                 c->path, (long long)c->line, name[i]);
    free(name);
    return status;
}

/* Names of all columns from the first line of the first file. */
static lk_status name_columns(importer *m, const lk_csv *c)
{
    char number[16];
    m->headless = all_numbers(c);
    m->label = -1;
    m->column = calloc((size_t)c->cells, sizeof *m->column);
    if (!m->column) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int i = 0; i < c->cells; i++) {
        snprintf(number, sizeof number, "%d", i + 1);
        const char *name = m->headless ? number : c->cell[i];
        if (strcmp(name, m->job->label) == 0) {
            m->label = i;
            continue;
        }
        if (!lk_utf8_valid(name))
            return lk_fail(LK_E_INPUT, "%s:%lld: the name of column %d is not UTF-8; convert the "
                           "file, with iconv for example", c->path, (long long)c->line, i + 1);
        if (!(m->column[m->columns++] = strdup(name))) return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    if (m->label < 0) {
        char found[240] = "a first line of numbers alone, whose columns are 1, 2, ...";
        if (!m->headless) list_columns(m, found, sizeof found);
        return lk_fail(LK_E_INPUT, "%s:%lld: expected a column '%.60s', found %s; give one of "
                       "these with --label", c->path, (long long)c->line, m->job->label, found);
    }
    if (m->columns < 1 || m->columns > MAX_COLUMNS)
        return lk_fail(LK_E_INPUT,
                       "%s:%lld: expected 1 to %d columns of features beside the "
                       "label, found %d; is it the right file?",
                       c->path, (long long)c->line, MAX_COLUMNS, m->columns);
    return LK_OK;
}

/* The first line of a further file must name the same columns. */
static lk_status same_columns(const importer *m, const lk_csv *c)
{
    bool same = c->cells == m->columns + 1 && all_numbers(c) == m->headless;
    for (int i = 0, f = 0; i < c->cells && same && !m->headless; i++)
        same = strcmp(c->cell[i], i == m->label ? m->job->label : m->column[f++]) == 0;
    if (same) return LK_OK;
    return lk_fail(LK_E_INPUT,
                   "%s:%lld: expected the columns of %s, found others; import files "
                   "of the same columns together",
                   c->path, (long long)c->line, m->job->file[0]);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* The features of the record into out; NULL when it is good, else what is wrong. */
static const char *read_row(const importer *m, const lk_csv *c, float *out, char reason[200])
{
    if (c->cells != m->columns + 1) {
        snprintf(reason, 200, "expected %d cells, found %d", m->columns + 1, c->cells);
        return reason;
    }
    for (int i = 0, f = 0; i < c->cells; i++) {
        bool good = i == m->label ? c->cell[i][0] != '\0' : lk_csv_number(c->cell[i], &out[f]);
        if (!good) {
            snprintf(reason, 200, "column '%.60s': %s%.60s%s",
                     i == m->label ? m->job->label : m->column[f],
                     c->cell[i][0] ? "expected a number, found '" : "the cell is empty", c->cell[i],
                     c->cell[i][0] ? "'" : "");
            return reason;
        }
        f += i != m->label;
    }
    if (!lk_utf8_valid(c->cell[m->label])) {
        snprintf(reason, 200, "column '%.60s': expected UTF-8, found other bytes", m->job->label);
        return reason;
    }
    return NULL;
}

static lk_status note_row(importer *m, const lk_csv *c, int file)
{
    if (m->rows == m->room) {
        int64_t room = m->room ? 2 * m->room : 1024;
        place *grown = realloc(m->row, (size_t)room * sizeof *grown);
        if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory for %lld rows", (long long)room);
        m->row = grown;
        m->room = room;
    }
    place *p = &m->row[m->rows];
    *p = (place){c->at, c->line, file, 0};
    lk_status status = lk_label_set_add(&m->labels, c->cell[m->label], &p->label);
    if (status != LK_OK)
        return lk_fail_prefix(status, "%s:%lld", c->path, (long long)c->line);
    m->rows++;
    return LK_OK;
}

static void tell(const importer *m, int64_t done)
{
    const lk_import_target *to = &m->job->to;
    if (to->progress) to->progress(to->context, done, 2 * m->bytes);
}

static lk_status check_file(importer *m, int file)
{
    lk_csv *c = &m->csv[file];
    bool end = false;
    char reason[200], where[300];
    LK_TRY(lk_csv_open(c, m->job->file[file]));
    LK_TRY(lk_csv_next(c, &end));
    if (end)
        return lk_fail(LK_E_INPUT,
                       "%s: expected a table, found nothing; is it the right "
                       "file?",
                       c->path);
    if (file == 0 && !all_numbers(c)) LK_TRY(check_names(c));
    LK_TRY(file == 0 ? name_columns(m, c) : same_columns(m, c));
    if (file == 0 && !(m->feature = malloc((size_t)m->columns * sizeof(float))))
        return lk_fail(LK_E_SYSTEM, "out of memory");
    if (!m->headless) LK_TRY(lk_csv_next(c, &end));
    for (int64_t i = 1; !end; i++) {
        if (read_row(m, c, m->feature, reason)) {
            snprintf(where, sizeof where, "%.250s:%lld", c->path, (long long)c->line);
            lk_import_note_bad(&m->job->to, &m->result, where, reason);
        } else {
            LK_TRY(note_row(m, c, file));
        }
        if (i % EVERY == 0) tell(m, m->read + c->next);
        LK_TRY(lk_csv_next(c, &end));
    }
    m->read += c->next;
    tell(m, m->read);
    return LK_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static lk_status read_again(importer *m, const place *p, float *out)
{
    lk_csv *c = &m->csv[p->file];
    bool end = false;
    char reason[200];
    LK_TRY(lk_csv_seek(c, p->at, p->line));
    LK_TRY(lk_csv_next(c, &end));
    if (end || read_row(m, c, out, reason))
        return lk_fail(LK_E_INPUT, "%s:%lld: the file changed while it was read; import again",
                       c->path, (long long)p->line);
    return LK_OK;
}

static void tell_written(const importer *m, int64_t rows)
{
    tell(m, m->bytes + (int64_t)((double)m->bytes * (double)rows / (double)m->rows));
}

/* Rows [first, last) of the shuffled order, a split. */
static lk_status write_split(importer *m, lk_split split, int64_t first, int64_t last,
                             const uint16_t *class_of)
{
    size_t row = (size_t)m->columns * sizeof(float);
    int64_t block = row < BLOCK ? (int64_t)(BLOCK / row) : 1;
    for (int64_t at = first; at < last; at += block) {
        int64_t n = last - at < block ? last - at : block;
        for (int64_t i = 0; i < n; i++) {
            uint64_t k = lk_permute((uint64_t)(at + i), (uint64_t)m->rows, 0, LK_IMPORT_PURPOSE, 0,
                                    0);
            LK_TRY(read_again(m, &m->row[k], m->feature + i * m->columns));
            m->number[i] = class_of[m->row[k].label];
            if ((at + i + 1) % EVERY == 0) tell_written(m, at + i + 1);
        }
        LK_TRY(lk_rows_put(&m->out, split, n, m->feature, m->number));
    }
    return LK_OK;
}

static lk_status write_all(importer *m, const uint16_t *class_of)
{
    int64_t held = (int64_t)floor((double)m->rows * lk_import_fraction(&m->job->to));
    int64_t rows[2] = {m->rows - held, held}, columns = m->columns;
    size_t row = (size_t)columns * sizeof(float), block = row < BLOCK ? BLOCK / row : 1;
    char *part = NULL;
    free(m->feature);
    m->feature = malloc(block * row);
    m->number = malloc(block * sizeof *m->number);
    if (!m->feature || !m->number) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_import_name(m->job->to.output, ".part", &part));
    LK_TRY(lk_rows_create(&m->out, part, LK_TABLE_DATA, LK_H5_F32, 2, &columns, rows));
    m->out.fresh = !m->job->to.overwrite;
    m->out.column = m->column;
    LK_TRY(lk_h5_set_texts(m->out.file, m->out.part, "columns", m->column, m->columns));
    LK_TRY(write_split(m, LK_TRAIN, 0, rows[0], class_of));
    LK_TRY(write_split(m, LK_VALIDATION, rows[0], m->rows, class_of));
    tell_written(m, m->rows);
    memcpy(m->result.rows, rows, sizeof rows);
    m->result.classes = m->labels.count;
    lk_rows_tell_untrained(&m->out, &m->job->to, m->labels.name, m->labels.count);
    return lk_rows_finish(&m->out, m->job->to.output, m->job->file[0], m->labels.name,
                          m->labels.count, m->result.digest);
}

static lk_status import(importer *m)
{
    const lk_import_csv *job = m->job;
    uint16_t *class_of = NULL;
    if (job->files < 1) return lk_fail(LK_E_INPUT, "expected at least one CSV file, found none");
    LK_TRY(lk_import_check(&job->to, job->files, job->file, &m->bytes));
    m->csv = calloc((size_t)job->files, sizeof *m->csv);
    if (!m->csv) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int i = 0; i < job->files; i++) LK_TRY(check_file(m, i));
    LK_TRY(lk_import_check_bad(&job->to, &m->result, "rows", NULL));
    if (m->rows == 0)
        return lk_fail(LK_E_INPUT,
                       "%s: expected rows of numbers, found none; is it the right "
                       "file?",
                       job->file[0]);
    LK_TRY(lk_import_check_classes(job->file[0], m->labels.name, m->labels.count));
    LK_TRY(lk_label_set_order(&m->labels, true, &class_of));
    lk_status status = write_all(m, class_of);
    free(class_of);
    return status;
}

static lk_status run(void *argument)
{
    importer *m = argument;
    lk_status status = import(m);
    lk_rows_abandon(&m->out);
    for (int i = 0; i < m->job->files && m->csv; i++) lk_csv_close(&m->csv[i]);
    for (int i = 0; i < m->columns; i++) free(m->column[i]);
    free(m->column);
    free(m->csv);
    free(m->row);
    free(m->feature);
    free(m->number);
    lk_label_set_clear(&m->labels);
    return status;
}

lk_status lk_import_csv_run(lk_io *io, const lk_import_csv *job, lk_import_result *result)
{
    importer m = {.job = job};
    LK_TRY(lk_io_call(io, run, &m));
    *result = m.result;
    return LK_OK;
}
