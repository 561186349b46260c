/* Private to io/hdf5_*.c: what reads files for HDF5, a driver of its own (H5FD_class_t).
 *
 * A disk that refuses to be read, for a moment or for good, is not a damaged file, and HDF5 cannot
 * tell the two apart: a call fails either way, some answer "there is none" (H5Aexists), and after a
 * failed read of metadata a handle may go on giving wrong answers (1.10.8: an attribute that is
 * there is not found any more). So what may pass (an I/O error, a stale handle, too many open
 * files) is tried again below HDF5, which never learns of it: six times in 3 s. What stays is noted
 * here until lk_h5_fail() takes it. */
#ifndef LK_IO_HDF5_DRIVER_H
#define LK_IO_HDF5_DRIVER_H

#include "io/hdf5.h"

#include <sys/stat.h>

/* Open for reading, without waiting for a pipe's other end. -1: refused, and noted. */
int lk_h5_driver_file(const char *path, struct stat *s);
/* Read up to `size` bytes; *count: fewer at the end of the file. False: refused, and noted. */
bool lk_h5_driver_read(int fd, const char *path, void *bytes, size_t size, uint64_t at,
                       size_t *count);
/* A file access list for H5Fopen(). */
lk_status lk_h5_driver_list(const char *path, hid_t *list);

/* Forget what was noted on this thread. */
void lk_h5_driver_reset(void);
/* The errno of what was refused since, 0: nothing was. */
int lk_h5_driver_error(void);
/* Record "MESSAGE: what the system said; tried 6 times in 3 s", and forget it. */
lk_status lk_h5_driver_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
