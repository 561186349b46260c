/* The examination: facts of every rank, then measurements of all together, gathered on rank 0.
 *
 * What fails here is a fact to be judged, an "error" in words; only a rank without memory, or one
 * that MPI does not reach, ends it. */
#include "doctor/examine.h"

#include "comm/probe.h"
#include "cpu/device.h"
#include "cpu/machine.h"
#include "io/probe.h"
#ifdef LK_HAVE_CUDA
#include "cuda/device.h"
#include "cuda/probe.h"
#endif

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

lk_status lk_examine_put(json_t *object, const char *name, json_t *value)
{
    if (value && json_object_set_new(object, name, value) == 0) return LK_OK;
    return lk_fail(LK_E_SYSTEM, "out of memory for facts");
}

json_t *lk_examine_error(void)
{
    json_t *text = json_string(lk_error_text());
    if (!text) text = json_string("an error whose text is no UTF-8");
    lk_error_clear();
    return text;
}

void lk_examine_begin(lk_examination *x, const char *stage)
{
    if (x->options->stage) atomic_store(x->options->stage, stage);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static lk_status program_facts(lk_examination *x)
{
    bool cuda = false, nccl = false;
#ifdef LK_HAVE_CUDA
    cuda = true;
#endif
#ifdef LK_HAVE_NCCL
    nccl = true;
#endif
    const lk_doctor_options *o = x->options;
    return lk_examine_put(x->facts, "program",
                          json_pack("{s:s, s:s, s:s, s:b, s:b}", "version", o->version, "code",
                                    o->code, "build", o->build, "cuda", cuda, "nccl", nccl));
}

/* The variables of the libraries below, without those that mpirun passes to itself. */
static bool of_interest(const char *name)
{
    static const char *const wanted[] = {"NCCL_",
                                         "UCX_",
                                         "OMPI_MCA_",
                                         "CUDA_",
                                         "CUBLASLT_",
                                         "NVIDIA_TF32",
                                         "OMP_",
                                         "GOMP_",
                                         "KMP_",
                                         "DNNL_",
                                         "ONEDNN_",
                                         "HDF5_",
                                         "LD_PRELOAD=",
                                         "LD_LIBRARY_PATH=",
                                         "OMPI_COMM_WORLD_SIZE=",
                                         "SLURM_STEP_NUM_TASKS=",
                                         "PMI_SIZE="};
    static const char *const internal[] = {"OMPI_MCA_orte_",
                                           "OMPI_MCA_ess",
                                           "OMPI_MCA_pmix",
                                           "OMPI_MCA_initial_wdir",
                                           "OMPI_MCA_shmem_RUNTIME",
                                           "OMPI_MCA_mpi_oversubscribe",
                                           "OMPI_MCA_prte_",
                                           "CUDA_HOME",
                                           "CUDA_PATH"};
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
    return lk_examine_put(all, name, value ? value : json_string("(no UTF-8)"));
}

static lk_status environment_facts(lk_examination *x)
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
    if (status == LK_OK) return lk_examine_put(x->facts, "environment", facts);
    json_decref(facts);
    return status;
}

static lk_status nvml_facts(lk_examination *x)
{
    char why[256] = "";
    json_t *facts = NULL;
    LK_TRY(lk_nvml_open(&x->nvml, why, sizeof why));
    if (!x->nvml) return lk_examine_put(x->facts, "nvml_error", json_string(why));
    LK_TRY(lk_nvml_facts(x->nvml, x->options->root,
                         json_object_get(json_object_get(x->facts, "machine"), "nics"), &facts));
    return lk_examine_put(x->facts, "nvml", facts);
}

/* Those that work with MPI alone. */
static lk_status mpi_facts(lk_examination *x)
{
    json_t *facts = NULL;
    LK_TRY(lk_comm_facts(&facts));
    LK_TRY(lk_examine_put(x->facts, "mpi", facts));
    LK_TRY(lk_hdf5_facts(x->io, &facts));
    return lk_examine_put(x->facts, "hdf5", facts);
}

static lk_status host_facts(lk_examination *x)
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
    LK_TRY(lk_examine_put(x->facts, "machine", facts));
    LK_TRY(lk_cpu_matmul_facts(&facts));
    LK_TRY(lk_examine_put(x->facts, "onednn", facts));
    LK_TRY(environment_facts(x));
#ifdef LK_HAVE_CUDA
    LK_TRY(lk_cuda_facts(&facts));
    LK_TRY(lk_examine_put(x->facts, "cuda", facts));
#endif
    return nvml_facts(x);
}

static lk_status local_facts(lk_examination *x)
{
    LK_TRY(host_facts(x));
    return mpi_facts(x);
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

static lk_status open_gpu(lk_examination *x, const json_t *devices)
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

static lk_status open_device(lk_examination *x)
{
    lk_status status = LK_OK;
    bool generic = false;
#ifdef LK_HAVE_CUDA
    const json_t *devices = json_object_get(json_object_get(x->facts, "cuda"), "devices");
    x->gpu = json_array_size(devices) > 0;
    if (x->gpu) status = open_gpu(x, devices);
    if (x->gpu && status == LK_OK) generic = lk_cuda_generic(x->device);
#endif
    if (!x->gpu) status = lk_backend_cpu.open(x->comm->local_size, &x->device);
    json_t *error = status == LK_OK ? json_null() : lk_examine_error();
    if (status != LK_OK && x->device) {
        x->device->backend->close(x->device);
        x->device = NULL;
    }
    return lk_examine_put(x->facts, "device",
                          json_pack("{s:s, s:b, s:o}", "pci", x->pci, "generic", generic, "error",
                                    error));
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Takes `ranks`; NULL: out of memory. */
static json_t *all_facts(json_t *ranks)
{
    return ranks ? json_pack("{s:{s:i}, s:o}", "lockstep", "facts", 1, "ranks", ranks) : NULL;
}

/* Facts of all ranks as texts, then one object of them. */
static lk_status collect(lk_examination *x, json_t **facts)
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
    if (bad) json_decref(ranks);
    *facts = bad ? NULL : all_facts(ranks);
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of all ranks");
}

static lk_status examine(lk_examination *x, json_t **facts)
{
    lk_examine_begin(x, "looking at this host and its driver");
    LK_TRY(lk_comm_agree(x->comm, local_facts(x)));
    lk_examine_begin(x, "opening the device");
    LK_TRY(lk_comm_agree(x->comm, open_device(x)));
    if (x->options->measure) LK_TRY(lk_measure_speed(x));
    lk_examine_begin(x, "writing and reading in the directory");
    LK_TRY(lk_comm_agree(x->comm, lk_measure_directory(x)));
    lk_examine_begin(x, "gathering the facts of all ranks");
    return lk_comm_agree(x->comm, collect(x, facts));
}

lk_status lk_doctor_examine(lk_comm *comm, lk_io *io, const lk_doctor_options *options,
                            json_t **facts)
{
    lk_examination x = {.comm = comm, .io = io, .options = options};
    *facts = NULL;
    lk_status status = examine(&x, facts);
    if (x.device) x.device->backend->close(x.device);
    lk_nvml_close(x.nvml);
    json_decref(x.facts);
    return status;
}

static lk_status examine_alone(lk_examination *x, const char *mpi_error, json_t **facts)
{
    json_t *directory = NULL;
    LK_TRY(host_facts(x));
    LK_TRY(lk_examine_put(x->facts, "mpi", json_pack("{s:s}", "error", mpi_error)));
    if (x->options->directory) {
        LK_TRY(lk_directory_facts(x->options->directory, 0, 0, &directory));
        LK_TRY(lk_examine_put(x->facts, "directory", directory));
    }
    *facts = all_facts(json_pack("[O]", x->facts));
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts");
}

lk_status lk_doctor_examine_alone(const char *mpi_error, const lk_doctor_options *options,
                                  json_t **facts)
{
    lk_comm alone = {.size = 1, .local_size = 1};
    lk_examination x = {.comm = &alone, .options = options};
    *facts = NULL;
    gethostname(alone.host, sizeof alone.host - 1);
    lk_status status = examine_alone(&x, mpi_error, facts);
    lk_nvml_close(x.nvml);
    json_decref(x.facts);
    return status;
}
