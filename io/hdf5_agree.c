/* Agreement of all ranks on failure, where one of them may have to wait for another's disk. */
#include "base/heart.h"
#include "io/hdf5.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

/* In a save one rank's I/O thread may wait for another's disk, while its cores are wanted for
 * training and its rows to be read: look now and then, after a while in which the answer is likely
 * to come. */
static bool wait_politely(lk_io *io, MPI_Request *request)
{
    int done = 0;
    for (int i = 0; !done; i++) {
        if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
        if (!done && i > 100 && io) lk_io_yield(io);
        if (!done && i > 100)
            nanosleep(&(struct timespec){.tv_nsec = i > 1000 ? 1000000 : 50000}, NULL);
        else if (!done)
            sched_yield();
    }
    return true;
}

lk_status lk_h5_agree(MPI_Comm comm, lk_status mine)
{
    return lk_h5_agree_in(NULL, comm, mine);
}

lk_status lk_h5_agree_in(lk_io *io, MPI_Comm comm, lk_status mine)
{
    if (comm == MPI_COMM_NULL) return mine;
    struct {
        int code;
        char text[1500];
    } report = {.code = mine};
    int rank, first, failed;
    MPI_Request request;
    MPI_Comm_rank(comm, &rank);
    failed = mine == LK_OK ? INT_MAX : rank;
    snprintf(report.text, sizeof report.text, "%.*s", (int)sizeof report.text - 1,
             lk_error_text()); /* now: what is let in while waiting has its own */
    lk_heart_at("an agreement of all ranks", NULL);
    if (MPI_Iallreduce(&failed, &first, 1, MPI_INT, MPI_MIN, comm, &request) != MPI_SUCCESS ||
        !wait_politely(io, &request))
        return lk_fail(LK_E_COMM, "MPI_Iallreduce failed");
    lk_heart_at(NULL, NULL);
    if (first == INT_MAX) return LK_OK;
    if (MPI_Bcast(&report, sizeof report, MPI_BYTE, first, comm) != MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "MPI_Bcast failed");
    lk_error_clear();
    return lk_fail((lk_status)report.code, "%s", report.text);
}

lk_status lk_h5_comm(MPI_Comm world, MPI_Comm *comm)
{
    if (MPI_Comm_dup(world, comm) != MPI_SUCCESS) return lk_fail(LK_E_COMM, "MPI_Comm_dup failed");
    return LK_OK;
}
