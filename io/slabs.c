/* Slabs of a dataset: read as chunks where they are chunks, compared, and the last ones kept. */
#include "io/slabs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHE ((size_t)1 << 26) /* bytes kept: random rows of a large file hit some again */
enum { CHECKSUM = 4, NONE = -1 }; /* bytes of Fletcher-32, behind the chunk */

struct lk_slabs {
    const char *where;
    char path[64];
    lk_h5_dataset data;
    int64_t total, rows; /* of the dataset, of a slab */
    /* with a list of digests */
    uint64_t *digest; /* [slabs]; NULL: there is none */
    int64_t slabs;
    bool chunked;    /* a slab is a chunk that can be read as it lies */
    size_t room;     /* bytes of a buffer for one */
    char *buffer;    /* the slab that is on its way elsewhere */
    int32_t *place;  /* [slabs] where it is kept, NONE: nowhere */
    int64_t *holds;  /* [places] which slab, NONE: none */
    char **kept;     /* [places] */
    int places, next; /* next: the oldest, to be replaced */
    /* without */
    enum { UNKNOWN, RIGHT, WRONG } whole; /* its digest */
};

/* ---- opening --------------------------------------------------------------------------------- */

static lk_status read_list(lk_slabs *s, hid_t file, const char *path)
{
    lk_h5_dataset d = {.id = -1};
    uint64_t rows = 0;
    LK_TRY(lk_h5_dataset_open(file, s->where, path, 0, &d));
    lk_status status = lk_h5_dataset_expect(&d, s->where, path, LK_H5_U64, 1);
    if (status == LK_OK) status = lk_h5_get_u64(d.id, s->where, "rows", &rows);
    if (status == LK_OK && (rows < 1 || rows > INT64_MAX / 2))
        status = lk_fail(LK_E_INPUT, "%s: '%s': %llu rows of a slab make no sense; the file is "
                         "damaged, import it again", s->where, path, (unsigned long long)rows);
    s->rows = status == LK_OK ? (int64_t)rows : 1;
    s->slabs = s->total / s->rows + (s->total % s->rows > 0);
    if (status == LK_OK && d.dim[0] != (hsize_t)s->slabs)
        status = lk_fail(LK_E_INPUT, "%s: '%s': expected %lld digests, found %llu; the file is "
                         "damaged, import it again", s->where, path, (long long)s->slabs,
                         (unsigned long long)d.dim[0]);
    if (status == LK_OK && !(s->digest = malloc(d.bytes + 1)))
        status = lk_fail(LK_E_SYSTEM, "out of memory for the digests of '%s'", s->where);
    if (status == LK_OK) status = lk_h5_dataset_read(&d, s->where, path, s->digest);
    lk_h5_release(&d.id);
    return status;
}

/* A chunk is a slab, and its bytes are those of its rows. */
static bool is_chunked(const lk_slabs *s)
{
    const lk_h5_dataset *d = &s->data;
    hsize_t rows = (hsize_t)(s->rows < s->total ? s->rows : s->total);
    if (d->packed || d->dims < 1 || d->chunk[0] != rows) return false;
    for (int i = 1; i < d->dims; i++)
        if (d->chunk[i] != d->dim[i]) return false;
    return true;
}

static lk_status make_room(lk_slabs *s)
{
    size_t rows = (size_t)(s->rows < s->total ? s->rows : s->total);
    if (__builtin_mul_overflow(rows, s->data.row, &s->room))
        return lk_fail(LK_E_INPUT, "%s: '%s': a slab of %zu rows is too large; import it again",
                       s->where, s->path, rows);
    s->chunked = is_chunked(s);
    s->room += CHECKSUM;
    size_t places = CACHE / s->room + 1;
    s->places = places < (size_t)s->slabs ? (int)places : (int)s->slabs;
    s->buffer = malloc(s->room);
    s->place = malloc((size_t)s->slabs * sizeof *s->place + 1);
    s->holds = malloc((size_t)s->places * sizeof *s->holds + 1);
    s->kept = calloc((size_t)s->places + 1, sizeof *s->kept);
    if (!s->buffer || !s->place || !s->holds || !s->kept)
        return lk_fail(LK_E_SYSTEM, "out of memory for rows of '%s'", s->where);
    for (int64_t k = 0; k < s->slabs; k++) s->place[k] = NONE;
    for (int i = 0; i < s->places; i++) s->holds[i] = NONE;
    return LK_OK;
}

static lk_status open_both(lk_slabs *s, hid_t file, bool demanded)
{
    char list[80];
    snprintf(list, sizeof list, "digests/%s", s->path);
    LK_TRY(lk_h5_dataset_open(file, s->where, s->path, CACHE, &s->data));
    s->total = s->data.dims > 0 ? (int64_t)s->data.dim[0] : 1;
    if (!demanded) return LK_OK;
    LK_TRY(read_list(s, file, list));
    return s->total > 0 ? make_room(s) : LK_OK;
}

lk_status lk_slabs_open(hid_t file, const char *where, const char *path, bool demanded,
                        lk_slabs **slabs)
{
    lk_slabs *s = calloc(1, sizeof *s);
    if (!s) return lk_fail(LK_E_SYSTEM, "out of memory");
    s->where = where;
    s->data.id = -1;
    snprintf(s->path, sizeof s->path, "%s", path);
    lk_status status = open_both(s, file, demanded);
    if (status != LK_OK) {
        lk_slabs_close(s);
        return status;
    }
    *slabs = s;
    return LK_OK;
}

void lk_slabs_close(lk_slabs *s)
{
    if (!s) return;
    lk_h5_release(&s->data.id);
    for (int i = 0; i < s->places && s->kept; i++) free(s->kept[i]);
    free(s->kept);
    free(s->holds);
    free(s->place);
    free(s->buffer);
    free(s->digest);
    free(s);
}

const lk_h5_dataset *lk_slabs_dataset(const lk_slabs *s) { return &s->data; }

bool lk_slabs_digested(const lk_slabs *s) { return s->digest || s->data.digest[0]; }

/* ---- reading --------------------------------------------------------------------------------- */

static int64_t rows_of(const lk_slabs *s, int64_t k)
{
    int64_t left = s->total - k * s->rows;
    return left < s->rows ? left : s->rows;
}

/* The chunk as it lies in the file. Its size there is the file's word: it is looked at first. */
static lk_status read_chunk(const lk_slabs *s, int64_t k, void *to)
{
    hsize_t at[LK_H5_MAX_DIMS] = {(hsize_t)(k * s->rows)}, stored = 0;
    size_t bytes = s->room - CHECKSUM;
    uint32_t skipped = 0;
    LK_H5(LK_E_INPUT, H5Dget_chunk_storage_size(s->data.id, at, &stored),
          "%s: cannot find rows %lld to %lld of '%s'", s->where, (long long)at[0],
          (long long)at[0] + rows_of(s, k) - 1, s->path);
    if (stored != bytes && stored != bytes + CHECKSUM)
        return lk_fail(LK_E_INPUT, "%s: '%s': expected %zu bytes of the rows from %lld, found "
                       "%llu; the file is damaged, import it again", s->where, s->path, bytes,
                       (long long)at[0], (unsigned long long)stored);
    LK_H5(LK_E_INPUT, H5Dread_chunk(s->data.id, H5P_DEFAULT, at, &skipped, to),
          "%s: cannot read rows %lld to %lld of '%s'", s->where, (long long)at[0],
          (long long)at[0] + rows_of(s, k) - 1, s->path);
    return LK_OK;
}

/* Read slab k into memory of `room` bytes; *good: its digest is right. Else *right is false, or
 * without `right` it is an error. */
static lk_status load(const lk_slabs *s, int64_t k, void *to, bool *right, bool *good)
{
    int64_t first = k * s->rows, rows = rows_of(s, k);
    if (s->chunked)
        LK_TRY(read_chunk(s, k, to));
    else
        LK_TRY(lk_h5_dataset_rows(&s->data, s->where, s->path, (hsize_t)first, (hsize_t)rows, to));
    uint64_t found = lk_digest_64(to, (size_t)rows * s->data.row);
    *good = found == s->digest[k];
    if (*good) return LK_OK;
    if (right) {
        *right = false;
        return LK_OK;
    }
    return lk_fail(LK_E_INPUT, "%s: '%s': rows %lld to %lld are not those that were imported: "
                   "expected digest %016llx, found %016llx; the file is damaged, import it again",
                   s->where, s->path, (long long)first, (long long)(first + rows - 1),
                   (unsigned long long)s->digest[k], (unsigned long long)found);
}

/* The slab, kept from now on if it is good. It stays valid until the next call. */
static lk_status find(lk_slabs *s, int64_t k, bool *right, const char **slab)
{
    int i = s->place[k];
    bool good = true;
    if (i == NONE) {
        i = s->next;
        if (!s->kept[i] && !(s->kept[i] = malloc(s->room)))
            return lk_fail(LK_E_SYSTEM, "out of memory for rows of '%s'", s->where);
        if (s->holds[i] != NONE) s->place[s->holds[i]] = NONE;
        s->holds[i] = NONE;
        LK_TRY(load(s, k, s->kept[i], right, &good));
        if (good) {
            s->holds[i] = k;
            s->place[k] = i;
            s->next = (i + 1) % s->places;
        }
    }
    *slab = s->kept[i];
    return LK_OK;
}

static lk_status read_slabs(lk_slabs *s, int64_t first, int64_t count, char *out, bool *right)
{
    size_t row = s->data.row;
    for (int64_t at = first; at < first + count;) {
        int64_t k = at / s->rows, rows = rows_of(s, k), skip = at - k * s->rows;
        int64_t n = rows - skip < first + count - at ? rows - skip : first + count - at;
        const char *slab = s->buffer;
        bool good;
        if (n == rows && s->place[k] == NONE) /* all of it: nobody will want it again soon */
            LK_TRY(load(s, k, s->buffer, right, &good));
        else
            LK_TRY(find(s, k, right, &slab));
        memcpy(out + (size_t)(at - first) * row, slab + (size_t)skip * row, (size_t)n * row);
        at += n;
    }
    return LK_OK;
}

/* The whole, before its first row is given out. With `right` it is looked at once. */
static lk_status verify_whole(lk_slabs *s, bool *right)
{
    if (s->data.digest[0] && (s->whole == UNKNOWN || (s->whole == WRONG && !right))) {
        lk_status status = lk_h5_dataset_verify(&s->data, s->where, s->path);
        if (status != LK_OK && (status != LK_E_INPUT || !right)) return status;
        s->whole = status == LK_OK ? RIGHT : WRONG;
        lk_error_clear();
    }
    if (s->whole == WRONG) *right = false;
    return LK_OK;
}

lk_status lk_slabs_read(lk_slabs *s, int64_t first, int64_t count, void *out, bool *right)
{
    if (count == 0 || s->data.row == 0) return LK_OK;
    if (s->digest) return read_slabs(s, first, count, out, right);
    LK_TRY(verify_whole(s, right));
    return lk_h5_dataset_rows(&s->data, s->where, s->path, (hsize_t)first, (hsize_t)count, out);
}

/* ---- writing --------------------------------------------------------------------------------- */

lk_status lk_slab_maker_create(lk_slab_maker *m, size_t row, int64_t total)
{
    int64_t rows = (int64_t)lk_h5_chunk_rows(row);
    *m = (lk_slab_maker){.row = row, .rows = rows, .bytes = (size_t)rows * row};
    m->room = total / rows + (total % rows > 0);
    m->list = malloc((size_t)m->room * sizeof *m->list + 1);
    m->slab = malloc(m->bytes + 1);
    return m->list && m->slab ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for digests");
}

void lk_slab_maker_add(lk_slab_maker *m, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size > 0) {
        size_t n = m->bytes - m->filled < size ? m->bytes - m->filled : size;
        memcpy(m->slab + m->filled, at, n);
        m->filled += n;
        at += n;
        size -= n;
        if (m->filled < m->bytes) break;
        if (m->count < m->room) m->list[m->count++] = lk_digest_64(m->slab, m->bytes);
        m->filled = 0;
    }
}

static lk_status write_list(const lk_slab_maker *m, hid_t file, const char *where, const char *path)
{
    LK_H5_AUTO hid_t dataset = -1;
    char digest[LK_DIGEST_TEXT];
    hsize_t count = (hsize_t)m->count;
    LK_TRY(lk_h5_dataset_write(file, where, path, LK_H5_U64, 1, &count,
                               LK_H5_CHUNK / sizeof *m->list, m->list, &dataset));
    lk_digest_bytes(m->list, (size_t)m->count * sizeof *m->list, digest);
    LK_TRY(lk_h5_set_u64(dataset, where, "rows", (uint64_t)m->rows));
    return lk_h5_set_text(dataset, where, "digest", digest);
}

lk_status lk_slab_maker_write(lk_slab_maker *m, hid_t file, const char *where, const char *path)
{
    char list[80];
    snprintf(list, sizeof list, "digests/%s", path);
    if (m->filled > 0 && m->count < m->room) {
        m->list[m->count++] = lk_digest_64(m->slab, m->filled);
        m->filled = 0;
    }
    if (m->count != m->room)
        return lk_fail(LK_E_INTERNAL, "%s: '%s': %lld digests of %lld", where, list,
                       (long long)m->count, (long long)m->room);
    return write_list(m, file, where, list);
}

void lk_slab_maker_clear(lk_slab_maker *m)
{
    free(m->list);
    free(m->slab);
    *m = (lk_slab_maker){.list = NULL};
}
