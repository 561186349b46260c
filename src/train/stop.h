/* When a start ends before the run does: a signal at any rank, or the time limit. And when all
 * ranks leave a validation: for that, or because one has failed in it.
 *
 * All ranks stop after the same step. The time limit is rank 0's to judge; it leaves time for what
 * is still in flight and for the save, from what steps, validations and saves have taken so far:
 *
 *   2 saves + 1 validation + 8 steps + 10 % of the time this start was given, at most 30 s
 *
 * Within a validation, which can be left, only saves and the share. Before the first save its time
 * is taken as 2 s + 1 s for each 100 MB. */
#ifndef LK_TRAIN_STOP_H
#define LK_TRAIN_STOP_H

#include "comm/comm.h"

typedef struct lk_stop lk_stop;

/* `deadline`: lk_clock_seconds() at which the job will be ended, 0: none; rank 0's counts.
 * `bytes`: size of a checkpoint. Collective. */
lk_status lk_stop_open(lk_comm *comm, double deadline, double bytes, lk_stop **stop);
void lk_stop_close(lk_stop *s); /* takes NULL */
void lk_stop_validated(lk_stop *s, double seconds); /* one took so long */
void lk_stop_saved(lk_stop *s, double seconds);
/* After each step; `step_seconds` is their mean so far. *now: save and stop. The answer is that of
 * the step before, so that no rank waits for it. Collective. */
lk_status lk_stop_ask(lk_stop *s, double step_seconds, bool *now);
/* The same between batches of a validation. `failed`: this rank has, so it calls on without working
 * until *now, and then all agree on the failure. Collective. */
lk_status lk_stop_ask_validating(lk_stop *s, bool failed, bool *now);
/* Why: "SIGUSR1 at rank 3" or "the time limit". Valid until the close. */
const char *lk_stop_reason(const lk_stop *s);

#endif
