/* Test Anything Protocol, in the few functions the tests need. */
#ifndef LK_TESTS_TAP_H
#define LK_TESTS_TAP_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>

static int tap_count, tap_failures;
static bool tap_quiet; /* ranks other than 0 check, but do not print */

__attribute__((format(printf, 2, 3))) static inline bool tap_ok(bool good, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    tap_count++;
    if (!good) tap_failures++;
    if (!tap_quiet) {
        printf("%sok %d - ", good ? "" : "not ", tap_count);
        vprintf(format, args);
        printf("\n");
        fflush(stdout);
    }
    va_end(args);
    return good;
}

/* A disk with room for so many bytes of a file; RLIM_INFINITY: for all. (The error is EFBIG.)
 * Nothing can be printed into a file meanwhile. */
static inline bool tap_room(rlim_t bytes)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    return setrlimit(RLIMIT_FSIZE, &limit) == 0;
}

/* The exit status of main(). */
static inline int tap_done(void)
{
    if (!tap_quiet) printf("1..%d\n", tap_count);
    return tap_failures > 0;
}

#endif
