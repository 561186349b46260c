#!/bin/sh
# 50 times SIGSTOP to a random rank of 2 or 4 at a random time, also inside a save: all others end
# with status 5 within train.timeout, and one message names the rank and its process. Ten minutes.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
: "${STOPS:=50}" "${TIMEOUT:=6}"
# shellcheck source=tests/faults.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/faults.sh"

named=0 stopped=0 slowest=0
while [ $stopped -lt "$STOPS" ]; do
    n=$((2 << $(random 2)))
    rank=$(random $n)
    rm -rf stop
    begin $n --set directory=stop --set train.steps=100000000 --set train.timeout="$TIMEOUT"
    steps stop 20
    hit STOP "$rank" "$(random 1000000)" stop
    finish_job
    kill -KILL "$pid" 2>/dev/null
    stopped=$((stopped + 1))
    if [ "$rc" -eq 5 ] && below "$took" $((TIMEOUT + 3)) &&
        says_once "rank $rank on " "(process $pid) is silent for"; then
        named=$((named + 1))
    else
        note_run "rank $rank of $n stopped, $took s"
    fi
    ! below "$slowest" "$took" || slowest=$took
done
ok "$named of $stopped stopped ranks are named, within $slowest s of $((TIMEOUT + 3))" \
    test $named -eq $stopped
finish
