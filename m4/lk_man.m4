# LK_MAN: the manual pages are made by help2man from what the program says of itself, so not where it
# cannot be run; a release has them in it.
AC_DEFUN([LK_MAN], [
AC_PATH_PROG([HELP2MAN], [help2man])
AS_IF([test -n "$HELP2MAN" && test "$cross_compiling" != yes],
        [lk_man=make lk_man_summary='by help2man'],
      [test -f "$srcdir/doc/lockstep.1"], [lk_man=have lk_man_summary='of the release'],
      [lk_man=no
       AS_IF([test "$cross_compiling" = yes], [lk_man_summary='none: cross compilation'],
         [lk_man_summary='none: help2man is missing'])])
AM_CONDITIONAL([MAKE_MAN], [test "$lk_man" = make])
AM_CONDITIONAL([HAVE_MAN], [test "$lk_man" != no])
])
