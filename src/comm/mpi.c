/* Device collectives of the CPU backend: plain MPI on host memory. */
#include "comm/comm.h"

#include "base/clock.h"

enum { PIECE = 1 << 28 }; /* floats per call: below INT_MAX bytes */

static lk_status open(lk_comm *c, lk_device *d)
{
    (void)c;
    (void)d;
    return LK_OK;
}

static void close(lk_comm *c) { (void)c; }

static lk_status exchange(lk_comm *c, lk_device *d, const float *send, int64_t send_count,
                          float *receive, int64_t receive_count, int partner)
{
    (void)d;
    double begin = lk_clock_seconds();
    while (send_count > 0 || receive_count > 0) {
        int s = (int)(send_count < PIECE ? send_count : PIECE);
        int r = (int)(receive_count < PIECE ? receive_count : PIECE);
        if (MPI_Sendrecv(send, s, MPI_FLOAT, partner, 7, receive, r, MPI_FLOAT, partner, 7,
                         c->world, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return lk_fail(LK_E_COMM, "MPI_Sendrecv with rank %d failed", partner);
        send += s;
        receive += r;
        send_count -= s;
        receive_count -= r;
    }
    c->waited += lk_clock_seconds() - begin;
    return LK_OK;
}

static lk_status all_reduce(lk_comm *c, lk_device *d, float *buffer, int64_t count)
{
    (void)d;
    double begin = lk_clock_seconds();
    for (int64_t at = 0; at < count; at += PIECE) {
        int n = (int)(count - at < PIECE ? count - at : PIECE);
        if (MPI_Allreduce(MPI_IN_PLACE, buffer + at, n, MPI_FLOAT, MPI_SUM, c->world) !=
            MPI_SUCCESS)
            return lk_fail(LK_E_COMM, "MPI_Allreduce failed");
    }
    c->waited += lk_clock_seconds() - begin;
    return LK_OK;
}

const lk_collectives lk_collectives_mpi = {open, close, exchange, all_reduce, NULL};
