#!/bin/sh
# A run stopped on N ranks and continued on M, for all pairs of 1, 2, 4 and 8: the same bits as one
# that was never stopped. Saving and loading for other numbers, without training: test_checkpoint.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

h5same=$builddir/tests/h5same
[ -x "$h5same" ] || echo "Bail out! make tests/h5same"
awk 'BEGIN { while (i < 900) print "in step " i++ " a quick fox jumps over dog " i % 7 "." }' >a.txt
run "$LOCKSTEP" import text a.txt -v character -o a.h5
cat >a.yaml <<END
directory: whole
data:
  file: a.h5
model:
  layers: 1
  width: 32
  heads: 2
  context: 16
  dropout: 0.1
train:
  steps: 12
  batch: 8
  leaves: 8
  precision: fp16
  ema: 0.9
  device: $DEVICE
eval:
  every: 4
  batches: 1
checkpoint:
  every: 3
END
run "$LOCKSTEP" train a.yaml
ok "a run that is not stopped" test "$rc" -eq 0

# shellcheck disable=SC2317 # called by ok
same() {
    "$h5same" "$1/checkpoints/latest" whole/checkpoints/latest &&
        cmp "$1/loss.log" whole/loss.log && cmp "$1/validation.log" whole/validation.log
}

for n in 1 2 4 8; do
    ranks $n "$LOCKSTEP" train a.yaml --set directory="from-$n" --set train.stop_after=7
    ok "stopped on $n ranks" test "$rc" -eq 0
    for m in 1 2 4 8; do
        cp -R "from-$n" both
        ranks $m "$LOCKSTEP" train a.yaml --set directory=both --resume
        [ "$rc" -eq 0 ] || note_run "$m ranks"
        ok "saved on $n, continued on $m: the same bits" same both
        rm -rf both
    done
done
finish
