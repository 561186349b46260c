#!/bin/bash
# Train a run file to its end on this machine, without a batch system: started again after a
# failure.
#
#   jobs/local.sh [-n RANKS] RUN.yaml [OPTION of lockstep train]...
#
# RANKS (default 1) is a power of two; they share the cores unless OMP_NUM_THREADS is set. After a
# failure (a rank killed, a machine that was restarted) the run goes on from its newest checkpoint,
# PAUSE seconds (default 10) later, until it is done: RUNDIR/DONE. Not on bad input, nor after three
# restarts without a newer checkpoint.
#
# SIGUSR1 to this script: save and go on in a new process, for example a newly installed one.
# SIGTERM, SIGINT (Ctrl-C), SIGHUP: save and stop, exit code 75; the same command goes on later.
# A second one of these does not wait for the save.
#
# How long: as the head of the run file says. Needs: mpirun for more than one rank.
set -uo pipefail
me=local.sh
# shellcheck source=jobs/loop.sh
. "$(dirname "${BASH_SOURCE[0]}")/loop.sh" || exit 2

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
if ! [[ $ranks =~ ^[0-9]+$ ]] || ((ranks < 1)); then
    quit 2 "-n: expected a number of ranks, found '$ranks'"
fi
if [ $# -eq 0 ] || [[ $1 == -* ]]; then quit 2 "which run? See the head of $here/$me"; fi
site_setup
find_lockstep
find_run "$@"
launch=()
if ((ranks > 1)); then
    read -ra launch <<<"$MPIRUN"
    launch+=(-np "$ranks")
fi
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > ranks ? cores / ranks : 1))}

ending= # by a signal
end_by()
{
    if [ -n "$ending" ] && [ -n "$child" ]; then kill -TERM -- "-$child" 2>/dev/null; fi
    ending=$1
    pass_on "$1"
}
trap 'pass_on USR1' USR1
for signal in HUP INT TERM; do
    # shellcheck disable=SC2064 # its name now
    trap "end_by $signal" "$signal"
done

while :; do
    asked=
    begin_start "local-$$"
    say "${launch[*]:+${launch[*]} }$lockstep train ${run[*]} --resume-or-start, from step $step"
    # a session of its own, so Ctrl-C does not reach it
    attempt setsid "${launch[@]}" "$lockstep" train "${run[@]}" --resume-or-start
    after_end
    if [ "$code" -ne 75 ] && [ -z "$ending" ]; then
        sleep "${PAUSE:-10}" &
        wait $! # which a signal ends
        kill $! 2>/dev/null
    fi
    if [ -n "$ending" ]; then quit 75 "SIG$ending: stopped; the same command goes on"; fi
done
