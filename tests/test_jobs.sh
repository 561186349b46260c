#!/bin/sh
# The batch scripts of jobs/ without Slurm: jobs/local.sh, whose loop the others share, and what
# they hand to sbatch. tests/test_slurm.sh runs them for real.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
# shellcheck source=tests/jobs.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/jobs.sh"
export PAUSE=0
trap 'pkill -KILL -f "train $work/"; rm -rf "$work"' EXIT

starts() { grep -c -- '--resume-or-start, from step' "$1.log"; }
# shellcheck disable=SC2317 # called by within
started() { [ "$(starts "$1")" -eq "$2" ]; }
# shellcheck disable=SC2317 # called by within
gone() { ! kill -0 "$1" 2>/dev/null; }

# begin NAME RANKS: local.sh in the background. Sets local.
begin() {
    run_file "$1"
    # what the caller ignores, or a shell for what it starts in the background
    env --default-signal=INT,HUP "$jobs/local.sh" -n "$2" "$PWD/$1.yaml" >"$1.log" 2>&1 </dev/null &
    local=$!
}

# hold NAME: its ranks stand still until they are let go on.
hold() { pkill -STOP -f "^$LOCKSTEP train $PWD/$1.yaml "; }
let_go() { pkill -CONT -f "^$LOCKSTEP train $PWD/$1.yaml "; }

# ends NAME CODE STARTS TEXT: $local ends so, and the last line says it.
ends() {
    within 400 gone $local || pkill -KILL -f "$PWD/$1.yaml"
    wait $local
    rc=$?
    if [ $rc -eq "$2" ] && [ "$(starts "$1")" -eq "$3" ] &&
        tail -n 1 "$1.log" | grep -qF -e "$4"; then
        pass "$1: $4; $3 starts, exit code $rc"
    else
        fail "$1: exit code $rc, expected $2; $(starts "$1") starts, expected $3; and '$4'"
        note_file "$1.log" 60
    fi
}

# ---- kill -9 -------------------------------------------------------------------------------------

begin killed 2
for i in 1 2; do
    progress killed
    hold killed # the start after this one finds an end a little further on
    [ $i -eq 1 ] || give_end killed
    kill -KILL "$(pgrep -f "^$LOCKSTEP train $PWD/killed.yaml " | shuf -n 1)"
    let_go killed
    within 200 started killed $((i + 1))
done
ends killed 0 3 'killed: done'
# Whichever mpirun hears of first: the killed rank, or the one that ends because of it.
ok "killed: by what" \
    test "$(grep -cE 'failed with exit code (137 \(SIGKILL\)|5);' killed.log)" -eq 2
same_alone killed

# ---- signals -------------------------------------------------------------------------------------

begin usr1 2
for i in 1 2 3; do
    progress usr1
    hold usr1
    [ $i -lt 3 ] || give_end usr1
    [ $i -eq 2 ] && signal=USR2 || signal=USR1
    kill "-$signal" $local
    let_go usr1
    within 200 started usr1 $((i + 1))
done
ends usr1 0 4 'usr1: done'
ok "usr1: it saved each time" test "$(grep -c 'stopped in time (exit code 75)' usr1.log)" -eq 3
same_alone usr1

for signal in TERM INT HUP; do
    ranks=1
    [ $signal != HUP ] || ranks=2
    begin $signal $ranks
    progress $signal
    kill -$signal $local
    ends $signal 75 1 "and stopped. To go on: $jobs/local.sh -n $ranks $PWD/$signal.yaml"
done
ok "SIGTERM and SIGINT reach a rank as SIGTERM" \
    test "$(cat TERM.log INT.log | grep -c 'stopped by SIGTERM at rank 0, saved')" -eq 2
ok "SIGHUP is passed on to mpirun as SIGUSR1, and said so" \
    grep -q 'SIGHUP: the run is to save and stop, which it is told by SIGUSR1' HUP.log
give_end INT
"$jobs/local.sh" "$PWD/INT.yaml" >INT.log 2>&1 &
local=$!
ends INT 0 1 'INT: done'
same_alone INT

# A second signal does not wait for the save: one whose disk never answers.
LD_PRELOAD=$builddir/tests/faulty.so FAULT_FILE=.h5.part FAULT_KIND=hang FAULT_LOG=$PWD/struck \
    begin hurry 1
within 400 test -s struck
kill -TERM $local
within 100 grep -q 'SIGTERM: the run is to save' hurry.log
sleep 1.2 # sooner it is the same request
kill -TERM $local
ends hurry 143 1 'SIGTERM twice: failed with exit code 143 (SIGTERM), without a save'

# TERM and HUP at once, as systemd and terminals send them.
begin both 2
progress both
kill -TERM $local
sleep 0.05
kill -HUP $local
ends both 75 1 'SIGTERM: saved at step'
ok "a second signal within a second is the same request" test "$(grep -c again both.log)" -eq 0

run "$jobs/local.sh" r.yaml --set directory=stopped --set train.stop_after=20
ok "a run that is to stop before its end" says out \
    'stopped: ended at step 20, as train.stop_after asks'
ok "its exit code is 0, and nothing is left" test "$rc" -eq 0 -a ! -e stopped.restarts
cat >liar <<END
#!/bin/sh
case "\$*" in *--print*) exec '$LOCKSTEP' "\$@" ;; esac
END
chmod +x liar
run env LOCKSTEP="$PWD/liar" "$jobs/local.sh" r.yaml --set directory=lied
ok "a launcher that returns 0 before the run is done is not believed" says err \
    '3 restarts without progress'
ok "its exit code is 1" test "$rc" -eq 1

# ---- no restart ----------------------------------------------------------------------------------

# fp32 does not recover from this rate, and a restart computes the same.
run "$jobs/local.sh" r.yaml --set directory=diverges --set optimizer.lr=100 --set optimizer.clip=0 \
    --set optimizer.weight_decay=100 --set optimizer.warmup=0 --set checkpoint.every=0
ok "3 restarts without progress end it" says out 'failed with exit code 1'
ok "with exit code 1 and what to do" test "$rc" -eq 1 -a "$(grep -c 'step 1/' "$work/out")" -eq 4
ok "said so" says err '3 restarts without progress'
run "$jobs/local.sh" r.yaml --set directory=bad --set data.file=none.h5
ok "bad input is not started again" says err 'none.h5' 'bad input (exit code 2)'
ok "its exit code is 2" test "$rc" -eq 2
ok "and it was started once" test "$(grep -c -- '--resume-or-start' "$work/out")" -eq 1

for setting in MAX_STALLED=no PAUSE=1.5 FILES_WAIT=10s REQUEUE_WAIT=-1; do
    run env $setting "$jobs/local.sh" r.yaml --set directory=never
    ok "$setting: exit code 2, nothing is begun" test "$rc" -eq 2 -a ! -e never
    ok "said so: $(cat "$work/err")" says err \
        "${setting%=*}: expected a whole number, found '${setting#*=}'"
done

# What is saved and then damaged is no progress, whatever its name. (Starts: twice from step 20, as
# MAX_STALLED=1 allows, and once more, for the second seemed to have come further.)
run "$LOCKSTEP" train r.yaml --set directory=rots --set checkpoint.keep=0 --set train.stop_after=20
cat >rot <<END
#!/bin/sh
case "\$*" in *--print*) exec '$LOCKSTEP' "\$@" ;; esac
echo >>rotten
[ \$(wc -l <rotten) -lt 9 ] || exit 2
'$LOCKSTEP' "\$@" --set train.stop_after=\$((20 + \$(wc -l <rotten)))
truncate -s -100 rots/checkpoints/latest
exit 9
END
chmod +x rot
run env LOCKSTEP="$PWD/rot" MAX_STALLED=1 "$jobs/local.sh" r.yaml --set directory=rots \
    --set checkpoint.keep=0
ok "checkpoints that do not stay whole are no progress" test "$rc" -eq 1 -a "$(wc -l <rotten)" -eq 3
ok "said so" says err '1 restarts without progress'
ok "each went on from the last one that is whole" \
    test "$(grep -c '"step":20,' rots/starts.jsonl)" -eq 3
run "$LOCKSTEP" train r.yaml --set directory=rots --set checkpoint.keep=0 --resume \
    --set train.stop_after=40 --set checkpoint.every=0
truncate -s -100 rots/checkpoints/latest
starts=$(wc -l <rots/starts.jsonl)
cat >dies <<END
#!/bin/sh
case "\$*" in *--print*) exec '$LOCKSTEP' "\$@" ;; esac
'$LOCKSTEP' "\$@" --set checkpoint.every=0 --set eval.every=0 &
until [ "\$(wc -l <rots/starts.jsonl)" -gt $starts ]; do sleep 0.05; done
kill -KILL \$!
wait
exit 9
END
chmod +x dies
run env LOCKSTEP="$PWD/dies" MAX_STALLED=0 "$jobs/local.sh" r.yaml --set directory=rots \
    --set checkpoint.keep=0
ok "the newest whole checkpoint is what is told" says out \
    "failed with exit code 9; the newest whole checkpoint is that of step 20"
ok "not the damaged one after it" test "$rc" -eq 1 -a -f rots/checkpoints/step-000040.h5.damaged

# ---- another at work, no time, no files ----------------------------------------------------------

# shellcheck disable=SC2317 # called by within
holding() { ! flock -n stopped/lock true; } # whether somebody has the lock
flock stopped/lock sleep 1000 &
holder=$!
within 100 holding
run "$jobs/local.sh" r.yaml --set directory=stopped --set train.stop_after=0 \
    --set train.steps=40 --wait 0s
ok "while another works on the run: tried again, with exit code 6 of lockstep" \
    test "$(grep -c 'another lockstep is working on the run (exit code 6)' "$work/out")" -eq 4
ok "but not for ever" test "$rc" -eq 1
ok "and why" says err 'stopped: another lockstep is working on this run' \
    '3 restarts without progress: another lockstep is working on stopped; end one of them'
sed 's/^directory: .*/directory: stopped/; s/^  steps: .*/  steps: 40/' r.yaml >stopped.yaml
"$jobs/local.sh" stopped.yaml >stopped.log 2>&1 &
local=$!
within 200 grep -q 'waiting for its end, at most 60 s (--wait)' stopped.log
pkill -P $holder
wait $holder 2>/dev/null
ends stopped 0 1 'stopped: done'

run env SLURM_JOB_END_TIME=$(($(date +%s) - 10)) "$jobs/local.sh" r.yaml --set directory=late
ok "a job's end that has passed: nothing is started, and not again" \
    test "$rc" -eq 75 -a ! -e late -a "$(grep -c -- '--resume-or-start' "$work/out")" -eq 1
ok "said so, with what to do" says err 'the end of this Slurm job (SLURM_JOB_END_TIME) was' \
    "To go on in another: $jobs/local.sh r.yaml --set directory=late"
run env SLURM_JOB_END_TIME=$(($(date +%s) + 6)) "$jobs/local.sh" r.yaml --set directory=late \
    --set checkpoint.every=0
ok "a job's end that is near: saved, and not started again" \
    test "$rc" -eq 75 -a "$(grep -c 'stopped by the time limit, saved' "$work/out")" -eq 1

mkdir mount
sed 's/^directory: .*/directory: mounted/; s/^  steps: .*/  steps: 40/
    s/file: .*/file: mount\/a.h5/' r.yaml >mounted.yaml
"$jobs/local.sh" mounted.yaml >mounted.log 2>&1 &
local=$!
within 100 grep -q 'mount/a.h5: mount is not there, or empty; waiting for it' mounted.log
cp a.h5 part && mv part mount/a.h5
ends mounted 0 1 'mounted: done'

sed 's/^directory: .*/directory: linked/; s/^  steps: .*/  steps: 40/' r.yaml >linked.yaml
run "$LOCKSTEP" train linked.yaml --set train.stop_after=20
mv linked/checkpoints away
ln -s ../disk/checkpoints linked/checkpoints
"$jobs/local.sh" linked.yaml >linked.log 2>&1 &
local=$!
within 100 grep -q 'disk/checkpoints: .*disk is not there, or empty; waiting for it' linked.log
mkdir part && mv away part/checkpoints && mv part disk
ends linked 0 1 'linked: done'
ok "linked: it went on from there" grep -q 'resume-or-start, from step 20' linked.log

# More ranks than most machines have cores, without what tests/tap.sh sets for that.
run env -u OMPI_MCA_rmaps_base_oversubscribe -u PRTE_MCA_rmaps_default_mapping_policy \
    "$jobs/local.sh" -n 016 r.yaml --set directory='many ranks' --set train.leaves=16 \
    --set train.batch=16 --set train.steps=4
ok "16 ranks here" says out ' 16 ranks,'
ok "the last line names the directory as a shell reads it" says out \
    "many ranks: done; 'lockstep report many\\ ranks' makes a page about it"

# misused DESCRIPTION TEXT COMMAND...: exit code 2 and this text.
misused() {
    what=$1 text=$2
    shift 2
    run "$@"
    if [ "$rc" -eq 2 ] && says err "$text"; then
        pass "$what: $(tail -n 1 "$work/err")"
    else
        fail "$what"
        note_run "$*"
    fi
}
misused "local.sh without a run" 'which run?' "$jobs/local.sh"
misused "local.sh without a number" "-n: expected a number of ranks, found 'r.yaml'" \
    "$jobs/local.sh" -n r.yaml
for number in 0 00 -1 2x 99999999999999999999; do
    misused "$number ranks" "-n: expected a number of ranks, found '$number'" \
        "$jobs/local.sh" -n $number r.yaml
done
for option in --print=seed --plan -p; do
    misused "local.sh with $option" "$option prints something and trains nothing" \
        "$jobs/local.sh" r.yaml $option
done
misused "no run file" 'none.yaml' "$jobs/local.sh" none.yaml
misused "a run file that does not come" 'Mount it, or correct the path' \
    env FILES_WAIT=1 "$jobs/local.sh" none/none.yaml
misused "no program" '/none/lockstep: not found' env LOCKSTEP=/none/lockstep "$jobs/local.sh" r.yaml

# ---- what sbatch gets ----------------------------------------------------------------------------

mkdir bin
cat >bin/sbatch <<'END'
#!/bin/sh
echo "sbatch $*; jobs $LOCKSTEP_JOBS"
END
chmod +x bin/sbatch
PATH=$PWD/bin:$PATH
SITE_SBATCH='--account=a -pb' SITE_GPUS=--gpus-per-node=4
export SITE_SBATCH SITE_GPUS
site='--account=a -pb --gpus-per-node=4'
prints "train.sbatch submits itself" \
    "sbatch $site --nodes=2 $jobs/train.sbatch r.yaml --set train.steps=9; jobs $jobs" \
    "$jobs/train.sbatch" --nodes=2 r.yaml --set train.steps=9
prints "scaling.sbatch submits itself" "sbatch $site -N4 $jobs/scaling.sbatch r.yaml; jobs $jobs" \
    "$jobs/scaling.sbatch" -N4 r.yaml
printf '# a sweep\nr.yaml --set directory=a\n\n r.yaml --set directory=b --set seed=2\n' >sweep
prints "array.sbatch submits itself" \
    "sbatch $site --array=1-2 --array=1-2%1 $jobs/array.sbatch sweep --set seed=3; jobs $jobs" \
    "$jobs/array.sbatch" --array=1-2%1 sweep --set seed=3
unset SITE_SBATCH SITE_GPUS
misused "train.sbatch without a run" 'what to run?' "$jobs/train.sbatch" --nodes=2
misused "train.sbatch with a run file that is wrong" "'train.steps': expected a whole number" \
    "$jobs/train.sbatch" r.yaml --set train.steps=x
misused "array.sbatch with a sweep that is none" 'expected a readable text file' \
    "$jobs/array.sbatch" none
printf 'r.yaml --set directory=a\nr.yaml --set directory=./a\n' >sweep
misused "two runs of a sweep in one directory" 'runs 1 and 2 would both train in' \
    "$jobs/array.sbatch" sweep
: >sweep
misused "array.sbatch with an empty sweep" 'no line with a run' "$jobs/array.sbatch" sweep
misused "scaling.sbatch in no way known" 'expected strong or weak' \
    env SCALING=odd "$jobs/scaling.sbatch" r.yaml
cp "$jobs/train.sbatch" bin/train.sbatch # as Slurm does
misused "train.sbatch on a node that has no loop.sh" "no loop.sh in '$PWD'" \
    env LOCKSTEP_JOBS="$PWD" bin/train.sbatch r.yaml
rm bin/sbatch
command -v sbatch >/dev/null || misused "train.sbatch without Slurm" 'no sbatch here' \
    "$jobs/train.sbatch" r.yaml

# ---- in a job, whose Slurm is made up ------------------------------------------------------------

# slurm.state: what squeue knows; scontrol fails while slurm.away counts down, and a requeue ends
# the script, as Slurm does. A second is a tenth of one.
cat >bin/squeue <<'END'
#!/bin/sh
[ "$(cat slurm.away)" -le 0 ] || exit 1
case $* in *%T*) cat slurm.state ;; *) exit 1 ;; esac
END
cat >bin/scontrol <<'END'
#!/bin/sh
away=$(cat slurm.away)
echo $((away - 1)) >slurm.away
if [ "$away" -gt 0 ]; then
    echo 'scontrol: error: Unable to contact slurm controller (connect failure)' >&2
    exit 1
fi
echo "$*" >>slurm.requeued
(/bin/sleep 0.5 && kill -TERM $PPID) >/dev/null 2>&1 &
END
cat >bin/sleep <<'END'
#!/bin/sh
echo "$1" >>slurm.pauses
[ "${CANCEL:-0}" != "$1" ] || { echo 0 >slurm.away; echo CANCELLED >slurm.state; }
exec /bin/sleep "$(awk -v n="$1" 'BEGIN { print n / 10 }')"
END
cat >saves <<END
#!/bin/sh
case "\$*" in *--print* | --version) exec '$LOCKSTEP' "\$@" ;; esac
exit 75
END
cat >bin/srun <<'END'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
END
chmod +x bin/squeue bin/scontrol bin/sleep bin/srun saves

# in_job AWAY VARIABLE=VALUE...: a start that stops in time, while scontrol fails AWAY times.
in_job() {
    rm -f slurm.requeued slurm.pauses
    echo "$1" >slurm.away
    echo RUNNING >slurm.state
    shift
    run env SLURM_JOB_ID=7 LAUNCHER=srun SRUN='srun --wait=30' LOCKSTEP="$PWD/saves" "$@" \
        "$jobs/train.sbatch" r.yaml --set directory=injob
    rm -f injob.restarts
}
in_job 0
ok "a job that has saved is requeued" test "$(cat slurm.requeued)" = "requeue 7" -a "$rc" -eq 143
in_job 8
ok "also after a controller that is away for two minutes: $(tr '\n' ' ' <slurm.pauses)" \
    test "$(cat slurm.requeued)" = "requeue 7" -a "$rc" -eq 143
ok "asked at growing distances" \
    test "$(head -n 8 slurm.pauses | tr '\n' ' ')" = "1 2 4 8 16 32 60 60 "
in_job 99 REQUEUE_WAIT=5
ok "not for ever" test "$rc" -eq 75 -a ! -e slurm.requeued
ok "and it says so" says err 'this job could not be requeued in ' 'submit it again to go on'
in_job 99 CANCEL=4
ok "nor once it is cancelled, which would bring it back to life" \
    test "$rc" -eq 75 -a ! -e slurm.requeued
ok "and it says so" says err 'Slurm is ending this job (CANCELLED)'
ended=$(($(date +%s) - 100))
in_job 5 SLURM_JOB_END_TIME=$ended
ok "at its end a job has half a minute for it" test "$(cat slurm.requeued)" = "requeue 7"
# The second of a sweep's runs; the first cannot be read any more.
printf 'gone.yaml\nr.yaml --set directory=injob\n' >sweep
echo 0 >slurm.away
rm -f slurm.requeued
run env SLURM_JOB_ID=7_2 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=2 LAUNCHER=srun \
    SRUN='srun --wait=30' LOCKSTEP="$PWD/saves" "$jobs/array.sbatch" sweep
ok "a job of a sweep is requeued, whatever is wrong with another's run" \
    test "$(cat slurm.requeued)" = "requeue 7_2"
rm -rf injob.restarts slurm.requeued away
(sleep 1 && mkdir away && cp sweep away/later) &
run env SLURM_JOB_ID=7_2 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=2 LAUNCHER=srun \
    SRUN='srun --wait=30' LOCKSTEP="$PWD/saves" "$jobs/array.sbatch" away/later
ok "a sweep that is not there yet is waited for" says out 'away is not there, or empty; waiting'
ok "and found" test "$(cat slurm.requeued)" = "requeue 7_2"
rm -f injob.restarts
rm bin/squeue bin/scontrol bin/sleep bin/srun

# ---- installed -----------------------------------------------------------------------------------

mkdir -p prefix/bin prefix/share/lockstep
cp -R "$jobs" prefix/share/lockstep/jobs
cp "$LOCKSTEP" prefix/bin/lockstep
run env -u LOCKSTEP prefix/share/lockstep/jobs/local.sh r.yaml --set directory=installed \
    --set train.steps=20
ok "an installed script finds its program" says out "$PWD/prefix/bin/lockstep train r.yaml" \
    'installed: done'

finish
