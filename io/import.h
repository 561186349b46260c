/* lockstep import: files of other kinds to one dataset file (io/dataset.h).
 *
 * All stream: memory does not grow with the data, but for some bytes a sample (csv, images). The
 * result is written to OUTPUT.part and renamed when it is whole. LK_E_INPUT names the file and the
 * place in it. */
#ifndef LK_IO_IMPORT_H
#define LK_IO_IMPORT_H

#include "io/io.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

/* What all importers take. The functions are called on the I/O thread and may be NULL. */
typedef struct lk_import_target {
    const char *output;
    bool overwrite;      /* else an existing output is an error */
    double validation;   /* fraction kept for validation, [0, 1); negative: what the kind does when
                            nothing is said, below */
    int64_t max_bad;     /* images, csv: so many bad files or rows are left out; more: an error */
    void (*progress)(void *context, int64_t done, int64_t total); /* text, csv: bytes, else samples;
                            images: first what an earlier import has done */
    void (*bad)(void *context, const char *where, const char *reason); /* each bad file or row */
    void (*ignored)(void *context, const char *where, const char *reason); /* images: each file or
                            folder that is no sample */
    void (*untrained)(void *context, const char *where, const char *reason); /* each class that the
                            training split has no sample of */
    void *context;
} lk_import_target;

typedef struct lk_import_result {
    int64_t rows[2];     /* by lk_split: tokens, or samples */
    int64_t classes;     /* text: the size of the vocabulary */
    int64_t bad;         /* files or rows left out */
    int64_t ignored;     /* images: files and folders that are no samples */
    int64_t resumed;     /* images: those that an earlier import had decoded, bad files not */
    char digest[33];
} lk_import_result;

/* Text, in two passes. Validation: the end of the text (default 0.1). Invalid UTF-8 with
 * `characters`: LK_E_INPUT, file and byte. */
typedef struct lk_import_text {
    lk_import_target to;
    int files;
    const char *const *file; /* one after the other */
    bool characters;         /* vocabulary of the characters found (UTF-8); else bytes */
} lk_import_text;
lk_status lk_import_text_run(lk_io *io, const lk_import_text *job, lk_import_result *result);

/* Images and labels in the idx format of MNIST (Y. LeCun, C. Cortes, C. Burges), plain or packed by
 * gzip: images u8 [N,H,W], labels u8 [N]. Images keep their order. Validation: the second pair of
 * files, or without it a random share of the samples (default 0.1). */
typedef struct lk_import_idx {
    lk_import_target to;
    const char *images[2], *labels[2]; /* by lk_split; validation may be NULL */
    int64_t classes;                   /* 0: the largest label + 1, named by their numbers */
    char *const *name;                 /* [classes] */
} lk_import_idx;
lk_status lk_import_idx_run(lk_io *io, const lk_import_idx *job, lk_import_result *result);

/* A table: the first line names the columns (if it is all numbers: they are named 1, 2, ...), one
 * column is the label, all others are features, finite numbers. Classes: the different labels
 * sorted, as numbers if all are whole numbers. Rows are shuffled, the same way for the same number
 * of them. Validation: a random share (default 0.1). */
typedef struct lk_import_csv {
    lk_import_target to;
    int files;
    const char *const *file; /* of the same columns */
    const char *label;       /* name of the column */
} lk_import_csv;
lk_status lk_import_csv_run(lk_io *io, const lk_import_csv *job, lk_import_result *result);

typedef enum lk_resize {
    LK_RESIZE_CROP,    /* the largest part of the right shape, from the middle */
    LK_RESIZE_FIT,     /* the whole image, black bars beside it */
    LK_RESIZE_STRETCH, /* the whole image, distorted */
} lk_resize;

/* PNG and JPEG files below a folder, each a sample of the class that its sub-folder names (with
 * `labels`: that a CSV file of lines "file,label" gives it; a first line that names no file and no
 * label of other lines is taken for names of columns). They are turned upright, as their EXIF
 * orientation says, before they are resized. Classes are sorted by name. Files and folders whose
 * names begin with a dot are ignored. A file in a class folder that is neither named as an image
 * (.jpg, .png, ..., also of kinds that cannot be read) nor begins as a PNG or JPEG does is ignored,
 * and so is what lies in no class folder; an image there is bad. Validation: DIR/val,
 * DIR/validation or DIR/test (one of them) where there is DIR/train too, else the share (default
 * 0.1) that hashes of the files' paths below DIR choose; folders that look like splits by other
 * names, DIR/training with DIR/testing for example, are LK_E_INPUT. Samples are in the order of
 * another such hash, so that shards of the dataset are alike.
 *
 * Collective over `world`: all ranks decode, rank 0 finds the files, writes and calls the functions
 * of `to`; the dataset does not depend on the number of ranks. Decoded images are kept in
 * OUTPUT.part, so that the import goes on after an interruption or with a larger max_bad; it starts
 * anew when a file was changed or other options are given. Files that were bad are tried again;
 * where one is not as it was, it is decoded anew from there. */
typedef struct lk_import_images {
    lk_import_target to;
    const char *directory, *labels; /* labels: NULL for sub-folders */
    int64_t height, width, channels; /* channels: 1 (luminance) or 3 */
    lk_resize resize;
} lk_import_images;
lk_status lk_import_images_run(lk_io *io, MPI_Comm world, const lk_import_images *job,
                               lk_import_result *result);

#endif
