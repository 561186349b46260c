/* What each rank takes, gathered at pauses, and which one holds up the others. */
#include "train/monitor_state.h"

#include <math.h>
#include <stdlib.h>

enum { FEW = 3 };       /* steps between gatherings from which nothing is concluded */
#define SLOW 1.5        /* a rank is slow that works so many times as long as the others do */
#define SLOW_LEAST 1e-3 /* and so many seconds a step longer */

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
    double *rest = m->gathered + n * FIGURES;
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

static json_t *bytes(const lk_monitor *m, const double *all, int figure)
{
    json_t *list = json_array();
    for (int r = 0; r < m->o.comm->size && list; r++)
        json_array_append_new(list, json_integer((json_int_t)all[r * FIGURES + figure]));
    return list;
}

lk_status lk_monitor_ranks(lk_monitor *m, uint64_t step, double evaluation)
{
    lk_comm *c = m->o.comm;
    if (c->size == 1) return LK_OK;
    if (!m->host[0][0]) LK_TRY(lk_comm_gather(c, c->host, sizeof c->host, m->host)); /* once */
    lk_monitor_read_memory(m);
    bool enough = m->rank_steps >= FEW;
    double steps = (double)m->rank_steps, mine[FIGURES] = {NAN, NAN, evaluation, m->host_peak};
    if (enough && m->at_once) mine[WORK] = m->work / steps;
    if (enough) mine[WAIT] = m->rank_wait / steps;
    m->work = m->rank_wait = 0;
    m->rank_steps = 0;
    LK_TRY(lk_comm_gather(c, mine, sizeof mine, m->gathered));
    if (!m->writes) return LK_OK;
    const double *all = m->gathered;
    lk_monitor_event(m, "ranks", step,
                     json_pack("{s:o, s:o, s:o, s:o}", "work_ms", figures(m, all, WORK, 1e3),
                               "data_wait_ms", figures(m, all, WAIT, 1e3), "evaluation_ms",
                               figures(m, all, EVALUATION, 1e3), "host_peak",
                               bytes(m, all, MEMORY)));
    name_slow_rank(m, step, all);
    return LK_OK;
}
