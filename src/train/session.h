/* What training, evaluation and generation share: the device, the model of a run file, and the
 * graphs built from it. */
#ifndef LK_TRAIN_SESSION_H
#define LK_TRAIN_SESSION_H

#include "io/checkpoint.h"
#include "io/dataset.h"
#include "io/loader.h"
#include "model/transformer.h"
#include "program/program.h"
#include "train/run.h"
#include "train/train.h"

/* Open the device of this rank: "cpu", "cuda", or "auto" (a GPU if there is one). Not
 * collective. */
lk_status lk_session_device(const lk_comm *comm, const char *name, lk_precision precision,
                            lk_device **device);
void lk_session_device_close(lk_device *d); /* takes NULL */

/* The model a run file describes for data of `vocabulary` tokens; strings stay owned by run. */
lk_transformer lk_session_model(const lk_run *run, int64_t vocabulary);
/* Working type of the run's precision. */
lk_dtype lk_session_compute(const lk_run *run);

/* Where a graph's token windows come from; see lk_windows. */
typedef struct lk_source {
    int64_t batch, context; /* samples per leaf, tokens per sample */
    lk_dtype type;
    bool resident;
    int64_t shard_tokens;
    uint32_t purpose;
    int first_leaf, local_leaves;
} lk_source;
lk_source lk_session_source(const lk_loader_sizes *sizes, const lk_loader_options *o,
                            lk_dtype type);

/* A graph from token windows to the mean loss. `data` is the input tensor to bind. */
typedef struct lk_loss_graph {
    lk_graph *graph;
    lk_tensor *data;
} lk_loss_graph;
/* How it is built. */
typedef struct lk_passes {
    lk_dtype compute;
    bool training; /* with the backward pass */
    lk_recompute_policy recompute;
    bool unfused;  /* without lk_fuse: for comparison */
} lk_passes;
/* The passes of a run's training graph. */
lk_passes lk_session_passes(const lk_run *run);
/* After a training graph call lk_params_layout, lk_bucket and lk_optimize. */
lk_status lk_session_loss_graph(lk_params *params, const lk_transformer *m, const lk_source *source,
                                const lk_passes *passes, lk_loss_graph *out);
/* The leaves of a run on these ranks; `saved`: those it was started with, 0 for a new run.
 * LK_E_INPUT: not a power of two, or ranks or batch do not fit. */
lk_status lk_session_leaves(const lk_comm *comm, const lk_run *run, int saved, int *leaves);
/* Which samples of a split this rank takes. */
lk_loader_options lk_session_samples(const lk_comm *comm, const lk_run *run, int leaves,
                                     lk_split split);
/* The graph of a run's whole step, ready for a program; lays out params. */
lk_status lk_session_train_graph(const lk_comm *comm, const lk_run *run, int leaves,
                                 const lk_transformer *m, const lk_source *source,
                                 lk_params *params, lk_loss_graph *out);
/* The graph of its validation loss. */
lk_status lk_session_held_graph(const lk_run *run, const lk_transformer *m, const lk_source *source,
                                lk_params *params, lk_loss_graph *out);
/* The optimizer's constants of a run file. */
lk_optimizer lk_session_optimizer(const lk_run *run, int leaves);

/* A trained model read from a checkpoint, ready to compute logits. */
typedef struct lk_trained {
    lk_checkpoint_info info;
    lk_run run;
    lk_transformer model;
    lk_device *device;
    lk_params *params;
    lk_store *store;
} lk_trained;
/* Collective. Close with lk_session_close (takes a zeroed struct too). */
lk_status lk_session_open(lk_comm *comm, lk_io *io, const char *checkpoint, const char *device,
                          lk_trained *t);
void lk_session_close(lk_trained *t);

/* A forward program from tokens [batch, time] to logits on the host. */
typedef struct lk_forward {
    lk_graph *graph;
    lk_program *program;
    lk_tensor *logits;
    void *tokens;      /* device, i32 [batch, time] */
    float *host;       /* logits, f32 [batch, time, rows] */
    void *raw;         /* logits as downloaded */
    int64_t batch, time, rows;
} lk_forward;
lk_status lk_session_forward_open(lk_trained *t, int64_t batch, int64_t time, lk_forward *f);
/* Fill f->host from tokens (host, i32 [batch, time]). */
lk_status lk_session_forward(lk_trained *t, lk_forward *f, const int32_t *tokens);
void lk_session_forward_close(lk_trained *t, lk_forward *f);

#endif
