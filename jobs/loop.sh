# shellcheck shell=bash disable=SC2154 # me, check and more are set by the scripts
# What the scripts here share: find the program, start it, pass signals on, decide what follows its
# end. Read by them, not run.
#
# lockstep says by its exit code what should follow: 0 nothing, 75 (stopped by a signal or the time
# limit, saved) another start, 2 (bad input) nothing, for it would be the same again; after anything
# else (a rank killed, a node gone) another start, which goes on from the newest checkpoint.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=jobs/site.sh
. "$here/site.sh"

most=${MAX_STALLED:-3} # restarts without a newer checkpoint

say() { printf '%(%F %T)T %s: %s\n' -1 "$me" "$*"; }

# quit CODE TEXT...
quit()
{
    local code=$1
    shift
    if [ "$code" -eq 0 ]; then say "$*"; else say "$*" >&2; fi
    exit "$code"
}

# Sets lockstep: the one named, else the one of these scripts (an installed one, or where quickstart
# builds it), else the one on the PATH.
find_lockstep()
{
    lockstep=$LOCKSTEP
    if [ -z "$lockstep" ]; then
        case $here in
        */share/lockstep/jobs) lockstep=${here%/share/lockstep/jobs}/bin/lockstep ;;
        *) lockstep=${here%/jobs}/build/lockstep ;;
        esac
        if [ ! -x "$lockstep" ]; then lockstep=lockstep; fi
    fi
    lockstep=$(command -v "$lockstep") ||
        quit 2 "${LOCKSTEP:-lockstep}: not found, neither beside $here nor on the PATH: set" \
            "LOCKSTEP to its path"
}

# find_run RUN.yaml [OPTION...]: sets run (an array: the arguments of 'lockstep train') and
# directory, as lockstep itself reads them.
find_run()
{
    run=("$@")
    directory=$("$lockstep" train "${run[@]}" --print directory) ||
        quit $? "lockstep train ${run[*]}: not started"
    restarts=${directory%/}.restarts
}

# The step of the newest checkpoint, 0 without one.
newest_step()
{
    local file step newest=0
    for file in "$directory"/checkpoints/step-*.h5; do
        step=${file##*/step-}
        step=${step%.h5}
        if [[ $step =~ ^[0-9]+$ ]] && ((10#$step > newest)); then newest=$((10#$step)); fi
    done
    echo "$newest"
}

# ---- the guard ---------------------------------------------------------------------------------

# A job that dies before its next checkpoint, again and again, would do so for ever. The starts of
# this job are kept in RUNDIR.restarts (time, job, step of the newest checkpoint), beside the run
# directory, which does not exist before the first start; the file goes when the run is done.
#
# begin_start JOB: note this start. Sets step, and stalled: restarts of this job from this very
# step.
begin_start()
{
    step=$(newest_step)
    mkdir -p "$(dirname "$restarts")"
    printf '%(%FT%T)T %s %s\n' -1 "$1" "$step" >>"$restarts" ||
        quit 3 "$restarts: cannot be written, and without it nothing would end useless restarts"
    stalled=$(awk -v job="$1" '$2 == job { n = seen++ && $3 == last ? n + 1 : 0; last = $3 }
        END { print n }' "$restarts")
    # Only if the end of the start before could not be seen to: it was killed with its job.
    if ((stalled > most)); then give_up; fi
}

give_up()
{
    rm -f "$restarts" # whoever starts it again has mended something
    quit 1 "$most restarts without progress: the newest checkpoint is still that of step $step;" \
        "see the messages above, mend the cause, and start this again"
}

# after_end: what follows exit code `code`. Returns 0 when the run should be started again; ends
# this script when it should not.
after_end()
{
    # srun returns 0, too, when a node has failed under it
    if [ "$code" -eq 0 ] && [ ! -e "$directory/DONE" ]; then
        local stop
        stop=$("$lockstep" train "${run[@]}" --print train.stop_after)
        if ((stop == 0 || $(newest_step) < stop)); then code=1; fi
    fi
    case $code in
    0)
        rm -f "$restarts"
        if [ -e "$directory/DONE" ]; then quit 0 "$directory: done"; fi
        quit 0 "$directory: ended at step $(newest_step), as train.stop_after asks"
        ;;
    2) quit 2 'bad input (exit code 2): the same start would fail again; not started again' ;;
    75) say "saved at step $(newest_step) (exit code 75)" ;;
    *) say "failed with exit code $code; the newest checkpoint is that of step $(newest_step)" ;;
    esac
    if ((stalled >= most && $(newest_step) <= step)); then give_up; fi
}

# ---- one start ---------------------------------------------------------------------------------

# The signals to this script: the name of the first one, "" when none came.
asked=
child=

# The trap for a signal that lockstep has not got yet. It takes a second one for "end at once", so
# only the first is passed on; as SIGUSR1, on whose way mpirun ends nothing.
pass_on()
{
    heard=yes
    if [ -z "$asked" ] && [ -n "$child" ]; then kill -USR1 "$child" 2>/dev/null; fi
    asked=${asked:-$1}
    say "SIG$1: the run is to save and stop"
}

# attempt COMMAND...: run it to its end. Sets code.
attempt()
{
    code=75
    if [ -n "$asked" ]; then return; fi # the signal was faster than the start
    "$@" </dev/null &
    child=$!
    while :; do
        heard=
        wait "$child"
        code=$?
        if [ -z "$heard" ]; then break; fi
        # A trap ended this wait, not always the command.
        if ! kill -0 "$child" 2>/dev/null; then
            wait "$child"
            code=$?
            break
        fi
    done
    child=
}

# ---- under Slurm -------------------------------------------------------------------------------

# set_launch NODES RANKS: sets launch (an array), the command before lockstep.
set_launch()
{
    local each=$(($2 / $1))
    if [ "$LAUNCHER" = auto ]; then
        LAUNCHER=mpirun
        if srun --mpi=list 2>&1 | grep -qw pmix; then LAUNCHER=srun; fi
    fi
    case $LAUNCHER in
    srun)
        read -ra launch <<<"$SRUN"
        launch+=("--nodes=$1" "--ntasks=$2" "--ntasks-per-node=$each")
        # srun does not take it over from sbatch by itself, since Slurm 22.05
        if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
            launch+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
        fi
        ;;
    mpirun)
        if [ -n "${SLURM_GPUS_PER_TASK:-}" ]; then
            quit 2 'mpirun starts no tasks of Slurm, so --gpus-per-task would give all ranks of a' \
                'node the same GPU: use --gpus-per-node'
        fi
        read -ra launch <<<"$MPIRUN"
        launch+=(-np "$2" --map-by "ppr:$each:node")
        ;;
    *) quit 2 "LAUNCHER: expected auto, srun or mpirun, found '$LAUNCHER'" ;;
    esac
    command -v "${launch[0]}" >/dev/null || quit 2 "${launch[0]}: not found; see $here/site.sh"
}

# enter_job: what every job does first. Sets job, its name for Slurm's commands: the first task of
# an array has the array's own number, which would mean all tasks.
enter_job()
{
    job=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    site_setup
    find_lockstep
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
    if [ -z "${SLURM_JOB_END_TIME:-}" ]; then # older versions do not tell it
        local end
        end=$(squeue -h -j "$job" -o %e) && end=$(date -d "$end" +%s 2>/dev/null) &&
            export SLURM_JOB_END_TIME=$end
    fi
}

# train_in_job RUN.yaml OPTION...: start the run or go on with it, and requeue this job until it is
# done. Does not return.
train_in_job()
{
    trap 'pass_on USR1' USR1
    trap 'heard=yes; asked=${asked:-TERM}' TERM # the ranks have it from Slurm
    enter_job
    find_run "$@"
    set_launch "${SLURM_JOB_NUM_NODES:-1}" "${SLURM_NTASKS:-1}"
    begin_start "$job"
    say "$("$lockstep" --version | head -n 1); start" \
        "$((${SLURM_RESTART_COUNT:-0} + 1)) of job $job on ${SLURM_JOB_NODELIST:-this host}," \
        "from step $step"
    say "${launch[*]} $lockstep train ${run[*]} --resume-or-start"
    attempt "${launch[@]}" "$lockstep" train "${run[@]}" --resume-or-start
    after_end
    requeue
}

# Not when Slurm itself is ending the job: a cancelled one would come back to life.
requeue()
{
    local state try
    state=$(squeue -h -j "$job" -o %T)
    if [ -n "$state" ] && [ "$state" != RUNNING ]; then
        quit "$code" "Slurm is ending this job ($state); whether it comes back is Slurm's decision"
    fi
    for try in 1 2 3; do
        if scontrol requeue "$job"; then
            say 'requeued; Slurm lets it wait about two minutes'
            # and ends this script; if it ended by itself first, that could be taken for the end of
            # the job, which then would not come back
            trap - TERM
            sleep 120 &
            wait
            quit "$code" 'Slurm has not ended this script after its requeue'
        fi
        sleep $((try * 5))
    done
    quit "$code" "this job cannot be requeued (see the error above): submit it again to go on"
}

# submit SCRIPT [OPTION of sbatch...] ARGUMENT...: outside of a job, put SCRIPT in the queue.
# Options of sbatch are one word each (--nodes=4, -N4). more: options of the script's own.
submit()
{
    local script=$1 options=()
    shift
    while [[ ${1:-} == -* ]]; do
        options+=("$1")
        shift
    done
    if [ $# -eq 0 ]; then quit 2 "what to run? See the head of $here/$script"; fi
    command -v sbatch >/dev/null || quit 2 "no sbatch here; without Slurm: $here/local.sh"
    site_setup
    find_lockstep
    check "$@"
    # shellcheck disable=SC2086 # lists of options
    LOCKSTEP_JOBS=$here exec sbatch $SITE_SBATCH $SITE_GPUS "${more[@]}" "${options[@]}" \
        "$here/$script" "$@"
}
