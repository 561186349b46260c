/* What a thread is doing, written by that thread, read by the watchdog (comm/watchdog.h).
 *
 * A thread has the heart it attached, or none, and then these calls do nothing. Work is a sequence
 * of activities; within one, lk_heart_at() names the place, such as the node of the graph being
 * run, at the price of three plain stores. `position` counts both: ranks do the same things in the
 * same order, so of two ranks the one with the lower position is behind. */
#ifndef LK_BASE_HEART_H
#define LK_BASE_HEART_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

typedef enum lk_activity {
    LK_RESTING, /* nothing: may take for ever */
    LK_STARTING,
    LK_READING,  /* the samples of a step */
    LK_STEPPING, /* a step, enqueued or, on the CPU, done */
    LK_AWAITING, /* the device, to finish a step */
    LK_VALIDATING,
    LK_SAVING,
    LK_FAILING, /* of a save: it has failed on this rank, and the others may hang in it */
    LK_ENDING,
    LK_ACTIVITIES
} lk_activity;

typedef struct lk_heart {
    pthread_mutex_t lock;
    lk_activity activity; /* these under the lock */
    uint64_t step;
    double since; /* lk_clock_seconds() */
    double longest[LK_ACTIVITIES]; /* that ended, seconds */
    long count[LK_ACTIVITIES];
    _Atomic int thread; /* of the system */
    _Atomic uint64_t position;
    _Atomic(const char *) what, where;
    const char *why; /* LK_FAILING; under the lock */
} lk_heart;

extern _Thread_local lk_heart *lk_heart_mine;

void lk_heart_init(lk_heart *h);
void lk_heart_attach(lk_heart *h); /* to this thread; NULL: from now on none */
/* This thread begins something, for or after `step`; what it did before has ended. */
void lk_heart_begin(lk_activity activity, uint64_t step);
/* What this thread does has failed: LK_FAILING, for the same step. `why` stands for every place
 * from now on, and must stay until the next lk_heart_begin(). */
void lk_heart_fail(const char *why);
/* What this thread does and for which step; LK_RESTING without a heart. */
lk_activity lk_heart_now(uint64_t *step);

/* The place within the activity: both texts must stay until the next lk_heart_begin() or
 * lk_heart_forget(). `where` may be NULL. */
static inline void lk_heart_at(const char *what, const char *where)
{
    lk_heart *h = lk_heart_mine;
    if (!h) return;
    atomic_store_explicit(&h->what, what, memory_order_relaxed);
    atomic_store_explicit(&h->where, where, memory_order_relaxed);
    uint64_t position = atomic_load_explicit(&h->position, memory_order_relaxed);
    atomic_store_explicit(&h->position, position + 1, memory_order_relaxed);
}

/* The texts of the place are about to go. */
void lk_heart_forget(void);

/* It could not go on for so long, the process was stopped: do not count it. From any thread. */
void lk_heart_forgive(lk_heart *h, double seconds);

/* A copy for others, sent between ranks as it is. */
typedef struct lk_heart_look {
    uint64_t step, position;
    double age;     /* of the activity, seconds */
    double longest; /* such an activity so far, seconds */
    int32_t activity, count;
    char place[256]; /* "blocks.0.ffn.up (linear)", or "" */
    char call[16];   /* of the system, on a file, that it is in for over a second perhaps; or "" */
} lk_heart_look;
void lk_heart_watch(lk_heart *h, lk_heart_look *look); /* from any thread */

#endif
