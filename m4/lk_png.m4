# LK_PNG: libpng 1.6 or newer (its simplified interface), to import images.
AC_DEFUN([LK_PNG], [
LK_LIBRARY([png], [PNG], [libpng], [-lpng -lz],
  [AC_LANG_PROGRAM([[#include <png.h>
#ifndef PNG_SIMPLIFIED_READ_SUPPORTED
#error "libpng 1.6 or newer is needed, with its simplified interface"
#endif]], [[png_image image = { 0 };
image.version = PNG_IMAGE_VERSION;
return png_image_begin_read_from_memory(&image, "", 1);]])],
  [Install libpng >= 1.6 (Debian: libpng-dev), or give --with-png=DIR.],
  [png.h])
])
