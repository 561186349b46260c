#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[2048];

/* A message is one line, whatever the names and values in it hold. */
static void make_one_line(void)
{
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
}

lk_status lk_fail(lk_status code, const char *format, ...)
{
    if (text[0] == '\0') {
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        make_one_line();
    }
    return code;
}

lk_status lk_fail_prefix(lk_status code, const char *format, ...)
{
    char old[sizeof text];
    memcpy(old, text, sizeof text);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text - 3, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : strlen(text);
    text[used++] = ':';
    text[used++] = ' ';
    size_t rest = strnlen(old, sizeof text - used - 1);
    memcpy(text + used, old, rest);
    text[used + rest] = '\0';
    make_one_line();
    return code;
}

lk_status lk_fail_suffix(lk_status code, const char *format, ...)
{
    size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, sizeof text - used, format, args);
    va_end(args);
    make_one_line();
    return code;
}

lk_status lk_status_of_errno(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case EPERM:
    case ELOOP:
    case ENAMETOOLONG:
    case ENXIO: return LK_E_INPUT; /* the last: a socket */
    default: return LK_E_SYSTEM;
    }
}

lk_status lk_fail_open(const char *path)
{
    int error = errno;
    lk_status code = lk_status_of_errno(error);
    return lk_fail(code, "%s: cannot open: %s; check %s", path, strerror(error),
                   code == LK_E_INPUT ? "the path and its permissions" : "the disk it lies on");
}

const char *lk_advice_of_errno(int error, const char *otherwise)
{
    switch (error) {
    case ENOSPC: return "make room on the disk: its space, its number of files (df -i), your quota";
    case EDQUOT: return "make room within your quota on that disk, or have it raised";
    case EIO:
    case ENODEV:
    case ESTALE:
    case ETIMEDOUT: return "check the disk it lies on, or its server";
    case EROFS: return "check the disk it lies on, and whether it should be mounted read-only";
    case EACCES:
    case EPERM: return "check its permissions and those of its directory";
    default: return otherwise;
    }
}

const char *lk_error_text(void) { return text; }

void lk_error_clear(void) { text[0] = '\0'; }
