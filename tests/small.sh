# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154,SC2317 # variables of the tests and of tap.sh; called by ok
# What the tests of runs share; read by them after tap.sh, in an empty directory: a text, a.h5, and
# a.yaml, a run of $STEPS steps of a small model that saves every $EVERY steps.
: "${STEPS:=12}" "${EVERY:=4}"
[ -x "$h5same" ] || echo "Bail out! make tests/h5same"

awk 'BEGIN { while (i < 900) print "in step " i++ " a quick fox jumps over dog " i % 7 "." }' >a.txt
run "$LOCKSTEP" import text a.txt -v character -o a.h5
ok "the text is imported" test "$rc" -eq 0
cat >a.yaml <<END
directory: a
data:
  file: a.h5
model:
  layers: 1
  width: 32
  heads: 2
  context: 16
train:
  steps: $STEPS
  batch: 8
  leaves: 8
  device: $DEVICE
eval:
  batches: 1
checkpoint:
  every: $EVERY
END

# files DIRECTORY: the steps of its checkpoints, on a line.
files() {
    find "$1/checkpoints" -name 'step-*.h5' | sort | sed 's|.*-0*\([0-9]\)|\1|; s|\.h5||' |
        tr '\n' ' '
}
