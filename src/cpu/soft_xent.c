/* soft_xent: softmax cross-entropy of rows of logits with distributions, and its gradient. */
#include "cpu/device.h"

/* The loss of each row, and whether the label is its most likely class. */
static size_t row_bytes(int64_t rows)
{
    return lk_cpu_piece((size_t)rows * (sizeof(double) + sizeof(uint8_t)));
}

size_t lk_cpu_soft_xent_scratch(const lk_node *n)
{
    return row_bytes(lk_rows(n->in[0])) + lk_cpu_own_bytes(lk_cols(n->in[0]));
}

static double product(const float *x, const float *y, int64_t n)
{
    double sum[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) sum[k] += (double)x[i + k] * (double)y[i + k];
    for (int k = 0; i + k < n; k++) sum[k] += (double)x[i + k] * (double)y[i + k];
    for (int k = 1; k < 8; k++) sum[0] += sum[k];
    return sum[0];
}

static int64_t first_largest(const float *x, int64_t n)
{
    float most = lk_cpu_max(x, n);
    for (int64_t i = 0; i < n; i++)
        if (x[i] == most) return i;
    return 0;
}

lk_status lk_cpu_soft_xent(lk_exec *x, const lk_node *n)
{
    const lk_tensor *logits = n->in[0];
    const void *from = lk_data(x, logits);
    const float *target = lk_data(x, n->in[1]);
    const int32_t *label = lk_data(x, n->in[2]);
    float *loss = lk_data(x, n->out[0]), *lse = lk_data(x, n->out[1]);
    float *hits = lk_data(x, n->out[2]);
    int64_t rows = lk_rows(logits), k = lk_cols(logits), right = 0;
    double *each = lk_cpu_scratch(x), sum = 0;
    uint8_t *hit = (uint8_t *)(each + rows);
    char *rest = (char *)each + row_bytes(rows);
#pragma omp parallel if (rows * k > LK_CPU_SMALL)
    {
        float *row = lk_cpu_own(rest, k);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            lk_cpu_load(logits->dtype, from, i * k, k, row);
            double likely = product(row, target + i * k, k);
            float most = lk_cpu_max(row, k);
            hit[i] = first_largest(row, k) == label[i];
            for (int64_t j = 0; j < k; j++) row[j] = lk_cpu_exp(row[j] - most);
            lse[i] = most + logf(lk_cpu_sum(row, k));
            each[i] = (double)lse[i] - likely;
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        sum += each[i];
        right += hit[i];
    }
    loss[0] = (float)(sum / (double)rows);
    hits[0] = (float)((double)right / (double)rows);
    return LK_OK;
}

lk_status lk_cpu_soft_xent_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *logits = n->in[0];
    const void *from = lk_data(x, logits);
    const float *target = lk_data(x, n->in[1]), *lse = lk_data(x, n->in[2]);
    const float *dloss = lk_data(x, n->in[3]);
    void *to = lk_data(x, n->out[0]);
    int64_t rows = lk_rows(logits), k = lk_cols(logits);
    float scale = dloss[0] / (float)rows;
#pragma omp parallel for schedule(static) if (rows * k > LK_CPU_SMALL)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < k; j += LK_CPU_BLOCK) {
            float block[LK_CPU_BLOCK];
            int64_t m = k - j < LK_CPU_BLOCK ? k - j : LK_CPU_BLOCK, at = i * k + j;
            lk_cpu_load(logits->dtype, from, at, m, block);
            for (int64_t l = 0; l < m; l++)
                block[l] = scale * (lk_cpu_exp(block[l] - lse[i]) - target[at + l]);
            lk_cpu_store(logits->dtype, to, at, m, block);
        }
    return LK_OK;
}
