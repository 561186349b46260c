/* Times of nodes alone, each on the data of a real step: an observer of one step that has every
 * node run many times in a row when its turn comes, in the rank's last leaf and after the leaves.
 *
 * A node that reads what it writes (in place, added to what is there, or by its rule's `writes`)
 * gets its bytes back after every TOGETHER runs, so that nothing grows beyond its type, and after
 * all, to run once more: the step computes what it would have computed without. */
#include "base/clock.h"
#include "ops/ops.h"
#include "program/program.h"

#include <stdlib.h>

enum { TOGETHER = 10, RANGES = LK_MAX_INPUTS + LK_MAX_OUTPUTS };

/* Bytes on the device, and what they held before the node. */
typedef struct range {
    char *device, *host;
    size_t bytes;
} range;

typedef struct timer {
    lk_observer observer; /* first */
    const lk_graph *graph;
    int last_leaf, repeats;
    double *seconds;
    const lk_node *node; /* that came last */
    int at;              /* its number */
    range saved[RANGES];
    int ranges;
} timer;

static bool is_timed(const timer *t, const lk_exec *x, const lk_node *n)
{
    return n && (n->section == LK_STEP || x->local_leaf == t->last_leaf);
}

/* Nodes come in the order of the list, those of a step after those of a leaf. */
static int number_of(timer *t, const lk_node *n)
{
    while (t->node != n) {
        bool more = t->node && t->node->next;
        t->node = more ? t->node->next : t->graph->first;
        t->at = more ? t->at + 1 : 0;
    }
    return t->at;
}

/* ---- what a node reads and writes ------------------------------------------------------------ */

static void forget(timer *t)
{
    for (int i = 0; i < t->ranges; i++) free(t->saved[i].host);
    t->ranges = 0;
}

static lk_status save(timer *t, const lk_exec *x, const lk_tensor *tensor)
{
    range *r = &t->saved[t->ranges];
    *r = (range){lk_data(x, tensor), malloc(lk_bytes(tensor)), lk_bytes(tensor)};
    if (!r->host) return lk_fail(LK_E_SYSTEM, "out of memory timing a node");
    t->ranges++;
    return x->device->backend->download(x->device, r->host, r->device, r->bytes);
}

static lk_status restore(const timer *t, lk_device *d)
{
    for (int i = 0; i < t->ranges; i++)
        LK_TRY(d->backend->upload(d, t->saved[i].device, t->saved[i].host, t->saved[i].bytes));
    return d->backend->sync(d);
}

static bool overlap(const lk_exec *x, const lk_tensor *a, const lk_tensor *b)
{
    const char *from = lk_data(x, a), *other = lk_data(x, b);
    return from < other + lk_bytes(b) && other < from + lk_bytes(a);
}

static bool reads(const lk_exec *x, const lk_node *n, int output)
{
    if (n->accumulate >> output & 1) return true;
    for (int i = 0; i < n->inputs; i++)
        if (n->in[i] && overlap(x, n->out[output], n->in[i])) return true;
    return false;
}

static lk_status node_begins(lk_observer *o, const lk_exec *x, const lk_node *n)
{
    timer *t = (timer *)o;
    if (!is_timed(t, x, n)) return LK_OK;
    forget(t);
    for (int i = 0; i < n->outputs; i++)
        if (n->out[i] && reads(x, n, i)) LK_TRY(save(t, x, n->out[i]));
    for (int i = 0; i < n->inputs; i++)
        if (n->in[i] && lk_op_rule(n->op)->writes >> i & 1) LK_TRY(save(t, x, n->in[i]));
    return x->device->backend->sync(x->device);
}

/* ---- time ------------------------------------------------------------------------------------ */

static lk_status time_runs(lk_exec *x, const lk_node *n, int runs, double *seconds)
{
    const lk_backend *b = x->device->backend;
    LK_TRY(b->sync(x->device));
    double begin = lk_clock_seconds();
    for (int i = 0; i < runs; i++) LK_TRY(b->kernel[n->op](x, n));
    LK_TRY(b->sync(x->device));
    *seconds += lk_clock_seconds() - begin;
    return LK_OK;
}

/* The node has run once, which prepared what it needs. */
static lk_status node_ended(lk_observer *o, const lk_exec *given, const lk_node *n)
{
    timer *t = (timer *)o;
    lk_exec x = *given;
    double seconds = 0;
    if (!is_timed(t, given, n)) return LK_OK;
    for (int done = 0, runs; done < t->repeats; done += runs) {
        runs = t->repeats - done;
        if (t->ranges > 0 && runs > TOGETHER) runs = TOGETHER;
        if (t->ranges > 0) LK_TRY(restore(t, x.device));
        LK_TRY(time_runs(&x, n, runs, &seconds));
    }
    t->seconds[number_of(t, n)] = seconds / t->repeats;
    if (t->ranges == 0) return LK_OK;
    LK_TRY(restore(t, x.device));
    return x.device->backend->kernel[n->op](&x, n);
}

lk_status lk_timing_step(lk_program *p, const lk_graph *g, int local_leaves, int repeats,
                         double *seconds)
{
    static const lk_observer_calls calls = {.begin = node_begins, .end = node_ended};
    timer t = {.observer = {.calls = &calls, .direct = true},
               .graph = g,
               .last_leaf = local_leaves - 1,
               .repeats = repeats,
               .seconds = seconds};
    lk_program_observe(p, &t.observer);
    lk_status status = lk_program_run(p);
    lk_program_unobserve(p, &t.observer);
    forget(&t);
    return status;
}
