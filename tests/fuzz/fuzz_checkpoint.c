/* Bytes as a checkpoint: shown, opened, its run file parsed, its tensors loaded; and as the newest
 * file of a run directory, from which the good one before must be chosen if it is refused. */
#include "io/checkpoint.h"
#include "io/show.h"
#include "tests/fuzz/fuzz.h"
#include "train/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void silent(void *context, const char *text)
{
    (void)context;
    fuzz_demand(text[0] && !strchr(text, '\n'), "a report of one line");
}

static void load(const char *path, const lk_checkpoint_info *info)
{
    const lk_params *p = fuzz_params();
    size_t bytes = (size_t)p->total * sizeof(float);
    lk_flat flat = {malloc(bytes), NULL, NULL, NULL};
    if (info->has_moments) {
        flat.moment1 = malloc(bytes);
        flat.moment2 = malloc(bytes);
    }
    if (info->has_ema) flat.ema = malloc(bytes);
    fuzz_read(lk_checkpoint_load(fuzz_io, fuzz_comm->world, path, p, &flat), "load");
    free(flat.param);
    free(flat.moment1);
    free(flat.moment2);
    free(flat.ema);
}

/* DIRECTORY/step-000002.h5 is good; the input is step 3, the newest. */
static void choose(const uint8_t *data, size_t size)
{
    static uint8_t good[1 << 16];
    static size_t length;
    static char directory[300];
    if (length == 0) {
        snprintf(directory, sizeof directory, "%s", fuzz_path("run"));
        length = fuzz_h5_make(FUZZ_CHECKPOINT_TEXT, 1, 0, 0, good, sizeof good);
        fuzz_demand(length > 0 && mkdir(directory, 0777) == 0, "a run directory");
        fuzz_file("run/step-000002.h5", good, length);
        fuzz_demand(symlink("step-000003.h5", fuzz_path("run/latest")) == 0, "a link");
    }
    lk_checkpoint_choice choice = {.path = NULL};
    fuzz_file("run/step-000003.h5", data, size);
    fuzz_demand(lk_checkpoint_choose(fuzz_io, fuzz_comm->world, directory, silent, NULL, &choice) ==
                LK_OK, "the good checkpoint before");
    lk_checkpoint_choice_clear(&choice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_start();
    static FILE *null;
    if (!null) null = fopen("/dev/null", "w");
    const char *path = fuzz_file("checkpoint.h5", data, size);
    lk_checkpoint_info info;
    fuzz_read(lk_show_file(fuzz_io, path, null), "show");
    choose(data, size);
    if (!fuzz_read(lk_checkpoint_open(fuzz_io, fuzz_comm->world, path, &info), "open")) return 0;
    lk_run run;
    if (fuzz_read(lk_run_parse(path, info.run_file, 0, NULL, &run), "run file"))
        lk_run_clear(&run);
    load(path, &info);
    lk_checkpoint_info_clear(&info);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    return fuzz_h5_mutate(FUZZ_CHECKPOINT_TEXT, 2, data, size, room, seed);
}

bool fuzz_seed(int i, const char *path) { return fuzz_h5_seed(FUZZ_CHECKPOINT_TEXT, 2, i, path); }
