/* The pass over an image that squeeze-and-excitation begins with, forward and backward: sums over
 * its pixels, of the image as it is or normalised on load. excite.cu: as a kernel, or as the first
 * step of the chain that needs them.
 *
 * A block takes LK_SQUEEZE_IMAGES images, LK_SQUEEZE_SIDE threads each, cut as columns.cuh says: a
 * thread stays with its channels and adds the pixels of its slot, from the last to the first. Slots
 * are added as a tree. So sums depend on the shape alone. */
#ifndef LK_CUDA_SQUEEZE_CUH
#define LK_CUDA_SQUEEZE_CUH

#include "cuda/batch_norm.cuh"
#include "cuda/columns.cuh"

enum {
    LK_SQUEEZE_SIDE = LK_COLUMN_THREADS,
    LK_SQUEEZE_IMAGES = 2, /* of a block */
    LK_SQUEEZE_THREADS = LK_SQUEEZE_IMAGES * LK_SQUEEZE_SIDE,
    LK_AS_IS = -2 /* for the activation: no norm */
};

/* n is x, or act of its norm, rounded to E. */
template <typename E, int V, int A, bool GRAD> struct lk_squeeze {
    static constexpr bool NORM = A != LK_AS_IS;
    static constexpr int SUMS = GRAD && NORM ? 5 : 1; /* of a channel */
    /* Pixels in flight: as many as there are registers for. */
    static constexpr int RUN = !GRAD ? 8 : V == 1 ? 4 : (A == LK_ACT_ANY ? 4 : 8) / (int)sizeof(E);
    static constexpr int SHARED = LK_SQUEEZE_SIDE / 2 * SUMS * V; /* floats of an image */
    static constexpr int BYTES = LK_SQUEEZE_IMAGES * SHARED * 4;

    const E *x, *dy; /* [B,H,W,C]; dy: if GRAD */
    lk_normal from;  /* if NORM */
    lk_activation kind;
    E *out;      /* [B,C]: the mean of n; if GRAD the sum of n dy */
    float *sums; /* [B,4,C], if GRAD and NORM: of dy d, d, dy d (x - mean), d (x - mean), d being
                    act' of the norm's value */
    lk_columns g;
    int pixels, cols;
    int64_t images;

    /* n [V] of a pixel's x [V]. */
    __device__ __forceinline__ void normalise(const lk_channels<V> &c, const float *x,
                                              float *n) const
    {
        if constexpr (!NORM) {
#pragma unroll
            for (int j = 0; j < V; j++) n[j] = x[j];
        } else if constexpr (sizeof(E) == 2 && V == 8) {
            uint32_t pair[4];
            lk_channels_pairs<A, E>(c, kind, x, pair);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float2 f = lk_pair(pair[j], E());
                n[2 * j] = f.x;
                n[2 * j + 1] = f.y;
            }
        } else {
#pragma unroll
            for (int j = 0; j < V; j++)
                n[j] = lk_float(lk_store<E>(lk_act_value<A>(kind, lk_channel_z(c, j, x[j]))));
        }
    }

    __device__ __forceinline__ void add(const lk_channels<V> &c, const lk_held<E, V> &own,
                                        const lk_held<E, V> &cotangent, float (*sum)[V]) const
    {
        float v[V], n[V];
        own.get(v);
        normalise(c, v, n);
        if constexpr (!GRAD) {
#pragma unroll
            for (int j = 0; j < V; j++) sum[0][j] += n[j];
        } else {
            float d[V];
            cotangent.get(d);
#pragma unroll
            for (int j = 0; j < V; j++) {
                sum[0][j] = fmaf(n[j], d[j], sum[0][j]);
                if constexpr (NORM) {
                    float slope = lk_act_derivative<A>(kind, lk_channel_z(c, j, v[j]));
                    float dz = d[j] * slope, centred = v[j] - c.mean[j];
                    sum[1][j] += dz;
                    sum[2][j] += slope;
                    sum[3][j] = fmaf(dz, centred, sum[3][j]);
                    sum[4][j] = fmaf(slope, centred, sum[4][j]);
                }
            }
        }
    }

    /* Of the pixels slot, slot + slots, ... of an image, whose channels `at` is the first of. */
    __device__ __forceinline__ void add_pixels(int64_t at, int column, int slot,
                                               float (*sum)[V]) const
    {
        lk_channels<V> c;
        if constexpr (NORM) {
            lk_normal training = from;
            training.running = false; /* known when this is compiled */
            lk_channels_get<V>(c, training, column);
        }
        for (int pixel = pixels - 1 - slot; pixel >= 0; pixel -= RUN * g.slots) {
            lk_held<E, V> xs[RUN], ds[RUN];
#pragma unroll
            for (int u = 0; u < RUN; u++) {
                int64_t i = at + (int64_t)(pixel - u * g.slots) * cols;
                if (pixel - u * g.slots < 0) break;
                xs[u].load(x + i);
                if constexpr (GRAD) ds[u].load(dy + i);
            }
#pragma unroll
            for (int u = 0; u < RUN; u++) {
                if (pixel - u * g.slots < 0) break;
                add(c, xs[u], ds[u], sum);
            }
        }
    }

    /* sum of slot 0 becomes that of all slots; by the whole block. shared: of the image. */
    __device__ __forceinline__ void add_slots(float *shared, int slot, int lane,
                                              float (*sum)[V]) const
    {
        int half;
        for (int n = g.slots; n > 1; n = half) {
            half = (n + 1) / 2;
            if (slot >= half && slot < n) {
                float *to = shared + ((slot - half) * g.width + lane) * V;
#pragma unroll
                for (int q = 0; q < SUMS; q++) lk_put<V>(to + q * (SHARED / SUMS), sum[q]);
            }
            __syncthreads();
            if (slot + half < n) {
                const float *of = shared + (slot * g.width + lane) * V;
#pragma unroll
                for (int q = 0; q < SUMS; q++) {
                    float other[V];
                    lk_get<V>(other, of + q * (SHARED / SUMS));
#pragma unroll
                    for (int j = 0; j < V; j++) sum[q][j] += other[j];
                }
            }
            __syncthreads();
        }
    }

    __device__ __forceinline__ void put(int64_t image, int column, float (*sum)[V]) const
    {
        if constexpr (!GRAD) {
#pragma unroll
            for (int j = 0; j < V; j++) sum[0][j] /= (float)pixels;
        }
        lk_put<V>(out + image * cols + column, sum[0]);
#pragma unroll
        for (int q = 1; q < SUMS; q++)
            lk_put<V>(sums + (4 * image + q - 1) * cols + column, sum[q]);
    }

    /* The images `first` and those after it that a block takes; memory: BYTES. */
    __device__ __forceinline__ void make(char *memory, int64_t first) const
    {
        int side = (int)threadIdx.x / LK_SQUEEZE_SIDE, thread = (int)threadIdx.x % LK_SQUEEZE_SIDE;
        int slot = thread / g.width, lane = thread - slot * g.width;
        int64_t image = first + side;
#pragma unroll 1
        for (int group = 0; group < g.groups; group++) {
            int vector = group * g.width + lane, column = vector * V;
            bool active = slot < g.slots && vector < g.vectors && image < images;
            float sum[SUMS][V] = {};
            if (active) add_pixels(image * pixels * cols + column, column, slot, sum);
            add_slots((float *)memory + side * SHARED, slot, lane, sum);
            if (active && slot == 0) put(image, column, sum);
        }
        __syncwarp();
    }
};

/* dy: NULL if not GRAD; given: w, b, mean, rstd of the norm, NULL without. */
template <typename E, int V, int A, bool GRAD>
static lk_squeeze<E, V, A, GRAD> lk_squeeze_of(lk_exec *x, const lk_node *n, const lk_tensor *dy,
                                               lk_tensor *const *given, const lk_tensor *out,
                                               const lk_tensor *sums)
{
    const lk_tensor *in = n->in[0];
    lk_squeeze<E, V, A, GRAD> q = {};
    q.x = (const E *)lk_data(x, in);
    q.dy = (const E *)lk_data(x, dy);
    if (given) q.from = lk_cuda_normal_of(x, given);
    q.kind = n->attr.batch_norm.activation;
    q.out = (E *)lk_data(x, out);
    q.sums = (float *)lk_data(x, sums);
    q.g = lk_columns_of(lk_cols(in), V, LK_SQUEEZE_SIDE);
    q.pixels = (int)(in->dim[1] * in->dim[2]);
    q.cols = (int)lk_cols(in);
    q.images = in->dim[0];
    return q;
}

#endif
