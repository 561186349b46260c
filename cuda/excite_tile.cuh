/* A warp's tile of the products of excite.cu: COLUMNS of the result for all IMAGES, on tensor cores
 * or by FMA.
 *
 * Tensor cores may take the STEP elements of a step in any order that is the same for both
 * operands: here 8 neighbours belong to one lane, so that fragments are loads of 16 bytes as they
 * come. excite_dx reads the weights along the other dimension: a lane has 4 columns of 8 rows and
 * pairs them in registers; the 4 columns belong to 4 tiles of the tensor core.
 *
 * w [outer, inner], or if TURNED [inner, outer]. Rows lie in the block's memory CHUNK elements at a
 * time, padded with zeros to whole steps; V: elements that are put there, and W: results that are
 * taken out, at once. */
#ifndef LK_CUDA_EXCITE_TILE_CUH
#define LK_CUDA_EXCITE_TILE_CUH

#include "cuda/mma.cuh"

enum {
    IMAGES = 4, /* of a cluster: of the 16 rows of a tensor core's product */
    STEP = 32   /* of the summed dimension, which is divided at its multiples */
};

template <typename E, bool TURNED> struct by_mma {
    static constexpr int COLUMNS = TURNED ? 32 : 8, CHUNK = 1024, V = 8, W = 4;
    static constexpr int BATCH = TURNED ? 2 : 8, WORDS = TURNED ? 16 : 4, TILES = COLUMNS / 8;
    uint32_t held[BATCH][WORDS];
    float sum[TILES][4];

    /* Elements of a row in memory: its bytes are an odd multiple of 64, so that two rows that
     * follow each other touch all banks. */
    static __device__ __forceinline__ int stride(int steps) { return (steps | 1) * STEP; }

    static __device__ __forceinline__ void place(char *memory, int steps, int row, int k,
                                                 const float *v)
    {
        lk_put<V>((E *)memory + row * stride(steps) + k, v);
    }

    __device__ __forceinline__ void clear(void)
    {
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[j][i] = 0;
    }

    /* Ask for the weights of BATCH steps from `step` on, of those before `end`. */
    __device__ __forceinline__ void fetch(const E *w, int inner, int outer, int column, int step,
                                          int end)
    {
        int lane = threadIdx.x & 31, own = column + (lane >> 2) * (TURNED ? 4 : 1);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            int k = (step + b) * STEP + 8 * (lane & 3);
            bool in = step + b < end && k < inner && own < outer;
            if constexpr (TURNED) {
                const E *from = w + (int64_t)k * outer + own;
#pragma unroll
                for (int i = 0; i < 8; i++, from += outer) {
                    uint2 v = in ? *(const uint2 *)from : make_uint2(0, 0);
                    held[b][2 * i] = v.x, held[b][2 * i + 1] = v.y;
                }
            } else {
                uint4 v =
                    in ? *(const uint4 *)(w + (int64_t)own * inner + k) : make_uint4(0, 0, 0, 0);
                held[b][0] = v.x, held[b][1] = v.y, held[b][2] = v.z, held[b][3] = v.w;
            }
        }
    }

    /* Column j of rows i and i + 1 of a step, as one register. */
    static __device__ __forceinline__ uint32_t across(const uint32_t *rows, int i, int j)
    {
        return __byte_perm(rows[2 * i + j / 2], rows[2 * i + 2 + j / 2], j % 2 ? 0x7632 : 0x5410);
    }

    /* Multiply what was fetched. from: the step that memory begins with. */
    __device__ __forceinline__ void use(const char *memory, int steps, const E *, int, int, int,
                                        int step, int end, int from)
    {
        int lane = threadIdx.x & 31;
        const E *row = (const E *)memory + (lane >> 2) * stride(steps) + 8 * (lane & 3);
        bool real = lane >> 2 < IMAGES;
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            if (step + b >= end) break;
            uint4 v = real ? *(const uint4 *)(row + (step + b - from) * STEP)
                           : make_uint4(0, 0, 0, 0);
            const uint32_t a[2][4] = {{v.x, 0, v.y, 0}, {v.z, 0, v.w, 0}};
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if constexpr (TURNED) {
#pragma unroll
                    for (int j = 0; j < TILES; j++)
                        lk_mma<E>(sum[j], a[half], across(held[b], 4 * half, j),
                                  across(held[b], 4 * half + 2, j));
                } else {
                    lk_mma<E>(sum[0], a[half], held[b][2 * half], held[b][2 * half + 1]);
                }
            }
        }
    }

    /* to [IMAGES, width]: the sums. */
    __device__ __forceinline__ void put(float *to, int width) const
    {
        int lane = threadIdx.x & 31, t = lane & 3;
        float *row = to + (lane >> 2) * width;
        if (lane >> 2 >= IMAGES) return;
        if constexpr (TURNED) { /* a lane's column of tile j is column j of the four it loads */
#pragma unroll
            for (int i = 0; i < 2; i++)
                ((float4 *)row)[2 * t + i] =
                    make_float4(sum[0][i], sum[1][i], sum[2][i], sum[3][i]);
        } else {
            ((float2 *)row)[t] = make_float2(sum[0][0], sum[0][1]);
        }
    }
};

/* A column a lane. */
template <typename E, bool TURNED> struct by_fma {
    static constexpr int COLUMNS = 32, CHUNK = 512, V = 1, W = 1, BATCH = 1;
    float sum[IMAGES];

    static __device__ __forceinline__ void place(char *memory, int, int row, int k, const float *v)
    {
        ((float *)memory)[k * IMAGES + row] = *v;
    }

    __device__ __forceinline__ void clear(void)
    {
#pragma unroll
        for (int i = 0; i < IMAGES; i++) sum[i] = 0;
    }

    __device__ __forceinline__ void fetch(const E *, int, int, int, int, int) {}

    __device__ __forceinline__ void use(const char *memory, int, const E *w, int inner, int outer,
                                        int column, int step, int end, int from)
    {
        int own = column + (threadIdx.x & 31);
        if (step >= end || own >= outer) return;
        const E *weight = w + (TURNED ? own : (int64_t)own * inner);
        const float4 *row = (const float4 *)memory + (step - from) * STEP * (IMAGES / 4);
#pragma unroll 8
        for (int k = step * STEP; k < min(step * STEP + STEP, inner); k++, row += IMAGES / 4) {
            float factor = lk_float(weight[TURNED ? (int64_t)k * outer : k]);
#pragma unroll
            for (int i = 0; i < IMAGES; i += 4) {
                float4 a = row[i / 4];
                sum[i] = fmaf(a.x, factor, sum[i]);
                sum[i + 1] = fmaf(a.y, factor, sum[i + 1]);
                sum[i + 2] = fmaf(a.z, factor, sum[i + 2]);
                sum[i + 3] = fmaf(a.w, factor, sum[i + 3]);
            }
        }
    }

    __device__ __forceinline__ void put(float *to, int width) const
    {
#pragma unroll
        for (int i = 0; i < IMAGES; i++) to[i * width + (threadIdx.x & 31)] = sum[i];
    }
};

template <typename E, bool MMA, bool TURNED>
using tile_of = typename std::conditional<MMA, by_mma<E, TURNED>, by_fma<E, TURNED>>::type;

#endif
