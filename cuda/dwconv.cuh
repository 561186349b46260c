/* Strips of outputs, computed from tiles in shared memory by dwconv.cu and dwconv_grad.cu; and what
 * both need to launch. */
#ifndef LK_CUDA_DWCONV_CUH
#define LK_CUDA_DWCONV_CUH

#include "cuda/dwconv_tile.cuh"

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

/* A strip: image, line and strip across, all within the tile. */
typedef struct strip {
    int image, line, at;
} strip;

/* `across` strips to a line and `down` lines to an image. */
static __device__ __forceinline__ strip strip_of(int number, lk_divisor across, lk_divisor down)
{
    strip s;
    s.image = lk_divide(lk_divide(number, across, &s.at), down, &s.line);
    return s;
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

/* Two channels as they are stored; word: their bits. */
template <typename E> struct stored;
template <> struct stored<float> {
    typedef float2 pair;
    typedef uint64_t word;
};
template <> struct stored<__half> {
    typedef __half2 pair;
    typedef uint32_t word;
};
template <> struct stored<__nv_bfloat16> {
    typedef __nv_bfloat162 pair;
    typedef uint32_t word;
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

/* For what has no kernel of its own: n as the plain op on *z, x normalised into scratch behind
 * `used` bytes. */
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
