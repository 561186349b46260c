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
#include "cuda/columns.cuh"
#include "cuda/divide.cuh"

enum {
    STRIP = 7,    /* outputs across a strip */
    LINES = 2,    /* and down */
    PAIRS = 3,    /* of columns in a strip of dx with stride 2 */
    ROLE = 128,   /* threads of a block that do one thing: 1 role forward, 2 in the gradient */
    MOST_WIDTH = 16,
    FORWARD_BYTES = 40 << 10, /* most of a tile */
    GRAD_BYTES = 48 << 10,    /* most of a tile of x and one of dy; two are in flight */
    FORWARD_BLOCKS = 528,     /* resident on 132 multiprocessors */
    GRAD_BLOCKS = 528,        /* twice those resident */
    SUM_THREADS = 256
};

typedef struct shape {
    int64_t batch;
    int h, w, ho, wo, cols;
    int k, stride, pad;
} shape;

static shape shape_of(const lk_node *n, const lk_tensor *x, const lk_tensor *y)
{
    shape a = {x->dim[0],
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

/* ---- the cut into tiles --------------------------------------------------------------------- */

/* What a tile holds of x or dy: rows x cols pixels of each image, padding included, in planes of
 * `plane` pixels, one for each 16-byte chunk of a pixel. */
typedef struct part {
    int rows, cols;
    int plane; /* with the zeros read beyond the last image */
    int bytes;
    int side;  /* rows copied side by side */
    lk_divisor by_row; /* chunks of a row */
} part;

typedef struct cut {
    int vectors;       /* of 8 channels */
    int width, groups; /* vectors of a block; blocks across the channels */
    int slots;         /* threads of a role with the same channels */
    int images;        /* of a tile */
    int rows, cols;    /* outputs of a tile */
    int down, across;  /* tiles of an image; more than one only with images = 1 */
    int tiles;         /* in all, without groups */
    int strips, lines; /* of an image in a tile: across and down */
    int pairs, pair_rows; /* the same of dx with stride 2 */
    part x, dy;
    lk_divisor by_chunks; /* 16-byte chunks of a pixel */
} cut;

/* Zeros are shared between neighbours when the tile holds all of an image in that direction: `held`
 * pixels of data behind `pad` zeros. Else the window of `outputs` outputs. */
static int extent(bool all, int held, int pad, int window) { return all ? held + pad : window; }

/* last_row, last_col: of an image, the last that the strips read. */
static part part_of(const cut *c, int rows, int cols, int last_row, int last_col, int threads)
{
    part p;
    int chunks = (int)c->by_chunks.divisor;
    int64_t read = ((int64_t)(c->images - 1) * rows + last_row) * cols + last_col + 1;
    int64_t held = (int64_t)c->images * rows * cols;
    int64_t plane = (read > held ? read : held) + 7; /* 7: see spread_banks */
    p.rows = rows;
    p.cols = cols;
    p.plane = plane > 1 << 20 ? 1 << 20 : (int)plane; /* far too large either way */
    p.bytes = p.plane * chunks * 16;
    p.side = threads / (cols * chunks) > 1 ? threads / (cols * chunks) : 1;
    p.by_row = lk_divisor_of(cols * chunks);
    return p;
}

/* Rows (or columns) of dx with stride 2 that a tile can have, in pairs. All of the image's are at
 * most (pad + 1) / 2 more than its outputs. */
static int dx_pairs(bool all, int outputs, int input, int pad)
{
    return all ? (input - 1 + pad) / 2 + 1 : outputs + (pad + 1) / 2;
}

/* Complete a cut whose width, images, rows, cols, down and across are chosen. */
static void cut_fill(cut *c, const shape *a, size_t element, bool grad)
{
    int s = a->stride, k = a->k, threads = grad ? 2 * ROLE : ROLE;
    c->groups = (int)lk_ceil(c->vectors, c->width);
    c->slots = ROLE / (4 * c->width);
    c->tiles = (int)(lk_ceil(a->batch, c->images) * c->down * c->across);
    c->strips = (int)lk_ceil(c->cols, STRIP);
    c->lines = (int)lk_ceil(c->rows, LINES);
    c->by_chunks = lk_divisor_of(c->width * (int)element / 2);
    int last_row = c->lines * LINES - 1, last_col = c->strips * STRIP - 1;
    c->x = part_of(c, extent(c->down == 1, a->h, a->pad, (c->rows - 1) * s + k),
                   extent(c->across == 1, a->w, a->pad, (c->cols - 1) * s + k),
                   last_row * s + k - 1, last_col * s + k - 1, threads);
    if (!grad) return;
    int more = s == 1 ? 2 * a->pad : a->pad + (a->pad + 1) / 2;
    int rows = extent(c->down == 1, a->ho, a->pad, c->rows + more);
    int cols = extent(c->across == 1, a->wo, a->pad, c->cols + more);
    c->pair_rows = dx_pairs(c->down == 1, c->rows, a->h, a->pad);
    c->pairs = (int)lk_ceil(dx_pairs(c->across == 1, c->cols, a->w, a->pad), PAIRS);
    if (s == 1)
        c->dy = part_of(c, rows, cols, last_row + k - 1, last_col + k - 1, threads);
    else
        c->dy = part_of(c, rows, cols, c->pair_rows - 1 + a->pad, c->pairs * PAIRS - 1 + a->pad,
                        threads);
}

/* Threads of a warp read 16-byte chunks of different planes and strips: choose the planes' distance
 * modulo 128 bytes so that as few as possible meet in the same banks. */
static void spread_banks(part *p, const cut *c, int element, int s)
{
    int least = 33, best = 0, chunks = (int)c->by_chunks.divisor, pairs = 8 / element;
    for (int q = 0; q < 8; q++) {
        int met[8] = {}, most = 0;
        for (int thread = 0; thread < 32; thread += pairs) { /* the threads of one chunk */
            int slot = thread / (4 * c->width), chunk = thread / pairs % chunks;
            int at = slot % c->strips * STRIP * s + slot / c->strips * LINES * s * p->cols;
            int bank = (chunk * q + at) % 8;
            if (++met[bank] > most) most = met[bank];
        }
        if (most < least) {
            least = most;
            best = q;
        }
    }
    p->plane -= 7;
    p->plane += (best - p->plane % 8 + 8) % 8;
    p->bytes = p->plane * chunks * 16;
}

static int cut_bytes(const cut *c, bool grad) { return c->x.bytes + (grad ? c->dy.bytes : 0); }

/* How much slower than the best this cut should be: bytes through the level 2 cache, parts of
 * sectors, idle threads, what a block or tile costs besides its strips, and a poorly filled last
 * round of blocks. Arbitrary units. */
static double cut_cost(const cut *c, const shape *a, size_t element, bool grad)
{
    int over = a->k > a->stride ? a->k - a->stride : 0;
    double again = (1 + (double)(c->down - 1) * over / a->h) *
                   (1 + (double)(c->across - 1) * over / a->w);
    int bytes = c->width * 8 * (int)element;
    bool whole = c->groups == 1 || (bytes % 32 == 0 && c->vectors * 8 * element % 32 == 0);
    if (!whole) again *= 1 + 16.0 / bytes;
    if (bytes < 64 && c->groups > 1) again *= 1.2;
    int64_t strips = (int64_t)c->images * c->lines * c->strips;
    double rounds = (double)lk_ceil(strips, c->slots) + (grad ? 0.5 : 0.75);
    double ideal = (double)a->ho * a->wo / (STRIP * LINES) * c->vectors / (ROLE / 4.0);
    double work = rounds * c->down * c->across / c->images * c->groups / ideal; /* 1: none idles */
    double area = (double)a->stride * a->stride, blocks = (double)c->tiles * c->groups;
    double memory = grad ? 1 + again * (1 + 1 / area) : 1 / area + again;
    double compute = a->k * a->k * 0.06 / area * (grad ? 2 : 1) * work;
    return (memory + 0.5 * compute) * (1 + 0.5 * (grad ? 0.5 : 1) * FORWARD_BLOCKS / blocks);
}

/* The most rows that fit with this width and number of tiles across; 0: none. */
static int most_rows(cut *c, const shape *a, size_t element, bool grad)
{
    int limit = grad ? GRAD_BYTES : FORWARD_BYTES;
    for (c->rows = a->ho; c->rows > 0; c->rows = c->rows > 16 ? c->rows * 7 / 8 : c->rows - 1) {
        c->down = (int)lk_ceil(a->ho, c->rows);
        c->rows = (int)lk_ceil(a->ho, c->down); /* about equal tiles */
        c->down = (int)lk_ceil(a->ho, c->rows);
        cut_fill(c, a, element, grad);
        if (cut_bytes(c, grad) <= limit) return c->rows;
    }
    return 0;
}

/* The cheapest cut; false: nothing fits. */
static bool cut_of(cut *best, const shape *a, size_t element, bool grad)
{
    double least = 0;
    bool found = false;
    cut c = {};
    c.vectors = a->cols / 8;
    for (c.width = 1; c.width <= MOST_WIDTH && c.width <= c.vectors; c.width++) {
        for (int parts = 1; parts <= 64 && parts <= a->wo; parts *= 2) {
            c.images = 1;
            c.cols = (int)lk_ceil(a->wo, parts);
            if (parts > 1) c.cols = (int)lk_ceil(c.cols, STRIP) * STRIP;
            c.across = (int)lk_ceil(a->wo, c.cols);
            if (most_rows(&c, a, element, grad) == 0) continue;
            for (;;) {
                double cost = cut_cost(&c, a, element, grad);
                if (!found || cost < least) {
                    least = cost;
                    *best = c;
                    found = true;
                }
                if (c.down * c.across > 1 || c.images >= a->batch || c.images >= 64) break;
                c.images++;
                cut_fill(&c, a, element, grad);
                if (cut_bytes(&c, grad) > (grad ? GRAD_BYTES : FORWARD_BYTES)) break;
            }
        }
    }
    if (found) {
        spread_banks(&best->x, best, (int)element, a->stride);
        if (grad) spread_banks(&best->dy, best, (int)element, 1);
    }
    return found;
}

static bool has_special(const shape *a)
{
    return (a->k == 3 || a->k == 5 || a->k == 7) && (a->stride == 1 || a->stride == 2) &&
           a->cols % 8 == 0 && (int64_t)a->h * a->w * a->cols < INT32_MAX;
}

/* ---- tiles in shared memory ----------------------------------------------------------------- */

/* A tile's place: its first image, and its first output row and column. */
typedef struct tile {
    int64_t image;
    int row, col;
    bool bottom, right; /* the last one in that direction */
} tile;

static __device__ __forceinline__ tile tile_of(const cut &c, int number)
{
    tile t;
    int per = c.down * c.across, i = number % per;
    t.image = (int64_t)(number / per) * c.images;
    t.row = i / c.across * c.rows;
    t.col = i % c.across * c.cols;
    t.bottom = i / c.across == c.down - 1;
    t.right = i % c.across == c.across - 1;
    return t;
}

/* One chunk of 16 bytes, copied while the thread goes on. */
static __device__ __forceinline__ void copy_chunk(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from)
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

/* Start to copy the images' pixels from (top, left) of x [B,h,w,C], those outside as zeros, the
 * channels of the group, into to [chunks, plane]. All THREADS threads; each stays with its column
 * and chunk. */
template <typename E, int THREADS>
static __device__ __forceinline__ void load_part(E *to, const E *x, const part &p, const cut &c,
                                                 int64_t image, int64_t batch, int top, int left,
                                                 int h, int w, int cols, int group)
{
    enum { CHUNK = 16 / sizeof(E) };
    int span = (int)p.by_row.divisor;
    int held = (c.vectors - group * c.width) * 8 / CHUNK; /* chunks up to the last channel */
    int64_t step = (int64_t)p.side * w * cols;
    for (int j = (int)threadIdx.x; j < span * p.side; j += THREADS) {
        int slot, col, chunk;
        slot = lk_divide(j, p.by_row, &col);
        col = lk_divide(col, c.by_chunks, &chunk);
        bool inside = (unsigned)(left + col) < (unsigned)w && chunk < held;
        E *line = to + (chunk * p.plane + slot * p.cols + col) * CHUNK;
        for (int which = 0; which < c.images; which++) {
            const E *from = x + ((image + which) * h + top + slot) * w * cols +
                            (left + col) * cols + (group * c.width * 8 + chunk * CHUNK);
            bool exists = inside && image + which < batch;
            E *at = line;
            for (int row = slot; row < p.rows; row += p.side) {
                if (exists && (unsigned)(top + row) < (unsigned)h) copy_chunk(at, from);
                else *(uint4 *)at = make_uint4(0, 0, 0, 0);
                from += step;
                at += p.side * p.cols * CHUNK;
            }
            line += p.rows * p.cols * CHUNK;
        }
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

/* The first `down` x `across` of a strip's values to y [...,cols], whose rows are `row` elements
 * apart. */
template <typename E>
static __device__ __forceinline__ void put_strip(E *y, const float2 (*sum)[STRIP], int down,
                                                 int across, int row, int cols)
{
#pragma unroll
    for (int o = 0; o < LINES; o++) {
        if (o >= down) break;
        if (across >= STRIP) {
#pragma unroll
            for (int j = 0; j < STRIP; j++) put2(y + j * cols, sum[o][j]);
        } else {
#pragma unroll
            for (int j = 0; j < STRIP; j++)
                if (j < across) put2(y + j * cols, sum[o][j]);
        }
        y += row;
    }
}

/* How many outputs of `of` are left from `from` in a tile that begins at `begin` and has `size`. */
static __device__ __forceinline__ int left_of(int of, int begin, int size, int from)
{
    return (of - begin < size ? of - begin : size) - from;
}

/* ---- forward -------------------------------------------------------------------------------- */

template <typename E, int K, int S>
static __global__ void __launch_bounds__(ROLE, K == 3 ? 6 : K == 5 ? 4 : 2)
    k_dwconv(const E *x /* [B,H,W,C] */, const E *w /* [K,K,C] */, E *y /* [B,Ho,Wo,C] */, shape a,
             cut c)
{
    extern __shared__ __align__(16) char memory[];
    E *in = (E *)memory;
    int group = (int)(blockIdx.x % c.groups);
    tile t = tile_of(c, (int)(blockIdx.x / c.groups));
    load_part<E, ROLE>(in, x, c.x, c, t.image, a.batch, t.row * S - a.pad, t.col * S - a.pad, a.h,
                       a.w, a.cols, group);
    copies_commit();
    clear_rest<E, ROLE>(in, c.x, c);
    seat s = seat_of(c, (int)threadIdx.x, group);
    float2 taps[K * K];
    if (s.active) {
#pragma unroll
        for (int i = 0; i < K * K; i++) taps[i] = get2(w + i * a.cols + s.channel);
    }
    copies_wait<0>();
    __syncthreads();
    if (!s.active) return;

    y += t.image * a.ho * a.wo * a.cols + s.channel;
    strip p = {};
    for (strip_move(p, s.slot, c.strips, c.lines); p.image < c.images;
         strip_move(p, c.slots, c.strips, c.lines)) {
        int row = p.line * LINES, col = p.at * STRIP;
        int down = left_of(a.ho, t.row, c.rows, row), across = left_of(a.wo, t.col, c.cols, col);
        if (down <= 0 || t.image + p.image >= a.batch) continue;
        float2 sum[LINES][STRIP] = {};
        correlate<E, K, S>(pixel_of(in, c.x, s, p.image, row * S, col * S), c.x.cols, taps, sum);
        put_strip(y + ((p.image * a.ho + t.row + row) * a.wo + t.col + col) * a.cols, sum, down,
                  across, a.wo * a.cols, a.cols);
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

/* Run the statements with constants K and S. */
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
                k_dwconv<E, K, S><<<(unsigned)((int64_t)c.tiles * c.groups), ROLE,
                                    (size_t)c.x.bytes, stream>>>(from, w, y, a, c);
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
    dx += t.image * a.h * a.w * a.cols + s.channel;
    for (strip_move(p, s.slot, c.strips, c.lines); p.image < c.images;
         strip_move(p, c.slots, c.strips, c.lines)) {
        int row = p.line * LINES, col = p.at * STRIP;
        int down = left_of(a.h, t.row, c.rows, row), across = left_of(a.w, t.col, c.cols, col);
        if (down <= 0 || t.image + p.image >= a.batch) continue;
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
    dx += t.image * a.h * a.w * a.cols + s.channel;
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

template <typename E, int K, int S>
static __global__ void __launch_bounds__(2 * ROLE, K == 7 ? 1 : 2)
    k_dwconv_grad(const E *x /* [B,H,W,C] */, const E *w /* [K,K,C] */,
                  const E *dy /* [B,Ho,Wo,C] */, E *dx /* [B,H,W,C] or NULL */,
                  float *partial /* [chunks,K,K,C] */, shape a, cut c, int per)
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
        __syncthreads();
        const E *in = (const E *)(memory + (number - begin) % 2 * stage);
        const E *dys = (const E *)((const char *)in + c.x.bytes);
        tile t = tile_of(c, number);
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
    int64_t lines = a->batch * a->ho, chunks = lk_ceil(lines, 4);
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
    int64_t lines = a.batch * a.ho, begin = blockIdx.y * per;
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
static size_t grad_bytes(const cut *c, const shape *a)
{
    size_t stages = 2 * (size_t)cut_bytes(c, true);
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

extern "C" lk_status lk_cuda_dwconv_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    shape a = shape_of(n, in, n->in[2]);
    float *partial = (float *)x->base[LK_REGION_SCRATCH]; /* [chunks,k,k,C] */
    cudaStream_t s = lk_cuda_stream_of(x);
    cut c;
    int chunks = 0, columns = a.k * a.k * a.cols;
    if (lk_count(in) == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, {
        const E *from = (const E *)lk_data(x, in), *w = (const E *)lk_data(x, n->in[1]);
        const E *dy = (const E *)lk_data(x, n->in[2]);
        E *dx = (E *)lk_data(x, n->out[0]);
        if (grad_special(&c, &a, sizeof(E))) {
            chunks = chunks_of(&c);
            size_t bytes = grad_bytes(&c, &a);
            KERNEL_SWITCH(a, K, S, {
                auto kernel = k_dwconv_grad<E, K, S>;
                LK_CUDA_AT(n, cudaFuncSetAttribute(kernel,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   (int)bytes));
                kernel<<<(unsigned)(chunks * c.groups), 2 * ROLE, bytes, s>>>(
                    from, w, dy, dx, partial, a, c, tiles_per_chunk(&c));
            });
        } else {
            chunks = plain_chunks(&a);
            int64_t count = lk_count(in), per = lk_ceil(a.batch * a.ho, chunks);
            if (dx) k_dx_plain<E><<<lk_blocks(count, 256), 256, 0, s>>>(w, dy, dx, a, count);
            k_dw_plain<E><<<dim3(lk_blocks(columns, 128), chunks), 128, 0, s>>>(from, dy, partial,
                                                                               a, per);
        }
    });
    LK_CUDA_AT(n, cudaPeekAtLastError());
    if (n->out[1])
        sum_chunks(s, partial, chunks, columns, (n->accumulate >> 1 & 1) != 0,
                   (float *)lk_data(x, n->out[1]));
    return lk_cuda_launched(n);
}
