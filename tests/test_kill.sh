#!/bin/sh
# kill -9 of a random rank at a random time, and inside saves: no checkpoint that was there is lost,
# and the run, started again and again, ends with the bits of one that nothing stopped. Each start
# keeps 0 (all), 1 or 3 checkpoints, drawn at random, so the removal of older ones is under the
# kills too. KILLS and SAVES (those of them inside a save) ask for more; test_kill_long.sh does.
# shellcheck disable=SC2086 # numbers
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
: "${KILLS:=6}" "${SAVES:=3}"
# shellcheck source=tests/faults.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/faults.sh"

ranks 2 "$LOCKSTEP" train r.yaml --set directory=whole
ok "a run that nothing stops" test "$rc" -eq 0 -a -f whole/DONE

from=0 kills=0 saves=0 runs=0 lost=0 wrong=0 slowest=0 remained=0 locked=0 removed=0 keeps=0

# newer FILE: how many checkpoints of `killed` are there that are newer.
newer() {
    find killed/checkpoints -name 'step-*.h5' |
        awk -F / -v file="$1" '$NF > file { n++ } END { print n + 0 }'
}
draw_keep() {
    keep=$(random 3)
    [ "$keep" -lt 2 ] || keep=3
    keeps=$((keeps | 1 << keep))
}
# The checkpoints of `killed` that are new: each must be whole, and that of the run `whole`. Those
# that were seen before must still be there, but where `keep` newer ones are.
look_at_checkpoints() {
    there=
    for file in $seen; do
        if [ -f "killed/checkpoints/$file" ]; then
            there="$there $file"
        elif [ "$keep" -gt 0 ] && [ "$(newer "$file")" -ge "$keep" ]; then
            removed=$((removed + 1))
        else
            lost=$((lost + 1))
            note "$file is gone, with $(newer "$file") newer ones, and checkpoint.keep is $keep"
        fi
    done
    seen=$there
    for file in killed/checkpoints/step-*.h5; do
        [ -f "$file" ] || continue
        name=${file##*/}
        case " $seen " in *" $name "*) continue ;; esac
        if "$h5same" "$file" "whole/checkpoints/$name" >"$work/same" 2>&1; then
            seen="$seen $name"
        else
            lost=$((lost + 1))
            note "$name is not that of a run without a stop"
            note_file "$work/same"
        fi
    done
    # also one whose link a kill has prevented
    latest=$(find killed/checkpoints -name 'step-*.h5' 2>/dev/null | sort | tail -n 1)
    latest=${latest##*/}
}
# A start goes on from the newest checkpoint that was there before it.
check_start() {
    [ -f killed/starts.jsonl ] || return
    [ "$(wc -l <killed/starts.jsonl)" -gt "$starts" ] || return # killed before it began
    starts=$(wc -l <killed/starts.jsonl)
    want=${latest:-step-000000.h5}
    want=${want#step-} want=${want%.h5}
    from=$(tail -n 1 killed/starts.jsonl | sed 's/.*"step":\([0-9]*\),.*/\1/')
    [ "$from" -ge "$(awk -v n="$want" 'BEGIN { print n + 0 }')" ] && return
    lost=$((lost + 1))
    note "started from step $from, but that of step $want was there"
    note_run "that start"
}
# mpirun of Open MPI 4.1 (PMIx 4.2) can lock up in its own end when a rank dies while it starts; all
# ranks are gone then.
end_launcher() {
    tries=0
    while kill -0 "$job" 2>/dev/null && [ $tries -lt 200 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
    if [ $tries -eq 200 ]; then
        locked=$((locked + 1))
        pkill -KILL -P "$job" mpirun
    fi
    wait "$job"
}
# One start that is killed: at a random time, or inside a save.
kill_one() {
    draw_keep
    n=$((1 << $(random 3)))
    [ "$n" -gt 1 ] || n=2
    begin $n --set directory=killed --set checkpoint.keep=$keep --resume-or-start
    if [ "$saves" -lt "$SAVES" ] && [ $((kills % 2)) -eq 0 ]; then
        hit KILL "$(random $n)" "$(random 1000000)" killed "$(random 25000)"
    else
        hit KILL "$(random $n)" "$(random 1500000)" killed
    fi
    took=$("$strike" GONE "$STRIKE")
    end_launcher
    case $struck in over) ;; *save) kills=$((kills + 1)) saves=$((saves + 1)) ;;
    *) kills=$((kills + 1)) ;; esac
    if [ "$took" = never ]; then
        remained=$((remained + 1))
    elif below "$slowest" "$took"; then
        slowest=$took
    fi
    check_start
    look_at_checkpoints
}

while [ "$kills" -lt "$KILLS" ] || [ "$saves" -lt "$SAVES" ]; do
    rm -rf killed
    seen='' latest='' starts=0 runs=$((runs + 1)) in_run=0
    while [ $in_run -lt 12 ] && [ ! -f killed/DONE ]; do
        [ "$kills" -lt "$KILLS" ] || [ "$saves" -lt "$SAVES" ] || break
        kill_one
        in_run=$((in_run + 1))
    done
    draw_keep
    ranks $((1 << $(random 3))) "$LOCKSTEP" train r.yaml --set directory=killed \
        --set checkpoint.keep=$keep --resume-or-start
    check_start
    look_at_checkpoints
    if [ "$rc" -ne 0 ] || [ ! -f killed/DONE ] || ! same whole killed >"$work/same" 2>&1; then
        wrong=$((wrong + 1))
        note_run "the last start of run $runs"
        note_file "$work/same"
    fi
    [ -z "$(find killed -name '*.part*')" ] || wrong=$((wrong + 1))
    # one more: the newest that is known to be good; a start with nothing left to save removes none
    if [ "$keep" -gt 0 ] && [ "$from" -lt 120 ] && [ "$(newer step-)" -gt $((keep + 1)) ]; then
        wrong=$((wrong + 1))
        note "$(newer step-) checkpoints are left, and checkpoint.keep is $keep"
    fi
    [ "$KILLS" -lt 50 ] || note "$kills kills, $saves inside a save, $runs runs"
done
ok "$kills kills -9 of a random rank, $saves inside a save: $lost committed checkpoints lost" \
    test "$lost" -eq 0
ok "all $runs runs they fell on end with the bits of one without a stop: $wrong do not" \
    test "$wrong" -eq 0
note "of checkpoints that had been seen $removed were removed for newer ones"
[ "$KILLS" -lt 50 ] || ok "with 0, 1 and 3 to keep" test $keeps -eq 11
ok "survivors are gone within $slowest s of 60" test "$remained" -eq 0
ok "which is below" below "$slowest" 60
[ $locked -eq 0 ] || note "mpirun locked up $locked times, without any rank left"

finish
