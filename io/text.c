/* Text to tokens and back. A vocabulary is a sorted list of code points; a token is an index. */
#include "io/dataset.h"
#include "io/utf8.h"

#include <stdlib.h>
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

lk_status lk_text_decode(const uint32_t *vocabulary, int64_t size, bool characters,
                         const int32_t *tokens, int64_t count, char **text)
{
    unsigned char *out = malloc((size_t)count * (characters ? 4 : 1) + 1), *p = out;
    if (!out) return lk_fail(LK_E_SYSTEM, "out of memory for a text of %lld tokens",
                             (long long)count);
    for (int64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= size) {
            free(out);
            return lk_fail(LK_E_INPUT,
                           "token %d at %lld is not in the vocabulary of %lld; the "
                           "file is damaged",
                           tokens[i], (long long)i, (long long)size);
        }
        uint32_t u = vocabulary[tokens[i]];
        if (characters)
            p += lk_utf8_encode(u, p);
        else
            *p++ = (unsigned char)u;
    }
    *p = '\0';
    *text = (char *)out;
    return LK_OK;
}

static int64_t find(const uint32_t *vocabulary, int64_t size, uint32_t code)
{
    int64_t low = 0, high = size;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (vocabulary[middle] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < size && vocabulary[low] == code ? low : -1;
}

lk_status lk_text_encode(const uint32_t *vocabulary, int64_t size, bool characters,
                         const char *text, int32_t **tokens, int64_t *count)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t n = strlen(text), at = 0;
    int64_t filled = 0;
    int32_t *out = malloc((n + 1) * sizeof *out);
    lk_status status = out ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for %zu tokens", n);
    while (at < n && status == LK_OK) {
        uint32_t code = p[at];
        int length = characters ? lk_utf8_decode(p + at, n - at, &code) : 1;
        int64_t token = length > 0 ? find(vocabulary, size, code) : -1;
        if (length <= 0)
            status = lk_fail(LK_E_INPUT, "the text is not UTF-8 at byte %zu; convert it", at);
        else if (token < 0)
            status = lk_fail(LK_E_INPUT,
                             "the character '%.*s' (U+%04X) at byte %zu of the text is "
                             "not in the vocabulary; use those of the training text ('lockstep "
                             "show' lists them)",
                             length, text + at, code, at);
        else
            out[filled++] = (int32_t)token;
        if (status == LK_OK) at += (size_t)length;
    }
    if (status != LK_OK) {
        free(out);
        return status;
    }
    *tokens = out;
    *count = filled;
    return LK_OK;
}
