/* Metrics in Prometheus' text format 0.0.4, for node_exporter's textfile collector: point its
 * --collector.textfile.directory at the directory of the file, whose name must end in .prom. */
#ifndef LK_METRIC_PROMETHEUS_H
#define LK_METRIC_PROMETHEUS_H

#include "base/status.h"

/* One sample. Samples of a family follow each other; help and type are those of its first. */
typedef struct lk_prometheus_sample {
    const char *family; /* with its unit: lockstep_step_duration_seconds, lockstep_steps_total */
    const char *type;   /* gauge | counter | summary */
    const char *help;
    const char *suffix; /* after the family: "_sum", "_count"; NULL: none */
    const char *labels; /* name="value",... by lk_prometheus_label(); NULL: none */
    double value;       /* NAN: this sample is left out */
} lk_prometheus_sample;

/* Write all to PATH at once: beside it, then renamed, so that no reader sees half of it.
 * LK_E_SYSTEM: it cannot be written; an earlier PATH stays. */
lk_status lk_prometheus_write(const char *path, const lk_prometheus_sample *metric, int count);

/* name="value", escaped, after what is in `labels` (size bytes) already. Cut where it does not
 * fit, at a whole label. Returns labels. */
char *lk_prometheus_label(char *labels, int size, const char *name, const char *value);

#endif
