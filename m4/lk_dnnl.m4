# LK_DNNL: oneDNN 2.6 or newer (2.x and 3.x), for the matrix products of the CPU backend.
AC_DEFUN([LK_DNNL], [
LK_LIBRARY([dnnl], [DNNL], [dnnl], [-ldnnl],
  [AC_LANG_PROGRAM([[#include <dnnl.h>
#if DNNL_VERSION_MAJOR < 2 || (DNNL_VERSION_MAJOR == 2 && DNNL_VERSION_MINOR < 6)
#error "oneDNN 2.6 or newer is needed"
#endif]], [[float a = 1; return dnnl_sgemm('N', 'N', 1, 1, 1, 1.0f, &a, 1, &a, 1, 0.0f, &a, 1);]])],
  [Install oneDNN >= 2.6 (Debian: libdnnl-dev), load its module, or give --with-dnnl=DIR.])
])
