#include "train/starts.h"

#include "comm/probe.h"
#include "version.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What each rank tells of itself. */
typedef struct place {
    char host[64], device[200];
} place;

static json_t *list(const place *all, int size, bool device)
{
    json_t *a = json_array();
    for (int r = 0; a && r < size; r++) /* a name that is not UTF-8 becomes null */
        json_array_append_new(a, json_string(device ? all[r].device : all[r].host));
    return a;
}

/* NULL when memory ends. */
static json_t *describe(const lk_comm *c, const lk_starts_entry *e, const place *all,
                        const char *hdf5)
{
    char now[40], mpi[256];
    time_t t = time(NULL);
    struct tm utc;
    lk_comm_library(mpi, sizeof mpi);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &utc));
    return json_pack("{s:s, s:I, s:s?, s:s, s:s, s:{s:s?, s:s}, s:s?, s:s, s:i, s:i, s:i, s:o, "
                     "s:o}", "time", now, "step", (json_int_t)e->step, "checkpoint", e->checkpoint,
                     "code_version", LK_CODE_VERSION, "build", LK_BUILD, "libraries", "mpi", mpi,
                     "hdf5", hdf5, "dataset", e->data->path, "dataset_digest", e->data->digest,
                     "ranks", c->size, "leaves", e->leaves, "threads", omp_get_max_threads(),
                     "hosts", list(all, c->size, false), "devices", list(all, c->size, true));
}

static lk_status cannot(const char *what, const char *path, int error)
{
    return lk_fail(lk_status_of_errno(error), "%s: cannot %s: %s; %s", path, what, strerror(error),
                   lk_advice_of_errno(error, "move it away"));
}

/* One write: a line is there whole or, after a crash, cut, and then the next begins a new one. */
static lk_status append_to(int fd, const char *path, const char *line)
{
    char last = '\n', *text = NULL;
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0 || (end > 0 && pread(fd, &last, 1, end - 1) < 0))
        return cannot("read", path, errno);
    int n = asprintf(&text, "%s%s\n", last == '\n' ? "" : "\n", line);
    if (n < 0) return lk_fail(LK_E_SYSTEM, "out of memory for starts.jsonl");
    ssize_t written = write(fd, text, (size_t)n);
    int error = written < 0 ? errno : ENOSPC; /* why else would it be cut short? */
    free(text);
    if (written != n) return cannot("write", path, error);
    return fsync(fd) == 0 || errno == EINVAL ? LK_OK : cannot("sync", path, errno);
}

static lk_status append(const char *path, const char *line)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);
    if (fd < 0) return cannot("open", path, errno);
    lk_status status = append_to(fd, path, line);
    close(fd);
    return status;
}

static lk_status write_entry(const lk_comm *c, const char *directory, const lk_starts_entry *e,
                             const place *all, const char *hdf5)
{
    json_t *entry = describe(c, e, all, hdf5);
    char *line = entry ? json_dumps(entry, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL, *path = NULL;
    json_decref(entry);
    if (asprintf(&path, "%s/starts.jsonl", directory) < 0) path = NULL;
    lk_status status = line && path ? append(path, line)
                                    : lk_fail(LK_E_SYSTEM, "out of memory for starts.jsonl");
    free(line);
    free(path);
    return status;
}

lk_status lk_starts_append(lk_comm *comm, lk_io *io, const char *directory,
                           const lk_starts_entry *e)
{
    place mine = {.host = ""}, *all = calloc((size_t)comm->size, sizeof *all);
    char hdf5[64];
    memcpy(mine.host, comm->host, sizeof mine.host);
    e->device->backend->describe(e->device, mine.device, sizeof mine.device);
    lk_status status = all ? lk_io_library(io, hdf5, sizeof hdf5)
                           : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(comm, status);
    if (status == LK_OK) status = lk_comm_gather(comm, &mine, sizeof mine, all);
    if (status == LK_OK && comm->rank == 0) status = write_entry(comm, directory, e, all, hdf5);
    free(all);
    return lk_comm_agree(comm, status);
}
