/* The cut of a depthwise convolution into tiles that fit in shared memory: made on the host, from
 * the shapes alone. For dwconv.cu and dwconv_grad.cu. */
#ifndef LK_CUDA_DWCONV_CUT_CUH
#define LK_CUDA_DWCONV_CUT_CUH

#include "cuda/device.cuh"
#include "cuda/divide.cuh"

enum {
    STRIP = 7,    /* outputs across a strip */
    LINES = 2,    /* and down */
    ROLE = 128,   /* threads of a block that do one thing: 1 role forward, 2 in the gradient */
    MOST_WIDTH = 16,
    FORWARD_BYTES = 40 << 10, /* most of a tile */
    GRAD_BYTES = 47 << 10,    /* most of a tile of x and one of dy; two are in flight, and with
                               * what lies before them a block has less than 99 KiB */
    MULTIPROCESSORS = 132,    /* of the device the cut is made for, whatever runs it */
    FORWARD_BLOCKS = 528,     /* about those resident there */
    GRAD_BLOCKS = 528,        /* twice those resident */
    AS_IS = -2                /* instead of an activation: x is not normalised */
};

/* Blocks of the forward kernel on a multiprocessor. */
constexpr int blocks_of(int k) { return k <= 5 ? 4 : 2; }

typedef struct shape {
    int batch;
    int h, w, ho, wo, cols;
    int k, stride, pad;
    bool normal; /* x is normalised on its way, and y of the forward pass measured */
} shape;

/* ---- the cut into tiles --------------------------------------------------------------------- */

/* What a tile holds of x or dy: rows x cols pixels of each image, padding included, in planes of
 * `plane` pixels, one for each 16-byte chunk of a pixel. */
typedef struct part {
    int rows, cols;
    int held;  /* pixels of all images */
    int plane; /* with the zeros read beyond the last image */
    int bytes;
    int lanes; /* pixels that a block's threads fetch side by side, a chunk each, */
    int images_on, rows_on, cols_on; /* and how much further they then go */
    bool down;                       /* straight down the rows of one image */
    lk_divisor by_rows, by_cols;
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
    part x, dy;
    lk_divisor by_chunks; /* 16-byte chunks of a pixel */
    lk_divisor by_image, by_across; /* tiles of an image, and of a row of them */
    lk_divisor by_strips, by_lines, by_rows;
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
    p.held = held > 1 << 20 ? 1 << 20 : (int)held; /* far too large either way */
    p.plane = plane > 1 << 20 ? 1 << 20 : (int)plane;
    p.bytes = p.plane * chunks * 16;
    p.lanes = threads / chunks;
    p.down = c->images == 1 && 4 * (p.lanes / cols * cols) >= 3 * p.lanes;
    if (p.down) p.lanes = p.lanes / cols * cols;
    p.cols_on = p.lanes % cols;
    p.rows_on = p.lanes / cols % rows;
    p.images_on = p.lanes / cols / rows;
    p.by_rows = lk_divisor_of(rows);
    p.by_cols = lk_divisor_of(cols);
    return p;
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
    c->by_image = lk_divisor_of(c->down * c->across);
    c->by_across = lk_divisor_of(c->across);
    c->by_strips = lk_divisor_of(c->strips);
    c->by_lines = lk_divisor_of(c->lines);
    c->by_rows = lk_divisor_of(c->rows);
    int last_row = c->lines * LINES - 1, last_col = c->strips * STRIP - 1;
    c->x = part_of(c, extent(c->down == 1, a->h, a->pad, (c->rows - 1) * s + k),
                   extent(c->across == 1, a->w, a->pad, (c->cols - 1) * s + k),
                   last_row * s + k - 1, last_col * s + k - 1, threads);
    if (!grad) return;
    int after = s == 1 ? a->pad : (a->pad + 1) / 2, more = a->pad + after;
    int rows = extent(c->down == 1, a->ho, a->pad, c->rows + more);
    int cols = extent(c->across == 1, a->wo, a->pad, c->cols + more);
    if (s == 2) last_row = c->rows - 1;
    c->dy = part_of(c, rows, cols, last_row + more, last_col + more, threads);
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

/* Instructions, roughly, of a warp for a part: finding its chunks, and what is done with one. */
static double part_work(const part *p, double each)
{
    return 60 + (each + (p->down ? 9 : 22)) * (double)lk_ceil(p->held, p->lanes);
}

/* The same for its strips: each of them `down` x `across` pixels read and widened, `outputs`
 * sums of which `ready` multiply-adds each are made, and what is done with a sum. */
static double strip_work(int64_t strips, int slots, int pixels, double outputs, double ready,
                         double end)
{
    return (double)lk_ceil(strips, slots) * (70 + 3.0 * pixels + outputs * (2 * ready + end));
}

/* Instructions that the busiest scheduler of a multiprocessor issues for a tile of a group. */
static double tile_work(const cut *c, const shape *a, bool grad)
{
    enum { FETCH = 5, FETCH_NORMAL = 34, NORMAL = 26, STORE = 3, MEASURE = 8, SUM = 20,
           TILE = 200 };
    int s = a->stride, k = a->k, area = k * k, outputs = LINES * STRIP;
    int pixels = ((LINES - 1) * s + k) * ((STRIP - 1) * s + k);
    int64_t strips = (int64_t)c->images * c->lines * c->strips;
    if (!grad)
        return TILE + part_work(&c->x, a->normal ? FETCH_NORMAL : FETCH) +
               strip_work(strips, c->slots, pixels, outputs, area,
                          STORE + (a->normal ? MEASURE : 0));
    int64_t pairs = (int64_t)c->images * c->rows * c->strips; /* of rows */
    double dw = strip_work(strips, c->slots, pixels, outputs, area, STORE);
    double end = STORE + (a->normal ? SUM : 0);
    double dx = s == 1 ? strip_work(strips, c->slots, pixels, outputs, area, end)
                       : strip_work(pairs, c->slots, k * (STRIP + k / 2), 2 * outputs, area / 4.0,
                                    end);
    return 2 * TILE + dw + dx + /* both roles' warps are on each scheduler */
           2 * part_work(&c->x, FETCH) + 2 * part_work(&c->dy, FETCH) +
           (a->normal ? 2 * part_work(&c->x, NORMAL) : 0);
}

/* Time this cut should take, in cycles of a multiprocessor: of its instructions and of its memory
 * traffic, of which the shorter hides behind the longer for the most part; and a poorly filled last
 * round of blocks. Pixels fetched by several tiles come from the level 2 cache mostly; parts of
 * sectors are fetched whole. */
static double cut_cost(const cut *c, const shape *a, size_t element, bool grad)
{
    const double rate = 18.5; /* bytes a cycle: 4.28 TB/s, 1.75 GHz, 132 multiprocessors */
    double blocks = (double)c->tiles * c->groups;
    double work = blocks * tile_work(c, a, grad) / MULTIPROCESSORS;
    double pixels = (double)a->batch * a->h * a->w, outputs = (double)a->batch * a->ho * a->wo;
    double again = (double)c->tiles * c->x.held / pixels;
    double bytes = (1 + 0.5 * (again > 1 ? again - 1 : 0)) * (pixels + (grad ? outputs : 0)) +
                   (grad ? pixels : outputs);
    int across = c->width * 8 * (int)element;
    bool whole = across % 32 == 0 && a->cols * (int)element % 32 == 0;
    if (c->groups > 1 && !whole) bytes *= 1 + 16.0 / across;
    if (c->groups > 1 && across < 64) bytes *= 1.2;
    bytes *= (double)a->cols * (double)element / MULTIPROCESSORS / rate;
    double longer = work > bytes ? work : bytes, shorter = work > bytes ? bytes : work;
    return (longer + 0.4 * shorter) * (1 + 0.5 * (grad ? 0.5 : 1) * FORWARD_BLOCKS / blocks);
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
           a->cols % 8 == 0 && (int64_t)a->h * a->w * a->cols < INT32_MAX &&
           (int64_t)a->batch * a->h * a->w < INT32_MAX;
}

#endif
