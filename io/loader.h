/* The loader: brings a rank's samples to its device.
 *
 * Tokens of a split are cut into `leaves` shards of equal length; leaf l draws windows of
 * context+1 tokens from shard l only. Small data: the shards of the rank's leaves are read once and
 * stay in one device buffer, and the windows op picks samples there. Large data: the I/O thread
 * reads the windows of the next step into a pinned buffer while this step runs. Both pick the same
 * samples: sample b of leaf l at step s is window lk_permute(pos % n, n, seed, purpose, l, pos / n)
 * of its shard, n = shard - context, pos = s*batch + b. */
#ifndef LK_IO_LOADER_H
#define LK_IO_LOADER_H

#include "backend/backend.h"
#include "io/dataset.h"

typedef struct lk_loader lk_loader;

typedef struct lk_loader_options {
    lk_split split;
    uint32_t purpose;       /* LK_PURPOSE_ORDER or LK_PURPOSE_EVAL */
    uint64_t seed;
    int leaves, first_leaf, local_leaves;
    int64_t batch;          /* samples per leaf */
    int64_t context;
    int64_t resident_limit; /* keep resident when the rank's shards are at most this many bytes */
} lk_loader_options;

/* What a loader holds. */
typedef struct lk_loader_sizes {
    bool resident;
    int64_t shard_tokens; /* of one leaf */
    size_t leaf_bytes;    /* streaming: one leaf's windows of a step; resident: 0 */
    size_t device_bytes;
    size_t pinned_bytes;  /* streaming: two buffers of device_bytes */
} lk_loader_sizes;
/* LK_E_INPUT: a shard shorter than one batch of windows. Reads no tokens. */
lk_status lk_loader_measure(const lk_dataset *d, const lk_loader_options *o, lk_loader_sizes *s);

/* LK_E_INPUT: as lk_loader_measure, or tokens that cannot be read. Not collective after the
 * dataset. */
lk_status lk_loader_open(lk_dataset *d, lk_device *device, const lk_loader_options *o,
                         lk_loader **loader);
void lk_loader_close(lk_loader *l); /* takes NULL */
/* Device address of the data input of local leaf `leaf` (resident: the same for all). */
void *lk_loader_input(lk_loader *l, int local_leaf);
/* Streaming: enqueue the upload of step `step`'s windows for all local leaves and start reading
 * those of step+1. Resident: nothing. Called before the step is replayed. */
lk_status lk_loader_feed(lk_loader *l, uint64_t step);

#endif
