/* Checks of MPI, HDF5 and oneDNN. */
#include "doctor/exam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- MPI ------------------------------------------------------------------------------------- */

/* Whether MPI did not start: then it and HDF5, which needs it, have no facts. */
static bool dead(const lk_exam *e, int rank) { return lk_fact_text(e, rank, "mpi.error")[0]; }

/* The number of processes that the launcher says it started, 0: no launcher, or not known. */
static int launched(const lk_exam *e, int rank, const char **launcher)
{
    static const struct {
        const char *variable, *name;
    } known[] = {{"environment.OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun"},
                 {"environment.SLURM_STEP_NUM_TASKS", "srun"},
                 {"environment.PMI_SIZE", "mpiexec of another MPI"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *text = lk_fact_text(e, rank, known[i].variable);
        *launcher = known[i].name;
        if (atoi(text) > 0) return atoi(text);
    }
    *launcher = NULL;
    return 0;
}

void lk_check_launch(lk_exam *e, int rank)
{
    const char *launcher;
    int ranks = lk_exam_ranks(e), hosts = lk_exam_hosts(e);
    int started = launched(e, rank, &launcher);
    if (dead(e, rank)) return;
    bool even = true;
    for (int r = 0; r < ranks; r++)
        even &= lk_exam_host_ranks(e, r) == lk_exam_host_ranks(e, 0);
    lk_find(e, "ranks", LK_FIT, "%d on %d host%s%s%s", ranks, hosts, hosts == 1 ? "" : "s",
            launcher ? ", started by " : ", started without a launcher", launcher ? launcher : "");
    if (started > ranks)
        lk_advise(e, LK_UNFIT, "%s started %d processes, but MPI joins %d: it is not the launcher "
                  "of this MPI; use this MPI's mpirun, or srun --mpi=pmix (srun --mpi=list)",
                  launcher, started, ranks);
    else if ((ranks & (ranks - 1)) != 0)
        lk_advise(e, LK_WARNING, "train takes a power of two ranks: start %d or %d",
                  1 << (31 - __builtin_clz((unsigned)ranks)),
                  2 << (31 - __builtin_clz((unsigned)ranks)));
    if (!even)
        lk_advise(e, LK_WARNING, "hosts have different numbers of ranks: all wait for the fullest");
}

void lk_check_mpi(lk_exam *e, int rank)
{
    const char *library = lk_fact_text(e, rank, "mpi.library");
    const char *version = lk_fact_text(e, rank, "mpi.version");
    const char *header = lk_fact_text(e, rank, "mpi.header");
    const char *path = lk_fact_text(e, rank, "mpi.path");
    if (dead(e, rank)) {
        lk_find(e, "MPI", LK_UNFIT, "does not start: %s", lk_fact_text(e, rank, "mpi.error"));
        lk_advise(e, LK_UNFIT, "try without the settings OMPI_MCA_* below, if there are any; "
                  "'ompi_info' lists what this Open MPI has");
        return;
    }
    if (strncmp(library, "Open MPI", 8) == 0) {
        lk_find_version(e, "Open MPI", version, path);
    } else {
        lk_find(e, "MPI", LK_UNFIT, "%s, %s", library, path);
        lk_advise(e, LK_UNFIT, "lockstep was compiled with Open MPI %s, whose types are others: "
                  "load that, or see LD_LIBRARY_PATH", header);
        return;
    }
    if (atoi(version) != atoi(header))
        lk_advise(e, LK_UNFIT, "lockstep was compiled with %s: load that version (LD_LIBRARY_PATH, "
                  "modules), or compile it again", header);
    if (lk_fact_number(e, rank, "mpi.loaded") > 1)
        lk_advise(e, LK_UNFIT, "several MPI libraries are in the process (%.300s): HDF5 was built "
                  "with another one; load the HDF5 that belongs to this MPI",
                  lk_fact_text(e, rank, "mpi.libraries"));
}

void lk_check_mpi_threads(lk_exam *e, int rank)
{
    const char *level = lk_fact_text(e, rank, "mpi.level");
    if (dead(e, rank)) return;
    lk_find(e, "MPI threads", LK_FIT, "%s", level);
    if (strcmp(level, "multiple") != 0)
        lk_advise(e, LK_UNFIT, "the I/O thread needs MPI_THREAD_MULTIPLE: use an Open MPI built "
                  "--enable-mpi-thread-multiple, and see OMPI_MCA_* below");
}

void lk_check_cuda_aware(lk_exam *e, int rank)
{
    const json_t *aware = lk_fact(e, rank, "mpi.cuda_aware");
    if (dead(e, rank)) return;
    lk_find(e, "MPI and CUDA", LK_FIT, "%s; not needed: GPU memory is sent by NCCL",
            json_is_true(aware)    ? "CUDA-aware"
            : json_is_false(aware) ? "not CUDA-aware"
                                   : "not known to be CUDA-aware");
}

/* ---- HDF5 ------------------------------------------------------------------------------------ */

void lk_check_hdf5(lk_exam *e, int rank)
{
    const char *version = lk_fact_text(e, rank, "hdf5.version");
    const char *header = lk_fact_text(e, rank, "hdf5.header");
    bool parallel = lk_fact_true(e, rank, "hdf5.parallel");
    char detail[300];
    if (dead(e, rank)) return;
    snprintf(detail, sizeof detail, "%sparallel, %.270s", parallel ? "" : "not ",
             lk_fact_text(e, rank, "hdf5.path"));
    lk_find_version(e, "HDF5", version, detail);
    if (lk_version_compare(version, header) != 0)
        lk_advise(e, LK_UNFIT, "lockstep was compiled with %s and HDF5 will end it at the first "
                  "file: load that library (LD_LIBRARY_PATH, LD_PRELOAD, modules), or compile "
                  "again", header);
    if (!parallel)
        lk_advise(e, LK_UNFIT, "ranks write files together: load an HDF5 built --enable-parallel "
                  "(Debian: libhdf5-openmpi-103)");
}

void lk_check_filters(lk_exam *e, int rank)
{
    bool fletcher = lk_fact_true(e, rank, "hdf5.fletcher32");
    bool deflate = lk_fact_true(e, rank, "hdf5.deflate");
    bool shuffle = lk_fact_true(e, rank, "hdf5.shuffle");
    if (dead(e, rank)) return;
    lk_find(e, "HDF5 filters", LK_FIT, "%s%s%s", fletcher ? "fletcher32 " : "",
            deflate ? "deflate " : "", shuffle ? "shuffle" : "");
    if (!fletcher)
        lk_advise(e, LK_UNFIT, "all data are written with the checksum fletcher32: use an HDF5 "
                  "built with it");
    if (!deflate || !shuffle)
        lk_advise(e, LK_WARNING, "compressed datasets of others cannot be read without deflate and "
                  "shuffle: use an HDF5 built with zlib");
}

/* ---- oneDNN ---------------------------------------------------------------------------------- */

void lk_check_onednn(lk_exam *e, int rank)
{
    const char *version = lk_fact_text(e, rank, "onednn.version");
    lk_find_version(e, "oneDNN", version, lk_fact_text(e, rank, "onednn.path"));
    if (atoi(version) != atoi(lk_fact_text(e, rank, "onednn.header")))
        lk_advise(e, LK_UNFIT, "lockstep was compiled with %s: load that version, or compile again",
                  lk_fact_text(e, rank, "onednn.header"));
}
