/* Datasets of a file: found through hard links only, opened after every check of their types,
 * layouts and sizes, and listed. */
#include "io/hdf5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16, MAX_DATASETS = 1 << 20 };
#define MAX_CHUNK ((size_t)1 << 28) /* bytes of one chunk that a reader will allocate */
#define DEFLATE_LIMIT 1100          /* deflate cannot shrink more than this many times */

const char *lk_h5_type_name(lk_h5_type t)
{
    static const char *const name[LK_H5_TYPES] = {"f32", "i32", "u8",  "u16",
                                                  "u32", "u64", "f64", "text"};
    return name[t];
}

hid_t lk_h5_type_id(lk_h5_type t)
{
    switch (t) {
    case LK_H5_F32: return H5T_IEEE_F32LE;
    case LK_H5_I32: return H5T_STD_I32LE;
    case LK_H5_U8: return H5T_STD_U8LE;
    case LK_H5_U16: return H5T_STD_U16LE;
    case LK_H5_U32: return H5T_STD_U32LE;
    case LK_H5_U64: return H5T_STD_U64LE;
    case LK_H5_F64: return H5T_IEEE_F64LE;
    default: return -1;
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

lk_status lk_h5_link(hid_t file, const char *where, const char *path, bool *there)
{
    htri_t found = 0;
    LK_H5(LK_E_INPUT, found = lk_h5_sure(H5Lexists(file, path, H5P_DEFAULT)),
          "%s: cannot look for '%s'", where, path);
    *there = found > 0;
    return LK_OK;
}

/* Every part of the path must be a hard link: a soft or external link could lead anywhere. */
static lk_status check_links(hid_t file, const char *where, const char *path)
{
    char part[LK_H5_MAX_PATH];
    if (strlen(path) >= sizeof part)
        return lk_fail(LK_E_INPUT, "%s: the name '%.80s...' is too long; rename it in the file",
                       where, path);
    const char *end = path;
    do {
        end = strchrnul(end, '/');
        memcpy(part, path, (size_t)(end - path));
        part[end - path] = '\0';
        H5L_info_t info;
        bool there = false;
        LK_TRY(lk_h5_link(file, where, part, &there));
        if (!there)
            return lk_fail(LK_E_INPUT, "%s: expected the dataset '%s', found none; the file is "
                           "damaged or of another kind", where, path);
        LK_H5(LK_E_INPUT, H5Lget_info(file, part, &info, H5P_DEFAULT), "%s: '%s'", where, part);
        if (info.type != H5L_TYPE_HARD)
            return lk_fail(LK_E_INPUT, "%s: '%s' is a soft or external link, which is not "
                           "followed; copy the data into the file", where, part);
    } while (*end++);
    return LK_OK;
}

static lk_status look_at(hid_t file, const char *where, const char *path, H5O_info_t *object)
{
    LK_H5(LK_E_INPUT, H5Oget_info_by_name2(file, path, object, H5O_INFO_BASIC, H5P_DEFAULT),
          "%s: cannot read '%s'", where, path);
    return LK_OK;
}

static lk_status find_type(hid_t id, const char *where, const char *path, lk_h5_dataset *d)
{
    LK_H5_AUTO hid_t type = -1;
    LK_H5(LK_E_INPUT, type = H5Dget_type(id), "%s: '%s'", where, path);
    d->element = H5Tget_size(type);
    for (d->type = 0; d->type < LK_H5_TEXT; d->type++)
        if (H5Tequal(type, lk_h5_type_id(d->type)) > 0) return LK_OK;
    if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: '%s': expected f32, f64, i32, u8, u16, u32, u64 or text, "
                   "found another element type; convert it (labels to u16, images to u8, tokens to "
                   "u8 or u16, features to f32)", where, path);
}

static lk_status find_shape(hid_t id, const char *where, const char *path, lk_h5_dataset *d)
{
    LK_H5_AUTO hid_t space = -1;
    LK_H5(LK_E_INPUT, space = H5Dget_space(id), "%s: '%s'", where, path);
    H5S_class_t class = H5Sget_simple_extent_type(space);
    d->dims = H5Sget_simple_extent_ndims(space);
    if ((class != H5S_SIMPLE && class != H5S_SCALAR) || d->dims < 0 || d->dims > LK_H5_MAX_DIMS)
        return lk_fail(LK_E_INPUT,
                       "%s: '%s': expected at most %d dimensions, found another shape"
                       "; reshape it",
                       where, path, LK_H5_MAX_DIMS);
    LK_H5(LK_E_INPUT, H5Sget_simple_extent_dims(space, d->dim, NULL), "%s: '%s'", where, path);
    size_t bytes = d->element;
    d->row = d->element;
    for (int i = d->dims; i-- > 0;) {
        if (d->dim[i] > INT64_MAX / 16 ||
            __builtin_mul_overflow(bytes, (size_t)d->dim[i], &bytes) || bytes > INT64_MAX / 2)
            return lk_fail(LK_E_INPUT, "%s: '%s': its size overflows; the file is damaged", where,
                           path);
        if (i == 1) d->row = bytes;
    }
    d->bytes = bytes;
    return LK_OK;
}

/* H5Dget_storage_size() may have to read for it, and says 0 if it cannot. */
static herr_t stored_size(hid_t id, hsize_t *stored)
{
    *stored = H5Dget_storage_size(id);
    return lk_h5_sure(*stored > 0);
}

/* The bytes declared against those stored, and these against the file: a damaged index may name
 * what lies beyond its end, or name one chunk many times. */
static lk_status check_stored(hid_t file, hid_t id, const char *where, const char *path,
                              const lk_h5_dataset *d, bool deflate)
{
    hsize_t stored = 0, size = 0;
    LK_H5(LK_E_INPUT, stored_size(id, &stored), "%s: '%s'", where, path);
    LK_H5(LK_E_INPUT, H5Fget_filesize(file, &size), "%s: '%s'", where, path);
    if (stored > size)
        return lk_fail(LK_E_INPUT, "%s: '%s' takes %llu bytes, but the file has only %llu; the "
                       "file is damaged", where, path, (unsigned long long)stored,
                       (unsigned long long)size);
    if (d->bytes / (deflate ? DEFLATE_LIMIT : 1) > stored)
        return lk_fail(LK_E_INPUT, "%s: '%s' declares %zu bytes, but only %llu are stored; the "
                       "file is damaged", where, path, d->bytes, (unsigned long long)stored);
    return LK_OK;
}

/* Layout and filters; then the sizes. */
static lk_status check_storage(hid_t file, hid_t id, const char *where, const char *path,
                               lk_h5_dataset *d)
{
    LK_H5_AUTO hid_t list = -1;
    LK_H5(LK_E_INPUT, list = H5Dget_create_plist(id), "%s: '%s'", where, path);
    H5D_layout_t layout = H5Pget_layout(list);
    if (layout == H5D_VIRTUAL || H5Pget_external_count(list) > 0)
        return lk_fail(LK_E_INPUT, "%s: '%s' lies in other files, which is not followed; copy the "
                       "data into the file", where, path);
    bool deflate = false;
    int filters = H5Pget_nfilters(list);
    for (int i = 0; i < filters; i++) {
        unsigned flags, config;
        size_t values = 0;
        H5Z_filter_t f = H5Pget_filter2(list, (unsigned)i, &flags, &values, NULL, 0, NULL, &config);
        if (f == H5Z_FILTER_DEFLATE) deflate = true;
        if (f != H5Z_FILTER_FLETCHER32) d->packed = true;
        if (f != H5Z_FILTER_DEFLATE && f != H5Z_FILTER_SHUFFLE && f != H5Z_FILTER_FLETCHER32)
            return lk_fail(LK_E_INPUT, "%s: '%s': expected filters among deflate, shuffle and "
                           "Fletcher-32, found filter %d; rewrite it with h5repack", where, path,
                           (int)f);
    }
    if (layout == H5D_CHUNKED) {
        hsize_t chunk[LK_H5_MAX_DIMS];
        size_t bytes = d->element;
        if (H5Pget_chunk(list, LK_H5_MAX_DIMS, chunk) != d->dims)
            return lk_fail(LK_E_INPUT, "%s: '%s': its chunks have another number of dimensions; "
                           "the file is damaged", where, path);
        for (int i = 0; i < d->dims && bytes <= MAX_CHUNK; i++)
            bytes = chunk[i] > MAX_CHUNK ? MAX_CHUNK + 1 : bytes * (size_t)chunk[i];
        if (bytes > MAX_CHUNK)
            return lk_fail(LK_E_INPUT, "%s: '%s': expected chunks of at most %zu MiB, found larger "
                           "ones; rewrite it with h5repack", where, path, MAX_CHUNK >> 20);
        memcpy(d->chunk, chunk, (size_t)d->dims * sizeof *chunk);
    }
    return check_stored(file, id, where, path, d, deflate);
}

static lk_status find_digest(hid_t id, const char *where, lk_h5_dataset *d)
{
    bool there = false;
    char *text = NULL;
    d->digest[0] = '\0';
    LK_TRY(lk_h5_has(id, where, "digest", &there));
    if (!there) return LK_OK;
    LK_TRY(lk_h5_get_text(id, where, "digest", &text));
    bool hexadecimal = strspn(text, "0123456789abcdef") == LK_DIGEST_TEXT - 1;
    if (hexadecimal) memcpy(d->digest, text, LK_DIGEST_TEXT - 1);
    d->digest[hexadecimal ? LK_DIGEST_TEXT - 1 : 0] = '\0';
    free(text);
    return LK_OK;
}

/* With hard links on its path, and a dataset at its end. */
static lk_status open_dataset(hid_t file, const char *where, const char *path, size_t cache,
                              lk_h5_dataset *result)
{
    LK_H5_AUTO hid_t id = -1, access_list = -1;
    lk_h5_dataset d = {.id = -1};
    LK_H5(LK_E_SYSTEM, access_list = H5Pcreate(H5P_DATASET_ACCESS), "%s: '%s'", where, path);
    if (cache > 0)
        LK_H5(LK_E_SYSTEM, H5Pset_chunk_cache(access_list, 12421, cache, 1.0), "%s: '%s'", where,
              path);
    LK_H5(LK_E_INPUT, id = H5Dopen2(file, path, access_list), "%s: cannot open '%s'", where, path);
    LK_TRY(find_type(id, where, path, &d));
    LK_TRY(find_shape(id, where, path, &d));
    LK_TRY(check_storage(file, id, where, path, &d));
    LK_TRY(find_digest(id, where, &d));
    d.id = id;
    id = -1;
    *result = d;
    return LK_OK;
}

lk_status lk_h5_dataset_open(hid_t file, const char *where, const char *path, size_t cache,
                             lk_h5_dataset *result)
{
    H5O_info_t object;
    LK_TRY(check_links(file, where, path));
    LK_TRY(look_at(file, where, path, &object));
    if (object.type != H5O_TYPE_DATASET)
        return lk_fail(LK_E_INPUT,
                       "%s: expected '%s' to be a dataset, found something else; the "
                       "file is damaged or of another kind",
                       where, path);
    return open_dataset(file, where, path, cache, result);
}

lk_status lk_h5_dataset_expect(const lk_h5_dataset *d, const char *where, const char *path,
                               lk_h5_type type, int dims)
{
    if (d->type != type || d->dims != dims)
        return lk_fail(LK_E_INPUT,
                       "%s: '%s': expected %s in %d dimensions, found %s in %d; the "
                       "file is damaged or of another kind",
                       where, path, lk_h5_type_name(type), dims, lk_h5_type_name(d->type), d->dims);
    return LK_OK;
}

const char *lk_h5_shape(const lk_h5_dataset *d, char *text, size_t size)
{
    int n = snprintf(text, size, "[");
    for (int i = 0; i < d->dims && n >= 0 && (size_t)n < size; i++)
        n += snprintf(text + n, size - (size_t)n, "%s%llu", i ? ", " : "",
                      (unsigned long long)d->dim[i]);
    if (n >= 0 && (size_t)n < size) snprintf(text + n, size - (size_t)n, "]");
    return text;
}

/* ---- listing ------------------------------------------------------------------------------- */

static lk_status append(lk_h5_list *list, const char *path)
{
    if (list->count == list->room) {
        int room = list->room ? 2 * list->room : 64;
        char **grown = room <= MAX_DATASETS ? realloc(list->path, (size_t)room * sizeof *grown)
                                            : NULL;
        if (!grown) return lk_fail(LK_E_SYSTEM, "out of memory for %d dataset names", room);
        list->path = grown;
        list->room = room;
    }
    list->path[list->count] = strdup(path);
    if (!list->path[list->count]) return lk_fail(LK_E_SYSTEM, "out of memory");
    list->count++;
    return LK_OK;
}

typedef struct walk {
    hid_t file;
    const char *where, *group;
    lk_h5_list *list;
    int depth;
    int *left; /* links still to be looked at: groups may hold each other */
    lk_status status;
} walk;

static lk_status walk_group(const walk *w);

static herr_t visit(hid_t group, const char *name, const H5L_info_t *info, void *context)
{
    (void)group;
    walk *w = context;
    char path[LK_H5_MAX_PATH];
    H5O_info_t object = {.type = H5O_TYPE_UNKNOWN};
    int n = snprintf(path, sizeof path, "%s%s%s", w->group, w->group[0] ? "/" : "", name);
    if (--*w->left < 0)
        w->status = lk_fail(LK_E_INPUT,
                            "%s: expected at most %d objects, found more; it was not "
                            "written by lockstep",
                            w->where, MAX_DATASETS);
    else if (n < 0 || (size_t)n >= sizeof path || w->depth >= MAX_DEPTH)
        w->status = lk_fail(LK_E_INPUT,
                            "%s: '%.80s...' lies too deep; it was not written by "
                            "lockstep",
                            w->where, w->group);
    else if (info->type != H5L_TYPE_HARD)
        w->status = lk_fail(LK_E_INPUT, "%s: '%s' is a soft or external link, which is not "
                            "followed; copy the data into the file", w->where, path);
    else
        w->status = look_at(w->file, w->where, path, &object);
    if (w->status == LK_OK && object.type == H5O_TYPE_DATASET)
        w->status = append(w->list, path);
    else if (w->status == LK_OK && object.type == H5O_TYPE_GROUP)
        w->status = walk_group(&(walk){w->file, w->where, path, w->list, w->depth + 1, w->left,
                                       LK_OK});
    return w->status == LK_OK ? 0 : 1;
}

static lk_status walk_group(const walk *parent)
{
    walk w = *parent;
    const char *group = w.group[0] ? w.group : "/";
    /* Not in order, for which HDF5 first makes a table of the links: when one cannot be read it
     * frees what it never filled (1.10.8). */
    LK_H5(LK_E_INPUT, H5Literate_by_name(w.file, group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit,
                                         &w, H5P_DEFAULT), "%s: cannot list '%s'", w.where, group);
    return w.status;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

lk_status lk_h5_list_datasets(hid_t file, const char *where, const char *group, lk_h5_list *result)
{
    lk_h5_list list = {0, 0, NULL};
    int left = MAX_DATASETS;
    lk_status status = group[0] ? check_links(file, where, group) : LK_OK;
    if (status == LK_OK) status = walk_group(&(walk){file, where, group, &list, 0, &left, LK_OK});
    if (status != LK_OK) {
        lk_h5_list_clear(&list);
        return status;
    }
    if (list.count > 0) qsort(list.path, (size_t)list.count, sizeof *list.path, by_text);
    *result = list;
    return LK_OK;
}

void lk_h5_list_clear(lk_h5_list *list)
{
    for (int i = 0; i < list->count; i++) free(list->path[i]);
    free(list->path);
    *list = (lk_h5_list){0, 0, NULL};
}

lk_status lk_h5_check_datasets(hid_t file, const char *where)
{
    lk_h5_list list = {0, 0, NULL};
    LK_TRY(lk_h5_list_datasets(file, where, "", &list));
    lk_status status = LK_OK;
    for (int i = 0; i < list.count && status == LK_OK; i++) {
        lk_h5_dataset d = {.id = -1};
        status = open_dataset(file, where, list.path[i], 0, &d); /* listed: its links are hard */
        lk_h5_release(&d.id);
    }
    lk_h5_list_clear(&list);
    return status;
}
