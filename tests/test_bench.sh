#!/bin/sh
# The benchmarks: what they print is of one computation on any number of ranks and adds up, and what
# they cannot use is refused.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

step=$builddir/bench/step kernels=$builddir/bench/kernels
cat >r.yaml <<'YAML'
directory: run
data:
  file: none.h5
model:
  layers: 2
  width: 32
  heads: 2
  context: 32
train:
  batch: 8
  leaves: 4
  bucket_mib: 0.02
  device: cpu
YAML

loss() { sed -n 's/.*; loss \([0-9.]*\), skipped 0$/\1/p' "$work/out"; }

# ---- steps on ranks ------------------------------------------------------------------------------

run "$step" r.yaml --steps 20
ok "a step on one rank" test "$rc" -eq 0 -a \
    "$(grep -c '1 rank, 4 leaves: median' "$work/out")" -eq 1
[ "$rc" -eq 0 ] || note_run "step r.yaml"
ok "and of what" says out 'r.yaml (vocabulary 65, batch 8 x 32 tokens, fp32) on '
one=$(loss)
for how in exact fast; do
    ranks 2 "$step" r.yaml --steps 20 --set train.reduce=$how
    ok "on two ranks, $how: one result" test "$rc" -eq 0 -a "$(grep -c : "$work/out")" -eq 2 -a \
        "$(grep -c "2 ranks, 4 leaves, $how in buckets of 0.02 MiB: median" "$work/out")" -eq 1
    [ "$rc" -eq 0 ] || note_run "2 ranks: step r.yaml --set train.reduce=$how"
    [ $how = fast ] ||
        ok "and after the same steps the same loss, $one" test -n "$one" -a "$(loss)" = "$one"
done
run "$step" r.yaml --steps 20 --baseline
ok "the baseline is measured beside it" grep -q '^graph optimisation: [0-9.]*x .*; little ' \
    "$work/out"
{
    "$step" r.yaml --steps 300 --baseline >disturbed.out 2>&1 &
    echo $! >pid
    wait
    touch ended
} &
i=0
while [ ! -f ended ] && [ $i -lt 400 ]; do
    [ ! -s pid ] || kill -STOP "$(cat pid)" 2>/dev/null
    sleep 0.03
    [ ! -s pid ] || kill -CONT "$(cat pid)" 2>/dev/null
    sleep 0.03
    i=$((i + 1))
done
wait
ok "one that other work disturbs is told as that" \
    grep -q '^graph optimisation.*; disturbed by other work: ' disturbed.out
run "$step" r.yaml --steps 6 --set train.precision=fp16
ok "steps are timed in whole rounds, which is said" says out ' of 2 rounds of 5 steps, '
run "$step" r.yaml --steps 5 --vocabulary 99 --set train.precision=fp16 \
    --set loss_scale.initial=1e12 --set loss_scale.max=1e12
ok "a loss scale that is too large falls before a step is timed" test "$rc" -eq 0 -a \
    "$(grep -c ' (vocabulary 99, .*, fp16) on .*, skipped [1-9].*, not timed$' "$work/out")" -eq 1
run env CUDA_VISIBLE_DEVICES= "$step" r.yaml --steps 1 --baseline --set train.device=auto
ok "without a GPU a line says that the CPU is measured" test "$rc" -eq 0 -a \
    "$(grep -c '' "$work/err")" -eq 1 -a "$(grep -c '^step: no GPU is usable' "$work/err")" -eq 1
run "$step" r.yaml --steps 1
ok "and none where it was asked for" test "$rc" -eq 0 -a ! -s "$work/err"

# ---- nodes ---------------------------------------------------------------------------------------

# added_up: every line has its times and its share of a ceiling, and they add up.
# shellcheck disable=SC2317 # called by ok
added_up() {
    awk '
    / (flops|bytes)$/ {
        lines++
        runs += $(NF - 8)
        ms += $(NF - 5)
        step += $(NF - 4)
        if ($(NF - 1) < 0 || $(NF - 7) < 0 || $(NF - 6) < 0) bad = 1
    }
    /^all / { all = $2; sum = $3; in_step = $4; share = $5 }
    function near(a, b) { return a - b < 0.001 * lines && b - a < 0.001 * lines }
    END { exit !(lines > 10 && runs == all && near(sum, ms) && near(in_step, step) && share > 0 &&
        !bad) }' "$work/out"
}

run "$kernels" r.yaml --repeats 3
ok "nodes alone and in a step, each with its share of a ceiling; they add up" added_up
ok "the ceilings are told" grep -q '^ceilings measured here: .* TFLOP/s of a product in f32, ' \
    "$work/out"
# shellcheck disable=SC2016 # awk's
ok "what nodes take in a step is most of the step" awk '
    /^all / { nodes = $4 }
    /^a step takes / { step = $4; none = $7 }
    END { print nodes, step, none; exit !(step > 0 && nodes <= 1.001 * step && nodes > step / 4 &&
        none >= 0 && none < step) }' "$work/out"

# AdamW moves 28 bytes for each of 32,768 parameters: no CPU does that within 1 us.
run "$kernels" r.yaml --set train.precision=fp16 --repeats 300
[ "$rc" -eq 0 ] || note_run "kernels in fp16"
ok "in fp16 too, however often nodes run" added_up
# shellcheck disable=SC2016 # awk's
ok "and AdamW does its work" awk '/^adamw / { us = $(NF - 7) } END { exit !(us > 1) }' "$work/out"
run "$kernels" r.yaml --set train.precision=fp16 --repeats 3 --set loss_scale.initial=1e12 \
    --set loss_scale.max=1e12
ok "a loss scale that is too large falls first" test "$rc" -eq 0

# ---- images with texts ---------------------------------------------------------------------------

cat >f.yaml <<'YAML'
directory: run
data:
  file: none.h5
model:
  kind: fusion
  layers: 1
  image_layers: 1
  cross_layers: 1
  width: 32
  heads: 2
  patch: 4
train:
  batch: 8
  device: cpu
YAML
set -- f.yaml --vocabulary 20 --text 6 --image-size 8 --classes 4
run "$step" "$@" --steps 20
ok "a step of fusion" says out ' images/s; loss ' \
    ' (images of 8 x 8 x 3, 4 classes, texts of 6 tokens, vocabulary 20, batch 8, fp32) on '
run "$kernels" "$@" --repeats 3
ok "its nodes, that add up" added_up
ok "each as it should be: the patches, the text to the image" test \
    "$(grep -c -e '^conv \[16, 4, 2, 12\] \[32, 4, 1, 12\]' \
        -e '^attention \[8, 6, 32\] \[8, 4, 64\]' "$work/out")" -eq 2

# ---- what is refused -----------------------------------------------------------------------------

# refused TEXT COMMAND...: exit code 2, one line on stderr with the text, nothing on stdout.
refused() {
    text=$1
    shift
    run "$@"
    ok "$(head -n 1 "$work/err")" test "$rc" -eq 2 -a "$(grep -c '' "$work/err")" -eq 1 -a \
        ! -s "$work/out" -a "$(grep -cF -e "$text" "$work/err")" -eq 1
}

refused 'not finite in any of the first steps, at a loss scale of 1e+12' "$kernels" r.yaml \
    --set train.precision=fp16 --set loss_scale.initial=1e12 --set loss_scale.max=1e12 \
    --set loss_scale.backoff=1
for precision in fp16 fp32; do
    refused 'in 13 rounds the loss or a gradient of a step is not finite' "$step" r.yaml \
        --steps 20 --set train.precision=$precision --set optimizer.lr=100 \
        --set optimizer.clip=0 --set optimizer.warmup=0 --set loss_scale.backoff=1
done
refused 'not finite in any of the first steps, at a loss scale of 1e+12' "$step" r.yaml \
    --set train.precision=fp16 --set loss_scale.initial=1e12 --set loss_scale.max=1e12 \
    --set loss_scale.backoff=1
ignored='says nothing about the samples of model.kind'
for option in --image-size --channels --classes --text; do
    refused "r.yaml: $option $ignored transformer" "$step" r.yaml $option 7
done
mobile=$srcdir/bench/mnv3s32.yaml
refused "mnv3s32.yaml: --vocabulary $ignored mobilenetv3" "$step" "$mobile" --vocabulary 9
refused "mnv3s32.yaml: --text $ignored mobilenetv3" "$kernels" "$mobile" --text 9
run "$builddir/tests/test_ops" no_such_op
ok "test_ops: an op that is none" test "$rc" -eq 2 -a \
    "$(grep -c "expected a part of an op's name, found 'no_such_op'" "$work/err")" -eq 1
whole='expected a whole number from'
for steps in 4294967297 5x 0 -1 '' 99999999999999999999; do
    refused "--steps: $whole 1 to 1000000, found '$steps'" "$step" r.yaml --steps "$steps"
done
refused "--steps: $whole 1 to 1000000, found nothing" "$step" r.yaml --steps
refused "--vocabulary: $whole 2 to 65536, found '65x'" "$step" r.yaml --vocabulary 65x
refused "--text: $whole 1 to 32768, found '0'" "$step" f.yaml --text 0
refused 'cannot be cut into patches of 4 x 4 pixels' "$step" f.yaml --image-size 9
refused 'f.yaml: expected a model of images, found model.kind fusion' \
    "$builddir/bench/layers" f.yaml d
refused '--set: expected a key and its value' "$step" r.yaml --set
refused "unexpected argument '--bogus'; usage: step RUN.yaml" "$step" r.yaml --bogus
refused "unexpected argument '--steps'; usage: kernels RUN.yaml" "$kernels" r.yaml --steps 5
refused 'the run file is missing; usage: step RUN.yaml' "$step"
refused 'the directory is missing; usage: layers RUN.yaml DIRECTORY' "$builddir/bench/layers" r.yaml
refused "MIB: $whole 1 to 1048576, found '5x'" "$builddir/bench/io" . 5x
refused 'step: .: expected a run file, found a directory' "$step" .
refused 'r.yaml: expected a model of images, found model.kind transformer' \
    "$builddir/bench/layers" r.yaml d
gpu=$srcdir/bench/gpu.sh
refused "DEVICE: expected cuda or cpu, found 'tpu'" env DEVICE=tpu sh "$gpu" step
refused '--data: expected a file, found nothing' sh "$gpu" --data
refused '--data: expected a file, found none at /none' sh "$gpu" --data /none step
refused "recompute, reduce, trace, doctor, stall, sanitize or lab, found 'bogus'" sh "$gpu" bogus
refused 'LOCKSTEP: expected a program, found none at ./none' \
    sh "$srcdir/bench/peer/parity.sh" ./none a.h5
refused 'DATA.h5: expected a dataset, found none at none.h5' \
    sh "$srcdir/bench/peer/parity.sh" "$LOCKSTEP" none.h5
refused "STEPS: expected gpt2, alibi10m, mnv3l, mnv3s32 or fusion, found 'gpt3'" \
    env STEPS='gpt2 gpt3' sh "$gpu" step
# What PyTorch does beside it is not asked here.
run env builddir="$builddir" DEVICE=cpu STEPS=alibi10m PEER_LIMIT=1 sh "$gpu" step
ok "gpu.sh on a CPU measures a step, and holds it to no figure of an H200" test \
    "$(grep -c '^ok .*alibi10m: a step is measured$' "$work/out")" -eq 1 -a \
    "$(grep -c 'the step takes [0-9.]* ms, at most .* # SKIP not applicable' "$work/out")" -eq 1 \
    -a "$(grep -v '# SKIP' "$work/out" | grep -c ' at most ')" -eq 1
for help in --help -h; do
    for name in step kernels layers io; do
        run "$builddir/bench/$name" $help
        ok "$name $help" test "$rc" -eq 0 -a ! -s "$work/err" -a \
            "$(grep -c "^usage: $name " "$work/out")" -eq 1
    done
    run sh "$gpu" $help
    ok "gpu.sh $help lists the parts" test "$rc" -eq 0 -a ! -s "$work/err" -a \
        "$(grep -cE '^  (ops|step|recompute|lab) ' "$work/out")" -eq 4
    run sh "$srcdir/bench/peer/parity.sh" $help
    ok "parity.sh $help" test "$rc" -eq 0 -a ! -s "$work/err" -a \
        "$(grep -c '^bench/peer/parity.sh LOCKSTEP DATA.h5' "$work/out")" -eq 1
done
ranks 2 "$step" r.yaml --set train.leaves=1
ok "more ranks than leaves are refused" test "$rc" -eq 2 -a \
    "$(grep -c '^step: r.yaml: 2 ranks do not divide 1 leaves' "$work/err")" -eq 1
ranks 2 "$kernels" r.yaml
ok "nodes are timed on one rank" test "$rc" -eq 2 -a \
    "$(grep -c '^kernels: expected one rank, found 2' "$work/err")" -eq 1

finish
