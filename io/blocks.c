/* Blocks of a dataset, read ahead on the I/O thread. */
#include "io/blocks.h"
#include "io/hdf5.h"

#include <stdlib.h>

#define BLOCK ((size_t)1 << 21) /* bytes, about */

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
    bool right[LK_DATASET_FIELDS]; /* of the split being read */
    lk_split split;
    int64_t next, last; /* the next of this rank's blocks to read, and how many it has */
    int64_t rounds, asked;
    round_buffer buffer[2];
    long ticket[2];
    bool pending[2];
    int turn; /* the buffer that the next call gives out */
};

/* ---- opening --------------------------------------------------------------------------------- */

static int64_t block_rows(size_t row)
{
    int64_t chunk = (int64_t)lk_h5_chunk_rows(row), rows = (int64_t)(BLOCK / row);
    if (rows < 1) return 1;
    return rows > chunk ? rows / chunk * chunk : rows;
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
    *b = (lk_blocks){.d = d, .rank = rank, .ranks = ranks, .extra = extra};
    b->rows = block_rows(d->field[0].row_bytes);
    b->lanes = rank < LK_BLOCK_LANES ? (LK_BLOCK_LANES - rank + ranks - 1) / ranks : 0;
    int fewest = LK_BLOCK_LANES / ranks > 0 ? LK_BLOCK_LANES / ranks : 1;
    b->at_once = 2 * threads < fewest ? 2 * threads : fewest;
    lk_status status = allocate(b);
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
}

void lk_blocks_close(lk_blocks *b)
{
    if (!b) return;
    settle(b);
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
    lk_dataset *d = b->d;
    int64_t turn = own / b->lanes, total = d->rows[b->split];
    k->lane = b->rank + (int)(own % b->lanes) * b->ranks;
    k->first = (turn * LK_BLOCK_LANES + k->lane) * b->rows;
    k->rows = total - k->first < b->rows ? total - k->first : b->rows;
    int64_t after = total - k->first - k->rows;
    k->extra = after < b->extra ? after : b->extra;
    for (int f = 0; f < d->fields; f++) {
        int64_t count = k->rows + (f == 0 ? k->extra : 0);
        LK_TRY(lk_dataset_inspect(d, b->split, f, k->first, count, k->field[f], &b->right[f]));
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

lk_status lk_blocks_begin(lk_blocks *b, lk_split split, int64_t *rounds)
{
    int64_t blocks = (b->d->rows[split] + b->rows - 1) / b->rows;
    settle(b);
    b->split = split;
    b->next = b->asked = 0;
    b->turn = 0;
    b->last = own_blocks(blocks, b->rank, b->ranks);
    b->rounds = (own_blocks(blocks, 0, b->ranks) + b->at_once - 1) / b->at_once;
    for (int f = 0; f < b->d->fields; f++) b->right[f] = true;
    LK_TRY(ask(b));
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

void lk_blocks_end(lk_blocks *b, bool right[LK_DATASET_FIELDS], bool *missing)
{
    *missing = false;
    for (int f = 0; f < b->d->fields; f++) {
        right[f] = b->right[f];
        *missing |= !lk_dataset_digested(b->d, b->split, f);
    }
    settle(b);
}

lk_status lk_blocks_read(lk_blocks *b, lk_split split, int field, int64_t first, int64_t count,
                         void *out)
{
    bool right; /* the blocks tell */
    return lk_dataset_inspect(b->d, split, field, first, count, out, &right);
}
