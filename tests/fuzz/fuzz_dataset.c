/* Bytes as a dataset: opened, shown, all its rows read, checked at every level. */
#include "check/check.h"
#include "io/import.h"
#include "io/reference.h"
#include "io/show.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void read_split(lk_dataset *d, lk_split split, int f)
{
    size_t row = d->field[f].row_bytes;
    int64_t step = row > 0 && row < 1 << 16 ? (1 << 16) / (int64_t)row : 1;
    void *rows = malloc((size_t)step * row + 1);
    fuzz_demand(rows, "out of memory for a row that is stored");
    for (int64_t at = 0; at < d->rows[split]; at += step) {
        int64_t n = d->rows[split] - at < step ? d->rows[split] - at : step;
        if (!fuzz_read(lk_dataset_read(d, split, f, at, n, rows), "rows")) break;
    }
    free(rows);
}

static void check(lk_dataset *d)
{
    lk_check_job job = lk_check_defaults();
    lk_check_report report = {.path = NULL};
    char *text = NULL;
    job.data = d->path;
    job.temporary = fuzz_path("");
    if (!fuzz_read(lk_check_dataset(fuzz_comm, fuzz_io, d, &job, &report), "check")) return;
    fuzz_demand(lk_check_format(&report, &text) == LK_OK, "the report as JSON");
    free(text);
    lk_check_report_clear(&report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_start();
    static FILE *null;
    if (!null) null = fopen("/dev/null", "w");
    const char *path = fuzz_file("data.h5", data, size);
    lk_dataset *d = NULL;
    fuzz_read(lk_show_file(fuzz_io, path, null), "show");
    if (!fuzz_read(lk_dataset_open(fuzz_io, fuzz_comm->world, path, &d), "open")) return 0;
    for (int f = 0; f < d->fields; f++)
        for (int s = 0; s < 2; s++) read_split(d, (lk_split)s, f);
    check(d);
    lk_dataset_close(d);
    lk_reference_source source = {.path = NULL};
    if (fuzz_read(lk_reference_source_read(fuzz_io, path, &source), "reference"))
        lk_reference_source_clear(&source);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    return fuzz_h5_mutate(FUZZ_TEXT, 3, data, size, room, seed);
}

/* What the importers write today: 0 a text, 1 a table. */
static void import(int kind, const char *path)
{
    static const char text[] = "In a hole in the ground there lived a hobbit.";
    static const char table[] = "a,b,label\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n9,10,x\n11,12,y\n";
    const char *file = kind ? fuzz_file("a.csv", (const uint8_t *)table, strlen(table))
                            : fuzz_file("a.txt", (const uint8_t *)text, strlen(text));
    lk_import_target to = {.output = path, .overwrite = true, .validation = 0.3};
    lk_import_text words = {.to = to, .files = 1, .file = &file, .characters = true};
    lk_import_csv rows = {.to = to, .files = 1, .file = &file, .label = "label"};
    lk_import_result result;
    fuzz_demand((kind ? lk_import_csv_run(fuzz_io, &rows, &result)
                      : lk_import_text_run(fuzz_io, &words, &result)) == LK_OK, "import a seed");
}

bool fuzz_seed(int i, const char *path)
{
    static int made;
    if (fuzz_h5_seed(FUZZ_TEXT, 3, i, path)) {
        made = i + 1;
        return true;
    }
    if (i < made + 2) import(i - made, path);
    return i < made + 2;
}
