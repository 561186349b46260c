/* Checks of the driver, CUDA and each GPU. "nvml" has all GPUs of a host, "cuda" those that this
 * process may use, "device" the one it would train on. */
#include "doctor/exam.h"

#include <math.h>
#include <string.h>

static const json_t *devices(const lk_exam *e, int rank)
{
    return lk_fact(e, rank, "nvml.devices");
}

void lk_check_driver(lk_exam *e, int rank)
{
    const char *driver = lk_fact_text(e, rank, "nvml.driver");
    const char *why = lk_fact_text(e, rank, "nvml_error");
    bool built = lk_fact_true(e, rank, "program.cuda");
    size_t gpus = json_array_size(devices(e, rank));
    if (driver[0]) {
        char detail[64];
        snprintf(detail, sizeof detail, "runs CUDA up to %s",
                 lk_fact_text(e, rank, "nvml.cuda"));
        lk_find_version(e, "driver", driver, detail);
        if (!built && gpus > 0)
            lk_advise(e, LK_WARNING, "there are GPUs, but this lockstep is built for the CPU "
                      "alone: configure it --with-cuda");
        return;
    }
    lk_find(e, "driver", LK_FIT, "%s", why[0] ? why : "none");
    if (strstr(why, "versions"))
        lk_advise(e, LK_UNFIT, "restart the host, or in a container give it the host's libraries "
                  "(docker run --gpus all)");
    else if (built)
        lk_advise(e, lk_exam_prod(e) ? LK_UNFIT : LK_WARNING, "this lockstep is built for GPUs and "
                  "will train on the CPU here: start it where a GPU is (srun --gpus-per-task=1, "
                  "docker run --gpus all)");
}

void lk_check_cuda(lk_exam *e, int rank)
{
    if (!lk_fact_true(e, rank, "program.cuda")) return;
    const char *driver = lk_fact_text(e, rank, "cuda.driver");
    const char *runtime = lk_fact_text(e, rank, "cuda.runtime");
    const char *header = lk_fact_text(e, rank, "cuda.runtime_header");
    const char *lt = lk_fact_text(e, rank, "cuda.cublaslt");
    lk_find_version(e, "CUDA", runtime, "");
    if (lk_version_compare(runtime, header) < 0)
        lk_advise(e, LK_UNFIT, "lockstep was compiled with %s: load that runtime", header);
    if (strcmp(driver, "0.0") != 0 && lk_version_compare(driver, runtime) < 0)
        lk_advise(e, atoi(driver) < atoi(runtime) ? LK_UNFIT : LK_WARNING, "the driver runs CUDA "
                  "up to %s: update the driver, or compile lockstep with CUDA %s", driver, driver);
    lk_find_version(e, "cuBLASLt", lt, lk_fact_text(e, rank, "cuda.cublaslt_path"));
    if (atoi(lt) != atoi(lk_fact_text(e, rank, "cuda.cublaslt_header")))
        lk_advise(e, LK_UNFIT, "lockstep was compiled with %s: see LD_LIBRARY_PATH",
                  lk_fact_text(e, rank, "cuda.cublaslt_header"));
    if (!lk_fact_true(e, rank, "program.nccl")) {
        lk_find(e, "NCCL", LK_FIT, "not in this build: one rank on a GPU alone");
        if (lk_exam_ranks(e) > 1 && json_array_size(lk_fact(e, rank, "cuda.devices")) > 0)
            lk_advise(e, LK_UNFIT, "several ranks on GPUs need it: configure lockstep --with-nccl");
        return;
    }
    if (!lk_fact(e, rank, "mpi.nccl")) return; /* MPI does not start: nobody has asked NCCL */
    lk_find_version(e, "NCCL", lk_fact_text(e, rank, "mpi.nccl"),
                    lk_fact_text(e, rank, "mpi.nccl_path"));
    if (lk_version_compare(lk_fact_text(e, rank, "mpi.nccl"),
                           lk_fact_text(e, rank, "mpi.nccl_header")) < 0)
        lk_advise(e, LK_WARNING, "older than %s, with which lockstep was compiled: see "
                  "LD_LIBRARY_PATH", lk_fact_text(e, rank, "mpi.nccl_header"));
}

/* The GPUs of a host by model. */
void lk_check_gpus(lk_exam *e, int rank)
{
    size_t i, k, count = json_array_size(devices(e, rank));
    const json_t *gpu, *other;
    json_array_foreach((json_t *)devices(e, rank), i, gpu)
    {
        size_t first = count, like = 0;
        json_array_foreach((json_t *)devices(e, rank), k, other)
        {
            if (strcmp(lk_part_text(other, "name"), lk_part_text(gpu, "name")) != 0) continue;
            if (first == count) first = k;
            like++;
        }
        if (first != i) continue;
        lk_find(e, "GPUs", LK_FIT, "%zu %s, %s", like, lk_part_text(gpu, "name"),
                lk_size(lk_part_number(gpu, "memory")));
        if (like < count)
            lk_advise(e, LK_WARNING, "%zu of %zu GPUs: all ranks wait for the slowest model, and "
                      "the same bits are promised on one model alone", like, count);
    }
    if (!lk_fact_true(e, rank, "program.cuda")) return;
    size_t seen = json_array_size(lk_fact(e, rank, "cuda.devices"));
    const char *error = lk_fact_text(e, rank, "cuda.error");
    const char *hidden = lk_fact_text(e, rank, "environment.CUDA_VISIBLE_DEVICES");
    if (count > 0 && seen == 0) {
        lk_find(e, "usable GPUs", LK_UNFIT, "none of %zu: %s", count, error);
        lk_advise(e, LK_UNFIT, lk_fact(e, rank, "environment.CUDA_VISIBLE_DEVICES")
                      ? "CUDA_VISIBLE_DEVICES is '%s': unset it, or name a GPU"
                      : "see nvidia-smi and the kernel's log (dmesg)%s", hidden);
    }
}

/* ---- health ---------------------------------------------------------------------------------- */

static void judge_ecc(lk_exam *e, const json_t *gpu, size_t i)
{
    double errors = lk_part_number(gpu, "ecc.uncorrected");
    const char *name = lk_part_text(gpu, "pci");
    if (errors > 0) {
        lk_find(e, "ECC", LK_UNFIT, "GPU %zu (%s): %.0f uncorrected errors", i, name, errors);
        lk_advise(e, LK_UNFIT, "its memory gave wrong bits since the driver started: reset it "
                  "(nvidia-smi -r), and have it replaced if that repeats");
    }
    if (lk_part_true(gpu, "ecc.remap_failed")) {
        lk_find(e, "ECC", LK_UNFIT, "GPU %zu (%s): a row of memory cannot be remapped", i, name);
        lk_advise(e, LK_UNFIT, "have it replaced");
    } else if (lk_part_true(gpu, "ecc.remap_pending")) {
        lk_find(e, "ECC", LK_WARNING, "GPU %zu (%s): a row of memory waits to be remapped", i,
                name);
        lk_advise(e, LK_WARNING, "reset it when it is free (nvidia-smi -r)");
    }
}

void lk_check_gpu_health(lk_exam *e, int rank)
{
    size_t i, on = 0, well = 0, count = json_array_size(devices(e, rank));
    const json_t *gpu;
    if (count == 0) return;
    json_array_foreach((json_t *)devices(e, rank), i, gpu)
    {
        judge_ecc(e, gpu, i);
        on += lk_part_true(gpu, "ecc.on");
        well += !(lk_part_number(gpu, "ecc.uncorrected") > 0) &&
                !lk_part_true(gpu, "ecc.remap_failed") && !lk_part_true(gpu, "ecc.remap_pending");
    }
    if (well == count) {
        lk_find(e, "ECC", LK_FIT, "on for %zu of %zu GPUs, no uncorrected errors", on, count);
        if (on < count && on > 0)
            lk_advise(e, LK_WARNING, "some GPUs have it off: nvidia-smi -e 1, then reset");
        else if (on == 0 && lk_exam_prod(e))
            lk_advise(e, LK_WARNING, "flipped bits go unnoticed: nvidia-smi -e 1, then reset, if "
                      "these GPUs have it");
    }
}

/* Whether a rank of this host would train on the GPU at this address. */
static bool used(const lk_exam *e, int rank, const char *pci)
{
    for (int r = 0; r < lk_exam_ranks(e); r++)
        if (lk_exam_same_host(e, r, rank) && pci[0] &&
            strcmp(lk_fact_text(e, r, "device.pci"), pci) == 0)
            return true;
    return false;
}

/* Whether the GPUs that are to be trained on are ours alone. */
void lk_check_gpu_share(lk_exam *e, int rank)
{
    size_t i, count = json_array_size(devices(e, rank));
    const json_t *gpu;
    bool free = true;
    if (count == 0) return;
    json_array_foreach((json_t *)devices(e, rank), i, gpu)
    {
        double total = lk_part_number(gpu, "memory"), left = lk_part_number(gpu, "free");
        size_t others = json_array_size(lk_part(gpu, "processes"));
        const char *mode = lk_part_text(gpu, "mode");
        if (strcmp(mode, "prohibited") == 0) {
            lk_find(e, "GPU in use", LK_UNFIT, "GPU %zu: compute mode prohibited", i);
            lk_advise(e, LK_UNFIT, "nvidia-smi -i %zu -c DEFAULT", i);
            free = false;
        }
        if (!used(e, rank, lk_part_text(gpu, "pci"))) continue;
        if (others > 0 || left < 0.9 * total) {
            lk_find(e, "GPU in use", LK_WARNING, "GPU %zu: %zu other process%s, %s of memory taken",
                    i, others, others == 1 ? "" : "es", lk_size(total - left));
            lk_advise(e, LK_WARNING, "it will be shared: choose another one "
                      "(CUDA_VISIBLE_DEVICES), or end what runs there (nvidia-smi)");
            free = false;
        }
        if (lk_part_true(gpu, "mig")) {
            lk_find(e, "GPU in use", LK_FIT, "GPU %zu is cut into instances (MIG)", i);
            if (lk_exam_ranks(e) > 1)
                lk_advise(e, LK_WARNING, "instances reach each other neither by NVLink nor by PCIe"
                          ": for several ranks switch it off (nvidia-smi -mig 0)");
            free = false;
        }
    }
    if (free) lk_find(e, "GPU in use", LK_FIT, "by nothing else");
}

/* ---- clocks ---------------------------------------------------------------------------------- */

static bool is_held(const json_t *busy, const char *reason)
{
    size_t i;
    const json_t *x;
    json_array_foreach((json_t *)lk_part(busy, "held"), i, x)
        if (strcmp(json_string_value(x) ? json_string_value(x) : "", reason) == 0) return true;
    return false;
}

static void judge_clocks(lk_exam *e, const json_t *busy)
{
    double clock = lk_part_number(busy, "sm_clock"), most = lk_part_number(busy, "sm_clock_max");
    double limit = lk_part_number(busy, "power_limit");
    double usual = lk_part_number(busy, "power_default");
    if (is_held(busy, "hardware thermal slowdown") || is_held(busy, "software thermal slowdown"))
        lk_advise(e, LK_WARNING, "held down by heat, at %.0f C: look after the cooling",
                  lk_part_number(busy, "temperature"));
    else if (is_held(busy, "hardware power brake"))
        lk_advise(e, LK_WARNING, "held down by the power supply (power brake): look after it");
    else if (is_held(busy, "hardware slowdown"))
        lk_advise(e, LK_WARNING, "held down by the hardware (heat or power): see nvidia-smi -q -d "
                  "PERFORMANCE");
    else if (is_held(busy, "application clocks") && clock < 0.9 * most)
        lk_advise(e, LK_WARNING, "held down by a setting: nvidia-smi -rac and -rgc take it away");
    if (limit < 0.95 * usual)
        lk_advise(e, LK_WARNING, "its power is limited to %.0f of %.0f W: nvidia-smi -pl %.0f",
                  limit, usual, usual);
}

/* Of the rank's GPU, while it was at work. */
void lk_check_clocks(lk_exam *e, int rank)
{
    const json_t *busy = lk_fact(e, rank, "speed.busy");
    double most = lk_part_number(busy, "sm_clock_max");
    if (!json_is_object(busy)) return;
    /* in tens of percent, so that GPUs that are alike are said once */
    lk_find(e, "clocks", LK_FIT, "about %.0f %% of %.0f MHz at work",
            10 * rint(10 * lk_part_number(busy, "sm_clock") / most), most);
    judge_clocks(e, busy);
}
