#!/bin/sh
# Looking at runs: the run log and its behaviour when a run is stopped, killed and resumed; warnings
# of planted faults and none on the clean twins; TensorBoard and Prometheus files read by others;
# watch and report on runs that are done, go on, are broken or are none.
#
# TENSORBOARD_PYTHON names a Python that has the tensorboard package (default: that which
# 'quickstart test' makes in the build directory, or python3).
# shellcheck disable=SC1010,SC2016,SC2086,SC2094,SC2317 # awk programs; words without blanks; called
# by ok
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"


# A text that repeats itself, and its twin with a stretch of nonsense in the middle.
awk 'BEGIN { while (i < 2000) print "in step " i++ % 9 " a quick fox jumps over dog " i % 7 "." }' \
    >clean.txt
awk '{ print }
    NR == 700 { while (j++ < 40) printf "%c%c", 97 + j * 7 % 26, 97 + j * j % 26; print "" }' \
    clean.txt >spiked.txt
for t in clean spiked; do
    run "$LOCKSTEP" import text $t.txt -v character -o $t.h5
    ok "the text is imported" test "$rc" -eq 0
done

cat >r.yaml <<END
directory: run
data:
  file: clean.h5
model:
  layers: 1
  width: 32
  heads: 2
  context: 32
train:
  steps: 400
  batch: 16
  leaves: 4
  device: cpu
optimizer:
  lr: 3e-3
  warmup: 20
eval:
  every: 50
  batches: 2
checkpoint:
  every: 100
log:
  every: 1000
END
train() { # DIRECTORY N ARGUMENT...: with sets as words
    dir=$1 n=$2
    shift 2
    ranks "$n" "$LOCKSTEP" train r.yaml --set directory="$dir" "$@"
}

# events FILE NAME: the lines of an event. field FILE EVENT MEMBER: its values of a number or text.
events() { grep "^{\"event\":\"$2\"," "$1"; }
field() { events "$1" "$2" | sed "s/.*\"$3\":\"\{0,1\}\([^,\"}]*\).*/\1/"; }

# every_step_once DIRECTORY LAST: the steps of run.jsonl are 1 to LAST, in order, with loss.log's
# losses.
every_step_once() {
    { field "$1/run.jsonl" step step && echo; } >"$work/steps"
    field "$1/run.jsonl" step loss >"$work/losses"
    awk -v last="$2" '
    FILENAME ~ /steps/ && NF { if ($1 != ++n) bad = 1 }
    FILENAME ~ /losses/ { loss[++m] = $1 }
    FILENAME ~ /loss.log/ { d = loss[++k] - $2; if (d * d > 1e-12 * $2 * $2 || $1 != k) bad = 1 }
    END { exit !(n == last && m == last && k == last && !bad) }' \
        "$work/steps" "$work/losses" "$1/loss.log"
}
in_order() { # the steps of all events never fall
    sed 's/.*"step":\([0-9]*\).*/\1/' "$1" | awk '$1 < last { exit 1 } { last = $1 }'
}

# ---- the run log, stopped, killed, resumed ------------------------------------------------------

train whole 1
ok "a run" test "$rc" -eq 0
ok "has every step once in its log" every_step_once whole 400
ok "in order" in_order whole/run.jsonl
for e in start validation save end; do events whole/run.jsonl $e | wc -l; done >"$work/counts"
ok "one start, 8 validations, 4 saves, one end" test "$(tr '\n' ' ' <"$work/counts")" = '1 8 4 1 '
ok "which was reached" test "$(field whole/run.jsonl end how)" = done
ok "the times of a step are in order" sh -c 'tail -n 5 whole/run.jsonl | grep "\"step\"," |
    sed "s/.*\"p50\":\([^,]*\),\"p95\":\([^,]*\),\"p99\":\([^}]*\).*/\1 \2 \3/" |
    awk "{ exit !(\$1 > 0 && \$1 <= \$2 && \$2 <= \$3) }"'
ok "no warnings on the clean twin" test "$(events whole/run.jsonl warning | wc -l)" -eq 0

train parts 2 --set train.stop_after=20 --set log.tensorboard=true --set log.prometheus=true
ok "the first part, on two ranks" test "$rc" -eq 0
ok "says that it was stopped" test "$(field parts/run.jsonl end how)" = stopped
train parts 1 --resume --set train.stop_after=250 --set log.tensorboard=true
ok "the second, on one" test "$rc" -eq 0

# Killed between two checkpoints, in the middle of a line.
"$LOCKSTEP" train r.yaml --set directory=parts --resume --set log.tensorboard=true \
    --set train.steps=400 --set checkpoint.every=1000 >/dev/null 2>&1 &
pid=$!
for _ in $(seq 100); do
    [ "$(wc -l <parts/loss.log)" -gt 290 ] && break
    sleep 0.05
done
kill -9 $pid
wait $pid 2>/dev/null
printf '{"event":"step","time":12' >>parts/run.jsonl
ok "a start was killed after step 250" test "$(wc -l <parts/loss.log)" -gt 250
for _ in $(seq 100); do # the logs are a moment old, and the kernel has dropped the lock
    "$LOCKSTEP" watch parts --once | grep -q 'killed: no process' && break
    sleep 0.2
done
prints "watch of a killed run with half a line" "/400|parts: silent for 0:|it was killed|loss |\
start 3, from step 250: 1 rank on|checkpoint of step 250" "$LOCKSTEP" watch parts --once
ok "which does not say when it will be done" sh -c '! grep -q ETA "$1"' sh "$work/out"
prints "a report of it" "parts.html" "$LOCKSTEP" report parts -o parts.html
train parts 4 --resume --set log.tensorboard=true --set train.stop_after=270
ok "the next part, on four ranks" test "$rc" -eq 0
tail -n 3 parts/run.jsonl >"$work/end"
ok "has the work of each in its log" \
    grep -q '"work_ms":\[[0-9.]*,[0-9.]*,[0-9.]*,[0-9.]*\]' "$work/end"
prints "watch of it" "parts: stopped: train.stop_after|start 4, from step 250: 4 ranks on|\
step 270/400" "$LOCKSTEP" watch parts --once
ok "and its memory, in whole bytes" \
    grep -q '"host_peak":\[[0-9]*,[0-9]*,[0-9]*,[0-9]*\]' "$work/end"
train parts 1 --resume --set log.tensorboard=true --set log.prometheus=true
ok "the last part" test "$rc" -eq 0
ok "every step is in the log once" every_step_once parts 400
ok "in order" in_order parts/run.jsonl
ok "its starts" test "$(field parts/run.jsonl start step | tr '\n' ' ')" = '0 20 250 250 270 '
ok "losses are those of the uninterrupted run" cmp whole/loss.log parts/loss.log
train rare 1 --set log.steps=100 --set log.run_log=true
ok "log.steps thins the log: the first, then each hundredth" test \
    "$(field rare/run.jsonl step step | tr '\n' ' ')" = '1 100 200 300 400 '
train none 1 --set log.run_log=false --set train.steps=20
ok "log.run_log=false: there is none" test "$rc" -eq 0 -a ! -e none/run.jsonl

# The rate on the screen is that of the log, of every step but the first, however short the run.
for steps in 1 2 3 5; do
    train short-$steps 1 --set train.steps=$steps --set eval.batches=0
    shown=$(sed -n "s|.*step $steps/$steps .* \([^ ]*\) samples/s.*|\1|p" "$work/out")
    logged=$(field short-$steps/run.jsonl step mean |
        awk 'NR == 1 { first = $1 } NR > 1 { sum += $1 } END {
            printf "%.6g\n", 16e3 / (NR > 1 ? sum / (NR - 1) : first) }')
    ok "$steps steps: $shown samples/s on the screen, $logged in the log" \
        awk "BEGIN { r = ${shown:-0} / $logged; exit !(r > 0.99 && r < 1.01) }"
done

# ---- planted faults ----------------------------------------------------------------------------

train spiked 1 --set data.file=spiked.h5
ok "a run on the spiked text" test "$rc" -eq 0
says out "warning: step " "standard deviations above" && said=yes
ok "says so on a line" test "${said:-no}" = yes
events spiked/run.jsonl warning | sed 's/"time":[^,]*,//' >"$work/warnings"
ok "of a loss: $(head -n 1 "$work/warnings" | cut -c 1-150)" grep -q loss_spike "$work/warnings"
# "jumps over dog" is regular: all but the nonsense is learned by then. A sample is 33 tokens.
at=$(awk 'NR <= 700 { n += length($0) + 1 } END { print n }' spiked.txt)
sed -n 's/.*"samples":\[\([^]]*\)\].*/\1/p' "$work/warnings" >"$work/rows"
ok "every warning lists 16 samples, one of them in the nonsense at $at" awk -F, -v at="$at" '
    { hit = 0; for (i = 1; i <= NF; i++) hit += $i > at - 33 && $i < at + 81; if (!hit) bad = 1 }
    NF != 16 { bad = 1 } END { exit !(NR && !bad) }' "$work/rows"
last=$(sed -n 's/.*"step":\([0-9]*\).*/\1/p' "$work/warnings" | tail -n 1)
train spiked4 1 --set data.file=spiked.h5 --set train.stop_after=$((last - 8))
train spiked4 4 --set data.file=spiked.h5 --resume --set train.stop_after=$((last + 8))
events spiked4/run.jsonl warning | grep -v slow_rank | sed 's/"time":[^,]*,//' >"$work/warnings4"
ok "stopped and resumed on 4 ranks, the warnings are the same" \
    cmp "$work/warnings" "$work/warnings4"
train calm 1 --set data.file=spiked.h5 --set log.outlier=0
ok "log.outlier=0: no warnings" test "$(events calm/run.jsonl warning | wc -l)" -eq 0

# What is not finite needs no history: a loss scale far too high, an Inf in a weight.
train half 1 --set train.precision=fp16 --set loss_scale.max=1e12 --set loss_scale.initial=1e12 \
    --set train.steps=40
ok "fp16 that begins with skipped steps goes on" test "$rc" -eq 0
ok "and says so at the third: $(field half/run.jsonl warning text | head -n 1)" \
    test "$(field half/run.jsonl warning kind | head -n 1)" = skipped_steps \
    -a "$(field half/run.jsonl warning step | head -n 1)" -eq 3
train lost 1 --set train.stop_after=5
"$builddir/tests/h5edit" lost/checkpoints/step-000005.h5 plant parameters/blocks/0/attn/qkv/weight \
    3 inf
run "$LOCKSTEP" train r.yaml --set directory=lost --resume
ok "a loss that is not finite ends a run in fp32" test "$rc" -eq 1
ok "and is a warning with its samples, at step 6" sh -c 'grep "\"event\":\"warning\"" "$1" |
    grep -q "\"step\":6,.*\"kind\":\"not_finite\".*\"samples\":\[[0-9]*,"' sh lost/run.jsonl

# Rank 1 is stopped most of the time.
cat >rank.sh <<'END'
[ "$OMPI_COMM_WORLD_RANK" = 1 ] && echo $$ >pid.new && mv pid.new pid
exec "$@"
END
slow() { # COMMAND...: under run(), with rank 1 held up
    rm -f pid
    (
        while [ ! -f pid ]; do sleep 0.02; done
        read -r pid <pid
        while kill -STOP "$pid" 2>/dev/null; do
            sleep 0.2
            kill -CONT "$pid" 2>/dev/null
            sleep 0.02
        done
    ) &
    run "$@"
    wait $!
}
few="--set train.leaves=2 --set train.batch=64 --set train.steps=60 --set eval.every=12
    --set model.width=64"
slow "$MPIRUN" -np 2 sh rank.sh "$LOCKSTEP" train r.yaml --set directory=slow $few
ok "a run with a slow rank" test "$rc" -eq 0
events slow/run.jsonl warning >"$work/warnings"
ok "which is named: $(field slow/run.jsonl warning text | head -n 1)" \
    grep -q '"kind":"slow_rank","text":"rank 1 on ' "$work/warnings"
ok "once" test "$(grep -c slow_rank "$work/warnings")" -eq 1
# Whatever else the machine does for a moment makes a rank slow too: one of five runs must be clean.
for _ in 1 2 3 4 5; do
    rm -rf even
    train even 2 $few
    [ "$(events even/run.jsonl warning | wc -l)" -gt 0 ] || break
done
if [ "$rc" -eq 0 ] && grep -q slow_rank even/run.jsonl &&
    awk -v cores="$(nproc)" '{ exit $1 < cores + 1 }' /proc/loadavg; then
    skip "none on its clean twin" "others use this machine: load $(cut -d' ' -f1 /proc/loadavg)"
else
    ok "none on its clean twin" test "$rc" -eq 0 -a "$(events even/run.jsonl warning | wc -l)" -eq 0
fi

# ---- TensorBoard, Prometheus -------------------------------------------------------------------

[ -x "$builddir/readers/bin/python" ] && : "${TENSORBOARD_PYTHON:=$builddir/readers/bin/python}"
: "${TENSORBOARD_PYTHON:=python3}"
if "$TENSORBOARD_PYTHON" -c 'import tensorboard' 2>/dev/null; then
    cat >tb.py <<'END'
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator("parts/tensorboard", size_guidance={"scalars": 0})
a.Reload()
log = [line.split() for line in open("parts/loss.log")]
loss = a.Scalars("loss/train")
assert [e.step for e in loss] == list(range(1, 401)), "steps"
assert all(abs(e.value - float(l[1])) < 1e-6 for e, l in zip(loss, log)), "loss"
norm = a.Scalars("optimizer/gradient_norm")
assert all(abs(e.value - float(l[4])) < 1e-6 for e, l in zip(norm, log)), "norm"
held = [line.split() for line in open("parts/validation.log")]
v = a.Scalars("loss/validation")
assert [e.step for e in v] == [int(l[0]) for l in held], "steps of validations"
assert all(abs(e.value - float(l[1])) < 1e-6 for e, l in zip(v, held)), "validation"
assert all(e.value > 0 for e in a.Scalars("time/samples_per_second")), "rate"
print(len(a.Tags()["scalars"]))
END
    run "$TENSORBOARD_PYTHON" tb.py
    ok "the tensorboard package reads five starts as one run, no step twice" test "$rc" -eq 0
    [ "$rc" -eq 0 ] || note_file "$work/err"
else
    skip "the tensorboard package reads the event files" "$TENSORBOARD_PYTHON has no tensorboard"
fi
ok "an event file for each start that wrote one" test \
    "$(find parts/tensorboard -name 'events.out.tfevents.*' | wc -l)" -eq 5

# A sample: NAME{LABELS} VALUE; every family has help and type before its samples.
ok "metrics.prom is in Prometheus' format" awk '
    /^# HELP lockstep_[a-z_]+ ./ { help[$3] = 1; next }
    /^# TYPE lockstep_[a-z_]+ (gauge|counter|summary)$/ {
        if (!help[$3]) bad = 1
        type[$3] = $4; next }
    /^lockstep_[a-z_]+{run="parts"(,[a-z]+="[^"]*")*} [-+0-9.e]+$/ {
        name = $1; sub(/{.*/, "", name); family = name
        if (!(family in type)) sub(/_(sum|count)$/, "", family)
        if (!(family in type) || type[family] == "counter" && name !~ /_total$/) bad = 1
        n++; next }
    { bad = 1; print "bad: " $0 } END { exit !(n > 15 && !bad) }' parts/metrics.prom
ok "with the last step" grep -q '^lockstep_steps_total{run="parts"} 400$' parts/metrics.prom
train prom 1 --set train.steps=5 --set log.prometheus=metrics/x.prom
ok "log.prometheus in no directory is an error: $(grep '^lockstep' "$work/err")" \
    test "$rc" -eq 2 -a "$(grep -c "log.prometheus.*metrics/x.prom" "$work/err")" -eq 1
ok "no run directory is made" test ! -e prom
cp -R parts before
train parts 1 --resume --set train.steps=500 --set log.prometheus=metrics/x.prom
ok "nor is one changed" sh -c "test $rc -eq 2 && diff -r before parts"
rm -rf before

# What a mistyped output would cost.
for kept in clean.h5 parts/checkpoints/latest parts/run.jsonl; do
    cp "$kept" kept.copy
    bad "a page in the place of $kept" "$kept: is there, and is no file of the kind" \
        "$LOCKSTEP" report parts -o "$kept"
    ok "it is untouched" cmp "$kept" kept.copy
done
train prom 1 --set train.steps=5 --set log.prometheus=clean.h5
ok "metrics in the place of the data are refused: $(grep '^lockstep' "$work/err")" \
    test "$rc" -eq 2 -a ! -e prom
train prom 1 --set train.steps=5 --set log.prometheus=x.prom
train prom 1 --resume --set train.steps=6 --set log.prometheus=x.prom
ok "metrics may replace metrics" test "$rc" -eq 0
rm -rf prom x.prom

# ---- watch and report --------------------------------------------------------------------------

prints "watch of a run that is done" 'step 400/400  done  loss |validation|samples/s' \
    "$LOCKSTEP" watch whole
ok "is one line" test "$(wc -l <"$work/out")" -eq 1
prints "the picture of it" 'whole: done|100%|step 400/400|p95|memory|3.499|checkpoint of step 400' \
    "$LOCKSTEP" watch whole --once
prints "without a run log" 'no run.jsonl' "$LOCKSTEP" watch none --once
prints "with warnings" 'warning|standard deviations' "$LOCKSTEP" watch spiked --once
ok "no line is wider than 80 columns" test "$(awk 'length > 80' "$work/out" | wc -l)" -eq 0
if command -v script >/dev/null; then
    run script -qec "'$LOCKSTEP' watch whole" /dev/null
    ok "on a terminal" grep -q "$(printf '\033')\\[K" "$work/out"
else
    skip "on a terminal" "no script(1) here"
fi
rm -rf live
"$LOCKSTEP" train r.yaml --set directory=live --set train.steps=4000 >/dev/null 2>&1 &
while [ ! -s live/loss.log ]; do sleep 0.02; done
run "$LOCKSTEP" report live -o live.html
ok "a report of a run that goes on" test "$rc" -eq 0
prints "watch follows a run to its end" 'running|done|ETA' "$LOCKSTEP" watch live -n 0.2
wait
ok "and has looked several times" test "$(wc -l <"$work/out")" -ge 3
ok "and took it for dead at none" sh -c '! grep -q -e killed -e silent "$1"' sh "$work/out"

mkdir failed && cp r.yaml failed/run.yaml && echo '1 2.5 0.001 1 1 0' >failed/loss.log
printf '%s\n' '{"event":"start","time":10,"step":0}' \
    '{"event":"end","time":11,"step":1,"how":"failed","why":"step 2: what, and what to do"}' \
    >failed/run.jsonl
prints "watch of a run that has failed ends" 'failed: step 2: what, and what to do' \
    timeout 20 "$LOCKSTEP" watch failed

# Two starts: the first was killed after 50 s that count, the second took a minute; a third that
# keeps no run log was begun since.
mkdir three && cp r.yaml three/run.yaml && echo '1 2.5 0.001 1 1 0' >three/loss.log
printf '%s\n' '{"event":"start","time":1000,"step":0,"ranks":1,"host":"elsewhere"}' \
    '{"event":"step","time":1050,"step":1,"samples_per_second":3}' \
    '{"event":"start","time":2000,"step":1,"ranks":2,"host":"elsewhere"}' \
    '{"event":"end","time":2061,"step":1,"how":"stopped","why":"SIGTERM at rank 0","seconds":60}' \
    >three/run.jsonl
prints "watch of a run that was stopped" 'three: stopped: SIGTERM at rank 0|2 ranks on elsewhere' \
    "$LOCKSTEP" watch three --once
run "$LOCKSTEP" report three -o three.html
ok "its time is that of its starts, one of them killed" grep -q '>1:50<' three.html
echo '{"time":"1970-01-01T00:50:00Z","step":1}' >three/starts.jsonl
prints "watch of it, started again without a run log" 'three: running' \
    "$LOCKSTEP" watch three --once
touch -d '10 minutes ago' three/*
prints "and when nothing is heard of it" 'three: silent for 10:0' "$LOCKSTEP" watch three --once
run "$LOCKSTEP" report three -o three.html
ok "as the report says" grep -q 'the run is silent for 10:0' three.html

mkdir empty && cp r.yaml empty/run.yaml && : >empty/loss.log
prints "watch of a run before its first step" 'no steps yet' "$LOCKSTEP" watch empty --once
prints "report of it" 'empty.html' "$LOCKSTEP" report empty -o empty.html
ok "says so" grep -q 'has no steps yet' empty.html

# Nothing but what a run leaves before its first log.
for sign in lock run.yaml; do
    mkdir only && cp r.yaml only/$sign
    prints "watch of $sign alone" 'only: starting, no log yet|no steps yet' \
        "$LOCKSTEP" watch only --once
    touch -d '10 minutes ago' only/$sign
    prints "and when it is old" 'only: silent for 10:0|no log yet' "$LOCKSTEP" watch only --once
    run "$LOCKSTEP" report only -o only.html
    ok "as the report says" grep -q 'the run is silent for 10:0[0-9], no log yet' only.html
    rm -r only
done

# Logs of another kind.
mkdir noise
head -c 5000 "$LOCKSTEP" >noise/run.yaml
for name in loss.log validation.log run.jsonl starts.jsonl; do
    { head -c 5000 /dev/urandom && echo; } >noise/$name
done
prints "watch of noise" 'noise: unreadable: no line of its logs makes sense|\
lines of its logs that make no sense, left out: |noise/run.yaml:|no steps yet' \
    "$LOCKSTEP" watch noise --once
run "$LOCKSTEP" report noise -o noise.html
ok "the report says so" grep -q 'the run is unreadable: no line of its logs makes sense' noise.html
ok "and not that there is no run.jsonl" sh -c '! grep -q "No run.jsonl" noise.html &&
    grep -q "No record of a step in run.jsonl" noise.html'

# A directory that is removed meanwhile.
cp -R three gone
: >"$work/out"
timeout 60 "$LOCKSTEP" watch gone -n 0.2 >"$work/out" 2>"$work/err" &
within 30 test -s "$work/out"
rm -r gone
wait $!
rc=$?
ok "watch of a directory that is removed ends: $(cat "$work/err")" test "$rc" -eq 2 \
    -a "$(grep -c 'gone: the directory is no longer there' "$work/err")" -eq 1

mkdir hollow
bad "watch of no run" 'hollow: expected a run directory' "$LOCKSTEP" watch hollow
bad "watch of a file" 'r.yaml: expected a run directory|found a file' "$LOCKSTEP" watch r.yaml
bad "report of nothing" 'nothing: expected a run directory|No such file' \
    "$LOCKSTEP" report whole nothing -o x.html
bad "report into no directory" 'none/such/x.html' "$LOCKSTEP" report whole -o none/such/x.html
ln -s whole also
bad "report of one run under two names" 'whole and ./whole/ are the same run; name each run once' \
    "$LOCKSTEP" report whole ./whole/ -o x.html
bad "or a link" 'whole and also are the same run' "$LOCKSTEP" report whole also -o x.html
rm also
misuse "report of no run" 'RUNDIR is missing' "$LOCKSTEP" report
misuse "watch of two" "found also 'b'" "$LOCKSTEP" watch a b
misuse "watch without rest" '--interval' "$LOCKSTEP" watch whole -n 0
cp -R whole broken
sed '9s/.*/{"event":"step", oh/' whole/run.jsonl >broken/run.jsonl
echo 'unknown_key: 1' >>broken/run.yaml
prints "report of a broken log" 'x.html' "$LOCKSTEP" report broken -o x.html
ok "says how many lines make no sense" \
    grep -q 'lines of its logs that make no sense, left out: 1<' x.html
ok "and that the run file is of another version" grep -q "unknown key .*unknown_key" x.html

# A run file with a line that is no key, a step that took for ever.
cp -R whole odd
printf ' : x\nlast: 1\n' >>odd/run.yaml
sed '$!b
    h
    s/.*/{"event":"step","time":9e9,"step":400,"step_ms":{"mean":1e300,"p50":1,"p95":1,"p99":1}}/
    G' whole/run.jsonl >odd/run.jsonl
prints "a report of odd files" 'odd.html' "$LOCKSTEP" report odd whole -o odd.html
ok "a line without a key is none of the differences" sh -c \
    '! grep -q "<th scope=\"row\">[^<]*$" odd.html && grep -q "\"row\">last</th>" odd.html'
prints "of one of them" 'odd.html' "$LOCKSTEP" report odd -o odd.html
ok "the step that took for ever is left out of the distribution" \
    grep -q 'Distribution of step times, 99 % of them' odd.html

prints "a report of four runs" 'four.html' "$LOCKSTEP" report whole parts spiked none -o four.html
ok "has each in its legend" test "$(grep -c '</svg>spiked</li>' four.html)" -gt 3
ok "their differences" grep -q '>data.file</th><td>"\?&quot;clean.h5' four.html
ok "their warnings" grep -q 'standard deviations above' four.html
grep -e 'https\?:' -e 'src=' -e '<script' four.html >"$work/network"
ok "and nothing from a network" test ! -s "$work/network"

# Where the time goes.
train traced 2 --set train.steps=20 --set trace.from=10 --set trace.to=12
prints "a report of a traced run" 'traced.html' "$LOCKSTEP" report traced -o traced.html
ok "has its kinds of node" grep -q '<th scope="row">linear</th><td><i' traced.html
ok "its parts of the model" grep -q '<th scope="row">blocks.0</th><td><i' traced.html
ok "and its roofline" grep -q '</svg>ceiling measured on the device</li>' traced.html
head -c 1000 traced/trace.h5 >traced/cut && mv traced/cut traced/trace.h5
prints "a report of a broken trace" 'traced.html' "$LOCKSTEP" report traced -o traced.html
ok "says so and shows the rest" sh -c 'grep -q "trace.h5: " traced.html && grep -q Rate traced.html'

# 5,000 noisy steps, two runs of them.
mkdir long && cp whole/run.yaml long && head -n 1 whole/run.jsonl >long/run.jsonl
awk 'function noise() { x = (x * 69069 + 1) % 4294967296; return x / 4294967296 }
BEGIN { while (++i <= 5000) {
    loss = 2 + 8 * exp(-i / 700) + noise(); norm = 1 / (0.05 + noise()); ms = 40 + 30 * noise()
    printf "%d %.9g 0.001 65536 %.9g 0\n", i, loss, norm >"long/loss.log"
    printf "{\"event\":\"step\",\"time\":%.3f,\"step\":%d,\"loss\":%.7g,", i, i, loss
    printf "\"samples_per_second\":%.6g,\"data_wait_ms\":%.6g,", 1e5 / ms, noise()
    printf "\"step_ms\":{\"mean\":%.6g,\"p50\":%.6g,\"p95\":%.6g,", ms, ms, ms * 1.5
    printf "\"p99\":%.6g},\"memory\":{\"host_peak\":%d,\"device\":5e6}}\n", ms * 2, 4e7 + i } }
' >>long/run.jsonl
prints "a report of 5,000 noisy steps" 'long.html' "$LOCKSTEP" report long -o long.html
ok "is below 1 MB: $(wc -c <long.html) bytes" test "$(wc -c <long.html)" -lt 1000000

# ---- in a browser ------------------------------------------------------------------------------

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
pngstat=$builddir/tests/pngstat
shoot() { # SCHEME PAGE PNG: 0 dark, 1 light
    run "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars \
        --user-data-dir="$work/browser" --blink-settings=preferredColorScheme="$1" \
        --enable-logging=stderr --window-size=1200,2400 --screenshot="$work/d/$3" \
        "file://$work/d/$2"
    grep -e CONSOLE -e 'Refused to' "$work/err" >"$work/console"
}
if [ -n "$browser" ] && [ -x "$pngstat" ]; then
    for scheme in 1 0; do
        shoot $scheme four.html shot.png
        # shellcheck disable=SC2046 # words
        set -- $("$pngstat" shot.png)
        ok "Chromium shows the report: ${1:-0}x${2:-0}, ${3:-0} colours, brightness ${4:-0}" \
            test "${1:-0}" -eq 1200 -a "${3:-0}" -gt 60
        [ $scheme = 1 ] && ok "light" test "${4:-0}" -gt 200
        [ $scheme = 0 ] && ok "dark" test "${4:-255}" -lt 60
        ok "and its console is silent" test ! -s "$work/console"
    done
    # On a phone nothing but what scrolls by itself is wider than the screen.
    cat >phone.html <<'END'
<!DOCTYPE html><title>phone</title>
<iframe id="f" src="four.html" style="width:360px;height:800px"></iframe>
<script>document.getElementById("f").onload = function () {
document.title = "width " + this.contentDocument.documentElement.scrollWidth; };</script>
END
    run "$browser" --headless=new --no-sandbox --disable-gpu --user-data-dir="$work/browser" \
        --allow-file-access-from-files --virtual-time-budget=2000 --dump-dom \
        "file://$work/d/phone.html"
    wide=$(sed -n 's/.*<title>width \([0-9]*\)<.*/\1/p' "$work/out")
    ok "it fits a phone of 360 pixels: $wide" test "${wide:-999}" -le 360 -a "${wide:-0}" -gt 300
else
    skip "Chromium shows the report" "no chromium here"
fi

finish
