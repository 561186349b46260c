#include "base/utf8.h"

#include <string.h>

int lk_utf8_decode(const unsigned char *p, size_t n, uint32_t *code)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char c = p[0];
    if (c < 0x80) {
        *code = c;
        return 1;
    }
    int length = c >= 0xC2 && c <= 0xDF ? 2 : c >= 0xE0 && c <= 0xEF ? 3
                 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
    if (length == 0) return -1;
    uint32_t u = c & (0xFFu >> (length + 1));
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n) return 0;
        if ((p[i] & 0xC0) != 0x80) return -1;
        u = u << 6 | (p[i] & 0x3Fu);
    }
    if (u < least[length] || u > 0x10FFFF || (u >= 0xD800 && u <= 0xDFFF)) return -1;
    *code = u;
    return length;
}

bool lk_utf8_valid(const char *text)
{
    size_t n = strlen(text);
    int step = 1;
    uint32_t code;
    for (size_t at = 0; at < n && step > 0; at += (size_t)step)
        if ((step = lk_utf8_decode((const unsigned char *)text + at, n - at, &code)) <= 0)
            return false;
    return true;
}

int lk_utf8_encode(uint32_t u, unsigned char *out)
{
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    int length = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, u >>= 6) out[i] = (unsigned char)(0x80 | (u & 0x3F));
    out[0] = (unsigned char)(lead[length] | u);
    return length;
}

/* ---- plain ----------------------------------------------------------------------------------- */

/* The bytes of the first character, and what is shown in its place. */
static int next(const char *text, uint32_t *code)
{
    int bytes = lk_utf8_decode((const unsigned char *)text, strnlen(text, 4), code);
    bool control = bytes > 0 && (*code < ' ' || (*code >= 0x7F && *code < 0xA0));
    if (bytes <= 0 || control) *code = '?';
    return bytes > 0 ? bytes : 1;
}

void lk_plain(char *text)
{
    char *out = text;
    uint32_t code;
    while (*text && lk_utf8_decode((const unsigned char *)text, strnlen(text, 4), &code) != 0) {
        text += next(text, &code);
        out += lk_utf8_encode(code, (unsigned char *)out);
    }
    *out = '\0';
}

int lk_plain_put(FILE *out, const char *text)
{
    uint32_t code;
    unsigned char shown[4];
    int bytes = next(text, &code);
    fwrite(shown, 1, (size_t)lk_utf8_encode(code, shown), out);
    return bytes;
}

void lk_plain_column(FILE *out, const char *text, int width)
{
    int n = 0;
    for (; *text && n < width; n++) text += lk_plain_put(out, text);
    fprintf(out, "%*s", width - n, "");
}

int lk_plain_width(const char *text)
{
    uint32_t code;
    int n = 0;
    for (; *text; n++) text += next(text, &code);
    return n;
}
