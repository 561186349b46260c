/* Private to src/doctor/: what a check sees and says. */
#ifndef LK_DOCTOR_EXAM_H
#define LK_DOCTOR_EXAM_H

#include "doctor/doctor.h"

typedef struct lk_exam lk_exam;

/* Who a check is asked about. Its findings of equal words become one. */
typedef enum lk_scope {
    LK_EACH_RANK,
    LK_EACH_HOST, /* `rank` is the first one there */
    LK_WHOLE_JOB  /* `rank` is 0 */
} lk_scope;

typedef struct lk_check {
    const char *section;
    lk_scope scope;
    bool same; /* a value that differs between ranks or hosts is worth a warning */
    void (*judge)(lk_exam *e, int rank);
} lk_check;
extern const lk_check lk_checks[]; /* ends with a NULL section; checks.c */

int lk_exam_ranks(const lk_exam *e);
int lk_exam_hosts(const lk_exam *e);
bool lk_exam_prod(const lk_exam *e);
bool lk_exam_same_host(const lk_exam *e, int rank, int other);
int lk_exam_host_ranks(const lk_exam *e, int rank); /* on the host of this rank */

/* A fact of a rank by its path, "mpi.version". Absent or of another type: NULL, "", NAN, false. */
const json_t *lk_fact(const lk_exam *e, int rank, const char *path);
const char *lk_fact_text(const lk_exam *e, int rank, const char *path);
double lk_fact_number(const lk_exam *e, int rank, const char *path);
bool lk_fact_true(const lk_exam *e, int rank, const char *path);
/* The same of any object. */
const json_t *lk_part(const json_t *of, const char *path);
const char *lk_part_text(const json_t *of, const char *path);
double lk_part_number(const json_t *of, const char *path);
bool lk_part_true(const json_t *of, const char *path);

/* Say a finding about who is being asked about; `value` is a printf format. Then, if there is
 * something to do, what: the worse verdict of the two calls holds. */
void lk_find(lk_exam *e, const char *name, lk_verdict verdict, const char *value, ...)
    __attribute__((format(printf, 4, 5)));
void lk_advise(lk_exam *e, lk_verdict verdict, const char *advice, ...)
    __attribute__((format(printf, 3, 4)));

/* "1.5 GiB", "12.3 GB/s"; the text is one of several in turn, for one printf. */
const char *lk_size(double bytes);
const char *lk_rate(double bytes_per_second);

/* -1, 0 or 1: versions compared number by number, "1.10.8" < "1.12". */
int lk_version_compare(const char *a, const char *b);

/* Say a library's version against the least and recommended ones (versions.c); `detail` is added
 * to the value. */
void lk_find_version(lk_exam *e, const char *name, const char *version, const char *detail);

/* ---- checks, by file ------------------------------------------------------------------------- */

void lk_check_program(lk_exam *e, int rank); /* check_host.c */
void lk_check_system(lk_exam *e, int rank);
void lk_check_cores(lk_exam *e, int rank);
void lk_check_binding(lk_exam *e, int rank);
void lk_check_threads(lk_exam *e, int rank);
void lk_check_memory(lk_exam *e, int rank);
void lk_check_shared_memory(lk_exam *e, int rank);
void lk_check_memlock(lk_exam *e, int rank);
void lk_check_files(lk_exam *e, int rank);
void lk_check_network(lk_exam *e, int rank);

void lk_check_launch(lk_exam *e, int rank); /* check_library.c */
void lk_check_mpi(lk_exam *e, int rank);
void lk_check_mpi_threads(lk_exam *e, int rank);
void lk_check_cuda_aware(lk_exam *e, int rank);
void lk_check_hdf5(lk_exam *e, int rank);
void lk_check_filters(lk_exam *e, int rank);
void lk_check_onednn(lk_exam *e, int rank);

void lk_check_driver(lk_exam *e, int rank); /* check_gpu.c */
void lk_check_cuda(lk_exam *e, int rank);
void lk_check_gpus(lk_exam *e, int rank);
void lk_check_gpu_health(lk_exam *e, int rank);
void lk_check_gpu_share(lk_exam *e, int rank);
void lk_check_clocks(lk_exam *e, int rank);

void lk_check_placement(lk_exam *e, int rank); /* check_place.c */
void lk_check_links(lk_exam *e, int rank);
void lk_check_gpu_nics(lk_exam *e, int rank);

void lk_check_host_link(lk_exam *e, int rank); /* check_speed.c */
void lk_check_reduce(lk_exam *e, int rank);
void lk_check_choice(lk_exam *e, int rank);
void lk_check_directory(lk_exam *e, int rank);
void lk_check_shared(lk_exam *e, int rank);

void lk_check_environment(lk_exam *e, int rank); /* check_environment.c */

#endif
