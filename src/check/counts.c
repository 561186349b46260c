/* Counting for a check: what a thread counts, what is added up. */
#include "check/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PAIRS = 256 }; /* tokens of which pairs are counted */

int64_t lk_check_classes(const lk_checker *c)
{
    const lk_dataset *d = c->data;
    return d->kind == LK_TEXT_DATA    ? d->vocabulary_size
           : d->kind == LK_IMAGE_DATA ? d->image.classes
                                      : d->table.classes;
}

/* Lengths of label, pixel, pair, reference; 0: not counted. */
static void lengths(const lk_checker *c, int64_t length[4])
{
    const lk_dataset *d = c->data;
    int64_t classes = lk_check_classes(c);
    bool shapes = c->level == 0 || c->level >= 3 || c->comparing;
    length[0] = classes;
    length[1] = d->kind == LK_IMAGE_DATA && shapes ? d->image.channels * 256 : 0;
    length[2] = d->kind == LK_TEXT_DATA && c->level >= 2 && classes <= MOST_PAIRS
                    ? classes * classes : 0;
    length[3] = d->kind == LK_TABLE_DATA && c->comparing
                    ? c->reference.features * LK_DRIFT_GROUPS : 0;
}

static void arrays(lk_counts *n, int64_t **array[4])
{
    int64_t **const all[4] = {&n->label, &n->pixel, &n->pair, &n->reference};
    memcpy(array, all, sizeof all);
}

lk_status lk_counts_create(const lk_checker *c, lk_counts *n)
{
    int64_t length[4], **array[4];
    lengths(c, length);
    arrays(n, array);
    *n = (lk_counts){.label_rows = LK_NO_BAD_ROWS, .constant_rows = LK_NO_BAD_ROWS};
    for (int i = 0; i < 4; i++) {
        if (length[i] == 0) continue;
        *array[i] = calloc((size_t)length[i], sizeof **array[i]);
        if (!*array[i]) return lk_fail(LK_E_SYSTEM, "out of memory for the counts of a check");
    }
    int64_t columns = c->data->kind == LK_TABLE_DATA ? c->data->table.columns : c->features;
    return columns > 0 ? lk_scan_create(columns, &n->scan) : LK_OK;
}

void lk_counts_destroy(lk_counts *n)
{
    int64_t **array[4];
    arrays(n, array);
    for (int i = 0; i < 4; i++) free(*array[i]);
    lk_scan_destroy(&n->scan);
    memset(n, 0, sizeof *n);
}

void lk_bad_rows_note(lk_bad_rows *b, int64_t row)
{
    b->count++;
    lk_scan_note(b->row, row);
}

static void merge_rows(lk_bad_rows *to, const lk_bad_rows *from)
{
    to->count += from->count;
    for (int i = 0; i < LK_FAULT_ROWS; i++) lk_scan_note(to->row, from->row[i]);
}

void lk_counts_merge(const lk_checker *c, lk_counts *to, const lk_counts *from)
{
    int64_t length[4], **a[4], **b[4];
    lk_counts copy = *from;
    lengths(c, length);
    arrays(to, a);
    arrays(&copy, b);
    for (int i = 0; i < 4; i++)
        for (int64_t k = 0; k < length[i]; k++) (*a[i])[k] += (*b[i])[k];
    lk_scan_merge(&to->scan, &from->scan);
    merge_rows(&to->label_rows, &from->label_rows);
    merge_rows(&to->constant_rows, &from->constant_rows);
    to->samples += from->samples;
}

void lk_counts_reset(const lk_checker *c, lk_counts *n)
{
    static const lk_bad_rows none = LK_NO_BAD_ROWS;
    int64_t length[4], **array[4];
    lengths(c, length);
    arrays(n, array);
    for (int i = 0; i < 4; i++)
        if (length[i] > 0) memset(*array[i], 0, (size_t)length[i] * sizeof **array[i]);
    for (int64_t k = 0; k < n->scan.columns; k++) {
        n->scan.low[k] = INFINITY;
        n->scan.high[k] = -INFINITY;
    }
    for (int64_t k = 0; k < LK_FAULTS * n->scan.columns; k++) {
        n->scan.count[k] = 0;
        memcpy(n->scan.row + k * LK_FAULT_ROWS, none.row, sizeof none.row);
    }
    n->label_rows = n->constant_rows = none;
    n->samples = 0;
}

/* ---- over ranks ------------------------------------------------------------------------------ */

/* Each of `lists` holds LK_FAULT_ROWS rows in order: they become the smallest of all ranks. Ranks
 * have no row in common, so each round has one winner for each list. */
static lk_status reduce_rows(lk_comm *comm, int64_t *row, int64_t lists)
{
    int64_t *out = malloc((size_t)lists * (LK_FAULT_ROWS + 1) * sizeof *out);
    LK_TRY(lk_comm_agree(comm, out ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    lk_status status = LK_OK;
    int64_t *next = out + lists * LK_FAULT_ROWS;
    for (int i = 0; i < LK_FAULT_ROWS && status == LK_OK; i++) {
        for (int64_t k = 0; k < lists; k++) next[k] = row[k * LK_FAULT_ROWS];
        status = lk_comm_min_counts(comm, next, lists);
        for (int64_t k = 0; k < lists; k++) {
            int64_t *mine = row + k * LK_FAULT_ROWS;
            out[k * LK_FAULT_ROWS + i] = next[k];
            if (mine[0] != next[k]) continue;
            memmove(mine, mine + 1, (LK_FAULT_ROWS - 1) * sizeof *mine);
            mine[LK_FAULT_ROWS - 1] = INT64_MAX;
        }
    }
    memcpy(row, out, (size_t)lists * LK_FAULT_ROWS * sizeof *row);
    free(out);
    return status;
}

static lk_status reduce_scan(lk_comm *comm, lk_scan *s)
{
    int64_t n = s->columns, bad = 0;
    double *end = malloc(2 * (size_t)n * sizeof *end);
    LK_TRY(lk_comm_agree(comm, end ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    for (int64_t i = 0; i < n; i++) {
        end[i] = -(double)s->low[i];
        end[n + i] = (double)s->high[i];
    }
    lk_status status = lk_comm_max_doubles(comm, end, 2 * n);
    for (int64_t i = 0; i < n; i++) {
        s->low[i] = (float)-end[i];
        s->high[i] = (float)end[n + i];
    }
    free(end);
    LK_TRY(status);
    LK_TRY(lk_comm_sum_counts(comm, s->count, LK_FAULTS * n));
    for (int64_t i = 0; i < LK_FAULTS * n; i++) bad += s->count[i];
    return bad > 0 ? reduce_rows(comm, s->row, LK_FAULTS * n) : LK_OK;
}

lk_status lk_counts_reduce(lk_checker *c, lk_counts *n)
{
    int64_t length[4], **array[4];
    lengths(c, length);
    arrays(n, array);
    if (c->comm->size == 1) return LK_OK;
    for (int i = 0; i < 4; i++) LK_TRY(lk_comm_sum_counts(c->comm, *array[i], length[i]));
    if (n->scan.columns > 0) LK_TRY(reduce_scan(c->comm, &n->scan));
    lk_bad_rows *bad[2] = {&n->label_rows, &n->constant_rows};
    for (int i = 0; i < 2; i++) {
        LK_TRY(lk_comm_sum_counts(c->comm, &bad[i]->count, 1));
        LK_TRY(reduce_rows(c->comm, bad[i]->row, 1));
    }
    return lk_comm_sum_counts(c->comm, &n->samples, 1);
}

/* ---- what blocks of all kinds have ----------------------------------------------------------- */

void lk_counts_labels(const lk_checker *c, lk_counts *n, const lk_block *b)
{
    const uint16_t *label = b->field[1];
    int64_t classes = lk_check_classes(c);
    for (int64_t i = 0; i < b->rows; i++) {
        if (label[i] < classes) n->label[label[i]]++;
        else lk_bad_rows_note(&n->label_rows, b->first + i);
    }
}

bool lk_record_list_room(lk_record_list *list, int64_t records)
{
    if (records <= list->room) return true;
    int64_t room = records > 2 * list->room ? records : 2 * list->room;
    lk_sample_record *grown = realloc(list->record, (size_t)room * sizeof *grown);
    if (!grown) return false;
    list->record = grown;
    list->room = room;
    return true;
}

void lk_check_records(const lk_checker *c, lk_split split, const lk_block *b, lk_record_list *list)
{
    size_t bytes = c->data->field[0].row_bytes;
    const char *row = b->field[0];
    const uint16_t *label = b->field[1];
    for (int64_t i = 0; i < b->rows; i++)
        list->record[i] = lk_sample_record_of(lk_digest_hash(row + (size_t)i * bytes, bytes), split,
                                              b->first + i, label[i]);
    list->count = b->rows;
}
