/* lockstep doctor: is this machine fit to train on?
 *
 * Every rank gathers facts, JSON objects without judgement (lk_doctor_examine); rank 0 judges them
 * by a table of checks (lk_doctor_judge), a pure function, so that recorded facts can be judged
 * again elsewhere. doc/doctor.md describes what is looked at. */
#ifndef LK_DOCTOR_DOCTOR_H
#define LK_DOCTOR_DOCTOR_H

#include "comm/comm.h"
#include "io/io.h"

#include <jansson.h>
#include <stdio.h>

typedef enum lk_verdict { LK_FIT = 0, LK_WARNING = 1, LK_UNFIT = 2 } lk_verdict; /* exit codes */
extern const char *const lk_verdict_name[]; /* "ok", "warning", "error" */

typedef enum lk_profile { LK_PROFILE_DEV, LK_PROFILE_PROD } lk_profile;

typedef struct lk_doctor_options {
    const char *version, *code, *build; /* of the program */
    char **environment;                 /* NAME=VALUE, ends with NULL */
    const char *directory;              /* where files are written; NULL: nowhere */
    bool measure;                       /* bandwidths, some seconds */
    const char *root;                   /* before /proc and /sys: "" but in tests */
    /* Set NCCL_ALGO for communicators made from now on, NULL: unset it; NULL: not to be changed. */
    bool (*choose)(const char *algorithm);
    _Atomic(const char *) *stage; /* set to what is being done, in words that stay; or NULL */
} lk_doctor_options;

/* Facts of all ranks, {"lockstep": {"facts": 1}, "ranks": [...]}, on rank 0; NULL on the others.
 * What cannot be found out or measured is a fact too, no failure. Collective; status agreed. */
lk_status lk_doctor_examine(lk_comm *comm, lk_io *io, const lk_doctor_options *options,
                            json_t **facts);

/* The facts of this process alone, without MPI, which does not start: `mpi_error` says why. Judged
 * as those of one rank. */
lk_status lk_doctor_examine_alone(const char *mpi_error, const lk_doctor_options *options,
                                  json_t **facts);
/* What a setting, as in "NAME=VALUE" of `environment`, does to MPI if it is known to keep it from
 * starting; NULL: none is. */
const char *lk_doctor_fatal_setting(char **environment);

typedef struct lk_finding {
    const char *section;
    char name[48], value[400];
    char advice[600]; /* "" when there is nothing to do */
    char where[160];  /* "" for all ranks, else the hosts or ranks */
    lk_verdict verdict;
    bool differs; /* hosts or ranks differ where they must not */
} lk_finding;

typedef struct lk_diagnosis {
    lk_profile profile;
    int ranks, hosts, count, room;
    lk_finding *finding; /* [count], in the order of the table */
    int warnings, errors;
    lk_verdict verdict; /* the worst */
} lk_diagnosis;

/* Judge facts, which may come from a file: LK_E_INPUT when they are none. The caller clears the
 * report. */
lk_status lk_doctor_judge(const json_t *facts, lk_profile profile, lk_diagnosis *report);
void lk_diagnosis_clear(lk_diagnosis *r);

/* A table for people of at most `width` columns; `color`: with terminal colors. print.c */
void lk_diagnosis_print(const lk_diagnosis *r, const json_t *facts, int width, bool color,
                        FILE *out);
/* {"lockstep", "verdict", "profile", "findings", "ranks"}: lk_doctor_judge() takes it again. */
lk_status lk_diagnosis_json(const lk_diagnosis *r, const json_t *facts, char **text);

/* JSON as text, to free(); NULL: out of memory. */
char *lk_json_text(const json_t *x, size_t flags);

#endif
