/* The flat buffers of a model on a device. */
#include "program/store.h"

#include "base/half.h"

#include <stdlib.h>

static size_t flat_bytes(const lk_store *s) { return (size_t)s->params->total * sizeof(float); }

int lk_store_gradients(int local_leaves)
{
    int n = 1;
    while (1 << (n - 1) < local_leaves) n++;
    return n;
}

static lk_status allocate(lk_store *s, int local_leaves)
{
    const lk_backend *b = s->device->backend;
    LK_TRY(b->alloc(s->device, flat_bytes(s), &s->buffer[LK_REGION_PARAM]));
    LK_TRY(b->alloc(s->device, sizeof(lk_step_state), &s->buffer[LK_REGION_STATE]));
    if (s->compute != LK_F32)
        LK_TRY(b->alloc(s->device, flat_bytes(s) / 2, &s->buffer[LK_REGION_SHADOW]));
    s->gradients = lk_store_gradients(local_leaves);
    /* without training only the metrics behind the gradients are used: one buffer all the same,
     * so that the loss lies where every program expects it */
    size_t gradient = flat_bytes(s) + LK_METRIC_FLOATS * sizeof(float);
    for (int i = 0; i < s->gradients; i++) LK_TRY(b->alloc(s->device, gradient, &s->gradient[i]));
    s->buffer[LK_REGION_GRAD] = s->gradient[0];
    if (s->ema) LK_TRY(b->alloc(s->device, flat_bytes(s), &s->buffer[LK_REGION_EMA]));
    if (!s->training) return LK_OK;
    LK_TRY(b->alloc(s->device, flat_bytes(s), &s->buffer[LK_REGION_MOMENT1]));
    return b->alloc(s->device, flat_bytes(s), &s->buffer[LK_REGION_MOMENT2]);
}

lk_status lk_store_create(lk_device *d, const lk_params *params, const lk_store_options *o,
                          lk_store **store)
{
    lk_store *s = calloc(1, sizeof *s);
    if (!s) return lk_fail(LK_E_SYSTEM, "out of memory");
    s->device = d;
    s->params = params;
    s->compute = o->compute;
    s->training = o->training;
    s->ema = o->ema;
    lk_step_state zero = {.loss_scale = 1.0f};
    lk_status status = allocate(s, o->local_leaves);
    if (status == LK_OK) status = lk_store_set_state(s, &zero);
    if (status != LK_OK) {
        lk_store_destroy(s);
        return status;
    }
    *store = s;
    return LK_OK;
}

void lk_store_destroy(lk_store *s)
{
    if (!s) return;
    const lk_backend *b = s->device->backend;
    s->buffer[LK_REGION_GRAD] = NULL;
    for (int i = 0; i < LK_REGIONS; i++)
        if (s->buffer[i]) b->release(s->device, s->buffer[i]);
    for (int i = 0; i < s->gradients; i++)
        if (s->gradient[i]) b->release(s->device, s->gradient[i]);
    free(s);
}

static lk_status set_shadow(lk_store *s, const float *param)
{
    const lk_backend *b = s->device->backend;
    uint16_t *half = malloc(flat_bytes(s) / 2);
    if (!half) return lk_fail(LK_E_SYSTEM, "out of memory for the half-precision parameters");
    for (int64_t i = 0; i < s->params->total; i++)
        half[i] = s->compute == LK_F16 ? lk_f16_from_f32(param[i]) : lk_bf16_from_f32(param[i]);
    lk_status status =
        b->upload(s->device, s->buffer[LK_REGION_SHADOW], half, flat_bytes(s) / 2);
    if (status == LK_OK) status = b->sync(s->device);
    free(half);
    return status;
}

lk_status lk_store_set(lk_store *s, const lk_flat *flat)
{
    const lk_backend *b = s->device->backend;
    const struct {
        lk_region region;
        const float *host;
    } part[] = {{LK_REGION_PARAM, flat->param},
                {LK_REGION_MOMENT1, flat->moment1},
                {LK_REGION_MOMENT2, flat->moment2},
                {LK_REGION_EMA, flat->ema}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        if (part[i].host)
            LK_TRY(b->upload(s->device, s->buffer[part[i].region], part[i].host, flat_bytes(s)));
    return s->compute == LK_F32 ? b->sync(s->device) : set_shadow(s, flat->param);
}

lk_status lk_store_set_state(lk_store *s, const lk_step_state *state)
{
    const lk_backend *b = s->device->backend;
    LK_TRY(b->upload(s->device, s->buffer[LK_REGION_STATE], state, sizeof *state));
    return b->sync(s->device);
}

lk_status lk_store_get_state(lk_store *s, lk_step_state *state)
{
    const lk_backend *b = s->device->backend;
    LK_TRY(b->download(s->device, state, s->buffer[LK_REGION_STATE], sizeof *state));
    return b->sync(s->device);
}
