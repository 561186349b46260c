/* Between the float types of tensors and blocks of f32. */
#include "base/half.h"
#include "cpu/device.h"

#include <omp.h>

static void load_f16(const uint16_t *p, int64_t n, float *out)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + i))));
#endif
    for (; i < n; i++) out[i] = lk_f32_from_f16(p[i]);
}

static void store_f16(uint16_t *p, int64_t n, const float *in)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(p + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) p[i] = lk_f16_from_f32(in[i]);
}

void lk_cpu_load(lk_dtype type, const void *p, int64_t first, int64_t count, float *out)
{
    if (type == LK_F32) {
        memcpy(out, (const float *)p + first, (size_t)count * sizeof *out);
    } else if (type == LK_F16) {
        load_f16((const uint16_t *)p + first, count, out);
    } else {
        const uint16_t *b = (const uint16_t *)p + first;
        for (int64_t i = 0; i < count; i++) out[i] = lk_f32_from_bf16(b[i]);
    }
}

void lk_cpu_store(lk_dtype type, void *p, int64_t first, int64_t count, const float *in)
{
    if (type == LK_F32) {
        memcpy((float *)p + first, in, (size_t)count * sizeof *in);
    } else if (type == LK_F16) {
        store_f16((uint16_t *)p + first, count, in);
    } else {
        uint16_t *b = (uint16_t *)p + first;
        for (int64_t i = 0; i < count; i++) b[i] = lk_bf16_from_f32(in[i]);
    }
}

const float *lk_cpu_as_f32(const lk_exec *x, const lk_tensor *t, float *buffer)
{
    const void *p = lk_data(x, t);
    if (t->dtype == LK_F32) return p;
    int64_t count = lk_count(t);
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK)
        lk_cpu_load(t->dtype, p, i, count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK,
                    buffer + i);
    return buffer;
}

void lk_cpu_from_f32(const lk_exec *x, const lk_tensor *t, const float *in)
{
    void *p = lk_data(x, t);
    int64_t count = lk_count(t);
    if (p == in) return;
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK)
        lk_cpu_store(t->dtype, p, i, count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK, in + i);
}

size_t lk_cpu_copy_bytes(const lk_tensor *t)
{
    return t && t->dtype != LK_F32 ? lk_cpu_piece((size_t)lk_count(t) * sizeof(float)) : 0;
}

float *lk_cpu_take(char **at, const lk_tensor *t)
{
    float *p = (float *)*at;
    *at += lk_cpu_copy_bytes(t);
    return p;
}

size_t lk_cpu_own_bytes(int64_t count)
{
    return (size_t)omp_get_max_threads() * lk_cpu_piece((size_t)count * sizeof(float));
}

float *lk_cpu_own(void *at, int64_t count)
{
    size_t each = lk_cpu_piece((size_t)count * sizeof(float));
    return (float *)((char *)at + (size_t)omp_get_thread_num() * each);
}

lk_status lk_cpu_cast(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0], *out = n->out[0];
    const void *from = lk_data(x, in);
    void *to = lk_data(x, out);
    int64_t count = lk_count(in);
#pragma omp parallel for schedule(static) if (count > LK_CPU_SMALL)
    for (int64_t i = 0; i < count; i += LK_CPU_BLOCK) {
        float block[LK_CPU_BLOCK];
        int64_t m = count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK;
        lk_cpu_load(in->dtype, from, i, m, block);
        lk_cpu_store(out->dtype, to, i, m, block);
    }
    return LK_OK;
}
