#!/bin/sh
# What a run says and does when it is signalled, out of time, stuck, robbed of a rank or diverging,
# and what its directory tells.
# shellcheck disable=SC2086 # options in $long
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
: "${TIMEOUT:=4}"
# shellcheck source=tests/faults.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/faults.sh"

begun=$(now)
ranks 2 "$LOCKSTEP" train r.yaml --set directory=whole
ok "a run that nothing stops, $(since "$begun") s" test "$rc" -eq 0 -a -f whole/DONE

# shellcheck disable=SC2016 # the inner shell expands it
run sh -c '{ "$@"; echo $? >rc; } | head -n 1 >first' sh \
    "$LOCKSTEP" train r.yaml --set directory=piped
ok "a run whose output has a reader of one line" grep -q 'from step 0' first
ok "trains to its end" same whole piped
ok "and says so once, with status 3" test "$(cat rc)" -eq 3 -a "$(wc -l <"$work/err")" -eq 1
ok "with what it is about" says err 'lockstep: cannot write to the standard output: nobody reads it'

# ---- what a run directory tells ---------------------------------------------------------------

ok "a start has a line in starts.jsonl" test "$(wc -l <whole/starts.jsonl)" -eq 1
for field in '"step":0,' '"checkpoint":null' '"code_version":' '"hdf5":' '"dataset":"a.h5"' \
    '"dataset_digest":' '"ranks":2' '"leaves":4' '"hosts":["' '"devices":["'; do
    ok "with $field" grep -qF "$field" whole/starts.jsonl
done
ok "DONE says how many steps" grep -qx '120 steps' whole/DONE
prints "--resume of a finished run says so" 'the run is finished' \
    "$LOCKSTEP" train r.yaml --set directory=whole --resume
prints "and so does --resume-or-start" 'the run is finished' \
    "$LOCKSTEP" train r.yaml --set directory=whole --resume-or-start
ok "each with its line in starts.jsonl" test "$(grep -c '"step":120,' whole/starts.jsonl)" -eq 2
mkdir empty other
bad "--resume of a directory without a checkpoint" 'other|no checkpoint to resume from' \
    "$LOCKSTEP" train r.yaml --set directory=other --resume
bad "--resume-or-start in a directory that is no run's" 'other|holds no run' \
    "$LOCKSTEP" train r.yaml --set directory=other --resume-or-start
touch empty/lock
bad "--resume of a run that was ended before its first save" 'empty|--resume-or-start' \
    "$LOCKSTEP" train r.yaml --set directory=empty --resume
ranks 2 "$LOCKSTEP" train r.yaml --set directory=empty --resume-or-start --set train.stop_after=20
ok "--resume-or-start begins it" test "$rc" -eq 0
ok "a run that is stopped early is not DONE" test ! -e empty/DONE
ranks 1 "$LOCKSTEP" train r.yaml --set directory=empty --resume-or-start
ok "and goes on with it" test "$rc" -eq 0 -a -f empty/DONE
ok "to the same bits" same whole empty
ok "the second start is from step 20" grep -q '"step":20,.*step-000020.h5' empty/starts.jsonl

# ---- signals, time limit ----------------------------------------------------------------------

long='--set train.steps=100000000 --set eval.every=0 --set checkpoint.every=0'
for signal in USR1 USR2 TERM INT HUP; do
    rm -rf sig
    begin 2 --set directory=sig $long
    steps sig 20
    hit "$signal" 1 0 sig
    finish_job
    ok "SIG$signal to rank 1 of 2: exit status 75 after $took s" test "$rc" -eq 75
    ok "all stop, with what stopped them and what to do" \
        says out "stopped by SIG$signal at rank 1, saved; go on with --resume"
    ok "nothing is printed as an error" test "$(grep -c '^lockstep' "$work/err")" -eq 0
    last=$(tail -n 1 sig/loss.log | cut -d ' ' -f 1)
    ok "the checkpoint is of the last step, $last" \
        test "$(readlink sig/checkpoints/latest)" = "$(printf 'step-%06d.h5' "$last")"
    ok "and it is not DONE" test ! -e sig/DONE
done
# The run goes on, to the bits of another that was not stopped.
ranks 2 "$LOCKSTEP" train r.yaml --set directory=sig --resume --set eval.every=0 \
    --set checkpoint.every=0 --set train.steps=100000000 --set train.stop_after=$((last + 20))
ranks 1 "$LOCKSTEP" train r.yaml --set directory=unstopped $long \
    --set train.stop_after=$((last + 20))
ok "resumed, the run has the bits of one without the signal" same unstopped sig

# A second signal does not wait for the end of the step: rank 0 waits for a rank that is stopped.
rm -rf sig
begin 2 --set directory=sig $long --set train.timeout=0
steps sig 20
hit STOP 1 0 sig
stopped=$pid
hit USR1 0 0 sig
sleep 1.2
ok "one signal to a rank that waits does not end it" kill -0 "$pid"
# A handler may run on any thread, and oneDNN's products have no stack for it.
caught=$(awk '/^SigCgt:/ { print $2 }' "/proc/$pid/status")
ok "no handler catches one that asks for a stop" test $((0x$caught & 0x4a03)) -eq 0
hit USR1 0 0 sig
finish_job
ok "a second signal ends it at once ($took s)" below "$took" 5
ok "as a signal does, with status 128 + 10" test "$rc" -eq 138
ok "nothing is saved" test ! -e sig/checkpoints/latest
kill -KILL "$stopped" 2>/dev/null

# As a shell starts a command in the background, and as nohup does.
printf '#!/bin/sh\ntrap "" INT HUP\nexec "$@"\n' >deaf
chmod +x deaf
rm -rf sig
WRAP=$PWD/deaf begin 1 --set directory=sig $long
steps sig 20
hit INT 0 0 sig
hit HUP 0 0 sig
steps sig $(($(wc -l <sig/loss.log) + 100))
hit USR1 0 1200000 sig
finish_job
ok "SIGINT and SIGHUP stay ignored where they were: exit status 75 after SIGUSR1" \
    test "$rc" -eq 75
ok "which is what stopped it" says out "stopped by SIGUSR1 at rank 0, saved"

# Signals that fall into large products, within the second in which they are the same request.
wide='--set model.width=384 --set model.heads=6 --set model.layers=2 --set model.context=256
    --set train.steps=6 --set train.leaves=1 --set eval.every=0 --set checkpoint.every=0'
ranks 1 "$LOCKSTEP" train r.yaml --set directory=calm $wide
begin 1 --set directory=burst $wide
ok "a run of large products begins" within 60 grep -q 'from step' "$work/out"
hit BURST 0 0 burst
finish_job
ok "many signals in half a second: exit status 75" test "$rc" -eq 75
ranks 1 "$LOCKSTEP" train r.yaml --set directory=burst $wide --resume
ok "resumed, the run has the bits of one without them" same calm burst

# A validation of seconds is left, in the middle of the run and at its end.
slow='--set train.steps=30 --set eval.every=20 --set eval.batches=15000 --set checkpoint.every=0'
ranks 2 "$LOCKSTEP" train r.yaml --set directory=slow $slow
for at in 20 30; do
    begin 2 --set directory=left $slow --resume-or-start
    steps left $at
    hit USR1 1 200000 left
    finish_job
    ok "a signal in the validation after step $at: exit status 75" test "$rc" -eq 75
    ok "without waiting for its end ($took s)" below "$took" 4
    ok "it is left, not logged" test "$(grep -c "^$at " left/validation.log)" -eq 0
    ok "and the run saved, not done" test "$(readlink left/checkpoints/latest)" = \
        step-0000$at.h5 -a ! -e left/DONE
done
prints "gone on with at the end, it is done again" "step 30  validation" 2 \
    "$LOCKSTEP" train r.yaml --set directory=left $slow --resume
ok "and the run is done" test -e left/DONE
ok "with the bits and logs of one that was not stopped" same slow left
prints "after that nothing is left to do" "the run is finished" \
    "$LOCKSTEP" train r.yaml --set directory=left $slow --resume

# The data of a validation are damaged.
cp a.h5 bad.h5
"$h5edit" bad.h5 token validation/tokens 5 3 1
hurt='--set directory=bad --set data.file=bad.h5 --set data.resident=no --set data.check=off'
for how in --resume-or-start --resume; do
    ranks 2 "$LOCKSTEP" train r.yaml $hurt $how --set checkpoint.every=0
    ok "$how, the rows of the first validation are damaged: status 2" test "$rc" -eq 2
    ok "one message names step, data and checkpoint: $(grep '^lockstep: ' "$work/err")" says_once \
        "the validation after step 30: bad.h5: 'validation/tokens': rows 0 to" \
        "the run is saved up to there, in bad/checkpoints/step-000030.h5, to go on with --resume"
done
ok "nothing is trained or saved again" test "$(wc -l <bad/loss.log) $(ls bad/checkpoints)" = \
    "30 latest
step-000030.h5"
ranks 1 "$LOCKSTEP" train r.yaml --set directory=bad --resume
ok "with whole data it goes on, to the bits and logs of a run without this" same whole bad

: >"$work/out" # else the signal could meet a shell that is not lockstep yet
"$LOCKSTEP" profile r.yaml --directory profiled --steps 1000 $wide >"$work/out" 2>"$work/err" &
job=$!
ok "a command that does not save on a signal works" within 60 grep -q 'from step' "$work/out"
kill -USR1 $job
wait $job
ok "and is ended by it, with status 128 + 10" test $? -eq 138

rm -rf wall
ranks 2 "$LOCKSTEP" train r.yaml --set directory=wall $long --walltime 8s
ok "--walltime: exit status 75" test "$rc" -eq 75
took=$(stat -c %.Y wall/starts.jsonl wall/loss.log |
    awk 'NR == 1 { begun = $1 } END { printf "%.2f", $1 - begun }')
ok "the last step is done after $took of 8 s, with time for two saves of 2 s left" below "$took" 4
note "$(grep ' steps in ' "$work/out"), the save included"
ok "with the reason" says out "stopped by the time limit"
ranks 2 "$LOCKSTEP" train r.yaml --set directory=wall $long --resume --walltime 1-0:00:00 \
    --set train.stop_after=$(($(wc -l <wall/loss.log) + 5))
ok "a run with time left is not stopped" test "$rc" -eq 0
export SLURM_JOB_END_TIME=$(($(date +%s) + 5))
ranks 2 "$LOCKSTEP" train r.yaml --set directory=wall $long --resume --walltime 1h
ok "the end of a Slurm job: exit status 75" test "$rc" -eq 75
SLURM_JOB_END_TIME=$(($(date +%s) - 3600))
ranks 2 "$LOCKSTEP" train r.yaml --set directory=new --resume-or-start
ok "an end that has passed: exit status 75, nothing is made" test "$rc" -eq 75 -a ! -e new
ok "said once, with what to do" says_once 'the end of this Slurm job (SLURM_JOB_END_TIME) was 36' \
    'nothing is started. Start it again in a new job, or unset SLURM_JOB_END_TIME'
for text in soon inf 0x7fffffff 1e12 4102444800s ' 4102444800' -1; do
    SLURM_JOB_END_TIME=$text
    bad "an end that is no time" \
        "SLURM_JOB_END_TIME: expected seconds since 1970, found '$text'; unset it" \
        "$LOCKSTEP" train r.yaml --set directory=new
done
unset SLURM_JOB_END_TIME
for text in 3x nan 1e999; do
    bad "a timeout that is no number" "'train.timeout': expected a number |found '$text'" \
        2 "$LOCKSTEP" train r.yaml --set directory=new --set train.timeout=$text
done
for text in 0s 10 5x -3s 1:2 99999999999h 1:99:00 0x10s 1e3s 1.5.5h; do
    misuse "--walltime $text" 'expected a duration' "$LOCKSTEP" train r.yaml --walltime=$text
done

# ---- another process works on the run ------------------------------------------------------------

# lock DIRECTORY: held until $holder is killed.
lock() {
    flock "$1/lock" sh -c 'echo $$ >holder; exec sleep 1000' &
    within 100 test -s holder
    holder=$(cat holder)
    rm holder
}
lock wall
ranks 2 "$LOCKSTEP" train r.yaml --set directory=wall $long --resume --wait 0s
ok "a run that another process works on, --wait 0s: exit status 6" test "$rc" -eq 6
ok "said once" says_once 'wall: another lockstep is working on this run' 'wait for it or end it'
begin 2 --set directory=wall $long --resume --wait 500s \
    --set train.stop_after=$(($(wc -l <wall/loss.log) + 5))
ok "--wait: it is waited for" within 100 grep -q \
    'wall: another lockstep is working on this run; waiting for its end, at most 500 s' "$work/out"
kill "$holder"
begun=$(now)
finish_job
ok "and then the run goes on" test "$rc" -eq 0
ok "it is said once" test "$(grep -c 'waiting for its end' "$work/out")" -eq 1
lock wall
begin 2 --set directory=wall $long --resume --wait 500s --set train.timeout=1
within 100 grep -q 'waiting for its end' "$work/out"
sleep 12 # the watchdog's limit for a start is 10 s here
ok "it may take longer than the watchdog lets anything else last" test ! -s "$work/err"
hit USR1 0 0 wall
finish_job
ok "a signal ends the waiting: exit status 6" test "$rc" -eq 6
kill "$holder"
# Two starts of a new run: this one has looked for it, and its dataset opens at the sixth try, 3 s
# later. Meanwhile the other begins.
for wait in 500s 0s; do
    rm -rf two log
    WRAP="env LD_PRELOAD=$faulty FAULT_FILE=a.h5 FAULT_KIND=open FAULT_TIMES=5 FAULT_ERRNO=116
        FAULT_RANK=0 FAULT_LOG=$PWD/log" begin 2 --set directory=two --resume-or-start \
        --wait $wait --set train.stop_after=20
    within 100 test -s log
    mkdir two
    lock two
    begun=$(now)
    if [ $wait = 500s ]; then
        ok "a run that another has just begun is waited for, too" within 100 grep -q \
            'two: another lockstep is working on this run; waiting for its end' "$work/out"
        kill "$holder"
        finish_job
        ok "and then the start goes on" test "$rc" -eq 0
    else
        finish_job
        ok "with --wait 0s: exit status 6" test "$rc" -eq 6
        ok "said once" says_once 'two: another lockstep is working on this run'
        kill "$holder"
    fi
done
for text in 10 -3s x; do
    misuse "--wait $text" 'expected a duration' "$LOCKSTEP" train r.yaml --wait=$text
done

# ---- a rank is stopped, stuck, or dies where its launcher does not notice ------------------------

for rank in 1 0; do
    rm -rf stop
    begin 2 --set directory=stop $long --set train.timeout="$TIMEOUT"
    steps stop 20
    hit STOP $rank 0 stop
    finish_job
    ok "rank $rank of 2 stopped: all end with status 5, after $took s" test "$rc" -eq 5
    ok "within the timeout of $TIMEOUT s" below "$took" $((TIMEOUT + 3))
    ok "one message names it, its process, where it was and who waits" says_once \
        "step" "rank $rank on " "(process $pid) is silent for" "; rank $((1 - rank)) waits in step"
    ok "what has taken too long is what the other waits in" \
        grep -q '^lockstep: step \([0-9]*\) has taken .* waits in step \1 ' "$work/err"
    note "$(grep '^lockstep: ' "$work/err")"
    kill -KILL "$pid" 2>/dev/null
done

# Several are stopped, rank 0 among them, through which the others know of each other. Where it was
# is known as of its last beat, which may be older than the first step.
for gone in '0 2' '0 1 2'; do
    rm -rf stop
    begin 4 --set directory=stop $long --set train.timeout="$TIMEOUT"
    steps stop 20
    stopped=
    for rank in $gone; do
        hit STOP "$rank" 0 stop
        stopped="$stopped $pid"
    done
    finish_job
    case $gone in
    '0 2') who='ranks 0, 2 are silent, rank 0 on ' waits='; ranks 1, 3 wait' ;;
    *) who='ranks 0-2 are silent, rank 0 on ' waits='; rank 3 waits' ;;
    esac
    ok "ranks $gone of 4 stopped: all end with status 5, after $took s" test "$rc" -eq 5
    ok "one message names them all and who waits" says_once "$who" "$waits"
    ok "and nobody waits in nothing" test "$(grep -c nothing "$work/err")" -eq 0
    note "$(grep '^lockstep: ' "$work/err")"
    kill -KILL $stopped 2>/dev/null
done

# A job that is suspended for longer than the timeout, all ranks of it, goes on afterwards.
rm -rf rest
begin 2 --set directory=rest $long --set train.timeout=3
steps rest 20
hit STOP 0 0 rest
first=$pid
hit STOP 1 0 rest
sleep 4
kill -CONT "$first" "$pid"
before=$(wc -l <rest/loss.log)
steps rest $((before + 20))
kill -KILL "$first" "$pid"
finish_job
ok "suspended for 4 s with a timeout of 3 s, the run goes on past step $before" \
    test "$(wc -l <rest/loss.log)" -ge $((before + 20))
ok "and nothing was said" test "$(grep -c '^lockstep: .* has taken' "$work/err")" -eq 0

# A write that never returns, on one rank, while training goes on; the other's I/O thread waits. (So
# small a checkpoint is written by rank 0 alone.)
rm -rf hang
WRAP="env LD_PRELOAD=$faulty FAULT_FILE=.h5.part FAULT_KIND=hang FAULT_RANK=0 FAULT_LOG=$PWD/log" \
    begin 2 --set directory=hang $long --set checkpoint.every=20 --set train.timeout="$TIMEOUT"
begun=$(now)
pid=0
finish_job
ok "a write of rank 0 hangs: all end with status 5 ($took s)" test "$rc" -eq 5 -a -s log
ok "one message names it and what it does" says_once "the save after step 20 has taken" \
    "rank 0 on " "is late, in the save after step 20, in write(); rank 1 waits in the save after"
note "$(grep '^lockstep: ' "$work/err")"
ok "and training went on meanwhile" test "$(wc -l <hang/loss.log)" -gt 25

# A read that never returns, on one rank, of data too large to be kept: the other's I/O thread
# rests, its main thread waits.
rm -rf hang log
awk 'BEGIN { while (i < 150000) print "in step " i++ " a quick fox jumps over " i % 7 "." }' >b.txt
run "$LOCKSTEP" import text b.txt -v character -o b.h5
WRAP="env LD_PRELOAD=$faulty FAULT_FILE=/b.h5 FAULT_KIND=deaf FAULT_AFTER=50 FAULT_RANK=1
    FAULT_LOG=$PWD/log" begin 2 --set directory=hang $long --set data.file=b.h5 \
    --set data.resident=no --set data.check=off --set train.timeout="$TIMEOUT"
begun=$(now)
finish_job
ok "a read of rank 1 hangs: all end with status 5 ($took s)" test "$rc" -eq 5 -a -s log
ok "one message names it and where the other waits" says_once "rank 1 on " "is late, in reading" \
    "; rank 0 waits in "
ok "which is not nothing" test "$(grep -c nothing "$work/err")" -eq 0
note "$(grep '^lockstep: ' "$work/err")"

# The shell between mpirun and lockstep stays.
printf '#!/bin/sh\n"$@"\n[ $? -lt 128 ] || sleep 60\n' >shell
chmod +x shell
for rank in 1 0; do
    rm -rf dies
    WRAP=$PWD/shell begin 2 --set directory=dies $long
    steps dies 20
    sleep 1.2 # ranks tell each other what they do twice a second
    hit KILL $rank 0 dies
    finish_job
    ok "rank $rank of 2 killed behind the launcher's back: status 5 after $took s" test "$rc" -eq 5
    ok "long before the timeout" below "$took" 4
    ok "one message names it, and what to do" says_once "rank $rank on " \
        "(process $pid) has died, in step" "start again with --resume-or-start"
    note "$(grep '^lockstep: ' "$work/err")"
done

# ---- a rank hangs where no watchdog sees it: before it is open, and when it is closed ----------

# hangs WHAT RANK FAULT...: for ever, with that fault.
hangs() {
    rm -rf early log
    what=$1 rank=$2
    shift 2
    WRAP="env LD_PRELOAD=$faulty FAULT_RANK=$rank FAULT_LOG=$PWD/log $*" \
        begin 2 --set directory=early --set train.stop_after=20 --set train.timeout=1
    begun=$(now)
    finish_job
    ok "rank $rank of 2 hangs, $what: all end with status 5 ($took s)" test "$rc" -eq 5 -a -s log
    ok "within the limit of 10 s for all that is short, and the next rank's patience" \
        below "$took" 25
}
hangs "it never comes to its work" 1 FAULT_CALL=MPI_Init_thread
ok "one message names who waits, in what, and what to do" says_once "rank 0 on " \
    "(process " "): MPI_Init has taken 10 s, more than 10 s (ten times train.timeout)" \
    "waits for one that hangs" "'lockstep doctor'"
note "$(grep '^lockstep: ' "$work/err")"
hangs "as rank 0, in MPI_Init" 0 FAULT_CALL=MPI_Init_thread
ok "one message" says_once "rank 0 on " "MPI_Init has taken"
# shellcheck disable=SC2016 # of the script that is written
printf '#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" -ge 2 ] || kill -STOP $$\nexec "$@"\n' >frozen
chmod +x frozen
WRAP=$PWD/frozen begin 4 --set directory=early --set train.timeout=0.1
begun=$(now)
finish_job
ok "ranks 0 and 1 of 4 never start: all end with status 5 ($took s)" test "$rc" -eq 5
ok "one message, of the lowest rank that can speak" says_once "rank 2 on " "MPI_Init has taken"
hangs "reading the run file" 0 FAULT_FILE=r.yaml FAULT_KIND=stall
ok "one message" says_once "rank 0 on " "reading the run file has taken 10 s"
ok "and no run was begun" test ! -e early
hangs "at its end" 1 FAULT_CALL=MPI_Finalize
ok "one message" says_once "rank 0 on " "MPI_Finalize has taken 10 s"
ok "and what was done is there" test "$(readlink early/checkpoints/latest)" = step-000020.h5
begin 2 --set directory=early --set train.timeout=1 --resume --set train.stop_after=40
hit STOP 0 0 early
finish_job
kill -KILL "$pid" 2>/dev/null
ok "rank 0 stopped at any time: status 5 after $took s" test "$rc" -eq 5
ok "one message" says_once "rank "
note "$(grep '^lockstep: ' "$work/err")"

# ---- a semaphore of Open MPI, left by a process that was killed as it opened a file ------------

if [ -d /dev/shm ]; then
    stale=/dev/shm/sem.OMPIO_step-000083.h5.part
    head -c 32 /dev/zero >$stale
    # OMPIO of a process alone makes none
    ranks 2 env -u OMPI_MCA_sharedfp OMPI_MCA_io=ompio "$LOCKSTEP" train r.yaml \
        --set directory=stale --set train.stop_after=83 --set checkpoint.every=0
    rm -f $stale
    ok "it does not stop a run that writes a file of that name" test "$rc" -eq 0
fi

# ---- the run diverges -------------------------------------------------------------------------

ranks 2 "$LOCKSTEP" train r.yaml --set directory=high --set optimizer.lr=100 --set optimizer.clip=0
ok "a run that diverges: status 1" test "$rc" -eq 1
ok "one message names the step, the checkpoint before it and what to try" says_once \
    "is not finite" "high/checkpoints/step-" "--set optimizer.lr=33.3"
note "$(grep '^lockstep: ' "$work/err")"
kept=$(readlink high/checkpoints/latest | tr -dc 0-9 | sed 's/^0*//; s/5$//')
bad_step=$(awk '$2 !~ /^[0-9.e+-]+$/ { print $1; exit }' high/loss.log)
ok "step ${bad_step:-of the validation} is not finite, the checkpoint is of step $kept before it" \
    test "$kept" -lt "${bad_step:-120}"

finish
