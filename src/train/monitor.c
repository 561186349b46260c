/* The clocks around the steps of a run, and what stands out. */
#include "train/monitor_state.h"

#include "base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { FEW = 3 };        /* steps between gatherings from which nothing is concluded */
#define EXPORT_EVERY 5.0 /* seconds */
#define SLOW 1.5         /* a rank is slow that works so many times as long as the others do */
#define SLOW_LEAST 1e-3  /* and so many seconds a step longer */
#define LEAST_LOSS 1e-3  /* share of a loss that is no deviation */
#define LEAST_NORM 0.01  /* of the logarithm of a norm */

/* ---- opening --------------------------------------------------------------------------------- */

static lk_status path_in(const lk_monitor *m, const char *name, char **path)
{
    if (asprintf(path, "%s/%s", m->o.run->directory, name) >= 0) return LK_OK;
    *path = NULL;
    return lk_fail(LK_E_SYSTEM, "out of memory");
}

/* A resumed run's earlier run log is cut back even if this start keeps none. */
static lk_status open_run_log(lk_monitor *m)
{
    char *path;
    LK_TRY(path_in(m, "run.jsonl", &path));
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
    LK_TRY(path_in(m, "tensorboard", &path));
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

static lk_status open_prometheus(lk_monitor *m)
{
    const char *where = m->o.run->log.prometheus;
    if (strcmp(where, "false") == 0) return LK_OK;
    if (strcmp(where, "true") == 0) LK_TRY(path_in(m, "metrics.prom", &m->prometheus));
    else m->prometheus = strdup(where);
    if (!m->prometheus) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(open_drift(m));
    lk_status status = lk_monitor_export(m);
    return status == LK_OK ? LK_OK
                           : lk_fail_prefix(LK_E_INPUT, "'log.prometheus': expected a file that "
                                                        "can be written, or true or false");
}

static double threshold(const lk_monitor *m) { return m->o.run->log.outlier; }

static bool judged(const lk_monitor *m, uint64_t step)
{
    return threshold(m) > 0 && step > (uint64_t)m->o.run->optimizer.warmup;
}

static lk_outlier_verdict judge_loss(lk_monitor *m, double loss)
{
    return lk_outlier_next(&m->loss, loss, threshold(m), LEAST_LOSS * fabs(loss));
}

/* Norms differ by factors: their logarithms are judged. */
static lk_outlier_verdict judge_norm(lk_monitor *m, double norm)
{
    return lk_outlier_next(&m->norm, norm > 0 ? log(norm) : NAN, threshold(m), LEAST_NORM);
}

/* What earlier starts have seen, without a word about it. */
static lk_status replay(lk_monitor *m)
{
    char *path, line[512];
    if (m->o.start == 0) return LK_OK;
    LK_TRY(path_in(m, "loss.log", &path));
    FILE *f = fopen(path, "r");
    lk_status status =
        f ? LK_OK : lk_fail(LK_E_SYSTEM, "%s: cannot read the loss log: %s", path, strerror(errno));
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long step;
        double loss, lr, scale, norm;
        if (sscanf(line, "%llu %lf %lf %lf %lf", &step, &loss, &lr, &scale, &norm) != 5) break;
        if (!judged(m, step)) continue;
        judge_loss(m, loss);
        judge_norm(m, norm);
    }
    if (f) fclose(f);
    free(path);
    return status;
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

static void read_memory(lk_monitor *m)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) == 0) m->host_peak = 1024.0 * (double)u.ru_maxrss;
}

static lk_status set_up(lk_monitor *m)
{
    LK_TRY(allocate(m));
    if (!m->writes) return LK_OK;
    read_memory(m);
    m->last.step = m->o.start;
    LK_TRY(replay(m));
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
    m->flight[step % LK_MONITOR_FLIGHT].begun = lk_clock_seconds();
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
    if (step == m->o.start) return; /* the first step prepares the others */
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
    if (step == m->o.start) return;
    lk_window_add(&m->recent, seconds);
    lk_histogram_add(&m->all, seconds);
}

/* The samples of the step that ended with `steps` done. */
static json_t *samples(const lk_monitor *m, uint64_t steps)
{
    int64_t count = m->o.order->batch * m->o.order->leaves;
    int64_t *row = malloc((size_t)count * sizeof *row);
    json_t *list = row ? json_array() : NULL;
    if (list) lk_loader_rows(m->o.data, m->o.order, steps - 1, row);
    for (int64_t i = 0; i < count && list; i++)
        json_array_append_new(list, json_integer((json_int_t)row[i]));
    free(row);
    return list;
}

static void warn_outlier(lk_monitor *m, lk_warning kind, double value, double median, double score)
{
    char text[300];
    snprintf(text, sizeof text,
             "%s %.4g is %.3g standard deviations above %.4g, the median of the "
             "last %lld steps (its samples: run.jsonl)",
             kind == LK_WARN_LOSS ? "loss" : "gradient norm", value, score, median,
             (long long)m->o.run->log.outlier_window);
    lk_monitor_warn(m, kind, m->last.step, text,
                    json_pack("{s:o, s:o, s:o, s:o}", "value", lk_run_log_real(value), "median",
                              lk_run_log_real(median), "score", lk_run_log_real(score), "samples",
                              samples(m, m->last.step)));
}

static void judge(lk_monitor *m, const lk_step_state *s)
{
    if (!judged(m, s->step)) return;
    lk_outlier_verdict loss = judge_loss(m, s->loss), norm = judge_norm(m, s->grad_norm);
    if (loss.begins) warn_outlier(m, LK_WARN_LOSS, s->loss, loss.median, loss.score);
    if (norm.begins) warn_outlier(m, LK_WARN_GRADIENT, s->grad_norm, exp(norm.median), norm.score);
}

void lk_monitor_step(lk_monitor *m, const lk_step_state *s)
{
    if (!m->writes) return;
    measure(m, s->step - 1);
    m->last = *s;
    double now = m->completed;
    if (now - m->memory_read > 0.5) {
        read_memory(m);
        m->memory_read = now;
    }
    judge(m, s);
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

enum { WORK, WAIT, EVALUATION, MEMORY, FIGURES }; /* of a rank, gathered */
_Static_assert((int)EVALUATION + 1 == (int)LK_MONITOR_SUSPECTS, "figures that make a suspect");

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The rank whose figure stands out above the others' median, -1: none. */
static int slowest(const lk_monitor *m, const double *all, int figure, double *median)
{
    int n = m->o.comm->size, worst = 0, count = 0;
    double *rest = m->gathered + n * FIGURES; /* its room is for 8 figures a rank */
    for (int r = 0; r < n; r++)
        if (all[r * FIGURES + figure] > all[worst * FIGURES + figure]) worst = r;
    for (int r = 0; r < n; r++)
        if (r != worst && isfinite(all[r * FIGURES + figure]))
            rest[count++] = all[r * FIGURES + figure];
    if (count == 0 || count < n - 1) return -1; /* not measured everywhere */
    qsort(rest, (size_t)count, sizeof *rest, ascending);
    *median = 0.5 * (rest[(count - 1) / 2] + rest[count / 2]);
    double most = all[worst * FIGURES + figure];
    return most > SLOW * *median && most - *median > SLOW_LEAST ? worst : -1;
}

static void name_slow_rank(lk_monitor *m, uint64_t step, const double *all)
{
    static const char *const what[] = {"own work in a step", "waiting for samples in a step",
                                       "own work in a validation batch"};
    char text[400];
    for (int figure = WORK; figure <= EVALUATION; figure++) {
        double median;
        if (figure == EVALUATION && m->at_once) break; /* work tells, and over more steps */
        int r = slowest(m, all, figure, &median), before = m->suspect[figure];
        m->suspect[figure] = r;
        if (r < 0 || r != before || m->slow[r]) continue; /* once may be chance */
        m->slow[r] = true;                                /* said once */
        double own = all[r * FIGURES + figure];
        snprintf(text, sizeof text,
                 "rank %d on %s is slow: %.4g ms of %s, the others %.4g ms; it "
                 "holds up all ranks: look what else runs there, at its clocks and its binding",
                 r, m->host[r], 1e3 * own, what[figure], 1e3 * median);
        lk_monitor_warn(m, LK_WARN_RANK, step, text,
                        json_pack("{s:i, s:s, s:o, s:o}", "rank", r, "host", m->host[r], "value",
                                  lk_run_log_real(1e3 * own), "median",
                                  lk_run_log_real(1e3 * median)));
    }
}

static json_t *figures(const lk_monitor *m, const double *all, int figure, double unit)
{
    json_t *list = json_array();
    for (int r = 0; r < m->o.comm->size && list; r++)
        json_array_append_new(list, lk_run_log_real(unit * all[r * FIGURES + figure]));
    return list;
}

lk_status lk_monitor_ranks(lk_monitor *m, uint64_t step, double evaluation)
{
    lk_comm *c = m->o.comm;
    if (c->size == 1) return LK_OK;
    if (!m->host[0][0]) { /* once: the names of the hosts, 64 bytes each, as 8 doubles */
        double name[8];
        memcpy(name, c->host, sizeof name);
        LK_TRY(lk_comm_gather_doubles(c, name, 8, m->gathered));
        memcpy(m->host, m->gathered, (size_t)c->size * sizeof *m->host);
    }
    read_memory(m);
    bool enough = m->rank_steps >= FEW;
    double steps = (double)m->rank_steps, mine[FIGURES] = {NAN, NAN, evaluation, m->host_peak};
    if (enough && m->at_once) mine[WORK] = m->work / steps;
    if (enough) mine[WAIT] = m->rank_wait / steps;
    m->work = m->rank_wait = 0;
    m->rank_steps = 0;
    LK_TRY(lk_comm_gather_doubles(c, mine, FIGURES, m->gathered));
    if (!m->writes) return LK_OK;
    const double *all = m->gathered;
    lk_monitor_event(m, "ranks", step,
                     json_pack("{s:o, s:o, s:o, s:o}", "work_ms", figures(m, all, WORK, 1e3),
                               "data_wait_ms", figures(m, all, WAIT, 1e3), "evaluation_ms",
                               figures(m, all, EVALUATION, 1e3), "host_peak",
                               figures(m, all, MEMORY, 1)));
    name_slow_rank(m, step, all);
    return LK_OK;
}

/* ---- the end --------------------------------------------------------------------------------- */

void lk_monitor_close(lk_monitor *m, lk_status status, const char *stopped)
{
    if (!m) return;
    if (m->writes) {
        bool done = m->last.step == (uint64_t)m->o.run->train.steps;
        double mean = m->all.count ? m->all.sum / (double)m->all.count : NAN;
        const char *how = status != LK_OK ? "failed" : done ? "done" : "stopped";
        const char *why = status != LK_OK ? lk_error_text() : done ? "" : stopped ? stopped : "";
        char *text = strdup(why[0] ? why : "");
        if (m->span_steps > 0) lk_monitor_log_step(m);
        lk_monitor_event(m, "end", m->last.step,
                         json_pack("{s:s, s:s*, s:I, s:o, s:o, s:o, s:I, s:o}", "how", how, "why",
                                   text && text[0] ? text : NULL, "steps",
                                   (json_int_t)(m->last.step - m->o.start), "seconds",
                                   lk_run_log_real(lk_clock_seconds() - m->opened), "step_ms",
                                   lk_monitor_times(&m->all, mean), "data_wait_seconds",
                                   lk_run_log_real(m->data_wait), "skipped",
                                   (json_int_t)m->last.skipped, "best", lk_run_log_real(m->best)));
        if (m->prometheus) {
            lk_status last = lk_monitor_export(m);
            if (status == LK_OK) lk_monitor_give_up(m, last);
        }
        free(text);
    }
    destroy(m);
}
