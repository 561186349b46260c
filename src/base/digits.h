/* Numbers for people. */
#ifndef LK_BASE_DIGITS_H
#define LK_BASE_DIGITS_H

#include <stdint.h>
#include <stdio.h>

/* 1,234,567. Returns `text`. */
static inline const char *lk_digits(int64_t value, char text[32])
{
    char plain[24];
    int n = snprintf(plain, sizeof plain, "%lld", (long long)value), k = 0;
    for (int i = 0; i < n; i++) {
        if (i > (value < 0) && (n - i) % 3 == 0) text[k++] = ',';
        text[k++] = plain[i];
    }
    text[k] = '\0';
    return text;
}

#endif
