/* What can be said of the HDF5 library and of a directory. */
#ifndef LK_IO_PROBE_H
#define LK_IO_PROBE_H

#include "io/io.h"

#include <jansson.h>

/* {"version", "header", "path", "parallel", "deflate", "shuffle", "fletcher32"}. Calls nothing that
 * compares versions, for HDF5 then ends the process. LK_E_SYSTEM: out of memory. The caller owns
 * *facts. */
lk_status lk_hdf5_facts(lk_io *io, json_t **facts);

/* {"path", "type", "free", "error"}, and unless `bytes` is 0 {"write", "read"}: bytes a second of
 * a new file of `bytes` bytes, less if `budget` seconds are over before; written with fsync, and
 * read back after the system was asked to forget it. The file has no name while it is there.
 * "error" says in words what could not be done, else null. LK_E_SYSTEM: out of memory. */
lk_status lk_directory_facts(const char *directory, double bytes, double budget, json_t **facts);

#endif
