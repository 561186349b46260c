/* dwconv_grad, norm_dwconv_grad: tiles as in dwconv.cu.
 *
 * The gradient reads x and dy once for both results. Half of a block's threads compute dx, the
 * other half dw: `taps` holds the weights of the first and the sums of the second. A block walks
 * through the tiles of a chunk, the next one being copied meanwhile, and then writes one partial
 * sum of dw a tap and channel; a second kernel adds those of the chunks in double. The cut into
 * tiles and chunks is made from the shapes.
 *
 * With stride 2 the rows of dx of one parity come after those of the other, 2 STRIP columns at once:
 * each meets the taps of its parity alone, and there are no products with inserted zeros.
 *
 * Other shapes, as forward, and pad != k/2: plain kernels, one result a thread.
 *
 * x, dx X [B,H,W,C]; w X [k,k,C]; dy X [B,Ho,Wo,C]; dw f32 [k,k,C]. */
#include "cuda/dwconv.cuh"

enum { SUM_THREADS = 256 };

/* Tiles of a block, and blocks of a group. */
static int tiles_per_chunk(const cut *c)
{
    int chunks = GRAD_BLOCKS / c->groups;
    return (int)lk_ceil(c->tiles, chunks < 1 ? 1 : chunks);
}
static int chunks_of(const cut *c) { return (int)lk_ceil(c->tiles, tiles_per_chunk(c)); }

/* taps += what the tile's strips give of dw. */
template <typename E, int K, int S>
static __device__ __forceinline__ void tile_dw(const E *in, const E *dys, const shape &a,
                                               const cut &c, const tile &t, const seat &s,
                                               float2 *taps)
{
    enum { CHUNK = 16 / sizeof(E) };
    strip p = {};
    for (strip_move(p, s.slot, c.strips, c.lines); p.image < c.images;
         strip_move(p, c.slots, c.strips, c.lines)) {
        int row = p.line * LINES, col = p.at * STRIP;
        int down = left_of(a.ho, t.row, c.rows, row), across = left_of(a.wo, t.col, c.cols, col);
        const E *d = pixel_of(dys, c.dy, s, p.image, row + K / 2, col + K / 2);
        const E *at = pixel_of(in, c.x, s, p.image, row * S, col * S);
        float2 dy[LINES][STRIP];
#pragma unroll
        for (int o = 0; o < LINES; o++)
#pragma unroll
            for (int j = 0; j < STRIP; j++)
                dy[o][j] = o < down && j < across ? get2(d + (o * c.dy.cols + j) * CHUNK)
                                                  : make_float2(0, 0);
#pragma unroll
        for (int r = 0; r < (LINES - 1) * S + K; r++) {
#pragma unroll
            for (int u = 0; u < (STRIP - 1) * S + K; u++) {
                float2 v = get2(at + u * CHUNK);
#pragma unroll
                for (int o = 0; o < LINES; o++) {
                    int ky = r - o * S;
                    if (ky < 0 || ky >= K) continue;
#pragma unroll
                    for (int j = 0; j < STRIP; j++) {
                        int kx = u - j * S;
                        if (kx >= 0 && kx < K) add_product(taps[ky * K + kx], dy[o][j], v);
                    }
                }
            }
            at += c.x.cols * CHUNK;
        }
    }
}

/* dx with stride 1: the tile's own rows and columns; taps turned round. */
template <typename E, int K>
static __device__ __forceinline__ void tile_dx(const E *dys, E *dx, const shape &a, const cut &c,
                                               const tile &t, const seat &s, const float2 *taps)
{
    strip p = {};
    dx += (int64_t)t.image * a.h * a.w * a.cols + s.channel;
    for (strip_move(p, s.slot, c.strips, c.lines); p.image < c.images;
         strip_move(p, c.slots, c.strips, c.lines)) {
        int row = p.line * LINES, col = p.at * STRIP;
        int down = left_of(a.h, t.row, c.rows, row), across = left_of(a.w, t.col, c.cols, col);
        if (down <= 0 || across <= 0 || t.image + p.image >= a.batch) continue;
        float2 sum[LINES][STRIP] = {};
        correlate<E, K, 1>(pixel_of(dys, c.dy, s, p.image, row, col), c.dy.cols, taps, sum);
        running none;
        end_strip<E, false>(dx + ((p.image * a.h + t.row + row) * a.w + t.col + col) * a.cols, none,
                            sum, down, across, a.w * a.cols, a.cols);
    }
}

/* 2 STRIP columns of a row of dx of parity Q, with stride 2, one half after the other; taps as they
 * are. at: of dy, K/4 rows and columns before the pair of the first two. */
template <typename E, int K, int Q>
static __device__ __forceinline__ void spread(const E *at, int row, const float2 *taps,
                                              float2 (*sum)[STRIP])
{
    enum { CHUNK = 16 / sizeof(E), REACH = K / 2, FIRST = REACH + 2 * (K / 4) };
#pragma unroll
    for (int r = 0; r <= REACH; r++) {
        int ky = FIRST + Q - 2 * r;
        if (ky >= 0 && ky < K) {
#pragma unroll
            for (int u = 0; u < STRIP + REACH; u++) {
                float2 v = get2(at + u * CHUNK);
#pragma unroll
                for (int j = 0; j < 2 * STRIP; j++) {
                    int kx = FIRST + j % 2 - 2 * (u - j / 2);
                    if (kx >= 0 && kx < K)
                        add_product(sum[j / STRIP][j % STRIP], taps[ky * K + kx], v);
                }
            }
        }
        at += row * CHUNK;
    }
}

/* dx with stride 2, the rows of parity Q: 2i + Q for each row i of outputs of the tile, and twice its
 * columns. */
template <typename E, int K, int Q>
static __device__ __forceinline__ void tile_dx2(const E *dys, E *dx, const shape &a, const cut &c,
                                                const tile &t, const seat &s, const float2 *taps)
{
    enum { BACK = K / 2 - K / 4 };
    strip p = {};
    dx += (int64_t)t.image * a.h * a.w * a.cols + s.channel;
    for (strip_move(p, s.slot, c.strips, c.rows); p.image < c.images;
         strip_move(p, c.slots, c.strips, c.rows)) {
        int row = 2 * p.line + Q, col = 2 * STRIP * p.at;
        int down = left_of(a.h, 2 * t.row, 2 * c.rows, row);
        int across = left_of(a.w, 2 * t.col, 2 * c.cols, col);
        if (down <= 0 || across <= 0 || t.image + p.image >= a.batch) continue;
        float2 sum[LINES][STRIP] = {};
        spread<E, K, Q>(pixel_of(dys, c.dy, s, p.image, p.line + BACK, p.at * STRIP + BACK),
                        c.dy.cols, taps, sum);
        E *to = dx + ((p.image * a.h + 2 * t.row + row) * a.w + 2 * t.col + col) * a.cols;
        if (across >= 2 * STRIP) { /* most are whole */
#pragma unroll
            for (int j = 0; j < 2 * STRIP; j++) put2(to + j * a.cols, sum[j / STRIP][j % STRIP]);
            continue;
        }
#pragma unroll
        for (int j = 0; j < 2 * STRIP; j++)
            if (j < across) put2(to + j * a.cols, sum[j / STRIP][j % STRIP]);
    }
}

/* Add the slots' sums of dw in order. All threads; memory is free. */
template <int K>
static __device__ __forceinline__ void add_slots(float *sums /* [slots, K K, width 8] */,
                                                 const float2 *taps, bool for_dw, const shape &a,
                                                 const cut &c, const seat &s, int group, int chunk,
                                                 float *partial /* [chunks,K,K,C] */)
{
    int columns = c.width * 8;
    if (for_dw && s.active) {
#pragma unroll
        for (int i = 0; i < K * K; i++)
            put2(sums + (s.slot * K * K + i) * columns + 2 * s.pair, taps[i]);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < K * K * columns; i += 2 * ROLE) {
        int tap = i / columns, channel = group * columns + i - tap * columns;
        if (channel >= a.cols) continue;
        float sum = 0;
        for (int slot = 0; slot < c.slots; slot++) sum += sums[slot * K * K * columns + i];
        partial[((int64_t)chunk * K * K + tap) * a.cols + channel] = sum;
    }
}

/* A: AS_IS, or the activation of norm_dwconv_grad, whose x is normalised on its way. */
template <typename E, int K, int S, int A>
static __global__ void __launch_bounds__(2 * ROLE, K == 7 ? 1 : 2)
    k_dwconv_grad(const E *x /* [B,H,W,C] */, const E *w /* [K,K,C] */,
                  const E *dy /* [B,Ho,Wo,C] */, E *dx /* [B,H,W,C] or NULL */,
                  float *partial /* [chunks,K,K,C] */, shape a, cut c, int per, lk_normal normal,
                  lk_activation kind)
{
    extern __shared__ __align__(16) char memory[];
    int group = (int)(blockIdx.x % c.groups), chunk = (int)(blockIdx.x / c.groups);
    int begin = chunk * per, end = begin + per < c.tiles ? begin + per : c.tiles;
    int stage = c.x.bytes + c.dy.bytes;
    auto load = [&](int number) {
        tile t = tile_of(c, number);
        E *to = (E *)(memory + (number - begin) % 2 * stage);
        origin o = {t.image, t.row - K / 2, t.col - K / 2, a.batch, a.ho, a.wo, a.cols,
                    group * c.width * 8};
        load_part<E>(to, x, c.x, c, origin_of<S>(a, c, t, group));
        load_part<E>((E *)((char *)to + c.x.bytes), dy, c.dy, c, o);
        copies_commit();
    };
    for (int i = 0; i < 2; i++) {
        clear_rest<E, 2 * ROLE>((E *)(memory + i * stage), c.x, c);
        clear_rest<E, 2 * ROLE>((E *)(memory + i * stage + c.x.bytes), c.dy, c);
    }
    float *figures = (float *)(memory + 2 * stage);
    if constexpr (A != AS_IS) {
        load_figures<2 * ROLE>(figures, normal, c.width * 8, a.cols, group);
        __syncthreads();
    }
    load(begin);

    bool for_dw = threadIdx.x < ROLE;
    seat s = seat_of(c, (int)threadIdx.x % ROLE, group);
    float2 taps[K * K]; /* of dw: sums; of dx: the weights, turned round with stride 1 */
#pragma unroll
    for (int i = 0; i < K * K; i++) {
        int from = S == 1 ? K * K - 1 - i : i;
        taps[i] = for_dw || !s.active ? make_float2(0, 0) : get2(w + from * a.cols + s.channel);
    }
    for (int number = begin; number < end; number++) {
        if (number + 1 < end) load(number + 1);
        else copies_commit(); /* an empty group, so that the wait below is for this tile */
        copies_wait<1>();
        E *in = (E *)(memory + (number - begin) % 2 * stage);
        const E *dys = (const E *)((const char *)in + c.x.bytes);
        tile t = tile_of(c, number);
        if constexpr (A != AS_IS)
            normalise_part<E, A>(in, c.x, c, origin_of<S>(a, c, t, group), figures, kind);
        __syncthreads();
        if (s.active) {
            if (for_dw) tile_dw<E, K, S>(in, dys, a, c, t, s, taps);
            else if (dx && S == 1) tile_dx<E, K>(dys, dx, a, c, t, s, taps);
            else if (dx) {
                tile_dx2<E, K, 0>(dys, dx, a, c, t, s, taps);
                tile_dx2<E, K, 1>(dys, dx, a, c, t, s, taps);
            }
        }
        __syncthreads(); /* before this tile's place is written again */
    }
    add_slots<K>((float *)memory, taps, for_dw, a, c, s, group, chunk, partial);
}

/* out [columns] (+)= sum over chunks of partial [chunks, columns]. A block: LANES chunks side by
 * side, SUM_THREADS / LANES columns. */
template <int LANES>
static __global__ void __launch_bounds__(SUM_THREADS)
    k_sum(const float *partial, int chunks, int columns, bool accumulate, float *out)
{
    constexpr int ACROSS = SUM_THREADS / LANES;
    __shared__ double shared[LANES][ACROSS];
    int lane = (int)threadIdx.x / ACROSS, across = (int)threadIdx.x % ACROSS;
    int column = (int)blockIdx.x * ACROSS + across;
    double sum = 0;
    if (column < columns) {
#pragma unroll 4
        for (int i = lane; i < chunks; i += LANES) sum += partial[(int64_t)i * columns + column];
    }
    shared[lane][across] = sum;
    __syncthreads();
    if (lane != 0 || column >= columns) return;
    sum = 0;
#pragma unroll
    for (int i = 0; i < LANES; i++) sum += shared[i][across];
    out[column] = accumulate ? out[column] + (float)sum : (float)sum;
}

/* ---- gradient of any shape ------------------------------------------------------------------ */

template <typename E>
static __global__ void k_dx_plain(const E *w /* [k,k,C] */, const E *dy /* [B,Ho,Wo,C] */,
                                  E *dx /* [B,H,W,C] */, shape a, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = (int)(i % a.cols), col = (int)(i / a.cols % a.w) + a.pad;
    int64_t line = i / a.cols / a.w, image = line / a.h;
    int row = (int)(line % a.h) + a.pad;
    float sum = 0;
    for (int ky = 0; ky < a.k; ky++) {
        for (int kx = 0; kx < a.k; kx++) {
            int h = row - ky, v = col - kx;
            if (h < 0 || v < 0 || h % a.stride || v % a.stride) continue;
            h /= a.stride;
            v /= a.stride;
            if (h >= a.ho || v >= a.wo) continue;
            sum = fmaf(lk_float(dy[((image * a.ho + h) * a.wo + v) * a.cols + channel]),
                       lk_float(w[(ky * a.k + kx) * a.cols + channel]), sum);
        }
    }
    dx[i] = lk_store<E>(sum);
}

/* Rows of outputs (b, ho) are cut into this many chunks. */
static int plain_chunks(const shape *a)
{
    int64_t lines = (int64_t)a->batch * a->ho, chunks = lk_ceil(lines, 4);
    return (int)(chunks > 256 ? 256 : chunks);
}

/* partial [chunks,k,k,C]: a thread one tap of one channel, over the rows of chunk blockIdx.y. */
template <typename E>
static __global__ void k_dw_plain(const E *x /* [B,H,W,C] */, const E *dy /* [B,Ho,Wo,C] */,
                                  float *partial, shape a, int64_t per)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), taps = a.k * a.k;
    if (i >= taps * a.cols) return;
    int channel = i % a.cols, ky = i / a.cols / a.k, kx = i / a.cols % a.k;
    int64_t lines = (int64_t)a.batch * a.ho, begin = blockIdx.y * per;
    int64_t end = begin + per < lines ? begin + per : lines;
    float sum = 0;
    for (int64_t line = begin; line < end; line++) {
        int64_t image = line / a.ho;
        int h = (int)(line % a.ho) * a.stride - a.pad + ky;
        if ((unsigned)h >= (unsigned)a.h) continue;
        for (int col = 0; col < a.wo; col++) {
            int v = col * a.stride - a.pad + kx;
            if ((unsigned)v >= (unsigned)a.w) continue;
            sum = fmaf(lk_float(x[((image * a.h + h) * a.w + v) * a.cols + channel]),
                       lk_float(dy[(line * a.wo + col) * a.cols + channel]), sum);
        }
    }
    partial[(int64_t)blockIdx.y * taps * a.cols + i] = sum;
}

/* ---- gradient: launch ----------------------------------------------------------------------- */

/* Whether the special kernel takes the node; its cut then. */
static bool grad_special(cut *c, const shape *a, size_t element)
{
    return has_special(a) && a->pad == a->k / 2 && cut_of(c, a, element, true);
}

size_t lk_cuda_dwconv_grad_scratch(const lk_node *n)
{
    shape a = shape_of(n, n->in[0], n->in[1], n->in[2]);
    cut c;
    int chunks = grad_special(&c, &a, lk_dtype_size(n->in[0]->dtype)) ? chunks_of(&c)
                                                                      : plain_chunks(&a);
    return (size_t)chunks * (size_t)(a.k * a.k) * (size_t)a.cols * sizeof(float);
}

/* Shared memory of the special kernel: two stages, and later the sums of the slots. */
static size_t grad_bytes(const cut *c, const shape *a, bool normal)
{
    size_t stages = 2 * (size_t)cut_bytes(c, true);
    if (normal) stages += 2 * (size_t)c->width * 8 * sizeof(float);
    size_t sums = (size_t)c->slots * (size_t)(a->k * a->k * c->width * 8) * sizeof(float);
    return stages > sums ? stages : sums;
}

static void sum_chunks(cudaStream_t s, const float *partial, int chunks, int columns,
                       bool accumulate, float *out)
{
    if (chunks > 64)
        k_sum<32><<<lk_blocks(columns, SUM_THREADS / 32), SUM_THREADS, 0, s>>>(
            partial, chunks, columns, accumulate, out);
    else
        k_sum<8><<<lk_blocks(columns, SUM_THREADS / 8), SUM_THREADS, 0, s>>>(
            partial, chunks, columns, accumulate, out);
}

#define GRAD_LAUNCH(A)                                                                             \
    do {                                                                                           \
        auto kernel = k_dwconv_grad<E, K, S, A>;                                                   \
        LK_CUDA_AT(n, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,    \
                                           (int)bytes));                                           \
        kernel<<<(unsigned)(chunks_of(&c) * c.groups), 2 * ROLE, bytes, lk_cuda_stream_of(x)>>>(   \
            from, w, dys, dx, partial, a, c, tiles_per_chunk(&c), normal, kind);                   \
    } while (0)

/* Launch the special kernel. kind: AS_IS, or an activation of has_normal() and then `normal`. */
template <typename E>
static lk_status grad_launch(lk_exec *x, const lk_node *n, const lk_tensor *dy, const shape &a,
                             const cut &c, const lk_normal &normal, int activation)
{
    const E *from = (const E *)lk_data(x, n->in[0]), *w = (const E *)lk_data(x, n->in[1]);
    const E *dys = (const E *)lk_data(x, dy);
    E *dx = (E *)lk_data(x, n->out[0]);
    float *partial = (float *)x->base[LK_REGION_SCRATCH]; /* [chunks,k,k,C] */
    size_t bytes = grad_bytes(&c, &a, activation != AS_IS);
    lk_activation kind = (lk_activation)activation;
    if (activation == LK_RELU) LK_KERNEL_SWITCH(5, a, K, S, GRAD_LAUNCH(LK_RELU));
    else if (activation == LK_HARD_SWISH) LK_KERNEL_SWITCH(5, a, K, S, GRAD_LAUNCH(LK_HARD_SWISH));
    else LK_KERNEL_SWITCH(7, a, K, S, GRAD_LAUNCH(AS_IS));
    return lk_cuda_launched(n);
}

/* dw from the chunks' sums in scratch. */
static lk_status grad_end(lk_exec *x, const lk_node *n, const shape &a, int chunks)
{
    if (n->out[1])
        sum_chunks(lk_cuda_stream_of(x), (const float *)x->base[LK_REGION_SCRATCH], chunks,
                   a.k * a.k * a.cols, (n->accumulate >> 1 & 1) != 0,
                   (float *)lk_data(x, n->out[1]));
    return lk_cuda_launched(n);
}

/* The gradient by dy, which need not be the node's third input. */
static lk_status grad_of(lk_exec *x, const lk_node *n, const lk_tensor *dy)
{
    const lk_tensor *in = n->in[0];
    shape a = shape_of(n, in, n->in[1], dy);
    cut c;
    if (lk_count(in) == 0) return LK_OK;
    if (grad_special(&c, &a, lk_dtype_size(in->dtype))) {
        LK_FLOAT_SWITCH(in->dtype, E,
                        LK_TRY(grad_launch<E>(x, n, dy, a, c, lk_normal(), AS_IS)));
        return grad_end(x, n, a, chunks_of(&c));
    }
    int chunks = plain_chunks(&a), columns = a.k * a.k * a.cols;
    int64_t count = lk_count(in), per = lk_ceil((int64_t)a.batch * a.ho, chunks);
    cudaStream_t s = lk_cuda_stream_of(x);
    LK_FLOAT_SWITCH(in->dtype, E, {
        const E *from = (const E *)lk_data(x, in), *w = (const E *)lk_data(x, n->in[1]);
        const E *dys = (const E *)lk_data(x, dy);
        E *dx = (E *)lk_data(x, n->out[0]);
        if (dx) k_dx_plain<E><<<lk_blocks(count, 256), 256, 0, s>>>(w, dys, dx, a, count);
        k_dw_plain<E><<<dim3(lk_blocks(columns, 128), chunks), 128, 0, s>>>(
            from, dys, (float *)x->base[LK_REGION_SCRATCH], a, per);
    });
    LK_TRY(lk_cuda_launched(n));
    return grad_end(x, n, a, chunks);
}

extern "C" lk_status lk_cuda_dwconv_grad(lk_exec *x, const lk_node *n)
{
    return grad_of(x, n, n->in[2]);
}

static size_t partial_bytes(const shape *a, int chunks)
{
    return (size_t)chunks * (size_t)(a->k * a->k) * (size_t)a->cols * sizeof(float);
}

size_t lk_cuda_norm_dwconv_grad_scratch(const lk_node *n)
{
    shape a = normal_shape(n, n->in[0], n->in[6]);
    cut c;
    bool special = grad_special(&c, &a, lk_dtype_size(n->in[0]->dtype));
    size_t used = partial_bytes(&a, special ? chunks_of(&c) : plain_chunks(&a));
    return special && a.normal ? used : rounded(used) + lk_bytes(n->in[0]);
}

extern "C" lk_status lk_cuda_norm_dwconv_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *dy = n->in[6];
    shape a = normal_shape(n, in, dy);
    cut c;
    if (lk_count(in) == 0) return LK_OK;
    bool special = grad_special(&c, &a, lk_dtype_size(in->dtype));
    if (special && a.normal) {
        LK_FLOAT_SWITCH(in->dtype, E,
                        LK_TRY(grad_launch<E>(x, n, dy, a, c, normal_of(x, n),
                                              n->attr.norm_dwconv.activation)));
        return grad_end(x, n, a, chunks_of(&c));
    }
    lk_tensor z;
    lk_node plain;
    size_t used = partial_bytes(&a, special ? chunks_of(&c) : plain_chunks(&a));
    LK_TRY(normalise_first(x, n, LK_OP_DWCONV_GRAD, used, &z, &plain));
    return grad_of(x, &plain, dy);
}
