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
    int gradients;       /* gradient buffers: log2(local leaves) + 1 */
    void *buffer[LK_REGIONS];
    void *gradient[32];
} lk_store;

lk_status lk_store_create(lk_device *d, const lk_params *params, lk_dtype compute, bool training,
                          int local_leaves, lk_store **store);
/* Gradient buffers the tree over a rank's leaves needs. */
int lk_store_gradients(int local_leaves);
void lk_store_destroy(lk_store *s); /* takes NULL */
/* Host to device: parameters (the shadow is made from them) and, if given, moments. */
lk_status lk_store_set(lk_store *s, const float *param, const float *moment1,
                       const float *moment2);
/* Device to host, synchronised; NULL outputs are skipped. */
lk_status lk_store_get(lk_store *s, float *param, float *moment1, float *moment2);
lk_status lk_store_set_state(lk_store *s, const lk_step_state *state);
lk_status lk_store_get_state(lk_store *s, lk_step_state *state);

#endif
