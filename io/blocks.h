/* The whole of a dataset once, in blocks, each read by one rank: for statistics.
 *
 * A split is cut into blocks of a length that depends on its rows alone. Block i belongs to lane
 * i % LK_BLOCK_LANES, a lane to rank lane % ranks: who sums over the blocks of a lane in order, and
 * then over lanes in order, gets the same bits on any number of ranks and threads. The I/O thread
 * reads the blocks of the next round while those of this one are looked at; memory does not grow
 * with the data.
 *
 * Values are not checked. Digests are compared on the way. */
#ifndef LK_IO_BLOCKS_H
#define LK_IO_BLOCKS_H

#include "io/dataset.h"

enum { LK_BLOCK_LANES = 64 };

typedef struct lk_block {
    int lane;
    int64_t first, rows; /* of the split */
    int64_t extra;       /* rows that follow in memory, of field 0; fewer at the end */
    void *field[LK_DATASET_FIELDS];
} lk_block;

typedef struct lk_blocks lk_blocks;

/* `extra`: so many rows after each block are read with it. `threads`: half the blocks wanted at a
 * time, the same on all ranks; it changes no result. Not collective. */
lk_status lk_blocks_open(lk_dataset *d, int rank, int ranks, int64_t extra, int threads,
                         lk_blocks **blocks);
void lk_blocks_close(lk_blocks *b); /* takes NULL */
int64_t lk_blocks_rows(const lk_blocks *b); /* of a block, but for the last */
int lk_blocks_at_once(const lk_blocks *b);  /* blocks of a round, at most */
/* Begin to read a split; *rounds: how many calls of lk_blocks_next it takes, on every rank. */
lk_status lk_blocks_begin(lk_blocks *b, lk_split split, int64_t *rounds);
/* The blocks of the next round, each of another lane; *count 0: this rank has none. They stay valid
 * until the next call. LK_E_INPUT: rows that cannot be read, damage. */
lk_status lk_blocks_next(lk_blocks *b, const lk_block **block, int *count);
/* After the last round: field by field whether the rows that this rank read are those that were
 * imported; *missing: a dataset has no digest. */
void lk_blocks_end(lk_blocks *b, bool right[LK_DATASET_FIELDS], bool *missing);
/* `count` rows of a field from `first`, whatever they are. */
lk_status lk_blocks_read(lk_blocks *b, lk_split split, int field, int64_t first, int64_t count,
                         void *out);

#endif
