#include "cuda/probe.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdio.h>

/* 13000 is 13.0. */
static void cuda_version(int code, char text[16])
{
    snprintf(text, 16, "%d.%d", code / 1000, code % 1000 / 10);
}

/* 130100 is 13.1.0; before 12, 110400 the same way. */
static void cublas_version(size_t code, char text[24])
{
    snprintf(text, 24, "%zu.%zu.%zu", code / 10000, code / 100 % 100, code % 100);
}

static json_t *device_facts(int index)
{
    struct cudaDeviceProp p;
    char pci[32] = "", capability[16];
    cudaError_t e = cudaGetDeviceProperties(&p, index);
    if (e == cudaSuccess) e = cudaDeviceGetPCIBusId(pci, sizeof pci, index);
    if (e != cudaSuccess)
        return json_pack("{s:s, s:s, s:f, s:s}", "name", cudaGetErrorString(e), "pci", "",
                         "memory", 0.0, "capability", "0.0");
    for (char *c = pci; *c; c++) /* as sysfs writes it */
        if (*c >= 'A' && *c <= 'F') *c = (char)(*c - 'A' + 'a');
    snprintf(capability, sizeof capability, "%d.%d", p.major, p.minor);
    return json_pack("{s:s, s:s, s:f, s:s}", "name", p.name, "pci", pci, "memory",
                     (double)p.totalGlobalMem, "capability", capability);
}

lk_status lk_cuda_facts(json_t **facts)
{
    char driver[16], runtime[16], header[16], lt[24], lt_header[24];
    int version = 0, count = 0;
    Dl_info info = {0};
    cuda_version(cudaDriverGetVersion(&version) == cudaSuccess ? version : 0, driver);
    version = 0;
    cuda_version(cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0, runtime);
    cuda_version(CUDART_VERSION, header);
    cublas_version(cublasLtGetVersion(), lt);
    cublas_version(CUBLAS_VERSION, lt_header);
    dladdr((void *)cublasLtGetVersion, &info);
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess) count = 0;
    json_t *devices = json_array();
    int bad = devices == NULL;
    for (int i = 0; i < count && !bad; i++)
        bad = json_array_append_new(devices, device_facts(i));
    cudaGetLastError(); /* what failed here is in the facts, and no error of what follows */
    *facts = bad ? NULL
                 : json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s?, s:O}", "driver", driver,
                             "runtime", runtime, "runtime_header", header, "cublaslt", lt,
                             "cublaslt_header", lt_header, "cublaslt_path",
                             info.dli_fname ? info.dli_fname : "?", "error",
                             e == cudaSuccess ? NULL : cudaGetErrorString(e), "devices", devices);
    json_decref(devices);
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of CUDA");
}
