#!/bin/sh
# test_slurm.sh with 20 cycles on random ranks, by srun and mpirun, at random times: a run, or two
# in an array with a job that depends on them, twice preempted, robbed of a rank or of a node, or at
# their time limit; some ten minutes on two free cores.
export CYCLES="${CYCLES:-20}"
exec "${SHELL:-/bin/sh}" "${srcdir:-$(dirname "$0")/..}/tests/test_slurm.sh"
