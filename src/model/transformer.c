/* The decoder-only transformer as a graph. */
#include "model/transformer.h"

#include "model/layers.h"

#include <math.h>

int64_t lk_transformer_rows(const lk_transformer *m)
{
    if (m->headroom <= 0) return m->vocabulary;
    int64_t rows = (int64_t)ceil((double)m->vocabulary * (1.0 + m->headroom) - 1e-9);
    return (rows + 63) / 64 * 64;
}

lk_tensor *lk_transformer_norm(lk_graph *g, const lk_transformer *m, const char *scope,
                               lk_tensor *x)
{
    lk_scope_push(g, "%s", scope);
    lk_tensor *y = lk_norm_part_find(m->norm)->build(g, m, x);
    lk_scope_pop(g);
    return y;
}

lk_tensor *lk_transformer_feed(lk_graph *g, const lk_transformer *m, lk_tensor *x)
{
    lk_unit_begin(g, LK_UNIT_FFN);
    lk_tensor *h = lk_transformer_norm(g, m, "ffn_norm", x);
    lk_scope_push(g, "ffn");
    h = lk_ffn_part_find(m->ffn)->build(g, m, h);
    lk_scope_pop(g);
    lk_unit_end(g, LK_UNIT_FFN);
    return lk_residual(g, x, h, m->dropout);
}

static lk_tensor *block(lk_graph *g, const lk_transformer *m, lk_tensor *x)
{
    const lk_position_part *position = lk_position_part_find(m->position);
    int64_t head = m->width / m->heads;

    lk_tensor *h = lk_transformer_norm(g, m, "attn_norm", x);
    lk_scope_push(g, "attn");
    int64_t qkv = (m->heads + 2 * m->kv_heads) * head;
    h = lk_layers_dense(g, "qkv", h, qkv, 0.02f, m->bias, LK_LINEAR);
    if (position->rotate) h = position->rotate(g, m, h);
    h = lk_attention(g, h, m->heads, m->kv_heads, !m->full, position->alibi, m->dropout);
    h = lk_layers_dense(g, "out", h, m->width, lk_residual_std(m), m->bias, LK_LINEAR);
    lk_scope_pop(g);
    return lk_transformer_feed(g, m, lk_residual(g, x, h, m->dropout));
}

lk_tensor *lk_transformer_blocks(lk_graph *g, const lk_transformer *m, lk_tensor *x)
{
    for (int64_t i = 0; i < m->layers; i++) {
        lk_scope_push(g, "blocks");
        lk_scope_push(g, "%lld", (long long)i);
        lk_unit_begin(g, LK_UNIT_BLOCK);
        x = block(g, m, x);
        lk_unit_end(g, LK_UNIT_BLOCK);
        lk_scope_pop(g);
        lk_scope_pop(g);
    }
    return x;
}

lk_status lk_transformer_resolve(lk_graph *g, lk_transformer *m)
{
    const lk_ffn_part *ffn = lk_ffn_part_find(m->ffn);
    if (!ffn || !lk_norm_part_find(m->norm) || !lk_position_part_find(m->position)) {
        lk_error_at(g, "no such part among norm '%s', ffn '%s', position '%s'", m->norm, m->ffn,
                    m->position);
        return g->status;
    }
    if (m->kv_heads == 0) m->kv_heads = m->heads;
    if (m->ffn_width == 0) m->ffn_width = ffn->default_width(m->width);
    if (m->width % m->heads || m->heads % m->kv_heads)
        lk_error_at(g, "width %lld, heads %d, kv heads %d: each must divide the one before",
                    (long long)m->width, m->heads, m->kv_heads);
    return g->status;
}

lk_tensor *lk_transformer_embed(lk_graph *g, const lk_transformer *m, lk_tensor *tokens,
                                lk_tensor **table)
{
    lk_scope_push(g, "embed");
    *table = lk_parameter(g, "weight", 2, (int64_t[]){lk_transformer_rows(m), m->width},
                          LK_INIT_NORMAL, 0.02f, true);
    lk_scope_pop(g);
    lk_embed_position kind = lk_position_part_find(m->position)->embed;
    lk_tensor *positions = NULL;
    if (kind == LK_POSITION_TABLE) {
        lk_scope_push(g, "position");
        positions = lk_parameter(g, "weight", 2, (int64_t[]){m->context, m->width},
                                 LK_INIT_NORMAL, 0.02f, true);
        lk_scope_pop(g);
    }
    lk_scope_push(g, "embed");
    lk_tensor *x = lk_dropout(g, lk_embed(g, tokens, *table, kind, positions), m->dropout);
    lk_scope_pop(g);
    return x;
}

lk_tensor *lk_transformer_logits(lk_graph *g, const lk_transformer *model, lk_tensor *tokens)
{
    lk_transformer resolved = *model, *m = &resolved;
    lk_tensor *table = NULL;
    if (lk_transformer_resolve(g, m) != LK_OK) return NULL;
    lk_tensor *x = lk_transformer_embed(g, m, tokens, &table);
    x = lk_transformer_norm(g, m, "norm", lk_transformer_blocks(g, m, x));

    lk_scope_push(g, "head");
    if (!m->tied)
        table = lk_parameter(g, "weight", 2, (int64_t[]){lk_transformer_rows(m), m->width},
                             LK_INIT_NORMAL, 0.02f, true);
    lk_tensor *logits = lk_linear(g, x, table, NULL, LK_LINEAR);
    lk_scope_pop(g);
    return logits;
}
