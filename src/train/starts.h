/* DIR/starts.jsonl: what each start of a run ran on, one JSON object a line, oldest first:
 *
 *   time             UTC, ISO 8601
 *   step             steps done before this start
 *   checkpoint       resumed from; null: the run began
 *   code_version, build, libraries   this lockstep, and {"mpi", "hdf5"}; that of a device is in its
 *                    description
 *   dataset, dataset_digest
 *   ranks, leaves, threads           threads: OpenMP, of rank 0
 *   hosts, devices                   lists by rank */
#ifndef LK_TRAIN_STARTS_H
#define LK_TRAIN_STARTS_H

#include "comm/comm.h"
#include "io/dataset.h"

typedef struct lk_starts_entry {
    const lk_dataset *data;
    lk_device *device;
    int leaves;
    uint64_t step;
    const char *checkpoint; /* or NULL */
} lk_starts_entry;

/* Append a line for this start; on disk when it returns. Rank 0 writes, into `directory`, which is
 * there. Collective. */
lk_status lk_starts_append(lk_comm *comm, lk_io *io, const char *directory,
                           const lk_starts_entry *e);

#endif
