/* Private: what saving and reading of checkpoints share. io/checkpoint.c, io/checkpoint_save.c */
#ifndef LK_IO_CHECKPOINT_JOB_H
#define LK_IO_CHECKPOINT_JOB_H

#include "io/checkpoint.h"
#include "io/hdf5.h"

#include <limits.h>

#define LK_CHECKPOINT_SCHEMA "lockstep checkpoint"

enum { LK_CHECKPOINT_TEXTS = 6, LK_CHECKPOINT_GROUPS = 4 };

/* One dataset, in the file and in memory. */
typedef struct lk_checkpoint_item {
    char path[LK_H5_MAX_PATH];
    lk_h5_type type;
    int dims;
    hsize_t dim[LK_H5_MAX_DIMS];
    size_t row, bytes; /* of a row (first dimension), of all */
    void *data;
    char digest[LK_DIGEST_TEXT];
} lk_checkpoint_item;

typedef struct lk_checkpoint_job {
    MPI_Comm comm;
    int rank, ranks;
    const char *given; /* the caller's path: a directory to save into, a file to read */
    const lk_params *params;
    const lk_flat *data;
    lk_checkpoint_info info; /* save: that of rank 0, lying in `shared` */
    char *shared, **names; /* names: of the classes, in `shared` */
    lk_checkpoint_item *item; /* params->count of each group, then (save) state and, for text,
                                 vocabulary */
    int items;
    char path[PATH_MAX], part[PATH_MAX + 8];
    hid_t file;
} lk_checkpoint_job;

/* Fill in the ranks and run on the I/O thread. Collective. */
lk_status lk_checkpoint_run(lk_io *io, MPI_Comm world, lk_io_job run, lk_checkpoint_job *j);

static inline lk_status lk_checkpoint_agree(const lk_checkpoint_job *j, lk_status mine)
{
    return lk_h5_agree(j->comm, mine);
}

/* Datasets are dealt out to the ranks: one digests, verifies or reads each. */
static inline bool lk_checkpoint_mine(const lk_checkpoint_job *j, int i)
{
    return i % j->ranks == j->rank;
}

lk_status lk_checkpoint_broadcast(const lk_checkpoint_job *j, void *bytes, size_t size, int root);

/* The texts of an info: name of the attribute, and the member. */
extern const char *const lk_checkpoint_text_name[LK_CHECKPOINT_TEXTS];
char **lk_checkpoint_text(lk_checkpoint_info *info, int i);

void lk_checkpoint_set_item(lk_checkpoint_item *x, lk_h5_type type, size_t element, int dims,
                            const int64_t *dim, void *data);
/* The buffers by group, NULL for those that are not there. */
void lk_checkpoint_flat(const lk_flat *data, float *flat[LK_CHECKPOINT_GROUPS]);
/* One item for each parameter in each group that is there; room for two more. */
lk_status lk_checkpoint_list_params(lk_checkpoint_job *j);

/* Open for reading, each rank by itself. Collective. */
lk_status lk_checkpoint_open_each(const lk_checkpoint_job *j, const char *path, hid_t *file);
/* On failure `info` may hold some texts. */
lk_status lk_checkpoint_read_info(hid_t file, const char *where, lk_checkpoint_info *info);

#endif
