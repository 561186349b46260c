/* Opening files for reading, with every check that can be made before their content is looked at. */
#include "io/hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the file is there ----------------------------------------------------------------------- */

static const char *advice(const char *schema)
{
    if (schema && strcmp(schema, "lockstep dataset") == 0)
        return "make one with 'lockstep import'";
    if (schema && strcmp(schema, "lockstep checkpoint") == 0)
        return "name a step-NNNNNN.h5 file, a 'latest' link or a run directory";
    if (schema && strcmp(schema, "lockstep predictions") == 0) /* only looked at to replace them */
        return "name another output file";
    if (schema && strcmp(schema, "lockstep trace") == 0)
        return "name the trace.h5 of a run with trace.from, or of 'lockstep profile'";
    return "name a dataset or a checkpoint file";
}

/* The kind of file for "expected a %s". */
static const char *noun(const char *schema)
{
    if (!schema) return "lockstep file";
    return strcmp(schema, "lockstep predictions") == 0 ? "file of lockstep predictions" : schema;
}

/* What the system says to opening the file and reading its first byte; 0: nothing is wrong. A pipe
 * is not waited for. */
static int reading_error(const char *path, struct stat *s)
{
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return errno;
    int error = fstat(fd, s) != 0 ? errno : 0;
    if (error == 0 && S_ISREG(s->st_mode) && pread(fd, &byte, 1, 0) < 0) error = errno;
    close(fd);
    return error;
}

static lk_status check_file(const char *path, const char *schema)
{
    const char *expected = noun(schema);
    struct stat s = {.st_mode = 0};
    htri_t hdf5 = 0;
    int error, tries = 1;
    while ((error = reading_error(path, &s)) != 0 && lk_h5_pause(error, &tries)) continue;
    if (error == ENOENT)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found no such file; check the path", path,
                       expected);
    if (error == EACCES || error == EPERM)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found that it cannot be read (%s); check "
                       "the path and its permissions", path, expected, strerror(error));
    if (error) return lk_h5_refused(error, "%s: cannot read", path);
    if (!S_ISREG(s.st_mode))
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found %s; %s", path, expected,
                       S_ISDIR(s.st_mode) ? "a directory" : "something that is not a file",
                       advice(schema));
    LK_H5(LK_E_INPUT, hdf5 = H5Fis_hdf5(path), "%s: expected a %s, found a file without an HDF5 "
          "header", path, expected);
    if (hdf5 > 0) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected a %s, found %s; %s", path, expected,
                   s.st_size == 0 ? "an empty file" : "a file that is not HDF5", advice(schema));
}

/* ---- it is one of lockstep's ----------------------------------------------------------------- */

static lk_status check_schema(hid_t file, const char *path, const char *schema)
{
    const char *expected = noun(schema);
    char *found = NULL;
    uint64_t version = 0;
    bool there = false;
    LK_TRY(lk_h5_has(file, path, "schema", &there));
    if (!there)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found an HDF5 file without the attribute "
                       "'schema'; %s", path, expected, advice(schema));
    LK_TRY(lk_h5_get_text(file, path, "schema", &found));
    lk_status status = LK_OK;
    uint64_t newest = lk_h5_newest_version(found);
    if (schema ? strcmp(found, schema) != 0 : strncmp(found, "lockstep ", 9) != 0)
        status = lk_fail(LK_E_INPUT, "%s: expected a %s, found schema '%.60s'; %s", path, expected,
                         found, advice(schema));
    free(found);
    LK_TRY(status);
    LK_TRY(lk_h5_get_u64(file, path, "version", &version));
    if (version < 1 || version > newest)
        return lk_fail(LK_E_INPUT, "%s: expected version %s%llu, found version %llu; use the "
                       "lockstep that wrote it", path, newest > 1 ? "1 to " : "",
                       (unsigned long long)newest, (unsigned long long)version);
    return LK_OK;
}

static lk_status read_access(const char *path, hid_t *list)
{
    LK_H5_AUTO hid_t fapl = -1;
    LK_H5(LK_E_SYSTEM, fapl = H5Pcreate(H5P_FILE_ACCESS), "%s: access list", path);
    LK_H5(LK_E_SYSTEM, H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG), "%s: access list", path);
    /* files are renamed when whole, never changed; some file systems have no locks */
    LK_H5(LK_E_SYSTEM, H5Pset_file_locking(fapl, false, true), "%s: access list", path);
    *list = fapl;
    fapl = -1;
    return LK_OK;
}

lk_status lk_h5_open(const char *path, const char *schema, hid_t *file)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    lk_h5_forget_note();
    LK_H5_AUTO hid_t fapl = -1, id = -1;
    LK_TRY(check_file(path, schema));
    LK_TRY(read_access(path, &fapl));
    LK_H5(LK_E_INPUT, id = H5Fopen(path, H5F_ACC_RDONLY, fapl),
          "%s: expected a %s, found a file that HDF5 cannot open", path, noun(schema));
    LK_TRY(check_schema(id, path, schema));
    *file = id;
    id = -1;
    return LK_OK;
}
