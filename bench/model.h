/* The training program of a run file on random tokens or images, for the benchmarks; no data file
 * is read. On several ranks each computes its leaves, and gradients are reduced as in training. */
#ifndef LK_BENCH_MODEL_H
#define LK_BENCH_MODEL_H

#include "bench/command.h"
#include "train/session.h"

typedef struct bench_model {
    lk_comm *comm;
    lk_run run;
    lk_device *device;
    lk_params *params;
    lk_loss_graph graph;
    lk_store *store;
    lk_program *program;
    void *field[LK_DATASET_FIELDS], *scale; /* device: random samples; see lk_loss_graph */
    lk_image_format format;
    lk_model model;
    lk_source source;
    int leaves; /* of all ranks */
    bool capture;
} bench_model;

/* Collective; any number of models, one after the other. `plain`: in fp32, without the pass that
 * fuses nodes. What one op of the model's builder does stays one: bias and gelu in the epilogue of
 * a product. */
lk_status bench_open(const bench_arguments *a, lk_comm *comm, bool capture, bool plain,
                     bench_model *m);
/* Make steps until one is finite, as the loss scale finds its size in training. LK_E_INPUT: none of
 * the first is. */
lk_status bench_settle(const bench_model *m);
/* LK_E_INPUT unless the loss and the gradients of the last step are finite; `when`: in which. */
lk_status bench_expect_finite(const bench_model *m, const char *when);
/* Where a GPU was to be used if there is one, and there is none: say so, in a line on stderr. */
void bench_tell_device(const char *name, const bench_model *m);
/* Not where other ranks are still at work: see lk_comm_all_failed(). */
void bench_close(bench_model *m);

#endif
