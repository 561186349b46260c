#!/bin/sh
# A disk that fills up while training saves to it: a small tmpfs with the run on it, of which
# another process takes all that is left at a random moment of a random save, or which before the
# start has so little room, or so few files, that the run's own checkpoints fill the rest. On 1, 2
# and 4 ranks the run ends within a minute with code 3 and one message, which names a file of the
# run and asks for room, and is not what MPI or HDF5 make of it; what is called a checkpoint is one,
# to the last bit; a start on the full disk ends the same way and takes nothing away; and with room
# again the run ends in the bits of one that nothing stopped. TRIALS on each of RANKS;
# test_full_long.sh asks for 50.
# shellcheck disable=SC2086 # words without blanks
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

: "${TRIALS:=1}" "${RANKS:=1 2 4}" "${SEED:=$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')}"
LIMIT=300
mkdir full
if ! mount -t tmpfs -o size=48m none full 2>/dev/null; then
    echo '1..0 # SKIP a disk that fills up: a tmpfs cannot be mounted here, root can'
    exit 0
fi
trap 'umount "$work/d/full"; rm -rf "$work"' EXIT
STEPS=160 EVERY=40
# shellcheck source=tests/small.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/small.sh"

# Four saves. Those of the first are of 1 MiB, and rank 0 alone writes them; between them a log
# grows by half a block. Those of the second are of 5 MiB, and all ranks write them.
mv a.yaml small.yaml
sed -e 's/width: 32/width: 192\n  norm: rmsnorm\n  bias: false/' -e 's/every: 40/every: 4/' \
    -e 's/steps: 160/steps: 16/' small.yaml >large.yaml
for model in small large; do
    [ $model = small ] && every=40 || every=4
    run "$LOCKSTEP" train $model.yaml --set directory=whole-$model --set checkpoint.keep=0
    ok "$model: a run that has room" test "$rc" -eq 0
    run "$LOCKSTEP" train $model.yaml --set directory=base-$model --set train.stop_after=$every
    ok "$model: its first quarter" test "$rc" -eq 0
done
note "SEED=$SEED"

# random N: sets drawn to a number below N. (Not printed: what $(...) runs cannot keep the state.)
random_state=$SEED
random() {
    random_state=$(((random_state * 1103515245 + 12345) & 0x7fffffff))
    drawn=$((random_state / 65536 % $1))
}

# leave KIB, leave_files N: of the disk.
leave() { fallocate -l $(($(df --output=avail full | tail -n 1) - $1))KiB full/taken; }
leave_files() {
    mount -o remount,nr_inodes=$(($(df --output=iused full | tail -n 1) + $1)) full
}

# Another process: takes the rest $2 ms after the save of the checkpoint $1 has begun.
fill() {
    until [ -e "full/t/checkpoints/$1.part" ] || [ -e "full/t/checkpoints/$1" ]; do
        [ ! -e over ] || return
        sleep 0.005
    done
    sleep "$(printf '0.%03d' "$2")"
    dd if=/dev/zero of=full/ballast bs=64k 2>/dev/null
    date +%s >filled
}

# go_on RANKS ARGUMENT...: continue full/t.
go_on() {
    on=$1
    shift
    set -- "$LOCKSTEP" train $model.yaml --set directory=full/t --resume "$@"
    if [ "$on" = 1 ]; then run "$@"; else ranks "$on" "$@"; fi
}

# The last second in which the disk was not full: the filler's, or that of a checkpoint.
had_room() {
    echo "$tap_start"
    cat filled 2>/dev/null || stat -c %Y full/t/checkpoints/step-*.h5
}

# check_end WHICH: what every end on a full disk has in common; adds to $wrong.
check_end() {
    took=$(($(date +%s) - $(had_room | sort -n | tail -n 1)))
    [ $took -le 60 ] || wrong="$wrong; $1: $took s"
    [ $took -le $most ] || most=$took
    [ "$rc" -eq 3 ] || wrong="$wrong; $1: exit code $rc, not 3"
    [ "$(grep -c '^lockstep: ' "$work/err")" -eq 1 ] || wrong="$wrong; $1: not one message"
    grep '^lockstep: .*full/t' "$work/err" | grep -E 'free space|No space left on device' |
        grep -q 'make room' || wrong="$wrong; $1: no file named, or no room asked for"
    ! grep -E 'MPI_[A-Z][a-z]|MPI_ERR|mca_|HDF5|Backtrace' "$work/err" >"$work/ok" ||
        wrong="$wrong; $1: $(head -n 1 "$work/ok")"
    for file in full/t/checkpoints/latest full/t/checkpoints/step-*.h5; do
        "$h5same" "$file" "whole-$model/checkpoints/$(basename "$(readlink -f "$file")")" \
            >"$work/ok" 2>&1 || wrong="$wrong; $1: $file is not whole"
    done
}

# trial RANKS HOW: "" in $wrong: as it should be; $late: the disk was not full in time.
trial() {
    rm -rf full/* over filled "$work/out"
    mount -o remount,nr_inodes=1000 full
    cp -R base-$model full/t
    # steps between saves, MiB that they need if all are kept
    [ $model = small ] && every=40 needs=9 || every=4 needs=28
    random 2
    log='' && [ $drawn = 0 ] || log=', its output is on it'
    [ -z "$log" ] || { : >full/out && ln -s "$work/d/full/out" "$work/out"; }
    wrong='' late=0
    case $2 in
    space)
        random $((1000 * needs))
        what="room for $drawn KiB$log"
        leave "$drawn"
        go_on "$1" --set checkpoint.keep=0
        ;;
    files)
        random 18
        what="room for $drawn files$log"
        leave_files "$drawn"
        go_on "$1" --set checkpoint.keep=0
        ;;
    another)
        random 3
        file=$(printf 'step-%06d.h5' $((every * (drawn + 2))))
        random 40
        what="full $drawn ms after the begin of $file$log"
        leave $((1024 * needs + 4096)) # so that the rest is soon taken
        fill "$file" "$drawn" &
        go_on "$1"
        touch over
        wait $!
        ;;
    esac
    if [ -e full/t/DONE ]; then # it came too late
        late=1
        same full/t whole-$model >"$work/ok" 2>&1 || wrong="$wrong; done, and not the same"
        return
    fi
    check_end first
    first=$(grep '^lockstep: ' "$work/err")
    cp "$work/err" first
    go_on 1
    check_end 'started again'
    rm -f full/taken full/ballast full/out "$work/out"
    mount -o remount,nr_inodes=1000 full
    go_on 1
    [ "$rc" -eq 0 ] && same full/t whole-$model >"$work/ok" 2>&1 || wrong="$wrong; not the same"
    [ -z "$(find full/t -name '*.part*')" ] || wrong="$wrong; a .part is left"
}

i=0
for n in $RANKS; do
    good=0 bad=0 missed=0 most=0
    while [ $((good + bad)) -lt "$TRIALS" ] && [ $missed -lt $((20 * TRIALS)) ]; do
        i=$((i + 1))
        case $((i % 4)) in
        2) how=files ;;
        3) how=space ;;
        *) how=another ;;
        esac
        [ $((i % 3)) = 0 ] && model=small || model=large
        trial $n $how
        if [ -n "$wrong" ]; then
            bad=$((bad + 1))
            note "$model on $n, $what: wrong$wrong"
            note_file first
            note_run "the last of it"
        elif [ $late = 1 ]; then
            missed=$((missed + 1))
        else
            good=$((good + 1))
            note "$what: $first"
        fi
    done
    [ $missed = 0 ] || note "$missed more were done before the disk was full"
    ok "full on $n: $good of $TRIALS runs end, keep what they have and go on, $most s at most" \
        test "$good" -ge "$TRIALS" -a $bad -eq 0
done
finish
