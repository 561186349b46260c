/* norm and its gradient: statistics per row, weight gradients as column sums in chunks of rows. */
#include "cpu/device.h"

size_t lk_cpu_norm_scratch(const lk_node *n) { return lk_cpu_own_bytes(lk_cols(n->in[0])); }

lk_status lk_cpu_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    const void *from = lk_data(x, in);
    const float *w = lk_data(x, n->in[1]), *b = lk_data(x, n->in[2]);
    void *to = lk_data(x, n->out[0]);
    float *mean = lk_data(x, n->out[1]), *rstd = lk_data(x, n->out[2]);
    int64_t rows = lk_rows(in), c = lk_cols(in);
#pragma omp parallel
    {
        float *row = lk_cpu_own(lk_cpu_scratch(x), c);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            lk_cpu_load(in->dtype, from, i * c, c, row);
            if (mean) {
                float m = lk_cpu_sum(row, c) / (float)c;
                mean[i] = m;
                for (int64_t j = 0; j < c; j++) row[j] -= m;
            }
            float r = 1.0f / sqrtf(lk_cpu_dot(row, row, c) / (float)c + n->attr.norm.eps);
            rstd[i] = r;
            for (int64_t j = 0; j < c; j++) row[j] = row[j] * r * w[j] + (b ? b[j] : 0.0f);
            lk_cpu_store(in->dtype, to, i * c, c, row);
        }
    }
    return LK_OK;
}

/* dw and db of each chunk of rows. */
static size_t chunk_bytes(int64_t rows, int64_t c)
{
    return lk_cpu_piece(2 * (size_t)(lk_cpu_column_chunks(rows) * c) * sizeof(float));
}

size_t lk_cpu_norm_grad_scratch(const lk_node *n)
{
    int64_t c = lk_cols(n->in[0]);
    return chunk_bytes(lk_rows(n->in[0]), c) + lk_cpu_own_bytes(2 * c);
}

/* Row i: xh [c] = normalised x, dy [c] in; dx [c] to xh; dw, db [c] += */
static void row_gradient(int64_t c, bool centred, float rstd, const float *w, float *xh, float *dy,
                         float *dw, float *db)
{
    for (int64_t j = 0; j < c; j++) {
        dw[j] += dy[j] * xh[j];
        db[j] += dy[j];
        dy[j] *= w[j];
    }
    float m = centred ? lk_cpu_sum(dy, c) / (float)c : 0.0f;
    float p = lk_cpu_dot(dy, xh, c) / (float)c;
    for (int64_t j = 0; j < c; j++) xh[j] = rstd * (dy[j] - m - xh[j] * p);
}

lk_status lk_cpu_norm_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    const void *from = lk_data(x, in), *cotangent = lk_data(x, n->in[4]);
    const float *w = lk_data(x, n->in[1]), *mean = lk_data(x, n->in[2]);
    const float *rstd = lk_data(x, n->in[3]);
    const void *more = n->inputs > 5 ? lk_data(x, n->in[5]) : NULL;
    void *dx = lk_data(x, n->out[0]);
    int64_t rows = lk_rows(in), c = lk_cols(in);
    int64_t chunks = lk_cpu_column_chunks(rows), each = (rows + chunks - 1) / chunks;
    float *dw = lk_cpu_scratch(x), *db = dw + chunks * c;
    char *rest = (char *)dw + chunk_bytes(rows, c);
#pragma omp parallel
    {
        float *row = lk_cpu_own(rest, 2 * c), *dy = row + c;
#pragma omp for schedule(static)
        for (int64_t k = 0; k < chunks; k++) {
            memset(dw + k * c, 0, (size_t)c * sizeof *dw);
            memset(db + k * c, 0, (size_t)c * sizeof *db);
            for (int64_t i = k * each; i < (k + 1) * each && i < rows; i++) {
                lk_cpu_load(in->dtype, from, i * c, c, row);
                lk_cpu_load(in->dtype, cotangent, i * c, c, dy);
                float m = mean ? mean[i] : 0.0f;
                for (int64_t j = 0; j < c; j++) row[j] = (row[j] - m) * rstd[i];
                row_gradient(c, mean != NULL, rstd[i], w, row, dy, dw + k * c, db + k * c);
                if (more) {
                    lk_cpu_load(in->dtype, more, i * c, c, dy);
                    for (int64_t j = 0; j < c; j++) row[j] += dy[j];
                }
                lk_cpu_store(in->dtype, dx, i * c, c, row);
            }
        }
    }
    lk_cpu_sum_chunks(dw, chunks, c, n->accumulate & 2, lk_data(x, n->out[1]));
    if (n->out[2]) lk_cpu_sum_chunks(db, chunks, c, n->accumulate & 4, lk_data(x, n->out[2]));
    return LK_OK;
}

/* RESIDUAL, then NORM of what it wrote. */
lk_status lk_cpu_residual_norm(lk_exec *x, const lk_node *n)
{
    lk_node residual = {.op = LK_OP_RESIDUAL, .inputs = 3, .outputs = 1, .scope = n->scope,
                        .in = {n->in[0], n->in[1], n->in[2]}, .out = {n->out[0]},
                        .attr.dropout = {n->attr.residual_norm.p, n->attr.residual_norm.site}};
    lk_node norm = {.op = LK_OP_NORM, .inputs = 3, .outputs = 3, .scope = n->scope,
                    .in = {n->out[0], n->in[3], n->in[4]},
                    .out = {n->out[1], n->out[2], n->out[3]},
                    .attr.norm = {n->attr.residual_norm.kind, n->attr.residual_norm.eps}};
    LK_TRY(lk_cpu_residual(x, &residual));
    return lk_cpu_norm(x, &norm);
}

size_t lk_cpu_residual_norm_grad_scratch(const lk_node *n)
{
    size_t gradient = lk_cpu_norm_grad_scratch(n), sums = lk_cpu_column_sums_scratch(n->out[0]);
    return gradient > sums ? gradient : sums;
}

/* NORM_GRAD, then DROPOUT of its dx, then column sums. */
lk_status lk_cpu_residual_norm_grad(lk_exec *x, const lk_node *n)
{
    lk_tensor *branch = n->out[3] ? n->out[3] : n->out[0];
    lk_node norm = *n;
    norm.op = LK_OP_NORM_GRAD;
    norm.inputs = n->in[5] ? 6 : 5;
    norm.outputs = 3;
    norm.attr = (lk_attr){.norm = {n->attr.residual_norm.kind, n->attr.residual_norm.eps}};
    LK_TRY(lk_cpu_norm_grad(x, &norm));
    if (n->out[3]) {
        lk_node dropout = {.op = LK_OP_DROPOUT, .inputs = 2, .outputs = 1, .scope = n->scope,
                           .in = {n->out[0], n->in[6]}, .out = {branch},
                           .attr.dropout = {n->attr.residual_norm.p, n->attr.residual_norm.site}};
        LK_TRY(lk_cpu_dropout(x, &dropout));
    }
    if (n->out[4])
        lk_cpu_column_sums(x, branch, (n->accumulate & 16) != 0, lk_data(x, n->out[4]));
    return LK_OK;
}
