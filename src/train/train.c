/* The training run: from run file and checkpoint to the loop, and its end. */
#include "base/clock.h"
#include "base/signals.h"
#include "io/checkpoint.h"
#include "check/check.h"
#include "train/starts.h"
#include "train/trainer.h"
#include "version.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

void lk_trainer_say(const lk_trainer *t, const char *text)
{
    if (t->comm->rank == 0 && t->reporter->line) t->reporter->line(t->reporter->context, text);
}
/* ---- state of a run: fresh or from a checkpoint ------------------------------------------- */

static lk_status host_buffers(const lk_trainer *t, lk_flat *d)
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

static void warned(void *context, const char *text)
{
    char line[2200];
    snprintf(line, sizeof line, "warning: %s", text);
    lk_trainer_say(context, line);
}

void lk_trainer_tell_retries(const lk_trainer *t)
{
    const lk_comm *c = t->comm;
    char text[400], line[600], who[100] = "";
    if (!lk_dataset_retried(t->data, text, sizeof text) || !t->reporter->line) return;
    if (c->size > 1) snprintf(who, sizeof who, "rank %d on %s: ", c->rank, c->host);
    snprintf(line, sizeof line, "warning: %s%s", who, text);
    t->reporter->line(t->reporter->context, line);
}

static void saved(void *context, const lk_checkpoint_figures *f)
{
    lk_trainer *t = context;
    if (f->warning[0]) warned(context, f->warning);
    if (lk_rundir_saved(t->rundir) != LK_OK) {
        warned(context, lk_error_text());
        lk_error_clear();
    }
    lk_stop_saved(t->stop, f->seconds);
    snprintf(t->result.checkpoint, sizeof t->result.checkpoint, "%s", f->path);
    lk_monitor_save(t->monitor, f);
}

static lk_status open_save(lk_trainer *t)
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

/* At once, for the first save may be hours away, and it is then that room is needed. */
static void warn_of_room(lk_trainer *t)
{
    bool saves = (t->start < t->last || t->owes) && !t->how->profile;
    if (t->comm->rank != 0 || !saves || lk_save_room(t->save) == LK_OK) return;
    warned(t, lk_error_text());
    lk_error_clear();
}

static lk_status load(lk_trainer *t, const char *checkpoint, const lk_flat *d)
{
    double begun = lk_clock_seconds();
    LK_TRY(lk_checkpoint_load(t->io, t->comm->world, checkpoint, t->params, d));
    t->load_bytes = (d->ema ? 4.0 : 3.0) * sizeof(float) * (double)t->params->total;
    t->load_seconds = lk_clock_seconds() - begun;
    return LK_OK;
}

static lk_status start(lk_trainer *t, const lk_checkpoint_info *saved, const char *checkpoint)
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
        t->validated = saved->validated;
        t->skipped_in_row = state.skipped_in_row;
        t->owes = lk_trainer_validates(t, state.step) && t->run->eval.batches > 0 &&
                  saved->validated != LK_CHECKPOINT_NONE && saved->validated < state.step;
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

/* ---- set-up ------------------------------------------------------------------------------- */

static lk_status check_resumed(const lk_trainer *t, const lk_checkpoint_info *saved)
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
        lk_trainer_say(t, text);
    }
    lk_run started;
    LK_TRY(lk_run_parse("the checkpoint's run file", saved->run_file, 0, NULL, &started));
    lk_status status = lk_run_check_resume(t->run, &started);
    lk_run_clear(&started);
    return status;
}

static void tell_stretched(const lk_trainer *t)
{
    const lk_image_format *f = &t->data->image;
    long long side = t->run->model.image_size;
    char line[500];
    if (!side || f->height == f->width) return;
    snprintf(line, sizeof line, "warning: %.200s: images of %lld x %lld pixels are stretched to "
             "%lld x %lld (model.image_size); to keep their shape, import them again with --size "
             "%lldx%lld", t->data->path, (long long)f->height, (long long)f->width, side, side,
             side, side);
    lk_trainer_say(t, line);
}

static lk_status set_up(lk_trainer *t, const lk_checkpoint_info *saved)
{
    lk_comm *c = t->comm;
    LK_TRY(lk_comm_agree(c, lk_session_leaves(c, t->run, saved ? saved->leaves : 0,
                                              &t->leaves)));
    LK_TRY(lk_comm_agree(c, lk_session_device(c, t->run->train.device, lk_run_precision(t->run),
                                              &t->device)));
    bool direct = t->how->detect_anomaly || t->how->launch_blocking;
    LK_TRY(lk_comm_agree(c, lk_tracing_check(t->run, t->device, direct)));
    LK_TRY(lk_dataset_open(t->io, c->world, t->run->data.file, &t->data));
    LK_TRY(lk_comm_agree(c, lk_session_expect(t->run, t->data)));
    if (t->data->warning[0]) lk_trainer_say(t, t->data->warning);
    if (lk_run_images(t->run)) tell_stretched(t);
    lk_trainer_tell_retries(t);
    if (saved) LK_TRY(lk_comm_agree(c, check_resumed(t, saved)));
    return lk_trainer_build(t, saved ? saved->choices : NULL);
}

/* The CPU device has divided the cores of ranks that share them. */
static void warn_of_threads(const lk_trainer *t)
{
    int threads = omp_get_max_threads(), cores = omp_get_num_procs();
    char text[200];
    if (t->device->backend != &lk_backend_cpu || threads <= cores) return;
    snprintf(text, sizeof text, "warning: %d threads a rank wait for %d core%s at every node of "
             "the graph, which is many times slower: OMP_NUM_THREADS=%d", threads, cores,
             cores == 1 ? "" : "s", cores);
    lk_trainer_say(t, text);
}

static lk_status open_monitor(lk_trainer *t)
{
    lk_monitor_options o = {.comm = t->comm,
                            .run = t->run,
                            .data = t->data,
                            .order = &t->order,
                            .device = t->device,
                            .parameters = lk_params_learned(t->params),
                            .start = t->start,
                            .drift = &t->drift,
                            .reporter = t->reporter};
    return lk_comm_agree(t->comm, lk_monitor_open(&o, &t->monitor));
}

static void report_start(const lk_trainer *t)
{
    char device[200], text[400], most[80] = "";
    t->device->backend->describe(t->device, device, sizeof device);
    if (!t->run->train.leaves)
        snprintf(most, sizeof most, " (train.leaves is not set: never more than %d rank%s)",
                 t->leaves, t->leaves == 1 ? "" : "s");
    snprintf(text, sizeof text, "%lld parameters, %d rank%s, %d lea%s%s, %s, on %s; from step %llu",
             (long long)lk_params_learned(t->params), t->comm->size, t->comm->size == 1 ? "" : "s",
             t->leaves, t->leaves == 1 ? "f" : "ves", most, t->run->train.precision, device,
             (unsigned long long)t->start);
    lk_trainer_say(t, text);
    if (t->load_bytes > 0) {
        snprintf(text, sizeof text, "checkpoint of %.1f MiB read at %.1f MiB/s",
                 t->load_bytes / 0x1p20, t->load_bytes / 0x1p20 / t->load_seconds);
        lk_trainer_say(t, text);
    }
    if (t->start == (uint64_t)t->run->train.steps && !t->owes)
        lk_trainer_say(t, "the run is finished, all its steps are done; to go on raise "
                          "train.steps");
}

/* The step at which this start ends. */
static lk_status find_end(lk_trainer *t)
{
    bool early = t->run->train.stop_after > 0 && t->run->train.stop_after < t->run->train.steps;
    t->last = (uint64_t)(early ? t->run->train.stop_after : t->run->train.steps);
    if (t->last >= t->start) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: %s is %llu, but the checkpoint to resume from is at step %llu; "
                   "set it higher", t->run->path, early ? "train.stop_after" : "train.steps",
                   (unsigned long long)t->last, (unsigned long long)t->start);
}

/* A start may come before the process that worked on the run has quite ended: a batch system
 * starts a job again while the last rank of its last start still dies. Rank 0 knows. */
static lk_status wait_for_directory(lk_trainer *t)
{
    double until = lk_clock_seconds() + t->how->patience;
    for (bool said = false;; said = true) {
        char text[400];
        lk_status status = lk_rundir_open(t->run->directory, t->comm->rank, t->how->resume,
                                          &t->rundir);
        bool wait = status == LK_E_BUSY && lk_clock_seconds() < until && !lk_signals_caught();
        LK_TRY(lk_comm_broadcast(t->comm, &wait, sizeof wait));
        if (!wait) return lk_comm_agree(t->comm, status);
        lk_error_clear();
        snprintf(text, sizeof text, "%.200s: another lockstep is working on this run; waiting for "
                 "its end, at most %.0f s (--wait)", t->run->directory, t->how->patience);
        if (!said) lk_trainer_say(t, text);
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        lk_heart_begin(LK_STARTING, 0); /* each round by itself, for the watchdog */
    }
}

/* Whether this start begins the run, as rank 0 sees it. */
static lk_status open_directory(lk_trainer *t, bool *begins)
{
    LK_TRY(wait_for_directory(t));
    lk_status status = LK_OK;
    if (t->comm->rank == 0) {
        status = lk_rundir_begins(t->rundir, begins);
        if (status == LK_OK)
            status = lk_checkpoint_check_directory(lk_rundir_checkpoints(t->rundir));
        if (status == LK_OK) status = lk_monitor_check(t->run);
    }
    LK_TRY(lk_comm_agree(t->comm, status));
    return lk_comm_broadcast(t->comm, begins, sizeof *begins);
}

static lk_status open_stop(lk_trainer *t, double deadline)
{
    int buffers = t->run->train.ema > 0 ? 4 : 3; /* parameters, two moments, moving average */
    double bytes = (double)t->params->total * sizeof(float) * buffers;
    return lk_stop_open(t->comm, deadline, bytes, &t->stop);
}

static void warn_of_data(void *context, const char *text) { lk_trainer_say(context, text); }

/* Last of all checks, for it takes longest, and before the run directory is made. */
static lk_status begin_directory(lk_trainer *t, const lk_checkpoint_info *saved,
                                 const lk_checkpoint_choice *from)
{
    char *unkept = NULL;
    if (strcmp(t->run->data.check, "auto") == 0)
        LK_TRY(lk_check_unseen(t->comm, t->io, t->data, t->run->directory, warn_of_data, t,
                               &unkept, &t->drift));
    lk_status status = LK_OK;
    if (t->comm->rank == 0 && saved)
        status = lk_rundir_check_logs(t->rundir, saved, &t->validated, warned, t);
    if (status == LK_OK) status = lk_rundir_begin(t->rundir, t->run, t->start, &t->best);
    if (status == LK_OK && t->comm->rank == 0 && from->path)
        status = lk_checkpoint_adopt(lk_rundir_checkpoints(t->rundir), from, warned, t);
    if (status == LK_OK && t->comm->rank == 0) lk_check_keep(t->run->directory, unkept);
    free(unkept);
    return status;
}

/* Who watches the training step. */
static lk_status open_observers(lk_trainer *t)
{
    lk_tracing_options trace = {
        .comm = t->comm, .io = t->io, .run = t->run, .reporter = t->reporter, .program = t->train,
        .leaves = t->leaves, .start = t->start, .last = t->last, .profile = t->how->profile,
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

static lk_status run(lk_trainer *t)
{
    lk_checkpoint_info saved = {.leaves = 0};
    lk_checkpoint_choice choice = {.path = NULL};
    bool begins = true;
    LK_TRY(open_directory(t, &begins));
    lk_status status = LK_OK;
    if (!begins) {
        status = lk_checkpoint_choose(t->io, t->comm->world, lk_rundir_checkpoints(t->rundir),
                                      warned, t, &choice);
        if (status == LK_OK)
            status = lk_checkpoint_open(t->io, t->comm->world, choice.path, &saved);
        status = lk_comm_agree(t->comm, status);
    }
    const lk_checkpoint_info *from = choice.path && status == LK_OK ? &saved : NULL;
    if (status == LK_OK) status = set_up(t, from);
    if (status == LK_OK) status = start(t, from, choice.path);
    if (status == LK_OK) status = find_end(t);
    if (status == LK_OK) {
        status = lk_comm_agree(t->comm, begin_directory(t, from, &choice));
        t->beaten = status == LK_E_BUSY;
    }
    if (status == LK_OK) status = open_save(t);
    if (status == LK_OK)
        status = lk_starts_append(t->comm, t->io, t->run->directory,
                                  &(lk_starts_entry){t->data, t->device, t->leaves, t->start,
                                                     choice.path});
    if (status == LK_OK) status = open_stop(t, t->how->deadline);
    if (status == LK_OK) status = lk_comm_agree(t->comm, open_observers(t));
    if (status == LK_OK) status = open_monitor(t);
    if (status == LK_OK) {
        report_start(t);
        warn_of_threads(t);
        warn_of_room(t);
        status = lk_trainer_steps(t);
        if (status == LK_E_DEVICE && !t->how->launch_blocking)
            lk_fail_suffix(status, "; to have the kernel named: the same command with %s"
                           "--launch-blocking", t->result.checkpoint[0] ? "--resume " : "");
    }
    if (status == LK_OK && t->last == (uint64_t)t->run->train.steps && !t->result.stopped[0])
        status = lk_comm_agree(t->comm, lk_rundir_done(t->rundir, t->last));
    lk_checkpoint_choice_clear(&choice);
    lk_checkpoint_info_clear(&saved);
    return status;
}

static lk_status open_watchdog(lk_trainer *t)
{
    const lk_start *how = t->how;
    char warning[300];
    lk_watchdog_options o = {t->run->train.timeout, how->context, how->say, how->end};
    if (!how->end) return LK_OK;
    LK_TRY(lk_watchdog_open(t->comm, &o, &t->watchdog, warning, sizeof warning));
    if (warning[0]) lk_trainer_say(t, warning);
    return lk_comm_agree(t->comm, lk_io_attach(t->io, lk_watchdog_io(t->watchdog)));
}

static lk_status train(lk_comm *comm, lk_io *io, const lk_run *run_file, const lk_start *how,
                       const lk_reporter *reporter, lk_train_result *result, bool *beaten)
{
    lk_trainer t = {.comm = comm,
                 .io = io,
                 .run = run_file,
                 .how = how,
                 .reporter = reporter,
                 .best = INFINITY,
                 .saved = LK_CHECKPOINT_NONE,
                 .good = LK_CHECKPOINT_NONE,
                 .result.validation = {NAN, NAN, NAN, NAN}};
    lk_status status = open_watchdog(&t);
    if (how->watched) how->watched(how->context, true);
    if (status == LK_OK) status = run(&t);
    lk_monitor_close(t.monitor, status, t.result.stopped);
    t.monitor = NULL;
    /* where the others are still at work, to close files or NCCL would wait for them */
    if (status != LK_OK && !lk_comm_all_failed(comm, 2.0)) {
        lk_watchdog_leave(t.watchdog);
        if (how->watched) how->watched(how->context, false);
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
        if (t.shared) t.device->backend->release(t.device, t.shared);
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
    lk_drift_report_clear(&t.drift);
    lk_rundir_close(t.rundir);
    if (how->watched) how->watched(how->context, false);
    lk_watchdog_close(t.watchdog);
    if (status == LK_OK) *result = t.result;
    *beaten = t.beaten;
    return status;
}

lk_status lk_train(lk_comm *comm, lk_io *io, const lk_run *run_file, const lk_start *how,
                   const lk_reporter *reporter, lk_train_result *result)
{
    bool beaten = false;
    lk_status status = train(comm, io, run_file, how, reporter, result, &beaten);
    if (!beaten) return status;
    lk_error_clear(); /* once more, to wait for the other as for one that was first anyway */
    return train(comm, io, run_file, how, reporter, result, &beaten);
}
