#!/bin/sh
# A disk that fails while a checkpoint is written (tests/faulty.c), and one that is full: the run
# ends within a minute with code 3 and one message, the checkpoint before is untouched and `latest`,
# nothing else is left but perhaps a .part, which goes with the next save, and the run continues
# from there. Never is a checkpoint that is not whole called one. And a disk that fails while a
# dataset or a checkpoint is read: what passes changes no bit, what stays ends the run with code 3,
# so that a job starts again, not with code 2 as if the data were bad. TRIALS of each of KINDS;
# test_disk_long.sh asks for 50.
# shellcheck disable=SC2086 # words without blanks
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

: "${TRIALS:=1}" "${SEED:=1}" "${KINDS:=eio enospc short torn sync blank unknown}"
LIMIT=70
faulty=$builddir/tests/faulty.so
[ -f "$faulty" ] || echo "Bail out! make tests/faulty.so"
# shellcheck source=tests/small.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/small.sh"

run "$LOCKSTEP" train a.yaml --set directory=whole
ok "a run without faults" test "$rc" -eq 0
run "$LOCKSTEP" train a.yaml --set directory=base --set train.stop_after=4
ok "its first third" test "$rc" -eq 0

# random N: sets drawn to a number below N, the same in every run of this test. (Not printed: what
# $(...) runs cannot keep the state.)
random_state=$SEED
random() {
    random_state=$(((random_state * 1103515245 + 12345) & 0x7fffffff))
    drawn=$((random_state / 65536 % $1))
}

# go_on RANKS RANK NAME=VALUE...: continue a copy of base with a fault at one rank, which
# $faults says. Fails, with $struck 0, if the fault did not come to pass.
go_on() {
    n=$1
    [ "$1" = 1 ] || set -- "$@" "FAULT_RANK=$2"
    shift 2
    faults=$*
    rm -rf t "$work/struck"
    cp -R base t
    set -- env LD_PRELOAD="$faulty" FAULT_LOG="$work/struck" "$@" \
        "$LOCKSTEP" train a.yaml --set directory=t --resume
    if [ "$n" = 1 ]; then run "$@"; else ranks "$n" "$@"; fi
    wrong='' struck=0
    [ -f "$work/struck" ] && struck=1
}

# trial KIND RANKS RANK AFTER: continue a copy of base with a fault. "" in $wrong: as it should be;
# $struck: whether the fault came to pass.
trial() {
    go_on "$2" "$3" FAULT_FILE=.h5.part FAULT_KIND="$1" FAULT_AFTER="$4" || return 0
    if [ "$1" = torn ] && [ "$rc" -eq 0 ]; then # what was torn was written again later
        for step in 04 08 12; do
            "$h5same" t/checkpoints/step-0000$step.h5 whole/checkpoints/step-0000$step.h5 \
                >"$work/ok" 2>&1 || wrong="$wrong; step $step differs"
        done
        return 0
    fi
    code=3 # or 5: what Open MPI leaves after a failed write may hang or be overwritten
    ! grep -q 'this has not ended the run in' "$work/err" || code=5
    [ "$rc" -eq $code ] || wrong="$wrong; exit code $rc, not $code"
    [ "$seconds" -le 60 ] || wrong="$wrong; $seconds s"
    [ "$(grep -c '^lockstep: ' "$work/err")" -eq 1 ] || wrong="$wrong; not one message"
    grep -q '^lockstep: .*checkpoints/step-0000[01][28].h5' "$work/err" ||
        wrong="$wrong; the message does not name the file"
    latest=$(readlink t/checkpoints/latest)
    case $latest in # the save of step 8 or of step 12 failed
    step-000004.h5 | step-000008.h5) ;;
    *) wrong="$wrong; latest is $latest" ;;
    esac
    "$h5same" t/checkpoints/$latest whole/checkpoints/$latest >"$work/ok" 2>&1 ||
        wrong="$wrong; the checkpoint before is damaged"
}

# After a fault: go on without it.
continues() {
    run "$LOCKSTEP" train a.yaml --set directory=t --resume
    [ "$rc" -eq 0 ] && [ -z "$(find t -name '*.part')" ] &&
        "$h5same" t/checkpoints/latest whole/checkpoints/latest && cmp t/loss.log whole/loss.log
}

# A fault of KIND, on 1 rank and, each sixth, on one of 2.
trials() {
    kind=$1 good=0 bad=0 missed=0 most=0
    while [ $((good + bad)) -lt "$TRIALS" ] && [ $missed -lt $((20 * TRIALS)) ]; do
        n=1
        [ $(((good + bad) % 6)) -ne 5 ] || n=2
        random 2
        rank=$drawn
        random 60
        trial "$kind" $n $rank $drawn
        [ $struck = 1 ] || { missed=$((missed + 1)) && continue; }
        [ "$seconds" -le $most ] || most=$seconds
        [ -n "$wrong" ] || continues >"$work/ok" 2>&1 || wrong="; does not continue"
        if [ -z "$wrong" ]; then
            good=$((good + 1))
        else
            bad=$((bad + 1))
            note "$kind on $n: wrong${wrong}"
            note_run "$faults"
        fi
    done
    ok "$kind: $good of $TRIALS end the run and leave the checkpoint before, $most s at most" \
        test "$good" -ge "$TRIALS" -a $bad -eq 0
}

for kind in $KINDS; do trials "$kind"; done

trial blank 1 0 0
ok "what does not read back: $(grep '^lockstep: ' "$work/err")" says err \
    'a checkpoint does not read back as it was written' 'check the disk it lies on'

trial full 1 0 0
ok "no blocks to reserve: $(grep '^lockstep: ' "$work/err")" test -z "$wrong" -a $struck = 1
ok "says so" says err 'cannot reserve' 'make room on the disk'
trial unknown 1 0 1000000
ok "a file system that cannot reserve blocks is good enough" test "$rc" -eq 0
ok "the same checkpoint" "$h5same" t/checkpoints/latest whole/checkpoints/latest

# What a disk or a server does to the other files of a run is not the user's mistake.
for fault in "lock 116" "lock 30" "run.yaml.part 110" "run.yaml.part 5" "loss.log 30" \
    "starts.jsonl 30"; do # ESTALE EROFS ETIMEDOUT
    go_on 1 0 FAULT_FILE="t/${fault% *}" FAULT_KIND=make FAULT_ERRNO="${fault#* }"
    ok "code 3: $(grep '^lockstep: ' "$work/err")" test "$rc" -eq 3 -a $struck = 1
done
for file in run.yaml.part loss.log starts.jsonl; do
    go_on 1 0 FAULT_FILE=t/$file FAULT_KIND=make FAULT_ERRNO=13 # EACCES
    ok "code 2: $(grep '^lockstep: ' "$work/err")" test "$rc" -eq 2 -a $struck = 1
done
go_on 1 0 FAULT_FILE=d/t FAULT_KIND=sync FAULT_ERRNO=22 # EINVAL
ok "a directory that cannot be synced is good enough" test "$rc" -eq 0 -a $struck = 1
go_on 1 0 FAULT_FILE=d/t FAULT_KIND=sync
ok "not one whose sync fails: $(grep '^lockstep: ' "$work/err")" test "$rc" -eq 3 -a $struck = 1

# What to do is told by what the system says.
for file in run.yaml checkpoints/step-000008.h5; do
    while read -r number advice; do
        go_on 1 0 FAULT_FILE=t/$file FAULT_KIND=rename FAULT_ERRNO="$number"
        ok "$file cannot be renamed, errno $number: the fault strikes" test $struck = 1
        ok "the advice: $(grep '^lockstep: ' "$work/err")" says err "; $advice"
    done <<END
5 check the disk it lies on, or its server
28 make room on the disk
30 check the disk it lies on, and whether it should be mounted read-only
122 make room within your quota
13 check its permissions and those of its directory
END
done

# Nor what it does to the run file, which a job reads at every start.
go_on 1 0 FAULT_FILE=a.yaml FAULT_KIND=open FAULT_TIMES=2 FAULT_ERRNO=116
ok "a run file that opens at the third try" test "$rc" -eq 0 -a $struck = 1
go_on 1 0 FAULT_FILE=a.yaml FAULT_KIND=open FAULT_TIMES=99 FAULT_ERRNO=116
ok "one that does not, code 3: $(grep '^lockstep: ' "$work/err")" test "$rc" -eq 3 -a $struck = 1
go_on 1 0 FAULT_FILE=a.yaml FAULT_KIND=read FAULT_TIMES=99
ok "one that cannot be read, code 3: $(grep '^lockstep: ' "$work/err")" \
    test "$rc" -eq 3 -a $struck = 1

# A log that can grow no more.
run sh -c 'trap "" XFSZ; ulimit -f 16; exec "$@"' sh "$LOCKSTEP" train a.yaml \
    --set directory=t/long --set train.steps=1000 --set checkpoint.every=0 --set log.run_log=false
ok "it is named: $(grep '^lockstep: ' "$work/err")" says err 't/long/loss.log: cannot write the log'
ok "exit code 3" test "$rc" -eq 3

# A disk that is full: nothing is written.
mkdir full
if mount -t tmpfs -o size=4m none full 2>/dev/null; then
    trap 'umount "$work/d/full" 2>/dev/null; rm -rf "$work"' EXIT
    cp -R base full/t
    run "$LOCKSTEP" train a.yaml --set directory=full/t --resume
    ok "a full disk: $(grep '^lockstep: ' "$work/err")" says err 'MiB of free space' \
        'make room on the disk'
    ok "exit code 3, nothing written, latest stays" test "$rc" -eq 3 -a \
        "$(find full/t/checkpoints -name '*-*' | wc -l)" -eq 1 -a \
        "$(readlink full/t/checkpoints/latest)" = step-000004.h5
    ok "it was said at the start, too" says out 'warning: full/t/checkpoints: expected' \
        'MiB of free space' 'lower checkpoint.keep'
    run "$LOCKSTEP" train a.yaml --set directory=full/t --resume --set checkpoint.keep=0
    ok "where all are kept: $(grep '^lockstep: ' "$work/err")" says err \
        'set checkpoint.keep, which is 0, so that all are kept'
    mount -o remount,ro full
    run "$LOCKSTEP" train a.yaml --set directory=full/t --resume
    ok "a disk that was made read-only, code 3: $(cat "$work/err")" test "$rc" -eq 3
    run sh -c 'cd full && exec "$@"' sh "$LOCKSTEP" profile ../a.yaml --set data.file=../a.h5
    ok "a profile there, code 3: $(cat "$work/err")" test "$rc" -eq 3
    umount full
else
    skip "a full disk" "a tmpfs cannot be mounted here"
    skip "exit code 3, nothing written, latest stays" "a tmpfs cannot be mounted here"
    skip "it was said at the start, too" "a tmpfs cannot be mounted here"
    skip "where all are kept" "a tmpfs cannot be mounted here"
    skip "a disk that was made read-only" "a tmpfs cannot be mounted here"
    skip "a profile there" "a tmpfs cannot be mounted here"
fi

# Reading: a dataset of several slabs, streamed, so that the run reads it from first to last.
rm -rf base whole
awk 'BEGIN { while (i < 9000) print "in step " i++ " a quick fox jumps over dog " i % 7 "." }' \
    >a.txt
run "$LOCKSTEP" import text a.txt -v character -o a.h5 --overwrite
sed 's/file: a.h5/&\n  resident: no/' a.yaml >b.yaml && mv b.yaml a.yaml
run "$LOCKSTEP" train a.yaml --set directory=whole
run "$LOCKSTEP" train a.yaml --set directory=base --set train.stop_after=4
ok "a run to be read by" test "$rc" -eq 0

# read_trial KIND TIMES RANKS RANK AFTER FILE ERRNO: the same while FILE is read.
read_trial() {
    go_on "$3" "$4" FAULT_FILE="$6" FAULT_KIND="$1" FAULT_TIMES="$2" FAULT_AFTER="$5" \
        FAULT_ERRNO="$7" || return 0
    [ "$seconds" -le 60 ] || wrong="$wrong; $seconds s"
    if [ "$2" -le 5 ]; then
        [ "$rc" -eq 0 ] || wrong="$wrong; exit code $rc, not 0"
        return 0
    fi
    [ "$rc" -eq 3 ] || wrong="$wrong; exit code $rc, not 3"
    [ "$(grep -c '^lockstep: ' "$work/err")" -eq 1 ] || wrong="$wrong; not one message"
    grep -q "^lockstep: .*$6.*; tried 6 times in 3 s" "$work/err" ||
        wrong="$wrong; the message does not name the file"
}

# read_trials DESCRIPTION KIND TIMES MOST: so many faults, on either file, after up to MOST reads.
read_trials() {
    good=0 bad=0 missed=0 most=0
    while [ $((good + bad)) -lt "$TRIALS" ] && [ $missed -lt $((20 * TRIALS)) ]; do
        n=1 file=a.h5 errno=5
        [ $(((good + bad) % 6)) -ne 5 ] || n=2
        random 2
        [ $drawn = 0 ] || file='step-000004.h5'
        random 2
        [ $drawn = 0 ] || errno=116 # ESTALE
        random 2
        rank=$drawn
        random "$4"
        read_trial "$2" "$3" $n $rank $drawn $file $errno
        [ $struck = 1 ] || { missed=$((missed + 1)) && continue; }
        [ "$seconds" -le $most ] || most=$seconds
        [ -n "$wrong" ] || continues >"$work/ok" 2>&1 || wrong="; not the same in the end"
        if [ -z "$wrong" ]; then
            good=$((good + 1))
        else
            bad=$((bad + 1))
            note "$1 on $n: wrong${wrong}"
            note_run "$faults"
        fi
    done
    ok "$1: $good of $TRIALS, $most s at most" test "$good" -ge "$TRIALS" -a $bad -eq 0
}

read_trials "a file that opens at the second try" open 1 6
read_trials "a read that fails once" read 1 60
for n in 1 2; do # the loader's reads on the last rank, in the middle of a run
    read_trial read 2 $n $((n - 1)) 24 a.h5 5
    told=$(grep 'a.h5: read failed (Input/output error), tried again 2 times in ' "$work/out")
    ok "it is told, once, on $n: $told" test "$(echo "$told" | grep -c '^warning: ')" -eq 1
done
ok "with the rank whose reads they were" says out 'warning: rank 1 on '
if [ "$TRIALS" -gt 1 ]; then # they wait
    read_trials "a file that opens at the sixth try" open 5 2
    read_trials "a read that fails three times" read 3 60
fi
read_trials "a file that cannot be opened any more ends the run with code 3" open 1000000 3
read_trials "reads that go on failing too" read 1000000 60
read_trial read 1000000 1 0 30 a.h5 5
ok "in the middle of a run: $(grep '^lockstep: ' "$work/err")" test $struck = 1 -a -z "$wrong"
for command in "show a.h5" "show base" "check a.h5" "eval base a.h5"; do
    [ "$TRIALS" -gt 1 ] || [ "$command" = "eval base a.h5" ] || continue
    run env LD_PRELOAD="$faulty" FAULT_FILE=.h5 FAULT_KIND=read FAULT_AFTER=12 "$LOCKSTEP" $command
    ok "lockstep $command: $(grep '^lockstep: ' "$work/err")" test "$rc" -eq 3
done

# Nor is it a bad image, which --max-bad would let pass.
mkdir -p images/cat images/dog
"$builddir/tests/makeimage" gray 8 8 1 images/cat/1.png images/cat/2.png images/dog/1.png
for kind in open read; do
    run env LD_PRELOAD="$faulty" FAULT_FILE=dog/1.png FAULT_KIND=$kind \
        "$LOCKSTEP" import images images -o x.h5 --size 8x8 --max-bad 1
    ok "import images: $(cat "$work/err")" test "$rc" -eq 3 -a ! -e x.h5
    ok "it names the image" says err "images/dog/1.png: cannot $kind: Input/output error"
done

# Nor a wrong path.
for fault in "images stat" "images/dog open" "a.txt stat"; do
    command="images images --size 8x8"
    [ "$fault" != "a.txt stat" ] || command="text a.txt"
    run env LD_PRELOAD="$faulty" FAULT_FILE="${fault% *}" FAULT_KIND="${fault#* }" \
        "$LOCKSTEP" import $command -o x.h5
    ok "$fault, code 3: $(cat "$work/err")" test "$rc" -eq 3
done

# Nor what another import left, which would be written over: the images that were decoded stay.
echo rubbish >images/dog/2.png
run "$LOCKSTEP" import images images -o x.h5 --size 8x8
ok "an import that can go on" test "$rc" -eq 2 -a -s x.h5.part
cp x.h5.part kept
for reads in 0 1; do # a look whether it is an import's, then whether of this one
    run env LD_PRELOAD="$faulty" FAULT_FILE=x.h5.part FAULT_KIND=read FAULT_AFTER=$reads \
        "$LOCKSTEP" import images images -o x.h5 --size 8x8
    ok "code 3: $(cat "$work/err")" test "$rc" -eq 3
    ok "it stays" cmp x.h5.part kept
done
run "$LOCKSTEP" import images images -o x.h5 --size 8x8 --max-bad 1
ok "and is gone on with" says out '3 images were decoded by an earlier import'

# A checkpoint of 5 MiB, which two ranks write together: one of them fails inside a collective write
# while the other waits in it.
rm -rf base whole
sed -e 's/layers: 1/layers: 2/' -e 's/width: 32/width: 128/' a.yaml >b.yaml && mv b.yaml a.yaml
run "$LOCKSTEP" train a.yaml --set directory=whole
run "$LOCKSTEP" train a.yaml --set directory=base --set train.stop_after=4
ok "a larger model" test "$rc" -eq 0
# Were there no room for a file of MPI's own, the ranks would hang.
what="a save by several ranks makes no file but the one it writes"
if ompi_info --parsable --param io all 2>/dev/null | grep -q romio; then
    go_on 2 0 FAULT_FILE='.h5.part?*' FAULT_KIND=make
    ok "$what" test "$rc" -eq 0 -a $struck = 0
else
    skip "$what" "Open MPI was built without ROMIO"
fi
trial eio 2 1 3
ok "a rank that fails and one that hangs: $(grep '^lockstep: ' "$work/err")" test -z "$wrong" \
    -a $struck = 1
[ -z "$wrong" ] || { note "wrong${wrong}" && note_run "$faults"; }
ok "the run continues" continues

# The same, and the main threads do not get to ending it: the watchdog does.
trial stuck 2 1 3
ok "a run that hangs after that ends with code 5 in $seconds s" \
    test $struck = 1 -a "$rc" -eq 5 -a "$seconds" -le 60
ok "with both reasons: $(grep '^lockstep: ' "$work/err")" \
    says err 'step-000008.h5.part: cannot write' 'this has not ended the run in 3'
ok "the run continues" continues
finish
