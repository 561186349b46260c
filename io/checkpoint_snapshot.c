/* Saves while training goes on: a snapshot in pinned memory, written by the I/O thread.
 *
 * The snapshot holds pieces of the flat device buffers: whole datasets that this rank digests, and
 * the rows that it writes of the others. Neighbouring pieces are one copy. Invariants: between
 * begin() and the end of the job the snapshot, the job and its communicator belong to the I/O
 * thread, but for `failed` and `failure`; before and after to the caller's. */
#include "io/checkpoint_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = LK_CHECKPOINT_GROUPS, GAP = 4096, NONE = -1 }; /* floats between joined pieces */

static const lk_region region_of[GROUPS] = {LK_REGION_PARAM, LK_REGION_MOMENT1, LK_REGION_MOMENT2,
                                            LK_REGION_EMA};

/* Floats [at, at + count) of a group's buffer, at `host` floats of the pinned memory. */
typedef struct piece {
    int group, item;
    int64_t at, count, host;
} piece;

/* A snapshot's layout: pieces that items point to, and the copies that fill them. */
typedef struct layout {
    piece *need, *copy;
    int needs, copies;
    int64_t floats;
} layout;

struct lk_checkpoint_snapshot {
    lk_checkpoint_job job;
    lk_store *store;
    char *directory;
    layout layout;
    float *pinned;
    long ticket; /* NONE: no save was begun */
};

/* ---- the snapshot ---------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const piece *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* What this rank needs of every dataset of parameters, in order of place; how many. */
static int list_pieces(const lk_checkpoint_job *j, piece *need)
{
    int n = 0;
    for (int i = 0; i < j->tensors; i++) {
        const lk_checkpoint_item *x = &j->item[i];
        int64_t row = (int64_t)(x->row / sizeof(float));
        bool all = lk_checkpoint_mine(j, i);
        int64_t rows = (int64_t)(all ? x->dim[0] : x->count), first = all ? 0 : (int64_t)x->first;
        if (rows > 0) need[n++] = (piece){x->group, i, x->offset + first * row, rows * row, 0};
    }
    qsort(need, (size_t)n, sizeof *need, by_place);
    return n;
}

/* Give each piece its place in the pinned memory and join neighbours into copies; floats in all. */
static int64_t join_pieces(piece *need, int n, piece *copy, int *copies)
{
    int64_t total = 0;
    *copies = 0;
    for (int i = 0; i < n; i++) {
        piece *last = *copies > 0 ? &copy[*copies - 1] : NULL;
        if (!last || last->group != need[i].group || need[i].at - (last->at + last->count) > GAP) {
            last = &copy[(*copies)++];
            *last = need[i];
            last->host = total;
        } else {
            last->count = need[i].at + need[i].count - last->at;
        }
        need[i].host = last->host + need[i].at - last->at;
        total = last->host + last->count;
    }
    return total;
}

static void point_items(lk_checkpoint_job *j, const piece *need, int n, float *pinned)
{
    for (int i = 0; i < n; i++) {
        lk_checkpoint_item *x = &j->item[need[i].item];
        char *begin = (char *)(pinned + need[i].host);
        bool all = lk_checkpoint_mine(j, need[i].item);
        x->data = all ? begin : NULL;
        x->rows = all ? begin + x->first * x->row : begin;
    }
}

/* On failure too free both lists of `l`. */
static lk_status plan(lk_checkpoint_job *j, layout *l)
{
    LK_TRY(lk_checkpoint_list_params(j));
    LK_TRY(lk_checkpoint_deal(j));
    l->need = calloc((size_t)j->tensors + 1, sizeof *l->need);
    l->copy = calloc((size_t)j->tensors + 1, sizeof *l->copy);
    if (!l->need || !l->copy) return lk_fail(LK_E_SYSTEM, "out of memory");
    l->needs = list_pieces(j, l->need);
    l->floats = join_pieces(l->need, l->needs, l->copy, &l->copies);
    return LK_OK;
}

static void take_groups(lk_checkpoint_job *j, bool training, bool ema)
{
    memcpy(j->has, (bool[GROUPS]){true, training, training, ema}, sizeof j->has);
}

lk_status lk_checkpoint_snapshot_bytes(const lk_params *params, const lk_store_options *store,
                                       int rank, int ranks, size_t *bytes)
{
    lk_checkpoint_job j = {.params = params, .rank = rank, .ranks = ranks};
    layout l = {.need = NULL};
    take_groups(&j, store->training, store->ema);
    lk_status status = plan(&j, &l);
    if (status == LK_OK) *bytes = (size_t)l.floats * sizeof(float);
    free(l.need);
    free(l.copy);
    free(j.item);
    return status;
}

/* ---- open, close ----------------------------------------------------------------------------- */

static lk_status set_up(lk_checkpoint_snapshot *s, const char *directory)
{
    lk_checkpoint_job *j = &s->job;
    const lk_backend *b = s->store->device->backend;
    s->directory = strdup(directory);
    if (!s->directory) return lk_fail(LK_E_SYSTEM, "out of memory");
    j->given = s->directory;
    LK_TRY(plan(j, &s->layout));
    LK_TRY(b->host_alloc(s->store->device, (size_t)s->layout.floats * sizeof(float),
                         (void **)&s->pinned));
    point_items(j, s->layout.need, s->layout.needs, s->pinned);
    return LK_OK;
}

lk_status lk_checkpoint_snapshot_open(lk_io *io, MPI_Comm world, const char *directory,
                                      lk_checkpoint_keep keep, lk_store *store,
                                      lk_checkpoint_snapshot **snapshot)
{
    MPI_Comm comm;
    LK_TRY(lk_h5_comm(world, &comm));
    lk_checkpoint_snapshot *s = calloc(1, sizeof *s);
    lk_status status = lk_h5_agree(comm, s ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory"));
    if (status != LK_OK) {
        free(s);
        MPI_Comm_free(&comm);
        return status;
    }
    s->ticket = NONE;
    s->job = (lk_checkpoint_job){
        .io = io, .comm = comm, .params = store->params, .keep = keep, .file = -1, .fd = -1};
    MPI_Comm_rank(comm, &s->job.rank);
    MPI_Comm_size(comm, &s->job.ranks);
    take_groups(&s->job, store->training, store->ema);
    s->store = store;
    status = lk_h5_agree(comm, set_up(s, directory));
    if (status != LK_OK) {
        lk_checkpoint_snapshot_close(s);
        return status;
    }
    *snapshot = s;
    return LK_OK;
}

lk_status lk_checkpoint_snapshot_room(const lk_checkpoint_snapshot *s)
{
    return lk_checkpoint_check_room(&s->job);
}

void lk_checkpoint_snapshot_close(lk_checkpoint_snapshot *s)
{
    if (!s) return;
    lk_checkpoint_job *j = &s->job;
    if (s->ticket != NONE) {
        bool clean = lk_error_text()[0] == '\0';
        lk_io_wait(j->io, s->ticket);
        if (clean) lk_error_clear();
    }
    if (s->pinned) s->store->device->backend->host_release(s->store->device, s->pinned);
    MPI_Comm_free(&j->comm);
    free(s->layout.need);
    free(s->layout.copy);
    free(s->directory);
    free(j->item);
    free(j->shared);
    free(j->names);
    free(s);
}

/* ---- saving ---------------------------------------------------------------------------------- */

static lk_status write_job(void *argument)
{
    lk_checkpoint_job *j = argument;
    return lk_checkpoint_write(j);
}

static lk_status copy(lk_checkpoint_snapshot *s)
{
    lk_device *d = s->store->device;
    for (int i = 0; i < s->layout.copies; i++) {
        const piece *c = &s->layout.copy[i];
        const float *from = (const float *)s->store->buffer[region_of[c->group]] + c->at;
        LK_TRY(d->backend->download(d, s->pinned + c->host, from, (size_t)c->count * sizeof *from));
    }
    return d->backend->sync(d);
}

/* A rank without memory for the job takes part in the first agreement of the others' jobs, which
 * then end with its failure. */
static lk_status submit(lk_checkpoint_snapshot *s)
{
    long ticket = NONE;
    lk_status status = lk_io_submit(s->job.io, write_job, &s->job, &ticket);
    if (status != LK_OK) return lk_checkpoint_agree(&s->job, status);
    s->ticket = ticket;
    return LK_OK;
}

static bool all_finite(const float *x, size_t n)
{
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest < 0x7f800000;
}

/* The name of the first parameter, or moving average of one, that holds inf or nan; else "". The
 * same on all ranks, of which each looks at what it digests. */
static lk_status find_spoilt(const lk_checkpoint_snapshot *s, char spoilt[LK_CHECKPOINT_SPOILT])
{
    const lk_checkpoint_job *j = &s->job;
    int mine = INT_MAX, first;
    for (int i = 0; i < j->tensors && mine == INT_MAX; i++) {
        lk_region region = region_of[j->item[i].group];
        bool used = region == LK_REGION_PARAM || region == LK_REGION_EMA;
        if (used && lk_checkpoint_mine(j, i) &&
            !all_finite(j->item[i].data, j->item[i].bytes / sizeof(float)))
            mine = i;
    }
    if (MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, j->comm) != MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "%s: MPI_Allreduce failed", s->directory);
    snprintf(spoilt, LK_CHECKPOINT_SPOILT, "%s", first == INT_MAX ? "" : j->item[first].path);
    return LK_OK;
}

lk_status lk_checkpoint_snapshot_begin(lk_checkpoint_snapshot *s, const lk_checkpoint_info *info,
                                       uint64_t good, char spoilt[LK_CHECKPOINT_SPOILT])
{
    lk_checkpoint_job *j = &s->job;
    if (s->ticket != NONE) /* on all ranks; the communicator is the I/O thread's now */
        return lk_fail(LK_E_INTERNAL, "a save was begun before the last one was waited for");
    j->info = *info;
    j->good = good;
    j->failed = false;
    LK_TRY(lk_checkpoint_share_info(j));
    LK_TRY(lk_h5_agree(j->comm, copy(s)));
    LK_TRY(find_spoilt(s, spoilt));
    return spoilt[0] ? LK_OK : submit(s);
}

lk_checkpoint_progress lk_checkpoint_snapshot_look(lk_checkpoint_snapshot *s)
{
    if (s->ticket == NONE || lk_io_done(s->job.io, s->ticket)) return LK_CHECKPOINT_DONE;
    if (!s->job.failed) return LK_CHECKPOINT_BUSY;
    lk_fail(LK_E_SYSTEM, "%s", s->job.failure);
    return LK_CHECKPOINT_FAILING;
}

lk_status lk_checkpoint_snapshot_wait(lk_checkpoint_snapshot *s, lk_checkpoint_figures *figures)
{
    if (s->ticket == NONE) return lk_fail(LK_E_INTERNAL, "no save was begun");
    long ticket = s->ticket;
    s->ticket = NONE;
    LK_TRY(lk_io_wait(s->job.io, ticket));
    *figures = s->job.figures;
    return LK_OK;
}
