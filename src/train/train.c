/* The training run: run file to programs, then the step loop.
 *
 * The host only enqueues steps; what a step did (loss, rate, scale) comes back in lk_step_state,
 * copied to a small ring of pinned slots and read a few steps later. */
#include "base/clock.h"
#include "base/heart.h"
#include "comm/watchdog.h"
#include "io/checkpoint.h"
#include "train/check.h"
#include "train/debug.h"
#include "train/monitor.h"
#include "train/rundir.h"
#include "train/save.h"
#include "train/session.h"
#include "train/starts.h"
#include "train/stop.h"
#include "train/tracing.h"
#include "version.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RING = 4, HOPELESS = 200 }; /* steps in flight; skipped steps in a row before giving up */

typedef struct trainer {
    lk_comm *comm;
    lk_io *io;
    const lk_run *run;
    const lk_start *how;
    const lk_reporter *reporter;
    lk_rundir *rundir;
    lk_monitor *monitor;
    lk_stop *stop;
    lk_watchdog *watchdog;
    lk_tracing *tracing;
    lk_debug *debug;
    lk_device *device;
    lk_dataset *data;
    lk_model model;
    lk_params *params;
    lk_loader_options order, held; /* of training and of validation samples */
    lk_loader *loader, *held_loader;
    lk_loss_graph train_graph, eval_graph, ema_graph; /* ema: eval of the moving average */
    lk_store *store;
    lk_save *save;
    lk_program *train, *eval, *ema;
    int64_t eval_batches;     /* of a validation */
    void *eval_state, *scale; /* device; scale: of images */
    lk_step_state *ring; /* pinned, RING slots */
    int leaves;
    uint64_t start, last; /* steps done at the start; stop here */
    uint64_t drained;     /* steps whose state was read */
    uint64_t saved;       /* steps done in the last checkpoint */
    uint64_t skipped_in_row;
    double begun, best;
    double own_evaluation; /* seconds of this rank's work in a batch of the last evaluation */
    double pace, paused; /* when the first step was done; seconds in validations and saves since */
    double load_bytes, load_seconds; /* of the checkpoint to resume from; 0: none */
    double each;         /* mean time of a step, s */
    lk_train_result result;
} trainer;

static void say(const trainer *t, const char *text)
{
    if (t->comm->rank == 0 && t->reporter->line) t->reporter->line(t->reporter->context, text);
}

static lk_status open_data(trainer *t)
{
    t->order = lk_session_samples(t->comm, t->run, t->leaves, LK_TRAIN);
    t->held = lk_session_samples(t->comm, t->run, t->leaves, LK_VALIDATION);
    LK_TRY(lk_loader_open(t->data, t->device, &t->order, &t->loader));
    if (t->run->eval.batches == 0) return LK_OK; /* the data may have no validation part */
    return lk_loader_open(t->data, t->device, &t->held, &t->held_loader);
}

static lk_status build_graphs(trainer *t)
{
    lk_loader_sizes sizes;
    LK_TRY(lk_loader_measure(t->data, &t->order, &sizes));
    lk_source train = lk_session_source(t->run, t->data, &sizes, &t->order);
    t->model = lk_session_model(t->run, t->data->vocabulary_size, &t->data->image);
    t->params = lk_params_create();
    if (!t->params) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_session_train_graph(t->comm, t->run, t->leaves, &t->model, &train, t->params,
                                  &t->train_graph));
    if (!t->held_loader) return LK_OK;
    LK_TRY(lk_loader_measure(t->data, &t->held, &sizes));
    lk_source held = lk_session_source(t->run, t->data, &sizes, &t->held);
    int64_t whole = sizes.shard_rows / t->held.batch;
    t->eval_batches = t->run->eval.batches;
    if (t->model.vision && t->eval_batches > whole) t->eval_batches = whole;
    LK_TRY(lk_session_held_graph(t->run, &t->model, &held, false, t->params, &t->eval_graph));
    if (t->run->train.ema <= 0) return LK_OK;
    return lk_session_held_graph(t->run, &t->model, &held, true, t->params, &t->ema_graph);
}

static lk_status create_program(trainer *t, const lk_loss_graph *g, lk_loader *loader,
                                lk_program **program)
{
    int local = t->order.local_leaves;
    lk_program_options o = {.comm = t->comm,
                            .seed = (uint64_t)t->run->seed,
                            .first_leaf = t->order.first_leaf,
                            .local_leaves = local,
                            .capture = true};
    LK_TRY(lk_program_create(g->graph, t->store, &o, program));
    for (int i = 0; i < local; i++) {
        for (int k = 0; k < t->data->fields; k++)
            LK_TRY(lk_program_bind(*program, g->field[k], i, lk_loader_input(loader, k, i)));
        if (g->scale) LK_TRY(lk_program_bind(*program, g->scale, i, t->scale));
    }
    return LK_OK;
}

static lk_status create_programs(trainer *t)
{
    t->train_graph.graph->apart = t->how->detect_anomaly; /* inputs are to be looked at */
    LK_TRY(create_program(t, &t->train_graph, t->loader, &t->train));
    if (!t->held_loader) return LK_OK;
    LK_TRY(create_program(t, &t->eval_graph, t->held_loader, &t->eval));
    lk_program_use_state(t->eval, t->eval_state);
    if (!t->ema_graph.graph) return LK_OK;
    LK_TRY(create_program(t, &t->ema_graph, t->held_loader, &t->ema));
    lk_program_use_state(t->ema, t->eval_state);
    lk_program_use_ema(t->ema);
    return LK_OK;
}

static lk_status allocate(trainer *t)
{
    const lk_backend *b = t->device->backend;
    LK_TRY(lk_store_create(t->device, t->params,
                           &(lk_store_options){.compute = lk_session_compute(t->run),
                                               .training = true,
                                               .ema = t->run->train.ema > 0,
                                               .local_leaves = t->order.local_leaves},
                           &t->store));
    LK_TRY(b->alloc(t->device, sizeof(lk_step_state), &t->eval_state));
    if (t->model.vision) LK_TRY(lk_session_scale(t->device, &t->data->image, &t->scale));
    return b->host_alloc(t->device, RING * sizeof *t->ring, (void **)&t->ring);
}

/* With `reduce: fast` nothing is promised, so a run may go on where its algorithms are not. */
static lk_status restore_choices(trainer *t, const char *saved)
{
    lk_status status = t->device->backend->choices_set(t->device, saved);
    if (status != LK_E_INPUT || strcmp(t->run->train.reduce, "fast") != 0) return status;
    lk_error_clear();
    say(t, "the run's recorded algorithms cannot be used here; choosing others");
    return LK_OK;
}

/* Library algorithms are chosen by rank 0 (or were chosen before a resume) and bind all ranks. */
static lk_status prepare_programs(trainer *t, const char *saved)
{
    const lk_backend *b = t->device->backend;
    char *choices = NULL;
    lk_status status = LK_OK;
    if (t->comm->rank == 0) {
        if (saved) status = restore_choices(t, saved);
        if (status == LK_OK) status = create_programs(t);
        if (status == LK_OK) status = b->choices_get(t->device, &choices);
    }
    LK_TRY(lk_comm_agree(t->comm, status));
    status = lk_comm_broadcast_text(t->comm, &choices);
    if (status == LK_OK && t->comm->rank != 0) {
        status = b->choices_set(t->device, choices);
        if (status == LK_OK) status = create_programs(t);
    }
    free(choices);
    LK_TRY(lk_comm_agree(t->comm, status));
    return lk_comm_agree(t->comm, lk_comm_attach(t->comm, t->device,
                                                 t->params->total + LK_METRIC_FLOATS));
}

/* ---- state of a run: fresh or from a checkpoint ------------------------------------------- */

static lk_status host_buffers(const trainer *t, lk_flat *d)
{
    size_t bytes = (size_t)t->params->total * sizeof(float);
    d->param = malloc(bytes);
    d->moment1 = malloc(bytes);
    d->moment2 = malloc(bytes);
    bool ema = t->run->train.ema > 0;
    d->ema = ema ? malloc(bytes) : NULL;
    return d->param && d->moment1 && d->moment2 && (d->ema || !ema)
               ? LK_OK
               : lk_fail(LK_E_SYSTEM, "out of memory for a host copy of the parameters");
}

static void free_buffers(lk_flat *d)
{
    free(d->param);
    free(d->moment1);
    free(d->moment2);
    free(d->ema);
}

static void warn(void *context, const char *text)
{
    char line[2200];
    snprintf(line, sizeof line, "warning: %s", text);
    say(context, line);
}

static void saved(void *context, const lk_checkpoint_figures *f)
{
    trainer *t = context;
    if (f->warning[0]) warn(context, f->warning);
    lk_stop_saved(t->stop, f->seconds);
    snprintf(t->result.checkpoint, sizeof t->result.checkpoint, "%s", f->path);
    t->saved = f->step;
    lk_monitor_save(t->monitor, f);
}

static lk_status open_save(trainer *t)
{
    return lk_save_open(&(lk_save_options){.comm = t->comm,
                                           .io = t->io,
                                           .run = t->run,
                                           .data = t->data,
                                           .store = t->store,
                                           .directory = lk_rundir_checkpoints(t->rundir),
                                           .leaves = t->leaves,
                                           .saved = saved,
                                           .context = t},
                        &t->save);
}

static lk_status load(trainer *t, const char *checkpoint, const lk_flat *d)
{
    double begun = lk_clock_seconds();
    LK_TRY(lk_checkpoint_load(t->io, t->comm->world, checkpoint, t->params, d));
    t->load_bytes = (d->ema ? 4.0 : 3.0) * sizeof(float) * (double)t->params->total;
    t->load_seconds = lk_clock_seconds() - begun;
    return LK_OK;
}

static lk_status start(trainer *t, const lk_checkpoint_info *saved, const char *checkpoint)
{
    lk_flat d = {NULL};
    lk_step_state state = {.loss_scale = 1.0f};
    if (lk_run_precision(t->run) == LK_FP16) state.loss_scale = (float)t->run->loss_scale.initial;
    lk_status status = lk_comm_agree(t->comm, host_buffers(t, &d));
    if (status == LK_OK && saved) {
        state = saved->state;
        t->result.loss = (double)state.loss; /* if no step is left to do */
        t->result.skipped = (int64_t)state.skipped;
        snprintf(t->result.checkpoint, sizeof t->result.checkpoint, "%s", checkpoint);
        t->saved = state.step;
        status = load(t, checkpoint, &d);
    } else if (status == LK_OK) {
        size_t bytes = (size_t)t->params->total * sizeof(float);
        lk_params_initialise(t->params, (uint64_t)t->run->seed, d.param);
        memset(d.moment1, 0, bytes);
        memset(d.moment2, 0, bytes);
        if (d.ema) memcpy(d.ema, d.param, bytes);
    }
    if (status == LK_OK) status = lk_store_set(t->store, &d);
    if (status == LK_OK) status = lk_store_set_state(t->store, &state);
    free_buffers(&d);
    t->start = t->drained = state.step;
    return lk_comm_agree(t->comm, status);
}

/* The run has diverged; `what`: how. All ranks alike. A checkpoint is known to be good only when a
 * step after it has had a finite loss. */
static lk_status diverged(trainer *t, uint64_t step, const char *what)
{
    LK_TRY(lk_save_finish(t->save)); /* the one under way was begun before */
    const char *path = t->result.checkpoint, *run = t->run->path;
    double lr = t->run->optimizer.lr / 3;
    if (!path[0])
        return lk_fail(LK_E_INTERNAL, "step %llu: %s; there is no checkpoint before it; to find "
                       "where it begins remove the run directory and add --detect-anomaly to the "
                       "same command; or start again with a lower rate, such as "
                       "--set optimizer.lr=%.3g",
                       (unsigned long long)step, what, lr);
    if (t->saved + 1 >= step)
        return lk_fail(LK_E_INTERNAL, "step %llu: %s; the last checkpoint, %s, is of the step just "
                       "before and may be spoilt: remove it and go on from the one before, with "
                       "--detect-anomaly to find where it begins or with a lower rate: lockstep "
                       "train %s --resume --set optimizer.lr=%.3g",
                       (unsigned long long)step, what, path, run, lr);
    return lk_fail(LK_E_INTERNAL, "step %llu: %s; the last checkpoint, %s, is from before: find "
                   "where it begins with lockstep train %s --resume --detect-anomaly, or go on "
                   "from it with a lower rate: lockstep train %s --resume --set optimizer.lr=%.3g",
                   (unsigned long long)step, what, path, run, run, lr);
}

/* ---- evaluation ---------------------------------------------------------------------------- */

static float tree_sum(float *x, int n) /* n a power of two */
{
    for (; n > 1; n /= 2)
        for (int i = 0; i < n / 2; i++) x[i] = x[2 * i] + x[2 * i + 1];
    return x[0];
}

/* One batch: its metrics, summed over this rank's leaves. */
static lk_status evaluate_batch(trainer *t, lk_program *program, int64_t batch,
                                float sum[LK_METRICS])
{
    const lk_backend *b = t->device->backend;
    lk_step_state state = {.step = (uint64_t)batch, .loss_scale = 1.0f};
    lk_heart_begin(LK_VALIDATING, t->drained);
    LK_TRY(b->upload(t->device, t->eval_state, &state, sizeof state));
    LK_TRY(lk_loader_feed(t->held_loader, (uint64_t)batch));
    LK_TRY(lk_program_run(program));
    LK_TRY(b->download(t->device, sum, (float *)t->store->gradient[0] + t->params->total,
                       LK_METRICS * sizeof *sum));
    return b->sync(t->device);
}

/* Means over the validation batches, the same ones every time, summed over ranks in the tree. */
static lk_status evaluate(trainer *t, lk_program *program, double mean[LK_METRICS])
{
    int n = (int)t->eval_batches, size = t->comm->size, count = n * LK_METRICS;
    double *mine = calloc((size_t)count * (size_t)(size + 1), sizeof *mine), *all = mine + count;
    float *sums = calloc((size_t)size, sizeof *sums);
    lk_status status = mine && sums ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    double begin = lk_clock_seconds();
    for (int i = 0; i < n && status == LK_OK; i++) {
        float sum[LK_METRICS] = {0};
        status = evaluate_batch(t, program, i, sum);
        for (int k = 0; k < LK_METRICS; k++) mine[i * LK_METRICS + k] = (double)sum[k];
    }
    t->own_evaluation = n > 0 ? (lk_clock_seconds() - begin) / n : NAN;
    status = lk_comm_agree(t->comm, status);
    if (status == LK_OK) status = lk_comm_gather_doubles(t->comm, mine, count, all);
    double total[LK_METRICS] = {0};
    for (int i = 0; i < count && status == LK_OK; i++) {
        for (int r = 0; r < size; r++) sums[r] = (float)all[(int64_t)r * count + i];
        total[i % LK_METRICS] += (double)tree_sum(sums, size) / t->leaves;
    }
    free(mine);
    free(sums);
    for (int k = 0; k < LK_METRICS; k++) mean[k] = total[k] / (n > 0 ? n : 1);
    return status;
}

static lk_status validate(trainer *t, uint64_t step)
{
    double raw[LK_METRICS], ema[LK_METRICS], begin = lk_clock_seconds();
    LK_TRY(evaluate(t, t->eval, raw));
    if (t->ema) LK_TRY(evaluate(t, t->ema, ema));
    bool vision = t->model.vision;
    lk_validation *v = &t->result.validation;
    *v = (lk_validation){
        .loss = raw[LK_METRIC_LOSS],
        .accuracy = vision ? raw[LK_METRIC_HITS] : NAN,
        .ema_loss = t->ema ? ema[LK_METRIC_LOSS] : NAN,
        .ema_accuracy = t->ema && vision ? ema[LK_METRIC_HITS] : NAN,
    };
    if (v->loss < t->best) t->best = v->loss;
    LK_TRY(lk_comm_agree(t->comm, lk_rundir_log_validation(t->rundir, step, v)));
    lk_monitor_validation(t->monitor, step, v, t->best, lk_clock_seconds() - begin);
    if (!isfinite(v->loss)) return diverged(t, step, "the validation loss after it is not finite");
    if (t->comm->rank == 0 && t->reporter->evaluated)
        t->reporter->evaluated(t->reporter->context, (int64_t)step, v, t->best);
    return LK_OK;
}

/* ---- the loop ------------------------------------------------------------------------------ */

/* Mean time of a step, without validations, saves and the first step, which prepares the others. */
static double step_seconds(trainer *t)
{
    double now = lk_clock_seconds();
    if (t->drained == t->start + 1) {
        t->pace = now;
        return now - t->begun;
    }
    return (now - t->pace - t->paused) / (double)(t->drained - t->start - 1);
}

/* A step that is not finite is skipped where loss scaling may be the cause, but not for ever; it
 * has changed no parameter. */
static lk_status check_finite(trainer *t, const lk_step_state *s)
{
    bool good = s->finite && isfinite(s->loss), scaling = lk_run_precision(t->run) == LK_FP16;
    char what[200], row[80] = "";
    t->skipped_in_row = good ? 0 : t->skipped_in_row + 1;
    if (good || (scaling && t->skipped_in_row < HOPELESS)) return LK_OK;
    if (scaling)
        snprintf(row, sizeof row, ", %d such steps in a row, loss scale %g", HOPELESS,
                 (double)s->loss_scale);
    snprintf(what, sizeof what, "the %s is not finite (loss %g, gradient norm %g%s)",
             s->finite ? "loss" : "gradient", (double)s->loss, (double)s->grad_norm, row);
    return diverged(t, s->step, what);
}

/* Read the state of the oldest step in flight. Every rank sees the same values. */
static lk_status drain(trainer *t)
{
    int slot = (int)(t->drained % RING);
    lk_heart_begin(LK_AWAITING, t->drained + 1);
    LK_TRY(t->device->backend->wait(t->device, slot));
    lk_step_state s = t->ring[slot];
    t->drained++;
    t->result.loss = (double)s.loss;
    t->result.skipped = (int64_t)s.skipped;
    LK_TRY(lk_rundir_log_step(t->rundir, &s));
    lk_monitor_step(t->monitor, &s);
    LK_TRY(check_finite(t, &s));
    t->each = step_seconds(t);
    if (t->comm->rank == 0 && t->reporter->step)
        t->reporter->step(t->reporter->context, (int64_t)t->drained, (int64_t)t->last,
                          (double)s.loss, (double)t->run->train.batch / t->each, t->each);
    return LK_OK;
}

static lk_status one_step(trainer *t, uint64_t step)
{
    const lk_backend *b = t->device->backend;
    if (step - t->drained >= RING) LK_TRY(drain(t));
    lk_monitor_begin(t->monitor, step);
    lk_heart_begin(LK_READING, step + 1);
    LK_TRY(lk_tracing_before(t->tracing, step + 1));
    LK_TRY(lk_loader_feed(t->loader, step));
    lk_heart_begin(LK_STEPPING, step + 1);
    lk_monitor_fed(t->monitor, step);
    LK_TRY(lk_program_run(t->train));
    double pause = lk_clock_seconds();
    LK_TRY(lk_tracing_after(t->tracing, step + 1));
    if (t->drained > t->start) t->paused += lk_clock_seconds() - pause; /* a trace was written */
    int slot = (int)(step % RING);
    LK_TRY(b->download(t->device, &t->ring[slot], t->store->buffer[LK_REGION_STATE],
                       sizeof *t->ring));
    LK_TRY(b->record(t->device, slot));
    lk_monitor_enqueued(t->monitor, step);
    return LK_OK;
}

static void report_saves(trainer *t)
{
    char text[200];
    const lk_save_totals s = t->result.saves = lk_save_total(t->save);
    if (s.saves == 0) return;
    snprintf(text, sizeof text, "%lld checkpoint%s, %.1f MiB, written at %.1f MiB/s; training "
             "waited %.3f s for them (%.2f %%)", (long long)s.saves, s.saves == 1 ? "" : "s",
             s.bytes / 0x1p20, s.bytes / 0x1p20 / s.seconds, s.stall,
             100 * s.stall / t->result.seconds);
    say(t, text);
}

static bool due(uint64_t step, int64_t every) { return every > 0 && step % (uint64_t)every == 0; }

/* What is due after `step`, whose steps are all done. */
static lk_status pause_for(trainer *t, uint64_t step, bool evaluation, bool saving)
{
    while (t->drained < step) LK_TRY(drain(t));
    double begin = lk_clock_seconds(), now = begin;
    t->own_evaluation = NAN;
    if (evaluation && t->run->eval.batches > 0) {
        LK_TRY(validate(t, step));
        now = lk_clock_seconds();
        lk_stop_validated(t->stop, now - begin);
    }
    if (saving) {
        lk_heart_begin(LK_SAVING, step);
        LK_TRY(lk_comm_agree(t->comm, lk_rundir_sync(t->rundir)));
        LK_TRY(lk_save_begin(t->save));
    }
    LK_TRY(lk_monitor_ranks(t->monitor, step, t->own_evaluation));
    t->paused += lk_clock_seconds() - begin;
    return LK_OK;
}

static lk_status loop(trainer *t)
{
    t->begun = lk_clock_seconds();
    if (t->start == 0 && t->run->checkpoint.initial && !t->how->profile)
        LK_TRY(lk_save_begin(t->save));
    for (uint64_t step = t->start; step < t->last;) {
        bool stop = false;
        LK_TRY(one_step(t, step));
        step++;
        LK_TRY(lk_save_poll(t->save));
        LK_TRY(lk_stop_ask(t->stop, t->each, &stop));
        if (stop && step < t->last) {
            snprintf(t->result.stopped, sizeof t->result.stopped, "%s", lk_stop_reason(t->stop));
            t->last = step;
        }
        bool finished = step == (uint64_t)t->run->train.steps; /* not: stopped on the way */
        bool evaluation = due(step, t->run->eval.every) || finished;
        bool saving = !t->how->profile &&
                      (due(step, t->run->checkpoint.every) || step == t->last);
        if (evaluation || saving) LK_TRY(pause_for(t, step, evaluation, saving));
    }
    LK_TRY(lk_tracing_end(t->tracing, t->last));
    lk_heart_begin(LK_SAVING, t->last);
    LK_TRY(lk_save_finish(t->save));
    lk_heart_begin(LK_ENDING, 0);
    t->result.steps = (int64_t)(t->last - t->start);
    t->result.best_validation_loss = t->best;
    t->result.seconds = lk_clock_seconds() - t->begun;
    report_saves(t);
    return LK_OK;
}

static lk_status check_resumed(const trainer *t, const lk_checkpoint_info *saved)
{
    if (strcmp(saved->dataset_digest, t->data->digest) != 0)
        return lk_fail(LK_E_INPUT, "%s: digest %s, but the run was started on data with digest %s "
                       "(then %s); set data.file to that data, or start a new run in another "
                       "'directory'", t->data->path, t->data->digest, saved->dataset_digest,
                       saved->dataset_path);
    if (strcmp(saved->code_version, LK_CODE_VERSION) != 0 || strcmp(saved->build, LK_BUILD) != 0) {
        char text[900];
        snprintf(text, sizeof text, "the checkpoint was written by lockstep %.300s (%.300s): the "
                 "same bits as without a stop are promised for one and the same build only",
                 saved->code_version, saved->build);
        say(t, text);
    }
    lk_run started;
    LK_TRY(lk_run_parse("the checkpoint's run file", saved->run_file, 0, NULL, &started));
    lk_status status = lk_run_check_resume(t->run, &started);
    lk_run_clear(&started);
    return status;
}

static lk_status set_up(trainer *t, const lk_checkpoint_info *saved)
{
    lk_comm *c = t->comm;
    LK_TRY(lk_comm_agree(c, lk_session_leaves(c, t->run, saved ? saved->leaves : 0,
                                              &t->leaves)));
    LK_TRY(lk_comm_agree(c, lk_session_device(c, t->run->train.device, lk_run_precision(t->run),
                                              &t->device)));
    bool direct = t->how->detect_anomaly || t->how->launch_blocking;
    LK_TRY(lk_comm_agree(c, lk_tracing_check(t->run, t->device, direct)));
    LK_TRY(lk_dataset_open(t->io, c->world, t->run->data.file, &t->data));
    LK_TRY(lk_comm_agree(c, lk_dataset_expect(t->data, lk_session_data_kind(t->run))));
    if (t->data->warning[0]) say(t, t->data->warning);
    if (saved) LK_TRY(lk_comm_agree(c, check_resumed(t, saved)));
    LK_TRY(lk_comm_agree(c, open_data(t)));
    LK_TRY(lk_comm_agree(c, build_graphs(t)));
    LK_TRY(lk_comm_agree(c, allocate(t)));
    return prepare_programs(t, saved ? saved->choices : NULL);
}

static int64_t count_parameters(const trainer *t)
{
    int64_t parameters = 0;
    for (int i = 0; i < t->params->count; i++)
        if (!t->params->item[i]->statistic) parameters += t->params->item[i]->count;
    return parameters;
}

static lk_status open_monitor(trainer *t)
{
    lk_monitor_options o = {.comm = t->comm,
                            .run = t->run,
                            .data = t->data,
                            .order = &t->order,
                            .device = t->device,
                            .parameters = count_parameters(t),
                            .start = t->start,
                            .reporter = t->reporter};
    return lk_comm_agree(t->comm, lk_monitor_open(&o, &t->monitor));
}

static void report_start(const trainer *t)
{
    char device[200], text[400];
    t->device->backend->describe(t->device, device, sizeof device);
    snprintf(text, sizeof text, "%lld parameters, %d rank%s, %d lea%s, %s, on %s; from step %llu",
             (long long)count_parameters(t), t->comm->size, t->comm->size == 1 ? "" : "s",
             t->leaves, t->leaves == 1 ? "f" : "ves", t->run->train.precision, device,
             (unsigned long long)t->start);
    say(t, text);
    if (t->load_bytes > 0) {
        snprintf(text, sizeof text, "checkpoint of %.1f MiB read at %.1f MiB/s",
                 t->load_bytes / 0x1p20, t->load_bytes / 0x1p20 / t->load_seconds);
        say(t, text);
    }
    if (t->start == (uint64_t)t->run->train.steps)
        say(t, "the run is finished, all its steps are done; to go on raise train.steps");
}

/* The step at which this start ends. */
static lk_status find_end(trainer *t)
{
    bool early = t->run->train.stop_after > 0 && t->run->train.stop_after < t->run->train.steps;
    t->last = (uint64_t)(early ? t->run->train.stop_after : t->run->train.steps);
    if (t->last >= t->start) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: %s is %llu, but the checkpoint to resume from is at step %llu; "
                   "set it higher", t->run->path, early ? "train.stop_after" : "train.steps",
                   (unsigned long long)t->last, (unsigned long long)t->start);
}

/* Whether this start begins the run, as rank 0 sees it. */
static lk_status open_directory(trainer *t, lk_resume how, bool *begins)
{
    LK_TRY(lk_comm_agree(t->comm, lk_rundir_open(t->run->directory, t->comm->rank, how,
                                                 &t->rundir)));
    lk_status status = t->comm->rank == 0 ? lk_rundir_begins(t->rundir, begins) : LK_OK;
    LK_TRY(lk_comm_agree(t->comm, status));
    return lk_comm_broadcast(t->comm, begins, sizeof *begins);
}

static lk_status open_stop(trainer *t, double deadline)
{
    int buffers = t->run->train.ema > 0 ? 4 : 3; /* parameters, two moments, moving average */
    double bytes = (double)t->params->total * sizeof(float) * buffers;
    return lk_stop_open(t->comm, deadline, bytes, &t->stop);
}

static void warn_of_data(void *context, const char *text) { say(context, text); }

/* Last of all checks, for it takes longest, and before the run directory is made. */
static lk_status begin_directory(trainer *t)
{
    char *unkept = NULL;
    if (strcmp(t->run->data.check, "auto") == 0)
        LK_TRY(lk_check_unseen(t->comm, t->io, t->data, t->run->directory, warn_of_data, t,
                               &unkept));
    lk_status status = lk_rundir_begin(t->rundir, t->run, t->start, &t->best);
    if (status == LK_OK && t->comm->rank == 0) lk_check_keep(t->run->directory, unkept);
    free(unkept);
    return status;
}

/* Who watches the training step. */
static lk_status open_observers(trainer *t)
{
    lk_tracing_options trace = {
        .comm = t->comm, .io = t->io, .run = t->run, .reporter = t->reporter, .program = t->train,
        .leaves = t->leaves, .start = t->start, .last = t->last,
        .parts = {.device = t->device, .params = t->params, .train = t->train_graph.graph,
                  .held = t->eval_graph.graph, .ema = t->ema_graph.graph,
                  .local_leaves = t->order.local_leaves, .rank = t->comm->rank,
                  .ranks = t->comm->size, .average = t->run->train.ema > 0}};
    lk_debug_options debug = {
        .comm = t->comm, .io = t->io, .run = t->run, .program = t->train,
        .graph = t->train_graph.graph, .store = t->store, .loader = t->loader,
        .local_leaves = t->order.local_leaves, .detect_anomaly = t->how->detect_anomaly,
        .launch_blocking = t->how->launch_blocking};
    LK_TRY(lk_loader_measure(t->data, &t->order, &trace.parts.sizes));
    if (t->held_loader) LK_TRY(lk_loader_measure(t->data, &t->held, &trace.parts.held_sizes));
    LK_TRY(lk_tracing_open(&trace, &t->tracing));
    return lk_debug_open(&debug, &t->debug);
}

static lk_status run(trainer *t)
{
    lk_checkpoint_info saved = {.leaves = 0};
    char *checkpoint = NULL;
    bool begins = true;
    LK_TRY(open_directory(t, t->how->resume, &begins));
    lk_status status = LK_OK;
    if (!begins) {
        status = lk_checkpoint_choose(t->io, t->comm->world, lk_rundir_checkpoints(t->rundir), warn,
                                      t, &checkpoint);
        if (status == LK_OK)
            status = lk_checkpoint_open(t->io, t->comm->world, checkpoint, &saved);
        status = lk_comm_agree(t->comm, status);
    }
    const lk_checkpoint_info *from = checkpoint && status == LK_OK ? &saved : NULL;
    if (status == LK_OK) status = set_up(t, from);
    if (status == LK_OK) status = start(t, from, checkpoint);
    if (status == LK_OK) status = find_end(t);
    if (status == LK_OK)
        status = lk_comm_agree(t->comm, begin_directory(t));
    if (status == LK_OK) status = open_save(t);
    if (status == LK_OK)
        status = lk_starts_append(t->comm, t->io, t->run->directory,
                                  &(lk_starts_entry){t->data, t->device, t->leaves, t->start,
                                                     checkpoint});
    if (status == LK_OK) status = open_stop(t, t->how->deadline);
    if (status == LK_OK) status = lk_comm_agree(t->comm, open_observers(t));
    if (status == LK_OK) status = open_monitor(t);
    if (status == LK_OK) {
        report_start(t);
        status = loop(t);
        if (status == LK_E_DEVICE && !t->how->launch_blocking)
            lk_fail_suffix(status, "; to have the kernel named: the same command with %s"
                           "--launch-blocking", t->result.checkpoint[0] ? "--resume " : "");
    }
    if (status == LK_OK && t->last == (uint64_t)t->run->train.steps)
        status = lk_comm_agree(t->comm, lk_rundir_done(t->rundir, t->last));
    free(checkpoint);
    lk_checkpoint_info_clear(&saved);
    return status;
}

static lk_status open_watchdog(trainer *t)
{
    const lk_start *how = t->how;
    char warning[300];
    lk_watchdog_options o = {t->run->train.timeout, how->context, how->say, how->end};
    if (!how->end) return LK_OK;
    LK_TRY(lk_watchdog_open(t->comm, &o, &t->watchdog, warning, sizeof warning));
    if (warning[0]) say(t, warning);
    return lk_comm_agree(t->comm, lk_io_attach(t->io, lk_watchdog_io(t->watchdog)));
}

lk_status lk_train(lk_comm *comm, lk_io *io, const lk_run *run_file, const lk_start *how,
                   const lk_reporter *reporter, lk_train_result *result)
{
    trainer t = {.comm = comm,
                 .io = io,
                 .run = run_file,
                 .how = how,
                 .reporter = reporter,
                 .best = INFINITY,
                 .result.validation = {NAN, NAN, NAN, NAN}};
    lk_status status = open_watchdog(&t);
    if (status == LK_OK) status = run(&t);
    lk_monitor_close(t.monitor, status, t.result.stopped);
    t.monitor = NULL;
    /* where the others are still at work, to close files or NCCL would wait for them */
    if (status != LK_OK && !lk_comm_all_failed(comm, 2.0)) {
        lk_watchdog_leave(t.watchdog);
        return status;
    }
    lk_heart_begin(LK_ENDING, 0); /* what is destroyed is named no more */
    lk_save_close(t.save);
    lk_io_attach(io, NULL);
    lk_stop_close(t.stop);
    lk_tracing_close(t.tracing);
    lk_debug_close(t.debug);
    lk_program_destroy(t.train);
    lk_program_destroy(t.eval);
    lk_program_destroy(t.ema);
    lk_comm_detach(comm);
    if (t.device) {
        if (t.eval_state) t.device->backend->release(t.device, t.eval_state);
        if (t.scale) t.device->backend->release(t.device, t.scale);
        if (t.ring) t.device->backend->host_release(t.device, t.ring);
    }
    lk_store_destroy(t.store);
    lk_graph_destroy(t.train_graph.graph);
    lk_graph_destroy(t.eval_graph.graph);
    lk_graph_destroy(t.ema_graph.graph);
    lk_loader_close(t.loader);
    lk_loader_close(t.held_loader);
    lk_params_destroy(t.params);
    lk_dataset_close(t.data);
    lk_session_device_close(t.device);
    lk_rundir_close(t.rundir);
    lk_watchdog_close(t.watchdog);
    if (status == LK_OK) *result = t.result;
    return status;
}
