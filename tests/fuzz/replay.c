/* The main program of a fuzz target without libFuzzer:
 *
 *   TARGET FILE|DIRECTORY...   give each file to the target
 *   TARGET -n COUNT PATH...    and so many changed copies of them, the same ones at every call
 *   TARGET -s DIRECTORY        write the good files to begin with
 *
 * Ends with 0, "N inputs" printed, or not at all: a finding is a crash. */
#include "base/philox.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ROOM = 1 << 16 };

static uint32_t turn;
static long inputs;

static uint32_t draw(uint32_t n) { return lk_philox(1, turn++, 0, 0, 0).v[0] % n; }

/* Where libFuzzer has its own. Used by the targets' mutators. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room)
{
    uint32_t how = draw(4), at = size > 0 ? draw((uint32_t)size) : 0;
    if (how == 0 && size < room) { /* one byte more */
        memmove(data + at + 1, data + at, size - at);
        data[at] = (uint8_t)draw(256);
        return size + 1;
    }
    if (size == 0) return 0;
    if (how == 1 && size > 1) { /* a piece less */
        size_t n = 1 + draw(size - at < 16 ? (uint32_t)(size - at) : 16);
        memmove(data + at, data + at + n, size - at - n);
        return size - n;
    }
    if (how == 2) data[at] = (uint8_t)draw(256);
    else data[at] ^= (uint8_t)(1 << draw(8));
    return size;
}

static void give(const char *path, long changed)
{
    static uint8_t data[ROOM], copy[ROOM];
    FILE *f = fopen(path, "rb");
    size_t size = f ? fread(data, 1, sizeof data, f) : 0;
    if (!f || ferror(f) || fclose(f) != 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    LLVMFuzzerTestOneInput(data, size);
    inputs++;
    for (long i = 0; i < changed; i++, inputs++) {
        memcpy(copy, data, size);
        size_t n = LLVMFuzzerCustomMutator
                       ? LLVMFuzzerCustomMutator(copy, size, sizeof copy, draw(UINT32_MAX))
                       : LLVMFuzzerMutate(copy, size, sizeof copy);
        LLVMFuzzerTestOneInput(copy, n);
    }
}

static int no_dots(const struct dirent *e) { return e->d_name[0] != '.'; }

static void give_all(const char *path, long changed)
{
    struct stat s;
    struct dirent **entry;
    if (stat(path, &s) != 0 || !S_ISDIR(s.st_mode)) {
        give(path, changed);
        return;
    }
    int n = scandir(path, &entry, no_dots, alphasort);
    for (int i = 0; i < n; i++) {
        char *full = NULL;
        if (asprintf(&full, "%s/%s", path, entry[i]->d_name) < 0) exit(2);
        give(full, changed);
        free(full);
        free(entry[i]);
    }
    if (n >= 0) free(entry);
}

static int write_seeds(const char *directory)
{
    int i = 0;
    char path[4096];
    fuzz_start();
    do snprintf(path, sizeof path, "%s/seed-%02d", directory, i);
    while (fuzz_seed(i, path) && ++i);
    printf("%d seeds\n", i);
    return 0;
}

int main(int argc, char **argv)
{
    int at = 1;
    long changed = 0;
    if (argc == 3 && strcmp(argv[1], "-s") == 0) return write_seeds(argv[2]);
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        changed = atol(argv[2]);
        at = 3;
    }
    for (; at < argc; at++) give_all(argv[at], changed);
    fuzz_demand(!fuzz_lost(), "memory was lost");
    printf("%ld inputs\n", inputs);
    return inputs == 0;
}
