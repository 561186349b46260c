/* Private to the check*.c files: what a check works with. */
#ifndef LK_CHECK_JOB_H
#define LK_CHECK_JOB_H

#include "io/blocks.h"
#include "io/reference.h"
#include "metric/columns.h"
#include "check/check.h"

/* Rows in which something is wrong: how many, and the first. */
typedef struct lk_bad_rows {
    int64_t count, row[LK_FAULT_ROWS];
} lk_bad_rows;
#define LK_NO_BAD_ROWS {0, {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}}

/* Whole-number counts of a split: of a thread, of a rank, of all. */
typedef struct lk_counts {
    int64_t *label;            /* [classes]; text: [vocabulary] */
    int64_t *pixel;            /* images: [channels, 256] */
    int64_t *pair;             /* text: [vocabulary, vocabulary], or NULL */
    int64_t *reference;        /* tables: [features of the reference, LK_DRIFT_GROUPS] */
    lk_scan scan;              /* tables; images: of the features */
    lk_bad_rows label_rows, constant_rows;
    int64_t samples;           /* given for duplicates */
} lk_counts;

/* The records of a block. */
typedef struct lk_record_list {
    lk_sample_record *record;
    int64_t count, room;
} lk_record_list;

typedef struct lk_check_worker {
    lk_counts counts;
    lk_columns_counts columns;
    float *derived; /* images: [rows of a block, features] */
    bool failed;    /* out of memory */
} lk_check_worker;

typedef struct lk_checker {
    lk_comm *comm;
    lk_io *io;
    const lk_check_job *job;
    int level;     /* 0: only what drift needs */
    bool judging;  /* else nothing is looked for, only counted */
    bool split[2]; /* which are looked at */
    bool damaged;  /* rows that cannot be read: what was counted is of a part */
    lk_check_report *report;
    lk_dataset *data;
    lk_blocks *blocks;
    lk_duplicates *twins;
    const struct lk_check_kind *kind;
    int threads;
    lk_check_worker *worker; /* [threads] */
    lk_record_list *list;    /* [blocks at once] */
    lk_counts total[2];      /* by split, of all ranks */
    /* level 3 */
    int64_t features;
    lk_columns_plan plan;
    int64_t *bin[2], *joint; /* bin by split; joint: of train */
    double *product[LK_BLOCK_LANES]; /* of train; those of this rank's lanes */
    /* drift */
    bool comparing, compared[2]; /* compared: by split */
    lk_reference_source source; /* what is compared with */
    lk_reference reference;
    int64_t *column;            /* tables: of each feature of the reference; -1: none */
    uint8_t *group;             /* tables: [features of the reference, LK_SKETCH_BINS] */
    int passage_bits;           /* text: one passage in 2^bits is looked at */
} lk_checker;

/* What differs between kinds of data. */
typedef struct lk_check_kind {
    int64_t extra; /* rows read after a block */
    int64_t (*features)(const lk_checker *c); /* of level 3 */
    /* Rows of a sample to plan with, as features. */
    void (*derive)(const lk_checker *c, const void *rows, int64_t count, float *out);
    void (*block)(lk_checker *c, lk_check_worker *w, lk_split split, const lk_block *b,
                  lk_record_list *list);
    lk_status (*judge)(lk_checker *c);
    lk_status (*describe)(lk_checker *c); /* level 3: fill the report's features */
} lk_check_kind;
extern const lk_check_kind lk_check_table, lk_check_images, lk_check_text;

/* check.c: one pass over the splits that are looked at. */
lk_status lk_check_survey(lk_checker *c);
/* After a failure of all ranks with LK_E_INPUT that they go on from: its text; it is forgotten. */
void lk_check_forgive(lk_checker *c, char text[1024]);
void lk_checker_close(lk_checker *c);

/* counts.c */
lk_status lk_counts_create(const lk_checker *c, lk_counts *n);
void lk_counts_destroy(lk_counts *n);
void lk_counts_merge(const lk_checker *c, lk_counts *to, const lk_counts *from);
void lk_counts_reset(const lk_checker *c, lk_counts *n);
lk_status lk_counts_reduce(lk_checker *c, lk_counts *n); /* over ranks */
void lk_bad_rows_note(lk_bad_rows *b, int64_t row);
/* Count a block's labels; those that are no class go to label_rows. */
void lk_counts_labels(const lk_checker *c, lk_counts *n, const lk_block *b);
/* A record for each row of field 0. */
void lk_check_records(const lk_checker *c, lk_split split, const lk_block *b,
                      lk_record_list *list);
bool lk_record_list_room(lk_record_list *list, int64_t records);
int64_t lk_check_classes(const lk_checker *c); /* or the size of the vocabulary */

/* judge.c: findings. `format` is the text without the split. */
lk_status lk_check_find(lk_checker *c, lk_severity severity, const char *code, int split,
                        const char *feature, int64_t count, const int64_t *row,
                        const char *format, ...) __attribute__((format(printf, 8, 9)));
lk_status lk_check_judge(lk_checker *c); /* what all kinds have, then sort */
/* Level 3 from the columns: moments, quantiles, correlations, leaks. `name(c, i, text)` names
 * feature i. features.c */
lk_status lk_check_describe_columns(lk_checker *c,
                                    void (*name)(const lk_checker *c, int64_t i, char text[64]));
lk_status lk_check_judge_features(lk_checker *c);

/* drift.c */
lk_status lk_check_reference_open(lk_checker *c, const char *path, bool demanded);
/* The reference that the dataset itself keeps, if it has one, for its validation split. One that
 * cannot be used is a finding. */
lk_status lk_check_reference_own(lk_checker *c);
void lk_check_reference_block(const lk_checker *c, lk_counts *n, const float *x, int64_t rows);
lk_status lk_check_judge_drift(lk_checker *c);
/* The distribution of the training split that was surveyed. */
lk_status lk_check_reference_make(const lk_checker *c, lk_reference *r);

#endif
