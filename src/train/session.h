/* What training, planning, evaluation and generation share: the device, the model of a run file,
 * and the graphs built from it. */
#ifndef LK_TRAIN_SESSION_H
#define LK_TRAIN_SESSION_H

#include "io/dataset.h"
#include "io/loader.h"
#include "model/fusion.h"
#include "model/vision.h"
#include "program/program.h"
#include "train/run.h"
#include "train/train.h"

/* Open the device of this rank: "cpu", "cuda", or "auto" (a GPU if there is one). Not
 * collective. */
lk_status lk_session_device(const lk_comm *comm, const char *name, lk_precision precision,
                            lk_device **device);
void lk_session_device_close(lk_device *d); /* takes NULL */

/* The model of a run on its data. */
typedef struct lk_model {
    bool images; /* with targets and labels */
    bool fused;  /* and a text each */
    lk_transformer text;
    lk_vision image;
    lk_fusion fusion;
    const lk_image_format *format; /* of the stored images; not owned */
    int64_t height, width;         /* to which images are sampled */
} lk_model;
/* vocabulary: tokens of the text. Strings stay owned by run, the format by the caller. */
lk_model lk_session_model(const lk_run *run, int64_t vocabulary, const lk_image_format *format);
lk_dataset_kind lk_session_data_kind(const lk_run *run); /* what a run's model learns from */
/* LK_E_INPUT unless it can learn from these data. */
lk_status lk_session_expect(const lk_run *run, const lk_dataset *data);
/* Working type of the run's precision. */
lk_dtype lk_session_compute(const lk_run *run);

/* Where a graph's samples come from; see lk_windows and lk_images. */
typedef struct lk_source {
    int64_t batch, context; /* samples per leaf; tokens per sample */
    lk_dtype type;          /* of tokens */
    bool resident;
    int64_t shard_rows;
    uint32_t purpose;
    int first_leaf, local_leaves;
    lk_augment augment;
} lk_source;
lk_source lk_session_source(const lk_run *run, const lk_dataset *data,
                            const lk_loader_sizes *sizes, const lk_loader_options *o);

/* A graph from samples to the mean loss, with the inputs to bind. */
typedef struct lk_loss_graph {
    lk_graph *graph;
    lk_tensor *field[LK_DATASET_FIELDS]; /* tokens; or images, labels and, or NULL, tokens */
    lk_tensor *scale;                    /* of images: lk_session_scale(); NULL for text */
} lk_loss_graph;
/* How it is built. */
typedef struct lk_passes {
    lk_dtype compute;
    bool training;        /* with the backward pass */
    bool cast_parameters; /* for lk_program_use_ema */
    lk_recompute_policy recompute;
    bool unfused;         /* without lk_fuse: for comparison */
} lk_passes;
/* The passes of a run's training graph. */
lk_passes lk_session_passes(const lk_run *run);
/* After a training graph call lk_params_layout, lk_bucket and lk_optimize. */
lk_status lk_session_loss_graph(lk_params *params, const lk_model *m, const lk_source *source,
                                const lk_passes *passes, lk_loss_graph *out);
/* Its first part for images: inputs (in `out`) to logits, targets and labels. */
lk_tensor *lk_session_logits(lk_graph *g, const lk_model *m, const lk_source *source,
                             lk_loss_graph *out, lk_tensor **targets, lk_tensor **labels);
/* Mean and reciprocal standard deviation of every channel, f32 [2,C] on the device; the caller
 * releases it. */
lk_status lk_session_scale(lk_device *d, const lk_image_format *f, void **memory);
/* The leaves of a run on these ranks; `saved`: those it was started with, 0 for a new run.
 * LK_E_INPUT: not a power of two, or ranks or batch do not fit. */
lk_status lk_session_leaves(const lk_comm *comm, const lk_run *run, int saved, int *leaves);
/* Which samples of a split this rank takes. */
lk_loader_options lk_session_samples(const lk_comm *comm, const lk_run *run, int leaves,
                                     lk_split split);
/* The graph of a run's whole step, ready for a program; lays out params. */
lk_status lk_session_train_graph(const lk_comm *comm, const lk_run *run, int leaves,
                                 const lk_model *m, const lk_source *source,
                                 const lk_passes *passes, lk_params *params, lk_loss_graph *out);
/* The graph of its validation loss; `ema`: of the moving average of the parameters. */
lk_status lk_session_held_graph(const lk_run *run, const lk_model *m, const lk_source *source,
                                bool ema, lk_params *params, lk_loss_graph *out);
/* Let `make` create programs on every rank, with the library algorithms that rank 0 chooses in it
 * (or that were set there before), and attach the device to the ranks. Collective. */
lk_status lk_session_programs(lk_comm *comm, lk_device *d, const lk_params *params,
                              lk_status (*make)(void *context), void *context);
/* What a run's memory follows from. */
typedef struct lk_memory_parts {
    lk_device *device;
    const lk_params *params;
    lk_graph *train, *held, *ema; /* held, ema: NULL without validation or moving average */
    lk_loader_sizes sizes, held_sizes;
    int local_leaves, rank, ranks;
    bool average; /* a moving average of the parameters is kept */
} lk_memory_parts;
/* Bytes of each kind; plans the graphs, which changes nothing in ones that are planned. plan.c */
lk_status lk_session_memory(const lk_memory_parts *p, double memory[LK_MEMORY_KINDS]);
/* The optimizer's constants of a run file. */
lk_optimizer lk_session_optimizer(const lk_run *run, int leaves);

#endif
