/* What the fuzz targets share. A target is one function that gives bytes to the readers of one kind
 * of file; libFuzzer calls it (make fuzz), or tests/fuzz/replay.c with files (make check).
 *
 * What a target demands, beside what the sanitizers see: a file is either read, or refused with
 * LK_E_INPUT and one line of text. Any other outcome is a finding, and ends the process.
 *
 * What is left out:
 * - Metadata of HDF5 that is forged, its checksums made right again, unless FUZZ_FORGED=yes: there
 *   HDF5 1.10.8 itself reads and writes beyond its buffers (doc/faults.md), and its findings would
 *   hide ours. What a forger could do to us by way of the library is not looked for.
 *   Values with right digests are not left out: h5_make.c writes such files by HDF5's own calls.
 * - Files of more than 20,000 bytes (64 KiB under make check), several ranks that see different
 *   bytes of a file, and files that change while they are read.
 *
 * tests/fuzz/corpus/TARGET holds small files by what is odd about them: good ones, one of an
 * earlier version where that was another, and what was once a finding. */
#ifndef LK_TESTS_FUZZ_FUZZ_H
#define LK_TESTS_FUZZ_FUZZ_H

#include "comm/comm.h"
#include "io/io.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* libFuzzer's names. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
    __attribute__((weak)); /* only targets of HDF5 files have one */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);

/* Good files to begin with: write number `i` to `path`; false: there are no more. */
bool fuzz_seed(int i, const char *path);

extern lk_comm *fuzz_comm;
extern lk_io *fuzz_io;
/* Starts MPI and the I/O thread at the first call, which makes a directory for the files (in
 * $TMPDIR, or /dev/shm where there is one); it goes at exit. */
void fuzz_start(void);
/* The bytes as a file of that directory. */
const char *fuzz_file(const char *name, const uint8_t *data, size_t size);
/* The same without writing. The last 4 stay valid. */
const char *fuzz_path(const char *name);
/* True: it was read. False: refused as it should be. Anything else ends the process. */
bool fuzz_read(lk_status status, const char *what);
/* Whether memory was lost since the start; false without LeakSanitizer. */
bool fuzz_lost(void);
/* Ends the process with a message unless `good`. */
void fuzz_demand(bool good, const char *what);

/* ---- HDF5 files. tests/fuzz/h5_make.c, h5_mutate.c ------------------------------------------- */

typedef enum fuzz_kind {
    FUZZ_TEXT, FUZZ_IMAGES, FUZZ_TABLE,             /* datasets */
    FUZZ_CHECKPOINT_TEXT, FUZZ_CHECKPOINT_IMAGES,
    FUZZ_TRACE
} fuzz_kind;

/* A file of HDF5's own making, of one of `kinds` kinds from `kind`, whose structure is odd here and
 * there: types, shapes, links, filters, layouts, values. One object in `oddity` is, 0: none, which
 * is a good file. The same seed gives the same file. Returns its size, 0: it is larger than
 * `room`. Runs on the I/O thread. */
size_t fuzz_h5_make(fuzz_kind kind, int kinds, uint64_t seed, unsigned oddity, uint8_t *data,
                    size_t room);
bool fuzz_h5_seed(fuzz_kind kind, int kinds, int i, const char *path); /* a fuzz_seed() of these */
/* A LLVMFuzzerCustomMutator() of these: bytes, bytes whose metadata checksums are made right again,
 * or another file. */
size_t fuzz_h5_mutate(fuzz_kind kind, int kinds, uint8_t *data, size_t size, size_t room,
                      unsigned seed);

/* The parameters of the checkpoints that fuzz_h5_make() makes. */
const lk_params *fuzz_params(void);

#endif
