/* A run planned and not trained: what memory it takes and how long a step should last, from the
 * graphs a training run would build and two ceilings of the device measured here. */
#include "train/session.h"

#include "base/clock.h"
#include "io/checkpoint.h"
#include "ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *lk_memory_name(lk_memory kind)
{
    static const char *const name[LK_MEMORY_KINDS] = {
        [LK_MEMORY_PARAMETERS] = "parameters",
        [LK_MEMORY_SHADOW] = "half shadow",
        [LK_MEMORY_GRADIENTS] = "gradients",
        [LK_MEMORY_MOMENTS] = "moments",
        [LK_MEMORY_EMA] = "moving average",
        [LK_MEMORY_ACTIVATIONS] = "activations",
        [LK_MEMORY_SCRATCH] = "scratch",
        [LK_MEMORY_VALIDATION] = "more in validation",
        [LK_MEMORY_DATA] = "data",
        [LK_MEMORY_STAGING] = "reduction staging",
        [LK_MEMORY_LIBRARIES] = "libraries and tables",
        [LK_MEMORY_PINNED] = "pinned on the host",
    };
    return name[kind];
}

typedef struct planner {
    lk_comm *comm;
    const lk_run *run;
    lk_device *device;
    lk_dataset *data;
    int leaves, local;
    lk_loader_sizes sizes, held_sizes;
    lk_params *params;
    lk_loss_graph train, held, ema; /* held, ema: empty without validation or moving average */
    lk_step_plan plan;
} planner;

/* ---- the graphs, as a training run builds them ----------------------------------------------- */

static lk_status build_graphs(planner *p)
{
    LK_TRY(lk_session_expect(p->run, p->data));
    lk_model model = lk_session_model(p->run, p->data->vocabulary_size, &p->data->image);
    lk_loader_options order = lk_session_samples(p->comm, p->run, p->leaves, LK_TRAIN);
    lk_loader_options held = lk_session_samples(p->comm, p->run, p->leaves, LK_VALIDATION);
    p->local = order.local_leaves;
    p->params = lk_params_create();
    if (!p->params) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_loader_measure(p->data, &order, &p->sizes));
    lk_source source = lk_session_source(p->run, p->data, &p->sizes, &order);
    lk_passes passes = lk_session_passes(p->run);
    LK_TRY(lk_session_train_graph(p->comm, p->run, p->leaves, &model, &source, &passes, p->params,
                                  &p->train));
    if (p->run->eval.batches == 0) return LK_OK;
    LK_TRY(lk_loader_measure(p->data, &held, &p->held_sizes));
    source = lk_session_source(p->run, p->data, &p->held_sizes, &held);
    LK_TRY(lk_session_held_graph(p->run, &model, &source, false, p->params, &p->held));
    if (p->run->train.ema <= 0) return LK_OK;
    return lk_session_held_graph(p->run, &model, &source, true, p->params, &p->ema);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Arena and workspace of a graph's program. */
static lk_status program_bytes(lk_device *d, lk_graph *g, double *arena, double *scratch)
{
    size_t planned = 0, most = 0;
    LK_TRY(lk_plan(g, &planned));
    d->compute = g->compute;
    for (const lk_node *n = g->first; n; n = n->next) {
        size_t bytes = 0;
        LK_TRY(d->backend->prepare(d, n, &bytes));
        if (bytes > most) most = bytes;
    }
    *arena = (double)planned;
    *scratch = (double)most;
    return LK_OK;
}

lk_status lk_session_memory(const lk_memory_parts *p, double m[LK_MEMORY_KINDS])
{
    double flat = (double)p->params->total * sizeof(float), arena = 0, scratch = 0;
    double gradient = flat + LK_METRIC_FLOATS * sizeof(float), most = 0;
    for (int i = 0; i < 2; i++) {
        lk_graph *g = i ? p->ema : p->held;
        if (!g) continue;
        LK_TRY(program_bytes(p->device, g, &arena, &scratch));
        if (arena + scratch > most) most = arena + scratch;
    }
    LK_TRY(program_bytes(p->device, p->train, &arena, &scratch));
    m[LK_MEMORY_ACTIVATIONS] = arena;
    m[LK_MEMORY_SCRATCH] = scratch;
    m[LK_MEMORY_VALIDATION] = most > arena + scratch ? most - arena - scratch : 0;
    m[LK_MEMORY_PARAMETERS] = flat;
    m[LK_MEMORY_SHADOW] = p->train->compute == LK_F32 ? 0 : flat / 2;
    m[LK_MEMORY_GRADIENTS] = lk_store_gradients(p->local_leaves) * gradient;
    m[LK_MEMORY_MOMENTS] = 2 * flat;
    m[LK_MEMORY_EMA] = p->average ? flat : 0;
    m[LK_MEMORY_DATA] = (double)(p->sizes.device_bytes + p->held_sizes.device_bytes);
    m[LK_MEMORY_STAGING] = p->ranks > 1 ? gradient / 2 : 0;
    m[LK_MEMORY_LIBRARIES] = (double)p->device->kept; /* all nodes have been prepared */
    lk_store_options store = {.training = true, .ema = p->average};
    size_t copy = 0;
    LK_TRY(lk_checkpoint_snapshot_bytes(p->params, &store, p->rank, p->ranks, &copy));
    m[LK_MEMORY_PINNED] = (double)(p->sizes.pinned_bytes + p->held_sizes.pinned_bytes + copy);
    return LK_OK;
}

static lk_status plan_memory(planner *p)
{
    LK_TRY(lk_session_memory(&(lk_memory_parts){.device = p->device,
                                                .params = p->params,
                                                .train = p->train.graph,
                                                .held = p->held.graph,
                                                .ema = p->ema.graph,
                                                .sizes = p->sizes,
                                                .held_sizes = p->held_sizes,
                                                .local_leaves = p->local,
                                                .rank = p->comm->rank,
                                                .ranks = p->comm->size,
                                                .average = p->run->train.ema > 0},
                             p->plan.memory));
    for (int i = 0; i < LK_MEMORY_PINNED; i++) p->plan.device_bytes += p->plan.memory[i];
    return LK_OK;
}

/* ---- time ------------------------------------------------------------------------------------ */

enum { ROUNDS = 4, REPEATS = 5, REDUCED = 1 << 22 }; /* floats of the reduction timed, at most */

/* Seconds of one, as in lk_roofline_measure(): the shortest of all, and of the round where that is
 * longest. */
static lk_status time_reduce(planner *p, float *buffer, int64_t floats, double *least,
                             double *worst)
{
    static const struct timespec pause = {.tv_nsec = 30000000};
    bool exact = strcmp(p->run->train.reduce, "exact") == 0;
    *least = INFINITY;
    *worst = 0;
    LK_TRY(lk_reduce(p->comm, p->device, buffer, floats, exact)); /* connects the ranks */
    for (int round = 0; round < ROUNDS; round++) {
        double best = INFINITY;
        LK_TRY(p->device->backend->sync(p->device));
        nanosleep(&pause, NULL);
        for (int i = 0; i < REPEATS; i++) {
            double begin = lk_clock_seconds();
            LK_TRY(lk_reduce(p->comm, p->device, buffer, floats, exact));
            LK_TRY(p->device->backend->sync(p->device));
            best = fmin(best, lk_clock_seconds() - begin);
        }
        *least = fmin(*least, best);
        *worst = fmax(*worst, best);
    }
    return LK_OK;
}

/* Seconds to sum the run's gradients over ranks: a part of them is timed. */
static lk_status time_reduction(planner *p)
{
    double *least = &p->plan.reduction, *worst = &p->plan.reduction_worst;
    const lk_backend *b = p->device->backend;
    int64_t all = p->params->total + LK_METRIC_FLOATS, floats = all < REDUCED ? all : REDUCED;
    void *buffer = NULL;
    if (p->comm->size == 1) return LK_OK;
    lk_status status = b->alloc(p->device, (size_t)floats * sizeof(float), &buffer);
    status = lk_comm_agree(p->comm, status);
    if (status == LK_OK)
        status = lk_comm_agree(p->comm, lk_comm_attach(p->comm, p->device, floats));
    if (status == LK_OK)
        status = lk_comm_agree(p->comm, time_reduce(p, buffer, floats, least, worst));
    lk_comm_detach(p->comm);
    if (buffer) b->release(p->device, buffer);
    *least *= (double)all / (double)floats;
    *worst *= (double)all / (double)floats;
    return status;
}

static void count(lk_plan_line *line, int nodes, double times, double flops, double bytes,
                  double seconds)
{
    line->nodes += nodes;
    line->flops += times * flops;
    line->bytes += times * bytes;
    line->seconds += times * seconds;
}

static int by_seconds(const void *a, const void *b)
{
    double x = ((const lk_plan_line *)a)->seconds, y = ((const lk_plan_line *)b)->seconds;
    return x > y ? -1 : x < y;
}

/* Nodes of a leaf count once for each leaf of this rank; leaves are added up pairwise besides. */
static void predict(planner *p)
{
    lk_step_plan *plan = &p->plan;
    lk_plan_line kind[LK_OPS + 1] = {[LK_OPS] = {.name = "leaf_sums"}};
    double flops, bytes;
    for (const lk_node *n = p->train.graph->first; n; n = n->next) {
        double times = n->section == LK_LEAF ? p->local : 1;
        lk_op_cost(n, &flops, &bytes);
        kind[n->op].name = lk_op_name(n->op);
        count(&kind[n->op], 1, times, flops, bytes,
              n->section == LK_LAST ? 0 : lk_roofline_seconds(&plan->ceiling, flops, bytes));
    }
    kind[LK_OP_REDUCE].seconds = p->plan.reduction;
    lk_program_sums_cost(p->params, p->local, &flops, &bytes);
    count(&kind[LK_OPS], 0, 1, flops, bytes, lk_roofline_seconds(&plan->ceiling, flops, bytes));
    for (int i = 0; i <= LK_OPS; i++) {
        if (kind[i].nodes == 0 && kind[i].bytes == 0) continue;
        count(&plan->total, kind[i].nodes, 1, kind[i].flops, kind[i].bytes, kind[i].seconds);
        plan->line[plan->lines++] = kind[i];
    }
    plan->total.name = "total";
    qsort(plan->line, (size_t)plan->lines, sizeof *plan->line, by_seconds);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static lk_status work_out(planner *p)
{
    lk_comm *c = p->comm;
    LK_TRY(lk_comm_agree(c, build_graphs(p)));
    LK_TRY(lk_comm_agree(c, plan_memory(p)));
    LK_TRY(lk_comm_agree(c, lk_roofline_measure(p->device, lk_session_compute(p->run),
                                                &p->plan.ceiling)));
    LK_TRY(time_reduction(p));
    predict(p);
    p->device->backend->describe(p->device, p->plan.device, sizeof p->plan.device);
    p->plan.ranks = c->size;
    p->plan.leaves = p->leaves;
    p->plan.nodes = p->plan.total.nodes;
    p->plan.parameters = lk_params_learned(p->params);
    return LK_OK;
}

lk_status lk_train_plan(lk_comm *comm, lk_io *io, const lk_run *run, lk_step_plan *plan)
{
    planner p = {.comm = comm, .run = run};
    lk_status status = lk_comm_agree(comm, lk_session_leaves(comm, run, 0, &p.leaves));
    if (status == LK_OK)
        status = lk_comm_agree(comm, lk_session_device(comm, run->train.device,
                                                       lk_run_precision(run), &p.device));
    if (status == LK_OK) status = lk_dataset_open(io, comm->world, run->data.file, &p.data);
    if (status == LK_OK) status = work_out(&p);
    /* where the others are still at work, closing the data would wait for them */
    if (status != LK_OK && !lk_comm_all_failed(comm, 2.0)) return status;
    lk_graph_destroy(p.train.graph);
    lk_graph_destroy(p.held.graph);
    lk_graph_destroy(p.ema.graph);
    lk_params_destroy(p.params);
    lk_dataset_close(p.data);
    lk_session_device_close(p.device);
    if (status == LK_OK) *plan = p.plan;
    return status;
}
