/* Cameras store what the sensor saw and say in EXIF data how it was held. EXIF data are a TIFF file
 * without pictures: a byte order, 42, the place of the first directory; there 12 bytes for each
 * tag. They come from anywhere, so every place in them is compared with their size. */
#include "io/image.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD = 8, ENTRY = 12, TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, UPRIGHT = 1, LAST = 8 };

/* A number of `bytes` bytes, in the order of the file. */
static uint32_t number(const uint8_t *at, int bytes, bool big)
{
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | at[big ? i : bytes - 1 - i];
    return value;
}

int lk_image_orientation(const uint8_t *exif, size_t size)
{
    if (size < HEAD || (memcmp(exif, "II", 2) != 0 && memcmp(exif, "MM", 2) != 0)) return UPRIGHT;
    bool big = exif[0] == 'M';
    size_t at = number(exif + 4, 4, big);
    if (number(exif + 2, 2, big) != 42 || at < HEAD || at > size - 2) return UPRIGHT;
    uint32_t entries = number(exif + at, 2, big);
    at += 2;
    for (uint32_t i = 0; i < entries && size - at >= ENTRY; i++, at += ENTRY) {
        const uint8_t *e = exif + at;
        if (number(e, 2, big) != TAG_ORIENTATION) continue;
        uint32_t value = number(e + 8, 2, big);
        bool good = number(e + 2, 2, big) == TYPE_SHORT && number(e + 4, 4, big) == 1;
        return good && value >= UPRIGHT && value <= LAST ? (int)value : UPRIGHT;
    }
    return UPRIGHT;
}

/* By orientation: whether stored rows are columns of the picture, and whether stored rows and
 * columns run from its far end. */
static const struct {
    bool sideways, rows_back, columns_back;
} way[LAST + 1] = {
    {0, 0, 0}, {0, 0, 0}, {0, 0, 1}, {0, 1, 1}, {0, 1, 0},
    {1, 0, 0}, {1, 1, 0}, {1, 1, 1}, {1, 0, 1},
};

lk_status lk_image_turn(lk_pixels *p, int orientation)
{
    bool sideways = way[orientation].sideways;
    int64_t h = p->height, w = p->width, n = p->channels;
    int64_t down = sideways ? n : w * n, across = sideways ? h * n : n; /* from one to the next */
    if (orientation == UPRIGHT) return LK_OK;
    uint8_t *data = malloc((size_t)(h * w * n)), *corner = data;
    if (!data) return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    lk_pixels to = {h, w, n, p->top, p->left, p->rows, p->columns, data};
    if (way[orientation].rows_back) {
        corner += (h - 1) * down;
        down = -down;
        to.top = (double)h - p->top - p->rows;
    }
    if (way[orientation].columns_back) {
        corner += (w - 1) * across;
        across = -across;
        to.left = (double)w - p->left - p->columns;
    }
    const uint8_t *from = p->data;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++, from += n)
            memcpy(corner + y * down + x * across, from, (size_t)n);
    free(p->data);
    *p = to;
    if (sideways) *p = (lk_pixels){w, h, n, to.left, to.top, to.columns, to.rows, data};
    return LK_OK;
}
