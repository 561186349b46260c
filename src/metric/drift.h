/* Input drift: how far the distribution of new data is from that of the training data.
 *
 * A reference holds, for each feature (a column, a channel, the tokens, the labels), counts of the
 * training split in bins. It is made at import, kept as JSON text in the dataset file and in
 * checkpoints (attribute `reference`), and compared with counts in the same bins. With shares p of
 * the reference and q of the new data,
 *   PSI = sum (q - p) ln(q / p),  KL = KL(q || p) = sum q ln(q / p), nats,
 * after 1/2 is added to every count (Krichevsky, Trofimov 1981), so that an empty bin gives a
 * finite figure. Without any drift the PSI of few samples is not 0: PSI / (1/n + 1/m) is about
 * chi-square with bins - 1 degrees (B. Yurdakul, J. Naranjo 2020), and `noise` is what it stays
 * below with a probability of 0.9999. The usual reading of PSI: below 0.1 no drift, above 0.2 or
 * 0.25 a clear one. */
#ifndef LK_METRIC_DRIFT_H
#define LK_METRIC_DRIFT_H

#include "base/status.h"
#include "metric/columns.h"

enum { LK_DRIFT_GROUPS = 20, LK_DRIFT_COLUMNS = 256 }; /* bins of a column; columns at most */
enum { LK_DRIFT_TOKENS = 64 }; /* tokens counted as one independent sample: text is bursty */
static inline int64_t lk_drift_samples(int64_t tokens)
{
    return (tokens + LK_DRIFT_TOKENS - 1) / LK_DRIFT_TOKENS;
}
#define LK_DRIFT_PSI 0.2 /* the threshold where nothing is said */

typedef struct lk_reference_feature {
    char *name;    /* "label", "tokens", "channel 0", or that of the column */
    int64_t bins;
    int64_t *count; /* [bins] */
    bool ordered;   /* neighbouring bins are alike: values, not names */
    uint16_t *last; /* columns: the last sketch bin of each bin; NULL for others */
    lk_sketch_scale scale;
} lk_reference_feature;

typedef struct lk_reference {
    int64_t samples; /* of the training split; of a text lk_drift_samples() */
    int64_t features;
    lk_reference_feature *feature;
} lk_reference;

void lk_reference_clear(lk_reference *r); /* takes a zeroed one */
/* Append features; what is given is copied. */
lk_status lk_reference_add(lk_reference *r, const char *name, int64_t bins, const int64_t *count,
                           bool ordered);
/* A column: about LK_DRIFT_GROUPS groups of equal counts from its sketch; of one value: that, what
 * is below it and what is above. */
lk_status lk_reference_add_column(lk_reference *r, const char *name, lk_sketch_scale scale,
                                  const int64_t bin[LK_SKETCH_BINS]);
/* Values 0..255 of channel `channel`: "channel 0". */
lk_status lk_reference_add_channel(lk_reference *r, int channel, const int64_t count[256]);

/* As JSON, malloc'ed. */
lk_status lk_reference_format(const lk_reference *r, char **text);
/* LK_E_INPUT, naming `where`: not a reference. */
lk_status lk_reference_parse(const char *where, const char *text, lk_reference *r);

typedef struct lk_drift {
    double psi, kl, noise;
} lk_drift;
/* Counts [bins] of `samples` samples against a feature of a reference of `before` samples; fewer
 * than one are taken for one. Values of a channel are first joined to at most LK_DRIFT_GROUPS.
 * Both counts zero: all 0. */
lk_status lk_drift_of(const lk_reference_feature *f, int64_t before, const int64_t *count,
                      int64_t samples, lk_drift *drift);
/* Whether a figure is drift: above the threshold and above the noise. */
static inline bool lk_drift_found(const lk_drift *d, double threshold)
{
    return d->psi > threshold && d->psi > d->noise;
}

/* Every feature of some data, and the whole. For whoever shows or exports them. */
typedef struct lk_drift_feature {
    char *name;
    lk_drift drift;
} lk_drift_feature;
typedef struct lk_drift_report {
    int64_t features;
    lk_drift_feature *feature;
    double psi, kl;  /* means over features */
    int64_t worst;   /* of the largest PSI; -1: no features */
    int64_t drifted; /* features above the threshold */
    double threshold;
} lk_drift_report;
void lk_drift_report_clear(lk_drift_report *r); /* takes a zeroed one */
/* Append a feature and bring the figures of the whole up to date; r->threshold is set before. */
lk_status lk_drift_report_add(lk_drift_report *r, const char *name, const lk_drift *d);

#endif
