/* Digests through libxxhash; the text is its canonical (big-endian) form. */
#include "base/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

struct lk_digest {
    XXH3_state_t *state;
};

static void text_of(XXH128_hash_t hash, char text[LK_DIGEST_TEXT])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, hash);
    for (int i = 0; i < 16; i++) snprintf(text + 2 * i, 3, "%02x", c.digest[i]);
}

lk_status lk_digest_create(lk_digest **digest)
{
    lk_digest *d = malloc(sizeof *d);
    if (d) d->state = XXH3_createState();
    if (!d || !d->state || XXH3_128bits_reset(d->state) != XXH_OK) {
        lk_digest_destroy(d);
        return lk_fail(LK_E_SYSTEM, "out of memory for a digest");
    }
    *digest = d;
    return LK_OK;
}

void lk_digest_destroy(lk_digest *d)
{
    if (!d) return;
    XXH3_freeState(d->state);
    free(d);
}

void lk_digest_update(lk_digest *d, const void *bytes, size_t size)
{
    if (size > 0) XXH3_128bits_update(d->state, bytes, size);
}

void lk_digest_text(const lk_digest *d, char text[LK_DIGEST_TEXT])
{
    text_of(XXH3_128bits_digest(d->state), text);
}

void lk_digest_bytes(const void *bytes, size_t size, char text[LK_DIGEST_TEXT])
{
    text_of(XXH3_128bits(bytes, size), text);
}

lk_hash lk_digest_hash(const void *bytes, size_t size)
{
    XXH128_hash_t h = XXH3_128bits(bytes, size);
    return (lk_hash){h.high64, h.low64};
}

uint64_t lk_digest_64(const void *bytes, size_t size) { return XXH3_64bits(bytes, size); }
