/* The few calls of NVML that are needed, declared here: its header comes with the toolkit at best,
 * and a build without CUDA asks too. Numbers are those of NVIDIA's NVML API reference. */
#include "cuda/nvml.h"

#include "cpu/machine.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef void *device;

typedef struct pci_info {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char address[32];
} pci_info;

typedef struct memory_info {
    unsigned long long total, free, used;
} memory_info;

typedef struct field_value {
    unsigned field, scope;
    long long time, latency;
    int type, code;
    union {
        unsigned number;
        double widest;
    } value;
} field_value;

typedef struct process_info {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} process_info;

enum {
    UNCORRECTED = 1,    /* nvmlMemoryErrorType_t */
    VOLATILE = 0,       /* nvmlEccCounterType_t */
    CLOCK_SM = 1,       /* nvmlClockType_t */
    TEMPERATURE_GPU = 0,
    P2P_READ = 0,       /* nvmlGpuP2PCapsIndex_t */
    LINK_SPEED = 90,    /* NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON: MB/s of a link, one direction */
    UNSIGNED = 1,       /* nvmlValueType_t */
    REMOTE_SWITCH = 2,  /* nvmlIntNvLinkDeviceType_t */
    LINKS = 18,         /* NVML_NVLINK_MAX_LINKS */
    PROCESSES = 64,
    MASK_WORDS = LK_CPU_CORES / (8 * sizeof(unsigned long))
};

/* Every call: the result and arguments; its name in the library begins with nvml. Those that all
 * drivers since 450 have under the same name. */
#define LK_NVML_CALLS(CALL)                                                                        \
    CALL(Init_v2, (void))                                                                          \
    CALL(Shutdown, (void))                                                                         \
    CALL(SystemGetDriverVersion, (char *, unsigned))                                               \
    CALL(SystemGetCudaDriverVersion_v2, (int *))                                                   \
    CALL(DeviceGetCount_v2, (unsigned *))                                                          \
    CALL(DeviceGetHandleByIndex_v2, (unsigned, device *))                                          \
    CALL(DeviceGetName, (device, char *, unsigned))                                                \
    CALL(DeviceGetPciInfo_v3, (device, pci_info *))                                                \
    CALL(DeviceGetMemoryInfo, (device, memory_info *))                                             \
    CALL(DeviceGetCpuAffinity, (device, unsigned, unsigned long *))                                \
    CALL(DeviceGetEccMode, (device, int *, int *))                                                 \
    CALL(DeviceGetTotalEccErrors, (device, int, int, unsigned long long *))                        \
    CALL(DeviceGetRemappedRows, (device, unsigned *, unsigned *, unsigned *, unsigned *))          \
    CALL(DeviceGetComputeMode, (device, int *))                                                    \
    CALL(DeviceGetMigMode, (device, unsigned *, unsigned *))                                       \
    CALL(DeviceGetComputeRunningProcesses_v3, (device, unsigned *, process_info *))                \
    CALL(DeviceGetNvLinkState, (device, unsigned, int *))                                          \
    CALL(DeviceGetFieldValues, (device, int, field_value *))                                       \
    CALL(DeviceGetNvLinkRemoteDeviceType, (device, unsigned, int *))                               \
    CALL(DeviceGetNvLinkRemotePciInfo_v2, (device, unsigned, pci_info *))                          \
    CALL(DeviceGetTopologyCommonAncestor, (device, device, int *))                                 \
    CALL(DeviceGetP2PStatus, (device, device, int, int *))                                         \
    CALL(DeviceGetClockInfo, (device, int, unsigned *))                                            \
    CALL(DeviceGetMaxClockInfo, (device, int, unsigned *))                                         \
    CALL(DeviceGetCurrentClocksThrottleReasons, (device, unsigned long long *))                    \
    CALL(DeviceGetTemperature, (device, int, unsigned *))                                          \
    CALL(DeviceGetPowerUsage, (device, unsigned *))                                                \
    CALL(DeviceGetEnforcedPowerLimit, (device, unsigned *))                                        \
    CALL(DeviceGetPowerManagementDefaultLimit, (device, unsigned *))                               \
    CALL(DeviceGetCurrPcieLinkGeneration, (device, unsigned *))                                    \
    CALL(DeviceGetCurrPcieLinkWidth, (device, unsigned *))                                         \
    CALL(DeviceGetMaxPcieLinkGeneration, (device, unsigned *))                                     \
    CALL(DeviceGetMaxPcieLinkWidth, (device, unsigned *))

struct lk_nvml {
    void *library;
#define CALL(name, arguments) int(*name) arguments;
    LK_NVML_CALLS(CALL)
#undef CALL
};

/* Whether a call exists and succeeds; what it would have written stays as it was otherwise. */
#define ASK(n, name, ...) succeeds((n)->name ? (n)->name(__VA_ARGS__) : -1)
static bool succeeds(int code) { return code == 0; }

/* ---- opening and closing --------------------------------------------------------------------- */

lk_status lk_nvml_open(lk_nvml **result, char *why, size_t size)
{
    *result = NULL;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(why, size, "no NVIDIA driver here (libnvidia-ml.so.1 is not found)");
        return LK_OK;
    }
    lk_nvml *n = calloc(1, sizeof *n);
    if (!n) {
        dlclose(library);
        return lk_fail(LK_E_SYSTEM, "out of memory for NVML");
    }
    n->library = library;
#define CALL(name, arguments) *(void **)&n->name = dlsym(library, "nvml" #name);
    LK_NVML_CALLS(CALL)
#undef CALL
    int code = n->Init_v2 ? n->Init_v2() : -1;
    if (code == 0) {
        *result = n;
        return LK_OK;
    }
    const char *reason = code == 9    ? "the driver is not loaded"
                         : code == 18 ? "library and driver have different versions, as after an "
                                        "update without a restart"
                                      : "it does not start";
    snprintf(why, size, "NVIDIA driver: %s (NVML %d)", reason, code);
    dlclose(library);
    free(n);
    return LK_OK;
}

void lk_nvml_close(lk_nvml *n)
{
    if (!n) return;
    if (n->Shutdown) n->Shutdown();
    dlclose(n->library);
    free(n);
}

/* ---- one GPU --------------------------------------------------------------------------------- */

/* As sysfs writes it: NVML has eight digits of the domain, and upper case. */
static void address_of(const pci_info *p, char text[32])
{
    snprintf(text, 32, "%04x:%02x:%02x.0", p->domain, p->bus, p->device);
}

static bool device_at(const lk_nvml *n, unsigned i, device *d, char pci[32])
{
    pci_info p = {.address = ""};
    pci[0] = '\0';
    if (!ASK(n, DeviceGetHandleByIndex_v2, i, d)) return false;
    if (ASK(n, DeviceGetPciInfo_v3, *d, &p)) address_of(&p, pci);
    return true;
}

static json_t *ecc_facts(const lk_nvml *n, device d)
{
    int on = 0, pending_mode = 0;
    unsigned long long errors = 0;
    unsigned corrected = 0, uncorrected = 0, pending = 0, failed = 0;
    bool known = ASK(n, DeviceGetEccMode, d, &on, &pending_mode);
    bool counted = ASK(n, DeviceGetTotalEccErrors, d, UNCORRECTED, VOLATILE, &errors);
    bool rows = ASK(n, DeviceGetRemappedRows, d, &corrected, &uncorrected, &pending, &failed);
    return json_pack("{s:o, s:o, s:o, s:o}", "on", known ? json_boolean(on) : json_null(),
                     "uncorrected", counted ? json_integer((json_int_t)errors) : json_null(),
                     "remap_pending", rows ? json_boolean(pending) : json_null(), "remap_failed",
                     rows ? json_boolean(failed) : json_null());
}

static json_t *processes(const lk_nvml *n, device d)
{
    process_info p[PROCESSES];
    unsigned count = PROCESSES;
    if (!ASK(n, DeviceGetComputeRunningProcesses_v3, d, &count, p)) return json_null();
    json_t *list = json_array();
    for (unsigned i = 0; i < count && i < PROCESSES; i++)
        json_array_append_new(list, json_integer(p[i].pid));
    return list;
}

static int links_of(const lk_nvml *n, device d, double *rate)
{
    int active = 0, on;
    field_value speed = {.field = LINK_SPEED};
    for (unsigned i = 0; i < LINKS; i++)
        if (ASK(n, DeviceGetNvLinkState, d, i, &on) && on) active++;
    bool known = active > 0 && ASK(n, DeviceGetFieldValues, d, 1, &speed) && speed.code == 0 &&
                 speed.type == UNSIGNED;
    *rate = known ? 1e6 * speed.value.number : 0;
    return active;
}

static void near_cores(const lk_nvml *n, device d, char *list, size_t size)
{
    unsigned long mask[MASK_WORDS] = {0};
    lk_cores set;
    const int bits = 8 * (int)sizeof *mask;
    list[0] = '\0';
    if (!ASK(n, DeviceGetCpuAffinity, d, MASK_WORDS, mask)) return;
    for (int i = 0; i < LK_CPU_CORES; i++) set.in[i] = mask[i / bits] >> (i % bits) & 1;
    lk_cores_format(&set, list, size);
}

static int numa_node(const char *root, const char *pci)
{
    char line[32];
    lk_machine_line(line, sizeof line, "%s/sys/bus/pci/devices/%s/numa_node", root, pci);
    return line[0] ? atoi(line) : -1;
}

static json_t *device_facts(const lk_nvml *n, const char *root, device d, const char *pci)
{
    static const char *const mode_name[] = {"shared", "exclusive thread", "prohibited",
                                            "exclusive process"};
    char name[96] = "GPU", cores[1024];
    memory_info m = {0};
    int mode = 0;
    unsigned mig = 0, mig_next = 0;
    double rate;
    ASK(n, DeviceGetName, d, name, sizeof name);
    ASK(n, DeviceGetMemoryInfo, d, &m);
    ASK(n, DeviceGetComputeMode, d, &mode);
    ASK(n, DeviceGetMigMode, d, &mig, &mig_next);
    near_cores(n, d, cores, sizeof cores);
    int nvlinks = links_of(n, d, &rate);
    return json_pack("{s:s, s:s, s:f, s:f, s:s, s:i, s:o, s:s, s:b, s:o, s:i, s:f}", "name",
                     name, "pci", pci, "memory", (double)m.total, "free", (double)m.free, "cores",
                     cores, "numa_node", numa_node(root, pci), "ecc", ecc_facts(n, d), "mode",
                     mode_name[mode >= 0 && mode < 4 ? mode : 0], "mig", mig == 1, "processes",
                     processes(n, d), "nvlinks", nvlinks, "nvlink_rate", rate);
}

/* ---- between GPUs ---------------------------------------------------------------------------- */

/* NVLinks from a to b: direct ones, or through switches all that both have. */
static int nvlinks(const lk_nvml *n, device a, device b, const char *pci_b)
{
    int direct = 0, switched = 0, on, type;
    double rate;
    for (unsigned i = 0; i < LINKS; i++) {
        pci_info remote = {.address = ""};
        char pci[32];
        if (!ASK(n, DeviceGetNvLinkState, a, i, &on) || !on) continue;
        if (ASK(n, DeviceGetNvLinkRemoteDeviceType, a, i, &type) && type == REMOTE_SWITCH)
            switched++;
        else if (ASK(n, DeviceGetNvLinkRemotePciInfo_v2, a, i, &remote)) {
            address_of(&remote, pci);
            direct += strcasecmp(pci, pci_b) == 0;
        }
    }
    int others = links_of(n, b, &rate);
    return direct ? direct : switched < others ? switched : others;
}

static void link_name(const lk_nvml *n, device a, device b, const char *pci_b, char text[16])
{
    int level = -1, links = nvlinks(n, a, b, pci_b);
    if (links > 0) {
        snprintf(text, 16, "NV%d", links);
        return;
    }
    ASK(n, DeviceGetTopologyCommonAncestor, a, b, &level);
    snprintf(text, 16, "%s", level < 0     ? "?"
                             : level <= 10 ? "PIX"
                             : level <= 20 ? "PXB"
                             : level <= 30 ? "PHB"
                             : level <= 40 ? "NODE"
                                           : "SYS");
}

static json_t *row_facts(const lk_nvml *n, unsigned count, unsigned i)
{
    device a, b;
    char pci_a[32], pci[32], text[16];
    json_t *row = json_array();
    bool here = device_at(n, i, &a, pci_a);
    for (unsigned k = 0; k < count; k++) {
        int status = 0;
        bool peer = k != i && here && device_at(n, k, &b, pci);
        snprintf(text, sizeof text, k == i ? "X" : "?");
        if (peer) link_name(n, a, b, pci, text);
        if (peer && n->DeviceGetP2PStatus) n->DeviceGetP2PStatus(a, b, P2P_READ, &status);
        json_array_append_new(row, json_pack("[s, b]", text, k == i || status == 0));
    }
    return row;
}

static json_t *nic_row(const char *root, const char *pci, const json_t *nics)
{
    json_t *row = json_array();
    size_t k;
    const json_t *nic;
    json_array_foreach((json_t *)nics, k, nic)
    {
        const char *other = json_string_value(json_object_get(nic, "pci"));
        json_array_append_new(row, json_string(lk_machine_path(root, pci, other ? other : "")));
    }
    return row;
}

lk_status lk_nvml_facts(const lk_nvml *n, const char *root, const json_t *nics, json_t **facts)
{
    char driver[81] = "?", cuda[32];
    int version = 0;
    unsigned count = 0;
    json_t *devices = json_array(), *links = json_array(), *cards = json_array();
    ASK(n, SystemGetDriverVersion, driver, sizeof driver);
    ASK(n, SystemGetCudaDriverVersion_v2, &version);
    ASK(n, DeviceGetCount_v2, &count);
    snprintf(cuda, sizeof cuda, "%d.%d", version / 1000, version % 1000 / 10);
    int bad = 0;
    for (unsigned i = 0; i < count; i++) {
        device d;
        char pci[32];
        if (!device_at(n, i, &d, pci)) continue;
        bad |= json_array_append_new(devices, device_facts(n, root, d, pci));
        bad |= json_array_append_new(links, row_facts(n, count, i));
        bad |= json_array_append_new(cards, nic_row(root, pci, nics));
    }
    *facts = bad ? NULL
                 : json_pack("{s:s, s:s, s:O, s:O, s:O}", "driver", driver, "cuda", cuda,
                             "devices", devices, "links", links, "nics", cards);
    json_decref(devices);
    json_decref(links);
    json_decref(cards);
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of the GPUs");
}

/* ---- at work --------------------------------------------------------------------------------- */

/* Bits of nvmlClocksThrottleReasons. The first two, idle and the cap of power under load, hold down
 * no GPU that is well: they are told apart by their names. */
static json_t *held(const lk_nvml *n, device d)
{
    static const struct {
        unsigned long long bit;
        const char *name;
    } reason[] = {{0x1, "idle"},
                  {0x2, "application clocks"},
                  {0x4, "power cap"},
                  {0x8, "hardware slowdown"},
                  {0x10, "sync boost"},
                  {0x20, "software thermal slowdown"},
                  {0x40, "hardware thermal slowdown"},
                  {0x80, "hardware power brake"},
                  {0x100, "display clocks"}};
    unsigned long long bits = 0;
    if (!ASK(n, DeviceGetCurrentClocksThrottleReasons, d, &bits)) return json_null();
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof reason / sizeof *reason; i++)
        if (bits & reason[i].bit) json_array_append_new(list, json_string(reason[i].name));
    return list;
}

typedef int (*number_call)(device, unsigned *);

static json_t *number(number_call call, device d, double unit)
{
    unsigned value = 0;
    return call && call(d, &value) == 0 ? json_real(value * unit) : json_null();
}

typedef int (*typed_call)(device, int, unsigned *);

static json_t *typed(typed_call call, device d, int type)
{
    unsigned value = 0;
    return call && call(d, type, &value) == 0 ? json_integer(value) : json_null();
}

lk_status lk_nvml_busy_facts(const lk_nvml *n, const char *pci, json_t **facts)
{
    unsigned count = 0, i = 0;
    device d = NULL;
    char address[32] = "";
    *facts = NULL;
    ASK(n, DeviceGetCount_v2, &count);
    for (; i < count; i++)
        if (device_at(n, i, &d, address) && strcasecmp(address, pci) == 0) break;
    if (i == count) return LK_OK;
    *facts = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "sm_clock",
        typed(n->DeviceGetClockInfo, d, CLOCK_SM), "sm_clock_max",
        typed(n->DeviceGetMaxClockInfo, d, CLOCK_SM), "held", held(n, d), "temperature",
        typed(n->DeviceGetTemperature, d, TEMPERATURE_GPU), "power",
        number(n->DeviceGetPowerUsage, d, 1e-3), "power_limit",
        number(n->DeviceGetEnforcedPowerLimit, d, 1e-3), "power_default",
        number(n->DeviceGetPowerManagementDefaultLimit, d, 1e-3), "pcie_gen",
        number(n->DeviceGetCurrPcieLinkGeneration, d, 1), "pcie_width",
        number(n->DeviceGetCurrPcieLinkWidth, d, 1), "pcie_gen_max",
        number(n->DeviceGetMaxPcieLinkGeneration, d, 1), "pcie_width_max",
        number(n->DeviceGetMaxPcieLinkWidth, d, 1));
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of a GPU");
}
