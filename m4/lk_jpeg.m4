# LK_JPEG: libjpeg-turbo, or another libjpeg that reads from memory and scales, to import images.
AC_DEFUN([LK_JPEG], [
LK_LIBRARY([jpeg], [JPEG], [libjpeg], [-ljpeg],
  [AC_LANG_PROGRAM([[#include <stdio.h>
#include <jpeglib.h>
#include <jerror.h>]], [[struct jpeg_decompress_struct d;
struct jpeg_error_mgr e;
d.err = jpeg_std_error(&e);
jpeg_create_decompress(&d);
jpeg_mem_src(&d, (unsigned char *)"", 1);
return JWRN_JPEG_EOF;]])],
  [Install libjpeg-turbo (Debian: libjpeg-dev), or give --with-jpeg=DIR.],
  [jpeglib.h])
])
