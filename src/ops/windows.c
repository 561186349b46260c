/* windows: token windows of this leaf's samples. */
#include "ops/ops.h"

lk_status lk_windows(lk_graph *g, lk_tensor *data, int64_t batch, int64_t context, bool resident,
                     uint32_t purpose, int64_t shard_tokens, int first_leaf, lk_tensor **tokens,
                     lk_tensor **targets)
{
    if (g->status != LK_OK || !data) return g->status;
    if (resident ? shard_tokens <= context : lk_count(data) != batch * (context + 1))
        lk_error_at(g, "windows: %lld tokens do not hold a window of %lld",
                    (long long)(resident ? shard_tokens : lk_count(data)), (long long)context + 1);
    lk_node *n = lk_node_new(g, LK_OP_WINDOWS, 2, (lk_tensor *[]){data, g->state});
    if (!n) return g->status;
    n->attr.windows.resident = resident;
    n->attr.windows.purpose = purpose;
    n->attr.windows.shard_tokens = shard_tokens;
    n->attr.windows.first_leaf = first_leaf;
    int64_t dim[2] = {batch, context};
    lk_tensor *x = lk_node_output(g, n, lk_tensor_new(g, LK_I32, LK_REGION_ARENA, 2, dim));
    lk_tensor *y = lk_node_output(g, n, lk_tensor_new(g, LK_I32, LK_REGION_ARENA, 2, dim));
    *tokens = x;
    *targets = y;
    return g->status;
}

/* Of resident data only the samples are read. */
static void cost(const lk_node *n, double *flops, double *bytes)
{
    (void)flops;
    double tokens = (double)lk_count(n->out[0]);
    *bytes = tokens * (double)(2 * sizeof(int32_t) + lk_dtype_size(n->in[0]->dtype));
}

const lk_rule lk_rule_windows = {.cost = cost, .in_place = -1};
