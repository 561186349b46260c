/* The jobs of lockstep: train, plan, evaluate, generate. Each is one call from its command. */
#ifndef LK_TRAIN_TRAIN_H
#define LK_TRAIN_TRAIN_H

#include "comm/comm.h"
#include "io/dataset.h"
#include "metric/drift.h"
#include "trace/roofline.h"
#include "train/run.h"

/* What an evaluation during training found, means over its samples. */
typedef struct lk_validation {
    double loss, accuracy;         /* accuracy: share of right classes; NAN for text */
    double ema_loss, ema_accuracy; /* of the moving average of the parameters; NAN without one */
} lk_validation;

/* Where a job reports to; all members may be NULL. Called on rank 0 only. */
typedef struct lk_reporter {
    void *context;
    void (*line)(void *context, const char *text); /* a plain line, no newline */
    /* After a step: done of total, training loss, samples (sequences) a second, seconds a step. */
    void (*step)(void *context, int64_t done, int64_t total, double loss, double rate,
                 double step_seconds);
    /* After an evaluation at `step`; best: lowest validation loss so far. */
    void (*evaluated)(void *context, int64_t step, const struct lk_validation *v, double best);
} lk_reporter;

/* The saves of a start. */
typedef struct lk_save_totals {
    int64_t saves;
    double bytes, seconds; /* of files; from first write to rename, beside training */
    double stall;          /* seconds that training waited for them */
} lk_save_totals;

typedef struct lk_train_result {
    int64_t steps, skipped; /* done by this start; of the whole run */
    double loss, best_validation_loss;
    lk_validation validation; /* the last one; NAN when there was none */
    double seconds;
    lk_save_totals saves;
    char checkpoint[4096]; /* the last one written */
    char stopped[64]; /* why before its end: "SIGUSR1 at rank 3", "the time limit"; else "" */
} lk_train_result;

/* What is done with a run directory that exists. */
typedef enum lk_resume {
    LK_START_NEW,       /* refused */
    LK_RESUME,          /* gone on from the newest checkpoint; there must be one */
    LK_RESUME_OR_START, /* the same, or from the first step where there is no checkpoint yet */
} lk_resume;

/* How this start goes, beside what the run file says. */
typedef struct lk_start {
    lk_resume resume;
    bool detect_anomaly;  /* stop at the first value that is not finite; train/debug.h */
    bool launch_blocking; /* wait for each kernel, so that an error names it */
    bool profile;         /* nothing is saved */
    double patience; /* seconds to wait while another process works on the run; of rank 0 */
    double deadline; /* lk_clock_seconds() by which a save must be done; 0: none; of rank 0 */
    /* How the watchdog speaks and ends this process (comm/watchdog.h); NULL: there is none. */
    void (*say)(void *context, const char *text);
    void (*end)(void *context, bool all);
    /* From now on it sees what the run does, or sees it no more; NULL: nobody asks. */
    void (*watched)(void *context, bool now);
    void *context;
} lk_start;

/* Run or resume a training run, until its end or until a signal (base/signals.h) or the time limit
 * stops it after a step, with a save. Collective. */
lk_status lk_train(lk_comm *comm, lk_io *io, const lk_run *run, const lk_start *start,
                   const lk_reporter *reporter, lk_train_result *result);

/* Memory a rank holds while it trains. All but the last are on the device. */
typedef enum lk_memory {
    LK_MEMORY_PARAMETERS,
    LK_MEMORY_SHADOW,    /* the same in half precision */
    LK_MEMORY_GRADIENTS, /* one buffer, and one for each level of the leaf tree */
    LK_MEMORY_MOMENTS,
    LK_MEMORY_EMA,         /* moving average of the parameters */
    LK_MEMORY_ACTIVATIONS, /* arena of the training step */
    LK_MEMORY_SCRATCH,     /* workspace of its kernels */
    LK_MEMORY_VALIDATION,  /* what the validation loss needs beyond these two, which it uses too */
    LK_MEMORY_DATA,        /* resident shards, or the samples of a step */
    LK_MEMORY_STAGING,     /* of the exact reduction */
    LK_MEMORY_LIBRARIES,   /* workspace of the product library, tables of rotary positions */
    LK_MEMORY_PINNED,      /* host: windows read ahead, and the copy that a save writes */
    LK_MEMORY_KINDS
} lk_memory;
const char *lk_memory_name(lk_memory kind);

/* Nodes of one kind in a step of this rank, over its leaves. */
typedef struct lk_plan_line {
    const char *name;
    int nodes; /* of the graph */
    double flops, bytes, seconds;
} lk_plan_line;

/* What a run would take, without training. */
typedef struct lk_step_plan {
    char device[200];
    int ranks, leaves, nodes;
    int64_t parameters;
    double memory[LK_MEMORY_KINDS], device_bytes; /* bytes; the sum of those on the device */
    lk_plan_line line[LK_OPS + 1], total;         /* kinds that occur, the longest first */
    int lines;
    lk_roofline ceiling; /* measured here */
    /* seconds of the reduction, measured: the shortest, and in the worst moment; 0: one rank */
    double reduction, reduction_worst;
} lk_step_plan;
/* Plan the training step of a run: memory, and the time predicted as the sum over nodes of
 * max(flops / rate, bytes / bandwidth), which real nodes come near to but do not reach: a step
 * takes 1.1 to 2 times as long (bench/NOTES.md, "Planned and measured"). Over several ranks the
 * reduction is measured and added as if nothing ran beside it. Reads only vocabulary and sizes of
 * the data, writes nothing; the ceilings take about two seconds. Collective. src/train/plan.c */
lk_status lk_train_plan(lk_comm *comm, lk_io *io, const lk_run *run, lk_step_plan *plan);

enum { LK_CONFUSION_CLASSES = 20 }; /* a table of so many fits a terminal */

typedef struct lk_evaluation {
    lk_dataset_kind kind;
    double loss, accuracy; /* mean of the samples (tokens or images): nats, share of argmax hits */
    int64_t samples;
    bool ema; /* of the moving average of the parameters */
    char warning[512]; /* of the dataset (io/dataset.h), "" when there is none */
    bool compared;     /* the checkpoint knows the distribution of its training data: `drift` is
                          that of the validation split from it */
    lk_drift_report drift; /* free with lk_evaluation_clear() */
    /* images only, by class: those of it, those recognised, its name; and for at most
     * LK_CONFUSION_CLASSES, whose table is read as a whole, those of label l predicted as p at
     * [l * classes + p], else NULL; free with lk_evaluation_clear() */
    int64_t classes, *images, *right, *confusion;
    char **name;
} lk_evaluation;
void lk_evaluation_clear(lk_evaluation *e); /* takes a zeroed struct too */
typedef struct lk_scoring {
    const char *checkpoint; /* a file or a run directory */
    const char *data;
    const char *predictions; /* file to write loss and argmax of every sample to, or NULL */
    bool overwrite;          /* of an earlier predictions file */
    const char *device;      /* auto | cpu | cuda */
    const char *weights; /* auto | raw | ema: auto takes the moving average where there is one */
    double psi;          /* threshold of drift (metric/drift.h) */
} lk_scoring;
/* Loss and accuracy over the whole validation split: every non-overlapping window of a text, every
 * image. Collective. */
lk_status lk_evaluate(lk_comm *comm, lk_io *io, const lk_scoring *job, lk_evaluation *result);

typedef struct lk_generation {
    const char *prompt; /* UTF-8 */
    int64_t tokens;     /* to generate */
    double temperature; /* 0: the most likely token */
    int64_t top_k;      /* 0: all */
    uint64_t seed;
    const char *device; /* auto | cpu | cuda */
} lk_generation;
/* *text gets prompt and continuation (UTF-8, malloc'ed). `emit`, if given, gets each piece. */
lk_status lk_generate(lk_comm *comm, lk_io *io, const char *checkpoint, const lk_generation *job,
                      void (*emit)(void *context, const char *piece), void *context, char **text);

#endif
