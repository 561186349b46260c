/* What tokens, images and tables are: the description that goes with the data into datasets and, so
 * that a model can be used without them, into checkpoints. */
#include "io/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *lk_split_name(lk_split split)
{
    static const char *const name[] = {"train", "validation"};
    return name[split];
}

const char *lk_dataset_kind_name(lk_dataset_kind kind)
{
    static const char *const name[LK_DATASET_KINDS] = {"text", "images", "table"};
    return name[kind];
}

lk_status lk_format_read_kind(hid_t file, const char *where, bool optional, lk_dataset_kind *kind)
{
    char *text = NULL;
    bool there = false;
    int k = LK_TEXT_DATA;
    LK_TRY(lk_h5_has(file, where, "kind", &there));
    if (there || !optional) {
        LK_TRY(lk_h5_get_text(file, where, "kind", &text));
        while (k < LK_DATASET_KINDS && strcmp(text, lk_dataset_kind_name((lk_dataset_kind)k)) != 0)
            k++;
    }
    lk_status status = LK_OK;
    if (k == LK_DATASET_KINDS)
        status = lk_fail(LK_E_INPUT, "%s: expected the kind 'text', 'images' or 'table', found "
                         "'%.60s'; use the lockstep that wrote it", where, text);
    else
        *kind = (lk_dataset_kind)k;
    free(text);
    return status;
}

void lk_image_format_clear(lk_image_format *f)
{
    lk_h5_free_texts(f->name, f->classes);
    free(f->mean);
    free(f->std);
    memset(f, 0, sizeof *f);
}

void lk_table_format_clear(lk_table_format *f)
{
    lk_h5_free_texts(f->column, f->columns);
    lk_h5_free_texts(f->name, f->classes);
    memset(f, 0, sizeof *f);
}

static lk_status read_classes(hid_t file, const char *where, char ***name, int64_t *classes)
{
    LK_TRY(lk_h5_get_texts(file, where, "classes", name, classes));
    if (*classes > LK_DATASET_CLASSES)
        return lk_fail(LK_E_INPUT,
                       "%s: attribute 'classes': expected at most %d, found %lld; the "
                       "file is damaged, import it again",
                       where, LK_DATASET_CLASSES, (long long)*classes);
    return LK_OK;
}

static lk_status read_figures(hid_t file, const char *where, lk_image_format *f, double *figure)
{
    int64_t n = f->channels;
    LK_TRY(lk_h5_get_f64s(file, where, "mean", figure, n));
    LK_TRY(lk_h5_get_f64s(file, where, "std", figure + n, n));
    for (int64_t c = 0; c < n; c++) {
        f->mean[c] = (float)figure[c];
        f->std[c] = (float)figure[n + c];
        /* the largest that a pixel can become */
        float most = (1 + fabsf(f->mean[c])) * (1 / f->std[c]);
        if (!(isfinite(most) && isfinite(f->std[c]) && f->std[c] > 0))
            return lk_fail(LK_E_INPUT,
                           "%s: expected a mean and a positive std of channel %lld that make "
                           "pixels finite, found %g and %g; the file is damaged, import it again",
                           where, (long long)c, figure[c], figure[n + c]);
    }
    return LK_OK;
}

/* Data of before, and images alone, have no texts. */
static lk_status read_vocabulary_size(hid_t file, const char *where, lk_image_format *f)
{
    uint64_t size = 0;
    bool there = false;
    LK_TRY(lk_h5_has(file, where, "vocabulary_size", &there));
    if (!there) return LK_OK;
    LK_TRY(lk_h5_get_u64(file, where, "vocabulary_size", &size));
    if (size < 1 || size > LK_DATASET_VOCABULARY)
        return lk_fail(LK_E_INPUT, "%s: attribute 'vocabulary_size': expected 1 to %d, found %llu; "
                       "set it to the number of values that tokens may have", where,
                       LK_DATASET_VOCABULARY, (unsigned long long)size);
    f->vocabulary = (int64_t)size;
    return LK_OK;
}

lk_status lk_format_read_images(hid_t file, const char *where, lk_image_format *f)
{
    size_t n = (size_t)f->channels;
    LK_TRY(read_classes(file, where, &f->name, &f->classes));
    LK_TRY(read_vocabulary_size(file, where, f));
    double *figure = malloc(2 * n * sizeof *figure);
    f->mean = malloc(n * sizeof *f->mean);
    f->std = malloc(n * sizeof *f->std);
    lk_status status = figure && f->mean && f->std ? read_figures(file, where, f, figure)
                                                   : lk_fail(LK_E_SYSTEM, "out of memory");
    free(figure);
    return status;
}

lk_status lk_format_write_images(hid_t file, const char *where, const lk_image_format *f)
{
    size_t n = (size_t)f->channels;
    double *figure = malloc(2 * n * sizeof *figure);
    if (!figure) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (size_t c = 0; c < n; c++) {
        figure[c] = (double)f->mean[c];
        figure[n + c] = (double)f->std[c];
    }
    lk_status status = lk_h5_set_texts(file, where, "classes", f->name, f->classes);
    if (status == LK_OK) status = lk_h5_set_f64s(file, where, "mean", figure, f->channels);
    if (status == LK_OK) status = lk_h5_set_f64s(file, where, "std", figure + n, f->channels);
    if (status == LK_OK && f->vocabulary > 0)
        status = lk_h5_set_u64(file, where, "vocabulary_size", (uint64_t)f->vocabulary);
    free(figure);
    return status;
}

lk_status lk_format_read_table(hid_t file, const char *where, int64_t columns, lk_table_format *f)
{
    LK_TRY(read_classes(file, where, &f->name, &f->classes));
    LK_TRY(lk_h5_get_texts(file, where, "columns", &f->column, &f->columns));
    if (f->columns != columns)
        return lk_fail(LK_E_INPUT,
                       "%s: attribute 'columns': expected %lld names, found %lld; the "
                       "file is damaged, import it again",
                       where, (long long)columns, (long long)f->columns);
    return LK_OK;
}

static lk_status check_vocabulary(const char *where, bool characters, const uint32_t *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        bool good = characters ? v[i] <= 0x10FFFF && (i == 0 || v[i] > v[i - 1]) : v[i] == i;
        if (!good)
            return lk_fail(LK_E_INPUT, "%s: 'vocabulary': expected %s, found %u at %lld; the file "
                           "is damaged", where,
                           characters ? "increasing code points" : "0 to 255", v[i], (long long)i);
    }
    return LK_OK;
}

lk_status lk_format_read_vocabulary(hid_t file, const char *where, bool *characters,
                                    uint32_t **vocabulary, int64_t *size)
{
    lk_h5_dataset d = {.id = -1};
    char *kind = NULL;
    LK_TRY(lk_h5_get_text(file, where, "vocabulary", &kind));
    bool character = strcmp(kind, "character") == 0, byte = strcmp(kind, "byte") == 0;
    lk_status status = LK_OK;
    if (!character && !byte)
        status = lk_fail(LK_E_INPUT, "%s: expected the vocabulary 'byte' or 'character', found "
                         "'%.60s'; use the lockstep that wrote it", where, kind);
    free(kind);
    LK_TRY(status);
    LK_TRY(lk_h5_dataset_open(file, where, "vocabulary", 0, &d));
    uint32_t *v = NULL;
    status = lk_h5_dataset_expect(&d, where, "vocabulary", LK_H5_U32, 1);
    if (status == LK_OK &&
        (d.dim[0] < 1 || d.dim[0] > LK_DATASET_VOCABULARY || (byte && d.dim[0] != 256)))
        status = lk_fail(LK_E_INPUT, "%s: 'vocabulary': expected %s entries, found %llu; the file "
                         "is damaged", where, byte ? "256" : "1 to 65536",
                         (unsigned long long)d.dim[0]);
    if (status == LK_OK && !(v = malloc(d.bytes))) status = lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) status = lk_h5_dataset_read(&d, where, "vocabulary", v);
    if (status == LK_OK) status = check_vocabulary(where, character, v, (int64_t)d.dim[0]);
    lk_h5_release(&d.id);
    if (status != LK_OK) {
        free(v);
        return status;
    }
    *characters = character;
    *vocabulary = v;
    *size = (int64_t)d.dim[0];
    return LK_OK;
}
