/* A mutator that knows HDF5. Three kinds of input come from it:
 *
 *   made      files that are valid, of odd structure (h5_make.c);
 *   damaged   files in the newest format, as lockstep writes them, in which bytes changed: what
 *             disks and networks do;
 *   forged    bytes changed and the checksums over them made right again, and changes in files of
 *             the oldest format, which has no checksums. Only with FUZZ_FORGED=yes: HDF5 1.10
 *             itself crashes on some of these (doc/faults.md), which ends the search for faults of
 *             lockstep's own. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

/* Bob Jenkins' lookup3 as HDF5 uses it: of the library itself, which exports it. */
uint32_t H5_checksum_metadata(const void *data, size_t size, uint32_t initial);

enum { SIGNATURE = 4, CHECK = 4, SHORT = 600, MOST = 64 };

/* A piece of metadata [at, at + size), its checksum behind it. */
typedef struct piece {
    size_t at, size;
} piece;

static bool sums_up(const uint8_t *p, size_t size)
{
    uint32_t sum;
    memcpy(&sum, p + size, CHECK);
    return sum == H5_checksum_metadata(p, size, 0);
}

/* Bytes of an object header (format specification, IV.A.1.b) before its checksum, 0: too many. */
static size_t header_size(const uint8_t *p, size_t room)
{
    if (room < 16 || p[4] != 2) return 0;
    size_t at = 6 + (p[5] & 0x20 ? 16 : 0) + (p[5] & 0x10 ? 4 : 0), width = (size_t)1 << (p[5] & 3);
    uint64_t size = 0;
    if (at + width > room) return 0;
    memcpy(&size, p + at, width);
    return size < room ? at + width + (size_t)size : 0;
}

static bool is_signature(const uint8_t *p)
{
    static const char known[] = "OHDR OCHK FRHP FHDB FHIB BTHD BTIN BTLF FSHD FSSE SMTB SMLI EAHD "
                                "EAIB EASB EADB FAHD FADB \211HDF";
    for (const char *k = known; k < known + sizeof known - SIGNATURE; k += SIGNATURE + 1)
        if (memcmp(p, k, SIGNATURE) == 0) return true;
    return false;
}

/* Where the checksums are right. How long a piece is only some say, so lengths are tried. */
static int find_pieces(const uint8_t *data, size_t size, piece list[MOST])
{
    int n = 0;
    for (size_t at = 0; at + 16 < size && n < MOST; at++) {
        if (!is_signature(data + at)) continue;
        size_t room = size - at - CHECK, length = header_size(data + at, room);
        if (memcmp(data + at, "OHDR", SIGNATURE) != 0 || length > room)
            for (length = 8; length < room && length < SHORT; length++)
                if (sums_up(data + at, length)) break;
        if (length > 0 && length <= room && sums_up(data + at, length))
            list[n++] = (piece){at, length};
    }
    return n;
}

static uint32_t draw(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static void change(uint8_t *p, size_t room, uint64_t *state)
{
    static const uint64_t number[] = {0, 1, 2, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0xffffffff,
                                      0x7fffffffffffffff, 0xffffffffffffffff};
    size_t width = (size_t)1 << draw(state, 4);
    uint64_t value = number[draw(state, sizeof number / sizeof *number)];
    if (width > room) width = 1;
    switch (draw(state, 4)) {
    case 0: memcpy(p, &value, width); break;
    case 1: *p ^= (uint8_t)(1 << draw(state, 8)); break;
    case 2: *p = (uint8_t)(*p + 1 - 2 * draw(state, 2)); break;
    default: *p = (uint8_t)draw(state, 256); break;
    }
}

static void change_bytes(uint8_t *data, size_t size, bool mend, uint64_t *state)
{
    piece list[MOST];
    int n = find_pieces(data, size, list);
    for (uint32_t changes = 1 + draw(state, 4); changes > 0; changes--) {
        const piece *p = n > 0 && draw(state, 8) ? &list[draw(state, (uint32_t)n)] : NULL;
        size_t at = p ? p->at + draw(state, (uint32_t)p->size) : draw(state, (uint32_t)size);
        change(data + at, size - at, state);
    }
    for (int i = 0; i < n && mend; i++) {
        uint32_t sum = H5_checksum_metadata(data + list[i].at, list[i].size, 0);
        memcpy(data + list[i].at + list[i].size, &sum, CHECK);
    }
}

/* Superblocks of version 2 and 3 have checksums, and what hangs on them has. */
static bool has_checksums(const uint8_t *data, size_t size)
{
    return size > 48 && memcmp(data, "\211HDF", SIGNATURE) == 0 && data[8] >= 2;
}

static size_t make_another(fuzz_kind kind, int kinds, uint8_t *data, size_t size, size_t room,
                           uint64_t *state)
{
    static const unsigned oddity[] = {0, 10, 30, 100, 300};
    uint64_t seed = (uint64_t)draw(state, 1u << 31) << 16 | draw(state, 1u << 16);
    size_t n = fuzz_h5_make(kind, kinds, seed, oddity[draw(state, 5)], data, room);
    return n > 0 ? n : size;
}

size_t fuzz_h5_mutate(fuzz_kind kind, int kinds, uint8_t *data, size_t size, size_t room,
                      unsigned seed)
{
    const char *wish = getenv("FUZZ_FORGED");
    bool forged = wish && strcmp(wish, "yes") == 0;
    uint64_t state = seed;
    uint32_t how = draw(&state, 16);
    if (size == 0 || how < 4 || (!forged && !has_checksums(data, size)))
        return make_another(kind, kinds, data, size, room, &state);
    if (how < 12) {
        change_bytes(data, size, forged, &state);
        return size;
    }
    return LLVMFuzzerMutate(data, size, room);
}
