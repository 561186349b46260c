/* maketable OUT.h5 ROWS COLUMNS CLASSES SEED [FAULT...]: a table dataset as lockstep import writes
 * it, a tenth of the rows for validation, that is clean but for the faults asked for. Columns are
 * c00, c01, ...; in turn bell-shaped, skewed, whole numbers and bell-shaped around 1000, and each
 * tells a little about the label. Also a measure for speed: bench/peer/check.py.
 *
 *   nan=ROW:COLUMN, inf=ROW:COLUMN, huge=ROW:COLUMN   one value of a training row
 *   constant=COLUMN  one value everywhere         leak=COLUMN  the label, with a little noise
 *   pair=A:B         B is A and noise, r = 0.95   copies=N     N training rows are copies
 *   overlap=N        N validation rows are training rows
 *   conflicts=N      as copies, with another label
 *   missing=CLASS    a class without samples      rare=CLASS   one with a hundredth of its share
 *   label=ROW        a training label that is no class
 *   shift=COLUMN     a deviation more, everywhere
 *   moved=COLUMN     a deviation more, in validation
 *   only=CLASS       every label */
#include "io/import_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 8192, MAX_FAULTS = 16, NAME = 16 };

typedef struct fault {
    char kind[16];
    long long a, b;
} fault;

static long long rows[2], columns, classes, seed, faults;
static fault list[MAX_FAULTS];

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Nearly normal: the sum of four uniform numbers, mean 0, deviation 1. */
static double bell(uint64_t key)
{
    uint64_t u = mix(key);
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += (double)(u >> (16 * i) & 0xFFFF) / 65536;
    return (sum - 2) * 1.7320508;
}

static uint64_t key_of(long long row, long long column)
{
    return mix((uint64_t)seed << 40 ^ (uint64_t)row) + (uint64_t)column * 0x632BE59BD9B4E019u;
}

static int label_of(long long row)
{
    return (int)(mix(key_of(row, -1)) % (uint64_t)classes);
}

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

static void make_row(long long row, float *x, uint16_t *label)
{
    int class = label_of(row);
    for (int i = 0; i < faults; i++) {
        const fault *f = &list[i];
        bool missing = strcmp(f->kind, "missing") == 0;
        bool rare = strcmp(f->kind, "rare") == 0 && mix(key_of(row, -2)) % 100 != 0;
        if ((missing || rare) && class == f->a) class = (class + 1) % (int)classes;
        if (strcmp(f->kind, "only") == 0) class = (int)f->a;
    }
    for (long long c = 0; c < columns; c++) x[c] = value_of(row, c, class);
    *label = (uint16_t)class;
    for (int i = 0; i < faults; i++) {
        const fault *f = &list[i];
        if (strcmp(f->kind, "constant") == 0) x[f->a] = 7;
        if (strcmp(f->kind, "leak") == 0)
            x[f->a] = (float)(class + 0.05 * bell(key_of(row, 1000 + f->a)));
        if (strcmp(f->kind, "pair") == 0)
            x[f->b] = (float)(0.95 * (double)x[f->a] + 0.3122499 * bell(key_of(row, 1000 + f->b)));
        bool moved = strcmp(f->kind, "moved") == 0 && row >= rows[0];
        if (moved || strcmp(f->kind, "shift") == 0) x[f->a] += f->a % 4 == 2 ? 12 : 1;
        if (strcmp(f->kind, "nan") == 0 && f->a == row) x[f->b] = NAN;
        if (strcmp(f->kind, "inf") == 0 && f->a == row) x[f->b] = -INFINITY;
        if (strcmp(f->kind, "huge") == 0 && f->a == row) x[f->b] = 3e20f;
        if (strcmp(f->kind, "label") == 0 && f->a == row) *label = (uint16_t)classes;
    }
}

/* Where row `i` of a split comes from: rows of validation follow those of training. */
static long long source_of(int split, long long i, bool *conflict)
{
    long long row = split == LK_TRAIN ? i : rows[0] + i;
    for (int k = 0; k < faults; k++) {
        const fault *f = &list[k];
        bool conflicts = strcmp(f->kind, "conflicts") == 0;
        if (split == LK_TRAIN && (conflicts || strcmp(f->kind, "copies") == 0) &&
            i >= rows[0] - f->a) {
            row = i - rows[0] + f->a + 10;
            *conflict = conflicts;
        }
        if (split == LK_VALIDATION && strcmp(f->kind, "overlap") == 0 && i < f->a) row = i + 20;
    }
    return row;
}

static lk_status write_rows(lk_rows *w, float *x, uint16_t *label)
{
    for (int split = 0; split < 2; split++)
        for (long long at = 0; at < rows[split]; at += BLOCK) {
            long long n = rows[split] - at < BLOCK ? rows[split] - at : BLOCK;
#pragma omp parallel for
            for (long long i = 0; i < n; i++) {
                bool conflict = false;
                long long row = source_of(split, at + i, &conflict);
                make_row(row, x + i * columns, &label[i]);
                if (conflict) label[i] = (uint16_t)((label[i] + 1) % classes);
            }
            LK_TRY(lk_rows_put(w, (lk_split)split, n, x, label));
        }
    return LK_OK;
}

static lk_status make(const char *path)
{
    lk_rows w = {.part = NULL};
    char part[512], digest[LK_DIGEST_TEXT];
    char **column = calloc((size_t)columns, sizeof *column);
    char **name = calloc((size_t)classes, sizeof *name), *text = calloc(1, 1 << 20);
    float *x = malloc(BLOCK * (size_t)columns * sizeof *x);
    uint16_t *label = malloc(BLOCK * sizeof *label);
    if (!column || !name || !text || !x || !label) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (long long c = 0; c < columns; c++, text += NAME) {
        snprintf(text, NAME, "c%02d", (int)c);
        column[c] = text;
    }
    for (long long k = 0; k < classes; k++, text += NAME) {
        snprintf(text, NAME, "k%d", (int)k);
        name[k] = text;
    }
    snprintf(part, sizeof part, "%s.part", path);
    LK_TRY(lk_rows_create(&w, strdup(part), LK_TABLE_DATA, 2, (int64_t[]){columns},
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
    if (argc < 6 || argc - 6 > MAX_FAULTS) return 2;
    long long all = atoll(argv[2]);
    rows[1] = all / 10;
    rows[0] = all - rows[1];
    columns = atoll(argv[3]);
    classes = atoll(argv[4]);
    seed = atoll(argv[5]);
    for (; faults < argc - 6; faults++)
        if (sscanf(argv[6 + faults], "%15[a-z]=%lld:%lld", list[faults].kind, &list[faults].a,
                   &list[faults].b) < 2)
            return 2;
    if (make(argv[1]) == LK_OK) return 0;
    fprintf(stderr, "maketable: %s\n", lk_error_text());
    return 1;
}
