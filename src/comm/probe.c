#include "comm/probe.h"

#include "base/clock.h"

#include <dlfcn.h>
#include <link.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif

/* ---- what is loaded -------------------------------------------------------------------------- */

static void path_of(void *symbol, char *path, size_t size)
{
    Dl_info info;
    char *full = NULL;
    snprintf(path, size, "?");
    if (!dladdr(symbol, &info) || !info.dli_fname) return;
    full = realpath(info.dli_fname, NULL);
    snprintf(path, size, "%s", full ? full : info.dli_fname);
    free(full);
}

typedef struct search {
    int found;
    char others[1024];
} search;

/* A second MPI comes in with a library that was built with another one: its types are not ours. */
static int look(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    search *s = context;
    const char *slash = strrchr(info->dlpi_name, '/'), *name = slash ? slash + 1 : info->dlpi_name;
    if (strncmp(name, "libmpi.so", 9) != 0 && strncmp(name, "libmpich.so", 11) != 0) return 0;
    size_t used = strlen(s->others);
    snprintf(s->others + used, sizeof s->others - used, "%s%s", used ? " " : "", info->dlpi_name);
    s->found++;
    return 0;
}

static const char *level_name(int level)
{
    return level == MPI_THREAD_MULTIPLE     ? "multiple"
           : level == MPI_THREAD_SERIALIZED ? "serialized"
           : level == MPI_THREAD_FUNNELED   ? "funneled"
                                            : "single";
}

static json_t *cuda_aware(void)
{
#ifdef MPIX_CUDA_AWARE_SUPPORT
    return json_boolean(MPIX_Query_cuda_support());
#else
    return json_null();
#endif
}

const char *lk_comm_nccl_version(int code, char text[32])
{
    int major = code < 10000 ? code / 1000 : code / 10000;
    int minor = code < 10000 ? code % 1000 / 100 : code % 10000 / 100;
    snprintf(text, 32, "%d.%d.%d", major, minor, code % 100);
    return text;
}

static json_t *nccl_version(int code)
{
    char text[32];
    return code ? json_string(lk_comm_nccl_version(code, text)) : json_null();
}

/* "Open MPI v4.1.4". */
static void name_mpi(char text[MPI_MAX_LIBRARY_VERSION_STRING])
{
    int length = 0;
    text[0] = '\0';
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n")] = '\0'; /* what follows is the package's life */
}

void lk_comm_library(char *text, size_t size)
{
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING], nccl[48] = "";
    name_mpi(mpi);
#ifdef LK_HAVE_NCCL
    int loaded, header;
    char version[32];
    lk_nccl_versions(&loaded, &header);
    snprintf(nccl, sizeof nccl, ", NCCL %s", lk_comm_nccl_version(loaded, version));
#endif
    snprintf(text, size, "%s%s", mpi, nccl);
}

lk_status lk_comm_facts(json_t **facts)
{
    char library[MPI_MAX_LIBRARY_VERSION_STRING], version[64] = "", header[64] = "?";
    char path[1024], nccl_path[1024] = "";
    int level = MPI_THREAD_SINGLE, nccl = 0, nccl_header = 0;
    search s = {0};
    name_mpi(library);
    MPI_Query_thread(&level);
    const char *digit = library + strcspn(library, "0123456789");
    snprintf(version, sizeof version, "%.*s", (int)strspn(digit, "0123456789."), digit);
#ifdef OPEN_MPI
    snprintf(header, sizeof header, "%d.%d.%d", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION,
             OMPI_RELEASE_VERSION);
#endif
    path_of((void *)MPI_Init_thread, path, sizeof path);
    dl_iterate_phdr(look, &s);
#ifdef LK_HAVE_NCCL
    lk_nccl_versions(&nccl, &nccl_header);
    path_of(lk_nccl_symbol(), nccl_path, sizeof nccl_path);
#endif
    *facts = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:o, s:o, s:o, s:s}", "library",
                       library, "version", version, "header", header, "path", path, "loaded",
                       s.found, "libraries", s.others, "level", level_name(level), "cuda_aware",
                       cuda_aware(), "nccl", nccl_version(nccl), "nccl_header",
                       nccl_version(nccl_header), "nccl_path", nccl_path);
    return *facts ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for facts of MPI");
}

/* ---- gathering ------------------------------------------------------------------------------- */

void lk_comm_free_texts(char **all)
{
    if (all) free(all[0]);
    free(all);
}

/* Room on rank 0 for texts of these lengths, each with its end. */
static lk_status make_room(int ranks, const int *length, int *start, char ***all)
{
    size_t total = 0;
    for (int r = 0; r < ranks; r++) total += (size_t)length[r];
    char **text = calloc((size_t)ranks, sizeof *text);
    char *bytes = total < INT32_MAX ? malloc(total) : NULL;
    if (!text || !bytes) {
        free(text);
        free(bytes);
        return lk_fail(LK_E_SYSTEM, "out of memory for %zu bytes from all ranks", total);
    }
    for (int r = 0, at = 0; r < ranks; at += length[r++]) {
        start[r] = at;
        text[r] = bytes + at;
    }
    *all = text;
    return LK_OK;
}

static lk_status gather(lk_comm *c, const char *mine, int *length, int *start, char ***all)
{
    int n = (int)strlen(mine) + 1;
    char **text = NULL;
    LK_MPI(MPI_Gather(&n, 1, MPI_INT, length, 1, MPI_INT, 0, c->world));
    lk_status status = c->rank == 0 ? make_room(c->size, length, start, &text) : LK_OK;
    LK_TRY(lk_comm_agree(c, status));
    if (MPI_Gatherv(mine, n, MPI_CHAR, text ? text[0] : NULL, length, start, MPI_CHAR, 0,
                    c->world) != MPI_SUCCESS) {
        lk_comm_free_texts(text);
        return lk_fail(LK_E_COMM, "MPI_Gatherv failed");
    }
    *all = text;
    return LK_OK;
}

lk_status lk_comm_gather_texts(lk_comm *c, const char *mine, char ***all)
{
    int *number = calloc(2 * (size_t)c->size, sizeof *number);
    lk_status status = number ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    status = lk_comm_agree(c, status);
    if (status == LK_OK) status = gather(c, mine, number, number + c->size, all);
    free(number);
    return status;
}

lk_status lk_comm_all(lk_comm *c, bool mine, bool *all)
{
    int good = mine;
    LK_MPI(MPI_Allreduce(MPI_IN_PLACE, &good, 1, MPI_INT, MPI_MIN, c->world));
    *all = good;
    return LK_OK;
}

/* ---- speed ----------------------------------------------------------------------------------- */

enum { MOST = 50, WARMUP = 2 };

static lk_status once(lk_comm *c, lk_device *d, float *buffer, int64_t count, bool exact,
                      double *seconds)
{
    LK_MPI(MPI_Barrier(c->world));
    double begin = lk_clock_seconds();
    lk_status status = lk_reduce(c, d, buffer, count, exact);
    if (status == LK_OK) status = d->backend->sync(d);
    /* as slow as its slowest rank; one that failed takes for ever, and so all know */
    *seconds = status == LK_OK ? lk_clock_seconds() - begin : INFINITY;
    LK_MPI(MPI_Allreduce(MPI_IN_PLACE, seconds, 1, MPI_DOUBLE, MPI_MAX, c->world));
    if (status == LK_OK && isinf(*seconds))
        return lk_fail(LK_E_COMM, "an all-reduce failed on another rank");
    return status;
}

lk_status lk_comm_time_reduce(lk_comm *c, lk_device *d, float *buffer, int64_t count, bool exact,
                              double budget, double *seconds)
{
    double least = 1e30, one, spent = 0; /* the same on all ranks, so that all stop together */
    for (int i = 0; i < MOST && (i <= WARMUP || spent < budget); i++) {
        LK_TRY(once(c, d, buffer, count, exact, &one));
        spent += one;
        if ((i >= WARMUP || spent > budget) && one < least) least = one;
    }
    *seconds = least;
    return LK_OK;
}
