#!/bin/sh
# The C tests of communication and of files, on several numbers of ranks. Each is TAP itself; here
# one line a number of ranks says that its plan was kept and nothing in it failed.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

# tests PROGRAM N...
tests() {
    program=$1
    shift
    for n in "$@"; do
        run "$MPIRUN" -np "$n" "$builddir/tests/$program"
        good=$(grep -c '^ok ' "$work/out")
        planned=$(sed -n 's/^1\.\.\([0-9]*\)$/\1/p' "$work/out")
        what="$program on $n ranks: $good of ${planned:-unknown} good in $seconds s"
        if [ "$rc" -eq 0 ] && [ "$good" = "$planned" ] && [ "$good" -gt 0 ] &&
            ! grep -q -e '^not ok' -e '^Bail out' "$work/out"; then
            pass "$what"
        else
            fail "$what, status $rc"
            grep -v '^ok ' "$work/out" >"$work/rest"
            note_file "$work/rest" 60
            note_file "$work/err"
        fi
    done
}

export TMPDIR="$work"
tests test_comm 1 2 4 8
tests test_checkpoint 1 2 4 8
tests test_io 1 2 4
tests test_import 1 2 4

finish
