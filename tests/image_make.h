/* Image files for tests, written with the libraries' low-level interfaces (the product reads PNG by
 * the simplified one). Exit in place of errors: a test that cannot write proves nothing. */
#ifndef LK_TESTS_IMAGE_MAKE_H
#define LK_TESTS_IMAGE_MAKE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <png.h>
#include <zlib.h>

typedef enum make_kind {
    MAKE_GRAY,    /* PNG, 8 bits */
    MAKE_RGB,
    MAKE_BIT,     /* grey, 1 bit: value / 128 */
    MAKE_DEEP,    /* RGB, 16 bits: value * 257 */
    MAKE_PALETTE, /* value i of a pixel's channel 0 is entry i = (i, 255-i, i/2) */
    MAKE_ALPHA,   /* RGBA: opaque but for row 0, which is transparent */
    MAKE_WOVEN,   /* RGB, interlaced */
    MAKE_JPEG,    /* quality 95, no chroma subsampling */
    MAKE_JPEG_GRAY,
    MAKE_JPEG_CMYK,
    MAKE_JPEG_STEPS, /* progressive, chroma subsampled */
    MAKE_KINDS
} make_kind;

static const char *const make_name[MAKE_KINDS] = {"gray",  "rgb",  "bit",       "deep",
                                                  "palette", "alpha", "woven",  "jpeg",
                                                  "jpeg-gray", "cmyk", "progressive"};

/* Channel c of pixel (y, x): sharp for PNG, smooth for JPEG. */
static inline uint8_t make_value(make_kind kind, int seed, int y, int x, int c)
{
    if (kind < MAKE_JPEG) return (uint8_t)(seed * 31 + y * 13 * (c + 1) + x * 7 + x * y % 5 * c);
    int up = (seed * 17 + (c + 1) * (x + y) / 2 + 3 * c) % 352;
    return (uint8_t)(40 + (up < 176 ? up : 351 - up));
}

static inline FILE *make_open(const char *path)
{
    FILE *f = fopen(path, "wb");
    if (!f) {
        fprintf(stderr, "cannot write %s\n", path);
        exit(1);
    }
    return f;
}

static inline void make_png_row(make_kind kind, int seed, int y, int w, uint8_t *row)
{
    memset(row, 0, (size_t)w * 8);
    for (int x = 0; x < w; x++) {
        uint8_t v[3];
        for (int c = 0; c < 3; c++) v[c] = make_value(kind, seed, y, x, c);
        switch (kind) {
        case MAKE_BIT: row[x / 8] |= (uint8_t)((v[0] >> 7) << (7 - x % 8)); break;
        case MAKE_DEEP:
            for (int c = 0; c < 6; c++) row[x * 6 + c] = v[c / 2];
            break;
        case MAKE_ALPHA:
            memcpy(row + x * 4, v, 3);
            row[x * 4 + 3] = y == 0 ? 0 : 255;
            break;
        case MAKE_GRAY:
        case MAKE_PALETTE: row[x] = v[0]; break;
        default: memcpy(row + x * 3, v, 3);
        }
    }
}

static inline void make_png(const char *path, make_kind kind, int h, int w, int seed)
{
    static const int type[] = {PNG_COLOR_TYPE_GRAY,    PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_GRAY,
                               PNG_COLOR_TYPE_RGB,     PNG_COLOR_TYPE_PALETTE,
                               PNG_COLOR_TYPE_RGB_ALPHA, PNG_COLOR_TYPE_RGB};
    FILE *f = make_open(path);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    if (setjmp(png_jmpbuf(png))) exit(1);
    png_init_io(png, f);
    png_set_IHDR(png, info, (png_uint_32)w, (png_uint_32)h,
                 kind == MAKE_BIT ? 1 : kind == MAKE_DEEP ? 16 : 8, type[kind],
                 kind == MAKE_WOVEN ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_color palette[256];
    for (int i = 0; i < 256; i++)
        palette[i] = (png_color){(png_byte)i, (png_byte)(255 - i), (png_byte)(i / 2)};
    if (kind == MAKE_PALETTE) png_set_PLTE(png, info, palette, 256);
    png_write_info(png, info);
    uint8_t *row = malloc((size_t)w * 8);
    for (int pass = png_set_interlace_handling(png); pass > 0; pass--)
        for (int y = 0; y < h; y++) {
            make_png_row(kind, seed, y, w, row);
            png_write_row(png, row);
        }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    free(row);
    if (fclose(f) != 0) exit(1);
}

static inline void make_jpeg(const char *path, make_kind kind, int h, int w, int seed)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    FILE *f = make_open(path);
    c.err = jpeg_std_error(&errors); /* exits */
    jpeg_create_compress(&c);
    jpeg_stdio_dest(&c, f);
    c.image_width = (JDIMENSION)w;
    c.image_height = (JDIMENSION)h;
    c.input_components = kind == MAKE_JPEG_GRAY ? 1 : kind == MAKE_JPEG_CMYK ? 4 : 3;
    c.in_color_space = kind == MAKE_JPEG_GRAY   ? JCS_GRAYSCALE
                       : kind == MAKE_JPEG_CMYK ? JCS_CMYK
                                                : JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 95, TRUE);
    if (kind == MAKE_JPEG) c.comp_info[0].h_samp_factor = c.comp_info[0].v_samp_factor = 1;
    if (kind == MAKE_JPEG_STEPS) jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    int n = c.input_components;
    uint8_t *row = malloc((size_t)w * 4);
    for (int y = 0; y < h; y++) {
        for (int i = 0; i < w * n; i++) row[i] = make_value(kind, seed, y, i / n, i % n);
        jpeg_write_scanlines(&c, (JSAMPROW[]){row}, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    free(row);
    if (fclose(f) != 0) exit(1);
}

static inline void make_image(const char *path, make_kind kind, int h, int w, int seed)
{
    if (kind < MAKE_JPEG)
        make_png(path, kind, h, w, seed);
    else
        make_jpeg(path, kind, h, w, seed);
}

/* EXIF data of one tag, the orientation, in either byte order. */
enum { MAKE_EXIF = 26 };
static inline void make_exif(bool big, int orientation, uint8_t exif[MAKE_EXIF])
{
    static const uint8_t little[MAKE_EXIF] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0,
                                              0x12, 1, 3, 0, 1, 0, 0, 0};
    static const uint8_t other[MAKE_EXIF] = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1,
                                             1, 0x12, 0, 3, 0, 0, 0, 1};
    memcpy(exif, big ? other : little, MAKE_EXIF);
    exif[big ? 19 : 18] = (uint8_t)orientation;
}

static inline void make_big(uint32_t value, int bytes, uint8_t *to)
{
    for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

/* The image file `from` with EXIF data, as `path`: behind the first marker of a JPEG, or the first
 * chunk of a PNG. */
static inline void make_with_exif(const char *from, const char *path, const uint8_t *exif, size_t n)
{
    enum { MOST = 1 << 20, PNG_BEGIN = 33 };
    uint8_t *bytes = malloc(MOST), head[12] = {0xFF, 0xE1, 0, 0, 'E', 'x', 'i', 'f'}, crc[4];
    FILE *in = fopen(from, "rb");
    size_t size = in ? fread(bytes, 1, MOST, in) : 0;
    bool is_png = size > PNG_BEGIN && bytes[0] == 0x89;
    size_t begin = is_png ? PNG_BEGIN : 2, around = is_png ? 8 : 10;
    if (in) fclose(in);
    FILE *f = make_open(path);
    make_big((uint32_t)n + 8, 2, head + 2);
    if (is_png) {
        make_big((uint32_t)n, 4, head);
        memcpy(head + 4, "eXIf", 4);
        make_big((uint32_t)crc32(crc32(0, head + 4, 4), exif, (uInt)n), 4, crc);
    }
    bool good = size > begin && fwrite(bytes, 1, begin, f) == begin &&
                fwrite(head, 1, around, f) == around && fwrite(exif, 1, n, f) == n &&
                (!is_png || fwrite(crc, 1, 4, f) == 4) &&
                fwrite(bytes + begin, 1, size - begin, f) == size - begin;
    free(bytes);
    if (fclose(f) != 0 || !good) exit(1);
}

/* An idx file: the dimensions, then bytes. */
static inline void make_idx(const char *path, int dims, const uint32_t *dim, const uint8_t *bytes,
                            size_t n)
{
    FILE *f = make_open(path);
    uint8_t head[4] = {0, 0, 8, (uint8_t)dims};
    bool good = fwrite(head, 1, 4, f) == 4;
    for (int i = 0; i < dims; i++) {
        uint8_t b[4] = {(uint8_t)(dim[i] >> 24), (uint8_t)(dim[i] >> 16), (uint8_t)(dim[i] >> 8),
                        (uint8_t)dim[i]};
        good &= fwrite(b, 1, 4, f) == 4;
    }
    good &= fwrite(bytes, 1, n, f) == n;
    if (fclose(f) != 0 || !good) exit(1);
}

#endif
