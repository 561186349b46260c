/* The op test. For every row of op_cases.c, on every backend of this build:
 *   forward in f32, f16 and bf16 against the double-precision reference;
 *   gradients in f32 against central differences of the reference, in half against those in f32;
 *   the CUDA backend against the CPU backend, forward and every gradient;
 *   the same bits with 1, 2 and 3 threads, and in repeated runs.
 * Memory is filled with NaN before a run, so that an element never written shows.
 * Then windows, conversion of special values, and sequences of optimizer steps.
 * `test_ops --time` prints the milliseconds of every row instead; an argument that is no option
 * selects the rows whose name contains it. */
#include "tests/op_cases.h"

#include "base/half.h"
#include "program/program.h"
#include "tests/tap.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef LK_HAVE_CUDA
int lk_cuda_device_count(void);
#endif

/* Largest ||difference|| / ||reference||, by type. */
static const double forward_limit[] = {[LK_F32] = 1e-5, [LK_F16] = 2e-3, [LK_BF16] = 1.5e-2};
static const double backward_limit[] = {[LK_F32] = 2e-5, [LK_F16] = 5e-3, [LK_BF16] = 3e-2};
#define DIFFERENCE_LIMIT 1e-4 /* gradient against differences */

static void *allocate(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) abort();
    return p;
}

/* ---- host values and device bytes ---------------------------------------------------------- */

static double rounded(double v, lk_dtype type)
{
    if (type == LK_F16) return (double)lk_f32_from_f16(lk_f16_from_f32((float)v));
    if (type == LK_BF16) return (double)lk_f32_from_bf16(lk_bf16_from_f32((float)v));
    return (double)(float)v;
}

static void encode(void *to, lk_dtype type, int64_t n, const double *from)
{
    for (int64_t i = 0; i < n; i++) switch (type) {
        case LK_F32: ((float *)to)[i] = (float)from[i]; break;
        case LK_F16: ((uint16_t *)to)[i] = lk_f16_from_f32((float)from[i]); break;
        case LK_BF16: ((uint16_t *)to)[i] = lk_bf16_from_f32((float)from[i]); break;
        case LK_I32: ((int32_t *)to)[i] = (int32_t)from[i]; break;
        case LK_U16: ((uint16_t *)to)[i] = (uint16_t)from[i]; break;
        default: ((uint8_t *)to)[i] = (uint8_t)from[i];
        }
}

static void decode(double *to, lk_dtype type, int64_t n, const void *from)
{
    for (int64_t i = 0; i < n; i++) switch (type) {
        case LK_F32: to[i] = (double)((const float *)from)[i]; break;
        case LK_F16: to[i] = (double)lk_f32_from_f16(((const uint16_t *)from)[i]); break;
        case LK_BF16: to[i] = (double)lk_f32_from_bf16(((const uint16_t *)from)[i]); break;
        case LK_I32: to[i] = ((const int32_t *)from)[i]; break;
        case LK_U16: to[i] = ((const uint16_t *)from)[i]; break;
        default: to[i] = ((const uint8_t *)from)[i];
        }
}

/* Standard normal values, a function of (stream, index) only. */
static double normal(uint32_t stream, int64_t i)
{
    lk_u32x4 r = lk_philox(99, (uint32_t)i, stream, 0, 0);
    double u = ((double)r.v[0] + 1) / 4294967297.0, v = (double)r.v[1] / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(6.28318530717958647692 * v);
}

/* Relative distance; infinite when anything is not a number. */
static double distance(int64_t n, const double *a, const double *reference)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (a[i] - reference[i]) * (a[i] - reference[i]);
        norm += reference[i] * reference[i];
    }
    if (!isfinite(difference) || !isfinite(norm)) return INFINITY;
    return difference == 0 ? 0 : sqrt(difference / norm);
}

/* ---- running a case ------------------------------------------------------------------------ */

typedef struct outcome { /* y, or the gradients of the tensors (value NULL: none) */
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
} problem;

static int64_t elements(const case_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->dims; i++) n *= t->dim[i];
    return n;
}

/* Values representable in `type`. */
static void problem_create(problem *q, const op_case *c, lk_dtype type)
{
    memset(q, 0, sizeof *q);
    q->c = c;
    op_case_name(c, q->name, sizeof q->name);
    q->count = c->kind->tensors(c, q->tensor);
    int64_t most = 0;
    for (int i = 0; i < q->count; i++) {
        const case_tensor *t = &q->tensor[i];
        int64_t n = q->n[i] = elements(t);
        most = n > most ? n : most;
        q->value[i] = allocate((size_t)n * sizeof(double));
        for (int64_t k = 0; k < n; k++) {
            double z = normal((uint32_t)i + 1, k);
            if (t->role == CASE_PARAM) z *= 0.3;
            q->value[i][k] = t->role == CASE_INDEX
                                 ? (double)(lk_philox(7, (uint32_t)k, (uint32_t)i, 0, 0).v[0] %
                                            (uint64_t)t->below)
                                 : rounded(z + t->centre, t->full ? LK_F32 : type);
        }
    }
    /* no op's output is longer than the largest of its inputs, times this */
    int64_t room = c->batch * c->time * (c->in + c->out) + most;
    q->reference = allocate((size_t)room * sizeof(double));
    q->outputs = c->kind->reference(c, q->value, q->reference);
    q->cotangent = allocate((size_t)q->outputs * sizeof(double));
    for (int64_t k = 0; k < q->outputs; k++) q->cotangent[k] = rounded(normal(50, k), type);
}

static void problem_clear(problem *q)
{
    for (int i = 0; i < q->count; i++) free(q->value[i]);
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
    if (status != LK_OK) return status;
    return lk_program_bind(r->program, t, 0, r->memory[slot]);
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
        } else {
            lk_dtype of = t->role == CASE_INDEX ? LK_I32 : LK_F32;
            r->in[i] = lk_input(g, t->name, of, t->dims, t->dim);
            if (t->role == CASE_INPUT) wanted[i] = r->in[i];
        }
    }
    r->y = q->c->kind->build(g, q->c, type, r->in);
    LK_TRY(lk_graph_status(g));
    LK_TRY(lk_autocast(g, type));
    if (!backward) return LK_OK;
    r->dy = lk_input(g, "dy", LK_F32, r->y->dims, r->y->dim);
    return lk_autodiff(g, r->y, r->dy, q->count, wanted, r->gradient);
}

static lk_status runner_open(runner *r, lk_device *d, const problem *q, lk_dtype type,
                             bool backward, bool capture)
{
    memset(r, 0, sizeof *r);
    r->device = d;
    r->params = lk_params_create();
    r->graph = lk_graph_create(r->params, true);
    LK_TRY(build(r, q, type, backward));
    lk_params_layout(r->params);
    LK_TRY(lk_store_create(d, r->params, type, true, 1, &r->store));
    LK_TRY(lk_store_set_state(r->store, &(lk_step_state){.step = CASE_STEP, .loss_scale = 1}));
    lk_program_options options = {.seed = CASE_SEED, .first_leaf = CASE_LEAF, .local_leaves = 1,
                                  .capture = capture};
    LK_TRY(lk_program_create(r->graph, r->store, &options, &r->program));

    float *flat = allocate((size_t)r->params->total * sizeof *flat);
    for (int i = 0; i < q->count; i++)
        if (r->in[i]->param)
            encode(flat + r->in[i]->param->offset, LK_F32, q->n[i], q->value[i]);
    lk_status status = lk_store_set(r->store, flat, NULL, NULL);
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
        o->count = 1;
        o->n[0] = q->outputs;
        return fetch(r, r->y->dtype, o->n[0], lk_program_data(r->program, r->y), &o->value[0]);
    }
    o->count = q->count;
    for (int i = 0; i < q->count; i++) {
        o->n[i] = q->n[i];
        if (r->in[i]->param) {
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
        if (q->tensor[i].role == CASE_INDEX) continue;
        bool large = q->n[i] > 20000;
        double error = o->value[i] ? difference_error(q, i, o->value[i], large ? 2 : 12) : INFINITY;
        tap_ok(error <= DIFFERENCE_LIMIT, "%s %s gradient of %s against differences: %.2e",
               q->name, d->backend->name, q->tensor[i].name, error);
    }
}

/* ---- one row ------------------------------------------------------------------------------- */

static void check_close(const problem *q, const char *what, lk_dtype type, double limit,
                        const outcome *a, const outcome *b, bool gradient)
{
    double worst = 0;
    const char *where = "";
    for (int i = 0; i < a->count; i++) {
        if (!a->value[i] && !b->value[i]) continue;
        double e = a->value[i] && b->value[i] ? distance(a->n[i], a->value[i], b->value[i])
                                              : INFINITY;
        if (e > worst) {
            worst = e;
            where = gradient ? q->tensor[i].name : "y";
        }
    }
    tap_ok(worst <= limit, "%s %s %s: %.2e %s", q->name, lk_dtype_name(type), what, worst, where);
}

static void check_threads(lk_device *d, const problem *q, lk_dtype type)
{
    int before = omp_get_max_threads();
    for (int backward = 0; backward < 2; backward++) {
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
        outcome reference = {1, {q.outputs}, {q.reference}};
        if (evaluate(cpu, &q, type, false, &y)) {
            lk_dtype limit = strcmp(c->kind->name, "xent") == 0 ? LK_F32 : type;
            check_close(&q, "forward against the reference", type, forward_limit[limit], &y,
                        &reference, false);
        }
        if (evaluate(cpu, &q, type, true, &gradient)) {
            if (type == LK_F32) {
                check_differences(cpu, &q, &gradient);
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
            if (evaluate(cuda, &q, type, true, &other)) {
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
    for (int backward = 0; backward < 2; backward++) {
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

/* Tokens of leaf WINDOW_FIRST+1, the last that the program runs. */
static lk_status run_windows(lk_device *d, lk_dtype type, bool resident, uint64_t step,
                             int32_t *tokens, int32_t *targets, const double *data)
{
    const lk_backend *b = d->backend;
    int64_t rows[2] = {WINDOW_LEAVES, SHARD}, batch[2] = {BATCH, CONTEXT + 1};
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, true);
    lk_store *store = NULL;
    lk_program *program = NULL;
    void *memory = NULL;
    lk_tensor *in = lk_input(g, "data", type, 2, resident ? rows : batch), *x = NULL, *y = NULL;
    lk_status status = lk_windows(g, in, BATCH, CONTEXT, resident, LK_PURPOSE_ORDER, SHARD,
                                  WINDOW_FIRST, &x, &y);
    lk_params_layout(params);
    void *bytes = allocate(lk_bytes(in));
    encode(bytes, type, lk_count(in), data);
    lk_program_options options = {.seed = CASE_SEED, .first_leaf = WINDOW_FIRST,
                                  .local_leaves = WINDOW_LEAVES};
    if (status == LK_OK) status = lk_store_create(d, params, LK_F32, false, WINDOW_LEAVES, &store);
    if (status == LK_OK)
        status = lk_store_set_state(store, &(lk_step_state){.step = step, .loss_scale = 1});
    if (status == LK_OK) status = lk_program_create(g, store, &options, &program);
    if (status == LK_OK) status = b->alloc(d, lk_bytes(in), &memory);
    if (status == LK_OK) status = b->upload(d, memory, bytes, lk_bytes(in));
    for (int i = 0; i < WINDOW_LEAVES && status == LK_OK; i++)
        status = lk_program_bind(program, in, i, memory);
    if (status == LK_OK) status = lk_program_run(program);
    if (status == LK_OK) status = b->download(d, tokens, lk_program_data(program, x), lk_bytes(x));
    if (status == LK_OK) status = b->download(d, targets, lk_program_data(program, y), lk_bytes(y));
    b->sync(d);
    lk_program_destroy(program);
    lk_store_destroy(store);
    if (memory) b->release(d, memory);
    free(bytes);
    lk_graph_destroy(g);
    lk_params_destroy(params);
    return status;
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
    lk_status status = lk_store_create(d, r.params, LK_F32, false, 1, &r.store);
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

/* ---- optimizer steps ----------------------------------------------------------------------- */

enum { STEPS = 6 };

typedef struct flat { /* the whole optimizer state on the host */
    int64_t n;
    float *param, *moment1, *moment2;
    uint16_t *shadow;
    lk_step_state state;
} flat;

static void flat_create(flat *f, int64_t n)
{
    *f = (flat){.n = n};
    f->param = allocate((size_t)n * sizeof(float));
    f->moment1 = allocate((size_t)n * sizeof(float));
    f->moment2 = allocate((size_t)n * sizeof(float));
    f->shadow = allocate((size_t)n * sizeof(uint16_t));
}

static void flat_clear(flat *f)
{
    free(f->param);
    free(f->moment1);
    free(f->moment2);
    free(f->shadow);
}

static bool flat_same(const flat *a, const flat *b, bool state)
{
    size_t bytes = (size_t)a->n * sizeof(float);
    return memcmp(a->param, b->param, bytes) == 0 && memcmp(a->moment1, b->moment1, bytes) == 0 &&
           memcmp(a->moment2, b->moment2, bytes) == 0 &&
           memcmp(a->shadow, b->shadow, bytes / 2) == 0 &&
           (!state || memcmp(&a->state, &b->state, sizeof a->state) == 0);
}

static const lk_optimizer hyper = {.lr = 1e-2f, .min_lr = 1e-3f, .warmup = 2, .steps = 5,
                                   .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f,
                                   .weight_decay = 0.1f, .clip = 1.0f, .leaves = 2, .scaling = 1,
                                   .growth = 2, .backoff = 0.5f, .growth_interval = 2,
                                   .max_scale = 65536};

static lk_params *two_params(void)
{
    lk_params *p = lk_params_create();
    lk_graph *g = lk_graph_create(p, true);
    lk_parameter(g, "bias", 1, (int64_t[]){1237}, LK_INIT_ZERO, 0, false);
    lk_parameter(g, "weight", 2, (int64_t[]){301, 117}, LK_INIT_NORMAL, 0.5f, true);
    lk_graph_destroy(g);
    lk_params_layout(p);
    return p;
}

/* Scaled gradients of step s, summed over leaves; step 2 overflows, step 3 is clipped hard. */
static void step_gradient(const lk_params *p, int s, double scale, float *grad)
{
    memset(grad, 0, (size_t)(p->total + LK_METRIC_FLOATS) * sizeof *grad);
    double size = s == 3 ? 5.0 : 0.002;
    for (int i = 0; i < p->count; i++)
        for (int64_t k = 0; k < p->item[i]->count; k++)
            grad[p->item[i]->offset + k] =
                (float)(scale * size * normal((uint32_t)(70 + 10 * s + i), k));
    if (s == 2) grad[p->item[1]->offset + 20011] = INFINITY;
    grad[p->total] = 2.5f + (float)s;
}

static lk_status device_steps(lk_device *d, const lk_params *p, lk_dtype type, bool capture,
                              flat *after)
{
    const lk_backend *b = d->backend;
    lk_graph *g = lk_graph_create((lk_params *)p, true);
    lk_store *store = NULL;
    lk_program *program = NULL;
    float *host = allocate((size_t)(p->total + LK_METRIC_FLOATS) * sizeof *host);
    lk_program_options options = {.local_leaves = 1, .capture = capture};
    lk_status status = lk_autocast(g, type);
    if (status == LK_OK) status = lk_optimize(g, &hyper, true);
    if (status == LK_OK) status = lk_store_create(d, p, type, true, 1, &store);
    if (status == LK_OK) status = lk_program_create(g, store, &options, &program);
    if (status == LK_OK) {
        lk_params_initialise(p, 1, host);
        status = lk_store_set(store, host, NULL, NULL);
    }
    if (status == LK_OK)
        status = lk_store_set_state(store, &(lk_step_state){.loss_scale = 1024});
    double scale = 1024;
    for (int s = 0; s < STEPS && status == LK_OK; s++) {
        step_gradient(p, s, scale, host);
        status = b->upload(d, store->gradient[0], host,
                           (size_t)(p->total + LK_METRIC_FLOATS) * sizeof *host);
        if (status == LK_OK) status = b->sync(d);
        if (status == LK_OK) status = lk_program_run(program);
        flat_create(&after[s], p->total);
        if (status == LK_OK)
            status = lk_store_get(store, after[s].param, after[s].moment1, after[s].moment2);
        if (status == LK_OK) status = lk_store_get_state(store, &after[s].state);
        if (status == LK_OK && type != LK_F32)
            status = b->download(d, after[s].shadow, store->buffer[LK_REGION_SHADOW],
                                 (size_t)p->total * 2);
        b->sync(d);
        scale = (double)after[s].state.loss_scale;
    }
    lk_program_destroy(program);
    lk_store_destroy(store);
    lk_graph_destroy(g);
    free(host);
    return status;
}

static bool near(double a, double b) { return fabs(a - b) <= 2e-6 * fabs(b); }

static void check_against_reference(const char *name, const lk_params *p, lk_dtype type,
                                    const flat *after)
{
    size_t bytes = (size_t)p->total * sizeof(double);
    double *param = allocate(bytes), *m1 = allocate(bytes), *m2 = allocate(bytes);
    double *grad = allocate(bytes), *got = allocate(bytes);
    float *host = allocate((size_t)(p->total + LK_METRIC_FLOATS) * sizeof *host);
    lk_params_initialise(p, 1, host);
    decode(param, LK_F32, p->total, host);
    ref_optimizer_state r = {.loss_scale = 1024};
    for (int s = 0; s < STEPS; s++) {
        const lk_step_state *state = &after[s].state;
        step_gradient(p, s, r.loss_scale, host);
        decode(grad, LK_F32, p->total, host);
        ref_step(&r, &hyper, p->total, p->decayed, grad, (double)host[p->total], param, m1, m2);
        bool good = state->step == r.step && state->updates == r.updates &&
                    state->skipped == r.skipped && state->good_steps == r.good_steps &&
                    (state->finite != 0) == r.finite && (double)state->loss_scale == r.loss_scale;
        good &= near((double)state->loss, r.loss) && near((double)state->lr, r.lr);
        good &= r.finite ? near((double)state->grad_norm, r.grad_norm) : true;
        tap_ok(good, "%s step %d: state as the reference (norm %.7g, lr %.7g, scale %g)", name, s,
               (double)state->grad_norm, (double)state->lr, (double)state->loss_scale);
        double worst = 0, e;
        decode(got, LK_F32, p->total, after[s].param);
        if ((e = distance(p->total, got, param)) > worst) worst = e;
        decode(got, LK_F32, p->total, after[s].moment1);
        if ((e = distance(p->total, got, m1)) > worst) worst = e;
        decode(got, LK_F32, p->total, after[s].moment2);
        if ((e = distance(p->total, got, m2)) > worst) worst = e;
        tap_ok(worst <= 2e-6, "%s step %d: parameters and moments as the reference: %.2e", name, s,
               worst);
        if (!r.finite)
            tap_ok(flat_same(&after[s - 1], &after[s], false),
                   "%s step %d: a step that is not finite leaves everything as it was", name, s);
        bool shadow = true;
        for (int64_t k = 0; k < p->total && type != LK_F32; k++)
            shadow &= after[s].shadow[k] == (type == LK_F16 ? lk_f16_from_f32(after[s].param[k])
                                                            : lk_bf16_from_f32(after[s].param[k]));
        if (type != LK_F32) tap_ok(shadow, "%s step %d: the shadow is up to date", name, s);
    }
    free(param);
    free(m1);
    free(m2);
    free(grad);
    free(got);
    free(host);
}

static void check_steps(lk_device *d, lk_dtype type)
{
    char name[64];
    snprintf(name, sizeof name, "optimizer %s %s", d->backend->name, lk_dtype_name(type));
    lk_params *p = two_params();
    flat after[STEPS] = {{0}}, again[STEPS] = {{0}};
    int before = omp_get_max_threads();
    lk_status status = device_steps(d, p, type, false, after);
    if (tap_ok(status == LK_OK, "%s runs %s", name, lk_error_text())) {
        check_against_reference(name, p, type, after);
        for (int threads = 1; threads <= 3; threads++) {
            omp_set_num_threads(threads);
            status = device_steps(d, p, type, threads == 3, again);
            bool same = status == LK_OK;
            for (int s = 0; s < STEPS && same; s++) same = flat_same(&after[s], &again[s], true);
            tap_ok(same, "%s: same bits in run %d", name, threads);
            for (int s = 0; s < STEPS; s++) flat_clear(&again[s]);
        }
        omp_set_num_threads(before);
    }
    lk_error_clear();
    for (int s = 0; s < STEPS; s++) flat_clear(&after[s]);
    lk_params_destroy(p);
}

/* ---- main ---------------------------------------------------------------------------------- */

static lk_device *open_cuda(void)
{
    lk_device *d = NULL;
#ifdef LK_HAVE_CUDA
    if (lk_cuda_device_count() > 0 && lk_backend_cuda.open(0, &d) != LK_OK)
        tap_ok(false, "opening the CUDA device: %s", lk_error_text());
    lk_error_clear();
#endif
    return d;
}

int main(int argc, char **argv)
{
    bool timing = false;
    const char *only = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--time") == 0) timing = true;
        else only = argv[i];
    }
    lk_device *cpu = NULL, *cuda = open_cuda(), *device[2];
    if (!tap_ok(lk_backend_cpu.open(0, &cpu) == LK_OK, "the CPU backend opens %s",
                lk_error_text()))
        return tap_done();
    if (timing) printf("# milliseconds: forward, forward and backward\n");
    for (int i = 0; i < op_case_count; i++) {
        char name[128];
        op_case_name(&op_cases[i], name, sizeof name);
        if (only && !strstr(name, only)) continue;
        if (!timing) {
            check_case(cpu, cuda, &op_cases[i]);
            continue;
        }
        for (lk_dtype type = LK_F32; type <= LK_BF16; type++)
            time_case(cuda ? cuda : cpu, &op_cases[i], type);
    }
    device[0] = cpu;
    device[1] = cuda;
    for (int i = 0; i < 2 && !timing; i++) {
        if (!device[i]) continue;
        if (!only || strstr("windows", only)) check_windows(device[i]);
        if (!only || strstr("conversion", only)) {
            check_conversion(device[i], LK_F16);
            check_conversion(device[i], LK_BF16);
        }
        if (!only || strstr("optimizer", only))
            for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check_steps(device[i], type);
    }
    if (cuda) cuda->backend->close(cuda);
    cpu->backend->close(cpu);
    return tap_done();
}
