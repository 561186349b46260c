/* Drift for Prometheus: for every feature lockstep_drift_psi, lockstep_drift_kl_nats and
 * lockstep_drift_noise_psi (what its PSI stays below by chance), over all features their means and
 * how many have drifted. Each sample has the label `split`, those of a feature `feature`. */
#ifndef LK_METRIC_DRIFT_PROMETHEUS_H
#define LK_METRIC_DRIFT_PROMETHEUS_H

#include "metric/drift.h"
#include "metric/prometheus.h"

typedef struct lk_drift_part {
    const char *split;
    const lk_drift_report *report; /* without features: left out */
} lk_drift_part;

typedef struct lk_drift_prometheus {
    int count;
    lk_prometheus_sample *sample; /* [count] */
    char (*text)[640];            /* the labels of each */
} lk_drift_prometheus;

/* `labels`: those that each sample begins with, by lk_prometheus_label(). */
lk_status lk_drift_prometheus_create(const lk_drift_part *part, int parts, const char *labels,
                                     lk_drift_prometheus *p);
void lk_drift_prometheus_clear(lk_drift_prometheus *p); /* takes a zeroed one */
/* Alone in a file, with the label `data`: what was compared. As lk_prometheus_write(). */
lk_status lk_drift_prometheus_write(const lk_drift_part *part, int parts, const char *data,
                                    const char *path);

#endif
