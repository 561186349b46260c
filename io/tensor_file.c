/* Tensors written as they are, halves as floats. */
#include "io/tensor_file.h"
#include "base/half.h"
#include "io/hdf5.h"

#include <stdlib.h>

static hid_t type_of(lk_dtype t)
{
    switch (t) {
    case LK_I32: return H5T_STD_I32LE;
    case LK_U8: return H5T_STD_U8LE;
    case LK_U16: return H5T_STD_U16LE;
    default: return H5T_IEEE_F32LE;
    }
}

static lk_status write_dataset(hid_t file, const char *where, const char *name, hid_t type,
                               hid_t memory, int dims, const int64_t *size, const void *data,
                               hid_t *dataset)
{
    LK_H5_AUTO hid_t space = -1;
    hsize_t dim[LK_H5_MAX_DIMS];
    for (int i = 0; i < dims; i++) dim[i] = (hsize_t)size[i];
    LK_H5(LK_E_SYSTEM, space = H5Screate_simple(dims, dim, NULL), "%s: '%s'", where, name);
    LK_H5(LK_E_SYSTEM,
          *dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
          "%s: cannot create '%s'", where, name);
    LK_H5(LK_E_SYSTEM, H5Dwrite(*dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
          "%s: cannot write '%s'", where, name);
    return LK_OK;
}

/* Halves by way of floats. */
static lk_status write_half(hid_t file, const char *where, const lk_tensor_item *x, hid_t *dataset)
{
    int64_t n = 1;
    for (int i = 0; i < x->dims; i++) n *= x->dim[i];
    float *copy = malloc((size_t)n * sizeof *copy + 1);
    if (!copy) return lk_fail(LK_E_SYSTEM, "out of memory for '%s'", x->name);
    lk_f32_from_any(x->dtype, x->data, n, copy);
    lk_status status = write_dataset(file, where, x->name, H5T_IEEE_F32LE, H5T_IEEE_F32LE, x->dims,
                                     x->dim, copy, dataset);
    free(copy);
    return status;
}

static lk_status write_item(hid_t file, const char *where, const lk_tensor_item *x)
{
    LK_H5_AUTO hid_t dataset = -1;
    hid_t type = type_of(x->dtype);
    bool half = x->dtype == LK_F16 || x->dtype == LK_BF16;
    LK_TRY(half ? write_half(file, where, x, &dataset)
                : write_dataset(file, where, x->name, type, type, x->dims, x->dim, x->data,
                                &dataset));
    LK_TRY(lk_h5_set_text(dataset, where, "meaning", x->meaning));
    return lk_h5_set_text(dataset, where, "type", lk_dtype_name(x->dtype));
}

static lk_status write_all(hid_t file, const char *where, const void *context)
{
    const lk_tensor_file *f = context;
    LK_TRY(lk_h5_set_text(file, where, "message", f->message));
    LK_TRY(lk_h5_set_text(file, where, "scope", f->scope));
    LK_TRY(lk_h5_set_text(file, where, "op", f->op));
    LK_TRY(lk_h5_set_u64(file, where, "step", f->step));
    LK_TRY(lk_h5_set_u64(file, where, "rank", (uint64_t)f->rank));
    if (f->leaf >= 0) LK_TRY(lk_h5_set_u64(file, where, "leaf", (uint64_t)f->leaf));
    for (int i = 0; i < f->items; i++) LK_TRY(write_item(file, where, &f->item[i]));
    if (f->samples == 0) return LK_OK;
    LK_H5_AUTO hid_t dataset = -1;
    LK_TRY(write_dataset(file, where, "samples", H5T_IEEE_F64LE, H5T_NATIVE_INT64, 1, &f->samples,
                         f->sample, &dataset));
    return lk_h5_set_text(dataset, where, "meaning",
                          f->leaf < 0 ? "training rows at which the samples of all leaves begin"
                                      : "training rows at which the leaf's samples begin");
}

lk_status lk_tensor_file_write(lk_io *io, const lk_tensor_file *f)
{
    return lk_h5_replace(io, f->path, LK_SCHEMA_TENSORS, write_all, f);
}
