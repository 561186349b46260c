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

/* Of a part of a flat buffer, all parameters' floats one after the other. */
static bool is_flat(const lk_tensor *t)
{
    return !t->param && t->dims == 1 && t->region >= LK_REGION_PARAM &&
           t->region <= LK_REGION_EMA;
}

/* The parameter of a tensor, or of a flat buffer that at its element; NULL: none. *element becomes
 * its number in the parameter. */
static const lk_param *find_param(const lk_debug *d, const lk_tensor *t, int64_t *element)
{
    if (!is_flat(t) || *element < 0) return t->param;
    int64_t at = *element + (int64_t)(t->offset / lk_dtype_size(t->dtype));
    const lk_param *p = param_at(d->o.store->params, at);
    if (p) *element = at - p->offset;
    return p;
}

/* "'blocks.3.attn.qkv.weight' f16 [1152, 384]", or of a part of a flat buffer what lies there. */
static void say_tensor(message *m, const lk_debug *d, const lk_tensor *t, int64_t element)
{
    char shape[96];
    lk_tensor shaped = *t;
    const lk_param *p = find_param(d, t, &element);
    const char *name = p ? p->name : t->name;
    const char *role = p || is_flat(t) ? role_of(t->region) : NULL;
    if (role) say(m, "%s%s", role, name && name[0] ? " of " : "s ");
    else if (is_flat(t) && !p) say(m, "parameters ");
    if (name && name[0]) say(m, "'%s' ", name);
    if (p) {
        shaped.dims = p->dims;
        memcpy(shaped.dim, p->dim, sizeof p->dim);
    }
    say(m, "%s %s", lk_dtype_name(t->dtype), lk_shape_text(&shaped, shape, sizeof shape));
}

static void say_place(message *m, int dims, const int64_t *dim, int64_t element)
{
    int64_t at[LK_MAX_DIMS];
    for (int i = dims; i-- > 0; element /= dim[i]) at[i] = element % dim[i];
    for (int i = 0; i < dims; i++) say(m, "%s%lld", i ? ", " : "[", (long long)at[i]);
    say(m, "]");
}

static void say_range(message *m, const lk_debug *d, const lk_tensor *t, const lk_range *r)
{
    if (r->bad >= 0) {
        int64_t element = r->bad;
        const lk_param *p = find_param(d, t, &element);
        bool part = p && p != t->param; /* counted are those of all parameters */
        say(m, ", %lld of %lld%s not finite, the first at ", (long long)r->bads,
            (long long)lk_count(t), part ? " in the buffer" : "");
        say_place(m, part ? p->dims : t->dims, part ? p->dim : t->dim, element);
    }
    if (r->low <= r->high)
        say(m, ", %s%g to %g", r->bad >= 0 ? "the others " : "", (double)r->low, (double)r->high);
}

/* The rows at which the leaf's samples begin, or those of all leaves in order; malloc'ed. */
static int64_t *list_samples(const lk_debug *d, const lk_anomaly *a, int64_t *count)
{
    int leaves = d->o.local_leaves * d->o.comm->size;
    int64_t batch = d->o.run->train.batch / leaves;
    int first = a->leaf < 0 ? 0 : a->leaf, end = a->leaf < 0 ? leaves : first + 1;
    int64_t *row = calloc((size_t)(batch * (end - first)) + 1, sizeof *row);
    *count = 0;
    for (int leaf = first; leaf < end && row; leaf++)
        for (int64_t b = 0; b < batch; b++)
            row[(*count)++] = lk_loader_sample(d->o.loader, a->step - 1, leaf, b);
    return row;
}

static void say_samples(message *m, const lk_debug *d, const lk_anomaly *a)
{
    int64_t count, *row = list_samples(d, a, &count);
    if (count > 0)
        say(m, "; the %s samples begin at rows", a->leaf < 0 ? "step's" : "leaf's");
    for (int64_t i = 0; i < count && i < SAMPLES_SAID; i++)
        say(m, "%s %lld", i ? "," : "", (long long)row[i]);
    if (count > SAMPLES_SAID) say(m, " and %lld more", (long long)count - SAMPLES_SAID);
    free(row);
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
    say_range(m, d, a->tensor, &a->range);
    for (int i = 0; i < n->inputs; i++) {
        const lk_range *r = &a->in[i];
        if (!n->in[i] || n->in[i] == a->tensor || (r->bad < 0 && r->low > r->high)) continue;
        say(m, "; %s %d ", lk_op_rule(n->op)->writes >> i & 1 ? "output" : "input", i);
        say_tensor(m, d, n->in[i], r->bad);
        say_range(m, d, n->in[i], r);
    }
    if (lk_run_precision(d->o.run) == LK_FP16) say(m, "; loss scale %g", (double)a->loss_scale);
    say_samples(m, d, a);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* What is kept of a tensor: all of it; of a flat buffer the one parameter that matters. */
typedef struct part {
    int64_t first, count; /* elements */
    const lk_param *param; /* NULL: no parameter by itself */
} part;

/* Of flat buffers, which hold the same at the same place, what is where the bad value is. */
static part part_of(const lk_debug *d, const lk_anomaly *a, const lk_tensor *t)
{
    const lk_params *params = d->o.store->params;
    part p = {0, lk_count(t), NULL};
    if (!is_flat(t) || !is_flat(a->tensor)) return p;
    int64_t begin = (int64_t)(t->offset / lk_dtype_size(t->dtype));
    int64_t at = a->range.bad + (int64_t)(a->tensor->offset / lk_dtype_size(a->tensor->dtype));
    const lk_param *found = param_at(params, at);
    int64_t first = (found ? found->offset : params->total) - begin; /* the metrics lie behind */
    int64_t count = found ? found->count : LK_METRIC_FLOATS;
    if (first < 0 || first + count > lk_count(t)) return p;
    return (part){first, count, found};
}

static void name_part(const lk_debug *d, const lk_tensor *t, const part *p, message *m)
{
    bool metrics = !p->param && p->count < lk_count(t);
    if (metrics) say(m, "metrics %s [%lld]", lk_dtype_name(t->dtype), (long long)p->count);
    else say_tensor(m, d, t, p->param ? p->first : -1);
}

/* As `role` and the number of the input or output. */
static lk_status fetch(const lk_debug *d, const lk_anomaly *a, const lk_tensor *t, const char *role,
                       int number, lk_tensor_item *item)
{
    lk_device *device = d->o.store->device;
    part p = part_of(d, a, t);
    size_t size = lk_dtype_size(t->dtype), bytes = (size_t)p.count * size;
    message m = {.used = 0};
    void *host = malloc(bytes + 1);
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory for the tensors of '%s'", a->node->scope);
    name_part(d, t, &p, &m);
    *item = (lk_tensor_item){.dtype = t->dtype, .dims = t->dims, .data = host};
    snprintf(item->name, sizeof item->name, "%s%d", role, number);
    snprintf(item->meaning, sizeof item->meaning, "%.159s", m.text);
    memcpy(item->dim, t->dim, sizeof t->dim);
    if (p.param) {
        item->dims = p.param->dims;
        memcpy(item->dim, p.param->dim, sizeof p.param->dim);
    } else if (p.count < lk_count(t)) {
        item->dim[0] = p.count;
    }
    LK_TRY(device->backend->download(device, host,
                                     (char *)lk_data(a->exec, t) + (size_t)p.first * size, bytes));
    return device->backend->sync(device);
}

/* What the node read and what it made. An input that it writes where it lies is the output of the
 * input's number. */
static lk_status gather(const lk_debug *d, const lk_anomaly *a, lk_tensor_item *item, int *items)
{
    const lk_node *n = a->node;
    uint32_t writes = lk_op_rule(n->op)->writes;
    for (int i = 0; i < n->inputs; i++) {
        const lk_tensor *t = n->in[i];
        if (!t || (t->region == LK_REGION_INPUT && lk_bytes(t) > LARGEST_INPUT)) continue;
        LK_TRY(fetch(d, a, t, writes >> i & 1 ? "output" : "input", i, &item[(*items)++]));
    }
    for (int i = 0; i < n->outputs; i++)
        if (n->out[i]) LK_TRY(fetch(d, a, n->out[i], "output", i, &item[(*items)++]));
    return LK_OK;
}

static lk_status keep(const lk_debug *d, const lk_anomaly *a, const char *text)
{
    lk_tensor_item item[LK_MAX_INPUTS + LK_MAX_OUTPUTS] = {0};
    int items = 0;
    int64_t samples, *sample = list_samples(d, a, &samples);
    lk_status status = sample ? gather(d, a, item, &items) : lk_fail(LK_E_SYSTEM, "out of memory");
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
                        .samples = samples};
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
        return lk_fail(LK_E_INTERNAL, "%s; its tensors are kept: lockstep show %s", m.text,
                       d->path);
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
        return lk_fail(lk_status_of_errno(errno), "%s: cannot remove the file of an earlier "
                       "search: %s; %s", d->path, strerror(errno),
                       lk_advice_of_errno(errno, "move it away"));
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
