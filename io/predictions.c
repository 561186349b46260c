/* Predictions: two to four datasets in a file of their own, written by one rank. */
#include "io/predictions.h"
#include "base/replace.h"
#include "io/hdf5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct job {
    const lk_predictions *p;
    char *part;
    hsize_t count;
    hid_t file;
} job;

static lk_status write_dataset(const job *j, const char *name, lk_h5_type type, const void *data)
{
    LK_H5_AUTO hid_t space = -1, dcpl = -1, dataset = -1;
    char digest[LK_DIGEST_TEXT];
    LK_TRY(lk_h5_chunked(1, &j->count, LK_H5_CHUNK / 4, &dcpl));
    LK_H5(LK_E_SYSTEM, space = H5Screate_simple(1, &j->count, NULL), "%s: '%s'", j->part, name);
    LK_H5(LK_E_SYSTEM, dataset = H5Dcreate2(j->file, name, lk_h5_type_id(type), space, H5P_DEFAULT,
                                            dcpl, H5P_DEFAULT),
          "%s: cannot create '%s'", j->part, name);
    LK_H5(LK_E_SYSTEM,
          H5Dwrite(dataset, lk_h5_type_id(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
          "%s: cannot write '%s'", j->part, name);
    lk_digest_bytes(data, j->count * 4, digest);
    return lk_h5_set_text(dataset, j->part, "digest", digest);
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

static lk_status write_all(job *j)
{
    const lk_predictions *p = j->p;
    LK_TRY(check(&(target){p->path, p->overwrite}));
    LK_TRY(lk_h5_create(j->part, MPI_COMM_NULL, LK_SCHEMA_PREDICTIONS, &j->file));
    LK_TRY(lk_h5_set_text(j->file, j->part, "checkpoint", p->checkpoint));
    LK_TRY(lk_h5_set_text(j->file, j->part, "dataset_path", p->dataset));
    LK_TRY(lk_h5_set_text(j->file, j->part, "dataset_digest", p->dataset_digest));
    LK_TRY(write_dataset(j, "loss", LK_H5_F32, p->loss));
    LK_TRY(write_dataset(j, "argmax", LK_H5_I32, p->argmax));
    if (p->label) LK_TRY(write_dataset(j, "label", LK_H5_I32, p->label));
    if (p->probability) LK_TRY(write_dataset(j, "probability", LK_H5_F32, p->probability));
    LK_TRY(lk_h5_close(j->part, &j->file));
    return lk_replace_publish(j->part, p->path);
}

static lk_status run(void *argument)
{
    job *j = argument;
    lk_status status = write_all(j);
    lk_h5_abandon(j->part, MPI_COMM_NULL, &j->file);
    if (status != LK_OK) unlink(j->part);
    return status;
}

lk_status lk_predictions_write(lk_io *io, const lk_predictions *p)
{
    job j = {.p = p, .count = (hsize_t)p->count, .file = -1};
    LK_TRY(lk_replace_part(p->path, &j.part));
    lk_status status = lk_io_call(io, run, &j);
    free(j.part);
    return status;
}
