/* Checks of what was measured. Thresholds are low: what falls below is broken, not just slow. */
#include "doctor/exam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bytes a second of a PCIe lane in one direction, by generation. */
static double lane(double generation)
{
    static const double rate[] = {0, 0.25e9, 0.5e9, 0.985e9, 1.969e9, 3.938e9, 7.563e9};
    int g = (int)generation;
    return isnan(generation) || g < 1 || g > 6 ? NAN : rate[g];
}

/* Rounded, so that ranks that are alike are said once: 52.3 GB/s is "about 52 GB/s". */
static const char *about(double rate)
{
    double unit = pow(10, floor(log10(rate)) - 1);
    return lk_rate(unit * rint(rate / unit));
}

/* ---- host and device ------------------------------------------------------------------------- */

static double slower_way(const lk_exam *e, int rank)
{
    return fmin(lk_fact_number(e, rank, "speed.upload"), lk_fact_number(e, rank, "speed.download"));
}

static void judge_link(lk_exam *e, int rank)
{
    double width = lk_fact_number(e, rank, "speed.busy.pcie_width");
    double width_max = lk_fact_number(e, rank, "speed.busy.pcie_width_max");
    double slot = lane(lk_fact_number(e, rank, "speed.busy.pcie_gen")) * width;
    if (width < width_max)
        lk_advise(e, LK_WARNING, "rank %d's GPU has %.0f of %.0f PCIe lanes: reseat it, or see the "
                  "slot", rank, width, width_max);
    else if (slower_way(e, rank) < 0.4 * slot)
        lk_advise(e, LK_WARNING, "the slot carries %s: rank %d's memory is on another socket, or "
                  "others use the link", lk_rate(slot), rank);
}

/* Over the ranks of a host, which took turns: the slowest is shown, all are judged. */
void lk_check_host_link(lk_exam *e, int rank)
{
    int slowest = -1;
    for (int r = 0; r < lk_exam_ranks(e); r++) {
        if (!lk_exam_same_host(e, r, rank) || isnan(slower_way(e, r))) continue;
        if (slowest < 0 || slower_way(e, r) < slower_way(e, slowest)) slowest = r;
    }
    if (slowest < 0) return;
    char link[48] = "";
    double gen = lk_fact_number(e, slowest, "speed.busy.pcie_gen");
    if (!isnan(gen))
        snprintf(link, sizeof link, ", PCIe %.0f x%.0f", gen,
                 lk_fact_number(e, slowest, "speed.busy.pcie_width"));
    lk_find(e, "host to GPU", LK_FIT, "%s, back %s (pinned)%s%s",
            about(lk_fact_number(e, slowest, "speed.upload")),
            about(lk_fact_number(e, slowest, "speed.download")), link,
            lk_exam_host_ranks(e, rank) > 1 ? ", of the slowest" : "");
    for (int r = 0; r < lk_exam_ranks(e); r++)
        if (lk_exam_same_host(e, r, rank)) judge_link(e, r);
}

/* ---- all-reduce ------------------------------------------------------------------------------ */

/* What the links promise, bytes a second of a rank: NVLink, PCIe or the network; NAN: unknown. */
static double promised(const lk_exam *e, const char **what)
{
    double least = INFINITY, network = 0;
    size_t i;
    const json_t *x;
    *what = "NVLink";
    json_array_foreach((json_t *)lk_fact(e, 0, "nvml.devices"), i, x)
        least = fmin(least, lk_part_number(x, "nvlinks") * lk_part_number(x, "nvlink_rate"));
    if (!(least > 0)) {
        *what = "PCIe";
        least = lane(lk_fact_number(e, 0, "speed.busy.pcie_gen")) *
                lk_fact_number(e, 0, "speed.busy.pcie_width");
    }
    if (lk_exam_hosts(e) == 1) return isinf(least) ? NAN : least;
    json_array_foreach((json_t *)lk_fact(e, 0, "machine.nics"), i, x)
        if (lk_part_true(x, "active")) network += lk_part_number(x, "gbit") * 1e9 / 8;
    *what = "the network";
    return network > 0 ? network : NAN;
}

void lk_check_reduce(lk_exam *e, int rank)
{
    const json_t *reduce = lk_fact(e, rank, "speed.reduce");
    const char *error = lk_part_text(reduce, "error"), *what;
    const char *library = lk_part_text(reduce, "library");
    bool nccl = strcmp(library, "NCCL") == 0;
    double fast = lk_part_number(reduce, "fast"), exact = lk_part_number(reduce, "exact");
    if (!json_is_object(reduce)) return;
    if (error[0]) {
        lk_find(e, "all-reduce", LK_UNFIT, "failed");
        lk_advise(e, LK_UNFIT, "%s", error);
        return;
    }
    double link = promised(e, &what);
    lk_find(e, "all-reduce", LK_FIT, "%s of bus bandwidth (%s, %s), exact %s", about(fast), library,
            lk_size(lk_part_number(reduce, "bytes")), isnan(exact) ? "needs 2, 4, 8 ... ranks"
                                                                   : about(exact));
    if (nccl && fast < (strcmp(what, "PCIe") == 0 ? 0.1 : 0.3) * link)
        lk_advise(e, LK_WARNING, "%s carries %s: see the NCCL_* settings below, GPU to GPU above, "
                  "and what NCCL says with NCCL_DEBUG=INFO", what, lk_rate(link));
    else if (!nccl && lk_exam_hosts(e) > 1 && fast < 0.1 * link)
        lk_advise(e, LK_WARNING, "%s carries %s: see OMPI_MCA_* and UCX_* below; ompi_info should "
                  "list the pml ucx", what, lk_rate(link));
}

static const char *likeness(double own, double ring, double tree)
{
    bool like_ring = fabs(own - ring) < 0.05 * own, like_tree = fabs(own - tree) < 0.05 * own;
    return like_ring && like_tree ? "either"
           : like_ring            ? "ring"
           : like_tree            ? "tree"
           : own > fmax(ring, tree) ? "neither, faster (NVLS or CollNet)"
                                    : "neither";
}

/* NCCL has no call that tells what it chose: it is measured with each alone. */
void lk_check_choice(lk_exam *e, int rank)
{
    const char *algorithm = lk_fact_text(e, rank, "environment.NCCL_ALGO");
    const char *protocol = lk_fact_text(e, rank, "environment.NCCL_PROTO");
    const json_t *reduce = lk_fact(e, rank, "speed.reduce");
    double fast = lk_part_number(reduce, "fast");
    double ring = lk_part_number(reduce, "ring"), tree = lk_part_number(reduce, "tree");
    if (strcmp(lk_fact_text(e, rank, "speed.reduce.library"), "NCCL") != 0) return;
    if (!json_is_null(lk_part(reduce, "error")) || isnan(fast)) return;
    if (algorithm[0] || protocol[0])
        lk_find(e, "ring or tree", LK_FIT, "forced: %s, protocol %s",
                algorithm[0] ? algorithm : "any", protocol[0] ? protocol : "any");
    else if (isnan(ring) && isnan(tree))
        lk_find(e, "ring or tree", LK_FIT, "NCCL's choice by size, which it does not tell");
    else
        lk_find(e, "ring or tree", LK_FIT, "ring %s, tree %s: NCCL's own choice is like %s",
                isnan(ring) ? "none" : about(ring), isnan(tree) ? "none" : about(tree),
                likeness(fast, ring, tree));
    lk_advise(e, LK_FIT, "NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=TUNING shows it for each size");
    if (fmax(ring, tree) > 1.3 * fast)
        lk_advise(e, LK_WARNING, "its own choice, %s, is slower: its model of the links is wrong, "
                  "as in a virtual machine without NCCL_TOPO_FILE", about(fast));
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Network file systems on which several hosts write one file through locks, at best. */
static bool weak(const char *type)
{
    return strcmp(type, "nfs") == 0 || strcmp(type, "cifs") == 0 || strcmp(type, "smb2") == 0 ||
           strcmp(type, "9p") == 0 || strcmp(type, "fuse") == 0;
}

/* Of all ranks of a host together. */
void lk_check_directory(lk_exam *e, int rank)
{
    double write = 0, read = 0, free = lk_fact_number(e, rank, "directory.free");
    const char *path = lk_fact_text(e, rank, "directory.path"), *error = "";
    const char *type = lk_fact_text(e, rank, "directory.type");
    if (!path[0]) return;
    for (int r = 0; r < lk_exam_ranks(e); r++) {
        if (!lk_exam_same_host(e, r, rank)) continue;
        write += lk_fact_number(e, r, "directory.write");
        read += lk_fact_number(e, r, "directory.read");
        if (!error[0]) error = lk_fact_text(e, r, "directory.error");
    }
    lk_find(e, "directory", LK_FIT, "%s (%s)%s%s", path, type, isnan(free) ? "" : ", free ",
            isnan(free) ? "" : lk_size(free < 0x1p34 ? free : 0x1p34 * floor(free / 0x1p34)));
    if (error[0])
        lk_advise(e, strstr(error, "lock") ? LK_WARNING : LK_UNFIT, "%s: choose another one with "
                  "--directory%s", error, strstr(error, "lock")
                      ? ", for without locks two runs may work in one directory" : "");
    else if (free < 0x1p30)
        lk_advise(e, LK_WARNING, "checkpoints will soon fill it: make room, or choose another one");
    if (lk_exam_hosts(e) > 1 && weak(type))
        lk_advise(e, LK_WARNING, "hosts that write one file together on %s are slow, and unsafe "
                  "where it caches attributes: use a parallel file system (Lustre, GPFS, BeeGFS)",
                  type);
    if (isnan(write) || isnan(read)) return;
    lk_find(e, "file bandwidth", LK_FIT, "write and sync %s, read %s%s", about(write), about(read),
            lk_exam_host_ranks(e, rank) > 1 ? ", all ranks of a host" : "");
    if (write < 20e6)
        lk_advise(e, LK_WARNING, "a checkpoint of 100 million parameters takes %.0f s: choose a "
                  "faster directory", 1.2e9 / write);
}

/* Whether all hosts see one directory. */
void lk_check_shared(lk_exam *e, int rank)
{
    const json_t *seen = lk_fact(e, rank, "directory.shared");
    if (!json_is_boolean(seen) || lk_exam_hosts(e) == 1) return;
    lk_find(e, "shared directory", LK_FIT, json_is_true(seen) ? "the same on all hosts"
                                                              : "not that of rank 0");
    if (json_is_false(seen))
        lk_advise(e, LK_UNFIT, "this host does not see a file that rank 0 made there: use a "
                  "directory on a file system that all hosts share");
}
