/* Per-token predictions of an evaluation. */
#ifndef LK_IO_PREDICTIONS_H
#define LK_IO_PREDICTIONS_H

#include "io/io.h"

#include <stdint.h>

/* Whether lk_predictions_write() may write to PATH: LK_E_INPUT if it lies where nothing can be
 * written or is a file of another kind. */
lk_status lk_predictions_check(lk_io *io, const char *path);
/* Write an HDF5 file with datasets `loss` (f32 [count], nats) and `argmax` (i32 [count]) in the
 * order of the validation tokens. One rank; PATH.part is renamed when whole. */
lk_status lk_predictions_write(lk_io *io, const char *path, const float *loss,
                               const int32_t *argmax, int64_t count);

#endif
