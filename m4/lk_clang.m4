# LK_CLANG: clang with libFuzzer, for `make fuzz` alone; nothing else needs it. CLANG=PATH names it.
# Debian's package of clang only recommends that of libFuzzer, so a link is tried.
AC_DEFUN([LK_CLANG], [
AC_ARG_VAR([CLANG], [clang with libFuzzer, for make fuzz])
AC_PATH_PROGS([CLANG], [clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14])
lk_clang_summary="none: make fuzz needs it (packages: clang libclang-rt-dev)"
AS_IF([test -n "$CLANG"], [
  AC_MSG_CHECKING([whether $CLANG has libFuzzer])
  AS_ECHO(['int LLVMFuzzerTestOneInput(void) { return 0; }']) >conftest.c
  AS_IF([$CLANG -fsanitize=fuzzer,address,undefined conftest.c -o conftest >&AS_MESSAGE_LOG_FD 2>&1],
    [lk_clang_summary=$CLANG
     AC_MSG_RESULT([yes])],
    [CLANG=
     AC_MSG_RESULT([no])])
  rm -f conftest conftest.c
])
])
