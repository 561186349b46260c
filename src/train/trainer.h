/* Private: what the parts of a training run share. train.c begins and ends it, trainer_build.c
 * makes graphs and programs, trainer_steps.c is the loop. */
#ifndef LK_TRAIN_TRAINER_H
#define LK_TRAIN_TRAINER_H

#include "comm/watchdog.h"
#include "train/debug.h"
#include "train/monitor.h"
#include "train/rundir.h"
#include "train/save.h"
#include "train/session.h"
#include "train/stop.h"
#include "train/tracing.h"

enum { LK_TRAINER_RING = 4 }; /* steps in flight */

typedef struct lk_trainer {
    lk_comm *comm;
    lk_io *io;
    const lk_run *run;
    const lk_start *how;
    const lk_reporter *reporter;
    lk_rundir *rundir;
    lk_monitor *monitor;
    lk_stop *stop;
    lk_watchdog *watchdog;
    lk_tracing *tracing;
    lk_debug *debug;
    lk_device *device;
    lk_dataset *data;
    lk_model model;
    lk_params *params;
    lk_loader_options order, held; /* of training and of validation samples */
    lk_loader *loader, *held_loader;
    lk_loss_graph train_graph, eval_graph, ema_graph; /* ema: eval of the moving average */
    lk_store *store;
    lk_save *save;
    lk_program *train, *eval, *ema;
    void *shared;             /* device: their arena and scratch */
    int64_t eval_batches;     /* of a validation */
    void *eval_state, *scale; /* device; scale: of images */
    lk_step_state *ring; /* pinned, LK_TRAINER_RING slots */
    int leaves;
    uint64_t start, last; /* steps done at the start; stop here */
    uint64_t drained;     /* steps whose state was read */
    /* steps done in the last checkpoint, and in the newest that a step which counts came after; or
     * LK_CHECKPOINT_NONE */
    uint64_t saved, good;
    uint64_t validated; /* step of the last validation; see lk_checkpoint_info */
    bool beaten; /* another lockstep has begun the run since this one looked for it */
    bool owes; /* the validation after t->start, which was left by a stop */
    uint64_t skipped_in_row; /* steps up to the last whose state was read */
    double begun, best;
    double own_evaluation; /* seconds of this rank's work in a batch of the last evaluation */
    lk_drift_report drift; /* of validation from training samples; rank 0, if it is known */
    double load_bytes, load_seconds; /* of the checkpoint to resume from; 0: none */
    double each;         /* mean time of a step, s; rank 0 */
    lk_train_result result;
} lk_trainer;

/* A line for the user; rank 0 has it printed. */
void lk_trainer_say(const lk_trainer *t, const char *text);
/* A line where reading the dataset failed and worked when tried again, once; by the rank it was. */
void lk_trainer_tell_retries(const lk_trainer *t);
/* Loaders, graphs, buffers and programs; t has device, data and leaves. `choices`: library
 * algorithms of the checkpoint to resume from, or NULL. Collective. */
lk_status lk_trainer_build(lk_trainer *t, const char *choices);
/* Whether a validation is due after `step`. */
bool lk_trainer_validates(const lk_trainer *t, uint64_t step);
/* From step t->start to t->last or to where something stops it; the store holds the state.
 * Collective. */
lk_status lk_trainer_steps(lk_trainer *t);

#endif
