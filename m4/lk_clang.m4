# LK_CLANG: clang, for `make fuzz` alone; nothing else needs it. CLANG=PATH names it.
AC_DEFUN([LK_CLANG], [
AC_ARG_VAR([CLANG], [clang with libFuzzer, for make fuzz])
AC_PATH_PROGS([CLANG], [clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14])
])
