/* Tensors in a file of their own (schema "lockstep tensors"): what a node read and made when it
 * went wrong, to be looked at with 'lockstep show', h5py or h5dump. Written by one process. */
#ifndef LK_IO_TENSOR_FILE_H
#define LK_IO_TENSOR_FILE_H

#include "base/dtype.h"
#include "io/io.h"

#include <stdint.h>

typedef struct lk_tensor_item {
    char name[64];     /* of the dataset */
    char meaning[160]; /* attribute of it */
    lk_dtype dtype;   /* f16 and bf16 are written as f32, which changes no value */
    int dims;
    int64_t dim[4];
    const void *data; /* host */
} lk_tensor_item;

typedef struct lk_tensor_file {
    const char *path; /* replaced if it is there */
    const char *message; /* attribute: what happened */
    const char *scope, *op; /* attributes */
    uint64_t step;
    int rank, leaf; /* leaf -1: none, and no attribute */
    const lk_tensor_item *item;
    int items;
    /* Rows of the training split at which the samples begin, the leaf's or, where there is none,
     * those of all leaves in order: dataset `samples`, f64. */
    const int64_t *sample;
    int64_t samples;
} lk_tensor_file;

lk_status lk_tensor_file_write(lk_io *io, const lk_tensor_file *f);

#endif
