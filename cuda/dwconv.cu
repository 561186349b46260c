/* dwconv and its gradient.
 *
 * A block copies a tile of one image (or several small images whole) for a group of `width`
 * vectors of 8 channels into shared memory, zeros for the padding, and computes from there; a
 * thread keeps 2 channels, their k x k weights in registers, and computes strips of 2 x STRIP
 * outputs, so that a pixel is read from shared memory and widened to f32 once for all its products
 * in the strip. In shared memory the 16-byte chunks of a pixel lie in planes of their own: the
 * pixels of a strip are then a constant distance apart. A whole row or image in a tile has its
 * padding once: the zeros left of the next row are those right of this one.
 *
 * The gradient reads x and dy once for both results. Half of a block's threads compute dx, the
 * other half dw: `taps` holds the weights of the first and the sums of the second. A block walks
 * through the tiles of a chunk, the next one being copied meanwhile, and then writes one partial
 * sum of dw a tap and channel; a second kernel adds those of the chunks in double. The cut into
 * tiles and chunks is made from the shapes.
 *
 * With stride 2 a thread of dx takes pairs of rows and of columns (v = h + pad = 2i + q, alike for
 * columns), whose taps are those of the same parity: no products with inserted zeros.
 *
 * Other k and strides, C % 8 != 0, and for the gradient pad != k/2: plain kernels, one output a
 * thread, that read what they need from memory.
 *
 * x, dx X [B,H,W,C]; w X [k,k,C]; y, dy X [B,Ho,Wo,C]; dw f32 [k,k,C]. */
#include "cuda/dwconv.cuh"

enum { SUM_THREADS = 256 };

static shape shape_of(const lk_node *n, const lk_tensor *x, const lk_tensor *y)
{
    shape a = {(int)x->dim[0],
               (int)x->dim[1],
               (int)x->dim[2],
               (int)y->dim[1],
               (int)y->dim[2],
               (int)x->dim[3],
               (int)n->in[1]->dim[0],
               n->attr.conv.stride,
               n->attr.conv.pad};
    return a;
}

/* ---- forward -------------------------------------------------------------------------------- */

/* What norm_dwconv does besides dwconv: x is normalised on its way, y is measured. */
typedef struct fused {
    lk_normal from;
    lk_activation kind;
    float *mean, *square; /* [chunks,C]; square: about the mean */
    float *count;         /* [chunks] */
} fused;

/* Join the slots' moments in order (T. Chan et al. 1983) and store them. */
static __device__ __forceinline__ void join_slots(float *memory, const running &m, const cut &c,
                                                  const seat &s, int cols, int group, int chunk,
                                                  const fused &f)
{
    int columns = c.width * 8;
    float *means = memory, *squares = means + c.slots * columns; /* [slots, columns] */
    float *counts = squares + c.slots * columns;                 /* [slots] */
    if (s.active) {
        float n = (float)m.count, share = m.count ? 1.0f / n : 0;
        int at = s.slot * columns + 2 * s.pair;
        put2(means + at, make_float2(m.first.x + m.sum.x * share, m.first.y + m.sum.y * share));
        put2(squares + at, make_float2(m.square.x - m.sum.x * m.sum.x * share,
                                       m.square.y - m.sum.y * m.sum.y * share));
        if (s.pair == 0) counts[s.slot] = n;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < columns; i += ROLE) {
        if (group * columns + i >= cols) continue;
        float n = 0, mean = 0, square = 0;
        for (int slot = 0; slot < c.slots; slot++) {
            float more = counts[slot], d = means[slot * columns + i] - mean;
            if (more == 0) continue;
            float share = more / (n + more), own = squares[slot * columns + i];
            mean += d * share;
            square += (own < 0 ? 0 : own) + d * d * n * share;
            n += more;
        }
        f.mean[(int64_t)chunk * cols + group * columns + i] = mean;
        f.square[(int64_t)chunk * cols + group * columns + i] = square;
        if (i == 0 && group == 0) f.count[chunk] = n;
    }
}

/* Block: tiles [chunk per, (chunk + 1) per). A: AS_IS, or the activation of norm_dwconv. */
template <typename E, int K, int S, int A>
static __global__ void __launch_bounds__(ROLE, K == 3 ? 5 : K == 5 ? 4 : 2)
    k_dwconv(const E *x /* [B,H,W,C] */, const E *w /* [K,K,C] */, E *y /* [B,Ho,Wo,C] */, shape a,
             cut c, int per, fused f)
{
    constexpr bool FUSED = A != AS_IS;
    extern __shared__ __align__(16) char memory[];
    E *in = (E *)memory;
    float *figures = (float *)(memory + c.x.bytes);
    int group = (int)(blockIdx.x % c.groups), chunk = (int)(blockIdx.x / c.groups);
    int begin = chunk * per, end = begin + per < c.tiles ? begin + per : c.tiles;
    seat s = seat_of(c, (int)threadIdx.x, group);
    running m = {};
    float2 taps[K * K];
    clear_rest<E, ROLE>(in, c.x, c);
    for (int number = begin; number < end; number++) {
        tile t = tile_of(c, number);
        int top = t.row * S - a.pad, left = t.col * S - a.pad;
        if (number > begin) __syncthreads();
        load_part<E, ROLE>(in, x, c.x, c, t.image, a.batch, top, left, a.h, a.w, a.cols, group);
        copies_commit();
        if (number == begin) {
            if constexpr (FUSED)
                load_figures<ROLE>(figures, f.from, c.width * 8, a.cols, group);
#pragma unroll
            for (int i = 0; i < K * K; i++)
                taps[i] = s.active ? get2(w + i * a.cols + s.channel) : make_float2(0, 0);
            if constexpr (FUSED) __syncthreads();
        }
        copies_wait<0>();
        if constexpr (FUSED)
            normalise_part<E, ROLE, A>(in, c.x, c, t.image, a.batch, top, left, a.h, a.w, a.cols,
                                       group, figures, f.kind);
        __syncthreads();
        if (!s.active) continue;
        E *image = y + (int64_t)t.image * a.ho * a.wo * a.cols + s.channel;
        strip p = {};
        for (strip_move(p, s.slot, c.strips, c.lines); p.image < c.images;
             strip_move(p, c.slots, c.strips, c.lines)) {
            int row = p.line * LINES, col = p.at * STRIP;
            int down = left_of(a.ho, t.row, c.rows, row);
            int across = left_of(a.wo, t.col, c.cols, col);
            if (down <= 0 || across <= 0 || t.image + p.image >= a.batch) continue;
            float2 sum[LINES][STRIP] = {};
            correlate<E, K, S>(pixel_of(in, c.x, s, p.image, row * S, col * S), c.x.cols, taps,
                               sum);
            put_strip(image + ((p.image * a.ho + t.row + row) * a.wo + t.col + col) * a.cols, sum,
                      down, across, a.wo * a.cols, a.cols);
            if constexpr (FUSED) measure_strip<E>(m, sum, down, across);
        }
    }
    if constexpr (FUSED) {
        __syncthreads();
        join_slots((float *)memory, m, c, s, a.cols, group, chunk, f);
    }
}

/* Any k, stride and C: a thread an output element. */
template <typename E>
static __global__ void k_dwconv_plain(const E *x /* [B,H,W,C] */, const E *w /* [k,k,C] */,
                                      E *y /* [B,Ho,Wo,C] */, shape a, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = (int)(i % a.cols), col = (int)(i / a.cols % a.wo);
    int64_t line = i / a.cols / a.wo, image = line / a.ho;
    int top = (int)(line % a.ho) * a.stride - a.pad, left = col * a.stride - a.pad;
    float sum = 0;
    for (int ky = 0; ky < a.k; ky++) {
        for (int kx = 0; kx < a.k; kx++) {
            int h = top + ky, v = left + kx;
            if ((unsigned)h >= (unsigned)a.h || (unsigned)v >= (unsigned)a.w) continue;
            sum = fmaf(lk_float(x[((image * a.h + h) * a.w + v) * a.cols + channel]),
                       lk_float(w[(ky * a.k + kx) * a.cols + channel]), sum);
        }
    }
    y[i] = lk_store<E>(sum);
}

/* Run the statements with constants K and S; the second for norm_dwconv: has_normal(). */
#define NORMAL_KERNEL_SWITCH(a, K, S, ...)                                                         \
    do {                                                                                           \
        if ((a).k == 3 && (a).stride == 1) {                                                       \
            enum { K = 3, S = 1 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else if ((a).k == 3) {                                                                   \
            enum { K = 3, S = 2 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else if ((a).stride == 1) {                                                              \
            enum { K = 5, S = 1 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum { K = 5, S = 2 };                                                                 \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)
#define KERNEL_SWITCH(a, K, S, ...)                                                                \
    do {                                                                                           \
        if ((a).k == 3 && (a).stride == 1) {                                                       \
            enum { K = 3, S = 1 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else if ((a).k == 3) {                                                                   \
            enum { K = 3, S = 2 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else if ((a).k == 5 && (a).stride == 1) {                                                \
            enum { K = 5, S = 1 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else if ((a).k == 5) {                                                                   \
            enum { K = 5, S = 2 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else if ((a).stride == 1) {                                                              \
            enum { K = 7, S = 1 };                                                                 \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum { K = 7, S = 2 };                                                                 \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

extern "C" lk_status lk_cuda_dwconv(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *out = n->out[0];
    shape a = shape_of(n, in, out);
    int64_t count = lk_count(out);
    cut c;
    cudaStream_t stream = lk_cuda_stream_of(x);
    if (count == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, {
        const E *from = (const E *)lk_data(x, in), *w = (const E *)lk_data(x, n->in[1]);
        E *y = (E *)lk_data(x, out);
        if (has_special(&a) && cut_of(&c, &a, sizeof(E), false)) {
            KERNEL_SWITCH(a, K, S, {
                k_dwconv<E, K, S, AS_IS><<<(unsigned)((int64_t)c.tiles * c.groups), ROLE,
                                           (size_t)c.x.bytes, stream>>>(from, w, y, a, c, 1,
                                                                        fused());
            });
        } else {
            k_dwconv_plain<E><<<lk_blocks(count, 256), 256, 0, stream>>>(from, w, y, a, count);
        }
    });
    return lk_cuda_launched(n);
}

/* ---- gradient ------------------------------------------------------------------------------- */

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
        put_strip(dx + ((p.image * a.h + t.row + row) * a.w + t.col + col) * a.cols, sum, down,
                  across, a.w * a.cols, a.cols);
    }
}

/* sum[q][2j + p] of dx with stride 2: rows of parity q, columns of parity p; taps as they are. */
template <typename E, int K>
static __device__ __forceinline__ void spread(const E *at, int row, const float2 *taps,
                                              float2 (*sum)[2 * PAIRS])
{
    enum { CHUNK = 16 / sizeof(E), REACH = K / 2 }; /* of dy before the pair's own */
#pragma unroll
    for (int r = 0; r <= REACH; r++) {
#pragma unroll
        for (int u = 0; u < PAIRS + REACH; u++) {
            float2 v = get2(at + u * CHUNK);
#pragma unroll
            for (int q = 0; q < 2; q++) {
                int ky = q + 2 * (REACH - r);
#pragma unroll
                for (int j = 0; j < 2 * PAIRS; j++) {
                    int kx = (j & 1) + 2 * (j / 2 + REACH - u);
                    if (ky < K && kx >= 0 && kx < K) add_product(sum[q][j], taps[ky * K + kx], v);
                }
            }
        }
        at += row * CHUNK;
    }
}

/* dx with stride 2: pairs of rows and columns from the tile's own; the last tile has the rest. */
template <typename E, int K>
static __device__ __forceinline__ void tile_dx2(const E *dys, E *dx, const shape &a, const cut &c,
                                                const tile &t, const seat &s, const float2 *taps)
{
    strip p = {};
    int row_limit = t.bottom ? a.h : 2 * (t.row + c.rows) - a.pad; /* of h and w */
    int col_limit = t.right ? a.w : 2 * (t.col + c.cols) - a.pad;
    dx += (int64_t)t.image * a.h * a.w * a.cols + s.channel;
    for (strip_move(p, s.slot, c.pairs, c.pair_rows); p.image < c.images;
         strip_move(p, c.slots, c.pairs, c.pair_rows)) {
        if (t.image + p.image >= a.batch) continue;
        int col = p.at * PAIRS;
        float2 sum[2][2 * PAIRS] = {};
        spread<E, K>(pixel_of(dys, c.dy, s, p.image, p.line, col), c.dy.cols, taps, sum);
        int h = 2 * (t.row + p.line) - a.pad, w = 2 * (t.col + col) - a.pad;
        E *to = dx + ((p.image * a.h + h) * a.w + w) * a.cols;
#pragma unroll
        for (int q = 0; q < 2; q++) {
            if (h + q < 0 || h + q >= row_limit) continue;
#pragma unroll
            for (int j = 0; j < 2 * PAIRS; j++)
                if (w + j >= 0 && w + j < col_limit)
                    put2(to + (q * a.w + j) * a.cols, sum[q][j]);
        }
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
        load_part<E, 2 * ROLE>(to, x, c.x, c, t.image, a.batch, t.row * S - K / 2,
                               t.col * S - K / 2, a.h, a.w, a.cols, group);
        load_part<E, 2 * ROLE>((E *)((char *)to + c.x.bytes), dy, c.dy, c, t.image, a.batch,
                               t.row - K / 2, t.col - K / 2, a.ho, a.wo, a.cols, group);
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
            normalise_part<E, 2 * ROLE, A>(in, c.x, c, t.image, a.batch, t.row * S - K / 2,
                                           t.col * S - K / 2, a.h, a.w, a.cols, group, figures,
                                           kind);
        __syncthreads();
        if (s.active) {
            if (for_dw) tile_dw<E, K, S>(in, dys, a, c, t, s, taps);
            else if (dx && S == 1) tile_dx<E, K>(dys, dx, a, c, t, s, taps);
            else if (dx) tile_dx2<E, K>(dys, dx, a, c, t, s, taps);
        }
        __syncthreads(); /* before this tile's place is written again */
    }

    /* Add the slots in order. */
    float *sums = (float *)memory; /* [slots, K K, width 8] */
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
    shape a = shape_of(n, n->in[0], n->in[2]);
    cut c;
    int chunks = grad_special(&c, &a, lk_dtype_size(n->in[0]->dtype)) ? chunks_of(&c)
                                                                      : plain_chunks(&a);
    return (size_t)chunks * (size_t)(a.k * a.k) * (size_t)a.cols * sizeof(float);
}

/* Shared memory of the special kernel: two stages, and later the sums of the slots. */
static size_t grad_bytes(const cut *c, const shape *a, bool normal)
{
    size_t stages = 2 * (size_t)cut_bytes(c, true);
    if (normal) stages += 3 * (size_t)c->width * 8 * sizeof(float);
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
    if (activation == LK_RELU) NORMAL_KERNEL_SWITCH(a, K, S, GRAD_LAUNCH(LK_RELU));
    else if (activation == LK_HARD_SWISH)
        NORMAL_KERNEL_SWITCH(a, K, S, GRAD_LAUNCH(LK_HARD_SWISH));
    else KERNEL_SWITCH(a, K, S, GRAD_LAUNCH(AS_IS));
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
    shape a = shape_of(n, in, dy);
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

/* ---- norm_dwconv ----------------------------------------------------------------------------
 * Shapes and activations that have no kernel of their own: x is first normalised into scratch. */

static shape normal_shape(const lk_node *n, const lk_tensor *x, const lk_tensor *y)
{
    shape a = shape_of(n, x, y);
    a.stride = n->attr.norm_dwconv.stride;
    a.pad = n->attr.norm_dwconv.pad;
    return a;
}

static lk_normal normal_of(lk_exec *x, const lk_node *n)
{
    lk_normal from = {(const float *)lk_data(x, n->in[4]),
                      (const float *)lk_data(x, n->in[5]),
                      (const float *)lk_data(x, n->in[2]),
                      (const float *)lk_data(x, n->in[3]),
                      n->attr.norm_dwconv.eps,
                      false};
    return from;
}

static bool has_normal(const lk_node *n, const shape *a)
{
    lk_activation kind = n->attr.norm_dwconv.activation;
    return a->k <= 5 && (kind == LK_RELU || kind == LK_HARD_SWISH);
}

static size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* n as the plain op on *z: x normalised, in scratch behind `used` bytes. */
static lk_status normalise_first(lk_exec *x, const lk_node *n, lk_op op, size_t used,
                                 lk_tensor *z, lk_node *plain)
{
    *z = *n->in[0];
    z->base = NULL;
    z->region = LK_REGION_SCRATCH;
    z->offset = rounded(used);
    *plain = *n;
    plain->op = op;
    plain->in[0] = z;
    plain->attr.conv.stride = n->attr.norm_dwconv.stride;
    plain->attr.conv.pad = n->attr.norm_dwconv.pad;
    return lk_cuda_normalise(x, n, n->in[0], z, normal_of(x, n), n->attr.norm_dwconv.activation);
}

/* Tiles of a block when y is measured. */
static int measured_per(const cut *c)
{
    int chunks = MEASURE_BLOCKS / c->groups;
    return (int)lk_ceil(c->tiles, chunks < 1 ? 1 : chunks);
}

/* Whether the kernel above takes the node; its cut then. */
static bool forward_special(cut *c, const lk_node *n, const shape *a)
{
    return has_special(a) && has_normal(n, a) &&
           cut_of(c, a, lk_dtype_size(n->in[0]->dtype), false);
}

size_t lk_cuda_norm_dwconv_scratch(const lk_node *n)
{
    shape a = normal_shape(n, n->in[0], n->out[0]);
    cut c;
    if (!forward_special(&c, n, &a))
        return rounded(lk_cuda_moments_scratch(n->out[0])) + lk_bytes(n->in[0]);
    size_t chunks = (size_t)lk_ceil(c.tiles, measured_per(&c));
    return chunks * (2 * (size_t)a.cols + 1) * sizeof(float);
}

static lk_moments normal_moments(lk_exec *x, const lk_node *n)
{
    lk_moments m = {(float *)lk_data(x, n->out[1]),
                    (float *)lk_data(x, n->out[2]),
                    (float *)lk_data(x, n->out[3]),
                    (float *)lk_data(x, n->out[4]),
                    (n->accumulate >> 3 & 1) != 0,
                    (n->accumulate >> 4 & 1) != 0,
                    n->attr.norm_dwconv.eps};
    return m;
}

template <typename E>
static lk_status forward_launch(lk_exec *x, const lk_node *n, const shape &a, const cut &c)
{
    int per = measured_per(&c), chunks = (int)lk_ceil(c.tiles, per);
    float *mean = (float *)x->base[LK_REGION_SCRATCH]; /* [chunks,C] */
    float *square = mean + (int64_t)chunks * a.cols;    /* [chunks,C] */
    float *count = square + (int64_t)chunks * a.cols;   /* [chunks] */
    lk_activation kind = n->attr.norm_dwconv.activation;
    fused f = {normal_of(x, n), kind, mean, square, count};
    size_t columns = (size_t)c.width * 8;
    size_t bytes = (size_t)c.x.bytes + 3 * columns * sizeof(float);
    size_t join = (size_t)c.slots * (2 * columns + 1) * sizeof(float);
    if (join > bytes) bytes = join;
    NORMAL_KERNEL_SWITCH(a, K, S, {
        auto kernel = kind == LK_RELU ? k_dwconv<E, K, S, LK_RELU>
                                      : k_dwconv<E, K, S, LK_HARD_SWISH>;
        kernel<<<(unsigned)(chunks * c.groups), ROLE, bytes, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
            (E *)lk_data(x, n->out[0]), a, c, per, f);
    });
    LK_TRY(lk_cuda_launched(n));
    if (n->outputs == 1) return LK_OK; /* nobody asks for the moments */
    return lk_cuda_join_moments(x, n, mean, square, count, chunks, n->out[0],
                                normal_moments(x, n));
}

extern "C" lk_status lk_cuda_norm_dwconv(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *out = n->out[0];
    shape a = normal_shape(n, in, out);
    cut c;
    if (lk_count(out) == 0) return LK_OK;
    if (forward_special(&c, n, &a)) {
        LK_FLOAT_SWITCH(in->dtype, E, return forward_launch<E>(x, n, a, c));
    }
    lk_tensor z;
    lk_node plain;
    LK_TRY(normalise_first(x, n, LK_OP_DWCONV, lk_cuda_moments_scratch(out), &z, &plain));
    LK_TRY(lk_cuda_dwconv(x, &plain));
    return n->outputs == 1 ? LK_OK : lk_cuda_measure(x, n, out, normal_moments(x, n));
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
    return special && has_normal(n, &a) ? used : rounded(used) + lk_bytes(n->in[0]);
}

extern "C" lk_status lk_cuda_norm_dwconv_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *dy = n->in[6];
    shape a = normal_shape(n, in, dy);
    cut c;
    if (lk_count(in) == 0) return LK_OK;
    bool special = grad_special(&c, &a, lk_dtype_size(in->dtype));
    if (special && has_normal(n, &a)) {
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
