/* Tests of communication; run under mpirun with 1, 2, 4 and 8 ranks. Every rank checks, rank 0
 * prints, and the exit status of every rank tells. */
#include "comm/comm.h"
#include "comm/probe.h"
#include "comm/roll.h"
#include "comm/star.h"
#include "comm/vote.h"
#include "tests/tap.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rank r's addend: sizes apart by many powers of two, so that every order gives other bits. */
static float addend(int rank, int64_t i)
{
    lk_u32x4 r = lk_philox(8, (uint32_t)i, (uint32_t)rank, 0, 0);
    return ldexpf(lk_uniform(r.v[0]) - 0.5f, (int)(r.v[1] % 12));
}

/* The sum over ranks first .. first+count-1 as a binary tree. */
static float tree(int first, int count, int64_t i)
{
    if (count == 1) return addend(first, i);
    return tree(first, count / 2, i) + tree(first + count / 2, count / 2, i);
}

static bool all(lk_comm *c, bool mine)
{
    int good = mine, agreed = 0;
    MPI_Allreduce(&good, &agreed, 1, MPI_INT, MPI_MIN, c->world);
    return agreed;
}

static void check_reduce(lk_comm *c, lk_device *d, int64_t n)
{
    const lk_backend *b = d->backend;
    void *device = NULL;
    float *host = calloc((size_t)n + 1, sizeof *host), *exact = calloc((size_t)n, sizeof *exact);
    for (int64_t i = 0; i < n; i++) exact[i] = tree(0, c->size, i);
    lk_status status = b->alloc(d, (size_t)(n + 1) * sizeof *host, &device);
    for (int mode = 0; mode < 3 && status == LK_OK; mode++) { /* exact, exact again, fast */
        for (int64_t i = 0; i < n; i++) host[i] = addend(c->rank, i);
        host[n] = 12345; /* must stay */
        status = b->upload(d, device, host, (size_t)(n + 1) * sizeof *host);
        if (status == LK_OK) status = lk_reduce(c, d, device, n, mode < 2);
        if (status == LK_OK) status = b->download(d, host, device, (size_t)(n + 1) * sizeof *host);
        if (status == LK_OK) status = b->sync(d);
        bool good = status == LK_OK && host[n] == 12345;
        if (mode < 2) {
            good = good && memcmp(host, exact, (size_t)n * sizeof *host) == 0;
        } else {
            for (int64_t i = 0; i < n && good; i++)
                good = fabsf(host[i] - exact[i]) <= 1e-6f * 2048 * (float)c->size;
        }
        tap_ok(all(c, good), "%s sum of %lld floats over %d ranks: %s %s", b->name, (long long)n,
               c->size, mode < 2 ? "the bits of the binary tree" : "fast, within tolerance",
               lk_error_text());
    }
    if (device) b->release(d, device);
    free(host);
    free(exact);
    lk_error_clear();
}

static void check_agreement(lk_comm *c)
{
    lk_error_clear();
    tap_ok(all(c, lk_comm_agree(c, LK_OK) == LK_OK), "no failure is agreed upon");
    for (int bad = 0; bad < c->size; bad += bad ? bad : 1) {
        lk_status mine = LK_OK;
        if (c->rank == bad) mine = lk_fail(LK_E_SYSTEM, "disk of rank %d is full", bad);
        lk_status agreed = lk_comm_agree(c, mine);
        char words[64];
        snprintf(words, sizeof words, "disk of rank %d is full", bad);
        tap_ok(all(c, agreed == LK_E_SYSTEM && strstr(lk_error_text(), words)),
               "every rank has the text of rank %d: %s", bad, lk_error_text());
        lk_error_clear();
    }
    lk_status mine = lk_fail(LK_E_INPUT, "no such file"); /* on every rank */
    tap_ok(all(c, lk_comm_agree(c, mine) == LK_E_INPUT && strstr(lk_error_text(), "no such file")),
           "one text when all fail: %s", lk_error_text());
    lk_error_clear();
    tap_ok(all(c, lk_comm_agree(c, LK_OK) == LK_OK), "and none afterwards");
}

static bool no_memory;
void *__real_calloc(size_t n, size_t m);
void *__wrap_calloc(size_t n, size_t m) { return no_memory ? NULL : __real_calloc(n, m); }

/* Where one rank has no memory the others do not wait for it. */
static void check_memory(lk_comm *c)
{
    char *text = c->rank == 0 ? strdup("a text") : NULL, *kept = text;
    int next = c->rank;
    no_memory = c->rank > 0 && c->rank == c->size - 1;
    lk_status status = lk_comm_broadcast_text(c, &text);
    no_memory = false;
    bool good = c->size == 1 ? status == LK_OK
                             : status == LK_E_SYSTEM && strstr(lk_error_text(), "out of memory");
    tap_ok(all(c, good && text == kept), "no memory for a text on one rank: %s", lk_error_text());
    good = lk_comm_broadcast(c, &next, sizeof next) == LK_OK && next == 0;
    tap_ok(all(c, good), "all go on together");
    free(kept);
    lk_error_clear();
    c->failed = false;
}

static void check_small(lk_comm *c)
{
    char bytes[5] = {0};
    if (c->rank == 0) memcpy(bytes, "abcd", 5);
    bool good = lk_comm_broadcast(c, bytes, sizeof bytes) == LK_OK && !strcmp(bytes, "abcd");
    tap_ok(all(c, good), "bytes of rank 0 reach all");

    char *text = c->rank == 0 ? strdup("choices\nof rank 0\n") : NULL;
    good = lk_comm_broadcast_text(c, &text) == LK_OK && !strcmp(text, "choices\nof rank 0\n");
    tap_ok(all(c, good), "the text of rank 0 reaches all");
    free(text);

    double mine[2] = {c->rank, 10.0 * c->rank}, *every = calloc((size_t)c->size, sizeof mine);
    good = lk_comm_gather(c, mine, sizeof mine, every) == LK_OK;
    for (int r = 0; r < c->size; r++) good &= every[2 * r] == r && every[2 * r + 1] == 10.0 * r;
    tap_ok(all(c, good), "doubles of all ranks reach all");
    free(every);

    int index = -1;
    lk_comm one = *c;
    one.local_rank = 3;
    one.local_size = 4;
    good = lk_comm_device_index(&one, 4, &index) == LK_OK && index == 3;
    good &= lk_comm_device_index(&one, 1, &index) == LK_OK && index == 0;
    tap_ok(all(c, good), "the device is the local rank, or the only one visible");
    good = lk_comm_device_index(&one, 2, &index) == LK_E_DEVICE;
    lk_error_clear();
    good &= lk_comm_device_index(&one, 0, &index) == LK_E_DEVICE;
    lk_error_clear();
    tap_ok(all(c, good), "too few devices are an error");
}

static void check_versions(lk_comm *c)
{
    static const struct {
        int code;
        const char *text;
    } nccl[] = {{2803, "2.8.3"}, {2406, "2.4.6"}, {20906, "2.9.6"}, {21003, "2.10.3"},
                {22501, "2.25.1"}};
    char text[32], library[300] = "";
    for (size_t i = 0; i < sizeof nccl / sizeof *nccl; i++)
        tap_ok(all(c, strcmp(lk_comm_nccl_version(nccl[i].code, text), nccl[i].text) == 0),
               "NCCL %d is %s", nccl[i].code, text);
    lk_comm_library(library, sizeof library);
    tap_ok(all(c, library[0] && !strpbrk(library, "\n")), "the libraries: %s", library);
}

/* Each call returns the greatest answer of the call before, the same on every rank, whichever rank
 * it is from and though ranks come at other times. */
static void check_vote(lk_comm *c)
{
    lk_vote *v = NULL;
    lk_status status = lk_vote_open(c, &v);
    bool good = status == LK_OK;
    int64_t before = 0;
    for (int call = 0; good && call < 200; call++) {
        int64_t greatest = 0, got = -1, mine = 0;
        for (int r = 0; r < c->size; r++) {
            lk_u32x4 x = lk_philox(9, (uint32_t)call, (uint32_t)r, 0, 0);
            int64_t answer = x.v[0] % 3 ? 0 : (int64_t)x.v[1] << 20;
            if (answer > greatest) greatest = answer;
            if (r == c->rank) mine = answer;
            if (r == c->rank && call % 50 == 0) usleep(x.v[2] % 3000);
        }
        good = lk_vote_cast(v, mine, &got) == LK_OK && got == before;
        before = greatest;
    }
    lk_vote_close(v);
    tap_ok(all(c, good), "200 votes of %d ranks %s", c->size, lk_error_text());
}

/* Bytes of all ranks in order. */
static void check_gather(lk_comm *c)
{
    char mine[16], *every = calloc((size_t)c->size, sizeof mine);
    snprintf(mine, sizeof mine, "<%d>", c->rank);
    bool good = lk_comm_gather(c, mine, sizeof mine, every) == LK_OK;
    for (int r = 0; r < c->size; r++) {
        char wanted[16];
        snprintf(wanted, sizeof wanted, "<%d>", r);
        good = good && strcmp(every + (size_t)r * sizeof mine, wanted) == 0;
    }
    free(every);
    tap_ok(all(c, good), "bytes of %d ranks are gathered", c->size);
}

struct heard {
    int messages, sum, ends;
};
static void keep(void *context, int from, const void *message)
{
    int value;
    (void)from;
    memcpy(&value, message, sizeof value);
    ((struct heard *)context)->messages++;
    ((struct heard *)context)->sum += value;
}
static void count(void *context, int rank)
{
    (void)rank;
    ((struct heard *)context)->ends++;
}

/* Beside MPI: every rank's message comes to rank 0 and the answer back; ends are told. */
static void check_star(lk_comm *c)
{
    char reason[200] = "";
    lk_star *s = NULL;
    if (c->size == 1) return;
    bool good = lk_star_open(c, sizeof(int), &s, reason, sizeof reason) == LK_OK && s;
    struct heard heard = {0, 0, 0};
    const lk_star_events events = {&heard, keep, count};
    const int none[2] = {-1, -1};
    if (good && c->rank != 0) lk_star_send(s, 0, &c->rank);
    for (int i = 0; good && c->rank == 0 && heard.messages < c->size - 1 && i < 10000; i++)
        lk_star_poll(s, 0.001, none, &events);
    if (c->rank == 0) good = good && heard.sum == c->size * (c->size - 1) / 2;
    for (int r = 1; good && c->rank == 0 && r < c->size; r++) lk_star_send(s, r, &(int){100 + r});
    for (int tries = 0; good && c->rank != 0 && heard.messages == 0 && tries < 10000; tries++)
        lk_star_poll(s, 0.001, none, &events);
    if (c->rank != 0) good = good && heard.sum == 100 + c->rank;
    MPI_Barrier(c->world);
    if (c->rank != 0) lk_star_close(s);
    for (int tries = 0; good && c->rank == 0 && heard.ends < c->size - 1 && tries < 10000; tries++)
        lk_star_poll(s, 0.001, none, &events);
    if (c->rank == 0) good = good && heard.ends == c->size - 1;
    if (c->rank == 0) lk_star_close(s);
    tap_ok(all(c, good), "messages beside MPI among %d ranks, and their ends %s", c->size, reason);
}

/* All but rank 0 ask each other, again and again, for a datagram may be lost; each hears from each.
 * It goes on until all have, for the last to ask must still be answered. */
static void check_roll(lk_comm *c)
{
    char reason[200] = "";
    lk_star *s = NULL;
    lk_roll *r = NULL;
    struct heard heard = {0, 0, 0};
    if (c->size < 3) return;
    bool good = lk_star_open(c, sizeof(int), &s, reason, sizeof reason) == LK_OK && s &&
                lk_roll_open(c, s, sizeof(int), &r) == LK_OK && r;
    bool done = !all(c, good);
    for (int tries = 0; !done && tries < 2000; tries++) {
        heard.messages = heard.sum = c->rank == 0 ? c->size - 2 : 0;
        for (int i = 1; i < c->size && c->rank != 0; i++)
            if (i != c->rank) lk_roll_ask(r, i);
        for (int i = 0; i < 10 && heard.messages < c->size - 2; i++, usleep(1000))
            lk_roll_serve(r, &(int){1}, keep, &heard);
        done = all(c, heard.messages >= c->size - 2 && heard.sum == heard.messages);
    }
    tap_ok(done && good, "a roll call among %d ranks %s", c->size, reason);
    lk_roll_close(r);
    lk_star_close(s);
}

int main(void)
{
    static const int64_t lengths[] = {1, 2, 7, 8, 1000, 100003};
    lk_comm *c = NULL;
    lk_device *d = NULL;
    if (lk_comm_open(&c) != LK_OK) {
        printf("Bail out! %s\n", lk_error_text());
        return 1;
    }
    tap_quiet = c->rank != 0;
    check_small(c);
    check_versions(c);
    check_memory(c);
    check_agreement(c);
    check_vote(c);
    check_gather(c);
    check_star(c);
    check_roll(c);
    lk_status status = lk_backend_cpu.open(0, &d);
    if (status == LK_OK) status = lk_comm_attach(c, d, 100003);
    if (tap_ok(all(c, status == LK_OK), "the device is attached %s", lk_error_text()))
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            check_reduce(c, d, lengths[i]);
    lk_comm_detach(c);
    if (d) d->backend->close(d);
    lk_comm_close(c);
    return tap_done();
}
