/* conv (dense), dwconv (each channel alone), channel_conv (along the channels), their gradients;
 * norm_dwconv, which the fuse pass makes. */
#include "ops/ops.h"

/* Every output element is a sum over the kernel; so is, turned round, every product below. */
static double products(const lk_tensor *y, const lk_tensor *w)
{
    return 2.0 * (double)lk_count(y) * (double)lk_count(w) / (double)w->dim[0];
}

static void conv_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->out[0], n->in[1]);
}

static void conv_dx_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->in[0], n->in[1]);
}

static void conv_dw_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = products(n->in[1], n->out[0]);
}

static void dwconv_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    const lk_tensor *w = n->in[1];
    *flops = 2.0 * (double)lk_count(n->out[0]) * (double)(w->dim[0] * w->dim[1]);
}

static void dwconv_grad_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    const lk_tensor *w = n->in[1], *dy = n->in[n->inputs - 1];
    *flops = (n->out[0] ? 4.0 : 2.0) * (double)lk_count(dy) * (double)(w->dim[0] * w->dim[1]);
}

static void channel_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = 2.0 * (double)lk_count(n->in[0]) * (double)lk_count(n->in[1]);
}

static void channel_grad_cost(const lk_node *n, double *flops, double *bytes)
{
    channel_cost(n, flops, bytes);
    *flops *= 2;
}

static void conv_gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0], *w = n->in[1], *dy = lk_cotangent(g, n->out[0]);
    lk_node *dw = lk_node_new(g, LK_OP_CONV_DW, 2, (lk_tensor *[]){x, dy});
    if (!dw) return;
    dw->attr = n->attr;
    lk_param_output(g, dw, w);
    if (!lk_needs_gradient(x)) return;
    lk_node *dx = lk_node_new(g, LK_OP_CONV_DX, 2, (lk_tensor *[]){dy, w});
    if (!dx) return;
    dx->attr = n->attr;
    lk_contribute(g, x, lk_node_output(g, dx, lk_tensor_like(g, x)));
}

static void dwconv_gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0], *w = n->in[1], *dy = lk_cotangent(g, n->out[0]);
    lk_node *d = lk_node_new(g, LK_OP_DWCONV_GRAD, 3, (lk_tensor *[]){x, w, dy});
    if (!d) return;
    d->attr = n->attr;
    lk_tensor *dx = lk_needs_gradient(x) ? lk_tensor_like(g, x) : NULL;
    lk_node_output(g, d, dx);
    lk_param_output(g, d, w);
    lk_contribute(g, x, dx);
}

static void channel_gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *x = n->in[0], *w = n->in[1], *dy = lk_cotangent(g, n->out[0]);
    lk_node *d = lk_node_new(g, LK_OP_CHANNEL_CONV_GRAD, 3, (lk_tensor *[]){x, w, dy});
    if (!d) return;
    lk_tensor *dx = lk_node_output(g, d, lk_tensor_like(g, x));
    lk_param_output(g, d, w);
    lk_contribute(g, x, dx);
}

/* y [B,Ho,Wo,channels] of a kh x kw window over x; NULL, with an error, if there is none. */
static lk_tensor *result(lk_graph *g, const char *what, const lk_tensor *x, int64_t kh, int64_t kw,
                         int64_t channels, int stride, int pad)
{
    int64_t height = x->dim[1] + 2 * pad, width = x->dim[2] + 2 * pad;
    if (stride < 1 || pad < 0 || kh < 1 || kw < 1 || height < kh || width < kw) {
        char xs[96];
        lk_error_at(g, "%s: input %s, window %lld x %lld, stride %d, padding %d", what,
                    lk_shape_text(x, xs, sizeof xs), (long long)kh, (long long)kw, stride, pad);
        return NULL;
    }
    int64_t dim[4] = {x->dim[0], (height - kh) / stride + 1, (width - kw) / stride + 1, channels};
    return lk_tensor_new(g, LK_F32, LK_REGION_ARENA, 4, dim);
}

static lk_tensor *convolution(lk_graph *g, lk_op op, lk_tensor *x, lk_tensor *w, lk_tensor *y,
                              int stride, int pad)
{
    if (!y) return NULL;
    lk_node *n = lk_node_new(g, op, 2, (lk_tensor *[]){x, w});
    if (!n) return NULL;
    n->attr.conv.stride = stride;
    n->attr.conv.pad = pad;
    return lk_node_output(g, n, y);
}

static void misfit(lk_graph *g, const char *what, const lk_tensor *x, const lk_tensor *w)
{
    char xs[96], ws[96];
    lk_error_at(g, "%s: input %s does not fit weight %s", what, lk_shape_text(x, xs, sizeof xs),
                lk_shape_text(w, ws, sizeof ws));
}

lk_tensor *lk_conv(lk_graph *g, lk_tensor *x, lk_tensor *w, int stride, int pad)
{
    if (g->status != LK_OK || !x || !w) return NULL;
    if (x->dims != 4 || w->dims != 4 || x->dim[3] != w->dim[3]) {
        misfit(g, "conv", x, w);
        return NULL;
    }
    lk_tensor *y = result(g, "conv", x, w->dim[1], w->dim[2], w->dim[0], stride, pad);
    return convolution(g, LK_OP_CONV, x, w, y, stride, pad);
}

lk_tensor *lk_dwconv(lk_graph *g, lk_tensor *x, lk_tensor *w, int stride, int pad)
{
    if (g->status != LK_OK || !x || !w) return NULL;
    if (x->dims != 4 || w->dims != 3 || w->dim[0] != w->dim[1] || x->dim[3] != w->dim[2]) {
        misfit(g, "dwconv", x, w);
        return NULL;
    }
    lk_tensor *y = result(g, "dwconv", x, w->dim[0], w->dim[1], w->dim[2], stride, pad);
    return convolution(g, LK_OP_DWCONV, x, w, y, stride, pad);
}

lk_tensor *lk_channel_conv(lk_graph *g, lk_tensor *x, lk_tensor *w)
{
    if (g->status != LK_OK || !x || !w) return NULL;
    if (x->dims != 2 || w->dims != 1 || w->dim[0] % 2 == 0) {
        misfit(g, "channel_conv", x, w);
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_CHANNEL_CONV, 2, (lk_tensor *[]){x, w});
    return lk_node_output(g, n, lk_tensor_like(g, x));
}

const lk_rule lk_rule_conv = {.gradient = conv_gradient, .cost = conv_cost, .in_place = -1};
const lk_rule lk_rule_conv_dx = {.cost = conv_dx_cost, .in_place = -1};
const lk_rule lk_rule_conv_dw = {.cost = conv_dw_cost, .in_place = -1};
const lk_rule lk_rule_dwconv = {.gradient = dwconv_gradient, .cost = dwconv_cost, .in_place = -1};
const lk_rule lk_rule_dwconv_grad = {.cost = dwconv_grad_cost, .in_place = -1};
const lk_rule lk_rule_norm_dwconv = {.cost = dwconv_cost, .in_place = -1};
const lk_rule lk_rule_norm_dwconv_grad = {.cost = dwconv_grad_cost, .in_place = -1};
const lk_rule lk_rule_channel_conv = {.gradient = channel_gradient, .cost = channel_cost,
                                      .in_place = -1};
const lk_rule lk_rule_channel_conv_grad = {.cost = channel_grad_cost, .in_place = -1};
