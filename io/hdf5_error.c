/* What HDF5 says when it fails, as one line: whether the system refused, or the content is bad. */
#include "io/hdf5_driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* HDF5 shuts itself down in MPI_Finalize() if MPI was started first, and at exit if not. Either
 * crashes on a file that a full disk kept from being closed (1.10.8), in place of the exit code
 * that is due. Files are closed by then, so neither is needed. */
__attribute__((constructor)) static void start_without_shutdown(void)
{
    H5dont_atexit();
    H5open();
    H5PLset_loading_state(0); /* no file makes this process load a filter that it names */
}

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
    if (lk_h5_driver_error() != 0) return lk_h5_driver_fail("%s", message);
    for (char *c = cause; *c; c++)
        if (*c == '\n') *c = ' ';
    char *system = strstr(cause, "error message = '"), *end; /* among addresses and flags */
    if (system) {
        system += strlen("error message = '");
        end = strchr(system, '\'');
        if (end) *end = '\0';
    }
    return lk_fail(code, "%s%s%s%s", message, cause[0] ? ": " : "", system ? system : cause,
                   code == LK_E_INPUT ? "; the file is damaged, make or copy it again" : "");
}

htri_t lk_h5_sure(htri_t answer)
{
    return answer == 0 && lk_h5_driver_error() != 0 ? -1 : answer;
}
