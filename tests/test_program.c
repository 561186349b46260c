/* lk_program on a backend that computes nothing: memory that programs share, and the branch of a
 * step, which ends also where something on it fails. */
#include "ops/ops.h"
#include "program/program.h"
#include "tests/tap.h"

#include <string.h>

enum { LEAVES = 2, WIDTH = 48, SCRATCH = 1000 };

static lk_backend backend;
static char *arena, *scratch; /* of the node that ran last */
static int begun, ended, joined;
static lk_op failing; /* LK_OPS: none */
static bool failing_add;

static lk_status prepare(lk_device *d, const lk_node *n, size_t *bytes)
{
    (void)d;
    *bytes = n->op == LK_OP_LINEAR ? SCRATCH : 0;
    return LK_OK;
}

static lk_status kernel(lk_exec *x, const lk_node *n)
{
    arena = x->base[LK_REGION_ARENA];
    scratch = x->base[LK_REGION_SCRATCH];
    return n->op == failing ? lk_fail(LK_E_DEVICE, "planted") : LK_OK;
}

static lk_status add(lk_device *d, float *dst, const float *src, int64_t n)
{
    (void)d, (void)dst, (void)src, (void)n;
    return failing_add ? lk_fail(LK_E_DEVICE, "planted") : LK_OK;
}

static lk_status count(int *calls)
{
    ++*calls;
    return LK_OK;
}
static lk_status begin(lk_device *d) { return (void)d, count(&begun); }
static lk_status end(lk_device *d) { return (void)d, count(&ended); }
static lk_status join(lk_device *d) { return (void)d, count(&joined); }

/* Two layers and their loss; with a backward pass every gradient is a bucket of its own. */
static lk_graph *build(lk_params *p, bool training, int64_t rows)
{
    lk_graph *g = lk_graph_create(p, training);
    lk_tensor *y = lk_input(g, "x", LK_F32, 2, (int64_t[]){rows, WIDTH});
    for (int i = 0; i < 2; i++) {
        lk_scope_push(g, "layer%d", i);
        y = lk_linear(g, y,
                      lk_parameter(g, "w", 2, (int64_t[]){WIDTH, WIDTH}, LK_INIT_NORMAL, 1, true),
                      NULL, LK_GELU);
        lk_scope_pop(g);
    }
    lk_tensor *loss = lk_cross_entropy(g, y, lk_input(g, "targets", LK_I32, 1, &rows), WIDTH);
    lk_graph_metric(g, loss, LK_METRIC_LOSS);
    if (!training) return g;
    lk_autodiff(g, loss, lk_loss_scale(g), 0, NULL, NULL);
    lk_params_layout(p);
    lk_bucket(g, 0, true);
    return g;
}

static void check_shared(lk_store *store, lk_graph *train, lk_graph *small, lk_graph *large)
{
    lk_program *p[4] = {NULL}; /* one of them stays NULL */
    lk_graph *graph[4] = {train, small, NULL, large};
    lk_program_options o = {.local_leaves = LEAVES, .shares = true};
    lk_device *d = store->device;
    lk_status status = LK_OK;
    size_t before = d->allocated, most = 0;
    void *memory = NULL;
    for (int i = 0; i < 4; i++)
        if (graph[i] && status == LK_OK) status = lk_program_create(graph[i], store, &o, &p[i]);
    tap_ok(status == LK_OK && d->allocated == before, "those that share take no memory at first");
    status = lk_program_share(p, 4, &memory);
    bool placed = status == LK_OK && memory;
    for (int i = 0; i < 4 && placed; i++) {
        if (!p[i]) continue;
        size_t bytes = lk_program_arena_bytes(p[i]);
        placed = lk_program_run(p[i]) == LK_OK && arena == memory && scratch == arena + bytes;
        if (bytes + SCRATCH > most) most = bytes + SCRATCH;
    }
    tap_ok(placed, "all have their arena in one place, and scratch behind it");
    tap_ok(most == lk_program_arena_bytes(p[3]) + SCRATCH && d->allocated == before + most,
           "which is what the largest needs, %zu bytes", most);
    for (int i = 0; i < 4; i++) lk_program_destroy(p[i]);
    if (memory) d->backend->release(d, memory);
}

/* A step in which nothing fails, a sum on the branch, or a node on it. */
static void check_branch(lk_store *store, lk_graph *train)
{
    lk_program *p = NULL;
    lk_program_options o = {.local_leaves = LEAVES};
    begun = ended = joined = 0;
    lk_status good = lk_program_create(train, store, &o, &p);
    if (good == LK_OK) good = lk_program_run(p);
    if (!tap_ok(good == LK_OK && begun > 1 && ended == begun && joined == 1,
                "a step has %d branches, all ended, and joined once", begun))
        return;
    for (int i = 0; i < 2; i++) {
        begun = ended = joined = 0;
        failing_add = i == 0;
        failing = i ? LK_OP_REDUCE : LK_OPS;
        lk_status status = lk_program_run(p);
        tap_ok(status == LK_E_DEVICE && strcmp(lk_error_text(), "planted") == 0 && begun == 1 &&
                   ended == 1 && joined == 0,
               "where %s fails, its branch is ended: %s", i ? "a reduction" : "a sum of leaves",
               lk_error_text());
        lk_error_clear();
    }
    failing_add = false;
    failing = LK_OPS;
    lk_program_destroy(p);
}

int main(void)
{
    lk_device *d = NULL;
    lk_store *store = NULL;
    lk_params *params = lk_params_create();
    lk_graph *train = build(params, true, 8), *small = build(params, false, 4);
    lk_graph *large = build(params, false, 512);
    lk_store_options o = {.training = true, .local_leaves = LEAVES};
    failing = LK_OPS;
    backend = lk_backend_null;
    backend.prepare = prepare;
    backend.add = add;
    backend.branch_begin = begin;
    backend.branch_end = end;
    backend.branch_join = join;
    for (int i = 0; i < LK_OPS; i++) backend.kernel[i] = kernel;
    if (lk_backend_null.open(0, &d) != LK_OK) return 99;
    d->backend = &backend;
    if (lk_store_create(d, params, &o, &store) != LK_OK) return 99;
    check_shared(store, train, small, large);
    check_branch(store, train);
    lk_store_destroy(store);
    lk_graph_destroy(train);
    lk_graph_destroy(small);
    lk_graph_destroy(large);
    lk_params_destroy(params);
    lk_backend_null.close(d);
    return tap_done();
}
