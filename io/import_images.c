/* Folders of image files, decoded by all ranks a block of files at a time.
 *
 * Rank 0 finds the files and gives the list to all; of each block rank r of R decodes the files
 * [count r/R, count (r+1)/R) and rank 0 gathers them in the order of the list and appends them to
 * the journal. How many files a block has follows from the time that the one before took, so that a
 * kill costs about a second, or an image for each thread where these take longer; no bit of the
 * dataset follows from it. When all is decoded it is known which images are good, and rank 0 copies
 * them from the journal into the dataset. So the ranks decide nothing but who decodes. */
#include "base/clock.h"
#include "io/image.h"
#include "io/image_list.h"
#include "io/import_rows.h"
#include "io/journal.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SIDE = 1 << 15, MAX_BLOCK_FILES = 1 << 16, MAX_PATH = 4096 };
#define BLOCK ((size_t)8 << 20)       /* bytes of a block, about */
#define BLOCK_SECONDS 0.5             /* what it takes, about */
#define MAX_BLOCK ((size_t)1 << 30)   /* bytes of a block; MPI counts are ints */

typedef struct importer {
    const lk_import_images *job;
    MPI_Comm comm;
    int rank, ranks;
    lk_import_result result;
    lk_image_list list;
    size_t row;      /* bytes of an image */
    int64_t done;    /* files of the list that are decoded */
    int64_t least, most; /* files of a block: one for each thread; what there is room for */
    int64_t block;   /* files of the next block */
    uint8_t *pixels; /* [most] images; rank 0: of all ranks */
    char (*reason)[LK_JOURNAL_REASON]; /* alike */
    /* rank 0 */
    char *journal_path;
    lk_journal journal;
    uint16_t *label; /* of the images of a block */
    lk_pixel_sums sums;
    lk_rows out;
} importer;

static lk_status agree(const importer *m, lk_status mine) { return lk_h5_agree(m->comm, mine); }

static const char *path_of(const importer *m, int64_t file)
{
    return m->list.paths + m->list.file[file].path;
}

/* ---- rank 0: before decoding ----------------------------------------------------------------- */

static lk_status check_options(const importer *m)
{
    const lk_import_images *o = m->job;
    if (o->height < 1 || o->width < 1 || o->height > MAX_SIDE || o->width > MAX_SIDE ||
        (uint64_t)(o->height * o->width * o->channels) > MAX_BLOCK)
        return lk_fail(LK_E_INPUT, "size: expected sides of 1 to %d pixels and at most 1 GiB an "
                       "image, found %lldx%lld with %lld channel%s; give a smaller --size",
                       MAX_SIDE, (long long)o->height, (long long)o->width, (long long)o->channels,
                       o->channels == 1 ? "" : "s");
    if (o->channels != 1 && o->channels != 3)
        return lk_fail(LK_E_INPUT, "channels: expected 1 or 3, found %lld; choose one",
                       (long long)o->channels);
    LK_TRY(lk_import_check(&o->to, o->labels ? 1 : 0, &o->labels, NULL));
    return lk_import_check_part(o->to.output, ".part.h5");
}

/* The name of this import: what decides which pixels lie where in the journal. */
static void make_key(const importer *m, char key[LK_DIGEST_TEXT])
{
    const lk_import_images *o = m->job;
    char text[256];
    snprintf(text, sizeof text, "%s %lldx%lldx%lld %d %a", m->list.digest, (long long)o->height,
             (long long)o->width, (long long)o->channels, (int)o->resize,
             lk_import_fraction(&o->to));
    lk_digest_bytes(text, strlen(text), key);
}

/* Count the files of a block and tell of the bad ones. */
static void note_block(importer *m, const lk_journal_block *b)
{
    for (int64_t i = 0; i < b->count; i++) {
        if (b->reason[i][0])
            lk_import_note_bad(&m->job->to, &m->result, path_of(m, b->first + i), b->reason[i]);
        else
            m->result.rows[m->list.file[b->first + i].split]++;
    }
    m->done = b->first + b->count;
}

static void tell_progress(const importer *m)
{
    if (m->job->to.progress) m->job->to.progress(m->job->to.context, m->done, m->list.count);
}

/* Decode a file to `out`. What is wrong with it is its reason; a failure that is not the file's is
 * returned. */
static lk_status decode(const importer *m, int64_t file, uint8_t *out,
                        char reason[LK_JOURNAL_REASON])
{
    const lk_import_images *o = m->job;
    char path[MAX_PATH];
    snprintf(path, sizeof path, "%s/%s", o->directory, path_of(m, file));
    lk_status status = lk_image_load(path, o->resize, o->height, o->width, o->channels, out);
    reason[0] = '\0';
    if (status == LK_OK) return LK_OK;
    if (status != LK_E_INPUT) return lk_fail_prefix(status, "%s", path);
    memset(out, 0, m->row);
    snprintf(reason, LK_JOURNAL_REASON, "%s", lk_error_text());
    lk_error_clear();
    return LK_OK;
}

/* Try the bad files of a block again: permissions, or bytes under an old time, may have been
 * mended, which the key does not tell. *same: each is as bad as it was. */
static lk_status try_again(const importer *m, const lk_journal_block *b, bool *same)
{
    char reason[LK_JOURNAL_REASON];
    lk_status status = LK_OK;
    uint8_t *out = malloc(m->row);
    if (!out) return lk_fail(LK_E_SYSTEM, "out of memory for an image");
    *same = true;
    for (int64_t i = 0; i < b->count && *same && status == LK_OK; i++) {
        if (!b->reason[i][0]) continue;
        status = decode(m, b->first + i, out, reason);
        *same = strcmp(reason, b->reason[i]) == 0;
    }
    free(out);
    return status;
}

/* Go through what an interrupted import left, up to a block that would not be the same now. */
static lk_status resume(importer *m)
{
    bool end = false;
    while (!end) {
        lk_journal before = m->journal;
        lk_journal_block b;
        bool same = false;
        LK_TRY(lk_journal_next(&m->journal, &b, &end));
        lk_status status = LK_OK;
        if (!end && b.first + b.count <= m->list.count) status = try_again(m, &b, &same);
        if (status == LK_OK && same) note_block(m, &b);
        lk_journal_block_clear(&b);
        LK_TRY(status);
        if (!same) m->journal = before;
        end |= !same;
    }
    m->result.resumed = m->result.rows[LK_TRAIN] + m->result.rows[LK_VALIDATION];
    tell_progress(m);
    return lk_journal_cut(&m->journal);
}

static lk_status prepare(importer *m)
{
    char key[LK_DIGEST_TEXT];
    LK_TRY(check_options(m));
    LK_TRY(lk_image_list_make(m->job, &m->result, &m->list));
    m->result.classes = m->list.classes;
    LK_TRY(lk_import_name(m->job->to.output, ".part", &m->journal_path));
    make_key(m, key);
    LK_TRY(lk_journal_open(&m->journal, m->journal_path, key, m->row));
    return resume(m);
}

/* ---- the list to all ------------------------------------------------------------------------- */

static lk_status broadcast(const importer *m, void *bytes, size_t size)
{
    for (size_t at = 0; at < size && m->ranks > 1; at += LK_H5_PIECE) {
        size_t n = size - at < LK_H5_PIECE ? size - at : LK_H5_PIECE;
        if (MPI_Bcast((char *)bytes + at, (int)n, MPI_BYTE, 0, m->comm) != MPI_SUCCESS)
            return lk_fail(LK_E_COMM, "MPI_Bcast failed");
    }
    return LK_OK;
}

static lk_status share_list(importer *m)
{
    lk_image_list *l = &m->list;
    int64_t figure[3] = {l->count, l->path_bytes, m->done};
    LK_TRY(broadcast(m, figure, sizeof figure));
    if (m->rank > 0) {
        l->count = figure[0];
        l->path_bytes = figure[1];
        m->done = figure[2];
        l->file = malloc((size_t)l->count * sizeof *l->file);
        l->paths = malloc((size_t)l->path_bytes);
    }
    LK_TRY(agree(m, l->file && l->paths ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for names")));
    LK_TRY(broadcast(m, l->file, (size_t)l->count * sizeof *l->file));
    return broadcast(m, l->paths, (size_t)l->path_bytes);
}

/* ---- decoding -------------------------------------------------------------------------------- */

/* The limits are the same on all ranks: the largest number of threads counts. */
static lk_status make_room(importer *m)
{
    int threads = omp_get_max_threads();
    if (MPI_Allreduce(MPI_IN_PLACE, &threads, 1, MPI_INT, MPI_MAX, m->comm) != MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "MPI_Allreduce failed");
    int64_t rows = (int64_t)(BLOCK / m->row), busy = (int64_t)threads * m->ranks;
    int64_t most = (int64_t)(MAX_BLOCK / m->row);
    if (most > MAX_BLOCK_FILES) most = MAX_BLOCK_FILES;
    if (busy > most) busy = most;
    if (rows > most) rows = most;
    m->least = busy;
    m->most = rows > busy ? rows : busy;
    m->block = m->least;
    m->pixels = malloc((size_t)m->most * m->row);
    m->reason = malloc((size_t)m->most * sizeof *m->reason);
    m->label = malloc((size_t)m->most * sizeof *m->label);
    return m->pixels && m->reason && m->label ? LK_OK
                                              : lk_fail(LK_E_SYSTEM, "out of memory for images");
}

/* The files [first, first + count) of the list, to the beginning of the buffers. */
static lk_status decode_share(const importer *m, int64_t first, int64_t count)
{
    lk_status failed = LK_OK;
    char text[512] = "";
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; i++) {
        lk_status status = decode(m, first + i, m->pixels + (size_t)i * m->row, m->reason[i]);
        if (status == LK_OK) continue;
#pragma omp critical
        {
            failed = status;
            snprintf(text, sizeof text, "%s", lk_error_text());
        }
        lk_error_clear();
    }
    return failed == LK_OK ? LK_OK : lk_fail(failed, "%s", text);
}

/* Elements of `size` bytes, `count` in all, cut by rank as the files are; to rank 0. */
static lk_status gather(const importer *m, void *buffer, int64_t count, size_t size)
{
    int *length = malloc(2 * (size_t)m->ranks * sizeof *length), *at = length + m->ranks;
    LK_TRY(agree(m, length ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    for (int r = 0; r < m->ranks; r++) {
        at[r] = (int)((size_t)(count * r / m->ranks) * size);
        length[r] = (int)((size_t)(count * (r + 1) / m->ranks) * size) - at[r];
    }
    int error = m->rank == 0
                    ? MPI_Gatherv(MPI_IN_PLACE, 0, MPI_BYTE, buffer, length, at, MPI_BYTE, 0,
                                  m->comm)
                    : MPI_Gatherv(buffer, length[m->rank], MPI_BYTE, NULL, NULL, NULL, MPI_BYTE, 0,
                                  m->comm);
    free(length);
    return error == MPI_SUCCESS ? LK_OK : lk_fail(LK_E_COMM, "MPI_Gatherv failed");
}

/* Rank 0: a block is there; close the gaps of the bad ones and keep it. With too many bad files no
 * dataset will be written, but all of them are found, and what is decoded is there for the next
 * import, which may allow more. */
static lk_status keep_block(importer *m, int64_t count)
{
    lk_journal_block b = {m->done, count, 0, m->reason, m->pixels};
    for (int64_t i = 0; i < count; i++) {
        if (m->reason[i][0]) continue;
        if (b.good != i)
            memcpy(m->pixels + (size_t)b.good * m->row, m->pixels + (size_t)i * m->row, m->row);
        b.good++;
    }
    note_block(m, &b);
    tell_progress(m);
    return lk_journal_append(&m->journal, &b);
}

/* The files of the next block, after one that took so long to decode here; at most twice as many.
 * (What ranks take to meet does not grow with a block; counted, it would keep blocks small where
 * they share cores.) Rank 0's answer counts. */
static lk_status next_block(importer *m, double seconds)
{
    double files = (double)m->block * BLOCK_SECONDS / (seconds > 1e-6 ? seconds : 1e-6);
    m->block = files < 2.0 * (double)m->block ? (int64_t)files : 2 * m->block;
    if (m->block < m->least) m->block = m->least;
    if (m->block > m->most) m->block = m->most;
    return broadcast(m, &m->block, sizeof m->block);
}

static lk_status decode_all(importer *m)
{
    while (m->done < m->list.count) {
        int64_t count = m->list.count - m->done < m->block ? m->list.count - m->done : m->block;
        int64_t first = count * m->rank / m->ranks, last = count * (m->rank + 1) / m->ranks;
        double begin = lk_clock_seconds();
        lk_status status = decode_share(m, m->done + first, last - first);
        double seconds = lk_clock_seconds() - begin;
        LK_TRY(agree(m, status));
        LK_TRY(gather(m, m->pixels, count, m->row));
        LK_TRY(gather(m, m->reason, count, sizeof *m->reason));
        LK_TRY(agree(m, m->rank == 0 ? keep_block(m, count) : LK_OK));
        if (m->rank > 0) m->done += count;
        LK_TRY(next_block(m, seconds));
    }
    return LK_OK;
}

/* ---- rank 0: the dataset --------------------------------------------------------------------- */

/* The good images of a block, a run for each split. */
static lk_status put_block(importer *m, const lk_journal_block *b)
{
    int64_t at = 0;
    for (int split = 0; split < 2; split++) {
        int64_t n = 0;
        for (int64_t i = 0; i < b->count; i++) {
            const lk_image_file *f = &m->list.file[b->first + i];
            if (!b->reason[i][0] && f->split == split) m->label[n++] = f->label;
        }
        const uint8_t *pixels = b->pixels + (size_t)at * m->row;
        if (split == LK_TRAIN)
            lk_pixel_sums_add(&m->sums, pixels, (size_t)n * m->row, m->job->channels);
        LK_TRY(lk_rows_put(&m->out, (lk_split)split, n, pixels, m->label));
        at += n;
    }
    return LK_OK;
}

static lk_status copy_blocks(importer *m)
{
    bool end = false;
    lk_status status = LK_OK;
    lk_journal_rewind(&m->journal);
    while (!end && status == LK_OK) {
        lk_journal_block b;
        LK_TRY(lk_journal_next(&m->journal, &b, &end));
        if (!end) {
            uint16_t *label = realloc(m->label, (size_t)b.count * sizeof *label);
            if (label) m->label = label;
            status = label ? put_block(m, &b) : lk_fail(LK_E_SYSTEM, "out of memory");
        }
        lk_journal_block_clear(&b);
    }
    if (status == LK_OK && m->journal.done != m->list.count)
        status = lk_fail(LK_E_SYSTEM, "%s: cannot be read back as it was written; import again",
                         m->journal_path);
    return status;
}

static lk_status write_dataset(importer *m)
{
    const lk_import_images *o = m->job;
    int64_t dim[3] = {o->height, o->width, o->channels};
    char *part = NULL;
    LK_TRY(lk_import_check_bad(&o->to, &m->result, "files", m->journal_path));
    if (m->result.rows[LK_TRAIN] == 0)
        return lk_fail(LK_E_INPUT,
                       "%s: expected images for training, found none; is it the right "
                       "folder?",
                       o->directory);
    LK_TRY(lk_import_name(o->to.output, ".part.h5", &part));
    LK_TRY(lk_rows_create(&m->out, part, LK_IMAGE_DATA, LK_H5_U8, 4, dim, m->result.rows));
    m->out.fresh = !m->job->to.overwrite;
    LK_TRY(copy_blocks(m));
    LK_TRY(lk_pixel_sums_write(&m->sums, &m->out, o->channels));
    lk_rows_tell_untrained(&m->out, &o->to, m->list.name, m->list.classes);
    LK_TRY(lk_rows_finish(&m->out, o->to.output, o->directory, m->list.name, m->list.classes,
                          m->result.digest));
    unlink(m->journal_path);
    return LK_OK;
}

/* ---- the job --------------------------------------------------------------------------------- */

static lk_status import(importer *m)
{
    m->row = (size_t)(m->job->height * m->job->width * m->job->channels);
    LK_TRY(agree(m, m->rank == 0 ? prepare(m) : LK_OK));
    LK_TRY(share_list(m));
    LK_TRY(agree(m, make_room(m)));
    LK_TRY(decode_all(m));
    LK_TRY(agree(m, m->rank == 0 ? write_dataset(m) : LK_OK));
    return broadcast(m, &m->result, sizeof m->result);
}

static lk_status run(void *argument)
{
    importer *m = argument;
    lk_status status = import(m);
    lk_rows_abandon(&m->out);
    /* other bad input will not be better the next time; with a larger --max-bad, or after a kill or
     * what the system refused, the import goes on */
    if (status == LK_E_INPUT && m->journal.file && m->result.bad <= m->job->to.max_bad)
        unlink(m->journal_path);
    lk_journal_close(&m->journal);
    lk_image_list_clear(&m->list);
    free(m->journal_path);
    free(m->pixels);
    free(m->reason);
    free(m->label);
    return status;
}

lk_status lk_import_images_run(lk_io *io, MPI_Comm world, const lk_import_images *job,
                               lk_import_result *result)
{
    importer m = {.job = job};
    LK_TRY(lk_h5_comm(world, &m.comm));
    MPI_Comm_rank(m.comm, &m.rank);
    MPI_Comm_size(m.comm, &m.ranks);
    lk_status status = lk_io_call(io, run, &m);
    MPI_Comm_free(&m.comm);
    if (status == LK_OK) *result = m.result;
    return status;
}
