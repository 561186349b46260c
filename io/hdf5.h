/* Private helpers of io/ around the HDF5 library. Called on the I/O thread only.
 *
 * Files come from anywhere, so reading trusts nothing: only hard links are followed, only the
 * types, layouts and filters that lockstep writes are accepted (so no references, virtual datasets
 * or other files, and no filter is loaded), and a declared size is compared with the bytes stored,
 * these with the file, before anything is allocated. That is asked of all that a file holds when it
 * is opened, needed or not: what one command refuses no other takes.
 *
 * In the order of use:
 *
 *   to read                      in               to write                     in
 *   lk_h5_open                   hdf5_file        lk_replace_check             base/replace
 *   lk_h5_has, lk_h5_get_*       hdf5_attribute   lk_h5_create                 hdf5_write
 *   lk_h5_list_datasets          hdf5_dataset     lk_h5_set_*                  hdf5_attribute
 *   lk_h5_dataset_open, _expect  hdf5_dataset     lk_h5_dataset_create         hdf5_write
 *   lk_h5_dataset_read, _verify  hdf5_read        lk_h5_dataset_write, H5Dwrite
 *   H5Fclose                                      lk_h5_close, lk_h5_abandon   hdf5_write
 *                                                 lk_replace_publish           base/replace
 *
 * and around every call of HDF5's own LK_H5(), hdf5_error. Files are read by hdf5_driver, which is
 * patient with a disk that refuses and tells it from a file that is damaged. Every rank reads by
 * itself; those who write together agree after each step, hdf5_agree. Rows of a dataset file are
 * read through io/slabs.h, which compares their digests. */
#ifndef LK_IO_HDF5_H
#define LK_IO_HDF5_H

#include "base/digest.h"
#include "base/status.h"
#include "io/io.h"

#include <hdf5.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

/* What a file of lockstep's is, its root attribute schema: table in io/hdf5_file.c. */
typedef enum lk_schema {
    LK_SCHEMA_DATASET,
    LK_SCHEMA_CHECKPOINT,
    LK_SCHEMA_PREDICTIONS,
    LK_SCHEMA_TRACE,
    LK_SCHEMA_TENSORS,
    LK_SCHEMAS,
    LK_SCHEMA_ANY = LK_SCHEMAS /* of these, to open */
} lk_schema;

/* ---- errors: io/hdf5_error.c ----------------------------------------------------------------- */

/* An HDF5 call, or an assignment of one: LK_H5(LK_E_INPUT, id = H5Dopen2(...), "%s", path);
 * LK_E_INPUT is for what reads: if the system refuses, that is LK_E_SYSTEM all the same. */
#define LK_H5(code, call, ...)                                                                     \
    do {                                                                                           \
        if ((call) < 0) return lk_h5_fail((code), __VA_ARGS__);                                    \
    } while (0)

/* Record one line and return the code that is due: "MESSAGE: innermost HDF5 error", LK_E_INPUT with
 * "; the file is damaged, make or copy it again"; or what the system said, if it refused. */
lk_status lk_h5_fail(lk_status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* An answer of H5Aexists() and the like, -1 if it is "no" because the file could not be read. */
htri_t lk_h5_sure(htri_t answer);

/* A handle that is closed when its scope ends: LK_H5_AUTO hid_t space = -1; */
static inline void lk_h5_release(hid_t *id)
{
    if (*id >= 0) H5Idec_ref(*id);
}
#define LK_H5_AUTO __attribute__((cleanup(lk_h5_release)))

/* ---- ranks: io/hdf5_agree.c ------------------------------------------------------------------ */

/* Agree on failure over `comm`: all return the code and text of the first rank that failed. A rank
 * that waits long leaves its core to others. MPI_COMM_NULL: alone. Collective. */
lk_status lk_h5_agree(MPI_Comm comm, lk_status mine);
/* The same, letting independent jobs in while it waits. */
lk_status lk_h5_agree_in(lk_io *io, MPI_Comm comm, lk_status mine);
/* A private copy of `world`, made by the caller's thread. */
lk_status lk_h5_comm(MPI_Comm world, MPI_Comm *comm);

/* ---- files to read: io/hdf5_file.c, hdf5_driver.c -------------------------------------------- */

/* Open for reading, this process alone, and check the root attributes schema and version, and all
 * links and datasets. LK_E_INPUT: "FILE: expected ..., found ...; what to do". LK_E_SYSTEM: the
 * system refuses; here and in all reading of the file later this is so only after it was tried
 * again, six times in 3 s, where it may pass. Close with H5Fclose(): there is nothing to lose. */
lk_status lk_h5_open(const char *path, lk_schema schema, hid_t *file);
/* What it was opened as, or as which of any. */
lk_status lk_h5_get_schema(hid_t file, const char *where, lk_schema *schema);
/* Write the attributes schema and version, the newest. */
lk_status lk_h5_set_schema(hid_t file, const char *where, lk_schema schema);
const char *lk_schema_name(lk_schema schema); /* "lockstep dataset" */
/* What was tried again of this file since the last lk_h5_open() of this thread, "FILE: read failed
 * (Input/output error), tried again 2 times in 0.3 s, then it worked"; "": nothing. */
const char *lk_h5_note(const char *path);

/* ---- attributes: io/hdf5_attribute.c --------------------------------------------------------- */

/* `where` names the file in messages, here and below. Those of 1 KiB and more have a digest,
 * NAME.digest, compared when they are read. */
lk_status lk_h5_has(hid_t object, const char *where, const char *name, bool *there);
lk_status lk_h5_set_text(hid_t object, const char *where, const char *name, const char *text);
lk_status lk_h5_set_u64(hid_t object, const char *where, const char *name, uint64_t value);
lk_status lk_h5_set_f64(hid_t object, const char *where, const char *name, double value);
lk_status lk_h5_get_text(hid_t object, const char *where, const char *name, char **text);
lk_status lk_h5_get_u64(hid_t object, const char *where, const char *name, uint64_t *value);
/* Lists, of at most 65536 elements. Numbers: exactly `count` of them. Texts: free with
 * lk_h5_free_texts (takes NULL). */
lk_status lk_h5_set_texts(hid_t object, const char *where, const char *name, char *const *text,
                          int64_t count);
lk_status lk_h5_set_f64s(hid_t object, const char *where, const char *name, const double *value,
                         int64_t count);
lk_status lk_h5_get_f64s(hid_t object, const char *where, const char *name, double *value,
                         int64_t count);
lk_status lk_h5_get_texts(hid_t object, const char *where, const char *name, char ***text,
                          int64_t *count);
void lk_h5_free_texts(char **text, int64_t count);

/* ---- datasets to read: io/hdf5_dataset.c ----------------------------------------------------- */

#define LK_H5_MAX_DIMS 4
#define LK_H5_MAX_PATH 512

typedef enum lk_h5_type {
    LK_H5_F32,
    LK_H5_I32,
    LK_H5_U8,
    LK_H5_U16,
    LK_H5_U32,
    LK_H5_U64,
    LK_H5_F64,
    LK_H5_TEXT, /* one string of fixed length, UTF-8 */
    LK_H5_TYPES
} lk_h5_type;

const char *lk_h5_type_name(lk_h5_type t);
hid_t lk_h5_type_id(lk_h5_type t); /* in the file; not TEXT; not to be closed */

typedef struct lk_h5_dataset {
    hid_t id;
    lk_h5_type type;
    int dims; /* 0: one element */
    hsize_t dim[LK_H5_MAX_DIMS], chunk[LK_H5_MAX_DIMS]; /* chunk: zeros when contiguous */
    bool packed; /* filters change the bytes: deflate, shuffle */
    size_t element, row, bytes; /* bytes of an element, of a row (first dimension), of all */
    char digest[LK_DIGEST_TEXT]; /* attribute; "" when there is none */
} lk_h5_dataset;

/* Whether there is a link of this name; the groups before it must be there. */
lk_status lk_h5_link(hid_t file, const char *where, const char *path, bool *there);
/* Open for reading after every check above. `cache`: bytes of the chunk cache, 0 for the default.
 * Close with lk_h5_release(&d.id). */
lk_status lk_h5_dataset_open(hid_t file, const char *where, const char *path, size_t cache,
                             lk_h5_dataset *d);
/* Require a type and number of dimensions. */
lk_status lk_h5_dataset_expect(const lk_h5_dataset *d, const char *where, const char *path,
                               lk_h5_type type, int dims);
const char *lk_h5_shape(const lk_h5_dataset *d, char *text, size_t size); /* "[2, 3]" */

/* Paths of all datasets below `group`, sorted; groups are followed through hard links only.
 * Free with lk_h5_list_clear(). */
typedef struct lk_h5_list {
    int count, room;
    char **path;
} lk_h5_list;
lk_status lk_h5_list_datasets(hid_t file, const char *where, const char *group, lk_h5_list *list);
void lk_h5_list_clear(lk_h5_list *list);
/* Open every dataset of the file once, for the checks. */
lk_status lk_h5_check_datasets(hid_t file, const char *where);

/* ---- their content: io/hdf5_read.c ----------------------------------------------------------- */

#define LK_H5_PIECE ((size_t)1 << 30)  /* bytes of one transfer at most: MPI counts are ints */

/* Read rows [first, first + count) into out. No digest is compared. */
lk_status lk_h5_dataset_rows(const lk_h5_dataset *d, const char *where, const char *path,
                             hsize_t first, hsize_t count, void *out);
/* Read everything and compare with the digest attribute, which must be there. */
lk_status lk_h5_dataset_read(const lk_h5_dataset *d, const char *where, const char *path,
                             void *out);
/* The same without keeping the bytes. */
lk_status lk_h5_dataset_verify(const lk_h5_dataset *d, const char *where, const char *path);
/* The same, letting independent jobs in between pieces. */
lk_status lk_h5_dataset_verify_in(lk_io *io, const lk_h5_dataset *d, const char *where,
                                  const char *path);

/* ---- files to write: io/hdf5_write.c --------------------------------------------------------- */

#define LK_H5_CHUNK ((size_t)1 << 20)  /* bytes of a chunk of a checkpoint, about */

/* Create (truncate) for writing, newest format; sets schema and version. `comm` MPI_COMM_NULL: this
 * process alone. Collective. */
lk_status lk_h5_create(const char *path, MPI_Comm comm, lk_schema schema, hid_t *file);
/* Rows of a chunk of data whose rows are read one by one at random: about 64 KiB. */
static inline hsize_t lk_h5_chunk_rows(size_t row)
{
    return row > 0 && row < ((size_t)1 << 16) ? ((size_t)1 << 16) / row : 1;
}
/* Create a dataset, and the groups on its path, in chunks of `rows` rows with Fletcher-32; 0, or an
 * empty dataset: contiguous. Close with lk_h5_release(dataset). Collective. */
lk_status lk_h5_dataset_create(hid_t file, const char *where, const char *path, lk_h5_type type,
                               int dims, const hsize_t *dim, hsize_t rows, hid_t *dataset);
/* Create it and write all of it, this process alone. */
lk_status lk_h5_dataset_write(hid_t file, const char *where, const char *path, lk_h5_type type,
                              int dims, const hsize_t *dim, hsize_t rows, const void *data,
                              hid_t *dataset);
/* Flush and close; *file becomes -1. Collective. */
lk_status lk_h5_close(const char *path, hid_t *file);
/* The same for a file that could not be written and will be removed; takes *file -1. Collective. */
void lk_h5_abandon(const char *path, MPI_Comm comm, hid_t *file);
/* The whole way, by this process alone: a job on the I/O thread makes PATH.part, has `write` fill
 * it, `where` being its name, and renames it. */
lk_status lk_h5_replace(lk_io *io, const char *path, lk_schema schema,
                        lk_status (*write)(hid_t file, const char *where, const void *context),
                        const void *context);

#endif
