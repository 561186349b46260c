/* Swappable parts of a transformer block, by name. A new part is one function and one table row. */
#ifndef LK_MODEL_TRANSFORMER_PARTS_H
#define LK_MODEL_TRANSFORMER_PARTS_H

#include "ops/ops.h"

typedef struct lk_transformer lk_transformer; /* transformer.h */

/* Norm over the last dimension of x [.., C]; parameters in the current scope. */
typedef struct lk_norm_part {
    const char *name;
    lk_tensor *(*build)(lk_graph *g, const lk_transformer *m, lk_tensor *x);
} lk_norm_part;

/* Feed-forward of x [B, T, C] before the residual. */
typedef struct lk_ffn_part {
    const char *name;
    lk_tensor *(*build)(lk_graph *g, const lk_transformer *m, lk_tensor *x);
    int64_t (*default_width)(int64_t width);
} lk_ffn_part;

/* How positions enter: at the embedding, on packed qkv, or in the attention scores. */
typedef struct lk_position_part {
    const char *name;
    lk_embed_position embed;
    lk_tensor *(*rotate)(lk_graph *g, const lk_transformer *m, lk_tensor *qkv); /* may be NULL */
    bool alibi;
} lk_position_part;

/* GPT-2: layers that write into the residual stream start at 0.02 / sqrt(2 layers). */
float lk_residual_std(const lk_transformer *m);

/* NULL: no such part. */
const lk_norm_part *lk_norm_part_find(const char *name);
const lk_ffn_part *lk_ffn_part_find(const char *name);
const lk_position_part *lk_position_part_find(const char *name);

#endif
