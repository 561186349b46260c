# LK_MPI: Open MPI through its wrapper compiler, whose flags are used with our own compiler.
# --with-mpi=DIR: DIR/bin/mpicc. Sets MPI_CFLAGS, MPI_LIBS, MPIRUN.
AC_DEFUN([LK_MPI], [
AC_ARG_WITH([mpi], [AS_HELP_STRING([--with-mpi=DIR], [where Open MPI is installed (default: mpicc on the PATH)])],
  [], [with_mpi=guess])
AS_CASE([$with_mpi],
  [no], [AC_MSG_ERROR([MPI is required: --without-mpi cannot be built])],
  [guess|yes], [AC_PATH_PROGS([MPICC], [mpicc mpicc.openmpi], [no])
                AC_PATH_PROGS([MPIRUN], [mpirun mpirun.openmpi], [no])],
  [MPICC=$with_mpi/bin/mpicc MPIRUN=$with_mpi/bin/mpirun
   AC_SUBST([MPICC])
   AC_SUBST([MPIRUN])
   AS_IF([test -x "$MPICC"], [], [AC_MSG_ERROR([no mpicc in $with_mpi/bin])])])
AS_IF([test "x$MPICC" = xno],
  [AC_MSG_ERROR([mpicc was not found: install Open MPI (Debian: libopenmpi-dev openmpi-bin), load its module, or give --with-mpi=DIR])])
AC_MSG_CHECKING([how $MPICC compiles and links])
MPI_CFLAGS=`$MPICC --showme:compile 2>/dev/null`
MPI_LIBS=`$MPICC --showme:link 2>/dev/null`
lk_mpi_version=`$MPICC --showme:version 2>/dev/null | $SED -e 's/^@<:@^ @:>@*: //' -e 's/ (.*//'`
AS_IF([test -z "$MPI_LIBS"], [
  AC_MSG_RESULT([no answer])
  AC_MSG_ERROR([$MPICC does not answer --showme:link: lockstep needs Open MPI (4.0 or newer)])])
AC_MSG_RESULT([$MPI_LIBS])
lk_save_CFLAGS=$CFLAGS lk_save_LIBS=$LIBS
CFLAGS="$CFLAGS $MPI_CFLAGS" LIBS="$MPI_LIBS $LIBS"
AC_MSG_CHECKING([whether an MPI program links])
AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <mpi.h>
#if MPI_VERSION < 3
#error "MPI 3 is needed"
#endif]], [[int level; return MPI_Init_thread(0, 0, MPI_THREAD_MULTIPLE, &level);]])],
  [AC_MSG_RESULT([yes])],
  [AC_MSG_RESULT([no])
   AC_MSG_ERROR([an MPI program does not link with $MPICC's flags; config.log has the reason])])
CFLAGS=$lk_save_CFLAGS LIBS=$lk_save_LIBS
AC_SUBST([MPI_CFLAGS])
AC_SUBST([MPI_LIBS])
])
