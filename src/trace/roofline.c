/* The ceilings of a device, measured by a large product and a large sum. */
#include "trace/roofline.h"

#include "ops/ops.h"
#include "program/program.h"

#include <stdlib.h>

enum { REPEATS = 5, LARGEST = 4096, SUM_COLS = 4096, SUM_LARGEST = 8192 };
static const double ENOUGH = 4e-3; /* seconds: a node that takes as long tells the ceiling */

/* A graph of one node that reads a, b [rows, cols] of the working type. */
typedef struct probe {
    lk_op op; /* LINEAR or ADD */
    int64_t rows, cols;
    double seconds, flops, bytes;
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

static lk_status time_program(lk_device *d, lk_graph *g, lk_tensor *const input[2], lk_store *store,
                              char *memory, probe *p)
{
    lk_program_options o = {.local_leaves = 1};
    lk_program *program;
    size_t bytes = lk_bytes(input[0]);
    LK_TRY(lk_program_create(g, store, &o, &program));
    lk_status status = fill(d, g->compute, 2 * bytes, memory);
    if (status == LK_OK) status = lk_program_bind(program, input[0], 0, memory);
    if (status == LK_OK) status = lk_program_bind(program, input[1], 0, memory + bytes);
    if (status == LK_OK) status = lk_program_time_nodes(program, REPEATS, &p->seconds);
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

/* Each probe grows until it takes long enough to be worth believing. */
lk_status lk_roofline_measure(lk_device *d, lk_dtype type, lk_roofline *r)
{
    probe product = {.op = LK_OP_LINEAR}, sum = {.op = LK_OP_ADD, .cols = SUM_COLS};
    for (int64_t n = 512; n <= LARGEST && product.seconds < ENOUGH; n *= 2) {
        product.rows = product.cols = n;
        LK_TRY(time_probe(d, type, &product));
    }
    for (int64_t n = 1024; n <= SUM_LARGEST && sum.seconds < ENOUGH; n *= 2) {
        sum.rows = n;
        LK_TRY(time_probe(d, type, &sum));
    }
    r->rate = product.flops / product.seconds;
    r->bandwidth = sum.bytes / sum.seconds;
    return LK_OK;
}
