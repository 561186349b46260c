/* Text to tokens and back. A vocabulary is a sorted list of code points; a token is an index. */
#include "base/utf8.h"
#include "io/dataset.h"

#include <stdlib.h>
#include <string.h>

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
