/* What stands out in the steps themselves. All of it is a function of what loss.log says, so after
 * a resume the warnings are those of an uninterrupted run. */
#include "train/monitor_state.h"
#include "train/steplog.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROW = 3,   /* skipped steps one after the other */
    MANY = 10 /* skipped steps of the last 100; said again after they were below half of it */
};
_Static_assert((int)LK_MONITOR_RECENT == 100, "the text of a warning says so");
#define LEAST_LOSS 1e-3 /* share of a loss that is no deviation */
#define LEAST_NORM 0.01 /* of the logarithm of a norm */

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

/* ---- sudden rises ---------------------------------------------------------------------------- */

static void warn_outlier(lk_monitor *m, lk_warning kind, const lk_step_state *s, double value,
                         double median, double score)
{
    char text[300];
    snprintf(text, sizeof text,
             "%s %.4g is %.3g standard deviations above %.4g, the median of the steps before "
             "(its samples: run.jsonl)",
             kind == LK_WARN_LOSS ? "loss" : "gradient norm", value, score, median);
    lk_monitor_warn(m, kind, s->step, text,
                    json_pack("{s:o, s:o, s:o, s:o}", "value", lk_run_log_real(value), "median",
                              lk_run_log_real(median), "score", lk_run_log_real(score), "samples",
                              samples(m, s->step)));
}

/* Norms differ by factors: their logarithms are judged, and not while the learning rate rises. */
static void judge_rises(lk_monitor *m, const lk_step_state *s, bool quiet)
{
    double threshold = m->o.run->log.outlier, loss = (double)s->loss, norm = (double)s->grad_norm;
    if (!(threshold > 0)) return;
    lk_outlier_verdict l = lk_outlier_next(&m->loss, loss, threshold, LEAST_LOSS * fabs(loss));
    if (l.begins && !quiet) warn_outlier(m, LK_WARN_LOSS, s, loss, l.median, l.score);
    if (s->step <= (uint64_t)m->o.run->optimizer.warmup) return;
    lk_outlier_verdict n =
        lk_outlier_next(&m->norm, norm > 0 ? log(norm) : NAN, threshold, LEAST_NORM);
    if (n.begins && !quiet) warn_outlier(m, LK_WARN_GRADIENT, s, norm, exp(n.median), n.score);
}

/* ---- what is not finite ---------------------------------------------------------------------- */

/* The loss, or a gradient that no loss scale explains: at the first such step. */
static void judge_finite(lk_monitor *m, const lk_step_state *s, bool quiet)
{
    bool scaling = lk_run_precision(m->o.run) == LK_FP16, lost = !isfinite(s->loss);
    bool bad = lost || (!s->finite && !scaling);
    char text[200];
    if (bad && !m->not_finite && !quiet) {
        snprintf(text, sizeof text,
                 "the %s is not finite (loss %g, gradient norm %g; its samples: run.jsonl)",
                 lost ? "loss" : "gradient", (double)s->loss, (double)s->grad_norm);
        lk_monitor_warn(m, LK_WARN_FINITE, s->step, text,
                        json_pack("{s:o}", "samples", samples(m, s->step)));
    }
    m->not_finite = bad;
}

static void warn_skipped(lk_monitor *m, const lk_step_state *s, int skipped, const char *which)
{
    char text[300];
    snprintf(text, sizeof text,
             "%d steps %s were skipped for gradients that are not finite, the loss scale is now "
             "%g; if it goes on, see where it begins with --detect-anomaly, or lower optimizer.lr",
             skipped, which, (double)s->loss_scale);
    lk_monitor_warn(m, LK_WARN_SKIPPED, s->step, text,
                    json_pack("{s:i, s:o}", "skipped", skipped, "loss_scale",
                              lk_run_log_real((double)s->loss_scale)));
}

/* One is the price of a loss scale that adapts; some in a row, or often, are not. */
static void judge_skips(lk_monitor *m, const lk_step_state *s, bool quiet)
{
    int skip = !s->finite, at = (int)(s->step % LK_MONITOR_RECENT);
    m->skips += skip - m->skip[at];
    m->skip[at] = (unsigned char)skip;
    m->skips_in_row = skip ? m->skips_in_row + 1 : 0;
    bool many = m->skips >= MANY && !m->skips_many, row = m->skips_in_row == ROW;
    if (m->skips >= MANY) m->skips_many = true;
    else if (m->skips < MANY / 2) m->skips_many = false;
    if (quiet || lk_run_precision(m->o.run) != LK_FP16) return;
    if (many) warn_skipped(m, s, m->skips, "of the last 100");
    else if (row) warn_skipped(m, s, ROW, "in a row");
}

static void judge(lk_monitor *m, const lk_step_state *s, bool quiet)
{
    judge_finite(m, s, quiet);
    judge_skips(m, s, quiet);
    judge_rises(m, s, quiet);
}

void lk_monitor_judge(lk_monitor *m, const lk_step_state *s) { judge(m, s, false); }

/* A step as loss.log has it; `skipped`: as of the line before. */
static bool read_step(const char *line, uint64_t skipped, lk_step_state *s)
{
    double v[LK_LOSS_COLUMNS];
    if (!lk_steplog_read_loss(line, v)) return false;
    if (!(v[LK_LOSS_SKIPPED] >= 0 && v[LK_LOSS_SKIPPED] < 0x1p62)) return false; /* damaged */
    *s = (lk_step_state){.step = (uint64_t)v[LK_LOSS_STEP],
                         .loss = (float)v[LK_LOSS],
                         .lr = (float)v[LK_LOSS_LR],
                         .loss_scale = (float)v[LK_LOSS_SCALE],
                         .grad_norm = (float)v[LK_LOSS_NORM],
                         .skipped = (uint64_t)v[LK_LOSS_SKIPPED]};
    s->finite = s->skipped == skipped;
    return true;
}

lk_status lk_monitor_replay(lk_monitor *m)
{
    char *path, line[512];
    lk_step_state s = {.skipped = 0};
    if (m->o.start == 0) return LK_OK;
    LK_TRY(lk_monitor_path(m, lk_steplogs[LK_CHECKPOINT_LOSS].name, &path));
    FILE *f = fopen(path, "r");
    lk_status status = f ? LK_OK
                         : lk_fail(LK_E_SYSTEM,
                                   "%s: cannot read the loss log: %s; check the disk it "
                                   "lies on",
                                   path, strerror(errno));
    while (f && fgets(line, sizeof line, f) && read_step(line, s.skipped, &s)) judge(m, &s, true);
    if (f) fclose(f);
    free(path);
    return status;
}
