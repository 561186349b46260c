/* Tiles of images in shared memory and strips of outputs: what dwconv.cu and dwconv_grad.cu share. */
#ifndef LK_CUDA_DWCONV_CUH
#define LK_CUDA_DWCONV_CUH

#include "cuda/batch_norm.cuh"
#include "cuda/columns.cuh"
#include "cuda/dwconv_cut.cuh"

/* ---- tiles in shared memory ----------------------------------------------------------------- */

/* A tile's place: its first image, and its first output row and column. */
typedef struct tile {
    int image;
    int row, col;
    bool bottom, right; /* the last one in that direction */
} tile;

static __device__ __forceinline__ tile tile_of(const cut &c, int number)
{
    tile t;
    int per = c.down * c.across, i = number % per;
    t.image = number / per * c.images;
    t.row = i / c.across * c.rows;
    t.col = i % c.across * c.cols;
    t.bottom = i / c.across == c.down - 1;
    t.right = i % c.across == c.across - 1;
    return t;
}

/* One chunk of 16 bytes, copied while the thread goes on; zeros instead if it is not `there`. */
static __device__ __forceinline__ void copy_chunk(void *to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void copies_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Where a part lies in x [B,h,w,C]: its first image and pixel, the batch and the image's size, and
 * the first channel of the group. */
typedef struct origin {
    int image, top, left;
    int batch, h, w, cols;
    int channel;
} origin;

/* That of a tile's part of x, K - 1 - pad pixels more than S a tile output each way. */
template <int S>
static __device__ __forceinline__ origin origin_of(const shape &a, const cut &c, const tile &t,
                                                   int group)
{
    origin o = {t.image, t.row * S - a.pad, t.col * S - a.pad, a.batch, a.h, a.w, a.cols,
                group * c.width * 8};
    return o;
}

/* A thread's way through a part: with all threads that have the same chunk it takes pixel after
 * pixel, `lanes` apart. */
typedef struct walk {
    int chunk;
    int pixel;         /* of the part */
    int row, col;      /* of its image */
    int valid;         /* pixels of the part that may be the tensor's: before the images behind the
                        * last; 0 for a chunk behind the last channel */
    const void *place; /* of the chunk in the tensor */
} walk;

template <typename E>
static __device__ __forceinline__ walk walk_of(const E *x, const part &p, const cut &c,
                                               const origin &o)
{
    enum { CHUNK = 16 / sizeof(E) };
    walk k;
    k.pixel = lk_divide((int)threadIdx.x, c.by_chunks, &k.chunk);
    int image = lk_divide(lk_divide(k.pixel, p.by_cols, &k.col), p.by_rows, &k.row);
    int images = c.images < o.batch - o.image ? c.images : o.batch - o.image;
    int channel = o.channel + k.chunk * CHUNK;
    k.row += o.top;
    k.col += o.left;
    k.place = x + (int64_t)(((o.image + image) * o.h + k.row) * o.w + k.col) * o.cols + channel;
    k.valid = channel < o.cols ? images * p.rows * p.cols : 0;
    if (p.down && (unsigned)k.col >= (unsigned)o.w) k.valid = 0; /* all pixels of this thread */
    if (k.pixel >= p.lanes) k.pixel = p.held;                    /* a thread without a chunk */
    return k;
}

/* DOWN: p.down. */
template <typename E, bool DOWN>
static __device__ __forceinline__ void walk_on(walk &k, const part &p, const origin &o)
{
    const int pixel = o.cols * (int)sizeof(E); /* bytes */
    k.pixel += p.lanes;
    k.row += p.rows_on;
    if constexpr (DOWN) {
        k.place = (const char *)k.place + (int64_t)p.rows_on * o.w * pixel;
    } else {
        int on = (p.images_on * o.h + p.rows_on) * o.w + p.cols_on;
        k.col += p.cols_on;
        bool wraps = k.col >= o.left + p.cols;
        k.col -= wraps ? p.cols : 0;
        k.row += wraps;
        on += wraps ? o.w - p.cols : 0;
        wraps = k.row >= o.top + p.rows;
        k.row -= wraps ? p.rows : 0;
        on += wraps ? (o.h - p.rows) * o.w : 0;
        /* one instruction, which the compiler does not find */
        asm("mad.wide.s32 %0, %1, %2, %0;" : "+l"(k.place) : "r"(on), "r"(pixel));
    }
}

/* Whether the pixel is one of the tensor's: no padding, and no image behind the last. */
template <bool DOWN>
static __device__ __forceinline__ bool walk_inside(const walk &k, const origin &o)
{
    bool inside = (k.pixel < k.valid) & ((unsigned)k.row < (unsigned)o.h);
    return DOWN ? inside : inside & ((unsigned)k.col < (unsigned)o.w);
}

/* Start to copy the rest of a part, pixels outside as zeros; at: the place of the walk's pixel. */
template <typename E, bool DOWN>
static __device__ __forceinline__ void load_rest(E *at, walk k, const part &p, const origin &o)
{
    enum { CHUNK = 16 / sizeof(E) };
    while (k.pixel < p.held) {
        copy_chunk(at, k.place, walk_inside<DOWN>(k, o));
        walk_on<E, DOWN>(k, p, o);
        at += p.lanes * CHUNK;
    }
}

/* Start to copy a part to [chunks, plane]. All threads. */
template <typename E>
static __device__ __forceinline__ void load_part(E *to, const E *x, const part &p, const cut &c,
                                                 const origin &o)
{
    enum { CHUNK = 16 / sizeof(E) };
    walk k = walk_of(x, p, c, o);
    E *at = to + (k.chunk * p.plane + k.pixel) * CHUNK;
    if (p.down) load_rest<E, true>(at, k, p, o);
    else load_rest<E, false>(at, k, p, o);
}

/* figures [2, columns] of shared memory: scale and shift of the group's channels. */
template <int THREADS>
static __device__ __forceinline__ void load_figures(float *figures, const lk_normal &from,
                                                    int columns, int cols, int group)
{
    for (int i = (int)threadIdx.x; i < columns; i += THREADS) {
        lk_channels<1> one = {};
        if (group * columns + i < cols) lk_channels_get<1>(one, from, group * columns + i);
        figures[i] = one.scale[0];
        figures[columns + i] = one.shift[0];
    }
}

/* Those of the thread's chunk. */
template <int CHUNK>
static __device__ __forceinline__ void get_figures(lk_channels<CHUNK> &of, const float *figures,
                                                   int columns, int chunk)
{
    lk_get<CHUNK>(of.scale, figures + chunk * CHUNK);
    lk_get<CHUNK>(of.shift, figures + columns + chunk * CHUNK);
}

template <typename E, int A, bool DOWN>
static __device__ __forceinline__ void
normalise_rest(E *at, walk k, const part &p, const origin &o,
               const lk_channels<16 / sizeof(E)> &of, lk_activation kind)
{
    enum { CHUNK = 16 / sizeof(E) };
    while (k.pixel < p.held) {
        if (walk_inside<DOWN>(k, o)) {
            lk_held<E, CHUNK> held;
            float v[CHUNK];
            held.load(at);
            held.get(v);
            lk_channels_put<CHUNK, A>(of, kind, v, at);
        }
        walk_on<E, DOWN>(k, p, o);
        at += p.lanes * CHUNK;
    }
}

/* Normalise in place what this thread has copied of a part and waited for; padding stays 0. */
template <typename E, int A>
static __device__ __forceinline__ void normalise_part(E *to, const part &p, const cut &c,
                                                      const origin &o, const float *figures,
                                                      lk_activation kind)
{
    enum { CHUNK = 16 / sizeof(E) };
    walk k = walk_of((const E *)NULL, p, c, o);
    lk_channels<CHUNK> of;
    get_figures<CHUNK>(of, figures, c.width * 8, k.chunk);
    E *at = to + (k.chunk * p.plane + k.pixel) * CHUNK;
    if (p.down) normalise_rest<E, A, true>(at, k, p, o, of, kind);
    else normalise_rest<E, A, false>(at, k, p, o, of, kind);
}

/* Chunks of a thread on their way from memory: the next RUN of its walk. */
template <typename E, int RUN> struct chunks {
    uint4 raw[RUN];
    uint32_t inside; /* bit u: raw[u] is a pixel's, else padding */
};

template <typename E, int RUN, bool DOWN>
static __device__ __forceinline__ void fetch_run(chunks<E, RUN> &r, walk &k, const part &p,
                                                 const origin &o)
{
    r.inside = 0;
#pragma unroll
    for (int u = 0; u < RUN; u++) {
        bool inside = walk_inside<DOWN>(k, o);
        /* without a branch, so that all are on their way together */
        asm volatile("{.reg .pred p;\n"
                     "setp.ne.u32 p, %5, 0;\n"
                     "@p ld.global.v4.u32 {%0, %1, %2, %3}, [%4];}"
                     : "=r"(r.raw[u].x), "=r"(r.raw[u].y), "=r"(r.raw[u].z), "=r"(r.raw[u].w)
                     : "l"(k.place), "r"((uint32_t)inside));
        if (inside) r.inside |= 1u << u;
        walk_on<E, DOWN>(k, p, o);
    }
}

template <typename E, int RUN>
static __device__ __forceinline__ void fetch_chunks(chunks<E, RUN> &r, walk &k, const part &p,
                                                    const origin &o)
{
    if (p.down) fetch_run<E, RUN, true>(r, k, p, o);
    else fetch_run<E, RUN, false>(r, k, p, o);
}

/* Normalise them into the part; padding becomes 0. at: the place of the first; left: pixels of the
 * part from there on. */
template <typename E, int A, int RUN>
static __device__ __forceinline__ void put_chunks(const chunks<E, RUN> &r, E *at, int left,
                                                  const part &p,
                                                  const lk_channels<16 / sizeof(E)> &of,
                                                  lk_activation kind)
{
    enum { CHUNK = 16 / sizeof(E) };
#pragma unroll
    for (int u = 0; u < RUN; u++) {
        lk_held<E, CHUNK> held;
        float v[CHUNK];
        uint4 z;
        held.load((const E *)&r.raw[u]);
        held.get(v);
        lk_channels_put<CHUNK, A>(of, kind, v, (E *)&z);
        if (!(r.inside >> u & 1)) z = make_uint4(0, 0, 0, 0);
        if (u * p.lanes < left) *(uint4 *)(at + u * p.lanes * CHUNK) = z;
    }
}

/* The whole part: r holds the first chunks of walk k, the others are fetched. */
template <typename E, int A, int RUN>
static __device__ __forceinline__ void take_part(E *to, chunks<E, RUN> &r, walk &k, const part &p,
                                                 const cut &c, const origin &o,
                                                 const float *figures, lk_activation kind)
{
    enum { CHUNK = 16 / sizeof(E) };
    lk_channels<CHUNK> of;
    get_figures<CHUNK>(of, figures, c.width * 8, k.chunk);
    int pixel = k.pixel - RUN * p.lanes; /* of the first in r */
    E *at = to + (k.chunk * p.plane + pixel) * CHUNK;
    for (;;) {
        put_chunks<E, A>(r, at, p.held - pixel, p, of, kind);
        if (k.pixel >= p.held) return;
        pixel = k.pixel;
        at += RUN * p.lanes * CHUNK;
        fetch_chunks(r, k, p, o);
    }
}

/* Zeros behind the last image, which the last strips read. All THREADS threads. */
template <typename E, int THREADS>
static __device__ __forceinline__ void clear_rest(E *to, const part &p, const cut &c)
{
    int begin = c.images * p.rows * p.cols, chunks = (int)c.by_chunks.divisor;
    for (int i = begin + (int)threadIdx.x; i < p.plane; i += THREADS)
        for (int chunk = 0; chunk < chunks; chunk++)
            ((uint4 *)to)[chunk * p.plane + i] = make_uint4(0, 0, 0, 0);
}

/* ---- two channels --------------------------------------------------------------------------- */

static __device__ __forceinline__ float2 get2(const float *p) { return *(const float2 *)p; }
static __device__ __forceinline__ float2 get2(const __half *p)
{
    return __half22float2(*(const __half2 *)p);
}
static __device__ __forceinline__ float2 get2(const __nv_bfloat16 *p)
{
    return lk_pair(*(const uint32_t *)p, __nv_bfloat16());
}

static __device__ __forceinline__ void put2(float *p, float2 v) { *(float2 *)p = v; }
static __device__ __forceinline__ void put2(__half *p, float2 v)
{
    *(__half2 *)p = __float22half2_rn(v);
}
static __device__ __forceinline__ void put2(__nv_bfloat16 *p, float2 v)
{
    *(__nv_bfloat162 *)p = __float22bfloat162_rn(v);
}

static __device__ __forceinline__ void add_product(float2 &sum, float2 a, float2 b)
{
    sum.x = fmaf(a.x, b.x, sum.x);
    sum.y = fmaf(a.y, b.y, sum.y);
}

/* A thread's two channels of the group and its slot. */
typedef struct seat {
    int slot;
    int pair;     /* of the group */
    int channel;  /* first of the two, in the tensor */
    bool active;
} seat;

static __device__ __forceinline__ seat seat_of(const cut &c, int thread, int group)
{
    seat s;
    int pairs = 4 * c.width;
    s.slot = thread / pairs;
    s.pair = thread - s.slot * pairs;
    s.channel = group * c.width * 8 + 2 * s.pair;
    s.active = s.slot < c.slots && s.channel < c.vectors * 8;
    return s;
}

/* A strip: image, line and strip across, all within the tile. Slot after slot, `across` to a line
 * and `down` lines to an image. */
typedef struct strip {
    int image, line, at;
} strip;

static __device__ __forceinline__ void strip_move(strip &s, int by, int across, int down)
{
    s.at += by;
    while (s.at >= across) {
        s.at -= across;
        s.line++;
    }
    while (s.line >= down) {
        s.line -= down;
        s.image++;
    }
}

/* The thread's channels of a pixel of a part. */
template <typename E>
static __device__ __forceinline__ const E *pixel_of(const E *from, const part &p, const seat &s,
                                                    int image, int row, int col)
{
    enum { CHUNK = 16 / sizeof(E), PAIRS_OF_CHUNK = CHUNK / 2 };
    int plane = s.pair / PAIRS_OF_CHUNK, rest = s.pair % PAIRS_OF_CHUNK * 2;
    return from + (plane * p.plane + (image * p.rows + row) * p.cols + col) * CHUNK + rest;
}

/* sum[o][j] += sum over (ky, kx) of taps[ky K + kx] pixel(o S + ky, j S + kx). row: pixels. */
template <typename E, int K, int S>
static __device__ __forceinline__ void correlate(const E *at, int row, const float2 *taps,
                                                 float2 (*sum)[STRIP])
{
    enum { CHUNK = 16 / sizeof(E) };
#pragma unroll
    for (int r = 0; r < (LINES - 1) * S + K; r++) {
#pragma unroll
        for (int t = 0; t < (STRIP - 1) * S + K; t++) {
            float2 v = get2(at + t * CHUNK);
#pragma unroll
            for (int o = 0; o < LINES; o++) {
                int ky = r - o * S;
                if (ky < 0 || ky >= K) continue;
#pragma unroll
                for (int j = 0; j < STRIP; j++) {
                    int kx = t - j * S;
                    if (kx >= 0 && kx < K) add_product(sum[o][j], taps[ky * K + kx], v);
                }
            }
        }
        at += row * CHUNK;
    }
}

/* Two channels as they are stored. */
template <typename E> struct stored;
template <> struct stored<float> {
    typedef float2 pair;
};
template <> struct stored<__half> {
    typedef __half2 pair;
};
template <> struct stored<__nv_bfloat16> {
    typedef __nv_bfloat162 pair;
};
template <typename E> static __device__ __forceinline__ typename stored<E>::pair store2(float2 v)
{
    typename stored<E>::pair p;
    put2((E *)&p, v);
    return p;
}

/* Moments of a thread's two channels over its outputs, about the first of them. */
typedef struct running {
    float2 first, sum, square;
    int count;
} running;

/* One output to y and, if MEASURE, as it is stored there into m. */
template <typename E, bool MEASURE>
static __device__ __forceinline__ void end_output(E *y, running &m, float2 value)
{
    typename stored<E>::pair p = store2<E>(value);
    *(typename stored<E>::pair *)y = p;
    if constexpr (MEASURE) {
        float2 v = get2((const E *)&p);
        v.x -= m.first.x;
        v.y -= m.first.y;
        m.sum.x += v.x;
        m.sum.y += v.y;
        add_product(m.square, v, v);
    }
}

/* The first `down` x `across` of a strip's values to y [...,cols], whose rows are `row` elements
 * apart; both at least 1. */
template <typename E, bool MEASURE>
static __device__ __forceinline__ void end_strip(E *y, running &m, const float2 (*sum)[STRIP],
                                                 int down, int across, int row, int cols)
{
    if constexpr (MEASURE) {
        if (m.count == 0) {
            typename stored<E>::pair p = store2<E>(sum[0][0]);
            m.first = get2((const E *)&p);
        }
        m.count += (down < LINES ? down : LINES) * (across < STRIP ? across : STRIP);
    }
    if (down >= LINES && across >= STRIP) { /* most are whole */
#pragma unroll
        for (int o = 0; o < LINES; o++)
#pragma unroll
            for (int j = 0; j < STRIP; j++)
                end_output<E, MEASURE>(y + o * row + j * cols, m, sum[o][j]);
        return;
    }
#pragma unroll
    for (int o = 0; o < LINES; o++)
#pragma unroll
        for (int j = 0; j < STRIP; j++)
            if (o < down && j < across)
                end_output<E, MEASURE>(y + o * row + j * cols, m, sum[o][j]);
}

/* How many outputs of `of` are left from `from` in a tile that begins at `begin` and has `size`. */
static __device__ __forceinline__ int left_of(int of, int begin, int size, int from)
{
    return (of - begin < size ? of - begin : size) - from;
}

/* ---- launching ------------------------------------------------------------------------------ */

/* Run the statements with constants K <= MOST and S. */
#define LK_KERNEL_SWITCH(MOST, a, K, S, ...)                                                       \
    do {                                                                                           \
        if ((a).k == 3) LK_STRIDE_SWITCH(3, a, K, S, __VA_ARGS__);                                 \
        else if (MOST == 5 || (a).k == 5) LK_STRIDE_SWITCH(5, a, K, S, __VA_ARGS__);               \
        else LK_STRIDE_SWITCH(MOST, a, K, S, __VA_ARGS__);                                         \
    } while (0)
#define LK_STRIDE_SWITCH(SIZE, a, K, S, ...)                                                       \
    do {                                                                                           \
        enum { K = SIZE };                                                                         \
        if ((a).stride == 1) {                                                                     \
            enum { S = 1 };                                                                        \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum { S = 2 };                                                                        \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

static inline shape shape_of(const lk_node *n, const lk_tensor *x, const lk_tensor *w,
                             const lk_tensor *y)
{
    shape a = {(int)x->dim[0],
               (int)x->dim[1],
               (int)x->dim[2],
               (int)y->dim[1],
               (int)y->dim[2],
               (int)x->dim[3],
               (int)w->dim[0],
               n->attr.conv.stride,
               n->attr.conv.pad,
               false};
    return a;
}

/* ---- norm_dwconv and its gradient ----------------------------------------------------------- */

/* Whether there are kernels that normalise x on its way. */
static inline bool has_normal(const lk_node *n)
{
    lk_activation kind = n->attr.norm_dwconv.activation;
    return n->in[1]->dim[0] <= 5 && (kind == LK_RELU || kind == LK_HARD_SWISH);
}

static inline shape normal_shape(const lk_node *n, const lk_tensor *x, const lk_tensor *y)
{
    shape a = shape_of(n, x, n->in[1], y);
    a.stride = n->attr.norm_dwconv.stride;
    a.pad = n->attr.norm_dwconv.pad;
    a.normal = has_normal(n);
    return a;
}

static inline lk_normal normal_of(lk_exec *x, const lk_node *n)
{
    lk_normal from = {(const float *)lk_data(x, n->in[4]),
                      (const float *)lk_data(x, n->in[5]),
                      (const float *)lk_data(x, n->in[2]),
                      (const float *)lk_data(x, n->in[3]),
                      n->attr.norm_dwconv.eps,
                      false};
    return from;
}

static inline size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* For what has no kernel of its own: n as the plain op on *z, x normalised into scratch behind `used`
 * bytes. */
static inline lk_status normalise_first(lk_exec *x, const lk_node *n, lk_op op, size_t used,
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
    return lk_cuda_normalise(x, n, n->in[0], z, normal_of(x, n), n->attr.norm_dwconv.activation,
                             false);
}

#endif
