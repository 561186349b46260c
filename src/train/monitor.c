/* The clocks around the steps of a run. */
#include "train/monitor_state.h"

#include "base/clock.h"
#include "base/replace.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define EXPORT_EVERY 5.0 /* seconds */

/* ---- opening --------------------------------------------------------------------------------- */

lk_status lk_monitor_path(const lk_monitor *m, const char *name, char **path)
{
    if (asprintf(path, "%s/%s", m->o.run->directory, name) >= 0) return LK_OK;
    *path = NULL;
    return lk_fail(LK_E_SYSTEM, "out of memory");
}

/* A resumed run's earlier run log is cut back even if this start keeps none. */
static lk_status open_run_log(lk_monitor *m)
{
    char *path;
    LK_TRY(lk_monitor_path(m, "run.jsonl", &path));
    FILE *old = m->o.run->log.run_log ? NULL : fopen(path, "r");
    lk_status status = LK_OK;
    if (m->o.run->log.run_log || old) status = lk_run_log_open(path, m->o.start, &m->log);
    if (old) {
        fclose(old);
        lk_run_log_close(m->log);
        m->log = NULL;
    }
    free(path);
    return status;
}

static lk_status open_tensorboard(lk_monitor *m)
{
    char *path;
    if (!m->o.run->log.tensorboard) return LK_OK;
    LK_TRY(lk_monitor_path(m, "tensorboard", &path));
    lk_status status = lk_tensorboard_open(path, m->o.start + 1, &m->tensorboard);
    free(path);
    return status;
}

static lk_status open_drift(lk_monitor *m)
{
    char run[480] = "";
    lk_drift_part part = {"validation", m->o.drift};
    if (!m->o.drift || m->o.drift->features == 0) return LK_OK;
    lk_prometheus_label(run, sizeof run, "run", m->o.run->directory);
    return lk_drift_prometheus_create(&part, 1, run, &m->drift);
}

/* Metrics in a place of their own: the path, else NULL. */
static const char *prometheus_path(const lk_run *run)
{
    const char *where = run->log.prometheus;
    return strcmp(where, "true") == 0 || strcmp(where, "false") == 0 ? NULL : where;
}

lk_status lk_monitor_check(const lk_run *run)
{
    const char *where = prometheus_path(run);
    size_t n = strlen(run->directory);
    bool inside = where && strncmp(where, run->directory, n) == 0 && where[n] == '/';
    if (!where || (inside && access(where, F_OK) != 0)) return LK_OK; /* the run makes it */
    lk_status status = lk_replace_check(where, LK_BEGINS_METRICS);
    return status == LK_OK ? LK_OK : lk_fail_prefix(status, "'log.prometheus'");
}

static lk_status open_prometheus(lk_monitor *m)
{
    const char *where = m->o.run->log.prometheus;
    if (strcmp(where, "false") == 0) return LK_OK;
    if (!prometheus_path(m->o.run))
        LK_TRY(lk_monitor_path(m, "metrics.prom", &m->prometheus));
    else m->prometheus = strdup(where);
    if (!m->prometheus) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(open_drift(m));
    lk_status status = lk_monitor_export(m);
    return status == LK_OK ? LK_OK
                           : lk_fail_prefix(LK_E_INPUT, "'log.prometheus': expected a file that "
                                                        "can be written, or true or false; check "
                                                        "its directory");
}

static lk_status allocate(lk_monitor *m)
{
    size_t ranks = (size_t)m->o.comm->size;
    m->gathered = calloc(ranks * 8, sizeof *m->gathered);
    m->host = calloc(ranks, sizeof *m->host);
    m->slow = calloc(ranks, sizeof *m->slow);
    if (!m->gathered || !m->host || !m->slow) return lk_fail(LK_E_SYSTEM, "out of memory");
    if (!m->writes) return LK_OK;
    LK_TRY(lk_outlier_open(&m->loss, (int)m->o.run->log.outlier_window));
    return lk_outlier_open(&m->norm, (int)m->o.run->log.outlier_window);
}

/* Largest resident size of this process so far, bytes. */
static double resident_peak(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? 1024.0 * (double)u.ru_maxrss : 0;
}

void lk_monitor_read_memory(lk_monitor *m)
{
    double peak = resident_peak();
    if (!m->tracing && peak > m->trace_peak) m->host_peak = peak;
}

static lk_status set_up(lk_monitor *m)
{
    LK_TRY(allocate(m));
    if (!m->writes) return LK_OK;
    lk_monitor_read_memory(m);
    m->last.step = m->o.start;
    LK_TRY(lk_monitor_replay(m));
    LK_TRY(open_run_log(m));
    LK_TRY(open_tensorboard(m));
    LK_TRY(open_prometheus(m));
    lk_monitor_log_start(m);
    return LK_OK;
}

static void destroy(lk_monitor *m)
{
    lk_run_log_close(m->log);
    lk_tensorboard_close(m->tensorboard);
    lk_outlier_close(&m->loss);
    lk_outlier_close(&m->norm);
    free(m->prometheus);
    lk_drift_prometheus_clear(&m->drift);
    free(m->gathered);
    free(m->host);
    free(m->slow);
    free(m);
}

lk_status lk_monitor_open(const lk_monitor_options *o, lk_monitor **out)
{
    lk_monitor *m = calloc(1, sizeof *m);
    if (!m) return lk_fail(LK_E_SYSTEM, "out of memory");
    m->o = *o;
    m->writes = o->comm->rank == 0;
    m->at_once = !o->device->backend->capture_begin;
    m->opened = m->flushed = m->exported = lk_clock_seconds();
    m->best = INFINITY;
    m->first = NAN;
    m->prepares = true; /* the first step */
    for (int i = 0; i < LK_MONITOR_SUSPECTS; i++) m->suspect[i] = -1;
    lk_status status = set_up(m);
    if (status != LK_OK) {
        destroy(m);
        return status;
    }
    *out = m;
    return LK_OK;
}

/* ---- steps ----------------------------------------------------------------------------------- */

void lk_monitor_begin(lk_monitor *m, uint64_t step)
{
    int i = (int)(step % LK_MONITOR_FLIGHT);
    m->flight[i].begun = lk_clock_seconds();
    m->flight[i].prepares = m->prepares;
    m->prepares = false;
    m->waited = m->o.comm->waited;
}

void lk_monitor_fed(lk_monitor *m, uint64_t step)
{
    int i = (int)(step % LK_MONITOR_FLIGHT);
    m->flight[i].wait = lk_clock_seconds() - m->flight[i].begun;
    m->rank_wait += m->flight[i].wait;
}

void lk_monitor_enqueued(lk_monitor *m, uint64_t step)
{
    int i = (int)(step % LK_MONITOR_FLIGHT);
    m->flight[i].enqueued = lk_clock_seconds();
    if (m->flight[i].prepares) return;
    m->work += m->flight[i].enqueued - m->flight[i].begun - (m->o.comm->waited - m->waited);
    m->rank_steps++;
}

/* How long the step took that is done: since the one before was, or since it was begun. */
static void measure(lk_monitor *m, uint64_t step)
{
    int i = (int)(step % LK_MONITOR_FLIGHT);
    double done = m->at_once ? m->flight[i].enqueued : lk_clock_seconds();
    double seconds = done - fmax(m->completed, m->flight[i].begun);
    m->completed = done;
    m->data_wait += m->flight[i].wait;
    m->span_wait += m->flight[i].wait;
    m->span += seconds;
    m->span_steps++;
    if (step == m->o.start) m->first = seconds;
    if (m->flight[i].prepares) return;
    lk_window_add(&m->recent, seconds);
    lk_histogram_add(&m->all, seconds);
}

void lk_monitor_step(lk_monitor *m, const lk_step_state *s)
{
    if (!m->writes) return;
    measure(m, s->step - 1);
    m->last = *s;
    double now = m->completed;
    if (now - m->memory_read > 0.5) {
        lk_monitor_read_memory(m);
        m->memory_read = now;
    }
    lk_monitor_judge(m, s);
    uint64_t every = (uint64_t)m->o.run->log.steps;
    bool edge = s->step == m->o.start + 1 || s->step == (uint64_t)m->o.run->train.steps;
    if (s->step % every == 0 || edge) lk_monitor_log_step(m);
    if (!m->prometheus || now - m->exported < EXPORT_EVERY) return;
    m->exported = now;
    lk_status status = lk_monitor_export(m);
    if (status == LK_OK) return;
    lk_monitor_give_up(m, status);
    free(m->prometheus);
    lk_drift_prometheus_clear(&m->drift);
    m->prometheus = NULL;
}

double lk_monitor_pace(const lk_monitor *m)
{
    return m->all.count > 0 ? m->all.sum / (double)m->all.count : m->first;
}

/* ---- pauses ---------------------------------------------------------------------------------- */

void lk_monitor_validation(lk_monitor *m, uint64_t step, const lk_validation *v, double best,
                           double seconds)
{
    if (!m->writes) return;
    m->validation = *v;
    m->validated = step;
    m->best = best;
    lk_monitor_log_validation(m, seconds);
}

void lk_monitor_save(lk_monitor *m, const lk_checkpoint_figures *f)
{
    if (!m || !m->writes) return;
    lk_monitor_event(m, "save", m->last.step,
                     json_pack("{s:s, s:I, s:I, s:o}", "file", f->path, "of_step",
                               (json_int_t)f->step, "bytes", (json_int_t)f->bytes, "seconds",
                               lk_run_log_real(f->seconds)));
}

void lk_monitor_trace_begins(lk_monitor *m)
{
    lk_monitor_read_memory(m);
    m->tracing = true;
    m->prepares |= !m->at_once;
}

void lk_monitor_trace_ended(lk_monitor *m, const lk_traced *t)
{
    m->tracing = false;
    m->trace_peak = resident_peak();
    m->prepares |= !m->at_once;
    if (m->writes)
        lk_monitor_event(m, "trace", t->last,
                         json_pack("{s:s, s:I, s:I, s:o}", "file", t->path, "first",
                                   (json_int_t)t->first, "last", (json_int_t)t->last, "seconds",
                                   lk_run_log_real(t->seconds)));
}

/* ---- the end --------------------------------------------------------------------------------- */

static void log_end(lk_monitor *m, lk_status status, const char *failure, const char *stopped)
{
    bool done = m->last.step == (uint64_t)m->o.run->train.steps;
    bool planned = m->last.step == (uint64_t)m->o.run->train.stop_after;
    double mean = m->all.count ? m->all.sum / (double)m->all.count : NAN;
    const char *how = status != LK_OK ? "failed" : done ? "done" : "stopped", *why = NULL;
    if (status != LK_OK) why = failure;
    else if (!done && stopped && stopped[0]) why = stopped;
    else if (!done && planned) why = "train.stop_after";
    lk_monitor_event(m, "end", m->last.step,
                     json_pack("{s:s, s:s*, s:I, s:o, s:o, s:o, s:I, s:o}", "how", how, "why", why,
                               "steps", (json_int_t)(m->last.step - m->o.start), "seconds",
                               lk_run_log_real(lk_clock_seconds() - m->opened), "step_ms",
                               lk_monitor_times(&m->all, mean), "data_wait_seconds",
                               lk_run_log_real(m->data_wait), "skipped",
                               (json_int_t)m->last.skipped, "best", lk_run_log_real(m->best)));
}

/* The error that the run ends by outlives a log that can no longer be written. */
void lk_monitor_close(lk_monitor *m, lk_status status, const char *stopped)
{
    if (!m) return;
    if (m->writes) {
        char failure[2048];
        snprintf(failure, sizeof failure, "%s", lk_error_text());
        lk_error_clear();
        if (m->span_steps > 0) lk_monitor_log_step(m);
        log_end(m, status, failure, stopped);
        if (m->prometheus) lk_monitor_give_up(m, lk_monitor_export(m));
        if (status != LK_OK) lk_fail(status, "%s", failure);
    }
    destroy(m);
}
