/* The pieces of image classifiers, and the parts exchanged by name. */
#include "model/vision.h"

#include "model/layers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int64_t lk_vision_width(const lk_vision *m, int64_t width)
{
    double scaled = (double)width * m->multiplier;
    int64_t rounded = (int64_t)(scaled + 4) / 8 * 8;
    if (rounded < 8) rounded = 8;
    return (double)rounded < 0.9 * scaled ? rounded + 8 : rounded;
}

/* ---- norms ----------------------------------------------------------------------------------- */

static lk_tensor *channels(lk_graph *g, const char *name, const lk_tensor *x, lk_init init)
{
    return lk_parameter(g, name, 1, (int64_t[]){lk_cols(x)}, init, 0, false);
}

static lk_tensor *batchnorm(lk_graph *g, const lk_vision *m, lk_tensor *x, lk_activation act)
{
    lk_tensor *w = channels(g, "weight", x, LK_INIT_ONE);
    lk_tensor *b = channels(g, "bias", x, LK_INIT_ZERO);
    lk_tensor *mean = lk_statistic(g, "running_mean", lk_cols(x), LK_INIT_ZERO);
    lk_tensor *var = lk_statistic(g, "running_var", lk_cols(x), LK_INIT_ONE);
    return lk_batch_norm(g, x, w, b, mean, var, m->norm_eps, act);
}

static lk_tensor *layernorm(lk_graph *g, const lk_vision *m, lk_tensor *x, lk_activation act)
{
    return lk_activate(g, lk_layers_norm(g, x, LK_LAYERNORM, true, m->norm_eps), act);
}

static lk_tensor *rmsnorm(lk_graph *g, const lk_vision *m, lk_tensor *x, lk_activation act)
{
    return lk_activate(g, lk_layers_norm(g, x, LK_RMSNORM, false, m->norm_eps), act);
}

static const struct {
    const char *name;
    lk_tensor *(*build)(lk_graph *g, const lk_vision *m, lk_tensor *x, lk_activation act);
} norms[] = {{"batchnorm", batchnorm}, {"layernorm", layernorm}, {"rmsnorm", rmsnorm}};

static lk_tensor *norm(lk_graph *g, const lk_vision *m, const char *name, lk_tensor *x,
                       lk_activation act)
{
    if (!x) return NULL;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        if (strcmp(norms[i].name, m->norm) != 0) continue;
        lk_scope_push(g, "%s_norm", name);
        lk_tensor *y = norms[i].build(g, m, x, act);
        lk_scope_pop(g);
        return y;
    }
    lk_error_at(g, "no norm '%s' for images", m->norm);
    return NULL;
}

/* ---- convolutions ---------------------------------------------------------------------------- */

/* Standard deviation that keeps the size of gradients through a ReLU (K. He et al., "Delving deep
 * into rectifiers", ICCV 2015); fan_out: products each input takes part in. */
static float he_std(int64_t fan_out) { return (float)sqrt(2.0 / (double)fan_out); }

lk_tensor *lk_vision_conv(lk_graph *g, const lk_vision *m, const char *name, lk_tensor *x,
                          int64_t out, int size, int stride, lk_activation act)
{
    if (!x) return NULL;
    bool product = size == 1 && stride == 1; /* of matrices */
    int64_t dim[4] = {out, size, size, lk_cols(x)}, flat[2] = {out, lk_cols(x)};
    lk_scope_push(g, "%s", name);
    lk_tensor *w = lk_parameter(g, "weight", product ? 2 : 4, product ? flat : dim, LK_INIT_NORMAL,
                                he_std(out * size * size), true);
    lk_tensor *y = product ? lk_linear(g, x, w, NULL, LK_LINEAR)
                           : lk_conv(g, x, w, stride, size / 2);
    lk_scope_pop(g);
    return norm(g, m, name, y, act);
}

lk_tensor *lk_vision_depthwise(lk_graph *g, const lk_vision *m, const char *name, lk_tensor *x,
                               int size, int stride, lk_activation act)
{
    if (!x) return NULL;
    int64_t dim[3] = {size, size, lk_cols(x)};
    lk_scope_push(g, "%s", name);
    lk_tensor *w =
        lk_parameter(g, "weight", 3, dim, LK_INIT_NORMAL, he_std((int64_t)size * size), true);
    lk_tensor *y = lk_dwconv(g, x, w, stride, size / 2);
    lk_scope_pop(g);
    return norm(g, m, name, y, act);
}

/* ---- channel attention ----------------------------------------------------------------------- */

/* Squeeze-and-excitation (J. Hu et al., CVPR 2018), with a quarter of the channels between and a
 * hard sigmoid as in MobileNetV3. */
static lk_tensor *se(lk_graph *g, lk_tensor *x)
{
    const lk_vision plain = {.multiplier = 1};
    int64_t c = lk_cols(x), squeezed = lk_vision_width(&plain, c / 4);
    lk_tensor *w1, *b1, *w2, *b2;
    lk_scope_push(g, "se");
    lk_scope_push(g, "reduce");
    lk_layers_weights(g, c, squeezed, he_std(squeezed), &w1, &b1);
    lk_scope_pop(g);
    lk_scope_push(g, "expand");
    lk_layers_weights(g, squeezed, c, he_std(c), &w2, &b2);
    lk_scope_pop(g);
    lk_tensor *y = lk_gate(g, x, lk_excite(g, lk_pool(g, x), w1, b1, w2, b2));
    lk_scope_pop(g);
    return y;
}

static lk_tensor *none(lk_graph *g, lk_tensor *x)
{
    (void)g;
    return x;
}

/* Efficient channel attention (Q. Wang et al., CVPR 2020): the kernel's size grows with the
 * logarithm of the channels (equation 12, gamma 2, b 1). */
static lk_tensor *eca(lk_graph *g, lk_tensor *x)
{
    int64_t size = (int64_t)fabs(log2((double)lk_cols(x)) / 2 + 0.5) | 1;
    lk_scope_push(g, "eca");
    lk_tensor *w = lk_parameter(g, "weight", 1, &size, LK_INIT_NORMAL, he_std(size), true);
    lk_tensor *s = lk_activate(g, lk_channel_conv(g, lk_pool(g, x), w), LK_SIGMOID);
    lk_tensor *y = lk_gate(g, x, s);
    lk_scope_pop(g);
    return y;
}

static const struct {
    const char *name;
    lk_tensor *(*build)(lk_graph *g, lk_tensor *x);
} attentions[] = {{"se", se}, {"none", none}, {"eca", eca}};

lk_tensor *lk_vision_attention(lk_graph *g, const lk_vision *m, lk_tensor *x)
{
    if (!x) return NULL;
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions; i++)
        if (strcmp(attentions[i].name, m->attention) == 0) return attentions[i].build(g, x);
    lk_error_at(g, "no channel attention '%s'", m->attention);
    return NULL;
}

/* ---- models ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    lk_tensor *(*logits)(lk_graph *g, const lk_vision *m, lk_tensor *x);
} models[] = {{"mobilenetv3", lk_mobilenetv3}, {"resnet18", lk_resnet18}};

lk_tensor *lk_vision_logits(lk_graph *g, const lk_vision *m, lk_tensor *x)
{
    if (!x) return NULL;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (strcmp(models[i].name, m->kind) == 0) return models[i].logits(g, m, x);
    lk_error_at(g, "no image model '%s'", m->kind);
    return NULL;
}
