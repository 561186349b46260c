/* Checkpoints: one HDF5 file per saved step, written and read in parallel.
 *
 * Layout: groups `parameters`, `moment1`, `moment2`, `ema`, each with one dataset per parameter,
 * its scope as the path ("parameters/blocks/0/attn/qkv/weight"), f32, real shape, chunked with
 * Fletcher-32; dataset `state` (the lk_step_state bytes, u8) and root attributes: schema ("lockstep
 * checkpoint"), version, step, run_file (resolved YAML text), seed, leaves, choices (library
 * algorithms), code_version, build, dataset_digest, dataset_path, kind (of the data; without it:
 * text). Text: dataset `vocabulary` (u32), attribute vocabulary kind. Images: attributes height,
 * width, channels, classes (texts), mean and std (f64, a list by channel). Each dataset has the
 * attribute digest (XXH3-128 of the bytes).
 * Rank r of R writes rows [rows r/R, rows (r+1)/R) of the first dimension of every dataset. */
#ifndef LK_IO_CHECKPOINT_H
#define LK_IO_CHECKPOINT_H

#include "io/dataset.h"
#include "io/io.h"
#include "program/store.h"

#include <mpi.h>

/* Everything but the tensors. Strings are owned by whoever filled the struct
 * (lk_checkpoint_open: free with lk_checkpoint_info_clear). */
typedef struct lk_checkpoint_info {
    lk_step_state state;
    uint64_t seed;
    int leaves;
    char *run_file, *choices, *code_version, *build, *dataset_path, *dataset_digest;
    lk_dataset_kind kind; /* of the data: text or images */
    bool characters;      /* text: the vocabulary */
    uint32_t *vocabulary;
    int64_t vocabulary_size;
    lk_image_format image; /* images */
    bool has_moments, has_ema; /* of the file that was read; not used when saving */
    char *path; /* of the file that was read, `latest` resolved; not used when saving */
} lk_checkpoint_info;

/* Write DIRECTORY/step-NNNNNN.h5 with those buffers of `data` that are not NULL (moments: both or
 * none): to .part, flushed and fsynced, read back and its digests
 * compared, renamed, directory synced; then the symbolic link `latest` is replaced atomically.
 * Collective. On failure the earlier files and `latest` are untouched. */
lk_status lk_checkpoint_save(lk_io *io, MPI_Comm world, const char *directory,
                             const lk_params *params, const lk_checkpoint_info *info,
                             const lk_flat *data);
/* Read the info alone (schema and version checked). Collective. */
lk_status lk_checkpoint_open(lk_io *io, MPI_Comm world, const char *path,
                             lk_checkpoint_info *info);
/* Read every parameter into data (gaps zero), into those of its buffers that are not NULL and which
 * the file must have; names and shapes must be exactly those of params (LK_E_INPUT names the first
 * that differs); digests are verified. Every rank gets all. */
lk_status lk_checkpoint_load(lk_io *io, MPI_Comm world, const char *path, const lk_params *params,
                             const lk_flat *data);
void lk_checkpoint_info_clear(lk_checkpoint_info *info);

#endif
