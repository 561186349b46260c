#!/bin/sh
# Long (make check-long): nanoGPT's CPU configuration, with ALiBi, on tiny Shakespeare, 2 ranks.
# $LOCKSTEP_DATA/tinyshakespeare/input.txt is the text; without it nothing is tested.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

bound=1.88
text=${LOCKSTEP_DATA:-}/tinyshakespeare/input.txt
if [ -z "${LOCKSTEP_DATA:-}" ] || [ ! -f "$text" ]; then
    skip "tiny Shakespeare is learnt to $bound" "set LOCKSTEP_DATA to where tinyshakespeare/ lies"
    finish
fi
run "$LOCKSTEP" import text "$text" -v character -o shakespeare.h5
ok "the text is imported, of 65 characters" grep -q 'vocabulary of 65' "$work/out"
LIMIT=7200
ranks 2 "$LOCKSTEP" train "$srcdir/jobs/shakespeare_cpu.yaml" --set directory=run \
    --set data.file=shakespeare.h5
best=$(awk 'NR == 1 || $2 < best { best = $2 } END { print best }' run/validation.log)
ok "best validation loss $best <= $bound after $seconds s" \
    awk -v a="$best" -v b="$bound" 'BEGIN { exit !(a > 0 && a <= b) }'
[ "$rc" -eq 0 ] || note_run "jobs/shakespeare_cpu.yaml"
finish
