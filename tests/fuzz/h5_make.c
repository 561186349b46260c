/* HDF5 files as lockstep writes them, whose structure can be made odd. All choices come from one
 * generator, so a seed names a file. The library's own API is used, not io/, whose writers cannot
 * be made to write what they should not; what comes out has every checksum right, which a mutation
 * of bytes has not. */
#include "base/digest.h"
#include "io/checkpoint.h"
#include "tests/fuzz/fuzz.h"

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARAMS = 4, SAMPLES = 12 };

typedef struct maker {
    fuzz_kind kind;
    uint64_t state;
    unsigned oddity;
    const char *path;
    hid_t file;
} maker;

/* ---- choices --------------------------------------------------------------------------------- */

/* SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014). */
static uint32_t draw(maker *m, uint32_t n)
{
    uint64_t z = m->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

static bool odd(maker *m) { return m->oddity > 0 && draw(m, m->oddity) == 0; }

static uint64_t odd_number(maker *m)
{
    static const uint64_t number[] = {0, 1, 2, 3, 7, 127, 128, 255, 256, 65535, 65536, 1 << 20,
                                      INT32_MAX, UINT32_MAX, (uint64_t)1 << 32, INT64_MAX,
                                      (uint64_t)1 << 63, UINT64_MAX};
    return number[draw(m, sizeof number / sizeof *number)];
}

/* A type of another class or size than any reader expects; to be closed. */
static hid_t odd_type(maker *m)
{
    hid_t t;
    switch (draw(m, 12)) {
    case 0: return H5Tcopy(H5T_STD_I8LE);
    case 1: return H5Tcopy(H5T_STD_U64BE);
    case 2: return H5Tcopy(H5T_IEEE_F64BE);
    case 3: return H5Tcopy(H5T_STD_REF_OBJ);
    case 4: return H5Tvlen_create(H5T_STD_U8LE);
    case 5: return H5Tarray_create2(H5T_STD_U8LE, 2, (hsize_t[]){2, 3});
    case 6:
        t = H5Tcreate(H5T_COMPOUND, 16);
        H5Tinsert(t, "a", 0, H5T_STD_I32LE);
        H5Tinsert(t, "b", 8, H5T_IEEE_F64LE);
        return t;
    case 7:
        t = H5Tenum_create(H5T_STD_I32LE);
        H5Tenum_insert(t, "one", &(int){1});
        return t;
    case 8:
        t = H5Tcreate(H5T_OPAQUE, 1 + draw(m, 64));
        H5Tset_tag(t, "opaque");
        return t;
    case 9:
        t = H5Tcopy(H5T_C_S1);
        H5Tset_size(t, draw(m, 2) ? H5T_VARIABLE : 1 + draw(m, 40));
        return t;
    case 10:
        t = H5Tcopy(H5T_STD_I32LE);
        H5Tset_precision(t, 1 + draw(m, 31));
        return t;
    default: return H5Tcopy(H5T_STD_B16LE);
    }
}

static hid_t odd_space(maker *m)
{
    hsize_t dim[6];
    int dims = (int)draw(m, 7);
    for (int i = 0; i < dims; i++) dim[i] = draw(m, 4);
    if (draw(m, 8) == 0) return H5Screate(H5S_NULL);
    return dims > 0 ? H5Screate_simple(dims, dim, NULL) : H5Screate(H5S_SCALAR);
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* Bytes enough for any odd type and space; large values at its end. */
static const void *odd_bytes(maker *m)
{
    static uint64_t bytes[8192];
    for (size_t i = 0; i < 8192; i += 64) bytes[i] = odd_number(m);
    return bytes;
}

static void put(maker *m, hid_t object, const char *name, hid_t type, hid_t space, const void *data)
{
    hid_t t = odd(m) ? odd_type(m) : H5Tcopy(type), s = odd(m) ? odd_space(m) : H5Scopy(space);
    bool plain = H5Tequal(t, type) > 0 && H5Sget_simple_extent_npoints(s) ==
                                              H5Sget_simple_extent_npoints(space);
    bool lent = H5Tdetect_class(t, H5T_VLEN) > 0 || H5Tis_variable_str(t) > 0;
    hid_t a = odd(m) ? -1 : H5Acreate2(object, name, t, s, H5P_DEFAULT, H5P_DEFAULT);
    if (a >= 0 && plain) H5Awrite(a, type, data);
    else if (a >= 0 && !lent) H5Awrite(a, t, odd_bytes(m));
    if (a >= 0) H5Aclose(a);
    H5Sclose(s);
    H5Tclose(t);
}

static void put_text(maker *m, hid_t object, const char *name, const char *text)
{
    static const char *const other[] = {"", "text", "images", "table", "byte", "character", "0",
                                        "{\"a\":", "\x1b[2J\n", "\xff\xfe", "/", "lockstep "};
    if (odd(m)) text = other[draw(m, sizeof other / sizeof *other)];
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    if (draw(m, 8) == 0 && m->oddity > 0) { /* as h5py does */
        H5Tset_size(type, H5T_VARIABLE);
        put(m, object, name, type, space, &text);
    } else {
        H5Tset_size(type, strlen(text) + !(odd(m) && text[0])); /* with or without its NUL */
        put(m, object, name, type, space, text);
    }
    H5Tclose(type);
    H5Sclose(space);
}

static void put_u64(maker *m, hid_t object, const char *name, uint64_t value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    if (odd(m)) value = odd_number(m);
    put(m, object, name, H5T_STD_U64LE, space, &value);
    H5Sclose(space);
}

static void put_f64s(maker *m, hid_t object, const char *name, hsize_t n, const double *value)
{
    static const double other[] = {0, -1, 1e300, 1e-300, -0.0};
    double list[16];
    for (hsize_t i = 0; i < n; i++)
        list[i] = odd(m) ? draw(m, 2) ? other[draw(m, 5)] : 0.0 / (double)draw(m, 2) : value[i];
    if (odd(m)) n = 1 + draw(m, 16);
    hid_t space = H5Screate_simple(1, &n, NULL);
    put(m, object, name, H5T_IEEE_F64LE, space, list);
    H5Sclose(space);
}

/* Names of 7 characters each. */
static void put_texts(maker *m, hid_t object, const char *name, hsize_t n, const char *word)
{
    char all[16][8];
    const char *lent[16];
    for (int i = 0; i < 16; i++) {
        snprintf(all[i], 8, "%.5s%d", odd(m) ? "" : word, odd(m) ? 0 : i % 16);
        lent[i] = all[i];
    }
    if (odd(m)) n = 1 + draw(m, 16);
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate_simple(1, &n, NULL);
    bool heap = m->oddity > 0 && draw(m, 8) == 0;
    H5Tset_size(type, heap ? H5T_VARIABLE : 8);
    put(m, object, name, type, space, heap ? (const void *)lent : all);
    H5Tclose(type);
    H5Sclose(space);
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* Those which know the type only as the first: HDF5 1.10.8 crashes where another has changed what
 * they are given. */
static void odd_filters(maker *m, hid_t list)
{
    uint32_t n = draw(m, 3);
    for (uint32_t i = 0; i < n; i++) switch (draw(m, i == 0 ? 6 : 4)) {
        case 0: H5Pset_deflate(list, draw(m, 10)); break;
        case 1: H5Pset_shuffle(list); break;
        case 2: H5Pset_fletcher32(list); break;
        case 3: H5Pset_filter(list, 32004, H5Z_FLAG_OPTIONAL, 0, NULL); break;
        case 4: H5Pset_nbit(list); break;
        default: H5Pset_scaleoffset(list, H5Z_SO_INT, 0); break;
        }
}

/* What is declared large is never stored. */
static hid_t creation_list(maker *m, int dims, const hsize_t *dim)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[H5S_MAX_RANK];
    bool strange = odd(m), empty = dims == 0, small = true;
    double elements = 1;
    for (int i = 0; i < dims; i++) {
        elements *= (double)dim[i];
        small = elements < 4096;
        chunk[i] = strange ? 1 + draw(m, 40) : dim[i] < 4096 ? dim[i] : 4096;
        empty |= chunk[i] == 0;
    }
    H5Pset_fill_time(list, H5D_FILL_TIME_NEVER);
    if (odd(m) && small) H5Pset_fill_time(list, H5D_FILL_TIME_ALLOC);
    if (odd(m) && small) H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
    if (odd(m)) H5Pset_layout(list, H5D_COMPACT);
    else if (odd(m)) H5Pset_external(list, "/dev/zero", 0, 1 << 16);
    else if (!empty && !odd(m)) {
        H5Pset_chunk(list, dims, chunk);
        bool strange_filters = odd(m);
        if (strange_filters) odd_filters(m, list);
        else H5Pset_fletcher32(list);
        if (strange_filters) /* HDF5 1.10.8 crashes in filtering what it allocates early */
            H5Pset_alloc_time(list, H5D_ALLOC_TIME_INCR);
    }
    if (odd(m)) H5Pset_attr_phase_change(list, 0, 0); /* attributes in a fractal heap */
    if (odd(m)) H5Pset_attr_creation_order(list, H5P_CRT_ORDER_TRACKED);
    return list;
}

static void odd_shape(maker *m, int *dims, hsize_t dim[8])
{
    if (draw(m, 2)) { /* another number of dimensions */
        *dims = (int)draw(m, 6);
        for (int i = 0; i < *dims; i++) dim[i] = draw(m, 5);
        return;
    }
    static const hsize_t large[] = {0, 1, 3, 100, 1 << 16, 1 << 24, (hsize_t)1 << 40,
                                    (hsize_t)1 << 62};
    if (*dims > 0) dim[draw(m, (uint32_t)*dims)] = large[draw(m, 8)];
}

/* Something that is no dataset, or lies elsewhere, under its name. */
static void odd_object(maker *m, const char *path)
{
    hid_t type;
    switch (draw(m, 7)) {
    case 0: H5Lcreate_soft("/train", m->file, path, H5P_DEFAULT, H5P_DEFAULT); break;
    case 1: H5Lcreate_external("/dev/zero", "/a", m->file, path, H5P_DEFAULT, H5P_DEFAULT); break;
    case 2: H5Lcreate_hard(m->file, "/", m->file, path, H5P_DEFAULT, H5P_DEFAULT); break;
    case 3:
        H5Gclose(H5Gcreate2(m->file, path, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        break;
    case 4:
        type = odd_type(m);
        H5Tcommit2(m->file, path, type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Tclose(type);
        break;
    default: break; /* it is missing */
    }
}

static void put_dataset(maker *m, const char *path, hid_t type, int dims, const hsize_t *shape,
                        const void *data)
{
    hsize_t dim[8] = {0}, most[8];
    char digest[LK_DIGEST_TEXT];
    size_t bytes = H5Tget_size(type);
    for (int i = 0; i < dims; i++) bytes *= (size_t)shape[i];
    memcpy(dim, shape, (size_t)dims * sizeof *dim);
    if (odd(m)) {
        odd_object(m, path);
        return;
    }
    bool other = odd(m);
    if (other) odd_shape(m, &dims, dim);
    for (int i = 0; i < dims; i++) most[i] = odd(m) ? H5S_UNLIMITED : dim[i];
    hid_t t = odd(m) ? odd_type(m) : H5Tcopy(type), list = creation_list(m, dims, dim);
    hid_t space = dims > 0 ? H5Screate_simple(dims, dim, most) : H5Screate(H5S_SCALAR);
    hid_t d = H5Dcreate2(m->file, path, t, space, H5P_DEFAULT, list, H5P_DEFAULT);
    if (d >= 0 && !other && !odd(m) && H5Tequal(t, type) > 0)
        H5Dwrite(d, t, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    lk_digest_bytes(data, bytes, digest);
    if (odd(m)) digest[draw(m, 32)] ^= 1;
    if (d >= 0) put_text(m, d, "digest", digest);
    if (d >= 0) H5Dclose(d);
    H5Sclose(space);
    H5Pclose(list);
    H5Tclose(t);
}

static void put_group(maker *m, const char *path)
{
    if (odd(m)) {
        odd_object(m, path);
        return;
    }
    hid_t list = H5Pcreate(H5P_GROUP_CREATE);
    if (odd(m)) H5Pset_link_phase_change(list, 0, 0); /* links in a fractal heap */
    if (odd(m)) H5Pset_link_creation_order(list, H5P_CRT_ORDER_TRACKED);
    H5Gclose(H5Gcreate2(m->file, path, H5P_DEFAULT, list, H5P_DEFAULT));
    H5Pclose(list);
    if (odd(m)) H5Lcreate_hard(m->file, "/", m->file, "cycle", H5P_DEFAULT, H5P_DEFAULT);
}

/* ---- datasets of lockstep -------------------------------------------------------------------- */

static void vocabulary(maker *m)
{
    uint32_t code[256];
    bool bytes = m->oddity > 0 && draw(m, 2);
    for (uint32_t i = 0; i < 256; i++) code[i] = bytes ? i : 97 + 3 * i;
    if (odd(m)) code[draw(m, 3)] = (uint32_t)odd_number(m);
    put_text(m, m->file, "vocabulary", bytes ? "byte" : "character");
    put_dataset(m, "vocabulary", H5T_STD_U32LE, 1, (hsize_t[]){bytes ? 256 : 3}, code);
}

static void text_split(maker *m, const char *path)
{
    uint8_t token[60];
    for (int i = 0; i < 60; i++) token[i] = odd(m) ? (uint8_t)odd_number(m) : (uint8_t)(i * i % 3);
    put_dataset(m, path, H5T_STD_U8LE, 1, (hsize_t[]){60}, token);
}

static void put_labels(maker *m, const char *path)
{
    uint16_t label[SAMPLES];
    for (int i = 0; i < SAMPLES; i++)
        label[i] = odd(m) ? (uint16_t)odd_number(m) : (uint16_t)(i % 2);
    put_dataset(m, path, H5T_STD_U16LE, 1, (hsize_t[]){SAMPLES}, label);
}

static void image_split(maker *m, const char *images, const char *labels)
{
    uint8_t pixel[SAMPLES * 4 * 4 * 3];
    for (size_t i = 0; i < sizeof pixel; i++) pixel[i] = (uint8_t)(i * 7 % 251);
    put_dataset(m, images, H5T_STD_U8LE, 4, (hsize_t[]){SAMPLES, 4, 4, 3}, pixel);
    put_labels(m, labels);
}

static void table_split(maker *m, const char *features, const char *labels)
{
    float value[SAMPLES * 3];
    for (int i = 0; i < SAMPLES * 3; i++)
        value[i] = odd(m) ? (float)odd_number(m) / (float)draw(m, 2) : (float)(i * i % 17);
    put_dataset(m, features, H5T_IEEE_F32LE, 2, (hsize_t[]){SAMPLES, 3}, value);
    put_labels(m, labels);
}

static void format(maker *m, bool images)
{
    put_texts(m, m->file, "classes", 2, "class");
    if (images) {
        put_f64s(m, m->file, "mean", 3, (double[]){0.5, 0.25, 0.125});
        put_f64s(m, m->file, "std", 3, (double[]){0.5, 0.25, 1});
    } else {
        put_texts(m, m->file, "columns", 3, "x");
    }
}

static void make_dataset(maker *m)
{
    static const char *const name[] = {"text", "images", "table"};
    put_text(m, m->file, "kind", name[m->kind]);
    put_text(m, m->file, "source", "made by a fuzzer");
    put_text(m, m->file, "digest", "0123456789abcdef0123456789abcdef");
    if (m->oddity > 0 && draw(m, 2))
        put_text(m, m->file, "reference",
                 "{\"version\": 1, \"samples\": 12, \"features\": [{\"name\": \"label\", "
                 "\"ordered\": false, \"count\": [6, 6]}]}");
    put_group(m, "train");
    put_group(m, "validation");
    for (int s = 0; s < 2; s++) {
        const char *group = s ? "validation" : "train";
        char data[32], labels[32];
        static const char *const field[] = {"tokens", "images", "features"};
        snprintf(data, sizeof data, "%s/%s", group, field[m->kind]);
        snprintf(labels, sizeof labels, "%s/labels", group);
        if (m->kind == FUZZ_TEXT) text_split(m, data);
        if (m->kind == FUZZ_IMAGES) image_split(m, data, labels);
        if (m->kind == FUZZ_TABLE) table_split(m, data, labels);
    }
    if (m->kind == FUZZ_TEXT) vocabulary(m);
    else format(m, m->kind == FUZZ_IMAGES);
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

typedef struct param {
    const char *name, *path;
    int dims;
    int64_t dim[4];
} param;
static const param params[PARAMS] = {
    {"embed.weight", "embed/weight", 2, {5, 4}},
    {"blocks.0.conv.weight", "blocks/0/conv/weight", 4, {2, 3, 1, 1}},
    {"blocks.0.norm.weight", "blocks/0/norm/weight", 1, {4}},
    {"head.temperature", "head/temperature", 1, {1}},
};

const lk_params *fuzz_params(void)
{
    static lk_params *p;
    if (p) return p;
    p = lk_params_create();
    lk_graph *g = lk_graph_create(p, false);
    for (int i = 0; i < PARAMS; i++)
        lk_parameter(g, params[i].name, params[i].dims, params[i].dim, LK_INIT_ZERO, 0, i < 2);
    lk_graph_destroy(g);
    lk_params_layout(p);
    return p;
}

static void tensors(maker *m, const char *group)
{
    float value[32];
    char path[64];
    for (int i = 0; i < 32; i++) value[i] = (float)i / 7;
    put_group(m, group);
    for (int i = 0; i < PARAMS; i++) {
        hsize_t dim[4];
        for (int k = 0; k < params[i].dims; k++) dim[k] = (hsize_t)params[i].dim[k];
        snprintf(path, sizeof path, "%s/%s", group, params[i].path);
        put_dataset(m, path, H5T_IEEE_F32LE, params[i].dims, dim, value);
    }
    if (!odd(m)) return;
    snprintf(path, sizeof path, "%s/more", group);
    put_dataset(m, path, H5T_IEEE_F32LE, 1, (hsize_t[]){3}, value);
}

static void make_checkpoint(maker *m)
{
    bool images = m->kind == FUZZ_CHECKPOINT_IMAGES;
    lk_step_state state = {.step = 2, .updates = 2, .loss_scale = 1, .loss = 2.5f, .lr = 1e-3f,
                           .finite = 1};
    if (odd(m)) state.step = odd_number(m);
    if (odd(m)) state.updates = odd_number(m);
    if (odd(m)) memset(&state.loss_scale, (int)draw(m, 256), 16);
    put_u64(m, m->file, "step", 2);
    put_u64(m, m->file, "seed", 1);
    put_u64(m, m->file, "leaves", 4);
    put_text(m, m->file, "run_file", "directory: a\ndata:\n  file: a.h5\nmodel:\n  width: 64\n");
    put_text(m, m->file, "choices", "backend\tcpu\n");
    put_text(m, m->file, "code_version", "0.1");
    put_text(m, m->file, "build", "fuzz");
    put_text(m, m->file, "dataset_path", "a.h5");
    put_text(m, m->file, "dataset_digest", "0123456789abcdef0123456789abcdef");
    put_u64(m, m->file, "loss_log_bytes", 120);
    put_text(m, m->file, "loss_log_digest", "00112233445566778899aabbccddeeff");
    put_u64(m, m->file, "loss_log_changed", 1);
    put_text(m, m->file, "kind", images ? "images" : "text");
    put_dataset(m, "state", H5T_STD_U8LE, 1, (hsize_t[]){sizeof state}, &state);
    if (images) {
        put_u64(m, m->file, "height", 4);
        put_u64(m, m->file, "width", 4);
        put_u64(m, m->file, "channels", 3);
        format(m, true);
    } else {
        vocabulary(m);
    }
    tensors(m, "parameters");
    if (m->oddity == 0 || draw(m, 2)) tensors(m, "moment1");
    if (m->oddity == 0 || draw(m, 2)) tensors(m, "moment2");
    if (m->oddity > 0 && draw(m, 2)) tensors(m, "ema");
}

/* ---- traces ---------------------------------------------------------------------------------- */

enum { NODES = 3, STEPS = 2, SPANS = 5 };

static void column(maker *m, const char *path, bool whole, int dims, hsize_t a, hsize_t b)
{
    int32_t number[16];
    double value[16];
    for (int i = 0; i < 16; i++) {
        number[i] = odd(m) ? (int32_t)odd_number(m) : i % 2 && !strstr(path, "rank");
        value[i] = odd(m) ? (double)odd_number(m) / (double)draw(m, 2) : i / 8.0;
    }
    put_dataset(m, path, whole ? H5T_STD_I32LE : H5T_IEEE_F64LE, dims, (hsize_t[]){a, b},
                whole ? (const void *)number : value);
}

static void make_trace(maker *m)
{
    put_text(m, m->file, "device", "cpu");
    put_text(m, m->file, "code_version", "0.1");
    put_u64(m, m->file, "leaves", 2);
    put_u64(m, m->file, "first_step", 3);
    put_u64(m, m->file, "lost", 0);
    put_f64s(m, m->file, "ceiling", 2, (double[]){1e12, 1e11});
    put_texts(m, m->file, "node_scope", NODES, "b.0.n");
    put_texts(m, m->file, "node_op", NODES, "op");
    put_texts(m, m->file, "memory_name", 2, "m");
    put_f64s(m, m->file, "memory_bytes", 2, (double[]){100, 200});
    put_texts(m, m->file, "hosts", 1, "host");
    put_group(m, "node");
    put_group(m, "step");
    put_group(m, "span");
    column(m, "node/section", true, 1, NODES, 0);
    column(m, "node/flops", false, 1, NODES, 0);
    column(m, "node/bytes", false, 1, NODES, 0);
    column(m, "node/live", false, 1, NODES, 0);
    column(m, "node/scratch", false, 1, NODES, 0);
    column(m, "step/begin", false, 2, 1, STEPS);
    column(m, "step/seconds", false, 2, 1, STEPS);
    column(m, "span/rank", true, 1, SPANS, 0);
    column(m, "span/step", true, 1, SPANS, 0);
    column(m, "span/node", true, 1, SPANS, 0);
    column(m, "span/leaf", true, 1, SPANS, 0);
    column(m, "span/lane", true, 1, SPANS, 0);
    column(m, "span/begin", false, 1, SPANS, 0);
    column(m, "span/seconds", false, 1, SPANS, 0);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* Old formats have no checksums, new ones many; h5py writes the old. */
static hid_t access_list(maker *m)
{
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    bool old = m->oddity > 0 && draw(m, 2);
    H5Pset_libver_bounds(list, old ? H5F_LIBVER_EARLIEST : H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    return list;
}

/* No sizes of addresses, pages or shared messages: HDF5 1.10.8 crashes in writing some. */
static hid_t file_list(maker *m)
{
    hid_t list = H5Pcreate(H5P_FILE_CREATE);
    if (odd(m)) H5Pset_userblock(list, 512);
    if (odd(m)) H5Pset_attr_phase_change(list, 0, 0);
    return list;
}

static lk_status make(void *argument)
{
    maker *m = argument;
    hid_t access = access_list(m), creation = file_list(m);
    m->file = H5Fcreate(m->path, H5F_ACC_TRUNC, creation, access);
    H5Pclose(access);
    H5Pclose(creation);
    if (m->file < 0) return LK_OK; /* odd sizes that do not go together */
    put_text(m, m->file, "schema", m->kind <= FUZZ_TABLE ? "lockstep dataset"
             : m->kind == FUZZ_TRACE ? "lockstep trace" : "lockstep checkpoint");
    put_u64(m, m->file, "version", 1);
    if (m->kind <= FUZZ_TABLE) make_dataset(m);
    else if (m->kind == FUZZ_TRACE) make_trace(m);
    else make_checkpoint(m);
    H5Fclose(m->file);
    H5Eclear2(H5E_DEFAULT);
    return LK_OK;
}

size_t fuzz_h5_make(fuzz_kind kind, int kinds, uint64_t seed, unsigned oddity, uint8_t *data,
                    size_t room)
{
    fuzz_start();
    maker m = {.state = seed, .oddity = oddity, .path = fuzz_path("made.h5")};
    m.kind = (fuzz_kind)((int)kind + (int)(seed % (unsigned)kinds));
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    remove(m.path);
    fuzz_demand(lk_io_call(fuzz_io, make, &m) == LK_OK, "make a file");
    FILE *f = fopen(m.path, "rb");
    size_t size = f ? fread(data, 1, room, f) : 0;
    bool whole = f && fgetc(f) == EOF && !ferror(f);
    if (f) fclose(f);
    return whole ? size : 0;
}

bool fuzz_h5_seed(fuzz_kind kind, int kinds, int i, const char *path)
{
    enum { ROOM = 1 << 16 };
    static uint8_t data[ROOM];
    if (i >= 4 * kinds) return false; /* a good file of each kind, then odd ones */
    size_t size = fuzz_h5_make(kind, kinds, (uint64_t)i, i < kinds ? 0 : 60, data, ROOM);
    FILE *f = fopen(path, "wb");
    bool good = f && size > 0 && fwrite(data, 1, size, f) == size;
    fuzz_demand(f && fclose(f) == 0 && good, "cannot write a seed");
    return true;
}
