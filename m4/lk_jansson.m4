# LK_JANSSON: jansson, for JSON output.
AC_DEFUN([LK_JANSSON], [
LK_LIBRARY([jansson], [JANSSON], [jansson], [-ljansson],
  [AC_LANG_PROGRAM([[#include <jansson.h>]], [[json_decref(json_object());]])],
  [Install jansson (Debian: libjansson-dev), or give --with-jansson=DIR.],
  [jansson.h])
])
