/* makeimage KIND HEIGHT WIDTH SEED FILE...: image files for shell tests; file i has seed SEED + i.
 * KIND: a name of tests/image_make.h; or, of HEIGHT images of WIDTH x WIDTH into two FILEs, images
 * and labels,
 *   idx     noise, labels i % 10
 *   shapes  rows, columns, checks or a disc, labels i % 4: to be told apart by their shapes, not by
 *           their brightness, and the same in a mirror */
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

static uint32_t state;
static int draw(int below) /* D. Knuth, TAOCP 2, 3.3.4: the upper bits will do */
{
    state = state * 1664525u + 1013904223u;
    return (int)((state >> 16) * (uint32_t)below >> 16);
}

static void shape(int label, int side, uint8_t *pixels)
{
    int period = 2 + draw(2), top = draw(8), left = draw(8);
    int low = draw(100), high = 155 + draw(100);
    int middle[2] = {side / 3 + draw(side / 3), side / 3 + draw(side / 3)};
    bool turned = draw(2);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            int row = (y + top) / period % 2, column = (x + left) / period % 2;
            int dy = y - middle[0], dx = x - middle[1];
            int disc = 9 * (dy * dy + dx * dx) < side * side;
            int in[4] = {row, column, row ^ column, disc};
            int value = (in[label] != turned ? high : low) + draw(61) - 30;
            pixels[y * side + x] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
}

static void shapes(int count, int side, int seed, char **file)
{
    uint32_t dim[3] = {(uint32_t)count, (uint32_t)side, (uint32_t)side};
    size_t each = (size_t)(side * side);
    uint8_t *pixels = malloc((size_t)count * each), *labels = malloc((size_t)count);
    state = (uint32_t)seed;
    for (int i = 0; i < count; i++) {
        labels[i] = (uint8_t)(i % 4);
        shape(i % 4, side, pixels + (size_t)i * each);
    }
    make_idx(file[0], 3, dim, pixels, (size_t)count * each);
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
    if (strcmp(argv[1], "shapes") == 0) {
        shapes(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), argv + 5);
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
