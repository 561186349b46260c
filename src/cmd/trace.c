/* lockstep trace FILE [--perfetto OUT] [--depth N] [--lines N] */
#include "base/replace.h"
#include "cmd/cmd.h"
#include "io/trace_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ---------------------------------------------------------------------------------- */

static void print_line(const lk_trace_line *l, double step, double unit)
{
    double flops = l->seconds > 0 ? l->flops / l->seconds : 0;
    double bytes = l->seconds > 0 ? l->bytes / l->seconds : 0;
    printf("  %-36.36s %6d %11.3f %7.1f %9.3f %9.2f ", l->name ? l->name : "total", l->nodes,
           1e3 * l->seconds, step > 0 ? 100 * l->seconds / step : 0, flops / unit, 1e-9 * bytes);
    if (l->least > 0 && l->seconds > 0) printf("%8.1f\n", 100 * l->least / l->seconds);
    else printf("%8s\n", "-");
}

static void print_table(const char *heading, const lk_trace_line *line, int lines, int most,
                        const lk_trace *t, const lk_trace_summary *s)
{
    int shown = most > 0 && most < lines ? most : lines;
    lk_trace_line rest = {.name = (char *)"all others"};
    const char *name;
    double unit = lk_trace_unit(t, &name);
    printf("\n%-38s %6s %11s %7s %9s %9s %8s\n", heading, "nodes", "ms a step", "%", name, "GB/s",
           "% peak");
    for (int i = 0; i < shown; i++) print_line(&line[i], s->step, unit);
    for (int i = shown; i < lines; i++) {
        rest.nodes += line[i].nodes;
        rest.seconds += line[i].seconds;
        rest.flops += line[i].flops;
        rest.bytes += line[i].bytes;
        rest.least += line[i].least;
    }
    if (shown < lines) print_line(&rest, s->step, unit);
    print_line(&s->total, s->step, unit);
}

static void print_share(const char *what, double seconds, double of)
{
    printf("  %-36s %18.3f %7.1f\n", what, 1e3 * seconds, of > 0 ? 100 * seconds / of : 0);
}

static void print_rank(const char *what, const lk_trace *t, const lk_trace_rank *r)
{
    printf("  %-36s %18.3f %7.1f  rank %d on %s, of a step of %.3f ms\n", what, 1e3 * r->own,
           r->step > 0 ? 100 * r->own / r->step : 0, r->rank, t->host[r->rank], 1e3 * r->step);
}

static void print_time(const lk_trace *t, const lk_trace_summary *s)
{
    printf("\n%-38s %18s %7s\n", "time of a step, mean", "ms", "%");
    print_share("a step", s->step, s->step);
    print_share("nodes, added up", s->total.seconds, s->step);
    print_share("in which a node ran", s->covered, s->step);
    print_share("in which none ran", s->uncovered, s->step);
    print_share("reduction over ranks", s->reduction, s->step);
    print_share("  beside other nodes", s->overlap, s->step);
    if (t->ranks > 1) {
        print_rank("slowest rank, own work", t, &s->slowest);
        print_rank("fastest rank, own work", t, &s->fastest);
    }
    if (t->lost)
        printf("  %lld kernels or copies belong to no node and are not counted\n",
               (long long)t->lost);
}

static void print_memory(const lk_trace *t, const lk_trace_summary *s)
{
    printf("\n%-38s %18s\n", "peak memory of a rank", "MiB");
    for (int i = 0; i < t->memories; i++) {
        int node = strcmp(t->memory[i].name, "activations") == 0 ? s->live
                   : strcmp(t->memory[i].name, "scratch") == 0   ? s->scratch
                                                                 : -1;
        printf("  %-36s %18.2f", t->memory[i].name, t->memory[i].bytes / 0x1p20);
        if (node >= 0) printf("  at %s (%s)", t->node[node].scope, t->node[node].op);
        printf("\n");
    }
}

static void print_trace(const lk_trace *t, const lk_trace_summary *s, int lines)
{
    printf("%s, %d rank%s, %d lea%s, steps %lld to %lld\n", t->device, t->ranks,
           t->ranks == 1 ? "" : "s", t->leaves, t->leaves == 1 ? "f" : "ves",
           (long long)t->first_step, (long long)t->first_step + t->steps - 1);
    const char *name;
    double unit = lk_trace_unit(t, &name);
    if (t->ceiling.rate > 0)
        printf("ceilings measured there: %.2f %s, %.1f GB/s\n", t->ceiling.rate / unit, name,
               1e-9 * t->ceiling.bandwidth);
    print_table("kinds of node", s->op, s->ops, 0, t, s);
    print_table("scopes", s->scope, s->scopes, lines, t, s);
    print_table("nodes", s->node, s->node_lines, lines, t, s);
    print_time(t, s);
    print_memory(t, s);
}

lk_status lk_cmd_print_trace(lk_io *io, const char *file, int depth, int lines)
{
    lk_trace t = {.ranks = 0};
    lk_trace_summary s;
    LK_TRY(lk_trace_load(io, file, &t));
    lk_status status = lk_trace_summarise(&t, depth, &s);
    if (status == LK_OK) {
        print_trace(&t, &s, lines);
        lk_trace_summary_clear(&s);
    }
    lk_trace_clear(&t);
    return status;
}

/* ---- export ---------------------------------------------------------------------------------- */

static lk_status export_to(const lk_trace *t, const char *path)
{
    lk_replace out;
    LK_TRY(lk_replace_open(&out, path, "the export", LK_BEGINS_TRACE));
    lk_status status = lk_trace_perfetto(t, out.file);
    if (status == LK_OK) return lk_replace_close(&out, false);
    lk_replace_discard(&out);
    return status;
}

lk_status lk_cmd_export_trace(lk_io *io, const char *file, const char *out)
{
    lk_trace t = {.ranks = 0};
    LK_TRY(lk_trace_load(io, file, &t));
    lk_status status = export_to(&t, out);
    if (status == LK_OK)
        printf("%s: %lld spans; open it at ui.perfetto.dev or chrome://tracing\n", out,
               (long long)t.spans);
    lk_trace_clear(&t);
    return status;
}

/* ---- the command ----------------------------------------------------------------------------- */

typedef struct options {
    const char *file, *perfetto;
    int depth, lines;
} options;

static const struct argp_option table[] = {
    {"perfetto", 'p', "OUT.json", 0,
     "Write the trace for ui.perfetto.dev or chrome://tracing instead of printing it", 0},
    {"depth", 'd', "N", 0, "Scopes are taken together by their first N parts (default 2)", 0},
    {"lines", 'n', "N", 0, "Lines of scopes and of nodes; 0: all (default 20)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'p': o->perfetto = arg; break;
    case 'd': o->depth = (int)lk_cmd_number(state, "--depth", arg, 1, 64); break;
    case 'n': o->lines = (int)lk_cmd_number(state, "--lines", arg, 0, 1000000); break;
    case ARGP_KEY_ARG:
        if (o->file) argp_error(state, "too many arguments at '%s'", arg);
        o->file = arg;
        break;
    case ARGP_KEY_END:
        if (!o->file) argp_error(state, "FILE is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static lk_status job(const lk_world *w, void *context)
{
    const options *o = context;
    if (o->perfetto) return lk_cmd_export_trace(w->io, o->file, o->perfetto);
    return lk_cmd_print_trace(w->io, o->file, o->depth, o->lines);
}

int lk_cmd_trace(int argc, char **argv)
{
    static const struct argp argp = {
        table,
        parse,
        "FILE",
        "Where the time of the traced steps went: FILE is the trace.h5 of a run with trace.from, "
        "or of 'lockstep profile --directory'.\v"
        "Times are those of the device (of the host's clock on the CPU), means over ranks and "
        "steps. TFLOP/s (on a device below one of them GFLOP/s) and GB/s are what a node must "
        "compute and move at least, by its time; % peak is the least time it could take under the "
        "two ceilings that were measured on the device, a large product and a large sum, by its "
        "time (roofline): above 100 what it moves was in a cache. Nodes that run beside each other "
        "are counted each. A rank waits for the others in the reduction, so that all take the same "
        "time for a step: the slowest is the one with the most work of its own, a step without the "
        "reduction that no other node runs beside.\n\n"
        "Examples:\n"
        "  $ lockstep trace runs/photos/trace.h5 --depth 3\n"
        "  $ lockstep trace runs/photos/trace.h5 --perfetto step.json",
        NULL,
        NULL,
        NULL};
    options o = {.depth = 2, .lines = 20};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    return lk_cmd_run("lockstep trace", true, job, &o);
}
