#!/bin/sh
# Saved on N ranks, loaded on M, for all pairs of 1, 2, 3, 4 and 8. Tensors, by the C program: every
# bit. Training, whose ranks are powers of two: a run stopped on N and continued on M has the same
# bits as one that was never stopped; and what it saved is read by three ranks, as any number may.
# shellcheck disable=SC2086 # words without blanks
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
EVERY=3
# shellcheck source=tests/small.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/small.sh"

ranks 8 "$builddir/tests/test_checkpoint"
pairs=$(grep -c '^ok .* saved on [12348], loaded on [12348]: every bit' "$work/out")
ok "tensors are equal for $pairs of 25 pairs" test "$rc" -eq 0 -a "$pairs" -eq 25

more="--set model.dropout=0.1 --set train.precision=fp16 --set train.ema=0.9 --set eval.every=4"
run "$LOCKSTEP" train a.yaml $more --set directory=whole
ok "a run that is not stopped" test "$rc" -eq 0
continued=0
# shellcheck disable=SC2317 # called by ok
same_loss() { diff one "$work/out"; }

for n in 1 2 4 8; do
    ranks $n "$LOCKSTEP" train a.yaml $more --set directory="from-$n" --set train.stop_after=7
    ok "stopped on $n ranks" test "$rc" -eq 0
    for m in 1 2 4 8; do
        cp -R "from-$n" both
        ranks $m "$LOCKSTEP" train a.yaml $more --set directory=both --resume
        [ "$rc" -eq 0 ] || note_run "$m ranks"
        if same both whole >"$work/same" 2>&1; then
            continued=$((continued + 1))
            pass "saved on $n, continued on $m: the same bits"
        else
            fail "saved on $n, continued on $m: the same bits"
            note_file "$work/same"
        fi
        rm -rf both
    done
    for m in 1 2 3 4 8; do
        ranks $m "$LOCKSTEP" eval "from-$n" a.h5
        ok "saved on $n, evaluated on $m: $(grep '^loss' "$work/out")" test "$rc" -eq 0
        [ $m -gt 1 ] || cp "$work/out" one
        ok "as on one rank" same_loss
    done
done
ok "exact continuation for $continued of 16 pairs" test $continued -eq 16
finish
