/* The cases of the op test: one row is one op with shapes and attributes. From a row alone the
 * test compares forward and gradient with the reference, backends with each other, numbers of
 * threads with each other, and times the op. */
#ifndef LK_TESTS_OP_CASES_H
#define LK_TESTS_OP_CASES_H

#include "tests/reference.h"

#define CASE_MAX_TENSORS 10
#define CASE_MAX_MORE 2
#define CASE_SEED 20240607u
#define CASE_LEAF 3
#define CASE_STEP 11

typedef struct op_case op_case;

typedef enum case_role {
    CASE_INPUT,     /* its gradient is wanted */
    CASE_DATA,      /* it is not */
    CASE_PARAM,
    CASE_STATISTIC, /* lk_statistic */
    CASE_INDEX
} case_role;

typedef struct case_tensor {
    const char *name;
    case_role role;
    int dims;
    int64_t dim[LK_MAX_DIMS];
    int64_t below;  /* CASE_INDEX: values 0 .. below-1 */
    bool full;      /* stays f32 under autocast (norm weights) */
    double centre;  /* values around this */
} case_tensor;

/* In a case's `tensors`: one more. */
#define TENSOR(name_, role_, dims_, ...)                                                           \
    t[n++] = (case_tensor){.name = name_, .role = role_, .dims = dims_, .dim = __VA_ARGS__}

/* How a case is built, and what it should compute. */
typedef struct case_kind {
    const char *name;
    int (*tensors)(const op_case *c, case_tensor *t); /* returns their number */
    lk_tensor *(*build)(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in);
    int64_t (*reference)(const op_case *c, double *const *in, double *y); /* elements of y */
    /* Optional: make the drawn values valid, before they are rounded to the type. */
    void (*prepare)(const op_case *c, double *const *value);
    /* Optional: further outputs of the node that makes y, by number (0: none), and what they should
     * be; returns their elements. */
    int more[CASE_MAX_MORE];
    int64_t (*more_reference)(const op_case *c, double *const *in, int which, double *out);
} case_kind;

struct op_case {
    const case_kind *kind;
    int64_t batch, time;      /* or batch rows alone, time 1 */
    int64_t in, out;          /* widths; vocabulary rows in `out` */
    bool bias;
    lk_activation activation;
    lk_norm_kind norm;
    lk_embed_position position;
    int heads, kv_heads, head_dim;
    bool causal, alibi, inverse;
    float theta;  /* of rope; 0: 10000 */
    int64_t keys; /* cross_attention: of `time` queries */
    int64_t classes;
    float p;
    int64_t height, width; /* images: batch x height x width x in, time 1 */
    int kernel, kernel_width, stride, pad;
    bool running; /* batch_norm in evaluation: no gradient */
    bool fixed;   /* no gradient of the image is wanted */
    bool nan;     /* some values of the first tensor are NaN: not compared with differences */
    bool astray;  /* some targets are no class: y is NaN, nor is that compared with differences */
    bool masked;  /* some logits are -inf, the target's never */
};

#define CASE_KIND(name_, tensors_, build_, reference_, ...)                                        \
    {.name = name_, .tensors = tensors_, .build = build_, .reference = reference_, ##__VA_ARGS__}

/* Those of a linear layer: x, w, and b if there is one. op_cases.c */
int linear_tensors(const op_case *c, case_tensor *t);
extern const case_kind xent_kind, xent_twice_kind; /* xent_cases.c */
extern const case_kind rope_kind, linear_rope_kind, attention_kind, rope_attention_kind, cross_kind,
    biased_kind; /* attention_cases.c */
extern const op_case op_cases[], vision_cases[], excite_cases[];
extern const int op_case_count, vision_case_count, excite_case_count;
void op_case_name(const op_case *c, char *text, size_t size);

#endif
