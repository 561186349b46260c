/* What a file holds, for people: the counts first, then the texts, then every dataset on a line. */
#include "io/show.h"
#include "base/digits.h"
#include "base/utf8.h"
#include "io/checkpoint.h"
#include "io/dataset.h"
#include "io/hdf5.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct line {
    lk_h5_type type;
    char shape[96], digest[LK_DIGEST_TEXT];
    uint64_t elements;
} line;

typedef struct view {
    lk_io *io;
    FILE *out;
    const char *given;
    char *path;
    hid_t file;
    lk_h5_list list;
    line *line; /* one for each dataset of the list */
} view;

/* ---- printing -------------------------------------------------------------------------------- */

/* Files come from anywhere: a terminal gets no control characters from them. Lines after the
 * first begin with `indent` spaces. */
static void put_text(FILE *out, const char *text, int indent)
{
    const char *end = text + strlen(text);
    while (end > text && end[-1] == '\n') end--;
    while (text < end) {
        if (*text == '\n') fprintf(out, "\n%*s", indent, "");
        else if (*text == '\t') fputc('\t', out);
        text += *text == '\n' || *text == '\t' ? 1 : lk_plain_put(out, text);
    }
    fputc('\n', out);
}

enum { LABEL = 18 }; /* columns of a label with its indent */

static void put_label(const view *v, const char *label)
{
    fprintf(v->out, "  %-*s", LABEL - 2, label);
}

static void put_line(const view *v, const char *label, const char *text)
{
    put_label(v, label);
    put_text(v->out, text[0] ? text : "(none)", LABEL);
}

static void put_number(const view *v, const char *label, double value)
{
    put_label(v, label);
    fprintf(v->out, "%.6g\n", value);
}

static void put_count(const view *v, const char *label, uint64_t value, const char *unit)
{
    char text[32];
    put_label(v, label);
    fprintf(v->out, "%s%s%s\n", lk_digits((int64_t)value, text), unit[0] ? " " : "", unit);
}

static void put_vocabulary(const view *v, int64_t size, bool characters)
{
    put_count(v, "vocabulary", (uint64_t)size, characters ? "characters" : "bytes");
}

static void put_block(const view *v, const char *title, const char *text)
{
    fprintf(v->out, "\n%s\n    ", title);
    put_text(v->out, text[0] ? text : "(none)", 4);
}

/* ---- datasets -------------------------------------------------------------------------------- */

static lk_status read_lines(view *v)
{
    LK_TRY(lk_h5_list_datasets(v->file, v->path, "", &v->list));
    v->line = calloc((size_t)v->list.count + 1, sizeof *v->line);
    if (!v->line) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int i = 0; i < v->list.count; i++) {
        lk_h5_dataset d = {.id = -1};
        line *l = &v->line[i];
        LK_TRY(lk_h5_dataset_open(v->file, v->path, v->list.path[i], 0, &d));
        lk_h5_release(&d.id);
        l->type = d.type;
        l->elements = d.bytes / d.element;
        lk_h5_shape(&d, l->shape, sizeof l->shape);
        memcpy(l->digest, d.digest, sizeof l->digest);
    }
    return LK_OK;
}

static void put_lines(const view *v)
{
    int name = 7, shape = 5;
    for (int i = 0; i < v->list.count; i++) {
        int n = (int)strlen(v->list.path[i]), s = (int)strlen(v->line[i].shape);
        if (n > name) name = n;
        if (s > shape) shape = s;
    }
    fprintf(v->out, "\ndatasets: %d\n    %-*s  type  %-*s  digest (XXH3-128)\n", v->list.count,
            name, "name", shape, "shape");
    for (int i = 0; i < v->list.count; i++) {
        char text[LK_H5_MAX_PATH + 160];
        const line *l = &v->line[i];
        snprintf(text, sizeof text, "%-*s  %-4s  %-*s  %s", name, v->list.path[i],
                 lk_h5_type_name(l->type), shape, l->shape, l->digest[0] ? l->digest : "(none)");
        fprintf(v->out, "    ");
        put_text(v->out, text, 4);
    }
}

/* Elements of all datasets in a group. */
static uint64_t count_in(const view *v, const char *group, uint64_t *datasets)
{
    uint64_t sum = 0, n = 0;
    size_t length = strlen(group);
    for (int i = 0; i < v->list.count; i++) {
        const char *path = v->list.path[i];
        if (strncmp(path, group, length) != 0 || path[length] != '/') continue;
        sum += v->line[i].elements;
        n++;
    }
    if (datasets) *datasets = n;
    return sum;
}

/* ---- the kinds of file ----------------------------------------------------------------------- */

static void put_image_shape(const view *v, const lk_image_format *f)
{
    put_label(v, "images");
    fprintf(v->out, "%lld x %lld pixels (height x width), %lld channel%s\n", (long long)f->height,
            (long long)f->width, (long long)f->channels, f->channels == 1 ? "" : "s");
    for (int i = 0; i < 2; i++) {
        put_label(v, i ? "std" : "mean");
        for (int64_t c = 0; c < f->channels; c++)
            fprintf(v->out, "%s%.6g", c ? ", " : "", (double)(i ? f->std : f->mean)[c]);
        fprintf(v->out, ", of values from 0 to 1\n");
    }
    if (f->vocabulary == 0) return;
    put_label(v, "texts");
    fprintf(v->out, "%lld tokens below %lld with each image\n", (long long)f->text,
            (long long)f->vocabulary);
}

/* Samples of each class in a split. */
static lk_status count_labels(lk_dataset *d, lk_split split, int64_t *count)
{
    enum { PIECE = 1 << 16 };
    uint16_t *label = malloc(PIECE * sizeof *label);
    lk_status status = label ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t at = 0; at < d->rows[split] && status == LK_OK; at += PIECE) {
        int64_t n = d->rows[split] - at < PIECE ? d->rows[split] - at : PIECE;
        status = lk_dataset_read(d, split, 1, at, n, label);
        for (int64_t i = 0; i < n && status == LK_OK; i++) count[label[i]]++;
    }
    free(label);
    return status;
}

enum { WIDEST_NAME = 40 };

static lk_status put_classes(const view *v, lk_dataset *d, char *const *name, int64_t classes)
{
    int64_t *count = calloc(2 * (size_t)classes, sizeof *count);
    int width = 4;
    lk_status status = count ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    for (int s = 0; s < 2 && status == LK_OK; s++)
        status = count_labels(d, (lk_split)s, count + s * classes);
    for (int64_t k = 0; k < classes; k++)
        if (lk_plain_width(name[k]) > width) width = lk_plain_width(name[k]);
    if (width > WIDEST_NAME) width = WIDEST_NAME;
    if (status == LK_OK)
        fprintf(v->out, "\nclasses: %lld\n    label  %-*s  %12s  %12s\n", (long long)classes, width,
                "name", "train", "validation");
    for (int64_t k = 0; k < classes && status == LK_OK; k++) {
        char a[32], b[32];
        fprintf(v->out, "    %5lld  ", (long long)k);
        lk_plain_column(v->out, name[k], width);
        fprintf(v->out, "  %12s  %12s\n", lk_digits((int64_t)count[k], a),
                lk_digits((int64_t)count[classes + k], b));
    }
    free(count);
    return status;
}

static void put_columns(const view *v, const lk_table_format *f)
{
    put_count(v, "features", (uint64_t)f->columns, "");
    for (int64_t i = 0; i < f->columns && i < 100; i++)
        put_line(v, i ? "" : "columns", f->column[i]);
    if (f->columns > 100) put_line(v, "", "...");
}

static lk_status put_dataset(const view *v, lk_dataset *d)
{
    const char *unit = d->kind == LK_TEXT_DATA ? "tokens" : "samples";
    char retried[400];
    put_line(v, "holds", lk_dataset_kind_name(d->kind));
    put_count(v, "train", (uint64_t)d->rows[LK_TRAIN], unit);
    put_count(v, "validation", (uint64_t)d->rows[LK_VALIDATION], unit);
    if (d->kind == LK_TEXT_DATA) put_vocabulary(v, d->vocabulary_size, d->characters);
    if (d->kind == LK_IMAGE_DATA) put_image_shape(v, &d->image);
    if (d->kind == LK_TABLE_DATA) put_columns(v, &d->table);
    if (d->source) put_line(v, "source", d->source);
    put_line(v, "digest", d->digest);
    if (d->warning[0]) put_line(v, "warning", d->warning);
    if (lk_dataset_retried(d, retried, sizeof retried)) put_line(v, "warning", retried);
    if (d->kind == LK_IMAGE_DATA) return put_classes(v, d, d->image.name, d->image.classes);
    if (d->kind == LK_TABLE_DATA) return put_classes(v, d, d->table.name, d->table.classes);
    return LK_OK;
}

static lk_status show_dataset(const view *v)
{
    lk_dataset *d = NULL;
    LK_TRY(lk_dataset_open(v->io, MPI_COMM_SELF, v->path, &d));
    lk_status status = put_dataset(v, d);
    lk_dataset_close(d);
    return status;
}

/* Those of the parameters that are not learned: what lk_batch_norm measures, known by its name. */
static uint64_t count_statistics(const view *v, uint64_t *datasets)
{
    static const char *const ending[] = {"/running_mean", "/running_var"};
    uint64_t sum = 0;
    *datasets = 0;
    for (int i = 0; i < v->list.count; i++) {
        const char *path = v->list.path[i], *last = strrchr(path, '/');
        if (strncmp(path, "parameters/", 11) != 0) continue;
        if (strcmp(last, ending[0]) != 0 && strcmp(last, ending[1]) != 0) continue;
        sum += v->line[i].elements;
        ++*datasets;
    }
    return sum;
}

static void put_in_datasets(const view *v, const char *label, uint64_t elements, uint64_t datasets,
                            const char *what)
{
    char text[32];
    put_label(v, label);
    fprintf(v->out, "%s in %llu datasets%s\n", lk_digits((int64_t)elements, text),
            (unsigned long long)datasets, what);
}

static void put_parameters(const view *v)
{
    uint64_t arrays = 0, measured = 0, parameters = count_in(v, "parameters", &arrays);
    uint64_t statistics = count_statistics(v, &measured);
    put_in_datasets(v, "parameters", parameters - statistics, arrays - measured, "");
    if (measured > 0)
        put_in_datasets(v, "statistics", statistics, measured,
                        ", running means and variances: not learned");
    if (count_in(v, "ema", NULL) > 0)
        put_line(v, "ema", "a moving average of the parameters is stored");
    put_line(v, "optimizer", count_in(v, "moment1", NULL) > 0
                                 ? "moments are stored: training can continue from here"
                                 : "no moments: for evaluation and generation only");
}

static void put_names(const view *v, const lk_image_format *f)
{
    put_count(v, "classes", (uint64_t)f->classes, "");
    for (int64_t k = 0; k < f->classes; k++) {
        fprintf(v->out, "    %5lld  ", (long long)k);
        put_text(v->out, f->name[k], LABEL);
    }
}

static lk_status show_checkpoint(const view *v)
{
    lk_checkpoint_info info;
    LK_TRY(lk_checkpoint_open(v->io, MPI_COMM_SELF, v->path, &info));
    const lk_step_state *s = &info.state;
    put_count(v, "step", s->step, "");
    put_count(v, "updates", s->updates, "");
    put_count(v, "skipped", s->skipped, "steps, for a gradient that was not finite");
    if (s->step > 0) {
        put_number(v, "loss", (double)s->loss);
        put_number(v, "gradient norm", (double)s->grad_norm);
        put_number(v, "learning rate", (double)s->lr);
    }
    put_number(v, "loss scale", (double)s->loss_scale);
    put_parameters(v);
    if (info.kind == LK_TEXT_DATA) put_vocabulary(v, info.vocabulary_size, info.characters);
    if (info.kind == LK_IMAGE_DATA) {
        put_image_shape(v, &info.image);
        put_names(v, &info.image);
    }
    put_count(v, "leaves", (uint64_t)info.leaves, "");
    put_label(v, "seed");
    fprintf(v->out, "%llu\n", (unsigned long long)info.seed);
    put_line(v, "dataset", info.dataset_path);
    put_line(v, "dataset digest", info.dataset_digest);
    put_line(v, "code version", info.code_version);
    put_line(v, "build", info.build);
    put_block(v, "run file", info.run_file);
    put_block(v, "library choices", info.choices);
    lk_checkpoint_info_clear(&info);
    return LK_OK;
}

static lk_status show_predictions(const view *v)
{
    lk_h5_dataset d = {.id = -1};
    LK_TRY(lk_h5_dataset_open(v->file, v->path, "loss", 0, &d));
    lk_h5_release(&d.id);
    LK_TRY(lk_h5_dataset_expect(&d, v->path, "loss", LK_H5_F32, 1));
    bool samples = false;
    LK_TRY(lk_h5_link(v->file, v->path, "label", &samples));
    if (samples)
        put_count(v, "samples", d.dim[0], "of validation: loss in nats, most likely class, label");
    else
        put_count(v, "positions", d.dim[0],
                  "of the validation text: loss in nats, most likely token");
    return LK_OK;
}

static lk_status show_trace(const view *v)
{
    lk_h5_dataset d = {.id = -1};
    LK_TRY(lk_h5_dataset_open(v->file, v->path, "step/seconds", 0, &d));
    lk_h5_release(&d.id);
    LK_TRY(lk_h5_dataset_expect(&d, v->path, "step/seconds", LK_H5_F64, 2));
    put_count(v, "ranks", d.dim[0], "");
    put_count(v, "steps", d.dim[1], "of each: 'lockstep trace' prints where their time went");
    return LK_OK;
}

static lk_status put_attribute(const view *v, hid_t object, const char *label, const char *name)
{
    char *text = NULL;
    LK_TRY(lk_h5_get_text(object, v->path, name, &text));
    put_line(v, label, text);
    free(text);
    return LK_OK;
}

/* What happened, where, and what each of the tensors is. */
static lk_status show_tensors(const view *v)
{
    static const char *const text[] = {"message", "scope", "op"};
    static const char *const number[] = {"step", "rank", "leaf"};
    for (int i = 0; i < 3; i++) LK_TRY(put_attribute(v, v->file, text[i], text[i]));
    for (int i = 0; i < 3; i++) {
        uint64_t value = 0;
        bool there = false;
        LK_TRY(lk_h5_has(v->file, v->path, number[i], &there));
        if (!there) continue; /* a node that belongs to no leaf */
        LK_TRY(lk_h5_get_u64(v->file, v->path, number[i], &value));
        put_count(v, number[i], value, "");
    }
    for (int i = 0; i < v->list.count; i++) {
        const char *name = v->list.path[i];
        LK_H5_AUTO hid_t dataset = -1;
        bool there = false;
        LK_H5(LK_E_INPUT, dataset = H5Dopen2(v->file, name, H5P_DEFAULT), "%s: cannot open '%s'",
              v->path, name);
        LK_TRY(lk_h5_has(dataset, v->path, "meaning", &there));
        if (there) LK_TRY(put_attribute(v, dataset, name, "meaning"));
    }
    return LK_OK;
}

static lk_status (*const show_content[LK_SCHEMAS])(const view *v) = {
    [LK_SCHEMA_DATASET] = show_dataset,         [LK_SCHEMA_CHECKPOINT] = show_checkpoint,
    [LK_SCHEMA_PREDICTIONS] = show_predictions, [LK_SCHEMA_TRACE] = show_trace,
    [LK_SCHEMA_TENSORS] = show_tensors,
};

static lk_status show(view *v)
{
    uint64_t version = 0;
    lk_schema schema;
    LK_TRY(lk_checkpoint_resolve(v->given, &v->path));
    LK_TRY(lk_h5_open(v->path, LK_SCHEMA_ANY, &v->file));
    LK_TRY(lk_h5_get_schema(v->file, v->path, &schema));
    LK_TRY(lk_h5_get_u64(v->file, v->path, "version", &version));
    LK_TRY(read_lines(v));
    fprintf(v->out, "%s\n", v->path);
    put_label(v, "kind");
    fprintf(v->out, "%s, version %llu\n", lk_schema_name(schema), (unsigned long long)version);
    LK_TRY(show_content[schema](v));
    put_lines(v);
    return LK_OK;
}

/* Everything is put together first, so that an error is not preceded by half an answer. */
static lk_status show_to(view *v, FILE *out)
{
    char *text = NULL;
    size_t size = 0;
    v->out = open_memstream(&text, &size);
    if (!v->out) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = show(v);
    bool bad = ferror(v->out);
    if (fclose(v->out) != 0 || bad) status = lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK && (fwrite(text, 1, size, out) != size || fflush(out) != 0) &&
        errno != EPIPE) /* a reader such as head may have enough */
        status = lk_fail(LK_E_SYSTEM, "cannot print what %s holds: %s; see where the output goes",
                         v->path, strerror(errno));
    free(text);
    return status;
}

static lk_status run(void *argument)
{
    view *v = argument;
    lk_status status = show_to(v, v->out);
    if (status == LK_E_INPUT) lk_checkpoint_name_before(v->given);
    if (v->file >= 0) H5Fclose(v->file); /* read only: nothing to lose */
    lk_h5_list_clear(&v->list);
    free(v->line);
    free(v->path);
    return status;
}

lk_status lk_show_file(lk_io *io, const char *path, FILE *out)
{
    view v = {.io = io, .out = out, .given = path, .file = -1};
    return lk_io_call(io, run, &v);
}
