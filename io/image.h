/* Private: one image file to pixels of a given shape. Needs no HDF5; any thread. */
#ifndef LK_IO_IMAGE_H
#define LK_IO_IMAGE_H

#include "base/status.h"
#include "io/import.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A decoded image, upright: u8 [height, width, channels], 1 or 3 channels. The picture is `rows`
 * high and `columns` wide and begins at (top, left): of a JPEG decoded at a smaller scale the
 * pixels of two edges are only in part in it. */
typedef struct lk_pixels {
    int64_t height, width, channels;
    double top, left, rows, columns;
    uint8_t *data;
} lk_pixels;

/* The orientation, 1 (upright) to 8, that EXIF data have in their first directory (CIPA DC-008,
 * 4.6.5); 1 if they have none or are malformed. io/image_upright.c */
int lk_image_orientation(const uint8_t *exif, size_t size);
/* Turn and mirror pixels that were stored in that orientation so that they are upright.
 * io/image_upright.c */
lk_status lk_image_turn(lk_pixels *p, int orientation);
/* Decode PNG or JPEG bytes of at most 128 million pixels, turned as their EXIF orientation says;
 * free(p->data). PNG: sRGB, transparency over white, 16 bits to 8, one channel if the file is grey
 * without a palette. JPEG: grey or RGB; as small as it can be while both sides are at least
 * `height` and `width` (0: full size). LK_E_INPUT: the reason why it is not an image that can be
 * used. io/image_decode.c */
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
/* Whether a file begins as a PNG or a JPEG does, or cannot be read. io/image_decode.c */
bool lk_image_begins(const char *path);

#endif
