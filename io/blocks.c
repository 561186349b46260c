/* Blocks of a dataset, read ahead on the I/O thread. */
#include "io/blocks.h"
#include "io/hdf5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK ((size_t)1 << 21) /* bytes, about */
#define CACHE ((size_t)1 << 22) /* of chunks: neighbouring blocks share one */

typedef struct round_buffer {
    int count, room;
    lk_block *block;
    char *memory;
} round_buffer;

struct lk_blocks {
    lk_dataset *d;
    int rank, ranks, lanes; /* lanes: of this rank */
    int64_t extra, rows;    /* rows of a block */
    int at_once;
    hid_t file;
    lk_h5_dataset data[2][LK_DATASET_FIELDS];
    lk_digest *digest[LK_DATASET_FIELDS]; /* of the split being read, by one rank alone */
    bool right[LK_DATASET_FIELDS], missing;
    lk_split split;
    int64_t next, last; /* the next of this rank's blocks to read, and how many it has */
    int64_t rounds, asked;
    round_buffer buffer[2];
    long ticket[2];
    bool pending[2];
    int turn; /* the buffer that the next call gives out */
};

static const char *path_of(const lk_blocks *b, int split, int field, char path[64])
{
    snprintf(path, 64, "%s/%s", split == LK_TRAIN ? "train" : "validation",
             b->d->field[field].name);
    return path;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int64_t block_rows(size_t row)
{
    int64_t chunk = (int64_t)lk_h5_chunk_rows(row), rows = (int64_t)(BLOCK / row);
    if (rows < 1) return 1;
    return rows > chunk ? rows / chunk * chunk : rows;
}

static lk_status open_job(void *argument)
{
    lk_blocks *b = argument;
    char path[64];
    LK_TRY(lk_h5_open(b->d->path, MPI_COMM_NULL, "lockstep dataset", &b->file));
    for (int s = 0; s < 2; s++)
        for (int f = 0; f < b->d->fields; f++)
            LK_TRY(lk_h5_dataset_open(b->file, b->d->path, path_of(b, s, f, path), CACHE,
                                      &b->data[s][f]));
    return LK_OK;
}

static lk_status close_job(void *argument)
{
    lk_blocks *b = argument;
    for (int i = 0; i < 2; i++)
        for (int f = 0; f < LK_DATASET_FIELDS; f++) lk_h5_release(&b->data[i][f].id);
    if (b->file >= 0) H5Fclose(b->file); /* read only: nothing to lose */
    return LK_OK;
}

static lk_status allocate(lk_blocks *b)
{
    size_t bytes = 0;
    for (int f = 0; f < b->d->fields; f++)
        bytes += (size_t)(b->rows + (f == 0 ? b->extra : 0)) * b->d->field[f].row_bytes + 64;
    for (int i = 0; i < 2; i++) {
        round_buffer *r = &b->buffer[i];
        r->block = calloc((size_t)b->at_once, sizeof *r->block);
        r->memory = malloc((size_t)b->at_once * bytes);
        if (!r->block || !r->memory)
            return lk_fail(LK_E_SYSTEM, "out of memory for blocks of '%s'", b->d->path);
        char *at = r->memory;
        for (int k = 0; k < b->at_once; k++)
            for (int f = 0; f < b->d->fields; f++) {
                r->block[k].field[f] = at;
                size_t length = (size_t)(b->rows + (f == 0 ? b->extra : 0)) *
                                b->d->field[f].row_bytes;
                at += (length + 63) / 64 * 64;
            }
    }
    return LK_OK;
}

lk_status lk_blocks_open(lk_dataset *d, int rank, int ranks, int64_t extra, int threads,
                         lk_blocks **blocks)
{
    lk_blocks *b = calloc(1, sizeof *b);
    if (!b) return lk_fail(LK_E_SYSTEM, "out of memory");
    *b = (lk_blocks){.d = d, .rank = rank, .ranks = ranks, .extra = extra, .file = -1};
    for (int i = 0; i < 2; i++)
        for (int f = 0; f < LK_DATASET_FIELDS; f++) b->data[i][f].id = -1;
    b->rows = block_rows(d->field[0].row_bytes);
    b->lanes = rank < LK_BLOCK_LANES ? (LK_BLOCK_LANES - rank + ranks - 1) / ranks : 0;
    int fewest = LK_BLOCK_LANES / ranks > 0 ? LK_BLOCK_LANES / ranks : 1;
    b->at_once = 2 * threads < fewest ? 2 * threads : fewest;
    lk_status status = allocate(b);
    if (status == LK_OK) status = lk_io_call(d->io, open_job, b);
    if (status != LK_OK) {
        lk_blocks_close(b);
        return status;
    }
    *blocks = b;
    return LK_OK;
}

static void settle(lk_blocks *b)
{
    for (int i = 0; i < 2; i++) {
        if (b->pending[i] && lk_io_wait(b->d->io, b->ticket[i]) != LK_OK) lk_error_clear();
        b->pending[i] = false;
    }
    for (int f = 0; f < LK_DATASET_FIELDS; f++) {
        lk_digest_destroy(b->digest[f]);
        b->digest[f] = NULL;
    }
}

void lk_blocks_close(lk_blocks *b)
{
    if (!b) return;
    settle(b);
    lk_io_call(b->d->io, close_job, b);
    for (int i = 0; i < 2; i++) {
        free(b->buffer[i].block);
        free(b->buffer[i].memory);
    }
    free(b);
}

int64_t lk_blocks_rows(const lk_blocks *b) { return b->rows; }
int lk_blocks_at_once(const lk_blocks *b) { return b->at_once; }

/* ---- reading --------------------------------------------------------------------------------- */

/* Blocks of `rank` among `count` of a split: those of its lanes. */
static int64_t own_blocks(int64_t count, int rank, int ranks)
{
    int lanes = rank < LK_BLOCK_LANES ? (LK_BLOCK_LANES - rank + ranks - 1) / ranks : 0;
    int64_t turns = count / LK_BLOCK_LANES, rest = count % LK_BLOCK_LANES;
    return turns * lanes + (rest > rank ? (rest - rank + ranks - 1) / ranks : 0);
}

static lk_status read_block(lk_blocks *b, lk_block *k, int64_t own)
{
    const lk_dataset *d = b->d;
    char path[64];
    int64_t turn = own / b->lanes, total = d->rows[b->split];
    k->lane = b->rank + (int)(own % b->lanes) * b->ranks;
    k->first = (turn * LK_BLOCK_LANES + k->lane) * b->rows;
    k->rows = total - k->first < b->rows ? total - k->first : b->rows;
    int64_t after = total - k->first - k->rows;
    k->extra = after < b->extra ? after : b->extra;
    for (int f = 0; f < d->fields; f++) {
        int64_t count = k->rows + (f == 0 ? k->extra : 0);
        LK_TRY(lk_h5_dataset_rows(&b->data[b->split][f], d->path, path_of(b, b->split, f, path),
                                  (hsize_t)k->first, (hsize_t)count, k->field[f]));
        if (b->digest[f])
            lk_digest_update(b->digest[f], k->field[f], (size_t)k->rows * d->field[f].row_bytes);
    }
    return LK_OK;
}

static lk_status read_round(lk_blocks *b, round_buffer *r)
{
    r->count = 0;
    for (int i = 0; i < b->at_once && b->next < b->last; i++) {
        lk_status status = read_block(b, &r->block[i], b->next);
        if (status != LK_OK)
            return lk_fail_prefix(status, "rows %lld to %lld", (long long)r->block[i].first,
                                  (long long)(r->block[i].first + r->block[i].rows - 1));
        b->next++;
        r->count++;
    }
    return LK_OK;
}

static lk_status read_first(void *b) { return read_round(b, &((lk_blocks *)b)->buffer[0]); }
static lk_status read_second(void *b) { return read_round(b, &((lk_blocks *)b)->buffer[1]); }

static lk_status ask(lk_blocks *b)
{
    int i = (int)(b->asked % 2);
    if (b->asked == b->rounds) return LK_OK;
    LK_TRY(lk_io_submit(b->d->io, i ? read_second : read_first, b, &b->ticket[i]));
    b->pending[i] = true;
    b->asked++;
    return LK_OK;
}

/* Several ranks: the datasets are dealt out to be verified. */
static lk_status verify_job(void *argument)
{
    lk_blocks *b = argument;
    char path[64];
    for (int f = 0; f < b->d->fields; f++) {
        const lk_h5_dataset *x = &b->data[b->split][f];
        if (!x->digest[0]) b->missing = true;
        if (b->ranks == 1 || !x->digest[0]) continue;
        if ((2 * f + (int)b->split) % b->ranks != b->rank) continue;
        if (lk_h5_dataset_verify(x, b->d->path, path_of(b, b->split, f, path)) != LK_OK) {
            b->right[f] = false; /* or it cannot be read, which the blocks tell */
            lk_error_clear();
        }
    }
    return LK_OK;
}

lk_status lk_blocks_begin(lk_blocks *b, lk_split split, int64_t *rounds)
{
    int64_t blocks = (b->d->rows[split] + b->rows - 1) / b->rows;
    settle(b);
    b->split = split;
    b->next = b->asked = 0;
    b->turn = 0;
    b->missing = false;
    b->last = own_blocks(blocks, b->rank, b->ranks);
    b->rounds = (own_blocks(blocks, 0, b->ranks) + b->at_once - 1) / b->at_once;
    for (int f = 0; f < b->d->fields; f++) {
        b->right[f] = true;
        if (b->ranks == 1) LK_TRY(lk_digest_create(&b->digest[f]));
    }
    LK_TRY(ask(b));
    LK_TRY(lk_io_call(b->d->io, verify_job, b));
    *rounds = b->rounds;
    return LK_OK;
}

lk_status lk_blocks_next(lk_blocks *b, const lk_block **block, int *count)
{
    int i = b->turn;
    if (!b->pending[i]) return lk_fail(LK_E_INTERNAL, "no block of '%s' is left", b->d->path);
    b->pending[i] = false;
    LK_TRY(lk_io_wait(b->d->io, b->ticket[i]));
    LK_TRY(ask(b)); /* into the other buffer, which the caller is done with */
    b->turn = 1 - i;
    *block = b->buffer[i].block;
    *count = b->buffer[i].count;
    return LK_OK;
}

lk_status lk_blocks_end(lk_blocks *b, bool right[LK_DATASET_FIELDS], bool *missing)
{
    char text[LK_DIGEST_TEXT];
    for (int f = 0; f < b->d->fields; f++) {
        const lk_h5_dataset *x = &b->data[b->split][f];
        if (b->digest[f] && x->digest[0]) {
            lk_digest_text(b->digest[f], text);
            b->right[f] = strcmp(text, x->digest) == 0;
        }
        right[f] = b->right[f];
    }
    *missing = b->missing;
    settle(b);
    return LK_OK;
}

typedef struct request {
    lk_blocks *b;
    lk_split split;
    int field;
    int64_t first, count;
    void *out;
} request;

static lk_status read_request(void *argument)
{
    const request *r = argument;
    char path[64];
    return lk_h5_dataset_rows(&r->b->data[r->split][r->field], r->b->d->path,
                              path_of(r->b, (int)r->split, r->field, path), (hsize_t)r->first,
                              (hsize_t)r->count, r->out);
}

lk_status lk_blocks_read(lk_blocks *b, lk_split split, int field, int64_t first, int64_t count,
                         void *out)
{
    request r = {b, split, field, first, count, out};
    return lk_io_call(b->d->io, read_request, &r);
}
