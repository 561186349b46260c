/* Tests of io/ but for checkpoints: import, datasets, text, the I/O thread, predictions. Run with
 * 1, 2 and 4 ranks; what concerns one process alone is tested with 1. */
#include "base/philox.h"
#include "base/utf8.h"
#include "io/dataset.h"
#include "io/hdf5.h"
#include "io/import.h"
#include "io/predictions.h"
#include "io/show.h"
#include "tests/io_craft.h"
#include "tests/io_help.h"

#include <math.h>
#include <stdatomic.h>
#include <time.h>

enum { MIB = 1 << 20 };

/* ---- import ---------------------------------------------------------------------------------- */

typedef struct progress {
    int64_t last, total;
    bool bad;
} progress;

static void note_progress(void *context, int64_t done, int64_t total)
{
    progress *p = context;
    p->bad |= done < p->last || done > total;
    p->last = done;
    p->total = total;
}

static lk_status import(const char *input, const char *output, bool characters, double validation,
                        lk_import_result *result)
{
    const char *file[1] = {input};
    lk_import_text job = {.to = {.output = output, .validation = validation}, .files = 1,
                          .file = file, .characters = characters};
    return lk_import_text_run(io, &job, result);
}

/* All tokens of both splits as i32, in order; NULL on failure. */
static int32_t *tokens_of(const char *path, lk_dataset **dataset)
{
    lk_dataset *d = NULL;
    if (lk_dataset_open(io, MPI_COMM_SELF, path, &d) != LK_OK) return NULL;
    int64_t n = d->rows[0] + d->rows[1], at = 0;
    int32_t *all_tokens = malloc((size_t)(n + 1) * sizeof *all_tokens);
    uint16_t *raw = malloc((size_t)(n + 1) * sizeof *raw);
    bool good = true;
    for (int s = 0; s < 2; s++) {
        good &= lk_dataset_read(d, (lk_split)s, 0, 0, d->rows[s], raw) == LK_OK;
        for (int64_t i = 0; i < d->rows[s] && good; i++)
            all_tokens[at++] = d->field[0].dtype == LK_U8 ? ((uint8_t *)raw)[i] : raw[i];
    }
    free(raw);
    *dataset = d;
    if (good) return all_tokens;
    free(all_tokens);
    return NULL;
}

/* Import `text`, read it back, decode: the same text, split where it should be. */
static void check_import(const char *text, size_t size, bool characters, double validation,
                         const char *what)
{
    const char *input = in_home("in.txt"), *output = in_home("out.h5");
    lk_import_result r = {0};
    lk_dataset *d = NULL;
    char *back = NULL;
    write_file(input, text, size);
    unlink(output);
    lk_status status = import(input, output, characters, validation, &r);
    int32_t *t = status == LK_OK ? tokens_of(output, &d) : NULL;
    int64_t n = r.rows[0] + r.rows[1];
    bool good = t && d->rows[0] == r.rows[0] && d->rows[1] == r.rows[1] &&
                r.rows[0] == (int64_t)floor((double)n * (1 - validation)) &&
                d->characters == characters && d->vocabulary_size == r.classes &&
                strcmp(d->digest, r.digest) == 0 && strlen(r.digest) == 32 &&
                !lk_text_decode(d->vocabulary, d->vocabulary_size, characters, t, n, &back) &&
                memcmp(back, text, size) == 0 && back[size] == '\0';
    tap_ok(good, "%s: %lld + %lld tokens of %lld, back as they were %s", what,
           (long long)r.rows[0], (long long)r.rows[1], (long long)r.classes,
           lk_error_text());
    lk_error_clear();
    lk_dataset_close(d);
    free(t);
    free(back);
}

/* A character of 1 to 4 bytes lies across the end of the 1 MiB buffer in each possible way. */
static void check_buffer_edges(void)
{
    static const char *const character[] = {"a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    char *text = malloc(MIB + 64);
    int good = 0, tried = 0;
    for (size_t length = 1; length <= 4; length++)
        for (size_t before = 0; before <= length; before++, tried++) {
            lk_import_result r;
            lk_dataset *d = NULL;
            memset(text, 'x', MIB + 64);
            memcpy(text + MIB - before, character[length - 1], length);
            write_file(in_home("edge.txt"), text, MIB + 20);
            unlink(in_home("edge.h5"));
            if (import(in_home("edge.txt"), in_home("edge.h5"), true, 0, &r) != LK_OK) continue;
            int32_t *t = tokens_of(in_home("edge.h5"), &d);
            int32_t x = length == 1 ? 1 : 0, other = 1 - x;
            good += t && d->rows[0] == (int64_t)(MIB + 20 - length + 1) &&
                    t[MIB - before] == other && t[MIB - before - 1] == x &&
                    t[d->rows[0] - 1] == x;
            free(t);
            lk_dataset_close(d);
        }
    tap_ok(good == tried, "characters across the buffer's end: %d of %d %s", good, tried,
           lk_error_text());
    free(text);
}

static void check_imports(void)
{
    static const char euro[] = "h\xC3\xA9llo \xE2\x82\xAC \xF0\x9F\x98\x80\n";
    char bytes[600], *large = malloc(3 * MIB + 1), wide[2048];
    for (int i = 0; i < 600; i++) bytes[i] = (char)(i * 7 + 1);
    for (uint32_t i = 0; i < 3 * MIB; i++)
        large[i] = (char)('a' + lk_philox(1, i, 0, 0, 0).v[0] % 26);
    large[3 * MIB] = '\0';
    size_t n = 0;
    for (uint32_t c = 0x100; c < 0x100 + 400; c++)
        n += (size_t)lk_utf8_encode(c, (unsigned char *)wide + n);
    wide[n] = '\0';
    for (int i = 0; i < 599; i++)
        if (!bytes[i]) bytes[i] = 1;
    bytes[599] = '\0';
    check_import(bytes, 599, false, 0, "bytes");
    check_import(bytes, 599, false, 0.1, "bytes");
    check_import("a", 1, false, 0, "one byte");
    check_import(euro, strlen(euro), true, 0, "characters");
    check_import(euro, strlen(euro), true, 0.5, "characters");
    check_import(wide, n, true, 0.1, "400 characters, u16");
    check_import(large, 3 * MIB, false, 0.1, "several chunks");
    check_import(large, 3 * MIB, true, 0, "several chunks");
    check_import(large, 2 * MIB, true, 0.5, "a split on a chunk's edge");
    check_buffer_edges();
    free(large);
}

static void check_invalid_text(const char *bytes, size_t n, long at, const char *what)
{
    char where[64];
    lk_import_result r;
    const char *input = in_home("bad.txt"), *output = in_home("bad.h5");
    snprintf(where, sizeof where, "at byte %ld;", at);
    write_file(input, bytes, n);
    failed(import(input, output, true, 0, &r), LK_E_INPUT, where, what);
    tap_ok(!exists(output) && !exists(in_home("bad.h5.part")), "%s: nothing is left", what);
}

static void check_import_errors(void)
{
    lk_import_result r;
    progress p = {0, 0, false};
    char good[256], out[256];
    snprintf(good, sizeof good, "%s/good.txt", home);
    snprintf(out, sizeof out, "%s/good.h5", home);
    char *late = malloc(2 * MIB);
    memset(late, 'x', 2 * MIB);
    late[MIB + 5] = (char)0xE2;
    check_invalid_text("ab\x80", 3, 2, "a stray byte");
    check_invalid_text("\xC0\x80", 2, 0, "an overlong form");
    check_invalid_text("x\xED\xA0\x80", 4, 1, "a surrogate");
    check_invalid_text("\xF4\x90\x80\x80", 4, 0, "beyond U+10FFFF");
    check_invalid_text("abc\xE2\x82", 5, 3, "cut off at the end");
    check_invalid_text(late, 2 * MIB, MIB + 5, "in the second buffer");
    late[MIB + 5] = 'x';
    late[MIB - 1] = (char)0xE2; /* begins in one buffer, goes wrong in the next */
    check_invalid_text(late, 2 * MIB, MIB - 1, "across the buffer's end");
    free(late);
    write_file(in_home("empty.txt"), "", 0);
    failed(import(in_home("empty.txt"), out, true, 0, &r), LK_E_INPUT, "found nothing", "empty");
    failed(import(in_home("none.txt"), out, true, 0, &r), LK_E_INPUT, "No such file", "missing");
    failed(import(home, out, true, 0, &r), LK_E_INPUT, "found a directory", "a directory");
    write_file(good, "hello hello", 11);
    failed(import(good, good, true, 0, &r), LK_E_INPUT, "both input and output", "onto itself");
    failed(import(good, home, true, 0, &r), LK_E_INPUT, "is not a file", "onto a directory");
    failed(import(good, in_home("no/out.h5"), true, 0, &r), LK_E_INPUT, "no/out.h5",
           "into no directory");
    for (int i = 0; i < 4; i++)
        failed(import(good, out, true, (double[]){1, 1.5, NAN, 2}[i], &r), LK_E_INPUT,
               "a number in [0, 1)", "fraction");
    write_file(in_home("one.txt"), "a", 1);
    failed(import(in_home("one.txt"), out, true, 0.5, &r), LK_E_INPUT, "too few", "one character");
    worked(import(good, out, true, 0, &r), "a good one");
    failed(import(good, out, true, 0, &r), LK_E_INPUT, "exists already", "the output exists");

    const char *file[3] = {good, in_home("one.txt"), good};
    lk_import_text job = {.to = {.output = out, .overwrite = true, .progress = note_progress,
                                 .context = &p}, .files = 3, .file = file};
    lk_dataset *d = NULL;
    worked(lk_import_text_run(io, &job, &r), "three files, overwriting");
    int32_t *t = tokens_of(out, &d);
    tap_ok(t && d->rows[0] == 23 && t[11] == 'a' && t[12] == 'h', "one file after the other");
    tap_ok(!p.bad && p.last == 46 && p.total == 46, "progress: %lld of %lld", (long long)p.last,
           (long long)p.total);
    free(t);
    lk_dataset_close(d);
    job.files = 0;
    failed(lk_import_text_run(io, &job, &r), LK_E_INPUT, "at least one text file", "no files");
    job.files = 3;
    const char *part = in_home("good.h5.part");
    lk_status status = LK_E_SYSTEM;
    int k = 0, refused = 0;
    for (; status != LK_OK && k < 1000; k++) {
        writes_left = k;
        status = lk_import_text_run(io, &job, &r);
        writes_left = -1;
        refused += status == LK_E_SYSTEM && exists(out) && !exists(part);
        lk_error_clear();
    }
    tap_ok(status == LK_OK && k > 3 && refused == k - 1, "%d of %d imports meet a full disk and "
           "keep the old file", refused, k - 1);
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* Every rank reads other pieces, at its own pace. */
static void check_reading(void)
{
    enum { TOKENS = 40 * MIB / 4 };
    const char *input = in_home("long.txt"), *output = in_home("long.h5");
    lk_import_result r;
    lk_status status = LK_OK;
    char *text = malloc(TOKENS), *buffer = malloc(TOKENS);
    for (uint32_t i = 0; i < TOKENS; i++) text[i] = (char)((i * 2654435761u) >> 24);
    if (rank == 0) {
        write_file(input, text, TOKENS);
        status = import(input, output, false, 0.25, &r);
    }
    worked(status, "import 10 MiB");
    lk_dataset *d = NULL;
    worked(lk_dataset_open(io, MPI_COMM_WORLD, output, &d), "open by all ranks");
    bool good = d->rows[0] == TOKENS / 4 * 3 && d->rows[1] == TOKENS / 4;
    for (uint32_t i = 0; i < 200u * (unsigned)(rank + 1) && good; i++) {
        lk_u32x4 u = lk_philox(3, i, (uint32_t)rank, 0, 0);
        lk_split s = u.v[0] % 4 ? LK_TRAIN : LK_VALIDATION;
        int64_t first = u.v[1] % d->rows[s], count = u.v[2] % (i % 20 ? 600 : 2 * MIB);
        if (count > d->rows[s] - first) count = d->rows[s] - first;
        good = lk_dataset_read(d, s, 0, first, count, buffer) == LK_OK &&
               memcmp(buffer, text + (s ? d->rows[0] : 0) + first, (size_t)count) == 0;
    }
    tap_ok(all(good), "every rank reads its own pieces %s", lk_error_text());
    failed(lk_dataset_read(d, LK_TRAIN, 0, d->rows[0] - 1, 2, buffer), LK_E_INTERNAL,
           "are outside", "beyond the end");
    failed(lk_dataset_read(d, LK_TRAIN, 1, 0, 1, buffer), LK_E_INTERNAL, "field 1 of 1",
           "a field that is not there");
    worked(lk_dataset_expect(d, LK_TEXT_DATA), "it is a text");
    failed(lk_dataset_expect(d, LK_IMAGE_DATA), LK_E_INPUT,
           "expected a dataset of kind 'images', found 'text'", "not images");
    worked(lk_dataset_read(d, LK_TRAIN, 0, d->rows[0], 0, buffer), "nothing at the end");
    lk_dataset_close(d);
    lk_dataset_close(NULL);
    free(text);
    free(buffer);
}

static void check_one_bad_file(const craft_case *c)
{
    const char *path = in_home("crafted.h5");
    lk_dataset *d = NULL;
    uint8_t tokens[16];
    craft make = {.path = path, .elsewhere = in_home("elsewhere.h5"), .how = c->how};
    lk_status status = lk_io_call(io, craft_dataset, &make);
    if (!tap_ok(status == LK_OK, "craft: %s %s", c->what, lk_error_text())) return;
    status = lk_dataset_open(io, MPI_COMM_SELF, path, &d);
    if (status == LK_OK) status = lk_dataset_read(d, LK_TRAIN, 0, 0, d->rows[0], tokens);
    if (c->words)
        failed(status, LK_E_INPUT, c->words, c->what);
    else
        worked(status, c->what);
    lk_dataset_close(d);
}

static void check_not_hdf5(void)
{
    lk_dataset *d = NULL;
    const char *path = in_home("not.h5");
    all(true);
    if (rank == 0) write_file(path, "", 0);
    all(true);
    failed(lk_dataset_open(io, MPI_COMM_WORLD, path, &d), LK_E_INPUT, "an empty file", "empty");
    if (rank == 0) write_file(path, "model: x\n", 9);
    all(true);
    failed(lk_dataset_open(io, MPI_COMM_WORLD, path, &d), LK_E_INPUT, "not HDF5", "a text file");
    failed(lk_dataset_open(io, MPI_COMM_WORLD, in_home("absent.h5"), &d), LK_E_INPUT,
           "no such file", "missing");
    failed(lk_dataset_open(io, MPI_COMM_WORLD, home, &d), LK_E_INPUT, "a directory", "a directory");
}

/* Refused with one line, or the same tokens: never a crash, never others. */
static bool refused_or_same(const char *path, const int32_t *tokens, int64_t n, int *refused)
{
    lk_dataset *d = NULL;
    int32_t *t = tokens_of(path, &d);
    bool good = t ? d->rows[0] + d->rows[1] == n && memcmp(t, tokens, (size_t)n * 4) == 0
                  : lk_error_text()[0] && !strchr(lk_error_text(), '\n');
    if (!t) ++*refused;
    lk_error_clear();
    lk_dataset_close(d);
    free(t);
    return good;
}

static void check_damage(void)
{
    enum { FLIPS = 400, CUTS = 60 };
    const char *path = in_home("damaged.h5");
    char text[3000];
    size_t size;
    lk_import_result r;
    lk_dataset *d = NULL;
    for (int i = 0; i < 3000; i++) text[i] = (char)('a' + i * i % 23);
    write_file(in_home("in.txt"), text, sizeof text);
    unlink(in_home("whole.h5"));
    worked(import(in_home("in.txt"), in_home("whole.h5"), true, 0.1, &r), "a whole file");
    int32_t *tokens = tokens_of(in_home("whole.h5"), &d);
    char *bytes = read_file(in_home("whole.h5"), &size);
    int good = 0, refused = 0;
    for (int i = 0; i < FLIPS; i++) {
        size_t at = i < 64 ? (size_t)i : size * (size_t)i / FLIPS;
        bytes[at] ^= (char)(i % 3 ? 1 << i % 8 : 0xFF);
        write_file(path, bytes, size);
        bytes[at] ^= (char)(i % 3 ? 1 << i % 8 : 0xFF);
        good += refused_or_same(path, tokens, 3000, &refused);
    }
    tap_ok(good == FLIPS, "%d of %d files with one byte flipped: refused (%d) or the same", good,
           FLIPS, refused);
    good = refused = 0;
    for (int i = 0; i < CUTS; i++) {
        write_file(path, bytes, size * (size_t)i / CUTS);
        good += refused_or_same(path, tokens, 3000, &refused);
    }
    tap_ok(good == CUTS && refused == CUTS, "%d of %d truncated files are refused", refused, CUTS);
    lk_dataset_close(d);
    free(tokens);
    free(bytes);
}

/* ---- text ------------------------------------------------------------------------------------ */

static void check_text(void)
{
    int good = 0, total = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        unsigned char bytes[4];
        uint32_t back = 0;
        int n = lk_utf8_encode(c, bytes), m = lk_utf8_decode(bytes, (size_t)n, &back);
        bool surrogate = c >= 0xD800 && c <= 0xDFFF;
        total++;
        bool whole = m == n && back == c;
        bool cut = n == 1 || lk_utf8_decode(bytes, (size_t)n - 1, &back) == 0;
        good += surrogate ? m < 0 : whole && cut;
    }
    tap_ok(good == total, "UTF-8 of every code point: %d of %d", good, total);
    char strange[] = "a\x1b[2J\xC2\x9B\xC3\xA9\xFF\t\x7F\xF0\x9F\x98\x80 \xE2\x82";
    int width = lk_plain_width(strange);
    lk_plain(strange);
    tap_ok(strcmp(strange, "a?[2J?\xC3\xA9???\xF0\x9F\x98\x80 ") == 0 && width == 14,
           "what may be shown: '%s', of %d characters", strange, width);
    static const uint32_t letters[] = {'\n', 'a', 'b', 0xE9, 0x20AC, 0x1F600};
    const char *text = "ab\xC3\xA9\n\xE2\x82\xAC\xF0\x9F\x98\x80" "a";
    int32_t *tokens = NULL;
    int64_t n = 0;
    char *back = NULL;
    worked(lk_text_encode(letters, 6, true, text, &tokens, &n), "encode characters");
    tap_ok(n == 7 && tokens[2] == 3 && tokens[5] == 5, "7 tokens");
    worked(lk_text_decode(letters, 6, true, tokens, n, &back), "decode them");
    tap_ok(strcmp(back, text) == 0, "the same text");
    free(back);
    free(tokens);
    failed(lk_text_encode(letters, 6, true, "ab\xC3\xA8", &tokens, &n), LK_E_INPUT,
           "(U+00E8) at byte 2", "an unknown character");
    failed(lk_text_encode(letters, 6, true, "ab\xFF", &tokens, &n), LK_E_INPUT,
           "not UTF-8 at byte 2", "not UTF-8");
    failed(lk_text_decode(letters, 6, true, (int32_t[]){0, 6}, 2, &back), LK_E_INPUT,
           "token 6 at 1", "an unknown token");
    failed(lk_text_decode(letters, 6, true, (int32_t[]){-1}, 1, &back), LK_E_INPUT, "token -1",
           "a negative token");
    worked(lk_text_encode(letters, 6, true, "", &tokens, &n), "the empty text");
    tap_ok(n == 0, "no tokens");
    free(tokens);
}

/* ---- the I/O thread -------------------------------------------------------------------------- */

static int order[100], ran;

static lk_status note_turn(void *argument)
{
    order[ran++] = *(int *)argument;
    return *(int *)argument % 10 == 3 ? lk_fail(LK_E_DEVICE, "job %d", *(int *)argument) : LK_OK;
}

static atomic_bool let_go;

static lk_status hold(void *argument)
{
    (void)argument;
    while (!let_go) usleep(100);
    return LK_OK;
}

static lk_status call_inside(void *argument) { return lk_io_call(io, note_turn, argument); }

static void check_queue(void)
{
    long ticket[100];
    int number[100], good = 0;
    for (int i = 0; i < 100; i++) {
        number[i] = i;
        lk_io_submit(io, note_turn, &number[i], &ticket[i]);
    }
    for (int i = 0; i < 100; i++) {
        int k = i * 37 % 100; /* waited for in another order */
        char text[32];
        snprintf(text, sizeof text, "job %d", k);
        lk_status status = lk_io_wait(io, ticket[k]);
        good += k % 10 == 3 ? status == LK_E_DEVICE && strcmp(lk_error_text(), text) == 0
                            : status == LK_OK && !lk_error_text()[0];
        lk_error_clear();
    }
    tap_ok(all(good == 100), "each waiter has the status and text of its job");
    good = 0;
    for (int i = 0; i < 100; i++) good += order[i] == i;
    tap_ok(all(good == 100 && ran == 100), "jobs run in order");
    failed(lk_io_wait(io, ticket[0]), LK_E_INTERNAL, "not awaited", "waiting twice");
    ran = 0;
    failed(lk_io_call(io, call_inside, &number[13]), LK_E_DEVICE, "job 13", "a call inside a job");
    lk_io *other = NULL;
    ran = 0;
    worked(lk_io_open(&other), "a second queue");
    for (int i = 0; i < 50; i++) lk_io_submit(other, note_turn, &number[4], &ticket[i]);
    lk_io_close(other);
    lk_io_close(NULL);
    tap_ok(all(ran == 50), "closing waits for what is queued");
}

/* A long job that lets others in, as a save does. */
static long inside[2];

static lk_status long_job(void *argument)
{
    (void)argument;
    order[ran++] = 1000;
    for (int i = 0; i < 3000 && !lk_io_done(io, inside[1]); i++) { /* 3 s at most */
        lk_io_yield(io);
        usleep(1000);
    }
    order[ran++] = 2000;
    return LK_OK;
}

static void check_yield(void)
{
    static int number[3] = {3, 4, 5};
    long slow = 0, after = 0;
    ran = 0;
    inside[0] = inside[1] = -1;
    worked(lk_io_submit(io, hold, NULL, &inside[0]), "a first job holds the thread");
    worked(lk_io_submit(io, long_job, NULL, &slow), "a long job");
    worked(lk_io_submit(io, note_turn, &number[1], &after), "a job after it");
    worked(lk_io_submit_independent(io, note_turn, &number[2], &inside[1]), "an independent job");
    let_go = true;
    worked(lk_io_wait(io, inside[1]), "the independent job is done");
    worked(lk_io_wait(io, inside[0]), "the first");
    worked(lk_io_wait(io, slow), "the long job");
    worked(lk_io_wait(io, after), "the one after it");
    tap_ok(all(ran == 4 && order[0] == 1000 && order[1] == 5 && order[2] == 2000 && order[3] == 4),
           "the independent job ran within the long one, the other after it");
    failed(lk_io_call_independent(io, note_turn, &number[0]), LK_E_DEVICE, "job 3",
           "an independent job that fails");
}

/* Errors that pass are tried again, and told; others are not. */
static void check_retries(void)
{
    lk_dataset *d = NULL;
    char text[400] = "";
    uint8_t token;
    const char *path = in_home("crafted.h5");
    craft good = {.path = path, .elsewhere = in_home("elsewhere.h5"), .how = CRAFT_GOOD};
    worked(lk_io_call(io, craft_dataset, &good), "craft a good file");
    opens_of = "crafted.h5";
    opens_left = 2;
    opens_error = ESTALE;
    worked(lk_dataset_open(io, MPI_COMM_SELF, path, &d), "a stale handle, twice");
    tap_ok(lk_dataset_retried(d, text, sizeof text), "it is told: %s", text);
    tap_ok(strstr(text, "crafted.h5: open failed (Stale file handle), tried again 2 times in "),
           "what, why and how often");
    worked(lk_dataset_read(d, LK_TRAIN, 0, 0, 1, &token), "read a token");
    tap_ok(!lk_dataset_retried(d, text, sizeof text), "once");
    lk_dataset_close(d);
    opens_left = 1000;
    opens_error = EIO;
    time_t begun = time(NULL);
    failed(lk_dataset_open(io, MPI_COMM_SELF, path, &d), LK_E_SYSTEM, "tried 6 times",
           "an error that stays");
    tap_ok(time(NULL) - begun < 10, "soon");
    opens_error = EACCES;
    opens_left = 1;
    failed(lk_dataset_open(io, MPI_COMM_SELF, path, &d), LK_E_INPUT, "crafted.h5",
           "an error that will not pass is not tried again");
    opens_left = 0;
}

/* ---- predictions, show ----------------------------------------------------------------------- */

static char *shown(const char *path, lk_status *status)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    *status = lk_show_file(io, path, f);
    fclose(f);
    if (getenv("LK_TEST_VERBOSE")) fputs(text, stderr);
    return text;
}

static void check_shown(const char *path, const char *const *words, const char *what)
{
    lk_status status;
    char *text = shown(path, &status);
    worked(status, what);
    for (; *words; words++) tap_ok(strstr(text, *words) != NULL, "%s: tells '%s'", what, *words);
    free(text);
}

static void check_predictions(void)
{
    enum { N = 300000 };
    const char *path = in_home("predictions.h5");
    float *loss = malloc(N * sizeof *loss);
    int32_t *argmax = malloc(N * sizeof *argmax);
    for (int i = 0; i < N; i++) {
        loss[i] = (float)i / 7;
        argmax[i] = i % 101;
    }
    lk_predictions p = {.path = path, .checkpoint = "run/step-000050.h5", .dataset = "a.h5",
                        .dataset_digest = "0123", .loss = loss, .argmax = argmax, .count = N};
    worked(lk_predictions_write(io, &p), "write predictions");
    craft_read read = {.path = path, .count = N, .loss = loss, .argmax = argmax};
    worked(lk_io_call(io, craft_read_predictions, &read), "they read as they were");
    failed(lk_predictions_write(io, &p), LK_E_INPUT, "predictions.h5: exists already", "again");
    p.overwrite = true;
    p.count = 0;
    worked(lk_predictions_write(io, &p), "none");
    p.count = N;
    worked(lk_predictions_write(io, &p), "overwritten");
    p.path = in_home("no/p.h5");
    failed(lk_predictions_write(io, &p), LK_E_INPUT,
           "no/p.h5", "into no directory");
    writes_left = 3;
    p.path = path;
    failed(lk_predictions_write(io, &p), LK_E_SYSTEM, "predictions.h5.part",
           "a full disk");
    writes_left = -1;
    tap_ok(exists(path) && !exists(in_home("predictions.h5.part")), "the old file stays");
    check_shown(path, (const char *[]){"lockstep predictions, version 1", "300,000", "loss     f32",
                                       "argmax   i32", NULL}, "show predictions");
    p.label = argmax;
    p.probability = loss;
    worked(lk_predictions_write(io, &p), "predictions of samples");
    read.samples = true;
    worked(lk_io_call(io, craft_read_predictions, &read), "they read as they were");
    check_shown(path, (const char *[]){"300,000 of validation", "label        i32", "probability  "
                                       "f32", NULL}, "show predictions of samples");
    free(loss);
    free(argmax);
}

static void check_show(void)
{
    lk_status status;
    check_shown(in_home("whole.h5"),
                (const char *[]){"lockstep dataset, version 2", "train           2,700 tokens",
                                 "validation      300 tokens", " characters", "in.txt",
                                 "train/tokens               u8    [2700]",
                                 "vocabulary                 u32", NULL},
                "show a dataset");
    craft plain = {.path = in_home("plain.h5"), .elsewhere = "", .how = CRAFT_CONTROL};
    lk_io_call(io, craft_dataset, &plain);
    char *text = shown(in_home("plain.h5"), &status);
    tap_ok(status == LK_OK && strstr(text, "evil?[2Jname"), "no control characters are shown");
    free(text);
    plain.how = CRAFT_CYCLE;
    lk_io_call(io, craft_dataset, &plain);
    free(shown(in_home("plain.h5"), &status));
    failed(status, LK_E_INPUT, "lies too deep", "show groups that hold each other");
    plain.how = CRAFT_NO_SCHEMA;
    lk_io_call(io, craft_dataset, &plain);
    free(shown(in_home("plain.h5"), &status));
    failed(status, LK_E_INPUT, "without the attribute 'schema'", "show another HDF5 file");
    free(shown(in_home("absent.h5"), &status));
    failed(status, LK_E_INPUT, "no such file", "show no file");
    free(shown(home, &status));
    failed(status, LK_E_INPUT, "neither 'latest'", "show a directory");
}

int main(int argc, char **argv)
{
    io_set_up(&argc, &argv);
    check_queue();
    check_yield();
    check_reading();
    check_not_hdf5();
    if (ranks == 1) {
        check_imports();
        check_import_errors();
        for (int i = 0; i < CRAFT_CASES; i++) check_one_bad_file(&craft_cases[i]);
        check_retries();
        check_damage();
        check_text();
        check_predictions();
        check_show();
    }
    return io_tear_down();
}
