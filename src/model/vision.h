/* Image classifiers: MobileNetV3 (A. Howard et al., "Searching for MobileNetV3", ICCV 2019) and
 * ResNet-18 (K. He et al., "Deep residual learning", CVPR 2016). A further one is one file, its
 * builder declared below, and one row in vision.c; doc/architecture.md says what else. */
#ifndef LK_MODEL_VISION_H
#define LK_MODEL_VISION_H

#include "ops/ops.h"

typedef struct lk_vision {
    const char *kind;      /* mobilenetv3 | resnet18 */
    const char *size;      /* mobilenetv3: small | large */
    double multiplier;     /* of all widths, which are rounded to multiples of 8 */
    int stem_stride;       /* of the first convolution: 1 for small images; resnet18 with 1 has
                              a 3x3 stem without pooling */
    const char *attention; /* in the blocks that have one: se | none | eca */
    const char *norm;      /* batchnorm | layernorm | rmsnorm (over channels, of each pixel) */
    float norm_eps, dropout, stochastic_depth;
    int64_t classes;
} lk_vision;

/* Logits [B, classes] of images x [B,H,W,C] of any size; NULL on error (sticky in g). */
lk_tensor *lk_vision_logits(lk_graph *g, const lk_vision *m, lk_tensor *x);

/* ---- pieces the models are built of; each in the current scope ------------------------------- */

/* A width scaled by the multiplier and rounded to a multiple of 8, never by more than 10 % down
 * (M. Sandler et al., "MobileNetV2", CVPR 2018, the authors' code). */
int64_t lk_vision_width(const lk_vision *m, int64_t width);
/* Convolution `name` [out, size, size, in] with padding size/2, without bias; then norm `name`_norm
 * and activation. */
lk_tensor *lk_vision_conv(lk_graph *g, const lk_vision *m, const char *name, lk_tensor *x,
                          int64_t out, int size, int stride, lk_activation act);
/* The same for each channel alone. */
lk_tensor *lk_vision_depthwise(lk_graph *g, const lk_vision *m, const char *name, lk_tensor *x,
                               int size, int stride, lk_activation act);
/* Channel attention of the model, or x. */
lk_tensor *lk_vision_attention(lk_graph *g, const lk_vision *m, lk_tensor *x);

lk_tensor *lk_mobilenetv3(lk_graph *g, const lk_vision *m, lk_tensor *x);
lk_tensor *lk_resnet18(lk_graph *g, const lk_vision *m, lk_tensor *x);

#endif
