/* Numbers for people. */
#ifndef LK_BASE_DIGITS_H
#define LK_BASE_DIGITS_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

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

/* 2:05 or 1:02:03; what is no number from 0 is 0:00. Returns `text`. */
static inline const char *lk_digits_duration(double seconds, char text[32])
{
    long long s = seconds >= 0 && seconds < 0x1p62 ? (long long)(seconds + 0.5) : 0;
    if (s >= 3600) snprintf(text, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else snprintf(text, 32, "%lld:%02lld", s / 60, s % 60);
    return text;
}

/* Four digits, or all before the point: without an exponent. Returns `text`. */
static inline const char *lk_digits_rate(double rate, char text[32])
{
    if (rate >= 9999.5 && rate < 1e20) snprintf(text, 32, "%.0f", rate);
    else snprintf(text, 32, "%.4g", rate);
    return text;
}

/* "[====>     ]  42%", `size` characters between the brackets; none where the total, 0, is not
 * known. Returns `text`, with room for size + 8. */
static inline const char *lk_digits_bar(int64_t done, int64_t total, int size, char *text)
{
    double all = total > 0 ? (double)total : 1, part = (double)(done < total ? done : total);
    if (!(part > 0)) part = 0;
    int filled = (int)(part * size / all), percent = (int)(100 * part / all);
    memset(text, '=', (size_t)size + 1);
    memset(text + 1 + filled, ' ', (size_t)(size - filled));
    if (filled < size) text[1 + filled] = '>';
    text[0] = '[';
    snprintf(text + 1 + size, 7, "] %3d%%", percent);
    return text;
}

#endif
