/* The MPI world: who is here, agreement on failure, small broadcasts. */
#include "comm/comm.h"

#include "base/clock.h"
#include "base/heart.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static lk_status know_place(lk_comm *c)
{
    LK_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &c->emergency));
    if (gethostname(c->host, sizeof c->host - 1) != 0 && errno != ENAMETOOLONG)
        return lk_fail(LK_E_SYSTEM, "this host does not tell its name: %s", strerror(errno));
    return LK_OK;
}

lk_status lk_comm_open(lk_comm **out)
{
    lk_comm *c = calloc(1, sizeof *c);
    if (!c) return lk_fail(LK_E_SYSTEM, "out of memory");
    int provided = MPI_THREAD_SINGLE;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
        free(c);
        return lk_fail(LK_E_COMM, "MPI_Init_thread failed");
    }
    c->world = MPI_COMM_WORLD;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(c->world, &c->rank);
    MPI_Comm_size(c->world, &c->size);
    lk_status status = know_place(c);
    if (status != LK_OK) free(c);
    LK_TRY(status);
    MPI_Comm host;
    if (MPI_Comm_split_type(c->world, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &host) ==
        MPI_SUCCESS) {
        MPI_Comm_rank(host, &c->local_rank);
        MPI_Comm_size(host, &c->local_size);
        MPI_Comm_free(&host);
    }
    *out = c;
    if (provided < MPI_THREAD_MULTIPLE)
        return lk_fail(LK_E_COMM, "this MPI gives thread level %d; MPI_THREAD_MULTIPLE is needed "
                       "for the I/O thread: use an Open MPI built with it", provided);
    return LK_OK;
}

lk_status lk_comm_device_index(const lk_comm *c, int gpus, int *index)
{
    if (gpus < 1) return lk_fail(LK_E_DEVICE, "no GPU is visible on %s", c->host);
    if (gpus == 1) { /* one visible GPU per rank, or several ranks sharing the only one */
        *index = 0;
        return LK_OK;
    }
    if (c->local_rank >= gpus)
        return lk_fail(LK_E_DEVICE, "%d ranks on %s but only %d GPUs: start at most one rank a GPU",
                       c->local_size, c->host, gpus);
    *index = c->local_rank;
    return LK_OK;
}

lk_status lk_comm_attach(lk_comm *c, lk_device *d, int64_t floats)
{
    if (c->size == 1) return LK_OK;
    c->collectives = &lk_collectives_mpi;
#ifdef LK_HAVE_NCCL
    if (d->backend == &lk_backend_cuda) c->collectives = &lk_collectives_nccl;
#elif defined LK_HAVE_CUDA
    if (d->backend == &lk_backend_cuda)
        return lk_fail(LK_E_COMM, "this lockstep was built without NCCL, which several ranks on "
                       "GPUs need; configure it --with-nccl, or start one rank");
#endif
    LK_TRY(c->collectives->open(c, d));
    LK_TRY(d->backend->alloc(d, (size_t)(floats / 2 + 1) * sizeof(float), &c->staging));
    c->staging_floats = floats / 2 + 1;
    c->staging_device = d;
    return LK_OK;
}

void lk_comm_detach(lk_comm *c)
{
    if (!c || !c->collectives) return;
    c->collectives->close(c);
    if (c->staging) c->staging_device->backend->release(c->staging_device, c->staging);
    c->staging = NULL;
    c->collectives = NULL;
}

void lk_comm_close(lk_comm *c)
{
    if (!c) return;
    MPI_Comm_free(&c->emergency);
    MPI_Finalize();
    free(c);
}

lk_status lk_comm_agree(lk_comm *c, lk_status mine)
{
    if (c->size == 1) {
        c->failed = mine != LK_OK;
        return mine;
    }
    struct {
        int code, rank;
    } in = {mine, c->rank}, out;
    lk_heart_at("an agreement of all ranks", NULL);
    LK_MPI(MPI_Allreduce(&in, &out, 1, MPI_2INT, MPI_MAXLOC, c->world));
    lk_heart_at(NULL, NULL);
    c->failed = out.code != LK_OK;
    if (!c->failed) return LK_OK;
    char text[2048] = "";
    if (c->rank == out.rank) {
        bool anywhere = mine == LK_E_INPUT || mine == LK_E_BUSY || mine == LK_E_REQUEUE;
        if (anywhere) snprintf(text, sizeof text, "%s", lk_error_text());
        else snprintf(text, sizeof text, "rank %d on %s: %s", c->rank, c->host, lk_error_text());
    }
    LK_MPI(MPI_Bcast(text, (int)sizeof text, MPI_CHAR, out.rank, c->world));
    lk_error_clear();
    return lk_fail((lk_status)out.code, "%s", text);
}

bool lk_comm_all_failed(lk_comm *c, double seconds)
{
    MPI_Request request;
    int done = 0;
    double end = lk_clock_seconds() + seconds;
    if (c->hung) return false;
    if (c->size == 1 || c->failed) return true;
    if (c->alone) return false;
    c->alone = true;
    if (MPI_Ibarrier(c->emergency, &request) != MPI_SUCCESS) return false;
    while (!done && lk_clock_seconds() < end) {
        if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
        if (!done) usleep(1000);
    }
    c->failed = done;
    c->alone = !done;
    return done;
}

void lk_comm_interrupt(lk_comm *c)
{
    if (c->collectives && c->collectives->interrupt) c->collectives->interrupt(c);
}
void lk_comm_give_up(lk_comm *c) { c->hung = true; }

void lk_comm_abort(lk_comm *c, int code)
{
    MPI_Abort(c ? c->world : MPI_COMM_WORLD, code);
}

lk_status lk_comm_broadcast(lk_comm *c, void *bytes, size_t count)
{
    if (c->size == 1) return LK_OK;
    LK_MPI(MPI_Bcast(bytes, (int)count, MPI_BYTE, 0, c->world));
    return LK_OK;
}

lk_status lk_comm_broadcast_text(lk_comm *c, char **text)
{
    int length = c->rank == 0 ? (int)strlen(*text) : 0;
    LK_TRY(lk_comm_broadcast(c, &length, sizeof length));
    char *copy = c->rank == 0 ? *text : calloc(1, (size_t)length + 1);
    lk_status status = lk_comm_agree(c, copy ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory"));
    if (status == LK_OK) status = lk_comm_broadcast(c, copy, (size_t)length);
    if (status == LK_OK) *text = copy;
    else if (c->rank != 0) free(copy);
    return status;
}

lk_status lk_comm_gather(lk_comm *c, const void *mine, size_t size, void *all)
{
    if (c->size == 1) {
        memcpy(all, mine, size);
        return LK_OK;
    }
    LK_MPI(MPI_Allgather(mine, (int)size, MPI_BYTE, all, (int)size, MPI_BYTE, c->world));
    return LK_OK;
}

static lk_status all_reduce(lk_comm *c, char *x, int64_t count, size_t size, MPI_Datatype type,
                            MPI_Op op)
{
    const int64_t piece = 1 << 26; /* elements per call: below INT_MAX bytes */
    for (int64_t at = 0; c->size > 1 && at < count; at += piece) {
        int n = (int)(count - at < piece ? count - at : piece);
        LK_MPI(MPI_Allreduce(MPI_IN_PLACE, x + (size_t)at * size, n, type, op, c->world));
    }
    return LK_OK;
}

lk_status lk_comm_sum_doubles(lk_comm *c, double *x, int64_t count)
{
    return all_reduce(c, (char *)x, count, sizeof *x, MPI_DOUBLE, MPI_SUM);
}

lk_status lk_comm_sum_floats(lk_comm *c, float *x, int64_t count)
{
    return all_reduce(c, (char *)x, count, sizeof *x, MPI_FLOAT, MPI_SUM);
}

lk_status lk_comm_sum_ints(lk_comm *c, int32_t *x, int64_t count)
{
    return all_reduce(c, (char *)x, count, sizeof *x, MPI_INT32_T, MPI_SUM);
}

lk_status lk_comm_sum_counts(lk_comm *c, int64_t *x, int64_t count)
{
    return all_reduce(c, (char *)x, count, sizeof *x, MPI_INT64_T, MPI_SUM);
}

lk_status lk_comm_min_counts(lk_comm *c, int64_t *x, int64_t count)
{
    return all_reduce(c, (char *)x, count, sizeof *x, MPI_INT64_T, MPI_MIN);
}

lk_status lk_comm_max_doubles(lk_comm *c, double *x, int64_t count)
{
    return all_reduce(c, (char *)x, count, sizeof *x, MPI_DOUBLE, MPI_MAX);
}
