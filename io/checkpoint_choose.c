/* Which checkpoint of a directory a run goes on from.
 *
 * Newest first: files written after `latest` was last moved, which a run that was ended between
 * rename and link has left; the file that `latest` leads to; the steps before it. A later step that
 * is older than the link is left out: the user, or a start that passed over it, has gone on from an
 * earlier one since, perhaps with other keys.
 *
 * Passing over costs time only, for the steps in between are computed again, to the same bits. So
 * what the disk does not give after some tries is passed over like what is damaged. Only where
 * several cannot be read it is not the files: the start ends, and may go well later. */
#include "base/replace.h"
#include "io/checkpoint_job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_UNREADABLE = 3 };

typedef struct choice {
    lk_checkpoint_job job; /* job.path: the file looked at */
    char **candidate;      /* rank 0, as the next four: in the order in which they are tried */
    int candidates, room, next;
    uint64_t left_out; /* rank 0: the newest step that is no candidate; LK_CHECKPOINT_NONE */
    lk_checkpoint_steps damaged;
    void (*report)(void *context, const char *text);
    void *context;
    int unreadable;
    char first[1500]; /* what is wrong with the first, "" if it is good */
} choice;

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Is `path` that of a step in `directory`? */
static bool step_in(const char *directory, const char *path, uint64_t *step)
{
    size_t n = strlen(directory);
    return strncmp(path, directory, n) == 0 && path[n] == '/' && path + n + 1 == last_part(path) &&
           lk_checkpoint_dir_step(path + n + 1, step);
}

/* ---- candidates ------------------------------------------------------------------------------ */

/* Takes `path`; NULL: there was no memory for it. */
static lk_status add(choice *c, char *path)
{
    if (path && c->candidates == c->room) {
        int room = c->room ? 2 * c->room : 16;
        char **grown = realloc(c->candidate, (size_t)room * sizeof *grown);
        if (grown) {
            c->candidate = grown;
            c->room = room;
        }
    }
    if (!path || c->candidates == c->room) {
        free(path);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    c->candidate[c->candidates++] = path;
    return LK_OK;
}

static lk_status add_step(choice *c, uint64_t step)
{
    char name[LK_CHECKPOINT_NAME], *path = NULL;
    lk_checkpoint_dir_name(step, name);
    return add(c, asprintf(&path, "%s/%s", c->job.given, name) < 0 ? NULL : path);
}

/* Of times of one file system, at worst of whole seconds: the same time is not later. */
static bool written_after(const char *directory, uint64_t step, const struct stat *link)
{
    char name[LK_CHECKPOINT_NAME], path[PATH_MAX];
    struct stat file;
    lk_checkpoint_dir_name(step, name);
    int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= sizeof path || stat(path, &file) != 0) return false;
    const struct timespec *a = &file.st_mtim, *b = &link->st_mtim;
    return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* `target`: where `latest` leads, NULL: killed before the first was made. A link to a file of
 * another name is the user's: no step is before it. One that leads elsewhere may be that of a run
 * which was moved: the file of the same step here comes after it. */
static lk_status add_all(choice *c, const lk_checkpoint_steps *steps, char *target)
{
    char path[PATH_MAX];
    struct stat link = {.st_size = 0};
    uint64_t latest = 0;
    bool named = target && lk_checkpoint_dir_step(last_part(target), &latest);
    int n = snprintf(path, sizeof path, "%s/latest", c->job.given);
    lk_status status = LK_OK;
    if (target && (n < 0 || (size_t)n >= sizeof path || lstat(path, &link) != 0))
        status = lk_fail(LK_E_SYSTEM, "%s: cannot look at the link: %s; %s", path, strerror(errno),
                         lk_advice_of_errno(errno, "look at what has that name"));
    for (int i = 0; i < steps->count && status == LK_OK; i++) {
        bool later = !named || steps->step[i] > latest;
        if (!target || (later && written_after(c->job.given, steps->step[i], &link)))
            status = add_step(c, steps->step[i]);
        else if (later && c->left_out == LK_CHECKPOINT_NONE)
            c->left_out = steps->step[i];
    }
    if (target && status == LK_OK) return add(c, target);
    free(target);
    return status;
}

static lk_status list_candidates(choice *c)
{
    char *target = NULL;
    uint64_t latest;
    lk_checkpoint_steps steps = {0, 0, NULL};
    LK_TRY(lk_checkpoint_dir_follow(c->job.given, "latest", &target));
    bool named = target && lk_checkpoint_dir_step(last_part(target), &latest);
    bool elsewhere = named && !step_in(c->job.given, target, &latest);
    lk_status status = lk_checkpoint_dir_list(c->job.given, &steps);
    if (status == LK_OK) status = add_all(c, &steps, target);
    else free(target);
    for (int i = 0; i < steps.count && named && status == LK_OK; i++)
        if (steps.step[i] < latest || (elsewhere && steps.step[i] == latest))
            status = add_step(c, steps.step[i]);
    lk_checkpoint_steps_clear(&steps);
    return status;
}

/* ---- looking --------------------------------------------------------------------------------- */

/* Rank 0: the next to look at into job.path; "" when there is none. */
static lk_status next_candidate(choice *c)
{
    const char *next = c->next < c->candidates ? c->candidate[c->next++] : "";
    if (strlen(next) >= sizeof c->job.path)
        return lk_fail(LK_E_INPUT, "%s: the path is too long; work with a shorter one",
                       c->job.given);
    strcpy(c->job.path, next);
    return LK_OK;
}

/* A copy under another name would be taken for a later, or an earlier, step. */
static lk_status check_name(const lk_checkpoint_job *j, uint64_t held)
{
    uint64_t named;
    if (!step_in(j->given, j->path, &named) || named == held) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected step %llu, as it is named, found that it holds step "
                   "%llu; give it its own name", j->path, (unsigned long long)named,
                   (unsigned long long)held);
}

/* Every rank the info, and its share of the digests. */
static lk_status verify(lk_checkpoint_job *j)
{
    lk_checkpoint_info info = {.leaves = 0};
    lk_h5_list list = {0, 0, NULL};
    lk_status status = lk_checkpoint_read_info(j->file, j->path, &info);
    if (status == LK_OK) status = check_name(j, info.state.step);
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

/* ---- passing over ---------------------------------------------------------------------------- */

/* job.path cannot be used, for `status`, whose text is recorded. Gives up where another will not do
 * either. */
static lk_status pass_over(choice *c, lk_status status, char wrong[1500])
{
    uint64_t step;
    struct stat s;
    snprintf(wrong, 1500, "%.1400s", lk_error_text());
    if (!c->first[0]) memcpy(c->first, wrong, sizeof c->first);
    lk_error_clear();
    if (status == LK_E_SYSTEM && ++c->unreadable == MOST_UNREADABLE)
        return lk_fail(LK_E_SYSTEM, "%s; %d checkpoints cannot be read: check the disk, then start "
                       "again", c->first, MOST_UNREADABLE);
    bool there = step_in(c->job.given, c->job.path, &step) && lstat(c->job.path, &s) == 0;
    if (c->job.rank != 0 || status != LK_E_INPUT || !there) return LK_OK;
    return lk_checkpoint_steps_append(&c->damaged, step);
}

/* On rank 0, which knows what else is there. */
static lk_status none_found(const choice *c)
{
    char name[LK_CHECKPOINT_NAME], tried[80] = "there is no checkpoint before it";
    lk_status status = c->unreadable > 0 ? LK_E_SYSTEM : LK_E_INPUT;
    if (!c->first[0])
        return lk_fail(LK_E_INPUT, "%s/latest: no checkpoint to resume from; remove the directory "
                       "and start again without --resume", c->job.given);
    if (c->candidates > 1)
        snprintf(tried, sizeof tried, "no checkpoint before it is whole (%d tried)", c->candidates);
    if (c->left_out == LK_CHECKPOINT_NONE)
        return lk_fail(status, "%s; %s; start again without --resume, in another directory",
                       c->first, tried);
    lk_checkpoint_dir_name(c->left_out, name);
    return lk_fail(status, "%s; %s; %s is there, too, and was not tried, for it was written before "
                   "the link 'latest', which does not lead to it: to go on from it 'ln -sfn %s "
                   "%s/latest'", c->first, tried, name, name, c->job.given);
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
        if (!j->path[0]) return lk_checkpoint_agree(j, j->rank == 0 ? none_found(c) : LK_OK);
        if (wrong[0] && j->rank == 0 && c->report) {
            snprintf(text, sizeof text, "%s; trying %.200s, the one before it", wrong,
                     last_part(j->path));
            c->report(c->context, text);
        }
        lk_status status = look(j);
        if (status == LK_OK) break;
        if (status != LK_E_INPUT && status != LK_E_SYSTEM) return status;
        LK_TRY(lk_checkpoint_agree(j, pass_over(c, status, wrong)));
    }
    const char *note = lk_h5_note(j->path);
    if (note[0] && j->rank == 0 && c->report) c->report(c->context, note);
    return LK_OK;
}

lk_status lk_checkpoint_choose(lk_io *io, MPI_Comm world, const char *directory,
                               void (*report)(void *context, const char *text), void *context,
                               lk_checkpoint_choice *result)
{
    choice c = {.job = {.given = directory}, .left_out = LK_CHECKPOINT_NONE, .report = report,
                .context = context};
    lk_status status = lk_checkpoint_run(io, world, choose, &c.job);
    for (int i = 0; i < c.candidates; i++) free(c.candidate[i]);
    free(c.candidate);
    lk_checkpoint_choice made = {.damaged = c.damaged.step, .damaged_count = c.damaged.count};
    if (status == LK_OK && !(made.path = strdup(c.job.path)))
        status = lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) *result = made;
    else lk_checkpoint_choice_clear(&made);
    return status;
}

void lk_checkpoint_choice_clear(lk_checkpoint_choice *c)
{
    free(c->path);
    free(c->damaged);
    *c = (lk_checkpoint_choice){NULL, NULL, 0};
}

/* ---- going on from it ------------------------------------------------------------------------ */

/* Under a name that nothing has yet. */
static lk_status set_aside(const char *directory, uint64_t step, char *text, size_t size)
{
    char name[LK_CHECKPOINT_NAME], path[PATH_MAX], aside[PATH_MAX + 40];
    struct stat s;
    lk_checkpoint_dir_name(step, name);
    int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return lk_fail(LK_E_INPUT, "%s: the path is too long; work with a shorter one", directory);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    for (int i = 2; lstat(aside, &s) == 0; i++)
        snprintf(aside, sizeof aside, "%s.damaged-%d", path, i);
    if (rename(path, aside) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot rename the damaged checkpoint to %s: %s; %s", path,
                       last_part(aside), strerror(errno),
                       lk_advice_of_errno(errno, "rename it by hand"));
    snprintf(text, size, "the damaged checkpoint is kept as %.1000s; remove it when it is not "
             "wanted", aside);
    return LK_OK;
}

lk_status lk_checkpoint_adopt(const char *directory, const lk_checkpoint_choice *c,
                              void (*report)(void *context, const char *text), void *context)
{
    uint64_t step;
    char *target = NULL, text[1200];
    LK_TRY(lk_checkpoint_dir_follow(directory, "latest", &target));
    bool led = target && strcmp(target, c->path) == 0;
    free(target);
    if (!led && step_in(directory, c->path, &step))
        LK_TRY(lk_checkpoint_dir_point(directory, last_part(c->path)));
    for (int i = 0; i < c->damaged_count; i++) {
        LK_TRY(set_aside(directory, c->damaged[i], text, sizeof text));
        if (report) report(context, text);
    }
    return c->damaged_count > 0 ? lk_replace_sync(directory) : LK_OK;
}

/* ---- the one before -------------------------------------------------------------------------- */

bool lk_checkpoint_before(const char *path, char *before, size_t size)
{
    lk_checkpoint_steps list = {0, 0, NULL};
    char *file = NULL, name[LK_CHECKPOINT_NAME];
    uint64_t step;
    int i = 0;
    bool found = false;
    if (lk_checkpoint_resolve(path, &file) == LK_OK && strrchr(file, '/') &&
        lk_checkpoint_dir_step(last_part(file), &step)) {
        *strrchr(file, '/') = '\0';
        if (lk_checkpoint_dir_list(file, &list) != LK_OK) list.count = 0;
        while (i < list.count && list.step[i] >= step) i++;
        found = i < list.count;
    }
    if (found) {
        lk_checkpoint_dir_name(list.step[i], name);
        int n = snprintf(before, size, "%s/%s", file, name);
        found = n >= 0 && (size_t)n < size;
    }
    free(file);
    lk_checkpoint_steps_clear(&list);
    return found;
}

void lk_checkpoint_name_before(const char *path)
{
    char text[1500], before[400];
    snprintf(text, sizeof text, "%.1100s", lk_error_text());
    lk_error_clear();
    bool found = lk_checkpoint_before(path, before, sizeof before);
    lk_error_clear();
    if (found) lk_fail(LK_E_INPUT, "%s; the checkpoint before it is %s", text, before);
    else lk_fail(LK_E_INPUT, "%s", text);
}
