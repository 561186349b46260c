/* linear_moments: y = x w^T of many rows and few weights, as 1 x 1 convolutions are, whose columns
 * are measured as they are stored. Shapes and types that have no kernel here: the product of
 * matmul.cu, then a pass that measures it; matmul_choice.cu keeps which of both a run has.
 *
 * Memory binds these products: x is read once and y written once, and what is left is to issue few
 * instructions. A warp has a slot of 32 columns, whose weights stay in its registers for the whole
 * depth; rows stream past through shared memory, STAGES tiles deep, 16 of them at a time for the
 * tensor cores (mma.sync, compute capability 8.0 and newer). Which column of w stands where among
 * those of a product is free: here so that a thread ends up with 8 neighbouring columns of two
 * rows, of which it stores 16 bytes each, and four threads the 64 bytes of a slot. What a thread
 * stores it also measures: nothing is exchanged but the sums of its 8 columns, and once.
 *
 * Blocks stay: block i of P takes tiles i, i + P, ... The cut is given by the shape, made for a GPU
 * of MULTIPROCESSORS, and so are the bits. Sums are taken about the block's first row, joined in
 * the block in order, and the blocks' means and squares in double as batch_norm.cu does.
 *
 * x X [N,K]; w X [M,K]; y X [N,M]; mean, rstd, statistics f32 [M]. */
#include "cuda/batch_norm.cuh"
#include "cuda/columns.cuh"
#include "cuda/mma.cuh"

enum {
    SLOT = 32,
    TILE = 16, /* rows of a product */
    STAGES = 3,
    STAGE_BYTES = 12 << 10, /* about; two of them on their way hide the latency of memory */
    MULTIPROCESSORS = 132,
    MOST_STEPS = 16, /* of 16 of the depth: the weights of 8 registers each */
    /* Products that the tensor cores do in the time of a byte from memory, on an H200. */
    PRODUCTS_OF_BYTE = 72
};

/* Most warps of a block, and blocks that a multiprocessor holds, by the registers for weights. */
static __host__ __device__ constexpr int warps_of(int steps)
{
    return steps > 5 && steps <= 10 ? 12 : 8;
}
static __host__ __device__ constexpr int resident_of(int steps)
{
    return steps == 1 ? 3 : steps <= 5 ? 2 : 1;
}

/* ---- the cut -------------------------------------------------------------------------------- */

typedef struct cut {
    int64_t rows, tiles;
    int depth, columns, steps;
    int width, groups; /* slots of a block; blocks for all of them */
    int lines;         /* warps that share a slot, TILE rows each */
    int tile, blocks;  /* rows of a tile; blocks that take tiles in turn */
    int row, stage;    /* bytes in shared memory. Rows have an odd number of 16-byte chunks, so that
                        * 8 of them touch all banks */
} cut;

static cut cut_of(const lk_node *n)
{
    cut c;
    c.rows = lk_rows(n->in[0]);
    c.depth = (int)lk_cols(n->in[0]);
    c.columns = (int)lk_cols(n->out[0]);
    c.steps = (int)lk_ceil(c.depth, 16);
    int slots = (int)lk_ceil(c.columns, SLOT), warps = warps_of(c.steps);
    c.groups = (int)lk_ceil(slots, warps);
    c.width = (int)lk_ceil(slots, c.groups);
    c.lines = warps / c.width;
    int64_t most = MULTIPROCESSORS * resident_of(c.steps) / c.groups;
    if (most < 1) most = 1;
    /* As many rows as a stage has room for, but the same number of tiles for every block. */
    int64_t unit = TILE * c.lines, room = STAGE_BYTES / (2 * c.depth * unit);
    int64_t rounds = lk_ceil(c.rows, most * unit * (room < 1 ? 1 : room));
    c.tile = (int)(unit * lk_ceil(c.rows, most * rounds * unit));
    c.tiles = lk_ceil(c.rows, c.tile);
    c.blocks = (int)(c.tiles < most ? c.tiles : most);
    c.row = 16 * (c.depth / 8 | 1);
    c.stage = c.tile * c.row;
    return c;
}

/* Rows of block i. */
static __device__ __forceinline__ int64_t rows_of(const cut &c, int i)
{
    int64_t tiles = (c.tiles - i + c.blocks - 1) / c.blocks;
    bool last = (c.tiles - 1) % c.blocks == i;
    return tiles * c.tile - (last ? c.tiles * c.tile - c.rows : 0);
}

/* Floats in which the warps of a block join their sums: two of each line, and the first row. */
static __host__ __device__ constexpr int join_floats(int lines, int width)
{
    return (2 * lines + 1) * width * SLOT;
}

static size_t shared_of(const cut *c)
{
    size_t ring = (size_t)STAGES * (size_t)c->stage;
    size_t join = sizeof(float) * (size_t)join_floats(c->lines, c->width);
    return ring > join ? ring : join;
}

/* ---- the kernel ----------------------------------------------------------------------------- */

/* Tile `t` of x into the stage at `to`; zeros for rows beyond the last. */
template <typename E, int STEPS>
static __device__ __forceinline__ void copy_tile(uint32_t to, const E *x, const cut &c, int64_t t)
{
    int of_row = c.depth / 8, chunks = c.tile * of_row;
    int64_t begin = t * chunks, real = c.rows * of_row - begin;
    for (int i = (int)threadIdx.x; i < chunks; i += (int)blockDim.x) {
        int place = of_row % 2 ? i : i + i / (2 * STEPS); /* then of_row is 2 STEPS */
        bool inside = i < real;
        lk_copy16(to + 16 * place, x + (inside ? 8 * (begin + i) : 0), inside);
    }
}

/* The weights of the slot at `column` as the tensor cores take them, by step, 8 columns j and half
 * of the step. Column g of those 8 is column 8 (g / 2) + 2 j + g % 2 of the slot. */
template <typename E, int STEPS>
static __device__ __forceinline__ void get_weights(uint32_t (*b)[4][2], const E *w, const cut &c,
                                                   int column)
{
    int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int m = column + 8 * (g >> 1) + 2 * j + (g & 1), k = 16 * s + 8 * half + 2 * t;
                b[s][j][half] = m < c.columns && k < c.depth
                                    ? *(const uint32_t *)(w + (int64_t)m * c.depth + k)
                                    : 0;
            }
}

/* acc: the products of TILE rows, this lane's chunk of them at `at`. The last step is short if
 * `half`: lanes that would read beyond it have an address 16 bytes lower. */
template <typename E, int STEPS>
static __device__ __forceinline__ void multiply(float (*acc)[4], uint32_t at,
                                                const uint32_t (*b)[4][2], bool half)
{
#pragma unroll
    for (int j = 0; j < 4; j++) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        uint32_t a[4];
        if (s < STEPS - 1) {
            lk_matrices(a, at + 32 * s);
        } else {
            bool beyond = half && (threadIdx.x & 16) != 0;
            lk_matrices(a, at + 32 * s - (beyond ? 16 : 0));
            if (half) a[2] = a[3] = 0;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) lk_mma<E>(acc[j], a, b[s][j][0], b[s][j][1]);
    }
}

/* Moments of a thread's 8 columns about `first`. */
typedef struct moments {
    float first[8], sum[8], square[8];
} moments;

/* Row R = 0 or 1 of the thread's two to `to`, and as it is stored there into m. */
template <typename E, int R>
static __device__ __forceinline__ void put_row(E *to, const float (*acc)[4], moments &m)
{
    uint32_t word[4];
#pragma unroll
    for (int j = 0; j < 4; j++) word[j] = lk_pack<E>(acc[j][2 * R], acc[j][2 * R + 1]);
    *(uint4 *)to = make_uint4(word[0], word[1], word[2], word[3]);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float2 v = lk_pair(word[j], E());
        v.x -= m.first[2 * j];
        v.y -= m.first[2 * j + 1];
        m.sum[2 * j] += v.x;
        m.sum[2 * j + 1] += v.y;
        m.square[2 * j] = fmaf(v.x, v.x, m.square[2 * j]);
        m.square[2 * j + 1] = fmaf(v.y, v.y, m.square[2 * j + 1]);
    }
}

/* m.first: row 0 of acc as it is stored; the sums are 0. */
template <typename E>
static __device__ __forceinline__ void begin_moments(moments &m, const float (*acc)[4])
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t word = lk_pack<E>(acc[j][0], acc[j][1]);
        float2 v = lk_pair(__shfl_sync(0xFFFFFFFFu, word, threadIdx.x & 3), E());
        m.first[2 * j] = v.x;
        m.first[2 * j + 1] = v.y;
        m.sum[2 * j] = m.sum[2 * j + 1] = m.square[2 * j] = m.square[2 * j + 1] = 0;
    }
}

/* The sums over the rows of a warp, all lanes. */
static __device__ __forceinline__ void sum_lanes(moments &m)
{
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int k = 4; k < 32; k <<= 1) {
            m.sum[j] += __shfl_xor_sync(0xFFFFFFFFu, m.sum[j], k);
            m.square[j] += __shfl_xor_sync(0xFFFFFFFFu, m.square[j], k);
        }
}

/* Where the moments of the blocks go. */
typedef struct partial {
    float *mean, *square; /* [blocks,M]; square: about the mean */
    float *count;         /* [blocks] */
} partial;

/* Join the lines of each slot in order, in `memory` [join_floats()]. */
static __device__ __forceinline__ void join_lines(float *memory, moments &m, const cut &c, int slot,
                                                  int line, const partial &to)
{
    int columns = c.width * SLOT, lane = threadIdx.x & 31, group = blockIdx.x, block = blockIdx.y;
    float *first = memory, *sums = first + columns, *squares = sums + c.lines * columns;
    sum_lanes(m);
    if (lane < 4) {
        int at = slot * SLOT + 8 * lane;
        if (line == 0) lk_put<8>(first + at, m.first);
        lk_put<8>(sums + line * columns + at, m.sum);
        lk_put<8>(squares + line * columns + at, m.square);
    }
    __syncthreads();
    int i = (int)threadIdx.x, column = group * columns + i;
    float n = (float)rows_of(c, block);
    if (group == 0 && i == 0) to.count[block] = n;
    if (i >= columns || column >= c.columns) return;
    float sum = 0, square = 0;
    for (int l = 0; l < c.lines; l++) {
        sum += sums[l * columns + i];
        square += squares[l * columns + i];
    }
    float d = sum / n;
    square -= sum * d;
    to.mean[(int64_t)block * c.columns + column] = first[i] + d;
    to.square[(int64_t)block * c.columns + column] = square < 0 ? 0 : square;
}

/* Grid (groups, blocks). */
template <typename E, int STEPS>
static __global__ void __launch_bounds__(32 * warps_of(STEPS), resident_of(STEPS))
    k_pointwise(const E *x /* [N,K] */, const E *w /* [M,K] */, E *y /* [N,M] */, cut c, partial to)
{
    extern __shared__ __align__(16) unsigned char memory[];
    uint32_t ring = lk_shared_address(memory);
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, line = warp / c.width;
    int slot = warp - line * c.width, column = ((int)blockIdx.x * c.width + slot) * SLOT;
    bool half = c.depth % 16 != 0;
#pragma unroll
    for (int k = 0; k < STAGES - 1; k++) {
        int64_t t = blockIdx.y + (int64_t)k * c.blocks;
        if (t < c.tiles) copy_tile<E, STEPS>(ring + k * c.stage, x, c, t);
        lk_copies_commit();
    }
    uint32_t b[STEPS][4][2];
    get_weights<E, STEPS>(b, w, c, column);
    /* Of this lane: its place in TILE rows of x, its first row of y and its columns there. */
    uint32_t place = (lane & 15) * c.row + 16 * (lane >> 4);
    int own = column + 8 * (lane & 3), row = lane >> 2;
    y += (int64_t)(TILE * line + row) * c.columns + own;
    int64_t lower = 8 * (int64_t)c.columns, next = TILE * c.lines * (int64_t)c.columns;
    int begin = column < c.columns ? TILE * line : c.tile, step = TILE * c.lines, now = 0;
    moments m;
    float acc[4][4];
    for (int64_t t = blockIdx.y; t < c.tiles; t += c.blocks) {
        lk_copies_wait<STAGES - 2>();
        __syncthreads(); /* tile t is there; nobody reads the one before it any more */
        int64_t ahead = t + (int64_t)(STAGES - 1) * c.blocks;
        int free = now == 0 ? STAGES - 1 : now - 1;
        if (ahead < c.tiles) copy_tile<E, STEPS>(ring + free * c.stage, x, c, ahead);
        lk_copies_commit();
        uint32_t at = ring + now * c.stage + place;
        if (t == blockIdx.y) { /* all lines alike: of the block's first row */
            multiply<E, STEPS>(acc, at, b, half);
            begin_moments<E>(m, acc);
        }
        int64_t left = c.rows - t * c.tile;
        int there = own < c.columns ? (int)(left < c.tile ? left : c.tile) - row : 0;
        E *out = y + t * c.tile * c.columns;
        at += begin * c.row;
        for (int r = begin; r < c.tile; r += step, at += step * c.row, out += next) {
            multiply<E, STEPS>(acc, at, b, half);
            if (r < there) put_row<E, 0>(out, acc, m);
            if (r + 8 < there) put_row<E, 1>(out + lower, acc, m);
        }
        now = now == STAGES - 1 ? 0 : now + 1;
    }
    __syncthreads(); /* the stages are read */
    join_lines((float *)memory, m, c, slot, line, to);
}

/* ---- launching ------------------------------------------------------------------------------ */

bool lk_cuda_pointwise_fits(const lk_cuda *d, const lk_node *n)
{
    lk_dtype type = n->in[0]->dtype;
    if ((type != LK_F16 && type != LK_BF16) || n->out[0]->dtype != type) return false;
    int64_t depth = lk_cols(n->in[0]), columns = lk_cols(n->out[0]);
    if (depth % 8 || columns % 8 || depth > 16 * MOST_STEPS) return false;
    if (depth * columns > PRODUCTS_OF_BYTE * 2 * (depth + columns)) return false;
    cut c = cut_of(n);
    return shared_of(&c) <= d->shared;
}

template <typename E, int STEPS>
static lk_status launch(lk_exec *x, const lk_node *n, const cut &c, const partial &to)
{
    auto kernel = k_pointwise<E, STEPS>;
    size_t bytes = shared_of(&c);
    LK_CUDA_AT(n, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       (int)bytes));
    kernel<<<dim3(c.groups, c.blocks), 32 * c.width * c.lines, bytes, lk_cuda_stream_of(x)>>>(
        (const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
        (E *)lk_data(x, n->out[0]), c, to);
    return lk_cuda_launched(n);
}

/* With the kernel of so many steps. */
template <typename E, int STEPS = MOST_STEPS>
static lk_status run(lk_exec *x, const lk_node *n, const cut &c, const partial &to)
{
    if constexpr (STEPS > 1)
        if (c.steps < STEPS) return run<E, STEPS - 1>(x, n, c, to);
    return launch<E, STEPS>(x, n, c, to);
}

static lk_moments moments_of(lk_exec *x, const lk_node *n)
{
    return lk_cuda_moments_of(x, n, 1, n->attr.batch_norm.eps);
}

lk_status lk_cuda_pointwise(lk_exec *x, const lk_node *n)
{
    cut c = cut_of(n);
    partial to;
    to.mean = (float *)x->base[LK_REGION_SCRATCH];
    to.square = to.mean + (int64_t)c.blocks * c.columns;
    to.count = to.square + (int64_t)c.blocks * c.columns;
    LK_FLOAT_SWITCH(n->in[0]->dtype, E, {
        if constexpr (sizeof(E) == 2) LK_TRY(run<E>(x, n, c, to));
    });
    return lk_cuda_join_moments(x, n, to.mean, to.square, to.count, c.blocks, n->out[0],
                                moments_of(x, n));
}

size_t lk_cuda_linear_moments_scratch(const lk_cuda *, const lk_node *n)
{
    cut c = cut_of(n);
    size_t own = (size_t)c.blocks * (2 * (size_t)c.columns + 1) * sizeof(float);
    size_t other = lk_cuda_moments_scratch(n->out[0]);
    return own > other ? own : other;
}

extern "C" lk_status lk_cuda_linear_moments(lk_exec *x, const lk_node *n)
{
    lk_matmul_done done;
    LK_TRY(lk_cuda_matmul(x, n, &done));
    return done != LK_MATMUL_BARE ? LK_OK : lk_cuda_measure(x, n, n->out[0], moments_of(x, n));
}
