#include "base/heart.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

_Thread_local lk_heart *lk_heart_mine;

void lk_heart_init(lk_heart *h)
{
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    h->since = lk_clock_seconds();
}

void lk_heart_attach(lk_heart *h)
{
    lk_heart_mine = h;
    if (h) atomic_store(&h->thread, (int)syscall(SYS_gettid));
}

void lk_heart_begin(lk_activity activity, uint64_t step)
{
    lk_heart *h = lk_heart_mine;
    if (!h) return;
    double now = lk_clock_seconds();
    pthread_mutex_lock(&h->lock);
    double took = now - h->since;
    if (took > h->longest[h->activity]) h->longest[h->activity] = took;
    h->count[h->activity]++;
    h->activity = activity;
    h->step = step;
    h->since = now;
    h->why = NULL;
    atomic_store(&h->what, NULL); /* under the lock: nobody reads the old texts any more */
    atomic_store(&h->where, NULL);
    atomic_store(&h->position, atomic_load(&h->position) + 1);
    pthread_mutex_unlock(&h->lock);
}

void lk_heart_fail(const char *why)
{
    lk_heart *h = lk_heart_mine;
    if (!h) return;
    lk_heart_begin(LK_FAILING, h->step);
    pthread_mutex_lock(&h->lock);
    h->why = why;
    pthread_mutex_unlock(&h->lock);
}

lk_activity lk_heart_now(uint64_t *step)
{
    lk_heart *h = lk_heart_mine;
    *step = h ? h->step : 0; /* this thread alone writes them */
    return h ? h->activity : LK_RESTING;
}

void lk_heart_forget(void)
{
    lk_heart *h = lk_heart_mine;
    if (!h) return;
    pthread_mutex_lock(&h->lock); /* nobody reads them any more */
    atomic_store(&h->what, NULL);
    atomic_store(&h->where, NULL);
    pthread_mutex_unlock(&h->lock);
}

void lk_heart_forgive(lk_heart *h, double seconds)
{
    pthread_mutex_lock(&h->lock);
    h->since += seconds;
    pthread_mutex_unlock(&h->lock);
}

/* The call on a file that a thread of this process is in, from Linux' /proc; "" when it is in none
 * or that cannot be known. */
static void name_call(int thread, char *text, size_t size)
{
    static const struct {
        long number;
        const char *name;
    } calls[] = {{SYS_read, "read"},         {SYS_write, "write"},         {SYS_pread64, "pread"},
                 {SYS_pwrite64, "pwrite"},   {SYS_readv, "readv"},         {SYS_writev, "writev"},
                 {SYS_fsync, "fsync"},       {SYS_fdatasync, "fdatasync"}, {SYS_openat, "open"},
                 {SYS_close, "close"},       {SYS_ftruncate, "ftruncate"}, {SYS_preadv, "preadv"},
                 {SYS_fallocate, "fallocate"}, {SYS_pwritev, "pwritev"}};
    char path[64];
    long number = -1;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", thread);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%ld", &number) != 1) number = -1; /* "running" */
    if (f) fclose(f);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (calls[i].number == number) snprintf(text, size, "%s", calls[i].name);
}

void lk_heart_watch(lk_heart *h, lk_heart_look *look)
{
    pthread_mutex_lock(&h->lock);
    const char *what = atomic_load(&h->what), *where = atomic_load(&h->where);
    memset(look, 0, sizeof *look);
    look->step = h->step;
    look->position = atomic_load(&h->position);
    look->age = lk_clock_seconds() - h->since;
    look->longest = h->longest[h->activity];
    look->activity = (int32_t)h->activity;
    look->count = (int32_t)h->count[h->activity];
    if (h->why)
        snprintf(look->place, sizeof look->place, "%s", h->why);
    else if (what && where && *where)
        snprintf(look->place, sizeof look->place, "%s (%s)", where, what);
    else if (what)
        snprintf(look->place, sizeof look->place, "%s", what);
    pthread_mutex_unlock(&h->lock);
    if (look->activity != LK_RESTING && look->age > 1)
        name_call(atomic_load(&h->thread), look->call, sizeof look->call);
}
