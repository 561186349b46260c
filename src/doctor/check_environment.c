/* Checks of environment variables: those of the libraries below are shown, settings that are known
 * to slow down or break runs are named. */
#include "doctor/exam.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef enum match {
    SET,   /* to anything but "" */
    IS,    /* one of the words of the list, letters alike */
    HAS,   /* a comma list that has one of the words, or a name that begins with one */
    LACKS, /* a comma list that is no exclusion ("^...") and has none of the words */
    BELOW  /* a number, below this one */
} match;

enum { /* when it matters */
    ALWAYS = 0,
    GPUS = 1,  /* this build can use GPUs */
    NCCL = 2,  /* this build has NCCL */
    HOSTS = 4, /* several hosts */
    RANKS = 8, /* several ranks */
    RDMA = 16, /* an RDMA network is there */
    DEAD = 32  /* MPI did not start */
};

typedef struct setting {
    const char *name;
    match match;
    const char *words;
    int when;
    lk_verdict verdict;
    const char *advice;
} setting;

static const setting settings[] = {
    /* NCCL */
    {"NCCL_P2P_DISABLE", IS, "1", NCCL, LK_WARNING,
     "GPUs send through host memory instead of NVLink or PCIe: unset it"},
    {"NCCL_P2P_LEVEL", IS, "LOC 0", NCCL, LK_WARNING,
     "GPUs send through host memory instead of NVLink or PCIe: unset it"},
    {"NCCL_SHM_DISABLE", IS, "1", NCCL, LK_WARNING,
     "GPUs of a host that do not reach each other send through the network: unset it"},
    {"NCCL_IB_DISABLE", IS, "1", NCCL | HOSTS | RDMA, LK_WARNING,
     "hosts talk through TCP beside an RDMA network: unset it"},
    {"NCCL_NET", IS, "SOCKET", NCCL | HOSTS | RDMA, LK_WARNING,
     "hosts talk through TCP beside an RDMA network: unset it"},
    {"NCCL_NET_GDR_LEVEL", IS, "LOC 0", NCCL | HOSTS | RDMA, LK_WARNING,
     "the network card does not reach GPU memory directly: unset it"},
    {"NCCL_MAX_NCHANNELS", BELOW, "8", NCCL, LK_WARNING,
     "few channels use few of the links: unset it"},
    {"NCCL_MAX_CTAS", BELOW, "8", NCCL, LK_WARNING, "few blocks use few of the links: unset it"},
    {"NCCL_NTHREADS", BELOW, "256", NCCL, LK_WARNING,
     "few threads a block slow down copies: unset it"},
    {"NCCL_BUFFSIZE", BELOW, "1048576", NCCL, LK_WARNING,
     "small buffers send in small pieces: unset it (4 MiB)"},
    {"NCCL_ALGO", SET, "", NCCL, LK_WARNING,
     "one algorithm for messages of all sizes: unset it, NCCL chooses by size"},
    {"NCCL_PROTO", SET, "", NCCL, LK_WARNING,
     "one protocol for messages of all sizes: unset it, NCCL chooses by size"},
    {"NCCL_SOCKET_IFNAME", HAS, "lo docker virbr =lo =docker", NCCL | HOSTS, LK_UNFIT,
     "other hosts cannot be reached through it: name the interface of the network (ip addr)"},
    {"NCCL_DEBUG", IS, "TRACE", NCCL, LK_WARNING, "writes a line for each call: use INFO or WARN"},
    {"NCCL_COMM_BLOCKING", IS, "0", NCCL, LK_WARNING,
     "calls return before they are done, which lockstep does not expect: unset it"},
    {"NCCL_GRAPH_MIXING_SUPPORT", IS, "0", NCCL, LK_WARNING,
     "training uses NCCL within and beside a captured graph, which this forbids: unset it"},
    /* CUDA */
    {"CUDA_LAUNCH_BLOCKING", IS, "1", GPUS, LK_WARNING,
     "waits for every kernel, for debugging alone: unset it"},
    {"CUDA_VISIBLE_DEVICES", IS, "-1 none NoDevFiles", GPUS, LK_WARNING,
     "hides all GPUs: unset it, or name one"},
    {"CUDA_DEVICE_MAX_CONNECTIONS", IS, "1", GPUS | RANKS, LK_WARNING,
     "reductions wait for the backward pass instead of running beside it: unset it"},
    {"CUDA_DISABLE_PTX_JIT", IS, "1", GPUS, LK_WARNING,
     "code for GPUs newer than this build cannot be made: unset it"},
    {"NVIDIA_TF32_OVERRIDE", SET, "", GPUS, LK_WARNING,
     "overrules train.precision, and with it the promise of the same bits: unset it"},
    {"CUBLASLT_LOG_LEVEL", IS, "4 5", GPUS, LK_WARNING, "writes lines for each product: unset it"},
    /* Open MPI and UCX */
    {"OMPI_MCA_btl", LACKS, "self", DEAD, LK_UNFIT,
     "MPI ends its processes at their start: without self they do not reach themselves; add it, or "
     "unset this"},
    {"OMPI_MCA_pml", SET, "", DEAD, LK_WARNING, "MPI may not have it (ompi_info): unset it"},
    {"OMPI_MCA_mtl", SET, "", DEAD, LK_WARNING, "MPI may not have it (ompi_info): unset it"},
    {"OMPI_MCA_btl", LACKS, "vader sm", RANKS, LK_WARNING,
     "without vader (5.0: sm) ranks of a host talk through TCP: add it, or unset this"},
    {"OMPI_MCA_btl", HAS, "^vader ^sm", RANKS, LK_WARNING,
     "without it ranks of a host talk through TCP: unset this"},
    {"OMPI_MCA_io", IS, "ompio", RANKS, LK_WARNING,
     "ranks hang in it where the disk is full as a save begins: unset it"},
    {"OMPI_MCA_io", HAS, "^romio", RANKS, LK_WARNING,
     "without it ranks hang where the disk is full as a save begins: unset this"},
    {"OMPI_MCA_pml", IS, "ob1", HOSTS | RDMA, LK_WARNING,
     "hosts talk through TCP beside an RDMA network: unset it, or use ucx"},
    {"OMPI_MCA_btl_tcp_if_include", HAS, "lo docker virbr 127.", HOSTS, LK_UNFIT,
     "other hosts cannot be reached through it: name the interface of the network (ip addr)"},
    {"OMPI_MCA_btl_base_verbose", SET, "", ALWAYS, LK_WARNING, "writes many lines: unset it"},
    {"OMPI_MCA_mpi_leave_pinned", IS, "0", HOSTS | RDMA, LK_WARNING,
     "memory is registered anew for every message: unset it"},
    {"UCX_TLS", LACKS, "all rc dc ud ib rc_x dc_x ud_x rc_mlx5 dc_mlx5 ud_mlx5 rc_v rc_verbs",
     HOSTS | RDMA, LK_WARNING, "hosts talk through TCP beside an RDMA network: unset it"},
    {"UCX_NET_DEVICES", HAS, "lo docker virbr", HOSTS, LK_UNFIT,
     "other hosts cannot be reached through it: name a card (ucx_info -d)"},
    {"UCX_LOG_LEVEL", IS, "debug trace data func poll trace_req trace_data trace_func trace_poll",
     ALWAYS, LK_WARNING, "writes many lines: unset it"},
    /* OpenMP and oneDNN */
    {"OMP_DYNAMIC", IS, "true 1", ALWAYS, LK_WARNING,
     "the number of threads changes while training: unset it"},
    {"DNNL_VERBOSE", IS, "1 2 all profile profile_exec", ALWAYS, LK_WARNING,
     "writes a line for each product: unset it"},
    {"ONEDNN_VERBOSE", IS, "1 2 all profile profile_exec", ALWAYS, LK_WARNING,
     "writes a line for each product: unset it"},
    {"DNNL_MAX_CPU_ISA", IS, "SSE41 AVX", ALWAYS, LK_WARNING,
     "holds oneDNN to old instructions: unset it"},
    {"ONEDNN_MAX_CPU_ISA", IS, "SSE41 AVX", ALWAYS, LK_WARNING,
     "holds oneDNN to old instructions: unset it"},
    /* HDF5 */
    {"HDF5_DISABLE_VERSION_CHECK", IS, "1 2", ALWAYS, LK_WARNING,
     "hides that HDF5 is another one than lockstep was compiled with: unset it"},
    {"HDF5_DRIVER", SET, "", ALWAYS, LK_WARNING,
     "files opened without a driver get this one: unset it"},
};

static bool has_word(const char *words, const char *text, size_t length, bool prefix)
{
    while (*words) {
        size_t n = strcspn(words, " ");
        if (n > 0 && (prefix ? n <= length : n == length) && strncasecmp(words, text, n) == 0)
            return true;
        words += n + strspn(words + n, " ");
    }
    return false;
}

/* Whether an item of a comma list is, or begins with, one of the words. */
static bool list_has(const char *words, const char *list, bool prefix)
{
    bool exclusion = list[0] == '^';
    for (; *list; list += *list == ',') {
        size_t n = strcspn(list, ",");
        char item[64];
        if (snprintf(item, sizeof item, "%s%.*s", exclusion && list[0] != '^' ? "^" : "", (int)n,
                     list) > 0 && has_word(words, item, strlen(item), prefix))
            return true;
        list += n;
    }
    return false;
}

static bool matches(const setting *s, const char *value)
{
    char *end;
    double number;
    switch (s->match) {
    case SET: return value[0] != '\0';
    case IS: return has_word(s->words, value, strlen(value), false);
    case HAS: return list_has(s->words, value, true);
    case LACKS: return value[0] && value[0] != '^' && !list_has(s->words, value, false);
    case BELOW:
        number = strtod(value, &end);
        return end != value && number < atof(s->words);
    }
    return false;
}

static int situation(const lk_exam *e, int rank)
{
    size_t i;
    const json_t *nic;
    int now = 0;
    if (lk_fact_true(e, rank, "program.cuda")) now |= GPUS;
    if (lk_fact_true(e, rank, "program.nccl")) now |= NCCL;
    if (lk_exam_hosts(e) > 1) now |= HOSTS;
    if (lk_exam_ranks(e) > 1) now |= RANKS;
    if (lk_fact_text(e, rank, "mpi.error")[0]) now |= DEAD;
    json_array_foreach((json_t *)lk_fact(e, rank, "machine.nics"), i, nic)
        if (lk_part_true(nic, "active")) now |= RDMA;
    return now;
}

/* What the launcher sets for its own use, and other rows show. */
static bool shown(const char *name)
{
    static const char *const hidden[] = {"OMPI_COMM_", "SLURM_", "PMI_SIZE", "OMP_NUM_THREADS"};
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        if (strncmp(name, hidden[i], strlen(hidden[i])) == 0) return false;
    return true;
}

static void judge_variable(lk_exam *e, int now, const char *name, const char *value)
{
    lk_find(e, name, LK_FIT, "%s", value[0] ? value : "(empty)");
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const setting *s = &settings[i];
        if (strcmp(s->name, name) != 0 || !matches(s, value)) continue;
        if ((s->when & now) == s->when) {
            lk_advise(e, s->verdict, "%s", s->advice);
            return;
        }
    }
}

void lk_check_environment(lk_exam *e, int rank)
{
    int now = situation(e, rank);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)lk_fact(e, rank, "environment"), name, value)
        if (shown(name) && json_is_string(value))
            judge_variable(e, now, name, json_string_value(value));
}

/* Open MPI's own choice of a pml may use btls; one that was chosen may not, so it is tried. */
const char *lk_doctor_fatal_setting(char **environment)
{
    static const char btl[] = "OMPI_MCA_btl=", pml[] = "OMPI_MCA_pml=";
    const char *list = NULL;
    for (char **v = environment; v && *v; v++) {
        if (strncmp(*v, pml, sizeof pml - 1) == 0) return NULL;
        if (strncmp(*v, btl, sizeof btl - 1) == 0) list = *v + sizeof btl - 1;
    }
    if (!list || !matches(&(setting){.match = LACKS, .words = "self"}, list)) return NULL;
    return "OMPI_MCA_btl names no 'self', without which Open MPI ends its processes";
}
