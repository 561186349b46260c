/* Dataset files made by hand with the HDF5 library: a good one, and one for each way of being bad.
 * Called on the I/O thread. */
#ifndef LK_TESTS_IO_CRAFT_H
#define LK_TESTS_IO_CRAFT_H

#include "io/hdf5.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum craft_how {
    CRAFT_GOOD,
    CRAFT_NO_SCHEMA,
    CRAFT_SCHEMA,
    CRAFT_SCHEMA_NUMBER,
    CRAFT_SCHEMA_VARIABLE,
    CRAFT_SOURCE_VARIABLE,
    CRAFT_NO_SOURCE,
    CRAFT_VERSION,
    CRAFT_KIND,
    CRAFT_DIGEST,
    CRAFT_RANK,
    CRAFT_TYPE,
    CRAFT_FLOAT,
    CRAFT_WIDE,
    CRAFT_BIG_TOKEN,
    CRAFT_MISSING,
    CRAFT_GROUP,
    CRAFT_SOFT,
    CRAFT_EXTERNAL_LINK,
    CRAFT_EXTERNAL_DATA,
    CRAFT_VIRTUAL,
    CRAFT_UNWRITTEN,
    CRAFT_FILTER,
    CRAFT_DEFLATE,
    CRAFT_CHUNK,
    CRAFT_ORDER,
    CRAFT_VOCABULARY_DIGEST,
    CRAFT_VOCABULARY_KIND,
    CRAFT_SOFT_GROUP,
    CRAFT_EXTERNAL_GROUP,
    CRAFT_USER_LINK,
    CRAFT_REFERENCE,
    CRAFT_REGION,
    CRAFT_SEQUENCE,
    CRAFT_REFERENCE_ATTRIBUTE,
    CRAFT_BEYOND,
    CRAFT_LOADED_FILTER,
    CRAFT_CYCLE,
    CRAFT_CONTROL, /* a good file whose source has control characters */
} craft_how;

typedef struct craft_case {
    craft_how how;
    const char *words; /* of the error; NULL: the file is good */
    const char *what;
} craft_case;

static const craft_case craft_cases[] = {
    {CRAFT_GOOD, NULL, "a file made by hand"},
    {CRAFT_NO_SCHEMA, "without the attribute 'schema'", "no schema"},
    {CRAFT_SCHEMA, "found schema 'lockstep checkpoint'", "another schema"},
    {CRAFT_SCHEMA_NUMBER, "expected one text", "a number for a schema"},
    {CRAFT_SCHEMA_VARIABLE, "found one of variable length", "text of variable length"},
    {CRAFT_SOURCE_VARIABLE, "'source': expected text of a fixed length", "such text for a source"},
    {CRAFT_NO_SOURCE, NULL, "no source"},
    {CRAFT_VERSION, "found version 3", "another version"},
    {CRAFT_KIND, "found 'image'", "another kind"},
    {CRAFT_DIGEST, "32 hexadecimal digits", "a digest that is none"},
    {CRAFT_RANK, "found u8 in 2", "two dimensions"},
    {CRAFT_TYPE, "found i32 in 1", "tokens of another type"},
    {CRAFT_FLOAT, "another element type; convert it (labels to u16", "tokens of big-endian f32"},
    {CRAFT_WIDE, "found u16 in 1", "wide tokens of a small vocabulary"},
    {CRAFT_BIG_TOKEN, "token 3 at 5 is not below the vocabulary size 3", "a token too large"},
    {CRAFT_MISSING, "expected the dataset 'validation/tokens'", "no validation tokens"},
    {CRAFT_GROUP, "to be a dataset", "a group for a dataset"},
    {CRAFT_SOFT, "soft or external link", "a soft link"},
    {CRAFT_EXTERNAL_LINK, "soft or external link", "an external link"},
    {CRAFT_EXTERNAL_DATA, "lies in other files", "data in another file"},
    {CRAFT_VIRTUAL, "lies in other files", "a virtual dataset"},
    {CRAFT_UNWRITTEN, "are stored", "a size beyond what is stored"},
    {CRAFT_FILTER, "found filter", "another filter"},
    {CRAFT_DEFLATE, NULL, "deflate and shuffle"},
    {CRAFT_CHUNK, "chunks of at most", "chunks too large"},
    {CRAFT_ORDER, "increasing code points", "a vocabulary out of order"},
    {CRAFT_VOCABULARY_DIGEST, "expected digest", "a vocabulary with another digest"},
    {CRAFT_SOFT_GROUP, "soft or external link", "a soft link for a group"},
    {CRAFT_EXTERNAL_GROUP, "soft or external link", "an external link for a group"},
    {CRAFT_USER_LINK, "soft or external link", "a link of a kind of its own"},
    {CRAFT_REFERENCE, "another element type", "object references for tokens"},
    {CRAFT_REGION, "another element type", "region references for tokens"},
    {CRAFT_SEQUENCE, "another element type", "sequences of tokens"},
    {CRAFT_REFERENCE_ATTRIBUTE, "expected one text, found another type", "a reference for a text"},
    {CRAFT_BEYOND, "but the file has only", "a size beyond the end of the file"},
    {CRAFT_LOADED_FILTER, "found filter 32004", "a filter to be loaded"},
    {CRAFT_VOCABULARY_KIND, "'byte' or 'character'", "another kind of vocabulary"},
};
enum { CRAFT_CASES = sizeof craft_cases / sizeof craft_cases[0] };

typedef struct craft {
    const char *path, *elsewhere;
    craft_how how;
} craft;

enum { CRAFT_TOKENS = 12, CRAFT_MARK = 12345 };

static inline hid_t craft_space(const craft *c, hsize_t count)
{
    if (c->how == CRAFT_RANK) return H5Screate_simple(2, (hsize_t[]){count / 2, 2}, NULL);
    return H5Screate_simple(1, &count, NULL);
}

static inline hid_t craft_type(const craft *c)
{
    switch (c->how) {
    case CRAFT_TYPE: return H5T_STD_I32LE;
    case CRAFT_FLOAT: return H5T_IEEE_F32BE;
    case CRAFT_WIDE: return H5T_STD_U16LE;
    case CRAFT_REFERENCE: return H5T_STD_REF_OBJ;
    case CRAFT_REGION: return H5T_STD_REF_DSETREG;
    case CRAFT_SEQUENCE: return H5Tvlen_create(H5T_STD_U8LE); /* never closed: a test */
    default: return H5T_STD_U8LE;
    }
}

static inline hid_t craft_list(const craft *c)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), source = H5Screate_simple(1, (hsize_t[]){12}, NULL);
    hsize_t chunk = c->how == CRAFT_CHUNK ? (hsize_t)1 << 29 : 4;
    switch (c->how) {
    case CRAFT_EXTERNAL_DATA: H5Pset_external(list, c->elsewhere, 0, CRAFT_TOKENS); break;
    case CRAFT_VIRTUAL: H5Pset_virtual(list, source, c->elsewhere, "x", source); break;
    case CRAFT_FILTER:
        H5Pset_chunk(list, 1, &chunk);
        H5Pset_scaleoffset(list, H5Z_SO_INT, 0);
        break;
    case CRAFT_DEFLATE:
        H5Pset_chunk(list, 1, &chunk);
        H5Pset_shuffle(list);
        H5Pset_deflate(list, 6);
        break;
    case CRAFT_LOADED_FILTER: /* LZ4's number; optional, or it could not be made without it */
        H5Pset_chunk(list, 1, &chunk);
        H5Pset_filter(list, 32004, H5Z_FLAG_OPTIONAL, 0, NULL);
        break;
    case CRAFT_UNWRITTEN: H5Pset_chunk(list, 1, &chunk); break;
    default: break;
    }
    H5Sclose(source);
    return list;
}

static inline void craft_tokens(const craft *c, hid_t file, const char *path)
{
    unsigned char tokens[CRAFT_TOKENS] = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2};
    if (c->how == CRAFT_BIG_TOKEN) tokens[5] = 3;
    hsize_t count = c->how == CRAFT_CHUNK ? (hsize_t)1 << 29 : CRAFT_TOKENS;
    if (c->how == CRAFT_CHUNK) { /* one chunk of 512 MiB, never written */
        hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, &count, NULL);
        H5Pset_chunk(list, 1, &count);
        H5Dclose(H5Dcreate2(file, path, H5T_STD_U8LE, space, H5P_DEFAULT, list, H5P_DEFAULT));
        H5Sclose(space);
        H5Pclose(list);
        return;
    }
    if (c->how == CRAFT_BEYOND) count = CRAFT_MARK;
    hid_t space = craft_space(c, count), list = craft_list(c);
    if (c->how == CRAFT_BEYOND) H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    hid_t d = H5Dcreate2(file, path, craft_type(c), space, H5P_DEFAULT, list, H5P_DEFAULT);
    bool numbers = c->how != CRAFT_REFERENCE && c->how != CRAFT_REGION && c->how != CRAFT_SEQUENCE;
    if (c->how != CRAFT_UNWRITTEN && c->how != CRAFT_VIRTUAL && c->how != CRAFT_BEYOND && numbers)
        H5Dwrite(d, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, tokens);
    H5Dclose(d);
    H5Sclose(space);
    H5Pclose(list);
}

static inline void craft_vocabulary(const craft *c, hid_t file)
{
    uint32_t letters[3] = {'a', c->how == CRAFT_ORDER ? 'a' : 'b', 'c'};
    hsize_t count = 3;
    char digest[LK_DIGEST_TEXT];
    lk_digest_bytes(letters, sizeof letters, digest);
    if (c->how == CRAFT_VOCABULARY_DIGEST) digest[3] = digest[3] == 'a' ? 'b' : 'a';
    hid_t space = H5Screate_simple(1, &count, NULL);
    hid_t d = H5Dcreate2(file, "vocabulary", H5T_STD_U32LE, space, H5P_DEFAULT, H5P_DEFAULT,
                         H5P_DEFAULT);
    H5Dwrite(d, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, letters);
    lk_h5_set_text(d, c->path, "digest", digest);
    H5Dclose(d);
    H5Sclose(space);
}

/* As h5py writes it. */
static inline void craft_variable(hid_t file, const char *name, const char *text)
{
    hid_t space = H5Screate(H5S_SCALAR), type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    hid_t a = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, type, &text);
    H5Aclose(a);
    H5Tclose(type);
    H5Sclose(space);
}

static inline void craft_attributes(const craft *c, hid_t file)
{
    if (c->how == CRAFT_SCHEMA_NUMBER) {
        lk_h5_set_u64(file, c->path, "schema", 1);
    } else if (c->how == CRAFT_SCHEMA_VARIABLE) {
        craft_variable(file, "schema", "lockstep dataset");
    } else if (c->how == CRAFT_REFERENCE_ATTRIBUTE) {
        hid_t space = H5Screate(H5S_SCALAR);
        hid_t a = H5Acreate2(file, "schema", H5T_STD_REF_OBJ, space, H5P_DEFAULT, H5P_DEFAULT);
        H5Aclose(a);
        H5Sclose(space);
    } else if (c->how != CRAFT_NO_SCHEMA) {
        lk_h5_set_text(file, c->path, "schema",
                       c->how == CRAFT_SCHEMA ? "lockstep checkpoint" : "lockstep dataset");
    }
    lk_h5_set_u64(file, c->path, "version", c->how == CRAFT_VERSION ? 3 : 1);
    lk_h5_set_text(file, c->path, "kind", c->how == CRAFT_KIND ? "image" : "text");
    lk_h5_set_text(file, c->path, "vocabulary",
                   c->how == CRAFT_VOCABULARY_KIND ? "word" : "character");
    if (c->how == CRAFT_SOURCE_VARIABLE) craft_variable(file, "source", "hello");
    else if (c->how != CRAFT_NO_SOURCE)
        lk_h5_set_text(file, c->path, "source",
                       c->how == CRAFT_CONTROL ? "evil\033[2Jname" : "hand");
    lk_h5_set_text(file, c->path, "digest",
                   c->how == CRAFT_DIGEST ? "0123" : "0123456789abcdef0123456789abcdef");
}

static inline hid_t craft_traverse(const char *name, hid_t group, const void *data, size_t size,
                                   hid_t list, hid_t transfer)
{
    (void)transfer;
    (void)name;
    (void)data;
    (void)size;
    (void)list;
    return H5Dopen2(group, "/train/tokens", H5P_DEFAULT); /* as if it were a good one */
}

/* Every count of CRAFT_MARK becomes 2^40: dimensions and sizes, in a format without checksums. */
static inline lk_status craft_beyond(const char *path)
{
    uint64_t mark = CRAFT_MARK, huge = (uint64_t)1 << 40;
    FILE *f = fopen(path, "r+b");
    char bytes[1 << 16];
    if (!f) return lk_fail(LK_E_SYSTEM, "%s: cannot open", path);
    size_t n = fread(bytes, 1, sizeof bytes, f), found = 0;
    for (size_t i = 0; i + 8 <= n; i++)
        if (memcmp(bytes + i, &mark, 8) == 0) {
            memcpy(bytes + i, &huge, 8);
            found++;
        }
    rewind(f);
    bool good = found >= 4 && fwrite(bytes, 1, n, f) == n;
    return fclose(f) == 0 && good ? LK_OK : lk_fail(LK_E_SYSTEM, "%s: %zu marks", path, found);
}

/* A group that lies elsewhere: in this file under another name, or in another file. */
static inline void craft_group(const craft *c, hid_t file)
{
    const char *name = c->how == CRAFT_SOFT_GROUP ? "real" : "train";
    H5Gclose(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    if (c->how == CRAFT_SOFT_GROUP)
        H5Lcreate_soft("/real", file, "train", H5P_DEFAULT, H5P_DEFAULT);
    if (c->how == CRAFT_EXTERNAL_GROUP) {
        craft_tokens(&(craft){.how = CRAFT_GOOD}, file, "train/tokens");
        H5Ldelete(file, "train", H5P_DEFAULT);
        hid_t other = H5Fcreate(c->elsewhere, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        H5Gclose(H5Gcreate2(other, "train", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        craft_tokens(&(craft){.how = CRAFT_GOOD}, other, "train/tokens");
        H5Fclose(other);
        H5Lcreate_external(c->elsewhere, "/train", file, "train", H5P_DEFAULT, H5P_DEFAULT);
    }
}

static inline void craft_validation(const craft *c, hid_t file)
{
    switch (c->how) {
    case CRAFT_MISSING: break;
    case CRAFT_GROUP:
        H5Gclose(H5Gcreate2(file, "validation/tokens", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        break;
    case CRAFT_SOFT:
        H5Lcreate_soft("/train/tokens", file, "validation/tokens", H5P_DEFAULT, H5P_DEFAULT);
        break;
    case CRAFT_EXTERNAL_LINK:
        H5Lcreate_external(c->elsewhere, "/x", file, "validation/tokens", H5P_DEFAULT,
                           H5P_DEFAULT);
        break;
    case CRAFT_USER_LINK:
        H5Lregister(&(H5L_class_t){.version = H5L_LINK_CLASS_T_VERS, .id = 200,
                                   .comment = "a test's", .trav_func = craft_traverse});
        H5Lcreate_ud(file, "validation/tokens", 200, "x", 1, H5P_DEFAULT, H5P_DEFAULT);
        break;
    default: craft_tokens(c, file, "validation/tokens");
    }
    static const char *const name[] = {"train/a", "train/b", "train/c"};
    if (c->how != CRAFT_CYCLE) return;
    for (int i = 0; i < 3; i++) /* a group that holds itself: 3^16 paths */
        H5Lcreate_hard(file, "train", file, name[i], H5P_DEFAULT, H5P_DEFAULT);
}

/* A lk_io_job. */
static inline lk_status craft_dataset(void *argument)
{
    const craft *c = argument;
    hid_t file = H5Fcreate(c->path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (file < 0) return lk_h5_fail(LK_E_SYSTEM, "%s: cannot craft", c->path);
    craft_attributes(c, file);
    craft_group(c, file);
    H5Gclose(H5Gcreate2(file, "validation", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    if (c->how != CRAFT_EXTERNAL_GROUP) craft_tokens(c, file, "train/tokens");
    craft_validation(c, file);
    craft_vocabulary(c, file);
    if (H5Fclose(file) < 0) return lk_h5_fail(LK_E_SYSTEM, "%s: cannot craft", c->path);
    return c->how == CRAFT_BEYOND ? craft_beyond(c->path) : LK_OK;
}

typedef struct craft_read {
    const char *path;
    const float *loss;
    const int32_t *argmax;
    hsize_t count;
    bool samples; /* argmax is the label too, and loss the probability */
} craft_read;

static inline lk_status craft_compare(const craft_read *r, hid_t file, const char *name,
                                      lk_h5_type type, const void *want)
{
    lk_h5_dataset d = {.id = -1};
    LK_TRY(lk_h5_dataset_open(file, r->path, name, 0, &d));
    void *found = malloc(d.bytes + 1);
    lk_status status = lk_h5_dataset_expect(&d, r->path, name, type, 1);
    if (status == LK_OK) status = lk_h5_dataset_read(&d, r->path, name, found);
    if (status == LK_OK && (d.dim[0] != r->count || memcmp(found, want, d.bytes) != 0))
        status = lk_fail(LK_E_INTERNAL, "'%s' differs", name);
    free(found);
    lk_h5_release(&d.id);
    return status;
}

/* A lk_io_job. */
static inline lk_status craft_read_predictions(void *argument)
{
    const craft_read *r = argument;
    hid_t file = -1;
    LK_TRY(lk_h5_open(r->path, LK_SCHEMA_PREDICTIONS, &file));
    lk_status status = craft_compare(r, file, "loss", LK_H5_F32, r->loss);
    if (status == LK_OK) status = craft_compare(r, file, "argmax", LK_H5_I32, r->argmax);
    if (status == LK_OK && r->samples)
        status = craft_compare(r, file, "label", LK_H5_I32, r->argmax);
    if (status == LK_OK && r->samples)
        status = craft_compare(r, file, "probability", LK_H5_F32, r->loss);
    H5Fclose(file);
    return status;
}

#endif
