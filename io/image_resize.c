/* Resizing, one direction after the other. Each output pixel of a direction is a weighted sum of
 * neighbouring source pixels; the weights are integers that add up to exactly ONE, so a constant
 * image stays constant and the result does not depend on the machine's floating point. */
#include "io/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ONE = 1 << 14, BITS = 14, BETWEEN = 8 }; /* BETWEEN: fraction bits after the first pass */

/* One direction: output i is the sum of weight[i*taps + k] source[first[i] + k]. */
typedef struct filter {
    int64_t out, taps;
    int64_t *first;
    int32_t *weight;
} filter;

/* The part of a source that is shown, and where. Source in pixels, may be fractions. */
typedef struct window {
    double top, left, rows, columns;
    int64_t out_top, out_left, out_rows, out_columns;
} window;

static window place(const lk_pixels *p, lk_resize how, int64_t height, int64_t width)
{
    double h = p->rows, w = p->columns;
    window v = {p->top, p->left, h, w, 0, 0, height, width};
    double across = (double)width / w, down = (double)height / h;
    if (how == LK_RESIZE_CROP) {
        double scale = across > down ? across : down;
        if (across < scale) v.columns = (double)width / scale;
        if (down < scale) v.rows = (double)height / scale;
        v.top += (h - v.rows) / 2;
        v.left += (w - v.columns) / 2;
    }
    if (how == LK_RESIZE_FIT) {
        double scale = across < down ? across : down;
        if (across > scale) v.out_columns = (int64_t)fmax(1, floor(w * scale + 0.5));
        if (down > scale) v.out_rows = (int64_t)fmax(1, floor(h * scale + 0.5));
        v.out_top = (height - v.out_rows) / 2;
        v.out_left = (width - v.out_columns) / 2;
    }
    return v;
}

/* Weights of one output pixel to integers: differences of the rounded sum so far. */
static void round_weights(const double *exact, int64_t taps, int32_t *weight)
{
    double sum = 0, part = 0;
    int32_t before = 0;
    for (int64_t k = 0; k < taps; k++) sum += exact[k];
    for (int64_t k = 0; k < taps; k++) {
        part += exact[k];
        int32_t now = (int32_t)floor(part / sum * ONE + 0.5);
        weight[k] = now - before;
        before = now;
    }
}

/* Share of source pixel s in output pixel i: the covered length when shrinking, a triangle around
 * the centre when growing. */
static double share(double start, double step, int64_t i, int64_t s)
{
    if (step >= 1) {
        double low = start + (double)i * step, high = low + step;
        double a = low > (double)s ? low : (double)s;
        double b = high < (double)s + 1 ? high : (double)s + 1;
        return b > a ? b - a : 0;
    }
    double d = fabs(start + ((double)i + 0.5) * step - ((double)s + 0.5));
    return d < 1 ? 1 - d : 0;
}

static void filter_clear(filter *f)
{
    free(f->first);
    free(f->weight);
}

/* [start, start + length) of `size` source pixels to `out` pixels. */
static lk_status filter_create(int64_t size, double start, double length, int64_t out, filter *f)
{
    double step = length / (double)out;
    int64_t taps = (int64_t)ceil(step >= 1 ? step : 1) + 2;
    if (taps > size) taps = size;
    *f = (filter){out, taps, malloc((size_t)out * sizeof *f->first),
                  malloc((size_t)(out * taps) * sizeof *f->weight)};
    double *exact = malloc((size_t)taps * sizeof *exact);
    if (!f->first || !f->weight || !exact) {
        free(exact);
        filter_clear(f);
        return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    }
    for (int64_t i = 0; i < out; i++) {
        double low = step >= 1 ? start + (double)i * step
                               : start + ((double)i + 0.5) * step - 1.0;
        int64_t first = (int64_t)floor(low + 1e-9);
        if (first > size - taps) first = size - taps;
        if (first < 0) first = 0;
        for (int64_t k = 0; k < taps; k++) exact[k] = share(start, step, i, first + k);
        f->first[i] = first;
        round_weights(exact, taps, f->weight + i * taps);
    }
    free(exact);
    return LK_OK;
}

/* Rows of the source to rows of `columns` u16 with BETWEEN fraction bits. */
static void across(const lk_pixels *p, const filter *f, uint16_t *to)
{
    int64_t channels = p->channels;
    for (int64_t y = 0; y < p->height; y++) {
        const uint8_t *row = p->data + y * p->width * channels;
        for (int64_t x = 0; x < f->out; x++)
            for (int64_t c = 0; c < channels; c++) {
                const uint8_t *from = row + f->first[x] * channels + c;
                const int32_t *w = f->weight + x * f->taps;
                int32_t sum = 1 << (BITS - BETWEEN - 1);
                for (int64_t k = 0; k < f->taps; k++) sum += w[k] * from[k * channels];
                *to++ = (uint16_t)(sum >> (BITS - BETWEEN));
            }
    }
}

/* Row y of the output from those of `between`, `length` values each; out: 8 bits. */
static void down(const uint16_t *between, const filter *f, int64_t y, int64_t length, uint8_t *out)
{
    const uint16_t *from = between + f->first[y] * length;
    const int32_t *w = f->weight + y * f->taps;
    for (int64_t i = 0; i < length; i++) {
        uint32_t sum = 1u << (BITS + BETWEEN - 1);
        for (int64_t k = 0; k < f->taps; k++) sum += (uint32_t)w[k] * from[k * length + i];
        uint32_t value = sum >> (BITS + BETWEEN);
        out[i] = (uint8_t)(value > 255 ? 255 : value);
    }
}

/* `n` pixels of `from` channels to `to` channels. */
static void convert(const uint8_t *in, int64_t from, int64_t n, int64_t to, uint8_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *v = in + i * from;
        if (from == to)
            memcpy(out + i * to, v, (size_t)to);
        else if (to == 3)
            memset(out + i * 3, v[0], 3);
        else /* the weights add up to 2^16 */
            out[i] = (uint8_t)((19595u * v[0] + 38470u * v[1] + 7471u * v[2] + 32768u) >> 16);
    }
}

static lk_status resample(const lk_pixels *p, const window *v, const filter *x, const filter *y,
                          int64_t width, int64_t channels, uint8_t *out)
{
    int64_t length = v->out_columns * p->channels;
    uint16_t *between = malloc((size_t)(p->height * length) * sizeof *between);
    uint8_t *row = malloc((size_t)length);
    if (!between || !row) {
        free(between);
        free(row);
        return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    }
    across(p, x, between);
    for (int64_t i = 0; i < v->out_rows; i++) {
        down(between, y, i, length, row);
        convert(row, p->channels, v->out_columns, channels,
                out + ((v->out_top + i) * width + v->out_left) * channels);
    }
    free(between);
    free(row);
    return LK_OK;
}

lk_status lk_image_resize(const lk_pixels *p, lk_resize how, int64_t height, int64_t width,
                          int64_t channels, uint8_t *out)
{
    filter x, y;
    window v = place(p, how, height, width);
    if (p->rows == (double)height && p->columns == (double)width) {
        convert(p->data, p->channels, height * width, channels, out);
        return LK_OK;
    }
    memset(out, 0, (size_t)(height * width * channels));
    LK_TRY(filter_create(p->width, v.left, v.columns, v.out_columns, &x));
    lk_status status = filter_create(p->height, v.top, v.rows, v.out_rows, &y);
    if (status == LK_OK) {
        status = resample(p, &v, &x, &y, width, channels, out);
        filter_clear(&y);
    }
    filter_clear(&x);
    return status;
}
