/* A limit on what no watchdog sees of a process among several: its start and its end.
 *
 * A thread counts the seconds that the main thread takes: those in which this process could run, so
 * one that was stopped is not late for that. It is no handler of a signal, for the reason that
 * base/signals.c tells. */
#include "cmd/cmd.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LIMIT 300.0   /* seconds */
#define FACTOR 10.0   /* of train.timeout, as the watchdog's for a start */
#define STAGGER 0.125 /* of the limit, until rank 1 speaks where rank 0 does not, and rank 2; */
#define LEAST 5.0     /* seconds, at least; and until the next one does */

static struct {
    pthread_mutex_t lock;
    const char *doing; /* NULL: what may take any time */
    lk_comm *comm;     /* NULL: MPI does not work yet, or no more */
    long begun;        /* how many things were */
    double timeout;    /* seconds; 0: no limit; < 0: LIMIT */
} now = {.lock = PTHREAD_MUTEX_INITIALIZER, .timeout = -1};

int lk_cmd_launched(void)
{
    static const char *const name[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        if (getenv(name[i])) return atoi(getenv(name[i]));
    return -1;
}

static double limit(void) { return now.timeout < 0 ? LIMIT : FACTOR * now.timeout; }

/* Whoever hangs, all ranks are late at about the same time, and one message is enough: that of the
 * lowest rank that can speak. Ranks 1 and 2 leave the one before so much time that all are ended by
 * then, also where srun waits before it ends them (SRUN in jobs/site.sh). A host that hangs may
 * take many ranks along, and the next host's must not wait so long for each of them: from there on
 * it is what mpirun needs to end all, so under srun a few may speak. */
static double patience(void)
{
    int before = lk_cmd_launched(), first = before < 2 ? before : 2;
    double each = STAGGER * limit() > LEAST ? STAGGER * limit() : LEAST;
    return limit() + each * first + LEAST * (before - first);
}

static void end(void)
{
    char text[600], host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text, "rank %d on %s (process %d): %s has taken %.3g s, more than %.3g s "
             "(%s): this rank hangs, or waits for one that hangs or has not come; all are ended. "
             "'lockstep doctor', started in the same way, looks at hosts, network and file "
             "systems; 'lockstep train --set train.timeout' allows more time",
             lk_cmd_launched(), host, (int)getpid(), now.doing, patience(), limit(),
             now.timeout < 0 ? "the limit without a train.timeout" : "ten times train.timeout");
    lk_cmd_say(now.comm, text);
    lk_cmd_end(now.comm, now.comm != NULL);
}

static void *count(void *unused)
{
    double seconds = 0;
    for (long last = 0;; seconds++) {
        pthread_mutex_lock(&now.lock);
        if (now.begun != last) seconds = 0;
        last = now.begun;
        /* with the lock: what it tells of must not end meanwhile */
        if (now.doing && now.timeout != 0 && seconds >= patience()) end();
        pthread_mutex_unlock(&now.lock);
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
    return unused;
}

lk_status lk_cmd_brief_open(void)
{
    pthread_t thread;
    sigset_t all, before;
    if (lk_cmd_launched() < 0) return LK_OK;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, count, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return lk_fail(LK_E_SYSTEM, "cannot start the thread that limits the start: %s; look at "
                       "'ulimit -u' and the memory", strerror(error));
    pthread_detach(thread);
    return LK_OK;
}

void lk_cmd_brief(const char *doing, lk_comm *comm)
{
    pthread_mutex_lock(&now.lock);
    now.doing = doing;
    now.comm = comm;
    now.begun++;
    pthread_mutex_unlock(&now.lock);
}

void lk_cmd_brief_limit(double timeout)
{
    pthread_mutex_lock(&now.lock);
    now.timeout = timeout;
    pthread_mutex_unlock(&now.lock);
}
