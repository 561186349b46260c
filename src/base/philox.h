/* Counter-based random numbers, the same on host and device.
 *
 * Philox 4x32-10: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 * Everything random in a run is a pure function of (seed, purpose, step, leaf, index): never of
 * rank, thread or the number of calls made before. */
#ifndef LK_BASE_PHILOX_H
#define LK_BASE_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define LK_HD __host__ __device__ __forceinline__
#else
#define LK_HD static inline
#endif

/* What a random number is for; dropout and init add their site in the low 24 bits. */
#define LK_PURPOSE_INIT 0x01000000u
#define LK_PURPOSE_ORDER 0x02000000u
#define LK_PURPOSE_EVAL 0x03000000u
#define LK_PURPOSE_DROPOUT 0x04000000u
#define LK_PURPOSE_GENERATE 0x05000000u
#define LK_PURPOSE_AUGMENT 0x06000000u

typedef struct lk_u32x4 {
    uint32_t v[4];
} lk_u32x4;

/* a b in 64 bits. nvcc 13.0 adds 0 to the upper word of the product it is left to find. */
LK_HD uint64_t lk_wide_product(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    uint64_t p;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(p) : "r"(a), "r"(b));
    return p;
#else
    return (uint64_t)a * b;
#endif
}

/* Four random words for the counter (index, purpose, leaf, step) under `seed`. */
LK_HD lk_u32x4 lk_philox(uint64_t seed, uint32_t index, uint32_t purpose, uint32_t leaf,
                         uint32_t step)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t a = index, b = purpose, c = leaf, d = step;
    for (int round = 0; round < 10; round++) {
        uint64_t p = lk_wide_product(a, 0xD2511F53u), q = lk_wide_product(c, 0xCD9E8D57u);
        a = (uint32_t)(q >> 32) ^ b ^ k0;
        b = (uint32_t)q;
        c = (uint32_t)(p >> 32) ^ d ^ k1;
        d = (uint32_t)p;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    lk_u32x4 r = {{a, b, c, d}};
    return r;
}

/* Uniform in [0, 1) with 24 bits. */
LK_HD float lk_uniform(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; }

/* Dropout keeps an element when its word is at least this threshold. `p` in [0, 1). */
LK_HD uint32_t lk_dropout_threshold(float p) { return (uint32_t)((double)p * 4294967296.0); }

/* The word of element `index` of dropout site `site`: word index%4 of counter index/4. A site has
 * LK_DROPOUT_WORDS of them; lk_dropout_fits() (ops/ops.h) refuses what would use one twice. */
#define LK_DROPOUT_WORDS ((int64_t)1 << 34)
LK_HD lk_u32x4 lk_dropout_words(uint64_t seed, uint32_t site, uint32_t leaf, uint64_t step,
                                uint64_t index)
{
    return lk_philox(seed, (uint32_t)(index >> 2), LK_PURPOSE_DROPOUT | site, leaf, (uint32_t)step);
}

/* Keyed permutation of [0, n): a 6-round Feistel network over the next even power of two with
 * cycle walking (J. Black and P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
 * Returns the image of `index` under the permutation named by (seed, purpose, leaf, epoch). */
LK_HD uint64_t lk_permute(uint64_t index, uint64_t n, uint64_t seed, uint32_t purpose,
                          uint32_t leaf, uint32_t epoch)
{
    lk_u32x4 key = lk_philox(seed, 0, purpose, leaf, epoch);
    int half = 1;
    while ((uint64_t)1 << (2 * half) < n) half++;
    uint32_t mask = (uint32_t)(((uint64_t)1 << half) - 1);
    do {
        uint32_t left = (uint32_t)(index >> half) & mask, right = (uint32_t)index & mask;
        for (int round = 0; round < 6; round++) {
            /* the integer hash 'lowbias32' of C. Wellons, hash-prospector */
            uint32_t h = right + key.v[round & 3] + 0x9E3779B9u * (uint32_t)round;
            h ^= h >> 16;
            h *= 0x7FEB352Du;
            h ^= h >> 15;
            h *= 0x846CA68Bu;
            h ^= h >> 16;
            uint32_t next = left ^ (h & mask);
            left = right;
            right = next;
        }
        index = (uint64_t)left << half | right;
    } while (index >= n);
    return index;
}

/* Sample b of a leaf's `batch` at `step`, as its number among the n of the leaf's shard: they are
 * taken in an order of their own each time all have been seen. */
LK_HD int64_t lk_sample_row(uint64_t step, int64_t batch, int64_t b, int64_t n, uint64_t seed,
                            uint32_t purpose, int leaf)
{
    uint64_t at = step * (uint64_t)batch + (uint64_t)b, all = (uint64_t)n;
    return (int64_t)lk_permute(at % all, all, seed, purpose, (uint32_t)leaf, (uint32_t)(at / all));
}

#endif
