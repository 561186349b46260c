/* The watchdog: a thread of each rank that ends a run which hangs, and says why.
 *
 * Each rank's hearts (base/heart.h: the main thread's and the I/O thread's) go to rank 0 several
 * times a second (comm/star.h). Where something takes longer than its limit, rank 0 finds who is to
 * blame: a rank that has fallen silent (stopped, or its host is), else the ranks whose position is
 * behind that of the others, who wait for them. A rank that dies is known at once, for its
 * connection ends. When it is rank 0 that is silent or dead, the others call the roll
 * (comm/roll.h), and the first that is there says so, with all who did not answer. Then every rank
 * ends. Without connections between the ranks, each watches itself alone.
 *
 * Limits: `timeout` seconds, ten times that for what is done for the first times (compiling,
 * choosing algorithms). Without one (timeout < 0) ten times the longest so far of its kind, at
 * least 300 s; 1800 s for the first times. A save that has failed on a rank is to end the run
 * within 30 s, whatever the timeout. */
#ifndef LK_COMM_WATCHDOG_H
#define LK_COMM_WATCHDOG_H

#include "base/heart.h"
#include "comm/comm.h"

typedef struct lk_watchdog lk_watchdog;

typedef struct lk_watchdog_options {
    double timeout; /* seconds; 0: no watchdog; < 0: from the times so far */
    void *context;
    /* Both on the watchdog's thread. Print what happened, on one rank. */
    void (*say)(void *context, const char *text);
    /* End the process without returning, with `all` all ranks. */
    void (*end)(void *context, bool all);
} lk_watchdog_options;

/* Start it and attach the calling thread's heart. *w is NULL when timeout is 0. `warning`, of at
 * least 200 bytes, gets a text for the user or "". Collective. */
lk_status lk_watchdog_open(lk_comm *comm, const lk_watchdog_options *o, lk_watchdog **w,
                           char *warning, size_t size);
lk_heart *lk_watchdog_io(lk_watchdog *w); /* the heart to attach to the I/O thread */
/* This rank fails and says so itself: others are told not to report its end, and this thread's end
 * is the watchdog's. Takes NULL. */
void lk_watchdog_leave(lk_watchdog *w);
/* Not collective; takes NULL. Nobody's heart is attached any more but the caller's. */
void lk_watchdog_close(lk_watchdog *w);

#endif
