/* Saving: from the store to a checkpoint file. */
#include "train/save.h"

#include "io/checkpoint.h"
#include "version.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

struct lk_save {
    lk_save_options o;
    char path[PATH_MAX];
};

lk_status lk_save_open(const lk_save_options *o, lk_save **save)
{
    lk_save *s = calloc(1, sizeof *s);
    LK_TRY(lk_comm_agree(o->comm, s ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    s->o = *o;
    *save = s;
    return LK_OK;
}

void lk_save_close(lk_save *s) { free(s); }

const char *lk_save_path(const lk_save *s) { return s->path; }

static lk_status host_buffers(const lk_store *store, lk_flat *d)
{
    size_t bytes = (size_t)store->params->total * sizeof(float);
    d->param = malloc(bytes);
    d->moment1 = malloc(bytes);
    d->moment2 = malloc(bytes);
    d->ema = store->ema ? malloc(bytes) : NULL;
    return d->param && d->moment1 && d->moment2 && (d->ema || !store->ema)
               ? LK_OK
               : lk_fail(LK_E_SYSTEM, "out of memory for a host copy of the parameters");
}

lk_status lk_save_begin(lk_save *s)
{
    const lk_save_options *o = &s->o;
    lk_flat d = {NULL};
    lk_checkpoint_info info = {
        .seed = (uint64_t)o->run->seed,
        .leaves = o->leaves,
        .code_version = (char *)LK_CODE_VERSION,
        .build = (char *)LK_BUILD,
        .dataset_path = o->data->path,
        .dataset_digest = (char *)o->data->digest,
        .kind = o->data->kind,
        .image = o->data->image,
        .characters = o->data->characters,
        .vocabulary = o->data->vocabulary,
        .vocabulary_size = o->data->vocabulary_size,
    };
    const lk_backend *b = o->store->device->backend;
    lk_status status = host_buffers(o->store, &d);
    if (status == LK_OK) status = lk_store_get(o->store, &d);
    if (status == LK_OK) status = lk_store_get_state(o->store, &info.state);
    if (status == LK_OK) status = lk_run_format(o->run, &info.run_file);
    if (status == LK_OK) status = b->choices_get(o->store->device, &info.choices);
    status = lk_comm_agree(o->comm, status);
    if (status == LK_OK)
        status = lk_checkpoint_save(o->io, o->comm->world, o->directory, o->store->params, &info,
                                    &d);
    if (status == LK_OK)
        snprintf(s->path, sizeof s->path, "%s/step-%06llu.h5", o->directory,
                 (unsigned long long)info.state.step);
    free(info.run_file);
    free(info.choices);
    free(d.param);
    free(d.moment1);
    free(d.moment2);
    free(d.ema);
    return status;
}
