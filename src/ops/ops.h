/* What every op computes, its builder, and the rule table. The specification both backends and
 * the double-precision reference of the tests are written from.
 *
 * Notation: X is the working type (f32, f16 or bf16; all X tensors of a node agree). Arithmetic is
 * in f32 whatever X is, rounded once when stored. Where it says "by the kernel", a value on the way
 * is rounded to X or not, as the kernel does it that device, type and shape get. All tensors are
 * dense and row-major. N stands for the product of the leading dimensions. A parameter read as X
 * comes from region SHADOW when X is half. Gradients of parameters are f32 in region GRAD; if the
 * node's accumulate bit of that output is set they are added to what is there, else they overwrite
 * it.
 *
 * Exactness: a kernel's result may depend on shapes and attributes only, never on the number of
 * threads or on scheduling; no floating-point atomics.
 *
 * WINDOWS         in  data u8|u16|i32; state      out tokens i32 [B,T], targets i32 [B,T]
 *   resident: data [leaves here, shard_tokens]; sample b of leaf l at step s starts at
 *   lk_sample_row(s, B, b, shard_tokens - T, seed, purpose, l) (base/philox.h) in that leaf's
 *   shard. Else data [B, T+1], one row per sample of this leaf. tokens = window[0..T),
 *   targets = window[1..T].
 * IMAGES          in  data u8 [R,Hs,Ws,C], labels u16 [R], scale f32 [2,C]; state
 *                 out x X [B,H,W,C], targets f32 [B,K], labels i32 [B]
 *   resident: data holds shards of shard_rows images; sample b of leaf l at step s is image
 *   lk_sample_row(s, B, b, shard_rows, seed, purpose, l) of that leaf's shard. Else row b. Its
 *   pixels are sampled and mixed as lk_augment_draw (ops/augment.h) says: x = lambda v(b) +
 *   (1-lambda) v(B-1-b), where v(i) is image i through its own crop, flip and erasing: each value
 *   u is interpolated, then (u/255 - scale[0,c]) scale[1,c], and 0 in the erased rectangle.
 *   targets = lambda t(b) + (1-lambda) t(B-1-b), t(i) = (1-smoothing) onehot + smoothing/K
 *   (C. Szegedy et al. 2016; H. Zhang et al., "mixup", ICLR 2018).
 *   labels: as read, without mixing.
 * TEXTS           in  data u8|u16 [R,T]; state    out tokens i32 [B,T]
 *   the rows of the samples that IMAGES takes with the same attributes: the text of each image.
 * EMBED           in  tokens i32 [B,T], table X [V,C], positions X [P,C] or NULL   out y X [B,T,C]
 *   y = s table[token] + (TABLE: positions[t]; SINUSOIDAL: sin/cos(t / 10000^(2i/C)) at columns
 *   2i and 2i+1; NONE: 0), s = lk_embed_scale: sqrt(C) for SINUSOIDAL, else 1 (A. Vaswani et al.
 *   2017, sections 3.4 and 3.5).
 * EMBED_GRAD      in  tokens, dy X [B,T,C]      out dtable f32 [V,C], dpositions f32 [P,C] or NULL
 *   dtable[v] = s sum of dy[b,t] over the (b,t) whose token is v, s as for EMBED; dpositions[t] =
 *   sum over b of dy[b,t]. Sums in increasing order of (b,t), or of pieces of that; rows of
 *   positions beyond T get 0 (or nothing is added).
 * POSITIONS       in  x X [B,T,C], positions X [P,C], P >= T       out y X = x + positions[t]
 * POSITIONS_GRAD  in  dy X [B,T,C]                out dpositions f32 [P,C], as EMBED_GRAD has it
 * LINEAR          in  x X [N,K], w X [M,K], b X [M] or NULL      out y X [N,M], pre X [N,M] or NULL
 *   pre = x w^T + b; y = activation(pre), of pre rounded first or not: by the kernel. `pre` is an
 *   output only with LK_GELU and training.
 *   gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
 * LINEAR_DX       in  dy X [N,M], w X [M,K], pre X [N,K] or NULL
 *                 out dx X [N,K], sums f32 [K] or NULL (only with pre)
 *   dx = dy w; with pre: dx = (dy w) * gelu'(pre), of dy w rounded first or not: by the kernel.
 *   sums: of the columns of dx as stored: what LINEAR_DW of the product before makes as its db.
 *   They may be cut otherwise than there.
 * LINEAR_DW       in  x X [N,K], dy X [N,M]       out dw f32 [M,K], db f32 [M] or NULL
 *   dw = dy^T x, db = column sums of dy.
 * CONV            in  x X [B,H,W,Ci], w X [Co,kh,kw,Ci]      out y X [B,Ho,Wo,Co]
 *   cross-correlation, zero padding; Ho = (H + 2 pad - kh) / stride + 1 (rounded down), Wo alike.
 * CONV_DX         in  dy, w                       out dx X [B,H,W,Ci]
 * CONV_DW         in  x, dy                       out dw f32 [Co,kh,kw,Ci]
 * DWCONV          in  x X [B,H,W,C], w X [k,k,C]             out y X [B,Ho,Wo,C]
 *   the same for each channel alone.
 * DWCONV_GRAD     in  x, w, dy                    out dx X or NULL, dw f32 [k,k,C]
 * CHANNEL_CONV    in  x X [B,C], w X [k], k odd   out y X [B,C]
 *   cross-correlation along the channels, zero padding (Q. Wang et al., ECA-Net, CVPR 2020).
 * CHANNEL_CONV_GRAD  in  x, w, dy                 out dx X, dw f32 [k]
 * ACTIVATE        in  x X                         out y X = act(x)
 * ACTIVATE_GRAD   in  x X, dy X                   out dx X = dy act'(x)
 *   at the corners of the piecewise functions the derivative is that of the left piece.
 * GELU_GRAD       in  dy X, pre X                 out dpre X = dy * gelu'(pre)
 * SWIGLU          in  x X [N,2F]                  out y X [N,F]
 *   y = silu(x[:,0:F]) * x[:,F:2F] (N. Shazeer, "GLU variants improve transformer", 2020).
 * SWIGLU_GRAD     in  x X [N,2F], dy X [N,F]      out dx X [N,2F]
 * NORM            in  x X [N,C], w f32 [C], b f32 [C] or NULL
 *                 out y X [N,C], mean f32 [N] (LAYERNORM; NULL for RMSNORM), rstd f32 [N]
 *   LAYERNORM: (x-mean) rstd w + b, rstd = 1/sqrt(var+eps), biased variance (J. Ba et al. 2016);
 *   RMSNORM: x rstd w (+ b), rstd = 1/sqrt(mean(x^2)+eps) (B. Zhang and R. Sennrich 2019).
 * NORM_GRAD       in  x X, w f32, mean f32|NULL, rstd f32, dy X, more X|NULL
 *                 out dx X, dw f32, db f32|NULL
 *   `more` [N,C] is added to dx: the cotangent that reaches x past the norm.
 * BATCH_NORM      in  x X [N,C], w f32 [C], b f32 [C], and either
 *                     running_mean f32 [C], running_var f32 [C]      out y X [N,C]
 *                 or nothing more (training)                          out y X [N,C], mean f32 [C],
 *                     rstd f32 [C], and two statistics f32 [C]: mean and unbiased variance
 *   y = act((x - mean) rstd w + b), rstd = 1/sqrt(var + eps), with the running figures or with mean
 *   and biased variance over the leaf's N (S. Ioffe and C. Szegedy, ICML 2015). z, the value
 *   before act, is not rounded to X.
 * BATCH_NORM_GRAD in  x, w, b, mean, rstd, dy, sums f32 [2,C] or NULL    out dx X, dw f32, db f32
 *   dz = dy act'(z); db = sum dz, dw = sum dz xhat, dx = w rstd (dz - db/N - xhat dw/N),
 *   xhat = (x - mean) rstd. sums, if another node has made them: sum dz and sum dz (x - mean).
 * POOL            in  x X [B,H,W,C]               out y X [B,C], the mean over H and W
 * POOL_GRAD       in  dy X [B,C]                  out dx X [B,H,W,C] = dy / (H W)
 * MAX_POOL        in  x X [B,H,W,C]               out y X [B,Ho,Wo,C], index u8 [B,Ho,Wo,C]
 *   largest of a window of size x size, padding never wins; Ho as for CONV. index: number
 *   (row-major in the window) of the first largest. NaN if the window has one, index then that of
 *   the last.
 * MAX_POOL_GRAD   in  dy, index                   out dx X [B,H,W,C]
 * GATE            in  x X [B,H,W,C], s X [B,C]    out y X = x s
 * GATE_DS         in  x, dy                       out ds X [B,C], the sum over H and W of x dy
 * GATE_DX         in  s, dy, dp X [B,C] or NULL   out dx X [B,H,W,C] = dy s (+ dp / (H W))
 * EXCITE          in  p X [B,C], w1 X [S,C], b1 f32 [S], w2 X [C,S], b2 f32 [C]
 *                 out s X [B,C], h X [B,S], z X [B,C]
 *   h = relu(p w1^T + b1), z = h w2^T + b2, s = hard_sigmoid(z): what squeeze-and-excitation makes
 *   of the pooled image (J. Hu et al., CVPR 2018). z is made of h as stored, s of z as stored.
 * EXCITE_DX       in  ds X [B,C], z, h, w1, w2    out dp X [B,C], dz X [B,C], dh X [B,S]
 *   dz = ds hard_sigmoid'(z), dh = (dz w2) relu'(h), dp = dh w1, each of the others as stored.
 * EXCITE_DW       in  p, h, dz, dh                out dw1 f32 [S,C], db1 f32 [S], dw2 f32 [C,S],
 *                 db2 f32 [C]
 *   dw1 = dh^T p, dw2 = dz^T h; db1 and db2: column sums of dh and dz.
 * DROPOUT         in  x X, state                  out y X
 *   element i is kept when its word of lk_dropout_words(seed, site, leaf, state.step, i / group) is
 *   >= lk_dropout_threshold(p), and then multiplied by 1/(1-p). Its own gradient (same site).
 *   group 1: N. Srivastava et al. 2014; a whole sample: stochastic depth (G. Huang et al. 2016).
 * RESIDUAL        in  x X, branch X, state        out y X = x + dropout(branch); p may be 0
 * ADD             in  a X, b X                    out y X = a + b
 * ROPE            in  qkv X [B,T,(H+2K)D]         out y X: q and k heads rotated, v copied
 *   pairs (i, i+D/2) of a head rotated by t * theta^(-2i/D) (J. Su et al., RoFormer, 2021; the
 *   half-split layout of GPT-NeoX and LLaMA); `inverse`: by the negative angle.
 * ATTENTION       in  qkv X [B,T,(H+2K)D] and NULL, or q X [B,T,H D] and kv X [B,S,2K D]; state
 *                 out y X [B,T,H D], lse f32 [B,H,T]
 *   columns: q heads, then k heads, then v heads; q head h uses kv head h / (H/K). S = T with qkv.
 *   Query i stands at t = i + S - T among the keys: the last query at the last key.
 *   s_ij = scale q_i.k_j + (alibi: slope_h (j-t)); j <= t when causal (without causal, alibi uses
 *   -slope_h |t-j|); lse_i = log sum_j exp(s_ij); y_i = sum_j dropout(exp(s_ij - lse_i)) v_j.
 *   slope_h: lk_alibi_slope (O. Press et al., "Train short, test long", ICLR 2022).
 *   Dropout of weight (b,h,i,j): element ((b H + h) T + i) S + j of its site.
 * ATTENTION_GRAD  in  qkv or q, NULL or kv, y X, lse, dy X, state
 *                 out dqkv X or dq X, NULL or dkv X, sums f32 [(H+2K)D] or [H D] or NULL,
 *                     sums f32 [2K D] or NULL
 *   sums: of the columns of dqkv or dq, and of dkv, as stored, so of dqkv rotated back where it is:
 *   what LINEAR_DW of the products before makes as its db. They may be cut otherwise than there.
 * XENT            in  logits X [N,V], targets i32 [N]     out loss f32 [1], lse f32 [N]
 *   columns >= classes count as -inf. loss = mean_n (lse_n - logits[n, target_n]), summed in
 *   double in a fixed order. A target that is no class, below 0 or >= classes, makes it NaN.
 * XENT_GRAD       in  logits X, targets, lse, dloss f32 [1]       out dlogits X [N,V]
 *   (softmax - onehot) dloss / N; 0 in the headroom; onehot of a target that is no class is 0. May
 *   run in place.
 * SOFT_XENT       in  logits X [N,K], targets f32 [N,K], labels i32 [N]
 *                 out loss f32 [1], lse f32 [N], hits f32 [1]
 *   loss = mean_n (lse_n - sum_k targets[n,k] logits[n,k]), targets sum to 1; hits = share of rows
 *   whose largest logit (the first of equals) stands at the label. Sums in double in a fixed order.
 * SOFT_XENT_GRAD  in  logits, targets, lse, dloss f32 [1]     out dlogits X [N,K]
 *   (softmax - targets) dloss / N. May run in place.
 * CAST            in  x                           out y: same shape, another float type
 *
 * Made by the fuse pass (src/graph/fuse.c, fuse_vision.c) of the ops above, whose arithmetic they
 * keep, as are the sums of LINEAR_DX and ATTENTION_GRAD:
 * RESIDUAL_NORM   in  x X, branch X, state, w f32, b f32|NULL     out y X, n X, mean f32|NULL, rstd
 *   y = RESIDUAL(x, branch), n = NORM(y).
 * RESIDUAL_NORM_GRAD  in  x X, w f32, mean f32|NULL, rstd f32, dy X, more X|NULL, state|NULL
 *                 out dx X, dw f32, db f32|NULL, dbranch X [N,C]|NULL, sums f32 [C]|NULL
 *   dx, dw, db = NORM_GRAD; dbranch = DROPOUT(dx) if p > 0; sums: of the columns of dbranch, or of
 *   dx without dropout: what LINEAR_DW of the branch's last product makes as its db.
 * LINEAR_MOMENTS  in  x X [N,K], w X [M,K]
 *                 out y X [N,M], mean f32 [M], rstd f32 [M], and the two statistics
 *   y = LINEAR(x, w) without bias and activation; the others are BATCH_MOMENTS of y as stored.
 *   Where one kernel does both, its sums may be cut otherwise than those of the two nodes.
 * BATCH_MOMENTS   in  x X [N,C]       out mean f32 [C], rstd f32 [C], and the two statistics
 *   what BATCH_NORM measures in training.
 * BATCH_APPLY     in  x X [N,C], w f32, b f32, mean f32, rstd f32 [C]     out y X [N,C]
 *   y = act((x - mean) rstd w + b), as BATCH_NORM has it in training.
 * NORM_DWCONV     in  x X [B,H,W,C], w X [k,k,C], nw f32, nb f32, mean f32, rstd f32 [C]
 *                 out y X [B,Ho,Wo,C], or that and mean f32 [C], rstd f32 [C], two statistics
 *   y = DWCONV(n, w), n = BATCH_APPLY(x, nw, nb, mean, rstd) rounded to X, although it is not
 *   stored: y and the gradients have the bits of the nodes apart. The other outputs are
 *   BATCH_MOMENTS of y as stored; their sums may be cut otherwise than those of BATCH_NORM.
 * NORM_DWCONV_GRAD  in  x, w, nw, nb, mean, rstd, dy
 *                 out dn X or NULL, dw f32 [k,k,C], sums f32 [2,C] or NULL
 *   DWCONV_GRAD of the same n; dn is the cotangent of n, and sums, asked for only with dn, are what
 *   BATCH_NORM_GRAD sums of dn as stored. On CUDA they may be cut otherwise.
 * SQUEEZE_EXCITE  in  x X [B,H,W,C], w1 X [S,C], b1 f32 [S], w2 X [C,S], b2 f32 [C], and either
 *                     nothing more or nw f32, nb f32, mean f32, rstd f32 [C]
 *                 out s X [B,C], h X [B,S], z X [B,C], p X [B,C]
 *   p = POOL(n); s, h, z = EXCITE(p, w1, b1, w2, b2). n is x, or BATCH_APPLY(x, nw, nb, mean, rstd)
 *   rounded to X, although it is not stored. Sums over an image may be cut otherwise than in POOL.
 * SQUEEZE_EXCITE_DX  in  x, dy X [B,H,W,C], z X [B,C], h X [B,S], w1, w2, and either nothing more
 *                     or nw, nb, mean, rstd
 *                 out dp X [B,C], dz X [B,C], dh X [B,S], sums f32 [B,4,C] (only with the norm)
 *   EXCITE_DX of ds = GATE_DS(n, dy), of ds rounded to X first or not: by the kernel; n as before.
 *   sums, over H and W of each image, d being act' of the norm's value before act: dy d, d,
 *   dy d (x - mean), d (x - mean).
 * NORM_GATE       in  x X [B,H,W,C], s X [B,C], nw, nb, mean, rstd        out y X [B,H,W,C]
 *   y = GATE(n, s), n as before.
 * GATE_NORM_GRAD  in  x X, nw, nb, mean, rstd, dy X [B,H,W,C], sums f32 [B,4,C], s X [B,C],
 *                     dp X [B,C]            out dx X, dw f32, db f32
 *   BATCH_NORM_GRAD for the cotangent dn = GATE_DX(s, dy, dp) of n, of dn rounded to X first or
 *   not: by the kernel. sums are those of SQUEEZE_EXCITE_DX, of which it makes its own, in double
 *   in a fixed order: with q = dp / (H W), those of dz = s sums[0] + q sums[1], of dz (x - mean)
 *   likewise of the other two.
 * LINEAR, ATTENTION_GRAD with a rotation (attr.rope)
 *   y or dqkv = ROPE of what they compute without, rounded first or not: by the kernel. Only of
 *   activation LK_LINEAR, and only of qkv.
 * XENT_FUSED      in  logits X [N,V], targets, dloss f32 [1]      out dlogits X [N,V], loss f32 [1]
 *   XENT and XENT_GRAD. May run in place.
 *
 * Step ops:
 * REDUCE          in/out a range of the gradients and metrics, f32: sum over ranks. exact: the
 *   fixed binary tree.
 * GRAD_NORM       in  grad, state                 square sum in double over `learned` floats in a
 *   fixed order, then lk_step_decide(state, hyper, sum, grad[params]).
 * ADAMW           in  grad, param, moment1, moment2, state, shadow|NULL, ema f32|NULL: when
 *   state.finite, lk_adamw on every element < learned (decay = weight_decay for index < decayed,
 *   else 0) and lk_running on the others; then the shadow is written, and ema by lk_ema.
 * STEP_END        in  state                       lk_step_advance(state, hyper) */
#ifndef LK_OPS_OPS_H
#define LK_OPS_OPS_H

#include "graph/graph.h"

typedef enum lk_policy { LK_POLICY_HALF, LK_POLICY_KEEP } lk_policy;

typedef struct lk_rule {
    /* Append gradient nodes for n; NULL: not differentiable. */
    void (*gradient)(lk_graph *g, lk_node *n);
    /* Floating-point operations and the fewest bytes moved; called with 0 and lk_node_bytes(),
     * which stay when it leaves them alone or is NULL. */
    void (*cost)(const lk_node *n, double *flops, double *bytes);
    int in_place;  /* input whose bytes output 0 may take when it dies here; -1: none */
    uint32_t float_inputs; /* bit i: input i stays f32 under autocast (norm weights) */
    uint32_t writes;       /* bit i: input i is written where it lies, an output too */
} lk_rule;

#define LK_OP(upper, lower, policy) extern const lk_rule lk_rule_##lower;
#include "ops/ops.def"
#undef LK_OP

const char *lk_op_name(lk_op op);
/* How a ROPE, LINEAR or ATTENTION_GRAD rotates its output 0; NULL: it does not, nor do others. */
const lk_rotation *lk_rotation_of(const lk_node *n);
const lk_rule *lk_op_rule(lk_op op);
lk_policy lk_op_policy(lk_op op);
void lk_op_cost(const lk_node *n, double *flops, double *bytes);

/* Builders. Return NULL on error (sticky in g). */
lk_status lk_windows(lk_graph *g, lk_tensor *data, int64_t batch, int64_t context, bool resident,
                     uint32_t purpose, int64_t shard_tokens, int first_leaf, lk_tensor **tokens,
                     lk_tensor **targets);
lk_tensor *lk_embed(lk_graph *g, lk_tensor *tokens, lk_tensor *table, lk_embed_position kind,
                    lk_tensor *positions);
/* x [B,T,C] plus a learned row of positions [P,C] for each t. */
lk_tensor *lk_positions(lk_graph *g, lk_tensor *x, lk_tensor *positions);
/* act: LK_LINEAR or LK_GELU */
lk_tensor *lk_linear(lk_graph *g, lk_tensor *x, lk_tensor *w, lk_tensor *b, lk_activation act);
lk_tensor *lk_swiglu(lk_graph *g, lk_tensor *x);
lk_tensor *lk_norm(lk_graph *g, lk_tensor *x, lk_tensor *w, lk_tensor *b, lk_norm_kind kind,
                   float eps);
lk_tensor *lk_dropout(lk_graph *g, lk_tensor *x, float p); /* x itself when p = 0 or not training */
/* Whether each of rows * cols elements has a random word of its own; else the graph's error. */
bool lk_dropout_fits(lk_graph *g, int64_t rows, int64_t cols);
lk_tensor *lk_residual(lk_graph *g, lk_tensor *x, lk_tensor *branch, float p);
lk_tensor *lk_add(lk_graph *g, lk_tensor *a, lk_tensor *b);
lk_tensor *lk_stochastic_depth(lk_graph *g, lk_tensor *x, lk_tensor *branch, float p); /* residual
                                         whose branch is dropped for whole samples (first dim) */
/* x [B,H,W,C]: the augmented images of out_height x out_width; attributes as in lk_attr.images. */
typedef struct lk_image_source {
    int64_t batch, height, width; /* of the output */
    int64_t classes, shard_rows;
    bool resident;
    uint32_t purpose;
    int first_leaf;
    lk_augment augment;
} lk_image_source;
lk_status lk_images(lk_graph *g, const lk_image_source *s, lk_tensor *data, lk_tensor *labels,
                    lk_tensor *scale, lk_tensor **x, lk_tensor **targets, lk_tensor **classes);
/* The texts of those images, of data [rows, tokens]: i32 [batch, tokens]. */
lk_tensor *lk_texts(lk_graph *g, const lk_image_source *s, lk_tensor *data);
/* A 1x1 convolution of stride 1 is lk_linear() on x [B,H,W,Ci]. */
lk_tensor *lk_conv(lk_graph *g, lk_tensor *x, lk_tensor *w, int stride, int pad);
lk_tensor *lk_dwconv(lk_graph *g, lk_tensor *x, lk_tensor *w, int stride, int pad);
lk_tensor *lk_channel_conv(lk_graph *g, lk_tensor *x, lk_tensor *w);
lk_tensor *lk_activate(lk_graph *g, lk_tensor *x, lk_activation kind); /* x itself for LK_LINEAR */
/* g->training decides which form is built; running_mean and running_var are lk_statistic()s. */
lk_tensor *lk_batch_norm(lk_graph *g, lk_tensor *x, lk_tensor *w, lk_tensor *b,
                         lk_tensor *running_mean, lk_tensor *running_var, float eps,
                         lk_activation act);
lk_tensor *lk_pool(lk_graph *g, lk_tensor *x);
lk_tensor *lk_max_pool(lk_graph *g, lk_tensor *x, int size, int stride, int pad);
lk_tensor *lk_gate(lk_graph *g, lk_tensor *x, lk_tensor *s);
/* p [B,C]; weights [S,C] and [C,S], biases [S] and [C]: parameters. */
lk_tensor *lk_excite(lk_graph *g, lk_tensor *p, lk_tensor *w1, lk_tensor *b1, lk_tensor *w2,
                     lk_tensor *b2);
/* *hits, if wanted, gets the share of right rows. */
lk_tensor *lk_soft_cross_entropy(lk_graph *g, lk_tensor *logits, lk_tensor *targets,
                                 lk_tensor *labels, lk_tensor **hits);
lk_tensor *lk_rope(lk_graph *g, lk_tensor *qkv, int heads, int kv_heads, float theta, bool inverse);
lk_tensor *lk_attention(lk_graph *g, lk_tensor *qkv, int heads, int kv_heads, bool causal,
                        bool alibi, float p);
/* Queries of one sequence, keys and values of another; causal only over at least as many keys as
 * queries. */
lk_tensor *lk_cross_attention(lk_graph *g, lk_tensor *q, lk_tensor *kv, int heads, int kv_heads,
                              bool causal, bool alibi, float p);
lk_tensor *lk_cross_entropy(lk_graph *g, lk_tensor *logits, lk_tensor *targets, int64_t classes);
lk_tensor *lk_cast(lk_graph *g, lk_tensor *x, lk_dtype dtype);
/* Bytes of every tensor of a node, each counted once. */
double lk_node_bytes(const lk_node *n);

/* What EMBED multiplies table rows by. */
LK_HD float lk_embed_scale(lk_embed_position kind, int64_t cols)
{
    return kind == LK_POSITION_SINUSOIDAL ? (float)sqrt((double)cols) : 1.0f;
}

/* Slope of head h of H: 2^(-8(h+1)/n) for h < n, n the largest power of two <= H; the others
 * interleave the odd slopes of 2n heads, as in the authors' code. */
LK_HD float lk_alibi_slope(int h, int heads)
{
    int n = 1;
    while (2 * n <= heads) n *= 2;
    double e = h < n ? 8.0 * (h + 1) / n : 4.0 * (2 * (h - n) + 1) / n;
    return (float)exp2(-e);
}

#endif
