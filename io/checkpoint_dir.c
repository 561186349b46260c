/* The files of a checkpoint directory: which there are, which stay, which one to read. */
#include "io/checkpoint_job.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------- */

static void name_of(uint64_t step, char name[40])
{
    snprintf(name, 40, "step-%06llu.h5", (unsigned long long)step);
}

/* Only names that a save gives: others are the user's. */
static bool step_of(const char *name, uint64_t *step)
{
    char again[40];
    unsigned long long n;
    if (sscanf(name, "step-%llu.h5", &n) != 1) return false;
    name_of(n, again);
    *step = n;
    return strcmp(name, again) == 0;
}

static lk_status open_directory(const char *directory, DIR **d)
{
    *d = opendir(directory);
    return *d ? LK_OK
              : lk_fail(LK_E_SYSTEM, "%s: cannot list the directory: %s", directory,
                        strerror(errno));
}

static lk_status append(lk_checkpoint_steps *list, uint64_t step)
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
        if (step_of(e->d_name, &step)) status = append(&list, step);
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

static bool left_behind(const char *name)
{
    char whole[64];
    uint64_t step;
    size_t n = strlen(name);
    if (n < 5 || n - 5 >= sizeof whole || strcmp(name + n - 5, ".part") != 0) return false;
    snprintf(whole, sizeof whole, "%.*s", (int)(n - 5), name);
    return strcmp(whole, "latest") == 0 || step_of(whole, &step);
}

lk_status lk_checkpoint_dir_sweep(const char *directory)
{
    DIR *d;
    LK_TRY(open_directory(directory, &d));
    lk_status status = LK_OK;
    for (struct dirent *e = readdir(d); e && status == LK_OK; e = readdir(d))
        if (left_behind(e->d_name) && unlinkat(dirfd(d), e->d_name, 0) != 0 && errno != ENOENT)
            status = lk_fail(LK_E_SYSTEM, "%s/%s: cannot remove the old file: %s", directory,
                             e->d_name, strerror(errno));
    closedir(d);
    return status;
}

void lk_checkpoint_dir_prune(const char *directory, uint64_t newest, lk_checkpoint_keep keep,
                             char *warning, size_t size)
{
    lk_checkpoint_steps list;
    int64_t seen = 0;
    warning[0] = '\0';
    if (keep.newest <= 0) return;
    if (lk_checkpoint_dir_list(directory, &list) != LK_OK) {
        snprintf(warning, size, "%s; no old checkpoint was removed", lk_error_text());
        lk_error_clear();
        return;
    }
    for (int i = 0; i < list.count; i++) {
        uint64_t step = list.step[i];
        char name[40], path[PATH_MAX];
        if (step > newest || step == 0 || seen++ < keep.newest) continue;
        if (keep.every > 0 && step % (uint64_t)keep.every == 0) continue;
        name_of(step, name);
        int n = snprintf(path, sizeof path, "%s/%s", directory, name);
        if (n < 0 || (size_t)n >= sizeof path || (unlink(path) != 0 && errno != ENOENT))
            snprintf(warning, size, "%.300s/%s: cannot remove the old checkpoint: %s", directory,
                     name, strerror(errno));
    }
    lk_checkpoint_steps_clear(&list);
}

/* ---- which one to read ----------------------------------------------------------------------- */

/* The file that DIRECTORY/NAME leads to, if there is such a link or file. */
static lk_status follow(const char *directory, const char *name, char **found)
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
    for (int i = 0; i < 2 && !found; i++) LK_TRY(follow(path, name[i], &found));
    if (!found)
        return lk_fail(LK_E_INPUT, "%s: expected a file or a run directory, found a directory with "
                       "neither '%s' nor '%s'; name a step-NNNNNN.h5 file", path, name[0], name[1]);
    *resolved = found;
    return LK_OK;
}

/* ---- the newest that is whole ---------------------------------------------------------------- */

typedef struct choice {
    lk_checkpoint_job job; /* job.path: the file looked at */
    char *latest;          /* rank 0: where `latest` leads, NULL: there is none */
    lk_checkpoint_steps earlier; /* rank 0: to be tried after it */
    int next;
    void (*report)(void *context, const char *text);
    void *context;
    char first[1500]; /* what is wrong with the first, "" if it is good */
} choice;

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Rank 0: what `latest` leads to, then the steps before it; without `latest` (killed before the
 * first was made) all steps. A link to a file of another name is the user's: no step is before
 * it. */
static lk_status list_candidates(choice *c)
{
    uint64_t latest = UINT64_MAX;
    LK_TRY(follow(c->job.given, "latest", &c->latest));
    if (c->latest && !step_of(last_part(c->latest), &latest)) return LK_OK;
    LK_TRY(lk_checkpoint_dir_list(c->job.given, &c->earlier));
    while (c->next < c->earlier.count && c->latest && c->earlier.step[c->next] >= latest) c->next++;
    return LK_OK;
}

/* Rank 0: the next to look at into job.path; "" when there is none. */
static lk_status next_candidate(choice *c)
{
    char name[40], *path = c->job.path;
    size_t size = sizeof c->job.path;
    int n = 0;
    path[0] = '\0';
    if (c->latest) {
        n = snprintf(path, size, "%s", c->latest);
        free(c->latest);
        c->latest = NULL;
    } else if (c->next < c->earlier.count) {
        name_of(c->earlier.step[c->next++], name);
        n = snprintf(path, size, "%s/%s", c->job.given, name);
    }
    return n >= 0 && (size_t)n < size ? LK_OK
                                      : lk_fail(LK_E_INPUT, "%s: the path is too long",
                                                c->job.given);
}

/* Every rank the info, and its share of the digests. */
static lk_status verify(lk_checkpoint_job *j)
{
    lk_checkpoint_info info = {.leaves = 0};
    lk_h5_list list = {0, 0, NULL};
    lk_status status = lk_checkpoint_read_info(j->file, j->path, &info);
    lk_checkpoint_info_clear(&info);
    if (status == LK_OK) status = lk_h5_list_datasets(j->file, j->path, "", &list);
    for (int i = j->rank; i < list.count && status == LK_OK; i += j->ranks) {
        lk_h5_dataset d = {.id = -1};
        status = lk_h5_dataset_open(j->file, j->path, list.path[i], 0, &d);
        if (status == LK_OK) status = lk_h5_dataset_verify(&d, j->path, list.path[i]);
        lk_h5_release(&d.id);
    }
    lk_h5_list_clear(&list);
    return status;
}

static lk_status look(lk_checkpoint_job *j)
{
    LK_TRY(lk_checkpoint_open_each(j, j->path, &j->file));
    lk_status status = lk_checkpoint_agree(j, verify(j));
    H5Fclose(j->file); /* read only: nothing to lose */
    j->file = -1;
    return status;
}

static lk_status none_found(const choice *c)
{
    if (c->first[0])
        return lk_fail(LK_E_INPUT, "%s; no checkpoint before it is whole", c->first);
    return lk_fail(LK_E_INPUT, "%s/latest: no checkpoint to resume from; remove the directory and "
                   "start again without --resume", c->job.given);
}

static lk_status choose(void *argument)
{
    choice *c = argument;
    lk_checkpoint_job *j = &c->job;
    char text[2048], wrong[1500] = "";
    LK_TRY(lk_checkpoint_agree(j, j->rank == 0 ? list_candidates(c) : LK_OK));
    for (;;) {
        LK_TRY(lk_checkpoint_agree(j, j->rank == 0 ? next_candidate(c) : LK_OK));
        LK_TRY(lk_checkpoint_broadcast(j, j->path, sizeof j->path, 0));
        if (!j->path[0]) return none_found(c);
        if (wrong[0] && j->rank == 0 && c->report) {
            snprintf(text, sizeof text, "%s; trying %.200s, the one before it", wrong,
                     last_part(j->path));
            c->report(c->context, text);
        }
        lk_status status = look(j);
        if (lk_h5_note()[0] && j->rank == 0 && c->report) c->report(c->context, lk_h5_note());
        if (status != LK_E_INPUT) return status;
        snprintf(wrong, sizeof wrong, "%.1400s", lk_error_text());
        if (!c->first[0]) memcpy(c->first, wrong, sizeof c->first);
        lk_error_clear();
    }
}

lk_status lk_checkpoint_choose(lk_io *io, MPI_Comm world, const char *directory,
                               void (*report)(void *context, const char *text), void *context,
                               char **path)
{
    choice c = {.job = {.given = directory}, .report = report, .context = context};
    lk_status status = lk_checkpoint_run(io, world, choose, &c.job);
    free(c.latest);
    lk_checkpoint_steps_clear(&c.earlier);
    LK_TRY(status);
    *path = strdup(c.job.path);
    return *path ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

void lk_checkpoint_name_before(const char *path)
{
    lk_checkpoint_steps list = {0, 0, NULL};
    char *file = NULL, text[1500], name[40];
    uint64_t step;
    snprintf(text, sizeof text, "%.1100s", lk_error_text());
    if (lk_checkpoint_resolve(path, &file) == LK_OK && strrchr(file, '/') &&
        step_of(last_part(file), &step)) {
        *strrchr(file, '/') = '\0';
        if (lk_checkpoint_dir_list(file, &list) != LK_OK) list.count = 0;
        int i = 0;
        while (i < list.count && list.step[i] >= step) i++;
        size_t n = strlen(text);
        if (i < list.count) {
            name_of(list.step[i], name);
            snprintf(text + n, sizeof text - n, "; the checkpoint before it is %.300s/%s", file,
                     name);
        }
    }
    free(file);
    lk_checkpoint_steps_clear(&list);
    lk_error_clear();
    lk_fail(LK_E_INPUT, "%s", text);
}
