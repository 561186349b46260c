/* Status codes and the one error text of a thread.
 *
 * Every function that can fail returns lk_status and writes its outputs last, only on success.
 * The first function to notice an error records the text with lk_fail(); callers forward with
 * LK_TRY(). Nothing below src/cmd exits or prints. */
#ifndef LK_BASE_STATUS_H
#define LK_BASE_STATUS_H

typedef enum lk_status {
    LK_OK = 0,
    LK_E_INTERNAL = 1, /* a bug or a numerical failure of the run */
    LK_E_INPUT = 2,    /* bad input: run file, data, checkpoint, command line */
    LK_E_SYSTEM = 3,   /* operating system: memory, disk, threads */
    LK_E_DEVICE = 4,   /* CUDA, cuBLASLt, oneDNN */
    LK_E_COMM = 5,     /* MPI, NCCL, or another rank failed */
    LK_E_BUSY = 6,     /* another process works on the run: try again later */
    LK_E_REQUEUE = 75, /* no failure: stopped after a save by a signal or the time limit, to be
                          started again with --resume (EX_TEMPFAIL of sysexits.h) */
} lk_status;           /* these are also the exit codes of the program */

/* Record the text (printf format, no trailing newline) unless one is already recorded; return
 * `code`, so that one line suffices: return lk_fail(LK_E_INPUT, "%s: ...", path); */
lk_status lk_fail(lk_status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Put "format: " before the recorded text, to name where it happened. Returns `code`. */
lk_status lk_fail_prefix(lk_status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Put text after the recorded one: what to try next. Returns `code`. */
lk_status lk_fail_suffix(lk_status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* What an errno means to a file that the user named: LK_E_INPUT if it is the name's fault (no such
 * file, no permission, a directory), else LK_E_SYSTEM. That a file system is read-only may be
 * either; it is LK_E_SYSTEM, for a wrong place is met by somebody who reads the message, a disk
 * that failed by a run that nobody watches. */
lk_status lk_status_of_errno(int error);
/* After an open() or fopen() of it that set errno: the error of one or the other kind. */
lk_status lk_fail_open(const char *path);
/* What to try after the errno of a file that could not be made, written, renamed or removed: with
 * the room, the quota, the disk or the permissions; `otherwise` after any other. */
const char *lk_advice_of_errno(int error, const char *otherwise);

const char *lk_error_text(void); /* "" when none; valid until the next lk_ call of this thread */
void lk_error_clear(void);

#define LK_TRY(call)                                                                               \
    do {                                                                                           \
        lk_status lk_try_status_ = (call);                                                         \
        if (lk_try_status_ != LK_OK) return lk_try_status_;                                        \
    } while (0)

#endif
