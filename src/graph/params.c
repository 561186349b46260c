/* Parameters: declaration by scope, the flat layout, initial values. */
#include "base/philox.h"
#include "graph/graph.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, PAD = 16384 }; /* floats: start of a parameter; end of the buffer */

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

lk_params *lk_params_create(void) { return calloc(1, sizeof(lk_params)); }

void lk_params_destroy(lk_params *p)
{
    if (!p) return;
    for (int i = 0; i < p->count; i++) {
        free(p->item[i]->name);
        free(p->item[i]);
    }
    free(p->item);
    free(p);
}

const lk_param *lk_params_find(const lk_params *p, const char *name)
{
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->item[i]->name, name) == 0) return p->item[i];
    return NULL;
}

static lk_param *declare(lk_params *p, const char *name, int dims, const int64_t *dim,
                         lk_init init, float std, bool decay)
{
    lk_param **grown = realloc(p->item, (size_t)(p->count + 1) * sizeof *grown);
    if (!grown) return NULL;
    p->item = grown;
    lk_param *q = calloc(1, sizeof *q);
    if (!q) return NULL;
    q->name = strdup(name);
    if (!q->name) {
        free(q);
        return NULL;
    }
    q->index = p->count;
    q->dims = dims;
    q->count = 1;
    for (int i = 0; i < dims; i++) q->count *= q->dim[i] = dim[i];
    q->init = init;
    q->std = std;
    q->decay = decay;
    p->item[p->count++] = q;
    return q;
}

static lk_tensor *parameter_tensor(lk_graph *g, lk_param *q)
{
    for (int i = 0; i < g->tensors; i++)
        if (g->tensor[i]->param == q && g->tensor[i]->region == LK_REGION_PARAM)
            return g->tensor[i];
    lk_tensor *t = lk_tensor_new(g, LK_F32, LK_REGION_PARAM, q->dims, q->dim);
    if (!t) return NULL;
    t->param = q;
    t->name = q->name;
    t->fixed_type = true;
    return t;
}

lk_tensor *lk_parameter(lk_graph *g, const char *name, int dims, const int64_t *dim, lk_init init,
                        float std, bool decay)
{
    if (g->status != LK_OK) return NULL;
    char full[320];
    snprintf(full, sizeof full, "%s%s%s", g->scope, g->scope[0] ? "." : "", name);
    lk_param *q = (lk_param *)lk_params_find(g->params, full);
    if (!q) {
        if (g->params->frozen) {
            lk_error_at(g, "parameter '%s' is not among those of the model", full);
            return NULL;
        }
        q = declare(g->params, full, dims, dim, init, std, decay);
        if (!q) {
            g->status = lk_fail(LK_E_SYSTEM, "out of memory declaring parameter '%s'", full);
            return NULL;
        }
    }
    if (q->dims != dims || memcmp(q->dim, dim, (size_t)dims * sizeof *dim) != 0) {
        lk_error_at(g, "parameter '%s' was declared with another shape", full);
        return NULL;
    }
    return parameter_tensor(g, q);
}

lk_tensor *lk_statistic(lk_graph *g, const char *name, int64_t count, lk_init init)
{
    lk_tensor *t = lk_parameter(g, name, 1, &count, init, 0, false);
    if (t && !g->params->frozen) t->param->statistic = true;
    return t;
}

lk_tensor *lk_param_gradient(lk_graph *g, const lk_tensor *param)
{
    lk_tensor *t = lk_tensor_new(g, LK_F32, LK_REGION_GRAD, param->dims, param->dim);
    if (!t) return NULL;
    t->param = param->param;
    t->name = param->name;
    t->fixed_type = true;
    return t;
}

void lk_params_layout(lk_params *p)
{
    enum { DECAYED, LEARNED, STATISTIC };
    int64_t at = 0;
    for (int group = DECAYED; group <= STATISTIC; group++) {
        for (int i = 0; i < p->count; i++) {
            lk_param *q = p->item[i];
            if (group != (q->statistic ? STATISTIC : q->decay ? DECAYED : LEARNED)) continue;
            q->offset = at;
            at = round_up(at + q->count, ALIGN);
        }
        if (group == DECAYED) p->decayed = at;
        if (group == LEARNED) p->learned = at;
    }
    p->total = round_up(at > 0 ? at : 1, PAD);
    p->frozen = true;
}

int64_t lk_params_learned(const lk_params *p)
{
    int64_t learned = 0;
    for (int i = 0; i < p->count; i++)
        if (!p->item[i]->statistic) learned += p->item[i]->count;
    return learned;
}

/* Two normal numbers from two words: Box and Muller, 1958. */
static void normal_pair(uint32_t a, uint32_t b, double out[2])
{
    double u = ((double)a + 0.5) * 0x1p-32, v = (double)b * 0x1p-32;
    double r = sqrt(-2.0 * log(u)), angle = 6.28318530717958647692 * v;
    out[0] = r * cos(angle);
    out[1] = r * sin(angle);
}

void lk_params_initialise(const lk_params *p, uint64_t seed, float *out)
{
    memset(out, 0, (size_t)p->total * sizeof *out);
    for (int i = 0; i < p->count; i++) {
        const lk_param *q = p->item[i];
        float *w = out + q->offset;
        if (q->init == LK_INIT_ZERO) continue;
        for (int64_t k = 0; k < q->count; k += 4) {
            double z[4] = {1, 1, 1, 1};
            if (q->init == LK_INIT_NORMAL) {
                lk_u32x4 r = lk_philox(seed, (uint32_t)(k / 4),
                                       LK_PURPOSE_INIT | (uint32_t)q->index, 0, 0);
                normal_pair(r.v[0], r.v[1], z);
                normal_pair(r.v[2], r.v[3], z + 2);
                for (int j = 0; j < 4; j++) z[j] *= (double)q->std;
            }
            for (int j = 0; j < 4 && k + j < q->count; j++) w[k + j] = (float)z[j];
        }
    }
}
