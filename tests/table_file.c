#include "tests/table_file.h"

#include "io/import_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

lk_status write_table_file(const char *path, int64_t rows, int64_t columns, const float *x,
                           const uint16_t *labels)
{
    static char *name[] = {"a", "b", "c", "d", "e", "f", "g", "h"}, *class[] = {"x", "y", "z"};
    enum { BLOCK = 1000 };
    char part[600], digest[LK_DIGEST_TEXT];
    lk_rows w = {.part = NULL};
    snprintf(part, sizeof part, "%s.part", path);
    LK_TRY(lk_rows_create(&w, strdup(part), LK_TABLE_DATA, LK_H5_F32, 2, &columns,
                          (int64_t[]){rows, 0}));
    w.column = name;
    lk_status status = lk_h5_set_texts(w.file, w.part, "columns", name, columns);
    for (int64_t i = 0; i < rows && status == LK_OK; i += BLOCK)
        status = lk_rows_put(&w, LK_TRAIN, rows - i < BLOCK ? rows - i : BLOCK, x + i * columns,
                             labels + i);
    if (status == LK_OK) status = lk_rows_finish(&w, path, "test", class, 3, digest);
    lk_rows_abandon(&w);
    return status;
}
