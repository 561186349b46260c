/* What kernels with tensor cores share: products (mma.sync), matrices out of shared memory and
 * asynchronous copies into it by 16-byte chunks, of compute capability 8.0 and newer; and for tiles
 * without padding, chunks of a row that change places instead. */
#ifndef LK_CUDA_MMA_CUH
#define LK_CUDA_MMA_CUH

#include "cuda/device.cuh"

static __device__ __forceinline__ uint32_t lk_shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Byte offset of chunk `chunk` of row `row` in a tile whose rows have CHUNKS chunks, 4 or a
 * multiple of 8: any 8 rows that follow each other, at the same chunk, touch all banks. */
template <int CHUNKS> static __device__ __forceinline__ uint32_t lk_chunk_at(int row, int chunk)
{
    int turn = CHUNKS == 4 ? row >> 1 & 3 : row & 7;
    return (uint32_t)((row * CHUNKS + (chunk ^ turn)) * 16);
}

/* Copy 16 bytes into shared memory at `to`; zeros if not inside (nothing is read then). AGAIN: the
 * first-level cache keeps them, since the block reads them again soon. */
template <bool AGAIN = false>
static __device__ __forceinline__ void lk_copy16(uint32_t to, const void *from, bool inside)
{
    int bytes = inside ? 16 : 0;
    if constexpr (AGAIN)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                     "r"(bytes)
                     : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                     "r"(bytes)
                     : "memory");
}

static __device__ __forceinline__ void lk_copies_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Wait until at most N of this thread's latest groups are under way. */
template <int N> static __device__ __forceinline__ void lk_copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void lk_matrices(uint32_t *r, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* The same, each matrix transposed. */
static __device__ __forceinline__ void lk_matrices_turned(uint32_t *r, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* An 8 x 8 matrix, of which lane l holds the pair of columns from 2 (l % 4) on of row l / 4,
 * transposed. */
static __device__ __forceinline__ uint32_t lk_matrix_turned(uint32_t pair)
{
    uint32_t turned;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
    return turned;
}

/* c [16, 8] += a [16, 16] b [16, 8] in f32. With g = lane / 4, t = lane % 4: c[0..1] stand at row
 * g, columns 2t and 2t+1, c[2..3] at row g + 8; a[0..3] hold the pairs of columns from 2t on of
 * (row g, columns 0-7), (g + 8, 0-7), (g, 8-15), (g + 8, 8-15); b0 and b1 the pairs of rows from 2t
 * on of column g of rows 0-7 and 8-15. */
template <typename E>
static __device__ __forceinline__ void lk_mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    if constexpr (std::is_same<E, __half>::value)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* One row of two neighbouring accumulators, x (columns 0-7) and y (8-15), to p (column 0), of which
 * `columns` exist, a multiple of 8; nothing if !real. Lanes of a quad swap pairs, so that each
 * stores 8 bytes and the quad 32 in a row. All lanes of the warp must call it. */
template <typename E>
static __device__ __forceinline__ void lk_put_row(E *p, bool real, int columns, const float *x,
                                                  const float *y)
{
    int t = threadIdx.x & 3, odd = t & 1;
    uint32_t a = lk_pack<E>(x[0], x[1]), b = lk_pack<E>(y[0], y[1]);
    uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, odd ? a : b, 1);
    uint2 v = odd ? make_uint2(got, b) : make_uint2(a, got);
    int column = 8 * odd + 2 * (t & 2);
    if (real && column < columns) *(uint2 *)(p + column) = v;
}

#endif
