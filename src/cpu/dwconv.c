/* dwconv and its gradients: channels innermost, a few vectors of them in registers while the taps
 * of the kernel are added up in order. */
#include "cpu/device.h"

enum {
    VECTOR = 8,          /* floats */
    WIDE = 4,            /* vectors summed at once: enough to hide the latency of an addition */
    MAX_TAPS = 64,       /* taps listed at once */
    MAX_IMAGE_CHUNKS = 16 /* of images that a weight gradient is summed over on its own */
};

typedef float vector __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));

static inline vector at(const float *p) { return *(const vector *)p; }

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

/* ---- forward, and the gradient by x: a sum of products with the taps of a pixel -------------- */

typedef struct taps {
    int count;
    const float *x[MAX_TAPS], *w[MAX_TAPS]; /* each [channels] */
} taps;

/* y [channels] = (first: 0, else y) + sum over taps of x w */
static void add_taps(const taps *t, int64_t channels, bool first, float *y)
{
    int64_t c = 0;
    for (; c + WIDE * VECTOR <= channels; c += WIDE * VECTOR) {
        vector sum[WIDE] = {{0}};
        for (int i = 0; i < WIDE && !first; i++) sum[i] = at(y + c + i * VECTOR);
        for (int k = 0; k < t->count; k++)
            for (int i = 0; i < WIDE; i++)
                sum[i] += at(t->x[k] + c + i * VECTOR) * at(t->w[k] + c + i * VECTOR);
        for (int i = 0; i < WIDE; i++) *(vector *)(y + c + i * VECTOR) = sum[i];
    }
    for (; c + VECTOR <= channels; c += VECTOR) {
        vector sum = {0};
        if (!first) sum = at(y + c);
        for (int k = 0; k < t->count; k++) sum += at(t->x[k] + c) * at(t->w[k] + c);
        *(vector *)(y + c) = sum;
    }
    for (; c < channels; c++) {
        float sum = first ? 0.0f : y[c];
        for (int k = 0; k < t->count; k++) sum += t->x[k][c] * t->w[k][c];
        y[c] = sum;
    }
}

/* One pixel of y, or with `turned` of dx, where x stands for dy. */
static void pixel(const shape *s, bool turned, const float *x, const float *w, int64_t row,
                  int64_t column, float *y)
{
    taps t = {0};
    bool first = true;
    int64_t height = turned ? s->rows : s->height, width = turned ? s->columns : s->width;
    for (int64_t kh = 0; kh < s->k; kh++) {
        int64_t h = turned ? row + s->pad - kh : row * s->stride - s->pad + kh;
        if (turned && (h < 0 || h % s->stride)) continue;
        if (turned) h /= s->stride;
        if (h < 0 || h >= height) continue;
        for (int64_t kw = 0; kw < s->k; kw++) {
            int64_t v = turned ? column + s->pad - kw : column * s->stride - s->pad + kw;
            if (turned && (v < 0 || v % s->stride)) continue;
            if (turned) v /= s->stride;
            if (v < 0 || v >= width) continue;
            t.x[t.count] = x + (h * width + v) * s->channels;
            t.w[t.count++] = w + (kh * s->k + kw) * s->channels;
            if (t.count < MAX_TAPS) continue;
            add_taps(&t, s->channels, first, y);
            first = false;
            t.count = 0;
        }
    }
    if (first || t.count) add_taps(&t, s->channels, first, y);
}

static void all_pixels(const shape *s, bool turned, const float *x, const float *w, float *y)
{
    int64_t height = turned ? s->height : s->rows, width = turned ? s->width : s->columns;
    int64_t image = (turned ? s->rows * s->columns : s->height * s->width) * s->channels;
    bool large = s->batch * height * width * s->channels > LK_CPU_SMALL;
#pragma omp parallel for schedule(static) if (large)
    for (int64_t r = 0; r < s->batch * height; r++)
        for (int64_t c = 0; c < width; c++)
            pixel(s, turned, x + r / height * image, w, r % height, c,
                  y + (r * width + c) * s->channels);
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
    all_pixels(&s, false, xs, ws, y);
    lk_cpu_from_f32(x, out, y);
    return LK_OK;
}

/* ---- the gradient by w: for each tap a sum over the pixels that it meets --------------------- */

static int64_t chunks_of(const shape *s)
{
    return s->batch < MAX_IMAGE_CHUNKS ? s->batch : MAX_IMAGE_CHUNKS;
}

/* The rows of y (or columns) whose tap k lies within x: [*first, *end). */
static void meeting(int64_t size, int64_t count, int64_t tap, const shape *s, int64_t *first,
                    int64_t *end)
{
    int64_t before = s->pad - tap, after = size - 1 + s->pad - tap;
    *first = before > 0 ? (before + s->stride - 1) / s->stride : 0;
    *end = after < 0 ? 0 : after / s->stride + 1;
    if (*end > count) *end = count;
}

/* dw [channels from c, at most WIDE vectors] += sum over the pixels of one image. */
static void tap_sum(const shape *s, const float *x, const float *dy, int64_t kh, int64_t kw,
                    int64_t c, int64_t m, float *dw)
{
    int64_t top, bottom, left, right, i = 0;
    meeting(s->height, s->rows, kh, s, &top, &bottom);
    meeting(s->width, s->columns, kw, s, &left, &right);
    int64_t step = s->stride * s->channels;
    const float *origin = x + ((kh - s->pad) * s->width + kw - s->pad) * s->channels + c;
    if (m == WIDE * VECTOR) {
        vector sum[WIDE];
        for (int j = 0; j < WIDE; j++) sum[j] = at(dw + j * VECTOR);
        for (int64_t row = top; row < bottom; row++) {
            const float *u = origin + row * s->stride * s->width * s->channels;
            const float *v = dy + row * s->columns * s->channels + c;
            for (int64_t col = left; col < right; col++)
                for (int j = 0; j < WIDE; j++)
                    sum[j] += at(u + col * step + j * VECTOR) *
                              at(v + col * s->channels + j * VECTOR);
        }
        for (int j = 0; j < WIDE; j++) *(vector *)(dw + j * VECTOR) = sum[j];
        return;
    }
    for (; i + VECTOR <= m; i += VECTOR) {
        vector sum = at(dw + i);
        for (int64_t row = top; row < bottom; row++) {
            const float *u = origin + row * s->stride * s->width * s->channels + i;
            const float *v = dy + row * s->columns * s->channels + c + i;
            for (int64_t col = left; col < right; col++)
                sum += at(u + col * step) * at(v + col * s->channels);
        }
        *(vector *)(dw + i) = sum;
    }
    for (; i < m; i++)
        for (int64_t row = top; row < bottom; row++) {
            const float *u = origin + row * s->stride * s->width * s->channels + i;
            const float *v = dy + row * s->columns * s->channels + c + i;
            for (int64_t col = left; col < right; col++)
                dw[i] += u[col * step] * v[col * s->channels];
        }
}

/* partial [chunks, k, k, channels] */
static void chunk_weights(const shape *s, int64_t chunks, const float *x, const float *dy,
                          float *partial)
{
    int64_t across = (s->channels + WIDE * VECTOR - 1) / (WIDE * VECTOR), weights;
    int64_t image = s->height * s->width * s->channels, result = s->rows * s->columns * s->channels;
    weights = s->k * s->k * s->channels;
#pragma omp parallel for schedule(static) if (s->batch * image > LK_CPU_SMALL)
    for (int64_t task = 0; task < chunks * across; task++) {
        int64_t chunk = task / across, c = task % across * WIDE * VECTOR;
        int64_t m = s->channels - c < WIDE * VECTOR ? s->channels - c : WIDE * VECTOR;
        for (int64_t k = 0; k < s->k * s->k; k++)
            memset(partial + chunk * weights + k * s->channels + c, 0, (size_t)m * sizeof(float));
        for (int64_t b = chunk * s->batch / chunks; b < (chunk + 1) * s->batch / chunks; b++)
            for (int64_t k = 0; k < s->k * s->k; k++)
                tap_sum(s, x + b * image, dy + b * result, k / s->k, k % s->k, c, m,
                        partial + chunk * weights + k * s->channels + c);
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
        all_pixels(&s, true, dys, ws, dx);
        lk_cpu_from_f32(x, out, dx);
    }
    float *partial = (float *)scratch;
    int64_t chunks = chunks_of(&s);
    chunk_weights(&s, chunks, xs, dys, partial);
    lk_cpu_sum_chunks(partial, chunks, s.k * s.k * s.channels, n->accumulate & 2,
                      lk_data(x, n->out[1]));
    return LK_OK;
}
