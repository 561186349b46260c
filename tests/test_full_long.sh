#!/bin/sh
# test_full.sh with 50 full disks on each number of ranks.
TRIALS=50
export TRIALS
. "${srcdir:-$(dirname "$0")/..}/tests/test_full.sh"
