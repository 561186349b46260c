# LK_ZLIB: zlib, for packed idx files.
AC_DEFUN([LK_ZLIB], [
LK_LIBRARY([zlib], [ZLIB], [zlib], [-lz],
  [AC_LANG_PROGRAM([[#include <zlib.h>]], [[return gzclose(gzopen("", "rb"));]])],
  [Install zlib (Debian: zlib1g-dev), or give --with-zlib=DIR.],
  [zlib.h])
])
