/* The I/O thread: a queue of jobs and a list of finished ones.
 *
 * A job's error text is recorded on the I/O thread; it travels in the job to whoever waits and is
 * recorded there again. Signals are blocked on this thread, so handlers run on the caller's. */
#include "io/io.h"

#include "base/heart.h"

#include <hdf5.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    lk_io_job run;
    void *argument;
    long ticket;
    lk_activity activity; /* of the thread that submitted it, for this thread's heart */
    uint64_t step;
    bool independent, taken, done; /* taken: it runs or ran */
    lk_status status;
    char *text; /* NULL: no error, or no memory for its text */
    struct job *next;
} job;

struct lk_io {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    job *first, *last; /* submitted and not yet waited for, in order */
    long tickets;
    bool closing;
};

/* The next to run, NULL: none; the lock is held. */
static job *next_job(lk_io *io, bool independent)
{
    job *j = io->first;
    while (j && (j->taken || (independent && !j->independent))) j = j->next;
    if (j) j->taken = true;
    return j;
}

/* The lock is held before and after. */
static void run_job(lk_io *io, job *j)
{
    pthread_mutex_unlock(&io->lock);
    lk_error_clear();
    uint64_t step;
    lk_activity before = lk_heart_now(&step); /* of a job that yields, or none */
    lk_heart_begin(j->activity, j->step);
    lk_status status = j->run(j->argument);
    lk_heart_begin(before, step);
    char *text = status == LK_OK ? NULL : strdup(lk_error_text());
    lk_error_clear();
    pthread_mutex_lock(&io->lock);
    j->status = status;
    j->text = text;
    j->done = true;
    pthread_cond_broadcast(&io->finished);
}

static void *serve(void *argument)
{
    lk_io *io = argument;
    pthread_mutex_lock(&io->lock);
    for (;;) {
        job *j = next_job(io, false);
        if (j) run_job(io, j);
        else if (io->closing) break;
        else pthread_cond_wait(&io->work, &io->lock);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

void lk_io_yield(lk_io *io)
{
    if (!pthread_equal(pthread_self(), io->thread)) return;
    pthread_mutex_lock(&io->lock);
    for (job *j = next_job(io, true); j; j = next_job(io, true)) run_job(io, j);
    pthread_mutex_unlock(&io->lock);
}

static void destroy(lk_io *io)
{
    for (job *j = io->first, *after; j; j = after) {
        after = j->next;
        free(j->text);
        free(j);
    }
    pthread_cond_destroy(&io->finished);
    pthread_cond_destroy(&io->work);
    pthread_mutex_destroy(&io->lock);
    free(io);
}

lk_status lk_io_open(lk_io **result)
{
    lk_io *io = calloc(1, sizeof *io);
    if (!io) return lk_fail(LK_E_SYSTEM, "out of memory for the I/O thread");
    pthread_mutex_init(&io->lock, NULL);
    pthread_cond_init(&io->work, NULL);
    pthread_cond_init(&io->finished, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&io->thread, NULL, serve, io);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        destroy(io);
        return lk_fail(LK_E_SYSTEM, "cannot start the I/O thread: %s", strerror(error));
    }
    *result = io;
    return LK_OK;
}

void lk_io_close(lk_io *io)
{
    if (!io) return;
    pthread_mutex_lock(&io->lock);
    io->closing = true;
    pthread_cond_signal(&io->work);
    pthread_mutex_unlock(&io->lock);
    pthread_join(io->thread, NULL);
    destroy(io);
}

static lk_status submit(lk_io *io, lk_io_job run, void *argument, bool independent, long *ticket)
{
    job *j = calloc(1, sizeof *j);
    if (!j) return lk_fail(LK_E_SYSTEM, "out of memory for an I/O job");
    j->run = run;
    j->argument = argument;
    j->activity = lk_heart_now(&j->step);
    j->independent = independent;
    pthread_mutex_lock(&io->lock);
    *ticket = j->ticket = io->tickets++;
    if (io->last)
        io->last->next = j;
    else
        io->first = j;
    io->last = j;
    pthread_cond_signal(&io->work);
    pthread_mutex_unlock(&io->lock);
    return LK_OK;
}

lk_status lk_io_submit(lk_io *io, lk_io_job run, void *argument, long *ticket)
{
    return submit(io, run, argument, false, ticket);
}

lk_status lk_io_submit_independent(lk_io *io, lk_io_job run, void *argument, long *ticket)
{
    return submit(io, run, argument, true, ticket);
}

/* Take a finished job out of the list; the lock is held. */
static void take_out(lk_io *io, job *j)
{
    job *before = NULL;
    for (job *k = io->first; k != j; k = k->next) before = k;
    if (before)
        before->next = j->next;
    else
        io->first = j->next;
    if (io->last == j) io->last = before;
}

/* The lock is held. */
static job *find(lk_io *io, long ticket)
{
    job *j = io->first;
    while (j && j->ticket != ticket) j = j->next;
    return j;
}

bool lk_io_done(lk_io *io, long ticket)
{
    pthread_mutex_lock(&io->lock);
    const job *j = find(io, ticket);
    bool done = !j || j->done;
    pthread_mutex_unlock(&io->lock);
    return done;
}

lk_status lk_io_wait(lk_io *io, long ticket)
{
    pthread_mutex_lock(&io->lock);
    job *j = find(io, ticket);
    if (!j) {
        pthread_mutex_unlock(&io->lock);
        return lk_fail(LK_E_INTERNAL, "I/O ticket %ld is not awaited", ticket);
    }
    while (!j->done) pthread_cond_wait(&io->finished, &io->lock);
    take_out(io, j);
    pthread_mutex_unlock(&io->lock);
    lk_status status = j->status;
    if (status != LK_OK) lk_fail(status, "%s", j->text ? j->text : "an I/O job failed");
    free(j->text);
    free(j);
    return status;
}

static lk_status call(lk_io *io, lk_io_job run, void *argument, bool independent)
{
    if (pthread_equal(pthread_self(), io->thread)) return run(argument); /* already there */
    long ticket = 0;
    LK_TRY(submit(io, run, argument, independent, &ticket));
    return lk_io_wait(io, ticket);
}

lk_status lk_io_call(lk_io *io, lk_io_job run, void *argument)
{
    return call(io, run, argument, false);
}

lk_status lk_io_call_independent(lk_io *io, lk_io_job run, void *argument)
{
    return call(io, run, argument, true);
}

static lk_status attach(void *heart)
{
    lk_heart_attach(heart);
    return LK_OK;
}

lk_status lk_io_attach(lk_io *io, struct lk_heart *heart) { return lk_io_call(io, attach, heart); }

typedef struct name {
    char *text;
    size_t size;
} name;

static lk_status read_version(void *argument)
{
    const name *n = argument;
    unsigned major = 0, minor = 0, release = 0;
    if (H5get_libversion(&major, &minor, &release) < 0)
        return lk_fail(LK_E_INTERNAL, "HDF5 does not tell its version");
    snprintf(n->text, n->size, "%u.%u.%u", major, minor, release);
    return LK_OK;
}

lk_status lk_io_library(lk_io *io, char *text, size_t size)
{
    return lk_io_call(io, read_version, &(name){text, size});
}
