/* Signals that ask a run to save and end: SIGUSR1, SIGUSR2, SIGTERM, and from a terminal SIGINT
 * (Ctrl-C) and SIGHUP, unless who started this process ignores these two.
 *
 * The first one only sets a flag, which the work looks at where it can stop. Another one, a second
 * or more after the first, ends the process at once, as if nothing caught it: no save, status 128 +
 * its number in a shell. Sooner it is the same request, for a batch system and an MPI launcher may
 * both deliver it. */
#ifndef LK_BASE_SIGNALS_H
#define LK_BASE_SIGNALS_H

#include "base/status.h"

/* From now on. Called once, before any thread is started: those started later inherit that these
 * signals are blocked. */
lk_status lk_signals_catch(void);
int lk_signals_caught(void);       /* number of the first signal, 0: none. Any thread. */
const char *lk_signals_name(int signal); /* "SIGTERM"; of those above */

#endif
