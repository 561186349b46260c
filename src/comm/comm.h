/* The MPI world, agreement on failure, and the collectives on device buffers.
 *
 * lk_comm is created once per process. On the CPU device collectives are MPI; with CUDA they are
 * NCCL on the device's stream, bootstrapped over MPI (rank 0's unique id is broadcast). */
#ifndef LK_COMM_COMM_H
#define LK_COMM_COMM_H

#include "backend/backend.h"

#include <mpi.h>

/* Forward the failure of an MPI call. */
#define LK_MPI(call)                                                                               \
    do {                                                                                           \
        int lk_mpi_ = (call);                                                                      \
        if (lk_mpi_ != MPI_SUCCESS)                                                                \
            return lk_fail(LK_E_COMM, "%s failed (MPI %d)", #call, lk_mpi_);                       \
    } while (0)

struct lk_comm {
    int rank, size;
    int local_rank, local_size; /* among the ranks of this host */
    char host[64]; /* cut off if it is longer */
    MPI_Comm world;
    MPI_Comm emergency;         /* a copy of world, for lk_comm_all_failed() alone */
    bool failed;                /* every rank knows of a failure */
    bool alone;                 /* this rank failed and the others do not know */
    bool hung;                  /* every rank knows of a failure, and that one hangs */
    const struct lk_collectives *collectives; /* set by lk_comm_attach() */
    void *nccl;                               /* ncclComm_t, or NULL */
    void *staging;                            /* device buffer of the exact reduction */
    int64_t staging_floats;
    lk_device *staging_device;
    double waited;              /* seconds this rank's host was held by collectives of the CPU */
};

/* Send/receive between pairs and a plain all-reduce, enqueued on the device's stream. */
typedef struct lk_collectives {
    lk_status (*open)(lk_comm *c, lk_device *d);
    void (*close)(lk_comm *c);
    lk_status (*exchange)(lk_comm *c, lk_device *d, const float *send, int64_t send_count,
                          float *receive, int64_t receive_count, int partner);
    lk_status (*all_reduce)(lk_comm *c, lk_device *d, float *buffer, int64_t count);
    void (*interrupt)(lk_comm *c); /* from any thread, what is under way fails; NULL: it need not */
} lk_collectives;
extern const lk_collectives lk_collectives_mpi;
#ifdef LK_HAVE_NCCL
extern const lk_collectives lk_collectives_nccl;
/* NCCL_VERSION_CODE of the library loaded and of the header; a function of the library. */
void lk_nccl_versions(int *loaded, int *header);
void *lk_nccl_symbol(void);
#endif

/* MPI_Init_thread(MULTIPLE). Called once in a process. */
lk_status lk_comm_open(lk_comm **c);
/* Choose the device of this rank: under both Slurm conventions (all GPUs visible: local rank;
 * one visible: that one). `gpus` visible here. Error when ranks outnumber GPUs, unless
 * one alone is visible: each may see its own, or several share it. */
lk_status lk_comm_device_index(const lk_comm *c, int gpus, int *index);
/* Make device collectives ready; `floats` is the longest buffer to be reduced. */
lk_status lk_comm_attach(lk_comm *c, lk_device *d, int64_t floats);
void lk_comm_detach(lk_comm *c);
void lk_comm_close(lk_comm *c); /* MPI_Finalize */

/* Agree whether any rank failed: every rank calls it with its own status; if one failed, all
 * return that code with that rank's text (prefixed by rank and host). Collective. */
lk_status lk_comm_agree(lk_comm *c, lk_status mine);
/* This rank failed: do all others know? At once if lk_comm_agree() said so, else wait up to
 * `seconds` for them to ask the same. After false collective calls, closing a file among them,
 * would wait for ever: only lk_comm_abort() is left. */
bool lk_comm_all_failed(lk_comm *c, double seconds);
/* End device collectives under way on this rank, from any thread; close is not to be called. */
void lk_comm_interrupt(lk_comm *c);
/* All ranks know that one failed, and that a thread of theirs hangs in what it left: from now on
 * lk_comm_all_failed() is false everywhere, and rank 0 has the message to print. */
void lk_comm_give_up(lk_comm *c);
/* One rank failed where the others cannot agree: end them all. Prints nothing. */
void lk_comm_abort(lk_comm *c, int code);
lk_status lk_comm_broadcast(lk_comm *c, void *bytes, size_t count); /* from rank 0 */
/* Rank 0's text to all; *text is malloc'ed on the others. If one has no memory all fail alike. */
lk_status lk_comm_broadcast_text(lk_comm *c, char **text);
/* `size` bytes of each rank, one after another, to all. */
lk_status lk_comm_gather(lk_comm *c, const void *mine, size_t size, void *all);

/* Sums over ranks of host arrays, in place, order left to MPI: for values only one rank has. */
lk_status lk_comm_sum_doubles(lk_comm *c, double *x, int64_t count);
lk_status lk_comm_sum_floats(lk_comm *c, float *x, int64_t count);
lk_status lk_comm_sum_ints(lk_comm *c, int32_t *x, int64_t count);
lk_status lk_comm_sum_counts(lk_comm *c, int64_t *x, int64_t count); /* exact in any order */
lk_status lk_comm_min_counts(lk_comm *c, int64_t *x, int64_t count);
lk_status lk_comm_max_doubles(lk_comm *c, double *x, int64_t count);

/* Sum `buffer` over ranks in place. exact: recursive halving then doubling, partners r^1, r^2,
 * r^4 ...: for every element the same binary tree over ranks. src/comm/reduce.c */
lk_status lk_reduce(lk_comm *c, lk_device *d, float *buffer, int64_t count, bool exact);

#endif
