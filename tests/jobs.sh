# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154,SC2317 # variables of the tests and of tap.sh; called by ok
# What the tests of jobs/ share: a run that goes on until it is given its end; read by them after
# tap.sh, in an empty directory.
jobs=$srcdir/jobs
export LOCKSTEP MPIRUN
LIMIT=600 # of a machine with better things to do

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

# run_file NAME: NAME.yaml, to train in the directory NAME.
run_file() { sed "s/^directory: .*/directory: $1/" r.yaml >"$1.yaml"; }
# give_end NAME: for the next start.
give_end() {
    steps=$(($(newest "$1") + 60))
    sed -i "s/^  steps: .*/  steps: $steps/" "$1.yaml"
}
# newest DIRECTORY: the step of its newest checkpoint.
newest() {
    find "$1/checkpoints" -name 'step-*.h5' 2>/dev/null |
        sed -n 's/.*step-0*\([0-9]*\)\.h5$/\1/p' | sort -n | tail -n 1
}
beyond() { [ "$(newest "$1")" -gt "$2" ]; }
progress() { # DIRECTORY: a newer checkpoint than now
    at=$(newest "$1")
    within 400 beyond "$1" "${at:-0}"
}

# same_alone NAME: the finished run is that of one start on one rank.
same_alone() {
    ok "$1: RUNDIR/DONE is there, RUNDIR.restarts is gone" test -f "$1/DONE" -a ! -e "$1.restarts"
    ranks 1 "$LOCKSTEP" train "$1.yaml" --set directory="$1-alone" --set checkpoint.every=0
    ok "$1: the bits of a run that nothing happens to, step $(newest "$1")" same "$1-alone" "$1"
}
