/* A trace in a file (schema "lockstep trace"), written by all ranks together.
 *
 *   attributes      device, code_version, hosts, leaves, first_step, ceiling (FLOP/s, bytes/s),
 *                   lost, memory_name, memory_bytes, node_scope, node_op
 *   node/...        [nodes]: section i32 (lk_section); flops, bytes, live, scratch f64
 *   step/...        [ranks, steps]: begin, seconds f64
 *   span/...        [spans]: rank, step, node, leaf, lane i32; begin, seconds f64
 *
 * What they mean: trace/trace.h. */
#ifndef LK_IO_TRACE_FILE_H
#define LK_IO_TRACE_FILE_H

#include "io/io.h"
#include "trace/trace.h"

#include <mpi.h>

/* Write PATH (by way of PATH.part), replacing an older one: every rank gives its own steps and
 * spans, rank 0 the rest, but for hosts: each its own in `host`. Collective. */
lk_status lk_trace_save(lk_io *io, MPI_Comm world, const char *path, const char *host,
                        const lk_trace *mine);
/* Read all of it, checked; this process alone. Free with lk_trace_clear. */
lk_status lk_trace_load(lk_io *io, const char *path, lk_trace *trace);

#endif
