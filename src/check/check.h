/* Is a dataset fit for training? `lockstep check`, and what `train` and `eval` do of it.
 *
 * Level 1, integrity: digests, values that are no numbers or no class, constant columns and images,
 * samples that are there twice, validation samples that are in train. Level 2, labels: counts, rare
 * and missing classes, entropy. Level 3, features: moments, quantiles and histograms of the
 * training split, correlations, and features that give the label away. With a reference: drift.
 * One streaming pass over each split, shared by ranks and threads, in memory that does not grow
 * with the data; every figure is the same to the last bit on any number of ranks and threads.
 *
 * What the kinds of data are looked at for:
 *   tables  samples are rows, features the columns (levels 2 and 3: the first
 *           LK_CHECK_COLUMNS)
 *   images  samples are images; features are the channels (figures of their values) and, for
 *           correlation and leakage, the mean of each channel of an image and of each cell of a
 *           4 x 4 grid over it. Neighbouring cells of natural images are alike: pairs are shown,
 *           but only channels that are copies of each other are a warning
 *   text    tokens are the labels. Samples for duplicates and overlap are all passages of
 *           LK_CHECK_PASSAGE tokens wherever they begin (K. Lee et al., ACL 2022, do so with the
 *           same length), or in a long text those of them that a hash of the passage picks, so that
 *           about a million are looked at; a copy that is shifted is found too */
#ifndef LK_CHECK_CHECK_H
#define LK_CHECK_CHECK_H

#include "comm/comm.h"
#include "io/dataset.h"
#include "io/duplicates.h"
#include "metric/drift.h"

#include <stdio.h>

enum { LK_CHECK_COLUMNS = 256, LK_CHECK_PASSAGE = 50, LK_CHECK_QUANTILES = 7, LK_CHECK_BARS = 32 };
extern const double lk_check_quantile[LK_CHECK_QUANTILES]; /* 0.01 0.05 0.25 0.5 0.75 0.95 0.99 */

/* The verdict is that of the worst finding: a note changes nothing. These are the exit codes. */
typedef enum lk_severity { LK_NOTE = 0, LK_WARNING = 1, LK_UNFIT = 2 } lk_severity;
const char *lk_severity_name(lk_severity s); /* "note", "warning", "unfit" */

typedef struct lk_check_job {
    const char *data;
    int level;              /* 1 to 3 */
    int64_t min_samples;    /* of the training split (tokens of a text) */
    bool demanded;          /* fewer are unfit, not a warning */
    double min_share;       /* of an equal share: below it a class is rare */
    double correlation;     /* |r| above it is a warning */
    double leak;            /* a feature that tells this share of the label's entropy leaks it */
    const char *against;    /* dataset, checkpoint or run directory to compare with; NULL: the
                               validation split is compared with what the dataset itself keeps
                               of its training split */
    double psi;             /* threshold of drift */
    const char *temporary;  /* directory for temporary files */
} lk_check_job;
lk_check_job lk_check_defaults(void); /* level 3, thresholds; no data */

typedef struct lk_finding {
    lk_severity severity;
    const char *code; /* "digest", "missing", "samples", "nan", "infinite", "huge", "constant",
                         "label", "token", "damaged", "duplicates", "conflicts", "overlap", "class",
                         "one class", "rare", "unseen", "correlation", "leak", "drift",
                         "reference", "columns" */
    char *feature;    /* column, channel or class; NULL: none */
    int split;        /* lk_split; -1: both, or neither */
    int64_t count;
    int64_t row[LK_FAULT_ROWS]; /* the first ones, of the split; INT64_MAX: no more */
    char *text;       /* one line for people */
} lk_finding;

/* Of the training split. */
typedef struct lk_check_feature {
    char *name;
    double mean, deviation, low, high; /* NAN: no values; deviation: n-1 */
    double quantile[LK_CHECK_QUANTILES];
    double bar[LK_CHECK_BARS]; /* values in equal parts of [low, high] */
    double leak;               /* share of the label's entropy that it tells; NAN: not looked at */
} lk_check_feature;

typedef struct lk_check_pair {
    int64_t a, b; /* features, a < b */
    double r;
} lk_check_pair;

typedef struct lk_check_report {
    char *path;
    lk_dataset_kind kind;
    char digest[33];
    int level;
    lk_severity verdict;
    int64_t rows[2];    /* by lk_split: samples, or tokens */
    int64_t samples[2]; /* looked at for duplicates: rows, or passages */
    lk_duplicates_result twins;
    /* level 2; classes, or tokens */
    int64_t classes;
    char **class_name;
    int64_t *labels[2];
    double entropy, pair_entropy; /* bits, of train; pair: of a token when the one before is known;
                                     NAN: not looked at */
    /* level 3 */
    int64_t features;
    lk_check_feature *feature;
    double *correlation; /* [features, features], NAN: not defined; NULL for text */
    int64_t pairs;
    lk_check_pair *pair; /* |r| above the threshold, the largest first */
    char *against;            /* what was asked to compare with; NULL: nothing */
    lk_drift_report drift[2]; /* by lk_split, each from the training split of the reference;
                                 no features: not compared */
    int64_t findings;
    lk_finding *finding; /* the worst first */
} lk_check_report;
void lk_check_report_clear(lk_check_report *r); /* takes a zeroed one */

/* Collective; every rank gets the whole report. LK_E_INPUT: no dataset, or no reference that it can
 * be compared with. Data that is unfit is not an error. */
lk_status lk_check(lk_comm *comm, lk_io *io, const lk_check_job *job, lk_check_report *report);
/* The same for an open dataset. */
lk_status lk_check_dataset(lk_comm *comm, lk_io *io, lk_dataset *d, const lk_check_job *job,
                           lk_check_report *report);
/* Drift alone, of one split of an open dataset against a dataset, checkpoint or run directory.
 * *found false: it holds no reference to compare with. Collective. src/check/drift.c */
lk_status lk_check_drift(lk_comm *comm, lk_io *io, lk_dataset *d, lk_split split,
                         const char *against, double threshold, bool *found,
                         lk_drift_report *report);

/* The report for people; utf8: `out` shows more than ASCII. src/check/print.c */
void lk_check_print(const lk_check_report *r, bool utf8, FILE *out);

/* JSON for machines, without anything that depends on time, ranks or machine; malloc'ed.
 * src/check/json.c */
lk_status lk_check_format(const lk_check_report *r, char **text);

/* The report as a page that stands alone. LK_E_INPUT, LK_E_SYSTEM: as lk_html_open() and
 * lk_html_close(). src/check/html.c */
lk_status lk_check_page(const lk_check_report *r, const char *path);

/* Level 1 of data that a run has not seen. What was found is kept as JSON, in FILE.check.json
 * beside the data file or, where that cannot be written, in DIRECTORY/check.json, with digest, size
 * and time of the file: as long as these are the same the data is not looked at again. The run
 * directory need not exist yet: then *unkept gets the text (malloc'ed, on rank 0) for
 * lk_check_keep(). *drift, on rank 0: of the validation split from the training split; without
 * features where the dataset is older than references. Free with lk_drift_report_clear().
 * LK_E_INPUT: unfit; that is not kept. `say` gets warnings, on rank 0. Collective.
 * src/check/cache.c */
lk_status lk_check_unseen(lk_comm *comm, lk_io *io, lk_dataset *d, const char *directory,
                          void (*say)(void *context, const char *line), void *context,
                          char **unkept, lk_drift_report *drift);
/* Write it to DIRECTORY/check.json; takes NULL. A failure costs a check the next time, no more. */
void lk_check_keep(const char *directory, const char *text);

#endif
