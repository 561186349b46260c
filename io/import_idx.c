/* Images and labels in the idx format: a magic number 0, 0, type, dimensions; the dimensions, u32
 * big-endian; the bytes. Labels are read whole, images row by row. */
#include "base/philox.h"
#include "io/import_rows.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { IDX_U8 = 0x08, IMAGE_DIMS = 3, MAX_SIDE = 1 << 15 };
#define BLOCK ((size_t)1 << 20) /* bytes of images read at once */

/* One file, packed or plain: zlib reads both. */
typedef struct idx {
    gzFile file;
    const char *path, *what;
    int64_t dim[IMAGE_DIMS];
} idx;

typedef struct importer {
    const lk_import_idx *job;
    lk_import_result result;
    idx images[2];
    uint8_t *label[2];
    char **name; /* of the classes */
    uint8_t *block;
    uint16_t *wide;
    int64_t total, done;
    lk_pixel_sums sums;
    lk_rows out;
} importer;

/* ---- files ----------------------------------------------------------------------------------- */

static lk_status open_idx(idx *x, const char *path, const char *what)
{
    *x = (idx){.path = path, .what = what};
    x->file = gzopen(path, "rb");
    if (!x->file)
        return lk_fail_open(path);
    gzbuffer(x->file, 1 << 17);
    return LK_OK;
}

static void close_idx(idx *x)
{
    if (x->file) gzclose(x->file);
    x->file = NULL;
}

/* What zlib says of the stream read last. */
static lk_status damaged(const idx *x)
{
    int code = Z_OK;
    const char *text = gzerror(x->file, &code);
    if (code == Z_ERRNO)
        return lk_fail(LK_E_SYSTEM, "%s: cannot read: %s; check the disk it lies on", x->path,
                       strerror(errno));
    if (code == Z_BUF_ERROR)
        return lk_fail(LK_E_INPUT, "%s: expected a whole gzip file, found a truncated one; copy it "
                       "again", x->path);
    if (code == Z_DATA_ERROR || code == Z_STREAM_ERROR)
        return lk_fail(LK_E_INPUT, "%s: expected a gzip file, found a damaged one (%s); copy it "
                       "again", x->path, text);
    return code == Z_OK || code == Z_STREAM_END
               ? LK_OK
               : lk_fail(LK_E_SYSTEM, "%s: cannot unpack: %s", x->path, text);
}

/* Exactly n bytes. `part`: of what, for the message. */
static lk_status take(idx *x, void *out, size_t n, const char *part)
{
    for (size_t at = 0; at < n;) {
        size_t piece = n - at < (1u << 30) ? n - at : 1u << 30;
        int got = gzread(x->file, (char *)out + at, (unsigned)piece);
        if (got < (int)piece) {
            LK_TRY(damaged(x));
            return lk_fail(LK_E_INPUT, "%s: expected %s of idx %s, found the end of the file; copy "
                           "it again", x->path, part, x->what);
        }
        at += piece;
    }
    return LK_OK;
}

/* Nothing may follow; reaching the end also lets zlib compare the checksum. */
static lk_status finish(idx *x)
{
    char more;
    int got = gzread(x->file, &more, 1);
    LK_TRY(damaged(x));
    if (got == 0) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected %lld %s and no more, found more bytes; is it the "
                   "right file?", x->path, (long long)x->dim[0], x->what);
}

static lk_status read_header(idx *x, int dims)
{
    uint8_t b[4];
    LK_TRY(take(x, b, sizeof b, "the magic number"));
    if (b[0] != 0 || b[1] != 0 || b[2] != IDX_U8 || b[3] != dims)
        return lk_fail(LK_E_INPUT, "%s: expected the magic number 0000%02x%02x of idx %s, found "
                       "%02x%02x%02x%02x; is it the right file?", x->path, IDX_U8, dims, x->what,
                       b[0], b[1], b[2], b[3]);
    for (int i = 0; i < dims; i++) {
        LK_TRY(take(x, b, sizeof b, "the dimensions"));
        x->dim[i] = (int64_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
    }
    if (x->dim[0] < 1)
        return lk_fail(LK_E_INPUT, "%s: expected idx %s, found none; is it the right file?",
                       x->path, x->what);
    for (int i = 1; i < dims; i++)
        if (x->dim[i] < 1 || x->dim[i] > MAX_SIDE)
            return lk_fail(LK_E_INPUT,
                           "%s: expected images of 1 to %d pixels a side, found "
                           "%lldx%lld; is it the right file?",
                           x->path, MAX_SIDE, (long long)x->dim[1], (long long)x->dim[2]);
    return LK_OK;
}

/* ---- labels ---------------------------------------------------------------------------------- */

/* The header may lie: room is made as bytes come. The caller frees *label in any case. */
static lk_status take_labels(idx *x, int64_t count, uint8_t **label)
{
    for (int64_t at = 0; at < count;) {
        int64_t room = at > 0 ? 2 * at : 1 << 16;
        if (room > count) room = count;
        uint8_t *grown = realloc(*label, (size_t)room);
        if (!grown)
            return lk_fail(LK_E_SYSTEM, "out of memory for %lld labels", (long long)room);
        *label = grown;
        LK_TRY(take(x, grown + at, (size_t)(room - at), "all bytes"));
        at = room;
    }
    return LK_OK;
}

static lk_status read_labels(importer *m, int split)
{
    idx x;
    int64_t count = m->images[split].dim[0];
    LK_TRY(open_idx(&x, m->job->labels[split], "labels"));
    lk_status status = read_header(&x, 1);
    if (status == LK_OK && x.dim[0] != count)
        status = lk_fail(LK_E_INPUT,
                         "%s: expected %lld labels, as many as images in %s, found "
                         "%lld; do the files belong together?",
                         x.path, (long long)count, m->images[split].path, (long long)x.dim[0]);
    if (status == LK_OK) status = take_labels(&x, count, &m->label[split]);
    if (status == LK_OK) status = finish(&x);
    close_idx(&x);
    return status;
}

/* How many classes there are and their names. */
static lk_status find_classes(importer *m)
{
    const lk_import_idx *job = m->job;
    int largest = 0;
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; m->label[s] && i < m->images[s].dim[0]; i++) {
            int label = m->label[s][i];
            if (job->classes > 0 && label >= job->classes)
                return lk_fail(LK_E_INPUT,
                               "%s: expected labels below the %lld classes named, "
                               "found %d at %lld; name all classes with --classes",
                               job->labels[s], (long long)job->classes, label, (long long)i);
            if (label > largest) largest = label;
        }
    m->result.classes = job->classes > 0 ? job->classes : largest + 1;
    m->name = calloc((size_t)m->result.classes, sizeof *m->name);
    for (int64_t k = 0; m->name && k < m->result.classes; k++) {
        char number[8];
        snprintf(number, sizeof number, "%d", (int)k);
        m->name[k] = strdup(job->classes > 0 ? job->name[k] : number);
        if (!m->name[k]) return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    return m->name ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

/* Names that are given are different ones, in UTF-8. */
static lk_status check_names(const lk_import_idx *job)
{
    lk_label_set set = {.count = 0};
    lk_status status = LK_OK;
    for (int64_t k = 0; k < job->classes && status == LK_OK; k++) {
        int32_t number;
        status = lk_label_set_add(&set, job->name[k], &number);
        if (status == LK_OK && set.count == k)
            status = lk_fail(LK_E_INPUT,
                             "names of classes: expected different ones, found '%.60s' "
                             "twice; rename one in --classes",
                             job->name[k]);
    }
    lk_label_set_clear(&set);
    return status;
}

/* ---- images ---------------------------------------------------------------------------------- */

/* Rows [0, n) of the block, which begin at image `first` of a file: runs of the same split are
 * written together. `held`: so many of a single file's samples are kept for validation, chosen by a
 * permutation. */
static lk_status put_block(importer *m, int from, int64_t first, int64_t n, int64_t held)
{
    int64_t total = m->images[from].dim[0], begin = 0;
    size_t row = m->out.row[0];
    int split = -1;
    for (int64_t i = 0; i <= n; i++) {
        int next = from;
        if (i < n && from == LK_TRAIN)
            next = lk_permute((uint64_t)(first + i), (uint64_t)total, 0, LK_IMPORT_PURPOSE, 0, 0) <
                           (uint64_t)held
                       ? LK_VALIDATION
                       : LK_TRAIN;
        if (i < n) m->wide[i] = m->label[from][first + i];
        if (split >= 0 && (i == n || next != split)) {
            const uint8_t *pixels = m->block + (size_t)begin * row;
            if (split == LK_TRAIN)
                lk_pixel_sums_add(&m->sums, pixels, (size_t)(i - begin) * row, 1);
            LK_TRY(lk_rows_put(&m->out, (lk_split)split, i - begin, pixels, m->wide + begin));
            begin = i;
        }
        split = next;
    }
    return LK_OK;
}

static lk_status copy_images(importer *m, int from, int64_t held)
{
    const lk_import_target *to = &m->job->to;
    idx *x = &m->images[from];
    int64_t block = m->out.row[0] < BLOCK ? (int64_t)(BLOCK / m->out.row[0]) : 1;
    for (int64_t at = 0; at < x->dim[0]; at += block) {
        int64_t n = x->dim[0] - at < block ? x->dim[0] - at : block;
        LK_TRY(take(x, m->block, (size_t)n * m->out.row[0], "all bytes"));
        LK_TRY(put_block(m, from, at, n, held));
        m->done += n;
        if (to->progress) to->progress(to->context, m->done, m->total);
    }
    return finish(x);
}

static lk_status write_all(importer *m)
{
    const lk_import_idx *job = m->job;
    bool pair = job->images[1] != NULL;
    int64_t n = m->images[0].dim[0];
    int64_t held = pair ? 0 : (int64_t)floor((double)n * lk_import_fraction(&job->to));
    int64_t rows[2] = {n - held, pair ? m->images[1].dim[0] : held};
    int64_t dim[3] = {m->images[0].dim[1], m->images[0].dim[2], 1};
    size_t row = (size_t)(dim[0] * dim[1]), block = row < BLOCK ? BLOCK / row : 1;
    char *part = NULL;
    m->total = rows[0] + rows[1];
    m->block = malloc(block * row);
    m->wide = malloc(block * sizeof *m->wide);
    if (!m->block || !m->wide) return lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_import_name(job->to.output, ".part", &part));
    LK_TRY(lk_rows_create(&m->out, part, LK_IMAGE_DATA, LK_H5_U8, 4, dim, rows));
    m->out.fresh = !job->to.overwrite;
    LK_TRY(copy_images(m, 0, held));
    if (pair) LK_TRY(copy_images(m, 1, 0));
    LK_TRY(lk_pixel_sums_write(&m->sums, &m->out, 1));
    memcpy(m->result.rows, rows, sizeof rows);
    lk_rows_tell_untrained(&m->out, &job->to, m->name, m->result.classes);
    return lk_rows_finish(&m->out, job->to.output, job->images[0], m->name, m->result.classes,
                          m->result.digest);
}

static lk_status import(importer *m)
{
    const lk_import_idx *job = m->job;
    const char *file[4] = {job->images[0], job->labels[0], job->images[1], job->labels[1]};
    bool pair = job->images[1] != NULL;
    if (pair && job->to.validation >= 0)
        return lk_fail(LK_E_INPUT,
                       "%s: expected either validation files or a fraction for "
                       "validation, found both; leave out --validation or the files",
                       job->images[1]);
    LK_TRY(check_names(job));
    LK_TRY(lk_import_check(&job->to, pair ? 4 : 2, file, NULL));
    for (int s = 0; s < (pair ? 2 : 1); s++) {
        LK_TRY(open_idx(&m->images[s], job->images[s], "images"));
        LK_TRY(read_header(&m->images[s], IMAGE_DIMS));
        LK_TRY(read_labels(m, s));
    }
    if (pair && (m->images[0].dim[1] != m->images[1].dim[1] ||
                 m->images[0].dim[2] != m->images[1].dim[2]))
        return lk_fail(LK_E_INPUT,
                       "%s: expected images of %lldx%lld as in %s, found %lldx%lld; "
                       "do the files belong together?",
                       job->images[1], (long long)m->images[0].dim[1],
                       (long long)m->images[0].dim[2], job->images[0],
                       (long long)m->images[1].dim[1], (long long)m->images[1].dim[2]);
    LK_TRY(find_classes(m));
    LK_TRY(lk_import_check_classes(job->labels[0], m->name, m->result.classes));
    return write_all(m);
}

static lk_status run(void *argument)
{
    importer *m = argument;
    lk_status status = import(m);
    lk_rows_abandon(&m->out);
    for (int s = 0; s < 2; s++) {
        close_idx(&m->images[s]);
        free(m->label[s]);
    }
    for (int64_t k = 0; m->name && k < m->result.classes; k++) free(m->name[k]);
    free(m->name);
    free(m->block);
    free(m->wide);
    return status;
}

lk_status lk_import_idx_run(lk_io *io, const lk_import_idx *job, lk_import_result *result)
{
    importer m = {.job = job};
    LK_TRY(lk_io_call(io, run, &m));
    *result = m.result;
    return LK_OK;
}
