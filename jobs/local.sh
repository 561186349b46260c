#!/bin/bash
# Train a run file to its end on this machine, without a batch system: started again after a
# failure.
#
#   jobs/local.sh [-n RANKS] RUN.yaml [OPTION of lockstep train]...
#
# RANKS (default 1) is a power of two; they share the cores unless OMP_NUM_THREADS is set. After a
# failure (a rank killed, a machine that was restarted) the run goes on from its newest checkpoint,
# PAUSE seconds (default 10) later, until it is done: RUNDIR/DONE. Not on bad input, nor after three
# restarts without progress. Started at boot, it waits for its file systems (doc/jobs.md).
#
# SIGUSR1 or SIGUSR2 to this script: save and go on in a new process, for example a newly installed
# one.
# SIGTERM, SIGINT (Ctrl-C), SIGHUP: save and stop, exit code 75; the same command goes on later.
# Another one of these, a second or more after the first, ends the run at once, without a save; the
# exit code is then that of the run (143). One that comes sooner is the same request. In a Slurm job, the end of the job ends it too, with 75.
#
# How long: as the head of the run file says. Needs: mpirun for more than one rank.
set -uo pipefail
me=local.sh
# shellcheck source=jobs/loop.sh
. "$(dirname "${BASH_SOURCE[0]}")/loop.sh" || exit 2

again=$(printf '%q ' "$0" "$@")
ranks=1
case ${1:-} in
-n)
    ranks=${2:-}
    shift 2 || shift
    ;;
-n*)
    ranks=${1#-n}
    shift
    ;;
esac
if ! [[ $ranks =~ ^[0-9]{1,6}$ ]] || ((10#$ranks < 1)); then
    quit 2 "-n: expected a number of ranks, found '$ranks'"
fi
ranks=$((10#$ranks))
if [ $# -eq 0 ] || [[ $1 == -* ]]; then quit 2 "which run? See the head of $here/$me"; fi
site_setup
find_lockstep
await_run "$@"
launch=()
if ((ranks > 1)); then
    read -ra launch <<<"$MPIRUN"
    launch+=(-np "$ranks")
    # more ranks than cores: of Open MPI 4, of 5
    export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
    map=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
    export PRTE_MCA_rmaps_default_mapping_policy=$map
fi
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > ranks ? cores / ranks : 1))}

ending= # the signal
first=  # when it came, in microseconds
twice=
end_by()
{
    local now=${EPOCHREALTIME/[.,]/}
    if [ -n "$ending" ] && ((now - first < 1000000)); then
        heard=yes
        return
    fi
    if [ -n "$ending" ]; then
        heard=yes twice=yes
        say "SIG$1 again: the run is ended at once"
        if [ -n "$child" ]; then kill -TERM -- "-$child" 2>/dev/null; fi
        return
    fi
    ending=$1 first=$now
    # alone, lockstep gets the one signal of these that it never ignores
    if ((ranks > 1)); then pass_on "$1" USR1; else pass_on "$1" TERM; fi
}
trap 'pass_on USR1 USR1' USR1
trap 'pass_on USR2 USR1' USR2
for signal in HUP INT TERM; do
    # shellcheck disable=SC2064 # its name now
    trap "end_by $signal" "$signal"
done

# The end that was asked for.
stopped()
{
    case $code in
    0 | 2) after_end ;; # which says more
    75) quit 75 "SIG$ending: saved at step $(newest_step) and stopped. To go on: $again" ;;
    esac
    quit "$code" "SIG$ending${twice:+ twice}: $(what_ended), without a save; the newest whole" \
        "checkpoint is that of step $(newest_step). To go on from there: $again"
}

while :; do
    asked=
    begin_start "local-$$"
    say "${launch[*]:+${launch[*]} }$lockstep train ${run[*]} --resume-or-start, from step $step"
    # a session of its own, so Ctrl-C does not reach it
    attempt setsid "${launch[@]}" "$lockstep" train "${run[@]}" --resume-or-start
    if [ -n "$ending" ]; then stopped; fi
    after_end
    if [ "$code" -eq 75 ] && [ -z "$asked" ] && [ -n "${SLURM_JOB_END_TIME:-}" ]; then
        quit 75 "the time of Slurm's job ${SLURM_JOB_ID:-} is over. To go on in another: $again"
    fi
    if [ "$code" -ne 75 ]; then
        say "started again in ${PAUSE:-10} s"
        sleep "${PAUSE:-10}" &
        wait $! # which a signal ends
        kill $! 2>/dev/null
        if [ -n "$ending" ]; then
            quit "$code" "SIG$ending: not started again. To go on: $again"
        fi
    fi
done
