/* Times of nodes by the host's clock: on the CPU a node is done when its call returns. */
#include "base/clock.h"
#include "cpu/device.h"

#include <stdlib.h>

typedef struct lk_cpu_trace {
    double opened, begun;      /* clock; begun: of the current mark */
    int mark, runs, most_runs; /* mark -1: nothing runs; runs: begun so far */
    lk_device_span *span;
    int64_t spans, room;
    double *begin, *seconds; /* [most_runs] */
} lk_cpu_trace;

static lk_cpu_trace *trace_of(lk_device *d) { return ((lk_cpu *)d)->trace; }

static void trace_close(lk_device *d)
{
    lk_cpu_trace *t = trace_of(d);
    ((lk_cpu *)d)->trace = NULL;
    if (!t) return;
    free(t->span);
    free(t->begin);
    free(t->seconds);
    free(t);
}

static lk_status trace_open(lk_device *d, int runs)
{
    trace_close(d);
    lk_cpu_trace *t = ((lk_cpu *)d)->trace = calloc(1, sizeof *t);
    if (t) {
        t->begin = calloc((size_t)runs, sizeof *t->begin);
        t->seconds = calloc((size_t)runs, sizeof *t->seconds);
    }
    if (!t || !t->begin || !t->seconds) {
        trace_close(d);
        return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    }
    t->mark = -1;
    t->most_runs = runs;
    t->opened = lk_clock_seconds();
    return LK_OK;
}

static lk_status append(lk_cpu_trace *t, double now)
{
    if (t->spans == t->room) {
        int64_t room = t->room ? 2 * t->room : 4096;
        lk_device_span *grown = realloc(t->span, (size_t)room * sizeof *grown);
        if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
        t->span = grown;
        t->room = room;
    }
    t->span[t->spans++] = (lk_device_span){
        .mark = t->mark,
        .run = t->runs - 1,
        .begin = t->begun - t->opened,
        .seconds = now - t->begun,
    };
    return LK_OK;
}

static lk_status trace_mark(lk_device *d, int mark)
{
    lk_cpu_trace *t = trace_of(d);
    double now = lk_clock_seconds();
    if (t->mark >= 0 && t->runs > 0) LK_TRY(append(t, now));
    t->mark = mark;
    t->begun = now;
    return LK_OK;
}

static lk_status run_begin(lk_device *d)
{
    lk_cpu_trace *t = trace_of(d);
    if (t->runs == t->most_runs)
        return lk_fail(LK_E_INTERNAL, "a trace of %d runs goes on", t->most_runs);
    t->begin[t->runs++] = lk_clock_seconds() - t->opened;
    return LK_OK;
}

static lk_status run_end(lk_device *d)
{
    lk_cpu_trace *t = trace_of(d);
    t->seconds[t->runs - 1] = lk_clock_seconds() - t->opened - t->begin[t->runs - 1];
    return LK_OK;
}

static lk_status trace_read(lk_device *d, lk_device_record *record)
{
    lk_cpu_trace *t = trace_of(d);
    *record = (lk_device_record){.span = t->span,
                                 .spans = t->spans,
                                 .begin = t->begin,
                                 .seconds = t->seconds,
                                 .runs = t->runs};
    t->span = NULL;
    t->begin = t->seconds = NULL;
    trace_close(d);
    return LK_OK;
}

const lk_device_tracer lk_cpu_tracer = {
    .open = trace_open,
    .mark = trace_mark,
    .run_begin = run_begin,
    .run_end = run_end,
    .read = trace_read,
    .close = trace_close,
};
