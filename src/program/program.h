/* lk_program: a planned graph on a device, ready to be replayed.
 *
 * lk_program_run() enqueues one step: the LEAF nodes once for each local leaf, gradients summed
 * pairwise in a fixed binary tree as leaves complete, the LAST nodes within the last leaf, then the
 * STEP nodes. Where the backend captures, the first run captures the whole step and later runs
 * replay it. */
#ifndef LK_PROGRAM_PROGRAM_H
#define LK_PROGRAM_PROGRAM_H

#include "program/observer.h"
#include "program/store.h"

typedef struct lk_program lk_program;

typedef struct lk_program_options {
    lk_comm *comm;
    uint64_t seed;
    int first_leaf, local_leaves;
    bool capture;
    bool shares; /* memory, by lk_program_share(), before anything else is done with it */
} lk_program_options;

/* The graph must outlive the program. Plans memory, prepares kernels (algorithm choices). */
lk_status lk_program_create(lk_graph *g, lk_store *store, const lk_program_options *o,
                            lk_program **program);
void lk_program_destroy(lk_program *p); /* takes NULL; before lk_comm_detach() */
/* Arena and scratch for programs of one device, NULL among them, of which never two run at a time:
 * one allocation, as large as the largest needs. The caller releases *memory after the programs;
 * NULL: none needs any. */
lk_status lk_program_share(lk_program *const *program, int count, void **memory);
/* Bind an INPUT tensor to device memory for one local leaf. Before the first run. */
void lk_program_bind(lk_program *p, const lk_tensor *input, int local_leaf, void *device);
lk_status lk_program_run(lk_program *p);
/* Device address of a tensor after a run (arena tensors: of the last leaf, if still live). */
void *lk_program_data(lk_program *p, const lk_tensor *t);
size_t lk_program_arena_bytes(const lk_program *p);
/* What it costs to sum the gradients of a rank's leaves, in a step, as ops tell theirs. */
void lk_program_sums_cost(const lk_params *p, int local_leaves, double *flops, double *bytes);
/* Let `o` watch from the next run on, until it is removed; what was captured is captured anew. */
void lk_program_observe(lk_program *p, lk_observer *o);
void lk_program_unobserve(lk_program *p, lk_observer *o); /* one that does not watch is let be */
/* Read the moving average of the parameters in their place; the graph must have been built with
 * cast_parameters. Before the first run. */
void lk_program_use_ema(lk_program *p);
/* Use `state` (device) instead of the store's step state; for evaluation. Before the first run. */
void lk_program_use_state(lk_program *p, void *state);

/* Run one step, uncaptured, in which every node of the program's graph `g` runs `repeats` times
 * more, alone and in a row: seconds[i] of node i of the list is the mean. Each sees the data that
 * it would see without, and the step's result is the same. Gradients have to be finite: AdamW does
 * nothing otherwise. For benchmarks. src/program/timing.c */
lk_status lk_timing_step(lk_program *p, const lk_graph *g, int local_leaves, int repeats,
                         double *seconds);

#endif
