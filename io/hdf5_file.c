/* Opening files for reading, with every check that can be made before their content is used. */
#include "io/hdf5_driver.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the file is there ----------------------------------------------------------------------- */

static bool is_named(const char *path, const char *pattern)
{
    const char *slash = strrchr(path, '/');
    return fnmatch(pattern, slash ? slash + 1 : path, 0) == 0;
}

/* What to do when `path` is none. The name of a checkpoint, or of one that is being saved, says
 * that it ought to be one. */
static const char *advice(const char *schema, const char *path)
{
    bool checkpoint = schema && strcmp(schema, "lockstep checkpoint") == 0;
    if (checkpoint && is_named(path, "step-*.h5")) return "use another checkpoint";
    if (checkpoint && is_named(path, "step-*.h5.part")) return "check the disk it lies on";
    if (schema && strcmp(schema, "lockstep dataset") == 0)
        return "make one with 'lockstep import'";
    if (checkpoint)
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

/* HDF5's signature lies at the front, or at 512 bytes, or at twice that, and so on. */
static bool is_hdf5(int fd, const char *path, uint64_t size)
{
    char bytes[8] = "";
    size_t n = 0;
    for (uint64_t at = 0; at < size; at = at ? 2 * at : 512)
        if (!lk_h5_driver_read(fd, path, bytes, sizeof bytes, at, &n)) return false;
        else if (n == sizeof bytes && memcmp(bytes, "\211HDF\r\n\032\n", sizeof bytes) == 0)
            return true;
    return false;
}

static lk_status cannot_open(const char *path, const char *expected)
{
    int error = lk_h5_driver_error();
    if (lk_status_of_errno(error) != LK_E_INPUT) return lk_h5_driver_fail("%s: cannot open", path);
    lk_h5_driver_reset();
    if (error == ENOENT)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found no such file; check the path", path,
                       expected);
    return lk_fail(LK_E_INPUT, "%s: expected a %s, found that it cannot be read (%s); check the "
                   "path and its permissions", path, expected, strerror(error));
}

static lk_status check_file(const char *path, const char *schema)
{
    const char *expected = noun(schema);
    struct stat s;
    int fd = lk_h5_driver_file(path, &s);
    if (fd < 0) return cannot_open(path, expected);
    bool regular = S_ISREG(s.st_mode);
    bool hdf5 = regular && is_hdf5(fd, path, (uint64_t)s.st_size);
    close(fd);
    if (lk_h5_driver_error()) return lk_h5_driver_fail("%s: cannot read", path);
    if (!regular)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found %s; %s", path, expected,
                       S_ISDIR(s.st_mode) ? "a directory" : "something that is not a file",
                       advice(schema, path));
    if (hdf5) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected a %s, found %s; %s", path, expected,
                   s.st_size == 0 ? "an empty file" : "a file that is not HDF5",
                   advice(schema, path));
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
                       "'schema'; %s", path, expected, advice(schema, path));
    LK_TRY(lk_h5_get_text(file, path, "schema", &found));
    lk_status status = LK_OK;
    uint64_t newest = lk_h5_newest_version(found);
    if (schema ? strcmp(found, schema) != 0 : strncmp(found, "lockstep ", 9) != 0)
        status = lk_fail(LK_E_INPUT, "%s: expected a %s, found schema '%.60s'; %s", path, expected,
                         found, advice(schema, path));
    free(found);
    LK_TRY(status);
    LK_TRY(lk_h5_get_u64(file, path, "version", &version));
    if (version < 1 || version > newest)
        return lk_fail(LK_E_INPUT, "%s: expected version %s%llu, found version %llu; use the "
                       "lockstep that wrote it", path, newest > 1 ? "1 to " : "",
                       (unsigned long long)newest, (unsigned long long)version);
    return LK_OK;
}

lk_status lk_h5_open(const char *path, const char *schema, hid_t *file)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    lk_h5_driver_reset();
    LK_H5_AUTO hid_t fapl = -1, id = -1;
    LK_TRY(check_file(path, schema));
    LK_TRY(lk_h5_driver_list(path, &fapl));
    LK_H5(LK_E_INPUT, id = H5Fopen(path, H5F_ACC_RDONLY, fapl),
          "%s: expected a %s, found a file that HDF5 cannot open", path, noun(schema));
    LK_TRY(check_schema(id, path, schema));
    LK_TRY(lk_h5_check_datasets(id, path));
    *file = id;
    id = -1;
    return LK_OK;
}
