/* Attributes of files and datasets: numbers, texts, and lists of both.
 *
 * HDF5 keeps checksums of its metadata, but none of an attribute that is too large for them (from
 * 4 KiB on, where a file has more than eight). So a large one gets a digest, in an attribute
 * NAME.digest, which is compared when it is read. */
#include "io/hdf5.h"

#include <stdio.h>

#include <stdlib.h>
#include <string.h>

enum { MAX_ATTRIBUTE = 1 << 24, MAX_LIST = 1 << 16 }; /* bytes, elements */
enum { LARGE = 1024, NAME = 80 }; /* bytes from which on there is a digest */

lk_status lk_h5_has(hid_t object, const char *where, const char *name, bool *there)
{
    htri_t found = 0;
    LK_H5(LK_E_INPUT, found = lk_h5_sure(H5Aexists(object, name)),
          "%s: cannot look for the attribute '%s'", where, name);
    *there = found > 0;
    return LK_OK;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* `count` 0: one value; else a list. */
static lk_status set_attribute(hid_t object, const char *where, const char *name, hid_t type,
                               int64_t count, const void *value)
{
    LK_H5_AUTO hid_t space = -1, a = -1;
    hsize_t dim = (hsize_t)count;
    LK_H5(LK_E_SYSTEM,
          space = count > 0 ? H5Screate_simple(1, &dim, NULL) : H5Screate(H5S_SCALAR),
          "%s: attribute %s", where, name);
    LK_H5(LK_E_SYSTEM, a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT),
          "%s: cannot create the attribute '%s'", where, name);
    LK_H5(LK_E_SYSTEM, H5Awrite(a, type, value), "%s: cannot write the attribute '%s'", where,
          name);
    return LK_OK;
}

static lk_status set_digest(hid_t object, const char *where, const char *name, size_t bytes,
                            const void *value)
{
    char digest_name[NAME], digest[LK_DIGEST_TEXT];
    if (bytes < LARGE) return LK_OK;
    snprintf(digest_name, sizeof digest_name, "%s.digest", name);
    lk_digest_bytes(value, bytes, digest);
    return lk_h5_set_text(object, where, digest_name, digest);
}

/* Of fixed length, so that no heap is needed to read it. */
static lk_status text_type(const char *where, const char *name, size_t size, hid_t *result)
{
    LK_H5_AUTO hid_t type = -1;
    LK_H5(LK_E_SYSTEM, type = H5Tcopy(H5T_C_S1), "%s: attribute %s", where, name);
    LK_H5(LK_E_SYSTEM, H5Tset_size(type, size), "%s: attribute %s", where, name);
    LK_H5(LK_E_SYSTEM, H5Tset_cset(type, H5T_CSET_UTF8), "%s: attribute %s", where, name);
    *result = type;
    type = -1;
    return LK_OK;
}

lk_status lk_h5_set_text(hid_t object, const char *where, const char *name, const char *text)
{
    LK_H5_AUTO hid_t type = -1;
    LK_TRY(text_type(where, name, strlen(text) + 1, &type));
    LK_TRY(set_attribute(object, where, name, type, 0, text));
    return set_digest(object, where, name, strlen(text) + 1, text);
}

lk_status lk_h5_set_texts(hid_t object, const char *where, const char *name, char *const *text,
                          int64_t count)
{
    LK_H5_AUTO hid_t type = -1;
    size_t size = 1;
    for (int64_t i = 0; i < count; i++)
        if (strlen(text[i]) + 1 > size) size = strlen(text[i]) + 1;
    LK_TRY(text_type(where, name, size, &type));
    char *all = calloc((size_t)count, size);
    if (!all) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int64_t i = 0; i < count; i++) strcpy(all + (size_t)i * size, text[i]);
    lk_status status = set_attribute(object, where, name, type, count, all);
    if (status == LK_OK) status = set_digest(object, where, name, (size_t)count * size, all);
    free(all);
    return status;
}

lk_status lk_h5_set_u64(hid_t object, const char *where, const char *name, uint64_t value)
{
    return set_attribute(object, where, name, H5T_STD_U64LE, 0, &value);
}

lk_status lk_h5_set_f64(hid_t object, const char *where, const char *name, double value)
{
    return set_attribute(object, where, name, H5T_IEEE_F64LE, 0, &value);
}

lk_status lk_h5_set_f64s(hid_t object, const char *where, const char *name, const double *value,
                         int64_t count)
{
    LK_TRY(set_attribute(object, where, name, H5T_IEEE_F64LE, count, value));
    return set_digest(object, where, name, (size_t)count * sizeof *value, value);
}

/* ---- reading ------------------------------------------------------------------------------- */

static const char *class_name(H5T_class_t class, bool list)
{
    if (class == H5T_STRING) return list ? "a list of texts" : "one text";
    return list ? "a list of numbers" : "one number";
}

/* Open attribute `name`, which must be of class `class`: one element, or a list if `count` is
 * given, which gets its length. No text of variable length: it lies in a heap that has no checksum,
 * and where that is damaged HDF5 1.10.8 reads and writes beyond its buffers (H5HG_read). */
static lk_status open_attribute(hid_t object, const char *where, const char *name,
                                H5T_class_t class, int64_t *count, hid_t *attribute, hid_t *type)
{
    LK_H5_AUTO hid_t a = -1, t = -1, space = -1;
    bool there = false;
    LK_TRY(lk_h5_has(object, where, name, &there));
    if (!there)
        return lk_fail(LK_E_INPUT, "%s: expected the attribute '%s', found none; the file is "
                       "damaged or was not written by lockstep", where, name);
    LK_H5(LK_E_INPUT, a = H5Aopen(object, name, H5P_DEFAULT), "%s: attribute '%s'", where, name);
    LK_H5(LK_E_INPUT, t = H5Aget_type(a), "%s: attribute '%s'", where, name);
    LK_H5(LK_E_INPUT, space = H5Aget_space(a), "%s: attribute '%s'", where, name);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    bool fits = count ? H5Sget_simple_extent_ndims(space) == 1 && n >= 1 && n <= MAX_LIST : n == 1;
    if (H5Tget_class(t) != class || !fits)
        return lk_fail(LK_E_INPUT, "%s: attribute '%s': expected %s, found another type; the "
                       "file was not written by lockstep", where, name,
                       class_name(class, count != NULL));
    if (class == H5T_STRING && H5Tis_variable_str(t) != 0)
        return lk_fail(LK_E_INPUT, "%s: attribute '%s': expected text of a fixed length, found one "
                       "of variable length, which has no checksum; write it with a fixed length "
                       "(h5py: numpy.bytes_)", where, name);
    if (count) *count = n;
    *attribute = a;
    *type = t;
    a = t = -1;
    return LK_OK;
}

/* The bytes as they were written, if there is a digest of them. */
static lk_status check_digest(hid_t object, const char *where, const char *name, size_t bytes,
                              const void *value)
{
    char digest_name[NAME], found[LK_DIGEST_TEXT], *expected = NULL;
    bool there = false;
    if (bytes < LARGE) return LK_OK;
    snprintf(digest_name, sizeof digest_name, "%s.digest", name);
    LK_TRY(lk_h5_has(object, where, digest_name, &there));
    if (!there) return LK_OK; /* of an older lockstep */
    LK_TRY(lk_h5_get_text(object, where, digest_name, &expected));
    lk_digest_bytes(value, bytes, found);
    lk_status status = LK_OK;
    if (strcmp(found, expected) != 0)
        status = lk_fail(LK_E_INPUT, "%s: attribute '%s': expected digest %.60s, found %s; the "
                         "file is damaged, make or copy it again", where, name, expected, found);
    free(expected);
    return status;
}

static lk_status read_attribute(hid_t a, hid_t memory, const char *where, const char *name,
                                void *value)
{
    LK_H5(LK_E_INPUT, H5Aread(a, memory, value), "%s: cannot read the attribute '%s'", where,
          name);
    return LK_OK;
}

static lk_status get_number(hid_t object, const char *where, const char *name, H5T_class_t class,
                            hid_t memory, void *value)
{
    LK_H5_AUTO hid_t a = -1, type = -1;
    LK_TRY(open_attribute(object, where, name, class, NULL, &a, &type));
    return read_attribute(a, memory, where, name, value);
}

lk_status lk_h5_get_u64(hid_t object, const char *where, const char *name, uint64_t *value)
{
    return get_number(object, where, name, H5T_INTEGER, H5T_NATIVE_UINT64, value);
}

lk_status lk_h5_get_text(hid_t object, const char *where, const char *name, char **text)
{
    LK_H5_AUTO hid_t a = -1, type = -1;
    LK_TRY(open_attribute(object, where, name, H5T_STRING, NULL, &a, &type));
    size_t size = H5Tget_size(type);
    if (size > MAX_ATTRIBUTE)
        return lk_fail(LK_E_INPUT, "%s: attribute '%s': %zu bytes are too many; the file is "
                       "damaged", where, name, size);
    char *copy = calloc(1, size + 1);
    if (!copy) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = read_attribute(a, type, where, name, copy);
    if (status == LK_OK) status = check_digest(object, where, name, size, copy);
    if (status != LK_OK) {
        free(copy);
        return status;
    }
    *text = copy;
    return LK_OK;
}

lk_status lk_h5_get_f64s(hid_t object, const char *where, const char *name, double *value,
                         int64_t count)
{
    LK_H5_AUTO hid_t a = -1, type = -1;
    int64_t found = 0;
    LK_TRY(open_attribute(object, where, name, H5T_FLOAT, &found, &a, &type));
    if (found != count)
        return lk_fail(LK_E_INPUT,
                       "%s: attribute '%s': expected %lld numbers, found %lld; the "
                       "file is damaged",
                       where, name, (long long)count, (long long)found);
    LK_TRY(read_attribute(a, H5T_NATIVE_DOUBLE, where, name, value));
    return check_digest(object, where, name, (size_t)count * sizeof *value, value);
}

/* Fill text[0..count), each its own allocation; on failure some may be filled. */
static lk_status read_texts(hid_t object, hid_t a, hid_t type, const char *where,
                            const char *name, char **text, int64_t count)
{
    size_t size = H5Tget_size(type);
    if (size > MAX_ATTRIBUTE / (size_t)count)
        return lk_fail(LK_E_INPUT,
                       "%s: attribute '%s': %lld texts of %zu bytes are too many; the "
                       "file is damaged",
                       where, name, (long long)count, size);
    char *all = calloc((size_t)count, size);
    lk_status status = all ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) status = read_attribute(a, type, where, name, all);
    if (status == LK_OK) status = check_digest(object, where, name, size * (size_t)count, all);
    for (int64_t i = 0; i < count && status == LK_OK; i++) {
        text[i] = strndup(all + (size_t)i * size, size);
        if (!text[i]) status = lk_fail(LK_E_SYSTEM, "out of memory");
    }
    free(all);
    return status;
}

lk_status lk_h5_get_texts(hid_t object, const char *where, const char *name, char ***text,
                          int64_t *count)
{
    LK_H5_AUTO hid_t a = -1, type = -1;
    int64_t n = 0;
    LK_TRY(open_attribute(object, where, name, H5T_STRING, &n, &a, &type));
    char **all = calloc((size_t)n, sizeof *all);
    if (!all) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = read_texts(object, a, type, where, name, all, n);
    if (status != LK_OK) {
        lk_h5_free_texts(all, n);
        return status;
    }
    *text = all;
    *count = n;
    return LK_OK;
}

void lk_h5_free_texts(char **text, int64_t count)
{
    for (int64_t i = 0; i < count && text; i++) free(text[i]);
    free(text);
}
