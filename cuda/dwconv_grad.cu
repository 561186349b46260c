/* dwconv_grad, norm_dwconv_grad: tiles as in dwconv.cu.
 *
 * The gradient reads x and dy once for both results. Half of a block's threads compute dx, the
 * other half dw: `taps` holds the weights of the first and the sums of the second. A block walks
 * through the tiles of a chunk, the next one being copied meanwhile, and then writes one partial
 * sum of dw a tap and channel; a second kernel adds those of the chunks in double. The cut into
 * tiles and chunks is made from the shapes.
 *
 * norm_dwconv_grad: the threads of dw normalise a tile of x before they read it, while those of dx
 * add up, of dx as they store it and of x, which they read from memory where it is not normalised,
 * what the gradient of the norm needs: two more partial sums a channel. The tile has just come from
 * there, so the level 2 cache still holds it; they ask for it before they compute a strip.
 *
 * With stride 2 the rows of dx of one parity come after those of the other, 2 STRIP columns at
 * once: each meets the taps of its parity alone, and there are no products with inserted zeros.
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
    for (int i = s.slot; i < c.images * c.lines * c.strips; i += c.slots) {
        strip p = strip_of(i, c.by_strips, c.by_lines);
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

/* What a thread of dx adds up for the gradient of the norm; z = x scale + shift, dz = dx act'(z).
 * It lies in shared memory, for with 5 x 5 taps there are no registers left. */
typedef struct pull {
    const float *figures; /* scale, shift and mean of the thread's channels, `columns` apart */
    int columns;
    float *sums; /* of dz and of dz (x - mean), 2 ROLE apart */
} pull;

/* The compiler else keeps more in registers than there are: values of memory that it will read
 * again, and multiples of what is the same for all strips. */
static __device__ __forceinline__ void read_anew(void) { asm volatile("" ::: "memory"); }
static __device__ __forceinline__ int compute_anew(int v)
{
    asm volatile("" : "+r"(v));
    return v;
}

/* dy act'(z); for ReLU a choice instead of a product. */
template <int A>
static __device__ __forceinline__ float cotangent(lk_activation kind, float z, float dy)
{
    if constexpr (A == LK_RELU) return z > 0 ? dy : 0;
    else return dy * lk_act_derivative<A>(kind, z);
}

/* Two neighbouring values of x as they lie in memory. */
template <typename E>
static __device__ __forceinline__ typename stored<E>::word load2(const E *x)
{
    return *(const typename stored<E>::word *)x;
}

/* to = two neighbouring values of x as they lie in memory, if `there`. Else it stays: what is not
 * set first would be kept from one strip to the next. Without a branch, for the compiler computes
 * the strip before it. */
static __device__ __forceinline__ void ask(uint32_t &to, const void *x, bool there)
{
    asm volatile("{.reg .pred p;\n"
                 "setp.ne.u32 p, %2, 0;\n"
                 "@p ld.global.u32 %0, [%1];}"
                 : "+r"(to)
                 : "l"(x), "r"((uint32_t)there));
}
static __device__ __forceinline__ void ask(uint64_t &to, const void *x, bool there)
{
    asm volatile("{.reg .pred p;\n"
                 "setp.ne.u32 p, %2, 0;\n"
                 "@p ld.global.u64 %0, [%1];}"
                 : "+l"(to)
                 : "l"(x), "r"((uint32_t)there));
}

/* One value to dx and, as it is stored there, into both sums; of: scale, shift, mean. */
template <typename E, int A>
static __device__ __forceinline__ void end_value(E *dx, const typename stored<E>::word &x,
                                                 float2 value, const float2 (&of)[3],
                                                 float2 (&m)[2], lk_activation kind)
{
    typename stored<E>::pair p = store2<E>(value);
    *(typename stored<E>::pair *)dx = p;
    if constexpr (A != AS_IS) {
        float2 v = get2((const E *)&p), u = get2((const E *)&x);
        v.x = cotangent<A>(kind, fmaf(u.x, of[0].x, of[1].x), v.x);
        v.y = cotangent<A>(kind, fmaf(u.y, of[0].y, of[1].y), v.y);
        m[0].x += v.x;
        m[0].y += v.y;
        add_product(m[1], v, make_float2(u.x - of[2].x, u.y - of[2].y));
    }
}

/* x where a strip of dx lies, asked for before the strip is computed: of whole lines, as most are.
 * Lines are `row` elements apart, pixels `cols`. */
template <typename E, int K, int A>
static __device__ __forceinline__ void load_lines(typename stored<E>::word (*u)[STRIP],
                                                  const E *x, int row, int cols,
                                                  const int (&across)[LINES])
{
    if constexpr (A != AS_IS) {
#pragma unroll
        for (int o = 0; o < LINES; o++) {
            bool whole = across[o] >= STRIP;
            if (K == 5 && !whole) continue;
#pragma unroll
            for (int j = 0; j < STRIP; j++) {
                const E *from = x + o * row + j * cols;
                if constexpr (K == 5) u[o][j] = load2(from);
                else ask(u[o][j], from, whole);
            }
        }
    }
}

/* The first `across` < STRIP values of a line to dx, and into m. */
template <typename E, int A>
static __device__ __forceinline__ void end_part(E *dx, const E *x, int cols, const float2 *sum,
                                                int across, const float2 (&of)[3], float2 (&m)[2],
                                                lk_activation kind)
{
    typename stored<E>::word u[STRIP] = {};
#pragma unroll
    for (int j = 0; j < STRIP; j++)
        if (A != AS_IS && j < across) u[j] = load2(x + j * cols);
#pragma unroll
    for (int j = 0; j < STRIP; j++)
        if (j < across) end_value<E, A>(dx + j * cols, u[j], sum[j], of, m, kind);
}

/* The first across[o] values of each line of a strip to dx [...,cols] and, of a normalised x, the
 * strip's sums to the thread's. u: as load_lines() has it of x, which lies as dx. */
template <typename E, int A>
static __device__ __forceinline__ void end_dx(E *dx, const E *x,
                                              const typename stored<E>::word (*u)[STRIP], int row,
                                              int cols, const float2 (*sum)[STRIP],
                                              const int (&across)[LINES], const pull &to,
                                              lk_activation kind)
{
    float2 of[3] = {}, m[2] = {};
    if constexpr (A != AS_IS) {
        read_anew();
        row = compute_anew(row);
        cols = compute_anew(cols);
        for (int i = 0; i < 3; i++) of[i] = get2(to.figures + i * to.columns);
    }
#pragma unroll
    for (int o = 0; o < LINES; o++) {
        if (across[o] >= STRIP) {
#pragma unroll
            for (int j = 0; j < STRIP; j++)
                end_value<E, A>(dx + o * row + j * cols, u[o][j], sum[o][j], of, m, kind);
        } else {
            end_part<E, A>(dx + o * row, x + o * row, cols, sum[o], across[o], of, m, kind);
        }
    }
    if constexpr (A != AS_IS) {
        for (int i = 0; i < 2; i++) {
            float *at = to.sums + i * 2 * ROLE;
            float2 before = get2(at);
            put2(at, make_float2(before.x + m[i].x, before.y + m[i].y));
        }
    }
}

/* dx with stride 1: the tile's own rows and columns; taps turned round. */
template <typename E, int K, int A>
static __device__ __forceinline__ void tile_dx(const E *x, const E *dys, E *dx, const shape &a,
                                               const cut &c, const tile &t, const seat &s,
                                               const float2 *taps, const pull &m,
                                               lk_activation kind)
{
    int64_t first = (int64_t)t.image * a.h * a.w * a.cols + s.channel;
    for (int i = s.slot; i < c.images * c.lines * c.strips; i += c.slots) {
        strip p = strip_of(i, c.by_strips, c.by_lines);
        int row = p.line * LINES, col = p.at * STRIP;
        int down = left_of(a.h, t.row, c.rows, row), across = left_of(a.w, t.col, c.cols, col);
        if (down <= 0 || across <= 0 || t.image + p.image >= a.batch) continue;
        const int counts[LINES] = {across, down > 1 ? across : 0};
        int cols = compute_anew(a.cols), line = a.w * cols;
        int64_t at = first + ((p.image * a.h + t.row + row) * a.w + t.col + col) * cols;
        typename stored<E>::word u[LINES][STRIP] = {};
        float2 sum[LINES][STRIP] = {};
        load_lines<E, K, A>(u, x + at, line, cols, counts);
        correlate<E, K, 1>(pixel_of(dys, c.dy, s, p.image, row, col), c.dy.cols, taps, sum);
        end_dx<E, A>(dx + at, x + at, u, line, cols, sum, counts, m, kind);
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

/* dx with stride 2, the rows of parity Q: 2i + Q for each row i of outputs of the tile, and twice
 * its columns. */
template <typename E, int K, int Q, int A>
static __device__ __forceinline__ void tile_dx2(const E *x, const E *dys, E *dx, const shape &a,
                                                const cut &c, const tile &t, const seat &s,
                                                const float2 *taps, const pull &m,
                                                lk_activation kind)
{
    enum { BACK = K / 2 - K / 4 };
    int64_t first = (int64_t)t.image * a.h * a.w * a.cols + s.channel;
    for (int i = s.slot; i < c.images * c.rows * c.strips; i += c.slots) {
        strip p = strip_of(i, c.by_strips, c.by_rows);
        int row = 2 * p.line + Q, col = 2 * STRIP * p.at;
        int down = left_of(a.h, 2 * t.row, 2 * c.rows, row);
        int across = left_of(a.w, 2 * t.col, 2 * c.cols, col);
        if (down <= 0 || across <= 0 || t.image + p.image >= a.batch) continue;
        const int counts[LINES] = {across, across - STRIP};
        int cols = compute_anew(a.cols), line = STRIP * cols;
        int64_t at = first + ((p.image * a.h + 2 * t.row + row) * a.w + 2 * t.col + col) * cols;
        typename stored<E>::word u[LINES][STRIP] = {};
        float2 sum[LINES][STRIP] = {};
        load_lines<E, K, A>(u, x + at, line, cols, counts);
        spread<E, K, Q>(pixel_of(dys, c.dy, s, p.image, p.line + BACK, p.at * STRIP + BACK),
                        c.dy.cols, taps, sum);
        end_dx<E, A>(dx + at, x + at, u, line, cols, sum, counts, m, kind);
    }
}

/* Partial sums of a chunk and channel: dw, then those of a pull. */
__host__ __device__ constexpr int figures_of(int k, bool normal)
{
    return k * k + (normal ? 2 : 0);
}

/* Shared memory before the stages: the sums of the threads of dx and the figures of the norm. */
__host__ __device__ constexpr int head_bytes(int columns, bool normal)
{
    return normal ? (4 * ROLE + 3 * columns) * (int)sizeof(float) : 0;
}

/* Add the slots' sums in order. All threads; the stages are free. */
template <int K, int A>
static __device__ __forceinline__ void add_slots(float *sums /* [slots, FIGURES, width 8] */,
                                                 const float2 *taps, const pull &m, bool for_dw,
                                                 const shape &a, const cut &c, const seat &s,
                                                 int group, int chunk,
                                                 float *partial /* [chunks,FIGURES,C] */)
{
    constexpr int FIGURES = figures_of(K, A != AS_IS);
    int columns = c.width * 8;
    float *own = sums + s.slot * FIGURES * columns + 2 * s.pair;
    if (for_dw && s.active) {
#pragma unroll
        for (int i = 0; i < K * K; i++) put2(own + i * columns, taps[i]);
    } else if (A != AS_IS && s.active) {
        for (int i = 0; i < 2; i++)
            put2(own + (K * K + i) * columns, get2(m.sums + i * 2 * ROLE));
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < FIGURES * columns; i += 2 * ROLE) {
        int figure = i / columns, channel = group * columns + i - figure * columns;
        if (channel >= a.cols) continue;
        float sum = 0;
        for (int slot = 0; slot < c.slots; slot++) sum += sums[slot * FIGURES * columns + i];
        partial[((int64_t)chunk * FIGURES + figure) * a.cols + channel] = sum;
    }
}

/* figures [3, columns]: as load_figures has them, and the means. */
static __device__ __forceinline__ void load_normal(float *figures, const lk_normal &from,
                                                   int columns, int cols, int group)
{
    load_figures<2 * ROLE>(figures, from, columns, cols, group);
    for (int i = (int)threadIdx.x; i < columns; i += 2 * ROLE)
        figures[2 * columns + i] =
            group * columns + i < cols ? from.mean[group * columns + i] : 0;
}

/* The threads of dw wait for each other. */
static __device__ __forceinline__ void role_barrier(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"((int)ROLE) : "memory");
}

/* A: AS_IS, or the activation of norm_dwconv_grad, whose x is normalised. */
template <typename E, int K, int S, int A>
static __global__ void __launch_bounds__(2 * ROLE, K == 7 ? 1 : 2)
    k_dwconv_grad(const E *x /* [B,H,W,C] */, const E *w /* [K,K,C] */,
                  const E *dy /* [B,Ho,Wo,C] */, E *dx /* [B,H,W,C] or NULL */,
                  float *partial /* [chunks,FIGURES,C] */, shape a, cut c, int per,
                  lk_normal normal, lk_activation kind)
{
    extern __shared__ __align__(16) char memory[];
    int group = (int)(blockIdx.x % c.groups), chunk = (int)(blockIdx.x / c.groups);
    int begin = chunk * per, end = begin + per < c.tiles ? begin + per : c.tiles;
    int stage = c.x.bytes + c.dy.bytes, columns = c.width * 8;
    float *pulls = (float *)memory;    /* [2, ROLE, 2] */
    float *figures = pulls + 4 * ROLE; /* [3, columns] */
    char *stages = memory + head_bytes(columns, A != AS_IS);
    auto load = [&](int number) {
        tile t = tile_of(c, number);
        E *to = (E *)(stages + (number - begin) % 2 * stage);
        origin o = {t.image, t.row - K / 2, t.col - K / 2, a.batch, a.ho, a.wo, a.cols,
                    group * columns};
        load_part<E>(to, x, c.x, c, origin_of<S>(a, c, t, group));
        load_part<E>((E *)((char *)to + c.x.bytes), dy, c.dy, c, o);
        copies_commit();
    };
    for (int i = 0; i < 2; i++) {
        clear_rest<E, 2 * ROLE>((E *)(stages + i * stage), c.x, c);
        clear_rest<E, 2 * ROLE>((E *)(stages + i * stage + c.x.bytes), c.dy, c);
    }
    load(begin);
    bool for_dw = threadIdx.x < ROLE;
    seat s = seat_of(c, (int)threadIdx.x % ROLE, group);
    pull m = {figures + 2 * s.pair, columns, pulls + 2 * (threadIdx.x % ROLE)};
    if constexpr (A != AS_IS) {
        load_normal(figures, normal, columns, a.cols, group);
        for (int i = (int)threadIdx.x; i < 4 * ROLE; i += 2 * ROLE) pulls[i] = 0;
        __syncthreads();
    }

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
        E *in = (E *)(stages + (number - begin) % 2 * stage);
        const E *dys = (const E *)((const char *)in + c.x.bytes);
        tile t = tile_of(c, number);
        __syncthreads();
        if (for_dw) {
            if constexpr (A != AS_IS) {
                origin o = origin_of<S>(a, c, t, group);
                for (int i = 0; i < 2; i++) /* what two threads have copied */
                    normalise_part<E, A, K == 3 ? 4 : 2>(in, c.x, c, o, figures, kind,
                                                         (int)threadIdx.x + i * ROLE);
                role_barrier();
            }
            if (s.active) tile_dw<E, K, S>(in, dys, a, c, t, s, taps);
        } else if (s.active && dx) {
            if constexpr (S == 1) {
                tile_dx<E, K, A>(x, dys, dx, a, c, t, s, taps, m, kind);
            } else {
                tile_dx2<E, K, 0, A>(x, dys, dx, a, c, t, s, taps, m, kind);
                tile_dx2<E, K, 1, A>(x, dys, dx, a, c, t, s, taps, m, kind);
            }
        }
        __syncthreads(); /* before this tile's place is written again */
    }
    add_slots<K, A>((float *)stages, taps, m, for_dw, a, c, s, group, chunk, partial);
}

/* Where the sums of columns go. */
typedef struct ending {
    float *dw; /* the first `split` columns, or NULL */
    bool accumulate;
    int split;
    float *sums; /* the others, or NULL */
} ending;

/* Sums over chunks of partial [chunks, columns]. A block: LANES chunks side by side,
 * SUM_THREADS / LANES columns. */
template <int LANES>
static __global__ void __launch_bounds__(SUM_THREADS)
    k_sum(const float *partial, int chunks, int columns, ending out)
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
    bool for_dw = column < out.split;
    float *to = for_dw ? out.dw + column : out.sums + column - out.split;
    if (!(for_dw ? out.dw : out.sums)) return;
    *to = for_dw && out.accumulate ? *to + (float)sum : (float)sum;
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

static size_t partial_bytes(const shape *a, int chunks)
{
    return (size_t)chunks * (size_t)figures_of(a->k, a->normal) * (size_t)a->cols * sizeof(float);
}

size_t lk_cuda_dwconv_grad_scratch(const lk_cuda *, const lk_node *n)
{
    shape a = shape_of(n, n->in[0], n->in[1], n->in[2]);
    cut c;
    bool special = grad_special(&c, &a, lk_dtype_size(n->in[0]->dtype));
    return partial_bytes(&a, special ? chunks_of(&c) : plain_chunks(&a));
}

/* Shared memory of the special kernel: its head, and two stages, later the slots' sums. */
static size_t grad_bytes(const cut *c, const shape *a)
{
    int columns = c->width * 8, stages = 2 * cut_bytes(c, true);
    int sums = c->slots * figures_of(a->k, a->normal) * columns * (int)sizeof(float);
    return (size_t)(head_bytes(columns, a->normal) + (stages > sums ? stages : sums));
}

static void sum_chunks(cudaStream_t s, const float *partial, int chunks, int columns, ending out)
{
    if (chunks > 64)
        k_sum<32><<<lk_blocks(columns, SUM_THREADS / 32), SUM_THREADS, 0, s>>>(partial, chunks,
                                                                               columns, out);
    else
        k_sum<8><<<lk_blocks(columns, SUM_THREADS / 8), SUM_THREADS, 0, s>>>(partial, chunks,
                                                                             columns, out);
}

#define GRAD_LAUNCH(A)                                                                             \
    do {                                                                                           \
        auto kernel = k_dwconv_grad<E, K, S, A>;                                                   \
        LK_CUDA_AT(n, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,    \
                                           (int)bytes));                                           \
        kernel<<<(unsigned)(chunks_of(&c) * c.groups), 2 * ROLE, bytes, lk_cuda_stream_of(x)>>>(   \
            from, w, dys, dx, partial, a, c, tiles_per_chunk(&c), normal, kind);                   \
    } while (0)

/* Launch the special kernel. kind: AS_IS, or with a.normal an activation of has_normal() and then
 * `normal`. */
template <typename E>
static lk_status grad_launch(lk_exec *x, const lk_node *n, const lk_tensor *dy, const shape &a,
                             const cut &c, const lk_normal &normal, int activation)
{
    const E *from = (const E *)lk_data(x, n->in[0]), *w = (const E *)lk_data(x, n->in[1]);
    const E *dys = (const E *)lk_data(x, dy);
    E *dx = (E *)lk_data(x, n->out[0]);
    float *partial = (float *)x->base[LK_REGION_SCRATCH]; /* [chunks,FIGURES,C] */
    size_t bytes = grad_bytes(&c, &a);
    lk_activation kind = (lk_activation)activation;
    if (activation == LK_RELU) LK_KERNEL_SWITCH(5, a, K, S, GRAD_LAUNCH(LK_RELU));
    else if (activation == LK_HARD_SWISH) LK_KERNEL_SWITCH(5, a, K, S, GRAD_LAUNCH(LK_HARD_SWISH));
    else LK_KERNEL_SWITCH(7, a, K, S, GRAD_LAUNCH(AS_IS));
    return lk_cuda_launched(n);
}

/* dw, and of a.normal the sums, from those of the chunks in scratch. */
static lk_status grad_end(lk_exec *x, const lk_node *n, const shape &a, int chunks)
{
    ending out = {(float *)lk_data(x, n->out[1]), (n->accumulate >> 1 & 1) != 0,
                  a.k * a.k * a.cols, a.normal ? (float *)lk_data(x, n->out[2]) : NULL};
    sum_chunks(lk_cuda_stream_of(x), (const float *)x->base[LK_REGION_SCRATCH], chunks,
               figures_of(a.k, a.normal) * a.cols, out);
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

/* ---- norm_dwconv_grad: shapes and activations without a kernel of their own normalise x first,
 * and sum at the end. */

/* Whether the special kernel takes the node; its cut then. */
static bool normal_special(cut *c, const shape *a, const lk_node *n)
{
    return a->normal && grad_special(c, a, lk_dtype_size(n->in[0]->dtype));
}

/* Scratch of the plain op, before the normalised image. */
static size_t plain_bytes(const lk_node *n, shape a)
{
    cut c;
    a.normal = false;
    bool special = grad_special(&c, &a, lk_dtype_size(n->in[0]->dtype));
    return partial_bytes(&a, special ? chunks_of(&c) : plain_chunks(&a));
}

size_t lk_cuda_norm_dwconv_grad_scratch(const lk_cuda *, const lk_node *n)
{
    shape a = normal_shape(n, n->in[0], n->in[6]);
    cut c;
    if (normal_special(&c, &a, n)) return partial_bytes(&a, chunks_of(&c));
    size_t bytes = rounded(plain_bytes(n, a)) + lk_bytes(n->in[0]);
    size_t sums = lk_cuda_batch_sums_scratch(n->in[0]);
    return bytes > sums ? bytes : sums;
}

extern "C" lk_status lk_cuda_norm_dwconv_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *dy = n->in[6];
    lk_activation kind = n->attr.norm_dwconv.activation;
    shape a = normal_shape(n, in, dy);
    cut c;
    if (lk_count(in) == 0) return LK_OK;
    if (normal_special(&c, &a, n)) {
        LK_FLOAT_SWITCH(in->dtype, E,
                        LK_TRY(grad_launch<E>(x, n, dy, a, c, normal_of(x, n), kind)));
        return grad_end(x, n, a, chunks_of(&c));
    }
    lk_tensor z;
    lk_node plain;
    LK_TRY(normalise_first(x, n, LK_OP_DWCONV_GRAD, plain_bytes(n, a), &z, &plain));
    LK_TRY(grad_of(x, &plain, dy));
    if (!n->out[2]) return LK_OK;
    return lk_cuda_batch_sums(x, n, in, n->out[0], normal_of(x, n), kind,
                              (float *)lk_data(x, n->out[2]));
}
