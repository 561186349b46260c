/* A driver's management library for tests of cuda/nvml.c: four GPUs behind an NVSwitch, or what
 * FAKE_NVML plants in the last one. Built as libnvidia-ml.so.1. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GPUS = 4, MISSING = 3 }; /* NVML_ERROR_NOT_SUPPORTED */

typedef struct pci_info {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char address[32];
} pci_info;

typedef struct field_value {
    unsigned field, scope;
    long long time, latency;
    int type, code;
    union {
        unsigned number;
        double widest;
    } value;
} field_value;

static bool planted(const char *what)
{
    const char *all = getenv("FAKE_NVML");
    return all && strstr(all, what) != NULL;
}

static long number(void *d) { return (long)d - 1; }
static bool last(void *d) { return number(d) == GPUS - 1; }

int nvmlInit_v2(void) { return planted("mismatch") ? 18 : planted("unloaded") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }

int nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    snprintf(text, size, planted("old") ? "470.82.01" : "570.86.15");
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    *version = 12080;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = GPUS;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d)
{
    *d = (void *)(long)(i + 1);
    return i < GPUS ? 0 : 2;
}

int nvmlDeviceGetName(void *d, char *text, unsigned size)
{
    snprintf(text, size, last(d) && planted("model") ? "NVIDIA A100" : "NVIDIA H100");
    return 0;
}

int nvmlDeviceGetPciInfo_v3(void *d, pci_info *p)
{
    p->domain = 0;
    p->bus = 0x1a + (unsigned)number(d);
    p->device = 0;
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m)
{
    (void)d;
    m[0] = 80ull << 30;
    m[1] = 79ull << 30;
    m[2] = 1ull << 30;
    return 0;
}

int nvmlDeviceGetCpuAffinity(void *d, unsigned words, unsigned long *mask)
{
    memset(mask, 0, words * sizeof *mask);
    mask[0] = number(d) < 2 ? 0x0f : 0xf0;
    return 0;
}

int nvmlDeviceGetEccMode(void *d, int *now, int *next)
{
    (void)d;
    *now = *next = 1;
    return 0;
}

int nvmlDeviceGetTotalEccErrors(void *d, int type, int counter, unsigned long long *errors)
{
    *errors = last(d) && type == 1 && counter == 0 && planted("ecc") ? 2 : 0;
    return 0;
}

int nvmlDeviceGetRemappedRows(void *d, unsigned *c, unsigned *u, unsigned *pending,
                              unsigned *failed)
{
    *c = *u = *failed = 0;
    *pending = last(d) && planted("remap");
    return 0;
}

int nvmlDeviceGetComputeMode(void *d, int *mode)
{
    *mode = last(d) && planted("prohibited") ? 2 : 0;
    return 0;
}

int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *next)
{
    (void)d;
    (void)now;
    (void)next;
    return MISSING;
}

int nvmlDeviceGetNvLinkState(void *d, unsigned link, int *on)
{
    *on = link < 18 && !(planted("pcie")) && !(last(d) && link >= 12 && planted("link"));
    return 0;
}

int nvmlDeviceGetFieldValues(void *d, int count, field_value *f)
{
    (void)d;
    for (int i = 0; i < count; i++) {
        f[i].code = f[i].field == 90 ? 0 : MISSING;
        f[i].type = 1;
        f[i].value.number = 26562;
    }
    return 0;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(void *d, unsigned link, int *type)
{
    (void)d;
    (void)link;
    *type = planted("direct") ? 0 : 2;
    return 0;
}

/* With "direct": link i goes to GPU i modulo 4. */
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *d, unsigned link, pci_info *p)
{
    (void)d;
    p->domain = p->device = 0;
    p->bus = 0x1a + link % GPUS;
    return 0;
}

int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, int *level)
{
    *level = number(a) / 2 == number(b) / 2 ? 20 : 50;
    return 0;
}

int nvmlDeviceGetP2PStatus(void *a, void *b, int what, int *status)
{
    (void)a;
    (void)b;
    (void)what;
    *status = planted("blocked") ? 1 : 0;
    return 0;
}
