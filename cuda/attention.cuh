/* Shared by the attention kernels: the shape, padded tiles in shared memory, dropout of weights,
 * what a block of a gradient kernel works on. Idea in attention.cu. */
#ifndef LK_CUDA_ATTENTION_CUH
#define LK_CUDA_ATTENTION_CUH

#include "cuda/mma.cuh"

#define LN2 0.6931471805599453f

typedef struct shape {
    int t, s;   /* queries, keys */
    int offset; /* S - T: place of query 0 among the keys; >= 0 when causal */
    int d, heads, kv_heads;
    int first;               /* heads before the k heads in a row of kv: H in qkv, else 0 */
    int64_t width, kv_width; /* of rows of q and kv; in qkv both (H + 2K) D */
    bool causal, alibi;
    float scale;
    float keep; /* 1 / (1 - p) */
    uint32_t threshold, site, leaf;
    uint64_t seed;
} shape;

/* One forward or backward, for the launchers. E is the type of q, kv, y and their cotangents. When
 * q, k, v lie in one qkv, q and kv are the same, and so are dq and dkv. */
typedef struct attention_call {
    cudaStream_t stream;
    int processors; /* blocks of a persistent kernel; never changes a result */
    bool hopper;    /* by the kernels for it */
    int64_t batch;
    shape a;
    const lk_step_state *state;
    const void *q, *kv, *dy; /* [B,T,width], [B,S,kv_width], [B,T,H D] */
    void *y, *dq, *dkv;
    float *lse;     /* [B,H,T] */
    float *scratch; /* attention_scratch() bytes, backward only */
    const float2 *angles; /* [T, D / 2] for Hopper's backward to rotate dq and dk back; or NULL */
    float *q_sums, *kv_sums; /* partial column sums of dq and dkv, of Hopper's backward; or NULL */
} attention_call;

/* Rows of the backward's scratch: T rounded up to whole tiles. */
static inline int64_t attention_rows(int64_t t) { return lk_ceil(t, 128) * 128; }

/* Up to so many keys Hopper's backward hands on which weights are dropped: a bit each, at most 128
 * bytes for a row of a head, as many as its dq takes at D = 64. */
enum { MASK_KEYS = 1024 };

/* Words of the masks of a head, [tiles of 64 queries][tiles of 64 keys, of two each][128]; 0: none
 * are handed on. */
static inline int64_t attention_masks(int64_t t, int64_t s, bool dropped)
{
    return dropped && s <= MASK_KEYS ? lk_ceil(t, 64) * lk_ceil(s, 128) * 256 : 0;
}

/* [B,H,rows] of pairs, then [B,H] of masks. */
static inline size_t attention_scratch(int64_t pairs, int64_t t, int64_t masks)
{
    return (size_t)(pairs * (2 * attention_rows(t) + masks)) * sizeof(float);
}

/* How many partial sums of a column there are: one of every 64 rows of a batch entry. */
static inline int64_t attention_chunks(int64_t batch, int64_t rows)
{
    return batch * lk_ceil(rows, 64);
}

/* Launch `kernel` with dynamic shared memory. */
#define LAUNCH(c, kernel, blocks, threads, bytes, ...)                                             \
    do {                                                                                           \
        LK_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,      \
                                         (int)(bytes)));                                           \
        kernel<<<(unsigned)(blocks), threads, bytes, (c).stream>>>(__VA_ARGS__);                   \
        LK_CUDA_TRY(cudaGetLastError());                                                           \
    } while (0)

/* lk_alibi_slope in f32, for the wgmma kernels, which have no registers for its exp2 of a double.
 * The others call that; with this one some of them spill more. */
static __device__ __forceinline__ float alibi_slope(int h, int heads)
{
    int n = 1 << (31 - __clz(heads));
    return exp2f(-(h < n ? 8.0f * (h + 1) / n : 4.0f * (2 * (h - n) + 1) / n));
}

/* ---- tiles in shared memory ----------------------------------------------------------------- */

/* Row length in shared memory: 16 bytes more than the data, so that 8 rows hit all banks. */
template <typename E> __host__ __device__ constexpr int padded(int dp)
{
    return dp + 16 / (int)sizeof(E);
}

/* s [ROWS, padded] = rows row0.. of g [rows, stride], columns 0..cols; zero beyond. */
template <typename E, int DP, int ROWS, int THREADS>
static __device__ __forceinline__ void load_tile(E *s, const E *g, int64_t stride, int row0,
                                                 int rows, int cols)
{
    constexpr int each = 16 / sizeof(E), across = DP / each;
#pragma unroll
    for (int k = 0; k < (ROWS * across + THREADS - 1) / THREADS; k++) {
        int item = k * THREADS + (int)threadIdx.x, r = item / across, c = item % across * each;
        if (ROWS * across % THREADS && r >= ROWS) break;
        bool inside = row0 + r < rows && c < cols;
        const E *from = inside ? g + (int64_t)(row0 + r) * stride + c : g;
        lk_copy16(lk_shared_address(s + r * padded<E>(DP) + c), from, inside);
    }
}

/* ---- dropout -------------------------------------------------------------------------------- */

static __device__ __forceinline__ bool keep_one(const shape &a, uint32_t step, int64_t bh, int i,
                                                int j)
{
    uint64_t index = ((uint64_t)bh * a.t + i) * a.s + j;
    lk_u32x4 w = lk_dropout_words(a.seed, a.site, a.leaf, step, index);
    uint32_t low = index & 1 ? w.v[1] : w.v[0], high = index & 1 ? w.v[3] : w.v[2];
    return (index & 2 ? high : low) >= a.threshold;
}

/* Bit 4 n + e: element e of accumulator n, 8 columns from the one before, is kept. i, j: query and
 * key of element 0 of the first. KEYS: rows are keys. When S is a multiple of 4, four neighbouring
 * keys share one Philox call: each thread makes one call for four elements of each accumulator, and
 * the threads exchange bits. */
template <bool KEYS, int N>
static __device__ __forceinline__ uint32_t keep_tile(const shape &a, uint32_t step, int64_t bh,
                                                     int i, int j)
{
    static_assert(N <= 8, "");
    uint32_t bits = 0;
    if (a.s % 4) {
#pragma unroll 1
        for (int k = 0; k < 4 * N; k++) {
            int row = 8 * (k >> 1 & 1), col = 8 * (k >> 2) + (k & 1);
            bool kept = KEYS ? keep_one(a, step, bh, i + col, j + row)
                             : keep_one(a, step, bh, i + row, j + col);
            bits |= (uint32_t)kept << k;
        }
        return bits;
    }
    /* KEYS: keys j..j+3 lie in the four lanes of equal t and equal g / 4, and each calls for one
     * element of all, q; else they lie in two lanes, and the odd one calls for the row g + 8. */
    int q = threadIdx.x >> 2 & 3, odd = threadIdx.x & 1;
    int query = KEYS ? i + (q & 1) : i + 8 * odd, key = (j & ~3) + (KEYS ? 8 * (q >> 1) : 0);
    uint32_t each = a.s / 4, four = ((uint32_t)bh * a.t + query) * each + (uint32_t)key / 4;
#pragma unroll
    for (int n = 0; n < N; n++) {
        uint32_t index = four + 2 * n * (KEYS ? 4 * each : 1);
        lk_u32x4 w = lk_philox(a.seed, index, LK_PURPOSE_DROPOUT | a.site, a.leaf, step);
#pragma unroll
        for (int k = 0; k < 4; k++) bits |= (uint32_t)(w.v[k] >= a.threshold) << (4 * n + k);
    }
    if (KEYS) { /* transpose lane (element) by bit (key) */
        uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, bits, 4);
        bits = q & 1 ? (bits & 0xAAAAAAAAu) | (other >> 1 & 0x55555555u)
                     : (bits & 0x55555555u) | (other << 1 & 0xAAAAAAAAu);
        other = __shfl_xor_sync(0xFFFFFFFFu, bits, 8);
        return q & 2 ? (bits & 0xCCCCCCCCu) | (other >> 2 & 0x33333333u)
                     : (bits & 0x33333333u) | (other << 2 & 0xCCCCCCCCu);
    }
    uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, bits, 1);
    return odd ? (bits & 0xCCCCCCCCu) | (other >> 2 & 0x33333333u)
               : (bits & 0x33333333u) | (other << 2 & 0xCCCCCCCCu);
}

/* ---- dy . y --------------------------------------------------------------------------------- */

/* dot [B,H,T] = sum over d of dy y, both [B,T,H,D]; 16 threads per head of a token. */
template <typename E>
static __global__ void k_dot(shape a, const E *dy, const E *y, float *dot, int64_t items)
{
    int64_t item = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) >> 4; /* (b, t, h) */
    int c = (threadIdx.x & 15) * 8;
    float sum = 0;
    if (item < items && c < a.d) {
        float u[8], v[8];
        lk_get<8>(u, dy + item * a.d + c);
        lk_get<8>(v, y + item * a.d + c);
#pragma unroll
        for (int k = 0; k < 8; k++) sum += u[k] * v[k];
    }
#pragma unroll
    for (int k = 8; k > 0; k >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, k);
    if (item < items && c == 0) {
        int64_t h = item % a.heads, row = item / a.heads, b = row / a.t, t = row % a.t;
        dot[(b * a.heads + h) * a.t + t] = sum;
    }
}

template <typename E> static cudaError_t dots_of_rows(const attention_call &c)
{
    int64_t items = c.batch * c.a.t * c.a.heads;
    k_dot<<<lk_blocks(items * 16, 256), 256, 0, c.stream>>>(c.a, (const E *)c.dy, (const E *)c.y,
                                                            c.scratch, items);
    return cudaGetLastError();
}

/* ---- blocks of the gradient kernels --------------------------------------------------------- */

/* What a block of a gradient kernel owns and streams. */
typedef struct span {
    int tile, b, head;    /* own tile; own head: kv head (KEYS) or query head */
    int first, per_head;  /* first stream tile and their number for each query head */
    int first_head, steps; /* stream step s: head first_head + s / per_head */
} span;

template <bool KEYS> static __device__ span spans(const shape &a, int own, int stream)
{
    span p;
    int tiles = ((KEYS ? a.s : a.t) + own - 1) / own;
    int all = ((KEYS ? a.t : a.s) + stream - 1) / stream;
    int heads = KEYS ? a.kv_heads : a.heads, pair = blockIdx.x / tiles;
    p.tile = blockIdx.x % tiles; /* the longest first */
    if (!KEYS) p.tile = tiles - 1 - p.tile;
    p.b = pair / heads;
    p.head = pair % heads;
    p.first = KEYS && a.causal ? max(0, p.tile * own - a.offset) / stream : 0;
    int seen = p.tile * own + own + a.offset; /* by the own queries, when causal */
    int end = !KEYS && a.causal ? min(all, (seen + stream - 1) / stream) : all;
    p.per_head = end - p.first;
    int group = a.heads / a.kv_heads;
    p.first_head = KEYS ? p.head * group : p.head;
    p.steps = p.per_head * (KEYS ? group : 1);
    return p;
}

#endif
