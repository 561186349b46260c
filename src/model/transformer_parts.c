/* The parts and their tables. */
#include "model/transformer_parts.h"

#include "model/layers.h"
#include "model/transformer.h"

#include <math.h>
#include <string.h>

static lk_tensor *layernorm(lk_graph *g, const lk_transformer *m, lk_tensor *x)
{
    return lk_layers_norm(g, x, LK_LAYERNORM, m->bias, m->norm_eps);
}

static lk_tensor *rmsnorm(lk_graph *g, const lk_transformer *m, lk_tensor *x)
{
    return lk_layers_norm(g, x, LK_RMSNORM, false, m->norm_eps);
}

float lk_residual_std(const lk_transformer *m) { return 0.02f / sqrtf(2.0f * (float)m->layers); }

static lk_tensor *gelu_ffn(lk_graph *g, const lk_transformer *m, lk_tensor *x)
{
    lk_tensor *h = lk_layers_dense(g, "up", x, m->ffn_width, 0.02f, m->bias, LK_GELU);
    return lk_layers_dense(g, "down", h, m->width, lk_residual_std(m), m->bias, LK_LINEAR);
}

static lk_tensor *swiglu_ffn(lk_graph *g, const lk_transformer *m, lk_tensor *x)
{
    lk_tensor *h = lk_layers_dense(g, "up", x, 2 * m->ffn_width, 0.02f, m->bias, LK_LINEAR);
    return lk_layers_dense(g, "down", lk_swiglu(g, h), m->width, lk_residual_std(m), m->bias,
                           LK_LINEAR);
}

static int64_t four_times(int64_t width) { return 4 * width; }

/* 8/3 of the width keeps the parameter count of a 4x gelu layer. */
static int64_t eight_thirds(int64_t width) { return (8 * width / 3 + 63) / 64 * 64; }

static lk_tensor *rotate(lk_graph *g, const lk_transformer *m, lk_tensor *qkv)
{
    return lk_rope(g, qkv, m->heads, m->kv_heads, m->rope_theta, false);
}

static const lk_norm_part norms[] = {{"layernorm", layernorm}, {"rmsnorm", rmsnorm}};
static const lk_ffn_part ffns[] = {{"gelu", gelu_ffn, four_times},
                                   {"swiglu", swiglu_ffn, eight_thirds}};
static const lk_position_part positions[] = {
    {"alibi", LK_POSITION_NONE, NULL, true},
    {"rope", LK_POSITION_NONE, rotate, false},
    {"learned", LK_POSITION_TABLE, NULL, false},
    {"sinusoidal", LK_POSITION_SINUSOIDAL, NULL, false},
};

#define FIND(table)                                                                                \
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)                                      \
        if (strcmp(table[i].name, name) == 0) return &table[i];                                    \
    return NULL

const lk_norm_part *lk_norm_part_find(const char *name) { FIND(norms); }
const lk_ffn_part *lk_ffn_part_find(const char *name) { FIND(ffns); }
const lk_position_part *lk_position_part_find(const char *name) { FIND(positions); }
