#!/bin/sh
# test_slurm.sh with 20 runs on random ranks, by srun and mpirun, each preempted, robbed of a rank
# or of a node twice, at random times; some ten minutes on two free cores.
export CYCLES="${CYCLES:-20}"
exec "${SHELL:-/bin/sh}" "${srcdir:-$(dirname "$0")/..}/tests/test_slurm.sh"
