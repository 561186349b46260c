/* The one I/O thread of a rank: every HDF5 call of the process runs on it.
 *
 * Parallel HDF5 is neither thread-safe nor reentrant, and collective calls must come in the same
 * order on all ranks; a single thread with a queue gives both. Two kinds of jobs:
 *
 * - collective jobs (any job that is not said to be independent) run one after the other in the
 *   order of submission, which must be the same on all ranks. One may be long: a save runs for
 *   minutes while training goes on;
 * - independent jobs (reading rows) wait for no other rank and for no job before them. A long job
 *   calls lk_io_yield() between its pieces, where no HDF5 call is under way; the independent jobs
 *   that wait then run within it, on each rank those of that rank. The others only wait the longer
 *   in the long job's next collective call, so nothing can lock up, and a read waits for one piece
 *   of a save instead of all of it. */
#ifndef LK_IO_IO_H
#define LK_IO_IO_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct lk_io lk_io;
typedef lk_status (*lk_io_job)(void *argument);

lk_status lk_io_open(lk_io **io);
void lk_io_close(lk_io *io); /* waits for queued jobs; takes NULL */
/* Run a job on the I/O thread and wait; its status and error text become the caller's. */
lk_status lk_io_call(lk_io *io, lk_io_job job, void *argument);
/* Enqueue a job; *ticket names it. One lk_io_wait() per ticket. */
lk_status lk_io_submit(lk_io *io, lk_io_job job, void *argument, long *ticket);
lk_status lk_io_wait(lk_io *io, long ticket);
bool lk_io_done(lk_io *io, long ticket); /* would lk_io_wait() return at once? */

/* The same for an independent job, which must not need what a job before it, not waited for yet,
 * does. */
lk_status lk_io_call_independent(lk_io *io, lk_io_job job, void *argument);
lk_status lk_io_submit_independent(lk_io *io, lk_io_job job, void *argument, long *ticket);
/* Within a job that has not failed: run the independent jobs that wait. Elsewhere: nothing. */
void lk_io_yield(lk_io *io);

/* "1.10.8", the HDF5 library's version. */
lk_status lk_io_library(lk_io *io, char *text, size_t size);
/* Let the heart (base/heart.h) of the I/O thread be this one, NULL: none. A job counts as what the
 * thread that submitted it did then. */
struct lk_heart;
lk_status lk_io_attach(lk_io *io, struct lk_heart *heart);

#endif
