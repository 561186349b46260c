/* channel_conv and its gradient: a cross-correlation along the channels of x [B,C], w [k], k odd.
 *
 *   y[b,c] = sum_j w[j] x[b, c+j-k/2]       dx[b,c] = sum_j w[j] dy[b, c-j+k/2]
 *   dw[j] = sum_bc dy[b,c] x[b, c+j-k/2]    zeros outside of 0 .. C-1
 *
 * The tensors are tiny (one number for each channel of an image): a block takes a few rows, which
 * stay in the first-level cache. dw in two stages: partial sums of chunks of rows into scratch, cut
 * by B alone, then their sum. */
#include "cuda/device.cuh"

enum { THREADS = 256, ROWS = 4 /* of a block */, CHUNKS = 64 };

/* Element (b, c) of the correlation of row [C] with w [k]; TURNED: with w reversed. */
template <typename E, bool TURNED>
static __device__ __forceinline__ float correlate(const E *row, const E *w, int k, int cols, int c)
{
    float sum = 0;
    for (int j = 0; j < k; j++) {
        int at = TURNED ? c - j + k / 2 : c + j - k / 2;
        if (at >= 0 && at < cols) sum += lk_float(w[j]) * lk_float(row[at]);
    }
    return sum;
}

/* y [rows, cols] from x [rows, cols] and w [k] */
template <typename E, bool TURNED>
static __global__ void __launch_bounds__(THREADS)
    k_channel_conv(const E *x, const E *w, E *y, int64_t rows, int cols, int k)
{
    int64_t first = (int64_t)blockIdx.x * ROWS, end = first + ROWS < rows ? first + ROWS : rows;
    for (int64_t b = first; b < end; b++)
        for (int c = threadIdx.x; c < cols; c += THREADS)
            y[b * cols + c] = lk_store<E>(correlate<E, TURNED>(x + b * cols, w, k, cols, c));
}

/* partial f32 [chunks, k]: block (chunk, j) sums over the rows of its chunk. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    k_channel_conv_dw(const E *x, const E *dy, float *partial, int64_t rows, int cols,
                      int64_t chunk_rows)
{
    __shared__ float shared[32];
    int j = blockIdx.y, k = gridDim.y, shift = j - k / 2;
    int64_t first = blockIdx.x * chunk_rows;
    int64_t end = first + chunk_rows < rows ? first + chunk_rows : rows;
    float sum = 0;
    for (int64_t b = first; b < end; b++)
        for (int c = threadIdx.x; c < cols; c += THREADS) {
            int at = c + shift;
            if (at < 0 || at >= cols) continue;
            sum += lk_float(dy[b * cols + c]) * lk_float(x[b * cols + at]);
        }
    sum = lk_block_sum(sum, shared);
    if (threadIdx.x == 0) partial[(int64_t)blockIdx.x * k + j] = sum;
}

static int chunks_of(int64_t rows)
{
    int64_t n = rows < 1 ? 1 : lk_ceil(rows, ROWS);
    if (n > CHUNKS) n = CHUNKS;
    return (int)n;
}

/* partial f32 [chunks, k] of dw. */
size_t lk_cuda_channel_conv_grad_scratch(const lk_cuda *, const lk_node *n)
{
    return (size_t)chunks_of(lk_rows(n->in[0])) * (size_t)lk_count(n->in[1]) * sizeof(float);
}

extern "C" lk_status lk_cuda_channel_conv(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]);
    int cols = (int)lk_cols(n->in[0]), k = (int)lk_count(n->in[1]);
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, {
        k_channel_conv<E, false><<<lk_blocks(rows, ROWS), THREADS, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
            (E *)lk_data(x, n->out[0]), rows, cols, k);
    });
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_channel_conv_grad(lk_exec *x, const lk_node *n)
{
    int64_t rows = lk_rows(n->in[0]);
    int cols = (int)lk_cols(n->in[0]), k = (int)lk_count(n->in[1]), chunks = chunks_of(rows);
    float *partial = (float *)x->base[LK_REGION_SCRATCH], *dw = (float *)lk_data(x, n->out[1]);
    cudaStream_t s = lk_cuda_stream_of(x);
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, {
        const E *in = (const E *)lk_data(x, n->in[0]), *w = (const E *)lk_data(x, n->in[1]);
        const E *dy = (const E *)lk_data(x, n->in[2]);
        if (n->out[0])
            k_channel_conv<E, true><<<lk_blocks(rows, ROWS), THREADS, 0, s>>>(
                dy, w, (E *)lk_data(x, n->out[0]), rows, cols, k);
        if (dw)
            k_channel_conv_dw<E><<<dim3((unsigned)chunks, (unsigned)k), THREADS, 0, s>>>(
                in, dy, partial, rows, cols, lk_ceil(rows, chunks));
    });
    lk_chunk_sum sum = {partial, dw, (n->accumulate & 2u) != 0};
    if (dw) lk_cuda_sum_chunks(s, &sum, 1, chunks, k);
    return lk_cuda_launched(n);
}
