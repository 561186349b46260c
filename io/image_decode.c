/* PNG and JPEG files. Files come from anywhere: whatever a library complains of, damage that it
 * would paint over included, is a reason to refuse the file; that memory ends is none. */
#include "io/image.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jpeglib.h>

#include <jerror.h>
#include <png.h>
#include <zlib.h>

#define MAX_FILE ((int64_t)1 << 28) /* bytes */
#define MILLION ((int64_t)1000000)
#define MAX_PIXELS (128 * MILLION) /* of one image as it is stored: a progressive JPEG is all in
                                      memory, whatever the scale it is decoded at */

static lk_status check_size(int64_t height, int64_t width)
{
    if (height < 1 || width < 1)
        return lk_fail(LK_E_INPUT, "it has no pixels");
    if (width > MAX_PIXELS / height)
        return lk_fail(LK_E_INPUT, "%lldx%lld pixels are more than %lld million; make it smaller",
                       (long long)height, (long long)width, (long long)(MAX_PIXELS / MILLION));
    return LK_OK;
}

/* ---- PNG ------------------------------------------------------------------------------------- */

/* The orientation in the chunk eXIf, which the simplified interface does not give; 1 if there is
 * none or its checksum is another. A chunk: length, name, data, checksum of the two before. */
static int png_orientation(const uint8_t *bytes, size_t size)
{
    enum { SIGNATURE = 8, NAME = 4, AROUND = 12 };
    for (size_t at = SIGNATURE; size - at >= AROUND;) {
        const uint8_t *name = bytes + at + 4;
        size_t n = png_get_uint_32(bytes + at);
        if (n > size - at - AROUND) break;
        if (memcmp(name, "eXIf", NAME) == 0 &&
            crc32(0, name, (uInt)(NAME + n)) == png_get_uint_32(name + NAME + n))
            return lk_image_orientation(name + NAME, n);
        at += AROUND + n;
    }
    return 1;
}

static lk_status png_failure(const png_image *image)
{
    if (strcasestr(image->message, "memory"))
        return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    return lk_fail(LK_E_INPUT, "a damaged PNG: %s", image->message);
}

static lk_status finish_png(png_image *image, lk_pixels *p)
{
    static const png_color white = {255, 255, 255};
    bool color = (image->format & (PNG_FORMAT_FLAG_COLOR | PNG_FORMAT_FLAG_COLORMAP)) != 0;
    LK_TRY(check_size(image->height, image->width));
    image->format = color ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
    image->flags |= PNG_IMAGE_FLAG_16BIT_sRGB; /* 16 bits are not linear unless they say so */
    p->rows = (double)(p->height = image->height);
    p->columns = (double)(p->width = image->width);
    p->channels = color ? 3 : 1;
    p->data = malloc(PNG_IMAGE_SIZE(*image));
    if (!p->data) return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    if (!png_image_finish_read(image, &white, p->data, 0, NULL)) return png_failure(image);
    return LK_OK;
}

static lk_status decode_png(const uint8_t *bytes, size_t size, lk_pixels *p)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_memory(&image, bytes, size)) return png_failure(&image);
    lk_status status = finish_png(&image, p);
    png_image_free(&image);
    LK_TRY(status);
    return lk_image_turn(p, png_orientation(bytes, size));
}

/* ---- JPEG ------------------------------------------------------------------------------------ */

typedef struct jpeg {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr errors;
    jmp_buf back;
    char text[JMSG_LENGTH_MAX];
    int orientation;
} jpeg;

static void on_error(j_common_ptr d)
{
    jpeg *j = d->client_data;
    d->err->format_message(d, j->text);
    longjmp(j->back, 1);
}

static void on_message(j_common_ptr d, int level)
{
    jpeg *j = d->client_data;
    int code = d->err->msg_code;
    bool harmless = code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM ||
                    code == JWRN_BOGUS_PROGRESSION || code == JWRN_JFIF_MAJOR;
    if (level >= 0 || harmless) return;
    d->err->format_message(d, j->text);
    longjmp(j->back, 1); /* at once: to paint over what is missing may take minutes */
}

static void on_output(j_common_ptr d) { (void)d; } /* nothing is printed */

static int jpeg_orientation(const struct jpeg_decompress_struct *d)
{
    static const uint8_t head[] = {'E', 'x', 'i', 'f', 0, 0};
    for (jpeg_saved_marker_ptr m = d->marker_list; m; m = m->next)
        if (m->data_length > sizeof head && memcmp(m->data, head, sizeof head) == 0)
            return lk_image_orientation(m->data + sizeof head, m->data_length - sizeof head);
    return 1;
}

/* The smallest of the scales n/8 that leaves both sides long enough. */
static void choose_scale(struct jpeg_decompress_struct *d, int64_t height, int64_t width)
{
    d->scale_denom = 8;
    for (d->scale_num = 1; d->scale_num < 8 && height > 0; d->scale_num++) {
        jpeg_calc_output_dimensions(d);
        if (d->output_height >= height && d->output_width >= width) return;
    }
    d->scale_num = 8;
    jpeg_calc_output_dimensions(d);
}

/* All before the first pixel: what the image is, and how it is to be decoded. */
static lk_status begin_jpeg(jpeg *j, const uint8_t *bytes, size_t size, int64_t height,
                            int64_t width)
{
    struct jpeg_decompress_struct *d = &j->d;
    jpeg_create_decompress(d);
    d->client_data = j;
    jpeg_mem_src(d, bytes, size);
    jpeg_save_markers(d, JPEG_APP0 + 1, 0xFFFF); /* EXIF data */
    jpeg_read_header(d, TRUE);
    LK_TRY(check_size(d->image_height, d->image_width));
    if (d->num_components != 1 && d->num_components != 3)
        return d->num_components == 4
                   ? lk_fail(LK_E_INPUT, "a CMYK JPEG; convert it to RGB")
                   : lk_fail(LK_E_INPUT, "a JPEG of %d components; convert it to RGB",
                             d->num_components);
    d->out_color_space = d->jpeg_color_space == JCS_GRAYSCALE ? JCS_GRAYSCALE : JCS_RGB;
    d->dct_method = JDCT_ISLOW; /* exact, the same everywhere */
    j->orientation = jpeg_orientation(d);
    bool sideways = j->orientation > 4;
    choose_scale(d, sideways ? width : height, sideways ? height : width);
    return LK_OK;
}

/* Everything that may jump out; what it allocates is in p and j. */
static lk_status read_jpeg(jpeg *j, const uint8_t *bytes, size_t size, int64_t height,
                           int64_t width, lk_pixels *p)
{
    struct jpeg_decompress_struct *d = &j->d;
    LK_TRY(begin_jpeg(j, bytes, size, height, width));
    jpeg_start_decompress(d);
    p->height = d->output_height;
    p->width = d->output_width;
    p->channels = d->output_components;
    p->rows = (double)d->image_height * d->scale_num / d->scale_denom;
    p->columns = (double)d->image_width * d->scale_num / d->scale_denom;
    size_t row = (size_t)(p->width * p->channels);
    p->data = malloc((size_t)p->height * row);
    if (!p->data) return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    while (d->output_scanline < d->output_height)
        jpeg_read_scanlines(d, (JSAMPROW[]){p->data + d->output_scanline * row}, 1);
    jpeg_finish_decompress(d);
    return LK_OK;
}

static lk_status jpeg_failure(const jpeg *j)
{
    int code = j->errors.msg_code;
    if (code == JERR_OUT_OF_MEMORY || code == JERR_NO_BACKING_STORE)
        return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    return lk_fail(LK_E_INPUT, "a damaged JPEG: %s", j->text);
}

static lk_status decode_jpeg(const uint8_t *bytes, size_t size, int64_t height, int64_t width,
                             lk_pixels *p)
{
    jpeg *j = calloc(1, sizeof *j); /* not on the stack: longjmp leaves it alone */
    if (!j) return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    j->d.err = jpeg_std_error(&j->errors);
    j->d.client_data = j;
    j->errors.error_exit = on_error;
    j->errors.emit_message = on_message;
    j->errors.output_message = on_output;
    volatile lk_status status;
    if (setjmp(j->back) == 0) {
        status = read_jpeg(j, bytes, size, height, width, p);
    } else {
        status = jpeg_failure(j);
    }
    int orientation = j->orientation;
    jpeg_destroy_decompress(&j->d);
    free(j);
    LK_TRY(status);
    return lk_image_turn(p, orientation);
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool is_png(const uint8_t *bytes, size_t size)
{
    static const uint8_t begin[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    return size >= sizeof begin && memcmp(bytes, begin, sizeof begin) == 0;
}

static bool is_jpeg(const uint8_t *bytes, size_t size)
{
    static const uint8_t begin[] = {0xFF, 0xD8, 0xFF};
    return size >= sizeof begin && memcmp(bytes, begin, sizeof begin) == 0;
}

lk_status lk_image_decode(const uint8_t *bytes, size_t size, int64_t height, int64_t width,
                          lk_pixels *result)
{
    lk_pixels p = {.data = NULL};
    lk_status status;
    if (is_png(bytes, size))
        status = decode_png(bytes, size, &p);
    else if (is_jpeg(bytes, size))
        status = decode_jpeg(bytes, size, height, width, &p);
    else
        status = lk_fail(LK_E_INPUT, size == 0 ? "an empty file" : "neither a PNG nor a JPEG file");
    if (status != LK_OK) {
        free(p.data);
        return status;
    }
    *result = p;
    return LK_OK;
}

static lk_status read_whole(int fd, uint8_t **bytes, size_t *size)
{
    struct stat s;
    if (fstat(fd, &s) != 0) return lk_fail(LK_E_INPUT, "cannot read: %s", strerror(errno));
    if (!S_ISREG(s.st_mode)) return lk_fail(LK_E_INPUT, "not a file");
    if ((int64_t)s.st_size > MAX_FILE)
        return lk_fail(LK_E_INPUT, "larger than %lld MiB; make it smaller",
                       (long long)(MAX_FILE >> 20));
    uint8_t *all = malloc((size_t)s.st_size + 1);
    if (!all) return lk_fail(LK_E_SYSTEM, "out of memory for an image file");
    size_t at = 0;
    while (at < (size_t)s.st_size) {
        ssize_t got = read(fd, all + at, (size_t)s.st_size - at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            int error = got < 0 ? errno : 0;
            free(all);
            return error ? lk_fail(lk_status_of_errno(error), "cannot read: %s", strerror(error))
                         : lk_fail(LK_E_INPUT, "cannot read: it became shorter");
        }
        at += (size_t)got;
    }
    *bytes = all;
    *size = at;
    return LK_OK;
}

bool lk_image_begins(const char *path)
{
    uint8_t bytes[8];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return true;
    ssize_t n = read(fd, bytes, sizeof bytes);
    close(fd);
    return n < 0 || is_png(bytes, (size_t)n) || is_jpeg(bytes, (size_t)n);
}

lk_status lk_image_load(const char *path, lk_resize how, int64_t height, int64_t width,
                        int64_t channels, uint8_t *out)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    lk_pixels p = {.data = NULL};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo must not hold us up */
    if (fd < 0)
        return lk_fail(lk_status_of_errno(errno), "cannot open: %s", strerror(errno));
    lk_status status = read_whole(fd, &bytes, &size);
    close(fd);
    if (status == LK_OK) status = lk_image_decode(bytes, size, height, width, &p);
    free(bytes);
    if (status == LK_OK) status = lk_image_resize(&p, how, height, width, channels, out);
    free(p.data);
    return status;
}
