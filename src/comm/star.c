#include "comm/star.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ADDRESSES = 16, SECRET = 16 };
#define CONNECT_SECONDS 5.0 /* for each address */
#define ALL_SECONDS 30.0    /* for all ranks, or addresses */

typedef struct line {
    int fd;                /* -1: none, or ended */
    char *in, *out;        /* one message each */
    size_t received, sent; /* of it; sent == size: nothing waits */
} line;

struct lk_star {
    int rank, size, lines; /* lines: rank 0 has one for each rank, its own unused; others one */
    size_t message;
    line *line;
    struct pollfd *poll;
};

/* What rank 0 tells by MPI, and the first thing said on a connection. */
typedef struct invitation {
    unsigned char secret[SECRET];
    int32_t ok, count;
    char host[64];
    struct sockaddr_storage address[ADDRESSES];
} invitation;
typedef struct hello {
    unsigned char secret[SECRET];
    int32_t rank;
} hello;

static line *line_of(lk_star *s, int rank) { return &s->line[s->rank == 0 ? rank : 0]; }

static void end_line(line *l)
{
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
}

static void settle(int fd) /* a connection that is ready for use */
{
    int on = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* ---- rank 0 ---------------------------------------------------------------------------------- */

static bool usable(const struct ifaddrs *i)
{
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP)) return false;
    if (i->ifa_addr->sa_family == AF_INET) return true;
    if (i->ifa_addr->sa_family != AF_INET6) return false;
    return !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)i->ifa_addr)->sin6_addr);
}

/* Addresses with the port; loopback last, for ranks of this host without any other. */
static void list_addresses(invitation *all, in_port_t port)
{
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0) return;
    for (int loopback = 0; loopback <= 1; loopback++) {
        for (const struct ifaddrs *i = list; i && all->count < ADDRESSES; i = i->ifa_next) {
            bool inside = i->ifa_addr && (i->ifa_flags & IFF_LOOPBACK);
            if (!usable(i) || inside != loopback) continue;
            struct sockaddr_storage *a = &all->address[all->count++];
            if (i->ifa_addr->sa_family == AF_INET) {
                memcpy(a, i->ifa_addr, sizeof(struct sockaddr_in));
                ((struct sockaddr_in *)a)->sin_port = port;
            } else {
                memcpy(a, i->ifa_addr, sizeof(struct sockaddr_in6));
                ((struct sockaddr_in6 *)a)->sin6_port = port;
            }
        }
    }
    freeifaddrs(list);
}

/* A socket for both kinds of address, or for IPv4 where the system has no IPv6. */
static int listen_anywhere(int backlog, in_port_t *port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any};
    struct sockaddr_in four = {.sin_family = AF_INET};
    socklen_t length = sizeof six;
    int off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
        bind(fd, (struct sockaddr *)&six, sizeof six) == 0 && listen(fd, backlog) == 0 &&
        getsockname(fd, (struct sockaddr *)&six, &length) == 0) {
        *port = six.sin6_port;
        return fd;
    }
    if (fd >= 0) close(fd);
    length = sizeof four;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&four, sizeof four) == 0 &&
        listen(fd, backlog) == 0 && getsockname(fd, (struct sockaddr *)&four, &length) == 0) {
        *port = four.sin_port;
        return fd;
    }
    if (fd >= 0) close(fd);
    return -1;
}

static bool transfer(int fd, void *bytes, size_t size, bool write)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write ? send(fd, (char *)bytes + done, size - done, MSG_NOSIGNAL)
                          : recv(fd, (char *)bytes + done, size - done, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

static void limit_waiting(int fd, double seconds)
{
    struct timeval t = {.tv_sec = (time_t)seconds};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

/* One connection: who is it? Answered with the secret, so that the caller knows it is us. */
static void greet(lk_star *s, int fd, const invitation *all)
{
    hello h;
    limit_waiting(fd, CONNECT_SECONDS);
    if (transfer(fd, &h, sizeof h, false) && memcmp(h.secret, all->secret, SECRET) == 0 &&
        h.rank > 0 && h.rank < s->size && s->line[h.rank].fd < 0 &&
        transfer(fd, &h, sizeof h, true)) {
        settle(fd);
        s->line[h.rank].fd = fd;
    } else {
        close(fd);
    }
}

static bool accept_all(lk_star *s, int listening, const invitation *all)
{
    double end = lk_clock_seconds() + ALL_SECONDS;
    int missing = s->size - 1;
    while (missing > 0 && lk_clock_seconds() < end) {
        struct pollfd p = {.fd = listening, .events = POLLIN};
        if (poll(&p, 1, 100) > 0) {
            int fd = accept(listening, NULL, NULL);
            if (fd >= 0) greet(s, fd, all);
            else if (errno == EMFILE || errno == ENFILE) break;
        }
        missing = s->size - 1;
        for (int i = 1; i < s->size; i++) missing -= s->line[i].fd >= 0;
    }
    return missing == 0;
}

/* ---- the others ------------------------------------------------------------------------------ */

static int connect_to(const struct sockaddr_storage *a)
{
    socklen_t length = a->ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                               : sizeof(struct sockaddr_in6);
    int fd = socket(a->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    limit_waiting(fd, CONNECT_SECONDS); /* of connect() too */
    if (connect(fd, (const struct sockaddr *)a, length) == 0) return fd;
    close(fd);
    return -1;
}

static bool loopback(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
    return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static bool join(lk_star *s, const lk_comm *comm, const invitation *all)
{
    double end = lk_clock_seconds() + ALL_SECONDS;
    for (int i = 0; i < all->count && lk_clock_seconds() < end; i++) {
        if (loopback(&all->address[i]) && strcmp(all->host, comm->host) != 0) continue;
        int fd = connect_to(&all->address[i]);
        hello h = {.rank = s->rank}, answer;
        memcpy(h.secret, all->secret, SECRET);
        if (fd < 0) continue;
        if (transfer(fd, &h, sizeof h, true) && transfer(fd, &answer, sizeof answer, false) &&
            memcmp(&h, &answer, sizeof h) == 0) {
            settle(fd);
            s->line[0].fd = fd;
            return true;
        }
        close(fd);
    }
    return false;
}

/* ---- open and close -------------------------------------------------------------------------- */

static lk_star *allocate(const lk_comm *comm, size_t message)
{
    lk_star *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->rank = comm->rank;
    s->size = comm->size;
    s->message = message;
    s->lines = s->rank == 0 ? s->size : 1;
    s->line = calloc((size_t)s->lines, sizeof *s->line);
    s->poll = calloc((size_t)s->lines + 2, sizeof *s->poll);
    bool good = s->line && s->poll;
    for (int i = 0; good && i < s->lines; i++) {
        line *l = &s->line[i];
        l->fd = -1;
        l->sent = message;
        l->in = malloc(message);
        l->out = malloc(message);
    }
    for (int i = 0; good && i < s->lines; i++) good = s->line[i].in && s->line[i].out;
    if (good) return s;
    lk_star_close(s);
    return NULL;
}

void lk_star_close(lk_star *s)
{
    if (!s) return;
    for (int i = 0; s->line && i < s->lines; i++) {
        if (s->line[i].in) end_line(&s->line[i]);
        free(s->line[i].in);
        free(s->line[i].out);
    }
    free(s->line);
    free(s->poll);
    free(s);
}

lk_status lk_star_open(lk_comm *comm, size_t message, lk_star **star, char *reason, size_t size)
{
    invitation all = {.count = 0};
    in_port_t port = 0;
    lk_star *s = allocate(comm, message);
    lk_status status = s ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(comm, status);
    if (status != LK_OK) {
        lk_star_close(s);
        return status;
    }
    int listening = comm->rank == 0 ? listen_anywhere(comm->size, &port) : -1;
    if (listening >= 0) {
        list_addresses(&all, port);
        memcpy(all.host, comm->host, sizeof all.host);
        all.ok = getrandom(all.secret, SECRET, 0) == SECRET;
    }
    status = lk_comm_broadcast(comm, &all, sizeof all);
    int32_t bad = !all.ok;
    if (!bad) bad = comm->rank == 0 ? !accept_all(s, listening, &all) : !join(s, comm, &all);
    if (listening >= 0) close(listening);
    if (status == LK_OK) status = lk_comm_sum_ints(comm, &bad, 1);
    if (status == LK_OK && bad)
        snprintf(reason, size, "not every rank can reach rank 0 on %s by TCP", all.host);
    if (status != LK_OK || bad) {
        lk_star_close(s);
        s = NULL;
    }
    *star = s;
    return status;
}

bool lk_star_address(const lk_star *s, struct sockaddr_storage *mine)
{
    socklen_t length = sizeof *mine;
    return getsockname(s->line[0].fd, (struct sockaddr *)mine, &length) == 0;
}

/* ---- messages -------------------------------------------------------------------------------- */

static void flush_line(const lk_star *s, line *l)
{
    while (l->fd >= 0 && l->sent < s->message) {
        ssize_t n = send(l->fd, l->out + l->sent, s->message - l->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break; /* later; that it has ended is noticed where it is read */
        l->sent += (size_t)n;
    }
}

void lk_star_send(lk_star *s, int to, const void *message)
{
    line *l = line_of(s, to);
    flush_line(s, l);
    if (l->fd < 0 || l->sent < s->message) return;
    memcpy(l->out, message, s->message);
    l->sent = 0;
    flush_line(s, l);
}

static void receive(lk_star *s, int rank, const lk_star_events *e)
{
    line *l = line_of(s, rank);
    for (;;) {
        ssize_t n = recv(l->fd, l->in + l->received, s->message - l->received, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n <= 0) {
            end_line(l);
            e->gone(e->context, rank);
            return;
        }
        l->received += (size_t)n;
        if (l->received < s->message) continue;
        l->received = 0;
        e->message(e->context, rank, l->in);
    }
}

void lk_star_poll(lk_star *s, double seconds, const int wake[2], const lk_star_events *e)
{
    for (int i = 0; i < 2; i++)
        s->poll[s->lines + i] = (struct pollfd){.fd = wake[i], .events = POLLIN};
    for (int i = 0; i < s->lines; i++)
        s->poll[i] = (struct pollfd){.fd = s->line[i].fd, .events = POLLIN};
    if (poll(s->poll, (nfds_t)s->lines + 2, (int)(1e3 * seconds)) <= 0) return;
    for (int i = 0; i < s->lines; i++)
        if (s->poll[i].fd >= 0 && s->poll[i].revents) receive(s, s->rank == 0 ? i : 0, e);
}
