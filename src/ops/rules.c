/* The rule table, expanded from ops.def. */
#include "ops/ops.h"

static const struct {
    const char *name;
    lk_policy policy;
    const lk_rule *rule;
} table[LK_OPS] = {
#define LK_OP(upper, lower, p) [LK_OP_##upper] = {#lower, LK_POLICY_##p, &lk_rule_##lower},
#include "ops/ops.def"
#undef LK_OP
};

const char *lk_op_name(lk_op op) { return table[op].name; }
const lk_rule *lk_op_rule(lk_op op) { return table[op].rule; }
lk_policy lk_op_policy(lk_op op) { return table[op].policy; }

double lk_node_bytes(const lk_node *n)
{
    double bytes = 0;
    for (int i = 0; i < n->inputs; i++)
        if (n->in[i]) bytes += (double)lk_bytes(n->in[i]);
    for (int i = 0; i < n->outputs; i++)
        if (n->out[i]) bytes += (double)lk_bytes(n->out[i]);
    return bytes;
}

void lk_op_cost(const lk_node *n, double *flops, double *bytes)
{
    *flops = 0;
    *bytes = lk_node_bytes(n);
    if (table[n->op].rule->cost) table[n->op].rule->cost(n, flops, bytes);
}
