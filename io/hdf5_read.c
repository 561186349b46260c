/* Reading of whole datasets, and of rows of them. */
#include "io/hdf5.h"

#include <stdlib.h>
#include <string.h>

static lk_status read_piece(const lk_h5_dataset *d, const char *where, const char *path,
                            hsize_t first, hsize_t count, void *out)
{
    LK_H5_AUTO hid_t file_space = -1, memory_space = -1, type = -1;
    hsize_t start[LK_H5_MAX_DIMS] = {first}, size[LK_H5_MAX_DIMS];
    for (int i = 0; i < d->dims; i++) size[i] = i == 0 ? count : d->dim[i];
    LK_H5(LK_E_INPUT, type = H5Dget_type(d->id), "%s: '%s'", where, path);
    LK_H5(LK_E_INPUT, file_space = H5Dget_space(d->id), "%s: '%s'", where, path);
    if (d->dims > 0)
        LK_H5(LK_E_INTERNAL, H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, size,
                                                 NULL), "%s: '%s'", where, path);
    LK_H5(LK_E_SYSTEM, memory_space = d->dims > 0 ? H5Screate_simple(d->dims, size, NULL)
                                                  : H5Screate(H5S_SCALAR), "%s: '%s'", where, path);
    LK_H5(LK_E_INPUT, H5Dread(d->id, type, memory_space, file_space, H5P_DEFAULT, out),
          "%s: cannot read '%s'", where, path);
    return LK_OK;
}

static hsize_t rows_of(const lk_h5_dataset *d) { return d->dims > 0 ? d->dim[0] : 1; }

static hsize_t rows_per_piece(const lk_h5_dataset *d, size_t limit)
{
    return d->row > 0 && d->row < limit ? limit / d->row : 1;
}

lk_status lk_h5_dataset_rows(const lk_h5_dataset *d, const char *where, const char *path,
                             hsize_t first, hsize_t count, void *out)
{
    hsize_t step = rows_per_piece(d, LK_H5_PIECE);
    for (hsize_t at = 0; at < count && d->bytes > 0; at += step)
        LK_TRY(read_piece(d, where, path, first + at, count - at < step ? count - at : step,
                          (char *)out + at * d->row));
    return LK_OK;
}

static lk_status compare(const lk_h5_dataset *d, const char *where, const char *path,
                         const char *digest)
{
    if (strcmp(d->digest, digest) == 0) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: '%s': expected digest %s, found %s; the file is damaged, use "
                   "another one", where, path, d->digest[0] ? d->digest : "(none)", digest);
}

lk_status lk_h5_dataset_read(const lk_h5_dataset *d, const char *where, const char *path,
                             void *out)
{
    char digest[LK_DIGEST_TEXT];
    LK_TRY(lk_h5_dataset_rows(d, where, path, 0, rows_of(d), out));
    lk_digest_bytes(out, d->bytes, digest);
    return compare(d, where, path, digest);
}

lk_status lk_h5_dataset_verify(const lk_h5_dataset *d, const char *where, const char *path)
{
    return lk_h5_dataset_verify_in(NULL, d, where, path);
}

lk_status lk_h5_dataset_verify_in(lk_io *io, const lk_h5_dataset *d, const char *where,
                                  const char *path)
{
    char text[LK_DIGEST_TEXT];
    hsize_t rows = rows_of(d), step = rows_per_piece(d, (size_t)1 << 25);
    if (step > rows) step = rows;
    lk_digest *digest = NULL;
    LK_TRY(lk_digest_create(&digest));
    void *buffer = malloc(step * d->row + 1);
    lk_status status = buffer ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    for (hsize_t at = 0; at < rows && status == LK_OK; at += step) {
        hsize_t count = rows - at < step ? rows - at : step;
        status = lk_h5_dataset_rows(d, where, path, at, count, buffer);
        if (status == LK_OK) lk_digest_update(digest, buffer, count * d->row);
        if (status == LK_OK && io) lk_io_yield(io);
    }
    lk_digest_text(digest, text);
    lk_digest_destroy(digest);
    free(buffer);
    return status == LK_OK ? compare(d, where, path, text) : status;
}
