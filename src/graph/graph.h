/* lk_graph: tensors and nodes of one training step (or of one forward pass).
 *
 * Model code builds a graph with calls such as lk_linear(g, x, w, b, LK_GELU); shapes are inferred
 * and checked at the call. Errors are sticky: a builder called after an error, or with a NULL
 * tensor, returns NULL and changes nothing; lk_graph_status() tells. Everything a graph holds is
 * owned by it and freed by lk_graph_destroy(). Tensors are float (f32) when built; the autocast
 * pass gives them their working types. Node order in the list is execution order.
 *
 * Three sections: LK_LEAF nodes run once per leaf of the global batch; LK_LAST nodes, among them,
 * only with a rank's last leaf, on gradients summed over its leaves; LK_STEP nodes once a step. */
#ifndef LK_GRAPH_GRAPH_H
#define LK_GRAPH_GRAPH_H

#include "base/dtype.h"
#include "base/status.h"
#include "ops/augment.h"
#include "ops/step_state.h"

#include <stdbool.h>
#include <stdint.h>

#define LK_MAX_DIMS 4
#define LK_MAX_INPUTS 10
#define LK_MAX_OUTPUTS 5

/* Where a tensor's bytes lie. A region is one allocation of a program or of the parameter store. */
typedef enum lk_region {
    LK_REGION_ARENA,   /* activations; offsets planned by liveness */
    LK_REGION_INPUT,   /* bound from outside: data, batch */
    LK_REGION_PARAM,   /* f32 master weights, flat */
    LK_REGION_SHADOW,  /* the same layout in f16/bf16 */
    LK_REGION_GRAD,    /* f32 gradients, same layout, then the leaf loss (LK_METRIC_FLOATS) */
    LK_REGION_MOMENT1, /* f32, same layout */
    LK_REGION_MOMENT2,
    LK_REGION_EMA,     /* f32, same layout: moving average of the parameters */
    LK_REGION_STATE,   /* lk_step_state */
    LK_REGION_SCRATCH, /* workspace of the node that runs */
    LK_REGIONS
} lk_region;

#define LK_METRIC_FLOATS 64 /* tail of the gradient region, one element for each lk_metric */

/* Figures of a leaf that are summed over leaves like its gradients. */
typedef enum lk_metric {
    LK_METRIC_LOSS, /* mean loss of the leaf's samples */
    LK_METRIC_HITS, /* share of them whose most likely class is the right one */
    LK_METRICS
} lk_metric;

typedef enum lk_op {
#define LK_OP(upper, lower, policy) LK_OP_##upper,
#include "ops/ops.def"
#undef LK_OP
    LK_OPS
} lk_op;

typedef enum lk_section { LK_LEAF, LK_LAST, LK_STEP } lk_section;

/* Pieces of a model that lk_recompute may compute again as one: a block of a transformer, and in it
 * the feed-forward with the norm before it. */
typedef enum lk_unit { LK_UNIT_BLOCK, LK_UNIT_FFN, LK_UNITS } lk_unit;

typedef struct lk_node lk_node;
typedef struct lk_param lk_param;

typedef struct lk_tensor {
    int id;
    lk_dtype dtype;
    int dims; /* 1 .. LK_MAX_DIMS */
    int64_t dim[LK_MAX_DIMS];
    lk_region region;
    size_t offset;           /* bytes from the region's base; ARENA: set by the planner */
    bool fixed_type;         /* autocast leaves it alone (statistics, indices, gradients) */
    struct lk_tensor *base;  /* a reshape shares its base's bytes; NULL: own bytes */
    lk_node *producer;       /* NULL for inputs and parameters */
    lk_param *param;         /* PARAM, SHADOW and GRAD tensors of a parameter */
    int metric;              /* 1 + lk_metric: lies in the tail of region GRAD; 0: no metric */
    bool needs_gradient;     /* autodiff: a parameter or wanted tensor lies upstream */
    bool unread;             /* recompute, fuse: no node reads it, its bytes are free after its
                              * node */
    struct lk_tensor *cotangent; /* autodiff: sum of the contributions so far */
    struct lk_tensor *shadow;    /* autocast: a parameter's half copy in this graph */
    const char *name;        /* for messages; owned by the graph */
} lk_tensor;

/* gelu: tanh form. hard_swish(x) = x hard_sigmoid(x), hard_sigmoid(x) = min(max(x+3, 0), 6) / 6
 * (A. Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2). */
typedef enum lk_activation {
    LK_LINEAR,
    LK_GELU,
    LK_RELU,
    LK_HARD_SWISH,
    LK_HARD_SIGMOID,
    LK_SIGMOID
} lk_activation;
typedef enum lk_norm_kind { LK_LAYERNORM, LK_RMSNORM } lk_norm_kind;
typedef enum lk_embed_position { LK_POSITION_NONE, LK_POSITION_TABLE, LK_POSITION_SINUSOIDAL }
lk_embed_position;

/* Rotary positions, as ROPE has them, of the q and k heads of [B,T,(H+2K)D]. */
typedef struct lk_rotation {
    int heads, kv_heads, head_dim; /* H, K, D; H 0: nothing is rotated */
    float theta;
    bool inverse; /* by the negative angle */
} lk_rotation;

/* What a node needs besides tensors. The member is that of the node's op. */
typedef union lk_attr {
    struct {
        bool resident;         /* input holds whole shards; else one window of T+1 per sample */
        uint32_t purpose;      /* LK_PURPOSE_ORDER or LK_PURPOSE_EVAL */
        int64_t shard_tokens;  /* tokens of one leaf's shard */
        int first_leaf;        /* global number of the leaf whose shard lies first in the input */
    } windows;
    struct {
        lk_embed_position position;
    } embed;
    struct {
        lk_activation activation;
        lk_rotation rope; /* LINEAR: of the result */
    } linear;
    struct {
        lk_norm_kind kind;
        float eps;
    } norm;
    struct {
        float p;       /* probability of dropping, [0, 1) */
        uint32_t site; /* number of the dropout site in the model */
        int64_t group; /* neighbouring elements dropped together: 1, or those of a sample */
    } dropout;         /* DROPOUT and RESIDUAL */
    struct {
        float p;
        uint32_t site;
        lk_norm_kind kind;
        float eps;
    } residual_norm; /* and its gradient */
    lk_rotation rope;
    struct {
        int heads, kv_heads, head_dim;
        bool causal, alibi;
        float scale; /* of q.k, usually 1/sqrt(head_dim) */
        float p;     /* dropout of the attention weights */
        uint32_t site;
        lk_rotation rope; /* ATTENTION_GRAD: of dqkv */
    } attention;
    struct {
        int64_t classes; /* columns beyond are headroom: as -inf, no gradient */
    } xent;
    struct {
        bool resident;       /* input holds whole shards; else one row per sample of this leaf */
        uint32_t purpose;    /* LK_PURPOSE_ORDER or LK_PURPOSE_EVAL */
        int64_t shard_rows;  /* images of one leaf's shard */
        int first_leaf;      /* global number of the leaf whose shard lies first in the input */
        lk_augment augment;
    } images; /* IMAGES and, without `augment`, TEXTS */
    struct {
        int stride, pad; /* the same in both directions */
    } conv;              /* CONV, DWCONV and their gradients */
    struct {
        int size, stride, pad;
    } max_pool; /* MAX_POOL and its gradient */
    struct {
        float eps;
        lk_activation activation; /* applied to the normalised value */
    } batch_norm; /* its gradient, BATCH_MOMENTS, BATCH_APPLY, NORM_GATE, GATE_NORM_GRAD,
                     SQUEEZE_EXCITE and its gradient, and, for its eps, LINEAR_MOMENTS */
    struct {
        int stride, pad;
        float eps;                /* of the norm of the result: for its rstd */
        lk_activation activation; /* of the norm before the convolution */
    } norm_dwconv; /* and its gradient; begins as conv does */
    struct {
        lk_activation kind;
    } activate; /* and its gradient */
    struct {
        bool exact;
    } reduce;
    struct {
        lk_optimizer hyper;
        int64_t params;  /* floats in the flat buffers, of which */
        int64_t decayed; /* the first `decayed` get weight decay, */
        int64_t learned; /* the first `learned` are learned, the others are statistics */
    } optimizer;         /* GRAD_NORM, ADAMW, STEP_END */
} lk_attr;

struct lk_node {
    lk_op op;
    lk_section section;
    int inputs, outputs;
    lk_tensor *in[LK_MAX_INPUTS];   /* optional inputs may be NULL */
    lk_tensor *out[LK_MAX_OUTPUTS]; /* optional outputs may be NULL */
    uint32_t accumulate;            /* bit i: out[i] (in GRAD) is added to, not overwritten */
    lk_attr attr;
    const char *scope;  /* "blocks.3.attn.qkv"; owned by the graph */
    int unit[LK_UNITS]; /* of the forward pass: numbers, from 1, of those it is in; 0: none */
    struct lk_node *next;
};

/* ---- parameters: src/graph/params.c ------------------------------------------------------ */

typedef enum lk_init { LK_INIT_ZERO, LK_INIT_ONE, LK_INIT_NORMAL } lk_init;

struct lk_param {
    char *name; /* scope and leaf name: "blocks.3.attn.qkv.weight" */
    int index;  /* order of declaration */
    int dims;
    int64_t dim[LK_MAX_DIMS];
    lk_init init;
    float std;      /* LK_INIT_NORMAL */
    bool decay;     /* weight decay applies: weights, not biases and norms */
    bool statistic; /* not learned: a running mean of what each step measures (lk_statistic) */
    int64_t offset; /* floats from the start of a flat buffer; set by lk_params_layout() */
    int64_t count;  /* floats */
};

/* The parameters of one model, shared by the graphs built from it (train, eval, decode). Laid out
 * flat: all decayed ones first, then the other learned ones, then statistics, each starting at a
 * multiple of 64 floats; gaps stay zero. */
typedef struct lk_params {
    int count;
    lk_param **item;
    int64_t total;   /* floats of a flat buffer, padded to a multiple of 16384 */
    int64_t decayed; /* floats before the first parameter without decay */
    int64_t learned; /* floats before the first statistic */
    bool frozen;     /* laid out: a further graph may only look parameters up */
} lk_params;

lk_params *lk_params_create(void);
void lk_params_destroy(lk_params *p);
/* Fix the offsets. Called once after the first graph is built and before it is planned. */
void lk_params_layout(lk_params *p);
/* Parameters that are learned, without statistics and gaps. */
int64_t lk_params_learned(const lk_params *p);
/* Fill `out` (host, p->total floats) with the initial values: a function of seed and index only. */
void lk_params_initialise(const lk_params *p, uint64_t seed, float *out);
const lk_param *lk_params_find(const lk_params *p, const char *name);

/* ---- graph: src/graph/graph.c ------------------------------------------------------------- */

typedef struct lk_graph lk_graph;
struct lk_graph {
    lk_params *params; /* not owned */
    bool training;     /* dropout nodes are built, batches measured */
    bool keep;         /* the planner lets every tensor live to the end, to be looked at */
    bool apart;        /* the planner lets no output take over the bytes of its node's input */
    bool cast_parameters; /* autocast: halves are made anew, not read from the shadow */
    lk_status status;  /* sticky */
    lk_section section;
    lk_node *first, *last;
    int tensors;
    lk_tensor **tensor; /* all, by id */
    uint32_t sites;     /* dropout sites numbered so far */
    char scope[256];
    int unit[LK_UNITS]; /* that are open, as in a node */
    int units;          /* numbered so far */
    struct lk_pool *pool; /* owned allocations */
    bool *gradient_written; /* autodiff: by parameter index */
    lk_node *forward_end;   /* autodiff: the last node of the forward pass, until lk_fuse */
    lk_tensor *state; /* lk_step_state */
    lk_dtype compute; /* set by autocast; LK_F32 before */
};

lk_graph *lk_graph_create(lk_params *params, bool training);
void lk_graph_destroy(lk_graph *g);
static inline lk_status lk_graph_status(const lk_graph *g) { return g->status; }

/* Enter and leave a scope; the format is appended with a dot. Names params, nodes and errors. */
void lk_scope_push(lk_graph *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
void lk_scope_pop(lk_graph *g);
/* What is built between the two is of one unit of that kind. */
void lk_unit_begin(lk_graph *g, lk_unit kind);
void lk_unit_end(lk_graph *g, lk_unit kind);

/* A tensor bound from outside when the program runs. */
lk_tensor *lk_input(lk_graph *g, const char *name, lk_dtype dtype, int dims, const int64_t *dim);
/* The parameter `scope.name` (declared at first use, looked up later; shapes must agree). */
lk_tensor *lk_parameter(lk_graph *g, const char *name, int dims, const int64_t *dim, lk_init init,
                        float std, bool decay);
/* The statistic `scope.name` [count], a parameter that is not learned: the node of the training
 * graph that measures it writes the leaf's value where a gradient would be (lk_statistic_output),
 * which is summed over leaves in the same tree, and the optimizer moves the parameter towards the
 * mean over leaves. `init`: ZERO or ONE. */
lk_tensor *lk_statistic(lk_graph *g, const char *name, int64_t count, lk_init init);
lk_tensor *lk_reshape(lk_graph *g, lk_tensor *x, int dims, const int64_t *dim);

/* Mark a one-element f32 leaf tensor as a metric: it is reduced with the gradients. */
void lk_graph_metric(lk_graph *g, lk_tensor *t, lk_metric metric);
/* The dynamic loss scale (state.loss_scale) as a one-element tensor: the seed of autodiff. */
lk_tensor *lk_loss_scale(lk_graph *g);

/* For ops and passes. lk_error_at records "scope: message" and makes the error sticky. */
lk_tensor *lk_tensor_new(lk_graph *g, lk_dtype dtype, lk_region region, int dims,
                         const int64_t *dim);
lk_tensor *lk_tensor_like(lk_graph *g, const lk_tensor *t);
/* In the arena, f32 whatever the rest is computed in: statistics, losses. */
lk_tensor *lk_tensor_f32(lk_graph *g, int dims, const int64_t *dim);
lk_tensor *lk_root(lk_tensor *t); /* the tensor whose bytes t shares */
bool lk_is_float(lk_dtype dtype);
void *lk_graph_alloc(lk_graph *g, size_t bytes); /* zeroed, owned by g; NULL: sticky error */
lk_node *lk_node_new(lk_graph *g, lk_op op, int inputs, lk_tensor *const *in);
lk_tensor *lk_node_output(lk_graph *g, lk_node *n, lk_tensor *out); /* append; returns out */
void lk_error_at(lk_graph *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
int64_t lk_count(const lk_tensor *t);              /* elements */
int64_t lk_rows(const lk_tensor *t);               /* elements / last dim */
int64_t lk_cols(const lk_tensor *t);               /* last dim */
size_t lk_bytes(const lk_tensor *t);
const char *lk_shape_text(const lk_tensor *t, char *buffer, size_t size); /* "[2, 3, 4]" */
/* The f32 gradient tensor of a parameter tensor (PARAM or SHADOW), in region GRAD. */
lk_tensor *lk_param_gradient(lk_graph *g, const lk_tensor *param);

/* ---- passes: one file each ----------------------------------------------------------------- */

/* Give every float tensor of the graph its working type by the policy column of ops.def, reading
 * parameters from the shadow buffer where an op wants half. `compute`: LK_F32, LK_F16, LK_BF16.
 * Run before autodiff. src/graph/autocast.c */
lk_status lk_autocast(lk_graph *g, lk_dtype compute);

/* Append the backward nodes of `y` seeded with cotangent `dy` (same shape as y; for a loss the
 * one-element loss scale). Gradients of parameters land in region GRAD; `wanted[i]`, if not NULL,
 * gets its gradient in `gradient[i]`. src/graph/autodiff.c */
lk_status lk_autodiff(lk_graph *g, lk_tensor *y, lk_tensor *dy, int wants,
                      lk_tensor *const *wanted, lk_tensor **gradient);

/* In a gradient rule: the cotangent of a tensor (NULL: none reaches it) and a contribution. */
lk_tensor *lk_cotangent(lk_graph *g, const lk_tensor *t);
bool lk_needs_gradient(const lk_tensor *t);
void lk_contribute(lk_graph *g, const lk_tensor *t, lk_tensor *contribution);
/* Append the gradient of parameter `param` as the next output of node n; sets the accumulate bit
 * when an earlier node already wrote it. NULL param: a NULL output. */
void lk_param_output(lk_graph *g, lk_node *n, const lk_tensor *param);
/* Append what node n measures of statistic `s` as its next output. */
void lk_statistic_output(lk_graph *g, lk_node *n, const lk_tensor *s);

/* Which activations the backward pass computes again instead of keeping them: none, those of every
 * LK_UNIT_FFN, or those of every LK_UNIT_BLOCK. After autodiff, before lk_fuse; changes no bits.
 * Without a backward pass nothing happens. src/graph/recompute.c */
typedef enum lk_recompute_policy {
    LK_RECOMPUTE_NONE,
    LK_RECOMPUTE_FFN,
    LK_RECOMPUTE_BLOCK
} lk_recompute_policy;
lk_status lk_recompute(lk_graph *g, lk_recompute_policy policy);

/* Join neighbouring nodes that would pass over the same memory; after autodiff. What the joined
 * nodes compute stays the same. src/graph/fuse.c */
lk_status lk_fuse(lk_graph *g);

/* Insert LK_LAST nodes that sum gradients and loss over ranks, in buckets of at least `floats`,
 * each where its last gradient is written. Before lk_optimize. src/graph/bucket.c */
lk_status lk_bucket(lk_graph *g, int64_t floats, bool exact);

/* Append the optimizer as LK_STEP nodes. src/graph/optimize.c */
lk_status lk_optimize(lk_graph *g, const lk_optimizer *hyper);

/* Place the ARENA tensors by liveness; returns the arena's bytes. src/graph/plan.c */
lk_status lk_plan(lk_graph *g, size_t *arena_bytes);
/* Bytes of the ARENA tensors that are alive while each node runs: live[i] of node i of the list. */
lk_status lk_plan_live(lk_graph *g, double *live);

#endif
