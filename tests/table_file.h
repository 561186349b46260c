/* A table dataset from memory, written by the importers' writer (whose names collide with those of
 * the graph, so that it has a file of its own). */
#ifndef LK_TESTS_TABLE_FILE_H
#define LK_TESTS_TABLE_FILE_H

#include "base/status.h"

#include <stdint.h>

/* x [rows, columns], labels [rows]; all rows are for training. Columns are named a, b, ..., classes
 * x, y, z. */
lk_status write_table_file(const char *path, int64_t rows, int64_t columns, const float *x,
                           const uint16_t *labels);

#endif
