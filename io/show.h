/* What a dataset or checkpoint file holds, for `lockstep show`. */
#ifndef LK_IO_SHOW_H
#define LK_IO_SHOW_H

#include "io/io.h"

#include <stdio.h>

/* Print kind, versions, counts, attributes, and every dataset with shape, type and digest, one
 * line each, to `out`. LK_E_INPUT when it is not an HDF5 file or not one of lockstep's. */
lk_status lk_show_file(lk_io *io, const char *path, FILE *out);

/* A name from a file in a column of a table: `width` characters, cut or filled up, without control
 * characters. lk_show_width: those it has. */
void lk_show_name(FILE *out, const char *name, int width);
int lk_show_width(const char *name);

#endif
