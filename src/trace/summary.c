/* Sums over a trace. A step's time is covered where at least one span runs: lengths of unions of
 * intervals, found by one pass over spans sorted by their begin. */
#include "trace/trace.h"

#include <stdlib.h>
#include <string.h>

/* ---- lines ----------------------------------------------------------------------------------- */

static int by_seconds(const void *a, const void *b)
{
    double x = ((const lk_trace_line *)a)->seconds, y = ((const lk_trace_line *)b)->seconds;
    return x > y ? -1 : x < y;
}

/* depth -1: the op; 0: scope and op; above: the first `depth` parts of the scope. */
static char *name_of(const lk_trace_node *n, int depth)
{
    if (depth < 0 || strcmp(n->scope, n->op) == 0) return strdup(n->op);
    size_t length = strlen(n->scope), room = length + strlen(n->op) + 2;
    const char *end = n->scope - 1;
    for (int i = 0; i < depth && end; i++) end = strchr(end + 1, '.');
    if (depth > 0 && end) length = (size_t)(end - n->scope);
    char *name = malloc(room);
    if (name)
        snprintf(name, room, "%.*s%s%s", (int)length, n->scope, depth == 0 ? " " : "",
                 depth == 0 ? n->op : "");
    return name;
}

static void add(lk_trace_line *l, const lk_trace *t, int node, const double *seconds)
{
    const lk_trace_node *n = &t->node[node];
    l->nodes += node < t->nodes - 1; /* the last, sums over leaves, is no node */
    l->seconds += seconds[node];
    l->flops += n->flops;
    l->bytes += n->bytes;
    l->least += lk_roofline_seconds(&t->ceiling, n->flops, n->bytes);
}

/* One line for each name that nodes have: depth -1 ops, 0 nodes, above scopes. */
static lk_status collect(const lk_trace *t, const double *seconds, int depth, lk_trace_line **line,
                         int *lines)
{
    lk_trace_line *l = *line = calloc((size_t)t->nodes + 1, sizeof *l);
    if (!l) return lk_fail(LK_E_SYSTEM, "out of memory for the sums of a trace");
    for (int i = 0; i < t->nodes; i++) {
        char *name = name_of(&t->node[i], depth);
        int k = depth == 0 ? *lines : 0;
        if (!name) return lk_fail(LK_E_SYSTEM, "out of memory for the sums of a trace");
        if (seconds[i] == 0 && t->node[i].flops == 0 && i == t->nodes - 1) { /* no sums */
            free(name);
            continue;
        }
        while (k < *lines && strcmp(l[k].name, name) != 0) k++;
        if (k == *lines) l[(*lines)++].name = name;
        else free(name);
        add(&l[k], t, i, seconds);
    }
    qsort(l, (size_t)*lines, sizeof *l, by_seconds);
    return LK_OK;
}

/* ---- intervals ------------------------------------------------------------------------------- */

static int by_step(const void *a, const void *b)
{
    const lk_trace_span *x = *(const lk_trace_span *const *)a;
    const lk_trace_span *y = *(const lk_trace_span *const *)b;
    if (x->rank != y->rank) return x->rank - y->rank;
    if (x->step != y->step) return x->step - y->step;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

typedef struct cover {
    double length, end; /* of the union so far; end of its last interval */
    bool any;
} cover;

static void extend(cover *c, const lk_trace_span *s)
{
    double end = s->begin + s->seconds;
    if (!c->any || s->begin > c->end) {
        c->length += s->seconds;
        c->end = end;
    } else if (end > c->end) {
        c->length += end - c->end;
        c->end = end;
    }
    c->any = true;
}

static bool reduces(const lk_trace *t, const lk_trace_span *s)
{
    return strcmp(t->node[s->node].op, "reduce") == 0;
}

/* Sums over ranks and steps of covered, reduction and overlap; alone: of each rank, the reduction
 * beside which nothing else ran. */
static lk_status measure_cover(const lk_trace *t, lk_trace_summary *s, double *alone)
{
    const lk_trace_span **list = calloc((size_t)t->spans + 1, sizeof *list);
    if (!list) return lk_fail(LK_E_SYSTEM, "out of memory for the sums of a trace");
    for (int64_t i = 0; i < t->spans; i++) list[i] = &t->span[i];
    qsort(list, (size_t)t->spans, sizeof *list, by_step);
    for (int64_t i = 0; i < t->spans;) {
        cover all = {0}, reduction = {0}, other = {0};
        const lk_trace_span *first = list[i];
        for (; i < t->spans && list[i]->rank == first->rank && list[i]->step == first->step; i++) {
            extend(&all, list[i]);
            extend(reduces(t, list[i]) ? &reduction : &other, list[i]);
        }
        s->covered += all.length;
        s->reduction += reduction.length;
        s->overlap += reduction.length + other.length - all.length;
        alone[first->rank] += all.length - other.length;
    }
    free(list);
    return LK_OK;
}

/* ---- ranks and memory ------------------------------------------------------------------------ */

static void measure_ranks(const lk_trace *t, lk_trace_summary *s, const double *alone)
{
    for (int r = 0; r < t->ranks; r++) {
        lk_trace_rank rank = {.rank = r};
        const lk_trace_step *of = &t->step[(int64_t)r * t->steps];
        for (int i = 0; i < t->steps; i++) rank.step += of[i].seconds / t->steps;
        rank.own = rank.step - alone[r] / t->steps;
        if (r == 0 || rank.own > s->slowest.own) s->slowest = rank;
        if (r == 0 || rank.own < s->fastest.own) s->fastest = rank;
        s->step += rank.step / t->ranks;
    }
}

static void find_peaks(const lk_trace *t, lk_trace_summary *s)
{
    s->live = s->scratch = -1;
    for (int i = 0; i < t->nodes; i++) {
        const lk_trace_node *n = &t->node[i];
        if (n->live > 0 && (s->live < 0 || n->live > t->node[s->live].live)) s->live = i;
        if (n->scratch > 0 && (s->scratch < 0 || n->scratch > t->node[s->scratch].scratch))
            s->scratch = i;
    }
}

static lk_status work_out(const lk_trace *t, int depth, double *seconds, double *alone,
                          lk_trace_summary *s)
{
    double times = (double)t->ranks * t->steps;
    for (int64_t i = 0; i < t->spans; i++) seconds[t->span[i].node] += t->span[i].seconds / times;
    LK_TRY(collect(t, seconds, -1, &s->op, &s->ops));
    LK_TRY(collect(t, seconds, depth, &s->scope, &s->scopes));
    LK_TRY(collect(t, seconds, 0, &s->node, &s->node_lines));
    LK_TRY(measure_cover(t, s, alone));
    for (int i = 0; i < t->nodes; i++) add(&s->total, t, i, seconds);
    measure_ranks(t, s, alone);
    find_peaks(t, s);
    s->covered /= times;
    s->reduction /= times;
    s->overlap /= times;
    s->uncovered = s->step > s->covered ? s->step - s->covered : 0;
    return LK_OK;
}

lk_status lk_trace_summarise(const lk_trace *t, int depth, lk_trace_summary *result)
{
    lk_trace_summary s = {.op = NULL};
    double *seconds = calloc((size_t)t->nodes + 1, sizeof *seconds);
    double *alone = calloc((size_t)t->ranks + 1, sizeof *alone);
    lk_status status = seconds && alone
                           ? work_out(t, depth, seconds, alone, &s)
                           : lk_fail(LK_E_SYSTEM, "out of memory for the sums of a trace");
    free(seconds);
    free(alone);
    if (status != LK_OK) lk_trace_summary_clear(&s);
    else *result = s;
    return status;
}

static void free_lines(lk_trace_line *l, int lines)
{
    for (int i = 0; i < lines && l; i++) free(l[i].name);
    free(l);
}

void lk_trace_summary_clear(lk_trace_summary *s)
{
    free_lines(s->op, s->ops);
    free_lines(s->scope, s->scopes);
    free_lines(s->node, s->node_lines);
    *s = (lk_trace_summary){.op = NULL};
}

double lk_trace_unit(const lk_trace *t, const char **name)
{
    bool large = t->ceiling.rate >= 1e12;
    *name = large ? "TFLOP/s" : "GFLOP/s";
    return large ? 1e12 : 1e9;
}
