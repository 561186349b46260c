#!/bin/sh
# Long (make check-long): jobs/resnet_cpu.yaml on Fashion-MNIST, on 2 ranks, reaches the accuracy
# that its head promises. FASHION_MNIST is where the four files lie.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

job=$srcdir/jobs/resnet_cpu.yaml
bound=$(sed -n 's/^# expect: validation accuracy \([0-9.]*\) or more;.*/\1/p' "$job")
ok "the head of $job promises an accuracy: $bound" test -n "$bound"
set=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
if [ ! -f "$set/train-images-idx3-ubyte.gz" ]; then
    skip "Fashion-MNIST is learnt to $bound" "not installed (Debian: dataset-fashion-mnist)"
    finish
fi
run "$LOCKSTEP" import idx "$set/train-images-idx3-ubyte.gz" "$set/train-labels-idx1-ubyte.gz" \
    "$set/t10k-images-idx3-ubyte.gz" "$set/t10k-labels-idx1-ubyte.gz" -o fashion.h5
ok "the images are imported" test "$rc" -eq 0
LIMIT=3600
ranks 2 "$LOCKSTEP" train "$job" --set directory=run --set data.file=fashion.h5
ok "it trains, in $seconds s" test "$rc" -eq 0
[ "$rc" -eq 0 ] || note_run "$job"
run "$LOCKSTEP" eval run fashion.h5
share=$(awk '$3 == "accuracy" { print $4 }' "$work/out")
ok "accuracy $share >= $bound" awk -v a="$share" -v b="$bound" 'BEGIN { exit !(b > 0 && a >= b) }'
finish
