/* Hopper instructions (sm_90a): warpgroup matrix products, mbarriers, the copy engine.
 *
 * A tile is ROWS x D elements of 2 bytes, cut into panels of panel_columns(D) columns, each panel
 * row after row with the swizzle of its row length (128 or 64 bytes), as the copy engine writes it.
 * The same tile serves as B operand both ways: with D summed over (K-major) and with the rows
 * summed over (MN-major). Descriptors: PTX ISA, "Asynchronous warpgroup level matrix shared memory
 * layout". Tiles start at multiples of 1024 bytes.
 *
 * Accumulators d[N / 8][4] and A operands a[4] are laid out over the lanes of each warp as those of
 * mma.sync m16n8k16. */
#ifndef LK_CUDA_WGMMA_CUH
#define LK_CUDA_WGMMA_CUH

#include "cuda/mma.cuh"

#include <cuda.h>

/* ---- tiles ---------------------------------------------------------------------------------- */

__host__ __device__ constexpr int panel_columns(int d) { return d % 64 ? 32 : 64; }
__host__ __device__ constexpr int row_bytes(int d) { return 2 * panel_columns(d); }
__host__ __device__ constexpr int panels(int d) { return d / panel_columns(d); }
__host__ __device__ constexpr int tile_bytes(int rows, int d) { return 2 * rows * d; }

static __device__ __forceinline__ uint64_t descriptor(uint32_t at, uint32_t leading,
                                                      uint32_t stride, int mode)
{
    return (uint64_t)((at & 0x3FFFF) >> 4) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)mode << 62;
}

/* Tile with the columns summed over; both operands of a b^T. */
template <int D> static __device__ __forceinline__ uint64_t descriptor_k(uint32_t at)
{
    return descriptor(at, 16, 8 * row_bytes(D), D % 64 ? 2 : 1);
}

/* Tile with the rows summed over; operand b of a b. */
template <int D, int ROWS> static __device__ __forceinline__ uint64_t descriptor_mn(uint32_t at)
{
    return descriptor(at, ROWS * row_bytes(D), 8 * row_bytes(D), D % 64 ? 2 : 1);
}

/* What to add to descriptor_k for columns 16 k .. */
template <int D, int ROWS> static __device__ constexpr uint64_t step_k(int k)
{
    constexpr int each = panel_columns(D) / 16;
    return (uint64_t)((k / each * ROWS * row_bytes(D) + k % each * 32) >> 4);
}

/* What to add to descriptor_mn for rows 16 k .. */
template <int D> static __device__ constexpr uint64_t step_mn(int k)
{
    return (uint64_t)((16 * k * row_bytes(D)) >> 4);
}

/* A operand: columns 16 k .. of rows row0 .. row0 + 15 of a 64-row tile. */
template <int D>
static __device__ __forceinline__ void tile_fragment(uint32_t *r, uint32_t tile, int row0, int k)
{
    constexpr int each = panel_columns(D) / 8; /* 16-byte pieces of a row */
    int lane = threadIdx.x & 31, row = row0 + (lane & 15), piece = 2 * k + (lane >> 4);
    int swizzle = each == 8 ? row & 7 : row >> 1 & 3;
    uint32_t at = tile + piece / each * 64 * row_bytes(D) + row * row_bytes(D) +
                  ((piece % each) ^ swizzle) * 16;
    lk_matrices(r, at);
}

/* Shared memory that this thread wrote is seen by the products and copies issued after. */
static __device__ __forceinline__ void shared_publish(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- products ------------------------------------------------------------------------------- */

/* Registers written by other instructions are seen by the products issued after this. */
static __device__ __forceinline__ void products_open(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void products_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* At most PENDING groups still run. */
template <int PENDING> static __device__ __forceinline__ void products_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* The compiler must not move reads or writes of these registers across this point. */
template <int N> static __device__ __forceinline__ void pin(float (&d)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
        asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}

template <int N> static __device__ __forceinline__ void pin(uint32_t (&a)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
        asm volatile("" : "+r"(a[n][0]), "+r"(a[n][1]), "+r"(a[n][2]), "+r"(a[n][3])::"memory");
}

#define LK_ACC(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define LK_ACC16(n) LK_ACC(n), LK_ACC(n + 1), LK_ACC(n + 2), LK_ACC(n + 3)
#define LK_ACC32 LK_ACC16(0), LK_ACC16(4)
#define LK_ACC48 LK_ACC32, LK_ACC16(8)
#define LK_ACC64 LK_ACC48, LK_ACC16(12)
#define LK_REG16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LK_REG32 LK_REG16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LK_REG48 LK_REG32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define LK_REG64 LK_REG48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

/* One instruction; `types` and register numbers as text. */
#define LK_WGMMA_RS(n, types, regs, r0, r1, r2, r3, r4, r5, r6, ...)                               \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" r5 ", 0;\n"                                    \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." types " {" regs "}, "            \
                 "{%" r0 ",%" r1 ",%" r2 ",%" r3 "}, %" r4 ", p, 1, 1, %" r6 "; }"                 \
                 : __VA_ARGS__                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(MN))
#define LK_WGMMA_SS(n, types, regs, r0, r1, r2, r3, ...)                                           \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" r2 ", 0;\n"                                    \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." types " {" regs "}, "            \
                 "%" r0 ", %" r1 ", p, 1, 1, 0, %" r3 "; }"                                        \
                 : __VA_ARGS__                                                                     \
                 : "l"(a), "l"(b), "r"(add), "n"(MN))
#define LK_WGMMA_RS_ANY(types)                                                                     \
    if constexpr (N == 32)                                                                         \
        LK_WGMMA_RS("32", types, LK_REG16, "16", "17", "18", "19", "20", "21", "22", LK_ACC16(0)); \
    else if constexpr (N == 64)                                                                    \
        LK_WGMMA_RS("64", types, LK_REG32, "32", "33", "34", "35", "36", "37", "38", LK_ACC32);    \
    else if constexpr (N == 96)                                                                    \
        LK_WGMMA_RS("96", types, LK_REG48, "48", "49", "50", "51", "52", "53", "54", LK_ACC48);    \
    else                                                                                           \
        LK_WGMMA_RS("128", types, LK_REG64, "64", "65", "66", "67", "68", "69", "70", LK_ACC64)

#define LK_WGMMA_SS_ANY(types)                                                                     \
    if constexpr (N == 32)                                                                         \
        LK_WGMMA_SS("32", types, LK_REG16, "16", "17", "18", "19", LK_ACC16(0));                   \
    else if constexpr (N == 64)                                                                    \
        LK_WGMMA_SS("64", types, LK_REG32, "32", "33", "34", "35", LK_ACC32);                      \
    else                                                                                           \
        LK_WGMMA_SS("128", types, LK_REG64, "64", "65", "66", "67", LK_ACC64)

/* d [64, N] (+)= a b, a [64, 16] in registers. MN: b is MN-major. */
template <typename E, int MN, int N>
static __device__ __forceinline__ void wgmma(float (&d)[N / 8][4], const uint32_t (&a)[4],
                                             uint64_t b, int add)
{
    static_assert(N == 32 || N == 64 || N == 96 || N == 128, "");
    if constexpr (std::is_same<E, __half>::value) {
        LK_WGMMA_RS_ANY("f16.f16");
    } else {
        LK_WGMMA_RS_ANY("bf16.bf16");
    }
}

/* The same with a [64, 16] in shared memory, K-major. */
template <typename E, int MN, int N>
static __device__ __forceinline__ void wgmma_shared(float (&d)[N / 8][4], uint64_t a, uint64_t b,
                                                    int add)
{
    static_assert(N == 32 || N == 64 || N == 128, "");
    if constexpr (std::is_same<E, __half>::value) {
        LK_WGMMA_SS_ANY("f16.f16");
    } else {
        LK_WGMMA_SS_ANY("bf16.bf16");
    }
}

/* s [64, ROWS] (+)= a b^T. When ROWS is D, in two halves, the second `bytes` further in b: where
 * these products have the shape of accumulate()'s, ptxas of CUDA 13.0 gives both `a` the same
 * registers, and the weights overwrite this one. */
template <typename E, int D, int ROWS>
static __device__ __forceinline__ void wgmma_halves(float (&s)[ROWS / 8][4], const uint32_t (&a)[4],
                                                    uint64_t b, int bytes, int add)
{
    if constexpr (D == ROWS) {
        float(&s0)[ROWS / 16][4] = *(float(*)[ROWS / 16][4])s;
        float(&s1)[ROWS / 16][4] = *(float(*)[ROWS / 16][4])(s + ROWS / 16);
        wgmma<E, 0, ROWS / 2>(s0, a, b, add);
        wgmma<E, 0, ROWS / 2>(s1, a, b + bytes / 16, add);
    } else {
        wgmma<E, 0, ROWS>(s, a, b, add);
    }
}

/* The left operand of a b^T: a 64-row tile, in registers or left in shared memory. */
template <int D, bool REGISTERS> struct left_operand {
    uint32_t r[REGISTERS ? D / 16 : 1][4];
    uint64_t tile;
    __device__ __forceinline__ void load(uint32_t at, int row0)
    {
        if constexpr (REGISTERS) {
#pragma unroll
            for (int k = 0; k < D / 16; k++) tile_fragment<D>(r[k], at, row0, k);
            pin(r);
        } else {
            tile = descriptor_k<D>(at);
        }
    }
};

/* s [64, ROWS] = a [64, D] b^T; tile b [ROWS, D] at `b`. Commits a group. ONTO: s +=, by products
 * that are open already. */
template <typename E, int D, int ROWS, bool ONTO = false, bool REGISTERS>
static __device__ __forceinline__ void scores(float (&s)[ROWS / 8][4],
                                              const left_operand<D, REGISTERS> &a, uint32_t b)
{
    uint64_t at = descriptor_k<D>(b);
    if (!ONTO) products_open();
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint64_t from = at + step_k<D, ROWS>(k);
        if constexpr (REGISTERS)
            wgmma_halves<E, D, ROWS>(s, a.r[k], from, ROWS / 2 * row_bytes(D), ONTO || k > 0);
        else
            wgmma_shared<E, 0, ROWS>(s, a.tile + step_k<D, 64>(k), from, ONTO || k > 0);
    }
    products_commit();
}

/* A plane over a tile of scores: across n + 64 down at column n of a row. Left operand: `across` in
 * columns 0..2 and `down` in 4..6, each in three pieces that add up to it. Right operand: 64 rows
 * of n, n, n, 0, 64, 64, 64, 0, and 8 that a product takes for columns 8..15 of the last, times 0.
 * Where slope / scale is at most 16, PLANE_REACH rows are within the range of f16. */
enum { PLANE_ROWS = 72, PLANE_REACH = 1 << 17 };

/* By all threads, before __syncthreads. */
template <typename E> static __device__ __forceinline__ void plane_rows(uint4 *rows)
{
    float n = (float)threadIdx.x;
    if (threadIdx.x < PLANE_ROWS)
        rows[threadIdx.x] = make_uint4(lk_pack<E>(n, n), lk_pack<E>(n, 0), lk_pack<E>(64, 64),
                                       lk_pack<E>(64, 0));
    shared_publish();
}

/* s [64, ROWS] = the plane; `down` of the rows r and r + 8 of this lane. Opens the products and
 * leaves them open for scores() onto it. */
template <typename E, int D, int ROWS>
static __device__ __forceinline__ void plane(float (&s)[ROWS / 8][4], const uint4 *rows,
                                             float across, float down0, float down8)
{
    uint32_t a[4] = {0, 0, 0, 0};
    int columns = threadIdx.x & 3; /* 2 columns, 2 columns + 1 */
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float x = columns < 2 ? across : r ? down8 : down0;
        float first = lk_float(lk_store<E>(x)), second = lk_float(lk_store<E>(x - first));
        a[r] = columns & 1 ? lk_pack<E>(x - first - second, 0) : lk_pack<E>(first, second);
    }
    products_open();
    wgmma_halves<E, D, ROWS>(s, a, descriptor(lk_shared_address(rows), 128, 128, 0), ROWS / 2 * 16,
                             0);
}

/* acc [64, D] += p [64, ROWS] b; tile b [ROWS, D] at `b`. Commits a group. */
template <typename E, int D, int ROWS>
static __device__ __forceinline__ void accumulate(float (&acc)[D / 8][4],
                                                  uint32_t (&p)[ROWS / 16][4], uint32_t b)
{
    uint64_t at = descriptor_mn<D, ROWS>(b);
    products_open();
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) wgmma<E, 1, D>(acc, p[k], at + step_mn<D>(k), 1);
    products_commit();
}

/* Registers per thread of this warpgroup, down or up to N. */
template <int N> static __device__ __forceinline__ void registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* The first two warpgroups take turns at issuing products, so that the softmax of one runs during
 * the products of the other: the tensor cores would serve both at once, and both wait together.
 * Each takes and passes equally often, group 0 first (barriers 1 and 2). */
static __device__ __forceinline__ void turn_take(int group)
{
    asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
}

static __device__ __forceinline__ void turn_pass(int group)
{
    asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory");
}

static __device__ __forceinline__ void turns_begin(int group)
{
    if (group == 1) turn_pass(group);
}

static __device__ __forceinline__ void turns_end(int group)
{
    if (group == 0) turn_take(group);
}

/* The threads of one of the two wait for each other (barriers 3 and 4). */
static __device__ __forceinline__ void group_sync(int group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(3 + group) : "memory");
}

/* ---- barriers and the copy engine ----------------------------------------------------------- */

static __device__ __forceinline__ void barrier_init(uint64_t *b, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(lk_shared_address(b)),
                 "r"(arrivals)
                 : "memory");
}

/* After barrier_init by one thread, before __syncthreads. */
static __device__ __forceinline__ void barriers_publish(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(lk_shared_address(b)) : "memory");
}

/* At the barrier of block `rank` of the cluster that lies where `b` does. */
static __device__ __forceinline__ void barrier_arrive_at(uint64_t *b, int rank)
{
    asm volatile("{ .reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(
                     lk_shared_address(b)),
                 "r"(rank)
                 : "memory");
}

static __device__ __forceinline__ int cluster_rank(void)
{
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of all blocks of the cluster. */
static __device__ __forceinline__ void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;\n"
                 "barrier.cluster.wait.acquire;" ::: "memory");
}

/* Arrive and expect that many bytes of copies. */
static __device__ __forceinline__ void barrier_expect(uint64_t *b, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     lk_shared_address(b)),
                 "r"(bytes)
                 : "memory");
}

/* Wait for the end of the phase of this parity. */
static __device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity)
{
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }" ::"r"(lk_shared_address(b)),
                 "r"(parity)
                 : "memory");
}

/* Tile [ROWS, D] at `to` = rows row0.. of batch entry `entry`, columns column..; zero outside. */
template <int D, int ROWS>
static __device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap *map, uint64_t *b,
                                                 int column, int row0, int entry)
{
#pragma unroll
    for (int p = 0; p < panels(D); p++)
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx"
                     "::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to + p * ROWS * row_bytes(D)),
                     "l"(map), "r"(lk_shared_address(b)), "r"(column + p * panel_columns(D)),
                     "r"(row0), "r"(entry)
                     : "memory");
}

/* The same to this place in every block of the cluster that `blocks` has a bit for; each block's
 * barrier at the place of `b` counts what came to it. */
template <int D, int ROWS>
static __device__ __forceinline__ void copy_tile_to(uint16_t blocks, uint32_t to,
                                                    const CUtensorMap *map, uint64_t *b, int column,
                                                    int row0)
{
#pragma unroll
    for (int p = 0; p < panels(D); p++)
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx"
                     "::bytes.multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(
                         to + p * ROWS * row_bytes(D)),
                     "l"(map), "r"(lk_shared_address(b)), "r"(column + p * panel_columns(D)),
                     "r"(row0), "r"(0), "h"(blocks)
                     : "memory");
}

/* Bring a tile, of one panel, into the L2 cache. */
static __device__ __forceinline__ void fetch_tile(const CUtensorMap *map, int column, int row0)
{
    asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(map),
                 "r"(column), "r"(row0), "r"(0)
                 : "memory");
}

/* Tile of one panel at `from` to rows row0.., columns column..; what lies outside is left out.
 * Shared memory written by other instructions: after shared_publish() by each writer. */
static __device__ __forceinline__ void store_panel(const CUtensorMap *map, uint32_t from,
                                                   int column, int row0)
{
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group "
                 "[%0, {%2, %3, %4}], [%1];" ::"l"(map),
                 "r"(from), "r"(column), "r"(row0), "r"(0)
                 : "memory");
}

static __device__ __forceinline__ void stores_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* The stores of this thread, but for the last PENDING committed ones, have read shared memory;
 * stores_wait: all are done. */
template <int PENDING> static __device__ __forceinline__ void stores_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

static __device__ __forceinline__ void stores_wait(void)
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Bytes and both addresses are multiples of 16. */
static __device__ __forceinline__ void copy_bytes(uint32_t to, const void *from, int bytes,
                                                  uint64_t *b)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(lk_shared_address(b))
                 : "memory");
}

/* Map of a tensor [batch, t, width] of 2-byte elements for copies of rows x panel_columns(d). */
static inline cudaError_t tile_map(CUtensorMap *map, bool bf16, const void *data, int64_t batch,
                                   int64_t t, int64_t width, int rows, int d)
{
    typedef CUresult (*encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                     cudaEnableDefault, &found);
    if (e != cudaSuccess) return e;
    if (found != cudaDriverEntryPointSuccess || !entry) return cudaErrorNotSupported;
    cuuint64_t size[3] = {(cuuint64_t)width, (cuuint64_t)t, (cuuint64_t)batch};
    cuuint64_t stride[2] = {(cuuint64_t)width * 2, (cuuint64_t)(t * width) * 2};
    cuuint32_t box[3] = {(cuuint32_t)panel_columns(d), (cuuint32_t)rows, 1}, one[3] = {1, 1, 1};
    CUresult r = ((encoder)entry)(
        map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
        (void *)data, size, stride, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
        d % 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* A kernel's body exists in code for sm_90a only; its static shared memory tells whether it does:
 * whether this build has `kernel` for the current device. */
template <typename K> static bool wgmma_compiled(K kernel)
{
    cudaFuncAttributes f;
    if (cudaFuncGetAttributes(&f, kernel) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    return f.sharedSizeBytes > 0;
}

#endif
