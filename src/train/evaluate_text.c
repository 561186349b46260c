/* Scoring of every non-overlapping window of a text's validation split.
 *
 * Window w belongs to rank w % size; a token's loss depends on its window alone, and the sums are
 * taken per window and then in window order, so the figures do not depend on the ranks. */
#include "train/evaluate.h"

#include <stdlib.h>

typedef struct windows {
    int64_t count, context;
    double *loss, *hits;    /* by window; zero where another rank computes it */
    float *token_loss;      /* by token of the evaluated range; NULL without predictions */
    int32_t *argmax;
    void *raw;
    int32_t *tokens;
} windows;

static void score_window(const lk_evaluator *e, windows *s, int64_t w, const int32_t *target)
{
    const lk_forward *f = &e->forward;
    for (int64_t t = 0; t < s->context; t++) {
        int64_t best;
        double loss = lk_evaluate_row(f->host + t * f->columns, e->model.info.vocabulary_size,
                                      target[t], &best, NULL);
        s->loss[w] += loss;
        s->hits[w] += best == target[t];
        if (s->token_loss) {
            s->token_loss[w * s->context + t] = (float)loss;
            s->argmax[w * s->context + t] = (int32_t)best;
        }
    }
}

static lk_status own_windows(lk_evaluator *e, windows *s)
{
    int64_t span = s->context + 1;
    for (int64_t w = e->comm->rank; w < s->count; w += e->comm->size) {
        LK_TRY(lk_dataset_read(e->data, LK_VALIDATION, 0, w * s->context, span, s->raw));
        for (int64_t t = 0; t < span; t++)
            s->tokens[t] = e->data->field[0].dtype == LK_U8 ? ((uint8_t *)s->raw)[t]
                                                            : ((uint16_t *)s->raw)[t];
        LK_TRY(lk_forward_run(&e->model, &e->forward, s->tokens, NULL));
        score_window(e, s, w, s->tokens + 1);
    }
    return LK_OK;
}

/* Tokens must mean the same characters: the data's vocabulary is the model's, or its beginning. */
static lk_status check_vocabulary(const lk_evaluator *e)
{
    const lk_dataset *d = e->data;
    const lk_checkpoint_info *info = &e->model.info;
    int64_t n = d->vocabulary_size, same = 0;
    while (same < n && same < info->vocabulary_size &&
           d->vocabulary[same] == info->vocabulary[same])
        same++;
    if (same == n && d->characters == info->characters) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected the vocabulary of the checkpoint, %lld %s, found %lld "
                   "%s; evaluate on data imported with the training text", d->path,
                   (long long)info->vocabulary_size, info->characters ? "characters" : "bytes",
                   (long long)n, d->characters ? "others" : "bytes");
}

static lk_status prepare(lk_evaluator *e, windows *s)
{
    s->context = e->model.model.text.context;
    int64_t tokens = e->data->rows[LK_VALIDATION];
    s->count = tokens > 0 ? (tokens - 1) / s->context : 0;
    if (s->count < 1)
        return lk_fail(LK_E_INPUT,
                       "%s: validation/tokens holds %lld tokens, one window of this "
                       "model needs %lld; import more text, or a larger part for validation "
                       "(--validation)",
                       e->data->path, (long long)tokens, (long long)s->context + 1);
    LK_TRY(check_vocabulary(e));
    size_t n = (size_t)(s->count * s->context);
    bool predictions = e->job->predictions != NULL;
    s->loss = calloc((size_t)s->count, sizeof *s->loss);
    s->hits = calloc((size_t)s->count, sizeof *s->hits);
    s->raw = malloc((size_t)(s->context + 1) * 2);
    s->tokens = malloc((size_t)(s->context + 1) * sizeof *s->tokens);
    if (predictions) {
        s->token_loss = calloc(n, sizeof *s->token_loss);
        s->argmax = calloc(n, sizeof *s->argmax);
    }
    if (!s->loss || !s->hits || !s->raw || !s->tokens ||
        (predictions && (!s->token_loss || !s->argmax)))
        return lk_fail(LK_E_SYSTEM, "out of memory for %lld windows", (long long)s->count);
    return lk_forward_open(&e->model, 1, s->context, &e->forward);
}

/* Each window is non-zero on one rank only, so the sum over ranks copies it. */
static lk_status collect(lk_evaluator *e, windows *s)
{
    LK_TRY(lk_comm_sum_doubles(e->comm, s->loss, s->count));
    LK_TRY(lk_comm_sum_doubles(e->comm, s->hits, s->count));
    if (!e->job->predictions) return LK_OK;
    int64_t n = s->count * s->context;
    LK_TRY(lk_comm_sum_floats(e->comm, s->token_loss, n));
    LK_TRY(lk_comm_sum_ints(e->comm, s->argmax, n));
    lk_predictions p = {.loss = s->token_loss, .argmax = s->argmax, .count = n};
    return lk_evaluate_write(e, &p);
}

static lk_status score(lk_evaluator *e, windows *s, lk_evaluation *result)
{
    LK_TRY(lk_comm_agree(e->comm, prepare(e, s)));
    LK_TRY(lk_comm_agree(e->comm, own_windows(e, s)));
    LK_TRY(collect(e, s));
    double loss = 0, hits = 0;
    for (int64_t w = 0; w < s->count; w++) {
        loss += s->loss[w];
        hits += s->hits[w];
    }
    result->samples = s->count * s->context;
    result->loss = loss / (double)result->samples;
    result->accuracy = hits / (double)result->samples;
    return LK_OK;
}

lk_status lk_evaluate_text(lk_evaluator *e, lk_evaluation *result)
{
    windows s = {.count = 0};
    lk_status status = score(e, &s, result);
    free(s.loss);
    free(s.hits);
    free(s.token_loss);
    free(s.argmax);
    free(s.raw);
    free(s.tokens);
    return status;
}
