/* dwconv, alone or as norm_dwconv.
 *
 * A block copies a tile of one image (or several small images whole) for a group of `width`
 * vectors of 8 channels into shared memory, zeros for the padding, and computes from there; a
 * thread keeps 2 channels, their k x k weights in registers, and computes strips of 2 x STRIP
 * outputs, so that a pixel is read from shared memory and widened to f32 once for all its products
 * in the strip. In shared memory the 16-byte chunks of a pixel lie in planes of their own: the
 * pixels of a strip are then a constant distance apart. A whole row or image in a tile has its
 * padding once: the zeros left of the next row are those right of this one.
 *
 * norm_dwconv: x goes through registers, where it is normalised, into the tile, and the next tile
 * into the level 2 cache while this one is computed. Its blocks walk through several tiles each,
 * measuring what they write: a partial figure a block and channel.
 *
 * These kernels are bound by the instructions they issue as much as by memory: the cut into tiles
 * weighs both (dwconv_cut.cuh).
 *
 * Other k and strides, C % 8 != 0: a plain kernel, one output a thread, that reads what it needs
 * from memory.
 *
 * x X [B,H,W,C]; w X [k,k,C]; y X [B,Ho,Wo,C]. */
#include "cuda/dwconv.cuh"

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

/* The tile's strips of y; if MEASURE into m too. */
template <typename E, int K, int S, bool MEASURE>
static __device__ __forceinline__ void tile_y(const E *in, E *y, const shape &a, const cut &c,
                                              const tile &t, const seat &s, const float2 *taps,
                                              running &m)
{
    y += (int64_t)t.image * a.ho * a.wo * a.cols + s.channel;
    for (int i = s.slot; i < c.images * c.lines * c.strips; i += c.slots) {
        strip p = strip_of(i, c.by_strips, c.by_lines);
        int row = p.line * LINES, col = p.at * STRIP;
        int down = left_of(a.ho, t.row, c.rows, row), across = left_of(a.wo, t.col, c.cols, col);
        if (down <= 0 || across <= 0 || t.image + p.image >= a.batch) continue;
        float2 sum[LINES][STRIP] = {};
        correlate<E, K, S>(pixel_of(in, c.x, s, p.image, row * S, col * S), c.x.cols, taps, sum);
        end_strip<E, MEASURE>(y + ((p.image * a.ho + t.row + row) * a.wo + t.col + col) * a.cols, m,
                              sum, down, across, a.wo * a.cols, a.cols);
    }
}

/* Block: tiles [chunk per, (chunk + 1) per). A: AS_IS, or the activation of norm_dwconv. */
template <typename E, int K, int S, int A>
static __global__ void __launch_bounds__(ROLE, blocks_of(K))
    k_dwconv(const E *x /* [B,H,W,C] */, const E *w /* [K,K,C] */, E *y /* [B,Ho,Wo,C] */, shape a,
             cut c, int per, fused f)
{
    constexpr bool FUSED = A != AS_IS, EARLY = K == 3; /* with 5 x 5 taps too few registers */
    extern __shared__ __align__(16) char memory[];
    E *in = (E *)memory;
    float *figures = (float *)(memory + c.x.bytes);
    int group = (int)(blockIdx.x % c.groups), chunk = (int)(blockIdx.x / c.groups);
    int begin = chunk * per, end = begin + per < c.tiles ? begin + per : c.tiles;
    seat s = seat_of(c, (int)threadIdx.x, group);
    running m = {};
    float2 taps[K * K];
    clear_rest<E, ROLE>(in, c.x, c);
    if constexpr (FUSED) load_figures<ROLE>(figures, f.from, c.width * 8, a.cols, group);
#pragma unroll
    for (int i = 0; i < K * K; i++)
        taps[i] = s.active ? get2(w + i * a.cols + s.channel) : make_float2(0, 0);
    chunks<E, EARLY ? 8 : 3> r;
    walk k;
    for (int number = begin; number < end; number++) {
        tile t = tile_of(c, number);
        origin o = origin_of<S>(a, c, t, group);
        if constexpr (FUSED) {
            if (number == begin || !EARLY) {
                k = walk_of(x, c.x, c, o, (int)threadIdx.x);
                fetch_chunks(r, k, c.x, o);
            }
            __syncthreads(); /* the tile before is done with, or the figures are there */
            take_part<E, A>(in, r, k, c.x, c, o, figures, f.kind);
            if (number + 1 < end && EARLY) {
                origin next = origin_of<S>(a, c, tile_of(c, number + 1), group);
                k = walk_of(x, c.x, c, next, (int)threadIdx.x);
                fetch_chunks(r, k, c.x, next);
            }
        } else {
            if (number > begin) __syncthreads();
            load_part<E>(in, x, c.x, c, o);
            copies_commit();
            copies_wait<0>();
        }
        __syncthreads();
        if (s.active) tile_y<E, K, S, FUSED>(in, y, a, c, t, s, taps, m);
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

extern "C" lk_status lk_cuda_dwconv(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *out = n->out[0];
    shape a = shape_of(n, in, n->in[1], out);
    int64_t count = lk_count(out);
    cut c;
    cudaStream_t stream = lk_cuda_stream_of(x);
    if (count == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, {
        const E *from = (const E *)lk_data(x, in), *w = (const E *)lk_data(x, n->in[1]);
        E *y = (E *)lk_data(x, out);
        if (has_special(&a) && cut_of(&c, &a, sizeof(E), false)) {
            LK_KERNEL_SWITCH(7, a, K, S, {
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

/* ---- norm_dwconv ----------------------------------------------------------------------------
 * Shapes and activations that have no kernel of their own: x is first normalised into scratch. */

/* Tiles of a block when y is measured: all blocks are resident at once. */
static int measured_per(const cut *c, const shape *a)
{
    int chunks = MULTIPROCESSORS * blocks_of(a->k) / c->groups;
    return (int)lk_ceil(c->tiles, chunks < 1 ? 1 : chunks);
}

/* Whether the kernel above takes the node; its cut then. */
static bool forward_special(cut *c, const lk_node *n, const shape *a)
{
    return has_special(a) && a->normal && cut_of(c, a, lk_dtype_size(n->in[0]->dtype), false);
}

size_t lk_cuda_norm_dwconv_scratch(const lk_cuda *, const lk_node *n)
{
    shape a = normal_shape(n, n->in[0], n->out[0]);
    cut c;
    if (!forward_special(&c, n, &a))
        return rounded(lk_cuda_moments_scratch(n->out[0])) + lk_bytes(n->in[0]);
    size_t chunks = (size_t)lk_ceil(c.tiles, measured_per(&c, &a));
    return chunks * (2 * (size_t)a.cols + 1) * sizeof(float);
}

static lk_moments normal_moments(lk_exec *x, const lk_node *n)
{
    return lk_cuda_moments_of(x, n, 1, n->attr.norm_dwconv.eps);
}

template <typename E>
static lk_status forward_launch(lk_exec *x, const lk_node *n, const shape &a, const cut &c)
{
    int per = measured_per(&c, &a), chunks = (int)lk_ceil(c.tiles, per);
    float *mean = (float *)x->base[LK_REGION_SCRATCH]; /* [chunks,C] */
    float *square = mean + (int64_t)chunks * a.cols;    /* [chunks,C] */
    float *count = square + (int64_t)chunks * a.cols;   /* [chunks] */
    lk_activation kind = n->attr.norm_dwconv.activation;
    fused f = {normal_of(x, n), kind, mean, square, count};
    size_t columns = (size_t)c.width * 8;
    size_t bytes = (size_t)c.x.bytes + 2 * columns * sizeof(float);
    size_t join = (size_t)c.slots * (2 * columns + 1) * sizeof(float);
    if (join > bytes) bytes = join;
    LK_KERNEL_SWITCH(5, a, K, S, {
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
