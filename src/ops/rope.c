/* rope: rotary positions on the q and k heads of a packed qkv. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_contribute(g, n->in[0],
                  lk_rope(g, lk_cotangent(g, n->out[0]), n->attr.rope.heads,
                          n->attr.rope.kv_heads, n->attr.rope.theta, !n->attr.rope.inverse));
}

lk_tensor *lk_rope(lk_graph *g, lk_tensor *qkv, int heads, int kv_heads, float theta, bool inverse)
{
    if (g->status != LK_OK || !qkv) return NULL;
    int64_t all = (int64_t)heads + 2 * kv_heads;
    if (qkv->dims != 3 || heads < 1 || kv_heads < 1 || lk_cols(qkv) % (2 * all)) {
        char s[96];
        lk_error_at(g, "rope: qkv %s with %d heads and %d kv heads; with heads of size D, which "
                    "must be even, it must be [B, T, %lld D]", lk_shape_text(qkv, s, sizeof s),
                    heads, kv_heads, (long long)all);
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_ROPE, 1, (lk_tensor *[]){qkv});
    if (!n) return NULL;
    n->attr.rope.heads = heads;
    n->attr.rope.kv_heads = kv_heads;
    n->attr.rope.head_dim = (int)(lk_cols(qkv) / all);
    n->attr.rope.theta = theta;
    n->attr.rope.inverse = inverse;
    return lk_node_output(g, n, lk_tensor_like(g, qkv));
}

const lk_rotation *lk_rotation_of(const lk_node *n)
{
    const lk_rotation *r = n->op == LK_OP_ROPE             ? &n->attr.rope
                           : n->op == LK_OP_LINEAR         ? &n->attr.linear.rope
                           : n->op == LK_OP_ATTENTION_GRAD ? &n->attr.attention.rope
                                                           : NULL;
    return r && r->heads ? r : NULL;
}

const lk_rule lk_rule_rope = {.gradient = gradient, .in_place = 0};
