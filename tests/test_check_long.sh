#!/bin/sh
# A table of 1.2 GB: memory, time, and the same report on several ranks.
# shellcheck disable=SC2016 # an awk program
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

LIMIT=1200
rows=10000000
"$builddir/tests/maketable" big.h5 $rows 32 10 1 copies=20000 overlap=3000 nan=8000000:9 ||
    echo "Bail out! maketable"

# The largest memory of a process so far, MiB, read until it ends.
"$LOCKSTEP" check big.h5 --json >one.json &
pid=$! peak=0
while now=$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$pid/status" 2>/dev/null) &&
    [ -n "$now" ]; do
    peak=$now
    sleep 0.05
done
wait $pid
ok "it is unfit" [ $? -eq 2 ]
ok "memory stays below 500 MiB: $peak" [ "$peak" -gt 20 -a "$peak" -lt 500 ]
ok "the NaN of row 8,000,000 is named" sh -c "grep -A20 '\"nan\"' one.json | grep -q 8000000"
ok "copies are counted" sh -c "sed -n '/\"splits\"/,/\"labels\"/p' one.json | tr -d ' ,' |
    grep -A1 duplicates | grep -q '\"count\":20000'"
ok "and overlap" sh -c "grep -A1 in_train one.json | tr -d ' ,' | grep -q '\"count\":3000'"
for n in 2 4; do
    ranks $n "$LOCKSTEP" check big.h5 --json
    ok "the same JSON on $n ranks" cmp one.json "$work/out"
done

# the same questions asked of pandas; processor time, for other work here does not count
if python3 -c 'import h5py, pandas' 2>/dev/null; then
    run python3 "$srcdir/bench/peer/check.py" "$builddir" --file big.h5
    note_file "$work/out"
    ok "at least five times less than pandas takes" awk '
        / of the processor/ { split($0, part, "1/"); found = part[3] + 0 >= 5 }
        END { exit !found }' "$work/out"
else
    skip "at least five times less than pandas takes" "python3 has no pandas or no h5py"
fi
finish
