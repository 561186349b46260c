/* Tiles of images in shared memory, for dwconv.cu: their cut, copying, and strips of outputs. */
#ifndef LK_CUDA_DWCONV_CUH
#define LK_CUDA_DWCONV_CUH

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
    GRAD_BLOCKS = 528         /* twice those resident */
};

typedef struct shape {
    int batch;
    int h, w, ho, wo, cols;
    int k, stride, pad;
} shape;

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
 * pixels of data behind `pad` zeros. Else it holds the window of its outputs. */
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
                                                 int image, int batch, int top, int left, int h,
                                                 int w, int cols, int group)
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
            const E *from = x + ((int64_t)(image + which) * h + top + slot) * w * cols +
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

#endif
