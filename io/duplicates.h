/* Which samples of a dataset are there twice, by their 128-bit hashes, in flat memory.
 *
 * Every sample gives a record of 24 bytes. Records are dealt out by hash to partitions of a size
 * that fits memory, each owned by one rank; they are kept in memory when that is little, else in
 * unnamed files of a directory. Equal samples meet in one partition, which is sorted by hash and
 * then by row, so that the result depends neither on the ranks nor on the order of the records.
 * (Two different samples with one hash: for a thousand million samples a chance of 1e-21.) */
#ifndef LK_IO_DUPLICATES_H
#define LK_IO_DUPLICATES_H

#include "base/digest.h"
#include "io/dataset.h"

#include <mpi.h>

enum { LK_TWINS = 5 }; /* examples kept */

/* A sample: its hash; place: split, row and label in one number, ordered like that. */
typedef struct lk_sample_record {
    lk_hash hash;
    uint64_t place;
} lk_sample_record;
static inline lk_sample_record lk_sample_record_of(lk_hash hash, lk_split split, int64_t row,
                                                   uint16_t label)
{
    return (lk_sample_record){hash, (uint64_t)split << 63 | (uint64_t)row << 16 | label};
}

/* Samples that equal an earlier one, and the first rows of them with the earlier one's row. */
typedef struct lk_twins {
    int64_t count;
    int64_t conflicts; /* of these with another label */
    struct {
        int64_t row, first;
    } example[LK_TWINS]; /* by row; as many as there are, at most LK_TWINS */
} lk_twins;

typedef struct lk_duplicates_result {
    lk_twins within[2]; /* of the same split, by lk_split */
    lk_twins overlap;   /* validation samples that are in train; `first` is the row there */
} lk_duplicates_result;

typedef struct lk_duplicates lk_duplicates;

/* `records`: how many there will be over all ranks, about. `directory`: for the files. Collective,
 * as all that follows. */
lk_status lk_duplicates_open(MPI_Comm world, int64_t records, const char *directory,
                             lk_duplicates **d);
void lk_duplicates_close(lk_duplicates *d); /* takes NULL; not collective */
/* Give records, any number on each rank. They are put in another order. */
lk_status lk_duplicates_add(lk_duplicates *d, lk_sample_record *record, int64_t count);
/* Once, after all are given. */
lk_status lk_duplicates_find(lk_duplicates *d, lk_duplicates_result *result);

#endif
