/* pool: the mean of each channel; max_pool: the largest of each window. */
#include "ops/ops.h"

static bool is_image(lk_graph *g, const char *what, const lk_tensor *x)
{
    char xs[96];
    if (x->dims == 4) return true;
    lk_error_at(g, "%s: input %s is not [B, H, W, C]", what, lk_shape_text(x, xs, sizeof xs));
    return false;
}

static void pool_gradient(lk_graph *g, lk_node *n)
{
    lk_node *d = lk_node_new(g, LK_OP_POOL_GRAD, 1, (lk_tensor *[]){lk_cotangent(g, n->out[0])});
    lk_contribute(g, n->in[0], lk_node_output(g, d, lk_tensor_like(g, n->in[0])));
}

lk_tensor *lk_pool(lk_graph *g, lk_tensor *x)
{
    if (g->status != LK_OK || !x || !is_image(g, "pool", x)) return NULL;
    lk_node *n = lk_node_new(g, LK_OP_POOL, 1, (lk_tensor *[]){x});
    int64_t dim[2] = {x->dim[0], x->dim[3]};
    return lk_node_output(g, n, lk_tensor_new(g, LK_F32, LK_REGION_ARENA, 2, dim));
}

static void max_gradient(lk_graph *g, lk_node *n)
{
    lk_node *d = lk_node_new(g, LK_OP_MAX_POOL_GRAD, 2,
                             (lk_tensor *[]){lk_cotangent(g, n->out[0]), n->out[1]});
    if (!d) return;
    d->attr = n->attr;
    lk_contribute(g, n->in[0], lk_node_output(g, d, lk_tensor_like(g, n->in[0])));
}

lk_tensor *lk_max_pool(lk_graph *g, lk_tensor *x, int size, int stride, int pad)
{
    if (g->status != LK_OK || !x || !is_image(g, "max_pool", x)) return NULL;
    int64_t height = x->dim[1] + 2 * (int64_t)pad, width = x->dim[2] + 2 * (int64_t)pad;
    /* with less padding than size a window always holds a pixel; 16 x 16 are numbered by a u8 */
    if (size < 1 || size > 16 || stride < 1 || pad < 0 || pad >= size || height < size ||
        width < size) {
        char xs[96];
        lk_error_at(g, "max_pool: input %s, window %d, stride %d, padding %d",
                    lk_shape_text(x, xs, sizeof xs), size, stride, pad);
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_MAX_POOL, 1, (lk_tensor *[]){x});
    if (!n) return NULL;
    n->attr.max_pool.size = size;
    n->attr.max_pool.stride = stride;
    n->attr.max_pool.pad = pad;
    int64_t dim[4] = {x->dim[0], (height - size) / stride + 1, (width - size) / stride + 1,
                      x->dim[3]};
    lk_tensor *y = lk_node_output(g, n, lk_tensor_new(g, LK_F32, LK_REGION_ARENA, 4, dim));
    lk_node_output(g, n, lk_tensor_new(g, LK_U8, LK_REGION_ARENA, 4, dim));
    return y;
}

const lk_rule lk_rule_pool = {.gradient = pool_gradient, .in_place = -1};
const lk_rule lk_rule_pool_grad = {.in_place = -1};
const lk_rule lk_rule_max_pool = {.gradient = max_gradient, .in_place = -1};
const lk_rule lk_rule_max_pool_grad = {.in_place = -1};
