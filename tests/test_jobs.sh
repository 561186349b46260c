#!/bin/sh
# The batch scripts of jobs/ without Slurm: jobs/local.sh, whose loop the others share, and what
# they hand to sbatch. tests/test_slurm.sh runs them for real.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
h5same=$builddir/tests/h5same
jobs=$srcdir/jobs
export LOCKSTEP MPIRUN PAUSE=0
LIMIT=600 # of a machine with better things to do
trap 'pkill -KILL -f "train $work/"; rm -rf "$work"' EXIT

awk 'BEGIN { while (i < 900) print "in step " i++ " a quick fox jumps over dog " i % 7 "." }' >a.txt
run "$LOCKSTEP" import text a.txt -v character -o a.h5
ok "the text is imported" test "$rc" -eq 0
# At a constant rate the number of steps is not part of the arithmetic: a run goes on until enough
# has happened to it, on a machine of any speed, and is then given its end.
cat >r.yaml <<END
directory: none
data:
  file: a.h5
model:
  layers: 1
  width: 16
  heads: 2
  context: 32
train:
  steps: 10000000
  batch: 8
  leaves: 4
  device: cpu
optimizer:
  lr: 1e-3
  min_lr: 1e-3
eval:
  every: 100
  batches: 2
checkpoint:
  every: 20
END

newest() {
    find "$1/checkpoints" -name 'step-*.h5' 2>/dev/null |
        sed -n 's/.*step-0*\([0-9]*\)\.h5$/\1/p' | sort -n | tail -n 1
}
# within SECONDS COMMAND...: until it succeeds.
within() {
    end=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$(date +%s)" -ge $end ]; then return 1; fi
        sleep 0.05
    done
}
# shellcheck disable=SC2317 # called by within
beyond() { [ "$(newest "$1")" -gt "$2" ]; }
progress() { # NAME: a newer checkpoint than now
    at=$(newest "$1")
    within 400 beyond "$1" "${at:-0}"
}
starts() { grep -c -- '--resume-or-start' "$1.log"; }
# shellcheck disable=SC2317 # called by within
started() { [ "$(starts "$1")" -eq "$2" ]; }
# shellcheck disable=SC2317 # called by within
gone() { ! kill -0 "$1" 2>/dev/null; }

# begin NAME RANKS: local.sh in the background. Sets local.
begin() {
    sed "s/^directory: .*/directory: $1/" r.yaml >"$1.yaml"
    # a shell's background jobs ignore SIGINT
    env --default-signal=INT "$jobs/local.sh" -n "$2" "$PWD/$1.yaml" >"$1.log" 2>&1 </dev/null &
    local=$!
}
# give_end NAME: for the next start.
give_end() { sed -i "s/^  steps: .*/  steps: $(($(newest "$1") + 60))/" "$1.yaml"; }

# ends NAME CODE STARTS 'TEXT': $local ends so.
ends() {
    within 400 gone $local || pkill -KILL -f "$PWD/$1.yaml"
    wait $local
    rc=$?
    if [ $rc -eq "$2" ] && [ "$(starts "$1")" -eq "$3" ] && grep -qF -e "$4" "$1.log"; then
        pass "$1: $4; $3 starts, exit code $rc"
    else
        fail "$1: exit code $rc, expected $2; $(starts "$1") starts, expected $3; and '$4'"
        note_file "$1.log" 60
    fi
}

# same NAME: the run is that of one start on one rank.
same() {
    ranks 1 "$LOCKSTEP" train "$1.yaml" --set directory="$1-alone" --set checkpoint.every=0
    if "$h5same" "$1-alone/checkpoints/latest" "$1/checkpoints/latest" >"$work/ok" 2>&1 &&
        cmp "$1-alone/loss.log" "$1/loss.log" >>"$work/ok" 2>&1 &&
        cmp "$1-alone/validation.log" "$1/validation.log" >>"$work/ok" 2>&1; then
        pass "$1: the bits of a run that nothing happens to, step $(newest "$1")"
    else
        fail "$1: other bits than of a run that nothing happens to"
        note_file "$work/ok"
    fi
    ok "$1: RUNDIR/DONE is there, RUNDIR.restarts is gone" test -f "$1/DONE" -a ! -e "$1.restarts"
}

# ---- kill -9 -------------------------------------------------------------------------------------

begin killed 2
for i in 1 2; do
    progress killed
    # the end is read by the start after this one
    [ $i -eq 1 ] || give_end killed
    kill -KILL "$(pgrep -f "^$LOCKSTEP train $PWD/killed.yaml " | shuf -n 1)"
    within 200 started killed $((i + 1))
done
ends killed 0 3 'failed with exit code'
same killed

# ---- signals -------------------------------------------------------------------------------------

begin usr1 2
for i in 1 2 3; do
    progress usr1
    [ $i -lt 3 ] || give_end usr1
    kill -USR1 $local
    within 200 started usr1 $((i + 1))
done
ends usr1 0 4 'SIGUSR1: the run is to save and stop'
ok "usr1: it saved each time" test "$(grep -c 'saved at step' usr1.log)" -eq 3
same usr1

for signal in TERM INT HUP; do
    begin $signal 1
    progress $signal
    kill -$signal $local
    ends $signal 75 1 "SIG$signal: stopped; the same command goes on"
done
give_end INT
"$jobs/local.sh" "$PWD/INT.yaml" >INT.log 2>&1 &
local=$!
ends INT 0 1 'INT: done'
same INT

# A second signal does not wait: that of a run which stands still.
begin hurry 1
progress hurry
hurry=$(pgrep -f "^$LOCKSTEP train $PWD/hurry.yaml ")
kill -STOP "$hurry"
kill -TERM $local
within 10 grep -q 'SIGTERM: the run is to save' hurry.log
sleep 3
kill -TERM $local
sleep 0.2
kill -CONT "$hurry"
ends hurry 75 1 'SIGTERM: stopped'

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
misused "no run file" 'none.yaml' "$jobs/local.sh" none.yaml
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
rm bin/sbatch
command -v sbatch >/dev/null || misused "train.sbatch without Slurm" 'no sbatch here' \
    "$jobs/train.sbatch" r.yaml

# ---- installed -----------------------------------------------------------------------------------

mkdir -p prefix/bin prefix/share/lockstep
cp -R "$jobs" prefix/share/lockstep/jobs
cp "$LOCKSTEP" prefix/bin/lockstep
run env -u LOCKSTEP prefix/share/lockstep/jobs/local.sh r.yaml --set directory=installed \
    --set train.steps=20
ok "an installed script finds its program" says out "$PWD/prefix/bin/lockstep train r.yaml" \
    'installed: done'

finish
