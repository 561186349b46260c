/* bench/io DIRECTORY [MIB [ROUNDS]]
 *
 * Time saving and loading a checkpoint of about MIB MiB (default 1024) in DIRECTORY, beside the
 * disk's own speed: the same number of bytes written to one file by plain pwrite() from the same
 * ranks, synced, and read back. Under mpirun on any number of ranks. Every read is made after the
 * pages of the file were given back, so it is of the disk where the system heeds that (a RAM disk
 * has nothing else). Prints the median of ROUNDS (default 3).
 *
 *   snapshot   what training waits for: device to pinned memory
 *   save       written, synced, read back, renamed; the bytes of the file over the whole time
 *   load       read, digests compared, broadcast to all ranks */
#include "base/clock.h"
#include "bench/command.h"
#include "io/checkpoint.h"
#include "train/session.h"
#include "version.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 8 << 20, MOST_MIB = 1 << 20, MOST_ROUNDS = 99, TENSORS = 24, GROUPS = 3 };

typedef enum figure { RAW_WRITE, RAW_READ, SNAPSHOT, SAVE, READ_BACK, LOAD, FIGURES } figure;

typedef struct bench {
    lk_comm *comm;
    lk_io *io;
    lk_device *device;
    lk_params *params;
    lk_store *store;
    lk_checkpoint_snapshot *snapshot;
    lk_flat flat;
    const char *directory;
    char raw[4096];
    size_t bytes; /* of this rank's share of the raw file */
    int rounds;
    double seconds[FIGURES][MOST_ROUNDS];
    uint64_t file_bytes;
} bench;

static lk_status failed(const char *what, const char *path)
{
    return lk_fail(LK_E_SYSTEM, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* The pages of a file that is on the disk. */
static lk_status forget(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return failed("open", path);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return LK_OK;
}

/* This rank's part, one block after the other. */
static lk_status move(const bench *b, int fd, char *block, bool write)
{
    off_t first = (off_t)b->bytes * b->comm->rank;
    for (size_t done = 0; done < b->bytes;) {
        size_t want = b->bytes - done < BLOCK ? b->bytes - done : BLOCK;
        ssize_t n = write ? pwrite(fd, block, want, first + (off_t)done)
                          : pread(fd, block, want, first + (off_t)done);
        if (n <= 0) return failed(write ? "write" : "read", b->raw);
        done += (size_t)n;
    }
    return write && fsync(fd) != 0 ? failed("sync", b->raw) : LK_OK;
}

static lk_status time_raw(bench *b, bool write, double *seconds)
{
    char *block = malloc(BLOCK);
    int fd = open(b->raw, write ? O_WRONLY | O_CREAT | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0666);
    lk_status status = block ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK && fd < 0) status = failed("open", b->raw);
    for (int i = 0; block && i < BLOCK; i++) block[i] = (char)(i * 7 + i / 4099);
    LK_TRY(lk_comm_agree(b->comm, status));
    double begun = lk_clock_seconds();
    status = lk_comm_agree(b->comm, move(b, fd, block, write));
    *seconds = lk_clock_seconds() - begun;
    close(fd);
    free(block);
    return status;
}

static lk_status raw_round(bench *b, int round)
{
    if (b->comm->rank == 0) unlink(b->raw);
    LK_TRY(lk_comm_agree(b->comm, LK_OK));
    LK_TRY(time_raw(b, true, &b->seconds[RAW_WRITE][round]));
    LK_TRY(lk_comm_agree(b->comm, forget(b->raw)));
    LK_TRY(time_raw(b, false, &b->seconds[RAW_READ][round]));
    if (b->comm->rank == 0) unlink(b->raw);
    return lk_comm_agree(b->comm, LK_OK);
}

static lk_checkpoint_info some_info(void)
{
    static uint32_t letter = 'a';
    return (lk_checkpoint_info){
        .state = {.step = 1, .loss_scale = 1},
        .leaves = 1,
        .run_file = (char *)"",
        .choices = (char *)"",
        .code_version = (char *)LK_CODE_VERSION,
        .build = (char *)LK_BUILD,
        .dataset_path = (char *)"",
        .dataset_digest = (char *)"00000000000000000000000000000000",
        .characters = true,
        .vocabulary = &letter,
        .vocabulary_size = 1,
    };
}

static lk_status save_round(bench *b, int round)
{
    lk_checkpoint_info info = some_info();
    lk_checkpoint_figures f;
    char spoilt[LK_CHECKPOINT_SPOILT];
    double begun = lk_clock_seconds();
    lk_status status = lk_checkpoint_snapshot_begin(b->snapshot, &info, LK_CHECKPOINT_NONE, spoilt);
    if (status == LK_OK && spoilt[0]) status = lk_fail(LK_E_INTERNAL, "'%s' is not finite", spoilt);
    LK_TRY(lk_comm_agree(b->comm, status));
    b->seconds[SNAPSHOT][round] = lk_clock_seconds() - begun;
    LK_TRY(lk_checkpoint_snapshot_wait(b->snapshot, &f));
    b->seconds[SAVE][round] = f.seconds;
    b->seconds[READ_BACK][round] = f.read_seconds;
    b->file_bytes = f.bytes;
    LK_TRY(lk_comm_agree(b->comm, forget(f.path)));
    begun = lk_clock_seconds();
    LK_TRY(lk_checkpoint_load(b->io, b->comm->world, f.path, b->params, &b->flat));
    b->seconds[LOAD][round] = lk_clock_seconds() - begun;
    if (b->comm->rank == 0) unlink(f.path);
    return lk_comm_agree(b->comm, LK_OK);
}

/* Shapes as of a transformer: some large ones and as many biases. */
static lk_status declare(bench *b, int64_t floats)
{
    char name[40];
    b->params = lk_params_create();
    lk_graph *g = b->params ? lk_graph_create(b->params, false) : NULL;
    if (!g) return lk_fail(LK_E_SYSTEM, "out of memory");
    int64_t rows = floats / TENSORS / 1024 > 0 ? floats / TENSORS / 1024 : 1, width = 1024;
    for (int i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "blocks.%d.weight", i);
        lk_parameter(g, name, 2, (int64_t[]){rows, width}, LK_INIT_NORMAL, 1, true);
        snprintf(name, sizeof name, "blocks.%d.bias", i);
        lk_parameter(g, name, 1, &width, LK_INIT_ONE, 0, false);
    }
    lk_status status = lk_graph_status(g);
    lk_graph_destroy(g);
    lk_params_layout(b->params);
    return status;
}

static lk_status set_up(bench *b, int64_t mib)
{
    LK_TRY(lk_io_open(&b->io));
    LK_TRY(lk_session_device(b->comm, "auto", LK_FP32, &b->device));
    LK_TRY(declare(b, mib * (1 << 20) / (int64_t)sizeof(float) / GROUPS));
    size_t bytes = (size_t)b->params->total * sizeof(float);
    b->bytes = bytes * GROUPS / (size_t)b->comm->size;
    b->flat = (lk_flat){.param = malloc(bytes), .moment1 = malloc(bytes), .moment2 = malloc(bytes)};
    if (!b->flat.param || !b->flat.moment1 || !b->flat.moment2)
        return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_params_initialise(b->params, 1, b->flat.param);
    memcpy(b->flat.moment1, b->flat.param, bytes);
    memcpy(b->flat.moment2, b->flat.param, bytes);
    lk_store_options o = {.compute = LK_F32, .training = true, .local_leaves = 1};
    LK_TRY(lk_store_create(b->device, b->params, &o, &b->store));
    return lk_store_set(b->store, &b->flat);
}

static void print(bench *b)
{
    static const char *const name[FIGURES] = {"disk: write and sync", "disk: read", "snapshot",
                                              "save", "  of this, reading back", "load"};
    char device[200];
    double raw = (double)b->bytes * b->comm->size;
    b->device->backend->describe(b->device, device, sizeof device);
    printf("%.1f MiB, %d rank%s, %s, median of %d\n", (double)b->file_bytes / 0x1p20,
           b->comm->size, b->comm->size == 1 ? "" : "s", device, b->rounds);
    printf("%-24s %10s %10s\n", "", "s", "MiB/s");
    for (int i = 0; i < FIGURES; i++) {
        qsort(b->seconds[i], (size_t)b->rounds, sizeof(double), bench_by_value);
        double s = b->seconds[i][b->rounds / 2];
        printf("%-24s %10.3f %10.1f\n", name[i], s,
               (i <= RAW_READ ? raw : (double)b->file_bytes) / 0x1p20 / s);
    }
}

static lk_status run(bench *b, int64_t mib)
{
    LK_TRY(lk_comm_agree(b->comm, set_up(b, mib)));
    LK_TRY(lk_checkpoint_snapshot_open(b->io, b->comm->world, b->directory,
                                       (lk_checkpoint_keep){0, 0}, b->store, &b->snapshot));
    for (int i = 0; i < b->rounds; i++) {
        LK_TRY(raw_round(b, i));
        LK_TRY(save_round(b, i));
    }
    char latest[4200];
    snprintf(latest, sizeof latest, "%s/latest", b->directory);
    if (b->comm->rank == 0) unlink(latest);
    if (b->comm->rank == 0) print(b);
    return LK_OK;
}

static void close_all(bench *b)
{
    lk_checkpoint_snapshot_close(b->snapshot);
    lk_store_destroy(b->store);
    lk_params_destroy(b->params);
    free(b->flat.param);
    free(b->flat.moment1);
    free(b->flat.moment2);
    lk_session_device_close(b->device);
    lk_io_close(b->io);
}

static lk_status parse(int argc, char **argv, bench *b, int64_t *mib)
{
    int64_t rounds = 3;
    *mib = 1024;
    if (argc < 2 || argc > 4)
        return lk_fail(LK_E_INPUT, "expected 1 to 3 arguments, found %d; usage: io DIRECTORY [MIB "
                       "[ROUNDS]]", argc - 1);
    if (argc > 2) LK_TRY(bench_number("MIB", argv[2], 1, MOST_MIB, mib));
    if (argc > 3) LK_TRY(bench_number("ROUNDS", argv[3], 1, MOST_ROUNDS, &rounds));
    b->directory = argv[1];
    b->rounds = (int)rounds;
    snprintf(b->raw, sizeof b->raw, "%s/lockstep-bench-io.raw", argv[1]);
    return LK_OK;
}

int main(int argc, char **argv)
{
    static bench b;
    int64_t mib;
    if (argc > 1 && bench_is_help(argv[1])) {
        puts("usage: io DIRECTORY [MIB [ROUNDS]]\n\nTimes saving and loading a checkpoint of MIB "
             "(1024) in DIRECTORY, ROUNDS (3) times, beside\nthe disk's own speed. Under mpirun on "
             "all ranks. bench/io.c says more.");
        return LK_OK;
    }
    lk_status status = lk_comm_open(&b.comm);
    if (status == LK_OK) status = parse(argc, argv, &b, &mib);
    if (b.comm) status = lk_comm_agree(b.comm, status);
    if (status == LK_OK) status = run(&b, mib);
    if (status != LK_OK) bench_failed("io", b.comm, status);
    close_all(&b);
    lk_comm_close(b.comm);
    return (int)status;
}
