/* Private: decoded images on their way into a dataset, kept so that an import that was killed can
 * go on.
 *
 * A plain file that only grows: a header that says which import it belongs to, then blocks, each
 * with its length and digest. What was cut off by a kill or a power failure does not match its
 * digest and is cut away. No HDF5 here, whose files do not survive that. */
#ifndef LK_IO_JOURNAL_H
#define LK_IO_JOURNAL_H

#include "base/digest.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define LK_JOURNAL_MAGIC "lockstep import 1\n" /* the file begins so */
enum { LK_JOURNAL_REASON = 120 };

typedef struct lk_journal_block {
    int64_t first, count; /* files of the list: [first, first + count) */
    int64_t good;         /* of these have pixels */
    char (*reason)[LK_JOURNAL_REASON]; /* [count]; "": good */
    uint8_t *pixels;      /* [good] images */
} lk_journal_block;

typedef struct lk_journal {
    FILE *file;
    const char *path;
    size_t row;   /* bytes of an image */
    int64_t done; /* files that the blocks before `at` tell of */
    int64_t at;   /* where the next block is read or written */
} lk_journal;

/* Open PATH, before its first block; if it does not belong to the import named by `key` (at most 39
 * bytes) it becomes empty; what cannot be read stays. LK_E_INPUT if another process has it open.
 * Zero the struct before and close it whatever happens; `path` is kept. */
lk_status lk_journal_open(lk_journal *j, const char *path, const char *key, size_t row);
void lk_journal_close(lk_journal *j); /* the file stays */
/* The next block, to be cleared by the caller; *end: there is none that is whole. */
lk_status lk_journal_next(lk_journal *j, lk_journal_block *b, bool *end);
void lk_journal_block_clear(lk_journal_block *b);
void lk_journal_rewind(lk_journal *j); /* before the first block again */
lk_status lk_journal_cut(lk_journal *j); /* end the file here */
/* Write a block here. */
lk_status lk_journal_append(lk_journal *j, const lk_journal_block *b);

#endif
