/* What can be said of MPI and NCCL, and how fast they are. */
#ifndef LK_COMM_PROBE_H
#define LK_COMM_PROBE_H

#include "comm/comm.h"

#include <jansson.h>

/* {"library", "version", "header", "path", "loaded", "libraries", "level", "cuda_aware", "nccl",
 * "nccl_header", "nccl_path"}: versions loaded and compiled against, their files, all MPI
 * libraries in this process; null what this build has not. LK_E_SYSTEM: out of memory. The caller
 * owns *facts. */
lk_status lk_comm_facts(json_t **facts);

/* "Open MPI v4.1.4", with NCCL's version where it is there. */
void lk_comm_library(char *text, size_t size);
/* NCCL's version code in words, as `text`: 2803, as 2.8 and older write it, and 21003 are 2.8.3 and
 * 2.10.3. */
const char *lk_comm_nccl_version(int code, char text[32]);

/* Texts of all ranks on rank 0: all[r], in one allocation to free() with all[0] and then all; NULL
 * on the others. Collective. */
lk_status lk_comm_gather_texts(lk_comm *c, const char *mine, char ***all);
void lk_comm_free_texts(char **all); /* takes NULL */

/* Whether all ranks say so. Collective. */
lk_status lk_comm_all(lk_comm *c, bool mine, bool *all);

/* Seconds of one all-reduce of `count` floats on an attached device, the least of several; exact:
 * lk_reduce()'s tree, else the library's own. `budget`: about the seconds to spend. Collective. */
lk_status lk_comm_time_reduce(lk_comm *c, lk_device *d, float *buffer, int64_t count, bool exact,
                              double budget, double *seconds);

/* Bytes a second through each rank's link, whatever the number of ranks, as nccl-tests define bus
 * bandwidth of an all-reduce: 2 (n-1)/n * bytes / seconds (nccl-tests doc/PERFORMANCE.md). */
static inline double lk_comm_bus(double bytes, double seconds, int ranks)
{
    return 2.0 * (ranks - 1) / ranks * bytes / seconds;
}

#endif
