/* Scoring of every image of a validation split.
 *
 * Images go through the model in batches of BATCH rows in file order, batch i on rank i % size; a
 * row's logits do not depend on the other rows, and sums are taken in file order, so the figures do
 * not depend on the ranks. */
#include "train/evaluate.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH = 64 };

typedef struct images {
    int64_t count, classes;
    float *loss, *probability;  /* by row; zero where another rank computes it */
    int32_t *label, *predicted;
    uint8_t *pixels;            /* of a batch */
    uint16_t *batch_label, *tokens;
} images;

/* Batch `i`; the last one may be short, what follows in it is not looked at. */
static lk_status score_batch(lk_evaluator *e, images *s, int64_t i)
{
    int64_t first = i * BATCH, n = s->count - first < BATCH ? s->count - first : BATCH;
    LK_TRY(lk_dataset_read(e->data, LK_VALIDATION, 0, first, n, s->pixels));
    LK_TRY(lk_dataset_read(e->data, LK_VALIDATION, 1, first, n, s->batch_label));
    if (s->tokens) LK_TRY(lk_dataset_read(e->data, LK_VALIDATION, 2, first, n, s->tokens));
    LK_TRY(lk_forward_run(&e->model, &e->forward, s->pixels, s->tokens));
    for (int64_t b = 0; b < n; b++) {
        int64_t best;
        double probability;
        s->loss[first + b] =
            (float)lk_evaluate_row(e->forward.host + b * e->forward.columns, s->classes,
                                   s->batch_label[b], &best, &probability);
        s->label[first + b] = s->batch_label[b];
        s->predicted[first + b] = (int32_t)best;
        s->probability[first + b] = (float)probability;
    }
    return LK_OK;
}

static lk_status own_batches(lk_evaluator *e, images *s)
{
    for (int64_t i = e->comm->rank; i * BATCH < s->count; i += e->comm->size)
        LK_TRY(score_batch(e, s, i));
    return LK_OK;
}

/* A model of images with texts needs such, and of the same tokens; another looks at none. */
static lk_status check_texts(const lk_evaluator *e)
{
    const lk_image_format *d = &e->data->image, *m = &e->model.info.image;
    if (!e->model.model.fused || (d->text == m->text && d->vocabulary == m->vocabulary))
        return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected a text of %lld tokens below %lld with each image as "
                   "the checkpoint's, found %lld below %lld; evaluate on data with texts like "
                   "those of the training data", e->data->path, (long long)m->text,
                   (long long)m->vocabulary, (long long)d->text, (long long)d->vocabulary);
}

static lk_status check_channels(const lk_evaluator *e)
{
    const lk_image_format *d = &e->data->image, *m = &e->model.info.image;
    if (d->channels == m->channels) return LK_OK;
    lk_fail(LK_E_INPUT, "%s: expected images of %lld channel%s as the checkpoint's, found %lld; ",
            e->data->path, (long long)m->channels, m->channels == 1 ? "" : "s",
            (long long)d->channels);
    if (m->channels == 1 || m->channels == 3) /* what import makes */
        return lk_fail_suffix(LK_E_INPUT, "import them again with --channels %lld",
                              (long long)m->channels);
    return lk_fail_suffix(LK_E_INPUT, "evaluate on data made as the training data was, with as "
                          "many channels");
}

/* Images and labels must mean what they meant in training. */
static lk_status check_format(const lk_evaluator *e)
{
    const lk_image_format *d = &e->data->image, *m = &e->model.info.image;
    if (d->height != m->height || d->width != m->width)
        return lk_fail(LK_E_INPUT, "%s: expected images of %lld x %lld pixels as the checkpoint's, "
                       "found %lld x %lld; import them again with --size %lldx%lld", e->data->path,
                       (long long)m->height, (long long)m->width, (long long)d->height,
                       (long long)d->width, (long long)m->height, (long long)m->width);
    LK_TRY(check_channels(e));
    LK_TRY(check_texts(e));
    int64_t same = 0;
    while (same < m->classes && same < d->classes && strcmp(m->name[same], d->name[same]) == 0)
        same++;
    if (same == d->classes) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: class %lld is '%.60s', the checkpoint's is '%.60s'; evaluate "
                   "on data with the classes of the training data", e->data->path, (long long)same,
                   d->name[same], same < m->classes ? m->name[same] : "(none)");
}

static lk_status prepare(lk_evaluator *e, images *s)
{
    s->count = e->data->rows[LK_VALIDATION];
    s->classes = e->model.info.image.classes;
    if (s->count < 1)
        return lk_fail(LK_E_INPUT,
                       "%s: holds no validation images; import data with a part for "
                       "validation (--validation)",
                       e->data->path);
    LK_TRY(check_format(e));
    size_t n = (size_t)s->count;
    s->loss = calloc(n, sizeof *s->loss);
    s->probability = calloc(n, sizeof *s->probability);
    s->label = calloc(n, sizeof *s->label);
    s->predicted = calloc(n, sizeof *s->predicted);
    s->pixels = calloc(BATCH, e->data->field[0].row_bytes);
    s->batch_label = calloc(BATCH, sizeof *s->batch_label);
    bool texts = e->model.model.fused;
    if (texts) s->tokens = calloc(BATCH, e->data->field[2].row_bytes);
    if (!s->loss || !s->probability || !s->label || !s->predicted || !s->pixels ||
        !s->batch_label || (texts && !s->tokens))
        return lk_fail(LK_E_SYSTEM, "out of memory for %lld images", (long long)s->count);
    return lk_forward_open(&e->model, BATCH, 0, &e->forward);
}

/* Each row is non-zero on one rank only, so the sum over ranks copies it. */
static lk_status collect(lk_evaluator *e, images *s)
{
    LK_TRY(lk_comm_sum_floats(e->comm, s->loss, s->count));
    LK_TRY(lk_comm_sum_floats(e->comm, s->probability, s->count));
    LK_TRY(lk_comm_sum_ints(e->comm, s->label, s->count));
    LK_TRY(lk_comm_sum_ints(e->comm, s->predicted, s->count));
    if (!e->job->predictions) return LK_OK;
    lk_predictions p = {.loss = s->loss,
                        .argmax = s->predicted,
                        .label = s->label,
                        .probability = s->probability,
                        .count = s->count};
    return lk_evaluate_write(e, &p);
}

/* The counts of each class, with names of their own, and the table of labels and predictions. */
static lk_status count_classes(const lk_evaluator *e, const images *s, lk_evaluation *r)
{
    size_t n = (size_t)s->classes;
    bool table = s->classes <= LK_CONFUSION_CLASSES;
    r->classes = s->classes;
    r->images = calloc(n, sizeof *r->images);
    r->right = calloc(n, sizeof *r->right);
    r->name = calloc(n, sizeof *r->name);
    if (table) r->confusion = calloc(n * n, sizeof *r->confusion);
    if (!r->images || !r->right || !r->name || (table && !r->confusion))
        return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t i = 0; i < s->classes; i++)
        if (!(r->name[i] = strdup(e->model.info.image.name[i])))
            return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t i = 0; i < s->count; i++) {
        r->images[s->label[i]]++;
        r->right[s->label[i]] += s->label[i] == s->predicted[i];
        if (table) r->confusion[s->label[i] * s->classes + s->predicted[i]]++;
    }
    return LK_OK;
}

static lk_status score(lk_evaluator *e, images *s, lk_evaluation *result)
{
    LK_TRY(lk_comm_agree(e->comm, prepare(e, s)));
    LK_TRY(lk_comm_agree(e->comm, own_batches(e, s)));
    LK_TRY(collect(e, s));
    double loss = 0, hits = 0;
    for (int64_t i = 0; i < s->count; i++) {
        loss += (double)s->loss[i];
        hits += s->label[i] == s->predicted[i];
    }
    result->samples = s->count;
    result->loss = loss / (double)s->count;
    result->accuracy = hits / (double)s->count;
    return lk_comm_agree(e->comm, count_classes(e, s, result));
}

lk_status lk_evaluate_images(lk_evaluator *e, lk_evaluation *result)
{
    images s = {.count = 0};
    lk_status status = score(e, &s, result);
    free(s.loss);
    free(s.probability);
    free(s.label);
    free(s.predicted);
    free(s.pixels);
    free(s.batch_label);
    free(s.tokens);
    return status;
}
