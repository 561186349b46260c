/* How the cases of cross-entropy are built; see op_cases.h. Their rows are in op_cases.c. */
#include "tests/op_cases.h"

#include <math.h>

static int xent_tensors(const op_case *c, case_tensor *t)
{
    int n = 0;
    TENSOR("logits", CASE_INPUT, 3, {c->batch, c->time, c->out});
    TENSOR("targets", CASE_INDEX, 2, {c->batch, c->time}, .below = c->classes);
    return n;
}

static lk_tensor *xent_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in)
{
    /* KEEP: under autocast half logits only come out of a half op, so add a cast by hand */
    lk_tensor *logits = type == LK_F32 ? in[0] : lk_cast(g, in[0], type);
    return lk_cross_entropy(g, logits, in[1], c->classes);
}

/* Targets just below the first class and just above the last. Of the masked rows one has only its
 * target left, one the second half, one all but the first eight: no more than a thread takes at
 * once. */
static void xent_prepare(const op_case *c, double *const *value)
{
    int64_t n = c->batch * c->time;
    for (int64_t i = 0; c->astray && i < n; i += 2)
        value[1][i] = i % 4 ? -1 : (double)c->classes;
    for (int64_t i = 0; c->masked && i < n; i++) {
        int64_t end = i % 3 == 0 ? c->classes : i % 3 == 1 ? c->classes / 2 : 8;
        for (int64_t j = 0; j < end; j++)
            if (j != (int64_t)value[1][i]) value[0][i * c->out + j] = -INFINITY;
    }
}

static int64_t xent_reference(const op_case *c, double *const *in, double *y)
{
    if (c->astray) {
        y[0] = NAN;
        return 1;
    }
    y[0] = ref_xent(c->batch * c->time, c->out, c->classes, in[0], in[1]);
    return 1;
}

const case_kind xent_kind =
    CASE_KIND("xent", xent_tensors, xent_build, xent_reference, .prepare = xent_prepare);

/* The loss twice: its cotangent is made only after it, so that loss and gradient stay two nodes. */
static lk_tensor *xent_twice_build(lk_graph *g, const op_case *c, lk_dtype type,
                                   lk_tensor *const *in)
{
    lk_tensor *loss = xent_build(g, c, type, in);
    return lk_add(g, loss, loss);
}

static int64_t xent_twice_reference(const op_case *c, double *const *in, double *y)
{
    xent_reference(c, in, y);
    y[0] *= 2;
    return 1;
}

const case_kind xent_twice_kind =
    CASE_KIND("xent twice", xent_tensors, xent_twice_build, xent_twice_reference,
              .prepare = xent_prepare);
