/* Private: UTF-8 (RFC 3629) one character at a time. io/text.c */
#ifndef LK_IO_UTF8_H
#define LK_IO_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at p (n bytes there, n > 0); its code point in *code. 0: cut off by the
 * end, -1: invalid (overlong, surrogate, beyond U+10FFFF, stray byte). */
int lk_utf8_decode(const unsigned char *p, size_t n, uint32_t *code);
/* A whole text. */
bool lk_utf8_valid(const char *text);
/* Write the character into out (at most 4 bytes), return their number. */
int lk_utf8_encode(uint32_t code, unsigned char *out);

#endif
