/* UTF-8 (RFC 3629) one character at a time, and what of a text that comes from elsewhere may be
 * shown: a terminal gets no control characters, JSON and pages nothing but UTF-8. */
#ifndef LK_BASE_UTF8_H
#define LK_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Bytes of the character at p (n bytes there, n > 0); its code point in *code. 0: cut off by the
 * end, -1: invalid (overlong, surrogate, beyond U+10FFFF, stray byte). */
int lk_utf8_decode(const unsigned char *p, size_t n, uint32_t *code);
/* A whole text. */
bool lk_utf8_valid(const char *text);
/* Write the character into out (at most 4 bytes), return their number. */
int lk_utf8_encode(uint32_t code, unsigned char *out);

/* ---- plain: '?' for each control character (C0, DEL, C1) and each byte that is no UTF-8 ------ */

/* Make the text so where it lies; a character that its end cuts off is left out. */
void lk_plain(char *text);
/* Write the first character of a text that is not empty; the bytes it had. */
int lk_plain_put(FILE *out, const char *text);
/* Write a column of a table: `width` characters, cut or filled up with spaces. */
void lk_plain_column(FILE *out, const char *text, int width);
/* Characters of the text, for that. */
int lk_plain_width(const char *text);

#endif
