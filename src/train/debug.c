/* What is said and kept of the first value that is not finite. */
#include "train/debug.h"

#include "io/tensor_file.h"
#include "ops/ops.h"
#include "trace/anomaly.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SAMPLES_SAID = 8 };
#define LARGEST_INPUT ((size_t)64 << 20) /* bytes of whole shards that are still kept */

struct lk_debug {
    lk_debug_options o;
    char path[4096]; /* of the file of tensors */
    lk_anomaly_search *search;
    lk_blocking *blocking;
};

/* ---- the message ----------------------------------------------------------------------------- */

typedef struct message {
    char text[1800];
    size_t used;
} message;

__attribute__((format(printf, 2, 3))) static void say(message *m, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(m->text + m->used, sizeof m->text - m->used, format, args);
    va_end(args);
    if (n > 0) m->used += (size_t)n;
    if (m->used >= sizeof m->text) m->used = sizeof m->text - 1;
}

/* The parameter at a float of a flat buffer; NULL: a metric or a gap. */
static const lk_param *param_at(const lk_params *p, int64_t at)
{
    for (int i = 0; i < p->count; i++)
        if (at >= p->item[i]->offset && at < p->item[i]->offset + p->item[i]->count)
            return p->item[i];
    return NULL;
}

/* What a region holds of a parameter; NULL: the parameter itself. */
static const char *role_of(lk_region region)
{
    switch (region) {
    case LK_REGION_GRAD: return "gradient";
    case LK_REGION_MOMENT1: return "first moment";
    case LK_REGION_MOMENT2: return "second moment";
    case LK_REGION_EMA: return "moving average";
    case LK_REGION_SHADOW: return "half copy";
    default: return NULL;
    }
}

/* "'blocks.3.attn.qkv.weight' f16 [1152, 384]", or of a part of a flat buffer what lies there. */
static void say_tensor(message *m, const lk_debug *d, const lk_tensor *t, int64_t element)
{
    char shape[96];
    bool flat =
        !t->param && t->dims == 1 && t->region >= LK_REGION_PARAM && t->region <= LK_REGION_EMA;
    const lk_param *p = t->param;
    int64_t at = element + (int64_t)(t->offset / lk_dtype_size(t->dtype));
    if (flat && element >= 0) p = param_at(d->o.store->params, at);
    const char *name = p ? p->name : t->name;
    const char *role = p || flat ? role_of(t->region) : NULL;
    if (role) say(m, "%s%s", role, name && name[0] ? " of " : "s ");
    if (name && name[0]) say(m, "'%s' ", name);
    say(m, "%s %s", lk_dtype_name(t->dtype), lk_shape_text(t, shape, sizeof shape));
}

static void say_place(message *m, const lk_tensor *t, int64_t element)
{
    int64_t at[LK_MAX_DIMS];
    for (int i = t->dims; i-- > 0; element /= t->dim[i]) at[i] = element % t->dim[i];
    for (int i = 0; i < t->dims; i++) say(m, "%s%lld", i ? ", " : "[", (long long)at[i]);
    say(m, "]");
}

static void say_range(message *m, const lk_tensor *t, const lk_range *r)
{
    if (r->bad >= 0) {
        say(m, ", %lld of %lld not finite, the first at ", (long long)r->bads,
            (long long)lk_count(t));
        say_place(m, t, r->bad);
    }
    if (r->low <= r->high)
        say(m, ", %s%g to %g", r->bad >= 0 ? "the others " : "", (double)r->low, (double)r->high);
}

static void say_samples(message *m, const lk_debug *d, const lk_anomaly *a)
{
    int64_t batch = d->o.run->train.batch / (d->o.local_leaves * d->o.comm->size);
    if (a->leaf < 0) return;
    say(m, "; the leaf's samples begin at rows");
    for (int64_t b = 0; b < batch && b < SAMPLES_SAID; b++)
        say(m, "%s %lld", b ? "," : "",
            (long long)lk_loader_sample(d->o.loader, a->step - 1, a->leaf, b));
    if (batch > SAMPLES_SAID) say(m, " and %lld more", (long long)batch - SAMPLES_SAID);
}

static void compose(message *m, const lk_debug *d, const lk_anomaly *a)
{
    const lk_node *n = a->node;
    say(m, "step %llu, rank %d on %s", (unsigned long long)a->step, d->o.comm->rank,
        d->o.comm->host);
    if (a->leaf >= 0) say(m, ", leaf %d", a->leaf);
    say(m, ": %s (%s) is the first node with values that are not finite: ", n->scope,
        lk_op_name(n->op));
    say_tensor(m, d, a->tensor, a->range.bad);
    say_range(m, a->tensor, &a->range);
    for (int i = 0; i < n->inputs; i++) {
        const lk_range *r = &a->in[i];
        if (!n->in[i] || (r->bad < 0 && r->low > r->high)) continue;
        say(m, "; input %d ", i);
        say_tensor(m, d, n->in[i], r->bad);
        say_range(m, n->in[i], r);
    }
    if (lk_run_precision(d->o.run) == LK_FP16) say(m, "; loss scale %g", (double)a->loss_scale);
    say_samples(m, d, a);
}

/* ---- the file -------------------------------------------------------------------------------- */

static lk_status fetch(const lk_debug *d, const lk_anomaly *a, const lk_tensor *t, const char *role,
                       int number, lk_tensor_item *item)
{
    lk_device *device = d->o.store->device;
    message m = {.used = 0};
    void *host = malloc(lk_bytes(t) + 1);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory for the tensors of '%s'", a->node->scope);
    say_tensor(&m, d, t, -1);
    *item = (lk_tensor_item){.dtype = t->dtype, .dims = t->dims, .data = host};
    snprintf(item->name, sizeof item->name, "%s%d", role, number);
    snprintf(item->meaning, sizeof item->meaning, "%.159s", m.text);
    memcpy(item->dim, t->dim, sizeof t->dim);
    LK_TRY(device->backend->download(device, host, lk_data(a->exec, t), lk_bytes(t)));
    return device->backend->sync(device);
}

static lk_status gather(const lk_debug *d, const lk_anomaly *a, lk_tensor_item *item, int *items)
{
    const lk_node *n = a->node;
    for (int i = 0; i < n->inputs; i++) {
        const lk_tensor *t = n->in[i];
        if (!t || (t->region == LK_REGION_INPUT && lk_bytes(t) > LARGEST_INPUT)) continue;
        LK_TRY(fetch(d, a, t, "input", i, &item[(*items)++]));
    }
    for (int i = 0; i < n->outputs; i++)
        if (n->out[i]) LK_TRY(fetch(d, a, n->out[i], "output", i, &item[(*items)++]));
    return LK_OK;
}

static lk_status keep(const lk_debug *d, const lk_anomaly *a, const char *text)
{
    lk_tensor_item item[LK_MAX_INPUTS + LK_MAX_OUTPUTS] = {0};
    int items = 0;
    int64_t batch = d->o.run->train.batch / (d->o.local_leaves * d->o.comm->size);
    int64_t *sample = calloc((size_t)batch + 1, sizeof *sample);
    lk_status status = sample ? gather(d, a, item, &items) : lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t b = 0; b < batch && sample && a->leaf >= 0; b++)
        sample[b] = lk_loader_sample(d->o.loader, a->step - 1, a->leaf, b);
    lk_tensor_file f = {.path = d->path,
                        .message = text,
                        .scope = a->node->scope,
                        .op = lk_op_name(a->node->op),
                        .step = a->step,
                        .rank = d->o.comm->rank,
                        .leaf = a->leaf,
                        .item = item,
                        .items = items,
                        .sample = sample,
                        .samples = a->leaf >= 0 ? batch : 0};
    if (status == LK_OK) status = lk_tensor_file_write(d->o.io, &f);
    for (int i = 0; i < items; i++) free((void *)item[i].data);
    free(sample);
    return status;
}

static lk_status found(void *context, const lk_anomaly *a)
{
    const lk_debug *d = context;
    message m = {.used = 0};
    compose(&m, d, a);
    if (keep(d, a, m.text) == LK_OK)
        return lk_fail(LK_E_INTERNAL, "%s; its tensors are in %s: look at them with h5py or h5dump",
                       m.text, d->path);
    char why[200];
    snprintf(why, sizeof why, "%.199s", lk_error_text());
    lk_error_clear();
    return lk_fail(LK_E_INTERNAL, "%s; its tensors could not be kept (%s)", m.text, why);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static lk_status open_search(lk_debug *d)
{
    int rank = d->o.comm->rank;
    if (rank == 0) snprintf(d->path, sizeof d->path, "%s/anomaly.h5", d->o.run->directory);
    else snprintf(d->path, sizeof d->path, "%s/anomaly-%d.h5", d->o.run->directory, rank);
    if (unlink(d->path) != 0 && errno != ENOENT)
        return lk_fail(LK_E_SYSTEM, "%s: cannot remove the file of an earlier search: %s", d->path,
                       strerror(errno));
    return lk_anomaly_open(&(lk_anomaly_options){.program = d->o.program,
                                                 .graph = d->o.graph,
                                                 .store = d->o.store,
                                                 .scaling = lk_run_precision(d->o.run) == LK_FP16,
                                                 .found = found,
                                                 .context = d},
                           &d->search);
}

lk_status lk_debug_open(const lk_debug_options *o, lk_debug **debug)
{
    *debug = NULL;
    if (!o->detect_anomaly && !o->launch_blocking) return LK_OK;
    lk_debug *d = calloc(1, sizeof *d);
    if (!d) return lk_fail(LK_E_SYSTEM, "out of memory");
    d->o = *o;
    lk_status status = o->detect_anomaly ? open_search(d) : LK_OK;
    if (status == LK_OK && o->launch_blocking)
        status = lk_blocking_open(o->program, o->store, &d->blocking);
    if (status != LK_OK) lk_debug_close(d);
    else *debug = d;
    return status;
}

void lk_debug_close(lk_debug *d)
{
    if (!d) return;
    lk_blocking_close(d->blocking);
    lk_anomaly_close(d->search);
    free(d);
}
