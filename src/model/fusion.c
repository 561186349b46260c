/* Image patches and text, joined by cross-attention. */
#include "model/fusion.h"

#include "model/layers.h"

#include <math.h>

/* The patches of x [B,H,W,C] as vectors [B, H/P W/P, width]: a convolution of size and stride P. A
 * row of patches is P x W x C values in one piece, and the same as a picture of P x W/P pixels with
 * P C channels, of which each column is a patch: so the kernel is P x 1 with stride 1, and has
 * channels enough for tensor cores. The weight [width,P,1,P C] lies as [width,P,P,C] would. */
static lk_tensor *patches(lk_graph *g, const lk_fusion *m, lk_tensor *x)
{
    int64_t p = m->patch, width = m->block.width;
    int64_t down = x->dim[1] / p, across = x->dim[2] / p, channels = p * x->dim[3];
    if (x->dims != 4 || down * p != x->dim[1] || across * p != x->dim[2]) {
        char s[96];
        lk_error_at(g, "images %s cannot be cut into patches of %lld x %lld pixels; set "
                    "model.patch to a divisor of height and width, or model.image_size to a "
                    "multiple", lk_shape_text(x, s, sizeof s), (long long)p, (long long)p);
        return NULL;
    }
    int64_t strips[4] = {x->dim[0] * down, p, across, channels};
    lk_scope_push(g, "patch");
    lk_tensor *w = lk_parameter(g, "weight", 4, (int64_t[]){width, p, 1, channels}, LK_INIT_NORMAL,
                                1 / sqrtf((float)(p * channels)), true);
    lk_tensor *y = lk_conv(g, lk_reshape(g, x, 4, strips), w, 1, 0);
    y = lk_reshape(g, y, 3, (int64_t[]){x->dim[0], down * across, width});
    lk_scope_pop(g);
    if (!y) return NULL;
    lk_scope_push(g, "position");
    lk_tensor *positions = lk_parameter(g, "weight", 2, (int64_t[]){y->dim[1], width},
                                        LK_INIT_NORMAL, 0.02f, true);
    y = lk_dropout(g, lk_positions(g, y, positions), m->block.dropout);
    lk_scope_pop(g);
    return y;
}

/* The image as the text sees it, [B, patches, width]. Patches have learned positions, so nothing is
 * told of their places in the blocks. */
static lk_tensor *image(lk_graph *g, const lk_fusion *m, lk_tensor *x)
{
    lk_transformer blocks = m->block;
    blocks.layers = m->image_layers;
    blocks.position = "learned";
    lk_scope_push(g, "image");
    lk_tensor *y = lk_transformer_blocks(g, &blocks, patches(g, m, x));
    y = lk_transformer_norm(g, &blocks, "norm", y);
    lk_scope_pop(g);
    return y;
}

/* A block in which x [B,T,width] attends to `memory`. m->layers: of all blocks of the text. */
static lk_tensor *cross(lk_graph *g, const lk_transformer *m, lk_tensor *x, lk_tensor *memory)
{
    lk_tensor *h = lk_transformer_norm(g, m, "attn_norm", x);
    lk_scope_push(g, "attn");
    lk_tensor *q = lk_layers_dense(g, "q", h, m->width, 0.02f, m->bias, LK_LINEAR);
    lk_tensor *kv = lk_layers_dense(g, "kv", memory, 2 * m->kv_heads * (m->width / m->heads),
                                    0.02f, m->bias, LK_LINEAR);
    h = lk_cross_attention(g, q, kv, m->heads, m->kv_heads, false, false, m->dropout);
    h = lk_layers_dense(g, "out", h, m->width, lk_residual_std(m), m->bias, LK_LINEAR);
    lk_scope_pop(g);
    return lk_transformer_feed(g, m, lk_residual(g, x, h, m->dropout));
}

/* The text [B, context, width], first by itself, then with the image. */
static lk_tensor *text(lk_graph *g, const lk_fusion *m, lk_tensor *tokens, lk_tensor *memory)
{
    lk_transformer all = m->block;
    lk_tensor *table = NULL;
    lk_scope_push(g, "text");
    lk_tensor *x = lk_transformer_embed(g, &m->block, tokens, &table);
    x = lk_transformer_blocks(g, &m->block, x);
    lk_scope_pop(g);
    all.layers += m->cross_layers;
    lk_scope_push(g, "cross");
    for (int64_t i = 0; i < m->cross_layers; i++) {
        lk_scope_push(g, "blocks");
        lk_scope_push(g, "%lld", (long long)i);
        lk_unit_begin(g, LK_UNIT_BLOCK);
        x = cross(g, &all, x, memory);
        lk_unit_end(g, LK_UNIT_BLOCK);
        lk_scope_pop(g);
        lk_scope_pop(g);
    }
    lk_scope_pop(g);
    return x;
}

lk_tensor *lk_fusion_logits(lk_graph *g, const lk_fusion *model, lk_tensor *x, lk_tensor *tokens)
{
    lk_fusion resolved = *model, *m = &resolved;
    if (!x || !tokens) return NULL;
    m->block.full = true;
    if (lk_transformer_resolve(g, &m->block) != LK_OK) return NULL;
    lk_tensor *memory = image(g, m, x);
    lk_tensor *h = text(g, m, tokens, memory);
    if (!h) return NULL;
    h = lk_pool(g, lk_reshape(g, h, 4, (int64_t[]){h->dim[0], h->dim[1], 1, h->dim[2]}));
    h = lk_transformer_norm(g, &m->block, "norm", h);
    lk_scope_push(g, "head");
    h = lk_layers_dense(g, "classifier", h, m->classes, 0.02f, true, LK_LINEAR);
    lk_scope_pop(g);
    return h;
}
