/* A question all ranks answer again and again, without waiting for each other: what is the greatest
 * answer any rank gave? Each call gives this rank's answer and returns the greatest of the call
 * before, the same value at the same call on every rank. The all-reduce of 8 bytes goes on between
 * the calls (MPI_Iallreduce), so a call waits only for ranks that have not come to the call before;
 * nothing on the device waits. */
#ifndef LK_COMM_VOTE_H
#define LK_COMM_VOTE_H

#include "comm/comm.h"

typedef struct lk_vote lk_vote;

lk_status lk_vote_open(lk_comm *comm, lk_vote **vote); /* collective */
/* *greatest: of the call before; at the first call 0. `mine` >= 0. Collective. */
lk_status lk_vote_cast(lk_vote *v, int64_t mine, int64_t *greatest);
/* Takes NULL. Not collective: gives up the last answers when the others do not come. */
void lk_vote_close(lk_vote *v);

#endif
