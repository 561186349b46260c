#!/bin/sh
# Shows on a GPU host what only a GPU can show, part by part:
#
#   make && make check TESTS= && sh ../bench/gpu.sh [--data TEXT] [PART...]   (in the build folder)
#
#   ops       the tests of ops, optimizer steps, recomputation, fusion and augmentation
#   exact     tests/test_exact.sh: the same bits on 1, 2, 4 and 8 ranks, which share the GPU
#   parity    losses beside PyTorch's from the same weights: fusion on images made here, and
#             bench/peer/parity.sh on TEXT
#   layers    MobileNetV3 and ResNet-18 layer by layer beside torchvision's: bench/layers,
#             bench/peer/vision.py
#   learn     jobs/shakespeare_gpu.yaml on TEXT (tiny Shakespeare): nanoGPT's loss by a schedule of
#             our own, and how soon
#   step      whole steps beside PyTorch's (python3 with torch and torchvision) and beside fp32
#             without the pass that fuses nodes and without capture
#   kernels   bench/kernels: every node of the steps, alone and in a step, beside the ceilings
#   recompute a step that keeps all activations, or computes those of the feed-forwards or of all
#             blocks again: time and memory
#   reduce    a step on a rank for each GPU beside one rank's: the exact and the fast reduction, and
#             what buckets of several sizes hide of it behind the backward pass
#   trace     bench/trace_gpu.sh
#   doctor    lockstep doctor, and tests/test_doctor_command.sh
#   stall     three minutes of GPT-2 with a save each minute beside one without; what the disk takes
#   sanitize  compute-sanitizer on the ops whose kernels share memory between threads
#   lab       bench/attention_lab: the attention kernels alone, and PyTorch's beside them
#
# Without a PART, all. Each has a time limit, below, and goes on after what failed; what is measured
# is told in notes, what must hold in TAP. RANKS, MODELS and PRECISIONS go to test_exact.sh; STEPS
# lists the steps, OPS the ops of sanitize, where a word stands for all whose name contains it;
# PEER_LIMIT is how many seconds PyTorch has for each step: of its modes (max-autotune takes minutes
# to compile, and comes last) those count that have ended by then, and all are told.
# DEVICE=cpu tries this script where there is no GPU, at small sizes: what an H200 is held to is
# then told as not applicable.
# shellcheck disable=SC2046,SC2086,SC2317 # words without blanks; called by name
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
: "${DEVICE:=cuda}" "${PEER_LIMIT:=100}"
: "${RANKS:=2 4 8}" "${MODELS:=alibi mobile fusion}" "${PRECISIONS:=fp32 fp16}"
: "${OPS:=attention xent norm conv pool gate excite embed linear rope images squeeze}"
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
export srcdir builddir LOCKSTEP MPIRUN DEVICE RANKS MODELS PRECISIONS

target_loss=1.4697 # nanoGPT's best validation loss on tiny Shakespeare
stall_limit=3.5    # percent of a run's time
reduce_limit=10    # percent of a step that the exact reduction may add
if [ "$DEVICE" = cuda ]; then
    : "${STEPS:=gpt2 alibi10m mnv3l mnv3s32 fusion}"
    peer_mode=time peer_small='' peer_clock="the GPU's events" minute=60 few=''
else
    : "${STEPS:=alibi10m mnv3s32}"
    peer_mode=cpu peer_small='--batch 4 --warmup 1 --steps 3' peer_clock='the clock'
    minute=4 few='--steps 5'
fi

limit_of() {
    case $1 in
    learn) echo 120 ;;
    parity | layers | kernels | recompute | lab) echo 240 ;;
    doctor | stall | trace) echo 400 ;;
    reduce) echo 560 ;;
    exact) echo 560 ;;
    step) echo 900 ;;
    ops) echo 3600 ;;
    sanitize) echo 7200 ;;
    esac
}

refuse() {
    echo "gpu.sh: $*" >&2
    exit 2
}
case ${1:-} in
--help | -h)
    awk 'NR > 1 { if (!/^#/ || /shellcheck/) exit; sub(/^# ?/, ""); print }' \
        "$srcdir/bench/gpu.sh"
    exit 0
    ;;
esac
case $DEVICE in
cuda | cpu) ;;
*) refuse "DEVICE: expected cuda or cpu, found '$DEVICE'" ;;
esac
data=
if [ "${1:-}" = --data ]; then
    [ $# -ge 2 ] || refuse "--data: expected a file, found nothing"
    data=$2
    shift 2
    case $data in /*) ;; *) data=$OLDPWD/$data ;; esac
    [ -f "$data" ] || refuse "--data: expected a file, found none at $data"
fi
[ $# -gt 0 ] || set -- ops exact parity layers learn step kernels recompute reduce trace \
    doctor stall sanitize lab
for part; do
    [ -n "$(limit_of "$part")" ] || refuse "expected ops, exact, parity, layers, learn, step," \
        "kernels, recompute, reduce, trace, doctor, stall, sanitize or lab, found '$part'"
done
for step in $STEPS; do
    case $step in
    gpt2 | alibi10m | mnv3l | mnv3s32 | fusion) ;;
    *) refuse "STEPS: expected gpt2, alibi10m, mnv3l, mnv3s32 or fusion, found '$step'" ;;
    esac
done

# ---- what the parts share ------------------------------------------------------------------------

# left COMMAND...: run or ranks, within what is left of the part's time.
left() {
    LIMIT=$((end - $(date +%s)))
    [ $LIMIT -gt 0 ] || LIMIT=1
    "$@"
}

# holds EXPRESSION: arithmetic; one that lacks a figure does not hold.
holds() { awk "BEGIN { exit !($1) }"; }

# aim DESCRIPTION EXPRESSION: what an H200 is held to.
aim() {
    if [ "$DEVICE" = cuda ]; then
        ok "$1" holds "$2"
    else
        skip "$1" "not applicable to a CPU"
    fi
}

# counted DESCRIPTION COMMAND...: a test in TAP, of which every check is good.
counted() {
    counted_what=$1
    shift
    left run env LIMIT=120 "$@"
    awk '/^ok/ { on = 0 } /^not ok/ || /^Bail/ || /# SKIP/ { on = 1 } on { print "#   " $0 }' \
        "$work/out" | head -n 60
    good=$(grep -c '^ok' "$work/out") plan=$(awk '/^1\.\.[0-9]+$/ {
        n += substr($0, 4) } END { print n }' "$work/out")
    ok "$counted_what: $good of ${plan:-unknown} checks, $seconds s" \
        test "$rc" -eq 0 -a "$good" = "$plan"
    case $rc in
    0) ;;
    124 | 137) note "stopped at the limit; what it had started may go on for a while" ;;
    *) note_file "$work/err" ;;
    esac
}

# in_parts ARGUMENT...: test_ops on all cores, in parts of two threads each.
in_parts() {
    parts=$((($(nproc) + 1) / 2))
    # shellcheck disable=SC2016 # for the shell within
    counted "tests/test_ops $*, in $parts parts" env OMP_NUM_THREADS=2 sh -c '
        parts=$1 && shift
        seq "$parts" | xargs -P "$parts" -I{} \
            sh -c "part=\$1 && shift && exec \"\$@\" >ops.\$part" sh {} "$@" --part "{}/$parts"
        rc=$?
        cat ops.* && rm ops.* && exit $rc' sh $parts "$builddir/tests/test_ops" "$@"
}

# yaml FILE: the run file, or where there is no GPU a small copy of it.
yaml() {
    [ "$DEVICE" = cpu ] || { echo "$srcdir/$1"; return; }
    small=$work/${1##*/}
    sed -e 's/^  layers: .*/  layers: 4/' -e 's/^  width: .*/  width: 64/' \
        -e 's/^  heads: .*/  heads: 4/' -e 's/^  context: .*/  context: 32/' \
        -e 's/^  batch: .*/  batch: 4/' -e 's/^  steps: .*/  steps: 60/' \
        -e 's/^  every: .*/  every: 20/' -e 's/^  device: .*/  device: cpu/' \
        "$srcdir/$1" >"$small"
    echo "$small"
}

# The options of a training on some text, without validation.
text_options() {
    if [ ! -f a.h5 ]; then
        awk 'BEGIN { while (i < 40000) print "step " i++ " a quick fox jumps over dog " i % 7 }' \
            >a.txt
        "$LOCKSTEP" import text a.txt -v character -o a.h5 >/dev/null
    fi
    echo "--set data.file=a.h5 --set train.device=$DEVICE --set eval.batches=0"
}

# The median step of a run, ms.
median() {
    sed -n 's/^{"event":"end",.*"p50":\([0-9.e-]*\),.*/\1/p' "$1/run.jsonl" |
        awk '{ printf "%.2f", $1 }'
}

# The same between one step and the next, whatever lies between them, from the first to the last.
mean() {
    sed -n 's/^{"event":"step","time":\([0-9.]*\),.*/\1/p' "$1/run.jsonl" | awk '
        NR == 1 { first = $1 } { last = $1 }
        END { if (NR > 1) printf "%.2f", 1e3 * (last - first) / (NR - 1) }'
}

# ---- the parts -----------------------------------------------------------------------------------

part_ops() {
    for name in ops steps recompute augment fuse; do
        if [ $name = ops ]; then in_parts; else
            counted "tests/test_$name" "$builddir/tests/test_$name"
        fi
        [ $name = fuse ] || # which looks at the graph, and computes on the CPU
            ok "tests/test_$name computed on the device" grep -qi "^ok .*$DEVICE" "$work/out"
    done
    for name in attention biased excite linear norm xent; do
        in_parts --portable $name # the kernels of other GPUs than Hopper
        in_parts --narrow $name   # persistent kernels of 4 blocks
    done
}

part_exact() {
    counted "tests/test_exact.sh, $MODELS in $PRECISIONS on 1 $RANKS ranks" \
        sh "$srcdir/tests/test_exact.sh"
}

torch() { python3 -c 'import torch, torchvision, h5py, yaml' 2>/dev/null; }

# The text as shakespeare.h5; without it what needs it is skipped.
text() {
    [ ! -f shakespeare.h5 ] || return 0
    if [ -z "$data" ]; then
        skip "$1" "its text is needed: --data input.txt"
        return 1
    fi
    left run "$LOCKSTEP" import text "$data" -v character -o shakespeare.h5
    ok "the text is imported" test "$rc" -eq 0
}

# fusion_parity KEY=VALUE...: what is needed is here.
fusion_parity() {
    "$builddir/tests/makeimage" shapes 800 16 1 images labels
    "$LOCKSTEP" import idx images labels -o pairs.h5 -f 0.2 >/dev/null
    "$builddir/tests/maketexts" pairs.h5 8 20
    rm -rf pairs
    sets=
    for set; do sets="$sets --set $set"; done
    left run "$LOCKSTEP" train "$srcdir/bench/fusion.yaml" --set directory=pairs \
        --set data.file=pairs.h5 --set train.device=$DEVICE --set train.precision=fp32 \
        --set model.patch=4 --set train.batch=32 --set train.steps=40 --set optimizer.warmup=5 \
        --set checkpoint.initial=true $sets
    [ "$rc" -eq 0 ] || note_run "bench/fusion.yaml in fp32"
    left run python3 "$srcdir/bench/peer/fusion.py" parity --data pairs.h5 --steps 40 \
        --checkpoint pairs/checkpoints/step-000000.h5 --run-file pairs/run.yaml \
        --loss-log pairs/loss.log
    ok "fusion, ${*:-layernorm, gelu}: $(tail -n 1 "$work/out")" test "$rc" -eq 0
    [ "$rc" -eq 0 ] || note_run "bench/peer/fusion.py parity"
}

part_parity() {
    if [ "$DEVICE" = cpu ] || ! torch; then
        skip "losses beside PyTorch's" "no GPU, or no python3 with torch, h5py, yaml"
        return
    fi
    fusion_parity
    fusion_parity model.norm=rmsnorm model.ffn=swiglu model.kv_heads=2 model.bias=false
    text "losses beside PyTorch's" || return
    left run sh "$srcdir/bench/peer/parity.sh" "$LOCKSTEP" shakespeare.h5
    ok "four transformers have PyTorch's losses" test "$rc" -eq 0
    note_file "$work/out"
}

part_layers() {
    if ! torch; then
        skip "layers beside torchvision's" "no python3 with torchvision"
        return
    fi
    for step in mnv3l mnv3s32 resnet18; do
        left run "$builddir/bench/layers" "$srcdir/bench/$step.yaml" layers $(samples $step) \
            --set train.batch=8 --set train.device=$DEVICE
        [ "$rc" -eq 0 ] || note_run "bench/layers bench/$step.yaml"
        left run python3 "$srcdir/bench/peer/vision.py" layers layers
        ok "$step: $(tail -n 1 "$work/out")" test "$rc" -eq 0
        [ "$rc" -eq 0 ] || note_run "bench/peer/vision.py layers"
    done
}

part_learn() {
    text "the loss of $target_loss" || return
    launched=$(date +%s.%N)
    left run "$LOCKSTEP" train "$(yaml jobs/shakespeare_gpu.yaml)" --set directory=learn \
        --set data.file=shakespeare.h5
    ok "jobs/shakespeare_gpu.yaml ends" test "$rc" -eq 0
    [ "$rc" -eq 0 ] || note_run "jobs/shakespeare_gpu.yaml"
    note "$(tail -n 2 "$work/out" | head -n 1); $seconds s from launch to end"
    best=$(awk 'NR == 1 || $2 < best { best = $2 } END { printf "%.4f", best }' \
        learn/validation.log)
    aim "best validation loss $best, at most $target_loss" "$best <= $target_loss"
    of_time='s/^{"event":"validation","time":\([0-9.e+]*\),.*"loss":\([0-9.e-]*\)[,}].*/\1 \2/p'
    soon=$(sed -n "$of_time" learn/run.jsonl | awk -v from="$launched" -v loss="$target_loss" '
        $2 <= loss { printf "%.1f", $1 - from; exit }')
    aim "seconds from launch to that loss: ${soon:-never}, at most 20" "${soon:-99} <= 20"
}

# The median that bench/step printed first, ms; and its memory on the device, MiB.
step_ms() { sed -n '1s/.*: median \([0-9.]*\) ms.*/\1/p' "$work/out"; }
step_mib() { sed -n '2s/.*all on the device \([0-9.]*\)$/\1/p' "$work/out"; }

# Of PyTorch's modes: the fastest in $work/best as "MS MIB NAME"; in notes, which ended, failed or
# were cut off by the limit.
modes() {
    awk -v best_in="$work/best" -v limit="$PEER_LIMIT" -v shape="$1" '
    /^# modes: / {
        sub(/^# modes: /, "")
        modes = split($0, mode, "; ")
    }
    at = match($0, / +[0-9.]+ ms per step/) {
        ms = substr($0, at) + 0
        name = substr($0, 1, at - 1)
        told[name] = ms " ms"
        if (!best || ms < best) {
            best = ms
            how = name
            peak = match($0, /peak [0-9.]+/) ? 1024 * substr($0, RSTART + 5, RLENGTH - 5) : "?"
        }
    }
    at = match($0, / +failed: /) { told[substr($0, 1, at - 1)] = substr($0, at + RLENGTH - 8) }
    END {
        print best, peak, how >best_in
        for (i = 1; i <= modes; i++)
            printf "# %-9s PyTorch, %s: %s\n", shape, mode[i],
                mode[i] in told ? told[mode[i]] : "cut off at " limit " s"
    }' "$work/out"
}

# beside NAME TARGET SCRIPT ARGUMENT...: the step bench/NAME.yaml, and the shape NAME in PyTorch;
# TARGET in ms, of one H200. A small copy of a run file is not what PyTorch computes beside it.
beside() {
    name=$1 target=$2 script=$3
    left run "$builddir/bench/step" "$(yaml "bench/$name.yaml")" --baseline $(samples $name) \
        --set train.device=$DEVICE
    ok "$name: a step is measured" test "$rc" -eq 0
    [ "$rc" -eq 0 ] || note_run "bench/step bench/$name.yaml"
    ms=$(step_ms)
    mib=$(step_mib)
    note "$(head -n 1 "$work/out")"
    times=$(sed -n 's/^graph optimisation[a-z ]*: \([0-9.]*\)x.*/\1/p' "$work/out")
    note "$(printf '%-9s lockstep  %9s ms  %8s MiB  %sx fp32, not fused, not captured' \
        "$name" "$ms" "$mib" "$times")"
    sed -n 's/^graph optimisation.*; \(disturbed .*\)/#           \1/p' "$work/out"
    aim "$name: the step takes $ms ms, at most $target" "$ms <= $target"
    aim "$name: $times times the speed of the baseline, at least 1.3" "$times >= 1.3"
    if ! torch; then
        skip "$name: PyTorch takes longer, and no less memory" "no python3 with torch, torchvision"
        return
    fi
    left run timeout "$PEER_LIMIT" python3 "$srcdir/bench/peer/$script" $peer_mode --shape "$name" \
        $peer_small
    [ "$rc" -eq 0 ] || [ "$rc" -eq 124 ] || note_run "bench/peer/$script"
    modes "$name"
    read -r peer_ms peer_mib how <"$work/best"
    if [ -z "$peer_ms" ]; then
        fail "$name: no mode of PyTorch ended within $PEER_LIMIT s"
        return
    fi
    ratio=$(awk "BEGIN { printf \"%.2f\", ${peer_ms:-0} / ${ms:-1} }")
    note "$(printf '%-9s PyTorch   %9s ms  %8s MiB  %sx lockstep (%s)' \
        "$name" "$peer_ms" "$peer_mib" "$ratio" "$how")"
    note "          medians: lockstep's by the host's clock over rounds of 5 steps, PyTorch's by" \
        "$peer_clock of each step"
    aim "$name: PyTorch takes $ratio times as long ($how)" "$ratio > 1"
    aim "$name: $mib MiB, in PyTorch $peer_mib" "$mib <= $peer_mib"
}

# What the samples of a step are, as options of bench/step and bench/kernels.
samples() {
    case $1 in
    gpt2) echo --vocabulary 50304 ;;
    alibi10m) echo --vocabulary 65 ;;
    mnv3l) echo --image-size 224 --classes 1000 ;;
    mnv3s32) echo --image-size 32 --classes 10 ;;
    fusion) echo --vocabulary 8192 --text 64 ;;
    resnet18) echo --image-size 64 --classes 10 ;;
    esac
}

part_step() {
    for step in $STEPS; do
        case $step in
        gpt2) beside gpt2 55 transformer.py ;;
        alibi10m) beside alibi10m 3.9 transformer.py ;;
        mnv3l) beside mnv3l 11 vision.py ;;
        mnv3s32) beside mnv3s32 2.5 vision.py ;;
        fusion) beside fusion 8.5 fusion.py ;;
        esac
    done
}

part_kernels() {
    for step in $STEPS; do
        left run "$builddir/bench/kernels" "$(yaml "bench/$step.yaml")" $(samples $step) \
            --set train.device=$DEVICE
        ok "$step: every node is measured" test "$rc" -eq 0
        note_file "$work/out" 300
        [ "$rc" -eq 0 ] || note_run "bench/kernels bench/$step.yaml"
    done
}

part_recompute() {
    for name in gpt2 alibi10m; do
        least=
        for how in none ffn block; do
            left run "$builddir/bench/step" "$(yaml bench/$name.yaml)" $(samples $name) \
                $few --set train.device=$DEVICE --set train.recompute=$how
            [ "$rc" -eq 0 ] || note_run "bench/step bench/$name.yaml --set train.recompute=$how"
            ms=$(step_ms) mib=$(step_mib)
            [ $how != none ] || keeping=$ms
            more=$(awk "BEGIN { printf \"%+.1f\", 100 * (${ms:-0} / ${keeping:-1} - 1) }")
            what="$name, recompute: $how: $ms ms ($more %), $mib MiB"
            ok "$what${least:+, less than $least}" holds "$rc == 0 && $mib < ${least:-$mib + 1}"
            least=$mib
        done
    done
}

# A rank for each GPU; where there is one, two that share it, which only shows that both work.
# Every rank has one leaf of the same size, so all that $n ranks take longer than one is reduction
# that the backward pass does not hide. In a bucket of 1000 MiB, all of it, nothing is hidden.
part_reduce() {
    gpus=$tap_gpus n=2
    while [ $((2 * n)) -le "$gpus" ]; do n=$((2 * n)); done
    [ "$gpus" -ge 2 ] || note "$n ranks share what there is: their times only show that they work"
    for name in gpt2 alibi10m; do
        file=$(yaml bench/$name.yaml)
        batch=$(sed -n 's/^  batch: //p' "$file")
        set -- "$builddir/bench/step" "$file" $(samples $name) $few \
            --set train.device=$DEVICE
        left run "$@" --set train.leaves=1
        [ "$rc" -eq 0 ] || note_run "bench/step bench/$name.yaml on one rank"
        one=$(step_ms)
        ok "$name on one rank, $batch samples: $one ms" holds "$one > 0"
        for how in 'exact 100' 'fast 100' 'exact 4' 'exact 25' 'exact 1000'; do
            left ranks $n "$@" --set train.leaves=$n --set train.batch=$((n * batch)) \
                --set train.reduce="${how% *}" --set train.bucket_mib="${how#* }"
            [ "$rc" -eq 0 ] || note_run "bench/step bench/$name.yaml on $n ranks, $how MiB"
            ms=$(step_ms)
            more=$(awk "BEGIN { printf \"%.1f\", 100 * (${ms:-0} / ${one:-1} - 1) }")
            what="$name on $n ranks, $((n * batch)) samples, ${how% *} in buckets of ${how#* } MiB"
            ok "$what: $ms ms, $more % more" holds "$rc == 0 && $ms > 0"
            if [ "$gpus" -ge 2 ] && [ "$name $how" = 'gpt2 exact 100' ]; then
                ok "that is at most $reduce_limit % more" \
                    holds "$ms > 0 && $more <= $reduce_limit"
            fi
        done
    done
}

part_trace() {
    counted "bench/trace_gpu.sh" env GPT2="$(yaml bench/gpt2.yaml)" sh "$srcdir/bench/trace_gpu.sh"
    sed -n -e 's/^ok [0-9]* - \(kernels take .*\)/# \1/p' -e '/^# plain /p' "$work/out"
}

part_doctor() {
    left run "$LOCKSTEP" doctor
    grep -e '^  warning ' -e '^  error ' -e '^  ok  *GPU' "$work/out" | sed 's/^/#   /'
    ok "lockstep doctor finds no error" test "$rc" -le 1
    counted "tests/test_doctor_command.sh" sh "$srcdir/tests/test_doctor_command.sh"
}

part_stall() {
    # shellcheck disable=SC2046 # options
    set -- "$LOCKSTEP" train "$(yaml bench/gpt2.yaml)" $(text_options)
    left run "$@" --set directory=pace --set train.steps=1000 --set train.stop_after=40 \
        --set checkpoint.every=0
    ms=$(median pace)
    every=$(awk "BEGIN { print int(1e3 * $minute / ${ms:-1}) }")
    note "a step takes $ms ms: a save each $every steps"
    left run "$@" --plan
    planned=$(awk '/^  total on the device / { print $NF }' "$work/out")
    device=$(sed -n 's/.*"device":\([0-9][0-9]*\).*/\1/p' pace/run.jsonl | tail -n 1)
    device=$(awk "BEGIN { printf \"%.2f\", ${device:-0} / 1048576 }")
    ok "it has $device MiB on the device, $planned planned" \
        holds "$planned > 0 && $device > 0.999 * $planned && $device < 1.001 * $planned"
    left run "$@" --set directory=plain --set train.steps="$every" --set checkpoint.every=0
    left run "$@" --set directory=long --set train.steps=$((3 * every)) \
        --set checkpoint.every="$every" --set checkpoint.keep=1
    [ "$rc" -eq 0 ] || note_run "three saves"
    line=$(grep '; training waited' "$work/out")
    share=${line##*(} share=${share%% *}
    note "$line"
    ok "three saves were made" test "${line%% *}" = 3
    aim "training waited $share % of its time for saves, at most $stall_limit" \
        "$share <= $stall_limit"
    plain=$(mean plain) saving=$(mean long)
    note "a step without saves: median $(median plain) ms, mean $plain ms"
    note "a step with them:     median $(median long) ms, mean $saving ms"
    more=$(awk "BEGIN { printf \"%.2f\", 100 * (${saving:-0} / ${plain:-1} - 1) }")
    aim "they make the mean $more % longer, at most $stall_limit" \
        "$saving > 0 && $more <= $stall_limit"
    mib=$(echo "$line" | sed -n 's/^3 checkpoints, \([0-9]*\).*/\1/p')
    rm -rf pace plain long
    left run "$builddir/bench/io" . $((${mib:-3} / 3)) 3
    note_file "$work/out"
    ok "saving and loading beside the disk is measured" test "$rc" -eq 0
}

part_sanitize() {
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    if [ ! -x "$sanitizer" ]; then
        skip "no kernel reaches beyond its memory, none races" "no compute-sanitizer here"
        return
    fi
    for tool in memcheck racecheck; do
        for op in $OPS; do
            left run "$sanitizer" --tool $tool --error-exitcode 9 "$builddir/tests/test_ops" $op
            ok "$tool of $op: $(grep -c '^ok' "$work/out") checks, $seconds s,$(
                sed -n 's/^=* \([A-Z]* SUMMARY: .*\)/ \1/p' "$work/out")" test "$rc" -eq 0
            [ "$rc" -eq 0 ] || grep -hv '^ok' "$work/out" "$work/err" | sed 's/^/#   /' |
                head -n 20
        done
    done
}

part_lab() {
    if [ "$DEVICE" = cpu ] || ! command -v nvcc >/dev/null; then
        skip "attention kernels alone" "no GPU, or no nvcc to build bench/attention_lab"
        return
    fi
    left run make -C "$builddir" bench/attention_lab
    [ "$rc" -eq 0 ] || note_run "make bench/attention_lab"
    left run "$builddir/bench/attention_lab" check
    note_file "$work/out" 100
    ok "attention kernels alone: bench/attention_lab finds them right" test "$rc" -eq 0
    left run "$builddir/bench/attention_lab" time
    note_file "$work/out" 100
    ok "they are timed" test "$rc" -eq 0
    if ! torch; then
        skip "beside PyTorch's" "no python3 with torch"
        return
    fi
    cp "$work/out" lab
    for backend in flash cudnn; do
        left run python3 "$srcdir/bench/peer/attention.py" lab --backend $backend
        note_file "$work/out" 100
        ok "PyTorch's attention by $backend is timed beside them" test "$rc" -eq 0
        [ "$rc" -eq 0 ] || note_file "$work/err"
    done
}

# ---- all of it -----------------------------------------------------------------------------------

if [ ! -x "$builddir/bench/step" ] || [ ! -x "$builddir/tests/test_ops" ]; then
    echo "Bail out! make && make check TESTS="
    exit 1
fi
if [ "$DEVICE" = cuda ]; then # lockstep itself says what is wrong with the GPU
    run "$builddir/bench/step" "$srcdir/bench/alibi10m.yaml" --steps 1 --set train.device=cuda \
        --set train.batch=1 --set model.layers=1
    [ "$rc" -eq 0 ] || refuse "$(head -n 1 "$work/err"); DEVICE=cpu tries this script without one"
fi
note "$("$LOCKSTEP" --version | head -n 1), $(nvidia-smi -L 2>/dev/null | head -n 1)"
for part; do
    begun=$(date +%s)
    end=$((begun + $(limit_of "$part")))
    note "---- $part, at most $(limit_of "$part") s"
    "part_$part"
    note "$part took $(($(date +%s) - begun)) s"
done
note "$tap_failures of $tap_count checks failed"
finish
