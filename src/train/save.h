/* Saving the checkpoints of a run. */
#ifndef LK_TRAIN_SAVE_H
#define LK_TRAIN_SAVE_H

#include "comm/comm.h"
#include "io/dataset.h"
#include "program/store.h"
#include "train/run.h"

typedef struct lk_save lk_save;

/* What is saved, and where. All must outlive the saver. */
typedef struct lk_save_options {
    lk_comm *comm;
    lk_io *io;
    const lk_run *run;
    const lk_dataset *data;
    lk_store *store;
    const char *directory; /* of the checkpoints; made when the first save begins */
    int leaves;
} lk_save_options;

/* Collective, as all below but lk_save_close. */
lk_status lk_save_open(const lk_save_options *o, lk_save **save);
void lk_save_close(lk_save *s); /* takes NULL */
/* Save the store as it is now. */
lk_status lk_save_begin(lk_save *s);
/* Path of the last checkpoint that was written; "" before the first. */
const char *lk_save_path(const lk_save *s);

#endif
