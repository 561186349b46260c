/* A roll call: who of the ranks is there?
 *
 * Through rank 0 alone the ranks know of each other (comm/star.h). When it is silent, another may
 * ask all the rest, to name every rank that does not answer: a host may have taken several along.
 * By datagrams (UDP) between the addresses with which the ranks reached rank 0, for a connection of
 * each rank to each would be many, and one to a process that is stopped is still accepted. What is
 * lost is asked again, by the caller. Used by one thread at a time. */
#ifndef LK_COMM_ROLL_H
#define LK_COMM_ROLL_H

#include "comm/star.h"

typedef struct lk_roll lk_roll;

/* `message`: bytes of an answer, at most 1,000. *roll is NULL on all ranks where there is nobody to
 * ask, or the addresses are not all of one kind. Collective. */
lk_status lk_roll_open(lk_comm *comm, const lk_star *star, size_t message, lk_roll **roll);
void lk_roll_close(lk_roll *r); /* takes NULL; not collective */
int lk_roll_socket(const lk_roll *r); /* readable: there is something to serve; -1 of NULL */
void lk_roll_ask(const lk_roll *r, int rank); /* not rank 0 */
/* Answer with `mine` whoever has asked, and tell of the answers that came. */
void lk_roll_serve(const lk_roll *r, const void *mine,
                   void (*answered)(void *context, int from, const void *message), void *context);

#endif
