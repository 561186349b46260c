/* lockstep import text: files to one dataset file, streaming; memory stays flat. */
#ifndef LK_IO_IMPORT_H
#define LK_IO_IMPORT_H

#include "io/io.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct lk_import_text {
    int files;
    const char *const *file;
    const char *output;
    bool characters;     /* vocabulary of the characters found (UTF-8); else bytes */
    double validation;   /* fraction at the end kept for validation, [0, 1) */
    bool overwrite;      /* else an existing output is an error */
    void (*progress)(void *context, int64_t done, int64_t total); /* bytes; may be NULL */
    void *context;
} lk_import_text;

typedef struct lk_import_result {
    int64_t train_tokens, validation_tokens, vocabulary_size;
    char digest[33];
} lk_import_result;

/* Writes OUTPUT.part and renames. Invalid UTF-8 with `characters`: LK_E_INPUT, file and byte. */
lk_status lk_import_text_run(lk_io *io, const lk_import_text *job, lk_import_result *result);

#endif
