#!/bin/sh
# make fuzz: each of $TARGETS under libFuzzer for $SECONDS_EACH. The corpus grows in fuzz/corpus,
# which the next call goes on from; what is found lies in fuzz/found/TARGET and fails the test.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/../..
. "${srcdir:?}/tests/tap.sh"

: "${SECONDS_EACH:=60}" "${TARGETS:=run dataset checkpoint trace import}"
OMP_NUM_THREADS=1
# what HDF5 asks for by a damaged size it does not get, as on a small machine; and lockstep's own
# readers must not ask for it: out of memory is a finding. Open MPI leaves signals to the sanitizer.
ASAN_OPTIONS="allocator_may_return_null=1:max_allocation_size_mb=1024:detect_leaks=0"
OMPI_MCA_opal_signal=10
export OMP_NUM_THREADS ASAN_OPTIONS OMPI_MCA_opal_signal

for target in $TARGETS; do
    corpus=$builddir/corpus/$target found=$builddir/found/$target
    mkdir -p "$corpus" "$found" "$target"
    "$builddir/tests/fuzz/replay_$target" -s "$target" >"$work/out" 2>&1
    set -- "$corpus" "$target"
    [ -d "$srcdir/tests/fuzz/corpus/$target" ] && set -- "$@" "$srcdir/tests/fuzz/corpus/$target"
    "$builddir/tests/fuzz/fuzz_$target" -max_len=20000 -timeout=60 -rss_limit_mb=2048 \
        -malloc_limit_mb=0 -max_total_time="$SECONDS_EACH" -print_final_stats=1 \
        -artifact_prefix="$found/" "$@" >"$builddir/fuzz_$target.log" 2>&1
    rc=$?
    runs=$(awk '/stat::number_of_executed_units/ { print $2 }' "$builddir/fuzz_$target.log")
    covered=$(awk '{ for (i = 1; i < NF; i++) if ($i == "cov:") n = $(i + 1) }
        END { print n + 0 }' \
        "$builddir/fuzz_$target.log")
    if [ "$rc" -eq 0 ] && [ "${runs:-0}" -gt 0 ]; then
        pass "$target: $runs inputs in $SECONDS_EACH s, $covered edges"
    else
        fail "$target: status $rc after ${runs:-?} inputs; see $found and fuzz_$target.log"
        tail -n 30 "$builddir/fuzz_$target.log" >"$work/tail"
        note_file "$work/tail" 30
    fi
done
finish
