/* squeeze_excite, norm_gate and their gradients, plain or on an image that they normalise: it is
 * normalised into scratch, rounded as if it were stored, and the kernels of pool, excite, gate and
 * batch_norm run on it. It spares the arena the normalised image and its cotangent, not a pass. */
#include "cpu/device.h"

/* A tensor like t in scratch at `offset`. */
static lk_tensor scratch_like(const lk_tensor *t, size_t offset)
{
    lk_tensor s = *t;
    s.base = NULL;
    s.region = LK_REGION_SCRATCH;
    s.offset = offset;
    return s;
}

static lk_node reduction(const lk_node *n, lk_op op, lk_tensor *x, lk_tensor *dy, lk_tensor *out)
{
    return (lk_node){.op = op, .inputs = dy ? 2 : 1, .outputs = 1, .scope = n->scope,
                     .in = {x, dy}, .out = {out}};
}

/* ---- forward -------------------------------------------------------------------------------- */

static lk_node excite(const lk_node *n)
{
    return (lk_node){.op = LK_OP_EXCITE, .inputs = 5, .outputs = 3, .scope = n->scope,
                     .in = {n->out[3], n->in[1], n->in[2], n->in[3], n->in[4]},
                     .out = {n->out[0], n->out[1], n->out[2]}};
}

/* In front of the normalised image. */
static size_t forward_bytes(const lk_node *n)
{
    lk_node plain = excite(n);
    return lk_cpu_piece(
        lk_cpu_larger(lk_cpu_excite_scratch(&plain), lk_cpu_normalise_scratch(n->in[0])));
}

size_t lk_cpu_squeeze_excite_scratch(const lk_node *n)
{
    return forward_bytes(n) + (n->inputs > 5 ? lk_bytes(n->in[0]) : 0);
}

lk_status lk_cpu_squeeze_excite(lk_exec *x, const lk_node *n)
{
    lk_tensor *image = n->in[0], normalised = scratch_like(image, forward_bytes(n));
    if (n->inputs > 5) {
        lk_cpu_normalise(x, image, n->attr.batch_norm.activation, n->in + 5, &normalised);
        image = &normalised;
    }
    lk_node pool = reduction(n, LK_OP_POOL, image, NULL, n->out[3]), plain = excite(n);
    LK_TRY(lk_cpu_pool(x, &pool));
    return lk_cpu_excite(x, &plain);
}

size_t lk_cpu_norm_gate_scratch(const lk_node *n) { return lk_cpu_normalise_scratch(n->in[0]); }

lk_status lk_cpu_norm_gate(lk_exec *x, const lk_node *n)
{
    lk_node gate = reduction(n, LK_OP_GATE, n->out[0], n->in[1], n->out[0]);
    lk_cpu_normalise(x, n->in[0], n->attr.batch_norm.activation, n->in + 2, n->out[0]);
    return lk_cpu_gate(x, &gate); /* in place */
}

/* ---- by the pooled image -------------------------------------------------------------------- */

static lk_node excite_dx(const lk_node *n, lk_tensor *ds)
{
    return (lk_node){.op = LK_OP_EXCITE_DX, .inputs = 5, .outputs = 3, .scope = n->scope,
                     .in = {ds, n->in[2], n->in[3], n->in[4], n->in[5]},
                     .out = {n->out[0], n->out[1], n->out[2]}};
}

/* In front of ds, behind which the normalised image lies. */
static size_t gradient_bytes(const lk_node *n)
{
    lk_node plain = excite_dx(n, n->out[0]);
    size_t bytes =
        lk_cpu_larger(lk_cpu_excite_dx_scratch(&plain), lk_cpu_normalise_scratch(n->in[0]));
    if (n->inputs > 6) bytes = lk_cpu_larger(bytes, lk_cpu_image_sums_scratch(n->in[0]));
    return lk_cpu_piece(bytes);
}

static size_t ds_bytes(const lk_node *n) { return lk_cpu_piece(lk_bytes(n->out[0])); }

size_t lk_cpu_squeeze_excite_dx_scratch(const lk_node *n)
{
    return gradient_bytes(n) + ds_bytes(n) + (n->inputs > 6 ? lk_bytes(n->in[0]) : 0);
}

lk_status lk_cpu_squeeze_excite_dx(lk_exec *x, const lk_node *n)
{
    lk_activation act = n->attr.batch_norm.activation;
    lk_tensor *image = n->in[0], *dy = n->in[1];
    lk_tensor ds = scratch_like(n->out[0], gradient_bytes(n));
    lk_tensor normalised = scratch_like(image, ds.offset + ds_bytes(n));
    if (n->inputs > 6) {
        lk_cpu_normalise(x, image, act, n->in + 6, &normalised);
        image = &normalised;
    }
    lk_node gate = reduction(n, LK_OP_GATE_DS, image, dy, &ds), plain = excite_dx(n, &ds);
    LK_TRY(lk_cpu_gate_ds(x, &gate));
    LK_TRY(lk_cpu_excite_dx(x, &plain));
    if (n->inputs > 6)
        lk_cpu_image_sums(x, n->in[0], act, n->in + 6, dy, lk_data(x, n->out[3]));
    return LK_OK;
}

/* ---- by the image --------------------------------------------------------------------------- */

/* Sums [2,C] of the cotangent from those of the images [B,4,C], by s and dp [B,C]. */
static void join_sums(lk_exec *x, const lk_node *n, float *sums)
{
    enum { STEP = 64 };
    const lk_tensor *image = n->in[0], *s = n->in[7], *dp = n->in[8];
    int64_t batch = image->dim[0], channels = image->dim[3];
    const float *from = lk_data(x, n->in[6]);
    const void *factors = lk_data(x, s), *shares = lk_data(x, dp);
    float pixels = (float)(image->dim[1] * image->dim[2]);
#pragma omp parallel for schedule(static) if (4 * batch * channels > LK_CPU_SMALL)
    for (int64_t c = 0; c < channels; c += STEP) {
        double b[STEP] = {0}, w[STEP] = {0};
        int64_t m = channels - c < STEP ? channels - c : STEP;
        for (int64_t i = 0; i < batch; i++) {
            const float *of = from + 4 * i * channels + c;
            float factor[STEP], share[STEP];
            lk_cpu_load(s->dtype, factors, i * channels + c, m, factor);
            lk_cpu_load(dp->dtype, shares, i * channels + c, m, share);
            for (int64_t j = 0; j < m; j++) {
                double u = (double)factor[j], v = (double)(share[j] / pixels);
                b[j] += u * (double)of[j] + v * (double)of[channels + j];
                w[j] += u * (double)of[2 * channels + j] + v * (double)of[3 * channels + j];
            }
        }
        for (int64_t j = 0; j < m; j++) {
            sums[c + j] = (float)b[j];
            sums[channels + c + j] = (float)w[j];
        }
    }
}

/* n as a BATCH_NORM_GRAD: its cotangent and sums in scratch behind `used` bytes. */
static lk_node plain_grad(const lk_node *n, size_t used, lk_tensor *dn, lk_tensor *sums)
{
    lk_node plain = *n;
    *sums = scratch_like(n->in[6], lk_cpu_piece(used));
    sums->dims = 2;
    sums->dim[0] = 2;
    sums->dim[1] = lk_cols(n->in[0]);
    *dn = scratch_like(n->in[0], sums->offset + lk_cpu_piece(lk_bytes(sums)));
    plain.in[5] = dn;
    plain.in[6] = sums;
    plain.inputs = 7;
    return plain;
}

size_t lk_cpu_gate_norm_grad_scratch(const lk_node *n)
{
    lk_tensor dn, sums;
    plain_grad(n, lk_cpu_batch_norm_grad_scratch(n), &dn, &sums);
    return dn.offset + lk_bytes(&dn);
}

lk_status lk_cpu_gate_norm_grad(lk_exec *x, const lk_node *n)
{
    lk_tensor dn, sums;
    lk_node plain = plain_grad(n, lk_cpu_batch_norm_grad_scratch(n), &dn, &sums);
    lk_node gate = {.op = LK_OP_GATE_DX, .inputs = 3, .outputs = 1, .scope = n->scope,
                    .in = {n->in[7], n->in[5], n->in[8]}, .out = {&dn}};
    LK_TRY(lk_cpu_gate_dx(x, &gate));
    join_sums(x, n, lk_data(x, &sums));
    return lk_cpu_batch_norm_grad(x, &plain);
}
