/* pngstat FILE.png: its width, height, number of different colours (16 levels a channel) and mean
 * brightness (0 to 255): whether a screenshot shows something, and how light it is. */
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    static unsigned char seen[4096];
    if (argc != 2 || !png_image_begin_read_from_file(&image, argv[1])) return 1;
    image.format = PNG_FORMAT_RGB;
    unsigned char *pixel = malloc(PNG_IMAGE_SIZE(image));
    if (!pixel || !png_image_finish_read(&image, NULL, pixel, 0, NULL)) return 1;
    size_t count = (size_t)image.width * image.height;
    double sum = 0;
    int colours = 0;
    for (size_t i = 0; i < count; i++) {
        const unsigned char *p = pixel + 3 * i;
        int at = p[0] >> 4 << 8 | p[1] >> 4 << 4 | p[2] >> 4;
        colours += !seen[at];
        seen[at] = 1;
        sum += (p[0] + p[1] + p[2]) / 3.0;
    }
    printf("%u %u %d %.0f\n", image.width, image.height, colours, sum / (double)count);
    free(pixel);
    return 0;
}
