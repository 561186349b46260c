/* The images op, on every backend of this build: sample order, geometry, flips, shifts, crops,
 * erasing, mixing and smoothing against plain double arithmetic written from src/ops/ops.h and
 * src/ops/augment.h, from resident shards and from rows, in every type; the same bits with 1, 2 and
 * 3 threads. The draws themselves: within bounds, and shares as asked for. */
#include "ops/ops.h"
#include "program/program.h"
#include "tests/ops_help.h"

#include <omp.h>

enum { SEED = 77, LEAVES = 2, FIRST = 2, MAX_X = 40 * 32 * 32 * 3, MAX_TARGETS = 40 * 11 };

typedef struct setting {
    const char *name;
    int64_t batch, height, width, channels; /* stored */
    int64_t rows, columns, shard;           /* output; images of a leaf's shard */
    int64_t classes;
    uint32_t purpose;
    lk_augment augment;
} setting;

#define SMALL 5, 9, 7, 3
#define PLAIN .crop = 1

static const setting settings[] = {
    {"as stored", SMALL, 9, 7, 23, 11, LK_PURPOSE_EVAL, {PLAIN}},
    {"larger", SMALL, 12, 13, 23, 11, LK_PURPOSE_ORDER, {PLAIN}},
    {"smaller, one channel", 4, 9, 7, 1, 5, 3, 23, 11, LK_PURPOSE_ORDER, {PLAIN}},
    {"flip", SMALL, 9, 7, 23, 11, LK_PURPOSE_ORDER, {PLAIN, .flip = true}},
    {"shift", SMALL, 9, 7, 23, 11, LK_PURPOSE_ORDER, {PLAIN, .pad = 3}},
    {"shift and resize", SMALL, 8, 8, 23, 11, LK_PURPOSE_ORDER, {PLAIN, .pad = 9}},
    {"crop", SMALL, 8, 10, 23, 11, LK_PURPOSE_ORDER, {.crop = 0.2f}},
    {"crop, oblong", 5, 9, 24, 3, 8, 10, 23, 11, LK_PURPOSE_ORDER, {.crop = 0.2f}},
    {"crop, the middle", 5, 9, 24, 3, 9, 12, 23, 11, LK_PURPOSE_ORDER, {.crop = 0.9f}},
    {"crop, the middle, upright", 5, 24, 9, 1, 12, 9, 23, 11, LK_PURPOSE_ORDER, {.crop = 0.9f}},
    {"erase", SMALL, 9, 7, 23, 11, LK_PURPOSE_ORDER, {PLAIN, .erase = 1}},
    {"mixup", SMALL, 9, 7, 23, 11, LK_PURPOSE_ORDER, {PLAIN, .mixup = 0.4f}},
    {"smoothing", SMALL, 9, 7, 23, 11, LK_PURPOSE_ORDER, {PLAIN, .smoothing = 0.1f}},
    {"everything", SMALL, 8, 10, 23, 11, LK_PURPOSE_ORDER, {true, 2, 0.3f, 0.5f, 1, 0.1f}},
    {"one image", 1, 9, 7, 5, 8, 10, 3, 2, LK_PURPOSE_ORDER, {true, 2, 0.3f, 0.5f, 0.2f, 0.1f}},
    {"shift, large", 40, 32, 32, 3, 32, 32, 50, 10, LK_PURPOSE_ORDER, {true, 4, 1, 0, 0, 0}},
    {"everything, large", 40, 32, 32, 3, 32, 32, 50, 10, LK_PURPOSE_ORDER,
     {true, 2, 0.3f, 0.5f, 0.2f, 0.1f}},
};

static const float scale[2][5] = {{0.49f, 0.48f, 0.45f, 0.2f, 0}, {4.0f, 4.1f, 3.9f, 1, 2}};

/* ---- the op -------------------------------------------------------------------------------- */

typedef struct result {
    double *x, *targets, *labels; /* of the last leaf that the program runs */
} result;

static result result_create(void)
{
    return (result){allocate(MAX_X * sizeof(double)), allocate(MAX_TARGETS * sizeof(double)),
                    allocate(40 * sizeof(double))};
}

static void result_clear(result *r)
{
    free(r->x);
    free(r->targets);
    free(r->labels);
}

static bool result_same(const result *a, const result *b)
{
    return memcmp(a->x, b->x, MAX_X * sizeof(double)) == 0 &&
           memcmp(a->targets, b->targets, MAX_TARGETS * sizeof(double)) == 0 &&
           memcmp(a->labels, b->labels, 40 * sizeof(double)) == 0;
}

static uint8_t byte_of(int64_t i)
{
    uint32_t v = lk_philox(31, (uint32_t)i, 0, 0, 0).v[0];
    return (uint8_t)(v % 16 == 0 ? 255 : v >> 8);
}

static uint16_t label_of(const setting *s, int64_t row)
{
    return (uint16_t)(lk_philox(32, (uint32_t)row, 0, 0, 0).v[0] % (uint64_t)s->classes);
}

static lk_status fetch(lk_program *p, lk_device *d, const lk_tensor *t, double *to)
{
    void *bytes = allocate(lk_bytes(t));
    lk_status status = d->backend->download(d, bytes, lk_program_data(p, t), lk_bytes(t));
    if (status == LK_OK) status = d->backend->sync(d);
    decode(to, t->dtype, lk_count(t), bytes);
    free(bytes);
    return status;
}

static lk_status bind(lk_program *p, lk_device *d, const lk_tensor *t, const void *host,
                      void **memory)
{
    LK_TRY(d->backend->alloc(d, lk_bytes(t), memory));
    LK_TRY(d->backend->upload(d, *memory, host, lk_bytes(t)));
    LK_TRY(d->backend->sync(d));
    for (int leaf = 0; leaf < LEAVES; leaf++) lk_program_bind(p, t, leaf, *memory);
    return LK_OK;
}

static lk_status build(lk_graph *g, const setting *s, bool resident, lk_dtype type,
                       lk_tensor *in[3], lk_tensor *out[3])
{
    int64_t rows = resident ? LEAVES * s->shard : s->batch;
    in[0] = lk_input(g, "data", LK_U8, 4, (int64_t[]){rows, s->height, s->width, s->channels});
    in[1] = lk_input(g, "labels", LK_U16, 1, &rows);
    in[2] = lk_input(g, "scale", LK_F32, 2, (int64_t[]){2, s->channels});
    lk_image_source source = {s->batch, s->rows, s->columns, s->classes, s->shard, resident,
                              s->purpose, FIRST, s->augment};
    LK_TRY(lk_images(g, &source, in[0], in[1], in[2], &out[0], &out[1], &out[2]));
    return lk_autocast(g, type);
}

static lk_status execute(lk_graph *g, lk_store *store, const setting *s, lk_tensor *const in[3],
                         lk_tensor *const out[3], result *r)
{
    lk_device *d = store->device;
    lk_program *p = NULL;
    void *memory[3] = {NULL, NULL, NULL};
    lk_program_options options = {.seed = SEED, .first_leaf = FIRST, .local_leaves = LEAVES};
    uint8_t *data = allocate(lk_bytes(in[0]));
    uint16_t *label = allocate(lk_bytes(in[1]));
    float *both = allocate(lk_bytes(in[2]));
    for (int64_t i = 0; i < lk_count(in[0]); i++) data[i] = byte_of(i);
    for (int64_t i = 0; i < lk_count(in[1]); i++) label[i] = label_of(s, i);
    for (int64_t i = 0; i < lk_count(in[2]); i++)
        both[i] = scale[i / s->channels][i % s->channels];
    lk_status status = lk_program_create(g, store, &options, &p);
    const void *host[3] = {data, label, both};
    for (int i = 0; i < 3 && status == LK_OK; i++)
        status = bind(p, d, in[i], host[i], &memory[i]);
    if (status == LK_OK) status = lk_program_run(p);
    if (status == LK_OK) status = fetch(p, d, out[0], r->x);
    if (status == LK_OK) status = fetch(p, d, out[1], r->targets);
    if (status == LK_OK) status = fetch(p, d, out[2], r->labels);
    lk_program_destroy(p);
    for (int i = 0; i < 3; i++)
        if (memory[i]) d->backend->release(d, memory[i]);
    free(data);
    free(label);
    free(both);
    return status;
}

static lk_status run(lk_device *d, const setting *s, bool resident, uint64_t step, lk_dtype type,
                     result *r)
{
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, true);
    lk_store *store = NULL;
    lk_tensor *in[3], *out[3];
    lk_status status = build(g, s, resident, type, in, out);
    lk_params_layout(params);
    lk_store_options options = {.compute = type, .local_leaves = LEAVES};
    if (status == LK_OK) status = lk_store_create(d, params, &options, &store);
    if (status == LK_OK)
        status = lk_store_set_state(store, &(lk_step_state){.step = step, .loss_scale = 1});
    if (status == LK_OK) status = execute(g, store, s, in, out, r);
    lk_store_destroy(store);
    lk_graph_destroy(g);
    lk_params_destroy(params);
    return status;
}

/* ---- the same in double ---------------------------------------------------------------------- */

static int64_t row_of(const setting *s, bool resident, uint64_t step, int64_t b)
{
    if (!resident) return b;
    uint64_t n = (uint64_t)s->shard, at = step * (uint64_t)s->batch + (uint64_t)b;
    return s->shard * (LEAVES - 1) + (int64_t)lk_permute(at % n, n, SEED, s->purpose,
                                                         FIRST + LEAVES - 1, (uint32_t)(at / n));
}

/* Pixel (h, w) of channel c; black outside. */
static double stored(const setting *s, int64_t row, int64_t h, int64_t w, int64_t c, bool black)
{
    int64_t i = ((row * s->height + h) * s->width + w) * s->channels + c;
    double v = black ? 0 : byte_of(i) / 255.0;
    return (v - (double)scale[0][c]) * (double)scale[1][c];
}

static double sampled(const setting *s, const lk_augment_sample *a, int64_t row, int64_t i,
                      int64_t j, int64_t c)
{
    if (i >= a->erase_top && i < a->erase_top + a->erase_rows && j >= a->erase_left &&
        j < a->erase_left + a->erase_columns)
        return 0;
    if (a->flip) j = s->columns - 1 - j;
    double h = (double)a->top + ((double)i + 0.5) * (double)a->rows / (double)s->rows - 0.5;
    double w = (double)a->left + ((double)j + 0.5) * (double)a->columns / (double)s->columns - 0.5;
    double low = (double)s->height - 1, right = (double)s->width - 1;
    if (h < -0.5 || h > low + 0.5 || w < -0.5 || w > right + 0.5)
        return stored(s, row, 0, 0, c, true);
    h = fmin(fmax(h, 0), low);
    w = fmin(fmax(w, 0), right);
    double sum = 0;
    for (int corner = 0; corner < 4; corner++) {
        double y = floor(h) + corner / 2, x = floor(w) + corner % 2;
        double weight = (1 - fabs(h - y)) * (1 - fabs(w - x));
        if (weight > 0) sum += weight * stored(s, row, (int64_t)y, (int64_t)x, c, false);
    }
    return sum;
}

static lk_augment_sample drawn(const setting *s, uint64_t step, int64_t b)
{
    return lk_augment_draw(&s->augment, (int)s->height, (int)s->width, (int)s->rows,
                           (int)s->columns, SEED, step, FIRST + LEAVES - 1, b);
}

static void expected(const setting *s, bool resident, uint64_t step, result *r)
{
    int64_t image = s->rows * s->columns * s->channels;
    double smooth = (double)s->augment.smoothing;
    for (int64_t b = 0; b < s->batch; b++) {
        int64_t partner = s->batch - 1 - b;
        int64_t row = row_of(s, resident, step, b), row2 = row_of(s, resident, step, partner);
        lk_augment_sample a = drawn(s, step, b), a2 = drawn(s, step, partner);
        double lambda = (double)a.lambda;
        for (int64_t k = 0; k < image; k++) {
            int64_t i = k / (s->columns * s->channels), j = k / s->channels % s->columns;
            double v = sampled(s, &a, row, i, j, k % s->channels);
            double v2 = sampled(s, &a2, row2, i, j, k % s->channels);
            r->x[b * image + k] = lambda * v + (1 - lambda) * v2;
        }
        r->labels[b] = label_of(s, row);
        for (int64_t k = 0; k < s->classes; k++)
            r->targets[b * s->classes + k] =
                smooth / (double)s->classes +
                (1 - smooth) * (lambda * (k == label_of(s, row)) +
                                (1 - lambda) * (k == label_of(s, row2)));
    }
}

/* ---- checks -------------------------------------------------------------------------------- */

static void check_setting(lk_device *d, const setting *s, bool resident, uint64_t step,
                          lk_dtype type)
{
    static const double limit[] = {[LK_F32] = 1e-6, [LK_F16] = 1e-3, [LK_BF16] = 8e-3};
    result r = result_create(), want = result_create();
    lk_status status = run(d, s, resident, step, type, &r);
    expected(s, resident, step, &want);
    double error = distance(MAX_X, r.x, want.x);
    bool good = status == LK_OK && error <= limit[type];
    good &= distance(MAX_TARGETS, r.targets, want.targets) <= 1e-6;
    good &= memcmp(r.labels, want.labels, 40 * sizeof(double)) == 0;
    tap_ok(good, "images %s %s %s %s step %llu: %.1e %s", d->backend->name, lk_dtype_name(type),
           resident ? "resident" : "streamed", s->name, (unsigned long long)step, error,
           lk_error_text());
    lk_error_clear();
    result_clear(&r);
    result_clear(&want);
}

static void check_threads(lk_device *d, const setting *s, lk_dtype type)
{
    int before = omp_get_max_threads();
    bool same = true;
    result first = result_create(), r = result_create();
    for (int threads = 1; threads <= 3 && same; threads++) {
        omp_set_num_threads(threads);
        same = run(d, s, true, 7, type, threads > 1 ? &r : &first) == LK_OK &&
               (threads == 1 || result_same(&first, &r));
    }
    omp_set_num_threads(before);
    tap_ok(same, "images %s %s %s: same bits with 1, 2 and 3 threads %s", d->backend->name,
           lk_dtype_name(type), s->name, lk_error_text());
    lk_error_clear();
    result_clear(&first);
    result_clear(&r);
}

/* Shares over many samples, and bounds. */
static void check_draws(void)
{
    enum { SAMPLES = 20000 };
    const lk_augment a = {true, 3, 0.25f, 0.3f, 0.5f, 0};
    const int height = 40, width = 30, rows = 20, columns = 24;
    double flips = 0, erased = 0, lambda = 0, square = 0, area = 0;
    bool inside = true;
    for (int i = 0; i < SAMPLES; i++) {
        lk_augment_sample s =
            lk_augment_draw(&a, height, width, rows, columns, 5, (uint64_t)(i / 100), 1, i % 100);
        double l = (double)s.lambda;
        flips += s.flip;
        erased += s.erase_rows > 0;
        lambda += l;
        square += (l - 0.5) * (l - 0.5);
        area += (double)(s.rows * s.columns) / (height * width);
        inside &= s.rows >= 1 && s.columns >= 1 && s.rows <= height && s.columns <= width;
        inside &= s.top >= -3 && s.left >= -3 && s.top + s.rows <= height + 3 &&
                  s.left + s.columns <= width + 3;
        inside &= s.erase_top >= 0 && s.erase_left >= 0 && s.erase_top + s.erase_rows <= rows &&
                  s.erase_left + s.erase_columns <= columns && l >= 0 && l <= 1;
    }
    tap_ok(inside, "every crop and erased rectangle lies inside, lambda in [0, 1]");
    tap_ok(fabs(flips / SAMPLES - 0.5) < 0.015, "half of the samples are mirrored: %.3f",
           flips / SAMPLES);
    tap_ok(fabs(erased / SAMPLES - 0.3) < 0.015, "the asked share is erased: %.3f",
           erased / SAMPLES);
    /* Beta(a, a): variance 1 / (4 (2 a + 1)) */
    tap_ok(fabs(lambda / SAMPLES - 0.5) < 0.015 && fabs(square / SAMPLES - 0.125) < 0.005,
           "lambda is Beta(1/2, 1/2): mean %.3f, variance %.4f", lambda / SAMPLES,
           square / SAMPLES);
    tap_ok(area / SAMPLES > 0.5 && area / SAMPLES < 0.7, "crops of a quarter to all: mean %.3f",
           area / SAMPLES);
}

/* Of an image that no crop of the asked area fits, the middle in the nearest aspect ratio. */
static void check_oblong(void)
{
    static const struct {
        int height, width;
        float crop, top, left, rows, columns;
    } image[] = {{90, 160, 0.9f, 0, 20, 90, 120}, {160, 90, 0.9f, 20, 0, 120, 90},
                 {10, 31, 0.5f, 0, 9, 10, 13},    {31, 10, 0.5f, 9, 0, 13, 10},
                 {1, 9, 0.9f, 0, 4, 1, 1},        {30, 30, 0.999999f, 0, 0, 30, 30}};
    for (size_t k = 0; k < sizeof image / sizeof *image; k++) {
        bool good = true;
        for (int i = 0; i < 1000; i++) {
            lk_augment_sample s = lk_augment_draw(&(lk_augment){.crop = image[k].crop},
                                                  image[k].height, image[k].width, 8, 8, 5, 3, 1,
                                                  i);
            good &= s.top == image[k].top && s.left == image[k].left &&
                    s.rows == image[k].rows && s.columns == image[k].columns;
        }
        tap_ok(good, "the middle of an image of %d x %d", image[k].height, image[k].width);
    }
    int middle = 0, smaller = 0; /* where some tries fit, both happen */
    for (int i = 0; i < 1000; i++) {
        lk_augment_sample s = lk_augment_draw(&(lk_augment){.crop = 0.7f}, 90, 160, 8, 8, 5, 3, 1,
                                              i);
        middle += s.rows == 90 && s.columns == 120;
        smaller += s.rows < 90 && s.columns >= 90 && s.columns < 120;
    }
    tap_ok(middle > 0 && smaller > 0 && middle + smaller > 900,
           "of an oblong one the middle %d times, smaller crops %d times", middle, smaller);
}

int main(void)
{
    static const uint64_t steps[] = {0, 3, 4, 5, 1000}; /* 23 images: an epoch ends in step 4 */
    lk_device *device[2] = {NULL, open_cuda()};
    if (!tap_ok(lk_backend_cpu.open(0, &device[0]) == LK_OK, "the CPU backend opens %s",
                lk_error_text()))
        return tap_done();
    check_draws();
    check_oblong();
    for (int i = 0; i < 2 && device[i]; i++) {
        for (size_t k = 0; k < sizeof settings / sizeof *settings; k++)
            for (lk_dtype type = LK_F32; type <= LK_BF16; type++) {
                for (int s = 0; s < (type == LK_F32 ? 5 : 1); s++) {
                    check_setting(device[i], &settings[k], true, steps[s], type);
                    check_setting(device[i], &settings[k], false, steps[s], type);
                }
                check_threads(device[i], &settings[k], type);
            }
        device[i]->backend->close(device[i]);
    }
    return tap_done();
}
