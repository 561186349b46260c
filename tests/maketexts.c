/* maketexts FILE.h5 LENGTH VOCABULARY: give each image of a dataset a text, as doc/fusion.md says.
 * Its first token tells the label, the others nothing. */
#include "base/philox.h"

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>

static void check(long long result, const char *what)
{
    if (result >= 0) return;
    fprintf(stderr, "maketexts: cannot %s\n", what);
    exit(1);
}

static void set_number(hid_t file, const char *name, uint64_t value)
{
    hid_t space, a;
    if (H5Aexists(file, name) > 0) check(H5Adelete(file, name), "remove an attribute");
    check(space = H5Screate(H5S_SCALAR), "make a space");
    check(a = H5Acreate2(file, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT),
          "make an attribute");
    check(H5Awrite(a, H5T_NATIVE_UINT64, &value), "write an attribute");
    H5Aclose(a);
    H5Sclose(space);
}

/* The labels of a split; the caller frees them. */
static uint16_t *labels_of(hid_t group, hsize_t *rows)
{
    hid_t d, space;
    check(d = H5Dopen2(group, "labels", H5P_DEFAULT), "open the labels");
    check(space = H5Dget_space(d), "get their space");
    check(H5Sget_simple_extent_dims(space, rows, NULL), "get their number");
    uint16_t *label = malloc((size_t)*rows * sizeof *label + 1);
    check(label ? H5Dread(d, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, label) : -1,
          "read the labels");
    H5Sclose(space);
    H5Dclose(d);
    return label;
}

static void add_texts(hid_t file, int split, hsize_t length, unsigned vocabulary)
{
    hsize_t dim[2] = {0, length};
    hid_t group, space, d;
    check(group = H5Gopen2(file, split ? "validation" : "train", H5P_DEFAULT), "open a split");
    uint16_t *label = labels_of(group, dim), *token = malloc((size_t)(dim[0] * length) * 2 + 1);
    check(token ? 0 : -1, "get memory");
    for (hsize_t i = 0; i < dim[0]; i++)
        for (hsize_t t = 0; t < length; t++) {
            uint32_t word = lk_philox(5, (uint32_t)(i * length + t), (uint32_t)split, 0, 0).v[0];
            token[i * length + t] = (uint16_t)((t ? word : label[i]) % vocabulary);
        }
    check(space = H5Screate_simple(2, dim, NULL), "make a space");
    check(d = H5Dcreate2(group, "tokens", H5T_STD_U16LE, space, H5P_DEFAULT, H5P_DEFAULT,
                         H5P_DEFAULT), "make the tokens");
    check(H5Dwrite(d, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, token), "write the tokens");
    free(label);
    free(token);
    H5Dclose(d);
    H5Sclose(space);
    H5Gclose(group);
}

int main(int argc, char **argv)
{
    hid_t file;
    check(argc == 4 ? 0 : -1, "do that: maketexts FILE.h5 LENGTH VOCABULARY");
    check(file = H5Fopen(argv[1], H5F_ACC_RDWR, H5P_DEFAULT), "open the file");
    for (int split = 0; split < 2; split++)
        add_texts(file, split, strtoull(argv[2], NULL, 10), (unsigned)atoi(argv[3]));
    set_number(file, "vocabulary_size", (uint64_t)atoi(argv[3]));
    set_number(file, "version", 1); /* there are no digests of the tokens */
    check(H5Fclose(file), "close the file");
    return 0;
}
