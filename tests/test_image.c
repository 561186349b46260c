/* Tests of decoding and resizing of one image. */
#include "base/philox.h"
#include "io/image.h"
#include "tests/image_make.h"
#include "tests/io_help.h"

#include <math.h>
#include <zlib.h>

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
    uint8_t huge[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R',
                      0, 0, 0x40, 0, 0, 0, 0x40, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0};
    uint32_t crc = (uint32_t)crc32(0, huge + 12, 17);
    for (int i = 0; i < 4; i++) huge[29 + i] = (uint8_t)(crc >> (24 - 8 * i));
    check_refused(huge, sizeof huge, "a damaged PNG", "a header of 16384x16384 alone");
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
            lk_pixels p = {1 + r.v[0] % 90, 1 + r.v[1] % 90, 1, 0, 0, NULL};
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
    check_noise();
    check_resize();
    return io_tear_down();
}
