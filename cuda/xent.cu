/* xent, xent_grad and both in one pass: mean softmax cross-entropy of the rows of logits X [N,V].
 *
 * ROWS rows per block of 256 threads: one row for a wide V, eight (a warp each) for a narrow one.
 * A row is read once: each thread keeps the maximum and the sum of exponentials of its columns,
 * which are then combined in a fixed order. The losses of the rows go to scratch as doubles, and
 * one block sums them. The gradient reads and writes each column by one thread: it may run in
 * place. The fused kernels keep the row (in registers, or in shared memory) between its sum and its
 * gradient, so that the logits cross the memory once each way; on Hopper long rows of halves pass
 * through a ring of pieces. Columns >= classes are never read into a sum, and get gradient 0. */
#include "cuda/softmax.cuh"
#include "cuda/wgmma.cuh"

enum {
    THREADS = 256,
    NARROW = 1024, /* columns up to which a warp takes a row */
    WIDE = 512     /* threads of a wide row in the fused kernel */
};

/* Take V more columns, of which `left` (at least one) exist. */
template <typename E, int V>
static __device__ __forceinline__ void take(float *v, int64_t left, softmax_part *a)
{
    if (left < V) {
#pragma unroll
        for (int k = 1; k < V; k++)
            if (k >= left) v[k] = -INFINITY;
    }
    softmax_take<E, V>(v, a);
}

template <typename E>
static __device__ __forceinline__ softmax_part combine_lanes(softmax_part a, int lanes)
{
#pragma unroll
    for (int k = 16; k > 0; k >>= 1) {
        if (k >= lanes) continue;
        softmax_part b;
        b.top = __shfl_xor_sync(0xFFFFFFFFu, a.top, k);
        b.sum = __shfl_xor_sync(0xFFFFFFFFu, a.sum, k);
        a = softmax_join<E>(a, b);
    }
    return a;
}

/* Over the threads of a row, WARPS of them (a power of two), to each; `part` holds one entry for
 * each warp of the block. */
template <typename E, int WARPS>
static __device__ __forceinline__ softmax_part combine_row(softmax_part a, softmax_part *part)
{
    a = combine_lanes<E>(a, 32);
    if (WARPS > 1) {
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = a;
        __syncthreads();
        a = combine_lanes<E>(part[threadIdx.x % WARPS], WARPS);
    }
    return a;
}

/* logits [rows, cols], targets [rows] -> lse [rows], loss [rows]. V: elements per access. */
template <typename E, int V, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    k_xent(const E *logits, const int32_t *targets, int64_t rows, int64_t cols, int64_t classes,
           float *lse, double *loss)
{
    constexpr int each = THREADS / ROWS, warps = each / 32;
    __shared__ softmax_part part[THREADS / 32];
    int lane = threadIdx.x % each;
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / each;
    bool real = row < rows; /* uniform over a warp */
    const E *p = logits + (real ? row : 0) * cols;
    softmax_part a = softmax_none<E>();
#pragma unroll 4
    for (int64_t c = (int64_t)lane * V; c < classes; c += each * V) {
        float v[V];
        lk_get<V>(v, p + c);
        take<E, V>(v, classes - c, &a);
    }
    a = combine_row<E, warps>(a, part);
    if (lane == 0 && real) {
        float l = a.top + logf(a.sum);
        int32_t target = targets[row];
        bool known = target >= 0 && target < classes;
        lse[row] = l;
        loss[row] = known ? (double)l - (double)lk_float(p[target]) : (double)NAN;
    }
}

/* loss [1] = mean of row [rows], by one block. */
static __global__ void __launch_bounds__(1024)
    k_xent_mean(const double *row, int64_t rows, float *loss)
{
    __shared__ double shared[32];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) sum += row[i];
    sum = lk_block_sum(sum, shared);
    if (threadIdx.x == 0) *loss = (float)(sum / (double)rows);
}

/* dlogits [rows, cols] from logits [rows, cols] (may be the same), targets and lse [rows]. */
template <typename E, int V, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    k_xent_grad(const E *logits, const int32_t *targets, const float *lse, const float *dloss,
                int64_t rows, int64_t cols, int64_t classes, E *dlogits)
{
    constexpr int each = THREADS / ROWS;
    int lane = threadIdx.x % each;
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / each;
    if (row >= rows) return;
    const E *p = logits + row * cols;
    E *out = dlogits + row * cols;
    float l = lse[row], scale = *dloss / (float)rows;
    int32_t target = targets[row];
    for (int64_t c = (int64_t)lane * V; c < cols; c += each * V) {
        float v[V];
        lk_get<V>(v, p + c);
#pragma unroll
        for (int k = 0; k < V; k++) {
            float q = exponential<E>(v[k] - l) - (c + k == target ? 1.0f : 0.0f);
            v[k] = c + k < classes ? q * scale : 0;
        }
        lk_put<V>(out + c, v);
    }
}

/* dlogits of V columns from c on; v holds their logits. */
template <typename E, int V>
static __device__ __forceinline__ void put_gradient(E *out, float *v, int64_t c, int64_t classes,
                                                    int32_t target, float lse, float scale)
{
#pragma unroll
    for (int k = 0; k < V; k++) v[k] = exponential<E>(v[k], lse) * scale;
    if (target >= c && target < c + V) {
#pragma unroll
        for (int k = 0; k < V; k++)
            if (c + k == target) v[k] -= scale;
    }
    if (c + V > classes) {
#pragma unroll
        for (int k = 0; k < V; k++)
            if (c + k >= classes) v[k] = 0;
    }
    lk_put<V>(out + c, v);
}

/* Both: logits [rows, cols] -> dlogits [rows, cols] (may be the same), loss [rows]. Narrow rows: a
 * warp each, held in registers; cols <= 32 V K. */
template <typename E, int V, int K>
static __global__ void __launch_bounds__(THREADS)
    k_xent_narrow(const E *logits, const int32_t *targets, const float *dloss, int64_t rows,
                  int64_t cols, int64_t classes, E *dlogits, double *loss)
{
    int lane = threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const E *p = logits + row * cols;
    int32_t target = targets[row];
    float hit = target >= 0 && target < classes ? lk_float(p[target]) : NAN;
    lk_vec<E, V> held[K];
    float v[V];
    softmax_part a = softmax_none<E>();
#pragma unroll
    for (int k = 0; k < K; k++) {
        int64_t c = (int64_t)(k * 32 + lane) * V;
        if (c < cols) held[k] = *(const lk_vec<E, V> *)(p + c);
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
        int64_t c = (int64_t)(k * 32 + lane) * V;
        if (c >= classes) continue;
#pragma unroll
        for (int j = 0; j < V; j++) v[j] = lk_float(held[k].v[j]);
        take<E, V>(v, classes - c, &a);
    }
    a = combine_row<E, 1>(a, NULL);
    float l = a.top + logf(a.sum), scale = *dloss / (float)rows;
    if (lane == 0) loss[row] = (double)l - (double)hit;
#pragma unroll
    for (int k = 0; k < K; k++) {
        int64_t c = (int64_t)(k * 32 + lane) * V;
        if (c >= cols) continue;
#pragma unroll
        for (int j = 0; j < V; j++) v[j] = lk_float(held[k].v[j]);
        put_gradient<E, V>(dlogits + row * cols, v, c, classes, target, l, scale);
    }
}

/* Wide rows: a block each, held in shared memory; a thread reads back only what it wrote. */
template <typename E>
static __global__ void __launch_bounds__(WIDE, 2)
    k_xent_wide(const E *logits, const int32_t *targets, const float *dloss, int64_t rows,
                int64_t cols, int64_t classes, E *dlogits, double *loss)
{
    constexpr int V = 16 / sizeof(E), STEP = WIDE * V;
    extern __shared__ __align__(16) unsigned char held_bytes[];
    __shared__ softmax_part part[WIDE / 32];
    E *held = (E *)held_bytes;
    int64_t row = blockIdx.x, first = (int64_t)threadIdx.x * V;
    const E *p = logits + row * cols;
    int32_t target = targets[row];
    float hit = 0, v[V];
    if (threadIdx.x == 0) /* before dlogits overwrites it */
        hit = target >= 0 && target < classes ? lk_float(p[target]) : NAN;
    softmax_part a = softmax_none<E>();
#pragma unroll 4
    for (int64_t c = first; c < cols; c += STEP) {
        lk_vec<E, V> x = *(const lk_vec<E, V> *)(p + c);
        *(lk_vec<E, V> *)(held + c) = x;
#pragma unroll
        for (int k = 0; k < V; k++) v[k] = lk_float(x.v[k]);
        if (c < classes) take<E, V>(v, classes - c, &a);
    }
    a = combine_row<E, WIDE / 32>(a, part);
    float l = a.top + logf(a.sum), scale = *dloss / (float)rows;
    if (threadIdx.x == 0) loss[row] = (double)l - (double)hit;
    E *out = dlogits + row * cols;
#pragma unroll 4
    for (int64_t c = first; c < cols; c += STEP) {
        lk_get<V>(v, held + c);
        put_gradient<E, V>(out, v, c, classes, target, l, scale);
    }
}

/* ---- rows through a ring ------------------------------------------------------------------------
 * Wide rows of halves where there is a copy engine: one block a processor, for row after row, of
 * warps that work apart. A row is cut into pieces; warp a has pieces a, a + WARPS, ... and a ring
 * of slots for them, which the copy engine fills. While the warp turns a piece into its gradient,
 * it sums the same piece of the next row, and pieces of the row after that are on their way. Warps
 * meet once a row, when they join its sums; each of them joins all, in the same order. */

enum {
    RING_WARPS = 16,
    RING_THREADS = 32 * RING_WARPS,
    RING_VECTORS = 2, /* of a lane in a piece, each of 8 halves */
    RING_COLUMNS = 32 * 8 * RING_VECTORS, /* of a piece */
    PIECE_BYTES = 2 * RING_COLUMNS,
    RING_SLOTS = 14,
    RING_BYTES = RING_WARPS * RING_SLOTS * PIECE_BYTES
};

/* Whether each warp has a piece of a row, and its ring two slots to spare. */
static bool fits_ring(int64_t cols)
{
    int64_t pieces = lk_ceil(cols, RING_COLUMNS);
    return cols % 8 == 0 && pieces >= RING_WARPS && lk_ceil(pieces, RING_WARPS) + 2 <= RING_SLOTS;
}

/* Of each of two halves in a register. */
template <typename E> static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b)
{
    if constexpr (std::is_same<E, __half>::value) {
        __half2 v = __hmax2(*(const __half2 *)&a, *(const __half2 *)&b);
        return *(const uint32_t *)&v;
    } else {
        __nv_bfloat162 v = __hmax2(*(const __nv_bfloat162 *)&a, *(const __nv_bfloat162 *)&b);
        return *(const uint32_t *)&v;
    }
}

/* Take the columns of N vectors, all of them real. */
template <typename E, int N>
static __device__ __forceinline__ void take_vectors(const uint4 (&x)[N], softmax_part *a)
{
    uint32_t most = x[0].x;
    float sum[N];
#pragma unroll
    for (int u = 0; u < N; u++)
        most = larger<E>(most, larger<E>(larger<E>(x[u].x, x[u].y), larger<E>(x[u].z, x[u].w)));
    float2 pair = lk_pair(most, E());
    float top = fmaxf(a->top, fmaxf(pair.x, pair.y));
#pragma unroll
    for (int u = 0; u < N; u++) {
        const uint32_t word[4] = {x[u].x, x[u].y, x[u].z, x[u].w};
        sum[u] = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float2 v = lk_pair(word[k], E());
            sum[u] += exponential<E>(v.x, top) + exponential<E>(v.y, top);
        }
    }
    a->sum *= exponential<E>(a->top - top);
#pragma unroll
    for (int u = 0; u < N; u++) a->sum += sum[u];
    a->top = top;
}

/* The gradient of 8 columns of which none is the target's. */
template <typename E>
static __device__ __forceinline__ uint4 gradient_of(uint4 x, float lse, float scale)
{
    const uint32_t word[4] = {x.x, x.y, x.z, x.w};
    uint32_t out[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float2 v = lk_pair(word[k], E());
        out[k] = lk_pack<E>(exponential<E>(v.x, lse) * scale, exponential<E>(v.y, lse) * scale);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

/* As k_xent_wide; cols fit the ring. */
template <typename E>
static __global__ void __launch_bounds__(RING_THREADS, 1)
    k_xent_ring(const E *logits, const int32_t *targets, const float *dloss, int64_t rows, int cols,
                int classes, E *dlogits, double *loss)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ __align__(16) unsigned char held_bytes[];
    __shared__ uint64_t full[RING_WARPS][RING_SLOTS], joined;
    __shared__ softmax_part part[2][RING_WARPS]; /* of a row and the next */
    int warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 5, 0), lane = threadIdx.x & 31;
    unsigned char *ring = held_bytes + warp * RING_SLOTS * PIECE_BYTES;
    int pieces = (cols + RING_COLUMNS - 1) / RING_COLUMNS;
    int count = (pieces - warp + RING_WARPS - 1) / RING_WARPS; /* of this warp in a row */
    auto column_of = [&](int i) { return (warp + RING_WARPS * i) * RING_COLUMNS; };
    if (threadIdx.x < RING_WARPS * RING_SLOTS) barrier_init(&full[0][threadIdx.x], 1);
    if (threadIdx.x == 0) barrier_init(&joined, RING_WARPS);
    barriers_publish();
    __syncthreads();

    /* Pieces are loaded, summed and finished in the same order. */
    int64_t load_row = blockIdx.x;
    int load_piece = 0, load_slot = 0, sum_slot = 0, done_slot = 0;
    uint32_t sum_phase = 0, turn = 0;
    auto load = [&](void) { /* the next piece, if there is one */
        if (load_row >= rows) return;
        if (lane == 0) {
            int first = column_of(load_piece);
            int bytes = min(RING_COLUMNS, cols - first) * (int)sizeof(E);
            uint64_t *b = &full[warp][load_slot];
            barrier_expect(b, bytes);
            copy_bytes(lk_shared_address(ring + load_slot * PIECE_BYTES),
                       logits + load_row * cols + first, bytes, b);
        }
        if (++load_slot == RING_SLOTS) load_slot = 0;
        if (++load_piece == count) load_piece = 0, load_row += gridDim.x;
    };
    auto sum_piece = [&](int i, softmax_part *a) {
        const E *held = (const E *)(ring + sum_slot * PIECE_BYTES);
        int left = classes - column_of(i);
        barrier_wait(&full[warp][sum_slot], sum_phase);
        if (left >= RING_COLUMNS) {
            uint4 x[RING_VECTORS];
#pragma unroll
            for (int u = 0; u < RING_VECTORS; u++) x[u] = ((const uint4 *)held)[32 * u + lane];
            take_vectors<E>(x, a);
        } else {
#pragma unroll 1
            for (int c = 8 * lane; c < left; c += 256) {
                float v[8];
                lk_get<8>(v, held + c);
                take<E, 8>(v, left - c, a);
            }
        }
        if (++sum_slot == RING_SLOTS) sum_slot = 0, sum_phase ^= 1;
    };
    auto give = [&](softmax_part a) { /* the warp's part of a row */
        a = combine_lanes<E>(a, 32);
        if (lane == 0) {
            part[turn][warp] = a;
            barrier_arrive(&joined);
        }
        __syncwarp();
    };

#pragma unroll 1
    for (int s = 0; s < RING_SLOTS; s++) load();
    float scale = *dloss / (float)rows;
    int32_t next_target = targets[blockIdx.x];
    softmax_part a = softmax_none<E>();
    for (int i = 0; i < count; i++) sum_piece(i, &a);
    give(a);
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        bool more = row + gridDim.x < rows;
        int32_t target = next_target;
        if (more) next_target = targets[row + gridDim.x];
        barrier_wait(&joined, turn);
        a = combine_lanes<E>(part[turn][lane % RING_WARPS], RING_WARPS);
        float lse = a.top + logf(a.sum);
        if (threadIdx.x == 0 && !(target >= 0 && target < classes)) loss[row] = (double)NAN;
        turn ^= 1;
        a = softmax_none<E>();
        for (int i = 0; i < count; i++) {
            if (more) {
                sum_piece(i, &a);
                if (i == count - 1) give(a);
            }
            int first = column_of(i), end = first + RING_COLUMNS;
            const E *held = (const E *)(ring + done_slot * PIECE_BYTES);
            E *out = dlogits + row * cols;
            if (end <= classes && (target < first || target >= end)) {
                uint4 x[RING_VECTORS];
#pragma unroll
                for (int u = 0; u < RING_VECTORS; u++) x[u] = ((const uint4 *)held)[32 * u + lane];
                __syncwarp();
                load();
#pragma unroll
                for (int u = 0; u < RING_VECTORS; u++)
                    ((uint4 *)(out + first))[32 * u + lane] = gradient_of<E>(x[u], lse, scale);
            } else {
#pragma unroll 1
                for (int c = first + 8 * lane; c < min(end, cols); c += 256) {
                    float v[8];
                    lk_get<8>(v, held + c - first);
                    if (target >= c && target < c + 8 && target < classes)
                        loss[row] = (double)lse - (double)lk_float(held[target - first]);
                    put_gradient<E, 8>(out, v, c, classes, target, lse, scale);
                }
                __syncwarp();
                load();
            }
            if (++done_slot == RING_SLOTS) done_slot = 0;
        }
    }
#endif
}

/* The loss of each row; behind it, for xent_fused of rows too long to hold, its lse. */
size_t lk_cuda_xent_scratch(const lk_cuda *, const lk_node *n)
{
    return (size_t)lk_rows(n->in[0]) * (sizeof(double) + sizeof(float));
}

size_t lk_cuda_xent_fused_scratch(const lk_cuda *d, const lk_node *n)
{
    return lk_cuda_xent_scratch(d, n);
}

extern "C" lk_status lk_cuda_xent(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]), cols = lk_cols(n->in[0]);
    const int32_t *targets = (const int32_t *)lk_data(x, n->in[1]);
    float *loss = (float *)lk_data(x, n->out[0]), *lse = (float *)lk_data(x, n->out[1]);
    double *row = (double *)x->base[LK_REGION_SCRATCH];
    cudaStream_t s = lk_cuda_stream_of(x);
    int64_t classes = n->attr.xent.classes;
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, LK_VECTOR_SWITCH(cols, V, {
                        const E *in = (const E *)lk_data(x, n->in[0]);
                        if (cols <= NARROW)
                            k_xent<E, V, 8><<<lk_blocks(rows, 8), THREADS, 0, s>>>(
                                in, targets, rows, cols, classes, lse, row);
                        else
                            k_xent<E, V, 1><<<lk_blocks(rows, 1), THREADS, 0, s>>>(
                                in, targets, rows, cols, classes, lse, row);
                    }));
    k_xent_mean<<<1, 1024, 0, s>>>(row, rows, loss);
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_xent_grad(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]), cols = lk_cols(n->in[0]);
    const int32_t *targets = (const int32_t *)lk_data(x, n->in[1]);
    const float *lse = (const float *)lk_data(x, n->in[2]);
    const float *dloss = (const float *)lk_data(x, n->in[3]);
    cudaStream_t s = lk_cuda_stream_of(x);
    int64_t classes = n->attr.xent.classes;
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, LK_VECTOR_SWITCH(cols, V, {
                        const E *in = (const E *)lk_data(x, n->in[0]);
                        E *out = (E *)lk_data(x, n->out[0]);
                        if (cols <= NARROW)
                            k_xent_grad<E, V, 8><<<lk_blocks(rows, 8), THREADS, 0, s>>>(
                                in, targets, lse, dloss, rows, cols, classes, out);
                        else
                            k_xent_grad<E, V, 1><<<lk_blocks(rows, 1), THREADS, 0, s>>>(
                                in, targets, lse, dloss, rows, cols, classes, out);
                    }));
    return lk_cuda_launched(n);
}

/* Rows that do not fit in shared memory: the two ops one after the other. */
static lk_status xent_then_grad(lk_exec *x, const lk_node *n)
{
    lk_tensor lse = {};
    lk_node loss = *n, grad = *n;
    lse.dims = 1;
    lse.dim[0] = lk_rows(n->in[0]);
    lse.region = LK_REGION_SCRATCH;
    lse.offset = (size_t)lse.dim[0] * sizeof(double);
    loss.op = LK_OP_XENT;
    loss.out[0] = n->out[1];
    loss.out[1] = &lse;
    LK_TRY(lk_cuda_xent(x, &loss));
    grad.op = LK_OP_XENT_GRAD;
    grad.in[2] = &lse;
    grad.in[3] = n->in[2];
    return lk_cuda_xent_grad(x, &grad);
}

template <typename E> static bool by_ring(const lk_cuda *d, int64_t cols)
{
    if constexpr (sizeof(E) == 2)
        return lk_cuda_hopper(d) && fits_ring(cols) && wgmma_compiled(k_xent_ring<E>);
    return false;
}

template <typename E>
static lk_status fused(lk_exec *x, const lk_node *n, double *loss)
{
    const lk_tensor *t = n->in[0];
    int64_t rows = lk_rows(t), cols = lk_cols(t), classes = n->attr.xent.classes;
    size_t bytes = (size_t)cols * sizeof(E);
    const lk_cuda *d = (const lk_cuda *)x->device;
    const E *logits = (const E *)lk_data(x, t);
    const int32_t *targets = (const int32_t *)lk_data(x, n->in[1]);
    const float *dloss = (const float *)lk_data(x, n->in[2]);
    E *dlogits = (E *)lk_data(x, n->out[0]);
    cudaStream_t s = d->stream;
    constexpr int V = 16 / sizeof(E);
    if (cols % 8 == 0 && cols <= 256) {
        k_xent_narrow<E, V, 256 / (32 * V)><<<lk_blocks(rows, THREADS / 32), THREADS, 0, s>>>(
            logits, targets, dloss, rows, cols, classes, dlogits, loss);
    } else if (cols <= 256) {
        k_xent_narrow<E, 1, 8><<<lk_blocks(rows, THREADS / 32), THREADS, 0, s>>>(
            logits, targets, dloss, rows, cols, classes, dlogits, loss);
    } else if (rows > 0 && by_ring<E>(d, cols)) {
        if constexpr (sizeof(E) == 2) {
            LK_CUDA_AT(n, cudaFuncSetAttribute(k_xent_ring<E>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               RING_BYTES));
            unsigned blocks = (unsigned)(rows < d->processors ? rows : d->processors);
            k_xent_ring<E><<<blocks, RING_THREADS, RING_BYTES, s>>>(
                logits, targets, dloss, rows, (int)cols, (int)classes, dlogits, loss);
        }
    } else if (cols % 8 == 0 && bytes + 1024 <= d->shared) {
        LK_CUDA_AT(n, cudaFuncSetAttribute(k_xent_wide<E>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           (int)bytes));
        k_xent_wide<E><<<lk_blocks(rows, 1), WIDE, bytes, s>>>(
            logits, targets, dloss, rows, cols, classes, dlogits, loss);
    } else {
        return xent_then_grad(x, n);
    }
    k_xent_mean<<<1, 1024, 0, s>>>(loss, rows, (float *)lk_data(x, n->out[1]));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_xent_fused(lk_exec *x, const lk_node *n)
{
    double *loss = (double *)x->base[LK_REGION_SCRATCH];
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, return fused<E>(x, n, loss));
}
