/* The op test. For every row of op_cases.c, vision_cases.c and excite_cases.c, on every backend of
 * this build:
 *   forward in f32, f16 and bf16 against the double-precision reference;
 *   gradients in f32 against central differences of the reference, in half against those in f32;
 *   the CUDA backend against the CPU backend, forward and every gradient;
 *   the same bits with 1, 2 and 3 threads, and in repeated runs.
 * Rows with NaN: they come out where they should, on both backends.
 * Memory is filled with NaN before a run, so that an element never written shows.
 * Then windows and conversion of special values; test_images has images, test_steps the optimizer.
 * `test_ops --time` prints the milliseconds of every row instead; `--portable` lets attention,
 * excite, linear layers and losses run on a Hopper GPU as on others; `--narrow` gives
 * persistent kernels few blocks, so that a block has several tiles of small shapes; an argument
 * that is no option selects the rows whose name contains it. */
#include "program/program.h"
#include "tests/op_cases.h"
#include "tests/ops_help.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Largest ||difference|| / ||reference||, by type. */
static const double forward_limit[] = {[LK_F32] = 1e-5, [LK_F16] = 2e-3, [LK_BF16] = 1.5e-2};
static const double backward_limit[] = {[LK_F32] = 2e-5, [LK_F16] = 5e-3, [LK_BF16] = 3e-2};
#define DIFFERENCE_LIMIT 1e-4 /* gradient against differences */

/* ---- running a case ------------------------------------------------------------------------ */

/* y and the node's further outputs, or the gradients of the tensors (value NULL: none) */
typedef struct outcome {
    int count;
    int64_t n[CASE_MAX_TENSORS];
    double *value[CASE_MAX_TENSORS];
} outcome;

static void outcome_clear(outcome *o)
{
    for (int i = 0; i < o->count; i++) free(o->value[i]);
    o->count = 0;
}

static bool outcome_same(const outcome *a, const outcome *b)
{
    for (int i = 0; i < a->count; i++)
        if (a->value[i] && memcmp(a->value[i], b->value[i], (size_t)a->n[i] * sizeof(double)) != 0)
            return false;
    return a->count == b->count;
}

/* A case with its values: the same on every backend. */
typedef struct problem {
    const op_case *c;
    char name[128];
    int count;
    case_tensor tensor[CASE_MAX_TENSORS];
    int64_t n[CASE_MAX_TENSORS];
    double *value[CASE_MAX_TENSORS];
    int64_t outputs;
    double *cotangent, *reference;
    int more;
    int64_t more_n[CASE_MAX_MORE];
    double *more_reference[CASE_MAX_MORE];
} problem;

static int64_t elements(const case_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->dims; i++) n *= t->dim[i];
    return n;
}

/* Values representable in `type`. */
static void draw_values(problem *q, lk_dtype type)
{
    for (int i = 0; i < q->count; i++) {
        const case_tensor *t = &q->tensor[i];
        int64_t n = q->n[i] = elements(t);
        q->value[i] = allocate((size_t)n * sizeof(double));
        for (int64_t k = 0; k < n; k++) {
            double z = normal((uint32_t)i + 1, k);
            if (t->role == CASE_PARAM || t->role == CASE_STATISTIC) z *= 0.3;
            q->value[i][k] = t->role == CASE_INDEX
                                 ? (double)(lk_philox(7, (uint32_t)k, (uint32_t)i, 0, 0).v[0] %
                                            (uint64_t)t->below)
                                 : z + t->centre;
        }
    }
    if (q->c->kind->prepare) q->c->kind->prepare(q->c, q->value);
    for (int64_t k = 3; q->c->nan && k < q->n[0]; k += 7) q->value[0][k] = NAN;
    for (int i = 0; i < q->count; i++) {
        if (q->tensor[i].role == CASE_INDEX) continue;
        for (int64_t k = 0; k < q->n[i]; k++)
            q->value[i][k] = rounded(q->value[i][k], q->tensor[i].full ? LK_F32 : type);
    }
}

static void problem_create(problem *q, const op_case *c, lk_dtype type)
{
    memset(q, 0, sizeof *q);
    q->c = c;
    op_case_name(c, q->name, sizeof q->name);
    q->count = c->kind->tensors(c, q->tensor);
    draw_values(q, type);
    int64_t room = c->batch * c->time * (c->in + c->out);
    /* no op's output is longer than the largest of its inputs, times this */
    for (int i = 0; i < q->count; i++) room += q->n[i];
    room += c->batch * (c->height + 2 * c->pad) * (c->width + 2 * c->pad) * (c->in + c->out);
    q->reference = allocate((size_t)room * sizeof(double));
    q->outputs = c->kind->reference(c, q->value, q->reference);
    for (int i = 0; i < CASE_MAX_MORE && c->kind->more[i]; i++) {
        q->more_reference[q->more] = allocate((size_t)room * sizeof(double));
        q->more_n[i] = c->kind->more_reference(c, q->value, i, q->more_reference[q->more++]);
    }
    q->cotangent = allocate((size_t)q->outputs * sizeof(double));
    for (int64_t k = 0; k < q->outputs; k++) q->cotangent[k] = rounded(normal(50, k), type);
}

static void problem_clear(problem *q)
{
    for (int i = 0; i < q->count; i++) free(q->value[i]);
    for (int i = 0; i < q->more; i++) free(q->more_reference[i]);
    free(q->cotangent);
    free(q->reference);
}

/* A program for the case with everything it needs. */
typedef struct runner {
    lk_device *device;
    lk_params *params;
    lk_graph *graph;
    lk_store *store;
    lk_program *program;
    lk_tensor *in[CASE_MAX_TENSORS], *y, *dy, *gradient[CASE_MAX_TENSORS];
    void *memory[CASE_MAX_TENSORS + 1];
} runner;

static void runner_close(runner *r)
{
    lk_program_destroy(r->program);
    lk_store_destroy(r->store);
    for (int i = 0; i <= CASE_MAX_TENSORS; i++)
        if (r->memory[i]) r->device->backend->release(r->device, r->memory[i]);
    lk_graph_destroy(r->graph);
    lk_params_destroy(r->params);
}

static lk_status bind(runner *r, int slot, const lk_tensor *t, const double *value)
{
    const lk_backend *b = r->device->backend;
    void *bytes = allocate(lk_bytes(t));
    encode(bytes, t->dtype, lk_count(t), value);
    lk_status status = b->alloc(r->device, lk_bytes(t), &r->memory[slot]);
    if (status == LK_OK) status = b->upload(r->device, r->memory[slot], bytes, lk_bytes(t));
    if (status == LK_OK) status = b->sync(r->device);
    free(bytes);
    if (status == LK_OK) lk_program_bind(r->program, t, 0, r->memory[slot]);
    return status;
}

static lk_status build(runner *r, const problem *q, lk_dtype type, bool backward)
{
    lk_graph *g = r->graph;
    lk_tensor *wanted[CASE_MAX_TENSORS] = {0};
    lk_scope_push(g, "case");
    for (int i = 0; i < q->count; i++) {
        const case_tensor *t = &q->tensor[i];
        if (t->role == CASE_PARAM) {
            r->in[i] = lk_parameter(g, t->name, t->dims, t->dim, LK_INIT_ZERO, 0, t->dims > 1);
        } else if (t->role == CASE_STATISTIC) {
            r->in[i] = lk_statistic(g, t->name, t->dim[0], LK_INIT_ZERO);
        } else {
            lk_dtype of = t->role == CASE_INDEX ? LK_I32 : LK_F32;
            r->in[i] = lk_input(g, t->name, of, t->dims, t->dim);
            if (t->role == CASE_INPUT) wanted[i] = r->in[i];
        }
    }
    r->y = q->c->kind->build(g, q->c, type, r->in);
    LK_TRY(lk_graph_status(g));
    LK_TRY(lk_autocast(g, type));
    if (!backward) return lk_fuse(g);
    r->dy = lk_input(g, "dy", LK_F32, r->y->dims, r->y->dim);
    LK_TRY(lk_autodiff(g, r->y, r->dy, q->count, wanted, r->gradient));
    return lk_fuse(g);
}

static lk_status runner_open(runner *r, lk_device *d, const problem *q, lk_dtype type,
                             bool backward, bool capture)
{
    memset(r, 0, sizeof *r);
    r->device = d;
    r->params = lk_params_create();
    r->graph = lk_graph_create(r->params, !q->c->running);
    LK_TRY(build(r, q, type, backward));
    lk_params_layout(r->params);
    LK_TRY(lk_store_create(
        d, r->params, &(lk_store_options){.compute = type, .training = true, .local_leaves = 1},
        &r->store));
    LK_TRY(lk_store_set_state(r->store, &(lk_step_state){.step = CASE_STEP, .loss_scale = 1}));
    lk_program_options options = {.seed = CASE_SEED, .first_leaf = CASE_LEAF, .local_leaves = 1,
                                  .capture = capture};
    LK_TRY(lk_program_create(r->graph, r->store, &options, &r->program));

    float *flat = allocate((size_t)r->params->total * sizeof *flat);
    for (int i = 0; i < q->count; i++)
        if (r->in[i]->param)
            encode(flat + r->in[i]->param->offset, LK_F32, q->n[i], q->value[i]);
    lk_status status = lk_store_set(r->store, &(lk_flat){.param = flat});
    free(flat);
    LK_TRY(status);
    for (int i = 0; i < q->count; i++)
        if (!r->in[i]->param) LK_TRY(bind(r, i, r->in[i], q->value[i]));
    return r->dy ? bind(r, CASE_MAX_TENSORS, r->dy, q->cotangent) : LK_OK;
}

/* Every bit of the arena and of the gradients set: NaN in every float type. */
static lk_status poison(runner *r)
{
    const lk_backend *b = r->device->backend;
    size_t arena = lk_program_arena_bytes(r->program);
    size_t flat = (size_t)r->params->total * sizeof(float);
    size_t most = arena > flat ? arena : flat;
    char *ones = allocate(most);
    memset(ones, 0xFF, most);
    lk_status status = b->upload(r->device, r->store->gradient[0], ones, flat);
    for (int i = 0; i < r->graph->tensors && arena && status == LK_OK; i++) {
        lk_tensor *t = r->graph->tensor[i];
        if (t->region != LK_REGION_ARENA || t->base) continue;
        char *base = (char *)lk_program_data(r->program, t) - t->offset;
        status = b->upload(r->device, base, ones, arena);
        break;
    }
    if (status == LK_OK) status = b->sync(r->device);
    free(ones);
    return status;
}

static lk_status fetch(runner *r, lk_dtype type, int64_t n, const void *from, double **value)
{
    size_t bytes = (size_t)n * lk_dtype_size(type);
    void *host = allocate(bytes);
    lk_status status = r->device->backend->download(r->device, host, from, bytes);
    if (status == LK_OK) status = r->device->backend->sync(r->device);
    *value = allocate((size_t)n * sizeof **value);
    decode(*value, type, n, host);
    free(host);
    return status;
}

static lk_status runner_run(runner *r, const problem *q, outcome *o)
{
    memset(o, 0, sizeof *o);
    LK_TRY(poison(r));
    LK_TRY(lk_program_run(r->program));
    if (!r->dy) {
        o->count = 1 + q->more;
        for (int i = 0; i < o->count; i++) {
            const lk_tensor *t = i ? r->y->producer->out[q->c->kind->more[i - 1]] : r->y;
            o->n[i] = i ? q->more_n[i - 1] : q->outputs;
            LK_TRY(fetch(r, t->dtype, o->n[i], lk_program_data(r->program, t), &o->value[i]));
        }
        return LK_OK;
    }
    o->count = q->count;
    for (int i = 0; i < q->count; i++) {
        o->n[i] = q->n[i];
        if (r->in[i]->param) { /* of a statistic: what was measured */
            const float *flat = r->store->gradient[0];
            LK_TRY(fetch(r, LK_F32, o->n[i], flat + r->in[i]->param->offset, &o->value[i]));
        } else if (r->gradient[i]) {
            LK_TRY(fetch(r, r->gradient[i]->dtype, o->n[i],
                         lk_program_data(r->program, r->gradient[i]), &o->value[i]));
        }
    }
    return LK_OK;
}

/* Run and report an error as a failed test. */
static bool evaluate(lk_device *d, const problem *q, lk_dtype type, bool backward, outcome *o)
{
    runner r;
    memset(o, 0, sizeof *o);
    lk_status status = runner_open(&r, d, q, type, backward, false);
    if (status == LK_OK) status = runner_run(&r, q, o);
    if (status != LK_OK)
        tap_ok(false, "%s %s %s %s: %s", q->name, d->backend->name, lk_dtype_name(type),
               backward ? "gradient" : "forward", lk_error_text());
    lk_error_clear();
    runner_close(&r);
    return status == LK_OK;
}

/* ---- gradient against differences ---------------------------------------------------------- */

/* Inner product of the cotangent and the reference's output, tensor `i` moved by h direction. */
static double moved(problem *q, int i, const double *direction, double h, double *scratch)
{
    double *at = q->value[i], *to = allocate((size_t)q->n[i] * sizeof *to), sum = 0;
    for (int64_t k = 0; k < q->n[i]; k++) to[k] = at[k] + h * direction[k];
    q->value[i] = to;
    q->c->kind->reference(q->c, q->value, scratch);
    q->value[i] = at;
    free(to);
    for (int64_t k = 0; k < q->outputs; k++) sum += scratch[k] * q->cotangent[k];
    return sum;
}

/* Largest error of directional derivatives in units of the gradient's norm: `probes` directions of
 * +-1 in every coordinate, and as many single coordinates scaled to the same length. */
static double difference_error(problem *q, int i, const double *gradient, int probes)
{
    int64_t n = q->n[i];
    double norm = 0, worst = 0, h = 1e-5;
    double *direction = allocate((size_t)n * sizeof *direction);
    double *scratch = allocate((size_t)(q->outputs + 1) * sizeof *scratch);
    for (int64_t k = 0; k < n; k++) norm += gradient[k] * gradient[k];
    norm = sqrt(norm);
    for (int probe = 0; probe < 2 * probes; probe++) {
        double expected = 0, length = 1;
        memset(direction, 0, (size_t)n * sizeof *direction);
        if (probe < probes) {
            for (int64_t k = 0; k < n; k++)
                direction[k] =
                    lk_philox(5, (uint32_t)k, (uint32_t)probe, 0, 0).v[0] & 1 ? 1 : -1;
        } else {
            int64_t k = lk_philox(6, (uint32_t)probe, (uint32_t)i, 0, 0).v[0] % n;
            direction[k] = 1;
            length = sqrt((double)n); /* a coordinate has about norm/sqrt(n) */
        }
        for (int64_t k = 0; k < n; k++) expected += gradient[k] * direction[k];
        double up = moved(q, i, direction, h, scratch), down = moved(q, i, direction, -h, scratch);
        double error = fabs((up - down) / (2 * h) - expected) * length;
        /* a gradient of (almost) zero, such as that of a single class, is compared absolutely */
        error /= norm > 1e-6 ? norm : 1;
        if (!(error <= worst)) worst = isfinite(error) ? error : INFINITY;
    }
    free(direction);
    free(scratch);
    return worst;
}

static void check_differences(lk_device *d, problem *q, const outcome *o)
{
    for (int i = 0; i < q->count; i++) {
        if (q->tensor[i].role != CASE_INPUT && q->tensor[i].role != CASE_PARAM) continue;
        bool large = q->n[i] > 20000 || q->outputs > 500000;
        double error = o->value[i] ? difference_error(q, i, o->value[i], large ? 2 : 12) : INFINITY;
        tap_ok(error <= DIFFERENCE_LIMIT, "%s %s gradient of %s against differences: %.2e",
               q->name, d->backend->name, q->tensor[i].name, error);
    }
}

/* ---- one row ------------------------------------------------------------------------------- */

/* distance(), where both may be NaN in the same places. */
static double distance_nan(int64_t n, const double *a, const double *reference)
{
    double *x = allocate((size_t)n * sizeof *x), *y = allocate((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        bool both = isnan(a[i]) && isnan(reference[i]);
        x[i] = both ? 0 : a[i];
        y[i] = both ? 0 : reference[i];
    }
    double d = distance(n, x, y);
    free(x);
    free(y);
    return d;
}

static void check_close(const problem *q, const char *what, lk_dtype type, double limit,
                        const outcome *a, const outcome *b, bool gradient)
{
    double worst = 0;
    const char *where = "";
    for (int i = 0; i < a->count; i++) {
        if (!a->value[i] && !b->value[i]) continue;
        double e = INFINITY;
        bool nan = q->c->nan || (q->c->astray && !gradient);
        if (a->value[i] && b->value[i])
            e = (nan ? distance_nan : distance)(a->n[i], a->value[i], b->value[i]);
        if (e > worst) {
            worst = e;
            where = gradient ? q->tensor[i].name : i ? "another output" : "y";
        }
    }
    tap_ok(worst <= limit, "%s %s %s: %.2e %s", q->name, lk_dtype_name(type), what, worst, where);
}

static void check_threads(lk_device *d, const problem *q, lk_dtype type)
{
    int before = omp_get_max_threads();
    for (int backward = 0; backward < (q->c->running ? 1 : 2); backward++) {
        static const int threads[] = {1, 2, 3, 1};
        outcome first = {0}, o = {0};
        bool same = true;
        for (int i = 0; i < 4 && same; i++) {
            omp_set_num_threads(threads[i]);
            if (!evaluate(d, q, type, backward, i ? &o : &first)) {
                same = false;
                break;
            }
            if (i) {
                same = outcome_same(&first, &o);
                outcome_clear(&o);
            }
        }
        tap_ok(same, "%s %s %s: same bits with 1, 2 and 3 threads and again", q->name,
               lk_dtype_name(type), backward ? "gradient" : "forward");
        outcome_clear(&first);
        outcome_clear(&o);
    }
    omp_set_num_threads(before);
}

/* A replayed capture gives the bits of the direct run, twice. */
static void check_capture(lk_device *d, const problem *q, lk_dtype type, const outcome *direct)
{
    runner r;
    outcome o = {0};
    lk_status status = runner_open(&r, d, q, type, true, true);
    bool same = status == LK_OK;
    for (int i = 0; i < 2 && same; i++) {
        same = runner_run(&r, q, &o) == LK_OK && outcome_same(direct, &o);
        outcome_clear(&o);
    }
    tap_ok(same, "%s %s %s: replay gives the same bits %s", q->name, d->backend->name,
           lk_dtype_name(type), lk_error_text());
    lk_error_clear();
    runner_close(&r);
}

static void check_case(lk_device *cpu, lk_device *cuda, const op_case *c)
{
    for (lk_dtype type = LK_F32; type <= LK_BF16; type++) {
        /* the f32 cast case goes through bf16 and back */
        bool castable = strcmp(c->kind->name, "cast") == 0;
        problem q;
        outcome y = {0}, gradient = {0}, other = {0};
        problem_create(&q, c, castable && type == LK_F32 ? LK_BF16 : type);
        outcome reference = {1 + q.more, {q.outputs, q.more_n[0], q.more_n[1]},
                             {q.reference, q.more_reference[0], q.more_reference[1]}};
        bool backward = !c->running;
        if (evaluate(cpu, &q, type, false, &y)) {
            lk_dtype limit = strstr(c->kind->name, "xent") ? LK_F32 : type;
            check_close(&q, "forward against the reference", type, forward_limit[limit], &y,
                        &reference, false);
        }
        if (backward && evaluate(cpu, &q, type, true, &gradient)) {
            if (type == LK_F32) {
                if (!c->nan && !c->astray) check_differences(cpu, &q, &gradient);
            } else if (evaluate(cpu, &q, LK_F32, true, &other)) {
                check_close(&q, "gradient against that in f32", type, backward_limit[type],
                            &gradient, &other, true);
                outcome_clear(&other);
            }
        }
        check_threads(cpu, &q, type);
        if (cuda) {
            if (evaluate(cuda, &q, type, false, &other)) {
                check_close(&q, "forward, CUDA against CPU", type, forward_limit[type], &other, &y,
                            false);
                outcome_clear(&other);
            }
            if (backward && evaluate(cuda, &q, type, true, &other)) {
                check_close(&q, "gradient, CUDA against CPU", type, backward_limit[type], &other,
                            &gradient, true);
                check_capture(cuda, &q, type, &other);
                outcome_clear(&other);
            }
        }
        outcome_clear(&y);
        outcome_clear(&gradient);
        problem_clear(&q);
    }
}

/* ---- timing -------------------------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void time_case(lk_device *d, const op_case *c, lk_dtype type)
{
    double ms[2] = {0, 0};
    problem q;
    problem_create(&q, c, type);
    for (int backward = 0; backward < (c->running ? 1 : 2); backward++) {
        runner r;
        lk_status status = runner_open(&r, d, &q, type, backward, true);
        for (int i = 0; i < 3 && status == LK_OK; i++) status = lk_program_run(r.program);
        d->backend->sync(d);
        double start = seconds();
        int runs = 0;
        while (status == LK_OK && runs < 1000 && (runs < 10 || seconds() - start < 0.02)) {
            status = lk_program_run(r.program);
            if (++runs % 10 == 0) d->backend->sync(d);
        }
        d->backend->sync(d);
        ms[backward] = (seconds() - start) / runs * 1e3;
        if (status != LK_OK) printf("# %s: %s\n", q.name, lk_error_text());
        lk_error_clear();
        runner_close(&r);
    }
    printf("%-5s %-5s %9.4f %9.4f  %s\n", d->backend->name, lk_dtype_name(type), ms[0],
           ms[1], q.name);
    problem_clear(&q);
}

/* ---- windows ------------------------------------------------------------------------------- */

enum { WINDOW_LEAVES = 2, WINDOW_FIRST = 2, SHARD = 1009, BATCH = 5, CONTEXT = 31 };

/* Run the graph of `in`, which holds `data`, at a step; host i32 [count] of out as the last leaf,
 * WINDOW_FIRST+1, leaves it. Takes over params and graph. */
static lk_status run_tokens(lk_device *d, lk_params *params, lk_graph *g, lk_tensor *in,
                            const double *data, uint64_t step, int outputs, lk_tensor *const *out,
                            int32_t *const *host)
{
    const lk_backend *b = d->backend;
    lk_store *store = NULL;
    lk_program *program = NULL;
    void *memory = NULL;
    lk_status status = lk_graph_status(g);
    lk_params_layout(params);
    void *bytes = allocate(lk_bytes(in));
    encode(bytes, in->dtype, lk_count(in), data);
    lk_program_options options = {.seed = CASE_SEED, .first_leaf = WINDOW_FIRST,
                                  .local_leaves = WINDOW_LEAVES};
    if (status == LK_OK)
        status = lk_store_create(
            d, params, &(lk_store_options){.compute = LK_F32, .local_leaves = WINDOW_LEAVES},
            &store);
    if (status == LK_OK)
        status = lk_store_set_state(store, &(lk_step_state){.step = step, .loss_scale = 1});
    if (status == LK_OK) status = lk_program_create(g, store, &options, &program);
    if (status == LK_OK) status = b->alloc(d, lk_bytes(in), &memory);
    if (status == LK_OK) status = b->upload(d, memory, bytes, lk_bytes(in));
    for (int i = 0; i < WINDOW_LEAVES && status == LK_OK; i++)
        lk_program_bind(program, in, i, memory);
    if (status == LK_OK) status = lk_program_run(program);
    for (int i = 0; i < outputs && status == LK_OK; i++)
        status = b->download(d, host[i], lk_program_data(program, out[i]), lk_bytes(out[i]));
    b->sync(d);
    lk_program_destroy(program);
    lk_store_destroy(store);
    if (memory) b->release(d, memory);
    free(bytes);
    lk_graph_destroy(g);
    lk_params_destroy(params);
    return status;
}

static lk_status run_windows(lk_device *d, lk_dtype type, bool resident, uint64_t step,
                             int32_t *tokens, int32_t *targets, const double *data)
{
    int64_t rows[2] = {WINDOW_LEAVES, SHARD}, batch[2] = {BATCH, CONTEXT + 1};
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, true);
    lk_tensor *in = lk_input(g, "data", type, 2, resident ? rows : batch), *out[2] = {NULL, NULL};
    lk_windows(g, in, BATCH, CONTEXT, resident, LK_PURPOSE_ORDER, SHARD, WINDOW_FIRST, &out[0],
               &out[1]);
    return run_tokens(d, params, g, in, data, step, 2, out, (int32_t *[]){tokens, targets});
}

static void check_windows(lk_device *d)
{
    static double data[WINDOW_LEAVES * SHARD];
    static int32_t x[BATCH * CONTEXT], y[BATCH * CONTEXT];
    static const uint64_t steps[] = {0, 3, 195, 196, 1000}; /* 978 windows: an epoch ends in 195 */
    for (int i = 0; i < WINDOW_LEAVES * SHARD; i++)
        data[i] = lk_philox(3, (uint32_t)i, 0, 0, 0).v[0] % 251;
    for (lk_dtype type = LK_I32; type <= LK_U16; type++)
        for (int resident = 0; resident < 2; resident++)
            for (int s = 0; s < 5; s++) {
                lk_status status = run_windows(d, type, resident, steps[s], x, y, data);
                bool good = status == LK_OK;
                for (int64_t b = 0; b < BATCH && good; b++) {
                    uint64_t n = SHARD - CONTEXT, at = steps[s] * BATCH + (uint64_t)b;
                    uint64_t from = lk_permute(at % n, n, CASE_SEED, LK_PURPOSE_ORDER,
                                               WINDOW_FIRST + 1, (uint32_t)(at / n));
                    const double *window = resident ? data + SHARD + from
                                                    : data + b * (CONTEXT + 1);
                    for (int64_t t = 0; t < CONTEXT; t++)
                        good &= x[b * CONTEXT + t] == (int32_t)window[t] &&
                                y[b * CONTEXT + t] == (int32_t)window[t + 1];
                }
                tap_ok(good, "windows %s %s %s step %llu %s", d->backend->name,
                       lk_dtype_name(type), resident ? "resident" : "streamed",
                       (unsigned long long)steps[s], lk_error_text());
                lk_error_clear();
            }
}

enum { TEXT = 1030, TEXTS = 13 }; /* longer than what a block copies; of a leaf */

static lk_status run_texts(lk_device *d, lk_dtype type, bool resident, uint64_t step,
                           int32_t *tokens, const double *data)
{
    lk_image_source s = {.batch = BATCH, .height = 1, .width = 1, .classes = 1,
                         .shard_rows = TEXTS, .resident = resident, .purpose = LK_PURPOSE_ORDER,
                         .first_leaf = WINDOW_FIRST};
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, true);
    lk_tensor *in = lk_input(g, "data", type, 2,
                             (int64_t[]){resident ? WINDOW_LEAVES * TEXTS : BATCH, TEXT});
    lk_tensor *out = lk_texts(g, &s, in);
    return run_tokens(d, params, g, in, data, step, 1, &out, &tokens);
}

static void check_texts(lk_device *d)
{
    static double data[WINDOW_LEAVES * TEXTS * TEXT];
    static int32_t x[BATCH * TEXT];
    static const uint64_t steps[] = {0, 2, 3, 1000}; /* an epoch ends within step 2 */
    for (int i = 0; i < WINDOW_LEAVES * TEXTS * TEXT; i++)
        data[i] = lk_philox(4, (uint32_t)i, 0, 0, 0).v[0] % 251;
    for (int k = 0; k < 16; k++) {
        lk_dtype type = k % 2 ? LK_U16 : LK_U8;
        bool resident = k / 2 % 2;
        uint64_t step = steps[k / 4];
        bool good = run_texts(d, type, resident, step, x, data) == LK_OK;
        for (int64_t b = 0; b < BATCH && good; b++) {
            uint64_t at = step * BATCH + (uint64_t)b;
            uint64_t row = lk_permute(at % TEXTS, TEXTS, CASE_SEED, LK_PURPOSE_ORDER,
                                      WINDOW_FIRST + 1, (uint32_t)(at / TEXTS));
            const double *text = data + (resident ? TEXTS + (int64_t)row : b) * TEXT;
            for (int64_t t = 0; t < TEXT; t++) good &= x[b * TEXT + t] == (int32_t)text[t];
        }
        tap_ok(good, "texts %s %s %s step %llu %s", d->backend->name, lk_dtype_name(type),
               resident ? "resident" : "streamed", (unsigned long long)step, lk_error_text());
        lk_error_clear();
    }
}

/* ---- conversion of special values ---------------------------------------------------------- */

static void check_conversion(lk_device *d, lk_dtype type)
{
    static const double special[] = {0,       -0.0,     65504,    65519.99, 65520,   1e9,
                                     -1e30,   6.1e-5,   5.96e-8,  2.98e-8,  2.99e-8, 1e-9,
                                     3.39e38, 3.4e38,   1 + 0x1p-11, 1 + 0x3p-11, 1 + 0x1p-8,
                                     1 + 0x3p-8, INFINITY, -INFINITY, 1e-40, -1.5e-45};
    const int64_t n = sizeof special / sizeof *special;
    runner r = {.device = d};
    r.params = lk_params_create();
    r.graph = lk_graph_create(r.params, false);
    lk_tensor *x = lk_input(r.graph, "x", LK_F32, 1, &n), *y = lk_cast(r.graph, x, type);
    lk_params_layout(r.params);
    lk_program_options options = {.local_leaves = 1};
    uint16_t out[32] = {0};
    lk_status status = lk_store_create(
        d, r.params, &(lk_store_options){.compute = LK_F32, .local_leaves = 1}, &r.store);
    if (status == LK_OK) status = lk_program_create(r.graph, r.store, &options, &r.program);
    if (status == LK_OK) status = bind(&r, 0, x, special);
    if (status == LK_OK) status = lk_program_run(r.program);
    if (status == LK_OK)
        status = d->backend->download(d, out, lk_program_data(r.program, y), lk_bytes(y));
    d->backend->sync(d);
    for (int64_t i = 0; i < n; i++) {
        uint16_t want = type == LK_F16 ? lk_f16_from_f32((float)special[i])
                                       : lk_bf16_from_f32((float)special[i]);
        if (status != LK_OK || out[i] != want)
            tap_ok(false, "cast of %g to %s on %s: %04x, not %04x %s", special[i],
                   lk_dtype_name(type), d->backend->name, out[i], want, lk_error_text());
    }
    tap_ok(status == LK_OK, "cast of special values to %s on %s", lk_dtype_name(type),
           d->backend->name);
    lk_error_clear();
    runner_close(&r);
}

/* ---- main ---------------------------------------------------------------------------------- */

/* What is to run: whose name contains `only`, and of those part `part` of `parts`, dealt out. */
typedef struct choice {
    const char *only; /* NULL: all */
    int part, parts;  /* 1 of 1: all */
    int found;        /* so far, of all parts */
} choice;

static bool chosen(choice *c, const char *name)
{
    return (!c->only || strstr(name, c->only)) && c->found++ % c->parts == c->part - 1;
}

static void check_cases(lk_device *cpu, lk_device *cuda, const op_case *cases, int count,
                        choice *which, bool timing)
{
    for (const op_case *c = cases; c < cases + count; c++) {
        char name[128];
        op_case_name(c, name, sizeof name);
        if (!chosen(which, name)) continue;
        if (!timing) {
            check_case(cpu, cuda, c);
            continue;
        }
        for (lk_dtype type = LK_F32; type <= LK_BF16; type++)
            time_case(cuda ? cuda : cpu, c, type);
    }
}

/* The checks that are no op cases. */
static void check_others(lk_device *d, choice *which)
{
    if (chosen(which, "windows")) check_windows(d);
    if (chosen(which, "texts")) check_texts(d);
    if (chosen(which, "conversion")) {
        check_conversion(d, LK_F16);
        check_conversion(d, LK_BF16);
    }
}

/* "I/N", part I of N; false: something else. */
static bool read_part(const char *text, choice *c)
{
    int end = 0;
    return text && sscanf(text, "%d/%d%n", &c->part, &c->parts, &end) == 2 && !text[end] &&
           c->part >= 1 && c->part <= c->parts;
}

/* test_ops [--time] [--portable] [--narrow] [--part I/N] [NAME]: the ops whose name contains NAME,
 * or all, and of them the Ith of N parts; a NAME that none contains is an error. */
int main(int argc, char **argv)
{
    bool timing = false, portable = false, narrow = false;
    choice which = {.part = 1, .parts = 1};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--time") == 0) timing = true;
        else if (strcmp(argv[i], "--portable") == 0) portable = true;
        else if (strcmp(argv[i], "--narrow") == 0) narrow = true;
        else if (strcmp(argv[i], "--part") != 0) which.only = argv[i];
        else if (!read_part(argv[++i], &which)) {
            fprintf(stderr, "test_ops: --part: expected I/N, a part of N, found '%s'\n",
                    i < argc ? argv[i] : "nothing");
            return 2;
        }
    }
    lk_device *cpu = NULL, *cuda = open_cuda(), *device[2];
    if (!tap_ok(lk_backend_cpu.open(0, &cpu) == LK_OK, "the CPU backend opens %s",
                lk_error_text()))
        return tap_done();
#ifdef LK_HAVE_CUDA
    if (cuda && portable) lk_cuda_portable(cuda);
    if (cuda && narrow) lk_cuda_narrow(cuda);
#endif
    if ((portable || narrow) && !cuda)
        printf("# no GPU: --portable and --narrow change nothing\n");
    if (timing) printf("# milliseconds: forward, forward and backward\n");
    check_cases(cpu, cuda, op_cases, op_case_count, &which, timing);
    check_cases(cpu, cuda, vision_cases, vision_case_count, &which, timing);
    check_cases(cpu, cuda, excite_cases, excite_case_count, &which, timing);
    device[0] = cpu;
    device[1] = cuda;
    for (int i = 0; i < 2 && !timing; i++)
        if (device[i]) check_others(device[i], &which);
    if (cuda) cuda->backend->close(cuda);
    cpu->backend->close(cpu);
    if (!which.found) {
        fprintf(stderr, "test_ops: expected a part of an op's name, found '%s', which is in none\n",
                which.only);
        return 2;
    }
    return tap_done();
}
