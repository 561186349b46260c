/* Tensors written as they are, halves as floats. */
#include "io/tensor_file.h"
#include "base/half.h"
#include "io/hdf5.h"

#include <stdlib.h>

static lk_h5_type type_of(lk_dtype t)
{
    switch (t) {
    case LK_I32: return LK_H5_I32;
    case LK_U8: return LK_H5_U8;
    case LK_U16: return LK_H5_U16;
    default: return LK_H5_F32;
    }
}

static lk_status write_item(hid_t file, const char *where, const lk_tensor_item *x)
{
    LK_H5_AUTO hid_t dataset = -1;
    hsize_t dim[LK_H5_MAX_DIMS];
    int64_t n = 1;
    for (int i = 0; i < x->dims; i++) {
        dim[i] = (hsize_t)x->dim[i];
        n *= x->dim[i];
    }
    bool half = x->dtype == LK_F16 || x->dtype == LK_BF16;
    float *copy = half ? malloc((size_t)n * sizeof *copy + 1) : NULL;
    if (half && !copy) return lk_fail(LK_E_SYSTEM, "out of memory for '%s'", x->name);
    if (half) lk_f32_from_any(x->dtype, x->data, n, copy);
    lk_status status = lk_h5_dataset_write(file, where, x->name, type_of(x->dtype), x->dims, dim, 0,
                                           half ? copy : x->data, &dataset);
    free(copy);
    LK_TRY(status);
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
    hsize_t samples = (hsize_t)f->samples;
    LK_TRY(lk_h5_dataset_create(file, where, "samples", LK_H5_F64, 1, &samples, 0, &dataset));
    LK_H5(LK_E_SYSTEM,
          H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, f->sample),
          "%s: cannot write 'samples'", where);
    return lk_h5_set_text(dataset, where, "meaning",
                          f->leaf < 0 ? "training rows at which the samples of all leaves begin"
                                      : "training rows at which the leaf's samples begin");
}

lk_status lk_tensor_file_write(lk_io *io, const lk_tensor_file *f)
{
    return lk_h5_replace(io, f->path, LK_SCHEMA_TENSORS, write_all, f);
}
