/* Shared by the CUDA kernels: the device struct, errors, element types, vectors, reductions.
 *
 * Tensors start at multiples of 16 bytes, so a row may be read in vectors when its length is a
 * multiple of 8 elements. Every reduction here has one order, given by the shape alone. */
#ifndef LK_CUDA_DEVICE_CUH
#define LK_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <type_traits>

extern "C" {
#include "backend/backend.h"
#include "cuda/device.h"
#include "ops/ops.h"
}

enum { LK_CUDA_EVENTS = 8 };

typedef struct lk_cuda_matmuls lk_cuda_matmuls; /* matmul.cuh */
typedef struct lk_cuda_angle_table lk_cuda_angle_table; /* rope.cu */

typedef struct lk_cuda {
    lk_device device; /* first */
    int index;
    int major;      /* of the compute capability */
    int processors; /* blocks of persistent kernels; results must not depend on it */
    bool portable;  /* kernels of any device also where there are others: for tests */
    char model[128];
    size_t memory;
    size_t shared; /* most bytes of shared memory a block can have */
    cudaStream_t stream; /* what is enqueued goes here: main, or within branch_begin/end branch */
    cudaStream_t main, branch;
    cudaEvent_t fork, join;
    cudaEvent_t event[LK_CUDA_EVENTS];
    lk_cuda_matmuls *matmuls;
    lk_cuda_angle_table *angles;   /* all that were made, the newest first */
    void *measured;              /* measure.cu: pinned */
    struct lk_cuda_trace *trace; /* trace.cu; NULL: none is being taken */
} lk_cuda;

#define LK_CUDA(call)                                                                              \
    do {                                                                                           \
        cudaError_t lk_cuda_ = (call);                                                             \
        if (lk_cuda_ != cudaSuccess)                                                               \
            return lk_fail(LK_E_DEVICE, "%s: %s", #call, cudaGetErrorString(lk_cuda_));            \
    } while (0)

/* The same within a kernel's launcher: names the node. */
#define LK_CUDA_AT(n, call)                                                                        \
    do {                                                                                           \
        cudaError_t lk_cuda_ = (call);                                                             \
        if (lk_cuda_ != cudaSuccess)                                                               \
            return lk_fail(LK_E_DEVICE, "%s: %s: %s: %s", (n)->scope, lk_op_name((n)->op), #call,  \
                           cudaGetErrorString(lk_cuda_));                                          \
    } while (0)

/* Return cudaError_t `call` from a launcher of one when it is an error. */
#define LK_CUDA_TRY(call)                                                                          \
    do {                                                                                           \
        cudaError_t lk_cuda_ = (call);                                                             \
        if (lk_cuda_ != cudaSuccess) return lk_cuda_;                                              \
    } while (0)

/* Last line of a launcher. */
static inline lk_status lk_cuda_launched(const lk_node *n)
{
    LK_CUDA_AT(n, cudaGetLastError());
    return LK_OK;
}

static inline cudaStream_t lk_cuda_stream_of(const lk_exec *x)
{
    return ((lk_cuda *)x->device)->stream;
}

static inline int64_t lk_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline unsigned lk_blocks(int64_t items, int per_block)
{
    int64_t n = lk_ceil(items, per_block);
    return (unsigned)(n < 1 ? 1 : n);
}

/* Threads of a block for `vectors` items of a row, one each: whole warps, at most 128. */
static inline int lk_row_threads(int vectors)
{
    int n = (vectors + 31) / 32 * 32;
    return n < 128 ? n : 128;
}

/* Run the statements with E as the element type. */
#define LK_FLOAT_SWITCH(type, E, ...)                                                              \
    do {                                                                                           \
        if ((type) == LK_F16) {                                                                    \
            typedef __half E;                                                                      \
            __VA_ARGS__;                                                                           \
        } else if ((type) == LK_BF16) {                                                            \
            typedef __nv_bfloat16 E;                                                               \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            typedef float E;                                                                       \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* Run the statements with V = 8 when rows of `cols` elements can be read in vectors, else 1. */
#define LK_VECTOR_SWITCH(cols, V, ...)                                                             \
    do {                                                                                           \
        if ((cols) % 8 == 0) {                                                                     \
            enum { V = 8 };                                                                        \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum { V = 1 };                                                                        \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* Whether kernels for Hopper are to run; that they are in this build is asked apart. */
static inline bool lk_cuda_hopper(const lk_cuda *d) { return d->major == 9 && !d->portable; }

/* ---- element types -------------------------------------------------------------------------- */

static __device__ __forceinline__ float lk_float(float x) { return x; }
static __device__ __forceinline__ float lk_float(__half x) { return __half2float(x); }
static __device__ __forceinline__ float lk_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename E> static __device__ __forceinline__ E lk_store(float x);
template <> __device__ __forceinline__ float lk_store<float>(float x) { return x; }
template <> __device__ __forceinline__ __half lk_store<__half>(float x)
{
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 lk_store<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* Two halves in a register, the first in its lower half: made of floats, and as floats. */
template <typename E> static __device__ __forceinline__ uint32_t lk_pack(float low, float high)
{
    if constexpr (std::is_same<E, __half>::value) {
        __half2 v = __floats2half2_rn(low, high);
        return *(const uint32_t *)&v;
    } else {
        __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *(const uint32_t *)&v;
    }
}

static __device__ __forceinline__ float2 lk_pair(uint32_t pair, __half)
{
    return __half22float2(*(const __half2 *)&pair);
}
static __device__ __forceinline__ float2 lk_pair(uint32_t pair, __nv_bfloat16)
{
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
}

/* 2^x in one instruction, to about 2 units in the last place; exp(x) = 2^(x LK_LOG2E). */
#define LK_LOG2E 1.4426950408889634f
static __device__ __forceinline__ float lk_power2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* N elements moved by 16-byte (or narrower) accesses. */
template <typename E, int N>
struct alignas(sizeof(E) * N > 16 ? 16 : sizeof(E) * N) lk_vec {
    E v[N];
};

template <int N, typename E>
static __device__ __forceinline__ void lk_get(float *out, const E *p)
{
    lk_vec<E, N> x = *(const lk_vec<E, N> *)p;
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = lk_float(x.v[i]);
}

template <int N, typename E>
static __device__ __forceinline__ void lk_put(E *p, const float *in)
{
    lk_vec<E, N> x;
#pragma unroll
    for (int i = 0; i < N; i++) x.v[i] = lk_store<E>(in[i]);
    *(lk_vec<E, N> *)p = x;
}

/* ---- reductions ----------------------------------------------------------------------------- */

template <typename F> static __device__ __forceinline__ F lk_warp_sum(F x)
{
#pragma unroll
    for (int k = 16; k > 0; k >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, k);
    return x;
}

/* Sum over the block, to all its threads. `shared` holds 32 elements. */
template <typename F> static __device__ __forceinline__ F lk_block_sum(F x, F *shared)
{
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = (blockDim.x + 31) >> 5;
    x = lk_warp_sum(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    F total = 0;
    for (int i = 0; i < warps; i++) total += shared[i];
    return total;
}

/* ---- shared launchers, linear.cu ------------------------------------------------------------ */

/* Chunks into which `rows` are cut for column sums: a function of the shape only. */
static inline int lk_column_chunks(int64_t rows)
{
    int64_t n = lk_ceil(rows, 64);
    return (int)(n < 1 ? 1 : n > 256 ? 256 : n);
}

/* out[c] (+)= sum over chunks of partial[chunk, c]; partial f32 [chunks, cols]. */
typedef struct lk_chunk_sum {
    const float *partial;
    float *out; /* NULL: no such sum */
    bool accumulate;
} lk_chunk_sum;
/* `sums` of them (at most LK_CHUNK_SUMS) in one launch. */
enum { LK_CHUNK_SUMS = 3 };
void lk_cuda_sum_chunks(cudaStream_t stream, const lk_chunk_sum *sum, int sums, int chunks,
                        int64_t cols);
/* out f32 [C] (+)= column sums of t [N,C]; `partial`: f32 [lk_column_chunks(N), C]. */
void lk_cuda_column_sums(lk_exec *x, const lk_tensor *t, float *partial, bool accumulate,
                         float *out);

/* ---- matmul.cu ------------------------------------------------------------------------------ */

lk_status lk_cuda_matmuls_open(lk_cuda *d);
void lk_cuda_matmuls_close(lk_cuda *d);
/* How much of a node the product has done, bias included. */
typedef enum lk_matmul_done {
    LK_MATMUL_BARE,  /* the product of a linear with gelu lies in pre, if that is wanted, or in y */
    LK_MATMUL_FUSED, /* with gelu or gelu' or rotation or moments */
    LK_MATMUL_WHOLE  /* and with the sums of a linear_dx */
} lk_matmul_done;
lk_status lk_cuda_matmul(lk_exec *x, const lk_node *n, lk_matmul_done *done);

/* ---- matmul_choice.cu ----------------------------------------------------------------------- */

/* Choose the algorithm of a linear, linear_moments, linear_dx or linear_dw node. */
lk_status lk_cuda_matmul_prepare(lk_cuda *d, const lk_node *n);
lk_status lk_cuda_matmul_choices_get(lk_device *d, char **text);
lk_status lk_cuda_matmul_choices_set(lk_device *d, const char *text);
void lk_cuda_matmul_tuning(lk_device *d, lk_tuning *tuning);

/* ---- product.cu ----------------------------------------------------------------------------- */

/* Of these products, of those of pointwise.cu, and of what is summed beside them: to be raised with
 * every change of their bits, for resumed runs rely on it. */
enum { LK_PRODUCT_VERSION = 2 };
/* Whether node n, a linear with gelu or a rotation or a linear_dx with gelu', can run here. */
bool lk_cuda_product_fits(const lk_cuda *d, const lk_node *n);
/* Whether one that can should: by its shape alone. */
bool lk_cuda_product_pays(const lk_node *n);
/* Run it, all of it; a linear_dx with sums needs scratch. */
size_t lk_cuda_product_scratch(const lk_node *n);
lk_status lk_cuda_product(lk_exec *x, const lk_node *n);

/* ---- rope.cu -------------------------------------------------------------------------------- */

/* Make the table of angles for node n if it rotates and there is none yet. */
lk_status lk_cuda_angles_prepare(lk_cuda *d, const lk_node *n);
/* The table [T or more, D / 2] of (cosine, sine) for node n. */
lk_status lk_cuda_angles(const lk_cuda *d, const lk_node *n, const float2 **angles);
void lk_cuda_angles_close(lk_cuda *d);
/* Output 0 of n = in [B,T,width], which it may be, rotated as n says. */
lk_status lk_cuda_rotate(lk_exec *x, const lk_node *n, const lk_tensor *in);

/* ---- pointwise.cu --------------------------------------------------------------------------- */

/* Whether linear_moments node n can run by its kernels here. */
bool lk_cuda_pointwise_fits(const lk_cuda *d, const lk_node *n);
/* Run it, all of it. */
lk_status lk_cuda_pointwise(lk_exec *x, const lk_node *n);

/* ---- measure.cu, trace.cu: of the backend ---------------------------------------------------- */

lk_status lk_cuda_measure_range(lk_device *d, lk_dtype type, const void *data, int64_t count,
                                lk_range *range);
#ifdef LK_HAVE_CUPTI
extern "C" const lk_device_tracer lk_cuda_tracer;
#endif

/* ---- preparation ---------------------------------------------------------------------------- */

/* Bytes of scratch of node n. Every op has this, beside its kernel or among those without scratch
 * in device.cu. */
#define LK_OP(upper, lower, policy)                                                                \
    size_t lk_cuda_##lower##_scratch(const lk_cuda *d, const lk_node *n);
#include "ops/ops.def"
#undef LK_OP
lk_status lk_cuda_attention_check(const lk_node *n);

#endif
