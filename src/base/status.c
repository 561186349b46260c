#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[2048];

lk_status lk_fail(lk_status code, const char *format, ...)
{
    if (text[0] == '\0') {
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
    }
    return code;
}

lk_status lk_fail_prefix(lk_status code, const char *format, ...)
{
    char whole[sizeof text];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(whole, sizeof whole, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof whole) return code;
    snprintf(whole + n, sizeof whole - (size_t)n, ": %s", text);
    memcpy(text, whole, sizeof text);
    return code;
}

const char *lk_error_text(void) { return text; }

void lk_error_clear(void) { text[0] = '\0'; }
