/* Private: what the importers share. Checks of the output, the writer of rows, the mean and
 * deviation of images. io/import_rows.c. Called on the I/O thread. */
#ifndef LK_IO_IMPORT_ROWS_H
#define LK_IO_IMPORT_ROWS_H

#include "io/dataset.h"
#include "io/hdf5.h"
#include "io/import.h"
#include "io/reference.h"
#include "io/slabs.h"

#define LK_IMPORT_VALIDATION 0.1         /* where nothing is said */
#define LK_IMPORT_PURPOSE 0x7F000000u    /* of lk_permute, for the choice and order of samples */

/* The output may be written, OUTPUT.part too (lk_import_check_part), the fraction is one, the
 * inputs are files and none is the output. *bytes, if wanted, gets the size of all inputs added. */
lk_status lk_import_check(const lk_import_target *to, int files, const char *const *file,
                          int64_t *bytes);
/* What an import that was killed left under that name may be replaced; a file of somebody's own is
 * LK_E_INPUT. */
lk_status lk_import_check_part(const char *output, const char *ending);
/* OUTPUT with an ending; free() it. */
lk_status lk_import_name(const char *output, const char *ending, char **name);
/* The fraction, or what it is where nothing is said. */
double lk_import_fraction(const lk_import_target *to);
/* One bad file or row. LK_E_INPUT is for the end: lk_import_check_bad. `kept`: the file that has
 * the good ones for the next import; NULL: none. */
void lk_import_note_bad(const lk_import_target *to, lk_import_result *result, const char *where,
                        const char *reason);
lk_status lk_import_check_bad(const lk_import_target *to, const lk_import_result *result,
                              const char *what, const char *kept);

/* A model learns to tell classes apart: one alone is an error. `where`: the input. */
lk_status lk_import_check_classes(const char *where, char *const *name, int64_t classes);

/* The datasets of both splits: field 0 and, but of texts, field 1, `labels`. */
typedef struct lk_rows {
    char *part; /* the file being written; removed by lk_rows_abandon */
    int lock;   /* of `part` */
    bool fresh; /* set by the importer: the output must not be there yet */
    hid_t file;
    lk_dataset_kind kind;
    int fields;
    lk_h5_type type[2]; /* by field */
    size_t row[2];      /* bytes, by field */
    int dims;           /* of field 0 */
    hsize_t inner[LK_H5_MAX_DIMS];
    int64_t rows[2], written[2]; /* by split */
    hid_t dataset[2][2];         /* by split and field */
    lk_digest *digest[2][2];
    lk_slab_maker slabs[2][2];
    lk_reference_maker reference; /* of the training split */
    char *const *column;          /* tables: names of the columns, set by the importer */
} lk_rows;

/* Create `part`, which the writer owns from now on. `type`, `dim`: of field 0, the dimensions but
 * for the first. Zero the struct before; call lk_rows_abandon whatever happens. */
lk_status lk_rows_create(lk_rows *w, char *part, lk_dataset_kind kind, lk_h5_type type, int dims,
                         const int64_t *dim, const int64_t rows[2]);
/* Append rows to a split; texts have no labels. */
lk_status lk_rows_put(lk_rows *w, lk_split split, int64_t count, const void *data,
                      const uint16_t *labels);
/* All rows are written: digests, classes, source; flush, sync, rename to `output`. */
lk_status lk_rows_finish(lk_rows *w, const char *output, const char *source, char *const *name,
                         int64_t classes, char digest[LK_DIGEST_TEXT]);
/* The same of a text, the digest of whose whole its importer knows. The vocabulary is written. */
lk_status lk_rows_finish_text(lk_rows *w, const char *output, const char *source,
                              int64_t vocabulary, const char digest[LK_DIGEST_TEXT]);
/* All rows are put: tell of the classes that the training split has no sample of. */
void lk_rows_tell_untrained(const lk_rows *w, const lk_import_target *to, char *const *name,
                            int64_t classes);
void lk_rows_abandon(lk_rows *w); /* closes and removes what is not finished */

/* Sums over pixels, exact and so independent of their order. */
typedef struct lk_pixel_sums {
    uint64_t pixels, sum[4], square[4]; /* by channel */
} lk_pixel_sums;
void lk_pixel_sums_add(lk_pixel_sums *s, const uint8_t *pixels, size_t bytes, int64_t channels);
/* Write the attributes mean and std of values in [0,1]; std is 1 where it would be 0. */
lk_status lk_pixel_sums_write(const lk_pixel_sums *s, const lk_rows *w, int64_t channels);

/* Different names of labels, numbered as they come. */
typedef struct lk_label_set {
    char **name; /* [count] by number */
    int32_t *sorted; /* numbers in the order of names */
    int64_t count, room;
} lk_label_set;
/* LK_E_INPUT: too many, or not UTF-8. */
lk_status lk_label_set_add(lk_label_set *s, const char *name, int32_t *number);
bool lk_label_set_has(const lk_label_set *s, const char *name);
/* The final order: by name, or (`numbers`) by value if all are whole numbers. Gives the class of
 * each number, [count], to be freed, and sorts `name`. */
lk_status lk_label_set_order(lk_label_set *s, bool numbers, uint16_t **class_of);
void lk_label_set_clear(lk_label_set *s);

#endif
