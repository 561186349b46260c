/* What the benchmarks share: their command lines, and how they begin and end.
 *
 * RUN.yaml [DIRECTORY] [--vocabulary N] [--text N] [--image-size N] [--channels N]
 * [--classes N] [--set a.b=c]..., and of some [--baseline] and one number of their own. */
#ifndef LK_BENCH_COMMAND_H
#define LK_BENCH_COMMAND_H

#include "comm/comm.h"

enum {
    BENCH_MAX_SETS = 64,
    BENCH_OWN_SETS = 4 /* of these, for a benchmark to set */
};

typedef struct bench_arguments {
    const char *file, *directory, *set[BENCH_MAX_SETS];
    int sets;
    bool baseline;
    bool keep;                       /* every tensor of the step stays in memory */
    int64_t number;                  /* the benchmark's own */
    /* 0: not given; bench_open() has the defaults, and refuses what a model has no use for */
    int64_t vocabulary;              /* of a transformer, or of the texts of images */
    int64_t text;                    /* tokens of such a text */
    int64_t size, channels, classes; /* of images */
} bench_arguments;

typedef struct bench_command {
    const char *name;
    const char *does;   /* a sentence for --help */
    const char *number; /* option of its own number, from 1 to a million; NULL: none */
    int otherwise;      /* that number's default */
    bool directory, baseline;
    bool images; /* of image models alone: no option of texts */
    bool ranks;  /* works on several */
    lk_status (*job)(bench_arguments *a, lk_comm *comm); /* collective */
} bench_command;

/* The whole of a benchmark's main(): its exit code is the status. */
int bench_main(const bench_command *c, int argc, char **argv);
/* A whole number in this range, nothing else. LK_E_INPUT; text NULL: it is missing. */
lk_status bench_number(const char *name, const char *text, int64_t least, int64_t most,
                       int64_t *value);
bool bench_is_help(const char *text); /* --help or -h */
int bench_by_value(const void *a, const void *b); /* of qsort(): doubles, the least first */
/* Say why the benchmark failed, once if all ranks know of it; else the others are ended. */
void bench_failed(const char *name, lk_comm *comm, lk_status status); /* comm: may be NULL */

#endif
