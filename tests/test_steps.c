/* Sequences of optimizer steps, on every backend of this build: clipping, warmup and cosine, loss
 * scaling with an overflow, weight decay, running statistics, the moving average of the parameters
 * and the half shadow, against the reference in double; the same bits with 1, 2 and 3 threads and
 * in repeated runs. */
#include "program/program.h"
#include "tests/ops_help.h"
#include "tests/reference.h"

#include <omp.h>

enum { STEPS = 6 };

typedef struct flat { /* the whole optimizer state on the host */
    int64_t n;
    float *param, *moment1, *moment2, *ema;
    uint16_t *shadow;
    lk_step_state state;
} flat;

static void flat_create(flat *f, int64_t n)
{
    *f = (flat){.n = n};
    f->param = allocate((size_t)n * sizeof(float));
    f->moment1 = allocate((size_t)n * sizeof(float));
    f->moment2 = allocate((size_t)n * sizeof(float));
    f->ema = allocate((size_t)n * sizeof(float));
    f->shadow = allocate((size_t)n * sizeof(uint16_t));
}

static void flat_clear(flat *f)
{
    free(f->param);
    free(f->moment1);
    free(f->moment2);
    free(f->ema);
    free(f->shadow);
}

static bool flat_same(const flat *a, const flat *b, bool state)
{
    size_t bytes = (size_t)a->n * sizeof(float);
    return memcmp(a->param, b->param, bytes) == 0 && memcmp(a->moment1, b->moment1, bytes) == 0 &&
           memcmp(a->moment2, b->moment2, bytes) == 0 && memcmp(a->ema, b->ema, bytes) == 0 &&
           memcmp(a->shadow, b->shadow, bytes / 2) == 0 &&
           (!state || memcmp(&a->state, &b->state, sizeof a->state) == 0);
}

static const lk_optimizer hyper = {.lr = 1e-2f, .min_lr = 1e-3f, .warmup = 2, .steps = 5,
                                   .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f,
                                   .weight_decay = 0.1f, .clip = 1.0f, .momentum = 0.1f,
                                   .ema = 0.3f, .leaves = 2, .scaling = 1,
                                   .growth = 2, .backoff = 0.5f, .growth_interval = 2,
                                   .max_scale = 65536};

static lk_params *some_params(void)
{
    lk_params *p = lk_params_create();
    lk_graph *g = lk_graph_create(p, true);
    lk_parameter(g, "bias", 1, (int64_t[]){1237}, LK_INIT_ZERO, 0, false);
    lk_parameter(g, "weight", 2, (int64_t[]){301, 117}, LK_INIT_NORMAL, 0.5f, true);
    lk_statistic(g, "mean", 83, LK_INIT_ZERO);
    lk_statistic(g, "var", 83, LK_INIT_ONE);
    lk_graph_destroy(g);
    lk_params_layout(p);
    return p;
}

/* Scaled gradients of step s, and what statistics were measured, summed over leaves; step 2
 * overflows, step 3 is clipped hard. */
static void step_gradient(const lk_params *p, int s, double scale, float *grad)
{
    memset(grad, 0, (size_t)(p->total + LK_METRIC_FLOATS) * sizeof *grad);
    double size = s == 3 ? 5.0 : 0.002;
    for (int i = 0; i < p->count; i++)
        for (int64_t k = 0; k < p->item[i]->count; k++)
            grad[p->item[i]->offset + k] =
                (float)((p->item[i]->statistic ? 3 : scale * size) *
                        normal((uint32_t)(70 + 10 * s + i), k));
    if (s == 2) grad[p->item[1]->offset + 20011] = INFINITY;
    grad[p->total] = 2.5f + (float)s;
}

static lk_status get(const lk_store *store, const flat *f)
{
    static const lk_region region[] = {LK_REGION_PARAM, LK_REGION_MOMENT1, LK_REGION_MOMENT2,
                                       LK_REGION_EMA};
    float *const host[] = {f->param, f->moment1, f->moment2, f->ema};
    lk_device *d = store->device;
    for (int i = 0; i < 4; i++)
        LK_TRY(d->backend->download(d, host[i], store->buffer[region[i]],
                                    (size_t)f->n * sizeof *host[i]));
    return d->backend->sync(d);
}

typedef enum way { DIRECT, CAPTURED, TIMED } way; /* TIMED: as bench/kernels runs a step */

static lk_status device_steps(lk_device *d, const lk_params *p, lk_dtype type, way way,
                              flat *after)
{
    double seconds[16];
    const lk_backend *b = d->backend;
    lk_graph *g = lk_graph_create((lk_params *)p, true);
    lk_store *store = NULL;
    lk_program *program = NULL;
    float *host = allocate((size_t)(p->total + LK_METRIC_FLOATS) * sizeof *host);
    lk_program_options options = {.local_leaves = 1, .capture = way == CAPTURED};
    lk_status status = lk_autocast(g, type);
    if (status == LK_OK) status = lk_optimize(g, &hyper);
    if (status == LK_OK)
        status = lk_store_create(
            d, p,
            &(lk_store_options){
                .compute = type, .training = true, .ema = true, .local_leaves = 1},
            &store);
    if (status == LK_OK) status = lk_program_create(g, store, &options, &program);
    if (status == LK_OK) {
        lk_params_initialise(p, 1, host);
        status = lk_store_set(store, &(lk_flat){.param = host, .ema = host});
    }
    if (status == LK_OK)
        status = lk_store_set_state(store, &(lk_step_state){.loss_scale = 1024});
    double scale = 1024;
    for (int s = 0; s < STEPS && status == LK_OK; s++) {
        step_gradient(p, s, scale, host);
        status = b->upload(d, store->gradient[0], host,
                           (size_t)(p->total + LK_METRIC_FLOATS) * sizeof *host);
        if (status == LK_OK) status = b->sync(d);
        if (status == LK_OK)
            status = way == TIMED ? lk_timing_step(program, g, 1, 25, seconds)
                                  : lk_program_run(program);
        flat_create(&after[s], p->total);
        if (status == LK_OK)
            status = get(store, &after[s]);
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
    double *grad = allocate(bytes), *got = allocate(bytes), *ema = allocate(bytes);
    float *host = allocate((size_t)(p->total + LK_METRIC_FLOATS) * sizeof *host);
    lk_params_initialise(p, 1, host);
    decode(param, LK_F32, p->total, host);
    decode(ema, LK_F32, p->total, host);
    ref_optimizer_state r = {.loss_scale = 1024};
    for (int s = 0; s < STEPS; s++) {
        const lk_step_state *state = &after[s].state;
        step_gradient(p, s, r.loss_scale, host);
        decode(grad, LK_F32, p->total, host);
        ref_step(&r, &hyper, p, grad, (double)host[p->total], param, m1, m2, ema);
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
        decode(got, LK_F32, p->total, after[s].ema);
        if ((e = distance(p->total, got, ema)) > worst) worst = e;
        decode(got, LK_F32, p->total, after[s].param);
        int64_t rest = p->total - p->learned;
        if ((e = distance(rest, got + p->learned, param + p->learned)) > worst) worst = e;
        tap_ok(worst <= 2e-6, "%s step %d: parameters, average and moments as the reference: %.2e",
               name, s, worst);
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
    free(ema);
    free(host);
}

static void check_steps(lk_device *d, lk_dtype type)
{
    char name[64];
    snprintf(name, sizeof name, "optimizer %s %s", d->backend->name, lk_dtype_name(type));
    lk_params *p = some_params();
    flat after[STEPS] = {{0}}, again[STEPS] = {{0}};
    int before = omp_get_max_threads();
    lk_status status = device_steps(d, p, type, DIRECT, after);
    if (tap_ok(status == LK_OK, "%s runs %s", name, lk_error_text())) {
        check_against_reference(name, p, type, after);
        static const way ways[] = {DIRECT, DIRECT, CAPTURED, TIMED};
        for (int i = 0; i < 4; i++) {
            omp_set_num_threads(i % 3 + 1);
            status = device_steps(d, p, type, ways[i], again);
            bool same = status == LK_OK;
            for (int s = 0; s < STEPS && same; s++) same = flat_same(&after[s], &again[s], true);
            tap_ok(same, "%s: same bits in run %d%s", name, i + 1,
                   ways[i] == TIMED ? ", whose nodes are timed" : "");
            for (int s = 0; s < STEPS; s++) flat_clear(&again[s]);
        }
        omp_set_num_threads(before);
    }
    lk_error_clear();
    for (int s = 0; s < STEPS; s++) flat_clear(&after[s]);
    lk_params_destroy(p);
}

int main(void)
{
    lk_device *device[2] = {NULL, open_cuda()};
    if (!tap_ok(lk_backend_cpu.open(0, &device[0]) == LK_OK, "the CPU backend opens %s",
                lk_error_text()))
        return tap_done();
    for (int i = 0; i < 2 && device[i]; i++) {
        for (lk_dtype type = LK_F32; type <= LK_BF16; type++) check_steps(device[i], type);
        device[i]->backend->close(device[i]);
    }
    return tap_done();
}
