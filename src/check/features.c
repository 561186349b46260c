/* Level 3: the figures of features, their correlations, and what they tell about the label. */
#include "metric/information.h"
#include "check/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PAIRS = 1000 }; /* kept */
#define COPY 0.9999         /* |r| of channels that are copies */

/* The product matrices of all lanes, added in their order. */
static lk_status sum_products(lk_checker *c, double *sum)
{
    size_t n = (size_t)(c->plan.padded * c->plan.padded);
    double *lane = malloc(n * sizeof *lane);
    LK_TRY(lk_comm_agree(c->comm, lane ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    lk_status status = LK_OK;
    memset(sum, 0, n * sizeof *sum);
    for (int l = 0; l < LK_BLOCK_LANES && status == LK_OK; l++) {
        if (c->product[l]) memcpy(lane, c->product[l], n * sizeof *lane);
        else memset(lane, 0, n * sizeof *lane);
        status = lk_comm_sum_doubles(c->comm, lane, (int64_t)n); /* one rank has it, others 0 */
        for (size_t i = 0; i < n; i++) sum[i] += lane[i];
    }
    free(lane);
    return status;
}

static lk_status moments(lk_checker *c, lk_check_report *r)
{
    int64_t n = c->features;
    double *sum = malloc((size_t)(c->plan.padded * c->plan.padded) * sizeof *sum);
    double *mean = malloc(2 * (size_t)n * sizeof *mean);
    r->correlation = malloc((size_t)(n * n) * sizeof *r->correlation);
    lk_status status = sum && mean && r->correlation ? LK_OK
                                                     : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(c->comm, status);
    if (status == LK_OK) status = sum_products(c, sum);
    if (status == LK_OK) {
        lk_columns_moments(&c->plan, sum, mean, mean + n, r->correlation);
        for (int64_t i = 0; i < n; i++) {
            r->feature[i].mean = mean[i];
            r->feature[i].deviation = mean[n + i];
        }
    }
    free(sum);
    free(mean);
    return status;
}

/* Least and largest value; NAN for none. */
static void ends(const lk_checker *c, int64_t i, double *low, double *high)
{
    const lk_scan *s = &c->total[LK_TRAIN].scan;
    bool none = s->low[i] > s->high[i];
    *low = none ? NAN : (double)s->low[i];
    *high = none ? NAN : (double)s->high[i];
}

static void distribution(const lk_checker *c, int64_t i, lk_check_feature *f)
{
    const int64_t *bin = c->bin[LK_TRAIN] + i * LK_SKETCH_BINS;
    lk_sketch_scale s = c->plan.scale[i];
    ends(c, i, &f->low, &f->high);
    for (int q = 0; q < LK_CHECK_QUANTILES; q++)
        f->quantile[q] = isnan(f->low) ? NAN
                                       : lk_sketch_quantile(s, bin, lk_check_quantile[q], f->low,
                                                            f->high);
    if (!isnan(f->low)) lk_sketch_histogram(s, bin, f->low, f->high, LK_CHECK_BARS, f->bar);
    f->leak = c->plan.labels > 0 ? lk_uncertainty(c->joint + i * lk_columns_joint(&c->plan),
                                                  c->plan.values, c->plan.labels)
                                 : NAN;
}

lk_status lk_check_describe_columns(lk_checker *c,
                                    void (*name)(const lk_checker *c, int64_t i, char text[64]))
{
    lk_check_report *r = c->report;
    char text[64];
    if (c->features == 0) return LK_OK;
    r->feature = calloc((size_t)c->features, sizeof *r->feature);
    LK_TRY(lk_comm_agree(c->comm, r->feature ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    r->features = c->features;
    LK_TRY(moments(c, r));
    for (int64_t i = 0; i < c->features; i++) {
        name(c, i, text);
        if (!(r->feature[i].name = strdup(text))) return lk_fail(LK_E_SYSTEM, "out of memory");
        distribution(c, i, &r->feature[i]);
    }
    return LK_OK;
}

/* ---- findings -------------------------------------------------------------------------------- */

static int by_strength(const void *a, const void *b)
{
    const lk_check_pair *x = a, *y = b;
    double p = fabs(x->r), q = fabs(y->r);
    if (p != q) return p > q ? -1 : 1;
    return x->a != y->a ? (x->a < y->a ? -1 : 1) : x->b < y->b ? -1 : x->b > y->b;
}

static lk_status list_pairs(lk_checker *c)
{
    lk_check_report *r = c->report;
    int64_t n = r->features, count = 0;
    for (int pass = 0; pass < 2; pass++) { /* count, then keep */
        if (pass == 1 && count == 0) break;
        if (pass == 1) r->pair = malloc((size_t)count * sizeof *r->pair);
        if (pass == 1 && !r->pair) return lk_fail(LK_E_SYSTEM, "out of memory");
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++) {
                double x = r->correlation[i * n + j];
                if (!(fabs(x) > c->job->correlation)) continue; /* NAN: no */
                if (pass == 1) r->pair[r->pairs++] = (lk_check_pair){i, j, x};
                else count++;
            }
    }
    if (count > 0) qsort(r->pair, (size_t)count, sizeof *r->pair, by_strength);
    if (r->pairs > MOST_PAIRS) r->pairs = MOST_PAIRS;
    return LK_OK;
}

/* Cells of images are like their neighbours; channels that are copies are a mistake. */
static bool worth_a_warning(const lk_checker *c, const lk_check_pair *p)
{
    if (c->data->kind == LK_TABLE_DATA) return true;
    int64_t channels = c->data->image.channels;
    return p->a < channels && p->b < channels && fabs(p->r) > COPY;
}

lk_status lk_check_judge_features(lk_checker *c)
{
    const lk_check_report *r = c->report;
    LK_TRY(list_pairs(c));
    for (int64_t i = 0; i < r->pairs; i++) {
        const lk_check_pair *p = &r->pair[i];
        if (worth_a_warning(c, p))
            LK_TRY(lk_check_find(c, LK_WARNING, "correlation", LK_TRAIN, r->feature[p->b].name, 1,
                                 NULL, "'%.60s' and '%.60s' are nearly the same: r = %.4f",
                                 r->feature[p->a].name, r->feature[p->b].name, p->r));
    }
    for (int64_t i = 0; i < r->features; i++) {
        const lk_check_feature *f = &r->feature[i];
        if (f->leak > c->job->leak)
            LK_TRY(lk_check_find(c, LK_WARNING, "leak", LK_TRAIN, f->name, 1, NULL,
                                 "'%.60s' alone tells %.0f %% of what there is to know about the "
                                 "label; was it made from it?", f->name, 100 * f->leak));
    }
    return LK_OK;
}
