#include "train/stop.h"

#include "base/clock.h"
#include "base/signals.h"
#include "comm/vote.h"

#include <stdio.h>
#include <stdlib.h>

/* A vote: 0, or the signal's number above the rank's; the time limit
 * and a failure are numbers no signal has. */
enum { RANKS = 1 << 24, TIME_LIMIT = 1000, FAILURE };

struct lk_stop {
    lk_vote *vote;
    int rank;
    double deadline, given; /* given: seconds from the open to the deadline */
    double save, validation; /* the longest */
    bool saved;
    char reason[64];
};

lk_status lk_stop_open(lk_comm *comm, double deadline, double bytes, lk_stop **stop)
{
    lk_stop *s = calloc(1, sizeof *s);
    lk_status status = s ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(comm, status);
    if (status == LK_OK) {
        s->rank = comm->rank;
        s->deadline = deadline;
        s->given = deadline - lk_clock_seconds();
        s->save = 2 + bytes / 100e6;
        status = lk_vote_open(comm, &s->vote);
    }
    if (status == LK_OK) *stop = s;
    else free(s);
    return status;
}

void lk_stop_close(lk_stop *s)
{
    if (!s) return;
    lk_vote_close(s->vote);
    free(s);
}

void lk_stop_validated(lk_stop *s, double seconds)
{
    if (seconds > s->validation) s->validation = seconds;
}

void lk_stop_saved(lk_stop *s, double seconds)
{
    if (!s->saved || seconds > s->save) s->save = seconds;
    s->saved = true;
}

/* `work`: seconds of what comes before the save */
static bool time_is_up(const lk_stop *s, double work)
{
    if (s->deadline <= 0 || s->rank != 0) return false;
    double reserve = 0.1 * s->given < 30 ? 0.1 * s->given : 30;
    return lk_clock_seconds() + 2 * s->save + work + reserve >= s->deadline;
}

static lk_status ask(lk_stop *s, int number, bool *now)
{
    int64_t answer = 0;
    LK_TRY(lk_vote_cast(s->vote, number ? (int64_t)number * RANKS + s->rank : 0, &answer));
    *now = answer != 0;
    if (answer / RANKS == TIME_LIMIT)
        snprintf(s->reason, sizeof s->reason, "the time limit");
    else if (answer)
        snprintf(s->reason, sizeof s->reason, "%s at rank %d",
                 lk_signals_name((int)(answer / RANKS)), (int)(answer % RANKS));
    return LK_OK;
}

lk_status lk_stop_ask(lk_stop *s, double step_seconds, bool *now)
{
    double work = s->validation + 8 * step_seconds;
    return ask(s, time_is_up(s, work) ? TIME_LIMIT : lk_signals_caught(), now);
}

lk_status lk_stop_ask_validating(lk_stop *s, bool failed, bool *now)
{
    return ask(s, failed               ? FAILURE
                  : time_is_up(s, 0) ? TIME_LIMIT
                                     : lk_signals_caught(), now);
}

const char *lk_stop_reason(const lk_stop *s) { return s->reason; }
