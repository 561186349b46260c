/* bench/kernels RUN.yaml [--vocabulary N] [--repeats N] [--baseline] [--set a.b=c]...
 *
 * Time every node of the training step of a run file's model alone, on random tokens, and print
 * one line for each op and shape: how many nodes, microseconds of one, milliseconds of all, and
 * TFLOP/s and GB/s from the op's own cost rule (GB/s counts the fewest bytes it must move). Nodes
 * are launched in a row, not captured: below about 5 us a launch is what is measured.
 * --baseline: of the model in fp32 with nothing fused. */
#include "bench/model.h"

#include <stdlib.h>
#include <string.h>

typedef struct line {
    char name[120];
    int count;
    double seconds, flops, bytes; /* of all nodes */
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

static int collect(const bench_model *m, const double *seconds, line *list)
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
    }
    qsort(list, (size_t)lines, sizeof *list, by_time);
    return lines;
}

static lk_status bench(const bench_arguments *a, bench_model *m)
{
    size_t nodes = 0;
    for (const lk_node *n = m->graph.graph->first; n; n = n->next) nodes++;
    double *seconds = calloc(nodes, sizeof *seconds);
    line *list = calloc(nodes, sizeof *list);
    lk_status status = seconds && list ? lk_program_time_nodes(m->program, a->number, seconds)
                                       : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) {
        int lines = collect(m, seconds, list);
        double total = 0;
        printf("%-60s %5s %10s %9s %8s %7s\n", a->file, "nodes", "us each", "ms all", "TFLOP/s",
               "GB/s");
        for (int i = 0; i < lines; i++) {
            const line *l = &list[i];
            printf("%-60s %5d %10.1f %9.3f %8.1f %7.0f\n", l->name, l->count,
                   1e6 * l->seconds / l->count, 1e3 * l->seconds, 1e-12 * l->flops / l->seconds,
                   1e-9 * l->bytes / l->seconds);
            total += l->seconds;
        }
        printf("%-60s %5zu %10s %9.3f\n", "all", nodes, "", 1e3 * total);
    }
    free(seconds);
    free(list);
    return status;
}

int main(int argc, char **argv)
{
    bench_arguments a;
    bench_model m = {.comm = NULL};
    lk_comm *comm = NULL;
    lk_status status = bench_parse(argc, argv, "--repeats", 10, &a);
    if (status == LK_OK) status = lk_comm_open(&comm);
    if (status == LK_OK) status = bench_open(&a, comm, false, a.baseline, &m);
    if (status == LK_OK) status = bench(&a, &m);
    if (status != LK_OK) fprintf(stderr, "kernels: %s\n", lk_error_text());
    bench_close(&m);
    lk_comm_close(comm);
    return (int)status;
}
