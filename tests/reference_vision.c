/* The ops on images in plain double loops; see reference.h. */
#include "tests/reference.h"

#include <stdlib.h>

int64_t ref_rows(const ref_window *s)
{
    return (s->height + 2 * s->pad - s->kh) / s->stride + 1;
}

int64_t ref_columns(const ref_window *s)
{
    return (s->width + 2 * s->pad - s->kw) / s->stride + 1;
}

/* x [b, h, w, c]; NULL: in the padding. */
static const double *pixel(const ref_window *s, const double *x, int64_t b, int64_t h, int64_t w)
{
    if (h < 0 || h >= s->height || w < 0 || w >= s->width) return NULL;
    return x + ((b * s->height + h) * s->width + w) * s->in;
}

/* The pixel that tap (kh, kw) of result pixel p sees. */
static const double *seen(const ref_window *s, const double *x, int64_t p, int kh, int kw)
{
    int64_t rows = ref_rows(s), columns = ref_columns(s);
    return pixel(s, x, p / (rows * columns), p / columns % rows * s->stride - s->pad + kh,
                 p % columns * s->stride - s->pad + kw);
}

void ref_conv(const ref_window *s, int64_t out, const double *x, const double *w, double *y)
{
    for (int64_t p = 0; p < s->batch * ref_rows(s) * ref_columns(s); p++) {
        double *to = y + p * out;
        for (int64_t o = 0; o < out; o++) to[o] = 0;
        for (int k = 0; k < s->kh * s->kw; k++) {
            const double *from = seen(s, x, p, k / s->kw, k % s->kw);
            for (int64_t o = 0; from && o < out; o++)
                for (int64_t c = 0; c < s->in; c++)
                    to[o] += from[c] * w[(o * s->kh * s->kw + k) * s->in + c];
        }
    }
}

void ref_dwconv(const ref_window *s, const double *x, const double *w, double *y)
{
    for (int64_t p = 0; p < s->batch * ref_rows(s) * ref_columns(s); p++) {
        double *to = y + p * s->in;
        for (int64_t c = 0; c < s->in; c++) to[c] = 0;
        for (int k = 0; k < s->kh * s->kw; k++) {
            const double *from = seen(s, x, p, k / s->kw, k % s->kw);
            for (int64_t c = 0; from && c < s->in; c++) to[c] += from[c] * w[k * s->in + c];
        }
    }
}

void ref_max_pool(const ref_window *s, const double *x, double *y, double *index)
{
    for (int64_t p = 0; p < s->batch * ref_rows(s) * ref_columns(s); p++)
        for (int64_t c = 0; c < s->in; c++) {
            double best = -INFINITY;
            int where = 0;
            for (int k = 0; k < s->kh * s->kw; k++) {
                const double *from = seen(s, x, p, k / s->kw, k % s->kw);
                if (!from || !(from[c] > best || isnan(from[c]))) continue;
                best = from[c];
                where = k;
            }
            if (y) y[p * s->in + c] = best;
            if (index) index[p * s->in + c] = where;
        }
}

void ref_channel_conv(int64_t n, int64_t c, int64_t k, const double *x, const double *w, double *y)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) {
            y[i * c + j] = 0;
            for (int64_t t = 0; t < k; t++) {
                int64_t from = j + t - k / 2;
                if (from >= 0 && from < c) y[i * c + j] += w[t] * x[i * c + from];
            }
        }
}

double ref_activate(lk_activation kind, double x)
{
    double hard = fmin(fmax(x + 3, 0), 6) / 6;
    switch (kind) {
    case LK_GELU:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case LK_RELU: return isnan(x) ? x : fmax(x, 0);
    case LK_HARD_SWISH: return x * hard;
    case LK_HARD_SIGMOID: return isnan(x) ? x : hard;
    case LK_SIGMOID: return 1 / (1 + exp(-x));
    default: return x;
    }
}

void ref_moments(int64_t n, int64_t c, const double *x, double *mean, double *var)
{
    for (int64_t j = 0; j < c; j++) mean[j] = var[j] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) mean[j] += x[i * c + j] / (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++)
            var[j] += (x[i * c + j] - mean[j]) * (x[i * c + j] - mean[j]) / (double)n;
}

void ref_batch_norm(int64_t n, int64_t c, float eps, lk_activation act, const double *x,
                    const double *w, const double *b, const double *mean, const double *var,
                    double *y)
{
    for (int64_t i = 0; i < n; i++, x += c, y += c)
        for (int64_t j = 0; j < c; j++)
            y[j] = ref_activate(act, (x[j] - mean[j]) / sqrt(var[j] + (double)eps) * w[j] + b[j]);
}

void ref_pool(int64_t n, int64_t pixels, int64_t c, const double *x, double *y)
{
    for (int64_t i = 0; i < n * c; i++) {
        y[i] = 0;
        for (int64_t p = 0; p < pixels; p++)
            y[i] += x[(i / c * pixels + p) * c + i % c] / (double)pixels;
    }
}

void ref_gate(int64_t n, int64_t pixels, int64_t c, const double *x, const double *s, double *y)
{
    for (int64_t i = 0; i < n * pixels * c; i++) y[i] = x[i] * s[i / (pixels * c) * c + i % c];
}

void ref_excite(int64_t n, int64_t c, int64_t s, const double *x, const double *w1,
                const double *b1, const double *w2, const double *b2, double *y, double *h,
                double *z)
{
    double *hidden = malloc((size_t)s * sizeof *hidden);
    if (!hidden) abort();
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < s; k++) {
            double sum = b1[k];
            for (int64_t j = 0; j < c; j++) sum += x[i * c + j] * w1[k * c + j];
            hidden[k] = ref_activate(LK_RELU, sum);
            if (h) h[i * s + k] = hidden[k];
        }
        for (int64_t j = 0; j < c; j++) {
            double sum = b2[j];
            for (int64_t k = 0; k < s; k++) sum += hidden[k] * w2[j * s + k];
            if (z) z[i * c + j] = sum;
            if (y) y[i * c + j] = ref_activate(LK_HARD_SIGMOID, sum);
        }
    }
    free(hidden);
}

double ref_soft_xent(int64_t n, int64_t k, const double *logits, const double *targets)
{
    double loss = 0;
    for (int64_t i = 0; i < n; i++) {
        const double *row = logits + i * k, *target = targets + i * k;
        double most = row[0], sum = 0, hit = 0;
        for (int64_t j = 1; j < k; j++) most = fmax(most, row[j]);
        for (int64_t j = 0; j < k; j++) sum += exp(row[j] - most);
        for (int64_t j = 0; j < k; j++) hit += target[j] * row[j];
        loss += (most + log(sum) - hit) / (double)n;
    }
    return loss;
}

double ref_hits(int64_t n, int64_t k, const double *logits, const double *labels)
{
    double hits = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t best = 0;
        for (int64_t j = 1; j < k; j++)
            if (logits[i * k + j] > logits[i * k + best]) best = j;
        hits += best == (int64_t)labels[i];
    }
    return hits / (double)n;
}
