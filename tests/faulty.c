/* A disk that fails, for LD_PRELOAD: writes to some files, or reads of them, fail after some that
 * went well.
 *
 *   FAULT_FILE   how the file's path ends (MPI names files of its own after it): a pattern as of
 *                the shell, whose * matches slashes too
 *   FAULT_AFTER  writes to such files (reads, openings) that go well first
 *   FAULT_KIND   eio: then every write fails with EIO; enospc: with ENOSPC; short: one write stores
 *                half, as a full disk does, then ENOSPC; torn: one write says that it stored all
 *                and stored half; sync: no write fails, but every fsync does, with FAULT_ERRNO;
 *                blank: no write fails, but every fsync leaves zeros at the file's begin;
 *                full: there are no blocks to reserve; unknown: the file system cannot reserve
 *                any, after which writes fail with ENOSPC; hang: writes never return;
 *                stuck: as eio, and then the main thread does not wake from a short sleep;
 *                make, open, read: openings for writing fail, openings for reading (of folders
 *                too), or reads, FAULT_TIMES of them, or all that follow; stat: asking what it is
 *                fails so; stall: openings never return; deaf: nor do reads; rename: renaming to
 *                such a name fails
 *   FAULT_ERRNO  of sync, make, open, read, stat and rename, a number; EIO if there is none
 *   FAULT_CALL   MPI_Init_thread or MPI_Finalize: it never returns, whatever the file
 *   FAULT_RANK   of Open MPI's ranks only this one
 *   FAULT_LOG    file that gets a line when a fault strikes */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long writes, reads;

static bool is(const char *name, const char *value)
{
    const char *found = getenv(name);
    return found && strcmp(found, value) == 0;
}

static long number(const char *name, long otherwise)
{
    const char *found = getenv(name);
    return found ? atol(found) : otherwise;
}

static bool meant_rank(void)
{
    const char *rank = getenv("FAULT_RANK"), *mine = getenv("OMPI_COMM_WORLD_RANK");
    return !rank || (mine && strcmp(rank, mine) == 0);
}

static bool meant_path(const char *path)
{
    char pattern[4096];
    const char *end = getenv("FAULT_FILE");
    if (!end || !meant_rank()) return false;
    snprintf(pattern, sizeof pattern, "*%s", end);
    return fnmatch(pattern, path, 0) == 0;
}

static bool meant(int fd)
{
    char link[64], path[4096];
    if (!getenv("FAULT_FILE")) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return false;
    path[n] = '\0';
    return meant_path(path);
}

static void tell(void)
{
    const char *path = getenv("FAULT_LOG");
    int flags = O_WRONLY | O_APPEND | O_CREAT;
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0666) : -1;
    if (fd < 0) return;
    syscall(SYS_write, fd, "struck\n", 7);
    close(fd);
}

static void stall(void)
{
    tell();
    for (;;) pause();
}

enum { GOOD, FAIL, HALF, TORN };

/* A write that the system never finishes: to a pipe that nobody reads. */
static void hang(void)
{
    static char bytes[1 << 20];
    int end[2];
    if (pipe(end) != 0) abort();
    for (;;) syscall(SYS_write, end[1], bytes, sizeof bytes);
}

/* What becomes of this write; errno is set for FAIL. */
static int fate(int fd)
{
    if (!meant(fd) || is("FAULT_KIND", "sync") || is("FAULT_KIND", "blank") ||
        is("FAULT_KIND", "full") || is("FAULT_KIND", "make") || is("FAULT_KIND", "open") ||
        is("FAULT_KIND", "read") || is("FAULT_KIND", "deaf") || is("FAULT_KIND", "rename") ||
        is("FAULT_KIND", "stat"))
        return GOOD;
    pthread_mutex_lock(&lock);
    long turn = writes++ - number("FAULT_AFTER", 0);
    pthread_mutex_unlock(&lock);
    if (turn < 0) return GOOD;
    if (turn == 0) tell();
    if (is("FAULT_KIND", "hang")) hang();
    if (is("FAULT_KIND", "torn")) return turn == 0 ? TORN : GOOD;
    if (is("FAULT_KIND", "short") && turn == 0) return HALF;
    errno = is("FAULT_KIND", "eio") || is("FAULT_KIND", "stuck") ? EIO : ENOSPC;
    return FAIL;
}

int nanosleep(const struct timespec *t, struct timespec *left)
{
    pthread_mutex_lock(&lock);
    bool stuck = is("FAULT_KIND", "stuck") && writes > number("FAULT_AFTER", 0);
    pthread_mutex_unlock(&lock);
    while (stuck && getpid() == syscall(SYS_gettid)) pause();
    int error = clock_nanosleep(CLOCK_REALTIME, 0, t, left);
    if (error) errno = error;
    return error ? -1 : 0;
}

/* at < 0: where the file stands. */
static ssize_t put(int fd, const void *bytes, size_t n, off_t at)
{
    return at < 0 ? syscall(SYS_write, fd, bytes, n) : syscall(SYS_pwrite64, fd, bytes, n, at);
}

static ssize_t put_faulty(int fd, const void *bytes, size_t n, off_t at)
{
    switch (fate(fd)) {
    case FAIL: return -1;
    case HALF: return put(fd, bytes, n > 1 ? n / 2 : n, at);
    case TORN: {
        ssize_t stored = put(fd, bytes, n / 2, at);
        if (at < 0 && stored >= 0) lseek(fd, (off_t)(n - n / 2), SEEK_CUR);
        return (ssize_t)n;
    }
    default: return put(fd, bytes, n, at);
    }
}

static ssize_t putv_faulty(int fd, const struct iovec *v, int count, off_t at)
{
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t n = put_faulty(fd, v[i].iov_base, v[i].iov_len, at < 0 ? at : at + total);
        if (n < 0) return total > 0 ? total : n;
        total += n;
        if ((size_t)n < v[i].iov_len) break;
    }
    return total;
}

ssize_t write(int fd, const void *bytes, size_t n) { return put_faulty(fd, bytes, n, -1); }

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    return put_faulty(fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at)
{
    return put_faulty(fd, bytes, n, at);
}

ssize_t writev(int fd, const struct iovec *v, int n) { return putv_faulty(fd, v, n, -1); }

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    return putv_faulty(fd, v, n, at);
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at)
{
    return putv_faulty(fd, v, n, at);
}

int fsync(int fd)
{
    static const char zeros[16];
    bool fails = is("FAULT_KIND", "sync");
    if ((!fails && !is("FAULT_KIND", "blank")) || !meant(fd)) return (int)syscall(SYS_fsync, fd);
    tell();
    if (!fails) {
        syscall(SYS_pwrite64, fd, zeros, sizeof zeros, 0);
        return (int)syscall(SYS_fsync, fd);
    }
    errno = (int)number("FAULT_ERRNO", EIO);
    return -1;
}

int fallocate64(int fd, int mode, off_t at, off_t n)
{
    bool full = is("FAULT_KIND", "full");
    if (!meant(fd) || (!full && !is("FAULT_KIND", "unknown")))
        return (int)syscall(SYS_fallocate, fd, mode, at, n);
    if (full) tell();
    errno = full ? ENOSPC : EOPNOTSUPP;
    return -1;
}

int fallocate(int fd, int mode, off_t at, off_t n) { return fallocate64(fd, mode, at, n); }

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether this opening or read of a file that is meant fails; errno is set. */
static bool refused(const char *kind)
{
    if (!is("FAULT_KIND", kind)) return false;
    pthread_mutex_lock(&lock);
    long turn = reads++ - number("FAULT_AFTER", 0);
    pthread_mutex_unlock(&lock);
    if (turn < 0 || turn >= number("FAULT_TIMES", 1L << 40)) return false;
    tell();
    errno = (int)number("FAULT_ERRNO", EIO);
    return true;
}

static bool read_refused(int fd)
{
    if (is("FAULT_KIND", "deaf") && meant(fd) && refused("deaf")) stall();
    return is("FAULT_KIND", "read") && meant(fd) && refused("read");
}

ssize_t read(int fd, void *bytes, size_t n)
{
    return read_refused(fd) ? -1 : syscall(SYS_read, fd, bytes, n);
}

ssize_t pread(int fd, void *bytes, size_t n, off_t at)
{
    return read_refused(fd) ? -1 : syscall(SYS_pread64, fd, bytes, n, at);
}

ssize_t pread64(int fd, void *bytes, size_t n, off_t at) { return pread(fd, bytes, n, at); }

/* stdio reads past read(): it finds a folder in the file's place, which cannot be read either. */
size_t fread(void *to, size_t size, size_t n, FILE *f)
{
    int fd = fileno(f);
    if (!read_refused(fd)) return fread_unlocked(to, size, n, f);
    int error = errno, file = dup(fd), folder = open("/", O_RDONLY | O_CLOEXEC);
    if (file < 0 || folder < 0 || dup2(folder, fd) < 0) abort();
    size_t got = fread_unlocked(to, size, n, f);
    if (dup2(file, fd) < 0) abort();
    close(file);
    close(folder);
    errno = error;
    return got;
}

int stat(const char *path, struct stat *s)
{
    if (meant_path(path) && refused("stat")) return -1;
    return fstatat(AT_FDCWD, path, s, 0);
}

DIR *opendir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? NULL : fdopendir(fd);
}

int rename(const char *from, const char *to)
{
    if (meant_path(to) && refused("rename")) return -1;
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static int open_faulty(const char *path, int flags, mode_t mode)
{
    const char *kind = (flags & O_ACCMODE) == O_RDONLY ? "open" : "make";
    if (meant_path(path) && refused(kind)) return -1;
    if (meant_path(path) && is("FAULT_KIND", "stall")) stall();
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_faulty(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_faulty(path, flags, mode);
}

/* ---- MPI, of programs that have it ----------------------------------------------------------- */

int PMPI_Init_thread(int *argc, char ***argv, int required, int *provided) __attribute__((weak));
int PMPI_Finalize(void) __attribute__((weak));
int MPI_Init_thread(int *argc, char ***argv, int required, int *provided);
int MPI_Finalize(void);

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    if (is("FAULT_CALL", "MPI_Init_thread") && meant_rank()) stall();
    return PMPI_Init_thread(argc, argv, required, provided);
}

int MPI_Finalize(void)
{
    if (is("FAULT_CALL", "MPI_Finalize") && meant_rank()) stall();
    return PMPI_Finalize();
}
