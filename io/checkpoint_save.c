/* Saving a checkpoint.
 *
 * Nobody sees a file before it is whole: it is written as .part, closed, fsynced and read back,
 * and only then renamed. Before each collective step the ranks agree whether one of them failed,
 * so that none waits in a transfer that another will never join. */
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

static lk_status agree(const job *j, lk_status mine) { return lk_checkpoint_agree(j, mine); }

/* Rows of a chunk: chunks of about LK_H5_CHUNK bytes, as even as can be, for the last is padded. */
static hsize_t chunk_rows(const item *x)
{
    hsize_t chunks = (x->bytes + LK_H5_CHUNK - 1) / LK_H5_CHUNK;
    return chunks < 2 ? x->dim[0] : (x->dim[0] + chunks - 1) / chunks;
}

static size_t stored_bytes(const item *x)
{
    hsize_t rows = chunk_rows(x);
    return (x->dim[0] + rows - 1) / rows * rows * x->row;
}

static void list_info(job *j)
{
    item *state = &j->item[j->items++];
    strcpy(state->path, "state");
    lk_checkpoint_set_item(state, LK_H5_U8, 1, 1, (int64_t[]){sizeof j->info.state},
                           &j->info.state);
    if (j->info.kind != LK_TEXT_DATA) return;
    item *vocabulary = &j->item[j->items++];
    strcpy(vocabulary->path, "vocabulary");
    lk_checkpoint_set_item(vocabulary, LK_H5_U32, sizeof(uint32_t), 1, &j->info.vocabulary_size,
                           j->info.vocabulary);
}

/* ---- before the file ------------------------------------------------------------------------- */

static lk_status check_texts(lk_checkpoint_info *info)
{
    if (info->kind != LK_TEXT_DATA && info->kind != LK_IMAGE_DATA)
        return lk_fail(LK_E_INTERNAL, "a checkpoint of a model of '%s'",
                       lk_dataset_kind_name(info->kind));
    for (int i = 0; i < TEXTS; i++)
        if (!*lk_checkpoint_text(info, i))
            return lk_fail(LK_E_INTERNAL, "a checkpoint without its '%s'",
                           lk_checkpoint_text_name[i]);
    return LK_OK;
}

/* What an info points to, in the order in which it lies in `shared`: what needs alignment first. */
enum { VOCABULARY, MEAN, STD, NAMES, FIRST_TEXT, PARTS = FIRST_TEXT + TEXTS };

static void measure_parts(lk_checkpoint_info *info, uint64_t length[PARTS])
{
    const lk_image_format *f = &info->image;
    bool text = info->kind == LK_TEXT_DATA;
    length[VOCABULARY] = text ? (uint64_t)info->vocabulary_size * sizeof *info->vocabulary : 0;
    length[MEAN] = length[STD] = text ? 0 : (uint64_t)f->channels * sizeof *f->mean;
    length[NAMES] = 0;
    for (int64_t i = 0; i < f->classes && !text; i++) length[NAMES] += strlen(f->name[i]) + 1;
    for (int i = 0; i < TEXTS; i++)
        length[FIRST_TEXT + i] = strlen(*lk_checkpoint_text(info, i)) + 1;
}

static void pack(char *to, lk_checkpoint_info *info, const uint64_t length[PARTS])
{
    const void *part[PARTS] = {info->vocabulary, info->image.mean, info->image.std, NULL};
    for (int i = 0; i < TEXTS; i++) part[FIRST_TEXT + i] = *lk_checkpoint_text(info, i);
    for (int i = 0; i < PARTS; to += length[i++])
        if (part[i] && length[i] > 0) memcpy(to, part[i], length[i]);
        else if (i == NAMES && length[i] > 0)
            for (char *at = to, **name = info->image.name; at < to + length[i]; name++)
                at = stpcpy(at, *name) + 1;
}

static void unpack(job *j, const uint64_t length[PARTS])
{
    char *part[PARTS], *at = j->shared;
    for (int i = 0; i < PARTS; at += length[i++]) part[i] = at;
    j->info.vocabulary = (uint32_t *)part[VOCABULARY];
    j->info.image.mean = (float *)part[MEAN];
    j->info.image.std = (float *)part[STD];
    j->info.image.name = j->names;
    at = part[NAMES];
    for (int64_t i = 0; at < part[NAMES] + length[NAMES]; at += strlen(at) + 1) j->names[i++] = at;
    for (int i = 0; i < TEXTS; i++) *lk_checkpoint_text(&j->info, i) = part[FIRST_TEXT + i];
}

/* Give every rank the info of rank 0: attributes are written by all and must be equal, and a
 * rank may have made other choices, or more. */
static lk_status share_info(job *j)
{
    uint64_t length[PARTS] = {0};
    size_t total = 0;
    lk_checkpoint_info mine = j->info;
    LK_TRY(agree(j, j->rank == 0 ? check_texts(&mine) : LK_OK));
    if (j->rank == 0) measure_parts(&mine, length);
    LK_TRY(lk_checkpoint_broadcast(j, &j->info, sizeof j->info, 0));
    LK_TRY(lk_checkpoint_broadcast(j, length, sizeof length, 0));
    for (int i = 0; i < PARTS; i++) total += length[i];
    j->shared = malloc(total);
    j->names = calloc((size_t)j->info.image.classes + 1, sizeof *j->names);
    LK_TRY(agree(j, j->shared && j->names ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    if (j->rank == 0) pack(j->shared, &mine, length);
    LK_TRY(lk_checkpoint_broadcast(j, j->shared, total, 0));
    unpack(j, length);
    return LK_OK;
}

static lk_status name_files(job *j)
{
    int n = snprintf(j->path, sizeof j->path, "%s/step-%06llu.h5", j->given,
                     (unsigned long long)j->info.state.step);
    if (n < 0 || (size_t)n >= sizeof j->path)
        return lk_fail(LK_E_INPUT, "%s: the path is too long", j->given);
    snprintf(j->part, sizeof j->part, "%s.part", j->path);
    return LK_OK;
}

static uint64_t needed_bytes(const job *j)
{
    lk_checkpoint_info info = j->info;
    uint64_t needed = 1 << 20; /* superblock, groups, attributes */
    for (int i = 0; i < j->items; i++) needed += stored_bytes(&j->item[i]) + 4096;
    for (int i = 0; i < TEXTS; i++) needed += strlen(*lk_checkpoint_text(&info, i));
    size_t longest = 0; /* names are stored at one length */
    for (int64_t i = 0; i < info.image.classes; i++)
        if (strlen(info.image.name[i]) > longest) longest = strlen(info.image.name[i]);
    return needed + (uint64_t)info.image.classes * (longest + 1);
}

/* On rank 0: remove what a killed run left behind, then see whether the file will fit. */
static lk_status make_room(const job *j)
{
    struct statvfs disk;
    struct stat s;
    uint64_t needed = needed_bytes(j);
    if (stat(j->given, &s) != 0 || statvfs(j->given, &disk) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: expected a directory for checkpoints, found: %s",
                       j->given, strerror(errno));
    if (!S_ISDIR(s.st_mode))
        return lk_fail(LK_E_SYSTEM, "%s: expected a directory for checkpoints, found a file",
                       j->given);
    if (unlink(j->part) != 0 && errno != ENOENT)
        return lk_fail(LK_E_SYSTEM, "%s: cannot remove the old file: %s", j->part,
                       strerror(errno));
    uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (room < needed)
        return lk_fail(LK_E_SYSTEM, "%s: expected %llu free bytes for a checkpoint, found %llu; "
                       "make room on the disk", j->given, (unsigned long long)needed,
                       (unsigned long long)room);
    return LK_OK;
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

/* On rank 0: take the blocks now, where the file system can. Neither HDF5 nor MPI-IO recovers when
 * one rank's write fails in a collective transfer: the others may wait for ever. */
static lk_status reserve(const job *j)
{
    int fd = open(j->part, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return lk_fail(LK_E_SYSTEM, "%s: cannot open: %s", j->part, strerror(errno));
    bool full = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)needed_bytes(j)) != 0 &&
                (errno == ENOSPC || errno == EDQUOT || errno == EFBIG);
    int error = errno;
    close(fd);
    return full ? lk_fail(LK_E_SYSTEM, "%s: cannot reserve %llu bytes: %s; make room on the disk",
                          j->part, (unsigned long long)needed_bytes(j), strerror(error))
                : LK_OK;
}

/* What was reserved and not used goes back. */
static lk_status trim(const job *j)
{
    struct stat s;
    if (stat(j->part, &s) != 0 || truncate(j->part, s.st_size) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot trim the file: %s", j->part, strerror(errno));
    return LK_OK;
}

static lk_status share_digests(job *j)
{
    unsigned char *all = calloc((size_t)j->items, LK_DIGEST_TEXT);
    LK_TRY(agree(j, all ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    for (int i = 0; i < j->items; i++)
        if (lk_checkpoint_mine(j, i))
            lk_digest_bytes(j->item[i].data, j->item[i].bytes,
                            (char *)all + (size_t)i * LK_DIGEST_TEXT);
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
    return lk_format_write_images(j->file, j->part, f);
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
    LK_TRY(lk_h5_set_text(j->file, j->part, "kind", lk_dataset_kind_name(info->kind)));
    LK_TRY(write_kind(j));
    for (int i = 0; i < TEXTS; i++)
        LK_TRY(lk_h5_set_text(j->file, j->part, lk_checkpoint_text_name[i],
                              *lk_checkpoint_text(info, i)));
    return LK_OK;
}

static lk_status create_file(job *j)
{
    LK_TRY(lk_h5_create(j->part, j->comm, LK_CHECKPOINT_SCHEMA, &j->file));
    return write_attributes(j);
}

static lk_status create_dataset(const job *j, const item *x, hid_t *dataset)
{
    LK_H5_AUTO hid_t space = -1, links = -1, dcpl = -1;
    LK_TRY(lk_h5_chunked(x->dims, x->dim, chunk_rows(x), &dcpl));
    LK_H5(LK_E_SYSTEM, space = H5Screate_simple(x->dims, x->dim, NULL), "%s: '%s'", j->part,
          x->path);
    LK_H5(LK_E_SYSTEM, links = H5Pcreate(H5P_LINK_CREATE), "%s: '%s'", j->part, x->path);
    LK_H5(LK_E_SYSTEM, H5Pset_create_intermediate_group(links, 1), "%s: '%s'", j->part, x->path);
    LK_H5(LK_E_SYSTEM, *dataset = H5Dcreate2(j->file, x->path, lk_h5_type_id(x->type), space,
                                             links, dcpl, H5P_DEFAULT),
          "%s: cannot create '%s'", j->part, x->path);
    return lk_h5_set_text(*dataset, j->part, "digest", x->digest);
}

/* Collective; a rank whose rows are all written takes part with none. */
static lk_status write_rows(const job *j, const item *x, hid_t dataset, hsize_t first,
                            hsize_t count)
{
    LK_H5_AUTO hid_t file_space = -1, memory_space = -1, transfer = -1;
    hsize_t start[LK_H5_MAX_DIMS] = {first}, size[LK_H5_MAX_DIMS];
    for (int i = 0; i < x->dims; i++) size[i] = i > 0 ? x->dim[i] : count > 0 ? count : 1;
    const char *from = (const char *)x->data + first * x->row;
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

/* Rank r of R writes rows [rows r/R, rows (r+1)/R), all in the same number of pieces. */
static lk_status write_item(const job *j, const item *x)
{
    LK_H5_AUTO hid_t dataset = -1;
    hsize_t rows = x->dim[0], rank = (hsize_t)j->rank, ranks = (hsize_t)j->ranks;
    hsize_t at = rows * rank / ranks, end = rows * (rank + 1) / ranks;
    hsize_t most = (rows + ranks - 1) / ranks;
    hsize_t step = x->row < LK_H5_PIECE ? LK_H5_PIECE / x->row : 1;
    LK_TRY(agree(j, create_dataset(j, x, &dataset)));
    for (hsize_t done = 0; done < most; done += step) {
        hsize_t count = end - at < step ? end - at : step;
        LK_TRY(agree(j, write_rows(j, x, dataset, at, count)));
        at += count;
    }
    return LK_OK;
}

static lk_status write_part(job *j)
{
    LK_TRY(agree(j, create_file(j)));
    LK_TRY(agree(j, j->rank == 0 ? reserve(j) : LK_OK));
    for (int i = 0; i < j->items; i++) LK_TRY(write_item(j, &j->item[i]));
    LK_TRY(agree(j, lk_h5_close(j->part, &j->file)));
    return agree(j, lk_h5_fsync(j->part));
}

/* ---- after the file -------------------------------------------------------------------------- */

static lk_status verify_mine(const job *j, hid_t file)
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
        if (status == LK_OK) status = lk_h5_dataset_verify(&d, j->part, x->path);
        lk_h5_release(&d.id);
    }
    return status;
}

static lk_status verify(const job *j)
{
    hid_t file = -1;
    LK_TRY(lk_checkpoint_open_each(j, j->part, &file));
    lk_status status = agree(j, verify_mine(j, file));
    H5Fclose(file); /* read only: nothing to lose */
    if (status != LK_OK)
        lk_fail_prefix(status, "a checkpoint does not read back as it was written");
    return status == LK_E_INPUT ? LK_E_SYSTEM : status;
}

/* A link cannot be rewritten in place: make another one and rename it over the old. */
static lk_status replace_latest(const job *j)
{
    char latest[PATH_MAX + 16], fresh[PATH_MAX + 16];
    snprintf(latest, sizeof latest, "%s/latest", j->given);
    snprintf(fresh, sizeof fresh, "%s/latest.part", j->given);
    unlink(fresh); /* of a killed run; if it cannot go, symlink() tells */
    if (symlink(strrchr(j->path, '/') + 1, fresh) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot make the link: %s", fresh, strerror(errno));
    if (rename(fresh, latest) != 0) {
        int error = errno;
        unlink(fresh);
        return lk_fail(LK_E_SYSTEM, "%s: cannot replace the link: %s", latest, strerror(error));
    }
    return lk_h5_fsync(j->given);
}

static lk_status publish(const job *j)
{
    if (j->rank != 0) return LK_OK;
    LK_TRY(trim(j));
    LK_TRY(lk_h5_publish(j->part, j->path));
    return replace_latest(j);
}

static lk_status save(job *j)
{
    LK_TRY(share_info(j));
    LK_TRY(agree(j, lk_checkpoint_list_params(j)));
    list_info(j);
    LK_TRY(agree(j, name_files(j)));
    LK_TRY(agree(j, j->rank == 0 ? make_room(j) : LK_OK));
    LK_TRY(agree(j, check_limit(j)));
    LK_TRY(agree(j, share_digests(j)));
    lk_status status = write_part(j);
    if (status == LK_OK) status = verify(j);
    if (status == LK_OK) status = agree(j, publish(j));
    if (status != LK_OK) {
        lk_h5_abandon(j->part, j->comm, &j->file);
        if (j->rank == 0) unlink(j->part);
    }
    return status;
}

static lk_status save_job(void *j) { return save(j); }

lk_status lk_checkpoint_save(lk_io *io, MPI_Comm world, const char *directory,
                             const lk_params *params, const lk_checkpoint_info *info,
                             const lk_flat *data)
{
    job j = {.given = directory, .params = params, .data = data, .info = *info};
    return lk_checkpoint_run(io, world, save_job, &j);
}

