/* Augmentation of images: what is drawn for one sample, the same on both backends.
 *
 * Every draw is a function of (seed, step, leaf, sample) alone. Geometry: output pixel (i, j) of an
 * image of height x width is read at (top + (i+1/2) rows/height - 1/2, left + (j+1/2) columns/width
 * - 1/2) of the stored one, interpolated bilinearly between the four pixels around. A point is
 * clamped to the image if it lies within half a pixel of it, else it is black (a stored 0). */
#ifndef LK_OPS_AUGMENT_H
#define LK_OPS_AUGMENT_H

#include "base/philox.h"

#include <math.h>
#include <stdbool.h>

typedef struct lk_augment {
    bool flip;        /* mirror left and right, half of the samples */
    int pad;          /* shift by up to this many stored pixels each way, black outside */
    float crop;       /* least share of the area in a random resized crop; 1: no crop. Aspect
                         ratio 3/4 to 4/3, ten tries, then the largest such in the middle, as
                         torchvision's RandomResizedCrop */
    float erase;      /* probability of erasing a rectangle: 2 to 33 % of the area, aspect ratio 0.3
                         to 3.3 (Z. Zhong et al., "Random erasing", AAAI 2020) */
    float mixup;      /* alpha of mixup's Beta(alpha, alpha), (0, 1]; 0: no mixup */
    float smoothing;  /* share of a target spread over all classes */
} lk_augment;
#define LK_AUGMENT_NONE ((lk_augment){.crop = 1})

typedef struct lk_augment_sample {
    float top, left, rows, columns; /* of the stored image; the whole: 0, 0, Hs, Ws */
    bool flip;                      /* output column j is column width-1-j of the crop */
    int erase_top, erase_left, erase_rows, erase_columns; /* of the output; rows 0: none */
    float lambda;                   /* share of this sample in the mixture; 1 without mixup */
} lk_augment_sample;

/* Four uniform numbers in [0, 1), draw number `n` of a sample. */
LK_HD void lk_augment_uniform(uint64_t seed, uint64_t step, int leaf, int64_t sample, uint32_t n,
                              float u[4])
{
    lk_u32x4 r = lk_philox(seed, (uint32_t)sample, LK_PURPOSE_AUGMENT | n, (uint32_t)leaf,
                           (uint32_t)step);
    for (int i = 0; i < 4; i++) u[i] = lk_uniform(r.v[i]);
}

/* Beta(a, a) for a in (0, 1] by M. Jöhnk's rejection, 1964; draws 16 to 47. */
LK_HD float lk_augment_beta(float a, uint64_t seed, uint64_t step, int leaf, int64_t sample)
{
    for (uint32_t n = 0; n < 32; n++) {
        float u[4];
        lk_augment_uniform(seed, step, leaf, sample, 16 + n, u);
        for (int i = 0; i < 4; i += 2) {
            /* logarithms: u^(1/a) underflows for small a */
            float x = logf(u[i] + 0x1p-25f) / a, y = logf(u[i + 1] + 0x1p-25f) / a;
            float most = x > y ? x : y;
            float sum = most + logf(expf(x - most) + expf(y - most));
            if (sum <= 0) return expf(x - sum);
        }
    }
    return 0.5f;
}

LK_HD void lk_augment_crop(const lk_augment *a, float height, float width, uint64_t seed,
                           uint64_t step, int leaf, int64_t sample, lk_augment_sample *s)
{
    for (uint32_t n = 0; n < 10; n++) { /* draws 1 to 10 */
        float u[4];
        lk_augment_uniform(seed, step, leaf, sample, 1 + n, u);
        float area = height * width * (a->crop + (1.0f - a->crop) * u[0]);
        float ratio = expf((2.0f * u[1] - 1.0f) * 0.28768207f); /* ln 4/3 */
        float columns = roundf(sqrtf(area * ratio)), rows = roundf(sqrtf(area / ratio));
        if (columns < 1 || rows < 1 || columns > width || rows > height) continue;
        s->rows = rows;
        s->columns = columns;
        s->top = floorf(u[2] * (height - rows + 1.0f));
        s->left = floorf(u[3] * (width - columns + 1.0f));
        return;
    }
    /* none fitted, as in an oblong image */
    if (4.0f * width < 3.0f * height) s->rows = roundf(4.0f * width / 3.0f);
    if (3.0f * width > 4.0f * height) s->columns = roundf(4.0f * height / 3.0f);
    s->top = floorf((height - s->rows) / 2.0f);
    s->left = floorf((width - s->columns) / 2.0f);
}

LK_HD void lk_augment_erase(int height, int width, uint64_t seed, uint64_t step, int leaf,
                            int64_t sample, lk_augment_sample *s)
{
    float u[4];
    lk_augment_uniform(seed, step, leaf, sample, 12, u);
    float area = (float)height * (float)width * (0.02f + 0.31f * u[0]);
    float ratio = expf((2.0f * u[1] - 1.0f) * 1.1939225f); /* ln 3.3 */
    int rows = (int)roundf(sqrtf(area * ratio)), columns = (int)roundf(sqrtf(area / ratio));
    s->erase_rows = rows < 1 ? 1 : rows > height ? height : rows;
    s->erase_columns = columns < 1 ? 1 : columns > width ? width : columns;
    s->erase_top = (int)(u[2] * (float)(height - s->erase_rows + 1));
    s->erase_left = (int)(u[3] * (float)(width - s->erase_columns + 1));
}

/* What happens to `sample` of `leaf`; stored images are stored_height x stored_width, the output is
 * height x width. Draw 0: flip, shift, whether erased. */
LK_HD lk_augment_sample lk_augment_draw(const lk_augment *a, int stored_height, int stored_width,
                                        int height, int width, uint64_t seed, uint64_t step,
                                        int leaf, int64_t sample)
{
    lk_augment_sample s = {0, 0, (float)stored_height, (float)stored_width, false, 0, 0, 0, 0, 1};
    float u[4];
    lk_augment_uniform(seed, step, leaf, sample, 0, u);
    s.flip = a->flip && u[0] < 0.5f;
    if (a->crop < 1) lk_augment_crop(a, s.rows, s.columns, seed, step, leaf, sample, &s);
    if (a->pad > 0) {
        s.top += floorf(u[1] * (float)(2 * a->pad + 1)) - (float)a->pad;
        s.left += floorf(u[2] * (float)(2 * a->pad + 1)) - (float)a->pad;
    }
    if (u[3] < a->erase) lk_augment_erase(height, width, seed, step, leaf, sample, &s);
    if (a->mixup > 0) s.lambda = lk_augment_beta(a->mixup, seed, step, leaf, sample);
    return s;
}

#endif
