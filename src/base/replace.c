#include "base/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- any file -------------------------------------------------------------------------------- */

static lk_status directory_of(const char *path, char **directory)
{
    const char *slash = strrchr(path, '/');
    *directory = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    return *directory ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

lk_status lk_replace_check(const char *path)
{
    char *directory;
    struct stat s;
    lk_status status = LK_OK;
    if (stat(path, &s) == 0 && S_ISDIR(s.st_mode))
        return lk_fail(LK_E_INPUT, "%s: cannot write a file: it is a directory; name another place",
                       path);
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

lk_status lk_replace_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lk_fail(LK_E_SYSTEM,
                       "%s: cannot open: %s; check the path and its "
                       "permissions",
                       path, strerror(errno));
    int bad = fsync(fd) != 0 && errno != EINVAL, error = errno; /* EINVAL: not on this system */
    close(fd);
    return bad ? lk_fail(LK_E_SYSTEM, "%s: fsync: %s; check the disk's free space and quota", path,
                         strerror(error))
               : LK_OK;
}

lk_status lk_replace_publish(const char *part, const char *path)
{
    char *directory;
    LK_TRY(lk_replace_sync(part));
    if (rename(part, path) != 0)
        return lk_fail(LK_E_SYSTEM,
                       "%s: cannot rename to %s: %s; check the directory's "
                       "permissions",
                       part, path, strerror(errno));
    LK_TRY(directory_of(path, &directory));
    lk_status status = lk_replace_sync(directory);
    free(directory);
    return status;
}

/* ---- text ------------------------------------------------------------------------------------ */

static lk_status cannot(const lk_replace *r, int error)
{
    lk_status status = lk_status_of_errno(error);
    return lk_fail(status, "%s: cannot write %s: %s; %s", r->path, r->what, strerror(error),
                   status == LK_E_INPUT ? "name another place"
                                        : "make room, or check the disk, and start again");
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

lk_status lk_replace_open(lk_replace *r, const char *path, const char *what)
{
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
