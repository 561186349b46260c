#include "io/probe.h"

#include "base/clock.h"
#include "io/hdf5.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statfs.h>
#include <unistd.h>

/* ---- HDF5 ------------------------------------------------------------------------------------ */

/* H5get_libversion and H5Zfilter_avail are plain functions; most other names are macros that
 * compare versions first. */
static lk_status hdf5_facts(void *argument)
{
    char version[48] = "?", header[48];
    unsigned major = 0, minor = 0, release = 0;
    Dl_info info = {0};
    if (H5get_libversion(&major, &minor, &release) >= 0)
        snprintf(version, sizeof version, "%u.%u.%u", major, minor, release);
    snprintf(header, sizeof header, "%d.%d.%d", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
    dladdr((void *)H5get_libversion, &info);
    char *full = info.dli_fname ? realpath(info.dli_fname, NULL) : NULL;
    json_t *facts = json_pack(
        "{s:s, s:s, s:s, s:b, s:b, s:b, s:b}", "version", version, "header", header, "path",
        full ? full : "?", "parallel", dlsym(RTLD_DEFAULT, "H5Pset_fapl_mpio") != NULL, "deflate",
        H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0, "shuffle",
        H5Zfilter_avail(H5Z_FILTER_SHUFFLE) > 0, "fletcher32",
        H5Zfilter_avail(H5Z_FILTER_FLETCHER32) > 0);
    free(full);
    *(json_t **)argument = facts;
    return facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of HDF5");
}

lk_status lk_hdf5_facts(lk_io *io, json_t **facts) { return lk_io_call(io, hdf5_facts, facts); }

/* ---- a directory ----------------------------------------------------------------------------- */

enum { PIECE = 4 << 20 };

static const char *type_name(long magic)
{
    static const struct {
        unsigned magic;
        const char *name;
    } known[] = {{0xEF53, "ext4"},       {0x58465342, "xfs"},     {0x9123683E, "btrfs"},
                 {0x2FC12FC1, "zfs"},    {0x01021994, "tmpfs"},   {0x794C7630, "overlay"},
                 {0x6969, "nfs"},        {0x0BD00BD0, "lustre"},  {0x47504653, "gpfs"},
                 {0x19830326, "beegfs"}, {0x00C36400, "ceph"},    {0xAAD7AAEA, "panfs"},
                 {0xFF534D42, "cifs"},   {0x65735546, "fuse"},    {0x01021997, "9p"},
                 {0xF2F52010, "f2fs"},   {0xFE534D42, "smb2"},    {0x858458F6, "ramfs"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].magic == (unsigned)magic) return known[i].name;
    return "other";
}

typedef struct trial {
    int file;
    char *piece, *back; /* PIECE bytes each */
    double bytes, budget;
    double done, write, read;
    char error[256];
} trial;

static bool fails(trial *t, const char *what)
{
    snprintf(t->error, sizeof t->error, "cannot %s: %s", what, strerror(errno));
    return false;
}

/* A file without a name; where the file system has none of that kind, one that loses its name. */
static bool make_file(trial *t, const char *directory)
{
    t->file = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (t->file >= 0) return true;
    char name[4096];
    snprintf(name, sizeof name, "%s/.lockstep-doctor-XXXXXX", directory);
    t->file = mkostemp(name, O_CLOEXEC);
    if (t->file < 0) return fails(t, "make a file");
    unlink(name);
    return true;
}

static bool write_all(trial *t)
{
    double begin = lk_clock_seconds();
    while (t->done < t->bytes && lk_clock_seconds() - begin < t->budget) {
        ssize_t n = write(t->file, t->piece, PIECE);
        if (n != PIECE) { /* a piece at a time, so that it can be compared; short: no space */
            if (n >= 0) errno = ENOSPC;
            return fails(t, "write");
        }
        t->done += PIECE;
    }
    if (fsync(t->file) != 0) return fails(t, "sync");
    t->write = t->done / (lk_clock_seconds() - begin);
    return true;
}

static bool read_all(trial *t)
{
    posix_fadvise(t->file, 0, 0, POSIX_FADV_DONTNEED);
    double begin = lk_clock_seconds(), done = 0;
    while (done < t->done && lk_clock_seconds() - begin < t->budget) {
        ssize_t n = pread(t->file, t->back, PIECE, (off_t)done);
        if (n != PIECE) {
            if (n >= 0) errno = EIO;
            return fails(t, "read back");
        }
        if (memcmp(t->back, t->piece, PIECE) != 0) {
            snprintf(t->error, sizeof t->error, "read back other bytes than were written");
            return false;
        }
        done += PIECE;
    }
    t->read = done / (lk_clock_seconds() - begin);
    return true;
}

/* Bytes that no file system compresses away. */
static void fill(char *piece)
{
    uint64_t x = 88172645463325252u; /* xorshift64; G. Marsaglia, "Xorshift RNGs", 2003 */
    for (size_t i = 0; i < PIECE; i += sizeof x) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(piece + i, &x, sizeof x);
    }
}

static lk_status try_directory(trial *t, const char *directory)
{
    t->piece = malloc(PIECE);
    t->back = malloc(PIECE);
    if (!t->piece || !t->back) return lk_fail(LK_E_SYSTEM, "out of memory for a piece of a file");
    if (!make_file(t, directory)) return LK_OK;
    if (flock(t->file, LOCK_EX | LOCK_NB) != 0) {
        fails(t, "lock a file");
        return LK_OK;
    }
    if (t->bytes <= 0) return LK_OK;
    fill(t->piece);
    if (write_all(t)) read_all(t);
    return LK_OK;
}

static json_t *positive(double x) { return x > 0 ? json_real(x) : json_null(); }

lk_status lk_directory_facts(const char *directory, double bytes, double budget, json_t **facts)
{
    struct statfs s = {0};
    trial t = {.file = -1, .bytes = bytes, .budget = budget};
    lk_status status = LK_OK;
    if (statfs(directory, &s) != 0)
        fails(&t, "look at it");
    else
        status = try_directory(&t, directory);
    if (t.file >= 0) close(t.file);
    free(t.piece);
    free(t.back);
    LK_TRY(status);
    char *full = realpath(directory, NULL);
    json_t *path = json_string(full ? full : directory);
    *facts = json_pack("{s:o, s:s, s:o, s:o, s:o, s:s?}", "path", path ? path : json_string("?"),
                       "type", type_name((long)s.f_type), "free",
                       positive((double)s.f_bavail * (double)s.f_bsize), "write", positive(t.write),
                       "read", positive(t.read), "error", t.error[0] ? t.error : NULL);
    free(full);
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of a directory");
}
