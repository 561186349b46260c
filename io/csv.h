/* Private: CSV files (RFC 4180) record by record: commas, quotes, line ends of both kinds. */
#ifndef LK_IO_CSV_H
#define LK_IO_CSV_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct lk_csv {
    FILE *file;
    const char *path;
    int64_t at, line;   /* of the record read last: its first byte, its first line */
    int64_t next, next_line;
    int cells, cell_room;
    char **cell;        /* [cells] of that record; blanks around cells without quotes are gone */
    char *text;         /* what the cells point into */
    size_t used, room;
} lk_csv;

/* `path` is kept. Zero the struct before; lk_csv_close takes any. */
lk_status lk_csv_open(lk_csv *c, const char *path);
void lk_csv_close(lk_csv *c);
/* The next record that is not an empty line; *end: there is none. LK_E_INPUT: an open quote, text
 * after a quote, a NUL, a record that is too long; "FILE:LINE: ...". */
lk_status lk_csv_next(lk_csv *c, bool *end);
/* Read on from a record, by its `at` and `line`. */
lk_status lk_csv_seek(lk_csv *c, int64_t at, int64_t line);
/* A cell as a finite number; false: it is none. */
bool lk_csv_number(const char *cell, float *value);

#endif
