#!/bin/sh
# What a step's time goes to, and what went wrong in it: traces on 1, 2 and 4 ranks, profile, the
# export, --detect-anomaly and --launch-blocking. None of them changes a bit.
#
# On a GPU host: LOCKSTEP=build/lockstep DEVICE=cuda sh tests/test_trace_command.sh
# (make tests/h5edit tests/h5same first; several ranks share a GPU where there are fewer).
# shellcheck disable=SC2016,SC2086,SC2317 # awk programs; words without blanks; called by ok
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

h5edit=$builddir/tests/h5edit
[ -x "$h5edit" ] && [ -x "$h5same" ] || echo "Bail out! make tests/h5edit tests/h5same"

awk 'BEGIN { while (i < 900) print "in step " i++ " a quick fox jumps over dog " i % 7 "." }' >a.txt
run "$LOCKSTEP" import text a.txt -v character -o a.h5
ok "the text is imported" test "$rc" -eq 0
cat >run.yaml <<END
directory: none
data:
  file: a.h5
model:
  layers: 4
  width: 64
  heads: 4
  context: 32
  dropout: 0.1
train:
  steps: 12
  batch: 16
  leaves: 8
  device: $DEVICE
eval:
  every: 5
  batches: 2
END

# train NAME RANKS ARGUMENT...
train() {
    name=$1 n=$2
    shift 2
    ranks "$n" "$LOCKSTEP" train run.yaml --set directory="$name" "$@"
    if [ "$rc" -ne 0 ]; then
        fail "$name trains"
        note_run "$n ranks, $*"
    fi
}
# figure LABEL: the number after a label that a line of the last run begins with.
figure() { awk -v label="  $1 " 'index($0, label) == 1 {
    print substr($0, length(label)) + 0; exit }' "$work/out"; }
# Of a table, the columns of nodes and of times add up to the total.
table_adds_up() { awk -v heading="$1" '
    index($0, heading) == 1 { inside = 1; next }
    inside && NF == 0 { exit }
    inside { nodes = $(NF - 5); ms = $(NF - 4) }
    inside && $1 == "total" { total_nodes = nodes; total = ms; exit }
    inside { sum += ms; count += nodes; lines++ }
    END { d = sum - total; if (d < 0) d = -d
        print lines " lines, " count " of " total_nodes " nodes, " sum " of " total " ms"
        exit !(lines > 2 && count == total_nodes && d <= 0.001 * lines) }' "$work/out"; }

# ---- traces ------------------------------------------------------------------------------------

# written NAME: what writing the trace took, and the step before it, by the run log, ms.
written() {
    sed -n 's/^{"event":"trace",.*"first":4,"last":9,"seconds":\([0-9.e-]*\)}$/\1/p' "$1/run.jsonl"
    sed -n 's/^{"event":"step",.*"step":9,.*"step_ms":{"mean":\([0-9.]*\),.*/\1/p' "$1/run.jsonl"
}

train plain 1
for n in 1 2 4; do
    train traced-$n $n --set trace.from=4 --set trace.to=9
    ok "$n ranks: the trace is announced" says out 'steps 4 to 9 traced, ' \
        "; lockstep trace traced-$n/"
    ok "$n ranks: traced, the run has the bits of one that is not" same plain traced-$n
    prints "$n ranks: the trace is printed" \
        "$n rank|8 leaves, steps 4 to 9|attention_grad|blocks.3|activations|in which none ran" \
        "$LOCKSTEP" trace traced-$n/trace.h5
    for table in 'kinds of node' scopes nodes; do
        ok "$n ranks: the table of $table adds up" table_adds_up "$table"
    done
    [ "$DEVICE" = cuda ] || ok "$n ranks: rates of a CPU can be read" awk '
        /^ceilings/ { if ($4 <= 0 || $5 != "GFLOP/s,") exit 1; seen++ }
        $1 == "linear" { if ($(NF - 2) <= 0.01) exit 1; seen++ }
        END { exit seen != 2 }' "$work/out"
    step=$(figure 'a step') nodes=$(figure 'nodes, added up')
    # a busy machine keeps a rank waiting between nodes too; test_trace.c holds the 2 %
    ok "$n ranks: nodes take $nodes ms of a step's $step" awk -v device="$DEVICE" \
        "BEGIN { share = $nodes / $step; exit !(share > (device == \"cpu\" ? 0.9 : 0.2) &&
            share < (device == \"cpu\" ? 1.0001 : 1.5)) }"
    reduced=$(figure 'reduction over ranks')
    if [ $n -eq 1 ]; then
        ok "1 rank: nothing is reduced" test "$reduced" = 0
    else
        ok "$n ranks: the reduction takes $reduced ms" awk "BEGIN { exit !($reduced > 0) }"
        ok "$n ranks: the slowest is named" grep -q 'slowest rank.* rank [0-3] on ' "$work/out"
    fi
    ok "$n ranks: nothing is lost" sh -c "! grep -q 'belong to no node' '$work/out'"
    # every leaf runs every leaf node in each of six steps, whoever has it
    "$h5edit" traced-$n/trace.h5 print span/leaf >leaf
    "$h5edit" traced-$n/trace.h5 print span/rank >rank
    "$h5edit" traced-$n/trace.h5 print span/step >step
    ok "$n ranks: each has its leaves and steps" sh -c "paste -d ' ' leaf rank step | awk -v n=$n '
        \$1 >= 0 && int(\$1 / (8 / n)) != \$2 { exit 1 } { leaf[\$1]++; step[\$3]++ }
        END { for (i = 1; i < 6; i++) if (!step[i] || step[i] != step[0]) exit 1
            for (i = 0; i < 8; i++) if (!leaf[i]) exit 1 }'"
done

# Each step is kept from running at times by what else the machine does, but hardly in all runs.
for n in 1 2 4; do written traced-$n | paste -s -d ' '; done >times.txt
ok "the run log has the traces, whose writing is in no step's time" \
    awk 'NF == 2 && $2 < 1e3 * $1 { n++ } NF != 2 { exit 1 } END { exit !n }' times.txt

# Rank 1 takes 0.3 ms longer for each product. Rank 0 waits for it in the reduction, so that
# the steps of both take as long: their own work tells.
if [ "$DEVICE" = cpu ] && ! ldd "$LOCKSTEP" | grep -q libasan; then # which must be loaded first
    ranks 2 env LD_PRELOAD="$builddir/tests/plant/planted.so" PLANT_RANK=1 PLANT_SLOW=300 \
        "$LOCKSTEP" train run.yaml --set directory=slow --set trace.from=3 --set trace.to=6 \
        --set train.stop_after=6
    [ "$rc" -eq 0 ] || note_run "a run with a slow rank"
    run "$LOCKSTEP" trace slow/trace.h5
    own=$(figure 'slowest rank, own work') other=$(figure 'fastest rank, own work')
    ok "a slow rank is named, $own ms beside $other" \
        grep -q 'slowest rank, own work .* rank 1 on .*, of a step of ' "$work/out"
    ok "and the fast one" grep -q 'fastest rank, own work .* rank 0 on ' "$work/out"
    ok "whose own work is less" awk "BEGIN { exit !($own > 2 * $other && $other > 0) }"
    ok "though its steps are not" awk '/ rank, own work / { step[n++] = $(NF - 1) }
        END { exit !(n == 2 && step[1] > 0.5 * step[0]) }' "$work/out"
    grep ' rank, own work ' "$work/out" | sed 's/^/#/'
    run "$LOCKSTEP" report slow -o slow.html
    ok "the report names it" grep -q 'own work, slowest rank: 1<' slow.html
else
    skip "a slow rank is named" "planted in the products of the CPU, without a sanitizer"
fi

train part 1 --set trace.from=6 --set trace.to=20 --set train.stop_after=8
ok "a run that stops within the window traces what it did" says out 'steps 6 to 8 traced'
train part 1 --set trace.from=6 --set trace.to=20 --resume
ok "resumed, it traces the rest" says out 'steps 9 to 12 traced'
ok "and has the same bits" same plain part
train late 2 --set trace.from=40 --set trace.to=50
ok "a trace that this start does not reach is not left out without a word" \
    says out 'steps 40 to 50 are not in this start (1 to 12): nothing is traced'
ok "which is said once" \
    test "$(grep -c 'nothing is traced' "$work/out")" -eq 1 -a ! -e late/trace.h5
train early 1 --set train.stop_after=4
train early 1 --resume --set trace.from=2
ok "nor one of an earlier start" \
    says out 'step 2 is not in this start (5 to 12): nothing is traced'
prints "show knows a trace" 'lockstep trace, version 1|span/seconds' "$LOCKSTEP" show part/trace.h5

# ---- the export ----------------------------------------------------------------------------------

prints "a trace is exported" 'out.json: |ui.perfetto.dev' \
    "$LOCKSTEP" trace traced-2/trace.h5 --perfetto out.json
cat >check.py <<'END'
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
lanes, named = {}, set()
for e in events:
    assert isinstance(e["name"], str) and isinstance(e["pid"], int), e
    if e["ph"] == "M":
        named.add((e["pid"], e.get("tid")) if e["name"] == "thread_name" else e["pid"])
        continue
    assert e["ph"] in "XC" and e["ts"] >= 0, e
    if e["ph"] == "X":
        assert e["dur"] >= 0, e
        assert e["pid"] in named and (e["pid"], e["tid"]) in named, e
        lanes.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["dur"]))
for spans in lanes.values():  # events of a thread must nest; these may not even overlap
    spans.sort()
    for (a, d), (b, _) in zip(spans, spans[1:]):
        assert a + d <= b + 1e-3, (a, d, b)
ranks = {p for p, _ in lanes}
assert ranks == {0, 1}, ranks
print(sum(map(len, lanes.values())), "spans on", len(lanes), "lanes")
END
if command -v python3 >/dev/null; then
    run python3 check.py out.json
    ok "Python reads it, and lanes do not overlap: $(cat "$work/out")" test "$rc" -eq 0
    [ "$rc" -eq 0 ] || note "$(tail -n 1 "$work/err")"
else
    skip "Python reads it, and lanes do not overlap" "no python3 here"
fi

# ---- profile -------------------------------------------------------------------------------------

prints "profile prints where the time goes" \
    'steps 6 to 8|kinds of node|peak memory of a rank|MiB|ceilings measured there' \
    "$LOCKSTEP" profile run.yaml --steps 3
ok "does not name its file, which is removed" sh -c '! grep -q trace.h5 "$1"' sh "$work/out"
ok "and leaves nothing behind" sh -c '! ls | grep -q profile'
run sh -c '"$1" profile run.yaml --steps 3 | head -n 1' sh "$LOCKSTEP"
ok "nor when its reader has enough" sh -c 'test -s "$1" && ! ls | grep -q profile' sh "$work/out"
prints "profile takes trace's depth and lines" 'all others' \
    "$LOCKSTEP" profile run.yaml --steps 2 --depth 4 --lines 9 --directory deep \
    --perfetto deep/p.json
ok "9 lines of scopes, the others together" sh -c 'sed -n "/^scopes /,/^nodes /p" "$1" |
    grep -c "^  " | grep -qx 11' sh "$work/out"
ok "and scopes of four parts" sh -c 'sed -n "/^scopes /,/^nodes /p" "$1" |
    grep -q "^  blocks\.[0-3]\.[a-z]*\.[a-z]* "' sh "$work/out"
ok "an export into the directory that it makes" test -s deep/p.json
prints "profile on 2 ranks keeps a directory and exports" 'p.json: ' \
    2 "$LOCKSTEP" profile run.yaml --steps 2 --directory kept --perfetto p.json
ok "they are there" test -s kept/trace.h5 -a -s p.json -a ! -e kept/checkpoints/latest
bad "not into a directory that is there" 'kept: exists already; a profile makes its own' \
    "$LOCKSTEP" profile run.yaml --steps 2 --directory kept
bad "nor a trace into its own export" 'kept/trace.h5: is there, and is no file of the kind' \
    "$LOCKSTEP" trace kept/trace.h5 --perfetto kept/trace.h5

# ---- what goes wrong -----------------------------------------------------------------------------

train watched 2 --detect-anomaly --launch-blocking
ok "watched, a sound run goes to its end with the same bits" same plain watched
ok "and no tensors are kept" test ! -e watched/anomaly.h5

train wrong 1 --set train.stop_after=5
cp -R wrong wrong-3
"$h5edit" wrong/checkpoints/step-000005.h5 plant parameters/blocks/3/attn/qkv/weight 77 inf
cp -R wrong wrong-2
run "$LOCKSTEP" train run.yaml --set directory=wrong --resume
ok "a gradient that is not finite ends the run, and says how to go on" test "$rc" -eq 1
ok "with what to try" says err 'step 6: the ' ' is not finite' --resume --detect-anomaly
run "$LOCKSTEP" train run.yaml --set directory=wrong --resume --detect-anomaly
ok "the search ends the run too" test "$rc" -eq 1
ok "it names the node, the step, the leaf and the input" says err 'step 6, rank 0 on ' \
    ', leaf 0: blocks.3.attn.qkv (linear) is the first node' "input 1 'blocks.3.attn.qkv.weight'" \
    "1 of 12288 not finite, the first at [1, 13]" "the leaf's samples begin at rows" \
    'lockstep show wrong/anomaly.h5'
note "$(cat "$work/err")"
"$h5edit" wrong/anomaly.h5 print input1 >input
ok "the input is kept, with Inf where it was" test "$(grep -n inf input)" = 78:inf
"$h5edit" wrong/anomaly.h5 print output0 >output
ok "and the output" grep -q -e nan -e inf output
"$h5edit" wrong/anomaly.h5 print samples >rows
ok "and which samples they were" test "$(wc -l <rows)" -eq 2
prints "show tells what they are" \
    "step            6|leaf            0|input1          'blocks.3.attn.qkv.weight' f32 [192, 64]" \
    "$LOCKSTEP" show wrong/anomaly.h5
ranks 2 "$LOCKSTEP" train run.yaml --set directory=wrong-2 --resume --detect-anomaly
ok "on 2 ranks each keeps its own" \
    test "$rc" -eq 1 -a -s wrong-2/anomaly.h5 -a -s wrong-2/anomaly-1.h5
ok "and one message comes" test "$(grep -c '^lockstep: ' "$work/err")" -eq 1

# Inf in the second moment: the optimizer makes it, for no leaf; its tensors are long and flat.
"$h5edit" wrong-3/checkpoints/step-000005.h5 plant moment2/blocks/3/attn/qkv/weight 77 inf
run "$LOCKSTEP" train run.yaml --set directory=wrong-3 --resume --detect-anomaly
ok "Inf in a moment is found in the optimizer" says err 'rank 0 on ' ': step (adamw) is the first' \
    "second moment of 'blocks.3.attn.qkv.weight' f32 [192, 64]" \
    'not finite, the first at [1, 13]' "the step's samples begin at rows" 'and 8 more'
[ "$rc" -eq 1 ] || note_run "the search in the optimizer"
prints "what it made of that parameter is kept" "input0          gradient of 'blocks.3.attn.qkv|\
output1         'blocks.3.attn.qkv.weight' f32 [192, 64]|output3         second moment of 'blo" \
    "$LOCKSTEP" show wrong-3/anomaly.h5
"$h5edit" wrong-3/anomaly.h5 print output3 >output
ok "with Inf where it is" test "$(grep -n inf output)" = 78:inf -a "$(wc -l <output)" -eq 12288
"$h5edit" wrong-3/anomaly.h5 print samples >rows
ok "and the samples of all leaves" test "$(sort -u rows | wc -l)" -eq 16

sed 's/  leaves: 8/  leaves: 8\
  precision: fp16/' run.yaml >half.yaml
for how in '' --detect-anomaly; do
    # shellcheck disable=SC2086 # no argument or one
    run "$LOCKSTEP" train half.yaml --set directory=half$how --set loss_scale.max=1e12 \
        --set loss_scale.initial=134217728 $how
    ok "fp16 that overflows at first is no anomaly ${how:-either}" test "$rc" -eq 0
done
ok "steps are skipped in both alike" same half half--detect-anomaly
ok "some are" awk 'END { exit !($6 > 0 && $6 < 12) }' half/loss.log
train half-wrong 1 --set train.precision=fp16 --set train.stop_after=5
"$h5edit" half-wrong/checkpoints/step-000005.h5 plant parameters/blocks/3/attn/qkv/weight 77 inf
run "$LOCKSTEP" train half.yaml --set directory=half-wrong --resume --detect-anomaly
ok "fp16: an Inf is found in the half copy" says err 'step 6, rank 0 on ' \
    ', leaf 0: blocks.3.attn.qkv (linear) is the first node' \
    "input 1 half copy of 'blocks.3.attn.qkv.weight' f16 [192, 64]" '; loss scale '

# ---- bad input -----------------------------------------------------------------------------------

bad "a trace that is a dataset" "a.h5: expected a lockstep trace, found schema|profile" \
    "$LOCKSTEP" trace a.h5
bad "a trace that is not there" 'nothing.h5: expected a lockstep trace' "$LOCKSTEP" trace nothing.h5
cp traced-1/trace.h5 odd.h5
"$h5edit" odd.h5 token span/node 3 1 99999
bad "a trace with a node that is none" 'odd.h5: span 3 makes no sense' "$LOCKSTEP" trace odd.h5
cp traced-1/trace.h5 odd.h5
"$h5edit" odd.h5 remove span/lane
bad "a trace without a column" "odd.h5: expected the dataset 'span/lane'" "$LOCKSTEP" trace odd.h5
bad "an export to nowhere" 'no/out.json: cannot write' \
    "$LOCKSTEP" trace traced-1/trace.h5 -p no/out.json
bad "a trace that ends before it begins" 'trace.to 3 is before trace.from 5' \
    "$LOCKSTEP" train run.yaml --set directory=x --set trace.from=5 --set trace.to=3
bad "trace on 2 ranks" 'works alone' 2 "$LOCKSTEP" trace traced-1/trace.h5
bad "profile with an export to nowhere" 'no/out.json: cannot write' \
    "$LOCKSTEP" profile run.yaml -p no/out.json
mkdir place
bad "profile with an export onto a directory, on 2 ranks" 'place: ' \
    2 "$LOCKSTEP" profile run.yaml -p place
bad "profile of no data" 'expected a lockstep dataset' \
    "$LOCKSTEP" profile run.yaml --set data.file=nothing.h5
misuse "trace without a file" 'FILE is missing' "$LOCKSTEP" trace
misuse "trace with a wrong depth" "--depth: expected a whole number from 1 to 64, found '0'" \
    "$LOCKSTEP" trace x.h5 --depth 0
misuse "profile with a wrong number of lines" "--lines: expected a whole number from 0" \
    "$LOCKSTEP" profile run.yaml --lines -1
misuse "profile without a run file" 'RUN.yaml is missing' "$LOCKSTEP" profile
misuse "profile of no steps" "--steps: expected a whole number" "$LOCKSTEP" profile run.yaml -n 0

finish
