/* The files of a checkpoint directory: their names, which there are, which stay, where `latest`
 * leads. */
#include "base/replace.h"
#include "io/checkpoint_job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------- */

void lk_checkpoint_dir_name(uint64_t step, char name[LK_CHECKPOINT_NAME])
{
    snprintf(name, LK_CHECKPOINT_NAME, "step-%06llu.h5", (unsigned long long)step);
}

bool lk_checkpoint_dir_step(const char *name, uint64_t *step)
{
    char again[LK_CHECKPOINT_NAME];
    unsigned long long n;
    if (sscanf(name, "step-%llu.h5", &n) != 1) return false;
    lk_checkpoint_dir_name(n, again);
    *step = n;
    return strcmp(name, again) == 0;
}

static lk_status open_directory(const char *directory, DIR **d)
{
    *d = opendir(directory);
    return *d ? LK_OK
              : lk_fail(LK_E_SYSTEM, "%s: cannot list the directory: %s; %s", directory,
                        strerror(errno), lk_advice_of_errno(errno, "look at the directory"));
}

lk_status lk_checkpoint_steps_append(lk_checkpoint_steps *list, uint64_t step)
{
    if (list->count == list->room) {
        int room = list->room ? 2 * list->room : 64;
        uint64_t *grown = realloc(list->step, (size_t)room * sizeof *grown);
        if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory");
        list->step = grown;
        list->room = room;
    }
    list->step[list->count++] = step;
    return LK_OK;
}

static int falling(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

lk_status lk_checkpoint_dir_list(const char *directory, lk_checkpoint_steps *result)
{
    lk_checkpoint_steps list = {0, 0, NULL};
    DIR *d;
    uint64_t step;
    errno = 0;
    lk_status status = open_directory(directory, &d);
    if (status != LK_OK && errno == ENOENT) { /* killed before the first save */
        lk_error_clear();
        *result = list;
        return LK_OK;
    }
    LK_TRY(status);
    for (struct dirent *e = readdir(d); e && status == LK_OK; e = readdir(d))
        if (lk_checkpoint_dir_step(e->d_name, &step))
            status = lk_checkpoint_steps_append(&list, step);
    closedir(d);
    if (status != LK_OK) {
        lk_checkpoint_steps_clear(&list);
        return status;
    }
    if (list.count > 0) qsort(list.step, (size_t)list.count, sizeof *list.step, falling);
    *result = list;
    return LK_OK;
}

void lk_checkpoint_steps_clear(lk_checkpoint_steps *list)
{
    free(list->step);
    *list = (lk_checkpoint_steps){0, 0, NULL};
}

/* ---- what stays ------------------------------------------------------------------------------ */

/* Whether a name that goes on with `rest` is of a file that Open MPI's OMPIO keeps beside one that
 * is open: NAME-JOB-PROCESS.lock, NAME.locktest.0 and, where nothing can be locked, NAME.data.0 and
 * NAME.metadata.0 (ompi/mca/sharedfp). */
static bool is_of_mpi(const char *rest)
{
    size_t n = strlen(rest);
    return (rest[0] == '-' && n > 5 && strcmp(rest + n - 5, ".lock") == 0) ||
           strncmp(rest, ".locktest.", 10) == 0 || strncmp(rest, ".data.", 6) == 0 ||
           strncmp(rest, ".metadata.", 10) == 0;
}

/* By a process that was killed. */
static bool left_behind(const char *name)
{
    char whole[64];
    uint64_t step;
    const char *part = strstr(name, ".part");
    if (!part || part - name >= (ptrdiff_t)sizeof whole || (part[5] && !is_of_mpi(part + 5)))
        return false;
    snprintf(whole, sizeof whole, "%.*s", (int)(part - name), name);
    return strcmp(whole, "latest") == 0 || lk_checkpoint_dir_step(whole, &step);
}

lk_status lk_checkpoint_dir_sweep(const char *directory)
{
    DIR *d;
    LK_TRY(open_directory(directory, &d));
    lk_status status = LK_OK;
    for (struct dirent *e = readdir(d); e && status == LK_OK; e = readdir(d))
        if (left_behind(e->d_name) && unlinkat(dirfd(d), e->d_name, 0) != 0 && errno != ENOENT)
            status = lk_fail(LK_E_SYSTEM, "%s/%s: cannot remove the old file: %s; %s", directory,
                             e->d_name, strerror(errno),
                             lk_advice_of_errno(errno, "remove it by hand"));
    closedir(d);
    return status;
}

/* What a name of ours may be, beside a file: a link, which is replaced or removed as a link. */
static lk_status check_entry(const char *directory, int fd, const char *name)
{
    struct stat s;
    uint64_t step;
    bool ours = left_behind(name) || lk_checkpoint_dir_step(name, &step) ||
                strcmp(name, "latest") == 0;
    if (!ours || fstatat(fd, name, &s, AT_SYMLINK_NOFOLLOW) != 0 || S_ISREG(s.st_mode) ||
        S_ISLNK(s.st_mode))
        return LK_OK;
    return lk_fail(LK_E_INPUT, "%s/%s: expected a file, for its name is that of a checkpoint, "
                   "found %s; move it away", directory, name,
                   S_ISDIR(s.st_mode) ? "a directory" : "something that is not a file");
}

lk_status lk_checkpoint_check_directory(const char *directory)
{
    struct stat s;
    if (stat(directory, &s) != 0 && errno == ENOENT) return LK_OK;
    if (stat(directory, &s) == 0 && !S_ISDIR(s.st_mode))
        return lk_fail(LK_E_INPUT, "%s: expected a directory for checkpoints, found %s; move it "
                       "away", directory,
                       S_ISREG(s.st_mode) ? "a file" : "something that is not a file");
    if (access(directory, W_OK | X_OK) != 0)
        return lk_fail(lk_status_of_errno(errno), "%s: expected a directory that checkpoints can "
                       "be written to, found: %s; check its permissions, and its disk", directory,
                       strerror(errno));
    DIR *d;
    LK_TRY(open_directory(directory, &d));
    lk_status status = LK_OK;
    for (struct dirent *e = readdir(d); e && status == LK_OK; e = readdir(d))
        status = check_entry(directory, dirfd(d), e->d_name);
    closedir(d);
    return status;
}

lk_status lk_checkpoint_dir_point(const char *directory, const char *name)
{
    char latest[PATH_MAX + 16], fresh[PATH_MAX + 16];
    snprintf(latest, sizeof latest, "%s/latest", directory);
    snprintf(fresh, sizeof fresh, "%s/latest.part", directory);
    unlink(fresh); /* of a killed run; if it cannot go, symlink() tells */
    if (symlink(name, fresh) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot make the link: %s; %s", fresh, strerror(errno),
                       lk_advice_of_errno(errno, "check that its file system has symbolic links"));
    if (rename(fresh, latest) != 0) {
        int error = errno;
        unlink(fresh);
        return lk_fail(LK_E_SYSTEM, "%s: cannot replace the link: %s; %s", latest, strerror(error),
                       lk_advice_of_errno(error, "look at what has that name"));
    }
    return lk_replace_sync(directory);
}

void lk_checkpoint_dir_prune(const char *directory, uint64_t newest, uint64_t good,
                             lk_checkpoint_keep keep, char *warning, size_t size)
{
    lk_checkpoint_steps list;
    int64_t seen = 0;
    warning[0] = '\0';
    if (keep.newest <= 0 || good == LK_CHECKPOINT_NONE) return;
    if (lk_checkpoint_dir_list(directory, &list) != LK_OK) {
        snprintf(warning, size, "%s; no old checkpoint was removed", lk_error_text());
        lk_error_clear();
        return;
    }
    for (int i = 0; i < list.count; i++) {
        uint64_t step = list.step[i];
        char name[LK_CHECKPOINT_NAME], path[PATH_MAX];
        if (step > newest || step == 0 || seen++ < keep.newest || step == good) continue;
        if (keep.every > 0 && step % (uint64_t)keep.every == 0) continue;
        lk_checkpoint_dir_name(step, name);
        int n = snprintf(path, sizeof path, "%s/%s", directory, name);
        if (n < 0 || (size_t)n >= sizeof path || (unlink(path) != 0 && errno != ENOENT))
            snprintf(warning, size, "%.300s/%s: cannot remove the old checkpoint: %s", directory,
                     name, strerror(errno));
    }
    lk_checkpoint_steps_clear(&list);
}

/* ---- where links lead ----------------------------------------------------------------------- */

lk_status lk_checkpoint_dir_follow(const char *directory, const char *name, char **found)
{
    char *link = NULL, target[PATH_MAX];
    if (asprintf(&link, "%s/%s", directory, name) < 0) return lk_fail(LK_E_SYSTEM, "out of memory");
    struct stat s;
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n < 0) { /* not a link: a file, or nothing */
        *found = lstat(link, &s) == 0 ? link : NULL;
        if (!*found) free(link);
        return LK_OK;
    }
    target[n] = '\0';
    if (target[0] == '/') {
        free(link);
        *found = strdup(target);
        return *found ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    }
    int made = asprintf(found, "%.*s/%s", (int)(strrchr(link, '/') - link), link, target);
    free(link);
    return made < 0 ? lk_fail(LK_E_SYSTEM, "out of memory") : LK_OK;
}

lk_status lk_checkpoint_resolve(const char *path, char **resolved)
{
    static const char *const name[] = {"latest", "checkpoints/latest"};
    struct stat s;
    char *found = NULL;
    if (stat(path, &s) != 0 || !S_ISDIR(s.st_mode)) { /* lk_h5_open says what is wrong with it */
        bool link = lstat(path, &s) == 0 && S_ISLNK(s.st_mode);
        if (link) found = realpath(path, NULL); /* NULL: it dangles */
        if (!found) found = strdup(path);
        if (!found) return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    for (int i = 0; i < 2 && !found; i++) LK_TRY(lk_checkpoint_dir_follow(path, name[i], &found));
    if (!found)
        return lk_fail(LK_E_INPUT, "%s: expected a file or a run directory, found a directory with "
                       "neither '%s' nor '%s'; name a step-NNNNNN.h5 file", path, name[0], name[1]);
    *resolved = found;
    return LK_OK;
}

