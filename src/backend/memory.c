/* What is allocated on a device, kept block by block: who releases one knows only its address. And
 * what backends have in common whose memory is the host's. */
#include "backend/backend.h"

#include <stdlib.h>
#include <string.h>

struct lk_block {
    const void *memory;
    size_t bytes;
};

lk_status lk_device_took(lk_device *d, const void *memory, size_t bytes)
{
    if (d->blocks == d->room) {
        int room = d->room ? 2 * d->room : 64;
        lk_block *block = realloc(d->block, (size_t)room * sizeof *block);
        if (!block) return lk_fail(LK_E_SYSTEM, "out of memory");
        d->block = block;
        d->room = room;
    }
    d->block[d->blocks++] = (lk_block){memory, bytes};
    d->allocated += bytes;
    lk_device_used(d, 0);
    return LK_OK;
}

void lk_device_gave(lk_device *d, const void *memory)
{
    for (int i = d->blocks - 1; i >= 0; i--) {
        if (d->block[i].memory != memory) continue;
        d->allocated -= d->block[i].bytes;
        d->block[i] = d->block[--d->blocks];
        return;
    }
}

void lk_device_used(lk_device *d, size_t bytes)
{
    if (d->allocated + bytes > d->peak) d->peak = d->allocated + bytes;
}

void lk_device_forget(lk_device *d)
{
    free(d->block);
    d->block = NULL;
    d->blocks = d->room = 0;
}

lk_status lk_device_host_alloc(lk_device *d, size_t bytes, void **memory)
{
    void *p = NULL;
    LK_TRY(d->backend->host_alloc(d, bytes, &p));
    lk_status status = lk_device_took(d, p, bytes);
    if (status == LK_OK) *memory = p;
    else d->backend->host_release(d, p);
    return status;
}

void lk_device_host_release(lk_device *d, void *memory)
{
    lk_device_gave(d, memory);
    d->backend->host_release(d, memory);
}

void lk_device_host_free(lk_device *d, void *memory)
{
    (void)d;
    free(memory);
}

lk_status lk_device_host_copy(lk_device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
    return LK_OK;
}

lk_status lk_device_host_sync(lk_device *d)
{
    (void)d;
    return LK_OK;
}

lk_status lk_device_host_event(lk_device *d, int slot)
{
    (void)d;
    (void)slot;
    return LK_OK;
}
