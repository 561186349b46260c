/* What C code outside cuda/ may ask of the CUDA backend besides lk_backend_cuda. */
#ifndef LK_CUDA_DEVICE_H
#define LK_CUDA_DEVICE_H

#include "backend/backend.h"

/* The cudaStream_t on which all work of an open CUDA device runs. */
void *lk_cuda_stream(lk_device *d);

/* CUDA device number of an open CUDA device. */
int lk_cuda_index(lk_device *d);

/* From now on attention, excite, linear layers and losses on an open CUDA device run as before
 * Hopper. For tests. */
void lk_cuda_portable(lk_device *d);

/* Whether an open CUDA device is a Hopper GPU of whose kernels this build has none, so that it runs
 * those of other GPUs. */
bool lk_cuda_generic(lk_device *d);

/* From now on persistent kernels have 4 blocks. For tests. */
void lk_cuda_narrow(lk_device *d);

/* GPUs visible to this process; 0 when there is no driver. */
int lk_cuda_device_count(void);

#endif
