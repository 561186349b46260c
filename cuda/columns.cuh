/* Passes over a matrix [rows, C] in which each thread stays with its channels, so that what belongs
 * to a channel stays in registers: batch_norm.cu, gate.cu, squeeze.cuh. Others take its vectors
 * (lk_held) alone.
 *
 * Channels are taken in vectors of V (8, or 1 when C is no multiple of 8). A block works on a group
 * of `width` neighbouring vectors and on `slots` rows side by side; thread t has vector t % width
 * of the group and slot t / width. Threads beyond width * slots, and vectors beyond C, idle. */
#ifndef LK_CUDA_COLUMNS_CUH
#define LK_CUDA_COLUMNS_CUH

#include "cuda/device.cuh"
#include "cuda/divide.cuh"

enum {
    LK_COLUMN_THREADS = 256,
    LK_COLUMN_RUN = 4 /* rows of a thread that are in flight together */
};

/* ---- vectors as they are loaded -------------------------------------------------------------
 * Halves stay in pairs, two to a register, until they are used: a kernel with many vectors in
 * flight would otherwise keep one register for each element. */

template <typename E, int V, bool PAIRS = sizeof(E) == 2 && V == 8> struct lk_held {
    lk_vec<E, V> v;
    __device__ __forceinline__ void load(const E *p) { v = *(const lk_vec<E, V> *)p; }
    __device__ __forceinline__ void get(float *out) const
    {
#pragma unroll
        for (int j = 0; j < V; j++) out[j] = lk_float(v.v[j]);
    }
};

template <typename E, int V> struct lk_held<E, V, true> {
    uint4 v;
    __device__ __forceinline__ void load(const E *p) { v = *(const uint4 *)p; }
    __device__ __forceinline__ void get(float *out) const
    {
        const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float2 f = lk_pair(word[k], E());
            out[2 * k] = f.x;
            out[2 * k + 1] = f.y;
        }
    }
};

/* ---- the cut -------------------------------------------------------------------------------- */

typedef struct lk_columns {
    int vectors; /* of a row */
    int width, groups;
    int slots;
    int threads; /* of a block: whole warps */
    int rows;    /* of a tile: slots * LK_COLUMN_RUN */
} lk_columns;

/* Groups of at most `widest` vectors of v channels, about equally wide. */
static inline lk_columns lk_columns_of(int64_t cols, int v, int widest)
{
    lk_columns g;
    g.vectors = (int)(cols / v);
    g.groups = (int)lk_ceil(g.vectors, widest);
    g.width = (int)lk_ceil(g.vectors, g.groups);
    g.groups = (int)lk_ceil(g.vectors, g.width);
    g.slots = LK_COLUMN_THREADS / g.width;
    g.threads = (int)lk_ceil(g.slots * g.width, 32) * 32;
    g.rows = g.slots * LK_COLUMN_RUN;
    return g;
}

/* Widest group for a pass over everything: 512 bytes of halves, or 128 single channels. */
static inline int lk_columns_widest(int v) { return v == 8 ? 32 : 128; }

typedef struct lk_place {
    int slot, column; /* column: the first of the thread's channels */
    bool active;
} lk_place;

template <int V>
static __device__ __forceinline__ lk_place lk_place_of(const lk_columns &g, int group)
{
    lk_place p;
    p.slot = (int)threadIdx.x / g.width;
    int vector = group * g.width + (int)threadIdx.x - p.slot * g.width;
    p.column = vector * V;
    p.active = p.slot < g.slots && vector < g.vectors;
    return p;
}

/* Floats of shared memory that lk_slot_sum needs. */
template <int V> __host__ __device__ constexpr int lk_slot_floats()
{
    return LK_COLUMN_THREADS / 2 * V;
}

/* v of slot 0 becomes the sum over the slots, added as a tree that their number alone fixes. Called
 * by the whole block; idle threads of the first slots bring 0. */
template <int V>
static __device__ __forceinline__ void lk_slot_sum(float *v, float *shared, const lk_columns &g,
                                                   int slot)
{
    int half;
    for (int n = g.slots; n > 1; n = half) {
        half = (n + 1) / 2;
        if (slot >= half && slot < n)
            lk_put<V>(shared + ((int)threadIdx.x - half * g.width) * V, v);
        __syncthreads();
        if (slot + half < n) {
            float other[V];
            lk_get<V>(other, shared + (int)threadIdx.x * V);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] += other[j];
        }
        __syncthreads();
    }
}

/* ---- tiles of images ------------------------------------------------------------------------
 * [B,pixels,C] in tiles of which each lies in one image: the first tile of every image, then the
 * second of each, and so on. Block i of P takes tiles i, i + P, ... After a kernel that has read
 * all images side by side from their ends, what it read last is what is read first. */

typedef struct lk_image_cut {
    lk_columns g;
    int pixels, cols;
    int tiles;  /* of all images */
    int blocks; /* of a group of columns */
    lk_divisor images;
} lk_image_cut;

static inline lk_image_cut lk_image_cut_of(const lk_tensor *x, int target)
{
    int v = lk_cols(x) % 8 ? 1 : 8;
    lk_image_cut k;
    k.pixels = (int)(x->dim[1] * x->dim[2]);
    k.cols = (int)lk_cols(x);
    k.g = lk_columns_of(k.cols, v, lk_columns_widest(v));
    k.tiles = (int)(x->dim[0] * lk_ceil(k.pixels, k.g.rows));
    int blocks = target / k.g.groups;
    k.blocks = blocks < 1 ? 1 : blocks < k.tiles ? blocks : k.tiles;
    k.images = lk_divisor_of((int)x->dim[0]);
    return k;
}

/* Of a thread in tile t: its image, the element of its first row, and how many of its RUN rows
 * there are, `slots` apart. */
typedef struct lk_image_rows {
    int image, valid;
    int64_t at;
} lk_image_rows;

static __device__ __forceinline__ lk_image_rows lk_image_rows_of(const lk_image_cut &k, int t,
                                                                 const lk_place &p)
{
    lk_image_rows r;
    int pixel = lk_divide(t, k.images, &r.image) * k.g.rows + p.slot;
    r.at = ((int64_t)r.image * k.pixels + pixel) * k.cols + p.column;
    r.valid = 0;
#pragma unroll
    for (int u = 0; u < LK_COLUMN_RUN; u++) r.valid += pixel + u * k.g.slots < k.pixels;
    return r;
}

#endif
