/* attention: self-attention on a packed qkv, grouped-query, causal, ALiBi, dropout. */
#include "ops/ops.h"

#include <math.h>

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *qkv = n->in[0];
    lk_node *d = lk_node_new(g, LK_OP_ATTENTION_GRAD, 5,
                             (lk_tensor *[]){qkv, n->out[0], n->out[1],
                                             lk_cotangent(g, n->out[0]), g->state});
    if (!d) return;
    d->attr = n->attr;
    lk_contribute(g, qkv, lk_node_output(g, d, lk_tensor_like(g, qkv)));
}

/* Products of the score and value matrices; half of them under a causal mask. */
static double pair_flops(const lk_node *n, const lk_tensor *qkv)
{
    double t = (double)qkv->dim[1];
    double pairs = (double)qkv->dim[0] * n->attr.attention.heads * t * t *
                   (n->attr.attention.causal ? 0.5 : 1.0);
    return 2.0 * pairs * n->attr.attention.head_dim;
}

static void cost(const lk_node *n, double *flops, double *bytes)
{
    *flops = 2.0 * pair_flops(n, n->in[0]);
    *bytes = (double)lk_bytes(n->in[0]) + (double)lk_bytes(n->out[0]) + (double)lk_bytes(n->out[1]);
}

static void cost_grad(const lk_node *n, double *flops, double *bytes)
{
    *flops = 5.0 * pair_flops(n, n->in[0]);
    *bytes = 2.0 * (double)lk_bytes(n->in[0]) + 2.0 * (double)lk_bytes(n->in[1]) +
             (double)lk_bytes(n->in[2]);
}

lk_tensor *lk_attention(lk_graph *g, lk_tensor *qkv, int heads, int kv_heads, bool causal,
                        bool alibi, float p)
{
    if (g->status != LK_OK || !qkv) return NULL;
    int64_t all = heads + 2 * kv_heads;
    if (qkv->dims != 3 || kv_heads < 1 || heads % kv_heads || lk_cols(qkv) % all) {
        char s[96];
        lk_error_at(g, "attention: qkv %s with %d heads and %d kv heads",
                    lk_shape_text(qkv, s, sizeof s), heads, kv_heads);
        return NULL;
    }
    int dim = (int)(lk_cols(qkv) / all);
    int64_t queries = qkv->dim[0] * heads * qkv->dim[1];
    if (p > 0 && g->training && !lk_dropout_fits(g, queries, qkv->dim[1])) return NULL;
    lk_node *n = lk_node_new(g, LK_OP_ATTENTION, 2, (lk_tensor *[]){qkv, g->state});
    if (!n) return NULL;
    n->attr.attention.heads = heads;
    n->attr.attention.kv_heads = kv_heads;
    n->attr.attention.head_dim = dim;
    n->attr.attention.causal = causal;
    n->attr.attention.alibi = alibi;
    n->attr.attention.scale = 1.0f / sqrtf((float)dim);
    n->attr.attention.p = g->training ? p : 0;
    n->attr.attention.site = g->sites;
    if (n->attr.attention.p > 0) g->sites++;
    lk_tensor *y = lk_tensor_like(g, qkv);
    if (!y) return NULL;
    y->dim[2] = (int64_t)heads * dim;
    lk_node_output(g, n, y);
    int64_t lse[] = {qkv->dim[0], heads, qkv->dim[1]};
    lk_node_output(g, n, lk_tensor_f32(g, 3, lse));
    return y;
}

const lk_rule lk_rule_attention = {.gradient = gradient, .cost = cost, .in_place = -1};
const lk_rule lk_rule_attention_grad = {.cost = cost_grad, .in_place = -1};
