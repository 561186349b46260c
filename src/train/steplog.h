/* A log of numbers by step: loss.log and validation.log of a run directory.
 *
 * A line is the step and some numbers, separated by blanks; steps rise. What is in a log up to a
 * checkpoint was on disk before that checkpoint was begun, so a run that goes on from it finds it
 * there; what comes after may be cut anywhere, and is removed. */
#ifndef LK_TRAIN_STEPLOG_H
#define LK_TRAIN_STEPLOG_H

#include "base/digest.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define LK_STEPLOG_ANY UINT64_MAX

typedef struct lk_steplog_form {
    const char *columns; /* their names, for messages */
    int least, most;     /* numbers after the step */
    bool all_steps;      /* each step has its line, from the first line's on */
} lk_steplog_form;

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
