/* What the importers share: checks, the writer of rows, labels. */
#include "io/import_rows.h"
#include "base/replace.h"
#include "base/utf8.h"
#include "io/journal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- checks ---------------------------------------------------------------------------------- */

static lk_status check_input(const char *path, const char *output, const struct stat *out,
                             int64_t *bytes)
{
    struct stat in;
    if (stat(path, &in) != 0) return lk_fail_open(path);
    if (!S_ISREG(in.st_mode))
        return lk_fail(LK_E_INPUT, "%s: expected a file, found %s; name a file", path,
                       S_ISDIR(in.st_mode) ? "a directory" : "something that is not a file");
    if (out && in.st_dev == out->st_dev && in.st_ino == out->st_ino)
        return lk_fail(LK_E_INPUT, "%s: is both input and output; name another output", output);
    if (bytes) *bytes += (int64_t)in.st_size;
    return LK_OK;
}

/* HDF5 may not have written the beginning of its file when an import is killed. */
lk_status lk_import_check_part(const char *output, const char *ending)
{
    static const struct beginning {
        const char *bytes;
        size_t length;
    } ours[] = {{LK_JOURNAL_MAGIC, sizeof LK_JOURNAL_MAGIC - 1},
                {"\211HDF\r\n\032\n", 8},
                {"\0\0\0\0\0\0\0", 8}};
    char *part = NULL, found[32] = "";
    struct stat s;
    LK_TRY(lk_import_name(output, ending, &part));
    FILE *f = stat(part, &s) == 0 && S_ISREG(s.st_mode) ? fopen(part, "rb") : NULL;
    size_t n = f ? fread(found, 1, sizeof found, f) : 0;
    bool good = false;
    for (size_t i = 0; i < sizeof ours / sizeof *ours && !good; i++)
        good = memcmp(found, ours[i].bytes, n < ours[i].length ? n : ours[i].length) == 0;
    lk_status status = LK_OK;
    if (f && ferror(f))
        status = lk_fail(LK_E_SYSTEM, "%s: cannot read: %s; check the disk it lies on", part,
                         strerror(errno));
    else if (!good)
        status = lk_fail(LK_E_INPUT, "%s: is there, and is not what an import leaves; move it "
                         "away, or name another output", part);
    if (f) fclose(f);
    free(part);
    return status;
}

lk_status lk_import_check(const lk_import_target *to, int files, const char *const *file,
                          int64_t *bytes)
{
    struct stat out;
    bool exists = stat(to->output, &out) == 0, nowhere = !exists && lstat(to->output, &out) == 0;
    if (!(to->validation < 1))
        return lk_fail(LK_E_INPUT,
                       "validation fraction: expected a number in [0, 1), found %g; "
                       "choose one",
                       to->validation);
    for (int i = 0; i < files; i++)
        LK_TRY(check_input(file[i], to->output, exists ? &out : NULL, bytes));
    if (exists && !S_ISREG(out.st_mode))
        return lk_fail(LK_E_INPUT, "%s: exists and is not a file; name another output", to->output);
    if ((exists || nowhere) && !to->overwrite)
        return lk_fail(LK_E_INPUT, "%s: exists already%s; give --overwrite to replace it, or name "
                       "another output", to->output, nowhere ? ", a link that leads nowhere" : "");
    LK_TRY(lk_import_check_part(to->output, ".part"));
    return lk_replace_check(to->output, NULL);
}

lk_status lk_import_name(const char *output, const char *ending, char **name)
{
    size_t length = strlen(output) + strlen(ending) + 1;
    char *text = malloc(length);
    if (!text) return lk_fail(LK_E_SYSTEM, "out of memory");
    snprintf(text, length, "%s%s", output, ending);
    *name = text;
    return LK_OK;
}

double lk_import_fraction(const lk_import_target *to)
{
    return to->validation < 0 ? LK_IMPORT_VALIDATION : to->validation;
}

void lk_import_note_bad(const lk_import_target *to, lk_import_result *result, const char *where,
                        const char *reason)
{
    result->bad++;
    if (to->bad) to->bad(to->context, where, reason);
}

lk_status lk_import_check_bad(const lk_import_target *to, const lk_import_result *result,
                              const char *what, const char *kept)
{
    if (result->bad <= to->max_bad) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected at most %lld bad %s, found %lld, listed above; repair "
                   "or remove them, or give --max-bad %lld to leave them out%s%s", to->output,
                   (long long)to->max_bad, what, (long long)result->bad, (long long)result->bad,
                   kept ? ", which goes on from " : "", kept ? kept : "");
}

lk_status lk_import_check_classes(const char *where, char *const *name, int64_t classes)
{
    if (classes > 1) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected at least 2 classes, found 1: '%.60s'; is it the right "
                   "input?", where, name[0]);
}

/* ---- the writer ------------------------------------------------------------------------------ */

static const char *field_name(const lk_rows *w, int field)
{
    static const char *const name[LK_DATASET_KINDS] = {"tokens", "images", "features"};
    return field == 1 ? "labels" : name[w->kind];
}

static void name_dataset(const lk_rows *w, int split, int field, char path[64])
{
    snprintf(path, 64, "%s/%s", lk_split_name(split), field_name(w, field));
}

static lk_status create_dataset(lk_rows *w, int split, int field)
{
    char path[64];
    hsize_t dim[LK_H5_MAX_DIMS];
    memcpy(dim, w->inner, sizeof dim);
    dim[0] = (hsize_t)w->rows[split];
    name_dataset(w, split, field, path);
    LK_TRY(lk_h5_dataset_create(w->file, w->part, path, w->type[field], field == 0 ? w->dims : 1,
                                dim, lk_h5_chunk_rows(w->row[field]),
                                &w->dataset[split][field]));
    LK_TRY(lk_slab_maker_create(&w->slabs[split][field], w->row[field], w->rows[split]));
    return lk_digest_create(&w->digest[split][field]);
}

lk_status lk_rows_create(lk_rows *w, char *part, lk_dataset_kind kind, lk_h5_type type, int dims,
                         const int64_t *dim, const int64_t rows[2])
{
    int lock;
    lk_status status = lk_replace_lock(part, &lock);
    if (status != LK_OK) free(part);
    LK_TRY(status);
    *w = (lk_rows){.part = part, .lock = lock, .file = -1, .kind = kind, .dims = dims,
                   .fields = kind == LK_TEXT_DATA ? 1 : 2, .type = {type, LK_H5_U16}};
    for (int i = 0; i < 4; i++) w->dataset[i / 2][i % 2] = -1;
    for (int f = 0; f < 2; f++) w->row[f] = H5Tget_size(lk_h5_type_id(w->type[f]));
    for (int i = 1; i < dims; i++) {
        w->inner[i] = (hsize_t)dim[i - 1];
        w->row[0] *= (size_t)dim[i - 1];
    }
    memcpy(w->rows, rows, sizeof w->rows);
    LK_TRY(lk_h5_create(w->part, MPI_COMM_NULL, LK_SCHEMA_DATASET, &w->file));
    LK_TRY(lk_h5_set_text(w->file, w->part, "kind", lk_dataset_kind_name(kind)));
    for (int i = 0; i < 4; i++)
        if (i % 2 < w->fields) LK_TRY(create_dataset(w, i / 2, i % 2));
    return lk_reference_maker_create(&w->reference, kind, LK_DATASET_VOCABULARY,
                                     dims > 1 ? dim[dims - 2] : 0);
}

static lk_status put_field(lk_rows *w, int split, int field, hsize_t count, const void *data)
{
    LK_H5_AUTO hid_t file_space = -1, memory_space = -1;
    hid_t dataset = w->dataset[split][field], type = lk_h5_type_id(w->type[field]);
    hsize_t first[LK_H5_MAX_DIMS] = {(hsize_t)w->written[split]}, size[LK_H5_MAX_DIMS];
    int dims = field == 0 ? w->dims : 1;
    memcpy(size, w->inner, sizeof size);
    size[0] = count;
    LK_H5(LK_E_SYSTEM, file_space = H5Dget_space(dataset), "%s: rows", w->part);
    LK_H5(LK_E_SYSTEM, H5Sselect_hyperslab(file_space, H5S_SELECT_SET, first, NULL, size, NULL),
          "%s: rows", w->part);
    LK_H5(LK_E_SYSTEM, memory_space = H5Screate_simple(dims, size, NULL), "%s: rows", w->part);
    LK_H5(LK_E_SYSTEM, H5Dwrite(dataset, type, memory_space, file_space, H5P_DEFAULT, data),
          "%s: cannot write '%s'", w->part, field_name(w, field));
    lk_digest_update(w->digest[split][field], data, count * w->row[field]);
    lk_slab_maker_add(&w->slabs[split][field], data, count * w->row[field]);
    return LK_OK;
}

lk_status lk_rows_put(lk_rows *w, lk_split split, int64_t count, const void *data,
                      const uint16_t *labels)
{
    if (count == 0) return LK_OK;
    if (w->written[split] + count > w->rows[split])
        return lk_fail(LK_E_INTERNAL, "%s: more rows than there are", w->part);
    LK_TRY(put_field(w, split, 0, (hsize_t)count, data));
    if (w->fields > 1) LK_TRY(put_field(w, split, 1, (hsize_t)count, labels));
    if (split == LK_TRAIN)
        LK_TRY(lk_reference_maker_add(&w->reference, count, (size_t)count * w->row[0], data,
                                      labels));
    w->written[split] += count;
    return LK_OK;
}

/* Of each dataset; `all`, if wanted, covers them. */
static lk_status write_digests(lk_rows *w, lk_digest *all)
{
    for (int i = 0; i < 4; i++) {
        char one[LK_DIGEST_TEXT], path[64];
        int s = i / 2, f = i % 2;
        if (f == w->fields) continue;
        lk_digest_text(w->digest[s][f], one);
        if (all) lk_digest_update(all, one, sizeof one);
        LK_TRY(lk_h5_set_text(w->dataset[s][f], w->part, "digest", one));
        name_dataset(w, s, f, path);
        LK_TRY(lk_slab_maker_write(&w->slabs[s][f], w->file, w->part, path));
    }
    return LK_OK;
}

static lk_status write_reference(lk_rows *w, int64_t classes)
{
    char *text = NULL;
    w->reference.n.classes = classes;
    LK_TRY(lk_reference_maker_format(&w->reference, w->column, &text));
    lk_status status = lk_h5_set_text(w->file, w->part, "reference", text);
    free(text);
    return status;
}

static lk_status finish(lk_rows *w, const char *output, const char *source, int64_t classes,
                        const char digest[LK_DIGEST_TEXT])
{
    LK_TRY(lk_h5_set_text(w->file, w->part, "source", source));
    LK_TRY(lk_h5_set_text(w->file, w->part, "digest", digest));
    LK_TRY(write_reference(w, classes));
    for (int i = 0; i < 4; i++) {
        lk_h5_release(&w->dataset[i / 2][i % 2]);
        w->dataset[i / 2][i % 2] = -1;
    }
    LK_TRY(lk_h5_close(w->part, &w->file));
    LK_TRY(w->fresh ? lk_replace_publish_new(w->part, output)
                    : lk_replace_publish(w->part, output));
    close(w->lock);
    free(w->part);
    w->part = NULL;
    return LK_OK;
}

static lk_status check_rows(const lk_rows *w)
{
    for (int s = 0; s < 2; s++)
        if (w->written[s] != w->rows[s])
            return lk_fail(LK_E_INTERNAL, "%s: fewer rows than there are", w->part);
    return LK_OK;
}

/* The digest of the whole covers the digests of the datasets and the names of the classes, so that
 * it does not depend on the order in which the splits were written. */
lk_status lk_rows_finish(lk_rows *w, const char *output, const char *source, char *const *name,
                         int64_t classes, char digest[LK_DIGEST_TEXT])
{
    lk_digest *all = NULL;
    char text[LK_DIGEST_TEXT];
    LK_TRY(check_rows(w));
    LK_TRY(lk_digest_create(&all));
    lk_status status = write_digests(w, all);
    for (int64_t i = 0; i < classes; i++) lk_digest_update(all, name[i], strlen(name[i]) + 1);
    lk_digest_text(all, text);
    lk_digest_destroy(all);
    LK_TRY(status);
    LK_TRY(lk_h5_set_texts(w->file, w->part, "classes", name, classes));
    LK_TRY(finish(w, output, source, classes, text));
    memcpy(digest, text, sizeof text);
    return LK_OK;
}

lk_status lk_rows_finish_text(lk_rows *w, const char *output, const char *source,
                              int64_t vocabulary, const char digest[LK_DIGEST_TEXT])
{
    LK_TRY(check_rows(w));
    LK_TRY(write_digests(w, NULL));
    return finish(w, output, source, vocabulary, digest);
}

void lk_rows_tell_untrained(const lk_rows *w, const lk_import_target *to, char *const *name,
                            int64_t classes)
{
    enum { NAMED = 8 };
    char text[200];
    int64_t without = 0;
    for (int64_t i = 0; i < classes && to->untrained; i++) {
        if (w->reference.label[i] > 0 || ++without > NAMED) continue;
        snprintf(text, sizeof text, "no training sample of the class '%.60s'; add some, or keep "
                 "fewer for validation", name[i]);
        to->untrained(to->context, to->output, text);
    }
    if (without <= NAMED) return;
    snprintf(text, sizeof text, "nor of %lld other classes", (long long)(without - NAMED));
    to->untrained(to->context, to->output, text);
}

void lk_rows_abandon(lk_rows *w)
{
    if (w->part) {
        for (int i = 0; i < 4; i++) lk_h5_release(&w->dataset[i / 2][i % 2]);
        lk_h5_abandon(w->part, MPI_COMM_NULL, &w->file);
        unlink(w->part);
        close(w->lock);
        free(w->part);
    }
    for (int i = 0; i < 4; i++) {
        lk_digest_destroy(w->digest[i / 2][i % 2]);
        lk_slab_maker_clear(&w->slabs[i / 2][i % 2]);
    }
    lk_reference_maker_clear(&w->reference);
    memset(w, 0, sizeof *w);
}

/* ---- pixels ---------------------------------------------------------------------------------- */

void lk_pixel_sums_add(lk_pixel_sums *s, const uint8_t *pixels, size_t bytes, int64_t channels)
{
    for (int64_t c = 0; c < channels; c++) {
        uint64_t sum = 0, square = 0;
        for (size_t i = (size_t)c; i < bytes; i += (size_t)channels) {
            sum += pixels[i];
            square += (uint64_t)pixels[i] * pixels[i];
        }
        s->sum[c] += sum;
        s->square[c] += square;
    }
    s->pixels += bytes / (size_t)channels;
}

lk_status lk_pixel_sums_write(const lk_pixel_sums *s, const lk_rows *w, int64_t channels)
{
    double mean[4] = {0}, std[4] = {0}, n = (double)s->pixels;
    for (int64_t c = 0; c < channels; c++) {
        double m = (double)s->sum[c] / n, variance = (double)s->square[c] / n - m * m;
        bool constant = s->sum[c] % s->pixels == 0 &&
                        s->square[c] == s->sum[c] / s->pixels * s->sum[c];
        mean[c] = m / 255;
        std[c] = constant || variance <= 0 ? 1 : sqrt(variance) / 255;
    }
    LK_TRY(lk_h5_set_f64s(w->file, w->part, "mean", mean, channels));
    return lk_h5_set_f64s(w->file, w->part, "std", std, channels);
}

/* ---- labels ---------------------------------------------------------------------------------- */

/* Where a name stands, or would stand, in the sorted list. */
static int64_t place_of(const lk_label_set *s, const char *name, bool *found)
{
    int64_t low = 0, high = s->count;
    *found = false;
    while (low < high && !*found) {
        int64_t middle = (low + high) / 2;
        int order = strcmp(s->name[s->sorted[middle]], name);
        if (order == 0) {
            *found = true;
            low = middle;
        } else if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool lk_label_set_has(const lk_label_set *s, const char *name)
{
    bool found;
    place_of(s, name, &found);
    return found;
}

lk_status lk_label_set_add(lk_label_set *s, const char *name, int32_t *number)
{
    bool found;
    int64_t at = place_of(s, name, &found);
    if (found) {
        *number = s->sorted[at];
        return LK_OK;
    }
    if (!lk_utf8_valid(name))
        return lk_fail(LK_E_INPUT, "expected a name of a class in UTF-8, found other bytes; "
                                   "convert it");
    if (s->count == LK_DATASET_CLASSES)
        return lk_fail(LK_E_INPUT, "expected at most %d classes, found more; is it a column of "
                       "labels?", LK_DATASET_CLASSES);
    if (s->count == s->room) {
        int64_t room = s->room ? 2 * s->room : 64;
        char **names = realloc(s->name, (size_t)room * sizeof *names);
        if (names) s->name = names;
        int32_t *sorted = realloc(s->sorted, (size_t)room * sizeof *sorted);
        if (sorted) s->sorted = sorted;
        if (!names || !sorted) return lk_fail(LK_E_SYSTEM, "out of memory");
        s->room = room;
    }
    s->name[s->count] = strdup(name);
    if (!s->name[s->count]) return lk_fail(LK_E_SYSTEM, "out of memory");
    memmove(s->sorted + at + 1, s->sorted + at, (size_t)(s->count - at) * sizeof *s->sorted);
    s->sorted[at] = *number = (int32_t)s->count++;
    return LK_OK;
}

static bool whole(const char *text, long long *value)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return end != text && *end == '\0' && errno == 0 && text[0] != ' ' && text[0] != '+';
}

static int by_value(const void *a, const void *b, void *names)
{
    char *const *name = names;
    const char *x = name[*(const int32_t *)a], *y = name[*(const int32_t *)b];
    long long p = 0, q = 0;
    whole(x, &p);
    whole(y, &q);
    return p < q ? -1 : p > q ? 1 : strcmp(x, y);
}

lk_status lk_label_set_order(lk_label_set *s, bool numbers, uint16_t **class_of)
{
    long long value;
    uint16_t *map = malloc((size_t)s->count * sizeof *map + 1);
    char **name = malloc((size_t)s->room * sizeof *name + 1);
    if (!map || !name) {
        free(map);
        free(name);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    for (int64_t i = 0; i < s->count && numbers; i++) numbers = whole(s->name[i], &value);
    if (numbers && s->count > 0)
        qsort_r(s->sorted, (size_t)s->count, sizeof *s->sorted, by_value, s->name);
    for (int64_t i = 0; i < s->count; i++) {
        map[s->sorted[i]] = (uint16_t)i;
        name[i] = s->name[s->sorted[i]];
    }
    for (int64_t i = 0; i < s->count; i++) s->sorted[i] = (int32_t)i;
    free(s->name);
    s->name = name;
    *class_of = map;
    return LK_OK;
}

void lk_label_set_clear(lk_label_set *s)
{
    for (int64_t i = 0; i < s->count; i++) free(s->name[i]);
    free(s->name);
    free(s->sorted);
    memset(s, 0, sizeof *s);
}
