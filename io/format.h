/* Private: formats of text, images and tables in a file, shared by datasets and checkpoints.
 * io/format.c. Called on the I/O thread. */
#ifndef LK_IO_FORMAT_H
#define LK_IO_FORMAT_H

#include "io/dataset.h"
#include "io/hdf5.h"

/* Read the attribute `kind`. `optional`: where it is missing it is text, as in a checkpoint from
 * before there were images. */
lk_status lk_format_read_kind(hid_t file, const char *where, bool optional, lk_dataset_kind *kind);

/* Read classes, mean and std of f->channels channels, and the vocabulary of their texts, from the
 * attributes of `file`. On failure some of it may be filled in; lk_image_format_clear frees it. */
lk_status lk_format_read_images(hid_t file, const char *where, lk_image_format *f);
/* Write the attributes that it reads. */
lk_status lk_format_write_images(hid_t file, const char *where, const lk_image_format *f);
/* The same for a table of `columns` columns. */
lk_status lk_format_read_table(hid_t file, const char *where, int64_t columns, lk_table_format *f);
void lk_table_format_clear(lk_table_format *f);

/* Read and check `vocabulary`: u32 [size], increasing code points; for bytes 0..255. */
lk_status lk_format_read_vocabulary(hid_t file, const char *where, bool *characters,
                                    uint32_t **vocabulary, int64_t *size);

#endif
