/* Opening files for reading, with every check that can be made before their content is used. */
#include "io/hdf5_driver.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    uint64_t newest;  /* version: is written; those before it are read */
    const char *noun; /* "expected a NOUN" */
    const char *advice; /* what to do when a file is none */
} schemas[LK_SCHEMAS + 1] = {
    [LK_SCHEMA_DATASET] = {"lockstep dataset", 2, "lockstep dataset",
                           "make one with 'lockstep import'"},
    [LK_SCHEMA_CHECKPOINT] = {"lockstep checkpoint", 1, "lockstep checkpoint",
                              "name a step-NNNNNN.h5 file, a 'latest' link or a run directory"},
    [LK_SCHEMA_PREDICTIONS] = {"lockstep predictions", 1, "file of lockstep predictions",
                               "name another output file"}, /* only opened to be replaced */
    [LK_SCHEMA_TRACE] = {"lockstep trace", 1, "lockstep trace",
                         "name the trace.h5 of a run with trace.from, or of 'lockstep profile'"},
    [LK_SCHEMA_TENSORS] = {"lockstep tensors", 1, "file of lockstep tensors",
                           "name one that --detect-anomaly wrote"},
    [LK_SCHEMA_ANY] = {NULL, 0, "lockstep file", "name a dataset or a checkpoint file"},
};

const char *lk_schema_name(lk_schema schema) { return schemas[schema].name; }

/* ---- the file is there ----------------------------------------------------------------------- */

static bool is_named(const char *path, const char *pattern)
{
    const char *slash = strrchr(path, '/');
    return fnmatch(pattern, slash ? slash + 1 : path, 0) == 0;
}

/* What to do when `path` is none. The name of a checkpoint, or of one that is being saved, says
 * that it ought to be one. */
static const char *advice(lk_schema schema, const char *path)
{
    bool checkpoint = schema == LK_SCHEMA_CHECKPOINT;
    if (checkpoint && is_named(path, "step-*.h5")) return "use another checkpoint";
    if (checkpoint && is_named(path, "step-*.h5.part")) return "check the disk it lies on";
    return schemas[schema].advice;
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

static lk_status check_file(const char *path, lk_schema schema)
{
    const char *expected = schemas[schema].noun;
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

lk_status lk_h5_set_schema(hid_t file, const char *where, lk_schema schema)
{
    LK_TRY(lk_h5_set_text(file, where, "schema", schemas[schema].name));
    return lk_h5_set_u64(file, where, "version", schemas[schema].newest);
}

static lk_schema find_schema(const char *name)
{
    int i = 0;
    while (i < LK_SCHEMAS && strcmp(name, schemas[i].name) != 0) i++;
    return (lk_schema)i;
}

lk_status lk_h5_get_schema(hid_t file, const char *where, lk_schema *schema)
{
    char *name = NULL;
    LK_TRY(lk_h5_get_text(file, where, "schema", &name));
    *schema = find_schema(name);
    free(name);
    return LK_OK;
}

static lk_status check_schema(hid_t file, const char *path, lk_schema schema)
{
    const char *expected = schemas[schema].noun;
    char *name = NULL;
    uint64_t version = 0;
    bool there = false;
    LK_TRY(lk_h5_has(file, path, "schema", &there));
    if (!there)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found an HDF5 file without the attribute "
                       "'schema'; %s", path, expected, advice(schema, path));
    LK_TRY(lk_h5_get_text(file, path, "schema", &name));
    lk_status status = LK_OK;
    lk_schema found = find_schema(name);
    bool any = schema == LK_SCHEMA_ANY, newer = any && strncmp(name, "lockstep ", 9) == 0;
    if (found == LK_SCHEMAS || (!any && found != schema))
        status = lk_fail(LK_E_INPUT, "%s: expected a %s, found schema '%.60s'; %s", path, expected,
                         name, newer ? "use the lockstep that wrote it" : advice(schema, path));
    free(name);
    LK_TRY(status);
    LK_TRY(lk_h5_get_u64(file, path, "version", &version));
    uint64_t newest = schemas[found].newest;
    if (version < 1 || version > newest)
        return lk_fail(LK_E_INPUT, "%s: expected version %s%llu, found version %llu; use the "
                       "lockstep that wrote it", path, newest > 1 ? "1 to " : "",
                       (unsigned long long)newest, (unsigned long long)version);
    return LK_OK;
}

lk_status lk_h5_open(const char *path, lk_schema schema, hid_t *file)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    lk_h5_driver_reset();
    LK_H5_AUTO hid_t fapl = -1, id = -1;
    LK_TRY(check_file(path, schema));
    LK_TRY(lk_h5_driver_list(path, &fapl));
    LK_H5(LK_E_INPUT, id = H5Fopen(path, H5F_ACC_RDONLY, fapl),
          "%s: expected a %s, found a file that HDF5 cannot open", path, schemas[schema].noun);
    LK_TRY(check_schema(id, path, schema));
    LK_TRY(lk_h5_check_datasets(id, path));
    *file = id;
    id = -1;
    return LK_OK;
}
