/* Messages between rank 0 and each other rank, beside MPI: TCP connections that work when MPI, NCCL
 * or the file system hang, and that break at once when a process dies.
 *
 * Why TCP: MPI windows need MPI, which may be what hangs; files in the run directory need its file
 * system, which may too; shared memory ends at the host. A connection tells of a death without any
 * timeout, and the network that started the ranks is there. Rank 0 listens on a free port of all
 * its addresses; who connects must show the secret that MPI gave him.
 *
 * Messages have one size. They are sent without waiting; one that finds the last still unsent is
 * dropped, so they must be such that a later one replaces them. Used by one thread at a time. */
#ifndef LK_COMM_STAR_H
#define LK_COMM_STAR_H

#include "comm/comm.h"

#include <sys/socket.h>

typedef struct lk_star lk_star;

/* Collective. When not all ranks reach rank 0, *star is NULL on all and `reason` (at least 200
 * bytes) says why. */
lk_status lk_star_open(lk_comm *comm, size_t message, lk_star **star, char *reason, size_t size);
void lk_star_close(lk_star *s); /* takes NULL; not collective */
/* To rank `to`: rank 0 may send to any, the others to rank 0. */
void lk_star_send(lk_star *s, int to, const void *message);

typedef struct lk_star_events {
    void *context;
    void (*message)(void *context, int from, const void *message);
    void (*gone)(void *context, int rank); /* its connection has ended; told once */
} lk_star_events;
/* Wait up to `seconds`, or until one of `wake` (file descriptors, -1: none) can be read, and tell
 * of what came meanwhile. */
void lk_star_poll(lk_star *s, double seconds, const int wake[2], const lk_star_events *events);
/* The address of this rank with which it has reached rank 0. Not of rank 0; false: unknown. */
bool lk_star_address(const lk_star *s, struct sockaddr_storage *mine);

#endif
