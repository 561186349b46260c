/* The ceilings of a device, measured by a large product and a large sum.
 *
 * What else a machine does only makes a measurement longer, so of many short ones, spread over more
 * than a second, the shortest counts. */
#include "trace/roofline.h"

#include "base/clock.h"
#include "ops/ops.h"
#include "program/program.h"

#include <math.h>
#include <stdlib.h>

enum { LARGEST = 4096, SUM_COLS = 4096, SUM_LARGEST = 8192, FEW = 5 };
static const double ENOUGH = 1e-3; /* seconds: a measurement as long tells the ceiling */
static const double ROUND = 0.05;  /* seconds of measurements of a ceiling in a round, at least */
static const double SPENT = 1.4;   /* seconds after which no round begins */
/* Before a round: on a busy machine two threads may share a core until one of them sleeps. */
static const struct timespec PAUSE = {.tv_nsec = 30000000};

/* A graph of one node that reads a, b [rows, cols] of the working type. */
typedef struct probe {
    lk_op op; /* LINEAR or ADD */
    int64_t rows, cols, largest;
    double flops, bytes; /* of one run */
    double seconds;      /* of one run in the shortest measurement so far */
    double now, worst;   /* the same of the round that runs; of the round where it was longest */
} probe;

/* Random bits made values of 0.5 to 1 in size: what zeros need of power is no measure. */
static lk_status fill(lk_device *d, lk_dtype type, size_t bytes, void *device)
{
    uint32_t *host = malloc(bytes), x = 1;
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory measuring the device");
    uint32_t keep = 0x807fffffu, set = 0x3f000000u; /* sign and fraction; exponent */
    if (type == LK_F16) keep = 0x83ff83ffu, set = 0x38003800u;
    if (type == LK_BF16) keep = 0x807f807fu, set = 0x3f003f00u;
    for (size_t i = 0; i < bytes / sizeof x; i++) {
        x = x * 1664525u + 1013904223u; /* D. Knuth, TAOCP 2, 3.3.4: the upper bits will do */
        host[i] = ((x ^ x >> 15) & keep) | set;
    }
    lk_status status = d->backend->upload(d, device, host, bytes);
    if (status == LK_OK) status = d->backend->sync(d);
    free(host);
    return status;
}

/* The mean of `runs` in a row, if it is the shortest so far. */
static lk_status time_runs(lk_device *d, lk_program *program, int runs, probe *p)
{
    double begin = lk_clock_seconds();
    for (int i = 0; i < runs; i++) LK_TRY(lk_program_run(program));
    LK_TRY(d->backend->sync(d));
    double seconds = (lk_clock_seconds() - begin) / runs;
    if (seconds < p->seconds) p->seconds = seconds;
    if (seconds < p->now) p->now = seconds;
    return LK_OK;
}

static bool large_enough(const probe *p) { return p->seconds >= ENOUGH || p->rows >= p->largest; }

/* A few measurements tell whether this size is large enough, and then more its ceiling; each is of
 * so many runs that it is long enough itself. */
static lk_status time_size(lk_device *d, lk_program *program, probe *p)
{
    double begin = lk_clock_seconds();
    LK_TRY(lk_program_run(program)); /* the first one prepares */
    LK_TRY(time_runs(d, program, 1, p));
    for (int i = 1; i < FEW || (large_enough(p) && lk_clock_seconds() - begin < ROUND); i++)
        LK_TRY(time_runs(d, program, (int)(ENOUGH / p->seconds) + 1, p));
    return LK_OK;
}

static lk_status time_program(lk_device *d, lk_graph *g, lk_tensor *const input[2], lk_store *store,
                              char *memory, probe *p)
{
    lk_program_options o = {.local_leaves = 1};
    lk_program *program;
    size_t bytes = lk_bytes(input[0]);
    LK_TRY(lk_program_create(g, store, &o, &program));
    lk_program_bind(program, input[0], 0, memory);
    lk_program_bind(program, input[1], 0, memory + bytes);
    lk_status status = fill(d, g->compute, 2 * bytes, memory);
    if (status == LK_OK) status = time_size(d, program, p);
    lk_program_destroy(program);
    lk_op_cost(g->first, &p->flops, &p->bytes);
    return status;
}

static lk_status time_graph(lk_device *d, lk_graph *g, lk_dtype type, const lk_params *params,
                            probe *p)
{
    int64_t dim[2] = {p->rows, p->cols};
    lk_tensor *in[2] = {lk_input(g, "a", type, 2, dim), lk_input(g, "b", type, 2, dim)};
    if (p->op == LK_OP_LINEAR) lk_linear(g, in[0], in[1], NULL, LK_LINEAR);
    else lk_add(g, in[0], in[1]);
    LK_TRY(lk_autocast(g, type));
    lk_store *store = NULL;
    void *memory = NULL;
    lk_status status =
        lk_store_create(d, params, &(lk_store_options){.compute = type, .local_leaves = 1}, &store);
    if (status == LK_OK) status = d->backend->alloc(d, 2 * lk_bytes(in[0]), &memory);
    if (status == LK_OK) status = time_program(d, g, in, store, memory, p);
    if (memory) d->backend->release(d, memory);
    lk_store_destroy(store);
    return status;
}

static lk_status time_probe(lk_device *d, lk_dtype type, probe *p)
{
    lk_params *params = lk_params_create();
    lk_graph *g = params ? lk_graph_create(params, false) : NULL;
    if (params) lk_params_layout(params); /* of no parameters: a store wants it */
    lk_status status = g ? time_graph(d, g, type, params, p)
                         : lk_fail(LK_E_SYSTEM, "out of memory measuring the device");
    lk_graph_destroy(g);
    lk_params_destroy(params);
    return status;
}

/* A round. Grows until it is large enough to be worth believing. */
static lk_status time_ceiling(lk_device *d, lk_dtype type, probe *p)
{
    p->now = INFINITY;
    LK_TRY(time_probe(d, type, p));
    while (!large_enough(p)) {
        p->rows *= 2;
        if (p->op == LK_OP_LINEAR) p->cols = p->rows;
        p->seconds = p->now = INFINITY;
        LK_TRY(time_probe(d, type, p));
    }
    if (p->now > p->worst) p->worst = p->now;
    return LK_OK;
}

lk_status lk_roofline_measure(lk_device *d, lk_dtype type, lk_roofline *r)
{
    probe product = {LK_OP_LINEAR, 512, 512, LARGEST, .seconds = INFINITY};
    int64_t rows = SUM_LARGEST / (int64_t)lk_dtype_size(type); /* 100 MB: beyond most caches */
    probe sum = {LK_OP_ADD, rows, SUM_COLS, SUM_LARGEST, .seconds = INFINITY};
    double begin = lk_clock_seconds();
    do {
        nanosleep(&PAUSE, NULL);
        LK_TRY(time_ceiling(d, type, &product));
        LK_TRY(time_ceiling(d, type, &sum));
    } while (lk_clock_seconds() - begin < SPENT);
    *r = (lk_roofline){.rate = product.flops / product.seconds,
                       .bandwidth = sum.bytes / sum.seconds,
                       .rate_low = product.flops / product.worst,
                       .bandwidth_low = sum.bytes / sum.worst};
    return LK_OK;
}
