/* A dataset file opened by all ranks: everything is checked at the opening, so that later reads
 * can only fail for damage. */
#include "io/dataset.h"
#include "io/format.h"
#include "io/slabs.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_DIMS = 1, IMAGE_DIMS = 4, TABLE_DIMS = 2, MAX_SIDE = 1 << 15, MAX_TEXT = 1 << 15 };

struct lk_dataset_handles {
    MPI_Comm comm;
    hid_t file;
    uint64_t version;
    lk_slabs *slabs[2][LK_DATASET_FIELDS];
    char retried[400];
    _Atomic int retries; /* what follows; the I/O thread sets it after `retried` */
};
enum { NO_RETRIES, RETRIES_NOTED, RETRIES_TOLD };

static const lk_h5_dataset *data_of(const lk_dataset *d, int split, int field)
{
    return lk_slabs_dataset(d->handles->slabs[split][field]);
}

static const char *path_of(const lk_dataset *d, int split, int field, char path[64])
{
    snprintf(path, 64, "%s/%s", lk_split_name(split), d->field[field].name);
    return path;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Field `f` of both splits: type, shape, sizes. */
static lk_status open_field(lk_dataset *d, int f, const char *name, lk_h5_type type, int dims)
{
    static const lk_dtype dtype[LK_H5_TYPES] = {
        [LK_H5_F32] = LK_F32, [LK_H5_U8] = LK_U8, [LK_H5_U16] = LK_U16};
    struct lk_dataset_handles *h = d->handles;
    char path[64];
    d->field[f].name = name;
    d->field[f].dtype = dtype[type];
    for (int s = 0; s < 2; s++) {
        path_of(d, s, f, path);
        LK_TRY(lk_slabs_open(h->file, d->path, path, h->version > 1, &h->slabs[s][f]));
        const lk_h5_dataset *x = data_of(d, s, f);
        LK_TRY(lk_h5_dataset_expect(x, d->path, path, type, dims));
        if (f > 0 && (int64_t)x->dim[0] != d->rows[s])
            return lk_fail(LK_E_INPUT, "%s: '%s': expected %lld rows, as '%s' has, found %llu; the "
                           "file is damaged, import it again", d->path, path,
                           (long long)d->rows[s], d->field[0].name, (unsigned long long)x->dim[0]);
        d->rows[s] = (int64_t)x->dim[0];
        d->field[f].row_bytes = x->row;
    }
    return LK_OK;
}

static lk_status open_text(lk_dataset *d)
{
    LK_TRY(lk_format_read_vocabulary(d->handles->file, d->path, &d->characters, &d->vocabulary,
                                     &d->vocabulary_size));
    return open_field(d, 0, "tokens", d->vocabulary_size <= 256 ? LK_H5_U8 : LK_H5_U16, TEXT_DIMS);
}

/* The inner dimensions of field `f` are the same in both splits and none is zero. */
static lk_status check_inner(const lk_dataset *d, int f)
{
    const lk_h5_dataset *t = data_of(d, LK_TRAIN, f), *v = data_of(d, LK_VALIDATION, f);
    char a[96], b[96];
    for (int i = 1; i < t->dims; i++)
        if (t->dim[i] != v->dim[i] || t->dim[i] < 1)
            return lk_fail(LK_E_INPUT, "%s: expected '%s' of one shape in both splits, found %s "
                           "and %s; import it again", d->path, d->field[f].name,
                           lk_h5_shape(t, a, sizeof a), lk_h5_shape(v, b, sizeof b));
    return LK_OK;
}

/* Rows are read one by one at random: a chunk that holds many of them, or one that holds only a
 * part of each, costs far more than its row. What is wrong with the chunks, of *bytes; or NULL. */
static const char *slow_chunks(const lk_h5_dataset *x, size_t *bytes)
{
    bool split = false;
    *bytes = x->element;
    if (x->chunk[0] == 0) return NULL; /* contiguous */
    for (int i = 0; i < x->dims; i++) {
        *bytes *= (size_t)x->chunk[i];
        split |= i > 0 && x->chunk[i] < x->dim[i];
    }
    if (split) return "parts of rows";
    return *bytes > (size_t)1 << 20 && x->chunk[0] > 16 ? "many rows" : NULL;
}

static void note_chunks(lk_dataset *d)
{
    const lk_h5_dataset *x = data_of(d, LK_TRAIN, 0);
    char advice[200] = "h5repack -l ";
    size_t n = strlen(advice), bytes;
    int slow = LK_TRAIN;
    const char *wrong = slow_chunks(x, &bytes);
    if (!wrong) wrong = slow_chunks(data_of(d, slow = LK_VALIDATION, 0), &bytes);
    if (!wrong) return;
    hsize_t rows = lk_h5_chunk_rows(x->row);
    for (int s = 0; s < 2; s++) {
        if (d->rows[s] == 0) continue; /* it can have no chunks */
        if ((hsize_t)d->rows[s] < rows) rows = (hsize_t)d->rows[s];
        n += (size_t)snprintf(advice + n, sizeof advice - n, "%s%s/%s", s ? "," : "",
                              lk_split_name(s), d->field[0].name);
    }
    for (int i = 0; i < x->dims; i++)
        n += (size_t)snprintf(advice + n, sizeof advice - n, "%s%llu", i ? "x" : ":CHUNK=",
                              (unsigned long long)(i ? x->dim[i] : rows));
    snprintf(d->warning, sizeof d->warning, "%.200s: '%s/%s' will be slow to read: its chunks of "
             "%zu KiB hold %s; import it again, or %s IN OUT", d->path, lk_split_name(slow),
             d->field[0].name, bytes >> 10, wrong, advice);
}

/* The text of each image. */
static lk_status open_texts(lk_dataset *d)
{
    d->fields = 3;
    LK_TRY(open_field(d, 2, "tokens", LK_H5_U16, 2));
    LK_TRY(check_inner(d, 2));
    hsize_t length = data_of(d, LK_TRAIN, 2)->dim[1];
    if (length > MAX_TEXT)
        return lk_fail(LK_E_INPUT, "%s: 'train/tokens': expected at most %d tokens an image, found "
                       "%llu; make the texts shorter", d->path, MAX_TEXT,
                       (unsigned long long)length);
    d->image.text = (int64_t)length;
    return LK_OK;
}

static lk_status open_images(lk_dataset *d)
{
    LK_TRY(open_field(d, 0, "images", LK_H5_U8, IMAGE_DIMS));
    LK_TRY(open_field(d, 1, "labels", LK_H5_U16, 1));
    LK_TRY(check_inner(d, 0));
    const hsize_t *dim = data_of(d, LK_TRAIN, 0)->dim;
    if (dim[1] > MAX_SIDE || dim[2] > MAX_SIDE || dim[3] > MAX_SIDE)
        return lk_fail(LK_E_INPUT,
                       "%s: expected images of at most %d pixels a side, found "
                       "%llux%llux%llu; import them again with a smaller --size",
                       d->path, MAX_SIDE, (unsigned long long)dim[1], (unsigned long long)dim[2],
                       (unsigned long long)dim[3]);
    d->image.height = (int64_t)dim[1];
    d->image.width = (int64_t)dim[2];
    d->image.channels = (int64_t)dim[3];
    LK_TRY(lk_format_read_images(d->handles->file, d->path, &d->image));
    if (d->image.vocabulary > 0) LK_TRY(open_texts(d));
    note_chunks(d);
    return LK_OK;
}

static lk_status open_table(lk_dataset *d)
{
    LK_TRY(open_field(d, 0, "features", LK_H5_F32, TABLE_DIMS));
    LK_TRY(open_field(d, 1, "labels", LK_H5_U16, 1));
    LK_TRY(check_inner(d, 0));
    LK_TRY(lk_format_read_table(d->handles->file, d->path,
                                (int64_t)data_of(d, LK_TRAIN, 0)->dim[1], &d->table));
    note_chunks(d);
    return LK_OK;
}

/* The digest of the file covers the data, so it must not be the only thing believed here. */
static lk_status check(lk_dataset *d)
{
    struct lk_dataset_handles *h = d->handles;
    bool there = false;
    static lk_status (*const open_kind[LK_DATASET_KINDS])(lk_dataset *) = {open_text, open_images,
                                                                           open_table};
    char *digest = NULL;
    LK_TRY(lk_format_read_kind(h->file, d->path, false, &d->kind));
    LK_TRY(lk_h5_get_u64(h->file, d->path, "version", &h->version));
    lk_status status = lk_h5_get_text(h->file, d->path, "digest", &digest);
    LK_TRY(status);
    if (strspn(digest, "0123456789abcdef") != LK_DIGEST_TEXT - 1 || digest[LK_DIGEST_TEXT - 1])
        status = lk_fail(LK_E_INPUT,
                         "%s: attribute 'digest': expected 32 hexadecimal digits, "
                         "found '%.60s'; the file is damaged, import it again",
                         d->path, digest);
    else
        memcpy(d->digest, digest, LK_DIGEST_TEXT);
    free(digest);
    LK_TRY(status);
    LK_TRY(lk_h5_has(h->file, d->path, "source", &there));
    if (there) LK_TRY(lk_h5_get_text(h->file, d->path, "source", &d->source));
    LK_TRY(lk_h5_has(h->file, d->path, "reference", &there));
    if (there) LK_TRY(lk_h5_get_text(h->file, d->path, "reference", &d->reference));
    d->fields = d->kind == LK_TEXT_DATA ? 1 : 2;
    return open_kind[d->kind](d);
}

/* On the I/O thread, after it read of the file. */
static void note_retries(lk_dataset *d)
{
    struct lk_dataset_handles *h = d->handles;
    const char *note = lk_h5_note(d->path);
    if (!note[0] || atomic_load(&h->retries) != NO_RETRIES) return;
    snprintf(h->retried, sizeof h->retried, "%s", note);
    atomic_store(&h->retries, RETRIES_NOTED);
}

bool lk_dataset_retried(lk_dataset *d, char *text, size_t size)
{
    struct lk_dataset_handles *h = d->handles;
    if (atomic_load(&h->retries) != RETRIES_NOTED) return false;
    snprintf(text, size, "%s", h->retried);
    atomic_store(&h->retries, RETRIES_TOLD);
    return true;
}

static lk_status open_job(void *argument)
{
    lk_dataset *d = argument;
    struct lk_dataset_handles *h = d->handles;
    lk_status status = lk_h5_open(d->path, LK_SCHEMA_DATASET, &h->file);
    if (status == LK_OK) status = check(d);
    note_retries(d);
    return lk_h5_agree(h->comm, status);
}

static lk_status close_job(void *argument)
{
    struct lk_dataset_handles *h = argument;
    for (int i = 0; i < 2; i++)
        for (int f = 0; f < LK_DATASET_FIELDS; f++) lk_slabs_close(h->slabs[i][f]);
    if (h->file >= 0) H5Fclose(h->file); /* read only: nothing to lose */
    return LK_OK;
}

lk_status lk_dataset_open(lk_io *io, MPI_Comm world, const char *path, lk_dataset **dataset)
{
    lk_dataset *d = calloc(1, sizeof *d);
    struct lk_dataset_handles *h = calloc(1, sizeof *h);
    char *copy = strdup(path);
    MPI_Comm comm;
    lk_status status = lk_h5_comm(world, &comm);
    if (status == LK_OK)
        status = lk_h5_agree(comm, d && h && copy ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory"));
    if (status != LK_OK) {
        free(d);
        free(h);
        free(copy);
        return status;
    }
    h->comm = comm;
    h->file = -1;
    d->path = copy;
    d->handles = h;
    d->io = io;
    status = lk_io_call(io, open_job, d);
    if (status != LK_OK) {
        lk_dataset_close(d);
        return status;
    }
    *dataset = d;
    return LK_OK;
}

void lk_dataset_close(lk_dataset *d)
{
    if (!d) return;
    lk_io_call(d->io, close_job, d->handles);
    MPI_Comm_free(&d->handles->comm);
    free(d->handles);
    free(d->vocabulary);
    free(d->source);
    free(d->reference);
    lk_image_format_clear(&d->image);
    lk_table_format_clear(&d->table);
    free(d->path);
    free(d);
}

lk_status lk_dataset_expect(const lk_dataset *d, lk_dataset_kind kind)
{
    static const char *const article[LK_DATASET_KINDS] = {"a text", "images", "a table"};
    if (d->kind == kind) return LK_OK;
    if (d->kind == LK_TABLE_DATA)
        return lk_fail(LK_E_INPUT, "%s: expected a dataset of kind '%s', found 'table', which no "
                       "model learns from yet; make one with 'lockstep import' from %s", d->path,
                       lk_dataset_kind_name(kind), article[kind]);
    return lk_fail(LK_E_INPUT, "%s: expected a dataset of kind '%s', found '%s'; make one with "
                   "'lockstep import' from %s, or use a model for the data there is", d->path,
                   lk_dataset_kind_name(kind), lk_dataset_kind_name(d->kind), article[kind]);
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct reading {
    lk_dataset *d;
    lk_split split;
    int field;
    int64_t first, count;
    void *out;
    bool *right;  /* NULL: the digests must be right */
    bool checked; /* the values too */
} reading;

/* Values of a field that index something are below this; 0: no such field. */
static int64_t limit_of(const lk_dataset *d, int field)
{
    if (d->kind == LK_TEXT_DATA) return d->vocabulary_size;
    if (field == 0) return 0;
    if (field == 2) return d->image.vocabulary;
    return d->kind == LK_IMAGE_DATA ? d->image.classes : d->table.classes;
}

static lk_status bad_value(const reading *r, int64_t row, int value)
{
    bool text = r->d->kind == LK_TEXT_DATA || r->field == 2;
    char path[64];
    return lk_fail(LK_E_INPUT, "%s: '%s': %s %d at %lld is not below the %s %lld; the file is "
                   "damaged, import it again", r->d->path,
                   path_of(r->d, r->split, r->field, path), text ? "token" : "label", value,
                   (long long)(r->first + row), text ? "vocabulary size" : "number of classes",
                   (long long)limit_of(r->d, r->field));
}

static lk_status check_values(const reading *r)
{
    int64_t limit = limit_of(r->d, r->field);
    const lk_dataset_field *f = &r->d->field[r->field];
    bool narrow_type = f->dtype == LK_U8;
    int64_t row = (int64_t)(f->row_bytes / lk_dtype_size(f->dtype)), n = r->count * row;
    const uint8_t *narrow = r->out;
    const uint16_t *wide = r->out;
    unsigned largest = 0; /* first without branches: it vectorises */
    if (limit == 0 || r->count == 0) return LK_OK;
    if (narrow_type)
        for (int64_t i = 0; i < n; i++) largest = narrow[i] > largest ? narrow[i] : largest;
    else
        for (int64_t i = 0; i < n; i++) largest = wide[i] > largest ? wide[i] : largest;
    if ((int64_t)largest < limit) return LK_OK;
    for (int64_t i = 0; i < n; i++) {
        int value = narrow_type ? narrow[i] : wide[i];
        if (value >= limit) return bad_value(r, i / row, value);
    }
    return LK_OK;
}

static lk_status read_job(void *argument)
{
    const reading *r = argument;
    LK_TRY(lk_slabs_read(r->d->handles->slabs[r->split][r->field], r->first, r->count, r->out,
                         r->right));
    note_retries(r->d);
    return r->checked ? check_values(r) : LK_OK;
}

static lk_status read_rows(const reading *r)
{
    const lk_dataset *d = r->d;
    char path[64];
    int split = r->split, field = r->field;
    int64_t rows = d->rows[split], first = r->first, count = r->count;
    if (field < 0 || field >= d->fields)
        return lk_fail(LK_E_INTERNAL, "%s: field %d of %d", d->path, field, d->fields);
    if (first < 0 || count < 0 || first > rows || count > rows - first)
        return lk_fail(LK_E_INTERNAL, "%s: rows %lld to %lld are outside '%s' of %lld", d->path,
                       (long long)first, (long long)(first + count), path_of(d, split, field, path),
                       (long long)rows);
    return lk_io_call_independent(d->io, read_job, (void *)r);
}

lk_status lk_dataset_read(lk_dataset *d, lk_split split, int field, int64_t first, int64_t count,
                          void *out)
{
    return read_rows(&(reading){d, split, field, first, count, out, NULL, true});
}

lk_status lk_dataset_inspect(lk_dataset *d, lk_split split, int field, int64_t first, int64_t count,
                             void *out, bool *right)
{
    return read_rows(&(reading){d, split, field, first, count, out, right, false});
}

bool lk_dataset_digested(const lk_dataset *d, lk_split split, int field)
{
    return lk_slabs_digested(d->handles->slabs[split][field]);
}
