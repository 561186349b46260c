# LK_NCCL: NCCL, for several GPUs; only with CUDA. --with-nccl[=guess|yes|no|DIR].
AC_DEFUN([LK_NCCL], [
AC_ARG_WITH([nccl], [AS_HELP_STRING([--with-nccl=DIR], [where NCCL is installed; yes: it must be found; no: one GPU only (default: guess)])],
  [], [with_nccl=guess])
lk_have_nccl=no lk_nccl_summary="no"
AS_IF([test "x$with_nccl" != xno && test $lk_have_cuda = yes], [
  AS_CASE([$with_nccl],
    [guess|yes], [NCCL_CFLAGS= NCCL_LIBS=-lnccl],
    [NCCL_CFLAGS="-I$with_nccl/include" NCCL_LIBS="-L$with_nccl/lib -Wl,-rpath,$with_nccl/lib -lnccl"])
  AS_CASE([$with_nccl], [guess|yes], [],
    [AS_IF([test -f "$with_nccl/include/nccl.h"], [],
      [AC_MSG_ERROR([NCCL was asked for, but there is no nccl.h in $with_nccl/include])])])
  AC_MSG_CHECKING([for NCCL])
  lk_save_CFLAGS=$CFLAGS lk_save_LIBS=$LIBS
  CFLAGS="$CFLAGS $NCCL_CFLAGS $CUDA_CFLAGS" LIBS="$NCCL_LIBS $CUDA_LIBS $LIBS"
  AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <nccl.h>
#if NCCL_VERSION_CODE < 20800
#error "NCCL 2.8 or newer is needed"
#endif]], [[ncclUniqueId id; return ncclGetUniqueId(&id);]])],
    [lk_have_nccl=yes lk_nccl_summary="yes"])
  CFLAGS=$lk_save_CFLAGS LIBS=$lk_save_LIBS
  AC_MSG_RESULT([$lk_have_nccl])
  AS_IF([test $lk_have_nccl = yes], [],
    [test "x$with_nccl" != xguess],
    [AC_MSG_ERROR([NCCL was asked for but does not link (config.log has the reason)])],
    [lk_nccl_summary="no: the CUDA backend will run on one rank only"])
], [test "x$with_nccl" != xno && test "x$with_nccl" != xguess],
  [AC_MSG_ERROR([NCCL was asked for, but there is no CUDA])])
AS_IF([test $lk_have_nccl = yes], [NCCL_CFLAGS="$NCCL_CFLAGS -DLK_HAVE_NCCL=1"],
  [NCCL_CFLAGS= NCCL_LIBS=])
AM_CONDITIONAL([LK_HAVE_NCCL], [test $lk_have_nccl = yes])
AC_SUBST([NCCL_CFLAGS])
AC_SUBST([NCCL_LIBS])
])
