/* Tensors written as they are, halves as floats. */
#include "io/tensor_file.h"
#include "base/half.h"
#include "base/replace.h"
#include "io/hdf5.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct job {
    const lk_tensor_file *f;
    char *part;
    hid_t file;
} job;

static hid_t type_of(lk_dtype t)
{
    switch (t) {
    case LK_I32: return H5T_STD_I32LE;
    case LK_U8: return H5T_STD_U8LE;
    case LK_U16: return H5T_STD_U16LE;
    default: return H5T_IEEE_F32LE;
    }
}

/* The data as written: itself, or a copy in *copy. NULL: out of memory. */
static const void *as_written(const lk_tensor_item *x, float **copy)
{
    if (x->dtype != LK_F16 && x->dtype != LK_BF16) return x->data;
    size_t n = 1;
    for (int i = 0; i < x->dims; i++) n *= (size_t)x->dim[i];
    float *out = *copy = malloc(n * sizeof *out + 1);
    for (size_t i = 0; i < n && out; i++) {
        uint16_t half = ((const uint16_t *)x->data)[i];
        out[i] = x->dtype == LK_F16 ? lk_f32_from_f16(half) : lk_f32_from_bf16(half);
    }
    return out;
}

static lk_status write_dataset(const job *j, const char *name, hid_t type, hid_t memory, int dims,
                               const int64_t *size, const void *data, hid_t *dataset)
{
    LK_H5_AUTO hid_t space = -1;
    hsize_t dim[LK_H5_MAX_DIMS];
    for (int i = 0; i < dims; i++) dim[i] = (hsize_t)size[i];
    LK_H5(LK_E_SYSTEM, space = H5Screate_simple(dims, dim, NULL), "%s: '%s'", j->part, name);
    LK_H5(LK_E_SYSTEM,
          *dataset = H5Dcreate2(j->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
          "%s: cannot create '%s'", j->part, name);
    LK_H5(LK_E_SYSTEM, H5Dwrite(*dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
          "%s: cannot write '%s'", j->part, name);
    return LK_OK;
}

static lk_status write_item(const job *j, const lk_tensor_item *x)
{
    LK_H5_AUTO hid_t dataset = -1;
    float *copy = NULL;
    const void *data = as_written(x, &copy);
    hid_t type = type_of(x->dtype);
    lk_status status = data ? write_dataset(j, x->name, type, type, x->dims, x->dim, data, &dataset)
                            : lk_fail(LK_E_SYSTEM, "out of memory for '%s'", x->name);
    free(copy);
    if (status == LK_OK) status = lk_h5_set_text(dataset, j->part, "meaning", x->meaning);
    return status == LK_OK ? lk_h5_set_text(dataset, j->part, "type", lk_dtype_name(x->dtype))
                           : status;
}

static lk_status write_all(job *j)
{
    const lk_tensor_file *f = j->f;
    LK_TRY(lk_h5_create(j->part, MPI_COMM_NULL, LK_SCHEMA_TENSORS, &j->file));
    LK_TRY(lk_h5_set_text(j->file, j->part, "message", f->message));
    LK_TRY(lk_h5_set_text(j->file, j->part, "scope", f->scope));
    LK_TRY(lk_h5_set_text(j->file, j->part, "op", f->op));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "step", f->step));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "rank", (uint64_t)f->rank));
    if (f->leaf >= 0) LK_TRY(lk_h5_set_u64(j->file, j->part, "leaf", (uint64_t)f->leaf));
    for (int i = 0; i < f->items; i++) LK_TRY(write_item(j, &f->item[i]));
    if (f->samples > 0) {
        LK_H5_AUTO hid_t dataset = -1;
        LK_TRY(write_dataset(j, "samples", H5T_IEEE_F64LE, H5T_NATIVE_INT64, 1, &f->samples,
                             f->sample, &dataset));
        LK_TRY(lk_h5_set_text(dataset, j->part, "meaning",
                              f->leaf < 0 ? "training rows at which the samples of all leaves begin"
                                          : "training rows at which the leaf's samples begin"));
    }
    LK_TRY(lk_h5_close(j->part, &j->file));
    return lk_replace_publish(j->part, f->path);
}

static lk_status run(void *argument)
{
    job *j = argument;
    lk_status status = write_all(j);
    lk_h5_abandon(j->part, MPI_COMM_NULL, &j->file);
    if (status != LK_OK) unlink(j->part);
    return status;
}

lk_status lk_tensor_file_write(lk_io *io, const lk_tensor_file *f)
{
    job j = {.f = f, .file = -1};
    LK_TRY(lk_replace_part(f->path, &j.part));
    lk_status status = lk_io_call(io, run, &j);
    free(j.part);
    return status;
}
