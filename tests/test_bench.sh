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
ok "the baseline is measured beside it" grep -q \
    '^graph optimisation and mixed precision: [0-9.]*x' "$work/out"

# ---- nodes ---------------------------------------------------------------------------------------

run "$kernels" r.yaml --repeats 3
# shellcheck disable=SC2016 # awk's
ok "nodes alone, each with its share of a ceiling; they add up" awk '
    / (flops|bytes)$/ { lines++; nodes += $(NF - 6); ms += $(NF - 4); if ($(NF - 1) < 0) bad = 1 }
    /^all / { all = $2; sum = $3; share = $4 }
    END {
        exit !(lines > 10 && nodes == all && sum - ms < 0.001 * lines && ms - sum < 0.001 * lines &&
            share > 0 && !bad)
    }' "$work/out"
ok "the ceilings are told" grep -q '^ceilings measured here: .* TFLOP/s of a product in f32, ' \
    "$work/out"

# ---- what is refused -----------------------------------------------------------------------------

# refused TEXT COMMAND...: exit code 2, one line on stderr with the text, nothing on stdout.
refused() {
    text=$1
    shift
    run "$@"
    ok "$(head -n 1 "$work/err")" test "$rc" -eq 2 -a "$(grep -c '' "$work/err")" -eq 1 -a \
        ! -s "$work/out" -a "$(grep -cF -e "$text" "$work/err")" -eq 1
}

whole='expected a whole number from'
for steps in 4294967297 5x 0 -1 '' 99999999999999999999; do
    refused "--steps: $whole 1 to 1000000, found '$steps'" "$step" r.yaml --steps "$steps"
done
refused "--steps: $whole 1 to 1000000, found nothing" "$step" r.yaml --steps
refused "--vocabulary: $whole 2 to 65536, found '65x'" "$step" r.yaml --vocabulary 65x
refused '--set: expected a key and its value' "$step" r.yaml --set
refused "unexpected argument '--bogus'; usage: step RUN.yaml" "$step" r.yaml --bogus
refused "unexpected argument '--steps'; usage: kernels RUN.yaml" "$kernels" r.yaml --steps 5
refused 'the run file is missing; usage: step RUN.yaml' "$step"
refused 'the directory is missing; usage: layers RUN.yaml DIRECTORY' "$builddir/bench/layers" r.yaml
refused "MIB: $whole 1 to 1048576, found '5x'" "$builddir/bench/io" . 5x
refused "STEPS: expected gpt2, alibi10m, mnv3l or mnv3s32, found 'gpt3'" \
    env STEPS='gpt2 gpt3' sh "$srcdir/bench/gpu.sh" step
ranks 2 "$step" r.yaml --set train.leaves=1
ok "more ranks than leaves are refused" test "$rc" -eq 2 -a \
    "$(grep -c '^step: r.yaml: 2 ranks do not divide 1 leaves' "$work/err")" -eq 1
ranks 2 "$kernels" r.yaml
ok "nodes are timed on one rank" test "$rc" -eq 2 -a \
    "$(grep -c '^kernels: expected one rank, found 2' "$work/err")" -eq 1

finish
