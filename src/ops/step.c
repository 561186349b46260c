/* Ops on the flat buffers; built by lk_bucket and lk_optimize, not differentiable. */
#include "ops/ops.h"

const lk_rule lk_rule_reduce = {.in_place = -1};
const lk_rule lk_rule_grad_norm = {.in_place = -1};
const lk_rule lk_rule_adamw = {.in_place = -1};
const lk_rule lk_rule_step_end = {.in_place = -1};
