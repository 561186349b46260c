#!/bin/sh
# Models of images with a text each, as a user sees them: train, plan, resume on other ranks,
# evaluate, predict, show; what each key changes; what bad input gets.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

make=$builddir/tests/makeimage texts=$builddir/tests/maketexts h5edit=$builddir/tests/h5edit
[ -x "$make" ] && [ -x "$texts" ] && [ -x "$h5same" ] && [ -x "$h5edit" ] ||
    echo "Bail out! make check TESTS="

# shellcheck disable=SC2317 # called by ok
differ() { ! cmp -s "$1" "$2"; }

# ---- data --------------------------------------------------------------------------------------

"$make" shapes 640 12 1 i l
"$make" shapes 160 12 2 vi vl
prints "images" '640 training and 160 validation samples, of 4 classes' \
    "$LOCKSTEP" import idx i l vi vl -o plain.h5
cp plain.h5 f.h5
cp plain.h5 long.h5
ok "get a text each" "$texts" f.h5 6 20
ok "and longer ones" "$texts" long.h5 9 20
prints "show tells of them" '6 tokens below 20 with each image' "$LOCKSTEP" show f.h5

# ---- train -------------------------------------------------------------------------------------

cat >f.yaml <<END
directory: run
data:
  file: f.h5
model:
  kind: fusion
  layers: 1
  image_layers: 1
  cross_layers: 1
  width: 32
  heads: 2
  patch: 4
  position: learned
  dropout: 0.1
augment:
  flip: true
train:
  steps: 60
  batch: 32
  leaves: 4
  device: $DEVICE
optimizer:
  lr: 3e-3
  warmup: 5
eval:
  every: 20
  batches: 100
log:
  every: 20
checkpoint:
  every: 30
END
prints "train" '1 rank, 4 leaves, fp32|step 20/60 |accuracy |step 60/60 |best validation loss ' \
    "$LOCKSTEP" train f.yaml
ok "the resolved run file has the keys of such a model" test \
    "$(grep -c -E '^  (image_layers|cross_layers|patch|heads|recompute|flip):' run/run.yaml)" -eq 6
ok "and nothing of others" test "$(grep -c -E 'stem|mixup|context|tied' run/run.yaml)" -eq 0
prints "the first token tells the class: that is learnt" 'images 160' "$LOCKSTEP" eval run f.h5
# shellcheck disable=SC2016 # awk's
ok "of nearly all images" awk '/^loss/ { a = $4 } END { exit !(a > 0.95) }' "$work/out"
cp "$work/out" eval.1
prints "evaluated on two ranks" 'images 160' 2 "$LOCKSTEP" eval run f.h5
ok "with the same figures" cmp eval.1 "$work/out"
prints "show tells of the texts of a checkpoint" '6 tokens below 20 with each image' \
    "$LOCKSTEP" show run/checkpoints/latest
prints "a plan" 'activations |predicted' "$LOCKSTEP" train f.yaml --plan
sed -e '/layers:/d' -e '/width:/d' -e '/heads:/d' -e '/patch:/d' -e '/position:/d' \
    -e 's/kind: .*/kind: resnet18/' f.yaml >images.yaml
prints "a model of images takes no notice of the texts" 'step 2/2' "$LOCKSTEP" train images.yaml \
    --set directory=images --set model.width_multiplier=0.125 --set train.steps=2
prints "the same without them" 'step 2/2' "$LOCKSTEP" train images.yaml --set directory=plain \
    --set model.width_multiplier=0.125 --set train.steps=2 --set data.file=plain.h5
ok "with the same losses" cmp images/loss.log plain/loss.log

# ---- N ranks, one answer -----------------------------------------------------------------------

for n in 2 4; do
    prints "on $n ranks" "$n ranks, 4 leaves|step 60/60" \
        $n "$LOCKSTEP" train f.yaml --set directory="run$n"
    ok "the same to the last bit" same run "run$n"
done
prints "stopped early" 'step 20/20' \
    "$LOCKSTEP" train f.yaml --set directory=stop --set train.stop_after=20
prints "and resumed on four ranks, reading each step's samples" 'from step 20|step 60/60' \
    4 "$LOCKSTEP" train f.yaml --set directory=stop --resume --set data.resident=no
ok "to the same bits" same run stop
for how in ffn block; do
    prints "computing $how again" 'step 60/60' \
        2 "$LOCKSTEP" train f.yaml --set directory=$how --set train.recompute=$how
    ok "to the same bits" same run $how
done

# ---- each key changes the run ------------------------------------------------------------------

few='--set train.steps=4 --set eval.every=4'
# shellcheck disable=SC2086 # words
prints "four steps" 'step 4/4' "$LOCKSTEP" train f.yaml --set directory=few $few
for key in model.layers=2 model.image_layers=2 model.cross_layers=2 model.patch=6 \
    model.position=alibi model.position=rope model.position=sinusoidal model.norm=rmsnorm \
    model.ffn=swiglu model.heads=1 model.kv_heads=1 model.width=64 model.bias=false \
    model.dropout=0 model.image_size=8 augment.flip=false augment.smoothing=0.1; do
    # shellcheck disable=SC2086 # words
    prints "$key" 'step 4/4' "$LOCKSTEP" train f.yaml --set directory=other $few --set $key
    ok "is another run" differ few/loss.log other/loss.log
    rm -rf other
done

# ---- bad input ---------------------------------------------------------------------------------

new() { # DESCRIPTION TEXTS SET...: train a new run, badly
    what=$1 text=$2
    shift 2
    sets=
    for set in "$@"; do
        sets="$sets --set $set"
    done
    # shellcheck disable=SC2086 # words
    bad "$what" "$text" "$LOCKSTEP" train f.yaml --set directory=new $sets
}
alone='expected images with a text each for model.kind fusion|found images alone|doc/fusion.md'
new "images alone" "plain.h5: $alone" data.file=plain.h5
bad "on two ranks" "plain.h5: $alone" \
    2 "$LOCKSTEP" train f.yaml --set directory=new --set data.file=plain.h5
bad "for a plan" "plain.h5: $alone" "$LOCKSTEP" train f.yaml --plan --set data.file=plain.h5
new "mixup" "'augment.mixup' has no meaning for model.kind fusion; remove it" augment.mixup=0.2
new "batchnorm" "'model.norm': expected layernorm or rmsnorm for a fusion, found batchnorm" \
    model.norm=batchnorm
new "patches that do not fill the image" \
    'cannot be cut into patches of 5 x 5 pixels|set model.patch to a divisor' model.patch=5
bad "evaluation of images alone" 'plain.h5: expected a text of 6 tokens below 20|found 0 below 0' \
    "$LOCKSTEP" eval run plain.h5
bad "evaluation of longer texts" 'long.h5: expected a text of 6 tokens below 20|found 9 below 20' \
    "$LOCKSTEP" eval run long.h5
bad "generate" 'expected a model of text, found fusion, a model of images' \
    "$LOCKSTEP" generate run
cp f.h5 wrong.h5
"$h5edit" wrong.h5 row train/tokens 7 20
new "a token beyond the vocabulary" \
    "wrong.h5: 'train/tokens': token 20 at 7 is not below the vocabulary size 20" data.file=wrong.h5
cp f.h5 wrong.h5
"$h5edit" wrong.h5 remove validation/tokens
new "texts of one split only" 'wrong.h5: |validation/tokens' data.file=wrong.h5
cp f.h5 wrong.h5
"$h5edit" wrong.h5 float train/tokens
new "tokens of another type" "wrong.h5: 'train/tokens': expected u16|found f32" data.file=wrong.h5

finish
