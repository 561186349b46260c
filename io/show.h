/* What a dataset or checkpoint file holds, for `lockstep show`. */
#ifndef LK_IO_SHOW_H
#define LK_IO_SHOW_H

#include "io/io.h"

#include <stdio.h>

/* Print kind, versions, counts, attributes, and every dataset with shape, type and digest, one
 * line each, to `out`. LK_E_INPUT when it is not an HDF5 file or not one of lockstep's. */
lk_status lk_show_file(lk_io *io, const char *path, FILE *out);

#endif
