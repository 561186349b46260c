/* bench/kernels RUN.yaml [--vocabulary N] [--repeats N] [--baseline] [--set a.b=c]...
 *
 * Time every node of the training step of a run file's model, on random tokens or images, and print
 * one line for each op and shape: how often a step runs it, microseconds of one run and
 * milliseconds of a step's, both alone and in a step, and TFLOP/s and GB/s when alone, from the
 * op's own cost rule (GB/s counts the fewest bytes it must move). Then the percent of the ceiling
 * that binds it: of the time that its flops or its bytes, whichever take longer, need at the rates
 * of a large product or a large sum, measured here as train --plan does. Above 100: from caches, or
 * at the higher clock of a short run.
 *
 * Alone: launched --repeats times in a row, not captured, where a step has come to it: on that
 * step's data (src/program/timing.c). Below about 5 us a launch is what is measured. In a step: as
 * lockstep profile measures it, the mean of as many steps (at most 50) after as many that warm the
 * device up; what a step takes, and for how much of it no node runs, is the last line. Before,
 * steps are made until gradients are finite, as the loss scale finds its size in training.
 * --baseline: of the model in fp32 without the pass that fuses nodes, not captured. */
#include "bench/model.h"
#include "trace/trace.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_TRACED = 50 }; /* steps */

typedef struct line {
    char name[120];
    int runs;                         /* of a step */
    double alone, step, flops, bytes; /* of all runs; seconds alone, and in a step */
    double least;                     /* seconds under the ceilings */
} line;

/* What was measured; arrays by the number of the node. */
typedef struct figures {
    double *alone;   /* seconds of a run */
    double *in_step; /* seconds of all its runs in a step */
    double step, uncovered; /* seconds of a step; of that, no node ran; 0: not traced */
    lk_roofline ceiling;
} figures;

static int by_time(const void *a, const void *b)
{
    double x = ((const line *)a)->alone, y = ((const line *)b)->alone;
    return x > y ? -1 : x < y;
}

/* "linear [16384, 384] [1536, 384]": the op and its first two inputs. */
static void name_of(const lk_node *n, char text[120])
{
    char a[48] = "", b[48] = "";
    if (n->inputs > 0 && n->in[0]) lk_shape_text(n->in[0], a, sizeof a);
    if (n->inputs > 1 && n->in[1] && n->in[1]->region != LK_REGION_STATE)
        lk_shape_text(n->in[1], b, sizeof b);
    snprintf(text, 120, "%s %s %s", lk_op_name(n->op), a, b);
}

static int collect(const bench_model *m, const figures *f, line *list)
{
    int lines = 0, at = 0;
    for (const lk_node *n = m->graph.graph->first; n; n = n->next, at++) {
        int runs = n->section == LK_LEAF ? m->source.local_leaves : 1, i = 0;
        char name[120];
        double flops, bytes;
        name_of(n, name);
        lk_op_cost(n, &flops, &bytes);
        while (i < lines && strcmp(list[i].name, name) != 0) i++;
        if (i == lines) strcpy(list[lines++].name, name);
        list[i].runs += runs;
        list[i].alone += runs * f->alone[at];
        list[i].step += f->in_step[at];
        list[i].flops += runs * flops;
        list[i].bytes += runs * bytes;
        list[i].least += runs * lk_roofline_seconds(&f->ceiling, flops, bytes);
    }
    qsort(list, (size_t)lines, sizeof *list, by_time);
    return lines;
}

/* A time of a traced step; "-": none was. */
static void print_traced(const figures *f, double value, int width, int digits)
{
    if (f->step > 0) printf(" %*.*f", width, digits, value);
    else printf(" %*s", width, "-");
}

static void print_line(const figures *f, const line *l)
{
    bool computing = l->flops / f->ceiling.rate > l->bytes / f->ceiling.bandwidth;
    printf("%-60s %5d %10.1f", l->name, l->runs, 1e6 * l->alone / l->runs);
    print_traced(f, 1e6 * l->step / l->runs, 10, 1);
    printf(" %9.3f", 1e3 * l->alone);
    print_traced(f, 1e3 * l->step, 9, 3);
    printf(" %8.3f %7.1f %5.0f %s\n", 1e-12 * l->flops / l->alone, 1e-9 * l->bytes / l->alone,
           100 * l->least / l->alone, computing ? "flops" : "bytes");
}

static void print(const bench_arguments *a, const bench_model *m, const figures *f,
                  const line *list, int lines)
{
    line all = {.name = "all"};
    printf("ceilings measured here: %.4g TFLOP/s of a product in %s, %.4g GB/s of a sum\n",
           1e-12 * f->ceiling.rate, lk_dtype_name(m->graph.graph->compute),
           1e-9 * f->ceiling.bandwidth);
    printf("%-60s %5s %10s %10s %9s %9s %8s %7s %s\n", a->file, "runs", "us alone", "in a step",
           "ms alone", "in a step", "TFLOP/s", "GB/s", "% of ceiling");
    for (int i = 0; i < lines; i++) {
        print_line(f, &list[i]);
        all.runs += list[i].runs;
        all.alone += list[i].alone;
        all.step += list[i].step;
        all.least += list[i].least;
    }
    printf("%-60s %5d %10s %10s %9.3f", all.name, all.runs, "", "", 1e3 * all.alone);
    print_traced(f, 1e3 * all.step, 9, 3);
    printf(" %8s %7s %5.0f\n", "", "", 100 * all.least / all.alone);
    if (f->step > 0)
        printf("a step takes %.3f ms; for %.3f ms of it no node runs\n", 1e3 * f->step,
               1e3 * f->uncovered);
    else
        printf("times in a step need a lockstep built with CUPTI, which comes with the CUDA "
               "toolkit\n");
}

/* ---- measuring ------------------------------------------------------------------------------- */

static lk_status take_trace(lk_recorder *r, figures *f)
{
    lk_trace t = {.ranks = 0};
    lk_trace_summary s;
    LK_TRY(lk_recorder_finish(r, 0, 0, &t));
    lk_status status = lk_trace_summarise(&t, 1, &s);
    for (int64_t i = 0; i < t.spans && status == LK_OK; i++)
        if (t.span[i].node < t.nodes - 1)
            f->in_step[t.span[i].node] += t.span[i].seconds / t.steps;
    if (status == LK_OK) {
        f->step = s.step;
        f->uncovered = s.uncovered;
        lk_trace_summary_clear(&s);
    }
    lk_trace_clear(&t);
    return status;
}

static lk_status time_in_steps(const bench_model *m, int steps, figures *f)
{
    lk_recorder *r = NULL;
    if (!m->device->backend->tracer) return LK_OK;
    if (steps > MOST_TRACED) steps = MOST_TRACED;
    lk_status status = lk_recorder_start(m->program, m->graph.graph, m->device,
                                         m->source.local_leaves, steps, steps, &r);
    for (int i = 0; i < 2 * steps && status == LK_OK; i++) status = lk_program_run(m->program);
    if (status == LK_OK) status = take_trace(r, f);
    lk_recorder_destroy(r);
    return status;
}

static lk_status measure(const bench_arguments *a, const bench_model *m, figures *f)
{
    LK_TRY(bench_settle(m));
    LK_TRY(time_in_steps(m, (int)a->number, f));
    LK_TRY(lk_timing_step(m->program, m->graph.graph, m->source.local_leaves, (int)a->number,
                          f->alone));
    LK_TRY(bench_expect_finite(m, "the step whose nodes are timed"));
    return lk_roofline_measure(m->device, m->graph.graph->compute, &f->ceiling);
}

static lk_status bench(const bench_arguments *a, const bench_model *m)
{
    size_t nodes = 0;
    for (const lk_node *n = m->graph.graph->first; n; n = n->next) nodes++;
    figures f = {.alone = calloc(nodes, sizeof *f.alone),
                 .in_step = calloc(nodes, sizeof *f.in_step)};
    line *list = calloc(nodes, sizeof *list);
    lk_status status = f.alone && f.in_step && list ? measure(a, m, &f)
                                                    : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) print(a, m, &f, list, collect(m, &f, list));
    free(f.alone);
    free(f.in_step);
    free(list);
    return status;
}

static lk_status job(bench_arguments *a, lk_comm *comm)
{
    bench_model m;
    LK_TRY(bench_open(a, comm, !a->baseline, a->baseline, &m));
    bench_tell_device("kernels", &m);
    lk_status status = bench(a, &m);
    bench_close(&m);
    return status;
}

int main(int argc, char **argv)
{
    static const bench_command kernels = {
        .name = "kernels",
        .does = "Times every node of a training step, --repeats (10) times alone and in as many "
                "steps;\n--baseline: of the model in fp32 without the pass that fuses nodes.",
        .number = "--repeats",
        .otherwise = 10,
        .baseline = true,
        .job = job};
    return bench_main(&kernels, argc, argv);
}
