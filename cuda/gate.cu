/* pool, gate and their gradients: what is done to all pixels of an image with one figure a channel;
 * norm_gate.
 *
 * Reductions over H and W: a block per image and group of channels, each thread summing its
 * channels over the pixels of its slot (columns.cuh). Element-wise passes: a block per tile of
 * pixels, the figures of a thread's channels in registers. norm_gate has more of those, for all
 * images: its blocks stay for many tiles.
 *
 * x, dy, y, dx X [B,H,W,C]; s, ds, dp, pooled X [B,C]. */
#include "cuda/batch_norm.cuh"
#include "cuda/columns.cuh"

enum { THREADS = LK_COLUMN_THREADS, RUN = LK_COLUMN_RUN, ENOUGH_BLOCKS = 528, NARROWEST = 8 };

/* How [B, pixels, C] is cut. */
typedef struct cut {
    lk_columns g;
    int64_t images;
    int pixels, cols;
    int tiles; /* of an image */
} cut;

/* `whole`: a block takes all pixels of an image; then groups are narrowed until there are enough
 * blocks. */
static cut cut_of(const lk_tensor *x, bool whole)
{
    int v = lk_cols(x) % 8 ? 1 : 8, widest = lk_columns_widest(v);
    cut k;
    k.images = x->dim[0];
    k.pixels = (int)(x->dim[1] * x->dim[2]);
    k.cols = (int)lk_cols(x);
    k.g = lk_columns_of(k.cols, v, widest);
    while (whole && k.images * k.g.groups < ENOUGH_BLOCKS && widest > NARROWEST)
        k.g = lk_columns_of(k.cols, v, widest /= 2);
    k.tiles = (int)lk_ceil(k.pixels, k.g.rows);
    return k;
}

/* ---- sums over the pixels ------------------------------------------------------------------- */

/* out = the mean of x over the pixels, or with BY the sum of x by. */
template <typename E, int V, bool BY>
static __global__ void __launch_bounds__(THREADS, 2)
    k_pool(const E *x /* [B,H,W,C] */, const E *by /* [B,H,W,C] */, E *out /* [B,C] */, cut k)
{
    __shared__ __align__(16) float shared[lk_slot_floats<V>()];
    int64_t image = blockIdx.x / k.g.groups;
    lk_place p = lk_place_of<V>(k.g, blockIdx.x % k.g.groups);
    float sum[V] = {};
    if (p.active) {
        int64_t at = image * k.pixels * k.cols + p.column;
        for (int pixel = p.slot; pixel < k.pixels; pixel += k.g.rows) {
            lk_held<E, V> xs[RUN], ys[RUN];
#pragma unroll
            for (int u = 0; u < RUN; u++) {
                int64_t i = at + (int64_t)(pixel + u * k.g.slots) * k.cols;
                if (pixel + u * k.g.slots < k.pixels) {
                    xs[u].load(x + i);
                    if constexpr (BY) ys[u].load(by + i);
                }
            }
#pragma unroll
            for (int u = 0; u < RUN; u++) {
                if (pixel + u * k.g.slots >= k.pixels) break;
                float a[V], b[V];
                xs[u].get(a);
                if constexpr (BY) ys[u].get(b);
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] = BY ? fmaf(a[j], b[j], sum[j]) : sum[j] + a[j];
            }
        }
    }
    lk_slot_sum<V>(sum, shared, k.g, p.slot);
    if (p.slot != 0 || !p.active) return;
    if constexpr (!BY) {
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] /= (float)k.pixels;
    }
    lk_put<V>(out + image * k.cols + p.column, sum);
}

static lk_status reduce(lk_exec *x, const lk_node *n, const lk_tensor *by)
{
    const lk_tensor *in = n->in[0];
    cut k = cut_of(in, true);
    if (lk_count(in) == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(k.cols, V, {
        auto kernel = by ? k_pool<E, V, true> : k_pool<E, V, false>;
        kernel<<<(unsigned)(k.images * k.g.groups), k.g.threads, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, in), (const E *)lk_data(x, by), (E *)lk_data(x, n->out[0]), k);
    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_pool(lk_exec *x, const lk_node *n) { return reduce(x, n, NULL); }
extern "C" lk_status lk_cuda_gate_ds(lk_exec *x, const lk_node *n)
{
    return reduce(x, n, n->in[1]);
}

/* ---- one figure for all pixels -------------------------------------------------------------- */

/* y = (x s, if X) + (even / (H W), if EVEN). */
template <typename E, int V, bool X, bool EVEN>
static __global__ void __launch_bounds__(THREADS, sizeof(E) == 4 ? 2 : 4)
    k_gate(const E *x /* [B,H,W,C] */, const E *s /* [B,C] */, const E *even /* [B,C] */,
           E *y /* [B,H,W,C], may be x */, cut k)
{
    int tile = (int)(blockIdx.x / k.g.groups % k.tiles);
    int64_t image = blockIdx.x / k.g.groups / k.tiles;
    lk_place p = lk_place_of<V>(k.g, blockIdx.x % k.g.groups);
    if (!p.active) return;
    int pixel = tile * k.g.rows + p.slot;
    int64_t at = (image * k.pixels + pixel) * k.cols + p.column;
    int64_t step = (int64_t)k.g.slots * k.cols;
    lk_held<E, V> held[RUN];
    if constexpr (X) {
#pragma unroll
        for (int u = 0; u < RUN; u++)
            if (pixel + u * k.g.slots < k.pixels) held[u].load(x + at + u * step);
    }
    float factor[V], term[V];
    if constexpr (X) lk_get<V>(factor, s + image * k.cols + p.column);
    if constexpr (EVEN) {
        lk_get<V>(term, even + image * k.cols + p.column);
#pragma unroll
        for (int j = 0; j < V; j++) term[j] /= (float)k.pixels;
    }
#pragma unroll
    for (int u = 0; u < RUN; u++) {
        if (pixel + u * k.g.slots >= k.pixels) break;
        float v[V];
        if constexpr (X) held[u].get(v);
#pragma unroll
        for (int j = 0; j < V; j++) { /* rounded after the product, as in a node of its own */
            if constexpr (X) v[j] = __fmul_rn(v[j], factor[j]);
            if constexpr (EVEN) v[j] = X ? __fadd_rn(v[j], term[j]) : term[j];
        }
        lk_put<V>(y + at + u * step, v);
    }
}

/* from, s, even: NULL when they have no part in it. */
static lk_status spread(lk_exec *x, const lk_node *n, const lk_tensor *from, const lk_tensor *s,
                        const lk_tensor *even)
{
    const lk_tensor *out = n->out[0];
    cut k = cut_of(out, false);
    if (lk_count(out) == 0) return LK_OK;
    LK_FLOAT_SWITCH(out->dtype, E, LK_VECTOR_SWITCH(k.cols, V, {
        auto kernel = !from  ? k_gate<E, V, false, true>
                      : even ? k_gate<E, V, true, true>
                             : k_gate<E, V, true, false>;
        kernel<<<(unsigned)(k.images * k.tiles * k.g.groups), k.g.threads, 0,
                 lk_cuda_stream_of(x)>>>((const E *)lk_data(x, from), (const E *)lk_data(x, s),
                                         (const E *)lk_data(x, even), (E *)lk_data(x, out), k);
    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_pool_grad(lk_exec *x, const lk_node *n)
{
    return spread(x, n, NULL, NULL, n->in[0]);
}

extern "C" lk_status lk_cuda_gate(lk_exec *x, const lk_node *n)
{
    return spread(x, n, n->in[0], n->in[1], NULL);
}

extern "C" lk_status lk_cuda_gate_dx(lk_exec *x, const lk_node *n)
{
    return spread(x, n, n->in[1], n->in[0], n->inputs > 2 ? n->in[2] : NULL);
}

/* ---- a normalised image by one figure for all pixels ----------------------------------------- */

static __device__ __forceinline__ uint32_t multiply(uint32_t a, uint32_t b, __half)
{
    __half2 r = __hmul2(*(const __half2 *)&a, *(const __half2 *)&b);
    return *(const uint32_t *)&r;
}
static __device__ __forceinline__ uint32_t multiply(uint32_t a, uint32_t b, __nv_bfloat16)
{
    __nv_bfloat162 r = __hmul2(*(const __nv_bfloat162 *)&a, *(const __nv_bfloat162 *)&b);
    return *(const uint32_t *)&r;
}

/* y[j] = act(z(x[j])), rounded, times s[j]. */
template <int A, typename E, int V>
static __device__ __forceinline__ void put_gated(const lk_channels<V> &c, lk_activation kind,
                                                 const lk_held<E, V> &x, const lk_held<E, V> &s,
                                                 E *y)
{
    float v[V];
    x.get(v);
    if constexpr (sizeof(E) == 2 && V == 8) { /* a product of halves is rounded once either way */
        uint32_t n[4];
        lk_channels_pairs<A, E>(c, kind, v, n);
        *(uint4 *)y = make_uint4(multiply(n[0], s.v.x, E()), multiply(n[1], s.v.y, E()),
                                 multiply(n[2], s.v.z, E()), multiply(n[3], s.v.w, E()));
    } else {
        float factor[V];
        s.get(factor);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = factor[j] *
                   lk_float(lk_store<E>(lk_act_value<A>(kind, lk_channel_z(c, j, v[j]))));
        lk_put<V>(y, v);
    }
}

template <typename E, int V, int A>
static __global__ void __launch_bounds__(THREADS, sizeof(E) == 4 || A == LK_ACT_ANY ? 2 : 4)
    k_norm_gate(const E *x /* [B,H,W,C] */, const E *s /* [B,C] */, lk_normal from,
                lk_activation kind, E *y /* [B,H,W,C], may be x */, lk_image_cut k)
{
    lk_place p = lk_place_of<V>(k.g, blockIdx.x);
    if (!p.active) return;
    lk_channels<V> c;
    lk_channels_get<V>(c, from, p.column);
    int64_t step = (int64_t)k.g.slots * k.cols;
    for (int t = blockIdx.y; t < k.tiles; t += k.blocks) {
        lk_image_rows r = lk_image_rows_of(k, t, p);
        lk_held<E, V> held[RUN], factor;
#pragma unroll
        for (int u = 0; u < RUN; u++)
            if (u < r.valid) held[u].load(x + r.at + u * step);
        factor.load(s + (int64_t)r.image * k.cols + p.column);
#pragma unroll
        for (int u = 0; u < RUN; u++) {
            if (u >= r.valid) break;
            put_gated<A>(c, kind, held[u], factor, y + r.at + u * step);
        }
    }
}

extern "C" lk_status lk_cuda_norm_gate(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    lk_activation kind = n->attr.batch_norm.activation;
    if (lk_count(in) == 0) return LK_OK;
    lk_normal from = lk_cuda_normal_of(x, n->in + 2);
    lk_image_cut k = lk_image_cut_of(in, ENOUGH_BLOCKS);
    dim3 grid(k.g.groups, k.blocks);
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(k.cols, V, LK_NORMAL_SWITCH(kind, A, {
        k_norm_gate<E, V, A><<<grid, k.g.threads, 0, lk_cuda_stream_of(x)>>>(
            (const E *)lk_data(x, in), (const E *)lk_data(x, n->in[1]), from, kind,
            (E *)lk_data(x, n->out[0]), k);
    })));
    return lk_cuda_launched(n);
}
