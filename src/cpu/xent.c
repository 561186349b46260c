/* xent: softmax cross-entropy of rows of logits, and its gradient. */
#include "cpu/device.h"

/* The loss of each row; behind it, for XENT_FUSED, its lse. */
static size_t row_bytes(int64_t rows)
{
    return lk_cpu_piece((size_t)rows * (sizeof(double) + sizeof(float)));
}

size_t lk_cpu_xent_scratch(const lk_node *n)
{
    return row_bytes(lk_rows(n->in[0])) + lk_cpu_own_bytes(lk_cols(n->in[0]));
}

lk_status lk_cpu_xent(lk_exec *x, const lk_node *n)
{
    const lk_tensor *logits = n->in[0];
    const void *from = lk_data(x, logits);
    const int32_t *target = lk_data(x, n->in[1]);
    float *loss = lk_data(x, n->out[0]), *lse = lk_data(x, n->out[1]);
    int64_t rows = lk_rows(logits), v = lk_cols(logits), classes = n->attr.xent.classes;
    double *each = lk_cpu_scratch(x), sum = 0;
    char *rest = (char *)each + row_bytes(rows);
#pragma omp parallel
    {
        float *row = lk_cpu_own(rest, classes);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            lk_cpu_load(logits->dtype, from, i * v, classes, row);
            bool known = target[i] >= 0 && target[i] < classes;
            float hit = known ? row[target[i]] : NAN, most = lk_cpu_max(row, classes);
            for (int64_t j = 0; j < classes; j++) row[j] = lk_cpu_exp(row[j] - most);
            lse[i] = most + logf(lk_cpu_sum(row, classes));
            each[i] = (double)lse[i] - (double)hit;
        }
    }
    for (int64_t i = 0; i < rows; i++) sum += each[i];
    loss[0] = (float)(sum / (double)rows);
    return LK_OK;
}

lk_status lk_cpu_xent_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *logits = n->in[0];
    const void *from = lk_data(x, logits);
    const int32_t *target = lk_data(x, n->in[1]);
    const float *lse = lk_data(x, n->in[2]), *dloss = lk_data(x, n->in[3]);
    void *to = lk_data(x, n->out[0]);
    int64_t rows = lk_rows(logits), v = lk_cols(logits), classes = n->attr.xent.classes;
    float scale = dloss[0] / (float)rows;
    char *rest = (char *)lk_cpu_scratch(x) + row_bytes(rows);
#pragma omp parallel
    {
        float *row = lk_cpu_own(rest, v);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            lk_cpu_load(logits->dtype, from, i * v, v, row);
            for (int64_t j = 0; j < classes; j++) row[j] = scale * lk_cpu_exp(row[j] - lse[i]);
            for (int64_t j = classes; j < v; j++) row[j] = 0.0f;
            if (target[i] >= 0 && target[i] < classes) row[target[i]] -= scale;
            lk_cpu_store(logits->dtype, to, i * v, v, row);
        }
    }
    return LK_OK;
}

lk_status lk_cpu_xent_fused(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]);
    lk_tensor lse = {.dtype = LK_F32, .dims = 1, .dim = {rows}, .region = LK_REGION_SCRATCH,
                     .offset = (size_t)rows * sizeof(double)};
    lk_node loss = {.op = LK_OP_XENT, .inputs = 2, .outputs = 2, .scope = n->scope,
                    .in = {n->in[0], n->in[1]}, .out = {n->out[1], &lse}, .attr = n->attr};
    lk_node grad = {.op = LK_OP_XENT_GRAD, .inputs = 4, .outputs = 1, .scope = n->scope,
                    .in = {n->in[0], n->in[1], &lse, n->in[2]}, .out = {n->out[0]},
                    .attr = n->attr};
    LK_TRY(lk_cpu_xent(x, &loss));
    return lk_cpu_xent_grad(x, &grad);
}
