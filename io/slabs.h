/* Private: rows of a dataset, read so that every byte that is given out was compared with a digest.
 *
 * HDF5's checksum is not enough for that: Fletcher-32 is a sum modulo 65535, for which a page of
 * 0xFF and a page of zeros are the same. And the digest of a whole dataset can only be compared by
 * who reads all of it, which a rank that streams its samples never does. So the importers give a
 * digest of its own (XXH3-64) to every *slab*: so many consecutive rows, about 64 KiB, the last of
 * a dataset perhaps fewer. Each rank compares the slabs that it reads, whenever it reads them; no
 * start has to read the file first, and a disk that goes bad in the middle of a run is noticed.
 *
 * In the file beside the dataset PATH: `digests/PATH`, u64 [slabs], the XXH3-64 of each slab's
 * bytes as a number (`xxhash.xxh3_64_intdigest(file[PATH][k * rows:(k + 1) * rows])`), with the
 * attributes `rows`, of a slab, and `digest`, XXH3-128 of the list. They are of the content:
 * `h5repack` may change chunks and filters. As imported a slab is a chunk, and then the chunk is
 * read as it lies in the file, past HDF5's cache and its checksum.
 *
 * A file of version 1, from an older lockstep or from elsewhere, has no such list. There the digest
 * of a whole dataset is compared before its first row is given out, by each rank that reads; and if
 * it has none of that either, nothing can be compared.
 *
 * Cost, one core of an AMD EPYC with a file of 1 GiB in memory: all rows in order at 3.2 GB/s,
 * where HDF5's read and Fletcher-32 alone do 1.5 GB/s; a row at random (64 KiB read and compared)
 * 70 us where it was 140 (images) and 220 (windows of text, whose chunks were 1 MiB); opening 4 ms.
 */
#ifndef LK_IO_SLABS_H
#define LK_IO_SLABS_H

#include "io/hdf5.h"

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct lk_slabs lk_slabs;

/* The dataset PATH of a file that was opened; `where` (which names the file in messages) must
 * outlive this. `demanded`: it has a list of digests. */
lk_status lk_slabs_open(hid_t file, const char *where, const char *path, bool demanded,
                        lk_slabs **slabs);
void lk_slabs_close(lk_slabs *s); /* takes NULL */
const lk_h5_dataset *lk_slabs_dataset(const lk_slabs *s);
bool lk_slabs_digested(const lk_slabs *s); /* there is something to compare with */
/* Read rows [first, first + count) into out. Damage is LK_E_INPUT that names the rows; with `right`
 * it only makes *right false, and the rows are given out as they are. */
lk_status lk_slabs_read(lk_slabs *s, int64_t first, int64_t count, void *out, bool *right);

/* ---- writing --------------------------------------------------------------------------------- */

/* Digests of a dataset that is being written. */
typedef struct lk_slab_maker {
    size_t row, bytes, filled; /* bytes of a row, of a slab, in `slab` */
    int64_t rows, count, room; /* rows of a slab; digests there are, and will be */
    uint64_t *list;
    char *slab;
} lk_slab_maker;

/* `total`: rows there will be. lk_slab_maker_clear() whatever happens. */
lk_status lk_slab_maker_create(lk_slab_maker *m, size_t row, int64_t total);
/* The bytes of the next rows, in any pieces. */
void lk_slab_maker_add(lk_slab_maker *m, const void *bytes, size_t size);
/* All rows were given: write digests/PATH. */
lk_status lk_slab_maker_write(lk_slab_maker *m, hid_t file, const char *where, const char *path);
void lk_slab_maker_clear(lk_slab_maker *m);

#endif
