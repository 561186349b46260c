/* Reading checkpoints, and what saving shares with it. */
#include "base/heart.h"
#include "io/checkpoint_job.h"
#include "io/format.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS = LK_CHECKPOINT_TEXTS, GROUPS = LK_CHECKPOINT_GROUPS };
enum { MAX_LEAVES = 1 << 20, MAX_SIDE = 1 << 15 };

typedef lk_checkpoint_item item;
typedef lk_checkpoint_job job;

static const char *const group_name[GROUPS] = {"parameters", "moment1", "moment2", "ema"};

const char *const lk_checkpoint_text_name[TEXTS] = {
    "run_file", "choices", "code_version", "build", "dataset_path", "dataset_digest",
    "reference"};

const char *const lk_checkpoint_log_name[LK_CHECKPOINT_LOGS][3] = {
    {"loss_log_bytes", "loss_log_digest", "loss_log_changed"},
    {"validation_log_bytes", "validation_log_digest", "validation_log_changed"}};

char **lk_checkpoint_text(lk_checkpoint_info *info, int i)
{
    char **const member[TEXTS] = {&info->run_file, &info->choices,      &info->code_version,
                                  &info->build,    &info->dataset_path, &info->dataset_digest,
                                  &info->reference};
    return member[i];
}

lk_status lk_checkpoint_agree(job *j, lk_status mine)
{
    if (mine != LK_OK && !j->failed) {
        snprintf(j->failure, sizeof j->failure, "%.*s", (int)sizeof j->failure - 1,
                 lk_error_text());
        j->failed = true;
        lk_heart_fail(j->failure);
    }
    return lk_h5_agree_in(j->io, j->comm, mine);
}

lk_status lk_checkpoint_broadcast(const job *j, void *bytes, size_t size, int root)
{
    for (size_t at = 0; at < size && j->ranks > 1; at += LK_H5_PIECE) {
        size_t n = size - at < LK_H5_PIECE ? size - at : LK_H5_PIECE;
        if (MPI_Bcast((char *)bytes + at, (int)n, MPI_BYTE, root, j->comm) != MPI_SUCCESS)
            return lk_fail(LK_E_COMM, "%s: MPI_Bcast failed", j->given);
    }
    return LK_OK;
}

/* ---- what is in the file --------------------------------------------------------------------- */

void lk_checkpoint_set_item(item *x, lk_h5_type type, size_t element, int dims, const int64_t *dim,
                            void *data)
{
    x->type = type;
    x->dims = dims;
    x->row = element;
    for (int i = 0; i < dims; i++) x->dim[i] = (hsize_t)dim[i];
    for (int i = 1; i < dims; i++) x->row *= (size_t)dim[i];
    x->bytes = x->row * (size_t)dim[0];
    x->data = data;
}

/* "blocks.0.norm.weight" in group "moment1": "moment1/blocks/0/norm/weight". */
static lk_status set_param(const job *j, item *x, int group, const lk_param *p)
{
    int n = snprintf(x->path, sizeof x->path, "%s/%s", group_name[group], p->name);
    if (n < 0 || (size_t)n >= sizeof x->path)
        return lk_fail(LK_E_INTERNAL, "the parameter name '%s' is too long", p->name);
    for (char *c = x->path; *c; c++)
        if (*c == '.') *c = '/';
    x->group = group;
    x->offset = p->offset;
    lk_checkpoint_set_item(x, LK_H5_F32, sizeof(float), p->dims, p->dim,
                           j->flat[group] ? j->flat[group] + p->offset : NULL);
    return LK_OK;
}

void lk_checkpoint_take(job *j, const lk_flat *d)
{
    memcpy(j->flat, (float *[]){d->param, d->moment1, d->moment2, d->ema}, sizeof j->flat);
    for (int g = 0; g < GROUPS; g++) j->has[g] = j->flat[g] != NULL;
}

lk_status lk_checkpoint_list_params(job *j)
{
    j->item = calloc((size_t)j->params->count * GROUPS + 2, sizeof *j->item);
    if (!j->item) return lk_fail(LK_E_SYSTEM, "out of memory");
    if (j->has[1] != j->has[2])
        return lk_fail(LK_E_INTERNAL, "a checkpoint has both moments or none");
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < j->params->count && j->has[g]; i++)
            LK_TRY(set_param(j, &j->item[j->items++], g, j->params->item[i]));
    j->tensors = j->items;
    return LK_OK;
}

/* ---- the info -------------------------------------------------------------------------------- */

static lk_status read_state(hid_t file, const char *where, lk_step_state *state)
{
    lk_h5_dataset d = {.id = -1};
    LK_TRY(lk_h5_dataset_open(file, where, "state", 0, &d));
    lk_status status = lk_h5_dataset_expect(&d, where, "state", LK_H5_U8, 1);
    if (status == LK_OK && d.bytes != sizeof *state)
        status = lk_fail(LK_E_INPUT, "%s: 'state': expected %zu bytes, found %zu; use the lockstep "
                         "that wrote it", where, sizeof *state, d.bytes);
    if (status == LK_OK) status = lk_h5_dataset_read(&d, where, "state", state);
    lk_h5_release(&d.id);
    return status;
}

static lk_status check_digest(const char *where, const char *name, const char *text)
{
    if (strlen(text) == LK_DIGEST_TEXT - 1 &&
        strspn(text, "0123456789abcdef") == LK_DIGEST_TEXT - 1)
        return LK_OK;
    return lk_fail(LK_E_INPUT,
                   "%s: attribute '%s': expected 32 hexadecimal digits, found "
                   "'%.60s'; the file is damaged, use another checkpoint",
                   where, name, text);
}

static lk_status check_info(const char *where, const lk_checkpoint_info *info, uint64_t step,
                            uint64_t leaves)
{
    const lk_step_state *s = &info->state;
    if (leaves < 1 || leaves > MAX_LEAVES || (leaves & (leaves - 1)))
        return lk_fail(LK_E_INPUT,
                       "%s: attribute 'leaves': expected a power of two, found %llu; "
                       "the file is damaged, use another checkpoint",
                       where, (unsigned long long)leaves);
    if (s->step != step)
        return lk_fail(LK_E_INPUT,
                       "%s: 'state': expected step %llu as the attribute says, found "
                       "%llu; the file is damaged, use another checkpoint",
                       where, (unsigned long long)step, (unsigned long long)s->step);
    if (s->updates > step || s->skipped > step || s->finite > 1)
        return lk_fail(LK_E_INPUT,
                       "%s: 'state': expected at most %llu updates, found %llu, %llu "
                       "skipped; the file is damaged, use another checkpoint",
                       where, (unsigned long long)step, (unsigned long long)s->updates,
                       (unsigned long long)s->skipped);
    if (!(isfinite(s->loss_scale) && s->loss_scale > 0))
        return lk_fail(LK_E_INPUT,
                       "%s: 'state': expected a positive loss scale, found %g; the "
                       "file is damaged, use another checkpoint",
                       where, (double)s->loss_scale);
    if (!(isfinite(s->lr) && s->lr >= 0))
        return lk_fail(LK_E_INPUT,
                       "%s: 'state': expected a learning rate, found %g; the file is "
                       "damaged, use another checkpoint",
                       where, (double)s->lr);
    return check_digest(where, "dataset_digest", info->dataset_digest);
}

static lk_status read_image(hid_t file, const char *where, lk_image_format *f)
{
    static const char *const name[] = {"height", "width", "channels", "text_length"};
    int64_t *const side[] = {&f->height, &f->width, &f->channels, &f->text};
    bool texts = false;
    LK_TRY(lk_h5_has(file, where, "vocabulary_size", &texts));
    for (int i = 0; i < 3 + texts; i++) {
        uint64_t value = 0;
        LK_TRY(lk_h5_get_u64(file, where, name[i], &value));
        if (value < 1 || value > MAX_SIDE)
            return lk_fail(LK_E_INPUT,
                           "%s: attribute '%s': expected 1 to %d, found %llu; the "
                           "file is damaged, use another checkpoint",
                           where, name[i], MAX_SIDE, (unsigned long long)value);
        *side[i] = (int64_t)value;
    }
    return lk_format_read_images(file, where, f);
}

/* Checkpoints of before know nothing of the logs. */
static lk_status read_log(hid_t file, const char *where, const char *const name[3],
                          lk_checkpoint_log *log)
{
    const char *digest = name[LK_CHECKPOINT_LOG_DIGEST], *changed = name[LK_CHECKPOINT_LOG_CHANGED];
    char *text = NULL;
    bool there = false;
    LK_TRY(lk_h5_has(file, where, digest, &there));
    if (!there) return LK_OK;
    LK_TRY(lk_h5_get_u64(file, where, name[LK_CHECKPOINT_LOG_BYTES], &log->bytes));
    LK_TRY(lk_h5_has(file, where, changed, &there));
    if (there) LK_TRY(lk_h5_get_u64(file, where, changed, &log->changed));
    LK_TRY(lk_h5_get_text(file, where, digest, &text));
    lk_status status = check_digest(where, digest, text);
    if (status == LK_OK) strcpy(log->digest, text);
    free(text);
    return status;
}

lk_status lk_checkpoint_read_info(hid_t file, const char *where, lk_checkpoint_info *info)
{
    uint64_t step = 0, leaves = 0;
    LK_TRY(lk_h5_get_u64(file, where, "step", &step));
    LK_TRY(lk_h5_get_u64(file, where, "seed", &info->seed));
    LK_TRY(lk_h5_get_u64(file, where, "leaves", &leaves));
    bool told = false;
    info->validated = LK_CHECKPOINT_NONE;
    LK_TRY(lk_h5_has(file, where, "validated", &told));
    if (told) LK_TRY(lk_h5_get_u64(file, where, "validated", &info->validated));
    for (int i = 0; i < LK_CHECKPOINT_LOGS; i++)
        LK_TRY(read_log(file, where, lk_checkpoint_log_name[i], &info->log[i]));
    for (int i = 0; i < TEXTS; i++) {
        const char *name = lk_checkpoint_text_name[i];
        bool there = true;
        if (i == LK_CHECKPOINT_OPTIONAL) LK_TRY(lk_h5_has(file, where, name, &there));
        if (!there) continue;
        LK_TRY(lk_h5_get_text(file, where, name, lk_checkpoint_text(info, i)));
    }
    LK_TRY(read_state(file, where, &info->state));
    LK_TRY(lk_format_read_kind(file, where, true, &info->kind));
    if (info->kind == LK_TABLE_DATA)
        return lk_fail(LK_E_INPUT, "%s: expected the kind 'text' or 'images', found 'table'; use "
                       "the lockstep that wrote it", where);
    LK_TRY(info->kind == LK_IMAGE_DATA
               ? read_image(file, where, &info->image)
               : lk_format_read_vocabulary(file, where, &info->characters,
                                           &info->vocabulary, &info->vocabulary_size));
    LK_TRY(lk_h5_link(file, where, group_name[1], &info->has_moments));
    LK_TRY(lk_h5_link(file, where, group_name[3], &info->has_ema));
    LK_TRY(check_info(where, info, step, leaves));
    info->leaves = (int)leaves;
    return LK_OK;
}

void lk_checkpoint_info_clear(lk_checkpoint_info *info)
{
    for (int i = 0; i < TEXTS; i++) free(*lk_checkpoint_text(info, i));
    free(info->vocabulary);
    lk_image_format_clear(&info->image);
    free(info->path);
    memset(info, 0, sizeof *info);
}

/* Each rank by itself: HDF5 makes some reading of metadata collective in a file opened together
 * (1.10.8: H5Lget_info), and the ranks open different datasets. Collective. */
lk_status lk_checkpoint_open_each(job *j, const char *path, hid_t *file)
{
    lk_status status = lk_checkpoint_agree(j, lk_h5_open(path, LK_SCHEMA_CHECKPOINT, file));
    if (status == LK_OK || *file < 0) return status;
    H5Fclose(*file);
    *file = -1;
    return status;
}

/* ---- load ------------------------------------------------------------------------------------ */

/* Rank 0 says which file it is: `latest` may be replaced while the ranks look. */
static lk_status find_file(job *j)
{
    char *path = NULL;
    lk_status status = j->rank == 0 ? lk_checkpoint_resolve(j->given, &path) : LK_OK;
    if (path && strlen(path) >= sizeof j->path)
        status =
            lk_fail(LK_E_INPUT, "%.200s...: the path is too long; work with shorter ones", path);
    else if (path)
        strcpy(j->path, path);
    free(path);
    LK_TRY(lk_checkpoint_agree(j, status));
    return lk_checkpoint_broadcast(j, j->path, sizeof j->path, 0);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const item *)a)->path, ((const item *)b)->path);
}

static const char *shape_of(const item *x, char *text, size_t size)
{
    lk_h5_dataset d = {.dims = x->dims};
    memcpy(d.dim, x->dim, sizeof d.dim);
    return lk_h5_shape(&d, text, size);
}

/* Both lists are sorted, so the first place where they differ tells which name is missing. */
static lk_status compare_names(const job *j, hid_t file, const item *want, int count,
                               const char *group)
{
    char shape[96];
    lk_h5_list found;
    lk_status status = LK_OK;
    LK_TRY(lk_h5_list_datasets(file, j->path, group, &found));
    for (int i = 0; (i < count || i < found.count) && status == LK_OK; i++) {
        int order = i >= count ? 1 : i >= found.count ? -1 : strcmp(want[i].path, found.path[i]);
        if (order < 0)
            status = lk_fail(LK_E_INPUT, "%s: expected '%s' %s as in the model of the run file, "
                             "found no such dataset; use the run file of this checkpoint", j->path,
                             want[i].path, shape_of(&want[i], shape, sizeof shape));
        if (order > 0)
            status = lk_fail(LK_E_INPUT, "%s: expected only what the model of the run file has, "
                             "found '%s' too; use the run file of this checkpoint", j->path,
                             found.path[i]);
    }
    lk_h5_list_clear(&found);
    return status;
}

static lk_status check_names(job *j, hid_t file)
{
    int count = j->params->count;
    item *first = j->item;
    for (int g = 0; g < GROUPS; g++) {
        bool there = true;
        if (!j->has[g]) continue;
        if (g > 0) LK_TRY(lk_h5_link(file, j->path, group_name[g], &there));
        if (!there)
            return lk_fail(LK_E_INPUT, "%s: expected %s, found %s; training cannot continue from "
                           "it, use another checkpoint", j->path,
                           g == 3 ? "a moving average of the parameters" : "optimizer moments",
                           g == 3 ? "none" : "parameters only");
        qsort(first, (size_t)count, sizeof *first, by_path);
        LK_TRY(compare_names(j, file, first, count, group_name[g]));
        first += count;
    }
    return LK_OK;
}

static lk_status check_shape(const job *j, const item *x, const lk_h5_dataset *d)
{
    char want[96], found[96];
    bool same = d->type == x->type && d->dims == x->dims;
    for (int i = 0; i < x->dims && same; i++) same = d->dim[i] == x->dim[i];
    if (same) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: '%s': expected %s %s as in the model of the run file, found "
                   "%s %s; use the run file of this checkpoint", j->path, x->path,
                   lk_h5_type_name(x->type), shape_of(x, want, sizeof want),
                   lk_h5_type_name(d->type), lk_h5_shape(d, found, sizeof found));
}

/* Every rank checks every shape, so that all know the same first difference; one reads. */
static lk_status read_item(const job *j, hid_t file, int i)
{
    const item *x = &j->item[i];
    lk_h5_dataset d = {.id = -1};
    LK_TRY(lk_h5_dataset_open(file, j->path, x->path, 0, &d));
    lk_status status = check_shape(j, x, &d);
    if (status == LK_OK && lk_checkpoint_mine(j, i))
        status = lk_h5_dataset_read(&d, j->path, x->path, x->data);
    lk_h5_release(&d.id);
    return status;
}

static lk_status read_items(job *j, hid_t file)
{
    LK_TRY(lk_checkpoint_list_params(j));
    LK_TRY(check_names(j, file));
    LK_TRY(lk_checkpoint_deal(j));
    for (int g = 0; g < GROUPS; g++)
        if (j->has[g]) memset(j->flat[g], 0, (size_t)j->params->total * sizeof *j->flat[g]);
    for (int i = 0; i < j->items; i++) LK_TRY(read_item(j, file, i));
    return LK_OK;
}

static lk_status load(job *j)
{
    LK_TRY(find_file(j));
    LK_TRY(lk_checkpoint_open_each(j, j->path, &j->file));
    lk_status status = lk_checkpoint_agree(j, read_items(j, j->file));
    H5Fclose(j->file); /* read only: nothing to lose */
    for (int i = 0; i < j->items && status == LK_OK; i++)
        status = lk_checkpoint_broadcast(j, j->item[i].data, j->item[i].bytes, j->item[i].owner);
    return status;
}

static lk_status open_info(job *j)
{
    LK_TRY(find_file(j));
    LK_TRY(lk_checkpoint_open_each(j, j->path, &j->file));
    lk_status status = lk_checkpoint_agree(j, lk_checkpoint_read_info(j->file, j->path, &j->info));
    H5Fclose(j->file);
    if (status != LK_OK) lk_checkpoint_info_clear(&j->info);
    return status;
}

/* ---- public ---------------------------------------------------------------------------------- */

static lk_status load_job(void *j) { return load(j); }
static lk_status open_job(void *j) { return open_info(j); }

lk_status lk_checkpoint_run(lk_io *io, MPI_Comm world, lk_io_job run, job *j)
{
    j->file = j->fd = -1;
    j->io = io;
    LK_TRY(lk_h5_comm(world, &j->comm));
    MPI_Comm_rank(j->comm, &j->rank);
    MPI_Comm_size(j->comm, &j->ranks);
    lk_status status = lk_io_call(io, run, j);
    MPI_Comm_free(&j->comm);
    free(j->item);
    free(j->shared);
    free(j->names);
    return status;
}

lk_status lk_checkpoint_open(lk_io *io, MPI_Comm world, const char *path,
                             lk_checkpoint_info *info)
{
    job j = {.given = path};
    LK_TRY(lk_checkpoint_run(io, world, open_job, &j));
    j.info.path = strdup(j.path);
    if (!j.info.path) {
        lk_checkpoint_info_clear(&j.info);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    *info = j.info;
    return LK_OK;
}

lk_status lk_checkpoint_load(lk_io *io, MPI_Comm world, const char *path, const lk_params *params,
                             const lk_flat *data)
{
    job j = {.given = path, .params = params};
    lk_checkpoint_take(&j, data);
    return lk_checkpoint_run(io, world, load_job, &j);
}
