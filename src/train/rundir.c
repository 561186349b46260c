/* Files of a run, written by rank 0. */
#include "train/rundir.h"
#include "base/replace.h"

#include "train/steplog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LOSS = LK_CHECKPOINT_LOSS,
    VALIDATION = LK_CHECKPOINT_VALIDATION,
    LOGS = LK_CHECKPOINT_LOGS
};

struct lk_rundir {
    char *path, *checkpoints;
    int rank, lock; /* lock: file descriptor, -1 without */
    lk_resume how;
    bool exists;
    struct {
        FILE *file;        /* NULL: not rank 0, or not yet */
        lk_digest *digest; /* of what is in it */
        uint64_t bytes, changed; /* changed: see lk_checkpoint_log */
    } log[LOGS];
};

static char *join(const char *a, const char *b)
{
    char *s = NULL;
    return asprintf(&s, "%s/%s", a, b) < 0 ? NULL : s;
}

/* Where a start may also go on with a run, the directory was made after lk_rundir_open() looked. */
static lk_status exists_already(const char *directory, lk_resume how)
{
    if (how == LK_RESUME_OR_START)
        return lk_fail(LK_E_BUSY, "%s: another lockstep has just begun this run; start this again "
                       "when it has ended", directory);
    return lk_fail(LK_E_INPUT, "%s: the run directory exists; continue it with --resume or choose "
                   "another 'directory'", directory);
}

static lk_status cannot(const char *what, const char *path)
{
    int error = errno;
    lk_status status = lk_status_of_errno(error);
    return lk_fail(status, "%s: cannot %s: %s; %s", path, what, strerror(error),
                   lk_advice_of_errno(error, status == LK_E_INPUT
                                                 ? "see what has that name, and 'directory'"
                                                 : "check the disk it lies on"));
}

static bool has(const lk_rundir *d, const char *name)
{
    char *path = join(d->path, name);
    bool there = path && access(path, F_OK) == 0;
    free(path);
    return there;
}

/* Two processes in one run would both append to its logs. A file system without locks is believed:
 * there is no other way to know. The lock goes with the process, however it ends. */
static lk_status take_lock(lk_rundir *d, int create)
{
    if (d->lock >= 0) return LK_OK;
    char *path = join(d->path, "lock");
    if (!path) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = LK_OK;
    d->lock = open(path, O_RDWR | create | O_CLOEXEC, 0666);
    if (d->lock < 0 && errno == ENOENT && !create)
        status = LK_OK; /* nobody has worked on it yet */
    else if (d->lock < 0)
        status = cannot("open", path);
    else if (flock(d->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        status = lk_fail(LK_E_BUSY, "%s: another lockstep is working on this run (the end of "
                         "starts.jsonl there says where); wait for it or end it first", d->path);
    free(path);
    return status;
}

/* A link whose end is missing is no missing directory: what it leads to is to be mounted. */
static lk_status check_link(const char *path, const char *what)
{
    struct stat s;
    if (stat(path, &s) == 0) return LK_OK;
    int error = errno;
    if (lstat(path, &s) != 0) return LK_OK;
    return lk_fail(lk_status_of_errno(error), "%s: expected a directory for %s, found a link that "
                   "cannot be followed: %s; mount what it leads to, or make that directory", path,
                   what, strerror(error));
}

lk_status lk_rundir_open(const char *directory, int rank, lk_resume how, lk_rundir **out)
{
    struct stat st;
    LK_TRY(check_link(directory, "the run"));
    bool exists = stat(directory, &st) == 0;
    if (!exists && lk_status_of_errno(errno) != LK_E_INPUT) return cannot("look at", directory);
    if (exists && !S_ISDIR(st.st_mode))
        return lk_fail(LK_E_INPUT,
                       "%s: the run directory's name is taken by a file; choose "
                       "another 'directory', or move the file away",
                       directory);
    if (exists && how == LK_START_NEW) return exists_already(directory, how);
    if (!exists && how == LK_RESUME)
        return lk_fail(LK_E_INPUT, "%s: no run directory to resume here; 'directory' is taken from "
                       "the working directory", directory);
    lk_rundir *d = calloc(1, sizeof *d);
    if (!d) return lk_fail(LK_E_SYSTEM, "out of memory");
    d->rank = rank;
    d->how = how;
    d->exists = exists;
    d->lock = -1;
    d->path = strdup(directory);
    d->checkpoints = join(directory, "checkpoints");
    lk_status status = d->path && d->checkpoints ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK && exists && rank == 0) status = take_lock(d, 0);
    if (status != LK_OK) {
        lk_rundir_close(d);
        return status;
    }
    *out = d;
    return LK_OK;
}

void lk_rundir_close(lk_rundir *d)
{
    if (!d) return;
    for (int i = 0; i < LOGS; i++) {
        if (d->log[i].file) fclose(d->log[i].file);
        lk_digest_destroy(d->log[i].digest);
    }
    if (d->lock >= 0) close(d->lock);
    free(d->path);
    free(d->checkpoints);
    free(d);
}

const char *lk_rundir_checkpoints(const lk_rundir *d) { return d->checkpoints; }

/* Any, also one whose link is lost. */
static lk_status look_for_checkpoint(const lk_rundir *d, bool *found)
{
    struct dirent *e;
    DIR *files = opendir(d->checkpoints);
    if (!files) /* a file is another's to refuse */
        return errno == ENOENT || errno == ENOTDIR ? LK_OK : cannot("list", d->checkpoints);
    do {
        errno = 0;
        e = readdir(files);
        *found = e && fnmatch("step-*.h5", e->d_name, 0) == 0;
    } while (e && !*found);
    lk_status status = e || errno == 0 ? LK_OK : cannot("list", d->checkpoints);
    closedir(files);
    return status;
}

/* Has a run been killed before its first checkpoint, to be started again in its directory? That
 * directory must be a run's. Where a save was once complete the checkpoints have gone astray, and
 * to begin would cut the logs. */
static lk_status find_unsaved(const lk_rundir *d, bool *unsaved)
{
    bool found = false;
    LK_TRY(check_link(d->checkpoints, "checkpoints"));
    LK_TRY(look_for_checkpoint(d, &found));
    *unsaved = !found && (has(d, "run.yaml") || has(d, "lock"));
    if (!*unsaved || !has(d, "SAVED")) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: no checkpoint is there, but the run has saved some, says "
                   "'SAVED' beside it; bring them back or mount what they lie on, or remove the "
                   "run directory to begin anew", d->checkpoints);
}

lk_status lk_rundir_begins(const lk_rundir *d, bool *begins)
{
    bool unsaved = false;
    if (d->exists) LK_TRY(find_unsaved(d, &unsaved));
    if (d->how == LK_RESUME && unsaved)
        return lk_fail(LK_E_INPUT, "%s: no checkpoint to resume from, the run was ended before its "
                       "first; start it again in this directory with --resume-or-start",
                       d->checkpoints);
    if (d->how == LK_RESUME && access(d->checkpoints, F_OK) != 0)
        return lk_fail(LK_E_INPUT, "%s: no checkpoint to resume from; remove the directory and "
                       "start again without --resume", d->path);
    if (d->how == LK_RESUME_OR_START && d->exists && !unsaved && access(d->checkpoints, F_OK) != 0)
        return lk_fail(LK_E_INPUT, "%s: the directory exists and holds no run; choose another "
                       "'directory', or remove this one", d->path);
    *begins = !d->exists || unsaved;
    return LK_OK;
}

/* mkdir -p of what lies above the last part, then the last part itself, which must be new. */
static lk_status make_directory(const char *path, lk_resume how)
{
    char *copy = strdup(path);
    if (!copy) return lk_fail(LK_E_SYSTEM, "out of memory");
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/') copy[--n] = '\0';
    lk_status status = LK_OK;
    for (char *p = copy + 1; status == LK_OK; p++) {
        if (*p != '/' && *p != '\0') continue;
        char end = *p;
        *p = '\0';
        if (mkdir(copy, 0777) != 0) {
            if (errno != EEXIST) status = cannot("make the directory", copy);
            else if (end == '\0') status = exists_already(path, how);
        }
        *p = end;
        if (end == '\0') break;
    }
    free(copy);
    return status;
}

static lk_status open_log(lk_rundir *d, int which, uint64_t step, double *lowest)
{
    char *path = join(d->path, lk_steplogs[which].name);
    lk_status status = path ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) status = lk_digest_create(&d->log[which].digest);
    if (status == LK_OK)
        status = lk_steplog_open(path, &lk_steplogs[which], step, lowest, d->log[which].digest,
                                 &d->log[which].bytes, &d->log[which].file);
    free(path);
    return status;
}

/* A log that is whole and, but for its last line perhaps, another than when `saved` was. That is
 * told and no error: the run's own bits come from the checkpoint alone. Those who come later are
 * told again, for what is saved from now on knows the log as it is. */
static void compare_log(lk_rundir *d, int which, const char *path, const lk_checkpoint_info *saved,
                        const lk_checkpoint_log *found,
                        void (*report)(void *context, const char *text), void *context)
{
    const lk_checkpoint_log *was = &saved->log[which];
    unsigned long long step = saved->state.step, since = was->changed;
    char text[PATH_MAX + 600], how[200] = "";
    bool same = was->bytes == found->bytes && strcmp(was->digest, found->digest) == 0;
    if (!was->digest[0] || (same && !since)) return;
    if (!same)
        snprintf(how, sizeof how, " (%llu bytes with digest %s then, %llu with %s now)",
                 (unsigned long long)was->bytes, was->digest, (unsigned long long)found->bytes,
                 found->digest);
    if (same)
        snprintf(how, sizeof how, ", as the start from step %llu found", since);
    d->log[which].changed = since ? since : step;
    snprintf(text, sizeof text, "%s: a line up to step %llu has changed since its checkpoint was "
             "saved%s; the run goes on, with the same bits, but this log may not be that of a run "
             "without a stop: look at the disk; what is saved from now on knows the log as it is, "
             "and later starts tell this again", path, same ? since : step, how);
    report(context, text);
}

/* *last: the step that its last line must have, 0 from now on where there is no log. */
static lk_status check_log(lk_rundir *d, int which, const lk_checkpoint_info *saved, uint64_t *last,
                           void (*report)(void *context, const char *text), void *context)
{
    char *path = join(d->path, lk_steplogs[which].name), text[PATH_MAX + 100];
    lk_digest *digest = NULL;
    lk_checkpoint_log found = {.bytes = 0};
    float loss = saved->state.loss;
    bool none = false;
    lk_status status = path ? lk_digest_create(&digest) : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK)
        status = lk_steplog_check(path, &lk_steplogs[which], saved->state.step, *last,
                                  which == LOSS ? &loss : NULL, digest, &found.bytes, &none);
    if (status == LK_OK && none && *last > 0) {
        snprintf(text, sizeof text, "%s has nothing up to step %llu any more; it begins after it",
                 path, (unsigned long long)saved->state.step);
        report(context, text);
    }
    if (none) *last = 0;
    if (status == LK_OK && !none) {
        lk_digest_text(digest, found.digest);
        compare_log(d, which, path, saved, &found, report, context);
    }
    lk_digest_destroy(digest);
    free(path);
    return status;
}

lk_status lk_rundir_check_logs(lk_rundir *d, const lk_checkpoint_info *saved, uint64_t *validated,
                               void (*report)(void *context, const char *text), void *context)
{
    uint64_t step = saved->state.step;
    if (step == 0) return LK_OK;
    LK_TRY(check_log(d, LOSS, saved, &step, report, context));
    return check_log(d, VALIDATION, saved, validated, report, context);
}

void lk_rundir_logs(const lk_rundir *d, lk_checkpoint_log log[LOGS])
{
    for (int i = 0; i < LOGS; i++) {
        log[i] = (lk_checkpoint_log){.bytes = d->log[i].bytes, .changed = d->log[i].changed};
        if (d->log[i].digest) lk_digest_text(d->log[i].digest, log[i].digest);
    }
}

/* The old file stays whole until the new one is. */
static lk_status write_file(const lk_rundir *d, const char *name, const char *text)
{
    char *path = join(d->path, name);
    lk_replace out;
    if (!path) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = lk_replace_open(&out, path, "the file", NULL);
    if (status == LK_OK) {
        fputs(text, out.file); /* close tells */
        status = lk_replace_close(&out, true);
    }
    free(path);
    return status;
}

static lk_status write_run_file(const lk_rundir *d, const lk_run *run)
{
    char *text = NULL;
    lk_status status = lk_run_format(run, &text);
    if (status == LK_OK) status = write_file(d, "run.yaml", text);
    free(text);
    return status;
}

static lk_status forget_done(const lk_rundir *d)
{
    char *path = join(d->path, "DONE");
    if (!path) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = unlink(path) == 0 || errno == ENOENT ? LK_OK : cannot("remove", path);
    free(path);
    return status;
}

lk_status lk_rundir_done(lk_rundir *d, uint64_t steps)
{
    char text[64];
    if (d->rank != 0) return LK_OK;
    snprintf(text, sizeof text, "%llu steps\n", (unsigned long long)steps);
    return write_file(d, "DONE", text);
}

lk_status lk_rundir_saved(lk_rundir *d)
{
    if (d->rank != 0 || has(d, "SAVED")) return LK_OK;
    return write_file(d, "SAVED", "There are checkpoints from now on.\n");
}

lk_status lk_rundir_begin(lk_rundir *d, const lk_run *run, uint64_t step, double *best)
{
    if (d->rank != 0) return LK_OK;
    if (!d->exists) LK_TRY(make_directory(d->path, d->how));
    LK_TRY(take_lock(d, O_CREAT));
    if (mkdir(d->checkpoints, 0777) != 0 && errno != EEXIST)
        return cannot("make the directory", d->checkpoints);
    if (step < (uint64_t)run->train.steps) LK_TRY(forget_done(d));
    LK_TRY(write_run_file(d, run));
    if (step > 0) LK_TRY(lk_rundir_saved(d)); /* where it was killed before it could say so */
    LK_TRY(open_log(d, LOSS, step, NULL));
    LK_TRY(open_log(d, VALIDATION, step, best));
    return lk_replace_sync(d->path); /* the new names in it */
}

static lk_status write_line(lk_rundir *d, int which, const char *line)
{
    FILE *f = d->log[which].file;
    if (fputs(line, f) < 0 || ferror(f))
        return lk_fail(LK_E_SYSTEM, "%s/%s: cannot write the log: %s; %s, then go on with "
                       "--resume-or-start", d->path, lk_steplogs[which].name, strerror(errno),
                       lk_advice_of_errno(errno, "check the disk it lies on"));
    lk_digest_update(d->log[which].digest, line, strlen(line));
    d->log[which].bytes += strlen(line);
    return LK_OK;
}

lk_status lk_rundir_log_step(lk_rundir *d, const lk_step_state *s)
{
    char line[LK_STEPLOG_LINE];
    if (!d->log[LOSS].file) return LK_OK;
    lk_steplog_write_loss(s, line);
    return write_line(d, LOSS, line);
}

lk_status lk_rundir_log_validation(lk_rundir *d, uint64_t step, const lk_validation *v)
{
    char line[LK_STEPLOG_LINE];
    if (!d->log[VALIDATION].file) return LK_OK;
    lk_steplog_write_validation(step, v, line);
    return write_line(d, VALIDATION, line);
}

lk_status lk_rundir_sync(lk_rundir *d)
{
    for (int i = 0; i < LOGS; i++) {
        FILE *f = d->log[i].file;
        if (f && (fflush(f) != 0 || fsync(fileno(f)) != 0))
            return lk_fail(LK_E_SYSTEM, "%s: cannot write the logs: %s; %s, then go on with "
                           "--resume-or-start", d->path, strerror(errno),
                           lk_advice_of_errno(errno, "check the disk it lies on"));
    }
    return LK_OK;
}
