/* Time in seconds. */
#ifndef LK_BASE_CLOCK_H
#define LK_BASE_CLOCK_H

#include <time.h>

static inline double lk_clock_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* For durations: it only goes forward. */
static inline double lk_clock_seconds(void) { return lk_clock_of(CLOCK_MONOTONIC); }

/* Since 1970. */
static inline double lk_clock_date(void) { return lk_clock_of(CLOCK_REALTIME); }

#endif
