/* Saving the checkpoints of a run while it trains.
 *
 * begin() copies the parameters, moments and moving average to pinned memory, for which training
 * waits, and the I/O thread writes them (io/checkpoint.h). The ranks look at the same steps whether
 * it is done, so a save that fails ends the run on all of them after the same step, with the
 * checkpoint before it untouched. */
#ifndef LK_TRAIN_SAVE_H
#define LK_TRAIN_SAVE_H

#include "comm/comm.h"
#include "io/checkpoint.h"
#include "train/run.h"
#include "train/train.h"

typedef struct lk_save lk_save;

/* What is saved, and where. All must outlive the lk_save. */
typedef struct lk_save_options {
    lk_comm *comm;
    lk_io *io;
    const lk_run *run;
    const lk_dataset *data;
    lk_store *store;
    const char *directory; /* of the checkpoints; there when the first save begins */
    int leaves;
    /* A save is complete; on all ranks. `warning` of the figures is for the user. */
    void (*saved)(void *context, const lk_checkpoint_figures *figures);
    void *context;
} lk_save_options;

/* Collective, as all below but lk_save_room() and the last. */
lk_status lk_save_open(const lk_save_options *o, lk_save **save);
/* Is there room for the first save? LK_E_SYSTEM says how much is missing. On rank 0. */
lk_status lk_save_room(const lk_save *s);
/* Waits for a save under way, whose outcome is nobody's; takes NULL. */
void lk_save_close(lk_save *s);
/* Start saving the store as it is now, after waiting for the save before. `validated`:
 * step of the last validation; `log`: the logs, on disk, of rank 0; `good`, `spoilt`: see
 * lk_checkpoint_snapshot_begin(). */
lk_status lk_save_begin(lk_save *s, uint64_t validated,
                        const lk_checkpoint_log log[LK_CHECKPOINT_LOGS], uint64_t good,
                        char spoilt[LK_CHECKPOINT_SPOILT]);
/* At the end of a step: the outcome of a save that is complete, LK_OK while it is not. Costs
 * nothing when none is under way, else one small reduction over the ranks. A rank that failed where
 * the others hang is waited for 10 s; then lk_comm_give_up() is called. */
lk_status lk_save_poll(lk_save *s);
/* Wait for the save that is under way, if any. */
lk_status lk_save_finish(lk_save *s);
/* So far. Stall: seconds that training waited, for copies and for saves before. */
lk_save_totals lk_save_total(const lk_save *s);

#endif
