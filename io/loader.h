/* The loader: brings a rank's samples to its device.
 *
 * The rows of a split are cut into `leaves` shards of equal length; leaf l draws samples of `span`
 * consecutive rows (text: context+1 tokens; images: one) from shard l only. Small data: the shards
 * of the rank's leaves are read once and stay in one device buffer per field, and the graph picks
 * samples there. Large data: the I/O thread reads the samples of the next step into a pinned
 * buffer while this step runs. Both pick the same samples: sample b of leaf l at step s begins at
 * row lk_sample_row(s, batch, b, shard - (span - 1), seed, purpose, l) of its shard
 * (base/philox.h). */
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
    int64_t span;           /* rows of a sample */
    int64_t resident_limit; /* keep resident when the rank's shards are at most this many bytes */
} lk_loader_options;

/* What a loader holds, in bytes. */
typedef struct lk_loader_sizes {
    bool resident;
    int64_t shard_rows;   /* of one leaf */
    struct {
        size_t leaf;      /* streaming: one leaf's samples of a step; resident: 0 */
        size_t device;    /* of the field's device buffer */
    } field[LK_DATASET_FIELDS];
    size_t device_bytes;  /* of all fields */
    size_t pinned_bytes;  /* streaming: two buffers of device_bytes */
} lk_loader_sizes;
/* LK_E_INPUT: a shard shorter than one batch of samples. Reads no rows. */
lk_status lk_loader_measure(const lk_dataset *d, const lk_loader_options *o, lk_loader_sizes *s);

/* Rows of the split at which the samples of step `step` begin, of all leaves whatever this rank's
 * are: rows [leaves * batch], leaf by leaf. */
void lk_loader_rows(const lk_dataset *d, const lk_loader_options *o, uint64_t step, int64_t *rows);

/* LK_E_INPUT: as lk_loader_measure, or rows that cannot be read. Not collective after the
 * dataset. */
lk_status lk_loader_open(lk_dataset *d, lk_device *device, const lk_loader_options *o,
                         lk_loader **loader);
void lk_loader_close(lk_loader *l); /* takes NULL */
/* Device address of a field's input of local leaf `leaf` (resident: the same for all, the shards of
 * the local leaves one after the other; streaming: [batch, span] rows). */
void *lk_loader_input(lk_loader *l, int field, int local_leaf);
/* Streaming: enqueue the upload of step `step`'s samples for all local leaves and start reading
 * those of step+1. Resident: nothing. Called before the step is replayed. */
lk_status lk_loader_feed(lk_loader *l, uint64_t step);

/* Row of the split at which sample `b` of the batch of global leaf `leaf` begins in step `step`. */
int64_t lk_loader_sample(const lk_loader *l, uint64_t step, int leaf, int64_t b);

#endif
