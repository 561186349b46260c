/* Damaged checkpoints and datasets: every bit flip, cut and zeroed page is refused with one line of
 * error or does no harm, and a run directory falls back to the checkpoint before, telling so.
 *
 * test_damage [FLIPS [CUTS [PAGES]]]: so many trials of each kind on a checkpoint and on a dataset.
 * One process, so that a crash in any of them ends the test. */
#include "base/digest.h"
#include "io/dataset.h"
#include "io/import.h"
#include "tests/checkpoint_help.h"

#include <fcntl.h>
#include <time.h>

enum { PAGE = 4096, SECTOR = 512 };

static const tensor layers[] = {
    {"embed.weight", 2, {300, 64}, true},     {"blocks.0.attn.weight", 2, {192, 64}, true},
    {"blocks.0.norm.weight", 1, {65}, false}, {"blocks.0.wide.weight", 2, {501, 97}, true},
    {"head.temperature", 1, {1}, false},      {NULL, 0, {0}, false},
};

/* A file and its good bytes. */
typedef struct patient {
    const char *path;
    char *bytes;
    size_t size;
    int fd;
} patient;

static void admit(patient *p, const char *path)
{
    p->path = strdup(path);
    p->bytes = read_file(path, &p->size);
    p->fd = open(path, O_RDWR);
}

static void discharge(patient *p)
{
    close(p->fd);
    free(p->bytes);
    free((char *)p->path);
}

typedef enum injury { FLIP, CUT, ZERO, INJURIES } injury;
static const char *const injury_name[INJURIES] = {"bits flipped", "truncations", "zeroed pages"};

static void put(const patient *p, const void *bytes, size_t n, size_t at)
{
    if (pwrite(p->fd, bytes, n, (off_t)at) != (ssize_t)n) tap_ok(false, "cannot write %s", p->path);
}

/* Half of the flips near the ends, where metadata is. *same: the bytes did not change. */
static void injure(const patient *p, injury how, uint32_t i, bool *same)
{
    lk_u32x4 r = lk_philox(11, i, (uint32_t)how, 0, 0);
    size_t at = (size_t)((double)r.v[0] * 0x1p-32 * (double)p->size), near = 6000;
    static const char zeros[PAGE];
    *same = false;
    if (how == FLIP) {
        if (i % 4 == 1) at = r.v[0] % near;
        if (i % 4 == 3) at = p->size - 1 - r.v[0] % near;
        char byte = (char)(p->bytes[at] ^ (1 << r.v[1] % 8));
        put(p, &byte, 1, at);
    } else if (how == CUT) {
        if (i % 8 == 7) at = p->size - 1 - r.v[0] % 64;
        if (ftruncate(p->fd, (off_t)at) != 0) tap_ok(false, "cannot cut %s", p->path);
    } else {
        at -= at % (i % 2 ? SECTOR : PAGE);
        size_t n = p->size - at < PAGE ? p->size - at : PAGE;
        put(p, zeros, n, at);
        *same = memcmp(p->bytes + at, zeros, n) == 0;
    }
}

static void heal(const patient *p)
{
    put(p, p->bytes, p->size, 0);
}

static bool one_line(lk_status status)
{
    const char *text = lk_error_text();
    return status == LK_E_INPUT && text[0] && !strchr(text, '\n');
}

typedef struct counts {
    int good, refused, fell_back, harmless;
} counts;

/* ---- checkpoints ----------------------------------------------------------------------------- */

static lk_params *params;
static lk_flat saved[2], loaded; /* of steps 6 and 7 */
static lk_checkpoint_info info[2];
static int told;

static void tell(void *context, const char *text)
{
    (void)context;
    told += strstr(text, "step-000007.h5: ") && strstr(text, "trying step-000006.h5");
    told += strstr(text, "is kept as") && strstr(text, "step-000007.h5.damaged");
}

/* 1: good and equal; 0: refused as it should be; -1: neither. */
static int read_checkpoint(const char *path, int which)
{
    lk_checkpoint_info got;
    lk_status opened = lk_checkpoint_open(io, MPI_COMM_SELF, path, &got);
    bool good = opened == LK_OK ? same_info(&got, &info[which]) : one_line(opened);
    if (opened == LK_OK) lk_checkpoint_info_clear(&got);
    lk_error_clear();
    lk_status status = lk_checkpoint_load(io, MPI_COMM_SELF, path, params, &loaded);
    good &= status == LK_OK ? same_data(params, &loaded, &saved[which]) : one_line(status);
    if (!good) printf("# %s: open %d, load %d: %s\n", path, opened, status, lk_error_text());
    lk_error_clear();
    return !good ? -1 : opened == LK_OK && status == LK_OK;
}

/* What --resume does. The file that was chosen is read as it was written. */
static bool falls_back(const char *directory, bool damaged, int *fell_back)
{
    lk_checkpoint_choice choice = {.path = NULL};
    told = 0;
    lk_status status = lk_checkpoint_choose(io, MPI_COMM_SELF, directory, tell, NULL, &choice);
    const char *path = choice.path;
    int which = path && strstr(path, "step-000006.h5") ? 0 : 1;
    bool good = status == LK_OK && told == (which == 0) && choice.damaged_count == (which == 0) &&
                read_checkpoint(path, which) == 1 && (which == 0 || !damaged);
    if (!good)
        printf("# chosen: %s, told %d, damaged %d: %s\n", path ? path : "none", told, damaged,
               lk_error_text());
    lk_error_clear();
    *fell_back += which == 0;
    lk_checkpoint_choice_clear(&choice);
    return good;
}

static void check_checkpoint(const int trials[INJURIES])
{
    const char *directory = strdup(in_home("run"));
    patient p;
    params = model(layers);
    loaded = buffers(params, true);
    mkdir(directory, 0777);
    for (int i = 0; i < 2; i++) {
        info[i] = some_info((uint64_t)(6 + i));
        saved[i] = buffers(params, true);
        fill(params, &saved[i], (uint64_t)i);
        worked(save_checkpoint(io, MPI_COMM_SELF, directory, params, &info[i], &saved[i]),
               "save a checkpoint");
    }
    admit(&p, in_home("run/step-000007.h5"));
    for (int how = 0; how < INJURIES; how++) {
        counts c = {0};
        for (int i = 0; i < trials[how]; i++) {
            bool same;
            injure(&p, (injury)how, (uint32_t)i, &same);
            int outcome = read_checkpoint(p.path, 1);
            bool good = outcome >= 0 && (!same || outcome == 1);
            good &= falls_back(directory, outcome != 1, &c.fell_back);
            heal(&p);
            c.good += good;
            c.refused += outcome == 0;
            c.harmless += outcome == 1;
        }
        tap_ok(c.good == trials[how], "checkpoint of %zu bytes, %d %s: %d refused, %d harmless, %d "
               "silent; %d fell back to the one before", p.size, trials[how], injury_name[how],
               c.refused, c.harmless, trials[how] - c.good, c.fell_back);
        tap_ok(c.refused * 10 > trials[how] * 9, "nearly all are seen");
    }
    tap_ok(read_checkpoint(p.path, 1) == 1, "the whole file is still good");
    discharge(&p);
    for (int i = 0; i < 2; i++) release(&saved[i]);
    release(&loaded);
    lk_params_destroy(params);
}

/* ---- the choice among several ---------------------------------------------------------------- */

/* Which of the two, 6 or 7, is chosen; 0: none. `adopt`: and gone on from. */
static int chosen(const char *directory, bool adopt)
{
    lk_checkpoint_choice c = {.path = NULL};
    lk_status status = lk_checkpoint_choose(io, MPI_COMM_SELF, directory, tell, NULL, &c);
    if (status == LK_OK && adopt) status = lk_checkpoint_adopt(directory, &c, tell, NULL);
    const char *digit = c.path ? strstr(c.path, ".h5") : NULL;
    int step = status == LK_OK && digit ? digit[-1] - '0' : 0;
    lk_checkpoint_choice_clear(&c);
    return step;
}

static bool leads_to(const char *link, const char *name)
{
    char target[100] = "";
    return readlink(link, target, sizeof target - 1) > 0 && strcmp(target, name) == 0;
}

static void point(const char *link, const char *name, time_t when)
{
    unlink(link);
    worked(symlink(name, link) == 0 ? LK_OK : LK_E_SYSTEM, "make a link");
    struct timespec t[2] = {{.tv_sec = when}, {.tv_sec = when}};
    utimensat(AT_FDCWD, link, t, AT_SYMLINK_NOFOLLOW);
}

static void check_links(const char *directory)
{
    const char *latest = in_home("run/latest");
    time_t now = time(NULL);
    point(latest, "step-000006.h5", now - 1000);
    tap_ok(chosen(directory, false) == 7, "a file written after `latest` was moved is the newest");
    tap_ok(leads_to(latest, "step-000006.h5"), "to choose changes nothing");
    tap_ok(chosen(directory, true) == 7 && leads_to(latest, "step-000007.h5"),
           "a run that goes on from it has `latest` lead there");
    point(latest, "step-000006.h5", now + 1000);
    tap_ok(chosen(directory, true) == 6 && leads_to(latest, "step-000006.h5"),
           "a link that was moved later is heeded");
    unlink(latest);
    tap_ok(chosen(directory, true) == 7 && leads_to(latest, "step-000007.h5"),
           "without a link it is the newest");
}

/* Damaged ones get another name, each its own, and are not chosen again. */
static void check_set_aside(const char *directory)
{
    char *newest = strdup(in_home("run/step-000007.h5")), *copy = strdup(in_home("copy.h5"));
    char *aside[] = {strdup(in_home("run/step-000007.h5.damaged")),
                     strdup(in_home("run/step-000007.h5.damaged-2"))};
    char *latest = strdup(in_home("run/latest"));
    worked(link(newest, copy) == 0 ? LK_OK : LK_E_SYSTEM, "keep it");
    unlink(newest);
    for (int i = 0; i < 2; i++) {
        write_file(newest, "damaged", 7);
        told = 0;
        tap_ok(chosen(directory, true) == 6 && told == 2, "a damaged one is passed over and told");
        tap_ok(exists(aside[i]) && !exists(newest) && leads_to(latest, "step-000006.h5"),
               "it is kept as %s", aside[i]);
        point(latest, "step-000007.h5", time(NULL));
    }
    unlink(aside[0]);
    unlink(aside[1]);
    rename(copy, newest);
    char *all_of[] = {newest, copy, aside[0], aside[1], latest};
    for (int i = 0; i < 5; i++) free(all_of[i]);
}

/* What has the name of a checkpoint and is no file: told before anything waits for it. */
static void check_impostors(const char *directory)
{
    static const struct {
        const char *name;
        bool pipe;
    } all_of[] = {{"step-000009.h5", false},
                  {"step-000009.h5", true},
                  {"step-000009.h5.part", false},
                  {"latest.part", false},
                  {"latest.part", true}};
    worked(lk_checkpoint_check_directory(directory), "a directory of checkpoints");
    worked(lk_checkpoint_check_directory(in_home("nowhere")), "one that is not there yet");
    failed(lk_checkpoint_check_directory(in_home("run/step-000007.h5")), LK_E_INPUT,
           "expected a directory for checkpoints, found a file; move it away",
           "a file in its place");
    for (size_t i = 0; i < sizeof all_of / sizeof *all_of; i++) {
        const char *path = in_home("run/%s", all_of[i].name);
        int made = all_of[i].pipe ? mkfifo(path, 0666) : mkdir(path, 0777);
        worked(made == 0 ? LK_OK : LK_E_SYSTEM, "make it");
        failed(lk_checkpoint_check_directory(directory), LK_E_INPUT,
               all_of[i].pipe ? "found something that is not a file; move it away"
                              : "found a directory; move it away",
               all_of[i].name);
        remove(path);
    }
    worked(lk_checkpoint_check_directory(directory), "they are gone");
}

static void check_choice(void)
{
    char *directory = strdup(in_home("run"));
    lk_checkpoint_choice choice = {.path = NULL};
    check_links(directory);
    check_set_aside(directory);
    check_impostors(directory);
    const char *newest = in_home("run/step-000007.h5"), *before = in_home("run/step-000006.h5");
    const char *latest = in_home("run/latest");
    point(latest, "step-000007.h5", time(NULL));
    truncate(newest, 100);
    truncate(before, 100);
    failed(lk_checkpoint_choose(io, MPI_COMM_SELF, directory, NULL, NULL, &choice), LK_E_INPUT,
           "no checkpoint before it is whole", "two damaged ones");
    unlink(newest);
    unlink(before);
    failed(lk_checkpoint_choose(io, MPI_COMM_SELF, directory, NULL, NULL, &choice), LK_E_INPUT,
           "found no such file; check the path; there is no checkpoint before it; start again "
           "without --resume", "a link to nothing");
    unlink(latest);
    failed(lk_checkpoint_choose(io, MPI_COMM_SELF, directory, NULL, NULL, &choice), LK_E_INPUT,
           "no checkpoint to resume from", "no checkpoint");
    free(directory);
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* What a dataset holds: every value that a command uses. */
typedef struct content {
    int fields;
    int64_t rows[2];
    size_t row[LK_DATASET_FIELDS];
    char *bytes[2][LK_DATASET_FIELDS];
    char rest[LK_DIGEST_TEXT]; /* a digest of all that is not rows */
} content;

static void add_texts(lk_digest *all, char *const *text, int64_t count)
{
    for (int64_t i = 0; i < count; i++) lk_digest_update(all, text[i], strlen(text[i]) + 1);
}

static void digest_rest(const lk_dataset *d, char text[LK_DIGEST_TEXT])
{
    lk_digest *all = NULL;
    lk_digest_create(&all);
    int64_t number[] = {d->kind, d->fields, d->characters, d->image.height, d->image.width};
    lk_digest_update(all, number, sizeof number);
    lk_digest_update(all, d->digest, sizeof d->digest);
    if (d->reference) lk_digest_update(all, d->reference, strlen(d->reference));
    lk_digest_update(all, d->vocabulary, (size_t)d->vocabulary_size * sizeof *d->vocabulary);
    lk_digest_update(all, d->image.mean, (size_t)d->image.channels * sizeof(float));
    lk_digest_update(all, d->image.std, (size_t)d->image.channels * sizeof(float));
    add_texts(all, d->image.name, d->image.classes);
    add_texts(all, d->table.name, d->table.classes);
    add_texts(all, d->table.column, d->table.columns);
    lk_digest_text(all, text);
    lk_digest_destroy(all);
}

static lk_status read_all_rows(lk_dataset *d, content *c)
{
    c->fields = d->fields;
    memcpy(c->rows, d->rows, sizeof c->rows);
    for (int i = 0; i < 2 * d->fields; i++) {
        int s = i % 2, f = i / 2;
        c->row[f] = d->field[f].row_bytes;
        c->bytes[s][f] = malloc((size_t)d->rows[s] * c->row[f] + 1);
        LK_TRY(lk_dataset_read(d, (lk_split)s, f, 0, d->rows[s], c->bytes[s][f]));
    }
    return LK_OK;
}

static void free_content(content *c)
{
    for (int i = 0; i < 2 * c->fields; i++) free(c->bytes[i % 2][i / 2]);
}

static bool same_content(const content *a, const content *b)
{
    bool same = a->fields == b->fields && strcmp(a->rest, b->rest) == 0 &&
                memcmp(a->rows, b->rows, sizeof a->rows) == 0 &&
                memcmp(a->row, b->row, sizeof a->row) == 0;
    for (int i = 0; i < 2 * a->fields && same; i++)
        same = memcmp(a->bytes[i % 2][i / 2], b->bytes[i % 2][i / 2],
                      (size_t)a->rows[i % 2] * a->row[i / 2]) == 0;
    return same;
}

/* As training streams: some rows here and there. Each is refused or is as it was. */
static bool streams(lk_dataset *d, const content *whole, uint32_t seed)
{
    bool good = true;
    for (uint32_t i = 0; i < 40 && good; i++) {
        lk_u32x4 r = lk_philox(21, seed, i, 0, 0);
        int s = (int)(r.v[0] % 2), f = (int)(r.v[1] % (uint32_t)whole->fields);
        int64_t n = whole->rows[s], span = 1 + r.v[2] % 3, first = r.v[3] % (n - span);
        char *row = malloc((size_t)span * whole->row[f]);
        const char *want = whole->bytes[s][f] + (size_t)first * whole->row[f];
        lk_status status = lk_dataset_read(d, (lk_split)s, f, first, span, row);
        good = status == LK_OK ? memcmp(row, want, (size_t)span * whole->row[f]) == 0
                               : one_line(status);
        if (!good) printf("# rows from %lld: %d: %s\n", (long long)first, status, lk_error_text());
        lk_error_clear();
        free(row);
    }
    return good;
}

/* 1: good, and as `whole` says; 0: refused with a proper line; -1: neither. */
static int read_dataset(const char *path, const content *whole, uint32_t seed, content *c)
{
    lk_dataset *d = NULL;
    bool good = true;
    memset(c, 0, sizeof *c);
    lk_status status = lk_dataset_open(io, MPI_COMM_SELF, path, &d);
    if (status == LK_OK) digest_rest(d, c->rest);
    if (status == LK_OK && whole) good = streams(d, whole, seed);
    if (status == LK_OK) status = read_all_rows(d, c);
    lk_dataset_close(d);
    good &= status == LK_OK ? !whole || same_content(c, whole) : one_line(status);
    if (!good) printf("# dataset: %d: %s\n", status, lk_error_text());
    lk_error_clear();
    return !good ? -1 : status == LK_OK;
}

/* Bytes of 0xFF in whole pages: what HDF5's Fletcher-32 cannot tell from zeros. */
static void make_text(const char *path)
{
    enum { LETTERS = 400000 };
    char *text = malloc(LETTERS);
    for (uint32_t i = 0; i < LETTERS; i++)
        text[i] = (char)(i % 100000 < 70000 ? 0xFF : lk_philox(3, i, 0, 0, 0).v[0] % 90 + ' ');
    const char *from = in_home("text.txt");
    write_file(from, text, LETTERS);
    lk_import_result r;
    lk_import_text job = {.to = {.output = path, .validation = 0.2}, .files = 1, .file = &from};
    worked(lk_import_text_run(io, &job, &r), "make a text");
    free(text);
}

/* White but for the top of some, and names of classes that take more than 64 KiB. A chunk is an odd
 * number of bytes, so that half of them lie where Fletcher-32's words are those of the pages. */
static void make_images(const char *path)
{
    enum { IMAGES = 640, SIDE = 27, CLASSES = 250, NAME = 300 };
    static unsigned char images[16 + IMAGES * SIDE * SIDE], labels[8 + IMAGES];
    const unsigned char head[16] = {0, 0, 8, 3, 0, 0, IMAGES >> 8, IMAGES & 255,
                                    0, 0, 0, SIDE, 0, 0, 0, SIDE};
    char *name[CLASSES];
    memset(images, 255, sizeof images);
    memcpy(images, head, 16);
    memcpy(labels, (unsigned char[]){0, 0, 8, 1, 0, 0, IMAGES >> 8, IMAGES & 255}, 8);
    for (uint32_t i = 0; i < IMAGES; i++) {
        labels[8 + i] = (unsigned char)(i % CLASSES);
        if (i % 40 == 0) memset(images + 16 + i * SIDE * SIDE, (int)(i % 251), 3 * SIDE);
    }
    for (int k = 0; k < CLASSES; k++) {
        name[k] = malloc(NAME);
        memset(name[k], 'a' + k % 26, NAME);
        snprintf(name[k] + NAME - 8, 8, "%d", k);
    }
    write_file(in_home("images"), images, sizeof images);
    write_file(in_home("labels"), labels, sizeof labels);
    lk_import_result r;
    lk_import_idx job = {.to = {.output = path, .validation = 0.2}, .images = {in_home("images")},
                         .labels = {in_home("labels")}, .classes = CLASSES, .name = name};
    worked(lk_import_idx_run(io, &job, &r), "make images");
    for (int k = 0; k < CLASSES; k++) free(name[k]);
}

static void make_table(const char *path)
{
    enum { ROWS = 8000 };
    char *text = malloc(ROWS * 64), *at = text;
    at += sprintf(at, "a,b,c,label\n");
    for (uint32_t i = 0; i < ROWS; i++) {
        lk_u32x4 r = lk_philox(5, i, 0, 0, 0);
        at += sprintf(at, "%u.5,%u,-0.%u,%s\n", r.v[0] % 1000, r.v[1] % 1000, r.v[2] % 1000,
                      r.v[3] % 2 ? "yes" : "no");
    }
    const char *from = in_home("table.csv");
    write_file(from, text, (size_t)(at - text));
    lk_import_result r;
    lk_import_csv job = {.to = {.output = path, .validation = 0.2}, .files = 1, .file = &from,
                         .label = "label"};
    worked(lk_import_csv_run(io, &job, &r), "make a table");
    free(text);
}

static void check_dataset(const char *kind, void (*make)(const char *path),
                          const int trials[INJURIES])
{
    content whole, c;
    patient p;
    char *path = strdup(in_home("%s.h5", kind));
    make(path);
    tap_ok(read_dataset(path, NULL, 0, &whole) == 1, "it reads");
    admit(&p, path);
    for (int how = 0; how < INJURIES; how++) {
        counts n = {0};
        for (int i = 0; i < trials[how]; i++) {
            bool same;
            injure(&p, (injury)how, (uint32_t)i, &same);
            int outcome = read_dataset(path, &whole, (uint32_t)i, &c);
            n.good += outcome >= 0 && (outcome == 1 || !same);
            n.refused += outcome == 0;
            n.harmless += outcome == 1;
            free_content(&c);
            heal(&p);
        }
        tap_ok(n.good == trials[how], "dataset of %s, %zu bytes, %d %s: %d refused, %d harmless, "
               "%d silent", kind, p.size, trials[how], injury_name[how], n.refused, n.harmless,
               trials[how] - n.good);
        /* harmless: the room that HDF5 keeps between its metadata, near the front; what is behind
         * the last rows in their chunk; the checksums of chunks, which nobody asks */
        tap_ok(n.refused * 2 > trials[how], "most are seen");
    }
    free_content(&whole);
    discharge(&p);
    free(path);
}

int main(int argc, char **argv)
{
    int trials[INJURIES] = {400, 60, 60};
    for (int i = 0; i < INJURIES && i + 1 < argc; i++) trials[i] = atoi(argv[i + 1]);
    io_set_up(&argc, &argv);
    check_checkpoint(trials);
    check_choice();
    check_dataset("text", make_text, trials);
    check_dataset("images", make_images, trials);
    check_dataset("a table", make_table, trials);
    return io_tear_down();
}
