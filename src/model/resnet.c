/* ResNet-18: a stem and four stages of two basic blocks; the second norm of a block has its
 * activation after the sum. */
#include "model/vision.h"

#include "model/layers.h"

static lk_tensor *basic_block(lk_graph *g, const lk_vision *m, lk_tensor *x, int64_t width,
                              int stride, float drop)
{
    if (!x) return NULL;
    lk_tensor *h = lk_vision_conv(g, m, "conv1", x, width, 3, stride, LK_RELU);
    h = lk_vision_conv(g, m, "conv2", h, width, 3, 1, LK_LINEAR);
    if (stride != 1 || lk_cols(x) != width)
        x = lk_vision_conv(g, m, "shortcut", x, width, 1, stride, LK_LINEAR);
    return lk_activate(g, lk_stochastic_depth(g, x, h, drop), LK_RELU);
}

lk_tensor *lk_resnet18(lk_graph *g, const lk_vision *m, lk_tensor *x)
{
    enum { STAGES = 4, BLOCKS = 2 };
    bool small = m->stem_stride == 1;
    lk_tensor *h = lk_vision_conv(g, m, "stem", x, lk_vision_width(m, 64), small ? 3 : 7,
                                  m->stem_stride, LK_RELU);
    if (!small) h = lk_max_pool(g, h, 3, 2, 1);
    for (int i = 0; i < STAGES * BLOCKS; i++) {
        int stage = i / BLOCKS, stride = stage > 0 && i % BLOCKS == 0 ? 2 : 1;
        float drop = m->stochastic_depth * (float)(i + 1) / (float)(STAGES * BLOCKS);
        lk_scope_push(g, "blocks");
        lk_scope_push(g, "%d", i);
        h = basic_block(g, m, h, lk_vision_width(m, (int64_t)64 << stage), stride, drop);
        lk_scope_pop(g);
        lk_scope_pop(g);
    }
    lk_scope_push(g, "head");
    h = lk_dropout(g, lk_pool(g, h), m->dropout);
    h = lk_layers_dense(g, "classifier", h, m->classes, 0.01f, true, LK_LINEAR);
    lk_scope_pop(g);
    return h;
}
