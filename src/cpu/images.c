/* images: augmented and mixed images, targets and labels of this leaf's samples. */
#include "cpu/device.h"

typedef struct source {
    const lk_node *node;
    const uint8_t *data;   /* [rows, height, width, channels] */
    const uint16_t *label; /* [rows] */
    const float *scale;    /* [2, channels] */
    int64_t batch, height, width, channels; /* of the stored images */
    int64_t rows, columns;                  /* of the output */
    uint64_t seed, step;
    int leaf;
} source;

/* Where sample b is stored. */
static int64_t stored(const source *s, int64_t b)
{
    if (!s->node->attr.images.resident) return b;
    int64_t shard = s->node->attr.images.shard_rows;
    return (s->leaf - s->node->attr.images.first_leaf) * shard +
           lk_sample_row(s->step, s->batch, b, shard, s->seed, s->node->attr.images.purpose,
                         s->leaf);
}

/* A point along one side of the stored image: between pixels low and high, part of the way;
 * outside, low is -1. */
typedef struct point {
    int64_t low, high;
    float part;
} point;

static point point_of(float start, float extent, int64_t i, int64_t count, int64_t size)
{
    float p = start + ((float)i + 0.5f) * extent / (float)count - 0.5f, last = (float)(size - 1);
    if (!(p >= -0.5f && p <= last + 0.5f)) return (point){-1, -1, 0};
    p = p < 0.0f ? 0.0f : p > last ? last : p;
    int64_t low = (int64_t)p;
    return (point){low, low + 1 < size ? low + 1 : low, p - (float)low};
}

/* row [width, channels] = the stored row, or mixture of two, at vertical point v, as numbers 0 to
 * 255; outside 0. */
static void blend_rows(const source *s, const uint8_t *image, point v, float *row)
{
    int64_t n = s->width * s->channels;
    if (v.low < 0) {
        memset(row, 0, (size_t)n * sizeof *row);
        return;
    }
    const uint8_t *a = image + v.low * n, *b = image + v.high * n;
    if (v.part == 0.0f)
        for (int64_t i = 0; i < n; i++) row[i] = (float)a[i];
    else
        for (int64_t i = 0; i < n; i++)
            row[i] = (float)a[i] + v.part * ((float)b[i] - (float)a[i]);
}

/* x [rows, columns, channels] (+)= weight times image `row` of the data, as `a` says. `points`
 * [columns], `line` [width, channels] are scratch. */
static void add_image(const source *s, const lk_augment_sample *a, int64_t row, float weight,
                      bool first, point *points, float *line, float *x)
{
    int64_t channels = s->channels;
    const uint8_t *image = s->data + row * s->height * s->width * channels;
    for (int64_t j = 0; j < s->columns; j++)
        points[a->flip ? s->columns - 1 - j : j] =
            point_of(a->left, a->columns, j, s->columns, s->width);
    for (int64_t i = 0; i < s->rows; i++) {
        bool cut = i >= a->erase_top && i < a->erase_top + a->erase_rows;
        blend_rows(s, image, point_of(a->top, a->rows, i, s->rows, s->height), line);
        for (int64_t j = 0; j < s->columns; j++, x += channels) {
            bool erased = cut && j >= a->erase_left && j < a->erase_left + a->erase_columns;
            point p = points[j];
            for (int64_t c = 0; c < channels; c++) {
                float v = 0.0f;
                if (p.low >= 0) {
                    float u = line[p.low * channels + c];
                    v = u + p.part * (line[p.high * channels + c] - u);
                }
                v = erased ? 0.0f : (v * (1.0f / 255.0f) - s->scale[c]) * s->scale[channels + c];
                x[c] = first ? weight * v : x[c] + weight * v;
            }
        }
    }
}

/* targets [classes] of sample b mixed with those of b2 */
static void mix_targets(int64_t classes, float smoothing, float lambda, int label, int label2,
                        float *targets)
{
    for (int64_t k = 0; k < classes; k++) targets[k] = smoothing / (float)classes;
    if (label < classes) targets[label] += (1.0f - smoothing) * lambda;
    if (label2 < classes) targets[label2] += (1.0f - smoothing) * (1.0f - lambda);
}

/* Of a thread: the points along a row, a stored row, an image. */
static int64_t floats(const lk_tensor *data, const lk_tensor *out)
{
    int64_t points = out->dim[2] * (int64_t)(sizeof(point) / sizeof(float));
    return points + data->dim[2] * data->dim[3] + out->dim[1] * out->dim[2] * data->dim[3];
}

size_t lk_cpu_images_scratch(const lk_node *n)
{
    return lk_cpu_own_bytes(floats(n->in[0], n->out[0]));
}

lk_status lk_cpu_images(lk_exec *x, const lk_node *n)
{
    const lk_tensor *data = n->in[0], *out = n->out[0];
    const lk_step_state *state = lk_data(x, n->in[3]);
    source s = {n, lk_data(x, data), lk_data(x, n->in[1]), lk_data(x, n->in[2]), out->dim[0],
                data->dim[1], data->dim[2], data->dim[3], out->dim[1], out->dim[2], x->seed,
                state->step, x->leaf};
    const lk_augment *augment = &n->attr.images.augment;
    int64_t classes = n->out[1]->dim[1], image = s.rows * s.columns * s.channels;
    float *targets = lk_data(x, n->out[1]);
    int32_t *labels = lk_data(x, n->out[2]);
    void *to = lk_data(x, out);
    int64_t room = floats(data, out);
#pragma omp parallel if (s.batch * image > LK_CPU_SMALL)
    {
        point *points = (point *)lk_cpu_own(lk_cpu_scratch(x), room);
        float *line = (float *)(points + s.columns), *buffer = line + s.width * s.channels;
#pragma omp for schedule(static)
        for (int64_t b = 0; b < s.batch; b++) {
            int64_t sample[2] = {b, s.batch - 1 - b}, row[2];
            float *v = lk_cpu_place(out->dtype, to, b * image, buffer), lambda = 1;
            for (int i = 0; i < (lambda < 1 ? 2 : 1); i++) {
                lk_augment_sample a =
                    lk_augment_draw(augment, (int)s.height, (int)s.width, (int)s.rows,
                                    (int)s.columns, s.seed, s.step, s.leaf, sample[i]);
                if (i == 0) lambda = a.lambda;
                row[i] = stored(&s, sample[i]);
                add_image(&s, &a, row[i], i ? 1.0f - lambda : lambda, i == 0, points, line, v);
            }
            labels[b] = s.label[row[0]];
            mix_targets(classes, augment->smoothing, lambda, labels[b],
                        lambda < 1 ? s.label[row[1]] : labels[b], targets + b * classes);
            lk_cpu_settle(out->dtype, to, b * image, image, v);
        }
    }
    return LK_OK;
}
