/* windows: tokens and targets of this leaf's samples; texts: the tokens of its images. */
#include "cpu/device.h"

static int32_t token(lk_dtype type, const void *p, int64_t i)
{
    if (type == LK_U8) return ((const uint8_t *)p)[i];
    if (type == LK_U16) return ((const uint16_t *)p)[i];
    return ((const int32_t *)p)[i];
}

lk_status lk_cpu_windows(lk_exec *x, const lk_node *n)
{
    const lk_tensor *data = n->in[0], *out = n->out[0];
    const lk_step_state *state = lk_data(x, n->in[1]);
    const void *from = lk_data(x, data);
    int32_t *tokens = lk_data(x, out), *targets = lk_data(x, n->out[1]);
    int64_t batch = out->dim[0], time = out->dim[1], shard = n->attr.windows.shard_tokens;
    for (int64_t b = 0; b < batch; b++) {
        int64_t first = b * (time + 1);
        if (n->attr.windows.resident)
            first = (x->leaf - n->attr.windows.first_leaf) * shard +
                    lk_sample_row(state->step, batch, b, shard - time, x->seed,
                                  n->attr.windows.purpose, x->leaf);
        for (int64_t t = 0; t < time; t++) {
            tokens[b * time + t] = token(data->dtype, from, first + t);
            targets[b * time + t] = token(data->dtype, from, first + t + 1);
        }
    }
    return LK_OK;
}

lk_status lk_cpu_texts(lk_exec *x, const lk_node *n)
{
    const lk_tensor *data = n->in[0], *out = n->out[0];
    const lk_step_state *state = lk_data(x, n->in[1]);
    const void *from = lk_data(x, data);
    int32_t *tokens = lk_data(x, out);
    int64_t batch = out->dim[0], time = out->dim[1], shard = n->attr.images.shard_rows;
    for (int64_t b = 0; b < batch; b++) {
        int64_t row = b;
        if (n->attr.images.resident)
            row = (x->leaf - n->attr.images.first_leaf) * shard +
                  lk_sample_row(state->step, batch, b, shard, x->seed, n->attr.images.purpose,
                                x->leaf);
        for (int64_t t = 0; t < time; t++)
            tokens[b * time + t] = token(data->dtype, from, row * time + t);
    }
    return LK_OK;
}
