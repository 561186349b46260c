/* Chrome's Trace Event Format, written event by event: "X" complete events with ts and dur in
 * microseconds, "M" for names, "C" for the counter. A trace of some steps is small enough for any
 * viewer, but not to be built as one JSON value in memory.
 * (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU) */
#include "trace/trace.h"
#include "base/replace.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct writer {
    const lk_trace *t;
    FILE *out;
    bool first;
    lk_status status;
} writer;

/* Takes the event over; NULL: out of memory. */
static void put(writer *w, json_t *event)
{
    if (w->status == LK_OK && !event)
        w->status = lk_fail(LK_E_SYSTEM, "out of memory for the events of a trace");
    if (w->status == LK_OK) {
        fputs(w->first ? "\n" : ",\n", w->out);
        if (json_dumpf(event, w->out, JSON_COMPACT | JSON_REAL_PRECISION(12)) != 0)
            w->status = lk_fail(LK_E_SYSTEM,
                                "cannot write the events of a trace: %s; make room on the "
                                "disk",
                                strerror(errno));
    }
    w->first = false;
    json_decref(event);
}

static void put_name(writer *w, const char *kind, int rank, int thread, const char *name)
{
    put(w, json_pack("{s:s,s:s,s:i,s:i,s:{s:s}}", "ph", "M", "name", kind, "pid", rank, "tid",
                     thread, "args", "name", name));
}

enum { STEPS = 0, LANES = 1 }; /* threads: the steps, then a thread for each lane */

static void put_rank(writer *w, int rank)
{
    const lk_trace *t = w->t;
    char name[160];
    snprintf(name, sizeof name, "rank %d on %s", rank, t->host[rank]);
    put_name(w, "process_name", rank, STEPS, name);
    put_name(w, "thread_name", rank, STEPS, "steps");
    int lanes = 0;
    for (int64_t i = 0; i < t->spans; i++)
        if (t->span[i].rank == rank && t->span[i].lane >= lanes) lanes = t->span[i].lane + 1;
    for (int i = 0; i < lanes; i++) {
        snprintf(name, sizeof name, "nodes, lane %d", i);
        put_name(w, "thread_name", rank, LANES + i, name);
    }
    for (int i = 0; i < t->steps; i++) {
        const lk_trace_step *s = &t->step[(int64_t)rank * t->steps + i];
        /* by a device's events a step may end a little after the next one's first kernel begins */
        double seconds = s->seconds;
        if (i + 1 < t->steps && s->begin + seconds > s[1].begin) seconds = s[1].begin - s->begin;
        snprintf(name, sizeof name, "step %lld", (long long)t->first_step + i);
        put(w, json_pack("{s:s,s:s,s:s,s:i,s:i,s:f,s:f}", "ph", "X", "name", name, "cat", "step",
                         "pid", rank, "tid", STEPS, "ts", 1e6 * s->begin, "dur", 1e6 * seconds));
    }
}

static void put_span(writer *w, const lk_trace_span *s)
{
    const lk_trace *t = w->t;
    const lk_trace_node *n = &t->node[s->node];
    put(w, json_pack("{s:s,s:s,s:s,s:i,s:i,s:f,s:f,s:{s:s,s:I,s:i,s:f,s:f}}", "ph", "X", "name",
                     n->scope, "cat", n->op, "pid", (int)s->rank, "tid", LANES + (int)s->lane, "ts",
                     1e6 * s->begin, "dur", 1e6 * s->seconds, "args", "op", n->op, "step",
                     (json_int_t)(t->first_step + s->step), "leaf", (int)s->leaf, "GFLOP a step",
                     1e-9 * n->flops, "MiB a step", n->bytes / 0x1p20));
    if (n->live > 0)
        put(w, json_pack("{s:s,s:s,s:i,s:f,s:{s:f}}", "ph", "C", "name", "activations", "pid",
                         (int)s->rank, "ts", 1e6 * s->begin, "args", "MiB", n->live / 0x1p20));
}

lk_status lk_trace_perfetto(const lk_trace *t, FILE *out)
{
    writer w = {.t = t, .out = out, .first = true, .status = LK_OK};
    fputs(LK_BEGINS_TRACE "\"ms\",\"traceEvents\":[", out);
    for (int r = 0; r < t->ranks && w.status == LK_OK; r++) put_rank(&w, r);
    for (int64_t i = 0; i < t->spans && w.status == LK_OK; i++) put_span(&w, &t->span[i]);
    fputs("\n]}\n", out);
    if (w.status == LK_OK && (fflush(out) != 0 || ferror(out)))
        w.status = lk_fail(LK_E_SYSTEM,
                           "cannot write the events of a trace: %s; make room on the "
                           "disk",
                           strerror(errno));
    return w.status;
}
