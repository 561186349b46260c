/* Saving: when, what, and how all ranks learn how it went. */
#include "train/save.h"

#include "base/clock.h"
#include "version.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATIENCE 10.0 /* seconds for a failure on one rank to reach the others' I/O threads */

struct lk_save {
    lk_save_options o;
    lk_checkpoint_snapshot *snapshot;
    bool under_way;
    lk_save_totals total;
};

lk_status lk_save_open(const lk_save_options *o, lk_save **save)
{
    lk_save *s = calloc(1, sizeof *s);
    lk_checkpoint_keep keep = {o->run->checkpoint.keep, o->run->checkpoint.keep_every};
    LK_TRY(lk_comm_agree(o->comm, s ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    s->o = *o;
    lk_status status = lk_checkpoint_snapshot_open(o->io, o->comm->world, o->directory, keep,
                                                   o->store, &s->snapshot);
    status = lk_comm_agree(o->comm, status);
    if (status != LK_OK) {
        free(s);
        return status;
    }
    *save = s;
    return LK_OK;
}

lk_status lk_save_room(const lk_save *s) { return lk_checkpoint_snapshot_room(s->snapshot); }

void lk_save_close(lk_save *s)
{
    if (!s) return;
    lk_checkpoint_snapshot_close(s->snapshot);
    free(s);
}

lk_save_totals lk_save_total(const lk_save *s) { return s->total; }

/* ---- how it went ----------------------------------------------------------------------------- */

/* The job is at an end on all ranks, which have the same status. */
static lk_status take_outcome(lk_save *s)
{
    lk_checkpoint_figures f;
    s->under_way = false;
    LK_TRY(lk_comm_agree(s->o.comm, lk_checkpoint_snapshot_wait(s->snapshot, &f)));
    s->total.saves++;
    s->total.bytes += (double)f.bytes;
    s->total.seconds += f.seconds;
    if (s->o.saved) s->o.saved(s->o.context, &f);
    return LK_OK;
}

enum { BUSY, FAILING, LATE, COUNTS };

/* How many ranks are in which state; the same answer on all. */
static lk_status look(lk_save *s, double since, int32_t count[COUNTS])
{
    lk_checkpoint_progress p = lk_checkpoint_snapshot_look(s->snapshot);
    count[BUSY] = p != LK_CHECKPOINT_DONE;
    count[FAILING] = p == LK_CHECKPOINT_FAILING;
    count[LATE] = since > 0 && lk_clock_seconds() - since > PATIENCE;
    return lk_comm_sum_ints(s->o.comm, count, COUNTS);
}

/* One rank failed inside a collective call, others are still in it. Nothing can be closed. */
static lk_status give_up(lk_save *s)
{
    lk_status status =
        lk_checkpoint_snapshot_look(s->snapshot) == LK_CHECKPOINT_FAILING ? LK_E_SYSTEM : LK_OK;
    status = lk_comm_agree(s->o.comm, status);
    if (status != LK_OK) lk_comm_give_up(s->o.comm);
    return status; /* LK_OK: the others came out of it at the last moment */
}

/* `wait` false: return while all is well. Once a rank has failed the end is waited for anyhow. */
static lk_status settle(lk_save *s, bool wait)
{
    int32_t count[COUNTS];
    double failing = 0;
    for (long pause = 100000; s->under_way; pause = pause < 10000000 ? 2 * pause : pause) {
        LK_TRY(look(s, failing, count));
        if (count[BUSY] == 0) return take_outcome(s);
        if (count[LATE] > 0 && count[FAILING] > 0) LK_TRY(give_up(s));
        lk_error_clear(); /* the outcome has the text */
        if (count[FAILING] > 0 && failing == 0) failing = lk_clock_seconds();
        if (!wait && failing == 0) return LK_OK;
        nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
    }
    return LK_OK;
}

lk_status lk_save_poll(lk_save *s) { return settle(s, false); }

lk_status lk_save_finish(lk_save *s)
{
    double begun = lk_clock_seconds();
    lk_status status = settle(s, true);
    s->total.stall += lk_clock_seconds() - begun;
    return status;
}

/* ---- beginning ------------------------------------------------------------------------------- */

static lk_status describe(const lk_save *s, lk_checkpoint_info *info)
{
    const lk_save_options *o = &s->o;
    *info = (lk_checkpoint_info){
        .seed = (uint64_t)o->run->seed,
        .leaves = o->leaves,
        .code_version = (char *)LK_CODE_VERSION,
        .build = (char *)LK_BUILD,
        .dataset_path = o->data->path,
        .dataset_digest = (char *)o->data->digest,
        .reference = o->data->reference,
        .kind = o->data->kind,
        .image = o->data->image,
        .characters = o->data->characters,
        .vocabulary = o->data->vocabulary,
        .vocabulary_size = o->data->vocabulary_size,
    };
    LK_TRY(lk_store_get_state(o->store, &info->state));
    LK_TRY(lk_run_format(o->run, &info->run_file));
    return o->store->device->backend->choices_get(o->store->device, &info->choices);
}

lk_status lk_save_begin(lk_save *s, uint64_t validated,
                        const lk_checkpoint_log log[LK_CHECKPOINT_LOGS], uint64_t good,
                        char spoilt[LK_CHECKPOINT_SPOILT])
{
    lk_comm *c = s->o.comm;
    lk_checkpoint_info info;
    LK_TRY(lk_save_finish(s));
    double begun = lk_clock_seconds();
    lk_status status = lk_comm_agree(c, describe(s, &info));
    info.validated = validated;
    memcpy(info.log, log, sizeof info.log);
    if (status == LK_OK)
        status = lk_comm_agree(c, lk_checkpoint_snapshot_begin(s->snapshot, &info, good, spoilt));
    s->under_way = status == LK_OK && !spoilt[0];
    free(info.run_file);
    free(info.choices);
    s->total.stall += lk_clock_seconds() - begun;
    return status;
}
