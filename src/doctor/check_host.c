/* Checks of the program, the system, cores and memory. */
#include "doctor/exam.h"

#include "cpu/machine.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void lk_check_program(lk_exam *e, int rank)
{
    lk_find(e, "lockstep", LK_FIT, "%s (%s), %s", lk_fact_text(e, rank, "program.version"),
            lk_fact_text(e, rank, "program.code"),
            lk_fact_true(e, rank, "program.cuda")
                ? lk_fact_true(e, rank, "program.nccl") ? "for CPU and GPU, with NCCL"
                                                        : "for CPU and one GPU, without NCCL"
                : "for the CPU alone");
    lk_find(e, "compiled as", LK_FIT, "%s", lk_fact_text(e, rank, "program.build"));
}

void lk_check_system(lk_exam *e, int rank)
{
    lk_find_version(e, "Linux", lk_fact_text(e, rank, "machine.kernel"),
                    lk_fact_text(e, rank, "machine.system"));
}

/* ---- cores ----------------------------------------------------------------------------------- */

void lk_check_cores(lk_exam *e, int rank)
{
    double online = lk_fact_number(e, rank, "machine.cpu.online");
    double numa = lk_fact_number(e, rank, "machine.cpu.numa_nodes");
    double quota = lk_fact_number(e, rank, "machine.cpu.quota");
    double usable = lk_fact_number(e, rank, "machine.cpu.usable_count");
    char limit[64] = "";
    if (!isnan(quota)) snprintf(limit, sizeof limit, ", %.4g by control group", quota);
    lk_find(e, "cores", LK_FIT, "%s: %.0f core%s online, %.0f NUMA node%s%s",
            lk_fact_text(e, rank, "machine.cpu.model"), online, online == 1 ? "" : "s", numa,
            numa == 1 ? "" : "s", limit);
    if (!isnan(quota) && quota + 0.01 < usable)
        lk_advise(e, LK_FIT, "the limit is below the cores in sight: threads beyond %.4g are "
                  "stopped for parts of each 0.1 s", quota);
}

static void usable(const lk_exam *e, int rank, lk_cores *set)
{
    lk_cores_parse(lk_fact_text(e, rank, "machine.cpu.usable"), set);
}

/* What of `count` cores is a rank's share: all where no other rank of the host is bound to the same
 * ones; a container's limit is shared by all ranks. At least one. */
static int share(const lk_exam *e, int rank, const char *count)
{
    double quota = lk_fact_number(e, rank, "machine.cpu.quota");
    int sharing = 0;
    const char *mine = lk_fact_text(e, rank, "machine.cpu.usable");
    for (int r = 0; r < lk_exam_ranks(e); r++)
        sharing += lk_exam_same_host(e, r, rank) &&
                   strcmp(lk_fact_text(e, r, "machine.cpu.usable"), mine) == 0;
    double cores = fmin(lk_fact_number(e, rank, count) / (sharing ? sharing : 1),
                        isnan(quota) ? INFINITY : quota / lk_exam_host_ranks(e, rank));
    return cores >= 1 && cores < LK_CPU_CORES ? (int)cores : 1;
}

/* Whether the cores of two ranks overlap without being the same: a slip of a binding by hand. */
static bool overlap(const lk_cores *a, const lk_cores *b, bool *same)
{
    bool both = false;
    *same = true;
    for (int i = 0; i < LK_CPU_CORES; i++) {
        both |= a->in[i] && b->in[i];
        *same &= a->in[i] == b->in[i];
    }
    return both;
}

void lk_check_binding(lk_exam *e, int rank)
{
    int ranks = lk_exam_host_ranks(e, rank), crossing = -1, shared = 0, first = 0;
    double least = INFINITY, online = lk_fact_number(e, rank, "machine.cpu.online");
    double given = fmin(online, lk_fact_number(e, rank, "machine.cpu.cpuset"));
    lk_cores mine, others, all = {{false}};
    for (int r = 0; r < lk_exam_ranks(e); r++) {
        if (!lk_exam_same_host(e, r, rank)) continue;
        usable(e, r, &mine);
        least = fmin(least, lk_cores_count(&mine));
        for (int i = 0; i < LK_CPU_CORES; i++) all.in[i] |= mine.in[i];
        for (int k = 0; k < r; k++) {
            if (!lk_exam_same_host(e, k, rank)) continue;
            usable(e, k, &others);
            bool same, both = overlap(&mine, &others, &same);
            if (both && same) shared++;
            if (both && !same) crossing = r, first = k;
        }
    }
    if (ranks == 1 && least >= online)
        lk_find(e, "binding", LK_FIT, "none, free on all of %.0f core%s", least,
                least == 1 ? "" : "s");
    else if (ranks == 1)
        lk_find(e, "binding", LK_FIT, "%.0f of %.0f cores (%s)", least, online,
                lk_fact_text(e, rank, "machine.cpu.usable"));
    else if (shared || crossing >= 0)
        lk_find(e, "binding", LK_FIT, "%d ranks share %s cores", ranks,
                least >= online ? "all" : "some");
    else
        lk_find(e, "binding", LK_FIT, "%d ranks, each %.0f core%s of its own", ranks, least,
                least == 1 ? "" : "s");
    if (crossing >= 0)
        lk_advise(e, LK_WARNING, "cores of ranks %d and %d overlap in part: bind all the same way "
                  "(mpirun --map-by slot:PE=N --bind-to core, or srun --cpus-per-task=N)", first,
                  crossing);
    else if (ranks > 1 && 2 * lk_cores_count(&all) <= given)
        lk_advise(e, LK_WARNING, "all are bound to %d of %.0f cores, the others stay idle: mpirun "
                  "--map-by slot:PE=%d --bind-to core, or srun --cpus-per-task=%d",
                  lk_cores_count(&all), given, (int)given / ranks, (int)given / ranks);
    if (shared && lk_fact_true(e, rank, "machine.cpu.bound_threads"))
        lk_advise(e, LK_WARNING, "OMP_PROC_BIND binds threads of all ranks to the same cores: "
                  "unset it, or bind each rank to cores of its own");
}

/* "8" or, by depth of nested regions, "8,2": what OpenMP takes. Anything else it passes over, with
 * a word or without, and takes all cores. */
static bool is_thread_list(const char *text)
{
    for (;;) {
        char *end;
        while (isspace((unsigned char)*text)) text++;
        if (!isdigit((unsigned char)*text)) return false;
        errno = 0;
        long n = strtol(text, &end, 10);
        if (errno != 0 || n < 1 || n > INT_MAX) return false;
        while (isspace((unsigned char)*end)) end++;
        if (*end == '\0') return true;
        if (*end != ',') return false;
        text = end + 1;
    }
}

/* Two threads of a core are no fault, but rarely help: physical cores are recommended. */
void lk_check_threads(lk_exam *e, int rank)
{
    int fair = share(e, rank, "machine.cpu.physical");
    int most = share(e, rank, "machine.cpu.usable_count");
    double counted = lk_fact_number(e, rank, "machine.cpu.threads");
    if (!(counted >= 1 && counted < 1e6)) return; /* facts of a file may be anything */
    int threads = (int)counted;
    const char *set = lk_fact_text(e, rank, "environment.OMP_NUM_THREADS");
    lk_find(e, "OpenMP threads", LK_FIT, "%d a rank%s%s; recommended: OMP_NUM_THREADS=%d", threads,
            set[0] ? ", OMP_NUM_THREADS=" : "", set, fair);
    if (set[0] && !is_thread_list(set))
        lk_advise(e, LK_WARNING, "OpenMP cannot use '%.40s': expected a whole number above 0: "
                  "OMP_NUM_THREADS=%d", set, fair);
    else if (threads > most)
        lk_advise(e, LK_WARNING, "%d threads wait for %d core%s at every node of the graph, which "
                  "is many times slower: OMP_NUM_THREADS=%d", threads, most, most == 1 ? "" : "s",
                  fair);
    else if (2 * threads < fair && json_array_size(lk_fact(e, rank, "cuda.devices")) == 0)
        lk_advise(e, LK_WARNING, "%d cores stay idle: OMP_NUM_THREADS=%d", fair - threads, fair);
}

/* ---- memory and limits ----------------------------------------------------------------------- */

void lk_check_memory(lk_exam *e, int rank)
{
    double total = lk_fact_number(e, rank, "machine.memory.total");
    double available = lk_fact_number(e, rank, "machine.memory.available");
    double limit = lk_fact_number(e, rank, "machine.memory.limit");
    char text[64] = "";
    if (isnan(total)) return;
    if (limit < total) snprintf(text, sizeof text, ", limit %s by control group", lk_size(limit));
    lk_find(e, "memory", LK_FIT, "%s, more than %.0f %% available%s", lk_size(total),
            10 * floor(10 * available / total), text);
    if (available < 0.1 * total || available < 0x1p29)
        lk_advise(e, LK_WARNING, "only %s are available: see what else runs here (top)",
                  lk_size(available));
}

/* Open MPI and NCCL pass messages of ranks of a host through /dev/shm. */
void lk_check_shared_memory(lk_exam *e, int rank)
{
    double size = lk_fact_number(e, rank, "machine.memory.shm");
    double room = lk_fact_number(e, rank, "machine.memory.shm_free");
    int ranks = lk_exam_host_ranks(e, rank);
    double needed = ranks * 0x1p25;
    if (ranks == 1) return;
    if (isnan(size)) {
        lk_find(e, "/dev/shm", LK_WARNING, "not there");
        lk_advise(e, LK_WARNING, "ranks of a host talk through it: mount a tmpfs there");
        return;
    }
    lk_find(e, "/dev/shm", LK_FIT, "%s", lk_size(size));
    if (size < needed)
        lk_advise(e, LK_WARNING, "%d ranks talk through it and need about %s: docker run "
                  "--shm-size=1g or --ipc=host", ranks, lk_size(needed));
    else if (room < needed)
        lk_advise(e, LK_WARNING, "only %s are free: remove what ended programs left there",
                  lk_size(room));
}

static bool rdma(const lk_exam *e, int rank)
{
    size_t i;
    const json_t *nic;
    json_array_foreach((json_t *)lk_fact(e, rank, "machine.nics"), i, nic)
        if (lk_part_true(nic, "active")) return true;
    return false;
}

void lk_check_memlock(lk_exam *e, int rank)
{
    double bytes = lk_fact_number(e, rank, "machine.limits.memlock");
    bool needed = rdma(e, rank);
    if (isnan(bytes)) {
        lk_find(e, "locked memory", LK_FIT, "unlimited");
        return;
    }
    lk_find(e, "locked memory", LK_FIT, "%s%s", lk_size(bytes),
            !needed                 ? "; no matter without an RDMA network"
            : lk_exam_hosts(e) == 1 ? "; no matter on one host"
                                    : "");
    if (needed && (lk_exam_hosts(e) > 1 || lk_exam_prod(e)))
        lk_advise(e, lk_exam_hosts(e) > 1 && bytes < 0x1p30 ? LK_UNFIT : LK_WARNING,
                  "RDMA locks the memory it sends: ulimit -l unlimited in limits.conf, "
                  "LimitMEMLOCK=infinity for slurmd, or docker run --ulimit memlock=-1");
}

void lk_check_files(lk_exam *e, int rank)
{
    double files = lk_fact_number(e, rank, "machine.limits.files");
    if (isnan(files)) return;
    lk_find(e, "open files", LK_FIT, "%.0f", files);
    if (files < 1024)
        lk_advise(e, LK_WARNING, "MPI and NCCL open a file for each connection: ulimit -n 4096");
}

void lk_check_network(lk_exam *e, int rank)
{
    size_t i, count = json_array_size(lk_fact(e, rank, "machine.nics"));
    const json_t *nic;
    char list[256] = "";
    int active = 0;
    json_array_foreach((json_t *)lk_fact(e, rank, "machine.nics"), i, nic)
    {
        size_t used = strlen(list);
        if (!lk_part_true(nic, "active")) continue;
        if (used < sizeof list - 64)
            snprintf(list + used, sizeof list - used, "%s%s %.0f Gb/s %s", active ? ", " : "",
                     lk_part_text(nic, "name"), lk_part_number(nic, "gbit"),
                     strcmp(lk_part_text(nic, "layer"), "Ethernet") == 0 ? "RoCE" : "InfiniBand");
        active++;
    }
    if (count == 0) {
        lk_find(e, "RDMA network", LK_FIT, "none");
        if (lk_exam_hosts(e) > 1)
            lk_advise(e, LK_WARNING, "hosts talk through TCP, many times slower; if there is "
                      "InfiniBand, its driver is not loaded or the container hides it");
        return;
    }
    lk_find(e, "RDMA network", LK_FIT, "%s", active ? list : "no port is active");
    if (active == 0 && lk_exam_hosts(e) > 1)
        lk_advise(e, LK_WARNING, "cable or subnet manager: see ibstat");
}
