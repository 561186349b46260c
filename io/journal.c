#include "io/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 1 << 20 }; /* of a block */

typedef struct header {
    char magic[24], key[40];
} header;

typedef struct block_header {
    int64_t first, count, good;
    char digest[40]; /* over the numbers before it, reasons, pixels */
} block_header;

/* ---- one block ------------------------------------------------------------------------------- */

void lk_journal_block_clear(lk_journal_block *b)
{
    free(b->reason);
    free(b->pixels);
    memset(b, 0, sizeof *b);
}

static lk_status digest_of(const lk_journal *j, const lk_journal_block *b, char text[40])
{
    lk_digest *d = NULL;
    LK_TRY(lk_digest_create(&d));
    int64_t figure[3] = {b->first, b->count, b->good};
    lk_digest_update(d, figure, sizeof figure);
    lk_digest_update(d, b->reason, (size_t)b->count * sizeof *b->reason);
    lk_digest_update(d, b->pixels, (size_t)b->good * j->row);
    memset(text, 0, 40);
    lk_digest_text(d, text);
    lk_digest_destroy(d);
    return LK_OK;
}

static lk_status unreadable(const lk_journal *j)
{
    return lk_fail(LK_E_SYSTEM,
                   "%s: cannot read: %s; check the disk, or remove the file to begin "
                   "again",
                   j->path, strerror(errno));
}

/* So many bytes follow in the file: a block that was cut off is not worth its memory. */
static bool there(const lk_journal *j, size_t bytes)
{
    struct stat s;
    off_t at = ftello(j->file);
    return fstat(fileno(j->file), &s) == 0 && at >= 0 && s.st_size >= at &&
           (size_t)(s.st_size - at) >= bytes;
}

/* Read a block at j->at; *whole: it is there and as it was written. */
static lk_status read_block(lk_journal *j, lk_journal_block *b, bool *whole)
{
    block_header h;
    char digest[40];
    *whole = false;
    *b = (lk_journal_block){.reason = NULL};
    if (fseeko(j->file, (off_t)j->at, SEEK_SET) != 0) return unreadable(j);
    if (fread(&h, sizeof h, 1, j->file) != 1) return ferror(j->file) ? unreadable(j) : LK_OK;
    if (h.first != j->done || h.count < 1 || h.count > MAX_FILES || h.good < 0 || h.good > h.count)
        return LK_OK;
    if (!there(j, (size_t)h.count * sizeof *b->reason + (size_t)h.good * j->row)) return LK_OK;
    *b = (lk_journal_block){h.first, h.count, h.good, calloc((size_t)h.count, sizeof *b->reason),
                            malloc((size_t)h.good * j->row + 1)};
    if (!b->reason || !b->pixels) return lk_fail(LK_E_SYSTEM, "out of memory for %lld images",
                                                 (long long)h.good);
    size_t n = (size_t)h.count, m = (size_t)h.good * j->row;
    if (fread(b->reason, sizeof *b->reason, n, j->file) != n ||
        fread(b->pixels, 1, m, j->file) != m)
        return ferror(j->file) ? unreadable(j) : LK_OK;
    LK_TRY(digest_of(j, b, digest));
    for (size_t i = 0; i < n; i++) b->reason[i][LK_JOURNAL_REASON - 1] = '\0';
    *whole = memcmp(digest, h.digest, sizeof digest) == 0;
    return LK_OK;
}

lk_status lk_journal_next(lk_journal *j, lk_journal_block *b, bool *end)
{
    bool whole;
    lk_status status = read_block(j, b, &whole);
    if (status == LK_OK && whole) {
        j->at = (int64_t)ftello(j->file);
        j->done += b->count;
    } else {
        lk_journal_block_clear(b);
    }
    *end = !whole;
    return status;
}

lk_status lk_journal_append(lk_journal *j, const lk_journal_block *b)
{
    block_header h = {b->first, b->count, b->good, ""};
    size_t n = (size_t)b->count, m = (size_t)b->good * j->row;
    LK_TRY(digest_of(j, b, h.digest));
    if (fseeko(j->file, (off_t)j->at, SEEK_SET) != 0 || fwrite(&h, sizeof h, 1, j->file) != 1 ||
        fwrite(b->reason, sizeof *b->reason, n, j->file) != n ||
        fwrite(b->pixels, 1, m, j->file) != m || fflush(j->file) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot write: %s; make room on the disk, then the same "
                       "command goes on from here", j->path, strerror(errno));
    j->at = (int64_t)ftello(j->file);
    j->done += b->count;
    return LK_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

void lk_journal_rewind(lk_journal *j)
{
    j->at = sizeof(header);
    j->done = 0;
}

/* Empty it, with a new header. */
static lk_status start(lk_journal *j, const header *h)
{
    rewind(j->file);
    if (ftruncate(fileno(j->file), 0) != 0 || fwrite(h, sizeof *h, 1, j->file) != 1 ||
        fflush(j->file) != 0)
        return lk_fail(LK_E_SYSTEM,
                       "%s: cannot write: %s; make room on the disk, then the same "
                       "command goes on from here",
                       j->path, strerror(errno));
    lk_journal_rewind(j);
    return LK_OK;
}

lk_status lk_journal_open(lk_journal *j, const char *path, const char *key, size_t row)
{
    header want = {LK_JOURNAL_MAGIC, ""}, found;
    *j = (lk_journal){.path = path, .row = row};
    strncpy(want.key, key, sizeof want.key - 1);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return lk_fail(LK_E_SYSTEM,
                       "%s: cannot create: %s; check the directory of the "
                       "output and its permissions",
                       path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(fd);
        return lk_fail(LK_E_INPUT, "%s: another import is writing it; wait for its end, or name "
                       "another output", path);
    }
    j->file = fdopen(fd, "r+b");
    if (!j->file) {
        close(fd);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    bool ours = fread(&found, sizeof found, 1, j->file) == 1 &&
                memcmp(&found, &want, sizeof want) == 0;
    if (ferror(j->file)) return unreadable(j); /* whatever it is, it stays */
    return ours ? (lk_journal_rewind(j), LK_OK) : start(j, &want);
}

lk_status lk_journal_cut(lk_journal *j)
{
    fflush(j->file);
    if (ftruncate(fileno(j->file), (off_t)j->at) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot shorten: %s; check the file system", j->path,
                       strerror(errno));
    return LK_OK;
}

void lk_journal_close(lk_journal *j)
{
    if (j->file) fclose(j->file);
    j->file = NULL;
}
