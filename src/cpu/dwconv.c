/* dwconv and its gradients: channels innermost, a few vectors of them in registers while the taps
 * of the kernel, or for the gradient by w the pixels, are added up in order. */
#include "cpu/device.h"

enum {
    VECTOR = 8,            /* floats */
    WIDE = 8,              /* vectors summed at once: enough to hide the latency of a sum */
    MAX_TAPS = 64,         /* taps listed at once */
    MAX_CHUNKS = 16,       /* of images that a weight gradient is summed over on its own, */
    CHUNK_PIXELS = 256     /* each at least this many pixels */
};

typedef float vector __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));

static inline vector at(const float *p) { return *(const vector *)p; }
static inline void put(float *p, vector v) { *(vector *)p = v; }

typedef struct shape {
    int64_t batch, height, width, channels; /* x */
    int64_t rows, columns;                  /* y [batch, rows, columns, channels] */
    int64_t k;
    int stride, pad;
} shape;

static shape shape_of(const lk_node *n, const lk_tensor *x, const lk_tensor *w, const lk_tensor *y)
{
    return (shape){x->dim[0], x->dim[1], x->dim[2], x->dim[3], y->dim[1], y->dim[2], w->dim[0],
                   n->attr.conv.stride, n->attr.conv.pad};
}

/* The rows of y (or columns) whose tap k lies within x, which has `size` of them: [*lo, *hi), not
 * yet cut to those of y. */
static void meeting(const shape *s, int64_t size, int64_t tap, int64_t *lo, int64_t *hi)
{
    int64_t before = s->pad - tap, after = size - 1 + s->pad - tap;
    *lo = before > 0 ? (before + s->stride - 1) / s->stride : 0;
    *hi = after < 0 ? 0 : after / s->stride + 1;
}

/* ---- forward, and the gradient by x ----------------------------------------------------------
 *
 * For the gradient by x the same is done with dy in the place of x and dx in that of y ("turned").
 * With a stride, its neighbouring pixels see different taps: those of a row are done in as many
 * lines as the stride is long. */

typedef struct tap {
    int64_t x, lo, hi; /* what pixel 0 of the line reads, in floats; pixels that read it */
    const float *w;    /* [channels] */
} tap;

/* Pixels 0 .. count-1, `step` floats apart in y; what they read is `shift` floats apart in x. */
typedef struct line {
    int64_t count, step, shift, channels;
    bool first; /* nothing has been added yet */
    int taps;
    tap tap[MAX_TAPS];
} line;

/* The taps that one pixel sees, at its place. */
typedef struct seen {
    bool first;
    int taps;
    const float *x[MAX_TAPS], *w[MAX_TAPS];
} seen;

/* `vectors` vectors of channels from c of one pixel y. */
static inline __attribute__((always_inline)) void block_of_one(const seen *p, int64_t c,
                                                               const int vectors, float *y)
{
    vector sum[WIDE] = {{0}};
    for (int i = 0; i < vectors && !p->first; i++) sum[i] = at(y + c + i * VECTOR);
    for (int k = 0; k < p->taps; k++)
        for (int i = 0; i < vectors; i++)
            sum[i] += at(p->x[k] + c + i * VECTOR) * at(p->w[k] + c + i * VECTOR);
    for (int i = 0; i < vectors; i++) put(y + c + i * VECTOR, sum[i]);
}

static void one_pixel(const line *l, int64_t j, const float *x, float *y)
{
    seen p; /* not initialised as a whole: the lists are long */
    int64_t c = 0;
    p.first = l->first;
    p.taps = 0;
    for (int k = 0; k < l->taps; k++) {
        if (j < l->tap[k].lo || j >= l->tap[k].hi) continue;
        p.x[p.taps] = x + l->tap[k].x + j * l->shift;
        p.w[p.taps++] = l->tap[k].w;
    }
    y += j * l->step;
    for (; c + WIDE * VECTOR <= l->channels; c += WIDE * VECTOR) block_of_one(&p, c, WIDE, y);
    if (c + 4 * VECTOR <= l->channels) block_of_one(&p, c, 4, y), c += 4 * VECTOR;
    if (c + 2 * VECTOR <= l->channels) block_of_one(&p, c, 2, y), c += 2 * VECTOR;
    if (c + VECTOR <= l->channels) block_of_one(&p, c, 1, y), c += VECTOR;
    for (; c < l->channels; c++) {
        float sum = l->first ? 0.0f : y[c];
        for (int k = 0; k < p.taps; k++) sum += p.x[k][c] * p.w[k][c];
        y[c] = sum;
    }
}

/* `vectors` vectors of channels from c of four pixels that see all taps, from pixel j. */
static inline __attribute__((always_inline)) void
block_of_four(const line *l, int64_t j, int64_t c, const int vectors, const float *x, float *y)
{
    vector sum[4][2] = {{{0}}};
    y += j * l->step + c;
    x += j * l->shift + c;
    for (int q = 0; q < 4 && !l->first; q++)
        for (int i = 0; i < vectors; i++) sum[q][i] = at(y + q * l->step + i * VECTOR);
    for (int k = 0; k < l->taps; k++) {
        const float *u = x + l->tap[k].x, *w = l->tap[k].w + c;
        for (int i = 0; i < vectors; i++) {
            vector v = at(w + i * VECTOR);
            for (int q = 0; q < 4; q++) sum[q][i] += at(u + q * l->shift + i * VECTOR) * v;
        }
    }
    for (int q = 0; q < 4; q++)
        for (int i = 0; i < vectors; i++) put(y + q * l->step + i * VECTOR, sum[q][i]);
}

static void four_pixels(const line *l, int64_t j, const float *x, float *y)
{
    int64_t c = 0;
    for (; c + 2 * VECTOR <= l->channels; c += 2 * VECTOR) block_of_four(l, j, c, 2, x, y);
    for (; c + VECTOR <= l->channels; c += VECTOR) block_of_four(l, j, c, 1, x, y);
    for (; c < l->channels; c++)
        for (int64_t q = j; q < j + 4; q++) {
            float sum = l->first ? 0.0f : y[q * l->step + c];
            for (int k = 0; k < l->taps; k++)
                sum += x[l->tap[k].x + q * l->shift + c] * l->tap[k].w[c];
            y[q * l->step + c] = sum;
        }
}

/* Add the listed taps to the pixels of a line, and empty the list. */
static void add_taps(line *l, const float *x, float *y)
{
    int64_t lo = 0, hi = l->count, j = 0;
    for (int k = 0; k < l->taps; k++) {
        if (l->tap[k].lo > lo) lo = l->tap[k].lo;
        if (l->tap[k].hi < hi) hi = l->tap[k].hi;
    }
    while (j < l->count) {
        if (j >= lo && j + 4 <= hi) {
            four_pixels(l, j, x, y);
            j += 4;
        } else {
            one_pixel(l, j++, x, y);
        }
    }
    l->first = false;
    l->taps = 0;
}

static void begin(line *l, int64_t count, int64_t step, int64_t shift, int64_t channels)
{
    l->count = count;
    l->step = step;
    l->shift = shift;
    l->channels = channels;
    l->first = true;
    l->taps = 0;
}

/* One row of y from image x [height, width, channels]. */
static void forward_row(const shape *s, const float *x, const float *w, int64_t row, float *y)
{
    int64_t c = s->channels;
    line l;
    begin(&l, s->columns, c, s->stride * c, c);
    for (int64_t k = 0; k < s->k * s->k; k++) {
        int64_t h = row * s->stride - s->pad + k / s->k, v = k % s->k;
        if (h < 0 || h >= s->height) continue;
        tap *t = &l.tap[l.taps++];
        t->x = (h * s->width + v - s->pad) * c;
        t->w = w + k * c;
        meeting(s, s->width, v, &t->lo, &t->hi);
        if (l.taps == MAX_TAPS) add_taps(&l, x, y);
    }
    if (l.taps || l.first) add_taps(&l, x, y);
}

/* Pixels first, first + stride ... of one row of dx from image dy [rows, columns, channels]. */
static void turned_line(const shape *s, const float *dy, const float *w, int64_t row,
                        int64_t first, float *dx)
{
    int64_t c = s->channels;
    line l;
    begin(&l, (s->width - first + s->stride - 1) / s->stride, s->stride * c, c, c);
    for (int64_t k = 0; k < s->k * s->k; k++) {
        int64_t h = row + s->pad - k / s->k, v = first + s->pad - k % s->k;
        if (h < 0 || h % s->stride || h / s->stride >= s->rows || v % s->stride) continue;
        tap *t = &l.tap[l.taps++];
        t->x = (h / s->stride * s->columns + v / s->stride) * c;
        t->w = w + k * c;
        t->lo = -v / s->stride;
        t->hi = s->columns - v / s->stride;
        if (l.taps == MAX_TAPS) add_taps(&l, dy, dx + first * c);
    }
    if (l.taps || l.first) add_taps(&l, dy, dx + first * c);
}

static void forward(const shape *s, const float *x, const float *w, float *y)
{
    int64_t row = s->columns * s->channels, image = s->height * s->width * s->channels;
#pragma omp parallel for schedule(static) if (s->batch * s->rows * row > LK_CPU_SMALL)
    for (int64_t r = 0; r < s->batch * s->rows; r++)
        forward_row(s, x + r / s->rows * image, w, r % s->rows, y + r * row);
}

static void turned(const shape *s, const float *dy, const float *w, float *dx)
{
    int64_t row = s->width * s->channels, image = s->rows * s->columns * s->channels;
#pragma omp parallel for schedule(static) if (s->batch * s->height * row > LK_CPU_SMALL)
    for (int64_t r = 0; r < s->batch * s->height; r++)
        for (int64_t first = 0; first < s->stride && first < s->width; first++)
            turned_line(s, dy + r / s->height * image, w, r % s->height, first, dx + r * row);
}

size_t lk_cpu_dwconv_scratch(const lk_node *n)
{
    return lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) + lk_cpu_copy_bytes(n->out[0]);
}

lk_status lk_cpu_dwconv(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *w = n->in[1], *out = n->out[0];
    shape s = shape_of(n, in, w, out);
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    float *y = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
    forward(&s, xs, ws, y);
    lk_cpu_from_f32(x, out, y);
    return LK_OK;
}

/* ---- the gradient by w ------------------------------------------------------------------------
 *
 * A chunk's sums stay in registers over all its images. Where several columns meet the whole row of
 * the kernel, its k taps are summed together: y's pixel is read once for all of them. */

typedef struct rows { /* what one row of the kernel sees of a chunk */
    const shape *s;
    int64_t first, end;  /* images */
    int64_t top, bottom; /* rows of y */
    int64_t left, right; /* columns of y that meet all taps of the kernel's row; none: equal */
    const float *x, *dy; /* of all images; x at the pixel that y's pixel (0, 0) and tap 0 meet */
} rows;

/* dw [taps, channels] at c, `vectors` vectors: sums of taps kw .. kw+taps-1 over columns
 * [left, right) of y. `add`: to what is there. */
static inline __attribute__((always_inline)) void
tap_sums(const rows *r, int64_t kw, const int taps, int64_t left, int64_t right, int64_t c,
         const int vectors, bool add, float *dw)
{
    const shape *s = r->s;
    int64_t channels = s->channels, step = s->stride * channels;
    vector sum[10] = {{0}};
    for (int64_t b = r->first; b < r->end; b++)
        for (int64_t row = r->top; row < r->bottom; row++) {
            const float *u = r->x + ((b * s->height + row * s->stride) * s->width + kw) * channels;
            const float *v = r->dy + (b * s->rows + row) * s->columns * channels + c;
            u += c;
            for (int64_t col = left; col < right; col++)
                for (int i = 0; i < vectors; i++) {
                    vector d = at(v + col * channels + i * VECTOR);
                    for (int k = 0; k < taps; k++)
                        sum[k * vectors + i] +=
                            d * at(u + col * step + k * channels + i * VECTOR);
                }
        }
    for (int k = 0; k < taps; k++)
        for (int i = 0; i < vectors; i++) {
            float *to = dw + (kw + k) * channels + c + i * VECTOR;
            if (add) sum[k * vectors + i] += at(to);
            put(to, sum[k * vectors + i]);
        }
}

/* The same for any number of taps and channels [c, c + m), m < VECTOR. */
static void few_channels(const rows *r, int64_t kw, int64_t left, int64_t right, int64_t c,
                         int64_t m, float *dw)
{
    const shape *s = r->s;
    int64_t channels = s->channels, step = s->stride * channels;
    for (int64_t i = c; i < c + m; i++) {
        float sum = 0;
        for (int64_t b = r->first; b < r->end; b++)
            for (int64_t row = r->top; row < r->bottom; row++) {
                const float *u = r->x + ((b * s->height + row * s->stride) * s->width + kw) *
                                            channels;
                const float *v = r->dy + (b * s->rows + row) * s->columns * channels;
                for (int64_t col = left; col < right; col++)
                    sum += u[col * step + i] * v[col * channels + i];
            }
        dw[kw * channels + i] = sum;
    }
}

/* Columns [*left, *right) of y meet tap kw of the kernel. */
static void columns_of(const shape *s, int64_t kw, int64_t *left, int64_t *right)
{
    meeting(s, s->width, kw, left, right);
    if (*right > s->columns) *right = s->columns;
    if (*left > *right) *left = *right;
}

/* `vectors` vectors of channels from c of one row of the kernel: dw [k, channels]. */
static inline __attribute__((always_inline)) void kernel_row(const rows *r, int64_t c,
                                                             const int vectors, float *dw)
{
    int64_t left = r->left, right = r->right, lo, hi;
    bool together = left < right;
    if (together && r->s->k == 3) tap_sums(r, 0, 3, left, right, c, vectors, false, dw);
    if (together && r->s->k == 5) tap_sums(r, 0, 5, left, right, c, vectors, false, dw);
    for (int64_t kw = 0; kw < r->s->k; kw++) {
        columns_of(r->s, kw, &lo, &hi);
        if (!together) {
            tap_sums(r, kw, 1, lo, hi, c, vectors, false, dw);
            continue;
        }
        if (lo < left) tap_sums(r, kw, 1, lo, left, c, vectors, true, dw);
        if (right < hi) tap_sums(r, kw, 1, right, hi, c, vectors, true, dw);
    }
}

/* Many channels from c of one row of the kernel, tap by tap. */
static void wide_row(const rows *r, int64_t c, float *dw)
{
    for (int64_t kw = 0, lo, hi; kw < r->s->k; kw++) {
        columns_of(r->s, kw, &lo, &hi);
        tap_sums(r, kw, 1, lo, hi, c, WIDE, false, dw);
    }
}

/* Channels [c, end) of one row of the kernel. */
static void row_weights(const rows *r, int64_t c, int64_t end, float *dw)
{
    for (; r->left == r->right && c + WIDE * VECTOR <= end; c += WIDE * VECTOR) wide_row(r, c, dw);
    for (; c + 2 * VECTOR <= end; c += 2 * VECTOR) kernel_row(r, c, 2, dw);
    for (; c + VECTOR <= end; c += VECTOR) kernel_row(r, c, 1, dw);
    for (int64_t kw = 0, lo, hi; c < end && kw < r->s->k; kw++) {
        columns_of(r->s, kw, &lo, &hi);
        few_channels(r, kw, lo, hi, c, end - c, dw);
    }
}

/* The columns that meet all taps of a row: [*left, *right), empty where too few to gain by it. */
static void shared_columns(const shape *s, int64_t *left, int64_t *right)
{
    *left = 0;
    *right = s->columns;
    for (int64_t kw = 0, lo, hi; kw < s->k; kw++) {
        columns_of(s, kw, &lo, &hi);
        *left = lo > *left ? lo : *left;
        *right = hi < *right ? hi : *right;
    }
    if (*right - *left < 4 || (s->k != 3 && s->k != 5)) *left = *right = 0;
}

static int64_t chunks_of(const shape *s)
{
    int64_t most = s->batch * s->rows * s->columns / CHUNK_PIXELS;
    if (most > MAX_CHUNKS) most = MAX_CHUNKS;
    if (most > s->batch) most = s->batch;
    return most > 1 ? most : 1;
}

/* partial [chunks, k, k, channels] */
static void chunk_weights(const shape *s, int64_t chunks, const float *x, const float *dy,
                          float *partial)
{
    enum { BLOCK = WIDE * VECTOR };
    int64_t across = (s->channels + BLOCK - 1) / BLOCK, left, right;
    int64_t row = s->k * s->channels;
    shared_columns(s, &left, &right);
#pragma omp parallel for schedule(static)                                                          \
    if (s->batch * s->rows * s->columns * s->channels > LK_CPU_SMALL)
    for (int64_t task = 0; task < chunks * across * s->k; task++) {
        int64_t chunk = task / (across * s->k), kh = task % s->k;
        int64_t c = task / s->k % across * BLOCK, end = c + BLOCK;
        rows r = {s, chunk * s->batch / chunks, (chunk + 1) * s->batch / chunks, 0, 0, left, right,
                  x + ((kh - s->pad) * s->width - s->pad) * s->channels, dy};
        meeting(s, s->height, kh, &r.top, &r.bottom);
        if (r.bottom > s->rows) r.bottom = s->rows;
        row_weights(&r, c, end < s->channels ? end : s->channels,
                    partial + (chunk * s->k + kh) * row);
    }
}

size_t lk_cpu_dwconv_grad_scratch(const lk_node *n)
{
    shape s = shape_of(n, n->in[0], n->in[1], n->in[2]);
    return lk_cpu_copy_bytes(n->in[0]) + lk_cpu_copy_bytes(n->in[1]) +
           lk_cpu_copy_bytes(n->in[2]) + lk_cpu_copy_bytes(n->out[0]) +
           (size_t)(chunks_of(&s) * s.k * s.k * s.channels) * sizeof(float);
}

lk_status lk_cpu_dwconv_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *w = n->in[1], *dy = n->in[2], *out = n->out[0];
    shape s = shape_of(n, in, w, dy);
    char *scratch = lk_cpu_scratch(x);
    const float *xs = lk_cpu_as_f32(x, in, lk_cpu_take(&scratch, in));
    const float *ws = lk_cpu_as_f32(x, w, lk_cpu_take(&scratch, w));
    const float *dys = lk_cpu_as_f32(x, dy, lk_cpu_take(&scratch, dy));
    if (out) {
        float *dx = out->dtype == LK_F32 ? lk_data(x, out) : lk_cpu_take(&scratch, out);
        turned(&s, dys, ws, dx);
        lk_cpu_from_f32(x, out, dx);
    }
    float *partial = (float *)scratch;
    int64_t chunks = chunks_of(&s);
    chunk_weights(&s, chunks, xs, dys, partial);
    lk_cpu_sum_chunks(partial, chunks, s.k * s.k * s.channels, n->accumulate & 2,
                      lk_data(x, n->out[1]));
    return LK_OK;
}
