#!/bin/sh
# doc/tutorial.md does what it says: its commands are run in their order, as they stand, and what
# they print has the lines shown below them, but for numbers other than those of steps. "..." stands
# for anything.
# shellcheck disable=SC2016 # expanded by inner shells
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

page=${1:-$srcdir/doc/tutorial.md}

# A reader's directory: the source, and lockstep in the PATH.
for name in README.md doc src io; do ln -s "$srcdir/$name" "$name"; done
mkdir bin
ln -s "$LOCKSTEP" bin/lockstep
case $MPIRUN in */*) ln -s "$MPIRUN" bin/mpirun ;; esac
PATH=$PWD/bin:$PATH
export PATH

# Block i of commands, and the lines shown under it: step-i.sh, step-i.out.
awk '
    /^```sh$/ { kind = ".sh"; blocks++; close(file); file = "step-" blocks kind; next }
    /^```$/ && kind == "" { kind = ".out"; file = "step-" blocks kind; next }
    /^```$/ { kind = ""; close(file); next }
    kind != "" { print >file }
    END { print blocks + 0 }' "$page" >blocks
blocks=$(cat blocks)
commands=$(cat step-*.sh | awk '/^cat >.*<</ { inside = 1 }
    !inside || /^END$/ { n++; inside = 0 }
    END { print n }')
ok "it has $commands commands in $blocks steps" test "$blocks" -ge 8 -a "$commands" -ge 10

# Numbers become N, blanks one blank, so that times and digits need not agree; numbers of steps, as
# in "step 200/400" and step-000200.h5, are kept.
plain() { awk '{
    line = ""
    kept = 0
    while (match($0, /[0-9]+(,[0-9]+)*(\.[0-9]+)?(e[-+]?[0-9]+)?/)) {
        before = substr($0, 1, RSTART - 1)
        kept = before ~ /step[ -]$/ || (kept && before == "/")
        line = line before (kept ? substr($0, RSTART, RLENGTH) : "N")
        $0 = substr($0, RSTART + RLENGTH)
    }
    line = line $0
    gsub(/ +/, " ", line)
    print line
}' "$1"; }

# shown FILE: lines of FILE, as plain text, that are not in $work/plain in this order.
shown() {
    plain "$1" | awk -v output="$work/plain" '
        $0 == "..." || $0 == "" { next }
        {
            whole = $0
            open = sub(/ ?\.\.\.$/, "", whole)
            found = 0
            while (!found && (getline line <output) > 0)
                found = line == whole || (open && index(line, whole) == 1)
            if (!found) { print $0; exit }
        }'
}

i=0
while [ "$i" -lt "$blocks" ]; do
    i=$((i + 1))
    run sh -eu "step-$i.sh"
    # of a build for GPUs where there is none, the doctor's verdict is a warning
    case $rc$(cat "step-$i.sh") in 1*'lockstep doctor'*) rc=0 ;; esac
    first=$(grep -v '^mkdir\|^cat ' "step-$i.sh" | grep 'lockstep ' | head -n 1)
    if [ "$rc" -eq 0 ] && ! grep -q '^lockstep: ' "$work/err"; then
        pass "step $i: $first ($seconds s)"
    else
        fail "step $i: $first"
        note_run "step-$i.sh"
    fi
    plain "$work/out" >"$work/plain"
    if [ -f "step-$i.out" ]; then
        missing=$(shown "step-$i.out")
        ok "it prints what the page shows${missing:+, but for: $missing}" test -z "$missing"
        [ -z "$missing" ] || note_file "$work/plain" 60
    fi
done

# What the reader has then.
ok "runs, data and the report are there" \
    test -s runs/report.html -a -f runs/manual/DONE -a -f runs/again/DONE
ok "the same parameters on other ranks, stopped or not" sh -c '
    "$1" show runs/manual | grep "^ *parameters/.*[0-9a-f]\{32\}" >a
    "$1" show runs/again | grep "^ *parameters/.*[0-9a-f]\{32\}" | cmp - a && test -s a' \
    sh "$LOCKSTEP"

# A line that no command prints would be found.
echo 'step 9  no such line' >never.out
ok "a line that is not printed would be found" test -n "$(shown never.out)"
echo 'step 200/400  loss 2.1216  1127 samples/s' >printed
plain printed >"$work/plain"
echo 'step 200/400  loss 9.9  7 samples/s' >same.out
echo 'step 200/300  loss 2.1216  1127 samples/s' >other.out
ok "another loss would not" test -z "$(shown same.out)"
ok "another step would" test -n "$(shown other.out)"
finish
