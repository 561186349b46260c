/* External search for equal hashes: partition, then sort each partition by small buckets. */
#include "io/duplicates.h"
#include "io/hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARTITION ((int64_t)64 << 20) /* bytes of a partition, about */
enum { MOST_FILES = 256, BUFFER = 4096, MANY = 1 << 26 }; /* partitions of a rank; records */
enum { BUCKET_BITS = 14 };

typedef lk_sample_record record;

typedef struct partition {
    int file;       /* -1: in memory */
    int64_t count;  /* records of it */
    record *buffer; /* those not in the file */
    int64_t held, room;
} partition;

struct lk_duplicates {
    MPI_Comm comm; /* the caller's */
    int rank, ranks;
    const char *directory;
    int partitions; /* of this rank */
    partition *part;
    record *received;
    int64_t received_room;
    int *length; /* [4, ranks]: counts and offsets of an exchange */
};

/* ---- opening --------------------------------------------------------------------------------- */

/* An unnamed file: it goes with the process, however it ends. */
static lk_status open_file(const char *directory, int *file)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/lockstep-check-XXXXXX", directory);
    *file = mkstemp(path);
    if (*file < 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot make a temporary file: %s; name another directory "
                       "with --tmp", directory, strerror(errno));
    unlink(path);
    return LK_OK;
}

static lk_status set_up(lk_duplicates *d, int64_t records)
{
    int64_t bytes = records / d->ranks * (int64_t)sizeof(record);
    int64_t wanted = bytes / PARTITION + 1;
    d->partitions = wanted < MOST_FILES ? (int)wanted : MOST_FILES;
    d->part = calloc((size_t)d->partitions, sizeof *d->part);
    d->length = calloc(4 * (size_t)d->ranks, sizeof *d->length);
    if (!d->part || !d->length) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int i = 0; i < d->partitions; i++) d->part[i].file = -1;
    if (d->partitions == 1) return LK_OK;
    for (int i = 0; i < d->partitions; i++) {
        partition *p = &d->part[i];
        LK_TRY(open_file(d->directory, &p->file));
        p->room = BUFFER;
        p->buffer = malloc(BUFFER * sizeof *p->buffer);
        if (!p->buffer) return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    return LK_OK;
}

lk_status lk_duplicates_open(MPI_Comm world, int64_t records, const char *directory,
                             lk_duplicates **out)
{
    lk_duplicates *d = calloc(1, sizeof *d);
    lk_status status = d ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (d) {
        d->comm = world;
        d->directory = directory;
        MPI_Comm_rank(world, &d->rank);
        MPI_Comm_size(world, &d->ranks);
        status = set_up(d, records);
    }
    status = lk_h5_agree(world, status);
    if (status == LK_OK) *out = d;
    else lk_duplicates_close(d);
    return status;
}

void lk_duplicates_close(lk_duplicates *d)
{
    if (!d) return;
    for (int i = 0; i < d->partitions && d->part; i++) {
        if (d->part[i].file >= 0) close(d->part[i].file);
        free(d->part[i].buffer);
    }
    free(d->part);
    free(d->received);
    free(d->length);
    free(d);
}

/* ---- collecting ------------------------------------------------------------------------------ */

/* High bits of the hash choose the owner, the next the partition, others the bucket. */
static int owner_of(const lk_duplicates *d, const record *r)
{
    return (int)((r->hash.high >> 32) % (uint64_t)d->ranks);
}

static int partition_of(const lk_duplicates *d, const record *r)
{
    return (int)((r->hash.high & 0xFFFFFFFFu) % (uint64_t)d->partitions);
}

static lk_status flush(const lk_duplicates *d, partition *p)
{
    const char *at = (const char *)p->buffer;
    size_t left = (size_t)p->held * sizeof *p->buffer;
    while (left > 0) {
        ssize_t n = write(p->file, at, left);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return lk_fail(LK_E_SYSTEM, "%s: cannot write a temporary file: %s; make room or name "
                           "another directory with --tmp", d->directory, strerror(errno));
        at += n;
        left -= (size_t)n;
    }
    p->held = 0;
    return LK_OK;
}

static lk_status keep(lk_duplicates *d, const record *r)
{
    partition *p = &d->part[d->partitions == 1 ? 0 : partition_of(d, r)];
    if (p->held == p->room) {
        if (p->file >= 0) {
            LK_TRY(flush(d, p));
        } else {
            int64_t room = p->room ? 2 * p->room : BUFFER;
            record *grown = realloc(p->buffer, (size_t)room * sizeof *grown);
            if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory for %lld hashes",
                                       (long long)room);
            p->buffer = grown;
            p->room = room;
        }
    }
    p->buffer[p->held++] = *r;
    p->count++;
    return LK_OK;
}

static lk_status keep_all(lk_duplicates *d, const record *r, int64_t count)
{
    for (int64_t i = 0; i < count; i++) LK_TRY(keep(d, &r[i]));
    return LK_OK;
}

static int by_owner(const void *a, const void *b, void *duplicates)
{
    return owner_of(duplicates, a) - owner_of(duplicates, b);
}

/* Counts and offsets in bytes of what goes to each rank and comes from each. */
static lk_status exchange_counts(lk_duplicates *d, const record *r, int64_t count, int64_t *total)
{
    int *send = d->length, *send_at = send + d->ranks, *get = send_at + d->ranks;
    int *get_at = get + d->ranks, at = 0;
    int64_t sum = 0;
    memset(send, 0, (size_t)d->ranks * sizeof *send);
    for (int64_t i = 0; i < count; i++) send[owner_of(d, &r[i])] += (int)sizeof *r;
    if (MPI_Alltoall(send, 1, MPI_INT, get, 1, MPI_INT, d->comm) != MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "MPI_Alltoall failed");
    for (int i = 0; i < d->ranks; i++) {
        send_at[i] = at;
        at += send[i];
        get_at[i] = (int)sum;
        sum += get[i];
    }
    *total = sum / (int64_t)sizeof *r;
    return LK_OK;
}

static lk_status exchange(lk_duplicates *d, record *r, int64_t count, int64_t *total)
{
    int *send = d->length, *get = send + 2 * d->ranks;
    if (count > 0) qsort_r(r, (size_t)count, sizeof *r, by_owner, d);
    LK_TRY(exchange_counts(d, r, count, total));
    lk_status status = LK_OK;
    if (*total > d->received_room) {
        free(d->received);
        d->received = malloc((size_t)*total * sizeof *d->received);
        d->received_room = d->received ? *total : 0;
        if (!d->received) status = lk_fail(LK_E_SYSTEM, "out of memory for hashes");
    }
    LK_TRY(lk_h5_agree(d->comm, status));
    if (MPI_Alltoallv(r, send, send + d->ranks, MPI_BYTE, d->received, get, get + d->ranks,
                      MPI_BYTE, d->comm) != MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "MPI_Alltoallv failed");
    return LK_OK;
}

lk_status lk_duplicates_add(lk_duplicates *d, record *r, int64_t count)
{
    if (d->ranks == 1) return keep_all(d, r, count);
    int64_t total = 0;
    lk_status status = count < MANY / d->ranks
                           ? LK_OK : lk_fail(LK_E_INTERNAL, "too many hashes at once");
    LK_TRY(lk_h5_agree(d->comm, status));
    LK_TRY(exchange(d, r, count, &total));
    return lk_h5_agree(d->comm, keep_all(d, d->received, total));
}

/* ---- finding --------------------------------------------------------------------------------- */

static int by_hash(const void *a, const void *b)
{
    const record *x = a, *y = b;
    if (x->hash.high != y->hash.high) return x->hash.high < y->hash.high ? -1 : 1;
    if (x->hash.low != y->hash.low) return x->hash.low < y->hash.low ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static int64_t row_of(uint64_t place) { return (int64_t)(place << 1 >> 17); }

/* Keep the smallest rows. */
static void note_example(lk_twins *t, int64_t row, int64_t first)
{
    int i = LK_TWINS - 1;
    if (row >= t->example[i].row) return;
    for (; i > 0 && t->example[i - 1].row > row; i--) t->example[i] = t->example[i - 1];
    t->example[i].row = row;
    t->example[i].first = first;
}

static void note_twin(lk_twins *t, uint64_t place, uint64_t first)
{
    t->count++;
    t->conflicts += (place & 0xFFFF) != (first & 0xFFFF);
    note_example(t, row_of(place), row_of(first));
}

static void clear(lk_duplicates_result *r)
{
    lk_twins *t[3] = {&r->within[0], &r->within[1], &r->overlap};
    memset(r, 0, sizeof *r);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < LK_TWINS; k++) t[i]->example[k].row = INT64_MAX;
}

static void merge_twins(lk_twins *to, const lk_twins *from)
{
    to->count += from->count;
    to->conflicts += from->conflicts;
    for (int k = 0; k < LK_TWINS && from->example[k].row != INT64_MAX; k++)
        note_example(to, from->example[k].row, from->example[k].first);
}

static void merge(lk_duplicates_result *to, const lk_duplicates_result *from)
{
    for (int s = 0; s < 2; s++) merge_twins(&to->within[s], &from->within[s]);
    merge_twins(&to->overlap, &from->overlap);
}

/* Sorted records of a bucket: runs of equal hashes, those of train first. */
static void scan_bucket(const record *r, int64_t count, lk_duplicates_result *out)
{
    for (int64_t i = 0, end; i < count; i = end) {
        const uint64_t *first[2] = {NULL, NULL};
        for (end = i; end < count && r[end].hash.high == r[i].hash.high &&
                      r[end].hash.low == r[i].hash.low; end++) {
            int split = (int)(r[end].place >> 63);
            if (first[split]) note_twin(&out->within[split], r[end].place, *first[split]);
            else first[split] = &r[end].place;
            if (split == LK_VALIDATION && first[LK_TRAIN])
                note_twin(&out->overlap, r[end].place, *first[LK_TRAIN]);
        }
    }
}

static int bucket_of(const record *r) { return (int)(r->hash.low >> (64 - BUCKET_BITS)); }

/* By buckets of the low half's first bits, each then sorted by itself in cache. */
static void scan_partition(const record *in, record *sorted, int64_t *start, int64_t count,
                           lk_duplicates_result *result)
{
    const int buckets = 1 << BUCKET_BITS;
    memset(start, 0, ((size_t)buckets + 1) * sizeof *start);
    for (int64_t i = 0; i < count; i++) start[bucket_of(&in[i])]++;
    for (int64_t b = 0, sum = 0; b <= buckets; b++) {
        int64_t n = start[b];
        start[b] = sum;
        sum += n;
    }
    for (int64_t i = 0; i < count; i++) sorted[start[bucket_of(&in[i])]++] = in[i];
#pragma omp parallel
    {
        lk_duplicates_result mine;
        clear(&mine);
#pragma omp for schedule(dynamic, 64)
        for (int b = 0; b < buckets; b++) { /* start[b] is where it ends by now */
            int64_t at = b > 0 ? start[b - 1] : 0, n = start[b] - at;
            if (n < 2) continue;
            qsort(sorted + at, (size_t)n, sizeof *sorted, by_hash);
            scan_bucket(sorted + at, n, &mine);
        }
#pragma omp critical
        merge(result, &mine);
    }
}

static lk_status read_back(const lk_duplicates *d, const partition *p, record *out)
{
    char *at = (char *)out;
    size_t left = (size_t)p->count * sizeof *out;
    off_t from = 0;
    while (left > 0) {
        ssize_t n = pread(p->file, at, left, from);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return lk_fail(LK_E_SYSTEM,
                           "%s: cannot read a temporary file back: %s; check the "
                           "disk, or name another directory with --tmp",
                           d->directory, n < 0 ? strerror(errno) : "it is shorter");
        at += n;
        left -= (size_t)n;
        from += n;
    }
    return LK_OK;
}

static lk_status scan_own(lk_duplicates *d, lk_duplicates_result *result)
{
    int64_t most = 1;
    bool files = d->partitions > 1;
    for (int i = 0; i < d->partitions; i++) {
        if (files) LK_TRY(flush(d, &d->part[i]));
        if (d->part[i].count > most) most = d->part[i].count;
    }
    record *in = files ? malloc((size_t)most * sizeof *in) : NULL;
    record *sorted = malloc((size_t)most * sizeof *sorted);
    int64_t *start = malloc(((1 << BUCKET_BITS) + 1) * sizeof *start);
    lk_status status = (in || !files) && sorted && start
                           ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for hashes");
    for (int i = 0; i < d->partitions && status == LK_OK; i++) {
        const partition *p = &d->part[i];
        if (files) status = read_back(d, p, in);
        if (status == LK_OK)
            scan_partition(files ? in : p->buffer, sorted, start, p->count, result);
    }
    free(in);
    free(sorted);
    free(start);
    return status;
}

lk_status lk_duplicates_find(lk_duplicates *d, lk_duplicates_result *out)
{
    lk_duplicates_result mine, all;
    clear(&mine);
    clear(&all);
    LK_TRY(lk_h5_agree(d->comm, scan_own(d, &mine)));
    lk_duplicates_result *each = malloc((size_t)d->ranks * sizeof *each);
    LK_TRY(lk_h5_agree(d->comm, each ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    int error = MPI_Allgather(&mine, sizeof mine, MPI_BYTE, each, sizeof mine, MPI_BYTE, d->comm);
    for (int i = 0; i < d->ranks && error == MPI_SUCCESS; i++) merge(&all, &each[i]);
    free(each);
    if (error != MPI_SUCCESS) return lk_fail(LK_E_COMM, "MPI_Allgather failed");
    *out = all;
    return LK_OK;
}
