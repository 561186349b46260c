/* The distribution of training data (metric/drift.h) as datasets and checkpoints keep it, in the
 * root attribute `reference`, and what the importers count for it. */
#ifndef LK_IO_REFERENCE_H
#define LK_IO_REFERENCE_H

#include "io/dataset.h"
#include "metric/drift.h"

#include <mpi.h>

/* What a file says about the data it is, or that a model learned from. */
typedef struct lk_reference_source {
    char *path;             /* of the file; `latest` resolved */
    bool dataset;           /* else a checkpoint */
    lk_dataset_kind kind;
    char *text;             /* JSON; NULL: none, the file is older than references */
    bool characters;        /* text */
    uint32_t *vocabulary;
    int64_t vocabulary_size;
    char **name;            /* images, tables: classes */
    int64_t classes;
} lk_reference_source;
/* From a dataset file, a checkpoint or a run directory. Each rank by itself. */
lk_status lk_reference_source_read(lk_io *io, const char *path, lk_reference_source *s);
void lk_reference_source_clear(lk_reference_source *s); /* takes a zeroed one */

/* Counts of a training split. */
typedef struct lk_reference_counts {
    lk_dataset_kind kind;
    int64_t rows;         /* samples, or tokens */
    const int64_t *label; /* [classes]; of a text its tokens, [vocabulary] */
    int64_t classes;
    const int64_t *pixel; /* images: [channels, 256] */
    int64_t channels;
    char *const *column;  /* tables: names [columns], LK_DRIFT_COLUMNS at most */
    int64_t columns;
    const lk_sketch_scale *scale; /* [columns] */
    const int64_t *bin;           /* [columns, LK_SKETCH_BINS] */
} lk_reference_counts;
/* "tokens"; or a feature for each channel or column and "label". */
lk_status lk_reference_build(const lk_reference_counts *n, lk_reference *r);

/* What an importer counts while it writes the training split. */
typedef struct lk_reference_maker {
    lk_reference_counts n;
    int64_t *label, *pixel, *bin;
    lk_columns_plan plan;      /* tables: made from the first rows, which are as good as any */
    lk_columns_counts columns;
    bool planned;
    float *strip;              /* rows of the columns that are counted */
    int64_t width;             /* tables: of all columns */
} lk_reference_maker;
/* `width`: channels of images, columns of a table; not used for texts. Zero the struct before; call
 * lk_reference_maker_clear whatever happens. */
lk_status lk_reference_maker_create(lk_reference_maker *m, lk_dataset_kind kind, int64_t classes,
                                    int64_t width);
void lk_reference_maker_clear(lk_reference_maker *m);
/* Rows of field 0 (of `bytes` bytes in all) and their labels; texts: tokens, u8 or u16, no
 * labels. */
lk_status lk_reference_maker_add(lk_reference_maker *m, int64_t rows, size_t bytes,
                                 const void *data, const uint16_t *labels);
/* JSON, malloc'ed. `column`: names of a table's columns. */
lk_status lk_reference_maker_format(lk_reference_maker *m, char *const *column, char **text);

#endif
