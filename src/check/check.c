/* The check of a dataset: one pass over each split, then the judgement. */
#include "base/heart.h"
#include "check/job.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of the sample from which the shapes of features are guessed: pieces from all over. */
enum { PIECES = 32, PIECE_VALUES = 1 << 14, MOST_PIECE = 512 };

const double lk_check_quantile[LK_CHECK_QUANTILES] = {0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99};

const char *lk_severity_name(lk_severity s)
{
    return s == LK_UNFIT ? "unfit" : s == LK_WARNING ? "warning" : "note";
}

lk_check_job lk_check_defaults(void)
{
    return (lk_check_job){.level = 3, .min_samples = 1000, .min_share = 0.1, .correlation = 0.9,
                          .leak = 0.9, .psi = LK_DRIFT_PSI, .temporary = "/tmp"};
}

/* ---- the plan of level 3 --------------------------------------------------------------------- */

/* Rows from all over the training split, as features, and their labels. Every rank reads the
 * same. */
static lk_status read_sample(lk_checker *c, float *out, uint16_t *label, int64_t each,
                             int64_t *count)
{
    int64_t total = c->data->rows[LK_TRAIN];
    void *rows = malloc((size_t)each * c->data->field[0].row_bytes);
    if (!rows) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = LK_OK;
    *count = 0;
    for (int i = 0; i < PIECES && status == LK_OK; i++) {
        int64_t first = total * i / PIECES, end = total * (i + 1) / PIECES;
        int64_t n = end - first < each ? end - first : each;
        if (n == 0) continue;
        status = lk_blocks_read(c->blocks, LK_TRAIN, 0, first, n, rows);
        if (status == LK_OK)
            status = lk_blocks_read(c->blocks, LK_TRAIN, 1, first, n, label + *count);
        if (status == LK_OK) c->kind->derive(c, rows, n, out + *count * c->features);
        else
            lk_fail_prefix(status, "rows %lld to %lld", (long long)first,
                           (long long)(first + n - 1));
        *count += n;
    }
    free(rows);
    return status;
}

static lk_status plan_features(lk_checker *c)
{
    int64_t each = PIECE_VALUES / c->features, count = 0;
    each = each < 16 ? 16 : each > MOST_PIECE ? MOST_PIECE : each;
    float *sample = malloc((size_t)(PIECES * each * c->features) * sizeof *sample);
    uint16_t *label = malloc((size_t)(PIECES * each) * sizeof *label);
    lk_status status = sample && label ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) status = read_sample(c, sample, label, each, &count);
    if (status == LK_OK)
        status = lk_columns_plan_create(sample, label, count, c->features, lk_check_classes(c),
                                        &c->plan);
    free(sample);
    free(label);
    return status;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static lk_status allocate_columns(lk_checker *c)
{
    size_t bins = (size_t)c->features * LK_SKETCH_BINS, width = (size_t)c->plan.padded;
    size_t joint = (size_t)(c->features * lk_columns_joint(&c->plan));
    bool good = (c->joint = calloc(joint + 1, sizeof *c->joint)) != NULL;
    for (int s = 0; s < 2; s++) good &= (c->bin[s] = calloc(bins, sizeof *c->bin[s])) != NULL;
    for (int l = c->comm->rank; l < LK_BLOCK_LANES && good; l += c->comm->size)
        good = (c->product[l] = calloc(width * width, sizeof *c->product[l])) != NULL;
    for (int i = 0; i < c->threads && good; i++)
        LK_TRY(lk_columns_counts_create(&c->plan, &c->worker[i].columns));
    return good ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for %lld features",
                                  (long long)c->features);
}

static lk_status allocate(lk_checker *c)
{
    int64_t rows = lk_blocks_rows(c->blocks), columns = c->features > 0 ? c->features : 1;
    bool derived = c->data->kind == LK_IMAGE_DATA && c->features > 0;
    c->worker = calloc((size_t)c->threads, sizeof *c->worker);
    c->list = calloc((size_t)lk_blocks_at_once(c->blocks), sizeof *c->list);
    if (!c->worker || !c->list) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int s = 0; s < 2; s++) LK_TRY(lk_counts_create(c, &c->total[s]));
    for (int i = 0; i < c->threads; i++) {
        LK_TRY(lk_counts_create(c, &c->worker[i].counts));
        if (!derived) continue;
        c->worker[i].derived = malloc((size_t)(rows * columns) * sizeof(float));
        if (!c->worker[i].derived) return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    for (int i = 0; i < lk_blocks_at_once(c->blocks) && c->data->kind != LK_TEXT_DATA; i++)
        if (c->twins && !lk_record_list_room(&c->list[i], rows))
            return lk_fail(LK_E_SYSTEM, "out of memory for hashes");
    return c->features > 0 ? allocate_columns(c) : LK_OK;
}

void lk_checker_close(lk_checker *c)
{
    for (int i = 0; i < c->threads && c->worker; i++) {
        lk_counts_destroy(&c->worker[i].counts);
        lk_columns_counts_destroy(&c->worker[i].columns);
        free(c->worker[i].derived);
    }
    for (int i = 0; c->list && i < lk_blocks_at_once(c->blocks); i++) free(c->list[i].record);
    for (int s = 0; s < 2; s++) {
        lk_counts_destroy(&c->total[s]);
        free(c->bin[s]);
    }
    for (int l = 0; l < LK_BLOCK_LANES; l++) free(c->product[l]);
    free(c->worker);
    free(c->list);
    free(c->joint);
    free(c->column);
    free(c->group);
    lk_columns_plan_destroy(&c->plan);
    lk_reference_clear(&c->reference);
    lk_reference_source_clear(&c->source);
    lk_duplicates_close(c->twins);
    lk_blocks_close(c->blocks);
}

/* ---- the pass -------------------------------------------------------------------------------- */

static lk_status move_counts(lk_checker *c, lk_split split)
{
    if (c->features == 0) return LK_OK;
    int64_t *joint = c->joint, *spare = NULL;
    if (split != LK_TRAIN) { /* the labels of validation are not asked for */
        joint = spare = calloc((size_t)(c->features * lk_columns_joint(&c->plan)) + 1,
                               sizeof *spare);
        if (!spare) return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    for (int i = 0; i < c->threads; i++)
        lk_columns_counts_move(&c->plan, &c->worker[i].columns, c->bin[split], joint);
    free(spare);
    return LK_OK;
}

static lk_status one_round(lk_checker *c, lk_split split)
{
    const lk_block *block = NULL;
    int count = 0;
    LK_TRY(lk_blocks_next(c->blocks, &block, &count));
#pragma omp parallel for schedule(dynamic, 1) num_threads(c->threads)
    for (int i = 0; i < count; i++)
        c->kind->block(c, &c->worker[omp_get_thread_num()], split, &block[i], &c->list[i]);
    for (int i = count; i < lk_blocks_at_once(c->blocks); i++) c->list[i].count = 0;
    bool full = false;
    for (int i = 0; i < c->threads; i++) {
        if (c->worker[i].failed) return lk_fail(LK_E_SYSTEM, "out of memory for hashes");
        full |= c->worker[i].columns.rows > INT64_C(1) << 31; /* before its counts overflow */
    }
    return full ? move_counts(c, split) : LK_OK;
}

static lk_status collect(lk_checker *c, lk_split split)
{
    lk_status status = move_counts(c, split);
    for (int i = 0; i < c->threads; i++) {
        lk_counts_merge(c, &c->total[split], &c->worker[i].counts);
        lk_counts_reset(c, &c->worker[i].counts);
    }
    LK_TRY(lk_comm_agree(c->comm, status));
    LK_TRY(lk_counts_reduce(c, &c->total[split]));
    if (c->features == 0) return LK_OK;
    LK_TRY(lk_comm_sum_counts(c->comm, c->bin[split], c->features * LK_SKETCH_BINS));
    if (split != LK_TRAIN) return LK_OK;
    return lk_comm_sum_counts(c->comm, c->joint, c->features * lk_columns_joint(&c->plan));
}

/* Digests of the fields, over ranks. */
static lk_status end_split(lk_checker *c, lk_split split)
{
    bool right[LK_DATASET_FIELDS] = {true, true, true}, missing = false;
    lk_blocks_end(c->blocks, right, &missing);
    for (int f = 0; f < c->data->fields && c->judging; f++) {
        int64_t good = right[f];
        LK_TRY(lk_comm_min_counts(c->comm, &good, 1));
        if (!good)
            LK_TRY(lk_check_find(c, LK_UNFIT, "digest", (int)split, c->data->field[f].name, 1,
                                 NULL, "%s are not those that were imported: their digest differs; "
                                 "import them again", c->data->field[f].name));
    }
    if (missing && c->judging)
        LK_TRY(lk_check_find(c, LK_NOTE, "missing", (int)split, NULL, 1, NULL,
                             "there is no digest to compare with"));
    return LK_OK;
}

static lk_status survey_split(lk_checker *c, lk_split split)
{
    int64_t rounds = 0;
    uint64_t step = 0;
    LK_TRY(lk_comm_agree(c->comm, lk_blocks_begin(c->blocks, split, &rounds)));
    for (int64_t i = 0; i < rounds; i++) {
        lk_heart_begin(lk_heart_now(&step), step); /* each round by itself: all may take long */
        LK_TRY(lk_comm_agree(c->comm, one_round(c, split)));
        for (int k = 0; k < lk_blocks_at_once(c->blocks) && c->twins; k++)
            LK_TRY(lk_duplicates_add(c->twins, c->list[k].record, c->list[k].count));
    }
    LK_TRY(end_split(c, split));
    return collect(c, split);
}

static lk_status prepare(lk_checker *c)
{
    static const lk_check_kind *const kinds[] = {&lk_check_text, &lk_check_images, &lk_check_table};
    double threads = omp_get_max_threads();
    c->kind = kinds[c->data->kind];
    LK_TRY(lk_comm_max_doubles(c->comm, &threads, 1));
    c->threads = threads < LK_BLOCK_LANES ? (int)threads : LK_BLOCK_LANES;
    LK_TRY(lk_comm_agree(c->comm, lk_blocks_open(c->data, c->comm->rank, c->comm->size,
                                                 c->kind->extra, c->threads, &c->blocks)));
    c->features = c->level >= 3 && c->data->rows[LK_TRAIN] > 0 ? c->kind->features(c) : 0;
    if (c->features > 0) LK_TRY(lk_comm_agree(c->comm, plan_features(c)));
    int64_t samples = c->data->rows[0] + c->data->rows[1];
    if (c->data->kind == LK_TEXT_DATA) { /* about a million of passages */
        while (samples >> c->passage_bits > 1 << 20) c->passage_bits++;
        samples >>= c->passage_bits;
    }
    if (c->judging)
        LK_TRY(lk_duplicates_open(c->comm->world, samples, c->job->temporary, &c->twins));
    return lk_comm_agree(c->comm, allocate(c));
}

void lk_check_forgive(lk_checker *c, char text[1024])
{
    snprintf(text, 1024, "%s", lk_error_text());
    lk_error_clear();
    c->comm->failed = false; /* all ranks go on */
}

lk_status lk_check_survey(lk_checker *c)
{
    lk_status status = prepare(c);
    for (int s = 0; s < 2 && status == LK_OK; s++)
        if (c->split[s]) status = survey_split(c, (lk_split)s);
    if (status == LK_E_INPUT && c->judging) { /* rows that cannot be read are a finding */
        char text[1024];
        lk_check_forgive(c, text);
        c->damaged = true;
        return lk_check_find(c, LK_UNFIT, "damaged", -1, NULL, 1, NULL, "%s", text);
    }
    return status;
}

/* ---- the check ------------------------------------------------------------------------------- */

static lk_status begin_report(lk_checker *c)
{
    lk_check_report *r = c->report;
    r->path = strdup(c->data->path);
    r->kind = c->data->kind;
    r->level = c->level;
    r->entropy = r->pair_entropy = NAN;
    for (int s = 0; s < 2; s++) r->drift[s] = (lk_drift_report){.worst = -1};
    memcpy(r->digest, c->data->digest, sizeof r->digest);
    memcpy(r->rows, c->data->rows, sizeof r->rows);
    return r->path ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

static lk_status run(lk_checker *c)
{
    LK_TRY(lk_comm_agree(c->comm, begin_report(c)));
    LK_TRY(c->job->against ? lk_check_reference_open(c, c->job->against, true)
                           : lk_check_reference_own(c));
    LK_TRY(lk_check_survey(c));
    if (!c->damaged) {
        LK_TRY(lk_duplicates_find(c->twins, &c->report->twins));
        LK_TRY(lk_comm_agree(c->comm, c->kind->judge(c)));
        if (c->level >= 3) LK_TRY(lk_comm_agree(c->comm, c->kind->describe(c)));
        if (c->comparing) LK_TRY(lk_comm_agree(c->comm, lk_check_judge_drift(c)));
    }
    return lk_comm_agree(c->comm, lk_check_judge(c));
}

lk_status lk_check_dataset(lk_comm *comm, lk_io *io, lk_dataset *d, const lk_check_job *job,
                           lk_check_report *report)
{
    lk_check_report r = {.path = NULL};
    lk_checker c = {.comm = comm, .io = io, .job = job, .level = job->level, .judging = true,
                    .split = {true, true}, .report = &r, .data = d};
    lk_status status = run(&c);
    lk_checker_close(&c);
    if (status == LK_OK) *report = r;
    else lk_check_report_clear(&r);
    return status;
}

lk_status lk_check(lk_comm *comm, lk_io *io, const lk_check_job *job, lk_check_report *report)
{
    lk_dataset *d = NULL;
    LK_TRY(lk_dataset_open(io, comm->world, job->data, &d));
    lk_status status = lk_check_dataset(comm, io, d, job, report);
    lk_dataset_close(d);
    return status;
}

void lk_check_report_clear(lk_check_report *r)
{
    for (int64_t i = 0; i < r->classes && r->class_name; i++) free(r->class_name[i]);
    for (int64_t i = 0; i < r->features && r->feature; i++) free(r->feature[i].name);
    for (int64_t i = 0; i < r->findings; i++) {
        free(r->finding[i].feature);
        free(r->finding[i].text);
    }
    for (int s = 0; s < 2; s++) free(r->labels[s]);
    free(r->class_name);
    free(r->feature);
    free(r->finding);
    free(r->correlation);
    free(r->pair);
    free(r->path);
    free(r->against);
    for (int s = 0; s < 2; s++) lk_drift_report_clear(&r->drift[s]);
    *r = (lk_check_report){.path = NULL};
}
