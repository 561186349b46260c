/* maketable OUT.h5 ROWS COLUMNS CLASSES SEED [FAULT...]: a table dataset as lockstep import writes
 * it, a tenth of the rows for validation, that is clean but for the faults asked for. Columns are
 * c00, c01, ...; in turn bell-shaped, skewed, whole numbers and bell-shaped around 1000, and each
 * tells a little about the label. Also a measure for speed: bench/peer/check.py.
 *
 * Faults: those of tests/plant.h, and
 *   nan=ROW:COLUMN, inf=ROW:COLUMN, huge=ROW:COLUMN   one value of a training row
 *   constant=COLUMN  one value everywhere         leak=COLUMN   the label, with a little noise
 *   pair=A:B         B is A and noise, r = 0.95
 *   shift=COLUMN     a deviation more, everywhere; moved=COLUMN: in validation */
#include "tests/plant.h"

#include <math.h>

enum { BLOCK = 8192 };

static long long columns;

static float value_of(long long row, long long column, int label)
{
    double x = bell(key_of(row, column)) + 0.1 * ((label + column) % 3);
    switch (column % 4) {
    case 0: return (float)x;
    case 1: return (float)exp(x);
    case 2: return (float)floor(50 + 12 * x);
    default: return (float)(1000 + x);
    }
}

static void plant(const plant_fault *f, long long row, int class, float *x)
{
    bool moved = is(f, "moved") && row >= rows[0];
    if (is(f, "constant")) x[f->a] = 7;
    if (is(f, "leak")) x[f->a] = (float)(class + 0.05 * bell(key_of(row, 1000 + f->a)));
    if (is(f, "pair"))
        x[f->b] = (float)(0.95 * (double)x[f->a] + 0.3122499 * bell(key_of(row, 1000 + f->b)));
    if (moved || is(f, "shift")) x[f->a] += f->a % 4 == 2 ? 12 : 1;
    if (is(f, "nan") && f->a == row) x[f->b] = NAN;
    if (is(f, "inf") && f->a == row) x[f->b] = -INFINITY;
    if (is(f, "huge") && f->a == row) x[f->b] = 3e20f;
}

static void make_row(long long row, float *x)
{
    int class = class_of(row);
    for (long long c = 0; c < columns; c++) x[c] = value_of(row, c, class);
    for (int i = 0; i < faults; i++) plant(&list[i], row, class, x);
}

static lk_status write_rows(lk_rows *w, float *x, uint16_t *label)
{
    for (int split = 0; split < 2; split++)
        for (long long at = 0; at < rows[split]; at += BLOCK) {
            long long n = rows[split] - at < BLOCK ? rows[split] - at : BLOCK;
#pragma omp parallel for
            for (long long i = 0; i < n; i++) {
                make_row(sample_of(split, at + i), x + i * columns);
                label[i] = label_of(split, at + i);
            }
            LK_TRY(lk_rows_put(w, (lk_split)split, n, x, label));
        }
    return LK_OK;
}

static lk_status make(const char *path)
{
    lk_rows w = {.part = NULL};
    char part[512], digest[LK_DIGEST_TEXT];
    char **column = calloc((size_t)columns, sizeof *column), **name = class_names();
    char *text = calloc((size_t)columns, PLANT_NAME);
    float *x = malloc(BLOCK * (size_t)columns * sizeof *x);
    uint16_t *label = malloc(BLOCK * sizeof *label);
    if (!column || !name || !text || !x || !label) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (long long c = 0; c < columns; c++, text += PLANT_NAME) {
        snprintf(text, PLANT_NAME, "c%02d", (int)c);
        column[c] = text;
    }
    snprintf(part, sizeof part, "%s.part", path);
    LK_TRY(lk_rows_create(&w, strdup(part), LK_TABLE_DATA, LK_H5_F32, 2, (int64_t[]){columns},
                          (int64_t[]){rows[0], rows[1]}));
    w.column = column;
    LK_TRY(lk_h5_set_texts(w.file, w.part, "columns", column, columns));
    LK_TRY(write_rows(&w, x, label));
    lk_status status = lk_rows_finish(&w, path, "maketable", name, classes, digest);
    lk_rows_abandon(&w);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 6) return 2;
    columns = atoll(argv[3]);
    classes = atoll(argv[4]);
    seed = atoll(argv[5]);
    if (!plant_parse(atoll(argv[2]), argc - 6, argv + 6) || columns < 1) return 2;
    if (make(argv[1]) == LK_OK) return 0;
    fprintf(stderr, "maketable: %s\n", lk_error_text());
    return 1;
}
