/* Faults that maketable and makepictures plant in a dataset, and the numbers both draw. The faults
 * of samples and labels, which tables and images have alike:
 *
 *   copies=N         the last N training samples are copies of the 10th and on
 *   conflicts=N      as copies, with another label
 *   overlap=N        the first N validation samples are training samples, of the 20th and on
 *   missing=CLASS    a class without samples
 *   rare=CLASS       one with a hundredth of its share
 *   only=CLASS       every label
 *   label=ROW        a training label that is no class */
#ifndef TESTS_PLANT_H
#define TESTS_PLANT_H

#include "io/import_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLANT_MOST = 16, PLANT_NAME = 16 };

typedef struct plant_fault {
    char kind[16];
    long long a, b;
} plant_fault;

static long long rows[2], classes, seed, faults;
static plant_fault list[PLANT_MOST];

static bool is(const plant_fault *f, const char *kind) { return strcmp(f->kind, kind) == 0; }

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Nearly normal: the sum of four uniform numbers, mean 0, deviation 1. */
static double bell(uint64_t key)
{
    uint64_t u = mix(key);
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += (double)(u >> (16 * i) & 0xFFFF) / 65536;
    return (sum - 2) * 1.7320508;
}

static uint64_t key_of(long long row, long long what)
{
    return mix((uint64_t)seed << 40 ^ (uint64_t)row) + (uint64_t)what * 0x632BE59BD9B4E019u;
}

/* The class that sample `row` has and is made for. */
static int class_of(long long row)
{
    int class = (int)(mix(key_of(row, -1)) % (uint64_t)classes);
    for (int i = 0; i < faults; i++) {
        const plant_fault *f = &list[i];
        bool rare = is(f, "rare") && mix(key_of(row, -2)) % 100 != 0;
        if ((rare || is(f, "missing")) && class == f->a) class = (class + 1) % (int)classes;
        if (is(f, "only")) class = (int)f->a;
    }
    return class;
}

/* The sample that row `i` of a split is, and its label: `class` of that sample but for faults.
 * Rows of validation follow those of training. */
static long long sample_of(int split, long long i)
{
    long long row = split == LK_TRAIN ? i : rows[0] + i;
    for (int k = 0; k < faults; k++) {
        const plant_fault *f = &list[k];
        bool copied = is(f, "conflicts") || is(f, "copies");
        if (split == LK_TRAIN && copied && i >= rows[0] - f->a) row = i - rows[0] + f->a + 10;
        if (split == LK_VALIDATION && is(f, "overlap") && i < f->a) row = i + 20;
    }
    return row;
}

static uint16_t label_of(int split, long long i)
{
    int label = class_of(sample_of(split, i));
    for (int k = 0; k < faults && split == LK_TRAIN; k++) {
        const plant_fault *f = &list[k];
        if (is(f, "conflicts") && i >= rows[0] - f->a) label = (label + 1) % (int)classes;
        if (is(f, "label") && i == f->a) label = (int)classes;
    }
    return (uint16_t)label;
}

/* KIND=A[:B]... A tenth of the rows is for validation. */
static bool plant_parse(long long all, int count, char **text)
{
    rows[1] = all / 10;
    rows[0] = all - rows[1];
    if (count > PLANT_MOST || all < 1 || classes < 1) return false;
    for (; faults < count; faults++) {
        plant_fault *f = &list[faults];
        if (sscanf(text[faults], "%15[a-z]=%lld:%lld", f->kind, &f->a, &f->b) < 2) return false;
    }
    return true;
}

/* k0, k1, ...; [classes], not freed. */
static char **class_names(void)
{
    char **name = calloc((size_t)classes, sizeof *name);
    char *text = calloc((size_t)classes, PLANT_NAME);
    for (long long k = 0; k < classes && name && text; k++) {
        name[k] = text + k * PLANT_NAME;
        snprintf(name[k], PLANT_NAME, "k%d", (int)k);
    }
    return text ? name : NULL;
}

#endif
