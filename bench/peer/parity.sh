#!/bin/sh
# bench/peer/parity.sh LOCKSTEP DATA.h5 [WORK]
#
# Loss parity with PyTorch, model by model: lockstep trains 100 steps in fp32 and keeps its initial
# weights; bench/peer/transformer.py starts from them, forms the same batches and compares the loss
# of every step (limit 1e-3 relative). Exit status 1 when one differs. Needs python3 with torch,
# numpy, h5py and yaml; takes about a minute on one GPU. DATA.h5: any text, e.g. of 'lockstep import
# text'. What was written lies in WORK, if that is named.
set -eu
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; }
case ${1:-} in --help | -h) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
lockstep=$1 data=$2
refuse() { echo "parity.sh: $*" >&2; exit 2; }
command -v "$lockstep" >/dev/null || refuse "LOCKSTEP: expected a program, found none at $lockstep"
[ -f "$data" ] || refuse "DATA.h5: expected a dataset, found none at $data"
missing=$(python3 -c 'import h5py, numpy, torch, yaml' 2>&1) ||
    refuse "python3: $(echo "$missing" | tail -n 1); it needs torch, numpy, h5py and yaml"
work=${3:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' HUP INT PIPE TERM
fi
mkdir -p "$work"
here=$(cd "$(dirname "$0")" && pwd)
failed=0

# name, then keys of the model
one() {
    name=$1
    shift
    run="$work/parity-$name"
    sets="--set directory=$run --set data.file=$data"
    for key in "$@"; do sets="$sets --set model.$key"; done
    # shellcheck disable=SC2086 # the list of options is meant to be split
    "$lockstep" train "$here/../parity.yaml" $sets >"$work/$name.log" 2>&1 ||
        { cat "$work/$name.log"; return 1; }
    status=0
    python3 "$here/transformer.py" parity --checkpoint "$run/checkpoints/step-000000.h5" \
        --data "$data" --run-file "$run/run.yaml" --loss-log "$run/loss.log" \
        >"$work/$name.txt" 2>&1 || status=1
    printf '%-12s %s\n' "$name" "$(tail -n 1 "$work/$name.txt")"
    return $status
}

one alibi position=alibi || failed=1
one learned position=learned bias=false || failed=1
one rope position=rope norm=rmsnorm ffn=swiglu kv_heads=2 tied=false || failed=1
one sinusoidal position=sinusoidal norm=rmsnorm || failed=1
exit $failed
