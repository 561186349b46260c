/* Measurements of all ranks together. Every rank takes part in each, whatever went wrong on it. */
#include "doctor/examine.h"

#include "base/clock.h"
#include "comm/probe.h"
#include "io/probe.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    COPIED = 64 << 20,      /* bytes of a copy between host and device */
    REDUCED_GPU = 32 << 20, /* floats of an all-reduce */
    REDUCED_CPU = 2 << 20,
    WRITTEN = 256 << 20 /* bytes of files of all ranks of a host */
};
static const double BUDGET = 0.5, FILE_BUDGET = 3; /* seconds of a measurement, about */

/* ---- host and device ------------------------------------------------------------------------- */

typedef lk_status (*copier)(lk_device *d, void *to, const void *from, size_t bytes);

static lk_status time_copy(lk_device *d, copier copy, void *to, const void *from, double *rate)
{
    double begin = 0, now = 0;
    int copies = 0;
    LK_TRY(copy(d, to, from, COPIED)); /* the first one pays for what is done once */
    LK_TRY(d->backend->sync(d));
    begin = lk_clock_seconds();
    do {
        for (int i = 0; i < 4; i++, copies++) LK_TRY(copy(d, to, from, COPIED));
        LK_TRY(d->backend->sync(d));
        now = lk_clock_seconds();
    } while (now - begin < BUDGET / 4);
    *rate = (double)copies * COPIED / (now - begin);
    return LK_OK;
}

static lk_status d_upload(lk_device *d, void *to, const void *from, size_t bytes)
{
    return d->backend->upload(d, to, from, bytes);
}

static lk_status d_download(lk_device *d, void *to, const void *from, size_t bytes)
{
    return d->backend->download(d, to, from, bytes);
}

/* Keep the GPU at work, then ask how fast its clocks run. */
static lk_status busy_facts(lk_examination *x, float *buffer, json_t **facts)
{
    lk_device *d = x->device;
    double end = lk_clock_seconds() + BUDGET;
    while (lk_clock_seconds() < end) {
        for (int i = 0; i < 64; i++)
            LK_TRY(d->backend->add(d, buffer, buffer + COPIED / 8, COPIED / 8));
        if (lk_clock_seconds() + 0.1 < end) LK_TRY(d->backend->sync(d));
    }
    LK_TRY(x->nvml ? lk_nvml_busy_facts(x->nvml, x->pci, facts) : LK_OK);
    return d->backend->sync(d);
}

static lk_status time_link(lk_examination *x, json_t *speed)
{
    lk_device *d = x->device;
    void *device = NULL, *host = NULL;
    double up = NAN, down = NAN;
    json_t *busy = NULL;
    lk_status status = d->backend->alloc(d, COPIED, &device);
    if (status == LK_OK) status = d->backend->host_alloc(d, COPIED, &host);
    if (status == LK_OK) status = time_copy(d, d_upload, device, host, &up);
    if (status == LK_OK) status = time_copy(d, d_download, host, device, &down);
    if (status == LK_OK) status = busy_facts(x, device, &busy);
    if (host) d->backend->host_release(d, host);
    if (device) d->backend->release(d, device);
    if (status != LK_OK) {
        json_decref(busy);
        return lk_examine_put(speed, "error", lk_examine_error());
    }
    LK_TRY(lk_examine_put(speed, "busy", busy ? busy : json_null()));
    LK_TRY(lk_examine_put(speed, "upload", json_real(up)));
    return lk_examine_put(speed, "download", json_real(down));
}

/* One rank of each host at a time. */
static lk_status time_links(lk_examination *x, json_t *speed)
{
    lk_comm *c = x->comm;
    lk_status status = LK_OK;
    for (int turn = 0; turn < c->size; turn++) {
        if (turn == c->local_rank && x->gpu && x->device) status = time_link(x, speed);
        bool last = turn + 1 >= c->local_size;
        bool all = true;
        LK_TRY(lk_comm_all(c, last, &all));
        if (all) break;
    }
    return status;
}

/* ---- all-reduce ------------------------------------------------------------------------------ */

/* On rank 0, from "HOST PCI" of all: what keeps them from reducing, "" for nothing. */
static void obstacle(char **all, int ranks, char *why, size_t size)
{
    why[0] = '\0';
    for (int r = 0; r < ranks && !why[0]; r++) {
        const char *pci = strchr(all[r], ' ');
        bool gpu = pci && pci[1] != '-' && pci[1] != '!';
        if (!pci || pci[1] == '!') snprintf(why, size, "rank %d has no device", r);
        for (int k = 0; k < r && !why[0]; k++) {
            const char *other = strchr(all[k], ' ');
            if (gpu && strcmp(all[r], all[k]) == 0)
                snprintf(why, size, "ranks %d and %d have the same GPU", k, r);
            else if ((other[1] == '-') != !gpu)
                snprintf(why, size, "ranks %d and %d: one has a GPU, the other none", k, r);
        }
    }
}

static lk_status may_reduce(lk_examination *x, char *why, size_t size)
{
    char mine[128], **all = NULL;
    snprintf(mine, sizeof mine, "%.64s %s", x->comm->host,
             !x->device ? "!"
             : x->gpu   ? x->pci
                        : "-");
    LK_TRY(lk_comm_gather_texts(x->comm, mine, &all));
    if (all) obstacle(all, x->comm->size, why, size);
    lk_comm_free_texts(all);
    return lk_comm_broadcast(x->comm, why, size);
}

/* `exact` NULL: not wanted. */
static lk_status time_both(lk_examination *x, float *buffer, int64_t floats, double *fast,
                           double *exact)
{
    lk_comm *c = x->comm;
    LK_TRY(lk_comm_time_reduce(c, x->device, buffer, floats, false, BUDGET, fast));
    if (!exact || (c->size & (c->size - 1)) != 0) return LK_OK;
    return lk_comm_time_reduce(c, x->device, buffer, floats, true, BUDGET, exact);
}

static lk_status try_reduce(lk_examination *x, int64_t floats, double *fast, double *exact)
{
    lk_comm *c = x->comm;
    void *buffer = NULL;
    size_t bytes = (size_t)floats * sizeof(float);
    lk_status status = x->device->backend->alloc(x->device, bytes, &buffer);
    status = lk_comm_agree(c, status);
    if (status == LK_OK) status = lk_comm_agree(c, lk_comm_attach(c, x->device, floats));
    if (status == LK_OK) status = lk_comm_agree(c, time_both(x, buffer, floats, fast, exact));
    lk_comm_detach(c);
    if (buffer) x->device->backend->release(x->device, buffer);
    return status;
}

/* With rings alone, then trees: what NCCL chooses by itself is the faster one, if its model of the
 * machine is right. One that this NCCL or topology has not is left out. */
static void time_choices(lk_examination *x, int64_t floats, double *ring, double *tree)
{
    double none = NAN;
    bool (*choose)(const char *) = x->options->choose;
    if (!x->gpu || !choose) return; /* the same on all ranks */
    if (choose("Ring") && try_reduce(x, floats, ring, NULL) != LK_OK) *ring = none;
    if (choose("Tree") && try_reduce(x, floats, tree, NULL) != LK_OK) *tree = none;
    choose(NULL);
    lk_error_clear();
}

static json_t *bus_fact(const lk_examination *x, double bytes, double seconds)
{
    return isnan(seconds) ? json_null() : json_real(lk_comm_bus(bytes, seconds, x->comm->size));
}

/* The failure of this one measurement is a fact; `failed` would end what follows. */
static lk_status time_reduce(lk_examination *x, json_t *speed)
{
    char why[256] = "";
    double fast = NAN, exact = NAN, ring = NAN, tree = NAN;
    int64_t floats = x->gpu ? REDUCED_GPU : REDUCED_CPU;
    double bytes = (double)floats * sizeof(float);
    if (x->comm->size == 1) return LK_OK;
    LK_TRY(may_reduce(x, why, sizeof why));
    lk_status status =
        why[0] ? lk_fail(LK_E_DEVICE, "not tried: %s", why) : try_reduce(x, floats, &fast, &exact);
    json_t *error = status == LK_OK ? json_null() : lk_examine_error();
    if (status == LK_OK) time_choices(x, floats, &ring, &tree);
    x->comm->failed = false;
    return lk_examine_put(speed, "reduce",
                          json_pack("{s:s, s:f, s:o, s:o, s:o, s:o, s:o}", "library",
                                    x->gpu ? "NCCL" : "MPI", "bytes", bytes, "fast",
                                    bus_fact(x, bytes, fast), "exact", bus_fact(x, bytes, exact),
                                    "ring", bus_fact(x, bytes, ring), "tree",
                                    bus_fact(x, bytes, tree), "error", error));
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Does this host see what rank 0 makes in the directory? It looks again for a while, for network
 * file systems remember what is not there. */
static lk_status look_for(lk_examination *x, const char *path, bool made, json_t *directory)
{
    lk_comm *c = x->comm;
    double end = lk_clock_seconds() + 2;
    bool seen = false, all = false;
    while (made && !all) {
        seen = seen || access(path, F_OK) == 0;
        LK_TRY(lk_comm_all(c, seen || lk_clock_seconds() > end, &all));
        if (!all) usleep(50000);
    }
    return lk_examine_put(directory, "shared", made ? json_boolean(seen) : json_null());
}

static lk_status shared_fact(lk_examination *x, json_t *directory)
{
    lk_comm *c = x->comm;
    char path[4096] = "";
    bool made = false;
    int file = -1;
    if (c->rank == 0) {
        int n = snprintf(path, sizeof path, "%s/.lockstep-doctor-XXXXXX", x->options->directory);
        if (n < (int)sizeof path) file = mkostemp(path, O_CLOEXEC);
        made = file >= 0;
    }
    LK_TRY(lk_comm_broadcast(c, path, sizeof path));
    LK_TRY(lk_comm_broadcast(c, &made, sizeof made));
    lk_status status = look_for(x, path, made, directory);
    if (file >= 0) close(file);
    if (made && c->rank == 0) unlink(path);
    return status;
}

lk_status lk_measure_directory(lk_examination *x)
{
    const lk_doctor_options *o = x->options;
    json_t *facts = NULL;
    if (!o->directory) return LK_OK;
    double bytes = o->measure ? (double)WRITTEN / x->comm->local_size : 0;
    lk_status status = lk_directory_facts(o->directory, bytes, FILE_BUDGET, &facts);
    LK_TRY(lk_comm_agree(x->comm, status));
    LK_TRY(lk_examine_put(x->facts, "directory", facts));
    return x->comm->size > 1 ? shared_fact(x, facts) : LK_OK;
}

lk_status lk_measure_speed(lk_examination *x)
{
    json_t *speed = json_object();
    lk_status status = lk_examine_put(x->facts, "speed", speed);
    LK_TRY(lk_comm_agree(x->comm, status));
    lk_examine_begin(x, "copies between host and GPU");
    LK_TRY(lk_comm_agree(x->comm, time_links(x, speed)));
    lk_examine_begin(x, x->gpu ? "NCCL's all-reduce (NCCL_DEBUG=INFO shows how far it comes)"
                               : "MPI's all-reduce");
    return lk_comm_agree(x->comm, time_reduce(x, speed));
}
