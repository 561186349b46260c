/* Matrix products through oneDNN's sgemm, whose C interface is the same in 2.x and 3.x.
 *
 * The output is cut into tiles by its shape; each tile is one sgemm on one thread (inside a
 * parallel region oneDNN does not start threads of its own), so the order of every sum is fixed. */
#include "cpu/device.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <dnnl_debug.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TILE_ROWS = 128,
    TILE_COLS = 512, /* halved while there are fewer than FEW_TILES, down to MIN_COLS */
    MIN_COLS = 64,
    FEW_TILES = 4
};

lk_status lk_cpu_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                      const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                      float *c, int64_t ldc)
{
    dnnl_status_t status = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, alpha, a, lda, b,
                                      ldb, beta, c, ldc);
    if (status != dnnl_success)
        return lk_fail(LK_E_DEVICE, "oneDNN sgemm %lld x %lld x %lld failed (%d)", (long long)m,
                       (long long)n, (long long)k, (int)status);
    return LK_OK;
}

lk_status lk_cpu_matmul(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                        const float *b, float beta, float *c)
{
    int64_t lda = ta ? m : k, ldb = tb ? k : n;
    int64_t wide = TILE_COLS, down = (m + TILE_ROWS - 1) / TILE_ROWS;
    while (wide > MIN_COLS && down * ((n + wide - 1) / wide) < FEW_TILES) wide /= 2;
    int64_t across = (n + wide - 1) / wide;
    int bad = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : bad)
    for (int64_t tile = 0; tile < down * across; tile++) {
        int64_t i = tile / across * TILE_ROWS, j = tile % across * wide;
        int64_t rows = m - i < TILE_ROWS ? m - i : TILE_ROWS;
        int64_t cols = n - j < wide ? n - j : wide;
        bad |= lk_cpu_gemm(ta, tb, rows, cols, k, 1.0f, a + (ta ? i : i * lda), lda,
                           b + (tb ? j * ldb : j), ldb, beta, c + i * n + j, n) != LK_OK;
    }
    return bad ? lk_fail(LK_E_DEVICE, "oneDNN sgemm failed") : LK_OK;
}

const char *lk_cpu_matmul_library(void)
{
    static char text[80];
    const dnnl_version_t *v = dnnl_version();
    const char *isa = dnnl_cpu_isa2str(dnnl_get_effective_cpu_isa());
    if (strncmp(isa, "cpu_isa_", 8) == 0) isa += 8;
    snprintf(text, sizeof text, "oneDNN %d.%d.%d %s", v->major, v->minor, v->patch, isa);
    return text;
}

lk_status lk_cpu_matmul_facts(json_t **facts)
{
    char version[32], header[32];
    Dl_info info = {0};
    const dnnl_version_t *v = dnnl_version();
    snprintf(version, sizeof version, "%d.%d.%d", v->major, v->minor, v->patch);
    snprintf(header, sizeof header, "%d.%d.%d", DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR,
             DNNL_VERSION_PATCH);
    dladdr((void *)dnnl_version, &info);
    char *full = info.dli_fname ? realpath(info.dli_fname, NULL) : NULL;
    *facts = json_pack("{s:s, s:s, s:s}", "version", version, "header", header, "path",
                       full ? full : "?");
    free(full);
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of oneDNN");
}
