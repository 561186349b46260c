/* The two ceilings of a device, and what a piece of work needs at least under them
 * (S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009). */
#ifndef LK_TRACE_ROOFLINE_H
#define LK_TRACE_ROOFLINE_H

#include "backend/backend.h"

typedef struct lk_roofline {
    double rate;      /* FLOP/s of a large product in the working type; 0: not known */
    double bandwidth; /* bytes/s of a large sum; 0: not known */
    double rate_low, bandwidth_low; /* in the worst moment while they were measured; 0: not known */
} lk_roofline;

/* Measure them, with up to about 400 MB of device memory, in about two seconds: the fastest of many
 * short measurements, so that little depends on what else the machine does meanwhile. */
lk_status lk_roofline_measure(lk_device *d, lk_dtype type, lk_roofline *r);

/* What was measured swings so much that other work must have shared the device. */
static inline bool lk_roofline_busy(const lk_roofline *r)
{
    return r->rate_low < 0.8 * r->rate || r->bandwidth_low < 0.8 * r->bandwidth;
}

/* The least seconds for this work: max(flops / rate, bytes / bandwidth). */
static inline double lk_roofline_seconds(const lk_roofline *r, double flops, double bytes)
{
    double computing = r->rate > 0 ? flops / r->rate : 0;
    double moving = r->bandwidth > 0 ? bytes / r->bandwidth : 0;
    return computing > moving ? computing : moving;
}

#endif
