#include "metric/drift_prometheus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WHOLE = 4 }; /* figures of all features together */

typedef struct family {
    const char *name, *help;
    double (*of_feature)(const lk_drift *d);
    double (*of_all)(const lk_drift_report *r);
} family;

static double psi(const lk_drift *d) { return d->psi; }
static double kl(const lk_drift *d) { return d->kl; }
static double noise(const lk_drift *d) { return d->noise; }
static double mean_psi(const lk_drift_report *r) { return r->psi; }
static double mean_kl(const lk_drift_report *r) { return r->kl; }
static double threshold(const lk_drift_report *r) { return r->threshold; }
static double drifted(const lk_drift_report *r) { return (double)r->drifted; }

static const family families[] = {
    {"lockstep_drift_psi", "Population stability index of a feature.", psi, NULL},
    {"lockstep_drift_kl_nats", "Kullback-Leibler divergence from the reference.", kl, NULL},
    {"lockstep_drift_noise_psi", "What the index of so few samples stays below by chance.", noise,
     NULL},
    {"lockstep_drift_psi_mean", "Mean over features.", NULL, mean_psi},
    {"lockstep_drift_kl_mean_nats", "Mean over features.", NULL, mean_kl},
    {"lockstep_drift_psi_threshold", "Above it a feature has drifted.", NULL, threshold},
    {"lockstep_drift_features", "Features that have drifted.", NULL, drifted},
};
enum { FAMILIES = sizeof families / sizeof *families };

static void add(lk_drift_prometheus *p, const family *f, const char *labels, const char *split,
                const char *feature, double value)
{
    int size = sizeof *p->text;
    char *text = p->text[p->count];
    snprintf(text, (size_t)size, "%s", labels);
    lk_prometheus_label(text, size, "split", split);
    if (feature) lk_prometheus_label(text, size, "feature", feature);
    p->sample[p->count++] = (lk_prometheus_sample){f->name, "gauge", f->help, NULL, text, value};
}

static void add_part(lk_drift_prometheus *p, const family *f, const char *labels,
                     const lk_drift_part *part)
{
    const lk_drift_report *r = part->report;
    if (f->of_all && r->features > 0) add(p, f, labels, part->split, NULL, f->of_all(r));
    for (int64_t i = 0; i < r->features && f->of_feature; i++)
        add(p, f, labels, part->split, r->feature[i].name, f->of_feature(&r->feature[i].drift));
}

lk_status lk_drift_prometheus_create(const lk_drift_part *part, int parts, const char *labels,
                                     lk_drift_prometheus *out)
{
    lk_drift_prometheus p = {.count = 0};
    size_t room = 0;
    for (int i = 0; i < parts; i++)
        room += (size_t)part[i].report->features * (FAMILIES - WHOLE) + WHOLE;
    p.sample = malloc(room * sizeof *p.sample);
    p.text = malloc(room * sizeof *p.text);
    if (!p.sample || !p.text) {
        lk_drift_prometheus_clear(&p);
        return lk_fail(LK_E_SYSTEM, "out of memory for the figures of drift");
    }
    for (int f = 0; f < FAMILIES; f++) /* a family's samples lie together */
        for (int i = 0; i < parts; i++) add_part(&p, &families[f], labels, &part[i]);
    *out = p;
    return LK_OK;
}

void lk_drift_prometheus_clear(lk_drift_prometheus *p)
{
    free(p->sample);
    free(p->text);
    *p = (lk_drift_prometheus){.count = 0};
}

lk_status lk_drift_prometheus_write(const lk_drift_part *part, int parts, const char *data,
                                    const char *path)
{
    char labels[400] = "";
    lk_drift_prometheus p;
    lk_prometheus_label(labels, sizeof labels, "data", data);
    LK_TRY(lk_drift_prometheus_create(part, parts, labels, &p));
    lk_status status = lk_prometheus_write(path, p.sample, p.count);
    lk_drift_prometheus_clear(&p);
    return status;
}
