/* The flat device buffers of a model: parameters, half shadow, gradients, moments, step state.
 * Shared by every program of the model (training, evaluation, decoding). */
#ifndef LK_PROGRAM_STORE_H
#define LK_PROGRAM_STORE_H

#include "backend/backend.h"

typedef struct lk_store {
    lk_device *device;
    const lk_params *params;
    lk_dtype compute;    /* type of the shadow; LK_F32: none */
    bool training;       /* gradients and moments exist */
    bool ema;            /* so does a moving average of the parameters */
    int gradients;       /* gradient buffers: log2(local leaves) + 1 */
    void *buffer[LK_REGIONS];
    void *gradient[32];
} lk_store;

/* What a store holds. */
typedef struct lk_store_options {
    lk_dtype compute;
    bool training, ema;
    int local_leaves;
} lk_store_options;
/* Host copies of the flat buffers, params->total floats each; NULL members are left out. */
typedef struct lk_flat {
    float *param, *moment1, *moment2, *ema;
} lk_flat;

lk_status lk_store_create(lk_device *d, const lk_params *params, const lk_store_options *o,
                          lk_store **store);
/* Gradient buffers the tree over a rank's leaves needs. */
int lk_store_gradients(int local_leaves);
void lk_store_destroy(lk_store *s); /* takes NULL */
/* Host to device; the shadow is made from flat->param, which must be there. */
lk_status lk_store_set(lk_store *s, const lk_flat *flat);
lk_status lk_store_set_state(lk_store *s, const lk_step_state *state);
lk_status lk_store_get_state(lk_store *s, lk_step_state *state);

#endif
