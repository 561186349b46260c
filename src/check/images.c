/* Checking images: channels, and cells of a grid over the image. */
#include "check/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GRID = 4 };

/* Cells of a side: fewer for tiny images and for many channels. */
static int64_t side(const lk_checker *c)
{
    const lk_image_format *f = &c->data->image;
    int64_t n = GRID;
    while (n > 0 && (n > f->height || n > f->width ||
                     (n * n + 1) * f->channels > LK_CHECK_COLUMNS))
        n--;
    return n;
}

static int64_t features(const lk_checker *c)
{
    int64_t n = side(c), channels = c->data->image.channels;
    if (channels > LK_CHECK_COLUMNS) return LK_CHECK_COLUMNS;
    return (n * n + 1) * channels;
}

/* Means of every channel, over the image and over each cell, of one image. Sums are whole. */
static void derive_image(const lk_image_format *f, int64_t cells, int64_t count,
                         const uint8_t *pixel, float *out)
{
    uint64_t sum[GRID * GRID][LK_CHECK_COLUMNS] = {{0}}, all[LK_CHECK_COLUMNS] = {0};
    int64_t channels = f->channels, n = cells > 0 ? cells : 1, area[GRID * GRID] = {0};
    int64_t shown = channels < count ? channels : count;
    for (int64_t y = 0; y < f->height; y++)
        for (int64_t cx = 0; cx < n; cx++) {
            int64_t cell = y * n / f->height * n + cx;
            int64_t from = (cx * f->width + n - 1) / n, to = ((cx + 1) * f->width + n - 1) / n;
            const uint8_t *at = pixel + (y * f->width + from) * channels;
            area[cell] += to - from;
            for (int64_t x = from; x < to; x++, at += channels)
                for (int64_t k = 0; k < shown; k++) sum[cell][k] += at[k];
        }
    for (int64_t cell = 0; cell < n * n; cell++)
        for (int64_t k = 0; k < shown; k++) {
            all[k] += sum[cell][k];
            if (cells > 0)
                out[(cell + 1) * channels + k] = (float)((double)sum[cell][k] /
                                                         (double)area[cell]);
        }
    for (int64_t k = 0; k < shown; k++)
        out[k] = (float)((double)all[k] / (double)(f->height * f->width));
}

static void derive(const lk_checker *c, const void *rows, int64_t count, float *out)
{
    size_t bytes = c->data->field[0].row_bytes;
    int64_t cells = side(c);
    for (int64_t i = 0; i < count; i++)
        derive_image(&c->data->image, cells, c->features, (const uint8_t *)rows + (size_t)i * bytes,
                     out + i * c->features);
}

static void count_pixels(const uint8_t *pixel, int64_t count, int64_t channels, int64_t *into)
{
    if (channels == 1) { /* equal neighbours would wait for each other */
        uint32_t part[4][256] = {{0}};
        for (int64_t i = 0; i < count; i++) part[i & 3][pixel[i]]++;
        for (int k = 0; k < 256; k++)
            into[k] += (int64_t)part[0][k] + part[1][k] + part[2][k] + part[3][k];
        return;
    }
    for (int64_t i = 0; i < count; i += channels)
        for (int64_t k = 0; k < channels; k++) into[k * 256 + pixel[i + k]]++;
}

static void block(lk_checker *c, lk_check_worker *w, lk_split split, const lk_block *b,
                  lk_record_list *list)
{
    size_t bytes = c->data->field[0].row_bytes;
    const uint8_t *pixel = b->field[0];
    bool train = split == LK_TRAIN;
    lk_counts_labels(c, &w->counts, b);
    if (w->counts.pixel && (train || c->compared[split]))
        for (int64_t i = 0; i < b->rows; i++)
            count_pixels(pixel + (size_t)i * bytes, (int64_t)bytes, c->data->image.channels,
                         w->counts.pixel);
    for (int64_t i = 0; i < b->rows && c->judging; i++) {
        const uint8_t *image = pixel + (size_t)i * bytes;
        if (bytes > 1 && memcmp(image, image + 1, bytes - 1) == 0)
            lk_bad_rows_note(&w->counts.constant_rows, b->first + i);
    }
    if (c->judging) {
        lk_check_records(c, split, b, list);
        w->counts.samples += b->rows;
    }
    if (c->features == 0) return;
    derive(c, pixel, b->rows, w->derived);
    lk_scan_rows(&w->counts.scan, w->derived, b->rows, b->first);
    lk_columns_block(&c->plan, w->derived, train ? b->field[1] : NULL, b->rows, &w->columns,
                     w->columns.tile, train ? c->product[b->lane] : NULL);
}

static lk_status judge(lk_checker *c)
{
    for (int s = 0; s < 2; s++) {
        const lk_bad_rows *bad = &c->total[s].constant_rows;
        if (bad->count > 0)
            LK_TRY(lk_check_find(c, LK_WARNING, "constant", s, NULL, bad->count, bad->row,
                                 "%lld image%s of one value everywhere", (long long)bad->count,
                                 bad->count == 1 ? " is" : "s are"));
    }
    return LK_OK;
}

static void name(const lk_checker *c, int64_t i, char text[64])
{
    int64_t channels = c->data->image.channels, cell = i / channels - 1, cells = side(c);
    if (i < channels) snprintf(text, 64, "channel %d", (int)i);
    else
        snprintf(text, 64, "channel %d cell %d,%d", (int)(i % channels), (int)(cell / cells),
                 (int)(cell % cells));
}

/* The figures of a channel are those of its values, which are known exactly. */
static void describe_channel(const int64_t count[256], lk_check_feature *f)
{
    double n = 0, sum = 0, square = 0;
    int low = 255, high = 0;
    for (int v = 0; v < 256; v++) {
        n += (double)count[v];
        sum += (double)count[v] * v;
        if (count[v] > 0 && v < low) low = v;
        if (count[v] > 0 && v > high) high = v;
    }
    double mean = sum / n;
    for (int v = 0; v < 256; v++) square += (double)count[v] * (v - mean) * (v - mean);
    f->mean = mean;
    f->deviation = n > 1 ? sqrt(square / (n - 1)) : NAN;
    f->low = low;
    f->high = high;
    for (int q = 0; q < LK_CHECK_QUANTILES; q++) {
        int64_t rank = (int64_t)(lk_check_quantile[q] * (n - 1)), before = 0;
        int v = 0;
        while (v < 255 && before + count[v] <= rank) before += count[v++];
        f->quantile[q] = v;
    }
    for (int k = 0; k < LK_CHECK_BARS; k++) f->bar[k] = 0;
    for (int v = low; v <= high; v++) {
        int k = high > low ? (v - low) * LK_CHECK_BARS / (high - low + 1) : 0;
        f->bar[k] += (double)count[v];
    }
}

static lk_status describe(lk_checker *c)
{
    LK_TRY(lk_check_describe_columns(c, name));
    int64_t channels = c->data->image.channels;
    for (int64_t k = 0; k < channels && k < c->report->features; k++) {
        lk_check_feature *f = &c->report->feature[k];
        describe_channel(c->total[LK_TRAIN].pixel + k * 256, f);
        if (f->low == f->high)
            LK_TRY(lk_check_find(c, LK_WARNING, "constant", LK_TRAIN, f->name,
                                 c->data->rows[LK_TRAIN], NULL, "%s is %.6g everywhere", f->name,
                                 f->low));
    }
    return lk_check_judge_features(c);
}

const lk_check_kind lk_check_images = {0, features, derive, block, judge, describe};
