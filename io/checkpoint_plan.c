/* A save before it begins: which rank writes and digests what, and one info for all. */
#include "io/checkpoint_job.h"

#include <stdlib.h>
#include <string.h>

enum { TEXTS = LK_CHECKPOINT_TEXTS };

typedef lk_checkpoint_item item;
typedef lk_checkpoint_job job;

/* ---- who does what --------------------------------------------------------------------------- */

/* Rows of a chunk: chunks of about LK_H5_CHUNK bytes, as even as can be, for the last is padded. */
static hsize_t chunk_rows(const item *x)
{
    hsize_t chunks = (x->bytes + LK_H5_CHUNK - 1) / LK_H5_CHUNK;
    hsize_t rows = chunks < 2 ? x->dim[0] : (x->dim[0] + chunks - 1) / chunks;
    return rows > 0 ? rows : 1;
}

static hsize_t chunks_of(const item *x) { return (x->dim[0] + x->chunk - 1) / x->chunk; }

uint64_t lk_checkpoint_stored_bytes(const item *x) { return chunks_of(x) * x->chunk * x->row; }

/* The least loaded digests the next: sizes differ by orders of magnitude. Whole chunks only, for a
 * chunk that two ranks write would travel between them; the turn of the ranks moves on from dataset
 * to dataset, so that not one rank writes all the small ones. A small file is rank 0's alone: HDF5
 * needs some ten collective calls for a dataset, whatever its size. */
lk_status lk_checkpoint_deal(job *j)
{
    uint64_t *load = calloc((size_t)j->ranks, sizeof *load);
    if (!load) return lk_fail(LK_E_SYSTEM, "out of memory");
    uint64_t total = 0; /* of parameters: the same before and after the rest is listed */
    for (int i = 0; i < j->tensors; i++) total += j->item[i].bytes;
    j->writers = total < LK_CHECKPOINT_SMALL ? 1 : j->ranks;
    for (int i = 0; i < j->items; i++) {
        item *x = &j->item[i];
        hsize_t ranks = (hsize_t)j->writers;
        hsize_t turn = (hsize_t)((j->rank + j->writers - i % j->writers) % j->writers);
        x->chunk = chunk_rows(x);
        hsize_t n = chunks_of(x), from = n * turn / ranks, to = n * (turn + 1) / ranks;
        x->first = from * x->chunk;
        hsize_t end = to * x->chunk < x->dim[0] ? to * x->chunk : x->dim[0];
        x->count = end > x->first && j->rank < j->writers ? end - x->first : 0;
        x->owner = 0;
        for (int r = 1; r < j->ranks; r++)
            if (load[r] < load[x->owner]) x->owner = r;
        load[x->owner] += x->bytes;
    }
    free(load);
    return LK_OK;
}

/* ---- the info of rank 0 ---------------------------------------------------------------------- */

static lk_status check_texts(lk_checkpoint_info *info)
{
    if (info->kind != LK_TEXT_DATA && info->kind != LK_IMAGE_DATA)
        return lk_fail(LK_E_INTERNAL, "a checkpoint of a model of '%s'",
                       lk_dataset_kind_name(info->kind));
    if (!info->reference) info->reference = (char *)"";
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

lk_status lk_checkpoint_share_info(job *j)
{
    uint64_t length[PARTS] = {0};
    size_t total = 0;
    lk_checkpoint_info mine = j->info;
    LK_TRY(lk_checkpoint_agree(j, j->rank == 0 ? check_texts(&mine) : LK_OK));
    if (j->rank == 0) measure_parts(&mine, length);
    LK_TRY(lk_checkpoint_broadcast(j, &j->info, sizeof j->info, 0));
    LK_TRY(lk_checkpoint_broadcast(j, length, sizeof length, 0));
    for (int i = 0; i < PARTS; i++) total += length[i];
    free(j->shared);
    free(j->names);
    j->shared = malloc(total);
    j->names = calloc((size_t)j->info.image.classes + 1, sizeof *j->names);
    lk_status room = j->shared && j->names ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    LK_TRY(lk_checkpoint_agree(j, room));
    if (j->rank == 0) pack(j->shared, &mine, length);
    LK_TRY(lk_checkpoint_broadcast(j, j->shared, total, 0));
    unpack(j, length);
    return LK_OK;
}
