/* The exact reduction: recursive halving (reduce-scatter), then recursive doubling (all-gather).
 *
 * Step k pairs rank r with r ^ 2^k. Each halves the range it still owns, sends the half it gives
 * up, and adds the partner's copy of the half it keeps. After log2(size) steps an element has been
 * summed as ((r0+r1)+(r2+r3))+...: the binary tree over ranks, the same for every element and
 * therefore independent of how the buffer is cut. Floating-point addition is commutative, so the
 * two partners' order does not matter. (R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of
 * collective communication operations in MPICH", 2005.) */
#include "comm/comm.h"

lk_status lk_reduce(lk_comm *c, lk_device *d, float *buffer, int64_t count, bool exact)
{
    if (!c || c->size == 1) return LK_OK;
    if (!exact) return c->collectives->all_reduce(c, d, buffer, count);

    int64_t low[32], high[32]; /* the range before step k */
    int steps = 0;
    int64_t from = 0, to = count;
    for (int bit = 1; bit < c->size; bit <<= 1, steps++) {
        low[steps] = from;
        high[steps] = to;
        int64_t middle = from + (to - from) / 2;
        bool upper = c->rank & bit;
        int64_t keep = upper ? middle : from, kept = upper ? to - middle : middle - from;
        int64_t give = upper ? from : middle, given = upper ? middle - from : to - middle;
        LK_TRY(c->collectives->exchange(c, d, buffer + give, given, c->staging, kept,
                                        c->rank ^ bit));
        LK_TRY(d->backend->add(d, buffer + keep, c->staging, kept));
        from = keep;
        to = keep + kept;
    }
    while (steps-- > 0) {
        int bit = 1 << steps;
        int64_t other = c->rank & bit ? low[steps] : to;
        int64_t others = (high[steps] - low[steps]) - (to - from);
        LK_TRY(c->collectives->exchange(c, d, buffer + from, to - from, buffer + other, others,
                                        c->rank ^ bit));
        from = low[steps];
        to = high[steps];
    }
    return LK_OK;
}
