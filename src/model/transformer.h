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
    float dropout, rope_theta, norm_eps;
    int64_t vocabulary; /* tokens of the data */
    double headroom;    /* share of spare rows in the embedding */
};

/* Rows of the embedding: vocabulary * (1 + headroom), rounded up to a multiple of 64 when there is
 * headroom; the vocabulary itself when headroom is 0. */
int64_t lk_transformer_rows(const lk_transformer *m);

/* Logits [B, T, rows] of tokens i32 [B, T]; NULL on error (sticky in g). */
lk_tensor *lk_transformer_logits(lk_graph *g, const lk_transformer *m, lk_tensor *tokens);

#endif
