/* The versions: what lockstep needs, and what is recommended for long runs. */
#include "doctor/exam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *least, *recommended, *why;
} versions[] = {
    /* least: what configure asks for. recommended: the oldest that the project is tested with. */
    {"Open MPI", "4.0.0", "4.1.4", "older ones lose messages of several threads now and then"},
    {"HDF5", "1.10.8", "1.10.8", "older ones read damaged files unsafely"},
    {"oneDNN", "2.6.0", "2.6.3", "older ones have slower products on recent CPUs"},
    {"driver", "525.60.13", "550.54.14", "525 runs CUDA 12, 550 CUDA 12.4"},
    {"CUDA", "12.0", "12.4", "older ones lack faults mended in captured graphs"},
    {"cuBLASLt", "12.0.0", "12.4.0", "it comes with CUDA"},
    {"NCCL", "2.8.0", "2.19.3", "older ones hang now and then when captured in graphs"},
    {"Linux", "4.18", "5.4", "older ones have no control groups of version 2"},
};

int lk_version_compare(const char *a, const char *b)
{
    while (*a || *b) {
        char *end_a = (char *)a, *end_b = (char *)b;
        long x = *a ? strtol(a, &end_a, 10) : 0, y = *b ? strtol(b, &end_b, 10) : 0;
        if (x != y) return x < y ? -1 : 1;
        if (end_a == a && end_b == b) return 0; /* what follows is no number: "5.10-amd64" */
        a = *end_a == '.' ? end_a + 1 : "";
        b = *end_b == '.' ? end_b + 1 : "";
    }
    return 0;
}

void lk_find_version(lk_exam *e, const char *name, const char *version, const char *detail)
{
    size_t i = 0;
    while (strcmp(versions[i].name, name) != 0) i++; /* a name of the table */
    lk_find(e, name, LK_FIT, "%s%s%s", version[0] ? version : "of unknown version",
            detail[0] ? ", " : "", detail);
    if (!version[0]) {
        lk_advise(e, LK_WARNING, "at least %s is needed", versions[i].least);
    } else if (lk_version_compare(version, versions[i].least) < 0) {
        lk_advise(e, LK_UNFIT, "at least %s is needed (%s): install or load a newer one",
                  versions[i].least, versions[i].why);
    } else if (lk_exam_prod(e) && lk_version_compare(version, versions[i].recommended) < 0) {
        lk_advise(e, LK_WARNING, "%s or newer is recommended (%s)", versions[i].recommended,
                  versions[i].why);
    }
}
