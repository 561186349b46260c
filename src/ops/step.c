/* Ops on the flat buffers; built by lk_bucket and lk_optimize, not differentiable. */
#include "ops/ops.h"

const lk_rule lk_rule_reduce = {.in_place = -1, .writes = 1 << 0};
const lk_rule lk_rule_grad_norm = {.in_place = -1, .writes = 1 << 1};
/* Parameters and moments are read and written, gradients read, the shadow written. */
static void cost_adamw(const lk_node *n, double *flops, double *bytes)
{
    double floats = (double)lk_count(n->in[1]);
    *flops = 15.0 * floats;
    *bytes += 3.0 * (double)lk_bytes(n->in[1]);
}

const lk_rule lk_rule_adamw = {
    .cost = cost_adamw,
    .in_place = -1,
    .writes = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6,
};
const lk_rule lk_rule_step_end = {.in_place = -1, .writes = 1 << 0};
