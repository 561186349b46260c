#!/bin/sh
# Learning: a phrase language whose next character is nearly always certain, and images of four
# shapes. The loss of guessing characters by frequency is about 2.8; what a wrong gradient somewhere
# still learns stays above the bounds here. That of guessing shapes is 1.39; they are learnt well
# without the help of one op or another, whose gradients tests/test_models.c looks at.
# shellcheck disable=SC2016 # awk programs
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

# Phrases follow each other in a fixed circle, so that each is known from the one before.
awk 'BEGIN {
    split("all ranks walk in step|sums are taken pairwise|no bit is left to chance|" \
          "what was saved goes on|few words say it all", phrase, "|")
    for (i = 0; i < 1500; i++) printf "%s; ", phrase[i % 5 + 1]
}' >a.txt
run "$LOCKSTEP" import text a.txt -v character -o a.h5
ok "the text is imported" test "$rc" -eq 0

cat >learn.yaml <<END
directory: none
data:
  file: a.h5
model:
  layers: 2
  width: 48
  heads: 4
  context: 32
train:
  steps: 200
  batch: 16
  leaves: 2
  device: $DEVICE
optimizer:
  lr: 6e-3
  min_lr: 3e-4
  warmup: 20
eval:
  every: 0
  batches: 4
END

# learns DESCRIPTION RANKS BOUND NAME SET...: the run file $file.yaml.
file=learn
learns() {
    what=$1 n=$2 bound=$3 name=$4
    shift 4
    sets=
    for set in "$@"; do
        sets="$sets --set $set"
    done
    # shellcheck disable=SC2086 # words
    ranks "$n" "$LOCKSTEP" train $file.yaml --set directory="$name" $sets
    loss=$(tail -n 1 "$name/validation.log" | awk '{ print $2 }')
    if [ "$rc" -eq 0 ] && awk -v a="$loss" -v b="$bound" 'BEGIN { exit !(a != "" && a < b) }'; then
        pass "$what: validation loss $loss < $bound in $seconds s"
    else
        fail "$what: validation loss $loss, expected less than $bound"
        note_run "$*"
    fi
}

learns "alibi, layernorm, gelu, tied, 1 rank" 1 0.1 one
learns "the same on 2 ranks" 2 0.1 two
ok "with the same result" cmp one/validation.log two/validation.log
learns "rope, rmsnorm, swiglu, grouped-query, untied, 2 ranks" 2 0.1 rope model.position=rope \
    model.norm=rmsnorm model.ffn=swiglu model.kv_heads=2 model.tied=false model.bias=false
learns "learned positions, fp16, 2 ranks" 2 0.1 learned model.position=learned \
    train.precision=fp16 train.steps=300
learns "sinusoidal positions, 2 ranks" 2 0.2 sinusoidal model.position=sinusoidal train.steps=300
learns "bf16, dropout, 2 ranks" 2 0.2 dropout train.precision=bf16 model.dropout=0.1

# What was learnt can be used: the circle of phrases goes on.
run "$LOCKSTEP" generate one --prompt 'all ranks walk in step; sums are ' --tokens 60 -t 0
ok "the trained model goes on in the text" \
    grep -q 'sums are taken pairwise; no bit is left to chance; what was saved' "$work/out"
run "$LOCKSTEP" eval one a.h5
ok "and predicts nearly every character" \
    awk '/accuracy/ { for (i = 1; i < NF; i++) if ($i == "accuracy") exit !($(i + 1) > 0.97) }' \
    "$work/out"

# ---- images ------------------------------------------------------------------------------------

"$builddir/tests/makeimage" shapes 960 12 1 images labels
run "$LOCKSTEP" import idx images labels -o images.h5 -f 0.2
ok "the images are imported" test "$rc" -eq 0
cat >shapes.yaml <<END
directory: none
data:
  file: images.h5
model:
  kind: mobilenetv3
  width_multiplier: 0.25
  stem_stride: 1
train:
  steps: 100
  batch: 64
  leaves: 2
  device: $DEVICE
optimizer:
  lr: 1e-2
  warmup: 10
eval:
  every: 0
  batches: 100
END
file=shapes

# sees DESCRIPTION RANKS BOUND NAME SET...: as learns, and 95 % of the shapes are told apart.
sees() {
    learns "$@"
    share=$(tail -n 1 "$4/validation.log" | awk '{ print $3 }')
    ok "accuracy $share" awk -v a="$share" 'BEGIN { exit !(a > 0.95) }'
}
sees "mobilenetv3 small, 1 rank" 1 0.05 small
sees "fp16, 2 ranks" 2 0.05 half train.precision=fp16
sees "bf16, large, eca" 1 0.05 large train.precision=bf16 model.size=large model.attention=eca
sees "flipped, padded, cropped, smoothed, dropout, 2 ranks" 2 0.2 augmented augment.flip=true \
    augment.pad=1 augment.crop=0.8 augment.smoothing=0.1 model.dropout=0.1 train.steps=200
sees "resnet18" 1 0.05 resnet model.kind=resnet18 model.width_multiplier=0.125
run "$LOCKSTEP" eval half images.h5
ok "eval finds the same" awk '/accuracy/ { exit !($4 > 0.95) }' "$work/out"

finish
