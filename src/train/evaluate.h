/* What scoring text and scoring images share. Private to the evaluate*.c files. */
#ifndef LK_TRAIN_EVALUATE_H
#define LK_TRAIN_EVALUATE_H

#include "io/dataset.h"
#include "io/predictions.h"
#include "train/train.h"
#include "train/trained.h"

typedef struct lk_evaluator {
    lk_comm *comm;
    lk_io *io;
    const lk_scoring *job;
    lk_trained model;
    lk_forward forward;
    lk_dataset *data;
} lk_evaluator;

/* Score the whole validation split on an opened model and dataset of its kind; fills *result and
 * writes the predictions if wanted. Collective. */
lk_status lk_evaluate_text(lk_evaluator *e, lk_evaluation *result);
lk_status lk_evaluate_images(lk_evaluator *e, lk_evaluation *result);

/* Cross-entropy of a row of `count` logits at `target` in nats; *best: the largest, the first of
 * equals; *probability (may be NULL): of it. */
double lk_evaluate_row(const float *row, int64_t count, int64_t target, int64_t *best,
                       double *probability);
/* Predictions of rank 0 to the job's file; collective. */
lk_status lk_evaluate_write(lk_evaluator *e, lk_predictions *p);

#endif
