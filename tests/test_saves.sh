#!/bin/sh
# Checkpoints of a run, by the commands: which stay, that they change no bit of the training that
# they are written beside, what a damaged one does to train --resume, eval, generate and show.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

STEPS=20 EVERY=2
# shellcheck source=tests/small.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/small.sh"

prints "saves beside training are told" \
    '10 checkpoints, |MiB/s; training waited |step-000020.h5' "$LOCKSTEP" train a.yaml
ok "the three newest stay: $(files a)" test "$(files a)" = "16 18 20 "
prints "two, every ninth and the initial values" 'step-000020.h5' 2 "$LOCKSTEP" train a.yaml \
    --set directory=b --set checkpoint.keep=2 --set checkpoint.keep_every=9 \
    --set checkpoint.every=3 --set checkpoint.initial=true --set data.resident=no
ok "they stay: $(files b)" test "$(files b)" = "0 9 18 20 "
prints "all, on 4 ranks" 'step-000020.h5' 4 "$LOCKSTEP" train a.yaml \
    --set directory=c --set checkpoint.keep=0 --set checkpoint.every=4 --set data.resident=no
ok "all stay" test "$(files c | wc -w)" -eq 5
for run in b c; do
    ok "streaming beside saves changes no bit: $run" "$h5same" a/checkpoints/latest \
        $run/checkpoints/latest
    ok "nor the log: $run" cmp a/loss.log $run/loss.log
done

# damage FILE: in the middle.
damage() { printf 'damage' | dd of="$1" bs=1 seek=60000 conv=notrunc 2>/dev/null; }

cp -R a d
damage d/checkpoints/step-000020.h5
before='d/checkpoints/step-000020.h5: |the checkpoint before it is d/checkpoints/step-000018.h5'
bad "eval of a run whose newest checkpoint is damaged" "$before" "$LOCKSTEP" eval d a.h5
bad "generate from it" "$before" "$LOCKSTEP" generate d -p a
cp -R d t
truncate -s 50000 t/checkpoints/step-000020.h5
bad "show of one that is cut short" \
    "step-000020.h5: |the checkpoint before it is t/checkpoints/step-000018.h5" "$LOCKSTEP" show t
cp -R d e
prints "--resume passes over it and tells so" \
    'warning: d/checkpoints/step-000020.h5: |; trying step-000018.h5|from step 18|MiB read at' \
    "$LOCKSTEP" train a.yaml --set directory=d --resume
ok "to the same bits" "$h5same" a/checkpoints/latest d/checkpoints/latest
ok "and the same log" cmp a/loss.log d/loss.log
rm e/checkpoints/step-000020.h5
damage e/checkpoints/step-000018.h5
prints "one that is gone and a damaged one, on 2 ranks" \
    'step-000020.h5: expected a lockstep checkpoint, found no such file|trying step-000016.h5' \
    2 "$LOCKSTEP" train a.yaml --set directory=e --resume
ok "to the same bits" "$h5same" a/checkpoints/latest e/checkpoints/latest
cp -R a f
for step in 16 18 20; do damage f/checkpoints/step-0000$step.h5; done
run "$LOCKSTEP" train a.yaml --set directory=f --resume
ok "none that is whole: $(cat "$work/err")" says err 'step-000020.h5: ' \
    'no checkpoint before it is whole'
ok "exit code 2, both others were tried" test "$rc $(grep -c '; trying step-' "$work/out")" = "2 2"
finish
