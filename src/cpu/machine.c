/* Facts of the host, from /proc, /sys and the calls that tell what is this process's own share.
 *
 * A container's limits lie in control groups: version 2 has one tree, version 1 one for each
 * controller; a limit of any group up to the root holds. */
#include "cpu/machine.h"
#include "base/utf8.h"

#include <dirent.h>
#include <omp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

/* ---- sets of cores --------------------------------------------------------------------------- */

void lk_cores_parse(const char *list, lk_cores *set)
{
    memset(set, 0, sizeof *set);
    while (*list) {
        char *end;
        long first = strtol(list, &end, 10), last = first;
        if (end == list) return;
        if (*end == '-') last = strtol(end + 1, &end, 10);
        for (long i = first; i <= last && i >= 0 && i < LK_CPU_CORES; i++) set->in[i] = true;
        list = *end == ',' ? end + 1 : end;
    }
}

void lk_cores_format(const lk_cores *set, char *list, size_t size)
{
    size_t used = 0;
    list[0] = '\0';
    for (int i = 0; i < LK_CPU_CORES; i++) {
        if (!set->in[i]) continue;
        int last = i;
        while (last + 1 < LK_CPU_CORES && set->in[last + 1]) last++;
        char piece[32];
        int n = last > i ? snprintf(piece, sizeof piece, "%s%d-%d", used ? "," : "", i, last)
                         : snprintf(piece, sizeof piece, "%s%d", used ? "," : "", i);
        if (used + (size_t)n + 4 > size) {
            snprintf(list + used, size - used, "...");
            return;
        }
        memcpy(list + used, piece, (size_t)n + 1);
        used += (size_t)n;
        i = last;
    }
}

int lk_cores_count(const lk_cores *set)
{
    int n = 0;
    for (int i = 0; i < LK_CPU_CORES; i++) n += set->in[i];
    return n;
}

static void places(lk_cores *set)
{
    for (int p = 0; p < omp_get_num_places(); p++) {
        int n = omp_get_place_num_procs(p), *id = n > 0 ? malloc((size_t)n * sizeof *id) : NULL;
        if (!id) continue;
        omp_get_place_proc_ids(p, id);
        for (int i = 0; i < n; i++)
            if (id[i] >= 0 && id[i] < LK_CPU_CORES) set->in[id[i]] = true;
        free(id);
    }
}

void lk_cores_usable(lk_cores *set)
{
    cpu_set_t mask[LK_CPU_CORES / CPU_SETSIZE];
    memset(set, 0, sizeof *set);
    if (omp_get_proc_bind() != omp_proc_bind_false) places(set);
    if (lk_cores_count(set) > 0 || sched_getaffinity(0, sizeof mask, mask) != 0) return;
    for (int i = 0; i < LK_CPU_CORES; i++) set->in[i] = CPU_ISSET_S(i, sizeof mask, mask);
}

/* ---- small files ----------------------------------------------------------------------------- */

static FILE *open_file(const char *format, va_list args)
{
    char path[4096];
    vsnprintf(path, sizeof path, format, args);
    return fopen(path, "r");
}

void lk_machine_line(char *line, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    FILE *f = open_file(format, args);
    va_end(args);
    line[0] = '\0';
    if (!f) return;
    if (!fgets(line, (int)size, f)) line[0] = '\0';
    fclose(f);
    line[strcspn(line, "\n")] = '\0';
    lk_plain(line);
}

/* What follows `key` and its separators in the first line of a file that begins with it. */
static void keyed(char *value, size_t size, const char *key, const char *separators,
                  const char *format, ...)
{
    char line[4096];
    va_list args;
    va_start(args, format);
    FILE *f = open_file(format, args);
    va_end(args);
    value[0] = '\0';
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        char *at = line + strlen(key);
        at += strspn(at, separators);
        at[strcspn(at, "\n\"")] = '\0';
        snprintf(value, size, "%.*s", (int)size - 1, at);
        break;
    }
    if (f) fclose(f);
    lk_plain(value);
}

/* ---- control groups -------------------------------------------------------------------------- */

typedef double (*group_reader)(const char *root, const char *group); /* 0: no limit */

static double smaller(double a, double b) { return a <= 0 ? b : b <= 0 || a < b ? a : b; }

/* The smallest limit on the way from the process's group to the root of its tree. */
static double group_limit(const char *root, const char *tree, const char *group, group_reader read)
{
    char path[4096];
    double least = 0;
    snprintf(path, sizeof path, "%s%s", tree, group);
    for (;;) {
        least = smaller(least, read(root, path));
        char *slash = strrchr(path, '/');
        if (!slash || strlen(path) <= strlen(tree)) return least;
        *slash = '\0';
    }
}

/* Over both versions; `controller` is the name in version 1. */
static double limit(const char *root, const char *controller, group_reader read)
{
    char path[4096], line[4096], tree[64];
    double least = read(root, ""); /* a container may see its own group as the root */
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = '\0';
        names++;
        if (*names == '\0') {
            least = smaller(least, group_limit(root, "", group, read));
            least = smaller(least, group_limit(root, "/unified", group, read));
            continue;
        }
        bool ours = false;
        for (char *save, *name = strtok_r(names, ",", &save); name;
             name = strtok_r(NULL, ",", &save))
            ours |= strcmp(name, controller) == 0;
        snprintf(tree, sizeof tree, "/%.60s", controller);
        if (ours) least = smaller(least, group_limit(root, tree, group, read));
    }
    if (f) fclose(f);
    return least;
}

static double read_quota(const char *root, const char *group)
{
    char line[128];
    double quota = 0, period = 0;
    lk_machine_line(line, sizeof line, "%s/sys/fs/cgroup%s/cpu.max", root, group);
    if (sscanf(line, "%lf %lf", &quota, &period) == 2 && period > 0) return quota / period;
    lk_machine_line(line, sizeof line, "%s/sys/fs/cgroup%s/cpu.cfs_quota_us", root, group);
    quota = atof(line);
    lk_machine_line(line, sizeof line, "%s/sys/fs/cgroup%s/cpu.cfs_period_us", root, group);
    period = atof(line);
    return quota > 0 && period > 0 ? quota / period : 0;
}

/* How many cores a control group may use: less than all where a batch system shares out a host. */
static double read_cpuset(const char *root, const char *group)
{
    char line[1024];
    lk_cores set;
    lk_machine_line(line, sizeof line, "%s/sys/fs/cgroup%s/cpuset.cpus.effective", root, group);
    if (!line[0])
        lk_machine_line(line, sizeof line, "%s/sys/fs/cgroup%s/cpuset.effective_cpus", root, group);
    lk_cores_parse(line, &set);
    return lk_cores_count(&set);
}

static double read_memory(const char *root, const char *group)
{
    char line[128];
    lk_machine_line(line, sizeof line, "%s/sys/fs/cgroup%s/memory.max", root, group);
    if (!line[0])
        lk_machine_line(line, sizeof line, "%s/sys/fs/cgroup%s/memory.limit_in_bytes", root,
                        group);
    double bytes = atof(line);
    return bytes < 0x1p60 ? bytes : 0; /* version 1 writes a number of pages near 2^63 for none */
}

/* ---- the parts ------------------------------------------------------------------------------- */

/* One for each physical core: those whose first usable sibling they are. */
static int physical(const char *root, const lk_cores *usable)
{
    int n = 0;
    for (int i = 0; i < LK_CPU_CORES; i++) {
        if (!usable->in[i]) continue;
        char line[256];
        lk_cores siblings;
        lk_machine_line(line, sizeof line,
                        "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root, i);
        lk_cores_parse(line, &siblings);
        int first = 0;
        while (first < i && !(siblings.in[first] && usable->in[first])) first++;
        n += first == i;
    }
    return n;
}

static json_t *number_or_null(double x) { return x > 0 ? json_real(x) : json_null(); }

static json_t *cpu_facts(const char *root)
{
    char model[256], list[1024], nodes[256], all[256];
    lk_cores usable, set;
    lk_cores_usable(&usable);
    lk_cores_format(&usable, list, sizeof list);
    keyed(model, sizeof model, "model name", "\t :", "%s/proc/cpuinfo", root);
    lk_machine_line(nodes, sizeof nodes, "%s/sys/devices/system/node/online", root);
    lk_machine_line(all, sizeof all, "%s/sys/devices/system/cpu/online", root);
    lk_cores_parse(nodes, &set);
    int numa = lk_cores_count(&set);
    lk_cores_parse(all, &set);
    double quota = limit(root, "cpu", read_quota), cpuset = limit(root, "cpuset", read_cpuset);
    return json_pack("{s:s, s:i, s:i, s:s, s:i, s:i, s:o, s:o, s:i, s:b}", "model",
                     model[0] ? model : "CPU", "online", lk_cores_count(&set), "numa_nodes", numa,
                     "usable", list, "usable_count", lk_cores_count(&usable), "physical",
                     physical(root, &usable), "quota", number_or_null(quota), "cpuset",
                     number_or_null(cpuset), "threads", omp_get_max_threads(), "bound_threads",
                     omp_get_proc_bind() != omp_proc_bind_false);
}

double lk_machine_available(const char *root)
{
    char available[64], swap[64];
    keyed(available, sizeof available, "MemAvailable:", " \t", "%s/proc/meminfo", root);
    keyed(swap, sizeof swap, "SwapFree:", " \t", "%s/proc/meminfo", root);
    double free = 1024 * (atof(available) + atof(swap));
    return available[0] ? smaller(free, limit(root, "memory", read_memory)) : 0;
}

static json_t *memory_facts(const char *root)
{
    char total[64], available[64], shm[4096];
    struct statvfs s = {0};
    keyed(total, sizeof total, "MemTotal:", " \t", "%s/proc/meminfo", root);
    keyed(available, sizeof available, "MemAvailable:", " \t", "%s/proc/meminfo", root);
    snprintf(shm, sizeof shm, "%s/dev/shm", root);
    bool found = statvfs(shm, &s) == 0;
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "total", number_or_null(1024 * atof(total)),
                     "available", number_or_null(1024 * atof(available)), "limit",
                     number_or_null(limit(root, "memory", read_memory)), "shm",
                     found ? json_real((double)s.f_blocks * (double)s.f_frsize) : json_null(),
                     "shm_free",
                     found ? json_real((double)s.f_bavail * (double)s.f_frsize) : json_null());
}

static json_t *limit_fact(int resource)
{
    struct rlimit r;
    if (getrlimit(resource, &r) != 0 || r.rlim_cur == RLIM_INFINITY) return json_null();
    return json_real((double)r.rlim_cur);
}

static void target(const char *path, char name[64])
{
    char *full = realpath(path, NULL);
    const char *slash = full ? strrchr(full, '/') : NULL;
    snprintf(name, 64, "%.63s", slash ? slash + 1 : "");
    free(full);
}

/* One port of an RDMA card: InfiniBand, or RoCE where its link layer is Ethernet. */
static json_t *nic_fact(const char *root, const char *name, const char *port)
{
    char state[64], rate[64], layer[64], node[64], pci[64], path[4096];
    snprintf(path, sizeof path, "%s/sys/class/infiniband/%s/device", root, name);
    target(path, pci);
    lk_machine_line(state, sizeof state, "%s/sys/class/infiniband/%s/ports/%s/state", root, name,
                    port);
    lk_machine_line(rate, sizeof rate, "%s/sys/class/infiniband/%s/ports/%s/rate", root, name,
                    port);
    lk_machine_line(layer, sizeof layer, "%s/sys/class/infiniband/%s/ports/%s/link_layer", root,
                    name, port);
    lk_machine_line(node, sizeof node, "%s/sys/class/infiniband/%s/device/numa_node", root, name);
    return json_pack("{s:s, s:s, s:s, s:b, s:f, s:s, s:i}", "name", name, "port", port, "pci", pci,
                     "active", strstr(state, "ACTIVE") != NULL, "gbit", atof(rate), "layer", layer,
                     "numa_node", node[0] ? atoi(node) : -1);
}

static int visible(const struct dirent *e) { return e->d_name[0] != '.'; }

static json_t *nic_facts(const char *root)
{
    char path[4096];
    struct dirent **card = NULL, **port = NULL;
    json_t *all = json_array();
    snprintf(path, sizeof path, "%s/sys/class/infiniband", root);
    int cards = scandir(path, &card, visible, versionsort);
    for (int i = 0; i < cards; i++) {
        snprintf(path, sizeof path, "%s/sys/class/infiniband/%s/ports", root, card[i]->d_name);
        int ports = scandir(path, &port, visible, versionsort);
        for (int k = 0; k < ports; k++) {
            if (json_array_append_new(all, nic_fact(root, card[i]->d_name, port[k]->d_name)) != 0) {
                json_decref(all);
                all = NULL;
            }
            free(port[k]);
        }
        if (ports >= 0) free(port);
        free(card[i]);
    }
    if (cards >= 0) free(card);
    return all;
}

lk_status lk_machine_facts(const char *root, json_t **facts)
{
    struct utsname u = {.release = ""};
    char kernel[80], os[128];
    uname(&u);
    snprintf(kernel, sizeof kernel, "%.79s", u.release);
    lk_plain(kernel);
    keyed(os, sizeof os, "PRETTY_NAME=", "\"", "%s/etc/os-release", root);
    json_t *all = json_pack("{s:o, s:o, s:o, s:s, s:s, s:{s:o, s:o}}", "cpu", cpu_facts(root),
                            "memory", memory_facts(root), "nics", nic_facts(root), "kernel", kernel,
                            "system", os[0] ? os : u.sysname, "limits", "memlock",
                            limit_fact(RLIMIT_MEMLOCK), "files", limit_fact(RLIMIT_NOFILE));
    if (!all) return lk_fail(LK_E_SYSTEM, "out of memory for facts of the machine");
    *facts = all;
    return LK_OK;
}

/* ---- PCI ------------------------------------------------------------------------------------- */

/* "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0": each bridge is a folder of what is behind
 * it, the first one the host bridge. */
static char *pci_folder(const char *root, const char *pci)
{
    char path[4096], *full;
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s", root, pci);
    for (char *p = path + strlen(root); *p; p++) /* NVML writes upper case, sysfs lower */
        if (*p >= 'A' && *p <= 'F') *p = (char)(*p - 'A' + 'a');
    full = realpath(path, NULL);
    char *bus = full ? strstr(full, "/pci") : NULL;
    if (!bus) {
        free(full);
        return NULL;
    }
    memmove(full, bus, strlen(bus) + 1);
    return full;
}

static int folders(const char *path)
{
    int n = 0;
    for (; *path; path++) n += *path == '/';
    return n;
}

static const char *compare(const char *a, const char *b, int node_a, int node_b)
{
    size_t same = 0; /* to the last '/' before which they are equal */
    for (size_t i = 0; a[i] && b[i] && a[i] == b[i]; i++)
        if (a[i + 1] == '/' && b[i + 1] == '/') same = i + 1;
    if (same == 0) return node_a == node_b ? "NODE" : "SYS";
    char *common = strndup(a, same);
    int shared = common ? folders(common) : 0;
    free(common);
    if (shared <= 1) return "PHB";
    int below_a = folders(a) - shared, below_b = folders(b) - shared;
    return below_a <= 2 && below_b <= 2 ? "PIX" : "PXB";
}

static int node_of(const char *root, const char *folder)
{
    char line[32];
    lk_machine_line(line, sizeof line, "%s/sys/devices%s/numa_node", root, folder);
    return line[0] ? atoi(line) : -1;
}

const char *lk_machine_path(const char *root, const char *pci, const char *other)
{
    char *a = pci_folder(root, pci), *b = pci_folder(root, other);
    const char *word = a && b ? compare(a, b, node_of(root, a), node_of(root, b)) : "?";
    free(a);
    free(b);
    return word;
}
