/* h5edit FILE ACTION...: make a file wrong in one way, for tests of what is said about it.
 *
 *   empty                        a new HDF5 file with nothing in it
 *   token PATH INDEX COUNT VALUE overwrite elements of a dataset of integers
 *   row PATH INDEX VALUE         overwrite all of a row (an image)
 *   float PATH, flat PATH        replace a dataset by zeros: as f32; with two dimensions
 *   channels COUNT               repeat the one channel of images, without digests (version 1)
 *   text NAME VALUE              replace a root attribute
 *   forget NAME                  remove a root attribute
 *   remove PATH                  unlink
 *   soft PATH, external PATH     add a link that leads nowhere
 *   virtual PATH, coded PATH     add a dataset: of other files; with a filter that nobody knows
 *   plant PATH INDEX VALUE       set an element of a dataset of f32, and its digest anew
 *   sign PATH                    make the digests of a dataset anew: it seems to be as imported
 *   print PATH                   no change: elements of a dataset, one a line */
#include "base/digest.h"

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(long long result, const char *what)
{
    if (result >= 0) return;
    fprintf(stderr, "h5edit: cannot %s\n", what);
    exit(1);
}

static void set_tokens(hid_t file, const char *path, hsize_t at, hsize_t count, int value)
{
    hid_t d, space, memory;
    int *values = malloc((size_t)count * sizeof *values);
    check(values ? 0 : -1, "get memory");
    for (hsize_t i = 0; i < count; i++) values[i] = value;
    check(d = H5Dopen2(file, path, H5P_DEFAULT), "open the dataset");
    check(space = H5Dget_space(d), "get its space");
    check(memory = H5Screate_simple(1, &count, NULL), "make a space");
    check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &count, NULL), "select");
    check(H5Dwrite(d, H5T_NATIVE_INT, memory, space, H5P_DEFAULT, values), "write");
    free(values);
    H5Sclose(space);
    H5Sclose(memory);
    H5Dclose(d);
}

static void set_row(hid_t file, const char *path, hsize_t row, int value)
{
    hsize_t dim[H5S_MAX_RANK], at[H5S_MAX_RANK] = {0}, count = 1;
    hid_t d, space, memory;
    check(d = H5Dopen2(file, path, H5P_DEFAULT), "open the dataset");
    check(space = H5Dget_space(d), "get its space");
    int dims = H5Sget_simple_extent_dims(space, dim, NULL);
    check(dims, "get its size");
    at[0] = row;
    dim[0] = 1;
    for (int i = 0; i < dims; i++) count *= dim[i];
    int *values = malloc((size_t)count * sizeof *values);
    check(values ? 0 : -1, "get memory");
    for (hsize_t i = 0; i < count; i++) values[i] = value;
    check(memory = H5Screate_simple(1, &count, NULL), "make a space");
    check(H5Sselect_hyperslab(space, H5S_SELECT_SET, at, NULL, dim, NULL), "select");
    check(H5Dwrite(d, H5T_NATIVE_INT, memory, space, H5P_DEFAULT, values), "write");
    free(values);
    H5Sclose(space);
    H5Sclose(memory);
    H5Dclose(d);
}

/* The same number of elements, of another type or shape. */
static void replace(hid_t file, const char *path, int as_float)
{
    hsize_t dim[H5S_MAX_RANK];
    hid_t d, space, type, to;
    check(d = H5Dopen2(file, path, H5P_DEFAULT), "open the dataset");
    check(space = H5Dget_space(d), "get its space");
    check(type = as_float ? H5Tcopy(H5T_IEEE_F32LE) : H5Dget_type(d), "get its type");
    int dims = H5Sget_simple_extent_dims(space, dim, NULL);
    check(dims, "get its size");
    size_t count = (size_t)H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    H5Dclose(d);
    check(H5Ldelete(file, path, H5P_DEFAULT), "remove the old one");
    if (!as_float) {
        dim[0] = count;
        dim[1] = 1;
        dims = 2;
    }
    check(to = H5Screate_simple(dims, dim, NULL), "make a space");
    check(d = H5Dcreate2(file, path, type, to, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "create");
    void *zeros = calloc(count + 1, H5Tget_size(type));
    check(zeros ? H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros) : -1, "write");
    free(zeros);
    H5Sclose(to);
    H5Tclose(type);
    H5Dclose(d);
}

static void set_figures(hid_t file, const char *name, hsize_t count)
{
    hid_t space, a;
    double *values = malloc((size_t)count * sizeof *values);
    check(a = H5Aopen(file, name, H5P_DEFAULT), "open the attribute");
    check(values ? H5Aread(a, H5T_NATIVE_DOUBLE, values) : -1, "read the attribute");
    H5Aclose(a);
    for (hsize_t i = 1; i < count; i++) values[i] = values[0];
    check(H5Adelete(file, name), "remove the attribute");
    check(space = H5Screate_simple(1, &count, NULL), "make a space");
    check(a = H5Acreate2(file, name, H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT), "make it");
    check(H5Awrite(a, H5T_NATIVE_DOUBLE, values), "write the attribute");
    free(values);
    H5Aclose(a);
    H5Sclose(space);
}

static void repeat_channel(hid_t file, const char *path, hsize_t channels)
{
    hsize_t dim[4] = {0};
    hid_t d, space;
    check(d = H5Dopen2(file, path, H5P_DEFAULT), "open the images");
    check(space = H5Dget_space(d), "get their space");
    check(H5Sget_simple_extent_dims(space, dim, NULL) == 4 && dim[3] == 1 ? 0 : -1,
          "find images of one channel");
    size_t count = (size_t)H5Sget_simple_extent_npoints(space), n = (size_t)channels;
    unsigned char *values = malloc(count + 1), *many = malloc(count * n + 1);
    check(values && many ? H5Dread(d, H5T_NATIVE_UCHAR, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) : -1,
          "read");
    for (size_t i = 0; i < count * n; i++) many[i] = values[i / n];
    H5Sclose(space);
    H5Dclose(d);
    check(H5Ldelete(file, path, H5P_DEFAULT), "remove the old ones");
    dim[3] = channels;
    check(space = H5Screate_simple(4, dim, NULL), "make a space");
    check(d = H5Dcreate2(file, path, H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
          "create");
    check(H5Dwrite(d, H5T_NATIVE_UCHAR, H5S_ALL, H5S_ALL, H5P_DEFAULT, many), "write");
    free(values);
    free(many);
    H5Sclose(space);
    H5Dclose(d);
}

static void set_channels(hid_t file, hsize_t channels)
{
    const uint64_t version = 1;
    hid_t a;
    check(channels > 0 ? 0 : -1, "make images of no channel");
    repeat_channel(file, "train/images", channels);
    repeat_channel(file, "validation/images", channels);
    set_figures(file, "mean", channels);
    set_figures(file, "std", channels);
    check(a = H5Aopen(file, "version", H5P_DEFAULT), "open the version");
    check(H5Awrite(a, H5T_NATIVE_UINT64, &version), "write the version");
    H5Aclose(a);
}

static void set_text(hid_t file, const char *name, const char *value)
{
    hid_t space, type, a;
    if (H5Aexists(file, name) > 0) check(H5Adelete(file, name), "remove the attribute");
    check(space = H5Screate(H5S_SCALAR), "make a space");
    check(type = H5Tcopy(H5T_C_S1), "make a type");
    check(H5Tset_size(type, strlen(value)), "size the type");
    check(H5Tset_strpad(type, H5T_STR_NULLPAD), "pad the type");
    check(H5Tset_cset(type, H5T_CSET_UTF8), "make it UTF-8");
    check(a = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT), "make the attribute");
    check(H5Awrite(a, type, value), "write the attribute");
    H5Aclose(a);
    H5Tclose(type);
    H5Sclose(space);
}

static void plant(hid_t file, const char *path, size_t index, double value)
{
    char digest[LK_DIGEST_TEXT];
    hid_t d, space;
    check(d = H5Dopen2(file, path, H5P_DEFAULT), "open the dataset");
    check(space = H5Dget_space(d), "get its space");
    size_t count = (size_t)H5Sget_simple_extent_npoints(space);
    float *values = malloc((count + 1) * sizeof *values);
    check(values && index < count ? 0 : -1, "find the element");
    check(H5Dread(d, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), "read");
    values[index] = (float)value;
    check(H5Dwrite(d, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), "write");
    lk_digest_bytes(values, count * sizeof *values, digest);
    set_text(d, "digest", digest);
    free(values);
    H5Sclose(space);
    H5Dclose(d);
}

/* As io/slabs.h says. */
static void sign(hid_t file, const char *path)
{
    char name[200], digest[LK_DIGEST_TEXT];
    uint64_t each;
    hsize_t dim[H5S_MAX_RANK];
    hid_t d, space, type, list, a;
    snprintf(name, sizeof name, "digests/%s", path);
    check(list = H5Dopen2(file, name, H5P_DEFAULT), "open its digests");
    check(a = H5Aopen(list, "rows", H5P_DEFAULT), "find the rows of a slab");
    check(H5Aread(a, H5T_NATIVE_UINT64, &each), "read the rows of a slab");
    check(d = H5Dopen2(file, path, H5P_DEFAULT), "open the dataset");
    check(space = H5Dget_space(d), "get its space");
    check(H5Sget_simple_extent_dims(space, dim, NULL), "get its size");
    check(type = H5Dget_type(d), "get its type");
    size_t bytes = (size_t)H5Sget_simple_extent_npoints(space) * H5Tget_size(type);
    size_t row = bytes / (size_t)dim[0], slabs = (size_t)((dim[0] + each - 1) / each);
    char *values = malloc(bytes + 1);
    uint64_t *sums = malloc((slabs + 1) * sizeof *sums);
    check(values && sums ? H5Dread(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) : -1, "read");
    for (size_t k = 0; k < slabs; k++) {
        size_t at = k * (size_t)each * row, size = (size_t)each * row;
        sums[k] = lk_digest_64(values + at, bytes - at < size ? bytes - at : size);
    }
    check(H5Dwrite(list, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, sums), "write");
    lk_digest_bytes(sums, slabs * sizeof *sums, digest);
    set_text(list, "digest", digest);
    lk_digest_bytes(values, bytes, digest);
    set_text(d, "digest", digest);
    free(values);
    free(sums);
    H5Aclose(a);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(d);
    H5Dclose(list);
}

/* A dataset that no command needs. */
static void add(hid_t file, const char *path, int is_virtual)
{
    hsize_t dim = 4;
    hid_t d, space, list;
    check(space = H5Screate_simple(1, &dim, NULL), "make a space");
    check(list = H5Pcreate(H5P_DATASET_CREATE), "make a list");
    if (is_virtual) check(H5Pset_virtual(list, space, "other.h5", "x", space), "map it");
    else check(H5Pset_chunk(list, 1, &dim), "set chunks");
    if (!is_virtual) check(H5Pset_filter(list, 257, H5Z_FLAG_OPTIONAL, 0, NULL), "filter");
    check(d = H5Dcreate2(file, path, H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT),
          "create");
    H5Pclose(list);
    H5Sclose(space);
    H5Dclose(d);
}

static void print(hid_t file, const char *path)
{
    hid_t d, space;
    check(d = H5Dopen2(file, path, H5P_DEFAULT), "open the dataset");
    check(space = H5Dget_space(d), "get its space");
    size_t count = (size_t)H5Sget_simple_extent_npoints(space);
    double *values = malloc((count + 1) * sizeof *values);
    check(values ? H5Dread(d, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) : -1,
          "read");
    for (size_t i = 0; i < count; i++) printf("%.9g\n", values[i]);
    free(values);
    H5Sclose(space);
    H5Dclose(d);
}

int main(int argc, char **argv)
{
    const char *action = argc > 2 ? argv[2] : "";
    unsigned flags = strcmp(action, "print") == 0 ? H5F_ACC_RDONLY : H5F_ACC_RDWR;
    hid_t file;
    if (strcmp(action, "empty") == 0)
        file = H5Fcreate(argv[1], H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    else
        file = argc > 2 ? H5Fopen(argv[1], flags, H5P_DEFAULT) : -1;
    check(file, "open the file");
    if (strcmp(action, "token") == 0 && argc == 7)
        set_tokens(file, argv[3], strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10),
                   atoi(argv[6]));
    else if (strcmp(action, "row") == 0 && argc == 6)
        set_row(file, argv[3], strtoull(argv[4], NULL, 10), atoi(argv[5]));
    else if (strcmp(action, "float") == 0 && argc == 4)
        replace(file, argv[3], 1);
    else if (strcmp(action, "flat") == 0 && argc == 4)
        replace(file, argv[3], 0);
    else if (strcmp(action, "channels") == 0 && argc == 4)
        set_channels(file, strtoull(argv[3], NULL, 10));
    else if (strcmp(action, "text") == 0 && argc == 5)
        set_text(file, argv[3], argv[4]);
    else if (strcmp(action, "forget") == 0 && argc == 4)
        check(H5Adelete(file, argv[3]), "remove the attribute");
    else if (strcmp(action, "soft") == 0 && argc == 4)
        check(H5Lcreate_soft("/nowhere", file, argv[3], H5P_DEFAULT, H5P_DEFAULT), "link");
    else if (strcmp(action, "external") == 0 && argc == 4)
        check(H5Lcreate_external("nowhere.h5", "/", file, argv[3], H5P_DEFAULT, H5P_DEFAULT),
              "link");
    else if (strcmp(action, "virtual") == 0 && argc == 4)
        add(file, argv[3], 1);
    else if (strcmp(action, "coded") == 0 && argc == 4)
        add(file, argv[3], 0);
    else if (strcmp(action, "plant") == 0 && argc == 6)
        plant(file, argv[3], strtoull(argv[4], NULL, 10), strtod(argv[5], NULL));
    else if (strcmp(action, "sign") == 0 && argc == 4)
        sign(file, argv[3]);
    else if (strcmp(action, "print") == 0 && argc == 4)
        print(file, argv[3]);
    else if (strcmp(action, "remove") == 0 && argc == 4)
        check(H5Ldelete(file, argv[3], H5P_DEFAULT), "unlink");
    else if (strcmp(action, "empty") != 0)
        check(-1, "do that");
    check(H5Fclose(file), "close the file");
    return 0;
}
