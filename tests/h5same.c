/* h5same A B: 0 when two HDF5 files hold the same datasets: names, types, shapes and every byte.
 * Attributes are not compared: the version of the code or the path of the run may differ.
 * h5same A: 0 when every number of its f32 datasets is finite.
 * 1: the first difference, or dataset, on stdout. 2: a file cannot be read. */
#include <hdf5.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct names {
    int count, room;
    char **item;
} names;

typedef struct contents {
    hid_t type;
    int dims;
    hsize_t dim[H5S_MAX_RANK];
    size_t element, bytes;
    unsigned char *data;
} contents;

static herr_t note(hid_t file, const char *name, const H5O_info_t *info, void *context)
{
    names *n = context;
    (void)file;
    if (info->type != H5O_TYPE_DATASET) return 0;
    if (n->count == n->room) {
        n->room = n->room ? 2 * n->room : 64;
        n->item = realloc(n->item, (size_t)n->room * sizeof *n->item);
        if (!n->item) return -1;
    }
    n->item[n->count] = strdup(name);
    return n->item[n->count++] ? 0 : -1;
}

static void fail(const char *file, const char *what)
{
    printf("%s: %s\n", file, what);
    exit(2);
}

static hid_t open_file(const char *path, names *n)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) fail(path, "cannot be opened as HDF5");
    if (H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_INC, note, n, H5O_INFO_BASIC) < 0)
        fail(path, "cannot be listed");
    return file;
}

static contents load(hid_t file, const char *path, const char *name)
{
    contents c = {.type = -1};
    hid_t d = H5Dopen2(file, name, H5P_DEFAULT), space = d < 0 ? -1 : H5Dget_space(d);
    c.type = d < 0 ? -1 : H5Dget_type(d);
    c.dims = space < 0 ? -1 : H5Sget_simple_extent_dims(space, c.dim, NULL);
    if (c.type < 0 || c.dims < 0) fail(path, name);
    c.element = H5Tget_size(c.type);
    c.bytes = c.element * (size_t)H5Sget_simple_extent_npoints(space);
    c.data = malloc(c.bytes + 1);
    if (!c.data || H5Dread(d, c.type, H5S_ALL, H5S_ALL, H5P_DEFAULT, c.data) < 0) fail(path, name);
    H5Sclose(space);
    H5Dclose(d);
    return c;
}

static int differ(const char *name, const contents *a, const contents *b)
{
    if (H5Tequal(a->type, b->type) <= 0) return printf("%s: types differ\n", name);
    if (a->dims != b->dims || memcmp(a->dim, b->dim, (size_t)a->dims * sizeof *a->dim) != 0)
        return printf("%s: shapes differ\n", name);
    size_t count = 0, first = 0;
    for (size_t i = a->bytes; i-- > 0;)
        if (a->data[i] != b->data[i]) first = i, count++;
    if (count == 0) return 0;
    printf("%s: %zu of %zu bytes differ, the first in element %zu", name, count, a->bytes,
           first / a->element);
    if (H5Tget_class(a->type) == H5T_FLOAT && a->element == sizeof(float)) {
        float x, y;
        memcpy(&x, a->data + first / 4 * 4, 4);
        memcpy(&y, b->data + first / 4 * 4, 4);
        printf(": %.9g and %.9g", (double)x, (double)y);
    }
    return printf("\n");
}

static int all_finite(const char *path)
{
    names n = {0, 0, NULL};
    hid_t file = open_file(path, &n);
    int looked = 0;
    for (int i = 0; i < n.count; i++) {
        contents c = load(file, path, n.item[i]);
        const float *x = (const float *)c.data;
        bool numbers = H5Tget_class(c.type) == H5T_FLOAT && c.element == sizeof *x;
        looked += numbers;
        for (size_t k = 0; numbers && k < c.bytes / sizeof *x; k++)
            if (!isfinite(x[k]))
                return printf("%s: element %zu is %g\n", n.item[i], k, (double)x[k]), 1;
        free(c.data);
    }
    if (looked == 0) fail(path, "holds no f32 datasets");
    return 0;
}

int main(int argc, char **argv)
{
    names n[2] = {{0, 0, NULL}, {0, 0, NULL}};
    hid_t file[2];
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (argc == 2) return all_finite(argv[1]);
    if (argc != 3) fail("usage", "h5same A [B]");
    for (int i = 0; i < 2; i++) file[i] = open_file(argv[i + 1], &n[i]);
    if (n[0].count == 0) fail(argv[1], "holds no datasets");
    for (int i = 0; i < n[0].count || i < n[1].count; i++) {
        const char *a = i < n[0].count ? n[0].item[i] : "(nothing)";
        const char *b = i < n[1].count ? n[1].item[i] : "(nothing)";
        if (strcmp(a, b) != 0) return printf("%s in one, %s in the other\n", a, b), 1;
        contents x = load(file[0], argv[1], a), y = load(file[1], argv[2], b);
        if (differ(a, &x, &y)) return 1;
        H5Tclose(x.type);
        H5Tclose(y.type);
        free(x.data);
        free(y.data);
    }
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < n[i].count; k++) free(n[i].item[k]);
        free(n[i].item);
        H5Fclose(file[i]);
    }
    return 0;
}
