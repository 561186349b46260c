/* An HDF5 dataset file of lockstep, opened for reading by all ranks.
 *
 * Kind "text", schema version 1: datasets `train/tokens` and `validation/tokens` (1-D, u8 or u16,
 * chunked), `vocabulary` (code points, u32 [V]; for bytes 0..255). Root attributes: schema
 * ("lockstep dataset"), version, kind, vocabulary ("byte" | "character"), source, digest (XXH3-128
 * over both token streams and the vocabulary, hexadecimal). */
#ifndef LK_IO_DATASET_H
#define LK_IO_DATASET_H

#include "base/dtype.h"
#include "io/io.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum lk_split { LK_TRAIN, LK_VALIDATION } lk_split;

typedef struct lk_dataset {
    char *path;
    bool characters;        /* character vocabulary; else bytes */
    uint32_t *vocabulary;   /* code point of each token */
    int64_t vocabulary_size;
    lk_dtype dtype;         /* LK_U8 or LK_U16 */
    int64_t tokens[2];      /* by lk_split */
    char digest[33];
    struct lk_dataset_handles *handles;
    lk_io *io;
} lk_dataset;

/* Collective over `world` (MPI_COMM_SELF: alone). Every check of the file happens here: HDF5 at
 * all, schema, kind, types, ranks, sizes. LK_E_INPUT names the file, what was expected, what was
 * found. */
lk_status lk_dataset_open(lk_io *io, MPI_Comm world, const char *path, lk_dataset **dataset);
void lk_dataset_close(lk_dataset *d); /* collective; takes NULL */
/* Read `count` tokens from `first` into out (count * dtype size bytes); independent. Checks that
 * every token is < vocabulary_size (LK_E_INPUT naming the position). */
lk_status lk_dataset_read(lk_dataset *d, lk_split split, int64_t first, int64_t count, void *out);

/* UTF-8 text of tokens and back. encode: LK_E_INPUT for a character not in the vocabulary. */
lk_status lk_text_decode(const uint32_t *vocabulary, int64_t size, bool characters,
                         const int32_t *tokens, int64_t count, char **text);
lk_status lk_text_encode(const uint32_t *vocabulary, int64_t size, bool characters,
                         const char *text, int32_t **tokens, int64_t *count);

#endif
