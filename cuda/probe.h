/* What the CUDA runtime and cuBLASLt say of themselves and of the GPUs of this process. */
#ifndef LK_CUDA_PROBE_H
#define LK_CUDA_PROBE_H

#include "base/status.h"

#include <jansson.h>

/* {"driver" (newest CUDA it runs), "runtime", "runtime_header", "cublaslt", "cublaslt_header",
 * "cublaslt_path", "error", "devices": [{"name", "pci", "memory", "capability"}]}; versions as
 * text, "error": why no GPU is usable, else null. LK_E_SYSTEM: out of memory. The caller owns
 * *facts. */
lk_status lk_cuda_facts(json_t **facts);

#endif
