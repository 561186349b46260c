/* What the operating system gives this process: cores, memory, limits, network cards. */
#ifndef LK_CPU_MACHINE_H
#define LK_CPU_MACHINE_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>

enum { LK_CPU_CORES = 8192 }; /* of a host at most */

typedef struct lk_cores {
    bool in[LK_CPU_CORES];
} lk_cores;

/* "0-3,8,10-11", as the kernel writes lists of CPUs, to a set and back; an empty set is "". What
 * does not fit `size` ends in "...". */
void lk_cores_parse(const char *list, lk_cores *set);
void lk_cores_format(const lk_cores *set, char *list, size_t size);
int lk_cores_count(const lk_cores *set);

/* The cores this process may use. With OMP_PROC_BIND the calling thread is bound to one of them
 * already: then the places of OpenMP tell. */
void lk_cores_usable(lk_cores *set);

/* {"cpu": {...}, "memory": {...}, "limits": {...}, "nics": [...], "kernel", "system"}; memory in
 * bytes, null what is unlimited or unknown. `root` stands before /proc, /sys, /etc and /dev: "" is
 * this machine; what the kernel says by calls (affinity, limits) is always of this process.
 * LK_E_SYSTEM: out of memory. The caller owns *facts. */
lk_status lk_machine_facts(const char *root, json_t **facts);

/* Bytes that this process may still hope for: what the kernel calls available, with swap, and no
 * more than the limit of its control group, from which what is in use is not taken. 0: unknown. */
double lk_machine_available(const char *root);

/* The first line of a file without its end, "" when it cannot be read. `format`: its path. */
void lk_machine_line(char *line, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* How two PCI devices ("0000:1b:00.0") reach each other, in the words of nvidia-smi topo: PIX (one
 * switch), PXB (several), PHB (a host bridge), NODE (host bridges of a NUMA node), SYS (between
 * NUMA nodes); "?" when sysfs does not know them. */
const char *lk_machine_path(const char *root, const char *pci, const char *other);

#endif
