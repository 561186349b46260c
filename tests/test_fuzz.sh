#!/bin/sh
# The fuzz targets (tests/fuzz): every file of the corpus, the good and odd files that the targets
# make themselves, and changed copies of all of them are read, or refused with one line of error.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

CHANGED=${CHANGED:-20} # copies of each file
TMPDIR=$work
MALLOC_PERTURB_=165 # glibc: memory that nobody filled is not zero
export TMPDIR MALLOC_PERTURB_

for target in run dataset checkpoint trace import; do
    mkdir -p "$target"
    run "$builddir/tests/fuzz/replay_$target" -s "$target"
    seeds=$(sed -n 's/ seeds$//p' "$work/out")
    set -- "$target"
    [ -d "$srcdir/tests/fuzz/corpus/$target" ] && set -- "$srcdir/tests/fuzz/corpus/$target" "$@"
    files=$(find "$@" -type f | wc -l)
    run "$builddir/tests/fuzz/replay_$target" -n "$CHANGED" "$@"
    inputs=$(sed -n 's/ inputs$//p' "$work/out")
    if [ "$rc" -eq 0 ] && [ "$files" -gt 3 ] && [ "$inputs" = $((files * (CHANGED + 1))) ]; then
        pass "$target: $files files, $inputs inputs"
    else
        fail "$target: $files files, ${seeds:-no} seeds, ${inputs:-no} inputs"
        note_run "replay_$target $*"
    fi
done

# What a target demands, it demands: a reader that fails in another way is a finding.
"$builddir/tests/fuzz/replay_trace" -s trace >"$work/out" 2>&1
run env FUZZ_PLANT=yes "$builddir/tests/fuzz/replay_trace" trace
ok "a planted finding ends the target" test "$rc" -ne 0
ok "and is named" grep -q '^fuzz: planted' "$work/err"

run make -C "$builddir" fuzz CLANG=
ok "make fuzz says what it lacks where there is no clang" says err \
    'make fuzz: expected clang with libFuzzer, found none; install it'
finish
