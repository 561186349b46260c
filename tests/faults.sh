# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154,SC2317,SC2086 # variables of the tests and of tap.sh; called by
# ok; words without blanks
# What the tests of faults share; read by them after tap.sh, in an empty directory.
strike=$builddir/tests/strike faulty=$builddir/tests/faulty.so h5edit=$builddir/tests/h5edit
[ -x "$strike" ] && [ -x "$h5edit" ] || echo "Bail out! make tests/strike tests/h5edit"
# shellcheck source=tests/small.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/small.sh"

cat >r.yaml <<END
directory: none
data:
  file: a.h5
model:
  layers: 1
  width: 32
  heads: 2
  context: 32
  dropout: 0.1
train:
  steps: 120
  batch: 8
  leaves: 4
  device: $DEVICE
  timeout: 100
eval:
  every: 30
  batches: 2
checkpoint:
  every: 10
  keep: 0
log:
  every: 1000000
END

# A number below $1.
random() { od -An -N4 -tu4 /dev/urandom | awk -v n="$1" '{ print $1 % n }'; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }

# begin RANKS ARGUMENT...: start training in the background, to be struck and then waited for.
count=0
begin() {
    count=$((count + 1))
    export STRIKE="$$-$count"
    n=$1
    shift
    : >"$work/out" # or what an earlier run has printed would be waited for
    timeout -k 5 "$LIMIT" "$MPIRUN" -np "$n" ${WRAP:-} "$LOCKSTEP" train r.yaml "$@" \
        </dev/null >"$work/out" 2>"$work/err" &
    job=$!
}
# hit SIGNAL RANK BEFORE DIRECTORY [AFTER]: strike; sets pid, and struck to what it printed.
hit() {
    struck=$("$strike" "$1" "$STRIKE" "$job" "$2" "$3" "$4/checkpoints" ${5:-})
    pid=${struck% save}
    begun=$(now)
}
# finish_job: sets rc, and took to the seconds since the signal.
finish_job() {
    wait "$job"
    rc=$?
    took=$(since "$begun")
}
# steps DIRECTORY N: wait until the loss log has N lines.
steps() {
    tries=0
    while [ $tries -lt 600 ] &&
        [ "$(awk 'END { print NR }' "$1/loss.log" 2>/dev/null || echo 0)" -lt "$2" ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
}
says_once() { [ "$(grep -c '^lockstep: ' "$work/err")" -eq 1 ] && says err "$@"; }
