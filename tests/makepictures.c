/* makepictures OUT.h5 IMAGES SIDE CHANNELS CLASSES SEED [FAULT...]: a dataset of images as lockstep
 * import writes it, a tenth for validation, that is clean but for the faults asked for. Class k is
 * a wave of k + 1 periods over the image, with noise, in a direction, from a phase and in a colour
 * drawn for each image, so that neither brightness nor colour tells the class.
 *
 * Faults: those of tests/plant.h, and
 *   blank=ROW        a training image of one value
 *   constant=CHANNEL one value everywhere         same=A:B      channel B is channel A
 *   leak=CHANNEL     its brightness is the class
 *   shift=CHANNEL    brighter, everywhere; moved=CHANNEL: in validation */
#include "tests/plant.h"

#include <math.h>

enum { BLOCK = 64 };

static long long side, channels;

static uint8_t pixel(double x) { return (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x); }

static void draw(long long row, uint8_t *image)
{
    int class = class_of(row);
    double phase = 6.2831853 * (double)(mix(key_of(row, 1)) % 1000) / 1000;
    double tilt = (double)(mix(key_of(row, 2)) % 1000) / 1000;
    for (long long c = 0; c < channels; c++) {
        double base = 128 + 24 * bell(key_of(row, 10 + c));
        double wave = 30 + 8 * bell(key_of(row, 20 + c));
        for (int i = 0; i < faults; i++)
            if (is(&list[i], "leak") && list[i].a == c)
                base = 40 + 180.0 * class / (double)classes + bell(key_of(row, 30));
        for (long long y = 0; y < side; y++)
            for (long long x = 0; x < side; x++) {
                double at = 6.2831853 * (class + 1) *
                            ((double)x * (1 - tilt) + (double)y * tilt) / (double)side;
                double noise = 6 * bell(key_of(row, 100 + (y * side + x) * channels + c));
                image[(y * side + x) * channels + c] = pixel(base + wave * sin(at + phase) + noise);
            }
    }
}

static void plant(const plant_fault *f, long long row, uint8_t *image)
{
    for (long long i = 0; i < side * side; i++, image += channels) {
        bool brighter = is(f, "shift") || (is(f, "moved") && row >= rows[0]);
        if (is(f, "blank") && f->a == row) memset(image, 9, (size_t)channels);
        if (is(f, "constant")) image[f->a] = 77;
        if (is(f, "same")) image[f->b] = image[f->a];
        if (brighter) image[f->a] = pixel(image[f->a] + 40.0);
    }
}

static lk_status write_rows(lk_rows *w, uint8_t *image, uint16_t *label, lk_pixel_sums *sums)
{
    size_t bytes = (size_t)(side * side * channels);
    for (int split = 0; split < 2; split++)
        for (long long at = 0; at < rows[split]; at += BLOCK) {
            long long n = rows[split] - at < BLOCK ? rows[split] - at : BLOCK;
#pragma omp parallel for
            for (long long i = 0; i < n; i++) {
                long long row = sample_of(split, at + i);
                draw(row, image + (size_t)i * bytes);
                for (int k = 0; k < faults; k++) plant(&list[k], row, image + (size_t)i * bytes);
                label[i] = label_of(split, at + i);
            }
            if (split == LK_TRAIN) lk_pixel_sums_add(sums, image, (size_t)n * bytes, channels);
            LK_TRY(lk_rows_put(w, (lk_split)split, n, image, label));
        }
    return LK_OK;
}

static lk_status make(const char *path)
{
    lk_rows w = {.part = NULL};
    lk_pixel_sums sums = {0};
    char part[512], digest[LK_DIGEST_TEXT], **name = class_names();
    uint8_t *image = malloc((size_t)(BLOCK * side * side * channels));
    uint16_t label[BLOCK];
    if (!name || !image) return lk_fail(LK_E_SYSTEM, "out of memory");
    snprintf(part, sizeof part, "%s.part", path);
    LK_TRY(lk_rows_create(&w, strdup(part), LK_IMAGE_DATA, LK_H5_U8, 4,
                          (int64_t[]){side, side, channels},
                          (int64_t[]){rows[0], rows[1]}));
    LK_TRY(write_rows(&w, image, label, &sums));
    LK_TRY(lk_pixel_sums_write(&sums, &w, channels));
    lk_status status = lk_rows_finish(&w, path, "makepictures", name, classes, digest);
    lk_rows_abandon(&w);
    free(image);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 7) return 2;
    side = atoll(argv[3]);
    channels = atoll(argv[4]);
    classes = atoll(argv[5]);
    seed = atoll(argv[6]);
    if (!plant_parse(atoll(argv[2]), argc - 7, argv + 7)) return 2;
    if (side < 1 || channels < 1 || channels > 4) return 2;
    if (make(argv[1]) == LK_OK) return 0;
    fprintf(stderr, "makepictures: %s\n", lk_error_text());
    return 1;
}
