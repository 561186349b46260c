/* MobileNetV3: a stem, inverted residual blocks with channel attention, and a head whose last
 * expansion works on the pooled image. Table 1 and 2 of the paper; widths, strides and the order of
 * attention (after the depthwise norm) as in the authors' code. */
#include "model/vision.h"

#include "model/layers.h"

#include <string.h>

typedef struct block {
    int size;          /* of the depthwise kernel */
    int expanded, out; /* widths */
    bool attention;
    lk_activation act;
    int stride;
} block;

#define RE LK_RELU
#define HS LK_HARD_SWISH

static const block large_blocks[] = {
    {3, 16, 16, false, RE, 1},   {3, 64, 24, false, RE, 2},   {3, 72, 24, false, RE, 1},
    {5, 72, 40, true, RE, 2},    {5, 120, 40, true, RE, 1},   {5, 120, 40, true, RE, 1},
    {3, 240, 80, false, HS, 2},  {3, 200, 80, false, HS, 1},  {3, 184, 80, false, HS, 1},
    {3, 184, 80, false, HS, 1},  {3, 480, 112, true, HS, 1},  {3, 672, 112, true, HS, 1},
    {5, 672, 160, true, HS, 2},  {5, 960, 160, true, HS, 1},  {5, 960, 160, true, HS, 1},
};

static const block small_blocks[] = {
    {3, 16, 16, true, RE, 2},  {3, 72, 24, false, RE, 2}, {3, 88, 24, false, RE, 1},
    {5, 96, 40, true, HS, 2},  {5, 240, 40, true, HS, 1}, {5, 240, 40, true, HS, 1},
    {5, 120, 48, true, HS, 1}, {5, 144, 48, true, HS, 1}, {5, 288, 96, true, HS, 2},
    {5, 576, 96, true, HS, 1}, {5, 576, 96, true, HS, 1},
};

static const struct size {
    const char *name;
    const block *blocks;
    int count;
    int hidden; /* width of the classifier's hidden layer */
} sizes[] = {
    {"small", small_blocks, sizeof small_blocks / sizeof *small_blocks, 1024},
    {"large", large_blocks, sizeof large_blocks / sizeof *large_blocks, 1280},
};

/* `drop`: probability of leaving the block out. */
static lk_tensor *inverted_residual(lk_graph *g, const lk_vision *m, const block *b, float drop,
                                    lk_tensor *x)
{
    if (!x) return NULL;
    int64_t in = lk_cols(x), out = lk_vision_width(m, b->out);
    int64_t expanded = lk_vision_width(m, b->expanded);
    lk_tensor *h = x;
    if (expanded != in) h = lk_vision_conv(g, m, "expand", h, expanded, 1, 1, b->act);
    h = lk_vision_depthwise(g, m, "depthwise", h, b->size, b->stride, b->act);
    if (b->attention) h = lk_vision_attention(g, m, h);
    h = lk_vision_conv(g, m, "project", h, out, 1, 1, LK_LINEAR);
    return b->stride == 1 && in == out ? lk_stochastic_depth(g, x, h, drop) : h;
}

lk_tensor *lk_mobilenetv3(lk_graph *g, const lk_vision *m, lk_tensor *x)
{
    const struct size *s = NULL;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (strcmp(sizes[i].name, m->size) == 0) s = &sizes[i];
    if (!s) {
        lk_error_at(g, "mobilenetv3 has no size '%s'", m->size);
        return NULL;
    }
    lk_tensor *h = lk_vision_conv(g, m, "stem", x, lk_vision_width(m, 16), 3, m->stem_stride, HS);
    for (int i = 0; i < s->count; i++) {
        lk_scope_push(g, "blocks");
        lk_scope_push(g, "%d", i);
        /* deeper blocks are dropped more often (G. Huang et al. 2016, section 3) */
        float drop = m->stochastic_depth * (float)(i + 1) / (float)s->count;
        h = inverted_residual(g, m, &s->blocks[i], drop, h);
        lk_scope_pop(g);
        lk_scope_pop(g);
    }
    lk_scope_push(g, "head");
    int64_t last = 6 * lk_vision_width(m, s->blocks[s->count - 1].out);
    h = lk_pool(g, lk_vision_conv(g, m, "conv", h, last, 1, 1, HS));
    h = lk_layers_dense(g, "hidden", h, lk_vision_width(m, s->hidden), 0.01f, true, LK_LINEAR);
    h = lk_dropout(g, lk_activate(g, h, HS), m->dropout);
    h = lk_layers_dense(g, "classifier", h, m->classes, 0.01f, true, LK_LINEAR);
    lk_scope_pop(g);
    return h;
}
