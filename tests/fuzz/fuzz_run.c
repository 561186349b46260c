/* Bytes as a run file and --set. Up to the first NUL: the file; then the texts of --set, each up to
 * a NUL. What is read must come out the same when its resolved copy is read again. */
#include "tests/fuzz/fuzz.h"
#include "train/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS = 8 };

/* A run directory holds the resolved copy, from which a run is resumed. */
static void read_again(const lk_run *run)
{
    char *text = NULL, *again = NULL;
    lk_run copy;
    fuzz_demand(lk_run_format(run, &text) == LK_OK, "format");
    fuzz_demand(lk_run_parse("copy", text, 0, NULL, &copy) == LK_OK, "the resolved copy");
    fuzz_demand(lk_run_format(&copy, &again) == LK_OK, "format the copy");
    fuzz_demand(strcmp(text, again) == 0, "the resolved copy differs");
    fuzz_demand(lk_run_check_resume(run, &copy) == LK_OK, "resume from the copy");
    lk_run_clear(&copy);
    free(text);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_start();
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t length = nul ? (size_t)(nul - data) : size;
    const char *path = fuzz_file("run.yaml", data, length), *set[SETS];
    char *rest = malloc(size - length + 1);
    fuzz_demand(rest, "out of memory");
    memcpy(rest, data + length, size - length);
    rest[size - length] = '\0';
    int sets = 0;
    for (size_t at = 1; at < size - length && sets < SETS; at += strlen(rest + at) + 1)
        set[sets++] = rest + at;
    lk_run run;
    if (fuzz_read(lk_run_load(path, sets, set, &run), "load")) {
        read_again(&run);
        lk_run_clear(&run);
    }
    free(rest);
    return 0;
}

bool fuzz_seed(int i, const char *path)
{
    (void)i;
    (void)path;
    return false; /* they lie in the corpus */
}
