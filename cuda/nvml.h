/* GPUs as the driver's management library sees them: all of this host, whatever this build can use.
 *
 * The library (libnvidia-ml.so.1) is loaded when asked for, so that the program runs, and can be
 * built, without a driver. A value that the library does not give is null. */
#ifndef LK_CUDA_NVML_H
#define LK_CUDA_NVML_H

#include "base/status.h"

#include <jansson.h>
#include <stddef.h>

typedef struct lk_nvml lk_nvml;

/* *n is NULL where there is no library or no driver, and `why` says so: no error. LK_E_SYSTEM: out
 * of memory. */
lk_status lk_nvml_open(lk_nvml **n, char *why, size_t size);
void lk_nvml_close(lk_nvml *n); /* takes NULL */

/* {"driver", "cuda" (newest CUDA the driver runs), "devices": [...], "links": [[...]],
 * "nics": [[...]]}. A device: "name", "pci" ("0000:1b:00.0"), "memory", "free" (bytes), "cores"
 * (those near it, a list), "numa_node", "ecc" {"on", "uncorrected" (since the driver started),
 * "remap_pending", "remap_failed"}, "mode", "mig", "processes" [pid...], "nvlinks"
 * (active), "nvlink_rate" (bytes a second of one in one direction). links[i][j]: between GPUs,
 * [NAME, whether one reads the other's memory directly], NAME "X", "NV4" (NVLinks), PIX, PXB, PHB,
 * NODE or SYS as nvidia-smi topo -m says; nics[i][k]: to the RDMA card k of lk_machine_facts(). */
lk_status lk_nvml_facts(const lk_nvml *n, const char *root, const json_t *nics, json_t **facts);

/* Of the GPU at PCI address `pci`, to be asked while it is at work: {"sm_clock", "sm_clock_max"
 * (MHz), "held" [reasons for a lower clock], "temperature", "power", "power_limit",
 * "power_default" (W), "pcie_gen", "pcie_gen_max", "pcie_width", "pcie_width_max"}. *facts is NULL
 * when NVML knows no such GPU. */
lk_status lk_nvml_busy_facts(const lk_nvml *n, const char *pci, json_t **facts);

#endif
