/* Evaluation of a checkpoint over a validation split: what text and images share. */
#include "check/check.h"
#include "train/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double lk_evaluate_row(const float *row, int64_t count, int64_t target, int64_t *best,
                       double *probability)
{
    int64_t top = 0;
    double sum = 0;
    for (int64_t v = 1; v < count; v++)
        if (row[v] > row[top]) top = v;
    for (int64_t v = 0; v < count; v++) sum += exp((double)row[v] - (double)row[top]);
    *best = top;
    if (probability) *probability = 1 / sum;
    return log(sum) + (double)row[top] - (double)row[target];
}

lk_status lk_evaluate_write(lk_evaluator *e, lk_predictions *p)
{
    p->path = e->job->predictions;
    p->overwrite = e->job->overwrite;
    p->checkpoint = e->model.info.path;
    p->dataset = e->data->path;
    p->dataset_digest = e->data->digest;
    return lk_comm_agree(e->comm, e->comm->rank == 0 ? lk_predictions_write(e->io, p) : LK_OK);
}

static lk_status weights_of(const char *name, lk_weights *weights)
{
    static const char *const names[] = {"auto", "raw", "ema"};
    for (int i = 0; i < 3; i++) {
        if (name && strcmp(name, names[i]) != 0) continue;
        *weights = (lk_weights)i;
        return LK_OK;
    }
    return lk_fail(LK_E_INPUT, "weights: expected auto, raw or ema, found '%.60s'; choose one",
                   name);
}

static lk_status score(lk_evaluator *e, lk_evaluation *result)
{
    lk_comm *c = e->comm;
    bool images = e->model.info.kind == LK_IMAGE_DATA;
    LK_TRY(lk_dataset_open(e->io, c->world, e->job->data, &e->data));
    LK_TRY(lk_comm_agree(c, lk_dataset_expect(e->data, e->model.info.kind)));
    LK_TRY(images ? lk_evaluate_images(e, result) : lk_evaluate_text(e, result));
    return lk_check_drift(c, e->io, e->data, LK_VALIDATION, e->model.info.path, e->job->psi,
                          &result->compared, &result->drift);
}

lk_status lk_evaluate(lk_comm *comm, lk_io *io, const lk_scoring *job, lk_evaluation *result)
{
    lk_evaluator e = {.comm = comm, .io = io, .job = job};
    lk_evaluation found = {0};
    lk_weights weights = LK_WEIGHTS_AUTO;
    LK_TRY(lk_comm_agree(comm, weights_of(job->weights, &weights)));
    lk_status status = LK_OK;
    if (job->predictions && comm->rank == 0)
        status = lk_predictions_check(io, job->predictions, job->overwrite);
    LK_TRY(lk_comm_agree(comm, status));
    LK_TRY(lk_trained_open(comm, io, job->checkpoint, job->device, weights, &e.model));
    status = score(&e, &found);
    found.kind = e.model.info.kind;
    found.ema = e.model.ema;
    if (e.data && !lk_dataset_retried(e.data, found.warning, sizeof found.warning))
        snprintf(found.warning, sizeof found.warning, "%s", e.data->warning);
    lk_forward_close(&e.model, &e.forward);
    lk_dataset_close(e.data);
    lk_trained_close(&e.model);
    if (status == LK_OK) *result = found;
    else lk_evaluation_clear(&found);
    return status;
}

void lk_evaluation_clear(lk_evaluation *e)
{
    for (int64_t i = 0; e->name && i < e->classes; i++) free(e->name[i]);
    free(e->name);
    free(e->images);
    free(e->right);
    free(e->confusion);
    lk_drift_report_clear(&e->drift);
    memset(e, 0, sizeof *e);
}
