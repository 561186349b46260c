#include "base/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- any file -------------------------------------------------------------------------------- */

static lk_status directory_of(const char *path, char **directory)
{
    const char *slash = strrchr(path, '/');
    *directory = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    return *directory ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

/* A mistyped output must not cost a dataset, a checkpoint or a log. */
static lk_status check_replaced(const char *path, const char *begins)
{
    char found[32];
    size_t length = strlen(begins), n;
    struct stat s;
    if (stat(path, &s) != 0 || !S_ISREG(s.st_mode) || s.st_size == 0) return LK_OK;
    FILE *f = fopen(path, "rb");
    n = f ? fread(found, 1, length, f) : 0;
    if (f) fclose(f);
    return n == length && memcmp(found, begins, length) == 0
               ? LK_OK
               : lk_fail(LK_E_INPUT, "%s: is there, and is no file of the kind that would replace "
                         "it; name another output, or move it away", path);
}

lk_status lk_replace_check(const char *path, const char *begins)
{
    char *directory;
    struct stat s;
    lk_status status = LK_OK;
    if (stat(path, &s) == 0 && S_ISDIR(s.st_mode))
        return lk_fail(LK_E_INPUT, "%s: cannot write a file: it is a directory; name another place",
                       path);
    if (begins) LK_TRY(check_replaced(path, begins));
    LK_TRY(directory_of(path, &directory));
    if (stat(directory, &s) == 0 && !S_ISDIR(s.st_mode)) errno = ENOTDIR;
    else errno = access(directory, W_OK | X_OK) == 0 ? 0 : errno;
    if (errno)
        status = lk_fail(lk_status_of_errno(errno), "%s: cannot write into %s: %s; name another "
                         "place", path, directory, strerror(errno));
    free(directory);
    return status;
}

lk_status lk_replace_part(const char *path, char **part)
{
    size_t length = strlen(path);
    char *name = malloc(length + sizeof ".part");
    if (!name) return lk_fail(LK_E_SYSTEM, "out of memory");
    memcpy(name, path, length);
    memcpy(name + length, ".part", sizeof ".part");
    *part = name;
    return LK_OK;
}

static lk_status lock_file(int fd, const char *part, bool *ours)
{
    struct stat held, named;
    if (fstat(fd, &held) != 0 || !S_ISREG(held.st_mode))
        return lk_fail(LK_E_INPUT, "%s: is in the way and is not a file; move it away", part);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return lk_fail(LK_E_INPUT, "%s: another process is writing it; wait for its end, or name "
                       "another output", part);
    /* who held it until now may have renamed or removed it */
    *ours = stat(part, &named) == 0 && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
    return LK_OK;
}

lk_status lk_replace_lock(const char *part, int *lock)
{
    for (bool ours = false;;) {
        int fd = open(part, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
        if (fd < 0)
            return lk_fail(lk_status_of_errno(errno), "%s: cannot create: %s; %s", part,
                           strerror(errno),
                           lk_advice_of_errno(errno, "name another output, or move away what is "
                                              "there"));
        lk_status status = lock_file(fd, part, &ours);
        if (status == LK_OK && ours) {
            *lock = fd;
            return LK_OK;
        }
        close(fd);
        LK_TRY(status);
    }
}

lk_status lk_replace_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot open: %s; %s", path, strerror(errno),
                       lk_advice_of_errno(errno, "check the path"));
    int bad = fsync(fd) != 0 && errno != EINVAL, error = errno; /* EINVAL: not on this system */
    close(fd);
    return bad ? lk_fail(LK_E_SYSTEM, "%s: fsync: %s; %s", path, strerror(error),
                         lk_advice_of_errno(error, "check the disk it lies on"))
               : LK_OK;
}

static int rename_new(const char *part, const char *path)
{
    if (renameat2(AT_FDCWD, part, AT_FDCWD, path, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    return link(part, path) == 0 ? unlink(part) : -1; /* NFS, Lustre */
}

static lk_status publish(const char *part, const char *path, bool replaces)
{
    char *directory;
    LK_TRY(lk_replace_sync(part));
    if ((replaces ? rename(part, path) : rename_new(part, path)) != 0)
        return errno == EEXIST && !replaces
                   ? lk_fail(LK_E_INPUT, "%s: was made by somebody else meanwhile; name another "
                             "output, or give --overwrite to replace it", path)
                   : lk_fail(LK_E_SYSTEM, "%s: cannot rename to %s: %s; %s", part, path,
                             strerror(errno),
                             lk_advice_of_errno(errno, "look at both names and their directory"));
    LK_TRY(directory_of(path, &directory));
    lk_status status = lk_replace_sync(directory);
    free(directory);
    return status;
}

lk_status lk_replace_publish(const char *part, const char *path)
{
    return publish(part, path, true);
}

lk_status lk_replace_publish_new(const char *part, const char *path)
{
    return publish(part, path, false);
}

/* ---- text ------------------------------------------------------------------------------------ */

static lk_status cannot(const lk_replace *r, int error)
{
    lk_status status = lk_status_of_errno(error);
    return lk_fail(status, "%s: cannot write %s: %s; %s", r->path, r->what, strerror(error),
                   lk_advice_of_errno(error, status == LK_E_INPUT
                                                 ? "name another place"
                                                 : "check the disk, and start again"));
}

static void release(lk_replace *r)
{
    free(r->path);
    free(r->part);
    *r = (lk_replace){.file = NULL};
}

/* A new file, whatever had the name: to open a pipe would wait for its reader. */
static lk_status make_part(lk_replace *r)
{
    if (unlink(r->part) != 0 && errno == EISDIR)
        return lk_fail(LK_E_INPUT, "%s: a directory is in the way of %s; move it away", r->part,
                       r->what);
    int fd = open(r->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return cannot(r, errno);
    r->file = fdopen(fd, "w");
    if (r->file) return LK_OK;
    int error = errno;
    close(fd);
    unlink(r->part);
    return cannot(r, error);
}

lk_status lk_replace_open(lk_replace *r, const char *path, const char *what, const char *begins)
{
    if (begins) LK_TRY(check_replaced(path, begins));
    lk_replace made = {.path = strdup(path), .what = what};
    lk_status status = made.path ? lk_replace_part(path, &made.part)
                                 : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) status = make_part(&made);
    if (status == LK_OK) *r = made;
    else release(&made);
    return status;
}

lk_status lk_replace_close(lk_replace *r, bool durable)
{
    lk_status status = LK_OK;
    errno = 0;
    if (fflush(r->file) != 0 || ferror(r->file)) status = cannot(r, errno ? errno : EIO);
    if (fclose(r->file) != 0 && status == LK_OK) status = cannot(r, errno);
    if (status == LK_OK && durable) status = lk_replace_publish(r->part, r->path);
    else if (status == LK_OK && rename(r->part, r->path) != 0) status = cannot(r, errno);
    if (status != LK_OK) unlink(r->part);
    release(r);
    return status;
}

void lk_replace_discard(lk_replace *r)
{
    if (!r->file) return;
    fclose(r->file);
    unlink(r->part);
    release(r);
}
