/* The jobs of lockstep: train, plan, evaluate, generate. Each is one call from its command. */
#ifndef LK_TRAIN_TRAIN_H
#define LK_TRAIN_TRAIN_H

#include "comm/comm.h"
#include "io/io.h"
#include "train/run.h"

/* Where a job reports to; all members may be NULL. Called on rank 0 only. */
typedef struct lk_reporter {
    void *context;
    void (*line)(void *context, const char *text); /* a plain line, no newline */
    /* After a step: done of total, training loss, samples (sequences) a second, seconds a step. */
    void (*step)(void *context, int64_t done, int64_t total, double loss, double rate,
                 double step_seconds);
    /* After an evaluation at `step`: mean validation loss, best so far. */
    void (*evaluated)(void *context, int64_t step, double loss, double best);
} lk_reporter;

typedef struct lk_train_result {
    int64_t steps, skipped;
    double loss, validation_loss, best_validation_loss;
    double seconds;
    char checkpoint[4096]; /* the last one written */
} lk_train_result;

/* Run or resume a training run. Collective. Refuses an existing run directory unless `resume`. */
lk_status lk_train(lk_comm *comm, lk_io *io, const lk_run *run, bool resume,
                   const lk_reporter *reporter, lk_train_result *result);

/* Memory a rank holds while it trains. All but the last are on the device. */
typedef enum lk_memory {
    LK_MEMORY_PARAMETERS,
    LK_MEMORY_SHADOW,      /* the same in half precision */
    LK_MEMORY_GRADIENTS,   /* one buffer, and one for each level of the leaf tree */
    LK_MEMORY_MOMENTS,
    LK_MEMORY_ACTIVATIONS, /* arena of the training step */
    LK_MEMORY_SCRATCH,     /* workspace of its kernels, without what libraries keep themselves */
    LK_MEMORY_VALIDATION,  /* arena and workspace of the validation loss */
    LK_MEMORY_DATA,        /* resident shards, or the windows of a step */
    LK_MEMORY_STAGING,     /* of the exact reduction */
    LK_MEMORY_PINNED,      /* host: windows read ahead */
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
    double rate, bandwidth; /* ceilings measured here: FLOP/s of a product, bytes/s of a sum */
} lk_step_plan;
/* Plan the training step of a run: memory, and the time predicted as the sum over nodes of
 * max(flops / rate, bytes / bandwidth); over several ranks the reduction is measured and added as
 * if nothing ran beside it. Reads only vocabulary and sizes of the data, writes nothing; the
 * ceilings take about a second. Collective. src/train/plan.c */
lk_status lk_train_plan(lk_comm *comm, lk_io *io, const lk_run *run, lk_step_plan *plan);

typedef struct lk_evaluation {
    double loss, perplexity, accuracy; /* per token: nats, exp(loss), share of argmax hits */
    int64_t tokens;
} lk_evaluation;
typedef struct lk_scoring {
    const char *checkpoint; /* a file or a run directory */
    const char *data;
    const char *predictions; /* file to write loss and argmax of every token to, or NULL */
    bool overwrite;          /* of an earlier predictions file */
    const char *device;      /* auto | cpu | cuda */
} lk_scoring;
/* Loss over every non-overlapping window of the validation split. Collective. */
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
