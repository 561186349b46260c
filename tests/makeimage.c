/* makeimage KIND HEIGHT WIDTH SEED FILE...: image files for shell tests; file i has seed SEED + i.
 * KIND: a name of tests/image_make.h; or idx: HEIGHT images, WIDTH x WIDTH, into two FILEs, images
 * and labels i % 10. */
#include <stdbool.h>

#include "tests/image_make.h"

static void idx(int count, int side, int seed, char **file)
{
    uint32_t dim[3] = {(uint32_t)count, (uint32_t)side, (uint32_t)side};
    size_t n = (size_t)count * (size_t)(side * side);
    uint8_t *pixels = malloc(n), *labels = malloc((size_t)count);
    for (size_t i = 0; i < n; i++) pixels[i] = (uint8_t)(i * 2654435761u >> 24 ^ (size_t)seed);
    for (int i = 0; i < count; i++) labels[i] = (uint8_t)(i % 10);
    make_idx(file[0], 3, dim, pixels, n);
    make_idx(file[1], 1, dim, labels, (size_t)count);
    free(pixels);
    free(labels);
}

int main(int argc, char **argv)
{
    int kind = 0;
    if (argc < 6) {
        fprintf(stderr, "usage: makeimage KIND HEIGHT WIDTH SEED FILE...\n");
        return 1;
    }
    if (strcmp(argv[1], "idx") == 0) {
        idx(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), argv + 5);
        return 0;
    }
    while (kind < MAKE_KINDS && strcmp(argv[1], make_name[kind]) != 0) kind++;
    if (kind == MAKE_KINDS) {
        fprintf(stderr, "makeimage: no kind '%s'\n", argv[1]);
        return 1;
    }
    for (int i = 5; i < argc; i++)
        make_image(argv[i], (make_kind)kind, atoi(argv[2]), atoi(argv[3]), atoi(argv[4]) + i - 5);
    return 0;
}
