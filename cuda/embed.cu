/* embed, positions and their gradients.
 *
 * The gradient of the table without floating-point atomics: the rows 0..N-1 of dy are sorted by
 * token with a stable radix sort (8 bits a pass, as many passes as the vocabulary needs), so that
 * the rows of a token lie together in increasing order. The sorted list is cut into pieces of
 * PIECE rows. A block walks one piece: the sum of a token that lies wholly in the piece goes to
 * dtable; the sum of a token that comes from the piece before goes to partial[piece, 0], of one
 * that begins here and goes on to partial[piece, 1]. A second kernel adds the partials of such a
 * token in order of piece. Sums depend on tokens and shapes only.
 *
 * tokens i32 [B,T], N = B T; table X [V,C]; positions X [P,C]; y, dy X [N,C];
 * dtable f32 [V,C]; dpositions f32 [P,C]. */
#include "cuda/device.cuh"

enum { SORT_TILE = 1024, DIGITS = 256, PIECE = 32, AHEAD = 4 };

/* Column c of the sinusoid of position t; the angle is reduced in double. */
static __device__ __forceinline__ float sinusoid(int64_t t, int c, int cols)
{
    const double turn = 6.28318530717958647693;
    double exponent = (double)(c / 2 * 2) / (double)cols;
    double angle = (double)t * exp(-9.21034037197618273608 * exponent); /* ln 10000 */
    float a = (float)(angle - turn * rint(angle / turn));
    return c % 2 ? cosf(a) : sinf(a);
}

/* A warp per row. */
template <typename E, int V>
static __global__ void k_embed(const int *tokens /* [N] */, const E *table /* [V,C] */,
                               const E *positions /* [P,C] or NULL */, int sinusoidal,
                               float scale, E *y /* [N,C] */, int64_t rows, int64_t context,
                               int cols)
{
    int64_t row = (int64_t)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), t = row % context;
    if (row >= rows) return;
    const E *from = table + (int64_t)tokens[row] * cols;
    for (int c = (threadIdx.x & 31) * V; c < cols; c += 32 * V) {
        float a[V], b[V];
        lk_get<V>(a, from + c);
        if (positions) {
            lk_get<V>(b, positions + t * cols + c);
#pragma unroll
            for (int j = 0; j < V; j++) a[j] += b[j];
        } else if (sinusoidal) {
#pragma unroll
            for (int j = 0; j < V; j++) a[j] = a[j] * scale + sinusoid(t, c + j, cols);
        }
        lk_put<V>(y + row * cols + c, a);
    }
}

extern "C" lk_status lk_cuda_embed(lk_exec *x, const lk_node *n)
{
    const lk_tensor *out = n->out[0];
    int64_t rows = lk_count(n->in[0]), context = lk_cols(n->in[0]);
    int cols = (int)lk_cols(out);
    const int *tokens = (const int *)lk_data(x, n->in[0]);
    lk_embed_position kind = n->attr.embed.position;
    cudaStream_t s = lk_cuda_stream_of(x);
    if (rows == 0) return LK_OK;
    LK_FLOAT_SWITCH(out->dtype, E, LK_VECTOR_SWITCH(cols, V, {
        const E *table = (const E *)lk_data(x, n->in[1]);
        const E *positions =
            kind == LK_POSITION_TABLE ? (const E *)lk_data(x, n->in[2]) : (const E *)NULL;
        k_embed<E, V><<<lk_blocks(rows, 8), 256, 0, s>>>(tokens, table, positions,
                                                         kind == LK_POSITION_SINUSOIDAL,
                                                         lk_embed_scale(kind, cols),
                                                         (E *)lk_data(x, out), rows, context, cols);
    }));
    return lk_cuda_launched(n);
}

/* ---- stable sort of the rows by token -------------------------------------------------------- */

/* Row at place i of the order so far (NULL: the rows as they are). */
static __device__ __forceinline__ int row_at(const int *order, int i)
{
    return order ? order[i] : i;
}

/* count[digit, tile] = rows of the tile with that digit. */
static __global__ void k_digit_count(const int *tokens /* [N] */, const int *order /* [N]|NULL */,
                                     int rows, int shift, int *count /* [DIGITS,tiles] */)
{
    __shared__ int histogram[DIGITS];
    int i = blockIdx.x * SORT_TILE + threadIdx.x;
    if (threadIdx.x < DIGITS) histogram[threadIdx.x] = 0;
    __syncthreads();
    if (i < rows) atomicAdd(&histogram[(tokens[row_at(order, i)] >> shift) & (DIGITS - 1)], 1);
    __syncthreads();
    if (threadIdx.x < DIGITS) count[threadIdx.x * gridDim.x + blockIdx.x] = histogram[threadIdx.x];
}

/* Exclusive prefix sums in place, by one block of 1024 threads. */
static __global__ void k_scan(int *a /* [n] */, int n)
{
    __shared__ int total[32];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, carry = 0;
    for (int base = 0; base < n; base += 1024) {
        int i = base + (int)threadIdx.x, own = i < n ? a[i] : 0, sum = own;
        for (int k = 1; k < 32; k <<= 1) {
            int left = __shfl_up_sync(0xFFFFFFFFu, sum, k);
            if (lane >= k) sum += left;
        }
        if (lane == 31) total[warp] = sum;
        __syncthreads();
        int before = 0, all = 0;
        for (int k = 0; k < 32; k++) {
            if (k < warp) before += total[k];
            all += total[k];
        }
        if (i < n) a[i] = carry + before + sum - own;
        carry += all;
        __syncthreads();
    }
}

/* Move the rows of a tile to their places; rows of equal digit keep their order. */
static __global__ void __launch_bounds__(SORT_TILE)
k_digit_place(const int *tokens /* [N] */, const int *order /* [N] or NULL */, int rows, int shift,
              const int *start /* [DIGITS,tiles] */, int *sorted /* [N] */)
{
    __shared__ int place[SORT_TILE / 32][DIGITS]; /* per warp: count, then the first place */
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int i = blockIdx.x * SORT_TILE + threadIdx.x, row = 0, digit = DIGITS;
    for (int k = threadIdx.x; k < SORT_TILE / 32 * DIGITS; k += SORT_TILE) (&place[0][0])[k] = 0;
    if (i < rows) {
        row = row_at(order, i);
        digit = (tokens[row] >> shift) & (DIGITS - 1);
    }
    __syncthreads();
    unsigned same = __match_any_sync(0xFFFFFFFFu, digit);
    int rank = __popc(same & ((1u << lane) - 1)); /* rows of this digit on lower lanes */
    if (i < rows && rank == 0) place[warp][digit] = __popc(same);
    __syncthreads();
    if (threadIdx.x < DIGITS) {
        int next = start[threadIdx.x * gridDim.x + blockIdx.x];
        for (int k = 0; k < SORT_TILE / 32; k++) {
            int count = place[k][threadIdx.x];
            place[k][threadIdx.x] = next;
            next += count;
        }
    }
    __syncthreads();
    if (i < rows) sorted[place[warp][digit] + rank] = row;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* out (+)= scale sum */
template <int V>
static __device__ __forceinline__ void store_sum(float *out, const float *sum, float scale,
                                                 bool accumulate)
{
    float a[V] = {};
    if (accumulate) lk_get<V>(a, out);
#pragma unroll
    for (int j = 0; j < V; j++) a[j] += scale * sum[j];
    lk_put<V>(out, a);
}

/* Block (piece, part of the columns); at least PIECE threads, each with V columns. */
template <typename E, int V>
static __global__ void k_piece_sums(const int *tokens /* [N] */, const int *order /* [N] */,
                                    const E *dy /* [N,C] */, int rows, int cols, float scale,
                                    int accumulate, int *first /* [pieces] */,
                                    float *partial /* [pieces,2,C] */, float *dtable /* [V,C] */)
{
    __shared__ int row[PIECE], token[PIECE + 2]; /* token[i+1] of row[i]; both neighbours */
    int begin = blockIdx.x * PIECE, count = rows - begin < PIECE ? rows - begin : PIECE;
    int i = threadIdx.x;
    if (i < count) {
        row[i] = order[begin + i];
        token[i + 1] = tokens[row[i]];
        if (i == 0) {
            token[0] = begin > 0 ? tokens[order[begin - 1]] : -1;
            token[count + 1] = begin + count < rows ? tokens[order[begin + count]] : -1;
            if (blockIdx.y == 0) first[blockIdx.x] = token[1];
        }
    }
    __syncthreads();
    int c = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (c >= cols) return;
    float *head = partial + (int64_t)blockIdx.x * 2 * cols + c, *tail = head + cols;
    bool came = token[0] == token[1]; /* the run being summed began in an earlier piece */
    float sum[V] = {};
    for (int base = 0; base < count; base += AHEAD) {
        float a[AHEAD][V];
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (base + k < count) lk_get<V>(a[k], dy + (int64_t)row[base + k] * cols + c);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            int at = base + k;
            if (at < count) {
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] += a[k][j];
                bool ends = token[at + 1] != token[at + 2];
                if (ends || at == count - 1) {
                    if (came) lk_put<V>(head, sum);
                    else if (!ends) lk_put<V>(tail, sum);
                    else
                        store_sum<V>(dtable + (int64_t)token[at + 1] * cols + c, sum, scale,
                                     accumulate);
                    came = false;
#pragma unroll
                    for (int j = 0; j < V; j++) sum[j] = 0;
                }
            }
        }
    }
}

/* A token that begins in piece blockIdx.x and goes on: add its partials. first[q] is the token at
 * the beginning of piece q. */
template <int V>
static __global__ void k_join_pieces(const int *tokens /* [N] */, const int *order /* [N] */,
                                     const int *first /* [pieces] */,
                                     const float *partial /* [pieces,2,C] */, int pieces, int cols,
                                     float scale, int accumulate, float *dtable /* [V,C] */)
{
    int piece = blockIdx.x, c = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (c >= cols || piece + 1 >= pieces) return;
    int begin = piece * PIECE, token = tokens[order[begin + PIECE - 1]];
    if (first[piece + 1] != token) return;                         /* ends here */
    if (begin > 0 && tokens[order[begin - 1]] == token) return;    /* began earlier */
    int low = piece + 1, high = pieces; /* low: begins with the token; high: does not */
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (first[middle] == token) low = middle;
        else high = middle;
    }
    float sum[V];
    lk_get<V>(sum, partial + ((int64_t)piece * 2 + 1) * cols + c);
#pragma unroll 8
    for (int q = piece + 1; q < high; q++) {
        float a[V];
        lk_get<V>(a, partial + (int64_t)q * 2 * cols + c);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += a[j];
    }
    store_sum<V>(dtable + (int64_t)token * cols + c, sum, scale, accumulate);
}

/* dpositions[t, c] = sum over b of dy[b, t, c], for t < T: element i of [T,C], V at a time. */
template <typename E, int V>
static __global__ void k_position_sums(const E *dy /* [B,T,C] */, int64_t batch,
                                       int64_t elements /* T C */, int accumulate,
                                       float *dpositions /* [P,C] */)
{
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= elements) return;
    float sum[V] = {};
#pragma unroll 4
    for (int64_t b = 0; b < batch; b++) {
        float a[V];
        lk_get<V>(a, dy + b * elements + i);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += a[j];
    }
    store_sum<V>(dpositions + i, sum, 1.0f, accumulate);
}

/* ---- launcher -------------------------------------------------------------------------------- */

/* The parts of the scratch memory: byte offsets. */
typedef struct layout {
    size_t order[2], count, first, partial, bytes;
} layout;

static size_t take(size_t *bytes, size_t size)
{
    size_t at = *bytes;
    *bytes += (size + 255) / 256 * 256;
    return at;
}

static layout lay_out(const lk_node *n)
{
    size_t rows = (size_t)lk_count(n->in[0]), cols = (size_t)lk_cols(n->in[1]);
    size_t tiles = (size_t)lk_ceil((int64_t)rows, SORT_TILE);
    size_t pieces = (size_t)lk_ceil((int64_t)rows, PIECE);
    layout l = {};
    l.order[0] = take(&l.bytes, rows * sizeof(int));
    l.order[1] = take(&l.bytes, rows * sizeof(int));
    l.count = take(&l.bytes, DIGITS * tiles * sizeof(int));
    l.first = take(&l.bytes, pieces * sizeof(int));
    l.partial = take(&l.bytes, pieces * 2 * cols * sizeof(float));
    return l;
}

size_t lk_cuda_embed_grad_scratch(const lk_cuda *, const lk_node *n) { return lay_out(n).bytes; }

/* Order the rows by token; returns the sorted list. */
static const int *sort_rows(lk_exec *x, const lk_node *n, const layout *l, int rows)
{
    char *scratch = x->base[LK_REGION_SCRATCH];
    const int *tokens = (const int *)lk_data(x, n->in[0]), *order = NULL;
    int64_t vocabulary = n->out[0]->dim[0];
    int tiles = (int)lk_ceil(rows, SORT_TILE), *count = (int *)(scratch + l->count);
    cudaStream_t s = lk_cuda_stream_of(x);
    int pass = 0;
    do {
        int *sorted = (int *)(scratch + l->order[pass % 2]);
        k_digit_count<<<tiles, SORT_TILE, 0, s>>>(tokens, order, rows, 8 * pass, count);
        k_scan<<<1, 1024, 0, s>>>(count, DIGITS * tiles);
        k_digit_place<<<tiles, SORT_TILE, 0, s>>>(tokens, order, rows, 8 * pass, count, sorted);
        order = sorted;
        pass++;
    } while (pass < 4 && ((vocabulary - 1) >> (8 * pass)) > 0);
    return order;
}

/* out [P,C] (+)= sums over the batch of dy [batch, context, C]. */
static lk_status sum_positions(lk_exec *x, const lk_node *n, const lk_tensor *dy, int64_t batch,
                               int64_t context, const lk_tensor *out, int accumulate)
{
    int64_t elements = context * lk_cols(dy), all = lk_count(out);
    float *to = (float *)lk_data(x, out);
    cudaStream_t s = lk_cuda_stream_of(x);
    if (!accumulate && all > elements)
        LK_CUDA_AT(n, cudaMemsetAsync(to + elements, 0, (size_t)(all - elements) * sizeof(float),
                                      s));
    LK_FLOAT_SWITCH(dy->dtype, E, LK_VECTOR_SWITCH(lk_cols(dy), V, {
        k_position_sums<E, V><<<lk_blocks(elements, 128 * V), 128, 0, s>>>(
            (const E *)lk_data(x, dy), batch, elements, accumulate, to);
    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_embed_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *grad = n->in[1];
    const int *tokens = (const int *)lk_data(x, n->in[0]);
    int rows = (int)lk_count(n->in[0]), cols = (int)lk_cols(grad);
    int64_t context = lk_cols(n->in[0]), batch = lk_rows(n->in[0]);
    float *dtable = (float *)lk_data(x, n->out[0]);
    float scale = lk_embed_scale(n->attr.embed.position, cols);
    int add_table = n->accumulate & 1, add_positions = n->accumulate >> 1 & 1;
    cudaStream_t s = lk_cuda_stream_of(x);

    if (dtable && !add_table) LK_CUDA_AT(n, cudaMemsetAsync(dtable, 0, lk_bytes(n->out[0]), s));
    if (dtable && rows > 0) {
        layout l = lay_out(n);
        char *scratch = x->base[LK_REGION_SCRATCH];
        int *first = (int *)(scratch + l.first), pieces = (int)lk_ceil(rows, PIECE);
        float *partial = (float *)(scratch + l.partial);
        const int *order = sort_rows(x, n, &l, rows);
        LK_FLOAT_SWITCH(grad->dtype, E, LK_VECTOR_SWITCH(cols, V, {
            const E *dy = (const E *)lk_data(x, grad);
            int threads = lk_row_threads(cols / V);
            dim3 grid(pieces, lk_blocks(cols / V, threads));
            k_piece_sums<E, V><<<grid, threads, 0, s>>>(tokens, order, dy, rows, cols, scale,
                                                        add_table, first, partial, dtable);
            k_join_pieces<V><<<grid, threads, 0, s>>>(tokens, order, first, partial, pieces, cols,
                                                      scale, add_table, dtable);
        }));
    }
    if (n->out[1])
        return sum_positions(x, n, grad, batch, context, n->out[1], add_positions);
    return lk_cuda_launched(n);
}

/* ---- positions ------------------------------------------------------------------------------- */

/* Element i of y [B,T,C], V at a time. */
template <typename E, int V>
static __global__ void k_positions(const E *x, const E *positions /* [P,C] */, E *y,
                                   int64_t count /* B T C */, int64_t elements /* T C */)
{
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= count) return;
    float a[V], b[V];
    lk_get<V>(a, x + i);
    lk_get<V>(b, positions + i % elements);
#pragma unroll
    for (int j = 0; j < V; j++) a[j] += b[j];
    lk_put<V>(y + i, a);
}

extern "C" lk_status lk_cuda_positions(lk_exec *x, const lk_node *n)
{
    const lk_tensor *out = n->out[0];
    int64_t count = lk_count(out), elements = out->dim[1] * lk_cols(out);
    if (count == 0) return LK_OK;
    LK_FLOAT_SWITCH(out->dtype, E, LK_VECTOR_SWITCH(lk_cols(out), V, {
        k_positions<E, V><<<lk_blocks(count, 256 * V), 256, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
            (E *)lk_data(x, out), count, elements);
    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_positions_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *dy = n->in[0];
    return sum_positions(x, n, dy, dy->dim[0], dy->dim[1], n->out[0], n->accumulate & 1);
}
