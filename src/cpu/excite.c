/* excite and its gradients: linear, activate and their gradients, one after the other. */
#include "cpu/device.h"

static lk_node linear(const lk_node *n, lk_op op, lk_tensor *a, lk_tensor *b, lk_tensor *bias,
                      lk_tensor *out)
{
    return (lk_node){.op = op, .inputs = 3, .outputs = 1, .scope = n->scope, .in = {a, b, bias},
                     .out = {out}};
}

/* y = act(x), or with dy: y = dy act'(x). y may be x or dy. */
static lk_status activate(lk_exec *e, const lk_node *n, lk_activation kind, lk_tensor *x,
                          lk_tensor *dy, lk_tensor *y)
{
    lk_node node = {.op = dy ? LK_OP_ACTIVATE_GRAD : LK_OP_ACTIVATE, .inputs = dy ? 2 : 1,
                    .outputs = 1, .scope = n->scope, .in = {x, dy}, .out = {y},
                    .attr.activate.kind = kind};
    return dy ? lk_cpu_activate_grad(e, &node) : lk_cpu_activate(e, &node);
}

/* ---- forward -------------------------------------------------------------------------------- */

static lk_node squeeze(const lk_node *n)
{
    return linear(n, LK_OP_LINEAR, n->in[0], n->in[1], n->in[2], n->out[1]);
}

static lk_node expand(const lk_node *n)
{
    return linear(n, LK_OP_LINEAR, n->out[1], n->in[3], n->in[4], n->out[2]);
}

size_t lk_cpu_excite_scratch(const lk_node *n)
{
    lk_node first = squeeze(n), second = expand(n);
    return lk_cpu_larger(lk_cpu_linear_scratch(&first), lk_cpu_linear_scratch(&second));
}

lk_status lk_cpu_excite(lk_exec *x, const lk_node *n)
{
    lk_tensor *s = n->out[0], *h = n->out[1], *z = n->out[2];
    lk_node first = squeeze(n), second = expand(n);
    LK_TRY(lk_cpu_linear(x, &first));
    LK_TRY(activate(x, n, LK_RELU, h, NULL, h));
    LK_TRY(lk_cpu_linear(x, &second));
    return activate(x, n, LK_HARD_SIGMOID, z, NULL, s);
}

/* ---- by the inputs -------------------------------------------------------------------------- */

static lk_node expand_dx(const lk_node *n)
{
    return linear(n, LK_OP_LINEAR_DX, n->out[1], n->in[4], NULL, n->out[2]);
}

static lk_node squeeze_dx(const lk_node *n)
{
    return linear(n, LK_OP_LINEAR_DX, n->out[2], n->in[3], NULL, n->out[0]);
}

size_t lk_cpu_excite_dx_scratch(const lk_node *n)
{
    lk_node first = expand_dx(n), second = squeeze_dx(n);
    return lk_cpu_larger(lk_cpu_linear_dx_scratch(&first), lk_cpu_linear_dx_scratch(&second));
}

lk_status lk_cpu_excite_dx(lk_exec *x, const lk_node *n)
{
    lk_tensor *ds = n->in[0], *z = n->in[1], *h = n->in[2], *dz = n->out[1], *dh = n->out[2];
    lk_node first = expand_dx(n), second = squeeze_dx(n);
    LK_TRY(activate(x, n, LK_HARD_SIGMOID, z, ds, dz));
    LK_TRY(lk_cpu_linear_dx(x, &first));
    LK_TRY(activate(x, n, LK_RELU, h, dh, dh));
    return lk_cpu_linear_dx(x, &second);
}

/* ---- by the weights ------------------------------------------------------------------------- */

/* The gradients of weight and bias i: 0 of the first product, 1 of the second. */
static lk_node weights(const lk_node *n, int i)
{
    lk_node node = linear(n, LK_OP_LINEAR_DW, n->in[i], n->in[3 - i], NULL, n->out[2 * i]);
    node.out[1] = n->out[2 * i + 1];
    node.outputs = 2;
    node.accumulate = n->accumulate >> 2 * i & 3;
    return node;
}

size_t lk_cpu_excite_dw_scratch(const lk_node *n)
{
    lk_node first = weights(n, 0), second = weights(n, 1);
    return lk_cpu_larger(lk_cpu_linear_dw_scratch(&first), lk_cpu_linear_dw_scratch(&second));
}

lk_status lk_cpu_excite_dw(lk_exec *x, const lk_node *n)
{
    for (int i = 0; i < 2; i++) {
        lk_node node = weights(n, i);
        LK_TRY(lk_cpu_linear_dw(x, &node));
    }
    return LK_OK;
}
