/* The training run: run file to programs, then the step loop.
 *
 * The host only enqueues steps; what a step did (loss, rate, scale) comes back in lk_step_state,
 * copied to a small ring of pinned slots and read a few steps later. */
#include "base/clock.h"
#include "io/checkpoint.h"
#include "train/rundir.h"
#include "train/save.h"
#include "train/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RING = 4, HOPELESS = 200 }; /* steps in flight; skipped steps in a row before giving up */

typedef struct trainer {
    lk_comm *comm;
    lk_io *io;
    const lk_run *run;
    const lk_reporter *reporter;
    lk_rundir *rundir;
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
    uint64_t skipped_in_row;
    double begun, best;
    double pace, paused; /* when the first step was done; seconds in validations and saves since */
    double load_bytes, load_seconds; /* of the checkpoint to resume from; 0: none */
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
    if (f->warning[0]) warn(context, f->warning);
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
    for (int i = 0; i < n && status == LK_OK; i++) {
        float sum[LK_METRICS] = {0};
        status = evaluate_batch(t, program, i, sum);
        for (int k = 0; k < LK_METRICS; k++) mine[i * LK_METRICS + k] = (double)sum[k];
    }
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
    double raw[LK_METRICS], ema[LK_METRICS];
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

/* Read the state of the oldest step in flight. Every rank sees the same values. */
static lk_status drain(trainer *t)
{
    int slot = (int)(t->drained % RING);
    LK_TRY(t->device->backend->wait(t->device, slot));
    lk_step_state s = t->ring[slot];
    t->drained++;
    t->result.loss = (double)s.loss;
    t->result.skipped = (int64_t)s.skipped;
    t->skipped_in_row = s.finite ? 0 : t->skipped_in_row + 1;
    LK_TRY(lk_rundir_log_step(t->rundir, &s));
    if (!s.finite && (lk_run_precision(t->run) != LK_FP16 || t->skipped_in_row >= HOPELESS))
        return lk_fail(LK_E_INTERNAL, "step %llu: the gradient is not finite (loss %g); the last "
                       "checkpoint is kept; lower optimizer.lr or check the data",
                       (unsigned long long)t->drained, (double)s.loss);
    double each = step_seconds(t);
    if (t->comm->rank == 0 && t->reporter->step)
        t->reporter->step(t->reporter->context, (int64_t)t->drained, (int64_t)t->last,
                          (double)s.loss, (double)t->run->train.batch / each, each);
    return LK_OK;
}

static lk_status one_step(trainer *t, uint64_t step)
{
    const lk_backend *b = t->device->backend;
    if (step - t->drained >= RING) LK_TRY(drain(t));
    LK_TRY(lk_loader_feed(t->loader, step));
    LK_TRY(lk_program_run(t->train));
    int slot = (int)(step % RING);
    LK_TRY(b->download(t->device, &t->ring[slot], t->store->buffer[LK_REGION_STATE],
                       sizeof *t->ring));
    return b->record(t->device, slot);
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

static lk_status loop(trainer *t)
{
    t->begun = lk_clock_seconds();
    if (t->start == 0 && t->run->checkpoint.initial) LK_TRY(lk_save_begin(t->save));
    for (uint64_t step = t->start; step < t->last;) {
        LK_TRY(one_step(t, step));
        step++;
        LK_TRY(lk_save_poll(t->save));
        bool finished = step == (uint64_t)t->run->train.steps; /* not: stopped on the way */
        bool evaluation = due(step, t->run->eval.every) || finished;
        bool saving = due(step, t->run->checkpoint.every) || step == t->last;
        if (!evaluation && !saving) continue;
        while (t->drained < step) LK_TRY(drain(t));
        double pause = lk_clock_seconds();
        if (evaluation && t->run->eval.batches > 0) LK_TRY(validate(t, step));
        if (saving) {
            LK_TRY(lk_comm_agree(t->comm, lk_rundir_sync(t->rundir)));
            LK_TRY(lk_save_begin(t->save));
        }
        t->paused += lk_clock_seconds() - pause;
    }
    LK_TRY(lk_save_finish(t->save));
    if (lk_save_path(t->save)[0])
        snprintf(t->result.checkpoint, sizeof t->result.checkpoint, "%s", lk_save_path(t->save));
    t->result.steps = (int64_t)(t->last - t->start);
    t->result.best_validation_loss = t->best;
    t->result.seconds = lk_clock_seconds() - t->begun;
    report_saves(t);
    return LK_OK;
}

static lk_status check_resumed(const trainer *t, const lk_checkpoint_info *saved)
{
    if (strcmp(saved->dataset_digest, t->data->digest) != 0)
        return lk_fail(LK_E_INPUT, "%s: digest %s, but the run was started on data with digest %s",
                       t->data->path, t->data->digest, saved->dataset_digest);
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
    LK_TRY(lk_dataset_open(t->io, c->world, t->run->data.file, &t->data));
    LK_TRY(lk_comm_agree(c, lk_dataset_expect(t->data, lk_session_data_kind(t->run))));
    if (t->data->warning[0]) say(t, t->data->warning);
    if (saved) LK_TRY(lk_comm_agree(c, check_resumed(t, saved)));
    LK_TRY(lk_comm_agree(c, open_data(t)));
    LK_TRY(lk_comm_agree(c, build_graphs(t)));
    LK_TRY(lk_comm_agree(c, allocate(t)));
    return prepare_programs(t, saved ? saved->choices : NULL);
}

static void report_start(const trainer *t)
{
    char device[200], text[400];
    t->device->backend->describe(t->device, device, sizeof device);
    int64_t parameters = 0;
    for (int i = 0; i < t->params->count; i++)
        if (!t->params->item[i]->statistic) parameters += t->params->item[i]->count;
    snprintf(text, sizeof text, "%lld parameters, %d rank%s, %d lea%s, %s, on %s; from step %llu",
             (long long)parameters, t->comm->size, t->comm->size == 1 ? "" : "s", t->leaves,
             t->leaves == 1 ? "f" : "ves", t->run->train.precision, device,
             (unsigned long long)t->start);
    say(t, text);
    if (t->load_bytes <= 0) return;
    snprintf(text, sizeof text, "checkpoint of %.1f MiB read at %.1f MiB/s",
             t->load_bytes / 0x1p20, t->load_bytes / 0x1p20 / t->load_seconds);
    say(t, text);
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

static lk_status run(trainer *t, bool resume)
{
    lk_checkpoint_info saved = {.leaves = 0};
    char *checkpoint = NULL;
    LK_TRY(lk_comm_agree(t->comm, lk_rundir_open(t->run->directory, t->comm->rank, resume,
                                                 &t->rundir)));
    lk_status status = LK_OK;
    if (resume) {
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
        status = lk_comm_agree(t->comm, lk_rundir_begin(t->rundir, t->run, t->start, &t->best));
    if (status == LK_OK) status = open_save(t);
    if (status == LK_OK) {
        report_start(t);
        status = loop(t);
    }
    free(checkpoint);
    lk_checkpoint_info_clear(&saved);
    return status;
}

lk_status lk_train(lk_comm *comm, lk_io *io, const lk_run *run_file, bool resume,
                   const lk_reporter *reporter, lk_train_result *result)
{
    trainer t = {.comm = comm,
                 .io = io,
                 .run = run_file,
                 .reporter = reporter,
                 .best = INFINITY,
                 .result.validation = {NAN, NAN, NAN, NAN}};
    lk_status status = run(&t, resume);
    /* where the others are still at work, to close files or NCCL would wait for them */
    if (status != LK_OK && !lk_comm_all_failed(comm, 2.0)) return status;
    lk_save_close(t.save);
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
    if (status == LK_OK) *result = t.result;
    return status;
}
