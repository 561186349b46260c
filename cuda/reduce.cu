/* reduce: the gradients and metrics summed over ranks, on the device's stream. */
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include "cuda/device.cuh"

extern "C" {
#include "comm/comm.h"
}

extern "C" lk_status lk_cuda_reduce(lk_exec *x, const lk_node *n)
{
    if (!x->comm || x->comm->size == 1) return LK_OK;
    lk_status status = lk_reduce(x->comm, x->device, (float *)lk_data(x, n->in[0]),
                                 lk_count(n->in[0]), n->attr.reduce.exact);
    return status == LK_OK ? status : lk_fail_prefix(status, "%s", n->scope);
}
