#include "comm/roll.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SECRET = 16, MOST = 1000 };

struct lk_roll {
    int rank, size, fd;
    size_t message;
    unsigned char secret[SECRET];     /* of this job */
    struct sockaddr_storage *address; /* by rank; that of rank 0 is not used */
};

typedef struct call {
    unsigned char secret[SECRET];
    int32_t rank;       /* of the sender */
    int32_t answer;     /* 0: a question */
    char message[MOST]; /* of an answer */
} call;
#define HEAD (sizeof(call) - MOST)

/* A socket at this rank's address of the star, any port; without one *mine has no family. */
static void bind_socket(lk_roll *r, const lk_star *star, struct sockaddr_storage *mine)
{
    socklen_t length = sizeof *mine;
    if (!lk_star_address(star, mine)) return;
    if (mine->ss_family == AF_INET) ((struct sockaddr_in *)mine)->sin_port = 0;
    else ((struct sockaddr_in6 *)mine)->sin6_port = 0;
    r->fd = socket(mine->ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (r->fd < 0 || bind(r->fd, (struct sockaddr *)mine, sizeof *mine) != 0 ||
        getsockname(r->fd, (struct sockaddr *)mine, &length) != 0)
        mine->ss_family = AF_UNSPEC;
}

/* Rank 0 makes the secret; without one there is no roll call. */
static lk_status share_secret(lk_roll *r, lk_comm *comm, bool *good)
{
    struct {
        unsigned char secret[SECRET];
        int32_t good;
    } all = {.good = 0};
    if (r->rank == 0) all.good = getrandom(all.secret, SECRET, 0) == SECRET;
    LK_TRY(lk_comm_broadcast(comm, &all, sizeof all));
    memcpy(r->secret, all.secret, SECRET);
    *good = all.good;
    return LK_OK;
}

lk_status lk_roll_open(lk_comm *comm, const lk_star *star, size_t message, lk_roll **roll)
{
    struct sockaddr_storage mine = {.ss_family = AF_UNSPEC};
    bool good = false;
    *roll = NULL;
    if (!star || comm->size < 3) return LK_OK;
    lk_roll *r = calloc(1, sizeof *r);
    if (r) *r = (lk_roll){.rank = comm->rank, .size = comm->size, .fd = -1, .message = message};
    if (r) r->address = calloc((size_t)comm->size, sizeof *r->address);
    lk_status status = r && r->address ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(comm, status);
    if (status == LK_OK && comm->rank != 0) bind_socket(r, star, &mine);
    if (status == LK_OK) status = lk_comm_gather(comm, &mine, sizeof mine, r->address);
    if (status == LK_OK) status = share_secret(r, comm, &good);
    for (int i = 1; status == LK_OK && i < r->size; i++) /* none from IPv4 to IPv6 */
        good = good && r->address[i].ss_family != AF_UNSPEC &&
               r->address[i].ss_family == r->address[1].ss_family;
    if (status == LK_OK && good) *roll = r;
    else lk_roll_close(r);
    return status;
}

void lk_roll_close(lk_roll *r)
{
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    free(r->address);
    free(r);
}

int lk_roll_socket(const lk_roll *r) { return r ? r->fd : -1; }

/* What cannot be sent is as good as lost on the way. */
static void send_call(const lk_roll *r, int rank, const void *message)
{
    call c = {.rank = r->rank, .answer = message != NULL};
    memcpy(c.secret, r->secret, SECRET);
    if (message) memcpy(c.message, message, r->message);
    (void)sendto(r->fd, &c, HEAD + (message ? r->message : 0), MSG_NOSIGNAL,
                 (const struct sockaddr *)&r->address[rank], sizeof *r->address);
}

void lk_roll_ask(const lk_roll *r, int rank) { send_call(r, rank, NULL); }

void lk_roll_serve(const lk_roll *r, const void *mine,
                   void (*answered)(void *context, int from, const void *message), void *context)
{
    call c;
    for (ssize_t n; (n = recv(r->fd, &c, sizeof c, 0)) >= 0;) {
        bool ours = n >= (ssize_t)HEAD && memcmp(c.secret, r->secret, SECRET) == 0 && c.rank > 0 &&
                    c.rank < r->size && c.rank != r->rank;
        if (!ours) continue;
        if (!c.answer) send_call(r, c.rank, mine);
        else if (n == (ssize_t)(HEAD + r->message)) answered(context, c.rank, c.message);
    }
}
