/* Saving a checkpoint: the part that runs on the I/O thread.
 *
 * Nobody sees a file before it is whole: it is written as .part, closed, synced and read back, and
 * only then renamed. Before each collective step the ranks agree whether one of them failed, so
 * that none waits in a transfer that another will never join. That cannot help within one HDF5
 * call: if the disk fails a rank there, the others may stay in it. So blocks are reserved first,
 * and the caller can see that a rank failed (j->failed) without the others' I/O threads. */
#include "base/clock.h"
#include "base/replace.h"
#include "io/checkpoint_job.h"
#include "io/format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { TEXTS = LK_CHECKPOINT_TEXTS };

typedef lk_checkpoint_item item;
typedef lk_checkpoint_job job;

static MPI_Comm writers_comm(const job *j) { return j->writers > 1 ? j->comm : MPI_COMM_SELF; }

/* Among those who write. */
static lk_status writers_agree(job *j, lk_status mine)
{
    return j->writers > 1 ? lk_checkpoint_agree(j, mine) : mine;
}

/* What is not a parameter; its bytes are the same on all ranks. */
static lk_status list_info(job *j)
{
    item *state = &j->item[j->items = j->tensors];
    strcpy(state->path, "state");
    lk_checkpoint_set_item(state, LK_H5_U8, 1, 1, (int64_t[]){sizeof j->info.state},
                           &j->info.state);
    j->items++;
    if (j->info.kind == LK_TEXT_DATA) {
        item *vocabulary = &j->item[j->items++];
        strcpy(vocabulary->path, "vocabulary");
        lk_checkpoint_set_item(vocabulary, LK_H5_U32, sizeof(uint32_t), 1,
                               &j->info.vocabulary_size, j->info.vocabulary);
    }
    LK_TRY(lk_checkpoint_deal(j));
    for (int i = j->tensors; i < j->items; i++) {
        item *x = &j->item[i];
        x->group = -1;
        x->rows = (char *)x->data + x->first * x->row;
    }
    return LK_OK;
}

/* ---- before the file ------------------------------------------------------------------------- */

static lk_status name_files(job *j)
{
    int n = snprintf(j->path, sizeof j->path, "%s/step-%06llu.h5", j->given,
                     (unsigned long long)j->info.state.step);
    if (n < 0 || (size_t)n >= sizeof j->path)
        return lk_fail(LK_E_INPUT, "%s: the path is too long; choose a shorter 'directory'",
                       j->given);
    snprintf(j->part, sizeof j->part, "%s.part", j->path);
    return LK_OK;
}

static uint64_t needed_bytes(const job *j)
{
    lk_checkpoint_info info = j->info;
    uint64_t needed = 1 << 20; /* superblock, groups, attributes */
    for (int i = 0; i < j->items; i++) needed += lk_checkpoint_stored_bytes(&j->item[i]) + 4096;
    for (int i = 0; i < TEXTS; i++) {
        const char *text = *lk_checkpoint_text(&info, i);
        if (text) needed += strlen(text);
    }
    size_t longest = 0; /* names are stored at one length */
    for (int64_t i = 0; i < info.image.classes; i++)
        if (strlen(info.image.name[i]) > longest) longest = strlen(info.image.name[i]);
    return needed + (uint64_t)info.image.classes * (longest + 1);
}

/* Will the file fit, and leave room for logs? Without ROMIO, MPI makes files of its own beside it;
 * where one of them cannot be made some ranks wait for ever. f_files is 0 where files are not
 * counted. */
lk_status lk_checkpoint_check_room(const job *j)
{
    enum { FILES = 16 };
    struct statvfs disk;
    uint64_t needed = needed_bytes(j), margin = (8 << 20) + needed / 16;
    if (statvfs(j->given, &disk) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot tell the free space: %s; check the file system",
                       j->given, strerror(errno));
    uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (disk.f_files > 0 && disk.f_favail < FILES)
        return lk_fail(LK_E_SYSTEM, "%s: expected free space for %d more files (df -i), found it "
                       "for %llu; make room on the disk", j->given, FILES,
                       (unsigned long long)disk.f_favail);
    if (room >= needed + margin) return LK_OK;
    return lk_fail(LK_E_SYSTEM, "%s: expected %.1f MiB of free space for a checkpoint of %.1f MiB, "
                   "found %.1f MiB; make room on the disk, or %s", j->given,
                   (double)(needed + margin) / 0x1p20, (double)needed / 0x1p20,
                   (double)room / 0x1p20,
                   j->keep.newest > 0 ? "lower checkpoint.keep"
                                      : "set checkpoint.keep, which is 0, so that all are kept");
}

/* On rank 0: remove what killed saves left behind, then see whether the file will fit. */
static lk_status make_room(const job *j)
{
    struct stat s;
    if (stat(j->given, &s) != 0)
        return lk_fail(LK_E_SYSTEM,
                       "%s: expected a directory for checkpoints, found: %s; see "
                       "what has become of it",
                       j->given, strerror(errno));
    if (!S_ISDIR(s.st_mode))
        return lk_fail(LK_E_SYSTEM,
                       "%s: expected a directory for checkpoints, found a file; move "
                       "it away",
                       j->given);
    LK_TRY(lk_checkpoint_dir_sweep(j->given));
    return lk_checkpoint_check_room(j);
}

static lk_status check_limit(const job *j)
{
    struct rlimit limit;
    uint64_t needed = needed_bytes(j);
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < needed)
        return lk_fail(LK_E_SYSTEM, "%s: a checkpoint needs a file of %llu bytes, but this process "
                       "may write only %llu; raise 'ulimit -f'", j->given,
                       (unsigned long long)needed, (unsigned long long)limit.rlim_cur);
    return LK_OK;
}

/* Zeros where the file system has no fallocate(); what it cannot store it says at the sync. */
static lk_status reserve_by_zeros(const job *j, uint64_t bytes)
{
    enum { BLOCK = 1 << 20 };
    char *zeros = calloc(1, BLOCK);
    if (!zeros) return lk_fail(LK_E_SYSTEM, "out of memory");
    struct stat s;
    bool good = fstat(j->fd, &s) == 0;
    uint64_t at = good ? (uint64_t)s.st_size : 0;
    while (good && at < bytes) {
        ssize_t n = pwrite(j->fd, zeros, bytes - at < BLOCK ? bytes - at : BLOCK, (off_t)at);
        if (n > 0) at += (uint64_t)n;
        else good = n < 0 && errno == EINTR;
        lk_io_yield(j->io);
    }
    if (good) good = fdatasync(j->fd) == 0;
    int error = errno;
    free(zeros);
    return good ? LK_OK
                : lk_fail(LK_E_SYSTEM, "%s: cannot reserve %llu bytes: %s; %s", j->part,
                          (unsigned long long)bytes, strerror(error),
                          lk_advice_of_errno(error, "check the disk it lies on"));
}

/* On rank 0: take the blocks now. Neither HDF5 nor MPI-IO recovers when one rank's write fails in a
 * collective transfer: the others may wait for ever. */
static lk_status reserve(const job *j)
{
    uint64_t bytes = needed_bytes(j);
    if (fallocate(j->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) == 0) return LK_OK;
    if (errno == EOPNOTSUPP || errno == ENOSYS) return reserve_by_zeros(j, bytes);
    return lk_fail(LK_E_SYSTEM, "%s: cannot reserve %llu bytes: %s; %s", j->part,
                   (unsigned long long)bytes, strerror(errno),
                   lk_advice_of_errno(errno, "check the disk it lies on"));
}

/* What was reserved and not used goes back. */
static lk_status trim(const job *j)
{
    struct stat s;
    if (stat(j->part, &s) != 0 || truncate(j->part, s.st_size) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot trim the file: %s; check the file system", j->part,
                       strerror(errno));
    return LK_OK;
}

static lk_status share_digests(job *j)
{
    unsigned char *all = calloc((size_t)j->items, LK_DIGEST_TEXT);
    lk_status status =
        lk_checkpoint_agree(j, all ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory"));
    if (status != LK_OK) free(all);
    LK_TRY(status);
    for (int i = 0; i < j->items; i++) {
        if (!lk_checkpoint_mine(j, i)) continue;
        lk_digest_bytes(j->item[i].data, j->item[i].bytes,
                        (char *)all + (size_t)i * LK_DIGEST_TEXT);
        lk_io_yield(j->io);
    }
    int error = MPI_Allreduce(MPI_IN_PLACE, all, j->items * LK_DIGEST_TEXT, MPI_UNSIGNED_CHAR,
                              MPI_MAX, j->comm); /* zero where it was not mine */
    for (int i = 0; i < j->items; i++)
        memcpy(j->item[i].digest, all + (size_t)i * LK_DIGEST_TEXT, LK_DIGEST_TEXT);
    free(all);
    return error ? lk_fail(LK_E_COMM, "%s: MPI_Allreduce failed", j->given) : LK_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static lk_status write_kind(job *j)
{
    const lk_checkpoint_info *info = &j->info;
    const lk_image_format *f = &info->image;
    if (info->kind == LK_TEXT_DATA)
        return lk_h5_set_text(j->file, j->part, "vocabulary",
                              info->characters ? "character" : "byte");
    LK_TRY(lk_h5_set_u64(j->file, j->part, "height", (uint64_t)f->height));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "width", (uint64_t)f->width));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "channels", (uint64_t)f->channels));
    if (f->vocabulary > 0)
        LK_TRY(lk_h5_set_u64(j->file, j->part, "text_length", (uint64_t)f->text));
    return lk_format_write_images(j->file, j->part, f);
}

static lk_status write_log(const job *j, const char *const name[3], const lk_checkpoint_log *log)
{
    if (!log->digest[0]) return LK_OK;
    LK_TRY(lk_h5_set_u64(j->file, j->part, name[LK_CHECKPOINT_LOG_BYTES], log->bytes));
    LK_TRY(lk_h5_set_text(j->file, j->part, name[LK_CHECKPOINT_LOG_DIGEST], log->digest));
    if (log->changed == 0) return LK_OK;
    return lk_h5_set_u64(j->file, j->part, name[LK_CHECKPOINT_LOG_CHANGED], log->changed);
}

static lk_status write_attributes(job *j)
{
    lk_checkpoint_info *info = &j->info;
    const lk_step_state *s = &info->state;
    LK_TRY(lk_h5_set_u64(j->file, j->part, "step", s->step));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "updates", s->updates));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "skipped", s->skipped));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "good_steps", s->good_steps));
    LK_TRY(lk_h5_set_f64(j->file, j->part, "loss_scale", (double)s->loss_scale));
    LK_TRY(lk_h5_set_f64(j->file, j->part, "loss", (double)s->loss));
    LK_TRY(lk_h5_set_f64(j->file, j->part, "learning_rate", (double)s->lr));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "seed", info->seed));
    LK_TRY(lk_h5_set_u64(j->file, j->part, "leaves", (uint64_t)info->leaves));
    if (info->validated != LK_CHECKPOINT_NONE)
        LK_TRY(lk_h5_set_u64(j->file, j->part, "validated", info->validated));
    for (int i = 0; i < LK_CHECKPOINT_LOGS; i++)
        LK_TRY(write_log(j, lk_checkpoint_log_name[i], &info->log[i]));
    LK_TRY(lk_h5_set_text(j->file, j->part, "kind", lk_dataset_kind_name(info->kind)));
    LK_TRY(write_kind(j));
    for (int i = 0; i < TEXTS; i++) {
        const char *text = *lk_checkpoint_text(info, i);
        if (i == LK_CHECKPOINT_OPTIONAL && !text[0]) continue;
        LK_TRY(lk_h5_set_text(j->file, j->part, lk_checkpoint_text_name[i], text));
    }
    return LK_OK;
}

static lk_status create_file(job *j)
{
    LK_TRY(lk_h5_create(j->part, writers_comm(j), LK_SCHEMA_CHECKPOINT, &j->file));
    return write_attributes(j);
}

static lk_status create_dataset(const job *j, const item *x, hid_t *dataset)
{
    LK_TRY(lk_h5_dataset_create(j->file, j->part, x->path, x->type, x->dims, x->dim, x->chunk,
                                dataset));
    return lk_h5_set_text(*dataset, j->part, "digest", x->digest);
}

/* Collective; a rank whose rows are all written takes part with none. */
static lk_status write_rows(const job *j, const item *x, hid_t dataset, hsize_t first,
                            hsize_t count)
{
    LK_H5_AUTO hid_t file_space = -1, memory_space = -1, transfer = -1;
    hsize_t start[LK_H5_MAX_DIMS] = {first}, size[LK_H5_MAX_DIMS];
    for (int i = 0; i < x->dims; i++) size[i] = i > 0 ? x->dim[i] : count > 0 ? count : 1;
    const char *from = (const char *)x->rows + (first - x->first) * x->row;
    LK_H5(LK_E_SYSTEM, transfer = H5Pcreate(H5P_DATASET_XFER), "%s: transfer list", j->part);
    LK_H5(LK_E_SYSTEM, H5Pset_dxpl_mpio(transfer, H5FD_MPIO_COLLECTIVE), "%s: transfer list",
          j->part);
    LK_H5(LK_E_SYSTEM, file_space = H5Dget_space(dataset), "%s: '%s'", j->part, x->path);
    LK_H5(LK_E_SYSTEM, memory_space = H5Screate_simple(x->dims, size, NULL), "%s: '%s'", j->part,
          x->path);
    if (count > 0)
        LK_H5(LK_E_INTERNAL,
              H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, size, NULL),
              "%s: '%s'", j->part, x->path);
    else if (H5Sselect_none(file_space) < 0 || H5Sselect_none(memory_space) < 0)
        return lk_h5_fail(LK_E_INTERNAL, "%s: '%s'", j->part, x->path);
    LK_H5(LK_E_SYSTEM,
          H5Dwrite(dataset, lk_h5_type_id(x->type), memory_space, file_space, transfer, from),
          "%s: cannot write '%s'; check the disk's free space and quota", j->part, x->path);
    return LK_OK;
}

/* All ranks in the same number of pieces of whole chunks, for a chunk written in two would be read
 * again in between. */
static lk_status write_item(job *j, const item *x)
{
    LK_H5_AUTO hid_t dataset = -1;
    hsize_t ranks = (hsize_t)j->writers;
    hsize_t chunks = lk_checkpoint_stored_bytes(x) / (x->chunk * x->row);
    hsize_t most = (chunks + ranks - 1) / ranks * x->chunk;
    size_t piece = LK_CHECKPOINT_PIECE / (x->chunk * x->row);
    hsize_t step = (piece > 0 ? piece : 1) * x->chunk, at = x->first, end = at + x->count;
    LK_TRY(writers_agree(j, create_dataset(j, x, &dataset)));
    for (hsize_t done = 0; done < most; done += step) {
        hsize_t count = end - at < step ? end - at : step;
        LK_TRY(writers_agree(j, write_rows(j, x, dataset, at, count)));
        at += count;
        lk_io_yield(j->io);
    }
    return LK_OK;
}

/* Rank 0 makes the file, before HDF5 does: MPI tells a full disk as an error that it does not
 * know. */
static lk_status open_part(job *j)
{
    j->fd = open(j->part, O_WRONLY | O_CLOEXEC | (j->rank == 0 ? O_CREAT : 0), 0666);
    return j->fd >= 0 ? LK_OK
                      : lk_fail(LK_E_SYSTEM, "%s: cannot %s: %s; %s", j->part,
                                j->rank == 0 ? "create" : "open", strerror(errno),
                                lk_advice_of_errno(errno, "look at its directory"));
}

/* To the disk, and out of memory, so that it is the disk that is read back. A sync of all would
 * take seconds, in which no row could be read: first piece by piece. */
static lk_status sync_part(job *j)
{
    struct stat s;
    bool good = fstat(j->fd, &s) == 0;
    for (off_t at = 0; good && at < s.st_size; at += (off_t)LK_CHECKPOINT_PIECE) {
        good = sync_file_range(j->fd, at, (off_t)LK_CHECKPOINT_PIECE,
                               SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                   SYNC_FILE_RANGE_WAIT_AFTER) == 0 ||
               errno == ENOSYS || errno == ESPIPE || errno == EINVAL; /* not on this system */
        lk_io_yield(j->io);
    }
    if (!good || fsync(j->fd) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot sync: %s; %s", j->part, strerror(errno),
                       lk_advice_of_errno(errno, "check the disk it lies on"));
    posix_fadvise(j->fd, 0, 0, POSIX_FADV_DONTNEED); /* only advice: without it memory is read */
    return LK_OK;
}

static lk_status write_part(job *j)
{
    LK_TRY(writers_agree(j, j->rank == 0 ? open_part(j) : LK_OK));
    LK_TRY(writers_agree(j, create_file(j)));
    LK_TRY(writers_agree(j, j->rank == 0 ? reserve(j) : open_part(j)));
    for (int i = 0; i < j->items; i++) LK_TRY(write_item(j, &j->item[i]));
    LK_TRY(writers_agree(j, lk_h5_close(j->part, &j->file)));
    return writers_agree(j, sync_part(j));
}

/* ---- after the file -------------------------------------------------------------------------- */

static lk_status verify_mine(job *j, hid_t file)
{
    lk_checkpoint_info info = {.leaves = 0};
    /* what is written can be opened again */
    lk_status status = lk_checkpoint_read_info(file, j->part, &info);
    lk_checkpoint_info_clear(&info);
    for (int i = 0; i < j->items && status == LK_OK; i++) {
        const item *x = &j->item[i];
        lk_h5_dataset d = {.id = -1};
        if (!lk_checkpoint_mine(j, i)) continue;
        status = lk_h5_dataset_open(file, j->part, x->path, 0, &d);
        if (status == LK_OK && strcmp(d.digest, x->digest) != 0)
            status = lk_fail(LK_E_SYSTEM, "%s: '%s': its digest is not there", j->part, x->path);
        if (status == LK_OK) status = lk_h5_dataset_verify_in(j->io, &d, j->part, x->path);
        lk_h5_release(&d.id);
    }
    return status;
}

static lk_status verify(job *j)
{
    hid_t file = -1;
    lk_status status = lk_checkpoint_open_each(j, j->part, &file);
    if (status == LK_OK) {
        status = lk_checkpoint_agree(j, verify_mine(j, file));
        H5Fclose(file); /* read only: nothing to lose */
    }
    if (status != LK_OK)
        lk_fail_prefix(status, "a checkpoint does not read back as it was written");
    return status == LK_E_INPUT ? LK_E_SYSTEM : status;
}

/* Rank 0. The new file is safe before an older one goes. */
static lk_status publish(job *j)
{
    struct stat s;
    if (j->rank != 0) return LK_OK;
    LK_TRY(trim(j));
    LK_TRY(lk_replace_publish(j->part, j->path));
    LK_TRY(lk_checkpoint_dir_point(j->given, strrchr(j->path, '/') + 1));
    j->figures.bytes = stat(j->path, &s) == 0 ? (uint64_t)s.st_size : 0;
    lk_checkpoint_dir_prune(j->given, j->info.state.step, j->good, j->keep, j->figures.warning,
                            sizeof j->figures.warning);
    return LK_OK;
}

static lk_status write_verified(job *j)
{
    lk_status status = lk_checkpoint_agree(j, j->rank < j->writers ? write_part(j) : LK_OK);
    double begun = lk_clock_seconds();
    if (status == LK_OK) status = verify(j);
    j->figures.read_seconds = lk_clock_seconds() - begun;
    if (j->fd >= 0) close(j->fd);
    j->fd = -1;
    if (status == LK_OK) status = lk_checkpoint_agree(j, publish(j));
    if (status != LK_OK) {
        lk_h5_abandon(j->part, writers_comm(j), &j->file);
        if (j->rank == 0) unlink(j->part);
    }
    return status;
}

lk_status lk_checkpoint_write(job *j)
{
    double begun = lk_clock_seconds();
    j->figures = (lk_checkpoint_figures){.step = j->info.state.step};
    LK_TRY(lk_checkpoint_agree(j, list_info(j)));
    LK_TRY(lk_checkpoint_agree(j, name_files(j)));
    LK_TRY(lk_checkpoint_agree(j, j->rank == 0 ? make_room(j) : LK_OK));
    LK_TRY(lk_checkpoint_agree(j, check_limit(j)));
    LK_TRY(share_digests(j));
    LK_TRY(write_verified(j));
    if (!j->figures.warning[0])
        snprintf(j->figures.warning, sizeof j->figures.warning, "%s", lk_h5_note(j->part));
    snprintf(j->figures.path, sizeof j->figures.path, "%s", j->path);
    j->figures.seconds = lk_clock_seconds() - begun;
    return lk_checkpoint_broadcast(j, &j->figures, sizeof j->figures, 0);
}
