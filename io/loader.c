/* The loader: resident shards, or samples read one step ahead.
 *
 * Streaming uses two pinned buffers per field, step s in buffer s mod 2, and one device buffer:
 * uploads and the step that reads them lie on one stream in order. A pinned buffer is refilled only
 * after the event that follows its upload: the I/O thread never writes under a copy in flight. */
#include "io/loader.h"
#include "base/philox.h"

#include <stdlib.h>

enum { EVENT = 6, NONE = -1 };        /* events EVENT and EVENT+1 of the device are the loader's */
#define STAGING ((int64_t)64 << 20)   /* bytes: pieces in which shards go to the device */

typedef struct prefetch {
    struct lk_loader *loader;
    uint64_t step;
    long ticket;   /* NONE: not being read */
    bool uploaded; /* its event was recorded */
    void *host[LK_DATASET_FIELDS];
} prefetch;

struct lk_loader {
    lk_dataset *data;
    lk_device *device;
    lk_loader_options o;
    lk_loader_sizes sizes;
    void *memory[LK_DATASET_FIELDS];
    prefetch ahead[2];
};

/* The shards of one field. */
static lk_status load_field(lk_loader *l, int f)
{
    const lk_backend *b = l->device->backend;
    int64_t shard = l->sizes.shard_rows, row = (int64_t)l->data->field[f].row_bytes;
    int64_t first = (int64_t)l->o.first_leaf * shard, n = shard * l->o.local_leaves;
    int64_t piece = row < STAGING ? STAGING / row : 1;
    void *host = NULL;
    if (piece > n) piece = n;
    LK_TRY(b->host_alloc(l->device, (size_t)(piece * row), &host));
    lk_status status = LK_OK;
    for (int64_t at = 0; at < n && status == LK_OK; at += piece) {
        int64_t count = n - at < piece ? n - at : piece;
        status = lk_dataset_read(l->data, l->o.split, f, first + at, count, host);
        if (status == LK_OK)
            status = b->upload(l->device, (char *)l->memory[f] + at * row, host,
                               (size_t)(count * row));
        if (status == LK_OK) status = b->sync(l->device);
    }
    b->host_release(l->device, host);
    return status;
}

/* Row of the split at which sample b of a leaf begins at a step. */
static int64_t sample_row(const lk_loader_options *o, int64_t shard, int leaf, uint64_t step,
                          int64_t b)
{
    return (int64_t)leaf * shard + lk_sample_row(step, o->batch, b, shard - (o->span - 1), o->seed,
                                                 o->purpose, leaf);
}

int64_t lk_loader_sample(const lk_loader *l, uint64_t step, int leaf, int64_t b)
{
    return sample_row(&l->o, l->sizes.shard_rows, leaf, step, b);
}

void lk_loader_rows(const lk_dataset *d, const lk_loader_options *o, uint64_t step, int64_t *rows)
{
    int64_t shard = d->rows[o->split] / o->leaves;
    for (int leaf = 0; leaf < o->leaves; leaf++)
        for (int64_t b = 0; b < o->batch; b++) *rows++ = sample_row(o, shard, leaf, step, b);
}

/* On the I/O thread: all samples of one step of the local leaves. */
static lk_status read_samples(void *argument)
{
    const prefetch *p = argument;
    const lk_loader *l = p->loader;
    const lk_loader_options *o = &l->o;
    char *out[LK_DATASET_FIELDS] = {NULL};
    for (int f = 0; f < l->data->fields; f++) out[f] = p->host[f];
    for (int i = 0; i < o->local_leaves; i++) {
        for (int64_t b = 0; b < o->batch; b++) {
            int64_t row = lk_loader_sample(l, p->step, o->first_leaf + i, b);
            for (int f = 0; f < l->data->fields; f++) {
                LK_TRY(lk_dataset_read(l->data, o->split, f, row, o->span, out[f]));
                out[f] += (size_t)o->span * l->data->field[f].row_bytes;
            }
        }
    }
    return LK_OK;
}

static lk_status too_short(const lk_dataset *d, const lk_loader_options *o, int64_t shard)
{
    bool held = o->split == LK_VALIDATION, text = d->kind == LK_TEXT_DATA;
    const char *split = held ? "validation" : "training";
    const char *more = held   ? "keep more for validation (import --validation), set eval.batches "
                                "to 0, or use"
                       : text ? "use more text,"
                              : "use more data,";
    if (!text)
        return lk_fail(LK_E_INPUT, "%s: expected at least %lld %s samples for each of %d leaves "
                       "(the batch of a leaf), found %lld; %s fewer leaves or a smaller batch",
                       d->path, (long long)(o->span - 1 + o->batch), split, o->leaves,
                       (long long)shard, more);
    return lk_fail(LK_E_INPUT, "%s: expected at least %lld %s tokens for each of %d leaves "
                   "(context %lld, batch %lld of a leaf), found %lld; %s fewer leaves or a shorter "
                   "context", d->path, (long long)(o->span - 1 + o->batch), split, o->leaves,
                   (long long)o->span - 1, (long long)o->batch, (long long)shard, more);
}

static lk_status check(const lk_dataset *d, const lk_loader_options *o, int64_t shard)
{
    if (o->leaves < 1 || o->local_leaves < 1 || o->first_leaf < 0 || o->batch < 1 ||
        o->span < 1 || o->local_leaves > o->leaves - o->first_leaf)
        return lk_fail(LK_E_INTERNAL, "loader: leaves %d+%d of %d, batch %lld, span %lld",
                       o->first_leaf, o->local_leaves, o->leaves, (long long)o->batch,
                       (long long)o->span);
    return shard - (o->span - 1) < o->batch ? too_short(d, o, shard) : LK_OK;
}

static lk_status set_up(lk_loader *l)
{
    const lk_backend *b = l->device->backend;
    for (int f = 0; f < l->data->fields; f++) {
        size_t bytes = l->sizes.field[f].device;
        LK_TRY(b->alloc(l->device, bytes, &l->memory[f]));
        if (l->sizes.resident) LK_TRY(load_field(l, f));
        for (int i = 0; i < 2 && !l->sizes.resident; i++)
            LK_TRY(b->host_alloc(l->device, bytes, &l->ahead[i].host[f]));
    }
    return LK_OK;
}

lk_status lk_loader_measure(const lk_dataset *d, const lk_loader_options *o, lk_loader_sizes *s)
{
    int64_t shard = d->rows[o->split] / (o->leaves > 0 ? o->leaves : 1);
    LK_TRY(check(d, o, shard));
    size_t shards = 0, rows = (size_t)(shard * o->local_leaves);
    for (int f = 0; f < d->fields; f++) shards += rows * d->field[f].row_bytes;
    lk_loader_sizes z = {
        .resident = o->resident_limit >= 0 && shards <= (size_t)o->resident_limit,
        .shard_rows = shard,
    };
    for (int f = 0; f < d->fields; f++) {
        size_t row = d->field[f].row_bytes;
        z.field[f].leaf = z.resident ? 0 : (size_t)(o->batch * o->span) * row;
        z.field[f].device = z.resident ? rows * row : z.field[f].leaf * (size_t)o->local_leaves;
        z.device_bytes += z.field[f].device;
    }
    z.pinned_bytes = z.resident ? 0 : 2 * z.device_bytes;
    *s = z;
    return LK_OK;
}

lk_status lk_loader_open(lk_dataset *d, lk_device *device, const lk_loader_options *o,
                         lk_loader **loader)
{
    lk_loader_sizes sizes;
    LK_TRY(lk_loader_measure(d, o, &sizes));
    lk_loader *l = calloc(1, sizeof *l);
    if (!l) return lk_fail(LK_E_SYSTEM, "out of memory for a loader");
    l->data = d;
    l->device = device;
    l->o = *o;
    l->sizes = sizes;
    for (int i = 0; i < 2; i++) l->ahead[i] = (prefetch){.loader = l, .ticket = NONE};
    lk_status status = set_up(l);
    if (status != LK_OK) {
        lk_loader_close(l);
        return status;
    }
    *loader = l;
    return LK_OK;
}

/* Wait for a read whose result is not wanted; its failure is nobody's. */
static void discard(lk_loader *l, prefetch *p)
{
    if (p->ticket == NONE) return;
    bool clean = lk_error_text()[0] == '\0';
    lk_io_wait(l->data->io, p->ticket);
    if (clean) lk_error_clear();
    p->ticket = NONE;
}

void lk_loader_close(lk_loader *l)
{
    if (!l) return;
    const lk_backend *b = l->device->backend;
    for (int i = 0; i < 2; i++) discard(l, &l->ahead[i]);
    b->sync(l->device); /* no copy may be in flight */
    for (int f = 0; f < LK_DATASET_FIELDS; f++) {
        for (int i = 0; i < 2; i++)
            if (l->ahead[i].host[f]) b->host_release(l->device, l->ahead[i].host[f]);
        if (l->memory[f]) b->release(l->device, l->memory[f]);
    }
    free(l);
}

void *lk_loader_input(lk_loader *l, int field, int local_leaf)
{
    return (char *)l->memory[field] + (size_t)local_leaf * l->sizes.field[field].leaf;
}

/* Start reading `step` into its buffer. */
static lk_status start(lk_loader *l, uint64_t step)
{
    prefetch *p = &l->ahead[step % 2];
    discard(l, p);
    if (p->uploaded) LK_TRY(l->device->backend->wait(l->device, EVENT + (int)(step % 2)));
    p->step = step;
    return lk_io_submit_independent(l->data->io, read_samples, p, &p->ticket);
}

lk_status lk_loader_feed(lk_loader *l, uint64_t step)
{
    if (l->sizes.resident) return LK_OK;
    const lk_backend *b = l->device->backend;
    prefetch *p = &l->ahead[step % 2];
    if (p->ticket == NONE || p->step != step) LK_TRY(start(l, step));
    long ticket = p->ticket;
    p->ticket = NONE;
    LK_TRY(lk_io_wait(l->data->io, ticket));
    for (int f = 0; f < l->data->fields; f++)
        LK_TRY(b->upload(l->device, l->memory[f], p->host[f], l->sizes.field[f].device));
    LK_TRY(b->record(l->device, EVENT + (int)(step % 2)));
    p->uploaded = true;
    return start(l, step + 1);
}
