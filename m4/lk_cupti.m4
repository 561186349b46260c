# LK_CUPTI: CUPTI, for the times of nodes on a GPU; only with CUDA. --with-cupti[=guess|yes|no|DIR].
# It comes with the toolkit: its files lie beside CUDA's or in extras/CUPTI.
AC_DEFUN([LK_CUPTI], [
AC_ARG_WITH([cupti], [AS_HELP_STRING([--with-cupti=DIR], [where CUPTI is installed; yes: it must be found; no: no traces of a GPU (default: guess)])],
  [], [with_cupti=guess])
lk_have_cupti=no lk_cupti_summary="no"
AS_IF([test "x$with_cupti" != xno && test $lk_have_cuda = yes], [
  AS_CASE([$with_cupti],
    [guess|yes], [lk_cupti_dir=$lk_cuda_dir/extras/CUPTI],
    [lk_cupti_dir=$with_cupti
     AS_IF([test -f "$lk_cupti_dir/include/cupti.h"], [],
       [AC_MSG_ERROR([CUPTI was asked for, but there is no cupti.h in $with_cupti/include])])])
  CUPTI_CFLAGS= CUPTI_LIBS=-lcupti
  AS_IF([test -d "$lk_cupti_dir/include"], [CUPTI_CFLAGS="-I$lk_cupti_dir/include"])
  for lk_lib in "$lk_cupti_dir/lib64" "$lk_cupti_dir/lib"; do
    AS_IF([test -d "$lk_lib"], [CUPTI_LIBS="-L$lk_lib -Wl,-rpath,$lk_lib -lcupti"; break])
  done
  AC_MSG_CHECKING([for CUPTI])
  lk_save_CFLAGS=$CFLAGS lk_save_LIBS=$LIBS
  CFLAGS="$CFLAGS $CUPTI_CFLAGS $CUDA_CFLAGS" LIBS="$CUPTI_LIBS $CUDA_LIBS $LIBS"
  AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <cupti.h>]],
    [[uint64_t id; CUpti_ActivityKernel9 k; k.graphNodeId = 0;
      return cuptiGetGraphNodeId(0, &id) + (int)k.graphNodeId;]])],
    [lk_have_cupti=yes lk_cupti_summary="yes"])
  CFLAGS=$lk_save_CFLAGS LIBS=$lk_save_LIBS
  AC_MSG_RESULT([$lk_have_cupti])
  AS_IF([test $lk_have_cupti = yes], [],
    [test "x$with_cupti" != xguess],
    [AC_MSG_ERROR([CUPTI was asked for but does not link (config.log has the reason)])],
    [lk_cupti_summary="no: steps on a GPU cannot be traced"])
], [test "x$with_cupti" != xno && test "x$with_cupti" != xguess],
  [AC_MSG_ERROR([CUPTI was asked for, but there is no CUDA])])
AS_IF([test $lk_have_cupti = yes], [CUPTI_CFLAGS="$CUPTI_CFLAGS -DLK_HAVE_CUPTI=1"],
  [CUPTI_CFLAGS= CUPTI_LIBS=])
AM_CONDITIONAL([LK_HAVE_CUPTI], [test $lk_have_cupti = yes])
AC_SUBST([CUPTI_CFLAGS])
AC_SUBST([CUPTI_LIBS])
])
