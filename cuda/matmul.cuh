/* Shared by the two files of the products alone. Who owns what:
 *
 *   matmul.cu          cuBLASLt and its workspace; a product: what a node asks for, running it
 *   matmul_choice.cu   the choices: how a product is computed, found by its key; making them by
 *                      trials, their text */
#ifndef LK_CUDA_MATMUL_CUH
#define LK_CUDA_MATMUL_CUH

#include "cuda/device.cuh"

#include <cublasLt.h>

enum {
    KEY_SIZE = 128,
    ALIGNMENT = 16 /* bytes; what every tensor of a node has */
};
static const size_t WORKSPACE = (size_t)64 << 20;

typedef struct choice {
    char key[KEY_SIZE];
    bool own; /* by a kernel of ours; no algorithm */
    cublasLtMatmulAlgo_t algo;
    bool ready; /* chosen here, or set from text and accepted by the library */
} choice;

struct lk_cuda_matmuls {
    cublasLtHandle_t lt;
    void *workspace; /* WORKSPACE bytes */
    /* Of matmul_choice.cu: */
    choice *list;
    int count, room;
    bool restored; /* choices were set from text */
    lk_tuning tuning;
};

/* A column-major matrix, dense. */
typedef struct matrix {
    lk_dtype type;
    int64_t rows, cols;
    cublasLtMatrixLayoutOpaque_t layout;
} matrix;

/* What the epilogue does besides the product; each level less than the one before. */
typedef enum fusion {
    FUSE_ALL,  /* y: bias and gelu, rotation or moments; dx: gelu' */
    FUSE_BIAS, /* y: bias */
    FUSE_NONE,
    FUSIONS
} fusion;

/* One product as cuBLASLt sees it. */
typedef struct product {
    char key[KEY_SIZE];
    matrix a, b, d;
    cublasLtMatmulDescOpaque_t op;
    float beta;
    bool bias, aux; /* the epilogue needs their pointers */
    bool own;       /* only kernels of ours do what is to be fused */
} product;

#define LK_LT(n, call)                                                                             \
    do {                                                                                           \
        cublasStatus_t lk_lt_ = (call);                                                            \
        if (lk_lt_ != CUBLAS_STATUS_SUCCESS)                                                       \
            return lk_fail(LK_E_DEVICE, "%s: %s: %s: %s", (n)->scope, lk_op_name((n)->op), #call,  \
                           cublasLtGetStatusString(lk_lt_));                                       \
    } while (0)

/* ---- matmul.cu ------------------------------------------------------------------------------ */

/* Whether node n has something to fuse at this level. */
bool lk_cuda_matmul_applies(const lk_node *n, fusion level);
/* Describe node n's product; the epilogue's pointers follow by lk_cuda_matmul_point(). */
lk_status lk_cuda_matmul_describe(const lk_device *device, const lk_node *n, fusion level,
                                  product *p);
/* Pointers of the epilogue: bias [M] of the type of d, aux as large as d. */
lk_status lk_cuda_matmul_point(const lk_node *n, product *p, const void *bias, const void *aux);
/* Enqueue the product: A, B and D as described (see the head of matmul.cu). */
cublasStatus_t lk_cuda_matmul_enqueue(lk_cuda *d, product *p, const void *a, const void *b,
                                      void *y, const cublasLtMatmulAlgo_t *algo);

/* ---- matmul_choice.cu ----------------------------------------------------------------------- */

/* The choice for `key`; NULL: there is none. */
choice *lk_cuda_matmul_choice(const lk_cuda_matmuls *m, const char *key);

#endif
