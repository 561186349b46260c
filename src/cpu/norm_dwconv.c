/* norm_dwconv and its gradient: the image is normalised into scratch, rounded as if it were stored,
 * and the kernels of dwconv run on it. It spares the arena the normalised image, not a pass. */
#include "cpu/device.h"

/* n as the plain op on *z: in[0] normalised, in scratch behind `used` bytes. */
static lk_node plain_of(const lk_node *n, size_t used, lk_tensor *z)
{
    lk_node plain = *n; /* its attributes begin as those of conv do */
    *z = *n->in[0];
    z->base = NULL;
    z->region = LK_REGION_SCRATCH;
    z->offset = lk_cpu_piece(used);
    plain.in[0] = z;
    plain.in[2] = n->in[n->inputs - 1]; /* dy, of the gradient */
    return plain;
}

/* Bytes in front of the normalised image: of the plain op, and for the norms around it. */
static size_t forward_bytes(const lk_node *n)
{
    lk_tensor z;
    lk_node plain = plain_of(n, 0, &z);
    size_t bytes = lk_cpu_larger(lk_cpu_dwconv_scratch(&plain), lk_cpu_normalise_scratch(&z));
    return n->outputs > 1 ? lk_cpu_larger(bytes, lk_cpu_moments_scratch(n->out[0])) : bytes;
}

static size_t gradient_bytes(const lk_node *n)
{
    lk_tensor z;
    lk_node plain = plain_of(n, 0, &z);
    size_t bytes = lk_cpu_larger(lk_cpu_dwconv_grad_scratch(&plain), lk_cpu_normalise_scratch(&z));
    return n->out[2] ? lk_cpu_larger(bytes, lk_cpu_batch_sums_scratch(&z)) : bytes;
}

size_t lk_cpu_norm_dwconv_scratch(const lk_node *n)
{
    return lk_cpu_piece(forward_bytes(n)) + lk_bytes(n->in[0]);
}

size_t lk_cpu_norm_dwconv_grad_scratch(const lk_node *n)
{
    return lk_cpu_piece(gradient_bytes(n)) + lk_bytes(n->in[0]);
}

lk_status lk_cpu_norm_dwconv(lk_exec *x, const lk_node *n)
{
    lk_tensor z;
    lk_node plain = plain_of(n, forward_bytes(n), &z);
    lk_cpu_normalise(x, n->in[0], n->attr.norm_dwconv.activation, n->in + 2, &z);
    LK_TRY(lk_cpu_dwconv(x, &plain));
    if (n->outputs > 1) lk_cpu_moments(x, n->out[0], n->attr.norm_dwconv.eps, n->out + 1);
    return LK_OK;
}

lk_status lk_cpu_norm_dwconv_grad(lk_exec *x, const lk_node *n)
{
    lk_tensor z;
    lk_node plain = plain_of(n, gradient_bytes(n), &z);
    lk_activation act = n->attr.norm_dwconv.activation;
    lk_cpu_normalise(x, n->in[0], act, n->in + 2, &z);
    LK_TRY(lk_cpu_dwconv_grad(x, &plain));
    if (n->out[2])
        lk_cpu_batch_sums(x, n->in[0], act, n->in + 2, n->out[0], lk_data(x, n->out[2]));
    return LK_OK;
}
