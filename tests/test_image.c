/* Tests of decoding and resizing of one image. */
#include "base/philox.h"
#include "io/image.h"
#include "tests/image_make.h"
#include "tests/io_help.h"

#include <math.h>
#include <sys/resource.h>

/* ---- decoding -------------------------------------------------------------------------------- */

static void expect_pixel(make_kind kind, int seed, int y, int x, uint8_t out[3])
{
    uint8_t v[3];
    for (int c = 0; c < 3; c++) v[c] = make_value(kind, seed, y, x, c);
    switch (kind) {
    case MAKE_GRAY:
    case MAKE_JPEG_GRAY: memset(out, v[0], 3); break;
    case MAKE_BIT: memset(out, v[0] >= 128 ? 255 : 0, 3); break;
    case MAKE_PALETTE:
        out[0] = v[0];
        out[1] = (uint8_t)(255 - v[0]);
        out[2] = (uint8_t)(v[0] / 2);
        break;
    case MAKE_ALPHA:
        for (int c = 0; c < 3; c++) out[c] = y == 0 ? 255 : v[c];
        break;
    default: memcpy(out, v, 3);
    }
}

static void check_kind(make_kind kind, int allowed)
{
    enum { H = 21, W = 33 };
    uint8_t rgb[H * W * 3], gray[H * W], want[3];
    const char *path = in_home("one");
    int worst = 0, worst_gray = 0;
    make_image(path, kind, H, W, 5);
    lk_status status = lk_image_load(path, LK_RESIZE_STRETCH, H, W, 3, rgb);
    if (status == LK_OK) status = lk_image_load(path, LK_RESIZE_CROP, H, W, 1, gray);
    for (int i = 0; i < H * W && status == LK_OK; i++) {
        expect_pixel(kind, 5, i / W, i % W, want);
        for (int c = 0; c < 3; c++)
            if (abs(rgb[i * 3 + c] - want[c]) > worst) worst = abs(rgb[i * 3 + c] - want[c]);
        int luminance = (int)floor(0.299 * want[0] + 0.587 * want[1] + 0.114 * want[2] + 0.5);
        if (abs(gray[i] - luminance) > worst_gray) worst_gray = abs(gray[i] - luminance);
    }
    tap_ok(status == LK_OK && worst <= allowed && worst_gray <= allowed + 1,
           "%s: pixels differ by at most %d, in grey by %d %s", make_name[kind], worst, worst_gray,
           lk_error_text());
    lk_error_clear();
}

static void check_refused(const void *bytes, size_t n, const char *words, const char *what)
{
    uint8_t out[32 * 32 * 3];
    write_file(in_home("bad"), bytes, n);
    failed(lk_image_load(in_home("bad"), LK_RESIZE_CROP, 32, 32, 3, out), LK_E_INPUT, words, what);
}

static void check_bad_images(void)
{
    size_t n;
    uint8_t out[32 * 32 * 3];
    check_refused("", 0, "an empty file", "no bytes");
    check_refused("GIF89a....", 10, "neither a PNG nor a JPEG", "a GIF");
    check_refused("\x89PNG\r\n\x1a\n", 8, "a damaged PNG", "a PNG's signature alone");
    check_refused("\xFF\xD8\xFF", 3, "a damaged JPEG", "a JPEG's beginning alone");
    failed(lk_image_load(in_home("none"), LK_RESIZE_CROP, 32, 32, 3, out), LK_E_INPUT,
           "No such file", "no file");
    failed(lk_image_load(home, LK_RESIZE_CROP, 32, 32, 3, out), LK_E_INPUT, "not a file",
           "a folder");
    make_image(in_home("x"), MAKE_JPEG_CMYK, 40, 40, 1);
    failed(lk_image_load(in_home("x"), LK_RESIZE_CROP, 32, 32, 3, out), LK_E_INPUT,
           "a CMYK JPEG; convert it to RGB", "CMYK");
    for (int k = 0; k < 2; k++) {
        make_image(in_home("x"), k ? MAKE_JPEG : MAKE_RGB, 64, 64, 1);
        char *bytes = read_file(in_home("x"), &n);
        check_refused(bytes, n / 2, k ? "a damaged JPEG" : "a damaged PNG", "cut in half");
        for (size_t i = n / 2; i < n / 2 + 40; i++) bytes[i] ^= 0x55;
        check_refused(bytes, n, k ? "a damaged JPEG" : "a damaged PNG", "40 bytes changed");
        free(bytes);
    }
}

/* What is too large is refused by its header, before there is memory for it. */
static void check_limit(void)
{
    uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R',
                     0, 0, 0x2E, 0xE0, 0, 0, 0x2E, 0xE0, 8, 0, 0, 0, 0, 0, 0, 0, 0,
                     0, 0, 0, 1, 'I', 'D', 'A', 'T', 0, 0, 0, 0, 0};
    make_big((uint32_t)crc32(0, png + 12, 17), 4, png + 29);
    make_big((uint32_t)crc32(0, png + 37, 5), 4, png + 42);
    check_refused(png, sizeof png, "12000x12000 pixels are more than 128 million", "a large PNG");
    make_big(11000, 4, png + 16);
    make_big(11000, 4, png + 20);
    make_big((uint32_t)crc32(0, png + 12, 17), 4, png + 29);
    check_refused(png, sizeof png, "a damaged PNG", "one within the limit, without its pixels");
    for (int kind = MAKE_JPEG_GRAY; kind <= MAKE_JPEG_STEPS; kind += 2) {
        /* the header of a frame: marker, length, precision, height, width */
        const uint8_t frame[2] = {0xFF, kind == MAKE_JPEG_STEPS ? 0xC2 : 0xC0};
        size_t n, at = 0;
        make_image(in_home("x"), (make_kind)kind, 64, 64, 1);
        uint8_t *bytes = (uint8_t *)read_file(in_home("x"), &n);
        while (at + 9 < n && memcmp(bytes + at, frame, 2) != 0) at++;
        make_big(12000, 2, bytes + at + 5);
        make_big(12000, 2, bytes + at + 7);
        check_refused(bytes, n, "12000x12000 pixels are more than 128 million", make_name[kind]);
        free(bytes);
    }
}

/* That memory ends says nothing about the file. */
static void check_memory(void)
{
#ifdef __SANITIZE_ADDRESS__
    tap_ok(true, "memory that ends in a JPEG # SKIP the sanitizer's own memory knows no limit");
#else
    enum { SIDE = 3000 };
    uint8_t out[8 * 8];
    struct rlimit before, limit;
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    bool known = f && fscanf(f, "%ld", &pages) == 1 && getrlimit(RLIMIT_AS, &before) == 0;
    if (f) fclose(f);
    make_image(in_home("steps"), MAKE_JPEG_STEPS, SIDE, SIDE, 1); /* 27 MB of coefficients */
    limit = before;
    limit.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (12 << 20);
    known &= setrlimit(RLIMIT_AS, &limit) == 0;
    lk_status status = lk_image_load(in_home("steps"), LK_RESIZE_CROP, 8, 8, 1, out);
    known &= setrlimit(RLIMIT_AS, &before) == 0;
    failed(known ? status : LK_OK, LK_E_SYSTEM, "out of memory for an image",
           "memory that ends in a JPEG");
    worked(lk_image_load(in_home("steps"), LK_RESIZE_CROP, 8, 8, 1, out), "there is enough of it");
#endif
}

/* Damage anywhere: refused with one line or decoded, never a crash. */
static void check_noise(void)
{
    uint8_t out[24 * 24 * 3];
    int refused = 0, good = 0, tried = 0;
    for (int kind = 0; kind < MAKE_KINDS; kind++) {
        size_t n;
        make_image(in_home("x"), (make_kind)kind, 30, 40, kind);
        char *bytes = read_file(in_home("x"), &n);
        for (uint32_t i = 0; i < 60; i++, tried++) {
            lk_u32x4 r = lk_philox(4, i, (uint32_t)kind, 0, 0);
            size_t at = r.v[0] % n;
            char kept = bytes[at];
            bytes[at] = (char)r.v[1];
            write_file(in_home("noise"), bytes, i % 3 ? n : at);
            bytes[at] = kept;
            lk_status s = lk_image_load(in_home("noise"), LK_RESIZE_FIT, 24, 24, 3, out);
            refused += s == LK_E_INPUT;
            good += s == LK_OK || (s == LK_E_INPUT && !strchr(lk_error_text(), '\n'));
            lk_error_clear();
        }
        free(bytes);
    }
    tap_ok(good == tried && refused > tried / 3, "%d of %d damaged images are refused (%d) or read",
           good, tried, refused);
}

/* ---- orientation ----------------------------------------------------------------------------- */

/* CIPA DC-008, 4.6.5: the sides of the picture at which the stored row 0 and column 0 lie. */
static const char *const side_of[9] = {"", "tl", "tr", "br", "bl", "lt", "rt", "rb", "lb"};

/* How far pixel (y, x) of a picture is from that side. */
static int64_t distance(char side, const lk_pixels *p, int64_t y, int64_t x)
{
    return side == 't' ? y : side == 'b' ? p->height - 1 - y : side == 'l' ? x : p->width - 1 - x;
}

static bool is_turned(const lk_pixels *stored, int orientation, const lk_pixels *p)
{
    bool sideways = orientation > 4, good = p->channels == stored->channels;
    good &= p->height == (sideways ? stored->width : stored->height) &&
            p->width == (sideways ? stored->height : stored->width);
    for (int64_t y = 0; y < p->height && good; y++)
        for (int64_t x = 0; x < p->width && good; x++) {
            int64_t row = distance(side_of[orientation][0], p, y, x);
            int64_t column = distance(side_of[orientation][1], p, y, x);
            good = memcmp(p->data + (y * p->width + x) * p->channels,
                          stored->data + (row * stored->width + column) * p->channels,
                          (size_t)p->channels) == 0;
        }
    return good;
}

static lk_status decode_file(const char *path, int64_t height, int64_t width, lk_pixels *p)
{
    size_t n;
    char *bytes = read_file(path, &n);
    lk_status status = lk_image_decode((uint8_t *)bytes, n, height, width, p);
    free(bytes);
    return status;
}

static void check_turned(make_kind kind)
{
    uint8_t exif[MAKE_EXIF];
    lk_pixels stored, p;
    int good = 0;
    make_image(in_home("stored"), kind, 21, 34, 3);
    if (!worked(decode_file(in_home("stored"), 0, 0, &stored), "as it is stored")) return;
    for (int i = 0; i < 16; i++) {
        make_exif(i >= 8, i % 8 + 1, exif);
        make_with_exif(in_home("stored"), in_home("turned"), exif, sizeof exif);
        if (decode_file(in_home("turned"), 0, 0, &p) != LK_OK) continue;
        good += is_turned(&stored, i % 8 + 1, &p);
        free(p.data);
    }
    free(stored.data);
    tap_ok(good == 16, "%s: upright in %d of 16 cases, 8 orientations in 2 byte orders %s",
           make_name[kind], good, lk_error_text());
    lk_error_clear();
}

/* The policy sees the upright image, also of a JPEG that is decoded at a smaller scale, where the
 * partial pixels at its edges turn with it: 401 x 305 are 51 x 39 pixels at 1/8. */
static void check_turned_small(void)
{
    uint8_t exif[MAKE_EXIF], small[40 * 25], full[40 * 25];
    double worst = 0;
    int good = 0;
    make_image(in_home("stored"), MAKE_JPEG_GRAY, 401, 305, 3);
    for (int i = 1; i <= 8; i++) {
        lk_pixels p;
        double sum = 0;
        int h = i > 4 ? 25 : 40, w = i > 4 ? 40 : 25;
        make_exif(true, i, exif);
        make_with_exif(in_home("stored"), in_home("turned"), exif, sizeof exif);
        bool read = lk_image_load(in_home("turned"), LK_RESIZE_CROP, h, w, 1, small) == LK_OK;
        if (!read || decode_file(in_home("turned"), 0, 0, &p) != LK_OK) break;
        lk_image_resize(&p, LK_RESIZE_CROP, h, w, 1, full);
        free(p.data);
        if (decode_file(in_home("turned"), h, w, &p) != LK_OK) break;
        good += p.height == (i > 4 ? 39 : 51) && p.width == (i > 4 ? 51 : 39);
        free(p.data);
        for (int k = 0; k < 40 * 25; k++) sum += abs(small[k] - full[k]);
        worst = fmax(worst, sum / (40 * 25));
    }
    tap_ok(good == 8 && worst < 1, "%d of 8 orientations at 1/8 differ by at most %.3f from a "
           "whole one in the mean %s", good, worst, lk_error_text());
    lk_error_clear();
}

/* Read from memory of exactly its size, for the sanitizer to see what is read beyond. */
static int orientation_of(const uint8_t *exif, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, exif, n);
    int found = lk_image_orientation(copy, n);
    free(copy);
    return found;
}

static void check_exif(void)
{
    static const struct {
        int at, value;
        const char *what;
    } wrong[] = {
        {0, 'X', "no byte order"}, {1, 'I', "two byte orders"}, {3, 43, "another number than 42"},
        {4, 255, "a directory behind the end"}, {7, 2, "a directory in the head"},
        {7, 25, "a directory of one byte"}, {9, 0, "no tags"}, {11, 0x13, "another tag"},
        {13, 4, "a tag of another type"}, {17, 2, "a tag of two values"},
        {19, 0, "orientation 0"}, {19, 9, "orientation 9"}, {18, 1, "orientation 262"},
    };
    uint8_t exif[MAKE_EXIF], two[MAKE_EXIF + 12 + 3];
    int upright = 0, tried = sizeof wrong / sizeof *wrong, cut = 0, in_range = 0;
    for (int i = 0; i < tried; i++) {
        make_exif(true, 6, exif);
        exif[wrong[i].at] = (uint8_t)wrong[i].value;
        bool good = orientation_of(exif, sizeof exif) == 1;
        if (!good) printf("# %s\n", wrong[i].what);
        upright += good;
    }
    make_exif(true, 6, exif);
    for (size_t n = 0; n < 22; n++) cut += orientation_of(exif, n) == 1;
    tap_ok(upright == tried && cut == 22 && orientation_of(exif, 22) == 6,
           "malformed EXIF data are upright: %d of %d, and %d of 22 cut off", upright, tried, cut);
    memset(two, 0, sizeof two); /* at an odd place, behind another tag, more tags said than are */
    memcpy(two, exif, 8);
    two[7] = 11;
    make_big(9, 2, two + 11);
    make_big(0x0100, 2, two + 13);
    memcpy(two + 25, exif + 10, 12);
    tap_ok(orientation_of(two, 37) == 6 && orientation_of(two, 36) == 1,
           "a tag behind another one is found");
    for (uint32_t i = 0; i < 2000; i++) {
        lk_u32x4 r = lk_philox(5, i, 0, 0, 0);
        uint8_t noise[37];
        memcpy(noise, two, sizeof noise);
        noise[r.v[0] % 37] = (uint8_t)r.v[1];
        noise[r.v[2] % 37] = (uint8_t)(r.v[1] >> 8);
        int found = orientation_of(noise, r.v[3] % 38);
        in_range += found >= 1 && found <= 8;
    }
    tap_ok(in_range == 2000, "whatever they are: 1 to 8 (%d of 2000)", in_range);
    lk_pixels stored, p;
    for (int k = 0; k < 2; k++) {
        make_image(in_home("stored"), k ? MAKE_JPEG : MAKE_RGB, 21, 34, 3);
        make_with_exif(in_home("stored"), in_home("turned"), exif, 21);
        lk_status status = decode_file(in_home("stored"), 0, 0, &stored);
        if (status == LK_OK) status = decode_file(in_home("turned"), 0, 0, &p);
        tap_ok(status == LK_OK && is_turned(&stored, 1, &p), "a %s with EXIF data that are cut off "
               "is as it is stored %s", k ? "JPEG" : "PNG", lk_error_text());
        free(stored.data);
        free(p.data);
    }
}

/* ---- resizing -------------------------------------------------------------------------------- */

/* One direction in double: the value of output i, written down from the definition. */
static double reference(const double *in, int stride, int size, double start, double length,
                        int out, int i)
{
    double step = length / out, sum = 0, weight = 0;
    for (int s = 0; s < size; s++) {
        double w;
        if (step >= 1)
            w = fmax(0, fmin(start + (i + 1) * step, s + 1.0) - fmax(start + i * step, s));
        else
            w = fmax(0, 1 - fabs(start + (i + 0.5) * step - (s + 0.5)));
        sum += w * in[s * stride];
        weight += w;
    }
    return sum / weight;
}

static double worst_difference(const lk_pixels *p, lk_resize how, int h, int w, const uint8_t *out)
{
    int sh = (int)p->height, sw = (int)p->width;
    double across = (double)w / sw, down = (double)h / sh, worst = 0;
    double scale = how == LK_RESIZE_CROP ? fmax(across, down) : fmin(across, down);
    double rows = sh, columns = sw;
    int oh = h, ow = w;
    if (how == LK_RESIZE_CROP) {
        rows = h / scale;
        columns = w / scale;
    }
    if (how == LK_RESIZE_FIT) {
        oh = (int)fmax(1, round(sh * scale));
        ow = (int)fmax(1, round(sw * scale));
    }
    double *in = malloc((size_t)(sh * sw) * sizeof *in);
    double *between = malloc((size_t)(sh * ow) * sizeof *in);
    for (int i = 0; i < sh * sw; i++) in[i] = p->data[i];
    for (int y = 0; y < sh; y++)
        for (int x = 0; x < ow; x++)
            between[y * ow + x] = reference(in + y * sw, 1, sw, (sw - columns) / 2, columns, ow, x);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int v = y - (h - oh) / 2, u = x - (w - ow) / 2;
            bool inside = v >= 0 && v < oh && u >= 0 && u < ow;
            double want = inside ? reference(between + u, ow, sh, (sh - rows) / 2, rows, oh, v) : 0;
            worst = fmax(worst, fabs(out[y * w + x] - want));
        }
    free(in);
    free(between);
    return worst;
}

static void check_resize(void)
{
    static const char *const name[] = {"crop", "fit", "stretch"};
    for (int how = 0; how < 3; how++) {
        double worst = 0;
        int constant = 0, tried = 60;
        for (uint32_t i = 0; i < (uint32_t)tried; i++) {
            lk_u32x4 r = lk_philox(8, i, (uint32_t)how, 0, 0);
            lk_pixels p = {.height = 1 + r.v[0] % 90, .width = 1 + r.v[1] % 90, .channels = 1};
            int h = (int)(1 + r.v[2] % 50), w = (int)(1 + r.v[3] % 50);
            size_t n = (size_t)(p.height * p.width);
            p.rows = (double)p.height;
            p.columns = (double)p.width;
            p.data = malloc(n);
            uint8_t *out = malloc((size_t)(h * w));
            for (size_t k = 0; k < n; k++)
                p.data[k] = (uint8_t)lk_philox(9, (uint32_t)k, i, 0, 0).v[0];
            if (lk_image_resize(&p, (lk_resize)how, h, w, 1, out) == LK_OK)
                worst = fmax(worst, worst_difference(&p, (lk_resize)how, h, w, out));
            memset(p.data, (int)i * 4, n);
            lk_image_resize(&p, (lk_resize)how, h, w, 1, out);
            int same = 0;
            for (int k = 0; k < h * w; k++)
                same += out[k] == i * 4 || (how == LK_RESIZE_FIT && out[k] == 0);
            constant += same == h * w;
            free(p.data);
            free(out);
        }
        tap_ok(worst < 0.6 && constant == tried, "%s: at most %.3f from the exact value, a "
               "constant stays one (%d of %d)", name[how], worst, constant, tried);
    }
    uint8_t small[40 * 30 * 3], full[40 * 30 * 3];
    lk_pixels p;
    size_t n;
    make_image(in_home("large"), MAKE_JPEG, 400, 300, 3);
    uint8_t *bytes = (uint8_t *)read_file(in_home("large"), &n);
    lk_status status = lk_image_load(in_home("large"), LK_RESIZE_CROP, 40, 30, 3, small);
    if (status == LK_OK) status = lk_image_decode(bytes, n, 0, 0, &p);
    double sum = 0;
    if (status == LK_OK) {
        lk_image_resize(&p, LK_RESIZE_CROP, 40, 30, 3, full);
        for (size_t i = 0; i < sizeof small; i++) sum += abs(small[i] - full[i]);
        free(p.data);
        lk_image_decode(bytes, n, 40, 30, &p);
        free(p.data);
    }
    free(bytes);
    tap_ok(status == LK_OK && sum / sizeof small < 1 && p.height == 50, "a JPEG decoded at 1/8 "
           "differs by %.3f from a whole one in the mean %s", sum / sizeof small, lk_error_text());
}

int main(int argc, char **argv)
{
    io_set_up(&argc, &argv);
    for (int k = 0; k < MAKE_KINDS; k++)
        if (k != MAKE_JPEG_CMYK) check_kind((make_kind)k, k < MAKE_JPEG ? 0 : 16);
    check_bad_images();
    check_limit();
    check_memory();
    check_noise();
    for (int k = 0; k < MAKE_KINDS; k++)
        if (k != MAKE_JPEG_CMYK) check_turned((make_kind)k);
    check_turned_small();
    check_exif();
    check_resize();
    return io_tear_down();
}
