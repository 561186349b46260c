/* A trace: when each node of some steps ran on each rank, what it had to do, and what it took.
 *
 * Recorded by an observer of the program (recorder.c), written by all ranks into one file
 * (io/trace_file.h), summed up (summary.c) and exported (perfetto.c). */
#ifndef LK_TRACE_TRACE_H
#define LK_TRACE_TRACE_H

#include "program/program.h"
#include "trace/roofline.h"

#include <stdio.h>

/* A node of the graph. The last one stands for the pairwise sums of leaves' gradients: its scope
 * and op are "leaf_sums". */
typedef struct lk_trace_node {
    char *scope, *op;
    lk_section section;
    double flops, bytes; /* of all its runs in one step of one rank: what it must do at least */
    double live;         /* bytes of activations that are alive while it runs */
    double scratch;      /* bytes of workspace it asks for */
} lk_trace_node;

/* A kernel or copy of a node; on the CPU a whole node. */
typedef struct lk_trace_span {
    int32_t rank, step; /* step: from 0 */
    int32_t node, leaf; /* leaf: number of the leaf among all; -1 when it belongs to none */
    int32_t lane;       /* spans of a rank that overlap in time lie on different lanes */
    double begin, seconds; /* begin: since the start of the trace, the same moment on all ranks */
} lk_trace_span;

typedef struct lk_trace_step {
    double begin, seconds; /* of one rank, from before its first to after its last node */
} lk_trace_step;

/* A kind of memory and its bytes on a rank. */
typedef struct lk_trace_memory {
    char *name;
    double bytes;
} lk_trace_memory;

typedef struct lk_trace {
    char *device; /* of rank 0 */
    char *version; /* of the code */
    char **host;  /* [ranks] */
    int ranks, leaves;
    int64_t first_step; /* the number of step 0 in the run's log */
    int steps;
    lk_roofline ceiling;
    int nodes;
    lk_trace_node *node;
    int memories;
    lk_trace_memory *memory; /* activations and scratch among them, at their peak */
    lk_trace_step *step;     /* [ranks][steps] */
    int64_t spans;
    lk_trace_span *span; /* by rank, lane and begin */
    int64_t lost;        /* pieces of work that belong to no node */
} lk_trace;

void lk_trace_clear(lk_trace *t); /* takes a zeroed struct too */

/* ---- recorder.c ------------------------------------------------------------------------------ */

typedef struct lk_recorder lk_recorder;

/* Trace the next `steps` runs of a program of graph `g`, after `skip` that only prepare (the first
 * replay of what was captured is slow). The device's backend must have a tracer. Starts the clock:
 * ranks call it together. */
lk_status lk_recorder_start(lk_program *p, lk_graph *g, lk_device *d, int local_leaves, int skip,
                            int steps, lk_recorder **recorder);
/* End of the trace, after at most as many runs and one that is kept: this rank's nodes, steps and
 * spans. */
lk_status lk_recorder_finish(lk_recorder *r, int rank, int first_leaf, lk_trace *trace);
void lk_recorder_destroy(lk_recorder *r); /* takes NULL; before the program */

/* ---- summary.c ------------------------------------------------------------------------------- */

/* Nodes taken together, over all ranks and steps. */
typedef struct lk_trace_line {
    char *name; /* of the op, of the scope; of a node both */
    int nodes;
    double seconds;      /* of a step of a rank, the mean */
    double flops, bytes; /* of the same */
    double least;        /* seconds of the same under the roofline; 0: not known */
} lk_trace_line;

/* A rank and its means over steps, in seconds. */
typedef struct lk_trace_rank {
    int rank;
    double step;
    double own; /* of that, without the reduction that nothing else ran beside: in it a rank waits
                   for the others, so that the steps of all take the same time */
} lk_trace_rank;

/* Means over ranks and steps, in seconds, unless it says otherwise. */
typedef struct lk_trace_summary {
    lk_trace_line *op, *scope, *node; /* each sorted by seconds, the longest first */
    int ops, scopes, node_lines;
    lk_trace_line total;
    double step;      /* of a step */
    double covered;   /* in which anything ran */
    double uncovered; /* step - covered */
    double reduction; /* in which gradients were summed over ranks */
    double overlap;   /* of that, beside other work of the rank */
    lk_trace_rank slowest, fastest; /* by their own work */
    int live, scratch; /* nodes with the most of each; -1: none */
} lk_trace_summary;

/* depth: parts of a scope that count ("blocks.3.attn.qkv" at 3 is "blocks.3.attn"). */
lk_status lk_trace_summarise(const lk_trace *t, int depth, lk_trace_summary *s);
void lk_trace_summary_clear(lk_trace_summary *s);
/* The unit in which rates of the traced device are told, and its name: 1e12, "TFLOP/s"; of a device
 * whose ceiling is below one of these, or not known, 1e9, "GFLOP/s". */
double lk_trace_unit(const lk_trace *t, const char **name);

/* ---- perfetto.c ------------------------------------------------------------------------------ */

/* The trace in Chrome's Trace Event Format (JSON object form), which ui.perfetto.dev opens: a
 * process for each rank, a thread for each lane and one for the steps, a counter of activations.
 * LK_E_SYSTEM: cannot be written. */
lk_status lk_trace_perfetto(const lk_trace *t, FILE *out);

#endif
