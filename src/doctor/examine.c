/* The examination: facts of every rank, then measurements of all together, gathered on rank 0.
 *
 * What fails here is a fact to be judged, an "error" in words; only a rank without memory, or one
 * that MPI does not reach, ends it. */
#include "doctor/doctor.h"

#include "base/clock.h"
#include "comm/probe.h"
#include "cpu/device.h"
#include "cpu/machine.h"
#include "cuda/nvml.h"
#include "io/probe.h"
#ifdef LK_HAVE_CUDA
#include "cuda/device.h"
#include "cuda/probe.h"
#endif

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
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

typedef struct examination {
    lk_comm *comm;
    lk_io *io;
    const lk_doctor_options *options;
    lk_nvml *nvml;
    lk_device *device; /* NULL: none could be opened */
    char pci[32];      /* of the device, "" for the CPU */
    bool gpu;
    json_t *facts;
} examination;

/* Add a member; takes `value`, NULL when memory ended. */
static lk_status put(json_t *object, const char *name, json_t *value)
{
    if (value && json_object_set_new(object, name, value) == 0) return LK_OK;
    return lk_fail(LK_E_SYSTEM, "out of memory for facts");
}

/* The text of an error that became a fact; it is no error any more. */
static json_t *error_fact(void)
{
    json_t *text = json_string(lk_error_text());
    if (!text) text = json_string("an error whose text is no UTF-8");
    lk_error_clear();
    return text;
}

/* What follows may hang, with a driver, a network or a file system. */
static void begin(examination *x, const char *stage)
{
    if (x->options->stage) atomic_store(x->options->stage, stage);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static lk_status program_facts(examination *x)
{
    bool cuda = false, nccl = false;
#ifdef LK_HAVE_CUDA
    cuda = true;
#endif
#ifdef LK_HAVE_NCCL
    nccl = true;
#endif
    const lk_doctor_options *o = x->options;
    return put(x->facts, "program",
               json_pack("{s:s, s:s, s:s, s:b, s:b}", "version", o->version, "code", o->code,
                         "build", o->build, "cuda", cuda, "nccl", nccl));
}

/* The variables of the libraries below, without those that mpirun passes to itself. */
static bool of_interest(const char *name)
{
    static const char *const wanted[] = {"NCCL_", "UCX_", "OMPI_MCA_", "CUDA_", "CUBLASLT_",
                                         "NVIDIA_TF32", "OMP_", "GOMP_", "KMP_", "DNNL_", "ONEDNN_",
                                         "HDF5_", "LD_PRELOAD=", "LD_LIBRARY_PATH=",
                                         "OMPI_COMM_WORLD_SIZE=", "SLURM_STEP_NUM_TASKS=",
                                         "PMI_SIZE="};
    static const char *const internal[] = {"OMPI_MCA_orte_", "OMPI_MCA_ess", "OMPI_MCA_pmix",
                                           "OMPI_MCA_initial_wdir", "OMPI_MCA_shmem_RUNTIME",
                                           "OMPI_MCA_mpi_oversubscribe", "OMPI_MCA_prte_",
                                           "CUDA_HOME", "CUDA_PATH"};
    for (size_t i = 0; i < sizeof internal / sizeof *internal; i++)
        if (strncmp(name, internal[i], strlen(internal[i])) == 0) return false;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (strncmp(name, wanted[i], strlen(wanted[i])) == 0) return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static lk_status add_variable(json_t *all, const char *entry)
{
    char name[128];
    const char *equals = strchr(entry, '=');
    if (!equals || (size_t)(equals - entry) >= sizeof name) return LK_OK;
    memcpy(name, entry, (size_t)(equals - entry));
    name[equals - entry] = '\0';
    json_t *value = json_string(equals + 1);
    return put(all, name, value ? value : json_string("(no UTF-8)"));
}

static lk_status environment_facts(examination *x)
{
    size_t count = 0;
    char **all = x->options->environment;
    while (all && all[count]) count++;
    char **sorted = malloc((count + 1) * sizeof *sorted);
    json_t *facts = json_object();
    lk_status status = sorted && facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (sorted && count) memcpy(sorted, all, count * sizeof *sorted);
    if (sorted) qsort(sorted, count, sizeof *sorted, by_name);
    for (size_t i = 0; i < count && status == LK_OK; i++)
        if (of_interest(sorted[i])) status = add_variable(facts, sorted[i]);
    free(sorted);
    if (status == LK_OK) return put(x->facts, "environment", facts);
    json_decref(facts);
    return status;
}

static lk_status nvml_facts(examination *x)
{
    char why[256] = "";
    json_t *facts = NULL;
    LK_TRY(lk_nvml_open(&x->nvml, why, sizeof why));
    if (!x->nvml) return put(x->facts, "nvml_error", json_string(why));
    LK_TRY(lk_nvml_facts(x->nvml, x->options->root,
                         json_object_get(json_object_get(x->facts, "machine"), "nics"), &facts));
    return put(x->facts, "nvml", facts);
}

static lk_status library_facts(examination *x)
{
    json_t *facts = NULL;
    LK_TRY(lk_comm_facts(&facts));
    LK_TRY(put(x->facts, "mpi", facts));
    LK_TRY(lk_hdf5_facts(x->io, &facts));
    LK_TRY(put(x->facts, "hdf5", facts));
    LK_TRY(lk_cpu_matmul_facts(&facts));
    return put(x->facts, "onednn", facts);
}

static lk_status local_facts(examination *x)
{
    const lk_comm *c = x->comm;
    json_t *facts = NULL;
    x->facts = json_pack("{s:i, s:s, s:i, s:i}", "rank", c->rank, "host", c->host, "local_rank",
                         c->local_rank, "local_size", c->local_size);
    if (!x->facts) return lk_fail(LK_E_SYSTEM, "out of memory for facts");
    LK_TRY(program_facts(x));
    /* the CPU device divides the cores among the ranks: the threads are those it leaves */
    lk_device *cpu = NULL;
    LK_TRY(lk_backend_cpu.open(c->local_size, &cpu));
    lk_backend_cpu.close(cpu);
    LK_TRY(lk_machine_facts(x->options->root, &facts));
    LK_TRY(put(x->facts, "machine", facts));
    LK_TRY(library_facts(x));
    LK_TRY(environment_facts(x));
    return nvml_facts(x);
}

/* ---- the device ------------------------------------------------------------------------------ */

#ifdef LK_HAVE_CUDA
/* One kernel shows whether this build has code for the GPU. */
static lk_status try_kernel(lk_device *d)
{
    void *buffer = NULL;
    LK_TRY(d->backend->alloc(d, 1024, &buffer));
    lk_status status = d->backend->add(d, buffer, buffer, 256);
    if (status == LK_OK) status = d->backend->sync(d);
    if (status != LK_OK)
        lk_fail_prefix(status, "the GPU runs no kernel of this build, see 'compiled as' above and "
                       "configure --with-cuda-arch");
    d->backend->release(d, buffer);
    return status;
}

static lk_status open_gpu(examination *x, const json_t *devices)
{
    int index = 0;
    LK_TRY(lk_comm_device_index(x->comm, (int)json_array_size(devices), &index));
    const json_t *mine = json_array_get(devices, (size_t)index);
    const char *pci = json_string_value(json_object_get(mine, "pci"));
    snprintf(x->pci, sizeof x->pci, "%s", pci ? pci : "");
    LK_TRY(lk_backend_cuda.open(index, &x->device));
    return try_kernel(x->device);
}
#endif

static lk_status open_device(examination *x)
{
    lk_status status = LK_OK;
#ifdef LK_HAVE_CUDA
    json_t *facts = NULL;
    LK_TRY(lk_cuda_facts(&facts));
    LK_TRY(put(x->facts, "cuda", facts));
    const json_t *devices = json_object_get(facts, "devices");
    x->gpu = json_array_size(devices) > 0;
    if (x->gpu) status = open_gpu(x, devices);
#endif
    if (!x->gpu) status = lk_backend_cpu.open(x->comm->local_size, &x->device);
    json_t *error = status == LK_OK ? json_null() : error_fact();
    if (status != LK_OK && x->device) {
        x->device->backend->close(x->device);
        x->device = NULL;
    }
    return put(x->facts, "device", json_pack("{s:s, s:o}", "pci", x->pci, "error", error));
}

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
static lk_status busy_facts(examination *x, float *buffer, json_t **facts)
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

static lk_status time_link(examination *x, json_t *speed)
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
        return put(speed, "error", error_fact());
    }
    LK_TRY(put(speed, "busy", busy ? busy : json_null()));
    LK_TRY(put(speed, "upload", json_real(up)));
    return put(speed, "download", json_real(down));
}

/* One rank of each host at a time. */
static lk_status time_links(examination *x, json_t *speed)
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

static lk_status may_reduce(examination *x, char *why, size_t size)
{
    char mine[128], **all = NULL;
    snprintf(mine, sizeof mine, "%.64s %s", x->comm->host,
             !x->device ? "!" : x->gpu ? x->pci : "-");
    LK_TRY(lk_comm_gather_texts(x->comm, mine, &all));
    if (all) obstacle(all, x->comm->size, why, size);
    lk_comm_free_texts(all);
    return lk_comm_broadcast(x->comm, why, size);
}

/* `exact` NULL: not wanted. */
static lk_status time_both(examination *x, float *buffer, int64_t floats, double *fast,
                           double *exact)
{
    lk_comm *c = x->comm;
    LK_TRY(lk_comm_time_reduce(c, x->device, buffer, floats, false, BUDGET, fast));
    if (!exact || (c->size & (c->size - 1)) != 0) return LK_OK;
    return lk_comm_time_reduce(c, x->device, buffer, floats, true, BUDGET, exact);
}

static lk_status try_reduce(examination *x, int64_t floats, double *fast, double *exact)
{
    lk_comm *c = x->comm;
    void *buffer = NULL;
    size_t bytes = (size_t)floats * sizeof(float);
    lk_status status = x->device->backend->alloc(x->device, bytes, &buffer);
    status = lk_comm_agree(c, status);
    if (status == LK_OK) status = lk_comm_agree(c, lk_comm_attach(c, x->device, floats));
    if (status == LK_OK)
        status = lk_comm_agree(c, time_both(x, buffer, floats, fast, exact));
    lk_comm_detach(c);
    if (buffer) x->device->backend->release(x->device, buffer);
    return status;
}

/* With rings alone, then trees: what NCCL chooses by itself is the faster one, if its model of the
 * machine is right. One that this NCCL or topology has not is left out. */
static void time_choices(examination *x, int64_t floats, double *ring, double *tree)
{
    double none = NAN;
    bool (*choose)(const char *) = x->options->choose;
    if (!x->gpu || !choose) return; /* the same on all ranks */
    if (choose("Ring") && try_reduce(x, floats, ring, NULL) != LK_OK) *ring = none;
    if (choose("Tree") && try_reduce(x, floats, tree, NULL) != LK_OK) *tree = none;
    choose(NULL);
    lk_error_clear();
}

static json_t *bus_fact(const examination *x, double bytes, double seconds)
{
    return isnan(seconds) ? json_null() : json_real(lk_comm_bus(bytes, seconds, x->comm->size));
}

/* The failure of this one measurement is a fact; `failed` would end what follows. */
static lk_status time_reduce(examination *x, json_t *speed)
{
    char why[256] = "";
    double fast = NAN, exact = NAN, ring = NAN, tree = NAN;
    int64_t floats = x->gpu ? REDUCED_GPU : REDUCED_CPU;
    double bytes = (double)floats * sizeof(float);
    if (x->comm->size == 1) return LK_OK;
    LK_TRY(may_reduce(x, why, sizeof why));
    lk_status status = why[0] ? lk_fail(LK_E_DEVICE, "not tried: %s", why)
                              : try_reduce(x, floats, &fast, &exact);
    json_t *error = status == LK_OK ? json_null() : error_fact();
    if (status == LK_OK) time_choices(x, floats, &ring, &tree);
    x->comm->failed = false;
    return put(speed, "reduce",
               json_pack("{s:s, s:f, s:o, s:o, s:o, s:o, s:o}", "library",
                         x->gpu ? "NCCL" : "MPI", "bytes", bytes, "fast", bus_fact(x, bytes, fast),
                         "exact", bus_fact(x, bytes, exact), "ring", bus_fact(x, bytes, ring),
                         "tree", bus_fact(x, bytes, tree), "error", error));
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Does this host see what rank 0 makes in the directory? It looks again for a while, for network
 * file systems remember what is not there. */
static lk_status look_for(examination *x, const char *path, bool made, json_t *directory)
{
    lk_comm *c = x->comm;
    double end = lk_clock_seconds() + 2;
    bool seen = false, all = false;
    while (made && !all) {
        seen = seen || access(path, F_OK) == 0;
        LK_TRY(lk_comm_all(c, seen || lk_clock_seconds() > end, &all));
        if (!all) usleep(50000);
    }
    return put(directory, "shared", made ? json_boolean(seen) : json_null());
}

static lk_status shared_fact(examination *x, json_t *directory)
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

static lk_status directory_facts(examination *x)
{
    const lk_doctor_options *o = x->options;
    json_t *facts = NULL;
    if (!o->directory) return LK_OK;
    double bytes = o->measure ? (double)WRITTEN / x->comm->local_size : 0;
    lk_status status = lk_directory_facts(o->directory, bytes, FILE_BUDGET, &facts);
    LK_TRY(lk_comm_agree(x->comm, status));
    LK_TRY(put(x->facts, "directory", facts));
    return x->comm->size > 1 ? shared_fact(x, facts) : LK_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static lk_status measure(examination *x)
{
    json_t *speed = json_object();
    lk_status status = put(x->facts, "speed", speed);
    LK_TRY(lk_comm_agree(x->comm, status));
    begin(x, "copies between host and GPU");
    LK_TRY(lk_comm_agree(x->comm, time_links(x, speed)));
    begin(x, x->gpu ? "NCCL's all-reduce (NCCL_DEBUG=INFO shows how far it comes)"
                    : "MPI's all-reduce");
    return lk_comm_agree(x->comm, time_reduce(x, speed));
}

/* Facts of all ranks as texts, then one object of them. */
static lk_status collect(examination *x, json_t **facts)
{
    char *mine = lk_json_text(x->facts, JSON_COMPACT), **all = NULL;
    lk_status status = mine ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts");
    status = lk_comm_agree(x->comm, status);
    if (status == LK_OK) status = lk_comm_gather_texts(x->comm, mine, &all);
    free(mine);
    LK_TRY(status);
    if (!all) return LK_OK;
    json_t *ranks = json_array();
    int bad = ranks == NULL;
    for (int r = 0; r < x->comm->size && !bad; r++)
        bad = json_array_append_new(ranks, json_loads(all[r], 0, NULL));
    lk_comm_free_texts(all);
    *facts = bad ? NULL : json_pack("{s:{s:i}, s:O}", "lockstep", "facts", 1, "ranks", ranks);
    json_decref(ranks);
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of all ranks");
}

static lk_status examine(examination *x, json_t **facts)
{
    begin(x, "looking at this host and its driver");
    LK_TRY(lk_comm_agree(x->comm, local_facts(x)));
    begin(x, "opening the device");
    LK_TRY(lk_comm_agree(x->comm, open_device(x)));
    if (x->options->measure) LK_TRY(measure(x));
    begin(x, "writing and reading in the directory");
    LK_TRY(lk_comm_agree(x->comm, directory_facts(x)));
    begin(x, "gathering the facts of all ranks");
    return lk_comm_agree(x->comm, collect(x, facts));
}

lk_status lk_doctor_examine(lk_comm *comm, lk_io *io, const lk_doctor_options *options,
                            json_t **facts)
{
    examination x = {.comm = comm, .io = io, .options = options};
    *facts = NULL;
    lk_status status = examine(&x, facts);
    if (x.device) x.device->backend->close(x.device);
    lk_nvml_close(x.nvml);
    json_decref(x.facts);
    return status;
}
