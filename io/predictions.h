/* Predictions of an evaluation: of every token, or of every image. */
#ifndef LK_IO_PREDICTIONS_H
#define LK_IO_PREDICTIONS_H

#include "io/io.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct lk_predictions {
    const char *path;
    bool overwrite; /* an earlier predictions file may be replaced; another file never is */
    /* What they are of: attributes of the file. */
    const char *checkpoint, *dataset, *dataset_digest;
    /* By validation token or sample, in order: nats, and the most likely token or class. */
    const float *loss;
    const int32_t *argmax;
    /* Of samples, else NULL: the right class, and the probability of the most likely one. */
    const int32_t *label;
    const float *probability;
    int64_t count;
} lk_predictions;

/* Whether lk_predictions_write() may write to PATH: LK_E_INPUT if it exists (with `overwrite`: as a
 * file of another kind) or lies where nothing can be written. */
lk_status lk_predictions_check(lk_io *io, const char *path, bool overwrite);
/* Write an HDF5 file with datasets `loss` (f32 [count]) and `argmax` (i32 [count]), and those of
 * `label` (i32) and `probability` (f32) that are given. One rank; PATH.part is renamed when
 * whole. */
lk_status lk_predictions_write(lk_io *io, const lk_predictions *p);

#endif
