/* What the files of a run directory tell, for those who look on from outside: `lockstep watch` and
 * `lockstep report`. The run may be going on: files are read as far as their lines are whole, and
 * read on from there by lk_history_follow(). */
#ifndef LK_TRAIN_HISTORY_H
#define LK_TRAIN_HISTORY_H

#include "train/run.h"
#include "train/steplog.h"

#include <jansson.h>

/* Columns of numbers, one row after the other; not measured: NAN. */
typedef struct lk_table {
    int columns;
    int64_t rows, room;
    double **column; /* [columns][room] */
} lk_table;

enum { LK_RECORD_STEP, LK_RECORD_TIME, LK_RECORD_RATE, LK_RECORD_MEAN, LK_RECORD_P50,
       LK_RECORD_P95, LK_RECORD_P99, LK_RECORD_WAIT, LK_RECORD_HOST, LK_RECORD_DEVICE,
       LK_RECORD_COLUMNS }; /* "step" in run.jsonl: s, samples/s, ms, bytes */

enum { LK_HISTORY_TEXT = 1200 }; /* room for an error and what to do about it */

typedef struct lk_history_file lk_history_file;
typedef struct lk_history {
    char *directory;
    bool has_run; /* run.yaml could be read */
    lk_run run;
    char *run_text, *run_problem; /* the text of run.yaml; why it could not be read, or NULL */
    lk_table loss, validation, record; /* columns of the first two: steplog.h */
    /* other events of run.jsonl, in order, as they stand there */
    json_t *starts, *saves, *warnings, *ends, *ranks;
    json_t *hosts; /* lines of starts.jsonl */
    int64_t unreadable; /* whole lines that make no sense */
    bool log_exists;    /* run.jsonl */
    bool any_log;       /* that or another one */
    bool done;          /* the file DONE is there, or the last start ended by reaching the end */
    bool failed;        /* the last start ended by an error, and none has begun since */
    double changed;     /* when the last file of the run was written, seconds since 1970 */
    lk_history_file *file;
} lk_history;

/* Read all. LK_E_INPUT: not a run directory. */
lk_status lk_history_open(const char *directory, lk_history **h);
/* Read what was written since; a run that was cut back by a resume is read anew. LK_E_INPUT: the
 * directory is no longer there. */
lk_status lk_history_follow(lk_history *h);
void lk_history_close(lk_history *h); /* takes NULL */

/* ---- history_state.c ------------------------------------------------------------------------- */

typedef enum lk_run_state {
    LK_RUN_DONE,
    LK_RUN_RUNNING,
    LK_RUN_STOPPED,
    LK_RUN_FAILED,
    LK_RUN_UNREADABLE, /* no line of its logs makes sense */
    LK_RUN_SILENT /* no end was written, but nothing else either for long; or it was killed */
} lk_run_state;

/* And in words: "done", "running", "stopped: ...", "failed: ...", "silent for 2:10", and "no log
 * yet" where there is none. `now`: seconds since 1970. */
lk_run_state lk_history_state(const lk_history *h, double now, char text[LK_HISTORY_TEXT]);
void lk_history_find_end(lk_history *h);       /* for history.c: done, failed */
int64_t lk_history_total(const lk_history *h); /* steps of the whole run; 0: not known */
int64_t lk_history_done(const lk_history *h);  /* steps done */
/* Seconds in which the run was at work, over its starts; what was done again counts once. */
double lk_history_worked(const lk_history *h);
double lk_history_best(const lk_history *h, int64_t *step); /* lowest validation loss, NAN: none */
const json_t *lk_history_start(const lk_history *h); /* the last in the run log, NULL: none */
double lk_history_number(const json_t *o, const char *name);  /* a member; NAN: there is none */
double lk_history_last(const lk_table *t, int column);        /* of the last row; NAN: none */
/* Widen a range of losses, at first from INFINITY to -INFINITY, by those of the run. */
void lk_history_loss_range(const lk_history *h, double *low, double *high);
/* A loss that has fallen far is drawn by its logarithm, or its end would be a flat line. */
bool lk_history_logarithmic(double low, double high);

#endif
