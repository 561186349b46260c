/* Private: what saving and reading of checkpoints share. io/checkpoint*.c */
#ifndef LK_IO_CHECKPOINT_JOB_H
#define LK_IO_CHECKPOINT_JOB_H

#include "io/checkpoint.h"
#include "io/hdf5.h"

#include <limits.h>
#include <stdatomic.h>

#define LK_CHECKPOINT_PIECE ((size_t)32 << 20) /* bytes a save moves between two yields, about */

#define LK_CHECKPOINT_SMALL ((uint64_t)4 << 20) /* bytes that one rank writes sooner than many */

enum { LK_CHECKPOINT_TEXTS = 7, LK_CHECKPOINT_GROUPS = 4 };
enum { LK_CHECKPOINT_OPTIONAL = 6 }; /* the text that may be missing: NULL, saved as "" */

/* One dataset, in the file and in memory. Saving: every rank writes some whole chunks of it, and
 * one rank, which may be another, digests all of it and reads it back, so that ranks that hold
 * different bits are found out. */
typedef struct lk_checkpoint_item {
    char path[LK_H5_MAX_PATH];
    lk_h5_type type;
    int dims, group; /* group: of parameters; -1 for others */
    int64_t offset;  /* floats, in the group's flat buffer */
    hsize_t dim[LK_H5_MAX_DIMS];
    size_t row, bytes;           /* of a row (first dimension), of all */
    void *data;                  /* all of it; saving: NULL where it is not this rank's to digest */
    const void *rows;            /* saving: rows [first, first + count), which this rank writes */
    hsize_t first, count, chunk; /* chunk: rows of one */
    int owner;                   /* the rank that digests, verifies or reads it */
    char digest[LK_DIGEST_TEXT];
} lk_checkpoint_item;

typedef struct lk_checkpoint_job {
    lk_io *io;
    MPI_Comm comm;
    int rank, ranks;
    const char *given; /* the caller's path: a directory to save into, a file to read */
    const lk_params *params;
    bool has[LK_CHECKPOINT_GROUPS];    /* groups of the file, */
    float *flat[LK_CHECKPOINT_GROUPS]; /* and where they lie; NULL: not in one buffer */
    lk_checkpoint_info info; /* save: that of rank 0, lying in `shared` */
    char *shared, **names; /* names: of the classes, in `shared` */
    lk_checkpoint_item *item; /* params->count of each group, then (save) state and, for text,
                                 vocabulary */
    int items, tensors;       /* tensors: items of parameters */
    int writers;              /* saving: all ranks, or rank 0 alone a small file */
    char path[PATH_MAX], part[PATH_MAX + 8];
    hid_t file;
    /* saving */
    int fd; /* of the part: opened before anything is written, so that it learns of every error */
    lk_checkpoint_keep keep;
    uint64_t good; /* step of a checkpoint that must stay (io/checkpoint.h) */
    lk_checkpoint_figures figures;
    atomic_bool failed; /* on this rank, while others may hang in what it left; */
    char failure[1500]; /* then its text, written before */
} lk_checkpoint_job;

/* Take the buffers that are there. */
void lk_checkpoint_take(lk_checkpoint_job *j, const lk_flat *data);
/* Fill in the ranks and run on the I/O thread. Collective. */
lk_status lk_checkpoint_run(lk_io *io, MPI_Comm world, lk_io_job run, lk_checkpoint_job *j);

/* Before each collective call the ranks agree whether one of them failed, so that none waits for
 * what another will never do. */
lk_status lk_checkpoint_agree(lk_checkpoint_job *j, lk_status mine);

static inline bool lk_checkpoint_mine(const lk_checkpoint_job *j, int i)
{
    return j->item[i].owner == j->rank;
}

lk_status lk_checkpoint_broadcast(const lk_checkpoint_job *j, void *bytes, size_t size, int root);

/* The texts of an info: name of the attribute, and the member. */
extern const char *const lk_checkpoint_text_name[LK_CHECKPOINT_TEXTS];
char **lk_checkpoint_text(lk_checkpoint_info *info, int i);

/* Names of the attributes of a log; the last one is there where it is not 0. */
enum { LK_CHECKPOINT_LOG_BYTES, LK_CHECKPOINT_LOG_DIGEST, LK_CHECKPOINT_LOG_CHANGED };
extern const char *const lk_checkpoint_log_name[LK_CHECKPOINT_LOGS][3];

void lk_checkpoint_set_item(lk_checkpoint_item *x, lk_h5_type type, size_t element, int dims,
                            const int64_t *dim, void *data);
/* One item for each parameter in each group that is there; room for two more. */
lk_status lk_checkpoint_list_params(lk_checkpoint_job *j);

/* Open for reading, each rank by itself. Collective. */
lk_status lk_checkpoint_open_each(lk_checkpoint_job *j, const char *path, hid_t *file);
/* On failure `info` may hold some texts. */
lk_status lk_checkpoint_read_info(hid_t file, const char *where, lk_checkpoint_info *info);

/* ---- io/checkpoint_plan.c: who does what ----------------------------------------------------- */

/* Deal out chunks to write and datasets to digest, the same way on all ranks. */
lk_status lk_checkpoint_deal(lk_checkpoint_job *j);
uint64_t lk_checkpoint_stored_bytes(const lk_checkpoint_item *x);
/* Give every rank the info of rank 0: attributes are written by all and must be equal, and a rank
 * may have made other choices, or more. What it points to is copied. Collective. */
lk_status lk_checkpoint_share_info(lk_checkpoint_job *j);

/* ---- io/checkpoint_write.c ------------------------------------------------------------------- */

/* With parameters listed: is there room in the directory `given` for the file, as far as can be
 * told then? LK_E_SYSTEM. By one rank. */
lk_status lk_checkpoint_check_room(const lk_checkpoint_job *j);
/* On the I/O thread, with the info shared, parameters listed and all dealt out. Collective. */
lk_status lk_checkpoint_write(lk_checkpoint_job *j);

/* ---- io/checkpoint_dir.c: the files of a directory; one rank calls these --------------------- */

enum { LK_CHECKPOINT_NAME = 40 };
void lk_checkpoint_dir_name(uint64_t step, char name[LK_CHECKPOINT_NAME]); /* step-NNNNNN.h5 */
/* The step of such a name; other names are the user's. */
bool lk_checkpoint_dir_step(const char *name, uint64_t *step);
typedef struct lk_checkpoint_steps {
    int count, room;
    uint64_t *step; /* falling; of DIRECTORY/step-NNNNNN.h5 */
} lk_checkpoint_steps;
lk_status lk_checkpoint_dir_list(const char *directory, lk_checkpoint_steps *list);
lk_status lk_checkpoint_steps_append(lk_checkpoint_steps *list, uint64_t step);
void lk_checkpoint_steps_clear(lk_checkpoint_steps *list);
/* Remove what killed saves left behind. */
lk_status lk_checkpoint_dir_sweep(const char *directory);
/* Remove what need not be kept after `newest` was committed, but not `good`; what cannot be removed
 * is told in `warning` (size bytes), which is "" else. Removes no later step, which this run did
 * not write, and nothing where `good` is LK_CHECKPOINT_NONE. */
void lk_checkpoint_dir_prune(const char *directory, uint64_t newest, uint64_t good,
                             lk_checkpoint_keep keep, char *warning, size_t size);
/* Let `latest` lead to `name`, at once and on disk: a link cannot be rewritten in place, so another
 * is renamed over it. */
lk_status lk_checkpoint_dir_point(const char *directory, const char *name);
/* The file that DIRECTORY/NAME leads to, NULL without such a link or file; caller frees. */
lk_status lk_checkpoint_dir_follow(const char *directory, const char *name, char **found);

#endif
