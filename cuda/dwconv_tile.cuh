/* Tiles of images: their way from memory into shared memory, as they are or normalised. For
 * dwconv.cu and dwconv_grad.cu. */
#ifndef LK_CUDA_DWCONV_TILE_CUH
#define LK_CUDA_DWCONV_TILE_CUH

#include "cuda/batch_norm.cuh"
#include "cuda/columns.cuh"
#include "cuda/dwconv_cut.cuh"

/* A tile's place: its first image, and its first output row and column. */
typedef struct tile {
    int image;
    int row, col;
} tile;

static __device__ __forceinline__ tile tile_of(const cut &c, int number)
{
    tile t;
    int i, col;
    t.image = lk_divide(number, c.by_image, &i) * c.images;
    t.row = lk_divide(i, c.by_across, &col) * c.rows;
    t.col = col * c.cols;
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
                                               const origin &o, int thread)
{
    enum { CHUNK = 16 / sizeof(E) };
    walk k;
    k.pixel = lk_divide(thread, c.by_chunks, &k.chunk);
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
    walk k = walk_of(x, p, c, o, (int)threadIdx.x);
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

template <typename E, int A, int RUN, bool DOWN>
static __device__ __forceinline__ void
normalise_rest(E *at, walk k, const part &p, const origin &o,
               const lk_channels<16 / sizeof(E)> &of, lk_activation kind)
{
    enum { CHUNK = 16 / sizeof(E) };
    int step = p.lanes * CHUNK;
    while (k.pixel < p.held) {
        lk_held<E, CHUNK> held[RUN];
        bool inside[RUN];
#pragma unroll
        for (int u = 0; u < RUN; u++) {
            inside[u] = walk_inside<DOWN>(k, o);
            if (inside[u]) held[u].load(at + u * step);
            walk_on<E, DOWN>(k, p, o);
        }
#pragma unroll
        for (int u = 0; u < RUN; u++) {
            float v[CHUNK];
            if (!inside[u]) continue;
            held[u].get(v);
            lk_channels_put<CHUNK, A>(of, kind, v, at + u * step);
        }
        at += RUN * step;
    }
}

/* Normalise in place what `thread` has copied of a part, RUN chunks at once; padding stays 0. */
template <typename E, int A, int RUN>
static __device__ __forceinline__ void normalise_part(E *to, const part &p, const cut &c,
                                                      const origin &o, const float *figures,
                                                      lk_activation kind, int thread)
{
    enum { CHUNK = 16 / sizeof(E) };
    walk k = walk_of((const E *)NULL, p, c, o, thread);
    lk_channels<CHUNK> of;
    get_figures<CHUNK>(of, figures, c.width * 8, k.chunk);
    E *at = to + (k.chunk * p.plane + k.pixel) * CHUNK;
    if (p.down) normalise_rest<E, A, RUN, true>(at, k, p, o, of, kind);
    else normalise_rest<E, A, RUN, false>(at, k, p, o, of, kind);
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

#endif
