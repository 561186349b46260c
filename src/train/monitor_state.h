/* What the files of the monitor share. Not for others: monitor.h. */
#ifndef LK_TRAIN_MONITOR_STATE_H
#define LK_TRAIN_MONITOR_STATE_H

#include "metric/drift_prometheus.h"
#include "metric/histogram.h"
#include "metric/outlier.h"
#include "metric/run_log.h"
#include "metric/tensorboard.h"
#include "train/monitor.h"

enum {
    LK_MONITOR_FLIGHT = 8, /* steps in flight at most, rounded up */
    LK_MONITOR_SUSPECTS = 3,
    LK_MONITOR_RECENT = 100 /* steps of which skipped ones are counted */
};

typedef enum lk_warning {
    LK_WARN_LOSS,
    LK_WARN_GRADIENT,
    LK_WARN_RANK,
    LK_WARN_FINITE,
    LK_WARN_SKIPPED,
    LK_WARNINGS
} lk_warning;

struct lk_monitor {
    lk_monitor_options o;
    bool writes; /* rank 0 */
    bool at_once; /* the device has done a step when it is enqueued */
    lk_run_log *log;
    lk_tensorboard *tensorboard;
    char *prometheus;
    lk_drift_prometheus drift; /* what it says of drift, the same throughout the run */
    double opened; /* lk_clock_seconds() */
    double flushed, flushed_scalars, exported, memory_read; /* when last */

    /* steps in flight */
    struct {
        double begun, wait, enqueued;
        bool prepares; /* what later steps replay: in no distribution of times */
    } flight[LK_MONITOR_FLIGHT];
    bool prepares;    /* the next step to begin */
    double completed; /* when the step before was */
    double waited;    /* of the comm, when the step being enqueued began */

    /* since the last record of a step; of this start */
    double span, span_wait;
    int64_t span_steps;
    lk_window recent;
    lk_histogram all;
    double data_wait; /* seconds */
    double first;     /* seconds of the first step of this start */

    /* this rank since the last gathering */
    double work, rank_wait;
    int64_t rank_steps;
    char (*host)[64]; /* of each rank; rank 0 */
    bool *slow;       /* ranks already named; rank 0 */
    int suspect[LK_MONITOR_SUSPECTS]; /* slow rank by each figure of the last gathering, or -1 */
    double *gathered; /* 8 for each rank: its figures, and room to sort one of them */

    /* what monitor_judge.c has seen of the steps so far */
    lk_outlier loss, norm;
    bool not_finite;                       /* the last step was */
    unsigned char skip[LK_MONITOR_RECENT]; /* by step modulo their number */
    int skips, skips_in_row;
    bool skips_many;

    int64_t warned[LK_WARNINGS];
    lk_step_state last;
    uint64_t validated; /* step; 0: none */
    lk_validation validation;
    double best, host_peak; /* bytes */
    bool tracing;           /* the peak is not read */
    double trace_peak;      /* resident size at most when the last trace ended, bytes */
};

/* Time of day, seconds since 1970. */
/* The distribution of step times as JSON, milliseconds. */
json_t *lk_monitor_times(const lk_histogram *h, double mean);
void lk_monitor_event(lk_monitor *m, const char *event, uint64_t step, json_t *more);
/* "DIRECTORY/name", malloc'ed. */
lk_status lk_monitor_path(const lk_monitor *m, const char *name, char **path);
void lk_monitor_read_memory(lk_monitor *m); /* the peak of this process */
const char *lk_monitor_warning_name(lk_warning kind);
/* Say and log it; more: members of the event. */
void lk_monitor_warn(lk_monitor *m, lk_warning kind, uint64_t step, const char *text, json_t *more);
/* Warn of what stands out in a step; replay: take in what earlier starts have seen, without a word
 * about it. */
void lk_monitor_judge(lk_monitor *m, const lk_step_state *s);
lk_status lk_monitor_replay(lk_monitor *m);
void lk_monitor_log_start(lk_monitor *m);
void lk_monitor_log_step(lk_monitor *m);
void lk_monitor_log_validation(lk_monitor *m, double seconds);
lk_status lk_monitor_export(lk_monitor *m); /* to Prometheus */
/* A file failed: say it once, forget the file. */
void lk_monitor_give_up(lk_monitor *m, lk_status status);

#endif
