/* attention: blocks of queries against all keys they may see; one thread per head.
 *
 * A thread copies the q, k, v it needs to f32 [T or S, D] and works in sgemm calls on blocks of
 * BLOCK queries: scores S [BLOCK, keys], softmax by rows, then the products. The gradient
 * recomputes the weights from lse; one thread owns a kv head and runs over its query heads in
 * order, so dk and dv are summed in one order. */
#include "cpu/device.h"

enum { BLOCK = 64 };

typedef struct shape {
    int64_t batch, time, keys; /* B, T, S */
    int64_t offset;            /* S - T: of query 0 among the keys */
    int heads, kv, dim;
    int first; /* heads before the k heads in a row of `from` */
    bool causal, alibi;
    float scale, p;
    uint32_t site, threshold;
    const lk_exec *x;
    uint64_t step;
} shape;

/* Where k and v lie: kv, or qkv. */
static const lk_tensor *keys_in(const lk_node *n) { return n->in[1] ? n->in[1] : n->in[0]; }

static shape shape_of(const lk_exec *x, const lk_node *n, const lk_tensor *state)
{
    int64_t time = n->in[0]->dim[1], keys = keys_in(n)->dim[1];
    return (shape){
        .batch = n->in[0]->dim[0],
        .time = time,
        .keys = keys,
        .offset = keys - time,
        .heads = n->attr.attention.heads,
        .kv = n->attr.attention.kv_heads,
        .first = n->in[1] ? 0 : n->attr.attention.heads,
        .dim = n->attr.attention.head_dim,
        .causal = n->attr.attention.causal,
        .alibi = n->attr.attention.alibi,
        .scale = n->attr.attention.scale,
        .p = n->attr.attention.p,
        .site = n->attr.attention.site,
        .threshold = lk_dropout_threshold(n->attr.attention.p),
        .x = x,
        .step = ((const lk_step_state *)lk_data(x, state))->step,
    };
}

/* out [rows, D] = columns [column, column + D) of sample b of a tensor [B, rows, width] */
static void load_head(const shape *s, const lk_tensor *t, const void *p, int64_t b, int64_t column,
                      float *out)
{
    int64_t rows = t->dim[1], width = lk_cols(t);
    for (int64_t i = 0; i < rows; i++)
        lk_cpu_load(t->dtype, p, (b * rows + i) * width + column, s->dim, out + i * s->dim);
}

static void store_head(const shape *s, const lk_tensor *t, void *p, int64_t b, int64_t column,
                       const float *in)
{
    int64_t rows = t->dim[1], width = lk_cols(t);
    for (int64_t i = 0; i < rows; i++)
        lk_cpu_store(t->dtype, p, (b * rows + i) * width + column, s->dim, in + i * s->dim);
}

static int64_t keys_of(const shape *s, int64_t first, int64_t queries)
{
    return s->causal ? first + queries + s->offset : s->keys;
}

/* S [queries, keys] = scale q k^T with bias; masked entries are left alone. */
static lk_status scores(const shape *s, int h, int64_t first, int64_t queries, int64_t keys,
                        const float *q, const float *k, float *S)
{
    LK_TRY(lk_cpu_gemm(false, true, queries, keys, s->dim, s->scale, q + first * s->dim, s->dim, k,
                       s->dim, 0.0f, S, keys));
    if (!s->alibi) return LK_OK;
    float slope = lk_alibi_slope(h, s->heads);
    for (int64_t i = 0; i < queries; i++)
        for (int64_t j = 0; j < keys; j++)
            S[i * keys + j] -= slope * fabsf((float)(first + i + s->offset - j));
    return LK_OK;
}

/* keep [keys] of query i: 0 or 1/(1-p), the dropout factors of its weights. */
static void factors(const shape *s, int64_t b, int h, int64_t i, int64_t keys, float *keep)
{
    uint64_t row = (uint64_t)(((b * s->heads + h) * s->time + i) * s->keys);
    float scale = 1.0f / (1.0f - s->p);
    lk_u32x4 w = {{0}};
    for (int64_t j = 0; j < keys; j++) {
        uint64_t e = row + (uint64_t)j;
        if (j == 0 || e % 4 == 0)
            w = lk_dropout_words(s->x->seed, s->site, (uint32_t)s->x->leaf, s->step, e);
        keep[j] = w.v[e % 4] >= s->threshold ? scale : 0.0f;
    }
}

/* ---- forward -------------------------------------------------------------------------------- */

static lk_status forward_head(const shape *s, int64_t b, int h, const float *q, const float *k,
                              const float *v, float *S, float *keep, float *y, float *lse)
{
    for (int64_t first = 0; first < s->time; first += BLOCK) {
        int64_t queries = s->time - first < BLOCK ? s->time - first : BLOCK;
        int64_t keys = keys_of(s, first, queries);
        LK_TRY(scores(s, h, first, queries, keys, q, k, S));
        for (int64_t i = 0; i < queries; i++) {
            float *row = S + i * keys;
            int64_t seen = s->causal ? first + i + s->offset + 1 : keys;
            float most = lk_cpu_max(row, seen);
            for (int64_t j = 0; j < seen; j++) row[j] = lk_cpu_exp(row[j] - most);
            for (int64_t j = seen; j < keys; j++) row[j] = 0.0f;
            float sum = lk_cpu_sum(row, seen), over = 1.0f / sum;
            lse[first + i] = most + logf(sum);
            for (int64_t j = 0; j < seen; j++) row[j] *= over;
            if (s->p <= 0) continue;
            factors(s, b, h, first + i, seen, keep);
            for (int64_t j = 0; j < seen; j++) row[j] *= keep[j];
        }
        LK_TRY(lk_cpu_gemm(false, false, queries, s->dim, keys, 1.0f, S, keys, v, s->dim, 0.0f,
                           y + first * s->dim, s->dim));
    }
    return LK_OK;
}

static lk_status finished(const lk_node *n, bool bad)
{
    return bad ? lk_fail(LK_E_DEVICE, "%s: oneDNN sgemm failed", n->scope) : LK_OK;
}

/* q, y [T, D]; k, v [S, D]; S [BLOCK, S]; keep [S] */
static int64_t forward_floats(const lk_node *n)
{
    int64_t time = n->in[0]->dim[1], keys = keys_in(n)->dim[1];
    return 2 * (time + keys) * n->attr.attention.head_dim + (BLOCK + 1) * keys;
}

size_t lk_cpu_attention_scratch(const lk_node *n) { return lk_cpu_own_bytes(forward_floats(n)); }

lk_status lk_cpu_attention(lk_exec *x, const lk_node *n)
{
    shape s = shape_of(x, n, n->in[2]);
    const lk_tensor *queries = n->in[0], *keys = keys_in(n), *out = n->out[0];
    const void *from_q = lk_data(x, queries), *from = lk_data(x, keys);
    void *to = lk_data(x, out);
    float *lse = lk_data(x, n->out[1]);
    int64_t head = s.time * s.dim, kv_head = s.keys * s.dim;
    int bad = 0;
#pragma omp parallel reduction(| : bad)
    {
        float *q = lk_cpu_own(lk_cpu_scratch(x), forward_floats(n));
        float *y = q + head, *k = y + head, *v = k + kv_head, *S = v + kv_head;
        float *keep = S + BLOCK * s.keys;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * s.heads; task++) {
            int64_t b = task / s.heads;
            int h = (int)(task % s.heads), shared = s.first + h / (s.heads / s.kv);
            load_head(&s, queries, from_q, b, (int64_t)h * s.dim, q);
            load_head(&s, keys, from, b, (int64_t)shared * s.dim, k);
            load_head(&s, keys, from, b, (int64_t)(shared + s.kv) * s.dim, v);
            bad |= forward_head(&s, b, h, q, k, v, S, keep, y, lse + task * s.time) != LK_OK;
            store_head(&s, out, to, b, (int64_t)h * s.dim, y);
        }
    }
    return finished(n, bad);
}

/* ---- gradient ------------------------------------------------------------------------------- */

typedef struct buffers { /* of one thread, f32 */
    float *q, *y, *dy, *dq, *k, *v, *dk, *dv; /* [T, D], from k on [S, D] */
    float *S, *P, *keep;                      /* [BLOCK, S], [BLOCK, S], [S] */
} buffers;

static int64_t backward_floats(const lk_node *n)
{
    int64_t time = n->in[0]->dim[1], keys = keys_in(n)->dim[1];
    return 4 * (time + keys) * n->attr.attention.head_dim + (2 * BLOCK + 1) * keys;
}

size_t lk_cpu_attention_grad_scratch(const lk_node *n)
{
    size_t own = lk_cpu_own_bytes(backward_floats(n)), rope = lk_cpu_rope_scratch(n);
    size_t most = own > rope ? own : rope;
    for (int i = 0; i < 2; i++) {
        size_t sums = n->out[2 + i] ? lk_cpu_column_sums_scratch(n->out[i]) : 0;
        if (sums > most) most = sums;
    }
    return most;
}

static lk_status backward_head(const shape *s, int64_t b, int h, const float *lse, buffers *u)
{
    for (int64_t first = 0; first < s->time; first += BLOCK) {
        int64_t queries = s->time - first < BLOCK ? s->time - first : BLOCK;
        int64_t keys = keys_of(s, first, queries), at = first * s->dim;
        float *S = u->S, *P = u->P;
        LK_TRY(scores(s, h, first, queries, keys, u->q, u->k, S));
        LK_TRY(lk_cpu_gemm(false, true, queries, keys, s->dim, 1.0f, u->dy + at, s->dim, u->v,
                           s->dim, 0.0f, P, keys));
        for (int64_t i = 0; i < queries; i++) { /* S becomes dS, P the weights after dropout */
            float *row = S + i * keys, *weight = P + i * keys, l = lse[first + i];
            int64_t seen = s->causal ? first + i + s->offset + 1 : keys, o = at + i * s->dim;
            float delta = lk_cpu_dot(u->dy + o, u->y + o, s->dim);
            if (s->p > 0) {
                factors(s, b, h, first + i, seen, u->keep);
                for (int64_t j = 0; j < seen; j++) {
                    float p = lk_cpu_exp(row[j] - l);
                    row[j] = p * (weight[j] * u->keep[j] - delta);
                    weight[j] = p * u->keep[j];
                }
            } else {
                for (int64_t j = 0; j < seen; j++) {
                    float p = lk_cpu_exp(row[j] - l);
                    row[j] = p * (weight[j] - delta);
                    weight[j] = p;
                }
            }
            for (int64_t j = seen; j < keys; j++) row[j] = weight[j] = 0.0f;
        }
        LK_TRY(lk_cpu_gemm(false, false, queries, s->dim, keys, s->scale, S, keys, u->k, s->dim,
                           0.0f, u->dq + at, s->dim));
        LK_TRY(lk_cpu_gemm(true, false, keys, s->dim, queries, s->scale, S, keys, u->q + at, s->dim,
                           1.0f, u->dk, s->dim));
        LK_TRY(lk_cpu_gemm(true, false, keys, s->dim, queries, 1.0f, P, keys, u->dy + at, s->dim,
                           1.0f, u->dv, s->dim));
    }
    return LK_OK;
}

lk_status lk_cpu_attention_grad(lk_exec *x, const lk_node *n)
{
    shape s = shape_of(x, n, n->in[5]);
    const lk_tensor *queries = n->in[0], *keys = keys_in(n), *out = n->in[2], *cotangent = n->in[4];
    const lk_tensor *dqueries = n->out[0], *dkeys = n->in[1] ? n->out[1] : n->out[0];
    const void *from_q = lk_data(x, queries), *from = lk_data(x, keys), *y = lk_data(x, out);
    const void *dy = lk_data(x, cotangent);
    const float *lse = lk_data(x, n->in[3]);
    void *to_q = lk_data(x, dqueries), *to = lk_data(x, dkeys);
    int64_t head = s.time * s.dim, kv_head = s.keys * s.dim;
    int group = s.heads / s.kv, bad = 0;
#pragma omp parallel reduction(| : bad)
    {
        float *m = lk_cpu_own(lk_cpu_scratch(x), backward_floats(n));
        float *k = m + 4 * head, *S = k + 4 * kv_head;
        buffers u = {m, m + head, m + 2 * head, m + 3 * head,
                     k, k + kv_head, k + 2 * kv_head, k + 3 * kv_head,
                     S, S + BLOCK * s.keys, S + 2 * BLOCK * s.keys};
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * s.kv; task++) {
            int64_t b = task / s.kv, c = task % s.kv;
            int64_t key = (s.first + c) * s.dim, value = key + (int64_t)s.kv * s.dim;
            load_head(&s, keys, from, b, key, u.k);
            load_head(&s, keys, from, b, value, u.v);
            memset(u.dk, 0, (size_t)(2 * kv_head) * sizeof *m); /* and dv behind it */
            for (int g = 0; g < group; g++) {
                int h = (int)c * group + g;
                load_head(&s, queries, from_q, b, (int64_t)h * s.dim, u.q);
                load_head(&s, out, y, b, (int64_t)h * s.dim, u.y);
                load_head(&s, cotangent, dy, b, (int64_t)h * s.dim, u.dy);
                bad |= backward_head(&s, b, h, lse + (b * s.heads + h) * s.time, &u) != LK_OK;
                store_head(&s, dqueries, to_q, b, (int64_t)h * s.dim, u.dq);
            }
            store_head(&s, dkeys, to, b, key, u.dk);
            store_head(&s, dkeys, to, b, value, u.dv);
        }
    }
    if (lk_rotation_of(n)) lk_cpu_rotate(x, n, dqueries);
    for (int i = 0; i < 2; i++)
        if (n->out[2 + i])
            lk_cpu_column_sums(x, n->out[i], n->accumulate >> (2 + i) & 1,
                               lk_data(x, n->out[2 + i]));
    return finished(n, bad);
}
