/* Digests: XXH3-128 of bytes, as 32 hexadecimal digits (the text `xxhsum -H2` prints).
 *
 * They find damage and tell data sets apart; they are no protection against forgery. */
#ifndef LK_BASE_DIGEST_H
#define LK_BASE_DIGEST_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define LK_DIGEST_TEXT 33 /* bytes of the text with its NUL */

typedef struct lk_digest lk_digest;

lk_status lk_digest_create(lk_digest **digest);
void lk_digest_destroy(lk_digest *d); /* takes NULL */
void lk_digest_update(lk_digest *d, const void *bytes, size_t size);
/* Text of everything given so far; more may follow. */
void lk_digest_text(const lk_digest *d, char text[LK_DIGEST_TEXT]);

/* The same for bytes that lie in one piece. */
void lk_digest_bytes(const void *bytes, size_t size, char text[LK_DIGEST_TEXT]);

/* The same as two numbers, to compare many pieces with each other. */
typedef struct lk_hash {
    uint64_t high, low;
} lk_hash;
lk_hash lk_digest_hash(const void *bytes, size_t size);

/* XXH3-64 of one piece, as a number. */
uint64_t lk_digest_64(const void *bytes, size_t size);

#endif
