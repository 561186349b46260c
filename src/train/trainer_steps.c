/* The steps of a training run, its validations and when it saves.
 *
 * The host only enqueues steps; what a step did (loss, rate, scale) comes back in lk_step_state,
 * copied to a small ring of pinned slots and read a few steps later. */
#include "base/clock.h"
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    HOPELESS = 200, /* skipped steps in a row before giving up */
    ASKED = 4,      /* batches of a validation between two votes on stopping */
};

/* The run has diverged; `what`: how. All ranks alike. Every checkpoint has finite parameters, but
 * only a step that counts after it shows that one can go on from it. */
static lk_status diverged(lk_trainer *t, uint64_t step, const char *what)
{
    LK_TRY(lk_save_finish(t->save));
    const char *path = t->result.checkpoint;
    char before[2200], way[2300];
    unsigned long long n = step;
    double lr = t->run->optimizer.lr / 3;
    if (t->saved == LK_CHECKPOINT_NONE)
        return lk_fail(LK_E_INTERNAL, "step %llu: %s; there is no checkpoint before it; to find "
                       "where it begins remove the run directory and add --detect-anomaly to the "
                       "same command; or start again with a lower rate, such as "
                       "--set optimizer.lr=%.3g", n, what, lr);
    if (t->good == t->saved)
        return lk_fail(LK_E_INTERNAL, "step %llu: %s; the last checkpoint, %s, is from before: "
                       "find where it begins with the same command and --resume "
                       "--detect-anomaly, or go on from it with a lower rate: --resume "
                       "--set optimizer.lr=%.3g", n, what, path, lr);
    if (lk_checkpoint_before(path, before, sizeof before))
        snprintf(way, sizeof way, "move it away, so that --resume takes %s", before);
    else
        snprintf(way, sizeof way, "start again in another 'directory'");
    lk_error_clear(); /* of looking for one before */
    return lk_fail(LK_E_INTERNAL, "step %llu: %s; no step has counted since the last checkpoint, "
                   "%s, whose parameters are finite: find where it begins with the same command "
                   "and --resume --detect-anomaly; to train on with a lower rate, such as "
                   "--set optimizer.lr=%.3g, %s", n, what, path, lr, way);
}

/* ---- evaluation ---------------------------------------------------------------------------- */

static float tree_sum(float *x, int n) /* n a power of two */
{
    for (; n > 1; n /= 2)
        for (int i = 0; i < n / 2; i++) x[i] = x[2 * i] + x[2 * i + 1];
    return x[0];
}

/* One batch: its metrics, summed over this rank's leaves. */
static lk_status evaluate_batch(lk_trainer *t, lk_program *program, int64_t batch,
                                float sum[LK_METRICS])
{
    const lk_backend *b = t->device->backend;
    lk_step_state state = {.step = (uint64_t)batch, .loss_scale = 1.0f};
    lk_heart_begin(LK_VALIDATING, t->drained);
    LK_TRY(b->upload(t->device, t->eval_state, &state, sizeof state));
    LK_TRY(lk_loader_feed(t->held_loader, (uint64_t)batch));
    lk_trainer_tell_retries(t);
    LK_TRY(lk_program_run(program));
    LK_TRY(b->download(t->device, sum, (float *)t->store->gradient[0] + t->params->total,
                       LK_METRICS * sizeof *sum));
    return b->sync(t->device);
}

/* This rank's metrics of each batch. Unless it has failed already, but then too it votes. */
static lk_status evaluate_batches(lk_trainer *t, lk_program *program, lk_status status,
                                  double *mine, bool *stop)
{
    for (int i = 0; i < (int)t->eval_batches && !*stop; i++) {
        float sum[LK_METRICS] = {0};
        if (i % ASKED == 0) LK_TRY(lk_stop_ask_validating(t->stop, status != LK_OK, stop));
        if (*stop || status != LK_OK) continue;
        status = evaluate_batch(t, program, i, sum);
        for (int k = 0; k < LK_METRICS; k++) mine[i * LK_METRICS + k] = (double)sum[k];
    }
    return status;
}

/* Means over the validation batches, the same ones every time, summed over ranks in the tree.
 * *stop: left on the way, there are none. */
static lk_status evaluate(lk_trainer *t, lk_program *program, double mean[LK_METRICS], bool *stop)
{
    int n = (int)t->eval_batches, size = t->comm->size, count = n * LK_METRICS;
    double *mine = calloc((size_t)count * (size_t)(size + 1), sizeof *mine), *all = mine + count;
    float *sums = calloc((size_t)size, sizeof *sums);
    lk_status status = mine && sums ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    double begin = lk_clock_seconds();
    status = evaluate_batches(t, program, status, mine, stop);
    t->own_evaluation = n > 0 && !*stop ? (lk_clock_seconds() - begin) / n : NAN;
    status = lk_comm_agree(t->comm, status);
    if (status == LK_OK && !*stop)
        status = lk_comm_gather(t->comm, mine, (size_t)count * sizeof *mine, all);
    double total[LK_METRICS] = {0};
    for (int i = 0; i < count && status == LK_OK && !*stop; i++) {
        for (int r = 0; r < size; r++) sums[r] = (float)all[(int64_t)r * count + i];
        total[i % LK_METRICS] += (double)tree_sum(sums, size) / t->leaves;
    }
    free(mine);
    free(sums);
    for (int k = 0; k < LK_METRICS; k++) mean[k] = total[k] / (n > 0 ? n : 1);
    return status;
}

/* *stop: it was left on the way, and nothing came of it. */
static lk_status validate(lk_trainer *t, uint64_t step, bool *stop)
{
    double raw[LK_METRICS], ema[LK_METRICS], begin = lk_clock_seconds();
    LK_TRY(evaluate(t, t->eval, raw, stop));
    if (t->ema && !*stop) LK_TRY(evaluate(t, t->ema, ema, stop));
    if (*stop) return LK_OK;
    bool images = t->model.images;
    lk_validation *v = &t->result.validation;
    *v = (lk_validation){
        .loss = raw[LK_METRIC_LOSS],
        .accuracy = images ? raw[LK_METRIC_HITS] : NAN,
        .ema_loss = t->ema ? ema[LK_METRIC_LOSS] : NAN,
        .ema_accuracy = t->ema && images ? ema[LK_METRIC_HITS] : NAN,
    };
    if (v->loss < t->best) t->best = v->loss;
    t->validated = step;
    lk_stop_validated(t->stop, lk_clock_seconds() - begin);
    LK_TRY(lk_comm_agree(t->comm, lk_rundir_log_validation(t->rundir, step, v)));
    lk_monitor_validation(t->monitor, step, v, t->best, lk_clock_seconds() - begin);
    if (!isfinite(v->loss)) return diverged(t, step, "the validation loss after it is not finite");
    if (t->comm->rank == 0 && t->reporter->evaluated)
        t->reporter->evaluated(t->reporter->context, (int64_t)step, v, t->best);
    return LK_OK;
}

/* ---- the loop ------------------------------------------------------------------------------ */

/* A step that is not finite is skipped where loss scaling may be the cause, but not for ever; it
 * has changed no parameter. */
static lk_status check_finite(lk_trainer *t, const lk_step_state *s)
{
    bool scaling = lk_run_precision(t->run) == LK_FP16;
    char what[200], row[80] = "";
    t->skipped_in_row = s->skipped_in_row;
    if (s->finite) {
        t->good = t->saved;
        return LK_OK;
    }
    if (scaling && s->skipped_in_row < HOPELESS) return LK_OK;
    if (scaling)
        snprintf(row, sizeof row, ", %d such steps in a row, loss scale %g", HOPELESS,
                 (double)s->loss_scale);
    snprintf(what, sizeof what, "the %s is not finite (loss %g, gradient norm %g%s)",
             isfinite(s->loss) ? "gradient" : "loss", (double)s->loss, (double)s->grad_norm, row);
    return diverged(t, s->step, what);
}

/* Read the state of the oldest step in flight. Every rank sees the same values. */
static lk_status drain(lk_trainer *t)
{
    int slot = (int)(t->drained % LK_TRAINER_RING);
    lk_heart_begin(LK_AWAITING, t->drained + 1);
    LK_TRY(t->device->backend->wait(t->device, slot));
    lk_step_state s = t->ring[slot];
    t->drained++;
    t->result.loss = (double)s.loss;
    t->result.skipped = (int64_t)s.skipped;
    LK_TRY(lk_rundir_log_step(t->rundir, &s));
    lk_monitor_step(t->monitor, &s);
    LK_TRY(check_finite(t, &s));
    t->each = lk_monitor_pace(t->monitor);
    if (t->comm->rank == 0 && t->reporter->step)
        t->reporter->step(t->reporter->context, (int64_t)t->drained, (int64_t)t->last,
                          (double)s.loss, (double)t->run->train.batch / t->each, t->each);
    return LK_OK;
}

/* The trace begins with the next step, or ends with the last of `done`. Steps before it are read
 * first, so that what it takes itself is in none's time. */
static lk_status pause_for_trace(lk_trainer *t, uint64_t done, bool begins)
{
    lk_traced traced;
    while (t->drained < done) LK_TRY(drain(t));
    if (begins) {
        lk_monitor_trace_begins(t->monitor);
        LK_TRY(lk_tracing_begin(t->tracing));
    } else {
        LK_TRY(lk_tracing_end(t->tracing, done, &traced));
        lk_monitor_trace_ended(t->monitor, &traced);
    }
    return LK_OK;
}

static lk_status one_step(lk_trainer *t, uint64_t step)
{
    const lk_backend *b = t->device->backend;
    if (step - t->drained >= LK_TRAINER_RING) LK_TRY(drain(t));
    lk_heart_begin(LK_READING, step + 1);
    if (lk_tracing_begins(t->tracing, step + 1)) LK_TRY(pause_for_trace(t, step, true));
    lk_monitor_begin(t->monitor, step);
    LK_TRY(lk_loader_feed(t->loader, step));
    lk_trainer_tell_retries(t);
    lk_heart_begin(LK_STEPPING, step + 1);
    lk_monitor_fed(t->monitor, step);
    LK_TRY(lk_program_run(t->train));
    int slot = (int)(step % LK_TRAINER_RING);
    LK_TRY(b->download(t->device, &t->ring[slot], t->store->buffer[LK_REGION_STATE],
                       sizeof *t->ring));
    LK_TRY(b->record(t->device, slot));
    lk_monitor_enqueued(t->monitor, step);
    bool ends = lk_tracing_ends(t->tracing, step + 1, false);
    return ends ? pause_for_trace(t, step + 1, false) : LK_OK;
}

static void report_saves(lk_trainer *t)
{
    char text[200];
    const lk_save_totals s = t->result.saves = lk_save_total(t->save);
    if (s.saves == 0) return;
    snprintf(text, sizeof text, "%lld checkpoint%s, %.1f MiB, written at %.1f MiB/s; training "
             "waited %.3f s for them (%.2f %%)", (long long)s.saves, s.saves == 1 ? "" : "s",
             s.bytes / 0x1p20, s.bytes / 0x1p20 / s.seconds, s.stall,
             100 * s.stall / t->result.seconds);
    lk_trainer_say(t, text);
}

/* ---- what is due after a step --------------------------------------------------------------- */

static bool due(uint64_t step, int64_t every) { return every > 0 && step % (uint64_t)every == 0; }

bool lk_trainer_validates(const lk_trainer *t, uint64_t step)
{
    bool finished = step == (uint64_t)t->run->train.steps; /* not: stopped on the way */
    return due(step, t->run->eval.every) || finished;
}

/* While steps are skipped nothing is saved, for a file that no good step came after must not push
 * out those before; what came due then is saved after the first step that counts. This asks of the
 * last step whose state was read, all of which is in the checkpoint, so a stop changes nothing. */
static bool save_put_off(const lk_trainer *t)
{
    uint64_t every = (uint64_t)t->run->checkpoint.every, row = t->skipped_in_row;
    return every > 0 && row > 0 && t->drained / every != (t->drained - row) / every;
}

static lk_status save(lk_trainer *t, uint64_t step)
{
    char spoilt[LK_CHECKPOINT_SPOILT], what[LK_CHECKPOINT_SPOILT + 100];
    lk_checkpoint_log log[LK_CHECKPOINT_LOGS];
    lk_heart_begin(LK_SAVING, step);
    LK_TRY(lk_comm_agree(t->comm, lk_rundir_sync(t->rundir)));
    lk_rundir_logs(t->rundir, log);
    LK_TRY(lk_save_begin(t->save, t->validated, log, t->good, spoilt));
    if (!spoilt[0]) {
        t->saved = step;
        return LK_OK;
    }
    snprintf(what, sizeof what, "after it '%s' holds values that are not finite", spoilt);
    return diverged(t, step, what);
}

/* The validation after `step` has failed: what is trained is no worse for its data, and is saved as
 * at a stop. All ranks alike. */
static lk_status save_unvalidated(lk_trainer *t, uint64_t step, lk_status failure)
{
    char why[1500];
    unsigned long long n = step;
    if ((failure != LK_E_INPUT && failure != LK_E_SYSTEM) || t->how->profile) return failure;
    snprintf(why, sizeof why, "%s", lk_error_text());
    lk_error_clear();
    lk_status status = t->saved == step ? LK_OK : save(t, step);
    if (status == LK_OK) status = lk_save_finish(t->save);
    if (status != LK_OK)
        return lk_fail_suffix(status, "; before, the validation after step %llu failed: %s", n,
                              why);
    return lk_fail(failure, "the validation after step %llu: %s; the run is saved up to there, in "
                   "%s, to go on with --resume", n, why, t->result.checkpoint);
}

static void stop_after(lk_trainer *t, uint64_t step)
{
    snprintf(t->result.stopped, sizeof t->result.stopped, "%s", lk_stop_reason(t->stop));
    t->last = step;
}

/* What is due after `step`, when all steps are done. A validation that a stop has left is done
 * again when the run goes on, from the checkpoint that is saved here. */
static lk_status pause_for(lk_trainer *t, uint64_t step, bool evaluation, bool saving)
{
    while (t->drained < step) LK_TRY(drain(t));
    if (t->skipped_in_row > 0 && step != t->last) saving = false; /* save_put_off() from now on */
    if (!evaluation && !saving) return LK_OK;
    t->own_evaluation = NAN;
    if (evaluation && t->run->eval.batches > 0) {
        bool stop = false;
        lk_status status = validate(t, step, &stop);
        bool measured = t->validated == step; /* what failed came after it */
        if (status != LK_OK) return measured ? status : save_unvalidated(t, step, status);
        if (stop) stop_after(t, step);
        if (stop) saving = t->saved != step && !t->how->profile;
    }
    if (saving) LK_TRY(save(t, step));
    return lk_monitor_ranks(t->monitor, step, t->own_evaluation);
}

lk_status lk_trainer_steps(lk_trainer *t)
{
    t->begun = lk_clock_seconds();
    if (t->start == 0 && t->run->checkpoint.initial && !t->how->profile) LK_TRY(save(t, 0));
    if (t->owes) LK_TRY(pause_for(t, t->start, true, t->start == t->last));
    for (uint64_t step = t->start; step < t->last;) {
        bool stop = false;
        LK_TRY(one_step(t, step));
        step++;
        LK_TRY(lk_save_poll(t->save));
        LK_TRY(lk_stop_ask(t->stop, t->each, &stop));
        if (stop && step < t->last) stop_after(t, step);
        bool evaluation = lk_trainer_validates(t, step);
        bool saving = !t->how->profile &&
                      (due(step, t->run->checkpoint.every) || save_put_off(t) || step == t->last);
        if (evaluation || saving) LK_TRY(pause_for(t, step, evaluation, saving));
    }
    if (lk_tracing_ends(t->tracing, t->last, true)) LK_TRY(pause_for_trace(t, t->last, false));
    lk_heart_begin(LK_SAVING, t->last);
    LK_TRY(lk_save_finish(t->save));
    lk_heart_begin(LK_ENDING, 0);
    t->result.steps = (int64_t)(t->last - t->start);
    t->result.best_validation_loss = t->best;
    t->result.seconds = lk_clock_seconds() - t->begun;
    report_saves(t);
    return LK_OK;
}
