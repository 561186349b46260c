/* When a trace begins and ends, and what goes into its file besides the times. */
#include "train/tracing.h"

#include "base/clock.h"
#include "io/trace_file.h"
#include "version.h"

#include <stdlib.h>
#include <string.h>

struct lk_tracing {
    lk_tracing_options o;
    uint64_t begin, first, final; /* steps: recorded from, kept from, kept to */
    lk_recorder *recorder;
};

lk_status lk_tracing_check(const lk_run *run, const lk_device *d, bool direct)
{
    if (run->trace.from == 0) return LK_OK;
    if (!d->backend->tracer)
        return lk_fail(LK_E_INPUT,
                       "%s: steps cannot be traced on '%s': this lockstep was built "
                       "without CUPTI, which comes with the CUDA toolkit; configure it "
                       "--with-cupti, or set trace.from to 0",
                       run->path, d->backend->name);
    if (direct && d->backend->capture_begin)
        return lk_fail(LK_E_INPUT,
                       "%s: trace.from is %lld, but --detect-anomaly and "
                       "--launch-blocking leave nothing to trace on a GPU; set trace.from to 0",
                       run->path, (long long)run->trace.from);
    return LK_OK;
}

/* A trace that was asked for is not left out without a word. */
static void say_nothing_is_traced(const lk_tracing_options *o, uint64_t from, uint64_t to)
{
    char steps[80], text[240];
    if (o->start >= o->last || o->comm->rank != 0 || !o->reporter->line) return;
    if (from == to) snprintf(steps, sizeof steps, "step %llu is", (unsigned long long)from);
    else
        snprintf(steps, sizeof steps, "steps %llu to %llu are", (unsigned long long)from,
                 (unsigned long long)to);
    snprintf(text, sizeof text, "%s not in this start (%llu to %llu): nothing is traced", steps,
             (unsigned long long)o->start + 1, (unsigned long long)o->last);
    o->reporter->line(o->reporter->context, text);
}

lk_status lk_tracing_open(const lk_tracing_options *o, lk_tracing **tracing)
{
    uint64_t from = (uint64_t)o->run->trace.from, to = (uint64_t)o->run->trace.to;
    *tracing = NULL;
    if (from == 0) return LK_OK;
    if (to == 0) to = from;
    uint64_t first = from > o->start + 1 ? from : o->start + 1, final = to < o->last ? to : o->last;
    if (first > final) {
        say_nothing_is_traced(o, from, to);
        return LK_OK;
    }
    lk_tracing *t = calloc(1, sizeof *t);
    if (!t) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    t->o = *o;
    t->first = first;
    t->final = final;
    t->begin = first > o->start + 1 ? first - 1 : first; /* the step before prepares */
    *tracing = t;
    return LK_OK;
}

void lk_tracing_close(lk_tracing *t)
{
    if (!t) return;
    lk_recorder_destroy(t->recorder);
    free(t);
}

bool lk_tracing_begins(const lk_tracing *t, uint64_t step) { return t && step == t->begin; }

/* The clocks of all ranks start within the time that a barrier takes. */
lk_status lk_tracing_begin(lk_tracing *t)
{
    lk_device *d = t->o.parts.device;
    LK_TRY(lk_comm_agree(t->o.comm, d->backend->sync(d)));
    MPI_Barrier(t->o.comm->world);
    return lk_comm_agree(t->o.comm,
                         lk_recorder_start(t->o.program, t->o.parts.train, d,
                                           t->o.parts.local_leaves, (int)(t->first - t->begin),
                                           (int)(t->final - t->first + 1), &t->recorder));
}

/* On a device of their own, for the run's keeps the algorithms that are chosen on it. They are a
 * comfort: a trace is not lost where there is no memory to measure them. */
static void measure_ceiling(const lk_tracing *t, lk_trace *trace)
{
    const lk_run *run = t->o.run;
    lk_device *d = NULL;
    lk_status status = lk_session_device(t->o.comm, run->train.device, lk_run_precision(run), &d);
    if (status == LK_OK) status = lk_roofline_measure(d, lk_session_compute(run), &trace->ceiling);
    lk_session_device_close(d);
    if (status == LK_OK) return;
    lk_error_clear();
    trace->ceiling = (lk_roofline){.rate = 0};
    if (t->o.comm->rank == 0 && t->o.reporter->line)
        t->o.reporter->line(t->o.reporter->context, "no memory is left to measure the ceilings of "
                                                    "the device; the trace will not know them");
}

static lk_status list_memory(const lk_tracing *t, lk_trace *trace)
{
    double bytes[LK_MEMORY_KINDS] = {0};
    LK_TRY(lk_session_memory(&t->o.parts, bytes));
    trace->memory = calloc(LK_MEMORY_KINDS, sizeof *trace->memory);
    if (!trace->memory) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    for (int i = 0; i < LK_MEMORY_KINDS; i++, trace->memories++) {
        trace->memory[i].bytes = bytes[i];
        trace->memory[i].name = strdup(lk_memory_name((lk_memory)i));
        if (!trace->memory[i].name) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    }
    return LK_OK;
}

static lk_status complete(const lk_tracing *t, lk_trace *trace)
{
    char device[200];
    lk_device *d = t->o.parts.device;
    d->backend->describe(d, device, sizeof device);
    trace->device = strdup(device);
    trace->version = strdup(LK_CODE_VERSION);
    trace->leaves = t->o.leaves;
    trace->first_step = (int64_t)t->first;
    if (!trace->device || !trace->version) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    LK_TRY(list_memory(t, trace));
    measure_ceiling(t, trace);
    return LK_OK;
}

static lk_status finish(lk_tracing *t, const char *path)
{
    lk_comm *c = t->o.comm;
    lk_trace trace = {.ranks = 0};
    lk_status status =
        lk_recorder_finish(t->recorder, c->rank, c->rank * t->o.parts.local_leaves, &trace);
    lk_recorder_destroy(t->recorder);
    t->recorder = NULL;
    if (status == LK_OK) status = complete(t, &trace);
    status = lk_comm_agree(c, status);
    if (status == LK_OK) status = lk_trace_save(t->o.io, c->world, path, c->host, &trace);
    lk_trace_clear(&trace);
    return status;
}

bool lk_tracing_ends(const lk_tracing *t, uint64_t step, bool last)
{
    return t && t->recorder && (step == t->final || (last && step >= t->first));
}

lk_status lk_tracing_end(lk_tracing *t, uint64_t step, lk_traced *traced)
{
    char text[4400], next[4200] = "";
    double begin = lk_clock_seconds();
    *traced = (lk_traced){.first = t->first, .last = step};
    snprintf(traced->path, sizeof traced->path, "%s/trace.h5", t->o.run->directory);
    LK_TRY(finish(t, traced->path));
    traced->seconds = lk_clock_seconds() - begin;
    if (!t->o.profile) snprintf(next, sizeof next, "; lockstep trace %s", traced->path);
    snprintf(text, sizeof text,
             "steps %llu to %llu traced, written in %.2f s, which count for no step%s",
             (unsigned long long)t->first, (unsigned long long)step, traced->seconds, next);
    if (t->o.comm->rank == 0 && t->o.reporter->line)
        t->o.reporter->line(t->o.reporter->context, text);
    return LK_OK;
}
