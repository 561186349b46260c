/* Predictions: two to four datasets in a file of their own, written by one rank. */
#include "io/predictions.h"
#include "base/replace.h"
#include "io/hdf5.h"

#include <unistd.h>

static lk_status write_dataset(hid_t file, const char *where, const char *name, lk_h5_type type,
                               hsize_t count, const void *data)
{
    LK_H5_AUTO hid_t dataset = -1;
    char digest[LK_DIGEST_TEXT];
    LK_TRY(lk_h5_dataset_write(file, where, name, type, 1, &count, LK_H5_CHUNK / 4, data,
                               &dataset));
    lk_digest_bytes(data, count * 4, digest);
    return lk_h5_set_text(dataset, where, "digest", digest);
}

typedef struct target {
    const char *path;
    bool overwrite;
} target;

static lk_status check(void *argument)
{
    const target *t = argument;
    hid_t file = -1;
    if (access(t->path, F_OK) != 0) return lk_replace_check(t->path, NULL);
    LK_TRY(lk_h5_open(t->path, LK_SCHEMA_PREDICTIONS, &file));
    H5Fclose(file); /* read only: nothing to lose */
    return t->overwrite ? LK_OK
                        : lk_fail(LK_E_INPUT, "%s: exists already; give --force to replace it, or "
                                  "name another file", t->path);
}

lk_status lk_predictions_check(lk_io *io, const char *path, bool overwrite)
{
    target t = {path, overwrite};
    lk_status status = lk_io_call(io, check, &t);
    return status == LK_OK ? status
                           : lk_fail_prefix(status, "the predictions cannot be written");
}

static lk_status write_all(hid_t file, const char *where, const void *context)
{
    const lk_predictions *p = context;
    hsize_t n = (hsize_t)p->count;
    LK_TRY(lk_h5_set_text(file, where, "checkpoint", p->checkpoint));
    LK_TRY(lk_h5_set_text(file, where, "dataset_path", p->dataset));
    LK_TRY(lk_h5_set_text(file, where, "dataset_digest", p->dataset_digest));
    LK_TRY(write_dataset(file, where, "loss", LK_H5_F32, n, p->loss));
    LK_TRY(write_dataset(file, where, "argmax", LK_H5_I32, n, p->argmax));
    if (p->label) LK_TRY(write_dataset(file, where, "label", LK_H5_I32, n, p->label));
    return p->probability
               ? write_dataset(file, where, "probability", LK_H5_F32, n, p->probability) : LK_OK;
}

lk_status lk_predictions_write(lk_io *io, const lk_predictions *p)
{
    target t = {p->path, p->overwrite};
    LK_TRY(lk_io_call(io, check, &t));
    return lk_h5_replace(io, p->path, LK_SCHEMA_PREDICTIONS, write_all, p);
}
