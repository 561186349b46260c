# LK_DNNL: oneDNN 2.6 or newer (2.x and 3.x), for the matrix products of the CPU backend.
AC_DEFUN([LK_DNNL], [
LK_LIBRARY([dnnl], [DNNL], [dnnl], [-ldnnl],
  [AC_LANG_PROGRAM([[#include <dnnl.h>
#if DNNL_VERSION_MAJOR < 2 || (DNNL_VERSION_MAJOR == 2 && DNNL_VERSION_MINOR < 6)
#error "oneDNN 2.6 or newer is needed"
#endif]], [[float a = 1; return dnnl_sgemm('N', 'N', 1, 1, 1, 1.0f, &a, 1, &a, 1, 0.0f, &a, 1);]])],
  [Install oneDNN >= 2.6 (Debian: libdnnl-dev), load its module, or give --with-dnnl=DIR.],
  [dnnl.h])
lk_save_CFLAGS=$CFLAGS
CFLAGS="$CFLAGS $DNNL_CFLAGS" # it often comes without a pkg-config file, which would tell
AC_COMPUTE_INT([lk_dnnl_major], [DNNL_VERSION_MAJOR], [#include <dnnl.h>], [lk_dnnl_major=?])
AC_COMPUTE_INT([lk_dnnl_minor], [DNNL_VERSION_MINOR], [#include <dnnl.h>], [lk_dnnl_minor=?])
CFLAGS=$lk_save_CFLAGS
AS_CASE([$lk_dnnl_found], [*@<:@0-9@:>@.*], [],
  [lk_dnnl_found="$lk_dnnl_major.$lk_dnnl_minor, $lk_dnnl_found"])
])
