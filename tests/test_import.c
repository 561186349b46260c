/* Tests of the importers of idx files, images and tables, of the datasets they make and of the
 * loader on them. Run with 1, 2 and 4 ranks; what one process does alone is tested with 1. */
#include "backend/backend.h"
#include "base/philox.h"
#include "base/replace.h"
#include "io/dataset.h"
#include "io/hdf5.h"
#include "io/image.h"
#include "io/import.h"
#include "io/loader.h"
#include "tests/image_make.h"
#include "tests/io_help.h"

#include <math.h>
#include <omp.h>

/* ---- idx ------------------------------------------------------------------------------------- */

enum { IDX = 500, SIDE = 7 };
static uint8_t idx_pixels[IDX * SIDE * SIDE], idx_labels[IDX];

static void pack(const char *from, const char *to)
{
    size_t n;
    char *bytes = read_file(from, &n);
    gzFile f = gzopen(to, "wb");
    gzwrite(f, bytes, (unsigned)n);
    gzclose(f);
    free(bytes);
}

static void write_idx(const char *images, const char *labels, uint32_t count)
{
    make_idx(images, 3, (uint32_t[]){count, SIDE, SIDE}, idx_pixels, count * SIDE * SIDE);
    make_idx(labels, 1, &count, idx_labels, count);
}

/* Samples of both splits in order, as they are stored. */
static bool read_split(lk_dataset *d, lk_split s, uint8_t *pixels, uint16_t *labels)
{
    return lk_dataset_read(d, s, 0, 0, d->rows[s], pixels) == LK_OK &&
           lk_dataset_read(d, s, 1, 0, d->rows[s], labels) == LK_OK;
}

static void check_idx_pair(void)
{
    lk_import_result r = {.classes = 0};
    lk_dataset *d = NULL;
    uint8_t pixels[sizeof idx_pixels];
    uint16_t labels[IDX];
    double sum = 0, square = 0;
    pack(in_home("i"), in_home("i.gz"));
    lk_import_idx job = {.to = {.output = in_home("idx.h5"), .validation = -1},
                         .images = {in_home("i.gz"), in_home("vi")},
                         .labels = {in_home("l"), in_home("vl")}};
    worked(lk_import_idx_run(io, &job, &r), "idx, one packed, with a validation pair");
    if (!worked(lk_dataset_open(io, MPI_COMM_SELF, in_home("idx.h5"), &d), "open it")) return;
    bool same = d->kind == LK_IMAGE_DATA && d->rows[0] == IDX && d->rows[1] == 100 &&
                r.rows[0] == IDX && r.rows[1] == 100 && d->fields == 2 &&
                d->field[0].row_bytes == SIDE * SIDE && d->field[1].dtype == LK_U16;
    for (int s = 0; s < 2 && same; s++) {
        same = read_split(d, (lk_split)s, pixels, labels) &&
               memcmp(pixels, idx_pixels, (size_t)d->rows[s] * SIDE * SIDE) == 0;
        for (int i = 0; i < d->rows[s]; i++) same &= labels[i] == idx_labels[i];
    }
    tap_ok(same, "every image and label is there, in order %s", lk_error_text());
    for (size_t i = 0; i < sizeof idx_pixels; i++) {
        sum += idx_pixels[i] / 255.0;
        square += idx_pixels[i] / 255.0 * idx_pixels[i] / 255.0;
    }
    double mean = sum / sizeof idx_pixels, std = sqrt(square / sizeof idx_pixels - mean * mean);
    const lk_image_format *f = &d->image;
    tap_ok(fabs((double)f->mean[0] - mean) < 1e-6 && fabs((double)f->std[0] - std) < 1e-6 &&
               f->classes == 10 && strcmp(f->name[9], "9") == 0 && f->height == SIDE &&
               f->width == SIDE && f->channels == 1,
           "mean %g, std %g, %lld classes", (double)f->mean[0], (double)f->std[0],
           (long long)f->classes);
    failed(lk_dataset_expect(d, LK_TEXT_DATA), LK_E_INPUT,
           "expected a dataset of kind 'text', found 'images'", "not a text");
    failed(lk_dataset_read(d, LK_TRAIN, 0, IDX - 1, 2, pixels), LK_E_INTERNAL,
           "outside 'train/images'", "beyond the end");
    lk_dataset_close(d);
}

static void check_idx_share(void)
{
    char *names[10] = {(char *)"a", (char *)"b", (char *)"\xC3\xA9", (char *)"d", (char *)"e",
                       (char *)"f", (char *)"g", (char *)"h", (char *)"i", (char *)"a long name"};
    lk_import_result r = {.classes = 0};
    lk_dataset *d = NULL;
    uint8_t *pixels = malloc(sizeof idx_pixels);
    uint16_t labels[IDX];
    lk_import_idx job = {.to = {.output = in_home("share.h5"), .validation = 0.25},
                         .images = {in_home("i")}, .labels = {in_home("l")}, .classes = 10,
                         .name = names};
    worked(lk_import_idx_run(io, &job, &r), "idx, a quarter for validation, with names");
    if (!worked(lk_dataset_open(io, MPI_COMM_SELF, in_home("share.h5"), &d), "open it")) return;
    int found = 0, next = 0;
    bool ordered = true;
    for (int s = 0; s < 2; s++) {
        read_split(d, (lk_split)s, pixels, labels);
        next = 0;
        for (int64_t i = 0; i < d->rows[s]; i++) { /* each follows the one before in the input */
            while (next < IDX && (memcmp(pixels + i * SIDE * SIDE, idx_pixels + next * SIDE * SIDE,
                                         SIDE * SIDE) != 0 || labels[i] != idx_labels[next]))
                next++;
            ordered &= next < IDX;
            found += next++ < IDX;
        }
    }
    tap_ok(d->rows[1] == IDX / 4 && found == IDX && ordered && strcmp(d->image.name[2], names[2]) ==
               0 && strcmp(d->image.name[9], names[9]) == 0, "all %d are there, a quarter apart",
           found);
    lk_dataset_close(d);
    free(pixels);
}

static void idx_fails(const char *images, const char *labels, const char *words, const char *what)
{
    lk_import_result r;
    lk_import_idx job = {.to = {.output = in_home("bad.h5"), .validation = 0.1},
                         .images = {images}, .labels = {labels}};
    failed(lk_import_idx_run(io, &job, &r), LK_E_INPUT, words, what);
    if (exists(in_home("bad.h5")) || exists(in_home("bad.h5.part")))
        tap_ok(false, "%s: something is left", what);
}

static void check_idx_errors(void)
{
    char i[300], l[300], x[300];
    size_t n;
    snprintf(i, sizeof i, "%s", in_home("i"));
    snprintf(l, sizeof l, "%s", in_home("l"));
    snprintf(x, sizeof x, "%s", in_home("x"));
    idx_fails(l, l, "expected the magic number 00000803 of idx images, found 00000801", "labels");
    idx_fails(i, i, "expected the magic number 00000801 of idx labels", "images for labels");
    idx_fails(i, in_home("vl"), "expected 500 labels, as many as images", "other labels");
    idx_fails(in_home("none"), l, "No such file", "no file");
    char *bytes = read_file(i, &n);
    write_file(x, bytes, n - 1);
    idx_fails(x, l, "found the end of the file", "a byte short");
    write_file(x, bytes, 6);
    idx_fails(x, l, "expected the dimensions", "a header cut off");
    write_file(x, bytes, n + 1); /* read_file ends with a NUL */
    idx_fails(x, l, "found more bytes", "a byte more");
    bytes[7] = 0, bytes[6] = 0;
    write_file(x, bytes, n);
    idx_fails(x, l, "expected idx images, found none", "no images");
    free(bytes);
    bytes = read_file(in_home("i.gz"), &n);
    write_file(x, bytes, n - 20);
    idx_fails(x, l, "found a truncated one", "a truncated gzip file");
    bytes[n - 6] ^= 1;
    write_file(x, bytes, n);
    idx_fails(x, l, "found a damaged one", "a gzip file with another checksum");
    bytes[n / 2] ^= 0x10;
    write_file(x, bytes, n);
    idx_fails(x, l, "found a damaged one", "a damaged gzip file");
    free(bytes);
    write_file(x, "hello", 5);
    idx_fails(x, l, "expected the magic number", "a text");
    lk_import_result r;
    char *names[3] = {(char *)"a", (char *)"b", (char *)"c"};
    lk_import_idx job = {.to = {.output = in_home("bad.h5")}, .images = {i}, .labels = {l},
                         .classes = 3, .name = names};
    failed(lk_import_idx_run(io, &job, &r), LK_E_INPUT, "expected labels below the 3 classes "
           "named, found 3 at 3", "too few names");
    job.images[1] = i;
    job.labels[1] = l;
    failed(lk_import_idx_run(io, &job, &r), LK_E_INPUT, "found both", "files and a fraction");
}

/* Somebody else makes the output while an import is at work. */
static void make_output(void *context, int64_t done, int64_t total)
{
    if (done == total) write_file(context, "theirs", 6);
}

static void check_race(void)
{
    char out[300], i[300], part[310];
    size_t n;
    lk_import_result r;
    int lock = -1, other = -1;
    snprintf(i, sizeof i, "%s", in_home("i"));
    snprintf(out, sizeof out, "%s", in_home("race.h5"));
    snprintf(part, sizeof part, "%s.part", out);
    lk_import_idx job = {.to = {.output = out, .validation = -1, .progress = make_output,
                                .context = out}, .images = {i}, .labels = {in_home("l")}};
    failed(lk_import_idx_run(io, &job, &r), LK_E_INPUT, "was made by somebody else meanwhile",
           "an output that was made meanwhile");
    char *found = read_file(out, &n);
    tap_ok(n == 6 && memcmp(found, "theirs", n) == 0 && access(part, F_OK) != 0,
           "it stays, and nothing else");
    free(found);
    job.to.overwrite = true;
    worked(lk_import_idx_run(io, &job, &r), "with overwrite it is replaced");
    worked(lk_replace_lock(part, &lock), "a lock");
    failed(lk_replace_lock(part, &other), LK_E_INPUT, "another process is writing it", "another");
    failed(lk_import_idx_run(io, &job, &r), LK_E_INPUT, "another process is writing it",
           "an import of the same name");
    tap_ok(access(part, F_OK) == 0, "leaves the file of the first");
    worked(lk_replace_publish(part, out), "which is published");
    worked(lk_replace_lock(part, &other), "a lock of the next, while the first is held");
    close(lock);
    close(other);
    unlink(part);
}

/* ---- tables ---------------------------------------------------------------------------------- */

typedef struct heard {
    int bad, calls;
    char text[2000];
    int64_t first, done, total;
    bool fell;
} heard;

static void hear(void *context, const char *where, const char *reason)
{
    heard *h = context;
    size_t n = strlen(h->text);
    h->bad++;
    snprintf(h->text + n, sizeof h->text - n, "%s: %s\n", where, reason);
}

static void hear_progress(void *context, int64_t done, int64_t total)
{
    heard *h = context;
    if (h->calls++ == 0) h->first = done;
    h->fell |= done < h->done;
    h->done = done;
    h->total = total;
}

static void check_csv(void)
{
    heard h = {.bad = 0};
    lk_import_result r = {.classes = 0};
    lk_dataset *d = NULL;
    float row[2];
    uint16_t label;
    FILE *f = fopen(in_home("t.csv"), "w");
    fputs("\xEF\xBB\xBF" "x,\"the, label\",y\r\n", f);
    for (int i = 0; i < 3000; i++)
        fprintf(f, i % 3 ? "%d,%d,%.9g\r\n" : " %d , \"%d\" ,\"%.9g\"\n", i, 10 - i % 4,
                (double)i / 7);
    fputs("\n1,2\n,8,3\n1,,3\n1,8,nan\n1,8,1e60\n1,8,0x10\n\"1,8,9\n\",8,1\n5,8,7", f);
    fclose(f);
    const char *file[1] = {in_home("t.csv")};
    lk_import_csv job = {.to = {.output = in_home("t.h5"), .validation = 0.1, .max_bad = 7,
                                .bad = hear, .progress = hear_progress, .context = &h},
                         .files = 1, .file = file, .label = "the, label"};
    worked(lk_import_csv_run(io, &job, &r), "a table");
    tap_ok(r.rows[0] == 2701 && r.rows[1] == 300 && r.bad == 7 && h.bad == 7 &&
               h.done == h.total && h.total > 0,
           "%lld + %lld rows, %lld bad", (long long)r.rows[0], (long long)r.rows[1],
           (long long)r.bad);
    tap_ok(strstr(h.text, "t.csv:3003: expected 3 cells, found 2") &&
               strstr(h.text, "t.csv:3004: column 'x': the cell is empty") &&
               strstr(h.text, "column 'the, label': the cell is empty") &&
               strstr(h.text, "t.csv:3006: column 'y': expected a number, found 'nan'") &&
               strstr(h.text, "found '1e60'") && strstr(h.text, "found '0x10'"),
           "each bad row is named with its line and column");
    if (!worked(lk_dataset_open(io, MPI_COMM_SELF, in_home("t.h5"), &d), "open it")) return;
    int good = 0, seen[3001] = {0}, in_order = 0;
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0, last = -1; i < d->rows[s]; i++) {
            lk_dataset_read(d, (lk_split)s, 0, i, 1, row);
            lk_dataset_read(d, (lk_split)s, 1, i, 1, &label);
            int k = (int)row[0];
            bool extra = row[1] == 7 && k == 5; /* the last line, without an end */
            good += extra || (row[1] == (float)(k / 7.0) && label == 3 - k % 4 && !seen[k]);
            if (!extra) seen[k] = 1;
            in_order += k == last + 1;
            last = k;
        }
    tap_ok(good == 3001 && in_order < 20 && d->kind == LK_TABLE_DATA && d->table.columns == 2 &&
               strcmp(d->table.column[1], "y") == 0 && d->table.classes == 4 &&
               strcmp(d->table.name[0], "7") == 0 && strcmp(d->table.name[3], "10") == 0,
           "every row is there, shuffled; classes in the order of numbers (%d)", good);
    lk_dataset_close(d);
    job.to.max_bad = 6;
    job.to.overwrite = true;
    failed(lk_import_csv_run(io, &job, &r), LK_E_INPUT, "expected at most 6 bad rows, found 7",
           "one too many");
}

/* Both passes tell how far they are. */
static void check_csv_progress(void)
{
    heard h = {.calls = 0};
    lk_import_result r;
    FILE *f = fopen(in_home("long.csv"), "w");
    fputs("x,y\n", f);
    for (int i = 0; i < 20000; i++) fprintf(f, "%d,%d\n", i, i % 2);
    int64_t bytes = (int64_t)ftello(f);
    fclose(f);
    const char *file[2] = {in_home("long.csv"), in_home("long.csv")};
    lk_import_csv job = {.to = {.output = in_home("long.h5"), .validation = -1,
                                .progress = hear_progress, .context = &h},
                         .files = 2, .file = file, .label = "y"};
    worked(lk_import_csv_run(io, &job, &r), "two long tables");
    tap_ok(h.first > 0 && h.first < bytes && h.calls > 16 && !h.fell && h.done == 4 * bytes &&
               h.total == h.done,
           "progress from %lld to %lld of %lld bytes, in %d calls", (long long)h.first,
           (long long)h.done, (long long)h.total, h.calls);
}

static void csv_fails(const char *text, const char *label, const char *words, const char *what)
{
    lk_import_result r;
    write_file(in_home("bad.csv"), text, strlen(text));
    const char *file[1] = {in_home("bad.csv")};
    lk_import_csv job = {.to = {.output = in_home("bad.h5")}, .files = 1, .file = file,
                         .label = label};
    failed(lk_import_csv_run(io, &job, &r), LK_E_INPUT, words, what);
    if (exists(in_home("bad.h5")) || exists(in_home("bad.h5.part")))
        tap_ok(false, "%s: something is left", what);
}

static void check_csv_errors(void)
{
    lk_import_result r;
    char one[300], two[300];
    snprintf(one, sizeof one, "%s", in_home("bad.csv"));
    snprintf(two, sizeof two, "%s", in_home("2.csv"));
    csv_fails("", "y", "expected a table, found nothing", "nothing");
    csv_fails("a,b\n1,2\n", "y", "bad.csv:1: expected a column 'y', found 'a', 'b'; give one of",
              "no label");
    csv_fails("1,2\n3,4\n", "y", "a first line of numbers alone", "no label without names");
    csv_fails("a,a\n1,2\n", "a", "two columns are named 'a'", "two labels");
    csv_fails("b,a,y,a\n1,2,3,4\n", "y", "bad.csv:1: two columns are named 'a'", "two features");
    csv_fails("y\n1\n", "y", "1 to 65536 columns of features", "no features");
    csv_fails("a,y\n", "y", "expected rows of numbers, found none", "no rows");
    csv_fails("a,y\n1,\"2\n3,4\n", "y", "bad.csv:2: expected a closing quote", "an open quote");
    csv_fails("a,y\n1,\"2\"3\n", "y", "bad.csv:2: expected a comma after a closing quote",
              "a quote");
    csv_fails("a,y\n1,2\n1,x,3\n", "y", "found 1, listed above", "one bad row");
    write_file(one, "a,y\n\0,2\n", 8);
    const char *file[2] = {one, two};
    lk_import_csv job = {.to = {.output = in_home("bad.h5")}, .files = 1, .file = file,
                         .label = "y"};
    failed(lk_import_csv_run(io, &job, &r), LK_E_INPUT, "found a NUL byte", "a NUL");
    write_file(one, "a,y\n1,b\n", 8);
    write_file(two, "b,y\n1,b\n", 8);
    job.files = 2;
    failed(lk_import_csv_run(io, &job, &r), LK_E_INPUT, "2.csv:1: expected the columns of",
           "two files of other columns");
    write_file(one, "1,b\n2,c\n", 8);
    write_file(two, "3,a\n", 4);
    job.label = "2";
    failed(lk_import_csv_run(io, &job, &r), LK_E_INPUT, "expected a column '2'", "names in front");
    write_file(one, "1,5\n2,6\n", 8);
    write_file(two, "3,4\n", 4);
    worked(lk_import_csv_run(io, &job, &r), "two files of numbers without names");
    tap_ok(r.rows[0] + r.rows[1] == 3 && r.classes == 3, "%lld + %lld rows of %lld classes",
           (long long)r.rows[0], (long long)r.rows[1], (long long)r.classes);
}

/* ---- folders --------------------------------------------------------------------------------- */

static void make_folder(const char *name)
{
    if (rank == 0) mkdir(in_home("%s", name), 0777);
}

/* 3 classes of 20, 13 and 7 images of all kinds. */
static void make_folders(void)
{
    static const int count[3] = {20, 13, 7};
    static const char *const class[3] = {"b dog", "a cat", "\xC3\xA9" "agle"};
    make_folder("pics");
    for (int c = 0; c < 3; c++) {
        make_folder(c == 2 ? "pics/\xC3\xA9" "agle" : c ? "pics/a cat" : "pics/b dog");
        for (int i = 0; i < count[c] && rank == 0; i++) {
            make_kind kind = (make_kind)((i + c) % MAKE_KINDS);
            if (kind == MAKE_JPEG_CMYK) kind = MAKE_JPEG;
            make_image(in_home("pics/%s/%d", class[c], i), kind, 20 + i, 30 + c, i);
        }
    }
    if (rank == 0) write_file(in_home("pics/.hidden"), "x", 1);
    if (rank == 0) write_file(in_home("pics/README"), "x", 1);
    all(true);
}

static lk_import_images images_job(const char *directory, const char *output)
{
    return (lk_import_images){.to = {.output = output, .overwrite = true, .validation = 0.2},
                              .directory = directory, .height = 16, .width = 20, .channels = 3};
}

/* Every row is the image of a file of its class. */
static void check_rows(lk_dataset *d)
{
    static const int count[3] = {13, 20, 7};
    int found = 0;
    uint8_t want[16 * 20 * 3], have[16 * 20 * 3];
    uint16_t label;
    bool used[3][20] = {{false}};
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; i < d->rows[s]; i++) {
            lk_dataset_read(d, (lk_split)s, 0, i, 1, have);
            lk_dataset_read(d, (lk_split)s, 1, i, 1, &label);
            for (int k = 0; k < count[label]; k++) {
                const char *path = in_home("pics/%s/%d", d->image.name[label], k);
                if (used[label][k] ||
                    lk_image_load(path, LK_RESIZE_CROP, 16, 20, 3, want) != LK_OK ||
                    memcmp(want, have, sizeof want) != 0)
                    continue;
                used[label][k] = true;
                found++;
                break;
            }
        }
    tap_ok(found == 40 && d->rows[1] == 8 && strcmp(d->image.name[0], "a cat") == 0 &&
               strcmp(d->image.name[2], "\xC3\xA9" "agle") == 0,
           "%d of 40 images are there with their class, %lld for validation", found,
           (long long)d->rows[1]);
}

static void check_folders(void)
{
    heard h = {.calls = 0};
    lk_import_result r = {.classes = 0}, alone = {.classes = 0};
    lk_dataset *d = NULL;
    lk_import_images job = images_job(in_home("pics"), in_home("pics.h5"));
    job.to.progress = hear_progress;
    job.to.context = &h;
    worked(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), "folders of images, all ranks");
    tap_ok(all(r.rows[0] == 32 && r.rows[1] == 8 && r.classes == 3 && r.bad == 0 &&
               !exists(in_home("pics.h5.part")) && !exists(in_home("pics.h5.part.h5"))),
           "all ranks know the result");
    int first = ranks * omp_get_max_threads(), blocks = first < 40 ? 2 : 1;
    tap_ok(all(rank > 0 || (h.done == 40 && h.calls > blocks)),
           "blocks begin with a file for each thread: %d calls for 40 files, %d at first", h.calls,
           first);
    job.to.output = in_home("alone.h5");
    lk_status status = rank ? LK_OK : lk_import_images_run(io, MPI_COMM_SELF, &job, &alone);
    worked(status, "the same by one rank");
    tap_ok(rank > 0 || strcmp(r.digest, alone.digest) == 0, "has the same digest %s", r.digest);
    if (worked(lk_dataset_open(io, MPI_COMM_WORLD, in_home("pics.h5"), &d), "open it") && rank == 0)
        check_rows(d);
    lk_dataset_close(d);
}

static void check_bad_folders(void)
{
    heard h = {.bad = 0};
    lk_import_result r;
    char pics[300], output[300];
    snprintf(pics, sizeof pics, "%s", in_home("pics"));
    snprintf(output, sizeof output, "%s", in_home("b.h5"));
    lk_import_images job = images_job(pics, output);
    job.to.bad = job.to.ignored = hear;
    job.to.context = &h;
    if (rank == 0) write_file(in_home("pics/a cat/notes.txt"), "no image", 8);
    if (rank == 0) write_file(in_home("pics/a cat/photo.webp"), "no image", 8);
    if (rank == 0) write_file(in_home("pics/b dog/z.jpg"), "", 0);
    if (rank == 0) make_image(in_home("pics/loose.PNG"), MAKE_RGB, 4, 4, 1);
    all(true);
    failed(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), LK_E_INPUT,
           "b.h5: expected at most 0 bad files, found 3, listed above", "three bad files");
    bool named = h.bad == 6 && strstr(h.text, ".hidden: its name begins with a dot") &&
                 strstr(h.text, "loose.PNG: an image in no class folder") &&
                 strstr(h.text, "README: a file in no class folder") &&
                 strstr(h.text, "a cat/notes.txt: not an image, by its name and its first bytes") &&
                 strstr(h.text, "a cat/photo.webp: neither a PNG nor a JPEG file") &&
                 strstr(h.text, "b dog/z.jpg: an empty file");
    tap_ok(all(rank > 0 ? h.bad == 0 : named), "rank 0 hears of each with its reason");
    tap_ok(!exists(in_home("b.h5")) && exists(in_home("b.h5.part")),
           "no dataset is written, what is decoded is kept");
    job.to.max_bad = 3;
    worked(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), "three are allowed");
    tap_ok(all(r.bad == 3 && r.ignored == 3 && r.rows[0] + r.rows[1] == 40 && r.resumed == 40),
           "the others are imported, and not decoded again (%lld)", (long long)r.resumed);
    make_folder("pics/empty");
    all(true);
    failed(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), LK_E_INPUT,
           "pics/empty: expected images of the class 'empty'", "an empty class");
    if (rank == 0) {
        rmdir(in_home("pics/empty"));
        unlink(in_home("pics/a cat/notes.txt"));
        unlink(in_home("pics/a cat/photo.webp"));
        unlink(in_home("pics/b dog/z.jpg"));
        unlink(in_home("pics/loose.PNG"));
    }
    make_folder("hollow");
    all(true);
    job.directory = in_home("hollow");
    failed(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), LK_E_INPUT,
           "expected folders of images", "no classes");
    job.directory = in_home("pics/README");
    failed(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), LK_E_INPUT, "found a file",
           "a file");
    job.directory = in_home("nothing");
    failed(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), LK_E_INPUT, "No such file", "none");
    job.directory = pics;
    job.channels = 2;
    failed(lk_import_images_run(io, MPI_COMM_WORLD, &job, &r), LK_E_INPUT, "expected 1 or 3",
           "two channels");
}

/* ---- interruption ---------------------------------------------------------------------------- */

/* What a killed import leaves: its journal, cut somewhere. Every length of it must do. */
static void check_resume(void)
{
    lk_import_result r = {.classes = 0}, whole = {.classes = 0};
    char pics[300], output[300], part[300];
    size_t n;
    snprintf(pics, sizeof pics, "%s", in_home("pics"));
    snprintf(output, sizeof output, "%s", in_home("r.h5"));
    snprintf(part, sizeof part, "%s", in_home("r.h5.part"));
    lk_import_images job = images_job(pics, output);
    job.height = 300; /* so that there are several blocks */
    job.width = 1000;
    worked(lk_import_images_run(io, MPI_COMM_SELF, &job, &whole), "large images");
    unlink(output);
    job.to.output = in_home("no-such-folder/../r.h5");
    failed(lk_import_images_run(io, MPI_COMM_SELF, &job, &r), LK_E_INPUT, "cannot write",
           "nowhere");
    job.to.output = output;
    writes_left = 6; /* the dataset cannot be written; all is decoded by then */
    failed(lk_import_images_run(io, MPI_COMM_SELF, &job, &r), LK_E_SYSTEM, "r.h5.part.h5",
           "a full disk");
    writes_left = -1;
    tap_ok(exists(part) && !exists(output) &&
               !exists(in_home("r.h5.part.h5")), "the decoded images stay");
    char *bytes = read_file(part, &n);
    int good = 0, tried = 0;
    int64_t resumed = 0;
    for (uint32_t i = 0; i < 6; i++, tried++) {
        size_t cut = i == 0 ? n : i == 1 ? 10 : n / 6 * i;
        if (i == 5) bytes[n / 2] ^= 1;
        write_file(part, bytes, i == 5 ? n : cut);
        lk_status s = lk_import_images_run(io, MPI_COMM_SELF, &job, &r);
        resumed += s == LK_OK ? r.resumed : 0;
        good += s == LK_OK && strcmp(r.digest, whole.digest) == 0 &&
                (i == 0 ? r.resumed == 40 : i == 1 ? r.resumed == 0 : r.resumed < 40);
        if (s != LK_OK) printf("# %s\n", lk_error_text());
        lk_error_clear();
    }
    tap_ok(good == tried && resumed > 60, "%d of %d resumed imports are the same, with %lld images "
           "not decoded again", good, tried, (long long)resumed);
    write_file(part, bytes, n);
    job.resize = LK_RESIZE_STRETCH;
    worked(lk_import_images_run(io, MPI_COMM_SELF, &job, &r), "another option");
    tap_ok(r.resumed == 0 && strcmp(r.digest, whole.digest) != 0, "starts anew");
    job.resize = LK_RESIZE_CROP;
    write_file(part, bytes, n);
    make_image(in_home("pics/a cat/0"), MAKE_RGB, 50, 50, 77);
    worked(lk_import_images_run(io, MPI_COMM_SELF, &job, &r), "a changed file");
    tap_ok(r.resumed == 0 && strcmp(r.digest, whole.digest) != 0, "starts anew");
    free(bytes);
    unlink(output);
}

/* ---- datasets made by hand ------------------------------------------------------------------- */

/* The bytes of a chunk are counted in pixels, so this many rows make more than 1 MiB. */
enum { HAND_ROWS = 300, HAND_HELD = 20 };

typedef struct hand {
    const char *path;
    hsize_t chunk[4];  /* 0: contiguous */
    int labels, class; /* rows of labels, the label of row 3 */
    bool no_mean, floats;
    const double *mean, *std; /* NULL: 0.5, 0.25 */
} hand;

static void put(hid_t file, const char *path, int dims, const hsize_t *dim, const hsize_t *chunk,
                hid_t type, const void *data)
{
    hid_t space = H5Screate_simple(dims, dim, NULL), list = H5Pcreate(H5P_DATASET_CREATE);
    if (chunk && chunk[0]) H5Pset_chunk(list, dims, chunk);
    hid_t d = H5Dcreate2(file, path, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(d);
    H5Pclose(list);
    H5Sclose(space);
}

/* Images of 64x64x1 of 4 classes. A lk_io_job. */
static lk_status make_by_hand(void *argument)
{
    const hand *h = argument;
    char *names[4] = {(char *)"k", (char *)"l", (char *)"m", (char *)"n"};
    static float pixels[HAND_ROWS * 64 * 64];
    uint16_t labels[HAND_ROWS] = {0};
    labels[3] = (uint16_t)h->class;
    hid_t file = -1;
    LK_TRY(lk_h5_create(h->path, MPI_COMM_NULL, LK_SCHEMA_DATASET, &file));
    H5Adelete(file, "version"); /* the one without digests of rows */
    lk_h5_set_u64(file, h->path, "version", 1);
    for (int s = 0; s < 2; s++) {
        hsize_t rows = s ? HAND_HELD : HAND_ROWS, dim[4] = {rows, 64, 64, 1};
        hsize_t count = s ? rows : (hsize_t)h->labels;
        H5Gclose(H5Gcreate2(file, s ? "validation" : "train", H5P_DEFAULT, H5P_DEFAULT,
                            H5P_DEFAULT));
        put(file, s ? "validation/images" : "train/images", 4, dim, s ? NULL : h->chunk,
            h->floats ? H5T_NATIVE_FLOAT : H5T_NATIVE_UINT8, pixels);
        put(file, s ? "validation/labels" : "train/labels", 1, &count, NULL, H5T_NATIVE_UINT16,
            labels);
    }
    lk_h5_set_text(file, h->path, "kind", "images");
    lk_h5_set_text(file, h->path, "digest", "0123456789abcdef0123456789abcdef");
    lk_h5_set_texts(file, h->path, "classes", names, 4);
    if (!h->no_mean) lk_h5_set_f64s(file, h->path, "mean", h->mean ? h->mean : &(double){0.5}, 1);
    lk_h5_set_f64s(file, h->path, "std", h->std ? h->std : &(double){0.25}, 1);
    return lk_h5_close(h->path, &file);
}

static void check_hand(hand h, const char *error, const char *warning, const char *what)
{
    lk_dataset *d = NULL;
    uint16_t labels[HAND_ROWS];
    h.path = in_home("hand.h5");
    if (!h.labels) h.labels = HAND_ROWS;
    lk_status status = lk_io_call(io, make_by_hand, &h);
    if (!worked(status, "a file made by hand")) return;
    status = lk_dataset_open(io, MPI_COMM_SELF, h.path, &d);
    if (status == LK_OK) status = lk_dataset_read(d, LK_TRAIN, 1, 0, d->rows[0], labels);
    if (error)
        failed(status, LK_E_INPUT, error, what);
    else
        tap_ok(status == LK_OK && (warning ? strstr(d->warning, warning) != NULL : !d->warning[0]),
               "%s: %s %s", what, d ? d->warning : "", lk_error_text());
    lk_error_clear();
    lk_dataset_close(d);
}

static void check_hands(void)
{
    check_hand((hand){.labels = 0}, NULL, NULL, "contiguous images");
    check_hand((hand){.chunk = {16, 64, 64, 1}}, NULL, NULL, "chunks of 16 images");
    check_hand((hand){.chunk = {200, 64, 64, 1}}, NULL, NULL, "chunks of 800 KiB");
    check_hand((hand){.chunk = {300, 64, 64, 1}}, NULL, "its chunks of 1200 KiB hold many rows; "
               "import it again, or h5repack -l train/images,validation/images:CHUNK=16x64x64x1 IN "
               "OUT", "all in one chunk");
    check_hand((hand){.chunk = {4, 32, 64, 1}}, NULL,
               "hold parts of rows; import it again, or h5repack -l "
               "train/images,validation/images:CHUNK=16x64x64x1 IN OUT", "chunks of parts");
    check_hand((hand){.class = 4}, "'train/labels': label 4 at 3 is not below the number of "
               "classes 4", NULL, "a label too large");
    check_hand((hand){.labels = 39}, "'train/labels': expected 300 rows, as 'images' has, found 39",
               NULL, "a label missing");
    check_hand((hand){.no_mean = true}, "attribute 'mean', found none", NULL, "no mean");
    check_hand((hand){.std = &(double){0}}, "positive std", NULL, "std of 0");
    check_hand((hand){.std = &(double){1e-40}}, "make pixels finite, found 0.5 and 1e-40", NULL,
               "a std whose reciprocal is not finite");
    check_hand((hand){.std = &(double){1e-30}, .mean = &(double){1e20}}, "found 1e+20 and 1e-30",
               NULL, "a mean and a std that are too far apart");
    check_hand((hand){.std = &(double){1e-30}}, NULL, NULL, "a very small std");
    check_hand((hand){.floats = true}, "'train/images': expected u8 in 4 dimensions, found f32",
               NULL, "images of floats");
}

/* ---- the loader ------------------------------------------------------------------------------ */

/* What the loader brings to a device is what its header says, streaming and resident. */
static bool right_samples(lk_loader *l, lk_dataset *d, const lk_loader_options *o, bool resident,
                          uint64_t step)
{
    size_t row = d->field[0].row_bytes;
    uint64_t n = (uint64_t)(d->rows[o->split] / o->leaves);
    uint8_t *want = malloc(row);
    uint16_t label;
    bool good = true;
    for (int i = 0; i < o->local_leaves; i++)
        for (uint64_t b = 0; b < (uint64_t)o->batch; b++) {
            uint64_t pos = step * (uint64_t)o->batch + b;
            uint64_t k = lk_permute(pos % n, n, o->seed, o->purpose,
                                    (uint32_t)(o->first_leaf + i), (uint32_t)(pos / n));
            lk_dataset_read(d, o->split, 0, (int64_t)((uint64_t)(o->first_leaf + i) * n + k), 1,
                            want);
            lk_dataset_read(d, o->split, 1, (int64_t)((uint64_t)(o->first_leaf + i) * n + k), 1,
                            &label);
            uint64_t at = resident ? (uint64_t)i * n + k : b;
            good &= memcmp((uint8_t *)lk_loader_input(l, 0, i) + at * row, want, row) == 0 &&
                    ((uint16_t *)lk_loader_input(l, 1, i))[at] == label;
        }
    free(want);
    return good;
}

static void check_loader(lk_device *device)
{
    lk_dataset *d = NULL;
    if (!worked(lk_dataset_open(io, MPI_COMM_SELF, in_home("share.h5"), &d), "images to load"))
        return;
    lk_loader_options o = {.split = LK_TRAIN, .purpose = LK_PURPOSE_ORDER, .seed = 3, .leaves = 8,
                           .first_leaf = 2, .local_leaves = 3, .batch = 5, .span = 1};
    for (int resident = 0; resident < 2; resident++) {
        lk_loader *l = NULL;
        lk_loader_sizes z;
        o.resident_limit = resident ? 1 << 30 : -1;
        worked(lk_loader_measure(d, &o, &z), "measure");
        size_t images = (resident ? 3 * 46 : 15) * SIDE * SIDE, labels = resident ? 3 * 46 * 2 : 30;
        tap_ok(z.resident == resident && z.shard_rows == 46 && z.field[0].device == images &&
                   z.field[1].device == labels && z.device_bytes == images + labels &&
                   z.pinned_bytes == (resident ? 0 : 2 * z.device_bytes) &&
                   z.field[1].leaf == (resident ? 0 : 10), "what it will hold");
        bool good = lk_loader_open(d, device, &o, &l) == LK_OK;
        static const uint64_t steps[] = {0, 1, 2, 3, 40, 41, 7};
        for (int i = 0; i < 7 && good; i++)
            good = lk_loader_feed(l, steps[i]) == LK_OK &&
                   device->backend->sync(device) == LK_OK &&
                   right_samples(l, d, &o, resident, steps[i]);
        tap_ok(good, "%s: the samples of the steps %s", resident ? "resident" : "streaming",
               lk_error_text());
        lk_loader_close(l);
    }
    o.batch = 47;
    lk_loader_sizes z;
    failed(lk_loader_measure(d, &o, &z), LK_E_INPUT, "expected at least 47 training samples for "
           "each of 8 leaves", "a batch larger than the shard");
    lk_dataset_close(d);
}

static void check_loaders(void)
{
    lk_device *device = NULL;
    if (!worked(lk_backend_cpu.open(1, &device), "a device")) return;
    check_loader(device);
    device->backend->close(device);
}

int main(int argc, char **argv)
{
    io_set_up(&argc, &argv);
    for (int i = 0; i < IDX * SIDE * SIDE; i++)
        idx_pixels[i] = (uint8_t)lk_philox(2, (uint32_t)i, 0, 0, 0).v[0];
    for (int i = 0; i < IDX; i++) idx_labels[i] = (uint8_t)(i % 10);
    make_folders();
    check_folders();
    check_bad_folders();
    if (ranks == 1) {
        write_idx(in_home("i"), in_home("l"), IDX);
        write_idx(in_home("vi"), in_home("vl"), 100);
        check_idx_pair();
        check_idx_share();
        check_idx_errors();
        check_race();
        check_csv();
        check_csv_progress();
        check_csv_errors();
        check_resume();
        check_hands();
        check_loaders();
    }
    return io_tear_down();
}
