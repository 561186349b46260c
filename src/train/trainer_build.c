/* A training run's loaders, graphs, buffers and programs. */
#include "train/trainer.h"

#include <stdlib.h>
#include <string.h>

static lk_status open_data(lk_trainer *t)
{
    t->order = lk_session_samples(t->comm, t->run, t->leaves, LK_TRAIN);
    t->held = lk_session_samples(t->comm, t->run, t->leaves, LK_VALIDATION);
    LK_TRY(lk_loader_open(t->data, t->device, &t->order, &t->loader));
    if (t->run->eval.batches == 0) return LK_OK; /* the data may have no validation part */
    return lk_loader_open(t->data, t->device, &t->held, &t->held_loader);
}

static lk_status build_graphs(lk_trainer *t)
{
    lk_loader_sizes sizes;
    LK_TRY(lk_loader_measure(t->data, &t->order, &sizes));
    lk_source train = lk_session_source(t->run, t->data, &sizes, &t->order);
    t->model = lk_session_model(t->run, t->data->vocabulary_size, &t->data->image);
    t->params = lk_params_create();
    if (!t->params) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_passes passes = lk_session_passes(t->run);
    LK_TRY(lk_session_train_graph(t->comm, t->run, t->leaves, &t->model, &train, &passes,
                                  t->params, &t->train_graph));
    if (!t->held_loader) return LK_OK;
    LK_TRY(lk_loader_measure(t->data, &t->held, &sizes));
    lk_source held = lk_session_source(t->run, t->data, &sizes, &t->held);
    int64_t whole = sizes.shard_rows / t->held.batch;
    t->eval_batches = t->run->eval.batches;
    if (t->model.images && t->eval_batches > whole) t->eval_batches = whole;
    LK_TRY(lk_session_held_graph(t->run, &t->model, &held, false, t->params, &t->eval_graph));
    if (t->run->train.ema <= 0) return LK_OK;
    return lk_session_held_graph(t->run, &t->model, &held, true, t->params, &t->ema_graph);
}

static lk_status create_program(lk_trainer *t, const lk_loss_graph *g, lk_loader *loader,
                                lk_program **program)
{
    int local = t->order.local_leaves;
    lk_program_options o = {.comm = t->comm,
                            .seed = (uint64_t)t->run->seed,
                            .first_leaf = t->order.first_leaf,
                            .local_leaves = local,
                            .capture = true,
                            .shares = true};
    LK_TRY(lk_program_create(g->graph, t->store, &o, program));
    for (int i = 0; i < local; i++) {
        for (int k = 0; k < t->data->fields && g->field[k]; k++)
            lk_program_bind(*program, g->field[k], i, lk_loader_input(loader, k, i));
        if (g->scale) lk_program_bind(*program, g->scale, i, t->scale);
    }
    return LK_OK;
}

static lk_status create_held_programs(lk_trainer *t)
{
    LK_TRY(create_program(t, &t->eval_graph, t->held_loader, &t->eval));
    lk_program_use_state(t->eval, t->eval_state);
    if (!t->ema_graph.graph) return LK_OK;
    LK_TRY(create_program(t, &t->ema_graph, t->held_loader, &t->ema));
    lk_program_use_state(t->ema, t->eval_state);
    lk_program_use_ema(t->ema);
    return LK_OK;
}

/* One runs at a time, and none reads what another left: what lasts lies in the store. */
static lk_status create_programs(void *trainer)
{
    lk_trainer *t = trainer;
    t->train_graph.graph->apart = t->how->detect_anomaly; /* inputs are to be looked at */
    LK_TRY(create_program(t, &t->train_graph, t->loader, &t->train));
    if (t->held_loader) LK_TRY(create_held_programs(t));
    return lk_program_share((lk_program *[]){t->train, t->eval, t->ema}, 3, &t->shared);
}

static lk_status allocate(lk_trainer *t)
{
    const lk_backend *b = t->device->backend;
    LK_TRY(lk_store_create(t->device, t->params,
                           &(lk_store_options){.compute = lk_session_compute(t->run),
                                               .training = true,
                                               .ema = t->run->train.ema > 0,
                                               .local_leaves = t->order.local_leaves},
                           &t->store));
    LK_TRY(b->alloc(t->device, sizeof(lk_step_state), &t->eval_state));
    if (t->model.images) LK_TRY(lk_session_scale(t->device, &t->data->image, &t->scale));
    return b->host_alloc(t->device, LK_TRAINER_RING * sizeof *t->ring, (void **)&t->ring);
}

/* Where the backend names a library, with another one than it was with. */
static lk_status tell_library(const lk_trainer *t, const char *saved)
{
    static const char key[] = "library\t";
    char *now = NULL, text[400];
    LK_TRY(t->device->backend->choices_get(t->device, &now));
    const char *was = strstr(saved, key), *is = strstr(now, key);
    if (was && is && strcmp(was, is) != 0) {
        was += sizeof key - 1, is += sizeof key - 1;
        snprintf(text, sizeof text, "the checkpoint was written with %.*s, this is %.*s: the same "
                 "bits as without a stop are promised for one and the same only (DNNL_MAX_CPU_ISA "
                 "limits the instruction set)", (int)strcspn(was, "\n"), was,
                 (int)strcspn(is, "\n"), is);
        lk_trainer_say(t, text);
    }
    free(now);
    return LK_OK;
}

/* With `reduce: fast` nothing is promised, so a run may go on where its algorithms are not. */
static lk_status restore_choices(lk_trainer *t, const char *saved)
{
    lk_status status = t->device->backend->choices_set(t->device, saved);
    if (status == LK_OK) return tell_library(t, saved);
    if (status != LK_E_INPUT || strcmp(t->run->train.reduce, "fast") != 0) return status;
    lk_error_clear();
    lk_trainer_say(t, "the run's recorded algorithms cannot be used here; choosing others");
    return LK_OK;
}

lk_status lk_trainer_build(lk_trainer *t, const char *choices)
{
    LK_TRY(lk_comm_agree(t->comm, open_data(t)));
    LK_TRY(lk_comm_agree(t->comm, build_graphs(t)));
    LK_TRY(lk_comm_agree(t->comm, allocate(t)));
    bool restore = choices && t->comm->rank == 0;
    LK_TRY(lk_comm_agree(t->comm, restore ? restore_choices(t, choices) : LK_OK));
    return lk_session_programs(t->comm, t->device, t->params, create_programs, t);
}
