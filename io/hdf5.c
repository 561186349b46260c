/* Helpers around HDF5: errors as one line, careful opening, attributes, checked datasets. */
#include "io/hdf5.h"

#include "base/heart.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, MAX_DEPTH = 16, MAX_DATASETS = 1 << 20 };
#define MAX_CHUNK ((size_t)1 << 28) /* bytes of one chunk that a reader will allocate */
#define DEFLATE_LIMIT 1100          /* deflate cannot shrink more than this many times */

/* HDF5 shuts itself down in MPI_Finalize() if MPI was started first, and at exit if not. Either
 * crashes on a file that a full disk kept from being closed (1.10.8), in place of the exit code
 * that is due. Files are closed by then, so neither is needed. */
__attribute__((constructor)) static void start_without_shutdown(void)
{
    H5dont_atexit();
    H5open();
    H5PLset_loading_state(0); /* no file makes this process load a filter that it names */
}

/* ---- errors -------------------------------------------------------------------------------- */

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *text)
{
    if (n == 0 && e->desc) snprintf(text, 512, "%s", e->desc);
    return 0;
}

lk_status lk_h5_fail(lk_status code, const char *format, ...)
{
    char message[1024], cause[512] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, cause);
    H5Eclear2(H5E_DEFAULT);
    for (char *c = cause; *c; c++)
        if (*c == '\n') *c = ' ';
    char *system = strstr(cause, "error message = '"), *end; /* among addresses and flags */
    if (system) {
        system += strlen("error message = '");
        end = strchr(system, '\'');
        if (end) *end = '\0';
    }
    return lk_fail(code, "%s%s%s", message, cause[0] ? ": " : "", system ? system : cause);
}

/* In a save one rank's I/O thread may wait for another's disk, while its cores are wanted for
 * training and its rows to be read: look now and then, after a while in which the answer is likely
 * to come. */
static bool wait_politely(lk_io *io, MPI_Request *request)
{
    int done = 0;
    for (int i = 0; !done; i++) {
        if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
        if (!done && i > 100 && io) lk_io_yield(io);
        if (!done && i > 100)
            nanosleep(&(struct timespec){.tv_nsec = i > 1000 ? 1000000 : 50000}, NULL);
        else if (!done)
            sched_yield();
    }
    return true;
}

lk_status lk_h5_agree(MPI_Comm comm, lk_status mine)
{
    return lk_h5_agree_in(NULL, comm, mine);
}

lk_status lk_h5_agree_in(lk_io *io, MPI_Comm comm, lk_status mine)
{
    if (comm == MPI_COMM_NULL) return mine;
    struct {
        int code;
        char text[1500];
    } report = {.code = mine};
    int rank, first, failed;
    MPI_Request request;
    MPI_Comm_rank(comm, &rank);
    failed = mine == LK_OK ? INT_MAX : rank;
    snprintf(report.text, sizeof report.text, "%.*s", (int)sizeof report.text - 1,
             lk_error_text()); /* now: what is let in while waiting has its own */
    lk_heart_at("an agreement of all ranks", NULL);
    if (MPI_Iallreduce(&failed, &first, 1, MPI_INT, MPI_MIN, comm, &request) != MPI_SUCCESS ||
        !wait_politely(io, &request))
        return lk_fail(LK_E_COMM, "MPI_Iallreduce failed");
    lk_heart_at(NULL, NULL);
    if (first == INT_MAX) return LK_OK;
    if (MPI_Bcast(&report, sizeof report, MPI_BYTE, first, comm) != MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "MPI_Bcast failed");
    lk_error_clear();
    return lk_fail((lk_status)report.code, "%s", report.text);
}

lk_status lk_h5_comm(MPI_Comm world, MPI_Comm *comm)
{
    if (MPI_Comm_dup(world, comm) != MPI_SUCCESS) return lk_fail(LK_E_COMM, "MPI_Comm_dup failed");
    return LK_OK;
}

/* ---- files --------------------------------------------------------------------------------- */

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

static lk_status check_file(const char *path, const char *schema)
{
    const char *expected = noun(schema);
    struct stat s;
    if (stat(path, &s) != 0 && errno == ENOENT)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found no such file; check the path", path,
                       expected);
    if (access(path, R_OK) != 0)
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found that it cannot be read (%s); check "
                       "the path and its permissions", path, expected, strerror(errno));
    if (!S_ISREG(s.st_mode))
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found %s; %s", path, expected,
                       S_ISDIR(s.st_mode) ? "a directory" : "something that is not a file",
                       advice(schema));
    if (H5Fis_hdf5(path) > 0) return LK_OK;
    H5Eclear2(H5E_DEFAULT);
    return lk_fail(LK_E_INPUT, "%s: expected a %s, found %s; %s", path, expected,
                   s.st_size == 0 ? "an empty file" : "a file that is not HDF5", advice(schema));
}

static lk_status check_schema(hid_t file, const char *path, const char *schema)
{
    const char *expected = noun(schema);
    char *found = NULL;
    uint64_t version = 0;
    if (H5Aexists(file, "schema") <= 0) {
        H5Eclear2(H5E_DEFAULT);
        return lk_fail(LK_E_INPUT, "%s: expected a %s, found an HDF5 file without the attribute "
                       "'schema'; %s", path, expected, advice(schema));
    }
    LK_TRY(lk_h5_get_text(file, path, "schema", &found));
    lk_status status = LK_OK;
    if (schema ? strcmp(found, schema) != 0 : strncmp(found, "lockstep ", 9) != 0)
        status = lk_fail(LK_E_INPUT, "%s: expected a %s, found schema '%.60s'; %s", path, expected,
                         found, advice(schema));
    free(found);
    LK_TRY(status);
    LK_TRY(lk_h5_get_u64(file, path, "version", &version));
    if (version != VERSION)
        return lk_fail(LK_E_INPUT, "%s: expected version %d, found version %llu; use the lockstep "
                       "that wrote it", path, VERSION, (unsigned long long)version);
    return LK_OK;
}

/* ---- opening again -------------------------------------------------------------------------- */

enum { TRIES = 6, FIRST_PAUSE = 100 }; /* ms, then twice as long each time: 3.1 s in all */

static _Thread_local char note[400];

const char *lk_h5_note(void) { return note; }

/* What the system says to reading the file's first byte; 0: nothing is wrong. */
static int reading_error(const char *path)
{
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    int error = pread(fd, &byte, 1, 0) < 0 ? errno : 0;
    close(fd);
    return error;
}

/* Errors of a network file system, or of a machine that is short of something, that often pass. */
static bool may_pass(int error)
{
    static const int passing[] = {EINTR,  EAGAIN,    EIO,       ESTALE,     ETIMEDOUT,
                                  EBUSY,  ENFILE,    EMFILE,    EHOSTDOWN,  EHOSTUNREACH,
                                  ENOMEM, ECONNRESET, ENOTCONN, EREMOTEIO};
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++)
        if (error == passing[i]) return true;
    return false;
}

static bool any(MPI_Comm comm, bool mine)
{
    int one = mine, sum = mine;
    if (comm != MPI_COMM_NULL) MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_LOR, comm);
    return sum;
}

static lk_status access_list(const char *path, MPI_Comm comm, bool write, hid_t *list)
{
    LK_H5_AUTO hid_t fapl = -1;
    LK_H5(LK_E_SYSTEM, fapl = H5Pcreate(H5P_FILE_ACCESS), "%s: access list", path);
    LK_H5(LK_E_SYSTEM, H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG), "%s: access list", path);
    if (comm != MPI_COMM_NULL)
        LK_H5(LK_E_SYSTEM, H5Pset_fapl_mpio(fapl, comm, MPI_INFO_NULL), "%s: MPI-IO", path);
    else /* files are renamed when whole, never changed; some file systems have no locks */
        LK_H5(LK_E_SYSTEM, H5Pset_file_locking(fapl, false, true), "%s: access list", path);
    if (write)
        LK_H5(LK_E_SYSTEM, H5Pset_libver_bounds(fapl, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST),
              "%s: format version", path);
    *list = fapl;
    fapl = -1;
    return LK_OK;
}

/* *error: what the system said, if it failed for that. */
static lk_status open_once(const char *path, MPI_Comm comm, const char *schema, hid_t *file,
                           int *error)
{
    lk_status status = LK_OK;
    *error = reading_error(path);
    if (may_pass(*error))
        status = lk_fail(LK_E_SYSTEM,
                         "%s: cannot read: %s; tried %d times in 3 s; check the file "
                         "system",
                         path, strerror(*error), TRIES);
    if (status == LK_OK) status = check_file(path, schema);
    if (status == LK_OK && *error)
        status = lk_fail(LK_E_INPUT, "%s: cannot read: %s; the file is damaged, or its disk is",
                         path, strerror(*error));
    LK_TRY(lk_h5_agree(comm, status));
    LK_H5_AUTO hid_t fapl = -1, id = -1;
    LK_TRY(access_list(path, comm, false, &fapl));
    id = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    if (id < 0) {
        *error = reading_error(path);
        status = lk_h5_fail(LK_E_INPUT, "%s: expected a %s, found a damaged or truncated HDF5 "
                            "file; make or copy it again", path,
                            schema ? schema : "lockstep file");
    }
    if (status == LK_OK) status = check_schema(id, path, schema);
    LK_TRY(lk_h5_agree(comm, status));
    *file = id;
    id = -1;
    return LK_OK;
}

lk_status lk_h5_open(const char *path, MPI_Comm comm, const char *schema, hid_t *file)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    note[0] = '\0';
    for (int try = 1, pause = FIRST_PAUSE;; try++, pause *= 2) {
        int error = 0;
        lk_status status = open_once(path, comm, schema, file, &error);
        if (status == LK_OK || try == TRIES || !any(comm, may_pass(error))) return status;
        snprintf(note, sizeof note, "%.200s: opened only at try %d (%.80s)", path, try + 1,
                 may_pass(error) ? strerror(error) : "another rank could not read it");
        lk_error_clear();
        nanosleep(&(struct timespec){pause / 1000, pause % 1000 * 1000000L}, NULL);
    }
}

lk_status lk_h5_create(const char *path, MPI_Comm comm, const char *schema, hid_t *file)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    LK_H5_AUTO hid_t fapl = -1, id = -1;
    LK_TRY(access_list(path, comm, true, &fapl));
    LK_H5(LK_E_SYSTEM, id = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, fapl),
          "%s: cannot create the file", path);
    LK_TRY(lk_h5_set_text(id, path, "schema", schema));
    LK_TRY(lk_h5_set_u64(id, path, "version", VERSION));
    *file = id;
    id = -1;
    return LK_OK;
}

/* A file that cannot be flushed stays open: what a failed H5Fclose() leaves must not be touched. */
lk_status lk_h5_close(const char *path, hid_t *file)
{
    hid_t id = *file;
    *file = -1;
    if (id < 0) return LK_OK;
    LK_H5(LK_E_SYSTEM, H5Fflush(id, H5F_SCOPE_LOCAL), "%s: cannot write the file", path);
    LK_H5(LK_E_SYSTEM, H5Fclose(id), "%s: cannot close the file", path);
    return LK_OK;
}

void lk_h5_abandon(const char *path, MPI_Comm comm, hid_t *file)
{
    hid_t id = *file;
    *file = -1;
    if (id < 0) return;
    bool room = truncate(path, 0) == 0; /* a full disk has room again for what HDF5 will flush */
    bool good = lk_h5_agree(comm, room ? LK_OK : LK_E_SYSTEM) == LK_OK;
    if (good) good = H5Fflush(id, H5F_SCOPE_LOCAL) >= 0;
    if (lk_h5_agree(comm, good ? LK_OK : LK_E_SYSTEM) == LK_OK) H5Fclose(id);
    H5Eclear2(H5E_DEFAULT);
}

/* ---- datasets ------------------------------------------------------------------------------ */

const char *lk_h5_type_name(lk_h5_type t)
{
    static const char *const name[LK_H5_TYPES] = {"f32", "i32", "u8", "u16", "u32", "f64", "text"};
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
    case LK_H5_F64: return H5T_IEEE_F64LE;
    default: return -1;
    }
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
        if (H5Lexists(file, part, H5P_DEFAULT) <= 0) {
            H5Eclear2(H5E_DEFAULT);
            return lk_fail(LK_E_INPUT, "%s: expected the dataset '%s', found none; the file is "
                           "damaged or of another kind", where, path);
        }
        LK_H5(LK_E_INPUT, H5Lget_info(file, part, &info, H5P_DEFAULT), "%s: '%s'", where, part);
        if (info.type != H5L_TYPE_HARD)
            return lk_fail(LK_E_INPUT, "%s: '%s' is a soft or external link, which is not "
                           "followed; copy the data into the file", where, part);
    } while (*end++);
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
    return lk_fail(LK_E_INPUT,
                   "%s: '%s': expected f32, f64, i32, u8, u16, u32 or text, found "
                   "another element type; convert it",
                   where, path);
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

/* The bytes declared against those stored, and these against the file: a damaged index may name
 * what lies beyond its end, or name one chunk many times. */
static lk_status check_stored(hid_t file, hid_t id, const char *where, const char *path,
                              const lk_h5_dataset *d, bool deflate)
{
    hsize_t stored = H5Dget_storage_size(id), size = 0;
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
        if (f != H5Z_FILTER_DEFLATE && f != H5Z_FILTER_SHUFFLE && f != H5Z_FILTER_FLETCHER32)
            return lk_fail(LK_E_INPUT, "%s: '%s': expected filters among deflate, shuffle and "
                           "Fletcher-32, found filter %d; rewrite it with h5repack", where, path,
                           (int)f);
    }
    if (layout == H5D_CHUNKED) {
        hsize_t chunk[LK_H5_MAX_DIMS];
        size_t bytes = d->element;
        int dims = H5Pget_chunk(list, LK_H5_MAX_DIMS, chunk);
        for (int i = 0; i < dims && i < LK_H5_MAX_DIMS && bytes <= MAX_CHUNK; i++)
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
    d->digest[0] = '\0';
    if (H5Aexists(id, "digest") <= 0) return LK_OK;
    char *text = NULL;
    LK_TRY(lk_h5_get_text(id, where, "digest", &text));
    bool hexadecimal = strspn(text, "0123456789abcdef") == LK_DIGEST_TEXT - 1;
    if (hexadecimal) memcpy(d->digest, text, LK_DIGEST_TEXT - 1);
    d->digest[hexadecimal ? LK_DIGEST_TEXT - 1 : 0] = '\0';
    free(text);
    return LK_OK;
}

lk_status lk_h5_dataset_open(hid_t file, const char *where, const char *path, size_t cache,
                             lk_h5_dataset *result)
{
    LK_H5_AUTO hid_t id = -1, access_list = -1;
    lk_h5_dataset d = {.id = -1};
    H5O_info_t object;
    LK_TRY(check_links(file, where, path));
    LK_H5(LK_E_INPUT, H5Oget_info_by_name2(file, path, &object, H5O_INFO_BASIC, H5P_DEFAULT),
          "%s: '%s'", where, path);
    if (object.type != H5O_TYPE_DATASET)
        return lk_fail(LK_E_INPUT,
                       "%s: expected '%s' to be a dataset, found something else; the "
                       "file is damaged or of another kind",
                       where, path);
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

static lk_status read_piece(const lk_h5_dataset *d, const char *where, const char *path,
                            hsize_t first, hsize_t count, void *out)
{
    LK_H5_AUTO hid_t file_space = -1, memory_space = -1, type = -1;
    hsize_t start[LK_H5_MAX_DIMS] = {first}, size[LK_H5_MAX_DIMS];
    for (int i = 0; i < d->dims; i++) size[i] = i == 0 ? count : d->dim[i];
    LK_H5(LK_E_INPUT, type = H5Dget_type(d->id), "%s: '%s'", where, path);
    LK_H5(LK_E_INPUT, file_space = H5Dget_space(d->id), "%s: '%s'", where, path);
    if (d->dims > 0)
        LK_H5(LK_E_INTERNAL, H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, size,
                                                 NULL), "%s: '%s'", where, path);
    LK_H5(LK_E_SYSTEM, memory_space = d->dims > 0 ? H5Screate_simple(d->dims, size, NULL)
                                                  : H5Screate(H5S_SCALAR), "%s: '%s'", where, path);
    LK_H5(LK_E_INPUT, H5Dread(d->id, type, memory_space, file_space, H5P_DEFAULT, out),
          "%s: cannot read '%s'; the file is damaged, make or copy it again", where, path);
    return LK_OK;
}

static hsize_t rows_of(const lk_h5_dataset *d) { return d->dims > 0 ? d->dim[0] : 1; }

static hsize_t rows_per_piece(const lk_h5_dataset *d, size_t limit)
{
    return d->row > 0 && d->row < limit ? limit / d->row : 1;
}

lk_status lk_h5_dataset_rows(const lk_h5_dataset *d, const char *where, const char *path,
                             hsize_t first, hsize_t count, void *out)
{
    hsize_t step = rows_per_piece(d, LK_H5_PIECE);
    for (hsize_t at = 0; at < count && d->bytes > 0; at += step)
        LK_TRY(read_piece(d, where, path, first + at, count - at < step ? count - at : step,
                          (char *)out + at * d->row));
    return LK_OK;
}

static lk_status compare(const lk_h5_dataset *d, const char *where, const char *path,
                         const char *digest)
{
    if (strcmp(d->digest, digest) == 0) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: '%s': expected digest %s, found %s; the file is damaged, use "
                   "another one", where, path, d->digest[0] ? d->digest : "(none)", digest);
}

lk_status lk_h5_dataset_read(const lk_h5_dataset *d, const char *where, const char *path,
                             void *out)
{
    char digest[LK_DIGEST_TEXT];
    LK_TRY(lk_h5_dataset_rows(d, where, path, 0, rows_of(d), out));
    lk_digest_bytes(out, d->bytes, digest);
    return compare(d, where, path, digest);
}

lk_status lk_h5_dataset_verify(const lk_h5_dataset *d, const char *where, const char *path)
{
    return lk_h5_dataset_verify_in(NULL, d, where, path);
}

lk_status lk_h5_dataset_verify_in(lk_io *io, const lk_h5_dataset *d, const char *where,
                                  const char *path)
{
    char text[LK_DIGEST_TEXT];
    hsize_t rows = rows_of(d), step = rows_per_piece(d, (size_t)1 << 25);
    if (step > rows) step = rows;
    lk_digest *digest = NULL;
    LK_TRY(lk_digest_create(&digest));
    void *buffer = malloc(step * d->row + 1);
    lk_status status = buffer ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    for (hsize_t at = 0; at < rows && status == LK_OK; at += step) {
        hsize_t count = rows - at < step ? rows - at : step;
        status = lk_h5_dataset_rows(d, where, path, at, count, buffer);
        if (status == LK_OK) lk_digest_update(digest, buffer, count * d->row);
        if (status == LK_OK && io) lk_io_yield(io);
    }
    lk_digest_text(digest, text);
    lk_digest_destroy(digest);
    free(buffer);
    return status == LK_OK ? compare(d, where, path, text) : status;
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

lk_status lk_h5_chunked(int dims, const hsize_t *dim, hsize_t rows, hid_t *dcpl)
{
    LK_H5_AUTO hid_t list = -1;
    hsize_t chunk[LK_H5_MAX_DIMS];
    bool empty = dims == 0;
    for (int i = 0; i < dims; i++) {
        chunk[i] = i > 0 || dim[i] < rows ? dim[i] : rows;
        if (chunk[i] == 0) empty = true;
    }
    LK_H5(LK_E_SYSTEM, list = H5Pcreate(H5P_DATASET_CREATE), "creation list");
    LK_H5(LK_E_SYSTEM, H5Pset_fill_time(list, H5D_FILL_TIME_NEVER), "fill time");
    if (!empty) {
        LK_H5(LK_E_SYSTEM, H5Pset_chunk(list, dims, chunk), "chunks");
        LK_H5(LK_E_SYSTEM, H5Pset_fletcher32(list), "Fletcher-32");
    }
    *dcpl = list;
    list = -1;
    return LK_OK;
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
    H5O_info_t object;
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
    else if (H5Oget_info_by_name2(w->file, path, &object, H5O_INFO_BASIC, H5P_DEFAULT) < 0)
        w->status = lk_h5_fail(LK_E_INPUT, "%s: cannot read '%s'", w->where, path);
    else if (object.type == H5O_TYPE_DATASET)
        w->status = append(w->list, path);
    else if (object.type == H5O_TYPE_GROUP)
        w->status = walk_group(&(walk){w->file, w->where, path, w->list, w->depth + 1, w->left,
                                       LK_OK});
    return w->status == LK_OK ? 0 : 1;
}

static lk_status walk_group(const walk *parent)
{
    walk w = *parent;
    hsize_t at = 0;
    herr_t done = H5Literate_by_name(w.file, w.group[0] ? w.group : "/", H5_INDEX_NAME,
                                     H5_ITER_INC, &at, visit, &w, H5P_DEFAULT);
    LK_TRY(w.status);
    LK_H5(LK_E_INPUT, done, "%s: cannot list '%s'", w.where, w.group);
    return LK_OK;
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

/* ---- vocabulary ---------------------------------------------------------------------------- */

static lk_status check_vocabulary(const char *where, bool characters, const uint32_t *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        bool good = characters ? v[i] <= 0x10FFFF && (i == 0 || v[i] > v[i - 1]) : v[i] == i;
        if (!good)
            return lk_fail(LK_E_INPUT, "%s: 'vocabulary': expected %s, found %u at %lld; the file "
                           "is damaged", where,
                           characters ? "increasing code points" : "0 to 255", v[i], (long long)i);
    }
    return LK_OK;
}

lk_status lk_h5_vocabulary(hid_t file, const char *where, bool *characters, uint32_t **vocabulary,
                           int64_t *size)
{
    lk_h5_dataset d = {.id = -1};
    char *kind = NULL;
    LK_TRY(lk_h5_get_text(file, where, "vocabulary", &kind));
    bool character = strcmp(kind, "character") == 0, byte = strcmp(kind, "byte") == 0;
    lk_status status = LK_OK;
    if (!character && !byte)
        status = lk_fail(LK_E_INPUT,
                         "%s: expected the vocabulary 'byte' or 'character', found "
                         "'%.60s'; use the lockstep that wrote it",
                         where, kind);
    free(kind);
    LK_TRY(status);
    LK_TRY(lk_h5_dataset_open(file, where, "vocabulary", 0, &d));
    uint32_t *v = NULL;
    status = lk_h5_dataset_expect(&d, where, "vocabulary", LK_H5_U32, 1);
    if (status == LK_OK &&
        (d.dim[0] < 1 || d.dim[0] > LK_H5_VOCABULARY_MAX || (byte && d.dim[0] != 256)))
        status = lk_fail(LK_E_INPUT,
                         "%s: 'vocabulary': expected %s entries, found %llu; the file "
                         "is damaged",
                         where, byte ? "256" : "1 to 65536", (unsigned long long)d.dim[0]);
    if (status == LK_OK && !(v = malloc(d.bytes))) status = lk_fail(LK_E_SYSTEM, "out of memory");
    if (status == LK_OK) status = lk_h5_dataset_read(&d, where, "vocabulary", v);
    if (status == LK_OK) status = check_vocabulary(where, character, v, (int64_t)d.dim[0]);
    lk_h5_release(&d.id);
    if (status != LK_OK) {
        free(v);
        return status;
    }
    *characters = character;
    *vocabulary = v;
    *size = (int64_t)d.dim[0];
    return LK_OK;
}
