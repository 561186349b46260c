/* reduce: the gradients and metrics summed over ranks. */
#include "comm/comm.h"
#include "cpu/device.h"

lk_status lk_cpu_reduce(lk_exec *x, const lk_node *n)
{
    if (!x->comm || x->comm->size == 1) return LK_OK;
    lk_status status = lk_reduce(x->comm, x->device, lk_data(x, n->in[0]), lk_count(n->in[0]),
                                 n->attr.reduce.exact);
    return status == LK_OK ? status : lk_fail_prefix(status, "%s", n->scope);
}
