#include "base/signals.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#define SAME_REQUEST 1.0 /* seconds */

static const struct {
    int number;
    const char *name;
} asking[] = {{SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"}, {SIGTERM, "SIGTERM"}};
enum { ASKING = sizeof asking / sizeof *asking };

static atomic_int first; /* lock-free, so a handler may touch both */
static _Atomic long long first_at; /* milliseconds */

/* Only what POSIX lets a handler do: clock_gettime, sigaction, raise. */
static void handle(int number)
{
    int error = errno, none = 0;
    long long now = (long long)(1e3 * lk_clock_seconds());
    if (atomic_load(&first) == 0) atomic_store(&first_at, now); /* before `first` is seen */
    if (!atomic_compare_exchange_strong(&first, &none, number) &&
        now - atomic_load(&first_at) >= (long long)(1e3 * SAME_REQUEST)) {
        struct sigaction usual = {.sa_handler = SIG_DFL};
        sigaction(number, &usual, NULL);
        raise(number); /* delivered when this handler returns */
    }
    errno = error;
}

lk_status lk_signals_catch(void)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    for (int i = 0; i < ASKING; i++) sigaddset(&action.sa_mask, asking[i].number);
    for (int i = 0; i < ASKING; i++)
        if (sigaction(asking[i].number, &action, NULL) != 0)
            return lk_fail(LK_E_SYSTEM, "cannot catch %s: %s", asking[i].name, strerror(errno));
    return LK_OK;
}

int lk_signals_caught(void) { return atomic_load(&first); }

const char *lk_signals_name(int number)
{
    for (int i = 0; i < ASKING; i++)
        if (asking[i].number == number) return asking[i].name;
    return "a signal";
}
