#include "metric/tensorboard.h"

#include "base/clock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct lk_tensorboard {
    FILE *file;
    char *path;
};

/* ---- CRC-32C --------------------------------------------------------------------------------- */

uint32_t lk_crc32c(const void *bytes, size_t count)
{
    static uint32_t table[256]; /* filled alike by whoever is first */
    if (!table[255])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
            table[i] = c;
        }
    uint32_t crc = ~0u;
    for (const unsigned char *p = bytes; count > 0; p++, count--)
        crc = table[(crc ^ *p) & 255] ^ crc >> 8;
    return ~crc;
}

static uint32_t masked_crc(const void *bytes, size_t count)
{
    uint32_t crc = lk_crc32c(bytes, count);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* ---- protocol buffers ------------------------------------------------------------------------ */

/* Bytes of one message. What does not fit is remembered, not written. */
typedef struct message {
    unsigned char byte[4096];
    size_t count;
    bool full;
} message;

static void put(message *m, const void *bytes, size_t count)
{
    if (m->full || count > sizeof m->byte - m->count) {
        m->full = true;
        return;
    }
    memcpy(m->byte + m->count, bytes, count);
    m->count += count;
}

static void put_little(message *m, uint64_t x, int bytes)
{
    for (; bytes > 0; bytes--, x >>= 8) put(m, &(unsigned char){(unsigned char)x}, 1);
}

static void put_varint(message *m, uint64_t x)
{
    for (; x >= 0x80; x >>= 7) put(m, &(unsigned char){(unsigned char)(x | 0x80)}, 1);
    put(m, &(unsigned char){(unsigned char)x}, 1);
}

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; /* wire types */

static void put_key(message *m, uint32_t field, uint32_t wire) { put_varint(m, field << 3 | wire); }

static void put_bytes(message *m, uint32_t field, const void *bytes, size_t count)
{
    put_key(m, field, BYTES);
    put_varint(m, count);
    put(m, bytes, count);
}

static void begin_event(message *m, double time, uint64_t step)
{
    uint64_t bits;
    memcpy(&bits, &time, sizeof bits);
    m->count = 0;
    m->full = false;
    put_key(m, 1, FIXED64); /* Event.wall_time */
    put_little(m, bits, 8);
    put_key(m, 2, VARINT); /* Event.step */
    put_varint(m, step);
}

static lk_status write_record(lk_tensorboard *tb, const message *m)
{
    message head = {.count = 0}, tail = {.count = 0};
    if (m->full) return lk_fail(LK_E_INTERNAL, "%s: an event of over 4 KiB", tb->path);
    put_little(&head, m->count, 8);
    put_little(&head, masked_crc(head.byte, 8), 4);
    put_little(&tail, masked_crc(m->byte, m->count), 4);
    if (fwrite(head.byte, 1, head.count, tb->file) == head.count &&
        fwrite(m->byte, 1, m->count, tb->file) == m->count &&
        fwrite(tail.byte, 1, tail.count, tb->file) == tail.count)
        return LK_OK;
    return lk_fail(LK_E_SYSTEM,
                   "%s: cannot write: %s; check the disk's free space, or "
                   "log.tensorboard: false",
                   tb->path, strerror(errno));
}

/* ---- public ---------------------------------------------------------------------------------- */

/* TensorBoard reads the files of a directory in the order of their names: time comes first. */
static lk_status make_file(lk_tensorboard *tb, const char *directory, double now)
{
    char host[65] = "";
    if (gethostname(host, sizeof host - 1) != 0 || !host[0]) strcpy(host, "localhost");
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return lk_fail(lk_status_of_errno(errno),
                       "%s: cannot make the directory: %s; check the permissions, or "
                       "log.tensorboard: false",
                       directory, strerror(errno));
    if (asprintf(&tb->path, "%s/events.out.tfevents.%020.9f.%s", directory, now, host) < 0) {
        tb->path = NULL;
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    tb->file = fopen(tb->path, "wbx");
    if (!tb->file)
        return lk_fail(lk_status_of_errno(errno),
                       "%s: cannot write: %s; check the disk's free space, "
                       "or log.tensorboard: false",
                       tb->path, strerror(errno));
    return LK_OK;
}

static lk_status write_start(lk_tensorboard *tb, double time, uint64_t first)
{
    message m, log = {.count = 0};
    begin_event(&m, time, 0);
    put_bytes(&m, 3, "brain.Event:2", 13); /* Event.file_version */
    LK_TRY(write_record(tb, &m));
    put_key(&log, 1, VARINT); /* SessionLog.status */
    put_varint(&log, 1);      /* START */
    begin_event(&m, time, first);
    put_bytes(&m, 7, log.byte, log.count); /* Event.session_log */
    return write_record(tb, &m);
}

lk_status lk_tensorboard_open(const char *directory, uint64_t first, lk_tensorboard **out)
{
    double now = lk_clock_date();
    lk_tensorboard *tb = calloc(1, sizeof *tb);
    if (!tb) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = make_file(tb, directory, now);
    if (status == LK_OK) status = write_start(tb, now, first);
    if (status == LK_OK) status = lk_tensorboard_flush(tb);
    if (status != LK_OK) {
        lk_tensorboard_close(tb);
        return status;
    }
    *out = tb;
    return LK_OK;
}

lk_status lk_tensorboard_write(lk_tensorboard *tb, uint64_t step, double time,
                               const lk_tensorboard_scalar *scalar, int count)
{
    message event, summary = {.count = 0}, value;
    for (int i = 0; i < count; i++) {
        float x = (float)scalar[i].value;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        value.count = 0;
        value.full = false;
        put_bytes(&value, 1, scalar[i].tag, strlen(scalar[i].tag)); /* Value.tag */
        put_key(&value, 2, FIXED32);                                /* Value.simple_value */
        put_little(&value, bits, 4);
        put_bytes(&summary, 1, value.byte, value.count); /* Summary.value */
        summary.full |= value.full;
    }
    begin_event(&event, time, step);
    put_bytes(&event, 5, summary.byte, summary.count); /* Event.summary */
    event.full |= summary.full;
    return write_record(tb, &event);
}

lk_status lk_tensorboard_flush(lk_tensorboard *tb)
{
    if (fflush(tb->file) == 0) return LK_OK;
    return lk_fail(LK_E_SYSTEM,
                   "%s: cannot write: %s; check the disk's free space, or "
                   "log.tensorboard: false",
                   tb->path, strerror(errno));
}

void lk_tensorboard_close(lk_tensorboard *tb)
{
    if (!tb) return;
    if (tb->file) fclose(tb->file);
    free(tb->path);
    free(tb);
}
