#!/bin/sh
# Shows on a GPU what the CPU's tests show of traces, in about three minutes of one GPU:
#
#   make -j && make tests/h5edit tests/h5same && sh ../bench/trace_gpu.sh   (in the build directory)
#
# 1 the trace of a captured step of GPT-2 124M: its table, no kernel lost, kernels and gaps against
#   the step as events measure it (within 2 %); 2 what tracing costs (below 5 %); 3 the bits do not
#   change; 4 an Inf planted in block 3's attention is found; 5 tests/test_trace_command.sh on the
#   GPU, with 2 and 4 ranks on it. The last lines say how many checks failed.
# DEVICE=cpu with a small run file as GPT2 tries this script where there is no GPU.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
: "${DEVICE:=cuda}"
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

LIMIT=300
export DEVICE
: "${GPT2:=$srcdir/bench/gpt2.yaml}"
h5edit=$builddir/tests/h5edit
if [ ! -x "$h5edit" ] || [ ! -x "$h5same" ]; then
    echo "Bail out! make tests/h5edit tests/h5same"
    exit 1
fi

awk 'BEGIN { while (i < 40000) print "in step " i++ " a quick fox jumps over dog " i % 7 "." }' \
    >a.txt
run "$LOCKSTEP" import text a.txt -v character -o a.h5
ok "the text is imported" test "$rc" -eq 0
gpt2() { # DIRECTORY ARGUMENT...
    directory=$1
    shift
    run "$LOCKSTEP" train "$GPT2" --set directory="$directory" \
        --set data.file=a.h5 --set train.device="$DEVICE" --set eval.batches=0 \
        --set checkpoint.every=0 "$@"
    [ "$rc" -eq 0 ] || note_run "train into $directory"
}
figure() { awk -v label="  $1 " 'index($0, label) == 1 {
    print substr($0, length(label)) + 0; exit }' "$work/out"; }
trained() { sed -n 's/^[0-9]* steps in \([0-9.]*\) s.*/\1/p' "$work/out"; }

# ---- 1: a captured step --------------------------------------------------------------------------

run "$LOCKSTEP" profile "$GPT2" --set data.file=a.h5 --set train.device="$DEVICE" \
    --steps 20 --directory profiled --perfetto profiled.json
ok "profile of GPT-2" test "$rc" -eq 0
note_file "$work/out" 120
[ "$rc" -eq 0 ] || note_file "$work/err"
step=$(figure 'a step') nodes=$(figure 'nodes, added up')
covered=$(figure 'in which a node ran')
ok "no kernel is lost" sh -c "! grep -q 'belong to no node' '$work/out'"
ok "every node has a time" sh -c "'$h5edit' profiled/trace.h5 print span/node | sort -nu | wc -l |
    awk -v nodes=\$('$h5edit' profiled/trace.h5 print node/section | wc -l) \
        '{ print \$1 \" of \" nodes - 1; exit !(\$1 >= nodes - 2) }'"
ok "kernels take $nodes ms, cover $covered ms, of a step of $step ms by events" \
    awk "BEGIN { exit !($covered <= 1.005 * $step && $covered >= 0.98 * $step) }"
ok "the JSON is whole" sh -c "tail -c 4 profiled.json | grep -q ']}'"

# ---- 2: what it costs ----------------------------------------------------------------------------

# Each difference is 200 steps: what starting, planning and writing take falls out.
for traced in 0 1; do
    for steps in 30 230; do
        to=$((steps - 10))
        gpt2 cost-$traced-$steps --set train.steps=1000 --set train.stop_after=$steps \
            --set trace.from=$((traced * 11)) --set trace.to=$((traced * to))
        eval "seconds_${traced}_$steps=$(trained)"
        rm -rf cost-$traced-$steps
    done
done
# shellcheck disable=SC2154 # set by eval
ok "200 steps take $seconds_0_30 to $seconds_0_230 s, traced $seconds_1_30 to $seconds_1_230 s" \
    awk "BEGIN { plain = $seconds_0_230 - $seconds_0_30; traced = $seconds_1_230 - $seconds_1_30
        print \"plain \" plain \" s, traced \" traced \" s: \" 100 * (traced / plain - 1) \" %\"
        exit !(traced < 1.05 * plain) }"
note "$(cat "$work/ok")"

# ---- 3 and 4: bits, anomalies --------------------------------------------------------------------

gpt2 plain --set train.steps=12
gpt2 traced --set train.steps=12 --set trace.from=3 --set trace.to=8
gpt2 watched --set train.steps=12 --detect-anomaly --launch-blocking
for name in traced watched; do
    ok "$name: the bits are those of a run that is not" \
        "$h5same" plain/checkpoints/latest $name/checkpoints/latest
    ok "$name: and the losses" cmp plain/loss.log $name/loss.log
    rm -rf $name
done
gpt2 wrong --set train.steps=12 --set train.stop_after=4
"$h5edit" wrong/checkpoints/step-000004.h5 plant parameters/blocks/3/attn/qkv/weight 77 inf
gpt2 wrong --set train.steps=12 --resume --detect-anomaly
note_file "$work/err" 4
ok "an Inf in block 3's attention is found" says err 'blocks.3.attn.qkv (linear) is the first node'

# ---- 5: the tests --------------------------------------------------------------------------------

LIMIT=900
run env LIMIT=120 LOCKSTEP="$LOCKSTEP" srcdir="$srcdir" builddir="$builddir" \
    sh "$srcdir/tests/test_trace_command.sh"
grep '^not ok' "$work/out" | sed 's/^/# /'
good=$(grep -c '^ok' "$work/out")
ok "tests/test_trace_command.sh: $good of $(sed -n 's/^1\.\.//p' "$work/out")" test "$rc" -eq 0

note "$tap_failures checks failed"
finish
