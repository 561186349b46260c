/* The range of a tensor and its first element that is not finite. */
#include "cpu/device.h"

static void measure_block(const float *x, int64_t first, int64_t count, lk_range *r)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(x[i])) {
            if (r->bad < 0) r->bad = first + i;
            r->bads++;
            continue;
        }
        if (x[i] < r->low) r->low = x[i];
        if (x[i] > r->high) r->high = x[i];
    }
}

static void join(lk_range *all, const lk_range *r)
{
    if (r->bad >= 0 && (all->bad < 0 || r->bad < all->bad)) all->bad = r->bad;
    all->bads += r->bads;
    if (r->low < all->low) all->low = r->low;
    if (r->high > all->high) all->high = r->high;
}

lk_status lk_cpu_measure_range(lk_device *d, lk_dtype type, const void *data, int64_t count,
                               lk_range *range)
{
    (void)d;
    const lk_range nothing = {.bad = -1, .low = INFINITY, .high = -INFINITY};
    lk_range all = nothing;
#pragma omp parallel if (count > LK_CPU_SMALL)
    {
        float buffer[LK_CPU_BLOCK];
        lk_range mine = nothing;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i += LK_CPU_BLOCK) {
            int64_t n = count - i < LK_CPU_BLOCK ? count - i : LK_CPU_BLOCK;
            measure_block(lk_cpu_view(type, data, i, n, buffer), i, n, &mine);
        }
#pragma omp critical
        join(&all, &mine);
    }
    *range = all;
    return LK_OK;
}
