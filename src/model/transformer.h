/* Decoder-only transformer (A. Radford et al., GPT-2, 2019): embedding, pre-norm blocks of
 * attention and feed-forward, final norm, head tied to the embedding or its own. */
#ifndef LK_MODEL_TRANSFORMER_H
#define LK_MODEL_TRANSFORMER_H

#include "model/transformer_parts.h"

struct lk_transformer {
    int64_t layers, width, context;
    int heads, kv_heads;
    int64_t ffn_width; /* 0: the part's default */
    const char *position, *norm, *ffn;
    bool bias, tied;
    bool full; /* attention sees the whole sequence; else what came before: causal */
    float dropout, rope_theta, norm_eps;
    int64_t vocabulary; /* tokens of the data */
    double headroom;    /* share of spare rows in the embedding */
};

/* Rows of the embedding: vocabulary * (1 + headroom), rounded up to a multiple of 64 when there is
 * headroom; the vocabulary itself when headroom is 0. */
int64_t lk_transformer_rows(const lk_transformer *m);

/* Logits [B, T, rows] of tokens i32 [B, T]; NULL on error (sticky in g). */
lk_tensor *lk_transformer_logits(lk_graph *g, const lk_transformer *m, lk_tensor *tokens);

/* ---- pieces that other models are built of, too; each in the current scope ------------------- */

/* Complete what m leaves to its parts; an error, sticky in g, if they do not fit. */
lk_status lk_transformer_resolve(lk_graph *g, lk_transformer *m);
/* Table and rows of `tokens` i32 [B,T] with their positions, [B,T,C]; *table for a tied head. */
lk_tensor *lk_transformer_embed(lk_graph *g, const lk_transformer *m, lk_tensor *tokens,
                                lk_tensor **table);
/* The norm `scope` of x. */
lk_tensor *lk_transformer_norm(lk_graph *g, const lk_transformer *m, const char *scope,
                               lk_tensor *x);
/* x [B,T,C] with what the norm and the feed-forward of a block add to it. */
lk_tensor *lk_transformer_feed(lk_graph *g, const lk_transformer *m, lk_tensor *x);
/* The first `layers` blocks, 'blocks.N', of self-attention and feed-forward. */
lk_tensor *lk_transformer_blocks(lk_graph *g, const lk_transformer *m, lk_tensor *x);

#endif
