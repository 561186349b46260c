/* Test Anything Protocol, in the few functions the tests need. */
#ifndef LK_TESTS_TAP_H
#define LK_TESTS_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

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

/* The exit status of main(). */
static inline int tap_done(void)
{
    if (!tap_quiet) printf("1..%d\n", tap_count);
    return tap_failures > 0;
}

#endif
