/* The products of linear and linear_dx whose epilogue is gelu, gelu' or a rotation, by kernels of
 * ours: on Hopper, for f16 and bf16 and shapes that fill their tiles. matmul_choice.cu asks here
 * first, then cuBLASLt. Whether a node fits depends on the device and the shape, whether it pays on
 * the shape alone.
 *
 * On an H200, f16, random normal operands, a GPU that is hot: 32768 x 3072, summed over 768: 295 us
 * with gelu where cuBLASLt takes 349, 289 with gelu'; 16384 x 1536, summed over 384: 46 us
 * with gelu where cuBLASLt takes 59; since then 30 us less each (bench/NOTES.md). What is gained is
 * that nothing waits for the end of a tile, whatever the depth; what is lost is in the loop, and
 * grows with the depth. Sums of dx's columns take 20 us more, the pass that they spare 56. */
#include "cuda/product.cuh"

/* Steps of the sum, PRODUCT_DEPTH each, of the products that run here. What is gained at a tile's
 * end is 30 to 60 us in 300, what a step loses against cuBLASLt's loop 3 us: at 6 steps dx with
 * gelu' and sums takes 68 us where cuBLASLt and a pass take 84. The rotation is even at 12 and
 * gains at 6. */
enum { GELU_MOST = 16, ROTATE_MOST = 12, SLOPE_FEWEST = 6, SLOPE_MOST = 16 };

static bool has_code(void) { return wgmma_compiled(k_product<__half, PRODUCT_GELU, 0>); }

extern "C" bool lk_cuda_generic(lk_device *d) { return ((lk_cuda *)d)->major == 9 && !has_code(); }

/* What node n computes, but for the addresses. */
static product_call call_of(const lk_node *n)
{
    product_call c = {};
    const lk_tensor *w = n->in[1];
    bool y = n->op == LK_OP_LINEAR;
    c.rows = lk_rows(n->in[0]);
    c.columns = w->dim[y ? 0 : 1];
    c.depth = w->dim[y ? 1 : 0];
    return c;
}

static int64_t tiles_of(const product_call *c)
{
    return lk_ceil(c->rows, PRODUCT_TILE) * lk_ceil(c->columns, PRODUCT_TILE);
}

bool lk_cuda_product_fits(const lk_cuda *d, const lk_node *n)
{
    lk_dtype type = n->in[0]->dtype;
    if (!lk_cuda_hopper(d) || n->op == LK_OP_LINEAR_DW) return false;
    if ((type != LK_F16 && type != LK_BF16) || n->out[0]->dtype != type) return false;
    const lk_rotation *r = lk_rotation_of(n);
    if (r ? r->head_dim != 32 && r->head_dim != 64 && r->head_dim != 128
          : n->attr.linear.activation != LK_GELU)
        return false;
    product_call c = call_of(n);
    return c.columns % PRODUCT_TILE == 0 && c.depth % PRODUCT_DEPTH == 0 &&
           c.rows <= INT32_MAX / 2 && tiles_of(&c) <= INT32_MAX && has_code();
}

bool lk_cuda_product_pays(const lk_node *n)
{
    product_call c = call_of(n);
    int64_t steps = c.depth / PRODUCT_DEPTH;
    if (tiles_of(&c) < steps) return false; /* better cut along the sum */
    if (lk_rotation_of(n)) return steps <= ROTATE_MOST;
    if (n->op == LK_OP_LINEAR) return steps <= GELU_MOST;
    return steps >= SLOPE_FEWEST && steps <= SLOPE_MOST;
}

static lk_status rotation(const lk_cuda *d, const lk_node *n, product_call *c)
{
    const lk_rotation *r = lk_rotation_of(n);
    c->time = n->out[0]->dim[1];
    c->rotated = (int64_t)(r->heads + r->kv_heads) * r->head_dim;
    return lk_cuda_angles(d, n, &c->angles);
}

template <typename E> static cudaError_t rotate_launch(const lk_node *n, const product_call &c)
{
    switch (lk_rotation_of(n)->head_dim) {
    case 32: return product_launch<E, PRODUCT_ROTATE, 32>(c);
    case 64: return product_launch<E, PRODUCT_ROTATE, 64>(c);
    default: return product_launch<E, PRODUCT_ROTATE, 128>(c);
    }
}

size_t lk_cuda_product_scratch(const lk_node *n)
{
    if (n->op != LK_OP_LINEAR_DX || !n->out[1]) return 0;
    const lk_tensor *dx = n->out[0];
    return (size_t)product_chunks(lk_rows(dx)) * (size_t)lk_cols(dx) * sizeof(float);
}

lk_status lk_cuda_product(lk_exec *x, const lk_node *n)
{
    const lk_cuda *d = (const lk_cuda *)x->device;
    product_call c = call_of(n);
    c.stream = d->stream;
    c.processors = d->processors;
    c.a = lk_data(x, n->in[0]);
    c.b = lk_data(x, n->in[1]);
    c.out = lk_data(x, n->out[0]);
    if (lk_rotation_of(n)) {
        LK_TRY(rotation(d, n, &c));
        c.bias = lk_data(x, n->in[2]);
        LK_FLOAT_SWITCH(n->in[0]->dtype, E, {
            if constexpr (sizeof(E) == 2) LK_CUDA_AT(n, (rotate_launch<E>(n, c)));
        });
    } else if (n->op == LK_OP_LINEAR) {
        c.bias = lk_data(x, n->in[2]);
        c.pre = lk_data(x, n->out[1]);
        LK_FLOAT_SWITCH(n->in[0]->dtype, E, {
            if constexpr (sizeof(E) == 2)
                LK_CUDA_AT(n, (product_launch<E, PRODUCT_GELU>(c)));
        });
    } else {
        c.pre = lk_data(x, n->in[2]);
        c.sums = n->out[1] ? (float *)x->base[LK_REGION_SCRATCH] : NULL;
        LK_FLOAT_SWITCH(n->in[0]->dtype, E, {
            if constexpr (sizeof(E) == 2)
                LK_CUDA_AT(n, (product_launch<E, PRODUCT_SLOPE>(c)));
        });
        lk_chunk_sum sum = {c.sums, (float *)lk_data(x, n->out[1]), (n->accumulate & 2u) != 0};
        if (sum.out) lk_cuda_sum_chunks(c.stream, &sum, 1, product_chunks(c.rows), c.columns);
    }
    return lk_cuda_launched(n);
}
