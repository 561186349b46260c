/* The three products of a linear layer, by cuBLASLt but for those that fit kernels of ours
 * (product.cu, pointwise.cu), as matmul_choice.cu has chosen.
 *
 * Our tensors are row-major; cuBLASLt reads the same bytes as column-major matrices, so that every
 * product is written transposed (x [N,K], w [M,K], y and dy [N,M]; "cm" is the column-major view):
 *
 *   y  = x w^T    D cm [M,N] = op_T(w cm [K,M])  op_N(x cm [K,N])      bias [M] along the rows of D
 *   dx = dy w     D cm [K,N] = op_N(w cm [K,M])  op_N(dy cm [M,N])
 *   dw = dy^T x   D cm [K,M] = op_N(x cm [K,N])  op_T(dy cm [M,N])      D is f32, beta 0 or 1
 *
 * All are dense: the leading dimension is the number of cm rows. Sums are in f32. The epilogue adds
 * the bias and applies gelu to y, keeping pre as the library's "aux", or multiplies dx by
 * gelu'(pre); where the library has no such epilogue for a type and shape, kernels of ours do it
 * after. It has none that rotates or measures. */
#include "cuda/matmul.cuh"

/* ---- opening and closing -------------------------------------------------------------------- */

lk_status lk_cuda_matmuls_open(lk_cuda *d)
{
    lk_cuda_matmuls *m = (lk_cuda_matmuls *)calloc(1, sizeof *m);
    if (!m) return lk_fail(LK_E_SYSTEM, "out of memory");
    d->matmuls = m; /* closed by the caller also on failure */
    cublasStatus_t status = cublasLtCreate(&m->lt);
    if (status != CUBLAS_STATUS_SUCCESS) {
        m->lt = NULL;
        return lk_fail(LK_E_DEVICE, "cublasLtCreate: %s", cublasLtGetStatusString(status));
    }
    LK_TRY(d->device.backend->alloc(&d->device, WORKSPACE, &m->workspace));
    d->device.kept += WORKSPACE;
    return LK_OK;
}

void lk_cuda_matmuls_close(lk_cuda *d)
{
    lk_cuda_matmuls *m = d->matmuls;
    if (!m) return;
    if (m->workspace) d->device.backend->release(&d->device, m->workspace);
    if (m->lt) cublasLtDestroy(m->lt);
    free(m->list);
    free(m);
    d->matmuls = NULL;
}

/* ---- describing a product ------------------------------------------------------------------- */

static cudaDataType_t data_type(lk_dtype type)
{
    return type == LK_F16 ? CUDA_R_16F : type == LK_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static lk_status matrix_init(const lk_node *n, matrix *m, lk_dtype type, int64_t rows, int64_t cols)
{
    m->type = type;
    m->rows = rows;
    m->cols = cols;
    LK_LT(n, cublasLtMatrixLayoutInit(&m->layout, data_type(type), (uint64_t)rows, (uint64_t)cols,
                                      rows));
    return LK_OK;
}

static lk_status set_op(const lk_node *n, product *p, cublasLtMatmulDescAttributes_t name,
                        const void *value, size_t size)
{
    LK_LT(n, cublasLtMatmulDescSetAttribute(&p->op, name, value, size));
    return LK_OK;
}

lk_status lk_cuda_matmul_point(const lk_node *n, product *p, const void *bias, const void *aux)
{
    if (p->bias) LK_TRY(set_op(n, p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    if (p->aux)
        LK_TRY(set_op(n, p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux));
    return LK_OK;
}

static const lk_tensor *bias_of(const lk_node *n)
{
    return n->op == LK_OP_LINEAR ? n->in[2] : NULL;
}

static bool has_gelu(const lk_node *n)
{
    return (n->op == LK_OP_LINEAR || n->op == LK_OP_LINEAR_DX) &&
           n->attr.linear.activation == LK_GELU;
}

static bool is_forward(const lk_node *n)
{
    return n->op == LK_OP_LINEAR || n->op == LK_OP_LINEAR_MOMENTS;
}

/* Whether only kernels of ours do what is to be fused: a rotation, or moments. */
static bool only_own(const lk_node *n, fusion level)
{
    return level == FUSE_ALL && (lk_rotation_of(n) || n->op == LK_OP_LINEAR_MOMENTS);
}

bool lk_cuda_matmul_applies(const lk_node *n, fusion level)
{
    if (level == FUSE_ALL)
        return has_gelu(n) || lk_rotation_of(n) || n->op == LK_OP_LINEAR_MOMENTS;
    return level == FUSE_NONE || bias_of(n) != NULL;
}

static lk_status set_epilogue(const lk_node *n, fusion level, product *p, const char **name)
{
    cublasLtEpilogue_t e = CUBLASLT_EPILOGUE_DEFAULT;
    bool y = is_forward(n), gelu = level == FUSE_ALL && has_gelu(n);
    p->bias = level != FUSE_NONE && bias_of(n);
    p->aux = gelu && (!y || n->out[1]);
    if (gelu && !y) e = CUBLASLT_EPILOGUE_DGELU;
    else if (gelu && p->aux)
        e = p->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    else if (gelu)
        e = p->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    else if (p->bias) e = CUBLASLT_EPILOGUE_BIAS;
    *name = !gelu    ? (p->bias ? "bias" : "plain")
            : !y     ? "dgelu"
            : p->aux ? (p->bias ? "bias+gelu+aux" : "gelu+aux")
                     : (p->bias ? "bias+gelu" : "gelu");
    if (e == CUBLASLT_EPILOGUE_DEFAULT) return LK_OK;
    LK_TRY(set_op(n, p, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e));
    if (p->aux) {
        int64_t ld = p->d.rows;
        LK_TRY(set_op(n, p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, sizeof ld));
    }
    /* Not read while choosing: only their alignment counts. */
    const void *aligned = (const void *)(uintptr_t)ALIGNMENT;
    return lk_cuda_matmul_point(n, p, aligned, aligned);
}

lk_status lk_cuda_matmul_describe(const lk_device *device, const lk_node *n, fusion level,
                                  product *p)
{
    memset(p, 0, sizeof *p);
    const lk_tensor *x = n->in[0], *w = n->in[1];
    lk_dtype type = x->dtype;
    int64_t N = lk_rows(x), K, M;
    cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
    const char *name, *epilogue;
    if (is_forward(n)) { /* x [N,K], w [M,K] */
        name = "y";
        K = lk_cols(x), M = w->dim[0];
        op_a = CUBLAS_OP_T;
        LK_TRY(matrix_init(n, &p->a, type, K, M));
        LK_TRY(matrix_init(n, &p->b, type, K, N));
        LK_TRY(matrix_init(n, &p->d, n->out[0]->dtype, M, N));
    } else if (n->op == LK_OP_LINEAR_DX) { /* dy [N,M], w [M,K] */
        name = "dx";
        M = lk_cols(x), K = w->dim[1];
        LK_TRY(matrix_init(n, &p->a, type, K, M));
        LK_TRY(matrix_init(n, &p->b, type, M, N));
        LK_TRY(matrix_init(n, &p->d, n->out[0]->dtype, K, N));
    } else { /* x [N,K], dy [N,M] */
        name = "dw";
        K = lk_cols(x), M = lk_cols(w);
        op_b = CUBLAS_OP_T;
        LK_TRY(matrix_init(n, &p->a, type, K, N));
        LK_TRY(matrix_init(n, &p->b, type, M, N));
        LK_TRY(matrix_init(n, &p->d, LK_F32, K, M));
        p->beta = (n->accumulate & 1u) ? 1.0f : 0.0f;
    }

    bool tf32 = type == LK_F32 && device->tf32;
    cublasComputeType_t compute = tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    LK_LT(n, cublasLtMatmulDescInit(&p->op, compute, CUDA_R_32F));
    LK_TRY(set_op(n, p, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
    LK_TRY(set_op(n, p, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
    LK_TRY(set_epilogue(n, level, p, &epilogue));
    int length = snprintf(p->key, sizeof p->key, "%s %s %lld %lld %lld beta%d %s", name,
                          tf32 ? "tf32" : lk_dtype_name(type), (long long)N, (long long)K,
                          (long long)M, p->beta != 0.0f, epilogue);
    p->own = only_own(n, level);
    if (!p->own) return LK_OK;
    char *end = p->key + length;
    size_t room = sizeof p->key - (size_t)length;
    const lk_rotation *r = lk_rotation_of(n); /* of it, the key has what decides whether it fits */
    if (r) snprintf(end, room, "+rope%d", r->head_dim);
    else snprintf(end, room, "+moments");
    return LK_OK;
}

cublasStatus_t lk_cuda_matmul_enqueue(lk_cuda *d, product *p, const void *a, const void *b,
                                      void *y, const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1.0f;
    return cublasLtMatmul(d->matmuls->lt, &p->op, &one, a, &p->a.layout, b, &p->b.layout, &p->beta,
                          y, &p->d.layout, y, &p->d.layout, algo, d->matmuls->workspace, WORKSPACE,
                          d->stream);
}

/* ---- running -------------------------------------------------------------------------------- */

/* y [N,M] += b [M], count = N M */
template <typename E> static __global__ void k_bias(E *y, const E *b, int64_t count, int64_t M)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = lk_store<E>(lk_float(y[i]) + lk_float(b[i % M]));
}

lk_status lk_cuda_matmul(lk_exec *x, const lk_node *n, lk_matmul_done *done)
{
    lk_cuda *d = (lk_cuda *)x->device;
    const lk_tensor *bias = bias_of(n);
    product p;
    const choice *c = NULL;
    int level = -1;
    while (!c && ++level < FUSIONS) {
        if (!lk_cuda_matmul_applies(n, (fusion)level)) continue;
        LK_TRY(lk_cuda_matmul_describe(x->device, n, (fusion)level, &p));
        c = lk_cuda_matmul_choice(d->matmuls, p.key);
    }
    if (!c || !c->ready)
        return lk_fail(LK_E_INTERNAL, "%s: product '%s' was not prepared", n->scope, p.key);
    *done = c->own ? LK_MATMUL_WHOLE : level == FUSE_ALL ? LK_MATMUL_FUSED : LK_MATMUL_BARE;
    if (c->own)
        return n->op == LK_OP_LINEAR_MOMENTS ? lk_cuda_pointwise(x, n) : lk_cuda_product(x, n);

    /* A is w, w, x and B is x, dy, dy of linear, linear_dx, linear_dw. */
    bool dw = n->op == LK_OP_LINEAR_DW, y = is_forward(n);
    const void *a = lk_data(x, n->in[dw ? 0 : 1]), *b = lk_data(x, n->in[dw ? 1 : 0]);
    const lk_tensor *pre = !has_gelu(n) ? NULL : y ? n->out[1] : n->in[2];
    void *out = lk_data(x, y && pre && *done == LK_MATMUL_BARE ? pre : n->out[0]);
    LK_TRY(lk_cuda_matmul_point(n, &p, lk_data(x, bias), lk_data(x, pre)));
    LK_LT(n, lk_cuda_matmul_enqueue(d, &p, a, b, out, &c->algo));
    if (y && bias && !p.bias) {
        int64_t count = p.d.rows * p.d.cols;
        LK_FLOAT_SWITCH(p.d.type, E,
                        k_bias<E><<<lk_blocks(count, 256), 256, 0, d->stream>>>(
                            (E *)out, (const E *)lk_data(x, bias), count, p.d.rows));
    }
    return lk_cuda_launched(n);
}
