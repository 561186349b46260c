/* The CUDA backend: one device, its two streams, and the table of kernels.
 *
 * Everything is enqueued on the main stream or on the branch, which begins and ends in the main one
 * (the reduction beside the backward pass), so that a whole step can be captured into one CUDA
 * graph. The capture is of this thread only: an I/O thread may use its own devices. */
#include "cuda/device.cuh"

#include <cublasLt.h>
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

static lk_cuda *of(lk_device *d) { return (lk_cuda *)d; }

static lk_status use(lk_device *d)
{
    LK_CUDA(cudaSetDevice(of(d)->index));
    return LK_OK;
}

extern "C" void *lk_cuda_stream(lk_device *d) { return of(d)->stream; }
extern "C" int lk_cuda_index(lk_device *d) { return of(d)->index; }

extern "C" void lk_cuda_portable(lk_device *d) { of(d)->portable = true; }
extern "C" void lk_cuda_narrow(lk_device *d) { of(d)->processors = 4; }

extern "C" int lk_cuda_device_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError(); /* no driver is not an error of what follows */
        return 0;
    }
    return count;
}

/* ---- opening and closing -------------------------------------------------------------------- */

static void device_close(lk_device *d)
{
    if (!d) return;
    lk_cuda *c = of(d);
    cudaSetDevice(c->index);
#ifdef LK_HAVE_CUPTI
    lk_cuda_tracer.close(d);
#endif
    if (c->stream) cudaStreamSynchronize(c->stream);
    if (c->measured) cudaFreeHost(c->measured);
    lk_cuda_matmuls_close(c);
    lk_cuda_angles_close(c);
    for (int i = 0; i < LK_CUDA_EVENTS; i++)
        if (c->event[i]) cudaEventDestroy(c->event[i]);
    if (c->fork) cudaEventDestroy(c->fork);
    if (c->join) cudaEventDestroy(c->join);
    if (c->branch) cudaStreamDestroy(c->branch);
    if (c->main) cudaStreamDestroy(c->main);
    lk_device_forget(d);
    free(c);
}

static lk_status fill(lk_cuda *c)
{
    cudaDeviceProp p;
    LK_CUDA(cudaSetDevice(c->index));
    LK_CUDA(cudaGetDeviceProperties(&p, c->index));
    if (p.major < 8)
        return lk_fail(LK_E_DEVICE, "%s has compute capability %d.%d; 8.0 or newer is needed",
                       p.name, p.major, p.minor);
    c->major = p.major;
    c->processors = p.multiProcessorCount;
    c->memory = p.totalGlobalMem;
    c->shared = p.sharedMemPerBlockOptin;
    snprintf(c->model, sizeof c->model, "%.127s", p.name);
    int least, greatest; /* the branch goes first: others wait for what it reduces */
    LK_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    LK_CUDA(cudaStreamCreateWithPriority(&c->main, cudaStreamNonBlocking, least));
    LK_CUDA(cudaStreamCreateWithPriority(&c->branch, cudaStreamNonBlocking, greatest));
    c->stream = c->main;
    LK_CUDA(cudaEventCreateWithFlags(&c->fork, cudaEventDisableTiming));
    LK_CUDA(cudaEventCreateWithFlags(&c->join, cudaEventDisableTiming));
    for (int i = 0; i < LK_CUDA_EVENTS; i++)
        LK_CUDA(cudaEventCreateWithFlags(&c->event[i], cudaEventDisableTiming));
    return lk_cuda_matmuls_open(c);
}

static lk_status device_open(int index, lk_device **device)
{
    lk_cuda *c = (lk_cuda *)calloc(1, sizeof *c);
    if (!c) return lk_fail(LK_E_SYSTEM, "out of memory");
    c->device.backend = &lk_backend_cuda;
    c->index = index;
    lk_status status = fill(c);
    if (status != LK_OK) {
        device_close(&c->device);
        return status;
    }
    *device = &c->device;
    return LK_OK;
}

static void device_describe(lk_device *d, char *text, size_t size)
{
    snprintf(text, size, "%s, %.0f GiB", of(d)->model, (double)of(d)->memory / 0x1p30);
}

/* ---- memory --------------------------------------------------------------------------------- */

static lk_status device_alloc(lk_device *d, size_t bytes, void **memory)
{
    LK_TRY(use(d));
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return lk_fail(LK_E_DEVICE, "%.1f MiB of memory on %s: %s", (double)bytes / 0x1p20,
                       of(d)->model, cudaGetErrorString(e));
    }
    e = cudaMemsetAsync(p, 0, bytes ? bytes : 1, of(d)->stream);
    if (e != cudaSuccess) {
        cudaFree(p);
        return lk_fail(LK_E_DEVICE, "cudaMemsetAsync: %s", cudaGetErrorString(e));
    }
    lk_status status = lk_device_took(d, p, bytes);
    if (status == LK_OK) *memory = p;
    else cudaFree(p);
    return status;
}

static void device_release(lk_device *d, void *memory)
{
    lk_device_gave(d, memory);
    if (use(d) == LK_OK) cudaFree(memory);
}

static lk_status host_alloc(lk_device *d, size_t bytes, void **memory)
{
    LK_TRY(use(d));
    LK_CUDA(cudaMallocHost(memory, bytes ? bytes : 1));
    memset(*memory, 0, bytes);
    return LK_OK;
}

static void host_release(lk_device *d, void *memory)
{
    if (memory && use(d) == LK_OK) cudaFreeHost(memory);
}

static lk_status upload(lk_device *d, void *device, const void *host, size_t bytes)
{
    LK_TRY(use(d));
    LK_CUDA(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, of(d)->stream));
    return LK_OK;
}

static lk_status download(lk_device *d, void *host, const void *device, size_t bytes)
{
    LK_TRY(use(d));
    LK_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, of(d)->stream));
    return LK_OK;
}

static lk_status sync(lk_device *d)
{
    LK_TRY(use(d));
    LK_CUDA(cudaStreamSynchronize(of(d)->stream));
    return LK_OK;
}

/* dst [n] += src [n]. Ranges of the exact reduction start anywhere: vectors only when both fit. */
static __global__ void k_add(float *dst, const float *src, int64_t n, int vectors)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (!vectors) {
        if (i < n) dst[i] += src[i];
        return;
    }
    if (4 * i + 3 < n) {
        float4 a = ((const float4 *)dst)[i], b = ((const float4 *)src)[i];
        ((float4 *)dst)[i] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    } else {
        for (int64_t k = 4 * i; k < n; k++) dst[k] += src[k];
    }
}

static lk_status device_add(lk_device *d, float *dst, const float *src, int64_t n)
{
    if (n <= 0) return LK_OK;
    LK_TRY(use(d));
    int vectors = (((uintptr_t)dst | (uintptr_t)src) & 15) == 0;
    k_add<<<lk_blocks(vectors ? lk_ceil(n, 4) : n, 256), 256, 0, of(d)->stream>>>(dst, src, n,
                                                                                 vectors);
    LK_CUDA(cudaGetLastError());
    return LK_OK;
}

/* ---- events and capture --------------------------------------------------------------------- */

static lk_status record(lk_device *d, int slot)
{
    LK_TRY(use(d));
    LK_CUDA(cudaEventRecord(of(d)->event[slot], of(d)->stream));
    return LK_OK;
}

static lk_status wait_event(lk_device *d, int slot)
{
    LK_TRY(use(d));
    LK_CUDA(cudaEventSynchronize(of(d)->event[slot]));
    return LK_OK;
}

static lk_status branch_begin(lk_device *d)
{
    lk_cuda *c = of(d);
    LK_TRY(use(d));
    LK_CUDA(cudaEventRecord(c->fork, c->main));
    LK_CUDA(cudaStreamWaitEvent(c->branch, c->fork, 0));
    c->stream = c->branch;
    return LK_OK;
}

static lk_status branch_end(lk_device *d)
{
    of(d)->stream = of(d)->main;
    return LK_OK;
}

static lk_status branch_join(lk_device *d)
{
    lk_cuda *c = of(d);
    LK_TRY(use(d));
    LK_CUDA(cudaEventRecord(c->join, c->branch));
    LK_CUDA(cudaStreamWaitEvent(c->main, c->join, 0));
    return LK_OK;
}

static lk_status capture_begin(lk_device *d)
{
    LK_TRY(use(d));
    LK_CUDA(cudaStreamBeginCapture(of(d)->stream, cudaStreamCaptureModeThreadLocal));
    return LK_OK;
}

static lk_status capture_end(lk_device *d, void **replayable)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    LK_CUDA(cudaStreamEndCapture(of(d)->stream, &graph));
    cudaError_t e = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    if (e != cudaSuccess)
        return lk_fail(LK_E_DEVICE, "cudaGraphInstantiate: %s", cudaGetErrorString(e));
    *replayable = exec;
    return LK_OK;
}

static lk_status replay(lk_device *d, void *replayable)
{
    LK_TRY(use(d));
    LK_CUDA(cudaGraphLaunch((cudaGraphExec_t)replayable, of(d)->stream));
    return LK_OK;
}

static void replayable_destroy(lk_device *d, void *replayable)
{
    if (replayable && use(d) == LK_OK) cudaGraphExecDestroy((cudaGraphExec_t)replayable);
}

/* Ranges for nsys: of a step at each replay, of its nodes when it is captured. Next to nothing when
 * no profiler looks on. */
#ifdef NVTX_VERSION
static void annotate(lk_device *d, const char *name)
{
    (void)d;
    if (name) nvtxRangePushA(name);
    else nvtxRangePop();
}
#endif

/* ---- preparation ---------------------------------------------------------------------------- */

/* The ops without scratch. One that is neither here nor has a function of its own does not link. */
#define NONE(op)                                                                                   \
    size_t lk_cuda_##op##_scratch(const lk_cuda *, const lk_node *) { return 0; }
NONE(windows) NONE(images) NONE(texts) NONE(embed) NONE(positions) NONE(positions_grad) NONE(linear)
NONE(gelu_grad) NONE(conv) NONE(conv_dx) NONE(dwconv) NONE(channel_conv) NONE(activate)
NONE(activate_grad) NONE(swiglu) NONE(swiglu_grad) NONE(norm) NONE(pool) NONE(pool_grad)
NONE(max_pool) NONE(max_pool_grad) NONE(gate) NONE(gate_ds) NONE(gate_dx) NONE(excite)
NONE(excite_dx) NONE(excite_dw) NONE(dropout) NONE(residual) NONE(add) NONE(rope) NONE(attention)
NONE(xent_grad) NONE(soft_xent_grad) NONE(cast) NONE(residual_norm) NONE(batch_apply)
NONE(squeeze_excite) NONE(squeeze_excite_dx) NONE(norm_gate) NONE(reduce) NONE(adamw) NONE(step_end)
#undef NONE

static size_t (*const scratch_of[])(const lk_cuda *, const lk_node *) = {
#define LK_OP(upper, lower, policy) lk_cuda_##lower##_scratch,
#include "ops/ops.def"
#undef LK_OP
};

static lk_status prepare(lk_device *d, const lk_node *n, size_t *scratch)
{
    LK_TRY(use(d));
    LK_TRY(lk_cuda_angles_prepare(of(d), n));
    switch (n->op) {
    case LK_OP_LINEAR:
    case LK_OP_LINEAR_DX:
    case LK_OP_LINEAR_DW:
    case LK_OP_LINEAR_MOMENTS: LK_TRY(lk_cuda_matmul_prepare(of(d), n)); break;
    case LK_OP_ATTENTION:
    case LK_OP_ATTENTION_GRAD: LK_TRY(lk_cuda_attention_check(n)); break;
    default: break;
    }
    *scratch = scratch_of[n->op](of(d), n);
    return LK_OK;
}

extern "C" const lk_backend lk_backend_cuda = {
    "cuda",
    device_open,
    device_close,
    device_describe,
    device_alloc,
    device_release,
    host_alloc,
    host_release,
    upload,
    download,
    sync,
    device_add,
    record,
    wait_event,
    branch_begin,
    branch_end,
    branch_join,
    prepare,
    {
#define LK_OP(upper, lower, policy) lk_cuda_##lower,
#include "ops/ops.def"
#undef LK_OP
    },
    capture_begin,
    capture_end,
    replay,
    replayable_destroy,
    lk_cuda_matmul_choices_get,
    lk_cuda_matmul_choices_set,
    lk_cuda_matmul_tuning,
    lk_cuda_measure_range,
#ifdef LK_HAVE_CUPTI
    &lk_cuda_tracer,
#else
    NULL,
#endif
#ifdef NVTX_VERSION
    annotate,
#else
    NULL,
#endif
};
