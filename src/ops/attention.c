/* attention: of a sequence to itself on a packed qkv, or to another one on q and kv; grouped-query,
 * causal, ALiBi, dropout. */
#include "ops/ops.h"

#include <math.h>

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *q = n->in[0], *kv = n->in[1];
    lk_node *d = lk_node_new(g, LK_OP_ATTENTION_GRAD, 6,
                             (lk_tensor *[]){q, kv, n->out[0], n->out[1],
                                             lk_cotangent(g, n->out[0]), g->state});
    if (!d) return;
    d->attr = n->attr;
    lk_contribute(g, q, lk_node_output(g, d, lk_tensor_like(g, q)));
    if (kv) lk_contribute(g, kv, lk_node_output(g, d, lk_tensor_like(g, kv)));
}

/* Products of the score and value matrices, without what a causal mask leaves out. */
static double pair_flops(const lk_node *n)
{
    const lk_tensor *q = n->in[0], *kv = n->in[1] ? n->in[1] : q;
    double t = (double)q->dim[1], s = (double)kv->dim[1];
    double pairs = (double)q->dim[0] * n->attr.attention.heads * t *
                   (n->attr.attention.causal ? s - 0.5 * t : s);
    return 2.0 * pairs * n->attr.attention.head_dim;
}

static double input_bytes(const lk_node *n)
{
    return (double)lk_bytes(n->in[0]) + (n->in[1] ? (double)lk_bytes(n->in[1]) : 0);
}

static void cost(const lk_node *n, double *flops, double *bytes)
{
    *flops = 2.0 * pair_flops(n);
    *bytes = input_bytes(n) + (double)lk_bytes(n->out[0]) + (double)lk_bytes(n->out[1]);
}

static void cost_grad(const lk_node *n, double *flops, double *bytes)
{
    *flops = 5.0 * pair_flops(n);
    *bytes = 2.0 * input_bytes(n) + 2.0 * (double)lk_bytes(n->in[2]) + (double)lk_bytes(n->in[3]);
    for (int i = 2; i < n->outputs; i++) *bytes += n->out[i] ? (double)lk_bytes(n->out[i]) : 0;
}

/* kv NULL: `q` is qkv. The shapes are right. */
static lk_tensor *attend(lk_graph *g, lk_tensor *q, lk_tensor *kv, int heads, int kv_heads,
                         int head_dim, bool causal, bool alibi, float p)
{
    int64_t queries = q->dim[0] * heads * q->dim[1];
    if (p > 0 && g->training && !lk_dropout_fits(g, queries, (kv ? kv : q)->dim[1])) return NULL;
    lk_node *n = lk_node_new(g, LK_OP_ATTENTION, 3, (lk_tensor *[]){q, kv, g->state});
    if (!n) return NULL;
    n->attr.attention.heads = heads;
    n->attr.attention.kv_heads = kv_heads;
    n->attr.attention.head_dim = head_dim;
    n->attr.attention.causal = causal;
    n->attr.attention.alibi = alibi;
    n->attr.attention.scale = 1.0f / sqrtf((float)head_dim);
    n->attr.attention.p = g->training ? p : 0;
    n->attr.attention.site = g->sites;
    if (n->attr.attention.p > 0) g->sites++;
    lk_tensor *y = lk_tensor_like(g, q);
    if (!y) return NULL;
    y->dim[2] = (int64_t)heads * head_dim;
    lk_node_output(g, n, y);
    int64_t lse[] = {q->dim[0], heads, q->dim[1]};
    lk_node_output(g, n, lk_tensor_f32(g, 3, lse));
    return y;
}

lk_tensor *lk_attention(lk_graph *g, lk_tensor *qkv, int heads, int kv_heads, bool causal,
                        bool alibi, float p)
{
    if (g->status != LK_OK || !qkv) return NULL;
    int64_t all = (int64_t)heads + 2 * kv_heads;
    if (qkv->dims != 3 || heads < 1 || kv_heads < 1 || heads % kv_heads || lk_cols(qkv) % all) {
        char s[96];
        lk_error_at(g, "attention: qkv %s with %d heads and %d kv heads; with heads of size D it "
                    "must be [B, T, %lld D], and the heads a multiple of the kv heads",
                    lk_shape_text(qkv, s, sizeof s), heads, kv_heads, (long long)all);
        return NULL;
    }
    return attend(g, qkv, NULL, heads, kv_heads, (int)(lk_cols(qkv) / all), causal, alibi, p);
}

lk_tensor *lk_cross_attention(lk_graph *g, lk_tensor *q, lk_tensor *kv, int heads, int kv_heads,
                              bool causal, bool alibi, float p)
{
    if (g->status != LK_OK || !q || !kv) return NULL;
    if (q->dims != 3 || kv->dims != 3 || q->dim[0] != kv->dim[0] || heads < 1 || kv_heads < 1 ||
        heads % kv_heads || lk_cols(q) % heads ||
        lk_cols(kv) != lk_cols(q) / heads * 2 * kv_heads) {
        char s[96], t[96];
        lk_error_at(g, "attention: q %s and kv %s with %d heads and %d kv heads; with heads of "
                    "size D they must be [B, T, %d D] and [B, S, %d D]",
                    lk_shape_text(q, s, sizeof s), lk_shape_text(kv, t, sizeof t), heads, kv_heads,
                    heads, 2 * kv_heads);
        return NULL;
    }
    if (causal && q->dim[1] > kv->dim[1]) {
        lk_error_at(g, "attention: of %lld queries over %lld keys the first would see no key when "
                    "causal; give at least as many keys as queries, or let each see all keys",
                    (long long)q->dim[1], (long long)kv->dim[1]);
        return NULL;
    }
    return attend(g, q, kv, heads, kv_heads, (int)(lk_cols(q) / heads), causal, alibi, p);
}

const lk_rule lk_rule_attention = {.gradient = gradient, .cost = cost, .in_place = -1};
const lk_rule lk_rule_attention_grad = {.cost = cost_grad, .in_place = -1};
