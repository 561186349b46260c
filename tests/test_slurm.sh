#!/bin/sh
# The batch scripts of jobs/ under a real Slurm of four nodes on this machine (tests/slurm.sh): a
# run that is preempted, loses a rank by kill -9 and a node, and reaches its time limit ends in the
# bits of one that nothing happened to. CYCLES=N: so many such runs on random ranks, by srun and
# mpirun, disturbed at random times: alone, two in an array with a job that depends on it, up to
# their time limit (tests/test_slurm_long.sh).
# shellcheck disable=SC2046,SC2086 # words without blanks
# shellcheck source=tests/slurm.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/slurm.sh"
box_enter "$0" "$@"
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"
unset OMPI_MCA_btl # ranks on other nodes are reached by TCP, whatever serves on one host

# ---- the box itself: gone without a trace, even when its test is killed --------------------------

cat >nested.sh <<END
. '$srcdir/tests/slurm.sh'
box_enter "\$0"
. '$srcdir/tests/tap.sh'
box_start 1 1 1 && echo "\$box" >'$work/nested'
sleep 60
END
unset LOCKSTEP_BOX
sh nested.sh &
nested=$!
export LOCKSTEP_BOX=inside
ok "a Slurm starts in a Slurm's box" within 100 test -s "$work/nested"
nested_box=$(cat "$work/nested")
# shellcheck disable=SC2317 # called by ok
daemons() { pgrep -f "slurmd.*$1/|slurmctld.*$1/|munged.*$1/" >/dev/null; }
ok "its daemons run" daemons "$nested_box"
kill -KILL $nested
# shellcheck disable=SC2317 # called by ok
no_daemons() { ! daemons "$1"; }
ok "kill -9 of its shell ends them all" within 60 no_daemons "$nested_box"
rm -rf "$nested_box"

if ! box_start 4 4 2; then
    fail "slurmctld and four slurmd start"
    box_log
    finish
fi

# ---- runs, and what becomes of them --------------------------------------------------------------

# shellcheck source=tests/jobs.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/jobs.sh"
export OMP_NUM_THREADS=1

# field JOB NAME: what Slurm says of it.
field() { scontrol show job "$1" | sed -n "s/.*\b$2=\([^ ]*\).*/\1/p" | head -n 1; }
# shellcheck disable=SC2317 # called by within
is() { [ "$(field "$1" JobState)" = "$2" ]; }
# shellcheck disable=SC2317 # called by within
restarted() { [ "$(field "$1" Restarts)" -ge "$2" ] && is "$1" RUNNING; }
random() { awk -v n="$1" -v seed="$(od -An -N4 -tu4 /dev/urandom)" \
    'BEGIN { srand(seed); print int(n * rand()) }'; }

# A job that was requeued would wait two minutes; two seconds are enough for slurmd to forget that
# the last start's credential is no good any more. None starts while there is a file `hold`.
while sleep 0.5; do
    squeue -h -t PENDING -o '%i %r' | while read -r waiting why; do
        [ "$why" = BeginTime ] || continue
        now=$(date +%s)
        [ -s "waits-$waiting" ] || echo "$now" >"waits-$waiting"
        if [ $((now - $(cat "waits-$waiting"))) -gt 2 ] && [ ! -e hold ]; then
            scontrol update JobId="$waiting" StartTime=now 2>/dev/null && rm "waits-$waiting"
        fi
    done
done &

note_job() {
    note "job $1: $(field "$1" JobState), restarts $(field "$1" Restarts)"
    tail -n 40 "$1.log" | sed 's/^/#   /'
    box_log 5
}

# job [OPTION of sbatch...] SCRIPT ARGUMENT...: sets id.
job() { id=$(sbatch --parsable -o %j.log --cpus-per-task=1 --time=10 "$@"); }

# ends DESCRIPTION JOB STATE RESTARTS 'TEXT|TEXT...': in time, with these texts in its log.
# RESTARTS as N+: or more, for a busy Slurm may fail to start what it has just started again.
ends() {
    wrong=
    within 300 is "$2" "$3" || wrong="$wrong; not $3 in time"
    restarts=$(field "$2" Restarts)
    case $4 in
    *+) [ "$restarts" -ge "${4%+}" ] ;;
    *) [ "$restarts" -eq "$4" ] ;;
    esac || wrong="$wrong; $restarts restarts, not $4"
    tap_ifs=$IFS
    IFS='|'
    for text in $5; do
        grep -qF -e "$text" "$2.log" || wrong="$wrong; no '$text'"
    done
    IFS=$tap_ifs
    if [ -z "$wrong" ]; then
        pass "$1"
    else
        fail "$1$wrong"
        note_job "$2"
    fi
}

# What may happen to JOB, whose run is in DIRECTORY.
# shellcheck disable=SC2317 # called by happens
preempted() {
    sbatch --parsable -p high -w "$(squeue -h -j "$1" -o %N)" --exclusive -o /dev/null \
        --wrap 'sleep 0.2'
}
# shellcheck disable=SC2317 # called by happens
killed() { # one rank
    killed=$(pgrep -f "^$LOCKSTEP train $2.yaml " | shuf -n 1)
    kill -KILL "${killed:-0}"
}
# shellcheck disable=SC2317 # called by node_lost
nothing_runs() {
    ! pgrep -f "slurmstepd: \[$1\.|(slurm_script|$LOCKSTEP train) $2.yaml" >/dev/null
}
# shellcheck disable=SC2317 # called by happens
node_lost() { # its last one; it boots again when Slurm has ended the job on the others
    lost=$(scontrol show hostnames "$(squeue -h -j "$1" -o %N)" | tail -n 1)
    box_node_off "$lost" && scontrol update NodeName="$lost" State=DOWN Reason=test &&
        within 100 nothing_runs "$1" "$2" && box_node_on "$lost" &&
        scontrol update NodeName="$lost" State=RESUME
}

# Its time limit comes near, 35 to 95 s; Slurm looks twice a minute, and --signal is of a minute.
# shellcheck disable=SC2317 # called by happens
limited() {
    ran=$(field "$1" RunTime | awk -F: '{ print 60 * (60 * $1 + $2) + $3 }')
    scontrol update JobId="$1" TimeLimit=$(((ran + 35) / 60 + 1))
}
# It was submitted for a minute, without a signal: lockstep itself knows the end of the job.
# shellcheck disable=SC2317 # called by happens
expires() { :; }

# happens WHAT JOB DIRECTORY: after the next checkpoint, and the job comes back, for ten minutes.
tally=
happens() {
    tally="$tally $1"
    at=$(newest "$3")
    if within 300 beyond "$3" "${at:-0}" && sleep "0.$(random 5)" && touch hold &&
        $1 "$2" "$3" >"$work/happens" 2>&1 && within 300 is "$2" PENDING &&
        scontrol update JobId="$2" TimeLimit=10; then
        pass "$3: $1 at step $(wc -l <"$3/loss.log"), back in the queue with step $(newest "$3")"
    else
        fail "$3: $1, and not back in the queue"
        note_file "$work/happens"
        note_job "$2"
    fi
}

# cycle NAME OPTIONS WHAT...: a run of these happenings, one after the other, is the run of none.
cycle() {
    name=$1 options=$2
    shift 2
    run_file "$name"
    job $options "$jobs/train.sbatch" "$name.yaml"
    count=0
    for what in "$@"; do
        count=$((count + 1))
        happens "$what" "$id" "$name"
        [ $count -lt $# ] || give_end "$name"
        rm -f hold
    done
    ends "$name: done after $count restarts, with step $steps" "$id" COMPLETED $count+ "$name: done"
    same_alone "$name"
}

# array_cycle NAME OPTIONS WHAT WHAT: the same of two runs, each a job of an array, and a job after
# both.
array_cycle() {
    name=$1 options=$2
    shift 2
    for i in 1 2; do
        run_file "$name-$i"
        echo "$name-$i.yaml"
    done >"$name-sweep"
    job -o %A_%a.log --array=1-2 $options "$jobs/array.sbatch" "$name-sweep"
    array=$id
    printf '#!/bin/sh\n%s\n%s\n' "'$LOCKSTEP' eval $name-1 a.h5" \
        "'$LOCKSTEP' eval $name-2 a.h5" >after.sh
    job --dependency=afterok:"$array" after.sh
    after=$id
    for i in 1 2; do
        happens "$1" "${array}_$i" "$name-$i"
        give_end "$name-$i"
        [ $i = 1 ] || ok "$name: the job after it waits" is "$after" PENDING
        rm -f hold
        shift
    done
    for i in 1 2; do
        ends "$name-$i: done" "${array}_$i" COMPLETED 1+ "$name-$i: done"
        same_alone "$name-$i"
    done
    ends "$name: then the job after it" "$after" COMPLETED 0 'accuracy'
}

if [ -n "${CYCLES:-}" ]; then
    nth=0
    while [ $nth -lt "$CYCLES" ]; do
        nth=$((nth + 1))
        case $(random 4) in
        0) shape='--nodes=1 --ntasks-per-node=1' ;;
        1) shape='--nodes=1 --ntasks-per-node=2' ;;
        2) shape='--nodes=2 --ntasks-per-node=1' ;;
        3) shape='--nodes=4 --ntasks-per-node=1' ;;
        esac
        LAUNCHER=$(printf 'srun\nsrun\nmpirun\n' | shuf -n 1)
        export LAUNCHER
        told=$(printf 'script\ntasks\n' | shuf -n 1)
        box_tells "$told"
        note "cycle $nth of $CYCLES: $LAUNCHER $shape, preemption told to the $told"
        set -- $(printf '%s\n' preempted killed node_lost | shuf)
        case $((nth % 4)) in
        1) cycle cycle-$nth "$shape" "$1" "$2" ;;
        2) array_cycle cycle-$nth "$shape" $(printf '%s\n' "$1" "$2" limited | shuf -n 2) ;;
        3) cycle cycle-$nth "$shape" $(printf '%s\n' "$1" limited | shuf) ;;
        0) cycle cycle-$nth "$shape --time=1 --signal=B:URG@1" expires "$1" ;;
        esac
        rm -rf cycle-$nth*
    done
    counts=$(printf '%s\n' $tally | sort | uniq -c | awk '{ printf " %s %s", $1, $2 }')
    note "$CYCLES cycles:$counts"
    finish
fi

# ---- all at the same time ------------------------------------------------------------------------

# fp32 does not recover from this rate, and a restart computes the same.
job -w n3 "$jobs/train.sbatch" r.yaml --set directory=diverges --set optimizer.lr=100 \
    --set optimizer.weight_decay=100 --set optimizer.clip=0 --set optimizer.warmup=0 \
    --set checkpoint.every=0
diverges=$id
job -w n3 "$jobs/train.sbatch" r.yaml --set directory=bad --set data.file=none.h5
bad=$id
# Slurm looks at limits twice a minute; USR1 comes in the first minute. Until then the run stands
# still after its first checkpoint, to leave the cores to others.
job -w n4 --time=1 --signal=B:USR1@50 "$jobs/train.sbatch" r.yaml --set directory=limit
limit=$id
limited="^$LOCKSTEP train r.yaml --set directory=limit "
{
    within 300 beyond limit 0 && pkill -STOP -f "$limited"
    within 300 grep -q 'SIGUSR1: the run' "$limit.log"
    pkill -CONT -f "$limited"
} &

cat >sweep <<END
# Two runs, one beside the other.
r.yaml --set directory=sweep-1 --set seed=1

  r.yaml  --set directory=sweep-2 --set seed=2
END
export SITE_SBATCH='--output=%A_%a.log --cpus-per-task=1 --time=10'
run "$jobs/array.sbatch" -wn4 sweep --set train.steps=40
ok "array.sbatch submits itself" says out 'Submitted batch job'
array=$(sed -n 's/^Submitted batch job //p' "$work/out")
cat >after.sh <<END
#!/bin/sh
'$LOCKSTEP' eval sweep-1 a.h5 && '$LOCKSTEP' eval sweep-2 a.h5
END
job --dependency=afterok:"$array" after.sh
after=$id

cycle happened '--nodes=2 -w n1,n2' preempted killed node_lost

ends "bad input: not started again" "$bad" FAILED 0 'none.h5|bad input (exit code 2)'
ends "a run that always dies: 3 restarts without progress" "$diverges" FAILED 3 \
    'not finite|3 restarts without progress'
ends "a job after the array starts when both runs are done" "$after" COMPLETED 0 'accuracy'
for i in 1 2; do
    ok "run $i of the sweep is done" test -f sweep-$i/DONE
    ok "with its own seed" grep -q "seed: $i\$" sweep-$i/run.yaml
done

# ---- GPUs, launchers, scaling --------------------------------------------------------------------

# What a rank finds: this in place of lockstep, with the exit code that nothing follows.
cat >finds <<END
#!/bin/sh
case "\$*" in
*--print* | --version) exec '$LOCKSTEP' "\$@" ;;
*) echo "rank \$SLURM_PROCID of \$SLURM_NTASKS: GPUs \$CUDA_VISIBLE_DEVICES," \
    "\$SLURM_CPUS_PER_TASK cores, threads \$OMP_NUM_THREADS, ends" \
    "\$((SLURM_JOB_END_TIME - \$(date +%s)))" ;;
esac
exit 2
END
chmod +x finds
finder() { # OPTION...
    sbatch --parsable -o %j.log --time=10 --nodes=2 --ntasks-per-node=2 \
        --export="ALL,OMP_NUM_THREADS=" "$@" "$jobs/train.sbatch" r.yaml --set directory=finds
}
own_lockstep=$LOCKSTEP LOCKSTEP=$PWD/finds
task=$(finder --gpus-per-task=1 --cpus-per-task=2)
node=$(finder --gpus-per-node=2 --cpus-per-task=1)
LAUNCHER=mpirun
export LAUNCHER
refused=$(finder --gpus-per-task=1 --cpus-per-task=1)
LOCKSTEP=$own_lockstep
job --nodes=2 "$jobs/train.sbatch" r.yaml --set directory=mpirun --set train.steps=40
mpirun=$id
unset LAUNCHER
ends "--gpus-per-task=1: each rank has the GPU that Slurm gave it" "$task" FAILED 0 \
    'of 4: GPUs 0, 2 cores, threads 2|of 4: GPUs 1, 2 cores'
ends "--gpus-per-node=2: each rank sees both" "$node" FAILED 0 \
    'rank 0 of 4: GPUs 0,1, 1 cores|rank 3 of 4: GPUs 0,1'
ok "the ranks know when the job ends" test \
    "$(sed -n 's/^rank 0 .* ends //p' "$node.log")" -gt 500
ends "--gpus-per-task under mpirun is refused" "$refused" FAILED 0 'use --gpus-per-node'
ends "mpirun starts the ranks of both nodes" "$mpirun" COMPLETED 0 'mpirun|2 ranks|mpirun: done'
STEPS=20 job --nodes=4 "$jobs/scaling.sbatch" r.yaml --set directory=scaled
ends "scaling.sbatch" "$id" COMPLETED 0 'samples/s'
ok "its table: 1, 2, 4 nodes, the same bits" \
    test "$(awk '$NF == "same" { printf "%s-%s ", $1, $2 }' scaled-scaling-*/table.txt)" = \
    '1-1 2-2 4-4 '

# ---- a file system that comes late (here, where one may be mounted) ------------------------------

mkdir late
echo "none $(pwd -P)/late tmpfs defaults 0 0" >fstab
FSTAB=$PWD/fstab "$jobs/local.sh" r.yaml --set directory=late/run --set train.steps=40 \
    >late.log 2>&1 &
local=$!
ok "a run directory on what /etc/fstab lists is waited for" \
    within 100 grep -q 'late/run: .*/late is not mounted; waiting for it' late.log
ok "and not made below the mount point" test -z "$(ls late)"
mount -t tmpfs none late
wait $local
ok "until it is mounted" test $? -eq 0 -a -f late/run/DONE
umount late

# ---- the time limit, and scancel -----------------------------------------------------------------

if within 300 restarted "$limit" 1 && within 300 beyond limit "$(newest limit)"; then
    pass "at its time limit the job starts again"
else
    fail "at its time limit the job does not start again"
    note_job "$limit"
fi
scancel "$limit"
ends "a cancelled job saves, and is not requeued" "$limit" CANCELLED 1+ \
    'SIGUSR1|stopped in time|Slurm is ending this job'
steps=$(newest limit)
ranks 1 "$LOCKSTEP" train r.yaml --set directory=unlimited \
    --set train.stop_after="$steps" --set checkpoint.every=0
ok "its $steps steps are those of a run without limit" same unlimited limit

finish
