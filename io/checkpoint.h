/* Checkpoints: one HDF5 file per saved step, written and read in parallel.
 *
 * The file. Groups `parameters`, `moment1`, `moment2`, `ema`, each with one dataset per parameter,
 * its scope as the path ("parameters/blocks/0/attn/qkv/weight"), f32, real shape, chunked with
 * Fletcher-32; dataset `state` (the lk_step_state bytes, u8) and root attributes: schema ("lockstep
 * checkpoint"), version, step, run_file (resolved YAML text), seed, leaves, choices (library
 * algorithms), code_version, build, dataset_digest, dataset_path, validated (optional: step of the
 * last validation), loss_log_bytes, loss_log_digest, loss_log_changed, and the same of
 * validation_log (optional: lk_checkpoint_log), reference (optional: that of the dataset), kind (of
 * the data; without it: text). Text: dataset `vocabulary` (u32), attribute vocabulary kind. Images:
 * attributes height, width, channels, classes (texts), mean and std (f64, a list by channel). Each
 * dataset has the attribute digest (XXH3-128 of the bytes).
 *
 * The order of a save, and where it is:
 *
 *   when, and with what               src/train/trainer_steps.c, src/train/save.c: not while steps
 *                                     are skipped
 *   copied; values that are not
 *   finite are refused                checkpoint_snapshot.c, on the caller's thread
 *   which rank writes, which digests  checkpoint_plan.c
 *   .part gets its blocks, is written, synced, read back, every digest compared by the rank that
 *   made it, renamed; then `latest` leads to it, and only then older files are removed
 *                                     checkpoint_write.c, on the I/O thread
 *   names, links, what is removed     checkpoint_dir.c
 *
 * So whatever ends a process, every step-NNNNNN.h5 is whole and `latest` leads to one; what is left
 * of a .part goes with the next save. On failure the earlier files and `latest` are untouched.
 *
 * The order of a start: the directory is looked at (checkpoint_dir.c); the newest file whose
 * digests are all right is chosen (checkpoint_choose.c) and loaded, digests compared again
 * (checkpoint.c); when all else is well `latest` is made to lead to it, and damaged files that were
 * passed over get the name step-NNNNNN.h5.damaged, which counts no more and is the user's to
 * remove. */
#ifndef LK_IO_CHECKPOINT_H
#define LK_IO_CHECKPOINT_H

#include "base/digest.h"
#include "io/dataset.h"
#include "io/io.h"
#include "program/store.h"

#include <mpi.h>

/* A log of the run as it was when the save began. */
typedef struct lk_checkpoint_log {
    uint64_t bytes;
    char digest[LK_DIGEST_TEXT]; /* of them, XXH3-128; "": not known */
    uint64_t changed; /* step from which a start found it changed; 0: none did */
} lk_checkpoint_log;
enum { LK_CHECKPOINT_LOSS, LK_CHECKPOINT_VALIDATION, LK_CHECKPOINT_LOGS };

/* Everything but the tensors. Strings are owned by whoever filled the struct
 * (lk_checkpoint_open: free with lk_checkpoint_info_clear). */
typedef struct lk_checkpoint_info {
    lk_step_state state;
    uint64_t seed;
    int leaves;
    char *run_file, *choices, *code_version, *build, *dataset_path, *dataset_digest;
    uint64_t validated;   /* step of the last validation; LK_CHECKPOINT_NONE: not known */
    lk_checkpoint_log log[LK_CHECKPOINT_LOGS];
    char *reference;      /* distribution of the training data, JSON (metric/drift.h); or NULL */
    lk_dataset_kind kind; /* of the data: text or images */
    bool characters;      /* text: the vocabulary */
    uint32_t *vocabulary;
    int64_t vocabulary_size;
    lk_image_format image; /* images */
    bool has_moments, has_ema; /* of the file that was read; not used when saving */
    char *path; /* of the file that was read, `latest` resolved; not used when saving */
} lk_checkpoint_info;

/* Which files stay after a save: the `newest` newest (0: all), those of every `every`-th step (0:
 * none more), step 0, the initial values, and the newest that is known to be good: a later step was
 * finite. */
typedef struct lk_checkpoint_keep {
    int64_t newest, every;
} lk_checkpoint_keep;
#define LK_CHECKPOINT_NONE UINT64_MAX /* in place of a step */

/* What a save took. */
typedef struct lk_checkpoint_figures {
    uint64_t step, bytes;         /* bytes: of the file */
    double seconds, read_seconds; /* of all, from first write to rename; of reading back alone */
    char path[4096];
    char warning[512]; /* of what went wrong without harm, "" when nothing */
} lk_checkpoint_figures;

/* ---- saving while training goes on. io/checkpoint_snapshot.c ----------------------------------
 *
 * A snapshot is pinned memory for what this rank writes or digests: all of the flat buffers on one
 * rank, about 2/R of them on R. begin() copies them there and the I/O thread does the rest, in
 * pieces between which rows are read (io/io.h). */
typedef struct lk_checkpoint_snapshot lk_checkpoint_snapshot;

/* The store must outlive the snapshot. Collective. */
lk_status lk_checkpoint_snapshot_open(lk_io *io, MPI_Comm world, const char *directory,
                                      lk_checkpoint_keep keep, lk_store *store,
                                      lk_checkpoint_snapshot **snapshot);
/* Waits for a save under way, whose outcome is nobody's; takes NULL. Collective. */
void lk_checkpoint_snapshot_close(lk_checkpoint_snapshot *s);
/* Pinned bytes a snapshot takes on a rank. `store`: what will be saved of the parameters. */
lk_status lk_checkpoint_snapshot_bytes(const lk_params *params, const lk_store_options *store,
                                       int rank, int ranks, size_t *bytes);
/* Is there room for a save now? LK_E_SYSTEM says how much is missing. By one rank, before a save is
 * begun. */
lk_status lk_checkpoint_snapshot_room(const lk_checkpoint_snapshot *s);
enum { LK_CHECKPOINT_SPOILT = 512 };
/* Copy the store as it is now and start writing. The save before must have been waited for; `info`
 * is not needed any more when this returns. `good`: step of the newest checkpoint that is known to
 * be good, which stays; LK_CHECKPOINT_NONE: none is, so all stay. `spoilt` is "", or names a
 * parameter (or moving average) that is not finite: then no save was begun. Collective; LK_OK on
 * one rank does not mean that the others began, so the caller agrees. */
lk_status lk_checkpoint_snapshot_begin(lk_checkpoint_snapshot *s, const lk_checkpoint_info *info,
                                       uint64_t good, char spoilt[LK_CHECKPOINT_SPOILT]);

typedef enum lk_checkpoint_progress {
    LK_CHECKPOINT_BUSY,
    LK_CHECKPOINT_FAILING, /* failed on this rank; the others may not know, or hang */
    LK_CHECKPOINT_DONE     /* wait() returns at once */
} lk_checkpoint_progress;
/* Look at the save that was begun. FAILING: its text is recorded as this thread's error. */
lk_checkpoint_progress lk_checkpoint_snapshot_look(lk_checkpoint_snapshot *s);
/* The outcome, the same on all ranks. Once for each begin(). */
lk_status lk_checkpoint_snapshot_wait(lk_checkpoint_snapshot *s, lk_checkpoint_figures *figures);

/* ---- a run's directory: which one to go on from. io/checkpoint_choose.c ---------------------- */

/* Before anything else: LK_E_INPUT names what would be in the way of a save or be taken for a
 * checkpoint and is no file, or says that nothing can be written; LK_E_SYSTEM: the same where it is
 * the disk's fault. No directory: LK_OK. By one rank.
 * io/checkpoint_dir.c */
lk_status lk_checkpoint_check_directory(const char *directory);

typedef struct lk_checkpoint_choice {
    char *path;        /* of the checkpoint to go on from */
    uint64_t *damaged; /* rank 0: steps of the files that were passed over for what is in them */
    int damaged_count;
} lk_checkpoint_choice;
/* The newest checkpoint of DIRECTORY that is whole: every digest of it is right. Each that is
 * passed over is told to `report` on rank 0 (one line, in words for the user). LK_E_INPUT: there is
 * none; LK_E_SYSTEM: those there are cannot be read. Changes nothing. Collective. */
lk_status lk_checkpoint_choose(lk_io *io, MPI_Comm world, const char *directory,
                               void (*report)(void *context, const char *text), void *context,
                               lk_checkpoint_choice *choice);
/* The run goes on from it: `latest` leads there, damaged ones get another name, which is told to
 * `report`. On rank 0. */
lk_status lk_checkpoint_adopt(const char *directory, const lk_checkpoint_choice *choice,
                              void (*report)(void *context, const char *text), void *context);
void lk_checkpoint_choice_clear(lk_checkpoint_choice *choice);
/* The newest checkpoint before `path` (a file, or what leads to one) in its directory. */
bool lk_checkpoint_before(const char *path, char *before, size_t size);
/* After LK_E_INPUT in reading `path`: name the checkpoint before it in the error text, if there is
 * one. What evaluates, generates or shows ends with that: a figure of other parameters than those
 * asked for is the user's to want. Only --resume passes over. */
void lk_checkpoint_name_before(const char *path);

/* ---- reading. io/checkpoint.c ---------------------------------------------------------------- */

/* PATH, or if it is a directory PATH/latest or PATH/checkpoints/latest; *resolved: caller frees.
 * io/checkpoint_dir.c */
lk_status lk_checkpoint_resolve(const char *path, char **resolved);
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
