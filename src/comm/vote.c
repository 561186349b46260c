#include "comm/vote.h"

#include "base/clock.h"
#include "base/heart.h"

#include <stdlib.h>
#include <unistd.h>

#define PATIENCE 2.0 /* seconds for the last answers of ranks that are ending too */

struct lk_vote {
    MPI_Comm comm; /* of its own: other collectives may be called between */
    MPI_Request request;
    bool alone, pending; /* alone: there is nobody to ask */
    int64_t mine, greatest; /* the buffers of the all-reduce under way */
};

lk_status lk_vote_open(lk_comm *comm, lk_vote **vote)
{
    lk_vote *v = calloc(1, sizeof *v);
    lk_status status = v ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(comm, status);
    if (status == LK_OK) v->alone = comm->size == 1;
    if (status == LK_OK && !v->alone && MPI_Comm_dup(comm->world, &v->comm) != MPI_SUCCESS)
        status = lk_fail(LK_E_COMM, "MPI_Comm_dup failed");
    if (status == LK_OK) *vote = v;
    else free(v);
    return status;
}

lk_status lk_vote_cast(lk_vote *v, int64_t mine, int64_t *greatest)
{
    int64_t before = 0;
    if (v->alone) {
        *greatest = v->greatest;
        v->greatest = mine;
        return LK_OK;
    }
    if (v->pending) {
        lk_heart_at("the vote on stopping", NULL);
        if (MPI_Wait(&v->request, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return lk_fail(LK_E_COMM, "MPI_Wait of a vote failed");
        before = v->greatest;
    }
    v->mine = mine;
    if (MPI_Iallreduce(&v->mine, &v->greatest, 1, MPI_INT64_T, MPI_MAX, v->comm, &v->request) !=
        MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "MPI_Iallreduce failed");
    v->pending = true;
    *greatest = before;
    return LK_OK;
}

void lk_vote_close(lk_vote *v)
{
    if (!v) return;
    double end = lk_clock_seconds() + PATIENCE;
    int done = !v->pending;
    while (!done && lk_clock_seconds() < end) {
        if (MPI_Test(&v->request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
        if (!done) usleep(1000);
    }
    if (!done) return; /* MPI still owns the buffers */
    if (!v->alone) MPI_Comm_free(&v->comm);
    free(v);
}
