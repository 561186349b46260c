/* No handler, for one may run on any thread: oneDNN's generated products use the stack pointer as
 * an ordinary register, and the kernel would write the handler's frame wherever that points. The
 * signals are blocked in every thread instead, and one thread waits for them. */
#include "base/signals.h"

#include "base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define SAME_REQUEST 1.0 /* seconds */

static const struct {
    int number;
    const char *name;
    bool of_terminal; /* a shell ignores Ctrl-C for its background commands, nohup its hang-up */
} asking[] = {{SIGUSR1, "SIGUSR1", false},
              {SIGUSR2, "SIGUSR2", false},
              {SIGTERM, "SIGTERM", false},
              {SIGINT, "SIGINT", true},
              {SIGHUP, "SIGHUP", true}};
enum { ASKING = sizeof asking / sizeof *asking };

static sigset_t all_asking;
static atomic_int first;

static void *wait_for_signals(void *unused)
{
    double first_at = 0;
    for (int number; sigwait(&all_asking, &number) == 0;) {
        double now = lk_clock_seconds();
        if (atomic_load(&first) == 0) {
            first_at = now;
            atomic_store(&first, number);
        } else if (now - first_at >= SAME_REQUEST) {
            pthread_sigmask(SIG_UNBLOCK, &all_asking, NULL);
            raise(number); /* ends the process */
        }
    }
    return unused;
}

lk_status lk_signals_catch(void)
{
    pthread_t thread;
    sigemptyset(&all_asking);
    for (int i = 0; i < ASKING; i++) {
        /* who started this process may ignore them: of the terminal's that is meant */
        bool ignored = signal(asking[i].number, SIG_DFL) == SIG_IGN;
        if (ignored && asking[i].of_terminal) signal(asking[i].number, SIG_IGN);
        else sigaddset(&all_asking, asking[i].number);
    }
    pthread_sigmask(SIG_BLOCK, &all_asking, NULL);
    int error = pthread_create(&thread, NULL, wait_for_signals, NULL);
    if (error)
        return lk_fail(LK_E_SYSTEM, "cannot start the thread that waits for signals: %s",
                       strerror(error));
    pthread_detach(thread);
    return LK_OK;
}

int lk_signals_caught(void) { return atomic_load(&first); }

const char *lk_signals_name(int number)
{
    for (int i = 0; i < ASKING; i++)
        if (asking[i].number == number) return asking[i].name;
    return "a signal";
}
