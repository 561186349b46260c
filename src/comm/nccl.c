/* Device collectives of the CUDA backend: NCCL on the device's stream, so that they are captured
 * with the step. Rank 0's unique id travels over MPI. */
#include "comm/comm.h"
#include "cuda/device.h"

#include <nccl.h>
#include <pthread.h>
#include <time.h>

enum { INTERRUPT_MS = 900 }; /* for kernels to see that they are to end */

#define LK_NCCL(call)                                                                              \
    do {                                                                                           \
        ncclResult_t lk_nccl_ = (call);                                                            \
        if (lk_nccl_ != ncclSuccess)                                                               \
            return lk_fail(LK_E_COMM, "%s: %s", #call, ncclGetErrorString(lk_nccl_));              \
    } while (0)

void lk_nccl_versions(int *loaded, int *header)
{
    *loaded = 0;
    ncclGetVersion(loaded);
    *header = NCCL_VERSION_CODE;
}

void *lk_nccl_symbol(void) { return (void *)ncclGetVersion; }

static cudaStream_t stream(lk_device *d) { return (cudaStream_t)lk_cuda_stream(d); }

static lk_status open(lk_comm *c, lk_device *d)
{
    ncclUniqueId id = {{0}};
    ncclResult_t got = ncclSuccess;
    ncclComm_t nccl = NULL;
    if (c->rank == 0) got = ncclGetUniqueId(&id);
    LK_TRY(lk_comm_agree(c, got == ncclSuccess ? LK_OK
                                               : lk_fail(LK_E_COMM, "ncclGetUniqueId: %s",
                                                         ncclGetErrorString(got))));
    LK_TRY(lk_comm_broadcast(c, &id, sizeof id));
    cudaError_t set = cudaSetDevice(lk_cuda_index(d)); /* ncclCommInitRank waits for all */
    LK_TRY(lk_comm_agree(c, set == cudaSuccess ? LK_OK
                                               : lk_fail(LK_E_DEVICE, "cudaSetDevice: %s",
                                                         cudaGetErrorString(set))));
    got = ncclCommInitRank(&nccl, c->size, id, c->rank);
    if (got != ncclSuccess)
        return lk_fail(LK_E_COMM, "ncclCommInitRank on GPU %d: %s (%s); NCCL needs a GPU for each "
                       "rank: start at most one rank a GPU, NCCL_DEBUG=WARN tells more",
                       lk_cuda_index(d), ncclGetErrorString(got), ncclGetLastError(NULL));
    c->nccl = nccl;
    return LK_OK;
}

static void close(lk_comm *c)
{
    if (c->nccl) ncclCommDestroy((ncclComm_t)c->nccl);
    c->nccl = NULL;
}

static void *abort_nccl(void *nccl)
{
    ncclCommAbort((ncclComm_t)nccl);
    return NULL;
}

/* Kernels that wait for other GPUs end, and so can the process. ncclCommAbort tells them so first
 * of all; then it waits for the graphs in which the communicator was captured, which nobody
 * destroys any more: hence a thread of its own, which ends with the process. */
static void interrupt(lk_comm *c)
{
    pthread_t thread;
    if (!c->nccl || pthread_create(&thread, NULL, abort_nccl, c->nccl) != 0) return;
    pthread_detach(thread);
    nanosleep(&(struct timespec){.tv_nsec = INTERRUPT_MS * 1000000L}, NULL);
}

static lk_status exchange(lk_comm *c, lk_device *d, const float *send, int64_t send_count,
                          float *receive, int64_t receive_count, int partner)
{
    ncclComm_t nccl = (ncclComm_t)c->nccl;
    LK_NCCL(ncclGroupStart());
    ncclResult_t s = ncclSuccess, r = ncclSuccess;
    if (send_count > 0)
        s = ncclSend(send, (size_t)send_count, ncclFloat, partner, nccl, stream(d));
    if (receive_count > 0)
        r = ncclRecv(receive, (size_t)receive_count, ncclFloat, partner, nccl, stream(d));
    ncclResult_t end = ncclGroupEnd();
    if (s != ncclSuccess)
        return lk_fail(LK_E_COMM, "ncclSend to rank %d: %s", partner, ncclGetErrorString(s));
    if (r != ncclSuccess)
        return lk_fail(LK_E_COMM, "ncclRecv from rank %d: %s", partner, ncclGetErrorString(r));
    if (end != ncclSuccess)
        return lk_fail(LK_E_COMM, "ncclGroupEnd with rank %d: %s", partner,
                       ncclGetErrorString(end));
    return LK_OK;
}

static lk_status all_reduce(lk_comm *c, lk_device *d, float *buffer, int64_t count)
{
    LK_NCCL(ncclAllReduce(buffer, buffer, (size_t)count, ncclFloat, ncclSum, (ncclComm_t)c->nccl,
                          stream(d)));
    return LK_OK;
}

const lk_collectives lk_collectives_nccl = {open, close, exchange, all_reduce, interrupt};
