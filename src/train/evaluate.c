/* Evaluation of a checkpoint over every non-overlapping window of the validation split.
 *
 * Window w belongs to rank w % size; a token's loss depends on its window alone, and the sums are
 * taken per window and then in window order, so the figures do not depend on the ranks. */
#include "io/predictions.h"
#include "train/session.h"

#include <math.h>
#include <stdlib.h>

typedef struct evaluator {
    lk_trained model;
    lk_forward forward;
    lk_dataset *data;
    int64_t windows, context;
    double *loss, *hits;    /* by window; zero where another rank computes it */
    float *token_loss;      /* by token of the evaluated range; NULL without predictions */
    int32_t *argmax;
    void *raw;
    int32_t *tokens;
} evaluator;

static void score_window(evaluator *e, int64_t w, const int32_t *target)
{
    const lk_forward *f = &e->forward;
    int64_t vocabulary = e->model.info.vocabulary_size;
    for (int64_t t = 0; t < e->context; t++) {
        const float *row = f->host + t * f->rows;
        int64_t best = 0;
        double sum = 0;
        for (int64_t v = 1; v < vocabulary; v++)
            if (row[v] > row[best]) best = v;
        for (int64_t v = 0; v < vocabulary; v++) sum += exp((double)row[v] - (double)row[best]);
        double loss = log(sum) + (double)row[best] - (double)row[target[t]];
        e->loss[w] += loss;
        e->hits[w] += best == target[t];
        if (e->token_loss) {
            e->token_loss[w * e->context + t] = (float)loss;
            e->argmax[w * e->context + t] = (int32_t)best;
        }
    }
}

static lk_status own_windows(lk_comm *comm, evaluator *e)
{
    int64_t span = e->context + 1;
    for (int64_t w = comm->rank; w < e->windows; w += comm->size) {
        LK_TRY(lk_dataset_read(e->data, LK_VALIDATION, 0, w * e->context, span, e->raw));
        for (int64_t t = 0; t < span; t++)
            e->tokens[t] = e->data->field[0].dtype == LK_U8 ? ((uint8_t *)e->raw)[t]
                                                            : ((uint16_t *)e->raw)[t];
        LK_TRY(lk_session_forward(&e->model, &e->forward, e->tokens));
        score_window(e, w, e->tokens + 1);
    }
    return LK_OK;
}

/* Tokens must mean the same characters: the data's vocabulary is the model's, or its beginning. */
static lk_status check_vocabulary(const evaluator *e, const char *data)
{
    const lk_dataset *d = e->data;
    const lk_checkpoint_info *info = &e->model.info;
    int64_t n = d->vocabulary_size, same = 0;
    while (same < n && same < info->vocabulary_size &&
           d->vocabulary[same] == info->vocabulary[same])
        same++;
    if (same == n && d->characters == info->characters) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected the vocabulary of the checkpoint, %lld %s, found %lld "
                   "%s; evaluate on data imported with the training text", data,
                   (long long)info->vocabulary_size, info->characters ? "characters" : "bytes",
                   (long long)n, d->characters ? "others" : "bytes");
}

static lk_status prepare(evaluator *e, const char *data, bool predictions)
{
    LK_TRY(lk_dataset_expect(e->data, LK_TEXT_DATA));
    e->context = e->model.model.context;
    int64_t tokens = e->data->rows[LK_VALIDATION];
    e->windows = tokens > 0 ? (tokens - 1) / e->context : 0;
    if (e->windows < 1)
        return lk_fail(LK_E_INPUT, "%s: validation/tokens holds %lld tokens, one window of this "
                       "model needs %lld", data, (long long)tokens, (long long)e->context + 1);
    LK_TRY(check_vocabulary(e, data));
    size_t n = (size_t)(e->windows * e->context);
    e->loss = calloc((size_t)e->windows, sizeof *e->loss);
    e->hits = calloc((size_t)e->windows, sizeof *e->hits);
    e->raw = malloc((size_t)(e->context + 1) * 2);
    e->tokens = malloc((size_t)(e->context + 1) * sizeof *e->tokens);
    if (predictions) {
        e->token_loss = calloc(n, sizeof *e->token_loss);
        e->argmax = calloc(n, sizeof *e->argmax);
    }
    if (!e->loss || !e->hits || !e->raw || !e->tokens ||
        (predictions && (!e->token_loss || !e->argmax)))
        return lk_fail(LK_E_SYSTEM, "out of memory for %lld windows", (long long)e->windows);
    return lk_session_forward_open(&e->model, 1, e->context, &e->forward);
}

/* Each window is non-zero on one rank only, so the sum over ranks copies it. */
static lk_status collect(lk_comm *comm, evaluator *e, const lk_scoring *job, lk_io *io)
{
    LK_TRY(lk_comm_sum_doubles(comm, e->loss, e->windows));
    LK_TRY(lk_comm_sum_doubles(comm, e->hits, e->windows));
    if (!job->predictions) return LK_OK;
    int64_t n = e->windows * e->context;
    LK_TRY(lk_comm_sum_floats(comm, e->token_loss, n));
    LK_TRY(lk_comm_sum_ints(comm, e->argmax, n));
    lk_predictions p = {
        .path = job->predictions,
        .overwrite = job->overwrite,
        .checkpoint = e->model.info.path,
        .dataset = e->data->path,
        .dataset_digest = e->data->digest,
        .loss = e->token_loss,
        .argmax = e->argmax,
        .count = n,
    };
    return lk_comm_agree(comm, comm->rank == 0 ? lk_predictions_write(io, &p) : LK_OK);
}

lk_status lk_evaluate(lk_comm *comm, lk_io *io, const lk_scoring *job, lk_evaluation *result)
{
    evaluator e = {.windows = 0};
    lk_status status = LK_OK;
    if (job->predictions && comm->rank == 0)
        status = lk_predictions_check(io, job->predictions, job->overwrite);
    LK_TRY(lk_comm_agree(comm, status));
    LK_TRY(lk_session_open(comm, io, job->checkpoint, job->device, &e.model));
    status = lk_dataset_open(io, comm->world, job->data, &e.data);
    if (status == LK_OK)
        status = lk_comm_agree(comm, prepare(&e, job->data, job->predictions != NULL));
    if (status == LK_OK) status = lk_comm_agree(comm, own_windows(comm, &e));
    if (status == LK_OK) status = collect(comm, &e, job, io);
    if (status == LK_OK) {
        double loss = 0, hits = 0, tokens = (double)(e.windows * e.context);
        for (int64_t w = 0; w < e.windows; w++) {
            loss += e.loss[w];
            hits += e.hits[w];
        }
        *result = (lk_evaluation){loss / tokens, exp(loss / tokens), hits / tokens,
                                  e.windows * e.context};
    }
    lk_session_forward_close(&e.model, &e.forward);
    lk_dataset_close(e.data);
    lk_session_close(&e.model);
    free(e.loss);
    free(e.hits);
    free(e.token_loss);
    free(e.argmax);
    free(e.raw);
    free(e.tokens);
    return status;
}
