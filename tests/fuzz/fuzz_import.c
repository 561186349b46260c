/* Bytes as the files of others, and as lockstep's own that are not HDF5. The first byte says which:
 *   'i' PNG or JPEG   decoded, resized in each way
 *   'x' idx           two bytes: the length of the images, then these, then the labels
 *   'c' csv           'w' CSV file of labels (only read record by record)
 *   't' text          UTF-8      'b' text, as bytes
 *   'j' the journal of an interrupted import of images of 12 bytes
 *   'r' the JSON of a reference distribution
 *   'l' run.jsonl, loss.log and starts.jsonl of a run directory (the same bytes for each), looked
 *       at and, loss.log, as when a run goes on from step 3 */
#include "io/csv.h"
#include "io/image.h"
#include "io/import.h"
#include "io/journal.h"
#include "metric/drift.h"
#include "tests/fuzz/fuzz.h"
#include "tests/image_make.h"
#include "train/history.h"
#include "train/steplog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void image(const uint8_t *data, size_t size)
{
    static const int64_t shape[][3] = {{8, 8, 3}, {1, 31, 1}};
    uint8_t out[8 * 8 * 3];
    lk_pixels p;
    for (int i = 0; i < 2; i++) {
        lk_status status = lk_image_decode(data, size, shape[i][0], shape[i][1], &p);
        if (!fuzz_read(status, "decode")) return;
        for (int how = LK_RESIZE_CROP; how <= LK_RESIZE_STRETCH; how++)
            fuzz_read(lk_image_resize(&p, (lk_resize)how, shape[i][0], shape[i][1], shape[i][2],
                                      out), "resize");
        free(p.data);
    }
}

static void idx(const uint8_t *data, size_t size)
{
    size_t split = size < 2 ? 0 : (size_t)data[0] << 8 | data[1];
    if (size < 2) return;
    data += 2;
    size -= 2;
    if (split > size) split = size;
    lk_import_result result;
    lk_import_idx job = {.to = {.output = fuzz_path("idx.h5"), .overwrite = true,
                                .validation = -1},
                         .images = {fuzz_file("images", data, split), NULL},
                         .labels = {fuzz_file("labels", data + split, size - split), NULL}};
    fuzz_read(lk_import_idx_run(fuzz_io, &job, &result), "idx");
}

static void csv(const uint8_t *data, size_t size)
{
    const char *file = fuzz_file("a.csv", data, size);
    lk_import_result result;
    lk_import_csv job = {.to = {.output = fuzz_path("csv.h5"), .overwrite = true,
                                .validation = 0.2, .max_bad = 2},
                         .files = 1, .file = &file, .label = "label"};
    fuzz_read(lk_import_csv_run(fuzz_io, &job, &result), "csv");
}

static void records(const uint8_t *data, size_t size)
{
    lk_csv c = {.file = NULL};
    lk_status status = lk_csv_open(&c, fuzz_file("a.csv", data, size));
    for (bool end = false; status == LK_OK && !end;) status = lk_csv_next(&c, &end);
    fuzz_read(status, "records");
    lk_csv_close(&c);
}

static void text(const uint8_t *data, size_t size, bool characters)
{
    const char *file = fuzz_file("a.txt", data, size);
    lk_import_result result;
    lk_import_text job = {.to = {.output = fuzz_path("text.h5"), .overwrite = true,
                                 .validation = 0.2},
                          .files = 1, .file = &file, .characters = characters};
    fuzz_read(lk_import_text_run(fuzz_io, &job, &result), "text");
}

static void journal(const uint8_t *data, size_t size)
{
    lk_journal j = {.file = NULL};
    lk_journal_block b;
    lk_status status = lk_journal_open(&j, fuzz_file("journal", data, size), "key", 12);
    for (bool end = false; status == LK_OK && !end;) {
        status = lk_journal_next(&j, &b, &end);
        if (status == LK_OK && !end) lk_journal_block_clear(&b);
    }
    fuzz_demand(status == LK_OK, "a journal is read as far as it is whole");
    lk_journal_close(&j);
}

static void reference(const uint8_t *data, size_t size)
{
    char *copy = calloc(1, size + 1), *again = NULL;
    lk_reference r = {.features = 0};
    fuzz_demand(copy, "out of memory");
    memcpy(copy, data, size);
    if (fuzz_read(lk_reference_parse("reference", copy, &r), "reference")) {
        fuzz_demand(lk_reference_format(&r, &again) == LK_OK, "format");
        lk_drift drift;
        for (int64_t i = 0; i < r.features; i++)
            fuzz_read(lk_drift_of(&r.feature[i], r.samples, r.feature[i].count, r.samples, &drift),
                      "drift");
        lk_reference_clear(&r);
    }
    free(again);
    free(copy);
}

static void go_on(const char *path)
{
    lk_digest *digest = NULL;
    uint64_t bytes = 0;
    bool none = false;
    fuzz_demand(lk_digest_create(&digest) == LK_OK, "a digest");
    fuzz_read(lk_steplog_check(path, &lk_steplogs[LK_CHECKPOINT_LOSS], 3, 3, &(float){1}, digest,
                               &bytes, &none),
              "log");
    lk_digest_destroy(digest);
}

static void logs(const uint8_t *data, size_t size)
{
    static const char *const name[] = {"logs/run.jsonl", "logs/loss.log", "logs/validation.log",
                                       "logs/starts.jsonl"};
    char directory[300], state[LK_HISTORY_TEXT];
    lk_history *h;
    int64_t step;
    snprintf(directory, sizeof directory, "%s", fuzz_path("logs"));
    mkdir(directory, 0777);
    for (int i = 0; i < 4; i++) fuzz_file(name[i], data, size);
    go_on(fuzz_path(name[1]));
    if (!fuzz_read(lk_history_open(directory, &h), "history")) return;
    lk_history_state(h, 1e9, state);
    lk_history_best(h, &step);
    fuzz_read(lk_history_follow(h), "follow");
    lk_history_close(h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_start();
    if (size == 0) return 0;
    switch (data[0]) {
    case 'i': image(data + 1, size - 1); break;
    case 'x': idx(data + 1, size - 1); break;
    case 'c': csv(data + 1, size - 1); break;
    case 'w': records(data + 1, size - 1); break;
    case 't':
    case 'b': text(data + 1, size - 1, data[0] == 't'); break;
    case 'j': journal(data + 1, size - 1); break;
    case 'r': reference(data + 1, size - 1); break;
    case 'l': logs(data + 1, size - 1); break;
    default: break;
    }
    return 0;
}

/* ---- seeds ----------------------------------------------------------------------------------- */

/* The kind's letter, `middle`, then the files one after the other. */
static void join(const char *path, const char *middle, size_t n, int files,
                 const char *const file[])
{
    FILE *out = fopen(path, "wb");
    bool good = out && fwrite(middle, 1, n, out) == n;
    for (int i = 0; i < files && good; i++) {
        FILE *in = fopen(file[i], "rb");
        for (int x; in && (x = fgetc(in)) != EOF;) fputc(x, out);
        good = in != NULL;
        if (in) fclose(in);
    }
    fuzz_demand(out && fclose(out) == 0 && good, "cannot write a seed");
}

static void seed_idx(const char *path)
{
    const char *file[2] = {fuzz_path("seed-images"), fuzz_path("seed-labels")};
    uint8_t bytes[4 * 3 * 3];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i % 2);
    make_idx(file[0], 3, (uint32_t[]){4, 3, 3}, bytes, sizeof bytes);
    make_idx(file[1], 1, (uint32_t[]){4}, bytes, 4);
    join(path, "x\0\064", 3, 2, file); /* 16 bytes of header, 36 of pixels */
}

static void seed_journal(const char *path)
{
    const char *file = fuzz_path("seed-journal");
    char reason[3][LK_JOURNAL_REASON] = {"", "bad", ""};
    uint8_t pixels[24] = {1, 2, 3};
    lk_journal j = {.file = NULL};
    remove(file);
    fuzz_demand(lk_journal_open(&j, file, "key", 12) == LK_OK, "journal");
    for (int i = 0; i < 2; i++) {
        lk_journal_block b = {3 * i, 3, 2, reason, pixels};
        fuzz_demand(lk_journal_append(&j, &b) == LK_OK, "block");
    }
    lk_journal_close(&j);
    join(path, "j", 1, 1, &file);
}

static void seed_turned(const char *path)
{
    const char *stored = fuzz_path("seed-image"), *file = fuzz_path("seed-turned");
    uint8_t exif[MAKE_EXIF];
    make_exif(true, 6, exif);
    make_image(stored, MAKE_RGB, 9, 7, 1);
    make_with_exif(stored, file, exif, sizeof exif);
    join(path, "i", 1, 1, &file);
}

bool fuzz_seed(int i, const char *path)
{
    if (i < MAKE_KINDS) {
        const char *file = fuzz_path("seed-image");
        make_image(file, (make_kind)i, 9, 7, i);
        join(path, "i", 1, 1, &file);
    } else if (i == MAKE_KINDS) {
        seed_idx(path);
    } else if (i == MAKE_KINDS + 1) {
        seed_journal(path);
    } else if (i == MAKE_KINDS + 2) {
        seed_turned(path);
    }
    return i <= MAKE_KINDS + 2;
}
