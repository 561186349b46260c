/* A driver for HDF5 that only reads, and is patient with the disk. */
#include "io/hdf5_driver.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- patience -------------------------------------------------------------------------------- */

enum { TRIES = 6, FIRST_PAUSE = 100 }; /* ms, then twice as long each time: 3.1 s in all */
enum { SHOWN = 199 };                  /* of a path in a note */

static _Thread_local char note[400];
static _Thread_local int refused; /* errno */

const char *lk_h5_note(const char *path)
{
    size_t n = strnlen(path, SHOWN);
    return strncmp(note, path, n) == 0 && note[n] == ':' ? note : "";
}

int lk_h5_driver_error(void) { return refused; }

void lk_h5_driver_reset(void)
{
    note[0] = '\0';
    refused = 0;
}

/* Errors of a network file system, or of a machine that is short of something, that often pass. */
static bool may_pass(int error)
{
    static const int passing[] = {EINTR,  EAGAIN,    EIO,       ESTALE,     ETIMEDOUT,
                                  EBUSY,  ENFILE,    EMFILE,    EHOSTDOWN,  EHOSTUNREACH,
                                  ENOMEM, ECONNRESET, ENOTCONN, EREMOTEIO};
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++)
        if (error == passing[i]) return true;
    return false;
}

/* What one opening, or one read, met with. */
typedef struct trouble {
    int failures, error; /* the last one's errno */
    double begun;        /* the first */
} trouble;

/* After a failed system call: whether to make it again, after a pause. */
static bool again(trouble *t, int error)
{
    if (t->failures++ == 0) t->begun = lk_clock_seconds();
    t->error = error;
    if (!may_pass(error) || t->failures == TRIES) {
        refused = error;
        return false;
    }
    int pause = FIRST_PAUSE << (t->failures - 1);
    nanosleep(&(struct timespec){pause / 1000, pause % 1000 * 1000000L}, NULL);
    return true;
}

/* After one that worked: note what it took. */
static void worked(const trouble *t, const char *path, const char *what)
{
    if (t->failures == 0) return;
    snprintf(note, sizeof note, "%.*s: %s failed (%.80s), tried again %d time%s in %.1f s, then it "
             "worked", SHOWN, path, what, strerror(t->error), t->failures,
             t->failures == 1 ? "" : "s", lk_clock_seconds() - t->begun);
}

int lk_h5_driver_file(const char *path, struct stat *s)
{
    trouble t = {0};
    for (;;) {
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0 && fstat(fd, s) == 0) {
            worked(&t, path, "open");
            return fd;
        }
        int error = errno;
        if (fd >= 0) close(fd);
        if (!again(&t, error)) return -1;
    }
}

bool lk_h5_driver_read(int fd, const char *path, void *bytes, size_t size, uint64_t at,
                       size_t *count)
{
    size_t done = 0;
    trouble t = {0};
    while (done < size) {
        ssize_t n = pread(fd, (char *)bytes + done, size - done, (off_t)(at + done));
        if (n == 0) break;
        if (n > 0) done += (size_t)n;
        else if (!again(&t, errno)) return false;
    }
    worked(&t, path, "read");
    *count = done;
    return true;
}

lk_status lk_h5_driver_fail(const char *format, ...)
{
    char message[1024];
    int error = refused;
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    refused = 0;
    if (!may_pass(error)) return lk_fail(LK_E_SYSTEM, "%s: %s", message, strerror(error));
    return lk_fail(LK_E_SYSTEM, "%s: %s; tried %d times in 3 s", message, strerror(error), TRIES);
}

/* ---- the driver ------------------------------------------------------------------------------ */

typedef struct file {
    H5FD_t base; /* HDF5's, first */
    int fd;
    haddr_t eoa, eof; /* what HDF5 thinks to be the end, and what is */
    dev_t device;
    ino_t inode;
    char path[SHOWN + 1]; /* for notes */
} file;

static H5FD_t *open_file(const char *name, unsigned flags, hid_t fapl, haddr_t most)
{
    (void)fapl;
    (void)most;
    struct stat s;
    if (flags & (H5F_ACC_RDWR | H5F_ACC_CREAT | H5F_ACC_TRUNC)) return NULL;
    file *f = calloc(1, sizeof *f);
    if (!f) refused = ENOMEM;
    if (!f) return NULL;
    f->fd = lk_h5_driver_file(name, &s);
    if (f->fd < 0) {
        free(f);
        return NULL;
    }
    f->eof = (haddr_t)s.st_size;
    f->device = s.st_dev;
    f->inode = s.st_ino;
    snprintf(f->path, sizeof f->path, "%s", name);
    return &f->base;
}

static herr_t close_file(H5FD_t *base)
{
    file *f = (file *)base;
    close(f->fd); /* read only: nothing to lose */
    free(f);
    return 0;
}

/* So that HDF5 knows a file that it has open already. */
static int compare(const H5FD_t *a, const H5FD_t *b)
{
    const file *x = (const file *)a, *y = (const file *)b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    return x->inode == y->inode ? 0 : x->inode < y->inode ? -1 : 1;
}

static herr_t query(const H5FD_t *base, unsigned long *flags)
{
    (void)base;
    *flags = H5FD_FEAT_ACCUMULATE_METADATA_READ | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    return 0;
}

static haddr_t get_eoa(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const file *)base)->eoa;
}

static herr_t set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t at)
{
    (void)type;
    ((file *)base)->eoa = at;
    return 0;
}

static haddr_t get_eof(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const file *)base)->eof;
}

/* Behind the end there are zeros, as HDF5's own drivers have it. */
static herr_t read_bytes(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t size,
                         void *bytes)
{
    (void)type;
    (void)transfer;
    const file *f = (const file *)base;
    size_t count = 0;
    if (at > (haddr_t)INT64_MAX - size) return -1;
    if (!lk_h5_driver_read(f->fd, f->path, bytes, size, at, &count)) return -1;
    memset((char *)bytes + count, 0, size - count);
    return 0;
}

static herr_t write_bytes(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t size,
                          const void *bytes)
{
    (void)base;
    (void)type;
    (void)transfer;
    (void)at;
    (void)size;
    (void)bytes;
    return -1; /* files are opened to be read only */
}

static const H5FD_class_t driver = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)600, /* of those that nobody has registered */
#endif
    .name = "lockstep",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .open = open_file,
    .close = close_file,
    .cmp = compare,
    .query = query,
    .get_eoa = get_eoa,
    .set_eoa = set_eoa,
    .get_eof = get_eof,
    .read = read_bytes,
    .write = write_bytes,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

lk_status lk_h5_driver_list(const char *path, hid_t *list)
{
    static hid_t id = -1; /* for as long as the process lives */
    LK_H5_AUTO hid_t fapl = -1;
    if (id < 0) LK_H5(LK_E_SYSTEM, id = H5FDregister(&driver), "HDF5: cannot take a driver");
    LK_H5(LK_E_SYSTEM, fapl = H5Pcreate(H5P_FILE_ACCESS), "%s: access list", path);
    LK_H5(LK_E_SYSTEM, H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG), "%s: access list", path);
    LK_H5(LK_E_SYSTEM, H5Pset_driver(fapl, id, NULL), "%s: access list", path);
    *list = fapl;
    fapl = -1;
    return LK_OK;
}
