/* The judge of lockstep doctor: on a machine that is well it has nothing to say, and each planted
 * fault is named, by the finding that is meant and by no other. Then the readers of /proc and /sys,
 * on files made here. */
#include "backend/backend.h"
#include "cpu/machine.h"
#include "doctor/exam.h"
#include "tests/tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOSTS = 2, GPUS = 4, RANKS = HOSTS * GPUS };

/* ---- a machine that is well: two hosts of four H100, InfiniBand ----------------------------- */

static const char *const template_rank =
    "{'program': {'version': '1', 'code': 'abc', 'build': 'gcc', 'cuda': true, 'nccl': true},"
    " 'machine': {'cpu': {'model': 'CPU', 'online': 32, 'numa_nodes': 2, 'usable': '',"
    "   'usable_count': 8, 'physical': 8, 'quota': null, 'threads': 8, 'bound_threads': false},"
    "  'memory': {'total': 1e12, 'available': 9e11, 'limit': null, 'shm': 5e11, 'shm_free': 5e11},"
    "  'limits': {'memlock': null, 'files': 1048576}, 'kernel': '6.1.0-18-amd', 'system': 'Linux',"
    "  'nics': [{'name': 'mlx5_0', 'port': '1', 'pci': '0000:1b:00.0', 'active': true, 'gbit': 400,"
    "    'layer': 'InfiniBand', 'numa_node': 0}]},"
    " 'mpi': {'library': 'Open MPI v4.1.6', 'version': '4.1.6', 'header': '4.1.6', "
    "  'path': '/lib/m', 'loaded': 1, 'libraries': '/lib/m', 'level': 'multiple',"
    "  'cuda_aware': false, 'nccl': '2.25.1', 'nccl_header': '2.25.1', 'nccl_path': '/lib/n'},"
    " 'hdf5': {'version': '1.14.5', 'header': '1.14.5', 'path': '/lib/h', 'parallel': true,"
    "  'deflate': true, 'shuffle': true, 'fletcher32': true},"
    " 'onednn': {'version': '3.1.0', 'header': '3.1.0', 'path': '/lib/d'},"
    " 'cuda': {'driver': '12.8', 'runtime': '12.8', 'runtime_header': '12.8',"
    "  'cublaslt': '12.8.4', 'cublaslt_header': '12.8.4', 'cublaslt_path': '/lib/c', 'error': null,"
    "  'devices': [{}, {}, {}, {}]},"
    " 'nvml': {'driver': '570.86.15', 'cuda': '12.8', 'devices': [], 'links': [], 'nics': []},"
    " 'environment': {'OMPI_COMM_WORLD_SIZE': '8', 'NCCL_DEBUG': 'WARN', 'OMP_NUM_THREADS': '8'},"
    " 'device': {'pci': '', 'generic': false, 'error': null},"
    " 'speed': {'busy': {'sm_clock': 1900, 'sm_clock_max': 1980, 'held': ['power cap'],"
    "   'temperature': 60, 'power': 690, 'power_limit': 700, 'power_default': 700, 'pcie_gen': 5,"
    "   'pcie_width': 16, 'pcie_gen_max': 5, 'pcie_width_max': 16}, 'upload': 52e9,"
    "  'download': 50e9, 'reduce': {'library': 'NCCL', 'bytes': 134217728, 'fast': 40e9,"
    "   'exact': 35e9, 'ring': 40.2e9, 'tree': 31e9, 'error': null}},"
    " 'directory': {'path': '/scratch', 'type': 'lustre', 'free': 1e14, 'write': 5e8, 'read': 6e8,"
    "  'error': null, 'shared': true}}";

static json_t *parse(const char *text)
{
    char *copy = strdup(text);
    for (char *p = copy; *p; p++)
        if (*p == '\'') *p = '"';
    json_error_t error;
    json_t *x = json_loads(copy, JSON_DECODE_ANY, &error);
    if (!x) printf("Bail out! %s in %.40s\n", error.text, copy);
    free(copy);
    return x;
}

static json_t *at(json_t *of, const char *path) { return (json_t *)lk_part(of, path); }

static json_t *gpu(int i)
{
    char pci[32];
    snprintf(pci, sizeof pci, "0000:%02x:00.0", 0x1a + i);
    return json_pack("{s:s, s:s, s:f, s:f, s:s, s:i, s:{s:b, s:i, s:b, s:b}, s:s, s:b, s:[], "
                     "s:i, s:f}", "name", "NVIDIA H100", "pci", pci, "memory", 85e9, "free", 84e9,
                     "cores", i < 2 ? "0-15" : "16-31", "numa_node", i / 2, "ecc", "on", 1,
                     "uncorrected", 0, "remap_pending", 0, "remap_failed", 0, "mode", "shared",
                     "mig", 0, "processes", "nvlinks", 18, "nvlink_rate", 25e9);
}

static json_t *well_rank(int r)
{
    json_t *x = parse(template_rank), *devices = at(x, "nvml.devices");
    char text[64];
    int local = r % GPUS;
    snprintf(text, sizeof text, "node%d", r / GPUS);
    json_object_set_new(x, "host", json_string(text));
    json_object_set_new(x, "local_rank", json_integer(local));
    snprintf(text, sizeof text, "%d-%d", 8 * local, 8 * local + 7);
    json_object_set_new(at(x, "machine.cpu"), "usable", json_string(text));
    snprintf(text, sizeof text, "0000:%02x:00.0", 0x1a + local);
    json_object_set_new(at(x, "device"), "pci", json_string(text));
    for (int i = 0; i < GPUS; i++) {
        json_array_append_new(devices, gpu(i));
        json_t *row = json_array();
        for (int k = 0; k < GPUS; k++)
            json_array_append_new(row, json_pack("[s, b]", i == k ? "X" : "NV18", 1));
        json_array_append_new(at(x, "nvml.links"), row);
        json_array_append_new(at(x, "nvml.nics"), json_pack("[s]", "PIX"));
    }
    return x;
}

static json_t *well(void)
{
    json_t *ranks = json_array();
    for (int r = 0; r < RANKS; r++) json_array_append_new(ranks, well_rank(r));
    return json_pack("{s:{s:i}, s:o}", "lockstep", "facts", 1, "ranks", ranks);
}

/* ---- planted faults ------------------------------------------------------------------------- */

enum { ALL = -1, NODE1 = -2 };

typedef struct fault {
    const char *what;
    int rank;               /* or ALL or NODE1 */
    const char *path, *set; /* JSON with ' for " */
    const char *name, *says;
    lk_verdict dev, prod;
} fault;

#define W LK_WARNING, LK_WARNING
#define E LK_UNFIT, LK_UNFIT

static const fault faults[] = {
    {"NVLink and PCIe switched off in NCCL", ALL, "environment.NCCL_P2P_DISABLE", "'1'",
     "NCCL_P2P_DISABLE", "unset it", W},
    {"one NCCL channel", ALL, "environment.NCCL_MAX_NCHANNELS", "'1'", "NCCL_MAX_NCHANNELS",
     "few channels", W},
    {"InfiniBand switched off in NCCL", ALL, "environment.NCCL_IB_DISABLE", "'1'",
     "NCCL_IB_DISABLE", "TCP", W},
    {"NCCL over the loopback", ALL, "environment.NCCL_SOCKET_IFNAME", "'lo'",
     "NCCL_SOCKET_IFNAME", "other hosts", E},
    {"a forced protocol", ALL, "environment.NCCL_PROTO", "'LL'", "NCCL_PROTO", "unset it", W},
    {"a setting on one host alone", NODE1, "environment.NCCL_IB_HCA", "'mlx5_0'", "NCCL_IB_HCA",
     "the others do not have it", W},
    {"no shared memory between ranks", ALL, "environment.OMPI_MCA_btl", "'tcp,self'",
     "OMPI_MCA_btl", "vader", W},
    {"files by OMPIO", ALL, "environment.OMPI_MCA_io", "'ompio'", "OMPI_MCA_io", "disk is full", W},
    {"files not by ROMIO", ALL, "environment.OMPI_MCA_io", "'^romio321'", "OMPI_MCA_io",
     "disk is full", W},
    {"UCX without RDMA", ALL, "environment.UCX_TLS", "'tcp,self'", "UCX_TLS", "TCP", W},
    {"launches one by one", ALL, "environment.CUDA_LAUNCH_BLOCKING", "'1'",
     "CUDA_LAUNCH_BLOCKING", "unset it", W},
    {"TF32 overruled", ALL, "environment.NVIDIA_TF32_OVERRIDE", "'0'", "NVIDIA_TF32_OVERRIDE",
     "same bits", W},
    {"far too many threads", ALL, "machine.cpu.threads", "64", "OpenMP threads",
     "OMP_NUM_THREADS=8", W},
    {"threads that are a word", ALL, "environment.OMP_NUM_THREADS", "'abc'", "OpenMP threads",
     "cannot use 'abc': expected a whole number above 0: OMP_NUM_THREADS=8", W},
    {"no threads", ALL, "environment.OMP_NUM_THREADS", "'0'", "OpenMP threads",
     "cannot use '0'", W},
    {"fewer than no threads", 1, "environment.OMP_NUM_THREADS", "'-3'", "OpenMP threads",
     "cannot use '-3'", W},
    {"threads of nested regions, one missing", ALL, "environment.OMP_NUM_THREADS", "'8,'",
     "OpenMP threads", "cannot use '8,'", W},
    {"threads and more", ALL, "environment.OMP_NUM_THREADS", "'8 cores'", "OpenMP threads",
     "cannot use '8 cores'", W},
    {"more threads than a number holds", ALL, "environment.OMP_NUM_THREADS",
     "'99999999999999999999'", "OpenMP threads", "cannot use '9999", W},
    {"threads of nested regions", ALL, "environment.OMP_NUM_THREADS", "'8, 2'", "OpenMP threads",
     "", LK_FIT, LK_FIT},
    {"too many threads for a container", ALL, "machine.cpu.quota", "4.0", "OpenMP threads",
     "OMP_NUM_THREADS=1", W},
    {"all ranks on a quarter of the cores", ALL, "machine.cpu.online", "128", "binding",
     "the others stay idle", W},
    {"ranks on each other's cores", 1, "machine.cpu.usable", "'4-11'", "binding",
     "ranks 0 and 1 overlap", W},
    {"ranks on the other socket than their GPU", ALL, "nvml.devices.3.cores", "'0-15'", "placement",
     "crosses the sockets", W},
    {"two ranks on one GPU", 1, "device.pci", "'0000:1a:00.0'", "placement", "NCCL refuses", E},
    {"a build for other GPUs", 1, "device.generic", "true", "placement", "--with-cuda-arch=90", W},
    {"a GPU that does not start", 2, "device.error", "'out of memory'", "placement",
     "out of memory", E},
    {"memory nearly full", NODE1, "machine.memory.available", "1e8", "memory", "only", W},
    {"a small /dev/shm", NODE1, "machine.memory.shm", "67108864", "/dev/shm", "--shm-size", W},
    {"no locked memory", ALL, "machine.limits.memlock", "65536", "locked memory", "ulimit -l", E},
    {"few open files", ALL, "machine.limits.files", "256", "open files", "ulimit -n", W},
    {"a network without a port", NODE1, "machine.nics", "[]", "RDMA network", "TCP", W},
    {"a slow port on one host", NODE1, "machine.nics.0.gbit", "100", "RDMA network", "differs", W},
    {"an old kernel on one host", NODE1, "machine.kernel", "'4.4.0'", "Linux", "4.18", E},
    {"processes that MPI does not join", ALL, "environment.OMPI_COMM_WORLD_SIZE", "'16'", "ranks",
     "pmix", E},
    {"an old MPI", ALL, "mpi.version", "'4.0.3'", "Open MPI", "4.1.4", LK_FIT, LK_WARNING},
    {"another MPI", ALL, "mpi.library", "'MPICH Version: 4.1'", "MPI", "Open MPI", E},
    {"MPI of another major version on one rank", 5, "mpi.version", "'5.0.6'", "Open MPI",
     "compile it again", E},
    {"two MPI libraries", ALL, "mpi.loaded", "2", "Open MPI", "several MPI libraries", E},
    {"MPI without threads", ALL, "mpi.level", "'funneled'", "MPI threads", "THREAD_MULTIPLE", E},
    {"the wrong HDF5", ALL, "hdf5.version", "'1.12.1'", "HDF5", "compiled with 1.14.5", E},
    {"the wrong HDF5 on one host", NODE1, "hdf5.version", "'1.12.1'", "HDF5", "1.14.5", E},
    {"HDF5 elsewhere on one host", NODE1, "hdf5.path", "'/opt/h'", "HDF5", "differs", W},
    {"a serial HDF5", ALL, "hdf5.parallel", "false", "HDF5", "enable-parallel", E},
    {"HDF5 without checksums", ALL, "hdf5.fletcher32", "false", "HDF5 filters", "fletcher32", E},
    {"HDF5 without compression", ALL, "hdf5.deflate", "false", "HDF5 filters", "zlib", W},
    {"another oneDNN", ALL, "onednn.version", "'2.6.3'", "oneDNN", "compiled with 3.1.0", E},
    {"an old driver", ALL, "nvml.driver", "'470.82.01'", "driver", "525", E},
    {"a driver that is not recommended", ALL, "nvml.driver", "'535.54.03'", "driver", "550",
     LK_FIT, LK_WARNING},
    {"another driver on one host", NODE1, "nvml.driver", "'575.10.01'", "driver", "differs", W},
    {"a driver older than CUDA", ALL, "cuda.driver", "'11.8'", "CUDA", "update the driver", E},
    {"an old NCCL", ALL, "mpi.nccl", "'2.16.2'", "NCCL", "older than 2.25.1", W},
    {"another cuBLASLt", ALL, "cuda.cublaslt", "'13.0.0'", "cuBLASLt", "LD_LIBRARY_PATH", E},
    {"no GPU in a build for GPUs", ALL, "nvml", "null", "driver", "will train on the CPU",
     LK_WARNING, LK_UNFIT},
    {"no usable GPU", ALL, "cuda.devices", "[]", "usable GPUs", "nvidia-smi", E},
    {"wrong bits in memory", NODE1, "nvml.devices.2.ecc.uncorrected", "3", "ECC", "reset it", E},
    {"a row waiting for its spare", NODE1, "nvml.devices.2.ecc.remap_pending", "true", "ECC",
     "nvidia-smi -r", W},
    {"a row without a spare", NODE1, "nvml.devices.2.ecc.remap_failed", "true", "ECC", "replaced",
     E},
    {"ECC off", ALL, "nvml.devices.0.ecc.on", "false", "ECC", "nvidia-smi -e 1", W},
    {"another model", ALL, "nvml.devices.1.name", "'NVIDIA A100'", "GPUs", "slowest model", W},
    {"another program on a GPU", NODE1, "nvml.devices.1.processes", "[4711]", "GPU in use",
     "choose another one", W},
    {"a prohibited GPU", NODE1, "nvml.devices.1.mode", "'prohibited'", "GPU in use", "-c DEFAULT",
     E},
    {"heat", 6, "speed.busy.held", "['hardware thermal slowdown']", "clocks", "cooling", W},
    {"a power brake", 6, "speed.busy.held", "['hardware power brake']", "clocks", "power supply",
     W},
    {"a power limit", 6, "speed.busy.power_limit", "300", "clocks", "nvidia-smi -pl 700", W},
    {"a pair without NVLink", NODE1, "nvml.links.1", "[['SYS',true],['X',true],['NV18',true],"
     "['NV18',true]]", "GPU to GPU", "not all pairs", W},
    {"peers out of reach", ALL, "nvml.links.1", "[['NV18',false],['X',true],['NV18',false],"
     "['NV18',true]]", "GPU to GPU", "1 of 6 pairs", W},
    {"lanes missing", 2, "speed.busy.pcie_width", "8", "host to GPU", "8 of 16", W},
    {"slow copies", 2, "speed.upload", "6e9", "host to GPU", "another socket", W},
    {"a slow all-reduce", 0, "speed.reduce", "{'library': 'NCCL', 'bytes': 134217728, 'fast': 4e9,"
     " 'exact': 3e9, 'ring': null, 'tree': null, 'error': null}", "all-reduce", "NCCL_*", W},
    {"a wrong choice by NCCL", 0, "speed.reduce.ring", "90e9", "ring or tree", "NCCL_TOPO_FILE",
     W},
    {"an all-reduce that fails", 0, "speed.reduce.error", "'unhandled system error'", "all-reduce",
     "unhandled", E},
    {"a directory that is not there", NODE1, "directory.error", "'cannot look at it'", "directory",
     "--directory", E},
    {"a directory of one host alone", NODE1, "directory.shared", "false", "shared directory",
     "does not see", E},
    {"NFS for all", ALL, "directory.type", "'nfs'", "directory", "parallel file system", W},
    {"a full disk", ALL, "directory.free", "1e8", "directory", "make room", W},
    {"a slow disk", ALL, "directory.write", "1e6", "file bandwidth", "faster", W},
};

/* Set the value at a path of objects and indices of arrays. */
static void plant(json_t *of, const char *path, const char *set)
{
    char name[64];
    for (;;) {
        size_t n = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        bool last = !path[n];
        json_t *value = last ? parse(set) : NULL;
        if (json_is_array(of)) {
            if (last) json_array_set_new(of, (size_t)atoi(name), value);
            else of = json_array_get(of, (size_t)atoi(name));
        } else {
            if (last) json_object_set_new(of, name, value);
            else of = json_object_get(of, name);
        }
        if (last) return;
        path += n + 1;
    }
}

static json_t *ill(const fault *f)
{
    json_t *x = well(), *ranks = json_object_get(x, "ranks");
    for (int r = 0; r < RANKS; r++)
        if (f->rank == ALL || f->rank == r || (f->rank == NODE1 && r / GPUS == 1))
            plant(json_array_get(ranks, (size_t)r), f->path, f->set);
    return x;
}

/* Whether what is bad is said by the finding that is meant, and no other finding is bad. */
static bool named(const fault *f, lk_profile profile, lk_verdict expected)
{
    lk_diagnosis r = {.count = 0};
    json_t *x = ill(f);
    bool found = false, others = false;
    lk_status status = lk_doctor_judge(x, profile, &r);
    for (int i = 0; status == LK_OK && i < r.count; i++) {
        const lk_finding *y = &r.finding[i];
        if (y->verdict == LK_FIT) continue;
        bool meant = strcmp(y->name, f->name) == 0;
        found |= meant && y->verdict == expected && strstr(y->advice, f->says);
        others |= !meant;
        if (!meant) printf("# beside it: %s: %s -> %s\n", y->name, y->value, y->advice);
        if (meant && !strstr(y->advice, f->says)) printf("# %s -> %s\n", y->value, y->advice);
    }
    bool good = status == LK_OK && r.verdict == expected && !others;
    good &= expected == LK_FIT || found;
    if (!good) printf("# verdict %s %s\n", lk_verdict_name[r.verdict], lk_error_text());
    lk_diagnosis_clear(&r);
    json_decref(x);
    lk_error_clear();
    return good;
}

static void check_faults(void)
{
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const fault *f = &faults[i];
        bool dev = named(f, LK_PROFILE_DEV, f->dev), prod = named(f, LK_PROFILE_PROD, f->prod);
        tap_ok(dev && prod, "%s: %s, and nothing else (dev %s, prod %s)", f->what, f->name,
               lk_verdict_name[f->dev], lk_verdict_name[f->prod]);
    }
}

static void check_well(void)
{
    for (lk_profile p = LK_PROFILE_DEV; p <= LK_PROFILE_PROD; p++) {
        lk_diagnosis r = {.count = 0};
        json_t *x = well();
        bool good = lk_doctor_judge(x, p, &r) == LK_OK && r.verdict == LK_FIT && r.count > 25;
        for (int i = 0; i < r.count; i++)
            if (r.finding[i].verdict != LK_FIT || r.finding[i].differs)
                printf("# %s: %s -> %s\n", r.finding[i].name, r.finding[i].value,
                       r.finding[i].advice);
        tap_ok(good, "a machine that is well: %d findings, none bad %s", r.count, lk_error_text());
        lk_diagnosis_clear(&r);
        json_decref(x);
    }
}

/* ---- of whom it is said --------------------------------------------------------------------- */

static bool says_where(int rank, const char *where)
{
    const fault f = {"", rank, "hdf5.version", "'1.12.1'", "", "", E};
    lk_diagnosis r = {.count = 0};
    json_t *x = ill(&f);
    bool found = false, well_too = false;
    lk_status status = lk_doctor_judge(x, LK_PROFILE_DEV, &r);
    for (int i = 0; i < r.count; i++) {
        const lk_finding *y = &r.finding[i];
        if (strcmp(y->name, "HDF5") != 0) continue;
        if (y->verdict == LK_UNFIT) found = strcmp(y->where, where) == 0;
        else well_too = y->differs && y->verdict == LK_FIT;
    }
    lk_diagnosis_clear(&r);
    json_decref(x);
    return status == LK_OK && found && (rank == ALL || well_too);
}

static void check_where(void)
{
    tap_ok(says_where(ALL, ""), "a fault of all ranks is said of no one");
    tap_ok(says_where(NODE1, "node1"), "one of a host names the host, the others are well");
    tap_ok(says_where(5, "rank 5"), "one of a rank names the rank, the others are well");
}

static void check_json(void)
{
    lk_diagnosis a = {.count = 0}, b = {.count = 0};
    json_t *x = ill(&faults[0]), *again = NULL;
    char *text = NULL;
    bool good = lk_doctor_judge(x, LK_PROFILE_PROD, &a) == LK_OK &&
                lk_diagnosis_json(&a, x, &text) == LK_OK;
    again = good ? json_loads(text, 0, NULL) : NULL;
    good = again && lk_doctor_judge(again, LK_PROFILE_PROD, &b) == LK_OK && a.count == b.count;
    for (int i = 0; good && i < a.count; i++)
        good = strcmp(a.finding[i].value, b.finding[i].value) == 0 &&
               strcmp(a.finding[i].advice, b.finding[i].advice) == 0 &&
               a.finding[i].verdict == b.finding[i].verdict;
    tap_ok(good, "what is written as JSON is judged the same again %s", lk_error_text());
    lk_diagnosis_clear(&a);
    lk_diagnosis_clear(&b);
    json_decref(x);
    json_decref(again);
    free(text);
    static const char *const wrong[] = {"{}", "[]", "{'lockstep':{'facts':1},'ranks':[]}",
                                        "{'lockstep':{'facts':2},'ranks':[{}]}",
                                        "{'lockstep':{'facts':1},'ranks':[1]}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        lk_error_clear();
        x = parse(wrong[i]);
        good = lk_doctor_judge(x, LK_PROFILE_DEV, &a) == LK_E_INPUT;
        tap_ok(good, "%s is no report: %s", wrong[i], lk_error_text());
        json_decref(x);
    }
    lk_error_clear();
    x = parse("{'lockstep':{'facts':1},'ranks':[{'host':3,'machine':[],'nvml':{'devices':[1,2],"
              "'links':{}},'speed':{'busy':[],'reduce':{}},'environment':{'NCCL_ALGO':5}}]}");
    good = lk_doctor_judge(x, LK_PROFILE_DEV, &a) == LK_OK && a.verdict == LK_UNFIT;
    tap_ok(good, "facts that are missing or of other types harm nothing %s", lk_error_text());
    lk_diagnosis_clear(&a);
    json_decref(x);
}

/* ---- readers of /proc and /sys -------------------------------------------------------------- */

static char root[64];

static void write_file(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    char *slash = full + strlen(root);
    while ((slash = strchr(slash + 1, '/')) != NULL) {
        *slash = '\0';
        mkdir(full, 0777);
        *slash = '/';
    }
    FILE *f = fopen(full, "w");
    if (f) fputs(text, f);
    if (f) fclose(f);
}

static void link_pci(const char *pci, const char *folder)
{
    char from[256], to[512], file[512];
    snprintf(file, sizeof file, "/sys/devices/%s/numa_node", folder);
    write_file(file, strncmp(folder, "pci0000:80", 10) == 0 ? "1\n" : "0\n");
    write_file("/sys/bus/pci/devices/made", "");
    snprintf(to, sizeof to, "%s/sys/bus/pci/devices/%s", root, pci);
    snprintf(from, sizeof from, "../../../devices/%s", folder);
    if (symlink(from, to) != 0) printf("# cannot link %s\n", to);
}

static double number_of(const char *path)
{
    json_t *facts = NULL;
    double number = NAN;
    if (lk_machine_facts(root, &facts) == LK_OK) number = lk_part_number(facts, path);
    json_decref(facts);
    return number;
}

static double quota_of(void) { return number_of("cpu.quota"); }

static void check_limits(void)
{
    tap_ok(isnan(quota_of()), "without control groups there is no limit");
    write_file("/proc/self/cgroup", "0::/user/job\n");
    write_file("/sys/fs/cgroup/user/job/cpu.max", "max 100000\n");
    write_file("/sys/fs/cgroup/user/cpu.max", "350000 100000\n");
    tap_ok(quota_of() == 3.5, "version 2: the limit of a group above holds");
    write_file("/sys/fs/cgroup/user/job/cpu.max", "150000 100000\n");
    tap_ok(quota_of() == 1.5, "and the smaller one of several");
    write_file("/proc/self/cgroup", "5:cpuset:/x\n4:cpu,cpuacct:/job\n");
    write_file("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "200000\n");
    write_file("/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
    tap_ok(quota_of() == 2, "version 1");
    write_file("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
    tap_ok(isnan(quota_of()), "version 1 without a limit");
    tap_ok(isnan(number_of("cpu.cpuset")), "and without a set of cores");
    write_file("/sys/fs/cgroup/cpuset/x/cpuset.effective_cpus", "0-3,8\n");
    tap_ok(number_of("cpu.cpuset") == 5, "a set of cores");
    write_file("/proc/self/cgroup", "0::/user/job\n");
    write_file("/sys/fs/cgroup/user/job/cpuset.cpus.effective", "0-1\n");
    tap_ok(number_of("cpu.cpuset") == 2, "version 2 of it");
}

/* What is refused is more than there are addresses, so that no machine could come to harm. */
static void check_room(void)
{
    write_file("/proc/self/cgroup", "0::/user/job\n");
    write_file("/proc/meminfo", "MemTotal: 4000 kB\nMemAvailable:    3000 kB\nSwapFree: 500 kB\n");
    tap_ok(lk_machine_available(root) == 3500 * 1024.0, "memory that is available");
    write_file("/sys/fs/cgroup/user/memory.max", "1048576\n");
    tap_ok(lk_machine_available(root) == 0x1p20, "no more than the control group's limit");
    lk_device *d = NULL;
    void *memory = NULL;
    lk_status status = lk_backend_cpu.open(0, &d);
    if (status == LK_OK) status = d->backend->alloc(d, (size_t)1 << 47, &memory);
    tap_ok(status == LK_E_SYSTEM && strstr(lk_error_text(), "MiB are available to a rank here"),
           "more is refused: %s", lk_error_text());
    lk_error_clear();
    lk_backend_cpu.close(d);
}

static void check_nics(void)
{
    json_t *facts = NULL;
    write_file("/sys/class/infiniband/mlx5_1/ports/1/state", "4: ACTIVE\n");
    write_file("/sys/class/infiniband/mlx5_1/ports/1/rate", "400 Gb/sec (4X NDR)\n");
    write_file("/sys/class/infiniband/mlx5_1/ports/1/link_layer", "InfiniBand\n");
    write_file("/sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n");
    bool good = lk_machine_facts(root, &facts) == LK_OK;
    const json_t *nics = lk_part(facts, "nics"), *second = json_array_get(nics, 1);
    good = good && json_array_size(nics) == 2 && lk_part_number(second, "gbit") == 400 &&
           lk_part_true(second, "active") && !lk_part_true(json_array_get(nics, 0), "active");
    tap_ok(good, "network cards: name, state and rate");
    json_decref(facts);
}

static void check_pci(void)
{
    link_pci("0000:1a:00.0", "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:1a:00.0");
    link_pci("0000:1b:00.0", "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:02.0/0000:1b:00.0");
    link_pci("0000:1c:00.0", "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:03.0/0000:03:00.0/"
                             "0000:04:00.0/0000:1c:00.0");
    link_pci("0000:1d:00.0", "pci0000:00/0000:00:02.0/0000:1d:00.0");
    link_pci("0000:41:00.0", "pci0000:40/0000:40:01.0/0000:41:00.0");
    link_pci("0000:81:00.0", "pci0000:80/0000:80:01.0/0000:81:00.0");
    static const struct {
        const char *to, *word;
    } way[] = {{"0000:1B:00.0", "PIX"}, {"0000:1c:00.0", "PXB"}, {"0000:1d:00.0", "PHB"},
               {"0000:41:00.0", "NODE"}, {"0000:81:00.0", "SYS"}, {"0000:99:00.0", "?"}};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        const char *word = lk_machine_path(root, "0000:1a:00.0", way[i].to);
        tap_ok(strcmp(word, way[i].word) == 0, "from 0000:1a:00.0 to %s: %s", way[i].to, word);
    }
}

static void check_small(void)
{
    static const char *const lists[] = {"", "0", "0-3", "0-3,8,10-11", "1,3,5", "8190-8191"};
    bool good = true;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        lk_cores set;
        char text[64];
        lk_cores_parse(lists[i], &set);
        lk_cores_format(&set, text, sizeof text);
        good &= strcmp(text, lists[i]) == 0;
    }
    tap_ok(good, "lists of cores are read and written");
    lk_cores odd;
    char text[16];
    lk_cores_parse("0,2,4,6,8,10,12,14,16", &odd);
    lk_cores_format(&odd, text, sizeof text);
    tap_ok(strcmp(text + strlen(text) - 3, "...") == 0, "a list that is too long is cut: %s", text);
    lk_cores_parse("3-1,x,-5,99999", &odd);
    tap_ok(lk_cores_count(&odd) == 0, "nonsense is no core");
    tap_ok(lk_version_compare("1.10.8", "1.12") < 0 && lk_version_compare("2.0", "1.99.9") > 0 &&
               lk_version_compare("1.10.8", "1.10.8") == 0 &&
               lk_version_compare("1.2", "1.2.0") == 0 &&
               lk_version_compare("6.1.0-18-amd64", "5.4") > 0 &&
               lk_version_compare("5.4.0-rc1", "5.4") == 0,
           "versions are compared number by number");
}

int main(void)
{
    snprintf(root, sizeof root, "/tmp/lockstep-doctor-%ld", (long)getpid());
    mkdir(root, 0700);
    check_small();
    check_limits();
    check_room();
    check_nics();
    check_pci();
    check_well();
    check_where();
    check_json();
    check_faults();
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    if (system(command) != 0) printf("# %s is left\n", root);
    return tap_done();
}
