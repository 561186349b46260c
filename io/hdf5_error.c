/* What HDF5 says when it fails, as one line: whether the operating system refused, and then
 * perhaps only for a moment, or the content of the file is bad. */
#include "io/hdf5.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TRIES = 6, FIRST_PAUSE = 100 }; /* ms, then twice as long each time: 3.1 s in all */

/* HDF5 shuts itself down in MPI_Finalize() if MPI was started first, and at exit if not. Either
 * crashes on a file that a full disk kept from being closed (1.10.8), in place of the exit code
 * that is due. Files are closed by then, so neither is needed. */
__attribute__((constructor)) static void start_without_shutdown(void)
{
    H5dont_atexit();
    H5open();
    H5PLset_loading_state(0); /* no file makes this process load a filter that it names */
}

/* ---- trying again -------------------------------------------------------------------------- */

static _Thread_local char note[200];
static _Thread_local int tried; /* times, of what failed last */

const char *lk_h5_note(void) { return note; }
void lk_h5_forget_note(void) { note[0] = '\0'; }

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

bool lk_h5_pause(int error, int *tries)
{
    tried = *tries;
    if (!may_pass(error) || *tries == TRIES) return false;
    int pause = FIRST_PAUSE << (*tries - 1);
    nanosleep(&(struct timespec){pause / 1000, pause % 1000 * 1000000L}, NULL);
    ++*tries;
    snprintf(note, sizeof note, "read only at try %d (%.80s)", *tries, strerror(error));
    return true;
}

lk_status lk_h5_refused(int error, const char *format, ...)
{
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (tried == TRIES)
        return lk_fail(lk_status_of_errno(error), "%s: %s; tried %d times in 3 s", message,
                       strerror(error), TRIES);
    return lk_fail(lk_status_of_errno(error), "%s: %s", message, strerror(error));
}

/* ---- the error stack ----------------------------------------------------------------------- */

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *text)
{
    if (n == 0 && e->desc) snprintf(text, 512, "%s", e->desc);
    return 0;
}

/* The errno of the system call that made the last HDF5 call fail; 0: it was none. HDF5's drivers
 * tell it in the innermost record, behind the file's name: "... errno = 5, error message = ...". */
static int system_error(char cause[512])
{
    int error = 0;
    cause[0] = '\0';
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, cause);
    for (const char *at = strstr(cause, "errno = "); at; at = strstr(at + 1, "errno = "))
        error = atoi(at + strlen("errno = "));
    return error;
}

bool lk_h5_again(lk_status code, int *tries)
{
    char cause[512];
    if (code != LK_E_INPUT || !lk_h5_pause(system_error(cause), tries)) return false;
    H5Eclear2(H5E_DEFAULT);
    return true;
}

lk_status lk_h5_fail(lk_status code, const char *format, ...)
{
    char message[1024], cause[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    int error = system_error(cause);
    H5Eclear2(H5E_DEFAULT);
    if (error != 0) { /* of writing too: whatever the disk refuses is no bad input */
        if (code != LK_E_INPUT) tried = 1;
        lk_h5_refused(error, "%s", message);
        return LK_E_SYSTEM;
    }
    for (char *c = cause; *c; c++)
        if (*c == '\n') *c = ' ';
    return lk_fail(code, "%s%s%s%s", message, cause[0] ? ": " : "", cause,
                   code == LK_E_INPUT ? "; the file is damaged, make or copy it again" : "");
}
