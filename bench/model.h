/* The training program of a run file on random tokens or images, for the benchmarks; no data file
 * is read. */
#ifndef LK_BENCH_MODEL_H
#define LK_BENCH_MODEL_H

#include "train/session.h"

enum {
    BENCH_MAX_SETS = 64,
    BENCH_OWN_SETS = 4 /* of these, for a benchmark to set */
};

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
    int leaves;
} bench_model;

/* What the benchmarks share of their command lines: RUN.yaml [--vocabulary N] [--set a.b=c]...
 * [--image-size N] [--channels N] [--classes N] [--baseline] and one number of their own. */
typedef struct bench_arguments {
    const char *file, *set[BENCH_MAX_SETS];
    int sets, number;
    bool baseline;
    bool keep;                       /* every tensor of the step stays in memory */
    int64_t vocabulary;              /* of a transformer */
    int64_t size, channels, classes; /* of images */
} bench_arguments;

/* `name` of the number ("--steps") and its default. LK_E_INPUT with the usage. */
lk_status bench_parse(int argc, char **argv, const char *name, int number, bench_arguments *a);
/* `plain`: the run's model in fp32 with nothing fused, the step as its model's author wrote it.
 * lk_comm_open once, then any number of models, one after the other. */
lk_status bench_open(const bench_arguments *a, lk_comm *comm, bool capture, bool plain,
                     bench_model *m);
void bench_close(bench_model *m); /* takes a zeroed struct too */

#endif
