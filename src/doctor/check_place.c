/* Checks of which rank sits where: on which GPU, near which cores; and of links between GPUs. */
#include "doctor/exam.h"

#include "cpu/machine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The number, as NVML counts, of the GPU of a rank; -1: none. */
static int gpu_of(const lk_exam *e, int rank)
{
    const char *pci = lk_fact_text(e, rank, "device.pci");
    size_t i;
    const json_t *gpu;
    if (!pci[0]) return -1;
    json_array_foreach((json_t *)lk_fact(e, rank, "nvml.devices"), i, gpu)
        if (strcmp(lk_part_text(gpu, "pci"), pci) == 0) return (int)i;
    return -1;
}

/* Cores of this rank that are near its GPU, and all of its cores. */
static void near_cores(const lk_exam *e, int rank, int gpu, int *near, int *all, int *gpus)
{
    lk_cores mine, its;
    const json_t *device = json_array_get(lk_fact(e, rank, "nvml.devices"), (size_t)gpu);
    lk_cores_parse(lk_fact_text(e, rank, "machine.cpu.usable"), &mine);
    lk_cores_parse(lk_part_text(device, "cores"), &its);
    *near = 0;
    *all = lk_cores_count(&mine);
    *gpus = lk_cores_count(&its);
    for (int i = 0; i < LK_CPU_CORES; i++) *near += mine.in[i] && its.in[i];
}

static void judge_doubles(lk_exam *e, int rank)
{
    const char *pci = lk_fact_text(e, rank, "device.pci");
    for (int r = 0; r < lk_exam_ranks(e); r++) {
        if (r == rank || !lk_exam_same_host(e, r, rank)) continue;
        if (strcmp(pci, lk_fact_text(e, r, "device.pci")) != 0) continue;
        lk_advise(e, LK_UNFIT, "other ranks have the same GPU, which NCCL refuses: one rank a GPU "
                  "(srun --gpus-per-task=1 --ntasks-per-node=..., or CUDA_VISIBLE_DEVICES with all "
                  "GPUs on every rank)");
        return;
    }
}

/* What is wrong with a rank's GPU wherever its cores are. */
static void judge_gpu(lk_exam *e, int rank)
{
    if (lk_fact_true(e, rank, "device.generic"))
        lk_advise(e, LK_WARNING, "this build has no code for Hopper: attention takes two to three "
                  "times as long by the kernels of other GPUs; configure --with-cuda-arch=90, or "
                  "without that option");
    judge_doubles(e, rank);
}

void lk_check_placement(lk_exam *e, int rank)
{
    const char *error = lk_fact_text(e, rank, "device.error");
    const char *pci = lk_fact_text(e, rank, "device.pci");
    int near, all, gpus, gpu = gpu_of(e, rank);
    if (error[0]) {
        lk_find(e, "placement", LK_UNFIT, "no device");
        lk_advise(e, LK_UNFIT, "%s", error);
        return;
    }
    if (!pci[0]) {
        if (lk_fact_true(e, rank, "program.cuda"))
            lk_find(e, "placement", LK_FIT, "on the CPU");
        return;
    }
    if (gpu < 0) {
        lk_find(e, "placement", LK_FIT, "GPU %s", pci);
        judge_gpu(e, rank);
        return;
    }
    near_cores(e, rank, gpu, &near, &all, &gpus);
    if (gpus == 0 || near == all)
        lk_find(e, "placement", LK_FIT, lk_exam_ranks(e) > 1 ? "each rank's cores are near its GPU"
                                                             : "the cores are near the GPU");
    else if (near > 0)
        lk_find(e, "placement", LK_FIT, "free to move between cores near the GPU and others");
    else
        lk_find(e, "placement", LK_FIT, "cores %s, GPU %d is near %s",
                lk_fact_text(e, rank, "machine.cpu.usable"), gpu,
                lk_part_text(json_array_get(lk_fact(e, rank, "nvml.devices"), (size_t)gpu),
                             "cores"));
    if (gpus > 0 && near == 0)
        lk_advise(e, LK_WARNING, "every copy crosses the sockets: bind the rank near its GPU "
                  "(mpirun --map-by numa --bind-to numa, srun --gpu-bind=closest)");
    judge_gpu(e, rank);
}

/* ---- links ----------------------------------------------------------------------------------- */

static const json_t *link_of(const lk_exam *e, int rank, int a, int b)
{
    return json_array_get(json_array_get(lk_fact(e, rank, "nvml.links"), (size_t)a), (size_t)b);
}

static const char *word(const json_t *link)
{
    const char *text = json_string_value(json_array_get(link, 0));
    return text ? text : "?";
}

/* From the best to the worst: 0 NVLink, 1 PIX ... 5 SYS. */
static int grade(const char *text)
{
    static const char *const order[] = {"PIX", "PXB", "PHB", "NODE", "SYS"};
    if (strncmp(text, "NV", 2) == 0) return 0;
    for (int i = 0; i < 5; i++)
        if (strcmp(text, order[i]) == 0) return i + 1;
    return 5;
}

typedef struct pairs {
    int count, best, worst, blocked, fewest, most; /* fewest, most: NVLinks of a pair */
    const char *best_word, *worst_word;
} pairs;

static void add_pair(pairs *p, const json_t *link)
{
    const char *text = word(link);
    if (text[0] == '?') return; /* a virtual machine may hide it */
    int g = grade(text), links = g == 0 ? atoi(text + 2) : 0;
    if (p->count == 0 || g < p->best || (g == p->best && links > p->most))
        p->best = g, p->best_word = text;
    if (p->count == 0 || g > p->worst || (g == p->worst && links < p->fewest))
        p->worst = g, p->worst_word = text;
    if (p->count == 0 || links < p->fewest) p->fewest = links;
    if (links > p->most) p->most = links;
    p->blocked += !json_is_true(json_array_get(link, 1));
    p->count++;
}

/* Between the GPUs of a host that ranks would train on; with one rank, between all. */
void lk_check_links(lk_exam *e, int rank)
{
    pairs p = {.best_word = "", .worst_word = ""};
    bool job = lk_exam_host_ranks(e, rank) > 1;
    int gpus = (int)json_array_size(lk_fact(e, rank, "nvml.devices"));
    for (int a = 0; a < (job ? lk_exam_ranks(e) : gpus); a++) {
        for (int b = 0; b < a; b++) {
            if (job && !(lk_exam_same_host(e, a, rank) && lk_exam_same_host(e, b, rank))) continue;
            int x = job ? gpu_of(e, a) : a, y = job ? gpu_of(e, b) : b;
            if (x >= 0 && y >= 0 && x != y) add_pair(&p, link_of(e, rank, x, y));
        }
    }
    if (p.count == 0) return;
    lk_find(e, "GPU to GPU", LK_FIT, strcmp(p.best_word, p.worst_word) == 0 ? "%s%.0s"
                                                                               : "%s to %s",
            p.best_word, p.worst_word);
    if (p.best == 0 && (p.worst > 0 || p.fewest < p.most))
        lk_advise(e, LK_WARNING, "not all pairs have as many NVLinks: the slowest pair sets the "
                  "pace; choose GPUs that have (nvidia-smi topo -m), or see a broken link "
                  "(nvidia-smi nvlink -s)");
    if (p.best > 0 && p.worst == 5)
        lk_advise(e, LK_FIT, "some pairs go between the sockets; with fewer ranks than GPUs choose "
                  "those of one socket");
    if (p.blocked > 0)
        lk_advise(e, LK_WARNING, "%d of %d pairs cannot read each other's memory: messages go "
                  "through host memory; in a virtual machine PCIe ACS blocks it, in containers "
                  "isolation", p.blocked, p.count);
}

void lk_check_gpu_nics(lk_exam *e, int rank)
{
    int gpu = gpu_of(e, rank), best = 6;
    size_t k, best_card = 0;
    const json_t *card, *cards = json_array_get(lk_fact(e, rank, "nvml.nics"),
                                                (size_t)(gpu < 0 ? 0 : gpu));
    if (gpu < 0 || json_array_size(cards) == 0 || lk_exam_hosts(e) == 1) return;
    json_array_foreach((json_t *)cards, k, card)
    {
        const json_t *nic = json_array_get(lk_fact(e, rank, "machine.nics"), k);
        const char *text = json_string_value(card);
        int g = grade(text ? text : "");
        if (!lk_part_true(nic, "active") || g >= best) continue;
        best = g;
        best_card = k;
    }
    if (best > 5) return;
    lk_find(e, "GPU to network", LK_FIT, "%s",
            json_string_value(json_array_get(cards, best_card)));
    if (best > 2)
        lk_advise(e, LK_FIT, "the nearest card is not behind the GPU's own PCIe switch: NCCL sends "
                  "through host memory");
}
