/* Scalars for TensorBoard: event files as its own writers make them.
 *
 * A file is a sequence of TFRecords: length (u64), masked CRC-32C of the length, bytes, masked
 * CRC-32C of the bytes, all little-endian (tensorflow/core/lib/io/record_writer.h). The bytes are a
 * protocol buffer Event (tensorflow/core/util/event.proto) of wall time, step and a Summary of
 * simple values. Each start of a run writes a file of its own, which begins with a SessionLog START
 * at the first step it will log: from there on TensorBoard forgets what earlier files say, so a
 * resumed run shows no step twice. */
#ifndef LK_METRIC_TENSORBOARD_H
#define LK_METRIC_TENSORBOARD_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct lk_tensorboard lk_tensorboard;

/* A new file in DIRECTORY, made where missing. `first`: the first step that will be written. */
lk_status lk_tensorboard_open(const char *directory, uint64_t first, lk_tensorboard **tb);
typedef struct lk_tensorboard_scalar {
    const char *tag;
    double value;
} lk_tensorboard_scalar;
/* One event with these values; `time`: seconds since 1970. */
lk_status lk_tensorboard_write(lk_tensorboard *tb, uint64_t step, double time,
                               const lk_tensorboard_scalar *scalar, int count);
lk_status lk_tensorboard_flush(lk_tensorboard *tb);
void lk_tensorboard_close(lk_tensorboard *tb); /* takes NULL */

uint32_t lk_crc32c(const void *bytes, size_t count); /* Castagnoli's polynomial, RFC 3720 B.4 */

#endif
