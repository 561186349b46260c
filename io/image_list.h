/* Private: which image files there are below a folder, and the class and split of each. */
#ifndef LK_IO_IMAGE_LIST_H
#define LK_IO_IMAGE_LIST_H

#include "base/digest.h"
#include "io/dataset.h"
#include "io/import.h"

typedef struct lk_image_file {
    int64_t path;   /* offset of its name below the directory in `paths` */
    uint64_t order; /* hash of that name */
    uint16_t label;
    uint8_t split;
} lk_image_file;

/* The files in the order of the dataset: by split, then by hash. */
typedef struct lk_image_list {
    int64_t count;
    lk_image_file *file;
    char *paths;
    int64_t path_bytes;
    char **name; /* [classes]; only where it was made */
    int64_t classes;
    char digest[LK_DIGEST_TEXT]; /* over names, sizes, times, labels and splits of all files */
} lk_image_list;

/* LK_E_INPUT: no images, a class folder without any, a class that is not in train, a line of the
 * label file. Images that lie where they have no class are bad files; other things there, and in
 * class folders what is no image, are ignored: `result` counts both. */
lk_status lk_image_list_make(const lk_import_images *job, lk_import_result *result,
                             lk_image_list *list);
void lk_image_list_clear(lk_image_list *list);

#endif
