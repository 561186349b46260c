/* Drift for Prometheus. */
#include "metric/drift.h"
#include "metric/prometheus.h"

#include <stdlib.h>

enum { LABELS = 640 };

typedef struct table {
    lk_prometheus_sample *sample;
    int count;
    char (*labels)[LABELS]; /* of each sample */
    const char *data;
} table;

static void add(table *t, const char *family, const char *help, const char *feature, double value)
{
    char *labels = t->labels[t->count];
    labels[0] = '\0';
    lk_prometheus_label(labels, LABELS, "data", t->data);
    if (feature) lk_prometheus_label(labels, LABELS, "feature", feature);
    t->sample[t->count++] = (lk_prometheus_sample){family, "gauge", help, NULL, labels, value};
}

lk_status lk_drift_prometheus(const lk_drift_report *r, const char *data, const char *path)
{
    size_t n = 2 * (size_t)r->features + 4;
    table t = {.sample = malloc(n * sizeof *t.sample), .labels = malloc(n * sizeof *t.labels),
               .data = data};
    lk_status status = LK_OK;
    if (t.sample && t.labels) {
        for (int64_t i = 0; i < r->features; i++)
            add(&t, "lockstep_drift_psi", "Population stability index of a feature.",
                r->feature[i].name, r->feature[i].drift.psi);
        for (int64_t i = 0; i < r->features; i++)
            add(&t, "lockstep_drift_kl_nats", "Kullback-Leibler divergence from the reference.",
                r->feature[i].name, r->feature[i].drift.kl);
        add(&t, "lockstep_drift_psi_mean", "Mean over features.", NULL, r->psi);
        add(&t, "lockstep_drift_kl_mean_nats", "Mean over features.", NULL, r->kl);
        add(&t, "lockstep_drift_psi_threshold", "Above it a feature has drifted.", NULL,
            r->threshold);
        add(&t, "lockstep_drift_features", "Features that have drifted.", NULL,
            (double)r->drifted);
        status = lk_prometheus_write(path, t.sample, t.count);
    } else {
        status = lk_fail(LK_E_SYSTEM, "out of memory");
    }
    free(t.sample);
    free(t.labels);
    return status;
}
