/* A dataset file opened by all ranks: everything is checked at the opening, so that later reads
 * can only fail for damage. */
#include "io/dataset.h"
#include "io/hdf5.h"

#include <stdlib.h>
#include <string.h>

#define CACHE ((size_t)1 << 26) /* bytes: random windows of a large file hit some chunks again */

static const char *const token_path[2] = {"train/tokens", "validation/tokens"};

struct lk_dataset_handles {
    MPI_Comm comm;
    hid_t file;
    lk_h5_dataset tokens[2];
};

/* The digest of the file covers the streams, so it must not be the only thing believed here. */
static lk_status check(lk_dataset *d)
{
    struct lk_dataset_handles *h = d->handles;
    char *kind = NULL, *digest = NULL;
    LK_TRY(lk_h5_get_text(h->file, d->path, "kind", &kind));
    lk_status status = strcmp(kind, "text") == 0
                           ? LK_OK
                           : lk_fail(LK_E_INPUT, "%s: expected the kind 'text', found '%.60s'",
                                     d->path, kind);
    free(kind);
    LK_TRY(status);
    LK_TRY(lk_h5_get_text(h->file, d->path, "digest", &digest));
    if (strspn(digest, "0123456789abcdef") != LK_DIGEST_TEXT - 1 || digest[LK_DIGEST_TEXT - 1])
        status = lk_fail(LK_E_INPUT, "%s: attribute 'digest': expected 32 hexadecimal digits, "
                         "found '%.60s'", d->path, digest);
    else
        memcpy(d->digest, digest, LK_DIGEST_TEXT);
    free(digest);
    LK_TRY(status);
    LK_TRY(lk_h5_vocabulary(h->file, d->path, &d->characters, &d->vocabulary,
                            &d->vocabulary_size));
    lk_h5_type type = d->vocabulary_size <= 256 ? LK_H5_U8 : LK_H5_U16;
    for (int i = 0; i < 2; i++) {
        LK_TRY(lk_h5_dataset_open(h->file, d->path, token_path[i], CACHE, &h->tokens[i]));
        LK_TRY(lk_h5_dataset_expect(&h->tokens[i], d->path, token_path[i], type, 1));
        d->tokens[i] = (int64_t)h->tokens[i].dim[0];
    }
    d->dtype = type == LK_H5_U8 ? LK_U8 : LK_U16;
    return LK_OK;
}

static lk_status open_job(void *argument)
{
    lk_dataset *d = argument;
    struct lk_dataset_handles *h = d->handles;
    LK_TRY(lk_h5_open(d->path, h->comm, "lockstep dataset", &h->file));
    return lk_h5_agree(h->comm, check(d));
}

static lk_status close_job(void *argument)
{
    struct lk_dataset_handles *h = argument;
    for (int i = 0; i < 2; i++) lk_h5_release(&h->tokens[i].id);
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
    *h = (struct lk_dataset_handles){comm, -1, {{.id = -1}, {.id = -1}}};
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
    free(d->path);
    free(d);
}

typedef struct reading {
    lk_dataset *d;
    lk_split split;
    int64_t first, count;
    void *out;
} reading;

static lk_status bad_token(const reading *r, int64_t i, int token)
{
    return lk_fail(LK_E_INPUT, "%s: '%s': token %d at %lld is not below the vocabulary size %lld; "
                   "the file is damaged, import it again", r->d->path, token_path[r->split], token,
                   (long long)(r->first + i), (long long)r->d->vocabulary_size);
}

static lk_status read_job(void *argument)
{
    const reading *r = argument;
    const lk_h5_dataset *tokens = &r->d->handles->tokens[r->split];
    LK_TRY(lk_h5_dataset_rows(tokens, r->d->path, token_path[r->split], (hsize_t)r->first,
                              (hsize_t)r->count, r->out));
    const uint8_t *narrow = r->out;
    const uint16_t *wide = r->out;
    unsigned largest = 0; /* first without branches: it vectorises */
    if (r->d->dtype == LK_U8)
        for (int64_t i = 0; i < r->count; i++) largest = narrow[i] > largest ? narrow[i] : largest;
    else
        for (int64_t i = 0; i < r->count; i++) largest = wide[i] > largest ? wide[i] : largest;
    if ((int64_t)largest < r->d->vocabulary_size) return LK_OK;
    for (int64_t i = 0; i < r->count; i++) {
        int token = r->d->dtype == LK_U8 ? narrow[i] : wide[i];
        if (token >= r->d->vocabulary_size) return bad_token(r, i, token);
    }
    return LK_OK;
}

lk_status lk_dataset_read(lk_dataset *d, lk_split split, int64_t first, int64_t count, void *out)
{
    if (first < 0 || count < 0 || first > d->tokens[split] || count > d->tokens[split] - first)
        return lk_fail(LK_E_INTERNAL, "%s: tokens %lld to %lld are outside '%s' of %lld", d->path,
                       (long long)first, (long long)(first + count), token_path[split],
                       (long long)d->tokens[split]);
    reading r = {d, split, first, count, out};
    return lk_io_call(d->io, read_job, &r);
}
