/* Text files to a dataset, in two passes over the input so that memory stays flat.
 *
 * Pass 1 counts tokens and, for a character vocabulary, notes which code points occur; that fixes
 * the vocabulary (sorted, as nanoGPT's prepare.py does), the token type and where the split falls.
 * Pass 2 translates and writes one chunk at a time. The result is whole or not there. */
#include "base/utf8.h"
#include "io/import_rows.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CODES = 0x110000, BUFFER = 1 << 20, CHUNK = 1 << 20, CARRY = 4 };

typedef struct importer {
    const lk_import_text *job;
    lk_import_result result;
    unsigned char *input; /* CARRY + BUFFER bytes */
    unsigned char *seen;  /* by code point */
    uint16_t *token;      /* by code point, 0 .. CODES-1 */
    uint32_t *vocabulary;
    int64_t total, done_bytes, total_bytes;
    /* pass 2 */
    lk_rows out;
    lk_split current;
    bool wide;   /* u16 tokens */
    void *chunk; /* CHUNK tokens */
    int64_t filled, taken;
    lk_digest *digest; /* of all tokens, then the vocabulary */
} importer;

typedef lk_status (*consumer)(importer *m, uint32_t code);

/* ---- reading ------------------------------------------------------------------------------- */

/* Feed the characters (or bytes) in m->input[0..n) to `take`; *left: bytes of a cut-off character
 * at the end. `at`: file position of the first byte, for messages. */
static lk_status take_all(importer *m, const char *name, int64_t at, size_t n, bool end,
                          consumer take, size_t *left)
{
    size_t i = 0;
    while (i < n) {
        uint32_t code = m->input[i];
        int length = m->job->characters ? lk_utf8_decode(m->input + i, n - i, &code) : 1;
        if (length == 0 && !end) break;
        if (length <= 0)
            return lk_fail(LK_E_INPUT, "%s: expected UTF-8 text, found an invalid byte 0x%02x at "
                           "byte %lld; convert the file or use the byte vocabulary", name,
                           m->input[i], (long long)at + (long long)i);
        LK_TRY(take(m, code));
        i += (size_t)length;
    }
    memmove(m->input, m->input + i, n - i);
    *left = n - i;
    return LK_OK;
}

/* Bytes of the byte order mark that some editors put before a text and that is none of it. */
static int64_t skip_mark(FILE *f)
{
    if (getc(f) == 0xEF && getc(f) == 0xBB && getc(f) == 0xBF) return 3;
    rewind(f);
    return 0;
}

static lk_status read_open(importer *m, FILE *f, const char *name, consumer take)
{
    int64_t at = skip_mark(f); /* file position of m->input[0] */
    size_t left = 0;
    m->done_bytes += at;
    for (;;) {
        size_t n = fread(m->input + left, 1, BUFFER, f);
        if (n == 0 && ferror(f))
            return lk_fail(LK_E_SYSTEM, "%s: cannot read: %s; check the disk it lies on", name,
                           strerror(errno));
        size_t held = left + n;
        LK_TRY(take_all(m, name, at, held, n == 0, take, &left));
        at += (int64_t)(held - left);
        m->done_bytes += (int64_t)n;
        if (m->job->to.progress && n > 0)
            m->job->to.progress(m->job->to.context, m->done_bytes, m->total_bytes);
        if (n == 0) return LK_OK;
    }
}

static lk_status read_all(importer *m, consumer take)
{
    for (int i = 0; i < m->job->files; i++) {
        const char *name = m->job->file[i];
        FILE *f = fopen(name, "rb");
        if (!f)
            return lk_fail_open(name);
        lk_status status = read_open(m, f, name, take);
        fclose(f);
        LK_TRY(status);
    }
    return LK_OK;
}

/* ---- pass 1 -------------------------------------------------------------------------------- */

static lk_status note(importer *m, uint32_t code)
{
    m->seen[code] = 1;
    m->total++;
    return LK_OK;
}

static lk_status check_arguments(importer *m)
{
    const lk_import_text *job = m->job;
    if (job->files < 1) return lk_fail(LK_E_INPUT, "expected at least one text file, found none");
    LK_TRY(lk_import_check(&job->to, job->files, job->file, &m->total_bytes));
    m->total_bytes *= 2; /* it is read twice */
    return LK_OK;
}

static lk_status choose_vocabulary(importer *m)
{
    int64_t n = 0;
    for (uint32_t code = 0; code < CODES; code++) {
        if (m->job->characters ? !m->seen[code] : code > 255) continue;
        if (n == LK_DATASET_VOCABULARY)
            return lk_fail(LK_E_INPUT, "%s: expected at most %d different characters, found more; "
                           "use the byte vocabulary", m->job->file[0], LK_DATASET_VOCABULARY);
        m->token[code] = (uint16_t)n;
        m->vocabulary[n++] = code;
    }
    if (m->total == 0)
        return lk_fail(LK_E_INPUT, "%s: expected text, found nothing; is it the right file?",
                       m->job->file[0]);
    double fraction = lk_import_fraction(&m->job->to);
    m->wide = n > 256;
    m->result.classes = n;
    int64_t train = (int64_t)floor((double)m->total * (1.0 - fraction));
    m->result.rows[LK_TRAIN] = train;
    m->result.rows[LK_VALIDATION] = m->total - train;
    if (train == 0)
        return lk_fail(LK_E_INPUT,
                       "%s: %lld tokens are too few to keep a fraction %g for "
                       "validation; import more text, or change --validation",
                       m->job->file[0], (long long)m->total, fraction);
    return LK_OK;
}

/* ---- pass 2 -------------------------------------------------------------------------------- */

/* Write the chunk collected so far to the current split. */
static lk_status flush(importer *m)
{
    lk_digest_update(m->digest, m->chunk, (size_t)m->filled * (m->wide ? 2 : 1));
    LK_TRY(lk_rows_put(&m->out, m->current, m->filled, m->chunk, NULL));
    m->filled = 0;
    return LK_OK;
}

static lk_status put(importer *m, uint32_t code)
{
    if (m->taken == m->total || (m->job->characters && !m->seen[code]))
        return lk_fail(LK_E_INPUT, "the text files changed while they were read; import again");
    if (m->taken == m->result.rows[LK_TRAIN]) {
        LK_TRY(flush(m));
        m->current = LK_VALIDATION;
    }
    if (m->wide)
        ((uint16_t *)m->chunk)[m->filled++] = m->token[code];
    else
        ((uint8_t *)m->chunk)[m->filled++] = (uint8_t)m->token[code];
    m->taken++;
    return m->filled == CHUNK ? flush(m) : LK_OK;
}

/* The names of the files; an attribute is no place for thousands of them. */
static lk_status name_source(const importer *m, char **source)
{
    size_t size = 64;
    for (int i = 0; i < m->job->files; i++) size += strlen(m->job->file[i]) + 1;
    char *text = calloc(1, size);
    if (!text) return lk_fail(LK_E_SYSTEM, "out of memory");
    if (size > 32768) snprintf(text, size, "%d files", m->job->files);
    for (int i = 0; i < m->job->files && size <= 32768; i++) {
        if (i > 0) strcat(text, "\n");
        strcat(text, m->job->file[i]);
    }
    *source = text;
    return LK_OK;
}

static lk_status write_vocabulary(importer *m)
{
    LK_H5_AUTO hid_t dataset = -1;
    char digest[LK_DIGEST_TEXT];
    hsize_t count = (hsize_t)m->result.classes;
    size_t row = sizeof *m->vocabulary;
    LK_TRY(lk_h5_dataset_write(m->out.file, m->out.part, "vocabulary", LK_H5_U32, 1, &count,
                               lk_h5_chunk_rows(row), m->vocabulary, &dataset));
    lk_digest_bytes(m->vocabulary, count * row, digest);
    lk_digest_update(m->digest, m->vocabulary, count * row);
    LK_TRY(lk_h5_set_text(dataset, m->out.part, "digest", digest));
    return lk_h5_set_text(m->out.file, m->out.part, "vocabulary",
                          m->job->characters ? "character" : "byte");
}

static lk_status finish(importer *m)
{
    char *source = NULL;
    LK_TRY(write_vocabulary(m));
    LK_TRY(name_source(m, &source));
    lk_digest_text(m->digest, m->result.digest);
    lk_status status = lk_rows_finish_text(&m->out, m->job->to.output, source, m->result.classes,
                                           m->result.digest);
    free(source);
    return status;
}

static lk_status write_all(importer *m)
{
    char *part = NULL;
    LK_TRY(lk_import_name(m->job->to.output, ".part", &part));
    LK_TRY(lk_rows_create(&m->out, part, LK_TEXT_DATA, m->wide ? LK_H5_U16 : LK_H5_U8, 1, NULL,
                          m->result.rows));
    m->out.fresh = !m->job->to.overwrite;
    LK_TRY(read_all(m, put));
    LK_TRY(flush(m));
    if (m->taken != m->total)
        return lk_fail(LK_E_INPUT, "the text files changed while they were read; import again");
    return finish(m);
}

/* ---- the job ------------------------------------------------------------------------------- */

static lk_status allocate(importer *m)
{
    m->input = malloc(CARRY + BUFFER);
    m->seen = calloc(CODES, 1);
    m->token = calloc(CODES, sizeof *m->token);
    m->vocabulary = malloc(LK_DATASET_VOCABULARY * sizeof *m->vocabulary);
    m->chunk = malloc(CHUNK * sizeof(uint16_t));
    if (!m->input || !m->seen || !m->token || !m->vocabulary || !m->chunk)
        return lk_fail(LK_E_SYSTEM, "out of memory for the import");
    return lk_digest_create(&m->digest);
}

static lk_status import(importer *m)
{
    LK_TRY(allocate(m));
    LK_TRY(check_arguments(m));
    LK_TRY(read_all(m, note));
    LK_TRY(choose_vocabulary(m));
    return write_all(m);
}

static lk_status run(void *argument)
{
    importer *m = argument;
    lk_status status = import(m);
    lk_rows_abandon(&m->out);
    lk_digest_destroy(m->digest);
    free(m->input);
    free(m->seen);
    free(m->token);
    free(m->vocabulary);
    free(m->chunk);
    return status;
}

lk_status lk_import_text_run(lk_io *io, const lk_import_text *job, lk_import_result *result)
{
    importer m = {.job = job};
    LK_TRY(lk_io_call(io, run, &m));
    *result = m.result;
    return LK_OK;
}
