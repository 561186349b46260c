/* embed: table rows plus positions; its gradient adds rows in the order of the tokens. positions:
 * the second part alone. */
#include "cpu/device.h"

enum { COLS = 32 }; /* columns of the gradient that one thread sums */

/* The sine and cosine rows of the positions, the same for every sample: made once per call. */
size_t lk_cpu_embed_scratch(const lk_node *n)
{
    const lk_tensor *out = n->out[0];
    bool waves = n->attr.embed.position == LK_POSITION_SINUSOIDAL;
    return waves ? (size_t)(out->dim[1] * lk_cols(out)) * sizeof(float) : 0;
}

static void sinusoids(int64_t time, int64_t c, float *p)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < time; t++)
        for (int64_t j = 0; j < c; j++) {
            double angle = (double)t * pow(10000.0, -(double)(j / 2 * 2) / (double)c);
            p[t * c + j] = (float)(j % 2 ? cos(angle) : sin(angle));
        }
}

lk_status lk_cpu_embed(lk_exec *x, const lk_node *n)
{
    const lk_tensor *table = n->in[1], *positions = n->in[2], *out = n->out[0];
    const int32_t *tokens = lk_data(x, n->in[0]);
    const void *rows = lk_data(x, table), *place = lk_data(x, positions);
    void *y = lk_data(x, out);
    int64_t time = out->dim[1], c = lk_cols(out), count = lk_rows(out);
    lk_embed_position kind = n->attr.embed.position;
    float scale = lk_embed_scale(kind, c);
    float *waves = kind == LK_POSITION_SINUSOIDAL ? lk_cpu_scratch(x) : NULL;
    if (waves) sinusoids(time, c, waves);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < c; j += LK_CPU_BLOCK) {
            float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
            int64_t m = c - j < LK_CPU_BLOCK ? c - j : LK_CPU_BLOCK, t = i % time;
            lk_cpu_load(table->dtype, rows, tokens[i] * c + j, m, a);
            if (kind == LK_POSITION_TABLE) lk_cpu_load(positions->dtype, place, t * c + j, m, b);
            if (waves) memcpy(b, waves + t * c + j, (size_t)m * sizeof *b);
            if (kind != LK_POSITION_NONE)
                for (int64_t k = 0; k < m; k++) a[k] = a[k] * scale + b[k];
            lk_cpu_store(out->dtype, y, i * c + j, m, a);
        }
    return LK_OK;
}

lk_status lk_cpu_embed_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *dy = n->in[1], *table = n->out[0], *positions = n->out[1];
    const int32_t *tokens = lk_data(x, n->in[0]);
    const void *from = lk_data(x, dy);
    float *dt = lk_data(x, table), *dp = lk_data(x, positions);
    int64_t c = lk_cols(dy), time = dy->dim[1], count = lk_rows(dy);
    float scale = lk_embed_scale(n->attr.embed.position, c);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < c; j += COLS) {
        int64_t m = c - j < COLS ? c - j : COLS;
        float row[COLS];
        if (!(n->accumulate & 1))
            for (int64_t v = 0; v < table->dim[0]; v++)
                memset(dt + v * c + j, 0, (size_t)m * sizeof *dt);
        if (dp && !(n->accumulate & 2))
            for (int64_t t = 0; t < positions->dim[0]; t++)
                memset(dp + t * c + j, 0, (size_t)m * sizeof *dp);
        for (int64_t i = 0; i < count; i++) {
            lk_cpu_load(dy->dtype, from, i * c + j, m, row);
            float *to = dt + tokens[i] * c + j;
            for (int64_t k = 0; k < m; k++) to[k] += scale * row[k];
            if (!dp) continue;
            to = dp + i % time * c + j;
            for (int64_t k = 0; k < m; k++) to[k] += row[k];
        }
    }
    return LK_OK;
}

lk_status lk_cpu_positions(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *positions = n->in[1], *out = n->out[0];
    const void *from = lk_data(x, in), *place = lk_data(x, positions);
    void *y = lk_data(x, out);
    int64_t time = out->dim[1], c = lk_cols(out), count = lk_rows(out);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < c; j += LK_CPU_BLOCK) {
            float a[LK_CPU_BLOCK], b[LK_CPU_BLOCK];
            int64_t m = c - j < LK_CPU_BLOCK ? c - j : LK_CPU_BLOCK;
            lk_cpu_load(in->dtype, from, i * c + j, m, a);
            lk_cpu_load(positions->dtype, place, i % time * c + j, m, b);
            for (int64_t k = 0; k < m; k++) a[k] += b[k];
            lk_cpu_store(out->dtype, y, i * c + j, m, a);
        }
    return LK_OK;
}

lk_status lk_cpu_positions_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *dy = n->in[0], *positions = n->out[0];
    const void *from = lk_data(x, dy);
    float *dp = lk_data(x, positions);
    int64_t c = lk_cols(dy), time = dy->dim[1], batch = dy->dim[0];
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < positions->dim[0]; t++) {
        float *to = dp + t * c, row[LK_CPU_BLOCK];
        if (!(n->accumulate & 1)) memset(to, 0, (size_t)c * sizeof *to);
        for (int64_t b = 0; b < batch && t < time; b++)
            for (int64_t j = 0; j < c; j += LK_CPU_BLOCK) {
                int64_t m = c - j < LK_CPU_BLOCK ? c - j : LK_CPU_BLOCK;
                const float *v = lk_cpu_view(dy->dtype, from, (b * time + t) * c + j, m, row);
                for (int64_t k = 0; k < m; k++) to[j + k] += v[k];
            }
    }
    return LK_OK;
}
