/* The null backend: memory and the whole interface, but kernels that do nothing. It proves that a
 * program needs nothing of a machine beyond lk_backend, and measures what the host side costs. */
#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lk_status device_open(int index, lk_device **device)
{
    (void)index;
    lk_device *d = calloc(1, sizeof *d);
    if (!d) return lk_fail(LK_E_SYSTEM, "out of memory");
    d->backend = &lk_backend_null;
    *device = d;
    return LK_OK;
}

static void device_close(lk_device *d)
{
    if (d) lk_device_forget(d);
    free(d);
}

static void describe(lk_device *d, char *text, size_t size)
{
    (void)d;
    snprintf(text, size, "null");
}

static lk_status host_alloc(lk_device *d, size_t bytes, void **memory)
{
    (void)d;
    void *p = aligned_alloc(256, (bytes + 256) / 256 * 256);
    if (!p) return lk_fail(LK_E_SYSTEM, "out of memory");
    memset(p, 0, bytes);
    *memory = p;
    return LK_OK;
}

static lk_status add(lk_device *d, float *dst, const float *src, int64_t n)
{
    (void)d;
    (void)dst;
    (void)src;
    (void)n;
    return LK_OK;
}

static lk_status prepare(lk_device *d, const lk_node *n, size_t *scratch)
{
    (void)d;
    (void)n;
    *scratch = 0;
    return LK_OK;
}

static lk_status kernel(lk_exec *x, const lk_node *n)
{
    (void)x;
    (void)n;
    return LK_OK;
}

static lk_status choices_get(lk_device *d, char **text)
{
    (void)d;
    *text = strdup("backend\tnull\n");
    return *text ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

static lk_status choices_set(lk_device *d, const char *text)
{
    (void)d;
    (void)text;
    return LK_OK;
}

const lk_backend lk_backend_null = {
    .name = "null",
    .open = device_open,
    .close = device_close,
    .describe = describe,
    .alloc = lk_device_host_alloc,
    .release = lk_device_host_release,
    .host_alloc = host_alloc,
    .host_release = lk_device_host_free,
    .upload = lk_device_host_copy,
    .download = lk_device_host_copy,
    .sync = lk_device_host_sync,
    .add = add,
    .record = lk_device_host_event,
    .wait = lk_device_host_event,
    .prepare = prepare,
    .kernel = {
#define LK_OP(upper, lower, policy) [LK_OP_##upper] = kernel,
#include "ops/ops.def"
#undef LK_OP
    },
    .choices_get = choices_get,
    .choices_set = choices_set,
};
