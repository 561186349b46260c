/* Files that are written: created, closed or abandoned; how their datasets are to be. */
#include "base/replace.h"
#include "io/hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static lk_status write_access(const char *path, MPI_Comm comm, hid_t *list)
{
    LK_H5_AUTO hid_t fapl = -1;
    LK_H5(LK_E_SYSTEM, fapl = H5Pcreate(H5P_FILE_ACCESS), "%s: access list", path);
    LK_H5(LK_E_SYSTEM, H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG), "%s: access list", path);
    if (comm != MPI_COMM_NULL)
        LK_H5(LK_E_SYSTEM, H5Pset_fapl_mpio(fapl, comm, MPI_INFO_NULL), "%s: MPI-IO", path);
    else /* files are renamed when whole, never changed; some file systems have no locks */
        LK_H5(LK_E_SYSTEM, H5Pset_file_locking(fapl, false, true), "%s: access list", path);
    LK_H5(LK_E_SYSTEM, H5Pset_libver_bounds(fapl, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST),
          "%s: format version", path);
    *list = fapl;
    fapl = -1;
    return LK_OK;
}

static lk_status create(const char *path, hid_t access, hid_t *id)
{
    LK_H5(LK_E_SYSTEM, *id = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access),
          "%s: cannot create the file", path);
    return LK_OK;
}

lk_status lk_h5_create(const char *path, MPI_Comm comm, lk_schema schema, hid_t *file)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    LK_H5_AUTO hid_t fapl = -1, id = -1;
    LK_TRY(write_access(path, comm, &fapl));
    lk_status made = create(path, fapl, &id);
    if (made != LK_OK) /* MPI tells a full disk as an internal error */
        return lk_fail_suffix(made, "; see that the disk is not full: its space, its number of "
                              "files, your quota");
    LK_TRY(lk_h5_set_schema(id, path, schema));
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

/* A full disk is to have room again for what HDF5 will flush, unless others have taken it. */
static bool make_room(const char *path)
{
    enum { MORE = 1 << 20 };
    struct stat s;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && fstat(fd, &s) == 0 && ftruncate(fd, 0) == 0 &&
                (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, s.st_size + MORE) == 0 ||
                 errno == EOPNOTSUPP || errno == ENOSYS);
    if (fd >= 0) close(fd);
    return good;
}

void lk_h5_abandon(const char *path, MPI_Comm comm, hid_t *file)
{
    hid_t id = *file;
    int rank = 0;
    *file = -1;
    if (id < 0) return;
    if (comm != MPI_COMM_NULL) MPI_Comm_rank(comm, &rank);
    bool room = rank > 0 || make_room(path);
    bool good = lk_h5_agree(comm, room ? LK_OK : LK_E_SYSTEM) == LK_OK;
    if (good) good = H5Fflush(id, H5F_SCOPE_LOCAL) >= 0;
    if (lk_h5_agree(comm, good ? LK_OK : LK_E_SYSTEM) == LK_OK) H5Fclose(id);
    H5Eclear2(H5E_DEFAULT);
}

typedef struct replacing {
    const char *path;
    char *part;
    lk_schema schema;
    lk_status (*write)(hid_t file, const char *where, const void *context);
    const void *context;
    hid_t file;
} replacing;

static lk_status replace(replacing *r)
{
    LK_TRY(lk_h5_create(r->part, MPI_COMM_NULL, r->schema, &r->file));
    LK_TRY(r->write(r->file, r->part, r->context));
    LK_TRY(lk_h5_close(r->part, &r->file));
    return lk_replace_publish(r->part, r->path);
}

static lk_status replace_job(void *argument)
{
    replacing *r = argument;
    lk_status status = replace(r);
    lk_h5_abandon(r->part, MPI_COMM_NULL, &r->file);
    if (status != LK_OK) unlink(r->part);
    return status;
}

lk_status lk_h5_replace(lk_io *io, const char *path, lk_schema schema,
                        lk_status (*write)(hid_t file, const char *where, const void *context),
                        const void *context)
{
    replacing r = {path, NULL, schema, write, context, -1};
    LK_TRY(lk_replace_part(path, &r.part));
    lk_status status = lk_io_call(io, replace_job, &r);
    free(r.part);
    return status;
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* A creation list. */
static lk_status chunked(int dims, const hsize_t *dim, hsize_t rows, hid_t *dcpl)
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

lk_status lk_h5_dataset_create(hid_t file, const char *where, const char *path, lk_h5_type type,
                               int dims, const hsize_t *dim, hsize_t rows, hid_t *dataset)
{
    LK_H5_AUTO hid_t space = -1, links = -1, dcpl = -1;
    LK_TRY(chunked(dims, dim, rows, &dcpl));
    LK_H5(LK_E_SYSTEM, space = H5Screate_simple(dims, dim, NULL), "%s: '%s'", where, path);
    LK_H5(LK_E_SYSTEM, links = H5Pcreate(H5P_LINK_CREATE), "%s: '%s'", where, path);
    LK_H5(LK_E_SYSTEM, H5Pset_create_intermediate_group(links, 1), "%s: '%s'", where, path);
    LK_H5(LK_E_SYSTEM, *dataset = H5Dcreate2(file, path, lk_h5_type_id(type), space, links, dcpl,
                                             H5P_DEFAULT),
          "%s: cannot create '%s'", where, path);
    return LK_OK;
}

lk_status lk_h5_dataset_write(hid_t file, const char *where, const char *path, lk_h5_type type,
                              int dims, const hsize_t *dim, hsize_t rows, const void *data,
                              hid_t *dataset)
{
    LK_TRY(lk_h5_dataset_create(file, where, path, type, dims, dim, rows, dataset));
    LK_H5(LK_E_SYSTEM,
          H5Dwrite(*dataset, lk_h5_type_id(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
          "%s: cannot write '%s'", where, path);
    return LK_OK;
}
