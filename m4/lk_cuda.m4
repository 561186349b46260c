# LK_CUDA: the CUDA toolkit, 12 or newer, with cuBLASLt.
#
# --with-cuda[=guess|yes|no|DIR]. guess (default): build the CUDA backend if nvcc is found and a
# program links; yes or DIR: failing that is an error. --with-cuda-arch="80 90 ptx": architectures to
# build machine code for; 'ptx' adds code that newer GPUs compile when the program starts. 90 is
# built as sm_90a, which Hopper's matrix instructions need.
# Sets NVCC, NVCC_ARCH, CUDA_CFLAGS, CUDA_LIBS, and the conditional LK_HAVE_CUDA.
AC_DEFUN([LK_CUDA], [
AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda=DIR], [build the CUDA backend with the toolkit in DIR; yes: it must be found; no: CPU only (default: guess)])],
  [], [with_cuda=guess])
AC_ARG_WITH([cuda-arch], [AS_HELP_STRING([--with-cuda-arch=LIST], [CUDA architectures, e.g. "90" (default: "80 90 ptx")])],
  [], [with_cuda_arch="80 90 ptx"])
lk_cuda_summary="no: this is a CPU-only build" lk_cuda_why=
AS_IF([test "x$with_cuda" != xno], [
  AS_CASE([$with_cuda],
    [guess|yes], [AC_PATH_PROG([NVCC], [nvcc], [no], [$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin])],
    [NVCC=$with_cuda/bin/nvcc
     AC_SUBST([NVCC])
     AS_IF([test -x "$NVCC"], [], [NVCC=no])])
  AS_IF([test "x$NVCC" = xno], [AS_CASE([$with_cuda],
      [guess|yes], [lk_cuda_why="nvcc was not found"],
      [lk_cuda_why="there is no nvcc in $with_cuda/bin"])], [
    lk_nvcc=`readlink -f "$NVCC"`
    lk_cuda_dir=`dirname "$lk_nvcc"`
    lk_cuda_dir=`dirname "$lk_cuda_dir"`
    lk_cuda_version=`$NVCC --version | $SED -n 's/.*release \(@<:@0-9.@:>@*\).*/\1/p'`
    lk_cuda_lib=$lk_cuda_dir/lib64
    AS_IF([test -d "$lk_cuda_lib"], [], [lk_cuda_lib=$lk_cuda_dir/lib])
    CUDA_CFLAGS="-I$lk_cuda_dir/include"
    CUDA_LIBS="-L$lk_cuda_lib -Wl,-rpath,$lk_cuda_lib -lcublasLt -lcudart -lstdc++"
    AS_CASE([$lk_cuda_version],
      [@<:@1-9@:>@.*|10.*|11.*], [lk_cuda_why="CUDA $lk_cuda_version was found, 12 or newer is needed"], [
      AC_MSG_CHECKING([whether a CUDA program links])
      lk_save_CFLAGS=$CFLAGS lk_save_LIBS=$LIBS
      CFLAGS="$CFLAGS $CUDA_CFLAGS" LIBS="$CUDA_LIBS $LIBS"
      AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <cuda_runtime.h>
#include <cublasLt.h>]], [[cublasLtHandle_t h; int n; return cudaGetDeviceCount(&n) + cublasLtCreate(&h);]])],
        [AC_MSG_RESULT([yes])],
        [AC_MSG_RESULT([no]); lk_cuda_why="a program with cudart and cuBLASLt from $lk_cuda_dir does not link (config.log has the reason)"])
      CFLAGS=$lk_save_CFLAGS LIBS=$lk_save_LIBS])
    AS_IF([test -z "$lk_cuda_why"], [
      NVCC_ARCH= lk_ptx= lk_newest=0
      for lk_arch in `AS_ECHO(["$with_cuda_arch"]) | tr ', ' '  '`; do
        AS_CASE([$lk_arch],
          [ptx], [lk_ptx=yes; continue],
          [90|90a], [NVCC_ARCH="$NVCC_ARCH -gencode arch=compute_90a,code=sm_90a"],
          [*@<:@!0-9a-z@:>@*|@<:@!0-9@:>@*],
          [AC_MSG_ERROR([--with-cuda-arch: expected numbers such as 80 or 90, or ptx, found '$lk_arch'])],
          [NVCC_ARCH="$NVCC_ARCH -gencode arch=compute_$lk_arch,code=sm_$lk_arch"])
        lk_number=`AS_ECHO(["$lk_arch"]) | tr -d a-z`
        AS_IF([test "$lk_number" -gt "$lk_newest"], [lk_newest=$lk_number])
      done
      AS_IF([test "x$lk_newest" = x0], [AC_MSG_ERROR([--with-cuda-arch names no architecture])])
      AS_IF([test "x$lk_ptx" = xyes],
        [NVCC_ARCH="$NVCC_ARCH -gencode arch=compute_$lk_newest,code=compute_$lk_newest"])
      AC_MSG_CHECKING([whether nvcc compiles for $with_cuda_arch])
      AS_ECHO(["__global__ void k() {}"]) > conftest.cu
      AS_IF([$NVCC -std=c++17 $NVCC_ARCH -c conftest.cu -o conftest.o >&AS_MESSAGE_LOG_FD 2>&1],
        [AC_MSG_RESULT([yes])],
        [AC_MSG_RESULT([no]); lk_cuda_why="nvcc does not compile for '$with_cuda_arch' (config.log has the reason)"])
      rm -f conftest.cu conftest.o
    ])
  ])
  AS_IF([test -z "$lk_cuda_why"],
    [lk_cuda_summary="$lk_cuda_version ($lk_cuda_dir), architectures $with_cuda_arch"],
    [test "x$with_cuda" != xguess], [AC_MSG_ERROR([CUDA was asked for, but $lk_cuda_why; give --with-cuda=DIR with bin/nvcc in DIR, or --with-cuda=no])],
    [lk_cuda_summary="no ($lk_cuda_why): this is a CPU-only build"])
])
AS_CASE([$lk_cuda_summary], [no*], [lk_have_cuda=no], [lk_have_cuda=yes])
AM_CONDITIONAL([LK_HAVE_CUDA], [test $lk_have_cuda = yes])
AS_IF([test $lk_have_cuda = yes], [CUDA_CFLAGS="$CUDA_CFLAGS -DLK_HAVE_CUDA=1"],
  [CUDA_CFLAGS= CUDA_LIBS= NVCC_ARCH=none])
AC_SUBST([NVCC_ARCH])
AC_SUBST([CUDA_CFLAGS])
AC_SUBST([CUDA_LIBS])
])
