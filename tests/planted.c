/* Faults planted in the libraries below, for tests of lockstep doctor and trace: put before them
 * with LD_PRELOAD. Each is a variable; PLANT_RANK: on this rank alone.
 *
 *   PLANT_HDF5=1.14.3     the HDF5 library is another one than lockstep was compiled with
 *   PLANT_FILTERS=1       and has no filters
 *   PLANT_THREADS=1       MPI gives a lower thread level
 *   PLANT_HOSTS=1         every rank is on a host of its own, "node0", "node1" ...
 *   PLANT_UNSHARED=1      files of other hosts are not seen
 *   PLANT_HANG=1          fsync() does not come back
 *   PLANT_SLOW=2000       a matrix product on the CPU takes so many microseconds longer */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mpi.h>

static const char *planted(const char *name)
{
    const char *value = getenv(name), *rank = getenv("PLANT_RANK");
    const char *mine = getenv("OMPI_COMM_WORLD_RANK");
    return rank && mine && strcmp(rank, mine) != 0 ? NULL : value;
}

int H5get_libversion(unsigned *major, unsigned *minor, unsigned *release)
{
    const char *version = planted("PLANT_HDF5");
    int (*real)(unsigned *, unsigned *, unsigned *) =
        (int (*)(unsigned *, unsigned *, unsigned *))dlsym(RTLD_NEXT, "H5get_libversion");
    if (!version) return real(major, minor, release);
    return sscanf(version, "%u.%u.%u", major, minor, release) == 3 ? 0 : -1;
}

int H5Zfilter_avail(int id)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "H5Zfilter_avail");
    return planted("PLANT_FILTERS") ? 0 : real(id);
}

static bool started;

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    int code = PMPI_Init_thread(argc, argv, required, provided);
    if (planted("PLANT_THREADS")) *provided = MPI_THREAD_FUNNELED;
    started = true; /* Open MPI itself needs the host's true name */
    return code;
}

int MPI_Query_thread(int *provided)
{
    int code = PMPI_Query_thread(provided);
    if (planted("PLANT_THREADS")) *provided = MPI_THREAD_FUNNELED;
    return code;
}

int gethostname(char *name, size_t size)
{
    int (*real)(char *, size_t) = (int (*)(char *, size_t))dlsym(RTLD_NEXT, "gethostname");
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!started || !rank || !getenv("PLANT_HOSTS")) return real(name, size);
    snprintf(name, size, "node%s", rank);
    return 0;
}

int access(const char *path, int mode)
{
    int (*real)(const char *, int) = (int (*)(const char *, int))dlsym(RTLD_NEXT, "access");
    if (!strstr(path, ".lockstep-doctor-") || !planted("PLANT_UNSHARED")) return real(path, mode);
    errno = ENOENT;
    return -1;
}

int fsync(int file)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    while (planted("PLANT_HANG")) pause();
    return real(file);
}

typedef int sgemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

int dnnl_sgemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
               int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    static sgemm *real;
    const char *longer = planted("PLANT_SLOW");
    if (!real) real = (sgemm *)dlsym(RTLD_NEXT, "dnnl_sgemm");
    if (longer) usleep((useconds_t)atoi(longer));
    return real(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
