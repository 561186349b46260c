# shellcheck shell=bash disable=SC2154 # me, check and more are set by the scripts
# What the scripts here share: find the program, start it, pass signals on, decide what follows its
# end. Read by them, not run.
#
# lockstep says by its exit code what should follow: 0 nothing, 75 (stopped by a signal or the time
# limit, saved) another start, 2 (bad input) nothing, for it would be the same again; after anything
# else (a rank killed, a node gone, 6: another lockstep works on the run) another start, which goes
# on from the newest checkpoint.

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

# Settings that are no numbers are told now, not when they are needed, hours later.
for setting in MAX_STALLED PAUSE FILES_WAIT REQUEUE_WAIT; do
    [[ ${!setting:-0} =~ ^(0|[1-9][0-9]{0,8})$ ]] ||
        quit 2 "$setting: expected a whole number, found '${!setting}'; correct or unset it"
done

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

# find_run RUN.yaml [OPTION...]: sets run (an array: the arguments of 'lockstep train'), directory
# and data, as lockstep itself reads them.
find_run()
{
    local option end=$((SECONDS + FILES_WAIT))
    run=("$@")
    for option in "${run[@]:1}"; do
        case $option in
        -p | --pl* | --pr*) quit 2 "$option prints something and trains nothing: give it to" \
            "'lockstep train' itself" ;;
        esac
    done
    # a disk that fails for a moment is no bad run file (2)
    until directory=$("$lockstep" train "${run[@]}" --print directory) &&
        data=$("$lockstep" train "${run[@]}" --print data.file); do
        code=$?
        if ((code == 2 || SECONDS >= end)); then
            quit $code "lockstep train ${run[*]}: not started"
        fi
        say "lockstep train ${run[*]} --print: exit code $code; tried again in 2 s"
        sleep 2
    done
    restarts=${directory%/}.restarts
}

# The step to go on from, 0 without one. `latest` leads to what was read back when it was written;
# it may have been damaged since, and then lockstep takes one before it: where nothing was saved
# after the last start, the step which that start has found counts.
newest_step()
{
    local latest=$directory/checkpoints/latest starts=$directory/starts.jsonl step=
    if [ -e "$starts" ] && ! [ "$latest" -nt "$starts" ]; then
        step=$(tail -n 1 "$starts" | sed -n 's/^{"time":"[^"]*","step":\([0-9]*\),.*/\1/p')
    fi
    if [ -z "$step" ]; then
        step=$(readlink "$latest" | sed -n 's/^\(.*\/\)\{0,1\}step-\([0-9]*\)\.h5$/\2/p')
    fi
    echo $((10#${step:-0}))
}

# ---- files that are not there yet ----------------------------------------------------------------

# After a boot this script may be faster than the mounts. What a missing file means can be seen: in
# a directory that is not there or is empty, or below a mount point of $FSTAB that is not mounted,
# it may still come; beside other files it will not, and lockstep says so.
#
# unmounted PATH: the mount point at or above it that is not mounted, if any.
unmounted()
{
    local at
    at=$(realpath -m "$1")
    while [ "$at" != / ]; do
        if awk -v at="$at" '$1 !~ /^#/ && $4 !~ /noauto/ && $2 == at { found = 1 }
            END { exit !found }' "$FSTAB" 2>/dev/null && ! mountpoint -q "$at"; then
            echo "$at"
            return
        fi
        at=$(dirname "$at")
    done
}

# missing PATH [new]: why PATH may come later, if so; `new`: it need not be there.
missing()
{
    local at
    at=$(unmounted "$1")
    if [ -n "$at" ]; then
        echo "$at is not mounted"
    elif [ -z "${2:-}" ] && [ ! -e "$1" ] && [ -z "$(ls -A "$(dirname "$1")" 2>/dev/null)" ]; then
        echo "$(dirname "$1") is not there, or empty"
    fi
}

# await PATH [new]: until nothing is missing(), FILES_WAIT seconds at most.
await()
{
    local why said='' end=$((SECONDS + FILES_WAIT))
    while why=$(missing "$@") && [ -n "$why" ]; do
        if ((SECONDS >= end)); then
            quit 2 "$1: $why; not started. Mount it, or correct the path, and start this again"
        fi
        if [ -z "$said" ]; then say "$1: $why; waiting for it, at most $FILES_WAIT s"; fi
        said=yes
        sleep 1
    done
}

# await_run RUN.yaml [OPTION...]: find_run, when all that the run needs is there.
await_run()
{
    await "$1"
    find_run "$@"
    await "$data"
    await "$directory" new
    # the checkpoints may lie on another disk
    if [ -L "$directory/checkpoints" ]; then
        await "$(realpath -m "$directory/checkpoints")"
    else
        await "$directory/checkpoints" new
    fi
}

# ---- the guard ---------------------------------------------------------------------------------

# A job that dies before its next checkpoint, again and again, would do so for ever. The starts of
# this job are kept in RUNDIR.restarts (time, job, lines of starts.jsonl before it, step expected),
# beside the run directory, which does not exist before the first start; the file goes when the run
# is done. What a start has really gone from is in its own line of starts.jsonl.
#
# begin_start JOB: note this start. Sets step, that it should go on from.
begin_start()
{
    name=$1
    mkdir -p "$(dirname "$restarts")"
    check_progress # the end of the start before may not have been seen to: killed with its job
    local before
    before=$(grep -c '' "$directory/starts.jsonl" 2>/dev/null)
    step=$(newest_step)
    note_start "${before:-0}" "$step"
}

# note_start LINES STEP, or 'busy' after a start that found another lockstep at work
note_start()
{
    printf '%(%FT%T)T %s %s\n' -1 "$name" "$*" >>"$restarts" ||
        quit 3 "$restarts: cannot be written, and without it nothing would end useless restarts"
}

# Prints two numbers for the starts of this job: restarts since one that went from further on than
# all before it, and the step that the last one went from, -1 if it did not come so far.
count_stalled()
{
    awk -v job="$name" '
    FILENAME == ARGV[1] { # {"time":"...","step":20,...
        split($0, part, /[:,}]/)
        for (i = 1; part[i] != "\"step\"" && i < 9; i++);
        from[++lines] = part[i + 1] + 0
    }
    FILENAME == ARGV[2] && $2 == job {
        if ($3 == "busy") busy[starts] = 1
        else before[++starts] = $3
    }
    END {
        before[starts + 1] = lines
        furthest = last = -1
        for (k = 1; k <= starts; k++) {
            last = before[k] < before[k + 1] && !busy[k] ? from[before[k] + 1] : -1
            stalled = k == 1 || last > furthest ? 0 : stalled + 1
            if (last > furthest) furthest = last
        }
        print stalled + 0, last
    }' "$1" "$restarts"
}

# Ends this script when MAX_STALLED restarts brought nothing: the last start, too, has saved
# nothing, or what those before it saved proved damaged.
check_progress()
{
    local starts=$directory/starts.jsonl stalled last
    [ -e "$restarts" ] || return 0
    [ -e "$starts" ] || starts=/dev/null
    read -r stalled last < <(count_stalled "$starts")
    if ((stalled > most)) || { ((stalled == most)) &&
        ! { ((last >= 0)) && [ "$directory/checkpoints/latest" -nt "$starts" ]; }; }; then
        give_up
    fi
}

give_up()
{
    rm -f "$restarts" # whoever starts it again has mended something
    if [ "${code:-}" = 6 ]; then
        quit 1 "$most restarts without progress: another lockstep is working on $directory; end" \
            "one of them (the end of $directory/starts.jsonl says where it runs)"
    fi
    quit 1 "$most restarts without progress: the newest whole checkpoint is still that of step" \
        "$(newest_step); see the messages above, mend the cause, and start this again"
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
        if [ -e "$directory/DONE" ]; then
            quit 0 "$directory: done; 'lockstep report $(printf %q "$directory")' makes a page" \
                'about it'
        fi
        quit 0 "$directory: ended at step $(newest_step), as train.stop_after asks"
        ;;
    2)
        quit 2 'bad input (exit code 2): the same start would fail again; not started again.' \
            'See the message above, mend the cause, and start this again'
        ;;
    6) note_start busy ;;
    esac
    say "$(what_ended); the newest whole checkpoint is that of step $(newest_step)"
    check_progress
}

# Exit code `code` in words.
what_ended()
{
    local killed
    case $code in
    6) echo 'another lockstep is working on the run (exit code 6)' ;;
    75) echo 'stopped in time (exit code 75)' ;;
    *)
        killed=
        if ((code > 128 && code < 160)); then killed=" (SIG$(kill -l $((code - 128))))"; fi
        echo "failed with exit code $code$killed"
        ;;
    esac
}

# ---- one start ---------------------------------------------------------------------------------

# The signals to this script: the name of the first one, "" when none came.
asked=
child=

# pass_on RECEIVED SENT: the trap for a signal that lockstep has not got yet. It takes another one,
# a second later, for "end at once", so only the first is passed on. SENT is USR1 where there may be
# mpirun, which on SIGTERM ends all ranks.
pass_on()
{
    local as=
    heard=yes
    if [ -n "$asked" ]; then
        say "SIG$1: the run has been told to save and stop already"
        return
    fi
    if [ -n "$child" ]; then kill "-$2" "$child" 2>/dev/null; fi
    asked=$1
    if [ "$1" != "$2" ]; then as=", which it is told by SIG$2"; fi
    say "SIG$1: the run is to save and stop$as"
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
    # older versions do not tell it, and it may have been moved since the job began
    local end
    end=$(squeue -h -j "$job" -o %e) && end=$(date -d "$end" +%s 2>/dev/null) &&
        export SLURM_JOB_END_TIME=$end
}

# A job's signals, from the first moment on: one that nobody catches would end it for good.
catch_signals()
{
    trap 'pass_on USR1 USR1' USR1
    trap 'pass_on USR2 USR1' USR2
    trap 'heard=yes; asked=${asked:-TERM}' TERM # the ranks have it from Slurm
}

# train_in_job RUN.yaml OPTION...: start the run or go on with it, and requeue this job until it is
# done. Does not return.
train_in_job()
{
    catch_signals
    enter_job
    await_run "$@"
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

# Seconds for requeue(): a controller that is started again is away for minutes, and what has failed
# once may be refused for ever. No longer than the job has, but half a minute anyway.
requeue_seconds()
{
    local seconds=$REQUEUE_WAIT left
    if [ -n "${SLURM_JOB_END_TIME:-}" ]; then
        left=$((SLURM_JOB_END_TIME - $(date +%s)))
        if ((left < seconds)); then seconds=$((left < 30 ? 30 : left)); fi
    fi
    echo "$seconds"
}

# Not when Slurm itself is ending the job: a cancelled one would come back to life.
requeue()
{
    local state pause=1 begun=$SECONDS limit
    limit=$(requeue_seconds)
    while :; do
        state=$(squeue -h -j "$job" -o %T)
        if [ -n "$state" ] && [ "$state" != RUNNING ]; then
            quit "$code" "Slurm is ending this job ($state); whether it comes back is Slurm's" \
                decision
        fi
        if scontrol requeue "$job"; then
            say 'requeued; Slurm lets it wait about two minutes'
            # and ends this script; if it ended by itself first, that could be taken for the end of
            # the job, which then would not come back
            trap - TERM
            sleep 120 &
            wait
            quit "$code" 'Slurm has not ended this script after its requeue'
        fi
        if ((SECONDS - begun + pause > limit)); then break; fi
        say "not requeued (see the error above); tried again in $pause s"
        sleep $pause &
        wait $! # which a signal ends: then what Slurm makes of the job is looked at at once
        kill $! 2>/dev/null
        pause=$((pause < 32 ? 2 * pause : 60))
    done
    quit "$code" "this job could not be requeued in $((SECONDS - begun)) s (REQUEUE_WAIT; see the" \
        "errors above): submit it again to go on"
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
