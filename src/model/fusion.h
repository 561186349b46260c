/* A classifier of images with a text each: the image as a sequence of patches (A. Dosovitskiy et
 * al., "An image is worth 16x16 words", ICLR 2021), blocks of self-attention over the patches and
 * over the text, then blocks in which the text attends to the image (cross-attention, A. Vaswani et
 * al. 2017), and the class from the mean of the text's vectors. */
#ifndef LK_MODEL_FUSION_H
#define LK_MODEL_FUSION_H

#include "model/transformer.h"

typedef struct lk_fusion {
    lk_transformer block; /* what the blocks are; `layers` of the text, `context` its tokens */
    int64_t image_layers, cross_layers;
    int64_t patch; /* side of a patch in pixels */
    int64_t classes;
} lk_fusion;

/* Logits [B, classes] of images x [B,H,W,C] and tokens i32 [B, context]; H and W are multiples of
 * the patch. NULL on error (sticky in g). */
lk_tensor *lk_fusion_logits(lk_graph *g, const lk_fusion *m, lk_tensor *x, lk_tensor *tokens);

#endif
