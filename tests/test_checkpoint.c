/* Tests of checkpoints; run with 1, 2 and 4 ranks, and with 8 for saving on N and loading on M
 * ranks. What one process alone must stand (a full disk) is tested with 1; damage: test_damage. */
#include "io/hdf5.h"
#include "io/show.h"
#include "tests/checkpoint_help.h"

#include <sys/resource.h>

enum { BIG_TEXT = 200000 };

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
static const tensor middle[] = {{"embed.weight", 2, {700, 1000}, true}, /* three chunks */
                                {"head.temperature", 1, {1}, false},
                                {"norm.weight", 1, {65}, false},
                                {NULL, 0, {0}, false}};
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

    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &first), "save");
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
    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &later, &second), "save another");
    later.choices = text;
    tap_ok(latest_is(directory, "step-1234567.h5"), "latest leads to step-1234567.h5");
    check_open(MPI_COMM_WORLD, directory, &later, "200 KB texts");
    check_load(MPI_COMM_WORLD, directory, p, &second, "the other");
    check_load(MPI_COMM_WORLD, in_home("run/checkpoints/step-000500.h5"), p, &first, "the first");

    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &second), "save again");
    check_load(MPI_COMM_WORLD, directory, p, &second, "the same step, overwritten");

    worked(rank ? LK_OK : save_checkpoint(io, MPI_COMM_SELF, directory, p, &info, &first),
           "save by one rank");
    check_load(MPI_COMM_WORLD, directory, p, &first, "all ranks, from one");

    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &none), "parameters only");
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
    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &d), "save images");
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
    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &d), "save without ema");
    failed(lk_checkpoint_load(io, MPI_COMM_WORLD, directory, p, &got), LK_E_INPUT,
           "expected a moving average of the parameters, found none", "an average asked for");
    lk_flat only = {.param = got.param, .ema = average};
    lk_flat plain = {.param = d.param, .ema = ema.param};
    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &plain), "ema, no moments");
    worked(lk_checkpoint_load(io, MPI_COMM_WORLD, directory, p, &only), "load them");
    tap_ok(all(same_flat(p, only.param, plain.param) && same_flat(p, average, plain.ema)),
           "they are back");
    info.kind = LK_TABLE_DATA;
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &d), LK_E_INTERNAL,
           "a checkpoint of a model of 'table'", "a table");
    free(average);
    release(&d);
    release(&got);
    release(&ema);
    lk_params_destroy(p);
}

/* ---- save on N ranks, load on M -------------------------------------------------------------- */

/* The first n ranks; MPI_COMM_NULL on the others. */
static MPI_Comm first_ranks(int n)
{
    MPI_Comm comm;
    MPI_Comm_split(MPI_COMM_WORLD, rank < n ? 0 : MPI_UNDEFINED, rank, &comm);
    return comm;
}

static void check_pair(const lk_params *p, int n, int m)
{
    char directory[512];
    lk_flat saved = buffers(p, true), d = buffers(p, true);
    lk_checkpoint_info info = some_info((uint64_t)(100 * n + m)), out;
    MPI_Comm writers = first_ranks(n), readers = first_ranks(m);
    lk_status status = LK_OK;
    snprintf(directory, sizeof directory, "%s", in_home("pairs"));
    fill(p, &saved, info.state.step);
    if (writers != MPI_COMM_NULL)
        status = save_checkpoint(io, writers, directory, p, &info, &saved);
    bool good = all(status == LK_OK);
    if (readers != MPI_COMM_NULL) {
        status = lk_checkpoint_load(io, readers, directory, p, &d);
        good &= status == LK_OK && same_data(p, &d, &saved);
        status = lk_checkpoint_open(io, readers, directory, &out);
        good &= status == LK_OK && same_info(&out, &info);
        if (status == LK_OK) lk_checkpoint_info_clear(&out);
    }
    tap_ok(all(good), "saved on %d, loaded on %d: every bit %s", n, m, lk_error_text());
    lk_error_clear();
    if (writers != MPI_COMM_NULL) MPI_Comm_free(&writers);
    if (readers != MPI_COMM_NULL) MPI_Comm_free(&readers);
    release(&saved);
    release(&d);
}

static void check_pairs(void)
{
    static const int number[] = {1, 2, 3, 4, 8};
    lk_params *p = model(middle);
    make_directory(in_home("pairs"));
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 5; k++) check_pair(p, number[i], number[k]);
    lk_params_destroy(p);
}

/* ---- saving beside training ------------------------------------------------------------------ */

static int count_steps(const char *directory)
{
    char path[600];
    int n = 0;
    for (int step = 0; step < 64; step++) {
        snprintf(path, sizeof path, "%s/step-%06d.h5", directory, step);
        n += exists(path);
    }
    return n;
}

typedef struct beside {
    lk_device *device;
    lk_store *store;
    lk_checkpoint_snapshot *snapshot;
    lk_params *params;
    char directory[512];
} beside;

static void open_beside(beside *b, const char *name, lk_checkpoint_keep keep)
{
    memset(b, 0, sizeof *b);
    snprintf(b->directory, sizeof b->directory, "%s", in_home("%s", name));
    make_directory(b->directory);
    b->params = model(large);
    lk_store_options o = {.compute = LK_F32, .training = true, .ema = true, .local_leaves = 1};
    size_t bytes = 0;
    lk_status status = lk_backend_cpu.open(1, &b->device);
    if (status == LK_OK) status = lk_store_create(b->device, b->params, &o, &b->store);
    if (status == LK_OK)
        status = lk_checkpoint_snapshot_open(io, MPI_COMM_WORLD, b->directory, keep, b->store,
                                             &b->snapshot);
    if (status == LK_OK) status = lk_checkpoint_snapshot_bytes(b->params, &o, rank, ranks, &bytes);
    worked(status, "a snapshot");
    double whole = 4.0 * sizeof(float) * (double)b->params->total, share = (double)bytes / whole;
    tap_ok(all(share < (ranks == 1 ? 1.01 : 1.0) && share > 0.9 / ranks),
           "a rank of %d keeps %.2f of the buffers", ranks, share);
}

static void close_beside(beside *b)
{
    lk_checkpoint_snapshot_close(b->snapshot);
    lk_store_destroy(b->store);
    b->device->backend->close(b->device);
    lk_params_destroy(b->params);
}

/* fill() gives any bits; these are saved by a run. */
static void fill_finite(const lk_params *p, lk_flat *d, uint64_t seed)
{
    float *flat[3] = {d->param, d->moment1, d->moment2};
    fill(p, d, seed);
    for (int g = 0; g < 3; g++)
        for (int64_t k = 0; k < p->total && flat[g]; k++) {
            uint32_t bits;
            memcpy(&bits, flat[g] + k, sizeof bits);
            bits &= ~0x00800000u;
            memcpy(flat[g] + k, &bits, sizeof bits);
        }
}

/* Save, overwrite the store while the save is under way, and see that what was saved is what was
 * there at the beginning. */
static void check_snapshot(beside *b, uint64_t step, uint64_t good_step, bool last)
{
    lk_flat d = buffers(b->params, true), more = buffers(b->params, false);
    lk_checkpoint_info info = some_info(step);
    lk_checkpoint_figures f;
    char path[600], spoilt[LK_CHECKPOINT_SPOILT] = "";
    float *average = malloc((size_t)b->params->total * sizeof *average);
    d.ema = more.param;
    fill_finite(b->params, &d, step);
    fill_finite(b->params, &more, step + 1000);
    lk_status status = lk_store_set(b->store, &d);
    if (status == LK_OK)
        status = lk_checkpoint_snapshot_begin(b->snapshot, &info, good_step, spoilt);
    for (int r = 0; r < LK_REGIONS; r++) /* training goes on */
        if (b->store->buffer[r] && r != LK_REGION_STATE && r != LK_REGION_GRAD)
            memset(b->store->buffer[r], 0x5A, (size_t)b->params->total * sizeof(float));
    if (rank == ranks - 1) info.choices = NULL; /* not looked at any more */
    if (status == LK_OK) status = lk_checkpoint_snapshot_wait(b->snapshot, &f);
    snprintf(path, sizeof path, "%s/step-%06llu.h5", b->directory, (unsigned long long)step);
    bool good = status == LK_OK && !spoilt[0] && strcmp(f.path, path) == 0 && f.step == step &&
                !f.warning[0] && f.bytes > 16 * 300001 && f.seconds > 0;
    if (last) {
        lk_flat got = buffers(b->params, true);
        got.ema = average;
        if (status == LK_OK) status = lk_checkpoint_load(io, MPI_COMM_WORLD, path, b->params, &got);
        good &= status == LK_OK && same_data(b->params, &got, &d) &&
                same_flat(b->params, average, d.ema);
        got.ema = NULL;
        release(&got);
    }
    tap_ok(all(good), "step %d is saved as it was when the save began %s", (int)step,
           lk_error_text());
    lk_error_clear();
    free(average);
    release(&more);
    release(&d);
}

/* A value of `group` (0: parameters, 1: first moment, 3: moving average) that is not finite. */
static void check_spoilt(beside *b, int group, float value, const char *name)
{
    lk_flat d = buffers(b->params, true);
    lk_checkpoint_info info = some_info(77);
    lk_checkpoint_figures f;
    char spoilt[LK_CHECKPOINT_SPOILT] = "not set";
    d.ema = calloc((size_t)b->params->total, sizeof *d.ema);
    float *flat[4] = {d.param, d.moment1, d.moment2, d.ema};
    fill_finite(b->params, &d, 77);
    flat[group][b->params->item[3]->offset + 64] = value;
    worked(lk_store_set(b->store, &d), "set the store");
    worked(lk_checkpoint_snapshot_begin(b->snapshot, &info, 9, spoilt), "begin");
    tap_ok(all(strcmp(spoilt, name) == 0), "%g in %s is told: '%s'", (double)value,
           name[0] ? name : "a moment is not", spoilt);
    if (name[0])
        failed(lk_checkpoint_snapshot_wait(b->snapshot, &f), LK_E_INTERNAL, "no save was begun",
               "and not saved");
    else worked(lk_checkpoint_snapshot_wait(b->snapshot, &f), "and saved");
    tap_ok(all(exists(in_home("beside/step-000077.h5")) == !name[0]), "as the directory shows");
    free(d.ema);
    d.ema = NULL;
    release(&d);
}

/* With room for one, the newest that a good step came after stays as well. */
static void check_good_one_stays(void)
{
    static const struct {
        uint64_t step, good;
        const char *stay[3];
    } save[] = {{11, LK_CHECKPOINT_NONE, {"11", NULL}},
                {12, 11, {"11", "12", NULL}},
                {13, 11, {"11", "13", NULL}},
                {14, 13, {"13", "14", NULL}},
                {15, LK_CHECKPOINT_NONE, {"13", "14", "15"}},
                {16, 15, {"15", "16", NULL}}};
    beside b;
    open_beside(&b, "one", (lk_checkpoint_keep){.newest = 1});
    for (int i = 0; i < 6; i++) {
        bool there = true;
        int n = 0;
        check_snapshot(&b, save[i].step, save[i].good, false);
        for (; n < 3 && save[i].stay[n]; n++)
            there &= exists(in_home("one/step-0000%s.h5", save[i].stay[n]));
        tap_ok(all(there && count_steps(b.directory) == n),
               "step %d saved, one is to be kept and %lld is good: %d stay", (int)save[i].step,
               (long long)save[i].good, n);
    }
    close_beside(&b);
}

static void check_beside(void)
{
    beside b;
    lk_checkpoint_figures f;
    lk_checkpoint_info info = some_info(60);
    char spoilt[LK_CHECKPOINT_SPOILT];
    open_beside(&b, "beside", (lk_checkpoint_keep){.newest = 2, .every = 4});
    failed(lk_checkpoint_snapshot_wait(b.snapshot, &f), LK_E_INTERNAL, "no save was begun",
           "no save");
    check_snapshot(&b, 0, LK_CHECKPOINT_NONE, false);
    for (uint64_t step = 3; step <= 6; step++)
        check_snapshot(&b, step, step > 3 ? step - 1 : 0, step == 6);
    const char *stay[] = {"0", "4", "5", "6"};
    bool there = true;
    for (int i = 0; i < 4; i++) there &= exists(in_home("beside/step-00000%s.h5", stay[i]));
    tap_ok(all(there && count_steps(b.directory) == 4),
           "of 0, 3..6 the two newest, every fourth and the initial one stay");
    if (rank == 0) { /* of a run that went further before it was set back */
        rename(in_home("beside/step-000004.h5"), in_home("beside/step-000040.h5"));
        write_file(in_home("beside/step-000009.h5.part"), "x", 1);
        write_file(in_home("beside/latest.part"), "x", 1);
        write_file(in_home("beside/step-7.h5"), "x", 1);
        write_file(in_home("beside/mine.h5.part"), "x", 1);
    }
    all(true);
    check_snapshot(&b, 9, 6, true);
    tap_ok(all(exists(in_home("beside/step-000040.h5")) && exists(in_home("beside/step-7.h5")) &&
               exists(in_home("beside/mine.h5.part")) &&
               !exists(in_home("beside/step-000009.h5.part")) &&
               !exists(in_home("beside/latest.part")) && exists(in_home("beside/step-000000.h5"))),
           "later steps and other files stay, what killed saves left goes");
    bool same = all(latest_is(b.directory, "step-000009.h5"));
    if (rank == 0) rename(b.directory, in_home("moved"));
    all(true);
    worked(lk_checkpoint_snapshot_begin(b.snapshot, &info, 9, spoilt),
           "a save without its directory begins");
    failed(lk_checkpoint_snapshot_begin(b.snapshot, &info, 9, spoilt), LK_E_INTERNAL,
           "before the last one", "two at a time");
    for (int i = 0; i < 10000 && lk_checkpoint_snapshot_look(b.snapshot) != LK_CHECKPOINT_DONE;
         i++) {
        lk_error_clear();
        usleep(1000);
    }
    failed(lk_checkpoint_snapshot_wait(b.snapshot, &f), LK_E_SYSTEM, "No such file or directory",
           "and fails on all ranks");
    if (rank == 0) rename(in_home("moved"), b.directory);
    all(true);
    tap_ok(all(same && latest_is(b.directory, "step-000009.h5")), "latest stays");
    check_snapshot(&b, 10, 9, true);
    check_spoilt(&b, 0, INFINITY, "parameters/blocks/0/norm/weight");
    check_spoilt(&b, 0, NAN, "parameters/blocks/0/norm/weight");
    check_spoilt(&b, 3, -INFINITY, "ema/blocks/0/norm/weight");
    check_spoilt(&b, 2, INFINITY, "");
    tap_ok(all(latest_is(b.directory, "step-000077.h5")), "latest is the one that was saved");
    close_beside(&b);
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
        status = save_checkpoint(io, MPI_COMM_SELF, directory, p, &info, d);
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
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, d), LK_E_SYSTEM,
           "ulimit -f", "a file size limit of one rank");
    setrlimit(RLIMIT_FSIZE, &before);
    lk_graph *g = lk_graph_create(huge, false); /* never touched: refused for its size */
    lk_parameter(g, "huge", 2, (int64_t[]){1 << 24, 1 << 24}, LK_INIT_ZERO, 0, true);
    lk_graph_destroy(g);
    lk_params_layout(huge);
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, huge, &info, d), LK_E_SYSTEM,
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
    worked(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &info, &d), "save a small model");

    check_other_model(directory, renamed, "parameters/norm/gain", "another name");
    check_other_model(directory, fewer, "found 'parameters/norm/weight' too", "one too many");
    check_other_model(directory, more, "parameters/head/weight' [4, 4]", "one too few");
    check_other_model(directory, reshaped, "expected f32 [16, 40]", "another shape");
    check_other_model(directory, flattened, "found f32 [40, 16]", "other dimensions");

    bad.leaves = 3;
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
           "expected a power of two, found 3", "3 leaves");
    check_survival(directory, p, &d, "3 leaves");
    bad = some_info(8);
    bad.state.loss_scale = -1;
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
           "positive loss scale", "a negative loss scale");
    bad = some_info(8);
    bad.dataset_digest = (char *)"none";
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
           "32 hexadecimal", "no digest");
    check_survival(directory, p, &d, "no digest");
    bad = some_info(8);
    bad.build = NULL;
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_INTERNAL,
           "without its 'build'", "a text that is missing");
    bad = some_info(8);
    if (ranks > 1) { /* they must hold the same bits; the read-back sees that they do not */
        failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &bad, rank == 1 ? &other : &d),
               LK_E_SYSTEM, "expected digest", "ranks that hold different parameters");
        check_survival(directory, p, &d, "different parameters");
    }
    failed(save_checkpoint(io, MPI_COMM_WORLD, in_home("nowhere"), p, &info, &d), LK_E_SYSTEM,
           "No such file or directory", "no directory");
    failed(save_checkpoint(io, MPI_COMM_WORLD, in_home("small/step-000007.h5"), p, &info, &d),
           LK_E_SYSTEM, "found a file", "a file for a directory");
    make_directory(in_home("small/step-000008.h5.part"));
    failed(save_checkpoint(io, MPI_COMM_WORLD, directory, p, &bad, &d), LK_E_SYSTEM,
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
    if (ranks == 8) {
        check_pairs();
        return io_tear_down();
    }
    check_beside();
    check_good_one_stays();
    check_round_trips();
    check_images();
    check_refusals();
    if (ranks == 1) {
        check_show();
    }
    return io_tear_down();
}
