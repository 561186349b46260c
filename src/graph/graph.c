/* Building a graph: tensors, nodes, scopes. Ownership is one pool per graph. */
#include "graph/graph.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lk_pool {
    struct lk_pool *next;
};

void *lk_graph_alloc(lk_graph *g, size_t bytes)
{
    size_t head = (sizeof(struct lk_pool) + 15) & ~(size_t)15;
    struct lk_pool *p = calloc(1, head + bytes);
    if (!p) {
        if (g->status == LK_OK) g->status = lk_fail(LK_E_SYSTEM, "out of memory building a graph");
        return NULL;
    }
    p->next = g->pool;
    g->pool = p;
    return (char *)p + head;
}

static const char *text(lk_graph *g, const char *s)
{
    char *copy = lk_graph_alloc(g, strlen(s) + 1);
    return copy ? strcpy(copy, s) : "";
}

lk_graph *lk_graph_create(lk_params *params, bool training)
{
    lk_graph *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->params = params;
    g->training = training;
    int64_t bytes = sizeof(lk_step_state);
    g->state = lk_tensor_new(g, LK_U8, LK_REGION_STATE, 1, &bytes);
    if (!g->state) {
        lk_graph_destroy(g);
        return NULL;
    }
    g->state->fixed_type = true;
    g->state->name = "state";
    return g;
}

void lk_graph_destroy(lk_graph *g)
{
    if (!g) return;
    for (struct lk_pool *p = g->pool, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    free(g->tensor);
    free(g);
}

void lk_error_at(lk_graph *g, const char *format, ...)
{
    if (g->status != LK_OK) return;
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    g->status = lk_fail(LK_E_INPUT, "%s: %s", g->scope[0] ? g->scope : "model", message);
}

void lk_scope_push(lk_graph *g, const char *format, ...)
{
    size_t n = strlen(g->scope);
    if (n && n + 1 < sizeof g->scope) g->scope[n++] = '.';
    va_list args;
    va_start(args, format);
    vsnprintf(g->scope + n, sizeof g->scope - n, format, args);
    va_end(args);
}

void lk_scope_pop(lk_graph *g)
{
    char *dot = strrchr(g->scope, '.');
    *(dot ? dot : g->scope) = '\0';
}

void lk_unit_begin(lk_graph *g, lk_unit kind) { g->unit[kind] = ++g->units; }

void lk_unit_end(lk_graph *g, lk_unit kind) { g->unit[kind] = 0; }

bool lk_is_float(lk_dtype dtype) { return dtype == LK_F32 || dtype == LK_F16 || dtype == LK_BF16; }

int64_t lk_count(const lk_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->dims; i++) n *= t->dim[i];
    return n;
}

int64_t lk_cols(const lk_tensor *t) { return t->dim[t->dims - 1]; }

int64_t lk_rows(const lk_tensor *t) { return lk_cols(t) ? lk_count(t) / lk_cols(t) : 0; }

size_t lk_bytes(const lk_tensor *t) { return (size_t)lk_count(t) * lk_dtype_size(t->dtype); }

lk_tensor *lk_root(lk_tensor *t)
{
    while (t && t->base) t = t->base;
    return t;
}

const char *lk_shape_text(const lk_tensor *t, char *buffer, size_t size)
{
    size_t n = 0;
    n += (size_t)snprintf(buffer, size, "[");
    for (int i = 0; i < t->dims && n < size; i++)
        n += (size_t)snprintf(buffer + n, size - n, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
    if (n < size) snprintf(buffer + n, size - n, "]");
    return buffer;
}

lk_tensor *lk_tensor_new(lk_graph *g, lk_dtype dtype, lk_region region, int dims,
                         const int64_t *dim)
{
    if (g->status != LK_OK) return NULL;
    lk_tensor *t = lk_graph_alloc(g, sizeof *t);
    if (!t) return NULL;
    if ((g->tensors & (g->tensors - 1)) == 0) { /* full at powers of two: double */
        size_t room = g->tensors ? 2 * (size_t)g->tensors : 1;
        lk_tensor **grown = realloc(g->tensor, room * sizeof *grown);
        if (!grown) {
            g->status = lk_fail(LK_E_SYSTEM, "out of memory building a graph");
            return NULL;
        }
        g->tensor = grown;
    }
    t->id = g->tensors;
    g->tensor[g->tensors++] = t;
    t->dtype = dtype;
    t->region = region;
    t->dims = dims;
    memcpy(t->dim, dim, (size_t)dims * sizeof *dim);
    t->fixed_type = !lk_is_float(dtype);
    t->name = "";
    return t;
}

lk_tensor *lk_tensor_like(lk_graph *g, const lk_tensor *t)
{
    return lk_tensor_new(g, t->dtype, LK_REGION_ARENA, t->dims, t->dim);
}

lk_tensor *lk_tensor_f32(lk_graph *g, int dims, const int64_t *dim)
{
    lk_tensor *t = lk_tensor_new(g, LK_F32, LK_REGION_ARENA, dims, dim);
    if (t) t->fixed_type = true;
    return t;
}

lk_tensor *lk_input(lk_graph *g, const char *name, lk_dtype dtype, int dims, const int64_t *dim)
{
    lk_tensor *t = lk_tensor_new(g, dtype, LK_REGION_INPUT, dims, dim);
    if (!t) return NULL;
    t->fixed_type = true;
    t->name = text(g, name);
    return t;
}

lk_tensor *lk_reshape(lk_graph *g, lk_tensor *x, int dims, const int64_t *dim)
{
    if (g->status != LK_OK || !x) return NULL;
    int64_t n = 1;
    for (int i = 0; i < dims; i++) n *= dim[i];
    if (n != lk_count(x)) {
        char shape[96];
        lk_error_at(g, "reshape of %s to %lld elements", lk_shape_text(x, shape, sizeof shape),
                    (long long)n);
        return NULL;
    }
    lk_tensor *t = lk_tensor_new(g, x->dtype, x->region, dims, dim);
    if (!t) return NULL;
    t->base = lk_root(x);
    t->producer = t->base->producer;
    t->fixed_type = t->base->fixed_type;
    return t;
}

void lk_graph_metric(lk_graph *g, lk_tensor *t, lk_metric metric)
{
    if (g->status != LK_OK || !t) return;
    t->region = LK_REGION_GRAD;
    t->metric = 1 + (int)metric;
}

lk_tensor *lk_loss_scale(lk_graph *g)
{
    lk_tensor *t = lk_tensor_new(g, LK_F32, LK_REGION_STATE, 1, (int64_t[]){1});
    if (!t) return NULL;
    t->offset = offsetof(lk_step_state, loss_scale);
    t->fixed_type = true;
    t->name = "loss_scale";
    return t;
}

lk_node *lk_node_new(lk_graph *g, lk_op op, int inputs, lk_tensor *const *in)
{
    if (g->status != LK_OK) return NULL;
    lk_node *n = lk_graph_alloc(g, sizeof *n);
    if (!n) return NULL;
    n->op = op;
    n->section = g->section;
    n->inputs = inputs;
    memcpy(n->in, in, (size_t)inputs * sizeof *in);
    n->scope = text(g, g->scope);
    memcpy(n->unit, g->unit, sizeof n->unit);
    *(g->last ? &g->last->next : &g->first) = n;
    g->last = n;
    return n;
}

lk_tensor *lk_node_output(lk_graph *g, lk_node *n, lk_tensor *out)
{
    if (g->status != LK_OK || !n) return NULL;
    if (out) out->producer = n;
    n->out[n->outputs++] = out;
    return out;
}
