/* The run directory: resolved run file, loss log, validation log, checkpoints.
 *
 *   DIR/run.yaml         the resolved run file
 *   DIR/loss.log         one line a step: step loss learning-rate loss-scale gradient-norm skipped
 *   DIR/validation.log   one line an evaluation: step loss, then accuracy of image models, then
 *                        both again for the moving average of the parameters where it is kept
 *   DIR/starts.jsonl     one line a start (train/starts.h)
 *   DIR/SAVED            there when a first save is complete: then there are checkpoints
 *   DIR/DONE             there when all train.steps are done and saved
 *   DIR/checkpoints/     step-NNNNNN.h5 and `latest`
 *   DIR/lock             held (flock) by the process that works on the run
 *
 * The logs are functions of the run alone: on resume they are cut back to the checkpoint's step, so
 * they end up byte for byte those of an uninterrupted run. A checkpoint knows their length and
 * digest, so a line that has changed since is noticed. Rank 0 writes; others do nothing. */
#ifndef LK_TRAIN_RUNDIR_H
#define LK_TRAIN_RUNDIR_H

#include "io/checkpoint.h"
#include "ops/step_state.h"
#include "train/run.h"
#include "train/train.h"

typedef struct lk_rundir lk_rundir;

/* Look: whether DIR may or must exist says `how`; what does not fit is LK_E_INPUT. Rank 0 locks a
 * directory that exists: a run that another process is working on is LK_E_BUSY. Nothing is made. */
lk_status lk_rundir_open(const char *directory, int rank, lk_resume how, lk_rundir **d);
void lk_rundir_close(lk_rundir *d); /* takes NULL */
const char *lk_rundir_checkpoints(const lk_rundir *d);
/* Whether the run begins, there being no checkpoint to go on from. LK_E_INPUT: there ought to be
 * one, for LK_RESUME or because the run has saved some; or they cannot be seen from here; or the
 * directory is not a run's. Where *begins is false there may be one. */
lk_status lk_rundir_begins(const lk_rundir *d, bool *begins);
/* Before anything is changed: do the logs hold what they must for the run to go on from the
 * checkpoint `saved`? LK_E_INPUT: they do not. A log that is gone is told to `report`, and
 * *validated, the step of the last validation, becomes 0, for the new one will not have that step.
 * One that has other bytes than when the checkpoint was saved is told, too, and told again by later
 * starts. By rank 0. */
lk_status lk_rundir_check_logs(lk_rundir *d, const lk_checkpoint_info *saved, uint64_t *validated,
                               void (*report)(void *context, const char *text), void *context);
/* All checks have passed: make and lock the directory (when another process has made it meanwhile,
 * LK_E_INPUT for LK_START_NEW, else LK_E_BUSY) and open the logs, cut back to `step`; a run that
 * goes on is not DONE.
 * *best: the lowest validation loss logged up to `step` (unchanged when none). */
lk_status lk_rundir_begin(lk_rundir *d, const lk_run *run, uint64_t step, double *best);
lk_status lk_rundir_log_step(lk_rundir *d, const lk_step_state *s);
lk_status lk_rundir_log_validation(lk_rundir *d, uint64_t step, const lk_validation *v);
lk_status lk_rundir_sync(lk_rundir *d); /* logs to disk */
/* The logs as written so far; nothing is known of them on other ranks than 0. */
void lk_rundir_logs(const lk_rundir *d, lk_checkpoint_log log[LK_CHECKPOINT_LOGS]);
/* A save is complete: write SAVED if it is not there, on disk when this returns. */
lk_status lk_rundir_saved(lk_rundir *d);
/* All steps are done and saved: write DONE, on disk when this returns. */
lk_status lk_rundir_done(lk_rundir *d, uint64_t steps);

#endif
