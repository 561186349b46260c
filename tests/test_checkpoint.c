/* Tests of checkpoints; run with 1, 2 and 4 ranks. What one process alone must stand (damaged
 * files, a full disk) is tested with 1. */
#include "base/philox.h"
#include "io/checkpoint.h"
#include "io/hdf5.h"
#include "io/show.h"
#include "tests/io_help.h"

#include <sys/resource.h>

enum { FLIPS = 400, CUTS = 60, BIG_TEXT = 200000 };

typedef struct tensor {
    const char *name;
    int dims;
    int64_t dim[4];
    bool decay;
} tensor;

/* Shapes with fewer rows than ranks, several chunks, one element, four dimensions. */
static const tensor large[] = {
    {"embed.weight", 2, {300, 64}, true},        {"blocks.0.attn.qkv.weight", 2, {192, 64}, true},
    {"blocks.0.attn.qkv.bias", 1, {192}, false}, {"blocks.0.norm.weight", 1, {65}, false},
    {"blocks.10.wide.weight", 2, {5001, 97}, true}, {"blocks.2.conv.weight", 4, {6, 5, 3, 3}, true},
    {"head.temperature", 1, {1}, false},         {"head.mix", 3, {3, 1, 7}, true},
    {"head.row", 2, {1, 300001}, true},          {NULL, 0, {0}, false},
};
static const tensor small[] = {
    {"embed.weight", 2, {40, 16}, true}, {"norm.weight", 1, {16}, false}, {NULL, 0, {0}, false}};
static const tensor renamed[] = {
    {"embed.weight", 2, {40, 16}, true}, {"norm.gain", 1, {16}, false}, {NULL, 0, {0}, false}};
static const tensor fewer[] = {{"embed.weight", 2, {40, 16}, true}, {NULL, 0, {0}, false}};
static const tensor more[] = {{"embed.weight", 2, {40, 16}, true},
                              {"head.weight", 2, {4, 4}, true},
                              {"norm.weight", 1, {16}, false},
                              {NULL, 0, {0}, false}};
static const tensor reshaped[] = {
    {"embed.weight", 2, {16, 40}, true}, {"norm.weight", 1, {16}, false}, {NULL, 0, {0}, false}};
static const tensor flattened[] = {
    {"embed.weight", 1, {640}, true}, {"norm.weight", 1, {16}, false}, {NULL, 0, {0}, false}};

static lk_params *model(const tensor *t)
{
    lk_params *p = lk_params_create();
    lk_graph *g = lk_graph_create(p, false);
    for (; t->name; t++) lk_parameter(g, t->name, t->dims, t->dim, LK_INIT_ZERO, 0, t->decay);
    lk_graph_destroy(g);
    lk_params_layout(p);
    return p;
}

/* ---- contents -------------------------------------------------------------------------------- */

static lk_flat buffers(const lk_params *p, bool moments)
{
    size_t bytes = (size_t)p->total * sizeof(float);
    lk_flat d = {.param = malloc(bytes), .moment1 = moments ? malloc(bytes) : NULL,
                            .moment2 = moments ? malloc(bytes) : NULL};
    float *flat[3] = {d.param, d.moment1, d.moment2};
    for (int g = 0; g < 3; g++)
        if (flat[g]) memset(flat[g], 0xA5, bytes); /* what was there must not be seen again */
    return d;
}

static void release(lk_flat *d)
{
    free(d->param);
    free(d->moment1);
    free(d->moment2);
}

/* All bit patterns: NaNs with payloads, infinities, denormals, both zeros. */
static void fill(const lk_params *p, lk_flat *d, uint64_t seed)
{
    float *flat[3] = {d->param, d->moment1, d->moment2};
    for (uint32_t g = 0; g < 3; g++)
        for (int i = 0; i < p->count && flat[g]; i++)
            for (int64_t k = 0; k < p->item[i]->count; k++) {
                uint32_t bits = lk_philox(seed, (uint32_t)k, (uint32_t)i, g, 0).v[0];
                memcpy(flat[g] + p->item[i]->offset + k, &bits, sizeof bits);
            }
}

/* Are the parameters in `a` those of `b`, and the gaps in `a` zero? */
static bool same_flat(const lk_params *p, const float *a, const float *b)
{
    if (!a || !b) return a == b;
    bool *used = calloc((size_t)p->total, sizeof *used), good = true;
    for (int i = 0; i < p->count; i++) {
        const lk_param *q = p->item[i];
        good &= memcmp(a + q->offset, b + q->offset, (size_t)q->count * sizeof *a) == 0;
        for (int64_t k = 0; k < q->count; k++) used[q->offset + k] = true;
    }
    for (int64_t k = 0; k < p->total; k++) good &= used[k] || memcmp(a + k, "\0\0\0\0", 4) == 0;
    free(used);
    return good;
}

static bool same_data(const lk_params *p, const lk_flat *a, const lk_flat *b)
{
    return same_flat(p, a->param, b->param) && same_flat(p, a->moment1, b->moment1) &&
           same_flat(p, a->moment2, b->moment2);
}

static uint32_t letters[3] = {'a', 0xE9, 0x1F600};

static lk_checkpoint_info some_info(uint64_t step)
{
    return (lk_checkpoint_info){
        .state = {.step = step, .updates = step, .loss_scale = 65536, .loss = 2.5f, .lr = 3e-4f,
                  .grad_norm = 1.25f, .finite = 1},
        .seed = UINT64_MAX - 5,
        .leaves = 8,
        .run_file = (char *)"directory: runs/a\nmodel:\n  kind: transformer\n  width: 64\n",
        .choices = (char *)"backend\tcpu\n",
        .code_version = (char *)"0.1-g1234567",
        .build = (char *)"gcc 12, cpu",
        .dataset_path = (char *)"data/\xC3\xA9.h5",
        .dataset_digest = (char *)"0123456789abcdef0123456789abcdef",
        .characters = true,
        .vocabulary = letters,
        .vocabulary_size = 3,
    };
}

static char *animals[3] = {(char *)"cat", (char *)"", (char *)"\xC3\xA9" "agle of the north"};
static float three[6] = {0.25f, 0.5f, 0.125f, 1, 0.75f, 2};

static lk_checkpoint_info image_info(uint64_t step)
{
    lk_checkpoint_info info = some_info(step);
    info.kind = LK_IMAGE_DATA;
    info.image = (lk_image_format){.height = 32, .width = 48, .channels = 3, .classes = 3,
                                   .name = animals, .mean = three, .std = three + 3};
    info.vocabulary = NULL;
    info.vocabulary_size = 0;
    info.characters = false;
    return info;
}

static bool same_image(const lk_image_format *a, const lk_image_format *b)
{
    bool same = a->height == b->height && a->width == b->width && a->channels == b->channels &&
                a->classes == b->classes;
    for (int64_t i = 0; i < a->classes && same; i++) same = strcmp(a->name[i], b->name[i]) == 0;
    size_t bytes = (size_t)a->channels * sizeof(float);
    return same && (bytes == 0 || (memcmp(a->mean, b->mean, bytes) == 0 &&
                                   memcmp(a->std, b->std, bytes) == 0));
}

static bool same_info(const lk_checkpoint_info *a, const lk_checkpoint_info *b)
{
    return a->kind == b->kind && same_image(&a->image, &b->image) &&
           memcmp(&a->state, &b->state, sizeof a->state) == 0 &&
           a->seed == b->seed &&
           a->leaves == b->leaves && strcmp(a->run_file, b->run_file) == 0 &&
           strcmp(a->choices, b->choices) == 0 && strcmp(a->code_version, b->code_version) == 0 &&
           strcmp(a->build, b->build) == 0 && strcmp(a->dataset_path, b->dataset_path) == 0 &&
           strcmp(a->dataset_digest, b->dataset_digest) == 0 && a->characters == b->characters &&
           a->vocabulary_size == b->vocabulary_size &&
           (a->vocabulary_size == 0 ||
            memcmp(a->vocabulary, b->vocabulary, (size_t)a->vocabulary_size * 4) == 0);
}

static void make_directory(const char *path)
{
    if (rank == 0) mkdir(path, 0777);
    all(true);
}

static bool latest_is(const char *directory, const char *name)
{
    char link[512], target[512] = "";
    snprintf(link, sizeof link, "%s/latest", directory);
    ssize_t n = readlink(link, target, sizeof target - 1);
    return n > 0 && strcmp(target, name) == 0;
}

/* ---- round trips ----------------------------------------------------------------------------- */

static void check_load(MPI_Comm comm, const char *path, const lk_params *p,
                       const lk_flat *saved, const char *what)
{
    lk_flat d = buffers(p, saved->moment1 != NULL);
    lk_status status = lk_checkpoint_load(io, comm, path, p, &d);
    bool same = status == LK_OK && same_data(p, &d, saved);
    tap_ok(all(same), "%s: every bit is back, gaps are zero %s", what, lk_error_text());
    lk_error_clear();
    release(&d);
}

static void check_open(MPI_Comm comm, const char *path, const lk_checkpoint_info *saved,
                       const char *what)
{
    lk_checkpoint_info info;
    lk_status status = lk_checkpoint_open(io, comm, path, &info);
    tap_ok(all(status == LK_OK && same_info(&info, saved)), "%s: the info is back %s", what,
           lk_error_text());
    if (status == LK_OK) lk_checkpoint_info_clear(&info);
    lk_error_clear();
}

static void check_round_trips(void)
{
    lk_params *p = model(large);
    lk_flat first = buffers(p, true), second = buffers(p, true);
    lk_flat none = buffers(p, false);
    lk_checkpoint_info info = some_info(500), later = some_info(1234567);
    char run[512], directory[512];
    snprintf(run, sizeof run, "%s", in_home("run"));
    snprintf(directory, sizeof directory, "%s", in_home("run/checkpoints"));
    make_directory(run);
    make_directory(directory);
    fill(p, &first, 1);
    fill(p, &second, 2);
    fill(p, &none, 3);

    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &first), "save");
    tap_ok(latest_is(directory, "step-000500.h5"), "latest leads to step-000500.h5");
    check_load(MPI_COMM_WORLD, in_home("run/checkpoints/step-000500.h5"), p, &first, "all ranks");
    check_load(MPI_COMM_SELF, in_home("run/checkpoints/step-000500.h5"), p, &first, "each alone");
    check_load(MPI_COMM_WORLD, run, p, &first, "the run directory");
    check_load(MPI_COMM_WORLD, directory, p, &first, "the checkpoint directory");
    check_open(MPI_COMM_WORLD, in_home("run/checkpoints/latest"), &info, "latest");
    check_open(MPI_COMM_SELF, run, &info, "the run directory, each alone");

    char *text = malloc(BIG_TEXT + 1); /* larger than an object header can hold */
    for (int i = 0; i < BIG_TEXT; i++) text[i] = (char)('a' + i % 23);
    text[BIG_TEXT] = '\0';
    later.choices = later.run_file = text;
    if (rank > 0) later.choices = (char *)"another choice of this rank"; /* rank 0 decides */
    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &later, &second), "save another");
    later.choices = text;
    tap_ok(latest_is(directory, "step-1234567.h5"), "latest leads to step-1234567.h5");
    check_open(MPI_COMM_WORLD, directory, &later, "200 KB texts");
    check_load(MPI_COMM_WORLD, directory, p, &second, "the other");
    check_load(MPI_COMM_WORLD, in_home("run/checkpoints/step-000500.h5"), p, &first, "the first");

    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &second), "save again");
    check_load(MPI_COMM_WORLD, directory, p, &second, "the same step, overwritten");

    worked(rank ? LK_OK : lk_checkpoint_save(io, MPI_COMM_SELF, directory, p, &info, &first),
           "save by one rank");
    check_load(MPI_COMM_WORLD, directory, p, &first, "all ranks, from one");

    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &none), "parameters only");
    check_load(MPI_COMM_WORLD, directory, p, &none, "parameters only");
    failed(lk_checkpoint_load(io, MPI_COMM_WORLD, directory, p, &second), LK_E_INPUT,
           "found parameters only", "moments asked for");
    tap_ok(!exists(in_home("run/checkpoints/step-000500.h5.part")) &&
               !exists(in_home("run/checkpoints/latest.part")), "no temporary file is left");
    free(text);
    release(&first);
    release(&second);
    release(&none);
    lk_params_destroy(p);
}

/* A model of images, with a moving average; and what text models have, without one. */
static void check_images(void)
{
    lk_params *p = model(small);
    lk_flat d = buffers(p, true), got = buffers(p, true), ema = buffers(p, false);
    lk_checkpoint_info info = image_info(12), out;
    char directory[512];
    snprintf(directory, sizeof directory, "%s", in_home("images"));
    make_directory(directory);
    fill(p, &d, 5);
    fill(p, &ema, 6);
    d.ema = ema.param;
    if (rank > 0) info.image.name = (char *[]){animals[1], animals[1], animals[1]};
    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &d), "save images");
    info.image.name = animals;
    check_open(MPI_COMM_WORLD, directory, &info, "images");
    worked(lk_checkpoint_open(io, MPI_COMM_WORLD, directory, &out), "open it");
    tap_ok(all(out.has_moments && out.has_ema), "it tells of moments and moving average");
    lk_checkpoint_info_clear(&out);
    check_load(MPI_COMM_WORLD, directory, p, &(lk_flat){.param = d.param},
               "parameters alone");
    float *average = malloc((size_t)p->total * sizeof *average);
    got.ema = average;
    worked(lk_checkpoint_load(io, MPI_COMM_WORLD, directory, p, &got), "load all");
    tap_ok(all(same_data(p, &got, &d) && same_flat(p, average, d.ema)), "every bit is back");
    d.ema = NULL;
    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &d), "save without ema");
    failed(lk_checkpoint_load(io, MPI_COMM_WORLD, directory, p, &got), LK_E_INPUT,
           "expected a moving average of the parameters, found none", "an average asked for");
    lk_flat only = {.param = got.param, .ema = average};
    lk_flat plain = {.param = d.param, .ema = ema.param};
    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &plain), "ema, no moments");
    worked(lk_checkpoint_load(io, MPI_COMM_WORLD, directory, p, &only), "load them");
    tap_ok(all(same_flat(p, only.param, plain.param) && same_flat(p, average, plain.ema)),
           "they are back");
    info.kind = LK_TABLE_DATA;
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &d), LK_E_INTERNAL,
           "a checkpoint of a model of 'table'", "a table");
    free(average);
    release(&d);
    release(&got);
    release(&ema);
    lk_params_destroy(p);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void check_other_model(const char *path, const tensor *t, const char *words,
                              const char *what)
{
    lk_params *p = model(t);
    lk_flat d = buffers(p, true);
    failed(lk_checkpoint_load(io, MPI_COMM_WORLD, path, p, &d), LK_E_INPUT, words, what);
    release(&d);
    lk_params_destroy(p);
}

/* Save into a directory that holds the good checkpoint of step 7; it must survive. */
static void check_survival(const char *directory, const lk_params *p,
                           const lk_flat *good, const char *what)
{
    char part[600];
    snprintf(part, sizeof part, "%s/step-000008.h5.part", directory);
    tap_ok(latest_is(directory, "step-000007.h5") && !exists(part), "%s: latest stays", what);
    check_load(MPI_COMM_WORLD, directory, p, good, what);
}

/* The k-th write to the disk fails, and all after it, for every k. */
static void check_full_disk(const char *directory, const lk_params *p, lk_flat *d)
{
    lk_checkpoint_info info = some_info(8);
    int refused = 0, k = 0;
    lk_status status = LK_E_SYSTEM;
    for (; status != LK_OK && k < 1000; k++) {
        writes_left = k;
        status = lk_checkpoint_save(io, MPI_COMM_SELF, directory, p, &info, d);
        writes_left = -1;
        refused += status == LK_E_SYSTEM && latest_is(directory, "step-000007.h5");
        if (status != LK_OK && k % 16 == 2) printf("# %s\n", lk_error_text());
        lk_error_clear();
    }
    tap_ok(status == LK_OK && refused == k - 1 && k > 10,
           "%d of %d saves that meet a full disk fail and leave latest", refused, k - 1);
    check_load(MPI_COMM_SELF, in_home("small/step-000008.h5"), p, d, "with room again");
}

static void check_room(const char *directory, const lk_params *p, lk_flat *d)
{
    lk_params *huge = lk_params_create();
    lk_checkpoint_info info = some_info(8);
    struct rlimit limit, before;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 8192;
    if (rank == ranks - 1) setrlimit(RLIMIT_FSIZE, &limit);
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, d), LK_E_SYSTEM,
           "ulimit -f", "a file size limit of one rank");
    setrlimit(RLIMIT_FSIZE, &before);
    lk_graph *g = lk_graph_create(huge, false); /* never touched: refused for its size */
    lk_parameter(g, "huge", 2, (int64_t[]){1 << 24, 1 << 24}, LK_INIT_ZERO, 0, true);
    lk_graph_destroy(g);
    lk_params_layout(huge);
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, huge, &info, d), LK_E_SYSTEM,
           "MiB of free space for a checkpoint of", "a PiB");
    check_survival(directory, p, d, "no room");
    lk_params_destroy(huge);
}

static void check_refusals(void)
{
    lk_params *p = model(small);
    lk_flat d = buffers(p, true), other = buffers(p, true);
    lk_checkpoint_info info = some_info(7), bad = some_info(8);
    char directory[512];
    snprintf(directory, sizeof directory, "%s", in_home("small"));
    make_directory(directory);
    fill(p, &d, 4);
    fill(p, &other, 5);
    worked(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &info, &d), "save a small model");

    check_other_model(directory, renamed, "parameters/norm/gain", "another name");
    check_other_model(directory, fewer, "found 'parameters/norm/weight' too", "one too many");
    check_other_model(directory, more, "parameters/head/weight' [4, 4]", "one too few");
    check_other_model(directory, reshaped, "expected f32 [16, 40]", "another shape");
    check_other_model(directory, flattened, "found f32 [40, 16]", "other dimensions");

    bad.leaves = 3;
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
           "expected a power of two, found 3", "3 leaves");
    check_survival(directory, p, &d, "3 leaves");
    bad = some_info(8);
    bad.state.loss_scale = -1;
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
           "positive loss scale", "a negative loss scale");
    bad = some_info(8);
    bad.dataset_digest = (char *)"none";
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
           "32 hexadecimal", "no digest");
    check_survival(directory, p, &d, "no digest");
    bad = some_info(8);
    bad.build = NULL;
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_INTERNAL,
           "without its 'build'", "a text that is missing");
    bad = some_info(8);
    if (ranks > 1) { /* they must hold the same bits; the read-back sees that they do not */
        failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &bad, rank == 1 ? &other : &d),
               LK_E_SYSTEM, "expected digest", "ranks that hold different parameters");
        check_survival(directory, p, &d, "different parameters");
    }
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, in_home("nowhere"), p, &info, &d), LK_E_SYSTEM,
           "No such file or directory", "no directory");
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, in_home("small/step-000007.h5"), p, &info, &d),
           LK_E_SYSTEM, "found a file", "a file for a directory");
    make_directory(in_home("small/step-000008.h5.part"));
    failed(lk_checkpoint_save(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
           "cannot remove the old file", "a directory in the way");
    all(true);
    if (rank == 0) rmdir(in_home("small/step-000008.h5.part"));
    all(true);
    check_survival(directory, p, &d, "a directory in the way");
    make_directory(in_home("empty"));
    lk_checkpoint_info out;
    failed(lk_checkpoint_open(io, MPI_COMM_WORLD, in_home("empty"), &out), LK_E_INPUT,
           "neither 'latest' nor 'checkpoints/latest'", "a directory without checkpoints");
    failed(lk_checkpoint_open(io, MPI_COMM_WORLD, in_home("absent"), &out), LK_E_INPUT,
           "found no such file", "no file");
    if (rank == 0) symlink("step-000009.h5", in_home("empty/latest"));
    all(true);
    failed(lk_checkpoint_open(io, MPI_COMM_WORLD, in_home("empty"), &out), LK_E_INPUT,
           "empty/step-000009.h5", "a link to nothing");
    check_room(directory, p, &d);
    if (ranks == 1) check_full_disk(directory, p, &d);
    release(&d);
    release(&other);
    lk_params_destroy(p);
}

/* ---- one process: damage --------------------------------------------------------------------- */

/* Open and load: good and equal, or LK_E_INPUT with one line. */
static bool refused_or_equal(const char *path, const lk_params *p, const lk_checkpoint_info *info,
                             const lk_flat *saved, lk_flat *d, int *refused)
{
    lk_checkpoint_info got;
    lk_status opened = lk_checkpoint_open(io, MPI_COMM_SELF, path, &got);
    bool good = opened == LK_OK || (opened == LK_E_INPUT && lk_error_text()[0]);
    if (opened == LK_OK) {
        good = same_info(&got, info);
        lk_checkpoint_info_clear(&got);
    }
    lk_error_clear();
    lk_status loaded = lk_checkpoint_load(io, MPI_COMM_SELF, path, p, d);
    good &= loaded == LK_OK ? same_data(p, d, saved)
                            : loaded == LK_E_INPUT && !strchr(lk_error_text(), '\n');
    if (!good) printf("# %s: open %d, load %d: %s\n", path, opened, loaded, lk_error_text());
    lk_error_clear();
    *refused += opened != LK_OK || loaded != LK_OK;
    return good;
}

static void check_damage(void)
{
    lk_params *p = model(small);
    lk_flat saved = buffers(p, true), d = buffers(p, true);
    lk_checkpoint_info info = some_info(7);
    const char *path = in_home("damaged.h5");
    size_t size;
    fill(p, &saved, 4);
    char *bytes = read_file(in_home("small/step-000007.h5"), &size);
    int good = 0, refused = 0;
    for (int i = 0; i < FLIPS; i++) {
        lk_u32x4 r = lk_philox(9, (uint32_t)i, 0, 0, 0);
        size_t at = i < 100 ? (size_t)i : size * (size_t)i / FLIPS + r.v[0] % (size / FLIPS);
        char mask = (char)(1u << r.v[1] % 8);
        if (i % 3 == 0) mask = (char)0xFF;
        bytes[at] ^= mask;
        write_file(path, bytes, size);
        bytes[at] ^= mask;
        good += refused_or_equal(path, p, &info, &saved, &d, &refused);
    }
    tap_ok(good == FLIPS, "%d of %d files of %zu bytes with a byte flipped: refused (%d) or equal",
           good, FLIPS, size, refused);
    good = refused = 0;
    for (int i = 0; i < CUTS; i++) {
        write_file(path, bytes, size * (size_t)i / CUTS + (i % 2 ? (size_t)i : 0));
        good += refused_or_equal(path, p, &info, &saved, &d, &refused);
    }
    tap_ok(good == CUTS && refused == CUTS, "%d of %d truncated files are refused", refused, CUTS);
    write_file(path, bytes, size - 1);
    refused_or_equal(path, p, &info, &saved, &d, &refused);
    tap_ok(refused == CUTS + 1, "one byte short is refused");
    unlink(path);
    free(bytes);
    release(&saved);
    release(&d);
    lk_params_destroy(p);
}

/* ---- show ------------------------------------------------------------------------------------ */

static void check_show(void)
{
    static const char *const words[] = {
        "step-1234567.h5", "lockstep checkpoint, version 1", "step            1,234,567",
        "0.1-g1234567", "gcc 12, cpu", "learning rate   0.0003", "moments are stored",
        "f32   [5001, 97]    ", "moment2/head/mix", "0123456789abcdef",
        "3 characters", "loss            2.5", "leaves          8", "18446744073709551610"};
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    lk_status status = lk_show_file(io, in_home("run/checkpoints/step-1234567.h5"), f);
    fclose(f);
    worked(status, "show a checkpoint");
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        tap_ok(strstr(text, words[i]) != NULL, "it tells '%.60s'", words[i]);
    free(text);
    f = open_memstream(&text, &size);
    status = lk_show_file(io, in_home("run"), f);
    fclose(f);
    worked(status, "show a run directory");
    tap_ok(strstr(text, "no moments") && strstr(text, "\n    directory: runs/a\n    model:\n"
                                                      "      kind: transformer"),
           "it tells the run file, and that there are no moments");
    if (getenv("LK_TEST_VERBOSE")) fputs(text, stderr);
    free(text);
    f = open_memstream(&text, &size);
    status = lk_show_file(io, in_home("images"), f);
    fclose(f);
    worked(status, "show a checkpoint of images");
    tap_ok(strstr(text, "32 x 48 pixels") && strstr(text, "0.25, 0.5, 0.125") &&
               strstr(text, "2  \xC3\xA9" "agle of the north") && strstr(text, "moving average") &&
               !strstr(text, "vocabulary"), "it tells shape, mean, classes, moving average");
    if (getenv("LK_TEST_VERBOSE")) fputs(text, stderr);
    free(text);
}

int main(int argc, char **argv)
{
    io_set_up(&argc, &argv);
    check_round_trips();
    check_images();
    check_refusals();
    if (ranks == 1) {
        check_damage();
        check_show();
    }
    return io_tear_down();
}
