/* The logs of numbers by step, loss.log and validation.log of a run directory: their lines, written
 * and read.
 *
 * A line is the step and some numbers, separated by blanks; steps rise. What is in a log up to a
 * checkpoint was on disk before that checkpoint was begun, so a run that goes on from it finds it
 * there; what comes after may be cut anywhere, and is removed. */
#ifndef LK_TRAIN_STEPLOG_H
#define LK_TRAIN_STEPLOG_H

#include "io/checkpoint.h"
#include "train/train.h"

typedef struct lk_steplog_form {
    const char *name;    /* of the file */
    const char *columns; /* their names, for messages */
    int least, most;     /* numbers after the step */
    bool all_steps;      /* each step has its line, from the first line's on */
} lk_steplog_form;
extern const lk_steplog_form lk_steplogs[LK_CHECKPOINT_LOGS];

/* ---- lines ----------------------------------------------------------------------------------- */

enum { LK_STEPLOG_LINE = 160 }; /* room for one, with its end */
enum { LK_LOSS_STEP, LK_LOSS, LK_LOSS_LR, LK_LOSS_SCALE, LK_LOSS_NORM, LK_LOSS_SKIPPED,
       LK_LOSS_COLUMNS }; /* loss.log */
enum { LK_VALID_STEP, LK_VALID_LOSS, LK_VALID_ACCURACY, LK_VALID_EMA_LOSS, LK_VALID_EMA_ACCURACY,
       LK_VALID_COLUMNS }; /* validation.log; what a run does not have is left out of its lines */

void lk_steplog_write_loss(const lk_step_state *s, char line[LK_STEPLOG_LINE]);
void lk_steplog_write_validation(uint64_t step, const lk_validation *v,
                                 char line[LK_STEPLOG_LINE]);
/* False: not a whole line, which ends with a line end. */
bool lk_steplog_read_loss(const char *line, double column[LK_LOSS_COLUMNS]);
/* Columns left out are NAN; `run`, of which the line is, tells which those are; NULL: not known. */
bool lk_steplog_read_validation(const char *line, const lk_run *run,
                                double column[LK_VALID_COLUMNS]);

/* ---- files ----------------------------------------------------------------------------------- */

#define LK_STEPLOG_ANY UINT64_MAX

/* Is the log in PATH whole up to its line of step `last`, the last line that is not after step
 * `step`? LK_E_INPUT says what is wrong and what can be done. `last` LK_STEPLOG_ANY: not known, any
 * will do; 0: there is none. A log that is not there, or was begun anew after `step`, is no error:
 * *none. `first`: the first number of that line, NULL: not known; of another run it is another.
 * The lines up to `step` are added to `digest`, *bytes is their length. Changes nothing. */
lk_status lk_steplog_check(const char *path, const lk_steplog_form *form, uint64_t step,
                           uint64_t last, const float *first, lk_digest *digest, uint64_t *bytes,
                           bool *none);
/* Open for appending, cut after the last whole line that is not after `step`; made if it is not
 * there. *lowest, if given, is lowered to the least first number of the lines that stay; they are
 * added to `digest`, and *bytes is their length. */
lk_status lk_steplog_open(const char *path, const lk_steplog_form *form, uint64_t step,
                          double *lowest, lk_digest *digest, uint64_t *bytes, FILE **file);

#endif
