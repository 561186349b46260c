/* What the monitor writes: events of the run log, scalars, metrics. */
#include "train/monitor_state.h"

#include "base/clock.h"
#include "metric/prometheus.h"
#include "version.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void lk_monitor_give_up(lk_monitor *m, lk_status status)
{
    char text[2200];
    if (status == LK_OK) return;
    snprintf(text, sizeof text, "warning: %s; training goes on without it", lk_error_text());
    lk_error_clear();
    if (m->o.reporter->line) m->o.reporter->line(m->o.reporter->context, text);
}

void lk_monitor_event(lk_monitor *m, const char *event, uint64_t step, json_t *more)
{
    if (!m->log) {
        json_decref(more);
        return;
    }
    double now = lk_clock_seconds();
    lk_status status = lk_run_log_write(m->log, event, lk_clock_date(), step, more);
    bool hurry = strcmp(event, "step") != 0 || now - m->flushed > 1;
    if (status == LK_OK && hurry) {
        status = lk_run_log_flush(m->log);
        m->flushed = now;
    }
    if (status == LK_OK) return;
    lk_monitor_give_up(m, status);
    lk_run_log_close(m->log);
    m->log = NULL;
}

json_t *lk_monitor_times(const lk_histogram *h, double mean)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "mean", lk_run_log_real(1e3 * mean), "p50",
                     lk_run_log_real(1e3 * lk_histogram_quantile(h, 0.5)), "p95",
                     lk_run_log_real(1e3 * lk_histogram_quantile(h, 0.95)), "p99",
                     lk_run_log_real(1e3 * lk_histogram_quantile(h, 0.99)));
}

const char *lk_monitor_warning_name(lk_warning kind)
{
    static const char *const name[LK_WARNINGS] = {
        [LK_WARN_LOSS] = "loss_spike",      [LK_WARN_GRADIENT] = "gradient_outlier",
        [LK_WARN_RANK] = "slow_rank",       [LK_WARN_FINITE] = "not_finite",
        [LK_WARN_SKIPPED] = "skipped_steps"};
    return name[kind];
}

void lk_monitor_warn(lk_monitor *m, lk_warning kind, uint64_t step, const char *text, json_t *more)
{
    char line[600];
    json_t *o = json_pack("{s:s, s:s}", "kind", lk_monitor_warning_name(kind), "text", text);
    if (o && (!more || json_object_update(o, more) != 0)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(more);
    m->warned[kind]++;
    lk_monitor_event(m, "warning", step, o);
    snprintf(line, sizeof line, "warning: step %llu: %s", (unsigned long long)step, text);
    if (m->o.reporter->line) m->o.reporter->line(m->o.reporter->context, line);
}

/* How the validation samples differ from the training samples. */
static void log_drift(lk_monitor *m)
{
    const lk_drift_report *d = m->o.drift;
    json_t *list = json_array();
    for (int64_t i = 0; i < d->features && list; i++) {
        const lk_drift *x = &d->feature[i].drift;
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o}", "name", d->feature[i].name,
                                              "psi", lk_run_log_real(x->psi), "kl",
                                              lk_run_log_real(x->kl), "noise",
                                              lk_run_log_real(x->noise)));
    }
    lk_monitor_event(m, "drift", m->o.start,
                     json_pack("{s:s, s:o, s:o, s:o, s:I, s:o}", "split", "validation", "psi",
                               lk_run_log_real(d->psi), "kl", lk_run_log_real(d->kl), "threshold",
                               lk_run_log_real(d->threshold), "drifted", (json_int_t)d->drifted,
                               "features", list));
}

/* Append to text [n], after what is there and "; ". */
__attribute__((format(printf, 3, 4)))
static void add_clause(char *text, size_t n, const char *format, ...)
{
    size_t at = strlen(text);
    va_list args;
    if (at > 0) at += (size_t)snprintf(text + at, n - at, "; ");
    va_start(args, format);
    vsnprintf(text + at, n - at, format, args);
    va_end(args);
}

/* How matrix products run, where that is chosen; for the user too. */
static void log_tuning(lk_monitor *m)
{
    const lk_backend *b = m->o.device->backend;
    lk_tuning t = {.tuned = 0};
    char text[300] = "";
    if (b->tuning) b->tuning(m->o.device, &t);
    if (t.tuned + t.reused + t.own == 0) return;
    lk_monitor_event(m, "tuning", m->o.start,
                     json_pack("{s:i, s:i, s:i, s:i, s:i, s:o}", "tuned", t.tuned, "first",
                               t.first, "cut", t.cut, "reused", t.reused, "own", t.own, "seconds",
                               lk_run_log_real(t.seconds)));
    if (t.reused > 0)
        add_clause(text, sizeof text, "algorithms of %d products reused from the checkpoint",
                   t.reused);
    if (t.tuned > 0)
        add_clause(text, sizeof text, "algorithms of %d products tuned in %.1f s, %d kept the "
                   "library's first", t.tuned, t.seconds, t.first);
    if (t.cut > 0)
        add_clause(text, sizeof text, "for want of time or memory %d were not tuned to the end",
                   t.cut);
    if (t.own > 0)
        add_clause(text, sizeof text, "%d products by kernels of lockstep", t.own);
    if (m->o.reporter->line) m->o.reporter->line(m->o.reporter->context, text);
}

void lk_monitor_log_start(lk_monitor *m)
{
    const lk_monitor_options *o = &m->o;
    char device[200];
    o->device->backend->describe(o->device, device, sizeof device);
    json_t *more = json_pack(
        "{s:I, s:I, s:i, s:i, s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:{s:s, s:s}, s:I}", "steps",
        (json_int_t)o->run->train.steps, "batch", (json_int_t)o->run->train.batch, "ranks",
        o->comm->size, "leaves", o->order->leaves, "model", o->run->model.kind, "precision",
        o->run->train.precision, "parameters", (json_int_t)o->parameters, "device", device, "host",
        o->comm->host, "code", LK_CODE_VERSION, "build", LK_BUILD, "data", "file", o->data->path,
        "digest", o->data->digest, "record_steps", (json_int_t)o->run->log.steps);
    lk_monitor_event(m, "start", o->start, more);
    log_tuning(m);
    if (o->drift && o->drift->features > 0) log_drift(m);
}

/* ---- a step ---------------------------------------------------------------------------------- */

static void write_scalars(lk_monitor *m, uint64_t step, const lk_tensorboard_scalar *scalar,
                          int count)
{
    if (!m->tensorboard) return;
    lk_status status = lk_tensorboard_write(m->tensorboard, step, lk_clock_date(), scalar, count);
    if (status == LK_OK && lk_clock_seconds() - m->flushed_scalars > 1) {
        status = lk_tensorboard_flush(m->tensorboard);
        m->flushed_scalars = lk_clock_seconds();
    }
    if (status == LK_OK) return;
    lk_monitor_give_up(m, status);
    lk_tensorboard_close(m->tensorboard);
    m->tensorboard = NULL;
}

void lk_monitor_log_step(lk_monitor *m)
{
    const lk_step_state *s = &m->last;
    const lk_histogram *h = &m->recent.histogram;
    double mean = m->span / (double)m->span_steps, rate = (double)m->o.run->train.batch / mean;
    double wait = 1e3 * m->span_wait / (double)m->span_steps;
    double device = (double)m->o.device->peak;
    lk_tensorboard_scalar scalar[] = {
        {"loss/train", s->loss},
        {"optimizer/learning_rate", s->lr},
        {"optimizer/loss_scale", s->loss_scale},
        {"optimizer/gradient_norm", s->grad_norm},
        {"optimizer/skipped_steps", (double)s->skipped},
        {"time/samples_per_second", rate},
        {"time/step_ms", 1e3 * mean},
        {"time/data_wait_ms", wait},
        {"memory/host_peak_MiB", m->host_peak / 0x1p20},
        {"memory/device_MiB", device / 0x1p20},
    };
    write_scalars(m, s->step, scalar, sizeof scalar / sizeof *scalar);
    if (m->log)
        lk_monitor_event(m, "step", s->step,
                         json_pack("{s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:{s:I, s:I}}", "loss",
                                   lk_run_log_real(s->loss), "lr", lk_run_log_real(s->lr),
                                   "loss_scale", lk_run_log_real(s->loss_scale), "grad_norm",
                                   lk_run_log_real(s->grad_norm), "skipped", (json_int_t)s->skipped,
                                   "samples_per_second", lk_run_log_real(rate), "step_ms",
                                   lk_monitor_times(h, mean), "data_wait_ms", lk_run_log_real(wait),
                                   "memory", "host_peak", (json_int_t)m->host_peak, "device",
                                   (json_int_t)device));
    m->span = m->span_wait = 0;
    m->span_steps = 0;
}

void lk_monitor_log_validation(lk_monitor *m, double seconds)
{
    const lk_validation *v = &m->validation;
    const struct {
        const char *name, *tag;
        double value;
    } figure[] = {{"loss", "loss/validation", v->loss},
                  {"accuracy", "accuracy/validation", v->accuracy},
                  {"ema_loss", "loss/validation_ema", v->ema_loss},
                  {"ema_accuracy", "accuracy/validation_ema", v->ema_accuracy}};
    lk_tensorboard_scalar scalar[4];
    int count = 0;
    json_t *more = json_pack("{s:o, s:o}", "best", lk_run_log_real(m->best), "seconds",
                             lk_run_log_real(seconds));
    for (int i = 0; i < 4; i++) {
        if (i > 0 && isnan(figure[i].value)) continue; /* there is none */
        scalar[count++] = (lk_tensorboard_scalar){figure[i].tag, figure[i].value};
        json_object_set_new(more, figure[i].name, lk_run_log_real(figure[i].value));
    }
    write_scalars(m, m->validated, scalar, count);
    lk_monitor_event(m, "validation", m->validated, more);
}

/* ---- Prometheus ------------------------------------------------------------------------------ */

#define GAUGE(name, help, value)                                                                   \
    {                                                                                              \
        "lockstep_" name, "gauge", help, NULL, run, value                                          \
    }
#define COUNTER(name, help, value)                                                                 \
    {                                                                                              \
        "lockstep_" name, "counter", help, NULL, run, value                                        \
    }
#define TIMES "lockstep_step_duration_seconds", "summary", "Time of a training step."

lk_status lk_monitor_export(lk_monitor *m)
{
    static const double share[] = {0.5, 0.95, 0.99};
    const lk_step_state *s = &m->last;
    const lk_histogram *h = &m->recent.histogram;
    bool any = m->all.count > 0;
    double mean = any ? m->all.sum / (double)m->all.count : NAN;
    char run[512] = "", quantile[3][512], warned[LK_WARNINGS][560];
    lk_prometheus_label(run, sizeof run - 32, "run", m->o.run->directory);
    for (int i = 0; i < 3; i++) {
        char text[16];
        snprintf(text, sizeof text, "%g", share[i]);
        memcpy(quantile[i], run, sizeof run);
        lk_prometheus_label(quantile[i], sizeof quantile[i], "quantile", text);
    }
    for (int i = 0; i < LK_WARNINGS; i++) {
        memcpy(warned[i], run, sizeof run);
        lk_prometheus_label(warned[i], sizeof warned[i], "kind",
                            lk_monitor_warning_name((lk_warning)i));
    }
#define WARNED(i)                                                                                  \
    {                                                                                              \
        "lockstep_warnings_total", "counter", "Warnings of this start, by kind.", NULL, warned[i], \
            (double)m->warned[i]                                                                   \
    }
    const lk_prometheus_sample metric[] = {
        GAUGE("steps_planned", "Steps of the whole run.", (double)m->o.run->train.steps),
        COUNTER("steps_total", "Steps done by the run.", (double)s->step),
        COUNTER("skipped_steps_total", "Steps skipped for a gradient that was not finite.",
                (double)s->skipped),
        GAUGE("training_loss", "Loss of the last step, nats.", any ? (double)s->loss : NAN),
        GAUGE("validation_loss", "Loss of the last validation, nats.",
              m->validated ? m->validation.loss : NAN),
        GAUGE("validation_accuracy_ratio", "Share of right classes in the last validation.",
              m->validated ? m->validation.accuracy : NAN),
        GAUGE("learning_rate", "Learning rate of the last step.", any ? (double)s->lr : NAN),
        GAUGE("gradient_norm", "Global norm of the last gradient before clipping.",
              any ? (double)s->grad_norm : NAN),
        GAUGE("loss_scale", "Loss scale.", any ? (double)s->loss_scale : NAN),
        GAUGE("samples_per_second", "Samples trained on a second, over this start.",
              (double)m->o.run->train.batch / mean),
        {TIMES, NULL, quantile[0], lk_histogram_quantile(h, share[0])},
        {TIMES, NULL, quantile[1], lk_histogram_quantile(h, share[1])},
        {TIMES, NULL, quantile[2], lk_histogram_quantile(h, share[2])},
        {TIMES, "_sum", run, m->all.sum},
        {TIMES, "_count", run, (double)m->all.count},
        COUNTER("data_wait_seconds_total", "Time in which steps waited for samples.", m->data_wait),
        GAUGE("host_memory_peak_bytes", "Largest resident size of rank 0 so far.", m->host_peak),
        GAUGE("device_memory_bytes", "Most memory allocated by rank 0 on its device.",
              (double)m->o.device->peak),
        WARNED(LK_WARN_LOSS),
        WARNED(LK_WARN_GRADIENT),
        WARNED(LK_WARN_RANK),
        WARNED(LK_WARN_FINITE),
        WARNED(LK_WARN_SKIPPED),
    };
    enum { METRICS = sizeof metric / sizeof *metric };
    int count = METRICS + m->drift.count;
    lk_prometheus_sample *all = malloc((size_t)count * sizeof *all);
    if (!all) return lk_fail(LK_E_SYSTEM, "out of memory for the metrics");
    memcpy(all, metric, sizeof metric);
    if (m->drift.count > 0)
        memcpy(all + METRICS, m->drift.sample, (size_t)m->drift.count * sizeof *all);
    lk_status status = lk_prometheus_write(m->prometheus, all, count);
    free(all);
    return status;
}
