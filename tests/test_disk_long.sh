#!/bin/sh
# test_disk.sh with 50 faults of each kind: some ten minutes.
TRIALS=50
export TRIALS
. "${srcdir:-$(dirname "$0")/..}/tests/test_disk.sh"
