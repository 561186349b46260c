# What the probes share.

# LK_LIBRARY(NAME, PREFIX, PKG-CONFIG-NAMES, LIBS, PROGRAM, ADVICE, HEADER)
#
# --with-NAME=DIR takes DIR/include, where HEADER must lie, and DIR/lib (or lib64); without it the
# pkg-config names are tried in order, then the compiler's own paths with LIBS. PROGRAM must compile
# and link.
# Sets and substitutes PREFIX_CFLAGS and PREFIX_LIBS, and lk_NAME_found for the summary. The library
# is required: a failure ends configure with ADVICE.
AC_DEFUN([LK_LIBRARY], [
AC_ARG_WITH([$1],
  [AS_HELP_STRING([--with-$1=DIR], [where $1 is installed (default: pkg-config, then the compiler's paths)])],
  [], [with_$1=guess])
AS_CASE([$with_$1], [yes], [with_$1=guess],
  [no], [AC_MSG_ERROR([$1 is required: --without-$1 cannot be built])])
AC_MSG_CHECKING([for $1])
lk_$1_found=no
lk_save_CFLAGS=$CFLAGS lk_save_LIBS=$LIBS
AS_IF([test "x$with_$1" != xguess], [
  lk_dir=$with_$1
  lk_lib=$lk_dir/lib
  AS_IF([test -d "$lk_dir/lib64" && test ! -d "$lk_dir/lib"], [lk_lib=$lk_dir/lib64])
  $2_CFLAGS="-I$lk_dir/include"
  $2_LIBS="-L$lk_lib -Wl,-rpath,$lk_lib $4"
  CFLAGS="$lk_save_CFLAGS $MPI_CFLAGS $$2_CFLAGS" LIBS="$$2_LIBS $MPI_LIBS $lk_save_LIBS"
  AS_IF([test -f "$lk_dir/include/$7"], [AC_LINK_IFELSE([$5], [lk_$1_found="in $lk_dir"])])
], [
  for lk_package in $3 -; do
    AS_IF([test "x$lk_package" = x-], [
      $2_CFLAGS= $2_LIBS="$4" lk_version="in the compiler's paths"
    ], [
      AS_IF([test -z "$PKG_CONFIG" || $PKG_CONFIG --exists $lk_package 2>/dev/null], [], [continue])
      test -n "$PKG_CONFIG" || continue
      $2_CFLAGS=`$PKG_CONFIG --cflags $lk_package`
      $2_LIBS=`$PKG_CONFIG --libs $lk_package`
      lk_version=`$PKG_CONFIG --modversion $lk_package`
    ])
    CFLAGS="$lk_save_CFLAGS $MPI_CFLAGS $$2_CFLAGS" LIBS="$$2_LIBS $MPI_LIBS $lk_save_LIBS"
    AC_LINK_IFELSE([$5], [lk_$1_found=$lk_version; break])
  done
])
CFLAGS=$lk_save_CFLAGS LIBS=$lk_save_LIBS
AC_MSG_RESULT([$lk_$1_found])
AS_IF([test "x$lk_$1_found" = xno],
  [AS_IF([test "x$with_$1" != xguess],
    [AC_MSG_ERROR([$1 was asked for in '$with_$1', but include/$7 is not there or a program does not link (config.log has the reason). $6])],
    [AC_MSG_ERROR([$1 was not found or does not link (config.log has the reason). $6])])])
AC_SUBST([$2_CFLAGS])
AC_SUBST([$2_LIBS])
])

# Warnings, and freedoms that change no result of ours: errno of math functions and floating-point
# traps are not used, and without them loops over sqrtf and rintf vectorise.
AC_DEFUN([LK_COMPILER_FLAGS], [
LK_CFLAGS=
for lk_flag in -std=gnu11 -Wall -Wextra -Wno-unknown-pragmas -fno-math-errno -fno-trapping-math; do
  AC_MSG_CHECKING([whether $CC takes $lk_flag])
  lk_save_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS -Werror $lk_flag"
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
    [AC_MSG_RESULT([yes]); LK_CFLAGS="$LK_CFLAGS $lk_flag"], [AC_MSG_RESULT([no])])
  CFLAGS=$lk_save_CFLAGS
done
AC_SUBST([LK_CFLAGS])
])

# --with-cpu-arch=ARCH: passed as -march. Guess: x86-64-v3 (AVX2, FMA, F16C) where this machine can
# run it, else the compiler's default. Not 'native': batch jobs start on other nodes.
AC_DEFUN([LK_CPU_ARCH], [
AC_ARG_WITH([cpu-arch],
  [AS_HELP_STRING([--with-cpu-arch=ARCH], [-march of the CPU backend (default: x86-64-v3 where this machine runs it)])],
  [], [with_cpu_arch=guess])
AC_MSG_CHECKING([for the CPU architecture to build for])
LK_CPU_FLAGS=
lk_save_CFLAGS=$CFLAGS
AS_CASE([$with_cpu_arch],
  [no], [lk_arch="the compiler's default"],
  [guess|yes], [
    CFLAGS="$CFLAGS -march=x86-64-v3"
    AC_RUN_IFELSE([AC_LANG_PROGRAM([], [[
      return !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2"));]])],
      [lk_arch=x86-64-v3 LK_CPU_FLAGS=-march=x86-64-v3], [lk_arch="the compiler's default"],
      [lk_arch="the compiler's default"])],
  [ CFLAGS="$CFLAGS -march=$with_cpu_arch"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])], [LK_CPU_FLAGS=-march=$with_cpu_arch],
      [AC_MSG_ERROR([$CC does not know -march=$with_cpu_arch])])
    lk_arch=$with_cpu_arch])
CFLAGS=$lk_save_CFLAGS
AC_MSG_RESULT([$lk_arch])
AC_SUBST([LK_CPU_FLAGS])
])
