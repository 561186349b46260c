/* Private: one image file to pixels of a given shape. Needs no HDF5; any thread. */
#ifndef LK_IO_IMAGE_H
#define LK_IO_IMAGE_H

#include "base/status.h"
#include "io/import.h"

#include <stddef.h>
#include <stdint.h>

/* A decoded image: u8 [height, width, channels], 1 or 3 channels. The picture is `rows` high and
 * `columns` wide: of a JPEG decoded at a smaller scale the last pixels are only in part in it. */
typedef struct lk_pixels {
    int64_t height, width, channels;
    double rows, columns;
    uint8_t *data;
} lk_pixels;

/* Decode PNG or JPEG bytes; free(p->data). PNG: sRGB, transparency over white, 16 bits to 8, one
 * channel if the file is grey without a palette. JPEG: grey or RGB; as small as it can be while
 * both sides are at least `height` and `width` (0: full size). LK_E_INPUT: the reason why it is not
 * an image that can be used. io/image_decode.c */
lk_status lk_image_decode(const uint8_t *bytes, size_t size, int64_t height, int64_t width,
                          lk_pixels *p);
/* Write the image to out, u8 [height, width, channels]: area average where it shrinks, bilinear
 * where it grows, integer arithmetic; LK_RESIZE_FIT leaves black bars. Luminance of colours is
 * ITU-R BT.601's. io/image_resize.c */
lk_status lk_image_resize(const lk_pixels *p, lk_resize how, int64_t height, int64_t width,
                          int64_t channels, uint8_t *out);
/* Both, from a file. LK_E_INPUT: the reason, without the path. io/image_decode.c */
lk_status lk_image_load(const char *path, lk_resize how, int64_t height, int64_t width,
                        int64_t channels, uint8_t *out);

#endif
