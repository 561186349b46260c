/* bench/kernels RUN.yaml [--vocabulary N] [--repeats N] [--baseline] [--set a.b=c]...
 *
 * Time every node of the training step of a run file's model alone, on random tokens, and print
 * one line for each op and shape: how many nodes, microseconds of one, milliseconds of all, and
 * TFLOP/s and GB/s from the op's own cost rule (GB/s counts the fewest bytes it must move). Then
 * the percent of the ceiling that binds it: of the time that its flops or its bytes, whichever take
 * longer, need at the rates of a large product or a large sum, measured here as train --plan does.
 * Above 100: from caches, or at the higher clock of a short run. Nodes are launched in a row, not
 * captured: below about 5 us a launch is what is measured.
 * --baseline: of the model in fp32 without the pass that fuses nodes. */
#include "bench/model.h"
#include "trace/roofline.h"

#include <stdlib.h>
#include <string.h>

typedef struct line {
    char name[120];
    int count;
    double seconds, flops, bytes; /* of all nodes */
    double least;                 /* seconds under the ceilings */
} line;

static int by_time(const void *a, const void *b)
{
    double x = ((const line *)a)->seconds, y = ((const line *)b)->seconds;
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

static int collect(const bench_model *m, const lk_roofline *ceiling, const double *seconds,
                   line *list)
{
    int lines = 0, at = 0;
    for (const lk_node *n = m->graph.graph->first; n; n = n->next, at++) {
        char name[120];
        double flops, bytes;
        int i = 0;
        name_of(n, name);
        lk_op_cost(n, &flops, &bytes);
        while (i < lines && strcmp(list[i].name, name) != 0) i++;
        if (i == lines) {
            list[lines] = (line){.count = 0};
            strcpy(list[lines++].name, name);
        }
        list[i].count++;
        list[i].seconds += seconds[at];
        list[i].flops += flops;
        list[i].bytes += bytes;
        list[i].least += lk_roofline_seconds(ceiling, flops, bytes);
    }
    qsort(list, (size_t)lines, sizeof *list, by_time);
    return lines;
}

static void print(const bench_arguments *a, const bench_model *m, const lk_roofline *ceiling,
                  const line *list, int lines)
{
    line all = {.name = "all"};
    printf("ceilings measured here: %.4g TFLOP/s of a product in %s, %.4g GB/s of a sum\n",
           1e-12 * ceiling->rate, lk_dtype_name(m->graph.graph->compute),
           1e-9 * ceiling->bandwidth);
    printf("%-60s %5s %10s %9s %8s %7s %s\n", a->file, "nodes", "us each", "ms all", "TFLOP/s",
           "GB/s", "% of ceiling");
    for (int i = 0; i < lines; i++) {
        const line *l = &list[i];
        bool computing = l->flops / ceiling->rate > l->bytes / ceiling->bandwidth;
        printf("%-60s %5d %10.1f %9.3f %8.3f %7.1f %5.0f %s\n", l->name, l->count,
               1e6 * l->seconds / l->count, 1e3 * l->seconds, 1e-12 * l->flops / l->seconds,
               1e-9 * l->bytes / l->seconds, 100 * l->least / l->seconds,
               computing ? "flops" : "bytes");
        all.count += l->count;
        all.seconds += l->seconds;
        all.least += l->least;
    }
    printf("%-60s %5d %10s %9.3f %8s %7s %5.0f\n", all.name, all.count, "", 1e3 * all.seconds, "",
           "", 100 * all.least / all.seconds);
}

static lk_status bench(const bench_arguments *a, const bench_model *m)
{
    size_t nodes = 0;
    lk_roofline ceiling;
    for (const lk_node *n = m->graph.graph->first; n; n = n->next) nodes++;
    double *seconds = calloc(nodes, sizeof *seconds);
    line *list = calloc(nodes, sizeof *list);
    lk_status status = seconds && list
                           ? lk_program_time_nodes(m->program, (int)a->number, seconds)
                           : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK)
        status = lk_roofline_measure(m->device, m->graph.graph->compute, &ceiling);
    if (status == LK_OK) print(a, m, &ceiling, list, collect(m, &ceiling, seconds, list));
    free(seconds);
    free(list);
    return status;
}

static lk_status job(bench_arguments *a, lk_comm *comm)
{
    bench_model m;
    LK_TRY(bench_open(a, comm, false, a->baseline, &m));
    lk_status status = bench(a, &m);
    bench_close(&m);
    return status;
}

int main(int argc, char **argv)
{
    static const bench_command kernels = {.name = "kernels", .number = "--repeats",
                                          .otherwise = 10, .baseline = true, .job = job};
    return bench_main(&kernels, argc, argv);
}
