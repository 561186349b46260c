/* A small file of text, read as data are: what the disk refuses for a moment is tried again. */
#ifndef LK_IO_SMALL_FILE_H
#define LK_IO_SMALL_FILE_H

#include "base/status.h"

#include <stddef.h>

/* *text, malloc'ed: *size bytes and a NUL. NULL where `path` is no regular file (a pipe), is empty,
 * or is larger than `most`. By lk_status_of_errno(): it cannot be read; that is said of `what`. */
lk_status lk_small_file(const char *path, const char *what, size_t most, char **text,
                        size_t *size);

#endif
