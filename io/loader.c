/* The loader: resident shards, or windows read one step ahead.
 *
 * Streaming uses two pinned buffers, step s in buffer s mod 2, and one device buffer: uploads and
 * the step that reads them lie on one stream in order. A pinned buffer is refilled only after the
 * event that follows its upload, so the I/O thread never writes under a copy in flight. */
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
    void *host;
} prefetch;

struct lk_loader {
    lk_dataset *data;
    lk_device *device;
    lk_loader_options o;
    bool resident;
    int64_t shard; /* tokens of one leaf */
    size_t token;  /* bytes */
    size_t leaf_bytes, bytes; /* of the device buffer: one leaf (streaming), all */
    void *memory;
    prefetch ahead[2];
};

static lk_status load_shards(lk_loader *l)
{
    const lk_backend *b = l->device->backend;
    int64_t first = (int64_t)l->o.first_leaf * l->shard, n = l->shard * l->o.local_leaves;
    int64_t piece = STAGING / (int64_t)l->token < n ? STAGING / (int64_t)l->token : n;
    void *host = NULL;
    LK_TRY(b->host_alloc(l->device, (size_t)piece * l->token, &host));
    lk_status status = LK_OK;
    for (int64_t at = 0; at < n && status == LK_OK; at += piece) {
        int64_t count = n - at < piece ? n - at : piece;
        status = lk_dataset_read(l->data, l->o.split, first + at, count, host);
        if (status == LK_OK)
            status = b->upload(l->device, (char *)l->memory + (size_t)at * l->token, host,
                               (size_t)count * l->token);
        if (status == LK_OK) status = b->sync(l->device);
    }
    b->host_release(l->device, host);
    return status;
}

/* On the I/O thread: the windows of all samples of one step of the local leaves. */
static lk_status read_windows(void *argument)
{
    const prefetch *p = argument;
    const lk_loader *l = p->loader;
    const lk_loader_options *o = &l->o;
    uint64_t n = (uint64_t)(l->shard - o->context), batch = (uint64_t)o->batch;
    char *out = p->host;
    for (int i = 0; i < o->local_leaves; i++) {
        uint32_t leaf = (uint32_t)(o->first_leaf + i);
        for (uint64_t b = 0; b < batch; b++) {
            uint64_t at = p->step * batch + b;
            uint64_t window = lk_permute(at % n, n, o->seed, o->purpose, leaf, (uint32_t)(at / n));
            LK_TRY(lk_dataset_read(l->data, o->split, (int64_t)leaf * l->shard + (int64_t)window,
                                   o->context + 1, out));
            out += (size_t)(o->context + 1) * l->token;
        }
    }
    return LK_OK;
}

static lk_status check(const lk_dataset *d, const lk_loader_options *o, int64_t shard)
{
    const char *split = o->split == LK_TRAIN ? "training" : "validation";
    if (o->leaves < 1 || o->local_leaves < 1 || o->first_leaf < 0 || o->batch < 1 ||
        o->context < 1 || o->local_leaves > o->leaves - o->first_leaf)
        return lk_fail(LK_E_INTERNAL, "loader: leaves %d+%d of %d, batch %lld, context %lld",
                       o->first_leaf, o->local_leaves, o->leaves, (long long)o->batch,
                       (long long)o->context);
    if (shard - o->context < o->batch)
        return lk_fail(LK_E_INPUT, "%s: expected at least %lld %s tokens for each of %d leaves "
                       "(context %lld, batch %lld of a leaf), found %lld; use more text, fewer "
                       "leaves or a shorter context", d->path, (long long)(o->context + o->batch),
                       split, o->leaves, (long long)o->context, (long long)o->batch,
                       (long long)shard);
    return LK_OK;
}

static lk_status set_up(lk_loader *l)
{
    const lk_backend *b = l->device->backend;
    LK_TRY(b->alloc(l->device, l->bytes, &l->memory));
    if (l->resident) return load_shards(l);
    for (int i = 0; i < 2; i++) LK_TRY(b->host_alloc(l->device, l->bytes, &l->ahead[i].host));
    return LK_OK;
}

lk_status lk_loader_measure(const lk_dataset *d, const lk_loader_options *o, lk_loader_sizes *s)
{
    int64_t shard = d->tokens[o->split] / (o->leaves > 0 ? o->leaves : 1);
    LK_TRY(check(d, o, shard));
    size_t token = lk_dtype_size(d->dtype), shards = (size_t)(shard * o->local_leaves) * token;
    bool resident = o->resident_limit >= 0 && shards <= (size_t)o->resident_limit;
    size_t leaf = resident ? 0 : (size_t)(o->batch * (o->context + 1)) * token;
    size_t bytes = resident ? shards : leaf * (size_t)o->local_leaves;
    *s = (lk_loader_sizes){resident, shard, leaf, bytes, resident ? 0 : 2 * bytes};
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
    l->resident = sizes.resident;
    l->shard = sizes.shard_tokens;
    l->token = lk_dtype_size(d->dtype);
    l->leaf_bytes = sizes.leaf_bytes;
    l->bytes = sizes.device_bytes;
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
    for (int i = 0; i < 2; i++)
        if (l->ahead[i].host) b->host_release(l->device, l->ahead[i].host);
    if (l->memory) b->release(l->device, l->memory);
    free(l);
}

void *lk_loader_input(lk_loader *l, int local_leaf)
{
    return (char *)l->memory + (size_t)local_leaf * l->leaf_bytes;
}

/* Start reading `step` into its buffer. */
static lk_status start(lk_loader *l, uint64_t step)
{
    prefetch *p = &l->ahead[step % 2];
    discard(l, p);
    if (p->uploaded) LK_TRY(l->device->backend->wait(l->device, EVENT + (int)(step % 2)));
    p->step = step;
    return lk_io_submit(l->data->io, read_windows, p, &p->ticket);
}

lk_status lk_loader_feed(lk_loader *l, uint64_t step)
{
    if (l->resident) return LK_OK;
    const lk_backend *b = l->device->backend;
    prefetch *p = &l->ahead[step % 2];
    if (p->ticket == NONE || p->step != step) LK_TRY(start(l, step));
    long ticket = p->ticket;
    p->ticket = NONE;
    LK_TRY(lk_io_wait(l->data->io, ticket));
    LK_TRY(b->upload(l->device, l->memory, p->host, l->bytes));
    LK_TRY(b->record(l->device, EVENT + (int)(step % 2)));
    p->uploaded = true;
    return start(l, step + 1);
}
