#include "comm/watchdog.h"

#include "base/clock.h"
#include "comm/roll.h"
#include "comm/star.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAIN, IO, HEARTS };
enum { FIRST_TIMES = 6 };  /* more than the steps in flight on a device */
#define FIRST_FACTOR 10.0
#define LEAST 300.0        /* seconds: limits without a timeout */
#define LEAST_FIRST 1800.0
#define LONGEST_FACTOR 10.0
#define FAILED_SAVE 30.0   /* seconds for the main thread to end the run by itself */
#define SILENCE 1.5        /* seconds without a sign, at least, to be called silent */
#define ROLL_CALL 1.0      /* seconds to answer, when rank 0 is silent; */
#define ROLL_CALL_DEAD 0.3 /* when it is dead: a launcher ends all about a second later; */
#define PATIENCE 3.0       /* and then for the first who is there to speak for it */
#define LAST_RESORT 20.0   /* seconds after which a rank speaks for itself */

/* What travels. */
typedef struct sign {
    enum { BEAT, LEAVE, FAIL, END } kind; /* LEAVE: I am done; FAIL: I fail and end all;
                                             END, from rank 0: end, I have spoken */
    int32_t pid;
    lk_heart_look heart[HEARTS];
} sign;

typedef struct peer {
    char host[64];
    sign last;
    double heard; /* lk_clock_seconds() */
    enum { PRESENT, GONE, LEFT, ABSENT } state; /* ABSENT: it did not answer the roll call */
} peer;

struct lk_watchdog {
    lk_comm *comm;
    lk_watchdog_options o;
    lk_star *star; /* NULL: alone */
    lk_roll *roll; /* or NULL */
    bool reached;  /* an answer has come to this rank, so datagrams do arrive */
    peer *peer;    /* rank 0: all; others: rank 0 and themselves are kept, and who answered */
    lk_heart heart[HEARTS];
    pthread_t thread;
    bool joined;
    int wake[2]; /* a pipe: `leaving` was set */
    double tick;
    double rested; /* this process was stopped: do not judge before the others are heard again */
    double accused; /* when rank 0 was first found gone or silent; 0: it is not */
    double failing; /* when a rank said FAIL; 0: none did */
    atomic_int leaving; /* 0, or the sign to give at the end of the thread */
};

/* ---- words ----------------------------------------------------------------------------------- */

static const char *const words[LK_ACTIVITIES] = {
    [LK_STARTING] = "the start",
    [LK_READING] = "reading the samples of step",
    [LK_STEPPING] = "step",
    [LK_AWAITING] = "waiting for the device, step",
    [LK_VALIDATING] = "the validation after step",
    [LK_SAVING] = "the save after step",
    [LK_FAILING] = "the failed save after step",
    [LK_ENDING] = "the end",
};

/* "; rank 1 waits", " in step 57 at blocks.0": nothing of a thread that rests. */
static void add(FILE *f, const char *before, const lk_heart_look *h)
{
    if (h->activity == LK_RESTING) return;
    fputs(before, f);
    bool step = h->activity != LK_STARTING && h->activity != LK_ENDING;
    fputs(words[h->activity], f);
    if (step) fprintf(f, " %llu", (unsigned long long)h->step);
    if (h->call[0]) fprintf(f, ", in %s()", h->call);
    if (h->place[0]) fprintf(f, " at %s", h->place);
}

/* Of a peer: the heart that was asked for or, where that thread rests, the main one. */
static const lk_heart_look *heart_of(const peer *p, int heart)
{
    return &p->last.heart[p->last.heart[heart].activity == LK_RESTING ? MAIN : heart];
}

/* The ranks of which member(r) holds: "rank 3", "ranks 0-2, 5", long lists cut. */
static void add_ranks(FILE *f, const bool *member, int size)
{
    int parts = 0, count = 0;
    for (int r = 0; r < size; r++) count += member[r];
    fputs(count == 1 ? "rank" : "ranks", f);
    for (int r = 0, end; r < size; r = end) {
        for (end = r + 1; end < size && member[r] && member[end];) end++;
        if (!member[r]) continue;
        if (++parts > 6) {
            fprintf(f, " ... (%d in all)", count);
            return;
        }
        fprintf(f, end - r > 1 ? "%s %d-%d" : "%s %d", parts > 1 ? "," : "", r, end - 1);
    }
}

/* ---- judging --------------------------------------------------------------------------------- */

static double limit_of(const lk_watchdog *w, const lk_heart_look *h)
{
    bool compiles = h->activity == LK_STEPPING || h->activity == LK_AWAITING ||
                    h->activity == LK_VALIDATING;
    bool first = h->activity == LK_STARTING || (compiles && h->count < FIRST_TIMES) ||
                 (w->o.timeout < 0 && h->count == 0);
    if (h->activity == LK_RESTING) return INFINITY;
    if (h->activity == LK_FAILING) return FAILED_SAVE;
    if (w->o.timeout > 0) return first ? FIRST_FACTOR * w->o.timeout : w->o.timeout;
    if (first) return LEAST_FIRST;
    return fmax(LEAST, LONGEST_FACTOR * h->longest);
}

/* By how much a rank is over a limit, as it has told: what one that is silent does now nobody
 * knows, but who waits for it is overdue. */
static double overdue(const lk_watchdog *w, int rank)
{
    const peer *p = &w->peer[rank];
    double most = -INFINITY;
    for (int k = 0; k < HEARTS && p->state == PRESENT; k++)
        most = fmax(most, p->last.heart[k].age - limit_of(w, &p->last.heart[k]));
    return most;
}

static bool silent(const lk_watchdog *w, int rank, double now)
{
    const peer *p = &w->peer[rank];
    if (p->state == ABSENT) return true;
    return rank != w->comm->rank && p->state == PRESENT &&
           now - p->heard > fmax(SILENCE, 10 * w->tick);
}

/* Of the ranks present, those whose thread is behind the others'. Returns how many. */
static int find_late(const lk_watchdog *w, int heart, bool *late, bool *waiting)
{
    uint64_t least = UINT64_MAX, most = 0;
    int count = 0;
    for (int r = 0; r < w->comm->size; r++) {
        uint64_t at = w->peer[r].last.heart[heart].position;
        if (w->peer[r].state != PRESENT) continue;
        if (at < least) least = at;
        if (at > most) most = at;
    }
    for (int r = 0; r < w->comm->size; r++) {
        bool here = w->peer[r].state == PRESENT;
        late[r] = here && least < most && w->peer[r].last.heart[heart].position == least;
        waiting[r] = here && !late[r];
        count += late[r];
    }
    return count;
}

/* Where none is behind: those that are in a call on a file while the others wait in MPI. */
static int find_hanging(const lk_watchdog *w, int heart, bool *hanging, bool *waiting)
{
    int count = 0, others = 0;
    for (int r = 0; r < w->comm->size; r++) {
        bool here = w->peer[r].state == PRESENT;
        hanging[r] = here && w->peer[r].last.heart[heart].call[0];
        waiting[r] = here && !hanging[r];
        count += hanging[r];
        others += waiting[r];
    }
    return others ? count : 0;
}

static int first_of(const bool *member, int size)
{
    int r = 0;
    while (r < size - 1 && !member[r]) r++;
    return r;
}

static void add_limit(const lk_watchdog *w, FILE *f, int rank, int heart)
{
    const lk_heart_look *h = &w->peer[rank].last.heart[heart];
    add(f, "", &(lk_heart_look){.activity = h->activity, .step = h->step});
    double limit = limit_of(w, h), given = w->o.timeout;
    fprintf(f, " has taken %.3g s, more than %.3g s (train.timeout", h->age, limit);
    if (given < 0) fputs(", from the times before", f);
    else if (limit > given) fprintf(f, ": %g, ten times that at first", given);
    fputs("): ", f);
}

static void add_waiting(const lk_watchdog *w, FILE *f, const bool *waiting, int heart)
{
    int size = w->comm->size, r = first_of(waiting, size), count = 0;
    for (int i = 0; i < size; i++) count += waiting[i];
    if (count == 0) return;
    fputs("; ", f);
    add_ranks(f, waiting, size);
    fputs(count > 1 ? " wait" : " waits", f);
    add(f, " in ", heart_of(&w->peer[r], heart));
}

static const char *advice = "; all are ended, start again with --resume-or-start";

/* The ranks to blame into `blamed`, those that wait for them into `waiting`; *mute: they are
 * silent. Returns how many. */
static int blame(const lk_watchdog *w, int heart, bool *blamed, bool *waiting, bool *mute,
                 double now)
{
    int size = w->comm->size, count = 0;
    for (int r = 0; r < size; r++) count += silent(w, r, now);
    *mute = count > 0;
    if (!*mute) {
        count = find_late(w, heart, blamed, waiting);
        return count > 0 ? count : find_hanging(w, heart, blamed, waiting);
    }
    for (int r = 0; r < size; r++) {
        blamed[r] = silent(w, r, now);
        waiting[r] = w->peer[r].state == PRESENT && !blamed[r];
    }
    return count;
}

/* "rank 2 on node7 (process 12) is late, in ..."; of several the first is told more about. */
static void add_blamed(const lk_watchdog *w, FILE *f, const bool *blamed, int count, bool mute,
                       int heart, double now)
{
    int size = w->comm->size, first = first_of(blamed, size);
    const peer *p = &w->peer[first];
    const char *how = mute ? "silent" : "late";
    add_ranks(f, blamed, size);
    if (count > 1) fprintf(f, " are %s, rank %d", how, first);
    fprintf(f, " on %s (process %d)", p->host, (int)p->last.pid);
    if (count == 1) fprintf(f, " is %s", how);
    if (mute) fprintf(f, " for %.3g s", now - p->heard);
    add(f, mute ? ", last seen in " : count > 1 ? " in " : ", in ", heart_of(p, heart));
}

/* Whom it is due to that `rank` takes too long. */
static void explain(const lk_watchdog *w, FILE *f, int rank, int heart, double now)
{
    int size = w->comm->size;
    bool *blamed = calloc(2 * (size_t)size, sizeof *blamed), mute = false;
    int count = blamed && w->star ? blame(w, heart, blamed, blamed + size, &mute, now) : 0;
    if (count > 0) {
        add_blamed(w, f, blamed, count, mute, heart, now);
        add_waiting(w, f, blamed + size, heart);
        if (mute && w->comm->rank != 0 && size > 2 && !w->reached)
            fputs("; who else is silent is not known, datagrams (UDP) do not arrive", f);
    } else if (w->star) {
        fprintf(f, "none of %d ranks is behind the others", size);
        add(f, ", all are in ", heart_of(&w->peer[rank], heart));
        fputs("; look at the network, the file system and the devices", f);
    } else {
        add(f, "in ", &w->peer[rank].last.heart[heart]);
    }
    free(blamed);
}

/* The text is out before any rank ends, for then a launcher may end this one. */
static void end(lk_watchdog *w, const char *text)
{
    sign s = {.kind = END};
    if (atomic_load(&w->leaving)) { /* this rank has something to say itself, or is done */
        alarm(0);
        return;
    }
    if (text) w->o.say(w->o.context, text);
    if (w->star && w->comm->rank == 0)
        for (int r = 1; r < w->comm->size; r++) lk_star_send(w->star, r, &s);
    w->o.end(w->o.context, text != NULL);
}

/* Of the ranks in that state, but `without`: "; ranks 1-2 died, too". */
static void add_others(const lk_watchdog *w, FILE *f, int without, int state, const char *what)
{
    int size = w->comm->size, count = 0;
    bool *member = calloc((size_t)size, sizeof *member);
    for (int r = 0; member && r < size; r++)
        count += member[r] = r != without && (int)w->peer[r].state == state;
    if (count > 0) {
        fputs("; ", f);
        add_ranks(f, member, size);
        fputs(what, f);
    }
    free(member);
}

static void add_death(const lk_watchdog *w, FILE *f, int dead)
{
    const peer *p = &w->peer[dead];
    fprintf(f, "rank %d on %s (process %d) has died", dead, p->host, (int)p->last.pid);
    add(f, ", in ", &p->last.heart[MAIN]);
    if (p->last.heart[IO].activity != p->last.heart[MAIN].activity)
        add(f, ", its I/O thread in ", &p->last.heart[IO]);
    add_others(w, f, dead, GONE, " died, too");
    add_others(w, f, dead, ABSENT, " gave no answer");
}

static void add_overdue(const lk_watchdog *w, FILE *f, int rank, int heart, double now)
{
    const lk_heart_look *h = &w->peer[rank].last.heart[heart];
    bool failing = h->activity == LK_FAILING;
    if (failing || (!w->star && w->comm->size > 1))
        fprintf(f, "rank %d on %s: ", rank, w->star ? w->peer[rank].host : w->comm->host);
    if (failing) {
        fprintf(f, "%s; this has not ended the run in %.3g s, something hangs", h->place, h->age);
        return;
    }
    add_limit(w, f, rank, heart);
    explain(w, f, rank, heart, now);
}

/* End with a text about what takes too long, or about a death. */
static void speak(lk_watchdog *w, int rank, int heart, int dead, double now)
{
    char *text = NULL;
    size_t bytes = 0;
    alarm(20); /* what hangs may hold the allocator's lock; end() takes it back */
    FILE *f = open_memstream(&text, &bytes);
    if (!f) {
        end(w, "the watchdog ends the run, and there is no memory to say why");
        return;
    }
    if (dead >= 0) add_death(w, f, dead);
    else add_overdue(w, f, rank, heart, now);
    fputs(advice, f);
    fclose(f);
    end(w, text ? text : "the watchdog ends the run, and there is no memory to say why");
    free(text);
}

/* Which heart of a rank is overdue. The main thread may only wait for the other. */
static int late_heart(const lk_watchdog *w, int rank)
{
    const lk_heart_look *io = &w->peer[rank].last.heart[IO];
    return io->age > limit_of(w, io) ? IO : MAIN;
}

/* Rank 0, or a rank alone: look at all that is known. */
static void judge(lk_watchdog *w, double now)
{
    for (int r = 0; r < w->comm->size; r++)
        if (w->peer[r].state == GONE) speak(w, -1, MAIN, r, now);
    for (int r = 0; r < w->comm->size; r++)
        if (overdue(w, r) > 0) speak(w, r, late_heart(w, r), -1, now);
}

/* Another rank than 0 that has answered. */
static void present(void *context, int from, const void *message)
{
    lk_watchdog *w = context;
    peer *p = &w->peer[from];
    memcpy(&p->last, message, sizeof p->last);
    p->heard = lk_clock_seconds();
    w->reached = true;
    if (w->accused > 0) p->state = PRESENT;
}

/* Now and then until it is known whether datagrams arrive, then when rank 0 is accused. */
static void call_roll(const lk_watchdog *w)
{
    int others = w->comm->size - 1, me = w->comm->rank;
    if (!w->roll || me == 0) return;
    for (int r = 1; r <= others && w->accused > 0; r++)
        if (r != me && w->peer[r].state != PRESENT) lk_roll_ask(w->roll, r);
    /* one that is far from this one, most likely on another host */
    if (!w->reached) lk_roll_ask(w->roll, 1 + (me - 1 + others / 2) % others);
}

/* Rank 0 is accused no more, or anew. */
static void accuse(lk_watchdog *w, double when)
{
    if ((w->accused > 0) == (when > 0)) return;
    w->accused = when;
    for (int r = 1; r < w->comm->size; r++)
        if (r != w->comm->rank) w->peer[r].state = LEFT;
    call_roll(w);
}

/* How long this rank waits before it speaks for rank 0: one before it may be there to do it. */
static double turn(lk_watchdog *w, bool gone)
{
    bool first = true;
    for (int r = 1; r < w->comm->rank; r++)
        first = first && w->reached && w->peer[r].state != PRESENT;
    return (!w->roll ? 0 : gone ? ROLL_CALL_DEAD : ROLL_CALL) + (first ? 0 : PATIENCE);
}

/* The others: is rank 0 still there to judge? */
static void judge_rank_0(lk_watchdog *w, double now)
{
    int me = w->comm->rank;
    double over = overdue(w, me);
    bool gone = w->peer[0].state == GONE, bad = gone || (over > 0 && silent(w, 0, now));
    accuse(w, bad ? now : 0);
    if (bad && now - w->accused >= turn(w, gone)) {
        for (int r = 1; r < w->comm->size && w->reached; r++)
            if (w->peer[r].state == LEFT) w->peer[r].state = ABSENT;
        speak(w, me, late_heart(w, me), gone ? 0 : -1, now);
    } else if (over > LAST_RESORT) {
        speak(w, me, late_heart(w, me), -1, now);
    }
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void heard(void *context, int from, const void *message)
{
    lk_watchdog *w = context;
    peer *p = &w->peer[from];
    sign s;
    memcpy(&s, message, sizeof s);
    p->heard = lk_clock_seconds();
    switch (s.kind) {
    case BEAT: p->last = s; break;
    case LEAVE: p->state = LEFT; break;
    case FAIL:
        p->state = LEFT;
        if (w->failing <= 0) w->failing = p->heard;
        break;
    case END: end(w, NULL); break;
    }
}

static void gone(void *context, int rank)
{
    lk_watchdog *w = context;
    if (w->peer[rank].state == PRESENT) w->peer[rank].state = GONE;
}

static void look_at_self(lk_watchdog *w, double now)
{
    peer *me = &w->peer[w->comm->rank];
    me->last.kind = BEAT;
    me->last.pid = (int32_t)getpid();
    for (int k = 0; k < HEARTS; k++) lk_heart_watch(&w->heart[k], &me->last.heart[k]);
    me->heard = now;
}

static void tell(lk_watchdog *w, int kind)
{
    sign s = w->peer[w->comm->rank].last;
    s.kind = kind;
    if (!w->star) return;
    if (w->comm->rank != 0) lk_star_send(w->star, 0, &s);
    for (int r = 1; r < w->comm->size && w->comm->rank == 0; r++) lk_star_send(w->star, r, &s);
}

/* A process that was stopped for a while (a suspended job) is not late for that. */
static void notice_rest(lk_watchdog *w, double before, double now)
{
    double lost = now - before - w->tick;
    if (lost < 0.25 + 3 * w->tick) return;
    for (int k = 0; k < HEARTS; k++) lk_heart_forgive(&w->heart[k], lost);
    w->rested = now;
}

static void judge_all(lk_watchdog *w, double now)
{
    if (w->failing > 0 && now - w->failing > LAST_RESORT)
        end(w, "a rank has failed and could not end the others");
    if (w->failing > 0 || now - w->rested < fmax(SILENCE, 10 * w->tick)) return;
    if (!w->star || w->comm->rank == 0) judge(w, now);
    else judge_rank_0(w, now);
}

static void *watch(void *context)
{
    lk_watchdog *w = context;
    const lk_star_events events = {w, heard, gone};
    double before = lk_clock_seconds(), next = before; /* next: when to speak again */
    for (int leaving = 0; !leaving;) {
        leaving = atomic_load(&w->leaving);
        double now = lk_clock_seconds();
        if (leaving || now >= next) { /* not at each message heard: that would answer answers */
            look_at_self(w, now);
            tell(w, leaving ? leaving : BEAT);
            if (!leaving) call_roll(w);
            next = now + w->tick;
        }
        if (leaving) break;
        struct pollfd wake = {.fd = w->wake[0], .events = POLLIN};
        double wait = fmax(next - now, 1e-3); /* whole milliseconds count */
        int wakes[2] = {wake.fd, lk_roll_socket(w->roll)};
        if (w->star) lk_star_poll(w->star, wait, wakes, &events);
        else poll(&wake, 1, (int)(1e3 * wait));
        now = lk_clock_seconds();
        notice_rest(w, before, now);
        before = now;
        look_at_self(w, now);
        if (w->roll) lk_roll_serve(w->roll, &w->peer[w->comm->rank].last, present, w);
        judge_all(w, now);
    }
    return NULL;
}

/* ---- open and close -------------------------------------------------------------------------- */

static lk_status start(lk_watchdog *w)
{
    if (pipe2(w->wake, O_CLOEXEC) != 0)
        return lk_fail(LK_E_SYSTEM, "cannot make a pipe: %s", strerror(errno));
    sigset_t all, before;
    sigfillset(&all); /* handlers run on other threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&w->thread, NULL, watch, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error ? lk_fail(LK_E_SYSTEM, "cannot start the watchdog's thread: %s", strerror(error))
                 : LK_OK;
}

static lk_status know_hosts(lk_watchdog *w)
{
    int size = w->comm->size;
    char *hosts = calloc((size_t)size, sizeof w->comm->host);
    lk_status status = hosts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(w->comm, status);
    if (status == LK_OK)
        status = lk_comm_gather(w->comm, w->comm->host, sizeof w->comm->host, hosts);
    for (int r = 0; r < size && status == LK_OK; r++) {
        memcpy(w->peer[r].host, hosts + (size_t)r * sizeof w->comm->host, sizeof w->peer[r].host);
        w->peer[r].heard = lk_clock_seconds();
    }
    free(hosts);
    return status;
}

static void destroy(lk_watchdog *w)
{
    if (!w) return;
    lk_star_close(w->star);
    lk_roll_close(w->roll);
    for (int i = 0; i < 2; i++)
        if (w->wake[i] >= 0) close(w->wake[i]);
    free(w->peer);
    free(w);
}

lk_status lk_watchdog_open(lk_comm *comm, const lk_watchdog_options *o, lk_watchdog **out,
                           char *warning, size_t size)
{
    char reason[200] = "";
    warning[0] = '\0';
    *out = NULL;
    if (o->timeout == 0) return LK_OK;
    lk_watchdog *w = calloc(1, sizeof *w);
    if (w) w->wake[0] = w->wake[1] = -1;
    if (w) w->peer = calloc((size_t)comm->size, sizeof *w->peer);
    lk_status status = w && w->peer ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(comm, status);
    if (status == LK_OK) {
        w->comm = comm;
        w->o = *o;
        w->tick = o->timeout > 0 ? fmin(fmax(o->timeout / 20, 0.02), 0.5) : 0.5;
        for (int k = 0; k < HEARTS; k++) lk_heart_init(&w->heart[k]);
        status = know_hosts(w);
    }
    if (status == LK_OK && comm->size > 1)
        status = lk_star_open(comm, sizeof(sign), &w->star, reason, sizeof reason);
    if (status == LK_OK) status = lk_roll_open(comm, w->star, sizeof(sign), &w->roll);
    for (int r = 0; status == LK_OK && r < comm->size; r++) /* those this rank hears nothing of */
        if (r != comm->rank && (!w->star || (comm->rank != 0 && r != 0))) w->peer[r].state = LEFT;
    if (status == LK_OK) status = lk_comm_agree(comm, start(w));
    if (status != LK_OK) {
        destroy(w);
        return status;
    }
    if (reason[0])
        snprintf(warning, size, "%s: the watchdog of each rank sees only its own", reason);
    lk_heart_attach(&w->heart[MAIN]);
    lk_heart_begin(LK_STARTING, 0);
    *out = w;
    return LK_OK;
}

lk_heart *lk_watchdog_io(lk_watchdog *w) { return w ? &w->heart[IO] : NULL; }

static void leave(lk_watchdog *w, int how)
{
    int none = 0;
    if (w->joined) return;
    atomic_compare_exchange_strong(&w->leaving, &none, how);
    while (write(w->wake[1], "", 1) < 0 && errno == EINTR) {}
    pthread_join(w->thread, NULL);
    w->joined = true;
}

void lk_watchdog_leave(lk_watchdog *w)
{
    if (w) leave(w, FAIL);
}

void lk_watchdog_close(lk_watchdog *w)
{
    if (!w) return;
    lk_heart_attach(NULL);
    leave(w, LEAVE);
    destroy(w);
}
