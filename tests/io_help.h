/* What the tests of io/ share: ranks, a directory of their own, expected failures. Every rank
 * checks, rank 0 prints. */
#ifndef LK_TESTS_IO_HELP_H
#define LK_TESTS_IO_HELP_H

#include "base/status.h"
#include "io/io.h"
#include "tests/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static lk_io *io;
static int rank, ranks;
static char home[200];

static inline bool all(bool mine)
{
    int good = mine, agreed = 0;
    MPI_Allreduce(&good, &agreed, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    return agreed;
}

/* A path in the directory of this test; the last 8 stay valid. */
__attribute__((format(printf, 1, 2))) static inline const char *in_home(const char *format, ...)
{
    static char path[8][512];
    static int turn;
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", home, name);
    return path[turn];
}

/* The call failed with this code, on one line with these words. */
static inline bool failed(lk_status status, lk_status code, const char *words, const char *what)
{
    const char *text = lk_error_text();
    bool good = status == code && strstr(text, words) && !strchr(text, '\n') && text[0];
    tap_ok(all(good), "%s: %s", what, text[0] ? text : "(no error)");
    if (!good && !tap_quiet) printf("# status %d, expected %d with '%s'\n", status, code, words);
    lk_error_clear();
    return good;
}

static inline bool worked(lk_status status, const char *what)
{
    bool good = all(status == LK_OK);
    tap_ok(good, "%s%s%s", what, status ? ": " : "", status ? lk_error_text() : "");
    lk_error_clear();
    return good;
}

static inline void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) {
        printf("Bail out! cannot write %s\n", path);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static inline char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    struct stat s;
    char *bytes = f && fstat(fileno(f), &s) == 0 ? malloc((size_t)s.st_size + 1) : NULL;
    if (!bytes || fread(bytes, 1, (size_t)s.st_size, f) != (size_t)s.st_size) {
        printf("Bail out! cannot read %s\n", path);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    bytes[s.st_size] = '\0';
    *n = (size_t)s.st_size;
    fclose(f);
    return bytes;
}

static inline bool exists(const char *path)
{
    struct stat s;
    return lstat(path, &s) == 0;
}

/* A full disk: after `writes_left` more writes all fail with ENOSPC; negative: there is room. The
 * libraries reach these in place of those of libc. */
static long writes_left = -1;

static inline bool disk_is_full(void)
{
    if (writes_left < 0) return false;
    if (writes_left > 0) {
        writes_left--;
        return false;
    }
    errno = ENOSPC;
    return true;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    return disk_is_full() ? -1 : syscall(SYS_pwrite64, fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) { return pwrite(fd, bytes, n, at); }

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    return disk_is_full() ? -1 : syscall(SYS_pwritev, fd, v, n, at, 0);
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return pwritev(fd, v, n, at); }

/* The next `opens_left` openings for reading of a path that ends in `opens_of` fail with
 * `opens_error`. */
static int opens_left, opens_error;
static const char *opens_of;

static inline int open_anyhow(const char *path, int flags, mode_t mode)
{
    const char *found = opens_of && opens_left > 0 ? strstr(path, opens_of) : NULL;
    if (found && strcmp(found, opens_of) == 0) {
        opens_left--;
        errno = opens_error;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_anyhow(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_anyhow(path, flags, mode);
}

static inline void io_set_up(int *argc, char ***argv)
{
    int provided;
    MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    tap_quiet = rank != 0;
    const char *tmp = getenv("TMPDIR");
    snprintf(home, sizeof home, "%s/lockstep-io-XXXXXX", tmp ? tmp : "/tmp");
    bool good = rank != 0 || mkdtemp(home);
    MPI_Bcast(home, sizeof home, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (!all(good && provided == MPI_THREAD_MULTIPLE && lk_io_open(&io) == LK_OK)) {
        printf("Bail out! cannot start in %s: %s\n", home, lk_error_text());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static inline int io_remove(const char *path, const struct stat *s, int type, struct FTW *walk)
{
    (void)s;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline int io_tear_down(void)
{
    lk_io_close(io);
    all(true);
    if (rank == 0) nftw(home, io_remove, 16, FTW_DEPTH | FTW_PHYS);
    MPI_Finalize();
    return tap_done();
}

#endif
