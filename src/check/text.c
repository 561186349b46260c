/* Checking texts: tokens, and passages that are there twice.
 *
 * Every passage of LK_CHECK_PASSAGE tokens has a rolling hash (R. Karp, M. Rabin 1987); where its
 * mixed bits begin with enough zeros the passage is picked, so that the same passage is picked
 * wherever it stands, and compared by its 128-bit hash. A passage of one token throughout is none:
 * rules and blanks would be found everywhere. */
#include "check/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BASE 0x9E3779B97F4A7C15u /* odd */
#define WARN_REPEATED 0.1        /* of the passages of train */

static int64_t features(const lk_checker *c)
{
    (void)c;
    return 0;
}

static inline int token_at(const void *tokens, bool wide, int64_t i)
{
    return wide ? ((const uint16_t *)tokens)[i] : ((const uint8_t *)tokens)[i];
}

static void count_tokens(const lk_checker *c, lk_counts *n, const lk_block *b, bool wide)
{
    int64_t size = c->data->vocabulary_size;
    for (int64_t i = 0; i < b->rows; i++) {
        int token = token_at(b->field[0], wide, i);
        if (token < size) n->label[token]++;
        else lk_bad_rows_note(&n->label_rows, b->first + i);
    }
    int64_t pairs = b->rows + (b->extra > 0 ? 1 : 0) - 1;
    for (int64_t i = 0; i < pairs && n->pair; i++) {
        int a = token_at(b->field[0], wide, i), next = token_at(b->field[0], wide, i + 1);
        if (a < size && next < size) n->pair[a * size + next]++;
    }
}

static bool picked(uint64_t hash, int bits)
{
    hash = (hash ^ (hash >> 29)) * 0xBF58476D1CE4E5B9u;
    return bits == 0 || (hash ^ (hash >> 32)) >> (64 - bits) == 0;
}

/* Passages that begin in the block. */
static bool list_passages(const lk_checker *c, lk_split split, const lk_block *b, bool wide,
                          lk_record_list *list)
{
    int64_t length = b->rows + b->extra, run = 0;
    size_t size = wide ? 2 : 1;
    uint64_t hash = 0, leaving = 1;
    for (int i = 0; i < LK_CHECK_PASSAGE; i++) leaving *= BASE;
    list->count = 0;
    for (int64_t i = 0; i < length; i++) {
        int token = token_at(b->field[0], wide, i);
        int64_t first = i - LK_CHECK_PASSAGE + 1;
        run = i > 0 && token == token_at(b->field[0], wide, i - 1) ? run + 1 : 1;
        hash = hash * BASE + (uint64_t)token + 1;
        if (first > 0) hash -= leaving * ((uint64_t)token_at(b->field[0], wide, first - 1) + 1);
        if (first < 0 || first >= b->rows || run >= LK_CHECK_PASSAGE) continue;
        if (!picked(hash, c->passage_bits)) continue;
        if (!lk_record_list_room(list, list->count + 1)) return false;
        lk_hash h = lk_digest_hash((const char *)b->field[0] + (size_t)first * size,
                                   LK_CHECK_PASSAGE * size);
        list->record[list->count++] = lk_sample_record_of(h, split, b->first + first, 0);
    }
    return true;
}

static void block(lk_checker *c, lk_check_worker *w, lk_split split, const lk_block *b,
                  lk_record_list *list)
{
    bool wide = c->data->field[0].dtype == LK_U16;
    count_tokens(c, &w->counts, b, wide);
    if (!c->judging) return;
    if (!list_passages(c, split, b, wide, list)) w->failed = true;
    w->counts.samples += list->count;
}

static lk_status judge(lk_checker *c)
{
    const lk_duplicates_result *t = &c->report->twins;
    int64_t samples = c->total[LK_TRAIN].samples, count = t->within[LK_TRAIN].count;
    int64_t row[LK_FAULT_ROWS];
    if (samples == 0 || count == 0) return LK_OK;
    double share = (double)count / (double)samples;
    for (int i = 0; i < LK_FAULT_ROWS; i++) row[i] = t->within[LK_TRAIN].example[i].row;
    return lk_check_find(c, share > WARN_REPEATED ? LK_WARNING : LK_NOTE, "duplicates", LK_TRAIN,
                         NULL, count, row, "%.3g %% of its passages of %d tokens repeat an earlier "
                         "one", 100 * share, LK_CHECK_PASSAGE);
}

static lk_status describe(lk_checker *c)
{
    (void)c; /* a text has no features; its tokens are level 2 */
    return LK_OK;
}

const lk_check_kind lk_check_text = {LK_CHECK_PASSAGE - 1, features, NULL, block, judge, describe};
