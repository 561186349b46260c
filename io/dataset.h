/* An HDF5 dataset file of lockstep, opened for reading by all ranks.
 *
 * Schema "lockstep dataset", version 2. Two splits, the groups `train` and `validation`, each hold
 * one HDF5 dataset for each field of the file's kind; row i of every field belongs to sample i (to
 * token i for text). Root attributes: schema, version, kind, source, digest (XXH3-128,
 * hexadecimal) and
 *   "text": `tokens` [N], u8 or u16. Dataset `vocabulary` (code points, u32 [V]; for bytes 0..255),
 *     attribute vocabulary ("byte" | "character"). The digest covers both token streams and the
 *     vocabulary.
 *   "images": `images` u8 [N,H,W,C], `labels` u16 [N]. Attributes classes (texts [K]), mean and std
 *     (f64 [C], over the training images, of values in [0,1]). With attribute vocabulary_size (u64)
 *     each image has a text: `tokens` u16 [N,T], below that size.
 *   "table": `features` f32 [N,F], `labels` u16 [N]. Attributes classes (texts [K]), columns
 *     (texts [F]).
 *   Optional, not in the digest: reference, the distribution of the training split as JSON
 *     (metric/drift.h), with which later data is compared.
 *   The digest of images and tables covers the digests of the datasets and the classes.
 * In version 2 each of these datasets has digests of its rows in the group `digests` (io/slabs.h).
 * Version 1, without them, is read too. */
#ifndef LK_IO_DATASET_H
#define LK_IO_DATASET_H

#include "base/dtype.h"
#include "io/io.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum lk_split { LK_TRAIN, LK_VALIDATION } lk_split;
typedef enum lk_dataset_kind {
    LK_TEXT_DATA,
    LK_IMAGE_DATA,
    LK_TABLE_DATA,
    LK_DATASET_KINDS
} lk_dataset_kind;
const char *lk_split_name(lk_split split); /* "train", "validation" */
const char *lk_dataset_kind_name(lk_dataset_kind kind); /* "text", "images", "table" */
#define LK_DATASET_FIELDS 3   /* at most */
#define LK_DATASET_CLASSES 65535 /* at most: labels are u16 */
#define LK_DATASET_VOCABULARY 65536 /* at most: tokens are u16 */

/* What images are and what their labels mean. */
typedef struct lk_image_format {
    int64_t height, width, channels, classes;
    char **name;       /* [classes], UTF-8 */
    float *mean, *std; /* [channels], of values in [0,1]; std > 0 */
    int64_t text, vocabulary; /* of the text that each image has: tokens, and values they may have;
                                 0: images alone */
} lk_image_format;
void lk_image_format_clear(lk_image_format *f); /* frees, leaves zeros */

typedef struct lk_table_format {
    int64_t columns, classes;
    char **column, **name; /* [columns], [classes], UTF-8 */
} lk_table_format;

typedef struct lk_dataset_field {
    const char *name; /* "tokens"; "images", "labels" (, "tokens"); "features", "labels" */
    lk_dtype dtype;
    size_t row_bytes; /* of a token, an image, a label ... */
} lk_dataset_field;

typedef struct lk_dataset {
    char *path;
    lk_dataset_kind kind;
    int64_t rows[2];             /* by lk_split; tokens or samples */
    int fields;
    lk_dataset_field field[LK_DATASET_FIELDS];
    /* text */
    bool characters;             /* character vocabulary; else bytes */
    uint32_t *vocabulary;        /* code point of each token */
    int64_t vocabulary_size;
    /* images, table */
    lk_image_format image;
    lk_table_format table;
    char digest[33];
    char *source;                /* what it was made from, or NULL */
    char *reference;             /* the training split's distribution, JSON (metric/drift.h);
                                    NULL: the file is older */
    char warning[512];           /* one line for the user, "" when there is nothing to say: rows are
                                    slow to read, and what to do about it */
    struct lk_dataset_handles *handles;
    lk_io *io;
} lk_dataset;

/* Collective over `world` (MPI_COMM_SELF: alone). Every check of the file happens here: HDF5 at
 * all, schema, kind, types, ranks, sizes. LK_E_INPUT names the file, what was expected, what was
 * found. */
lk_status lk_dataset_open(lk_io *io, MPI_Comm world, const char *path, lk_dataset **dataset);
void lk_dataset_close(lk_dataset *d); /* collective; takes NULL */
/* Whether reading the file failed and worked when it was tried again: true once for an open
 * dataset, with a line for the user (io/hdf5.h); 400 bytes hold any. */
bool lk_dataset_retried(lk_dataset *d, char *text, size_t size);
/* LK_E_INPUT unless the data is of this kind. */
lk_status lk_dataset_expect(const lk_dataset *d, lk_dataset_kind kind);
/* Read `count` rows of a field from `first` into out (count * row_bytes bytes); independent. Checks
 * that they are those that were imported (io/slabs.h), that every token is < vocabulary_size and
 * every label < classes (LK_E_INPUT naming the position). */
lk_status lk_dataset_read(lk_dataset *d, lk_split split, int field, int64_t first, int64_t count,
                          void *out);
/* The same to look at data that may be bad: rows that are not those that were imported only make
 * *right false, and no value is checked. */
lk_status lk_dataset_inspect(lk_dataset *d, lk_split split, int field, int64_t first, int64_t count,
                             void *out, bool *right);
/* Whether there is a digest to compare with: a file made elsewhere may have none. */
bool lk_dataset_digested(const lk_dataset *d, lk_split split, int field);

/* UTF-8 text of tokens and back. encode: LK_E_INPUT for a character not in the vocabulary. */
lk_status lk_text_decode(const uint32_t *vocabulary, int64_t size, bool characters,
                         const int32_t *tokens, int64_t count, char **text);
lk_status lk_text_encode(const uint32_t *vocabulary, int64_t size, bool characters,
                         const char *text, int32_t **tokens, int64_t *count);

#endif
