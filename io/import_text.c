/* Text files to a dataset, in two passes over the input so that memory stays flat.
 *
 * Pass 1 counts tokens and, for a character vocabulary, notes which code points occur; that fixes
 * the vocabulary (sorted, as nanoGPT's prepare.py does), the token type and where the split falls.
 * Pass 2 translates and writes one chunk at a time. The result is whole or not there. */
#include "base/replace.h"
#include "io/import_rows.h"
#include "io/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CODES = 0x110000, BUFFER = 1 << 20, CHUNK = 1 << 20, CARRY = 4 };

static const char *const path_of[2] = {"train/tokens", "validation/tokens"};

typedef struct importer {
    const lk_import_text *job;
    lk_import_result result;
    char *part;
    int lock; /* of `part`, which is ours to remove; -1 without */
    unsigned char *input; /* CARRY + BUFFER bytes */
    unsigned char *seen;  /* by code point */
    uint16_t *token;      /* by code point, 0 .. CODES-1 */
    uint32_t *vocabulary;
    int64_t total, done_bytes, total_bytes;
    /* pass 2 */
    hid_t file;
    struct split {
        hid_t dataset;
        int64_t tokens, written;
        lk_digest *digest;
        lk_slab_maker slabs;
    } split[2];
    int current;
    bool wide;   /* u16 tokens */
    void *chunk; /* CHUNK tokens */
    int64_t filled, taken;
    lk_digest *digest;
    lk_reference_maker reference; /* of the training split */
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

static lk_status read_open(importer *m, FILE *f, const char *name, consumer take)
{
    int64_t at = 0; /* file position of m->input[0] */
    size_t left = 0;
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
    m->result.rows[0] = m->split[0].tokens = train;
    m->result.rows[1] = m->split[1].tokens = m->total - train;
    if (train == 0)
        return lk_fail(LK_E_INPUT,
                       "%s: %lld tokens are too few to keep a fraction %g for "
                       "validation; import more text, or change --validation",
                       m->job->file[0], (long long)m->total, fraction);
    return LK_OK;
}

/* ---- pass 2 -------------------------------------------------------------------------------- */

static lk_status create_dataset(importer *m, const char *path, lk_h5_type type, int64_t count,
                                size_t row, hid_t *dataset)
{
    LK_H5_AUTO hid_t space = -1, links = -1, dcpl = -1;
    hsize_t dim = (hsize_t)count;
    LK_TRY(lk_h5_chunked(1, &dim, lk_h5_chunk_rows(row), &dcpl));
    LK_H5(LK_E_SYSTEM, space = H5Screate_simple(1, &dim, NULL), "%s: '%s'", m->part, path);
    LK_H5(LK_E_SYSTEM, links = H5Pcreate(H5P_LINK_CREATE), "%s: '%s'", m->part, path);
    LK_H5(LK_E_SYSTEM, H5Pset_create_intermediate_group(links, 1), "%s: '%s'", m->part, path);
    LK_H5(LK_E_SYSTEM, *dataset = H5Dcreate2(m->file, path, lk_h5_type_id(type), space, links, dcpl,
                                             H5P_DEFAULT),
          "%s: cannot create '%s'", m->part, path);
    return LK_OK;
}

/* Write the chunk collected so far to the current split. */
static lk_status flush(importer *m)
{
    struct split *s = &m->split[m->current];
    if (m->filled == 0) return LK_OK;
    LK_H5_AUTO hid_t file_space = -1, memory_space = -1;
    hsize_t first = (hsize_t)s->written, count = (hsize_t)m->filled;
    size_t bytes = (size_t)m->filled * (m->wide ? 2 : 1);
    LK_H5(LK_E_SYSTEM, file_space = H5Dget_space(s->dataset), "%s: tokens", m->part);
    LK_H5(LK_E_SYSTEM,
          H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &first, NULL, &count, NULL),
          "%s: tokens", m->part);
    LK_H5(LK_E_SYSTEM, memory_space = H5Screate_simple(1, &count, NULL), "%s: tokens", m->part);
    LK_H5(LK_E_SYSTEM,
          H5Dwrite(s->dataset, m->wide ? H5T_NATIVE_UINT16 : H5T_NATIVE_UINT8, memory_space,
                   file_space, H5P_DEFAULT, m->chunk),
          "%s: cannot write tokens", m->part);
    lk_digest_update(s->digest, m->chunk, bytes);
    lk_slab_maker_add(&s->slabs, m->chunk, bytes);
    lk_digest_update(m->digest, m->chunk, bytes);
    if (m->current == LK_TRAIN)
        LK_TRY(lk_reference_maker_add(&m->reference, m->filled, bytes, m->chunk, NULL));
    s->written += m->filled;
    m->filled = 0;
    return LK_OK;
}

static lk_status put(importer *m, uint32_t code)
{
    if (m->taken == m->total || (m->job->characters && !m->seen[code]))
        return lk_fail(LK_E_INPUT, "the text files changed while they were read; import again");
    if (m->taken == m->split[0].tokens) {
        LK_TRY(flush(m));
        m->current = 1;
    }
    if (m->wide)
        ((uint16_t *)m->chunk)[m->filled++] = m->token[code];
    else
        ((uint8_t *)m->chunk)[m->filled++] = (uint8_t)m->token[code];
    m->taken++;
    return m->filled == CHUNK ? flush(m) : LK_OK;
}

static lk_status write_source(importer *m)
{
    size_t size = 1;
    for (int i = 0; i < m->job->files; i++) size += strlen(m->job->file[i]) + 1;
    if (size > 32768) { /* an attribute is no place for thousands of names */
        char text[64];
        snprintf(text, sizeof text, "%d files", m->job->files);
        return lk_h5_set_text(m->file, m->part, "source", text);
    }
    char *text = calloc(1, size);
    if (!text) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int i = 0; i < m->job->files; i++) {
        if (i > 0) strcat(text, "\n");
        strcat(text, m->job->file[i]);
    }
    lk_status status = lk_h5_set_text(m->file, m->part, "source", text);
    free(text);
    return status;
}

static lk_status write_vocabulary(importer *m)
{
    LK_H5_AUTO hid_t dataset = -1;
    char digest[LK_DIGEST_TEXT];
    size_t bytes = (size_t)m->result.classes * sizeof *m->vocabulary;
    LK_TRY(create_dataset(m, "vocabulary", LK_H5_U32, m->result.classes,
                          sizeof *m->vocabulary, &dataset));
    LK_H5(LK_E_SYSTEM,
          H5Dwrite(dataset, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, m->vocabulary),
          "%s: cannot write 'vocabulary'", m->part);
    lk_digest_bytes(m->vocabulary, bytes, digest);
    lk_digest_update(m->digest, m->vocabulary, bytes);
    return lk_h5_set_text(dataset, m->part, "digest", digest);
}

static lk_status write_reference(importer *m)
{
    char *text = NULL;
    LK_TRY(lk_reference_maker_format(&m->reference, NULL, &text));
    lk_status status = lk_h5_set_text(m->file, m->part, "reference", text);
    free(text);
    return status;
}

static lk_status write_all(importer *m)
{
    char text[LK_DIGEST_TEXT];
    lk_h5_type type = m->wide ? LK_H5_U16 : LK_H5_U8;
    size_t row = m->wide ? 2 : 1;
    for (int i = 0; i < 2; i++) {
        struct split *s = &m->split[i];
        LK_TRY(create_dataset(m, path_of[i], type, s->tokens, row, &s->dataset));
        LK_TRY(lk_slab_maker_create(&s->slabs, row, s->tokens));
    }
    LK_TRY(lk_reference_maker_create(&m->reference, LK_TEXT_DATA, m->result.classes, 0));
    LK_TRY(read_all(m, put));
    LK_TRY(flush(m));
    if (m->taken != m->total)
        return lk_fail(LK_E_INPUT, "the text files changed while they were read; import again");
    for (int i = 0; i < 2; i++) {
        lk_digest_text(m->split[i].digest, text);
        LK_TRY(lk_h5_set_text(m->split[i].dataset, m->part, "digest", text));
        LK_TRY(lk_slab_maker_write(&m->split[i].slabs, m->file, m->part, path_of[i]));
    }
    LK_TRY(write_vocabulary(m));
    lk_digest_text(m->digest, m->result.digest);
    LK_TRY(lk_h5_set_text(m->file, m->part, "kind", "text"));
    LK_TRY(lk_h5_set_text(m->file, m->part, "vocabulary",
                          m->job->characters ? "character" : "byte"));
    LK_TRY(write_source(m));
    LK_TRY(write_reference(m));
    return lk_h5_set_text(m->file, m->part, "digest", m->result.digest);
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
    LK_TRY(lk_import_name(m->job->to.output, ".part", &m->part));
    LK_TRY(lk_digest_create(&m->digest));
    LK_TRY(lk_digest_create(&m->split[0].digest));
    return lk_digest_create(&m->split[1].digest);
}

static lk_status import(importer *m)
{
    LK_TRY(allocate(m));
    LK_TRY(check_arguments(m));
    LK_TRY(read_all(m, note));
    LK_TRY(choose_vocabulary(m));
    LK_TRY(lk_replace_lock(m->part, &m->lock));
    LK_TRY(lk_h5_create(m->part, MPI_COMM_NULL, LK_SCHEMA_DATASET, &m->file));
    LK_TRY(write_all(m));
    for (int i = 0; i < 2; i++) {
        lk_h5_release(&m->split[i].dataset);
        m->split[i].dataset = -1;
    }
    LK_TRY(lk_h5_close(m->part, &m->file));
    return m->job->to.overwrite ? lk_replace_publish(m->part, m->job->to.output)
                                : lk_replace_publish_new(m->part, m->job->to.output);
}

static lk_status run(void *argument)
{
    importer *m = argument;
    lk_status status = import(m);
    for (int i = 0; i < 2; i++) {
        lk_h5_release(&m->split[i].dataset);
        lk_digest_destroy(m->split[i].digest);
        lk_slab_maker_clear(&m->split[i].slabs);
    }
    lk_digest_destroy(m->digest);
    lk_reference_maker_clear(&m->reference);
    lk_h5_abandon(m->part, MPI_COMM_NULL, &m->file);
    if (m->lock >= 0) {
        if (status != LK_OK) unlink(m->part);
        close(m->lock);
    }
    free(m->part);
    free(m->input);
    free(m->seen);
    free(m->token);
    free(m->vocabulary);
    free(m->chunk);
    return status;
}

lk_status lk_import_text_run(lk_io *io, const lk_import_text *job, lk_import_result *result)
{
    importer m = {.job = job, .lock = -1, .file = -1, .split = {{.dataset = -1}, {.dataset = -1}}};
    LK_TRY(lk_io_call(io, run, &m));
    *result = m.result;
    return LK_OK;
}
